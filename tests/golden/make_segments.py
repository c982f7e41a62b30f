"""SOV'99 and boundary distances by exhaustion: python tests/golden/make_segments.py > tests/golden/segments.json

The sets of Zemla et al. (Proteins 34:220, 1999) are written down as they stand in the paper: every interval of a chain is
tried for being a segment, S(i) lists the overlapping pairs and S'(i) the observed segments without one, overlaps are
counted residue by residue, sums are fractions. Truth `?` is unknown; prediction `-` is no state. Chains are made up.
"""

import json
import random
from fractions import Fraction
from itertools import combinations

CAP = 10
draw = random.Random(99)


def segments(states, truth, state):
    def inside(at):
        return 0 <= at < len(truth) and truth[at] != "?" and states[at] == state

    intervals = combinations(range(len(truth) + 1), 2)
    return [
        range(i, j)
        for i, j in intervals
        if all(map(inside, range(i, j))) and not inside(i - 1) and not inside(j)
    ]


def sums(truth, predicted, state):
    observed, said = segments(truth, truth, state), segments(predicted, truth, state)
    residues = range(len(truth))

    def minov(a, b):
        return sum(r in a and r in b for r in residues)

    def maxov(a, b):
        return sum(r in a or r in b for r in residues)

    def delta(a, b):
        return min(maxov(a, b) - minov(a, b), minov(a, b), len(a) // 2, len(b) // 2)

    s = [(a, b) for a in observed for b in said if minov(a, b) > 0]
    s_alone = [a for a in observed if all(minov(a, b) == 0 for b in said)]
    total = sum(Fraction(minov(a, b) + delta(a, b), maxov(a, b)) * len(a) for a, b in s)
    return total, sum(len(a) for a, _ in s) + sum(len(a) for a in s_alone)


def distances(truth, predicted):
    places = range(1, len(truth))
    for at in places:
        kind = truth[at - 1 : at + 1]
        if "?" in kind or kind[0] == kind[1]:
            continue
        alike = (p for p in places if predicted[p - 1 : p + 1] == kind)
        reached = (p for p in alike if "?" not in truth[min(at, p) - 1 : max(at, p) + 1])
        yield min([CAP, *(abs(at - p) for p in reached)])


def ratio(total, n):
    return round(float(Fraction(total) / n), 12) if n else None


def chain(letters, length):
    text = ""
    while len(text) < length:
        text += draw.choice(letters) * draw.randint(1, 9)
    return text[:length]


def guess(truth, letters):
    """Moves borders, breaks segments, and sometimes starts from another chain."""
    said = list(chain(letters, len(truth)) if draw.random() < 0.15 else truth)
    for _ in range(draw.randint(0, 9)):
        at, n = draw.randrange(len(said)), draw.randint(1, 4)
        source = said[max(at - 1, 0)] if draw.random() < 0.6 else draw.choice(letters)
        said[at : at + n] = [source] * len(said[at : at + n])
    if draw.random() < 0.15:
        said[draw.randrange(len(said))] = "-"
    return "".join(said)


def mask(truth):
    for _ in range(draw.randint(1, 3)):
        at, n = draw.randrange(len(truth)), draw.randint(1, 4)
        truth = truth[:at] + "?" * len(truth[at : at + n]) + truth[at + n :]
    return truth


rows = []
for letters in ["HEC"] * 26 + ["HGIEBSTC"] * 16:
    truth = chain(letters, draw.randint(15, 55))
    predicted = guess(truth, letters)
    if draw.random() < 0.4:
        truth = mask(truth)
    each = [sums(truth, predicted, state) for state in letters]
    apart = list(distances(truth, predicted))
    row = {
        "states": letters,
        "truth": truth,
        "predicted": predicted,
        "sov": ratio(sum(t for t, _ in each), sum(n for _, n in each)),
        "sov_of": [ratio(*one) for one in each],
        "within_one": ratio(sum(d <= 1 for d in apart), len(apart)),
        "distance": ratio(sum(apart), len(apart)),
    }
    rows.append(json.dumps(row, separators=(",", ":")))
print("[\n" + ",\n".join(rows) + "\n]")
