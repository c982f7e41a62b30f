"""Made-up protein families of natural lengths, as FASTA: where clusters must be found, and which are right.

    python benches/made_up_families.py N SEED > FAMILIES.fasta    (needs numpy)

Lengths are spread as those of 603,334 proteins of six sources are (5 %: 89 residues, half: 306, 95 %: 751). Three in ten
proteins are alone; families of the others have 2 to 20 members, each with 30 to 95 % of its founder's residues: what is
replaced follows BLOSUM62, and every 25th change is a gap. A header is `>P17 family=3 identity=0.62`.
"""

import sys

import numpy

LETTERS = "ARNDCQEGHILKMFPSTWYV"
FREQUENCY = [.078, .051, .045, .054, .019, .043, .063, .074, .022, .051, .091, .057, .022, .039, .052, .071, .058, .013, .032, .065]
BLOSUM62 = """4 -1 -2 -2 0 -1 -1 0 -2 -1 -1 -1 -1 -2 -1 1 0 -3 -2 0
-1 5 0 -2 -3 1 0 -2 0 -3 -2 2 -1 -3 -2 -1 -1 -3 -2 -3
-2 0 6 1 -3 0 0 0 1 -3 -3 0 -2 -3 -2 1 0 -4 -2 -3
-2 -2 1 6 -3 0 2 -1 -1 -3 -4 -1 -3 -3 -1 0 -1 -4 -3 -3
0 -3 -3 -3 9 -3 -4 -3 -3 -1 -1 -3 -1 -2 -3 -1 -1 -2 -2 -1
-1 1 0 0 -3 5 2 -2 0 -3 -2 1 0 -3 -1 0 -1 -2 -1 -2
-1 0 0 2 -4 2 5 -2 0 -3 -3 1 -2 -3 -1 0 -1 -3 -2 -2
0 -2 0 -1 -3 -2 -2 6 -2 -4 -4 -2 -3 -3 -2 0 -2 -2 -3 -3
-2 0 1 -1 -3 0 0 -2 8 -3 -3 -1 -2 -1 -2 -1 -2 -2 2 -3
-1 -3 -3 -3 -1 -3 -3 -4 -3 4 2 -3 1 0 -3 -2 -1 -3 -1 3
-1 -2 -3 -4 -1 -2 -3 -4 -3 2 4 -2 2 0 -3 -2 -1 -2 -1 1
-1 2 0 -1 -3 1 1 -2 -1 -3 -2 5 -1 -3 -1 0 -1 -3 -2 -2
-1 -1 -2 -3 -1 0 -2 -3 -2 1 2 -1 5 0 -2 -1 -1 -1 -1 1
-2 -3 -3 -3 -2 -3 -3 -3 -1 0 0 -3 0 6 -4 -2 -2 1 3 -1
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4 7 -1 -1 -4 -3 -2
1 -1 1 0 -1 0 0 0 -1 -2 -2 0 -1 -2 -1 4 1 -3 -2 -2
0 -1 0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1 1 5 -2 -2 0
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1 1 -4 -3 -2 11 2 -3
-2 -2 -2 -3 -2 -1 -2 -3 2 -1 -1 -2 -1 3 -3 -2 -2 2 7 -1
0 -3 -3 -3 -1 -2 -2 -3 -3 3 1 -2 1 -1 -2 -2 0 -3 -1 4"""

n, seed = int(sys.argv[1]), int(sys.argv[2])
draw = numpy.random.default_rng(seed)
letters = numpy.frombuffer(LETTERS.encode(), numpy.uint8)
frequency = numpy.array(FREQUENCY) / sum(FREQUENCY)
scores = numpy.array([[int(x) for x in row.split()] for row in BLOSUM62.splitlines()])
# A score is half a bit of the odds that two residues stand for each other; a replaced residue is another one.
replaced = frequency[None, :] * 2.0 ** (scores / 2) * (1 - numpy.eye(20))
by_letter = (replaced / replaced.sum(1, keepdims=True)).cumsum(1)


def length():
    return int(numpy.interp(draw.random(), [0, .05, .25, .5, .75, .95, 1], [30, 89, 184, 306, 450, 751, 1000]))


def relative(founder, identity):
    """The founder with residues replaced, and with gaps."""
    changed = draw.random(len(founder)) > identity
    member = founder.copy()
    rows = by_letter[founder[changed]]
    member[changed] = (rows < draw.random(len(rows))[:, None]).sum(1).clip(0, 19)
    for _ in range(draw.poisson(changed.sum() / 25)):
        at, size = draw.integers(len(member)), draw.geometric(1 / 3)
        if draw.random() < .5:
            member = numpy.delete(member, slice(at, at + size))
        else:
            member = numpy.insert(member, at, draw.choice(20, size, p=frequency))
    return member[:1000]


number = family = 0
while number < n:
    founder = draw.choice(20, length(), p=frequency)
    # A third of the families are larger: seven in ten proteins are then in company.
    members = [(1.0, founder)]
    if draw.random() < .27:
        for _ in range(min(1 + draw.geometric(1 / 6), 19)):
            identity = draw.uniform(.3, .95)
            members.append((identity, relative(founder, identity)))
    for at in draw.permutation(len(members))[: n - number]:
        identity, member = members[at]
        print(f">P{number} family={family} identity={identity:.3f}\n{letters[member].tobytes().decode()}")
        number += 1
    family += 1
