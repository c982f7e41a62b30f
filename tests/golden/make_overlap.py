"""BLEU and ROUGE-L of made-up texts: `pip install sacrebleu rouge-score; python make_overlap.py > overlap.json`."""

import json

from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

pairs = [
    ("Binds iron.", "Binds iron."),
    ("The protein binds iron, zinc and 3.5 mM ATP.", "The protein binds zinc and 3,500 uM of ATP."),
    ("GO:0000012, GO:0000034", "GO:0000012, GO:0000043"),
    ("It catalyses A + B = C; EC 1.2.3.4 (made-up)!", "Catalyses the reaction A + B = C (EC 1.2.3.4)."),
    ("alpha-helix 12-24 & beta&lt;sheet&gt;", "alpha-helix 12-25 & beta<sheet>"),
    ("", "Nothing was said."),
    ("Said too much and said it twice, said too much and said it twice.", "Said too much."),
    ("kinase kinase kinase kinase kinase", "kinase"),
    ("A line\nthat is bro-\nken", "A line that is broken"),
    ("Résumé of the Ω-loop: 90 % identity", "resume of the loop: 90% identity"),
    ("-1.25", "1.25"),
    ("turns kresp into kresol in the outer veil of the cell", "it turns kresp into dorvol in the outer veil of a cell"),
]
generated, references = [a for a, _ in pairs], [b for _, b in pairs]
each = [BLEU().corpus_score([a], [[b]]).score for a, b in pairs]
rouge = RougeScorer(["rougeL"])
print(
    json.dumps(
        {
            "generated": generated,
            "references": references,
            "bleu": BLEU().corpus_score(generated, [references]).score,
            "bleu_of_each": each,
            "rouge_l": [rouge.score(b, a)["rougeL"].fmeasure for a, b in pairs],
        },
        indent=1,
    )
)
