"""The profile of a made-up protein with relatives, by Biopython's alignments and NumPy: `python make_profile.py > profile.json`.

Weights: Henikoff and Henikoff 1994. Substitutions that the matrix expects, counted as 10 kinds of residues: Altschul et al. 1997.
"""

import json
import random

import numpy as np
from Bio.Align import PairwiseAligner, substitution_matrices

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
# Robinson and Robinson 1991, as BLAST has them
COMMON = dict(
    zip(
        "ARNDCQEGHILKMFPSTWYV",
        [0.07805, 0.05129, 0.04487, 0.05364, 0.01925, 0.04264, 0.06295, 0.07377, 0.02199, 0.05142]
        + [0.09019, 0.05744, 0.02243, 0.03856, 0.05203, 0.07120, 0.05841, 0.01330, 0.03216, 0.06441],
    )
)
matrix = substitution_matrices.load("BLOSUM62")
aligner = PairwiseAligner(mode="local", substitution_matrix=matrix, open_gap_score=-12, extend_gap_score=-1)
draw = random.Random(3)

founder = "".join(draw.choices(LETTERS, k=80))
proteins = [founder]
for keep in [0.95, 0.8, 0.7, 0.6, 0.6]:
    changed = "".join(x if draw.random() < keep else draw.choice(LETTERS) for x in founder)
    cut = draw.randrange(20, 60)
    changed = changed[:cut] + changed[cut + draw.randint(0, 4) :]
    proteins.append(changed[draw.randint(0, 15) :] + "".join(draw.choices(LETTERS, k=draw.randint(0, 9))))
proteins.append(founder[:40] + "X" + founder[41:])

length = len(founder)
rows = [list(founder)]
for other in proteins[1:]:
    best = aligner.align(founder, other)[0]
    (spans, theirs), row = best.aligned, [None] * length
    for place in range(spans[0][0], spans[-1][1]):
        row[place] = "-"
    for (begin, end), (at, _) in zip(spans, theirs):
        row[begin:end] = other[at : at + end - begin]
    rows.append(row)
rows = [row for at, row in enumerate(rows) if at == 0 or row != list(founder)]

columns = [[row[at] for row in rows] for at in range(length)]
kinds = [len({x for x in column if x and x in LETTERS}) for column in columns]
weights = []
for row in rows:
    of = [1 / (kinds[at] * columns[at].count(x)) for at, x in enumerate(row) if x and x in LETTERS]
    weights.append(np.mean(of))

common = np.array([COMMON[x] for x in LETTERS])
scores = np.array([[matrix[a][b] for b in LETTERS] for a in LETTERS])
expected = common * np.exp(0.3176 * scores)
expected /= expected.sum(1, keepdims=True)
profile = []
for at, column in enumerate(columns):
    share = np.array([sum(w for w, x in zip(weights, column) if x == letter) for letter in LETTERS])
    gaps = sum(w for w, x in zip(weights, column) if x == "-")
    gaps /= gaps + share.sum()
    share /= share.sum()
    around = np.mean([max(1, n) for n in kinds[max(0, at - 15) : at + 16]])
    odds = ((around - 1) * share + 10 * share @ expected) / (around + 9) / common
    there = sum(x is not None for x in column)
    profile.append([*np.log(odds), gaps, np.log(around), np.log(there)])
print(json.dumps({"proteins": proteins, "profile": np.round(profile, 5).tolist()}))
