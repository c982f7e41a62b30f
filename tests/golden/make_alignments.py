"""Local alignment scores of made-up protein pairs by Biopython: `python make_alignments.py > alignments.tsv`."""

import random

from Bio.Align import PairwiseAligner, substitution_matrices

aligner = PairwiseAligner(mode="local", substitution_matrix=substitution_matrices.load("BLOSUM62"))
aligner.open_gap_score, aligner.extend_gap_score = -12, -1
draw = random.Random(5)
letters = "ACDEFGHIKLMNPQRSTVWY"
for at in range(60):
    a = "".join(draw.choices(letters + "X", k=draw.randint(5, 120)))
    b = "".join(draw.choices(letters, k=draw.randint(5, 90)))
    if at % 2:  # a relative: changed letters and a gap on either side
        keep = draw.uniform(0.3, 0.95)
        b = "".join(x if draw.random() < keep else draw.choice(letters) for x in a)
        cut, fill = draw.randrange(len(b)), draw.randrange(len(b))
        b = b[:cut] + b[cut + draw.randint(1, 9) :]
        b = b[:fill] + "".join(draw.choices(letters, k=draw.randint(1, 9))) + b[fill:]
    print(a, b, int(aligner.score(a, b)), sep="\t")
