"""What MMseqs2 finds between a published test set and training, and how a model does without it.

    python benches/audit_mmseqs.py TABLES SAMPLES.jsonl    (needs pandas, pyarrow and `mmseqs` in the path)

TABLES is a folder that `peptalk ingest` wrote, SAMPLES.jsonl a `samples_ss_*.jsonl` of `peptalk eval ss`. A test chain is
related when MMseqs2 at its highest sensitivity finds a training chain with E < 1e-3; accuracies are per residue.
"""

import json
import subprocess
import sys
import tempfile

import pandas

tables, samples = sys.argv[1:]
proteins = pandas.read_parquet(f"{tables}/proteins.parquet", columns=["protein_id", "sequence", "split"])
lines = [json.loads(line) for line in open(samples)]
asked = {line["doc"]["protein_id"] for line in lines}
with tempfile.TemporaryDirectory() as place:
    for name, rows in [
        ("test", proteins[proteins.protein_id.isin(asked)]),
        ("train", proteins[proteins.split == "train"]),
    ]:
        with open(f"{place}/{name}.fa", "w") as out:
            out.writelines(f">{i}\n{s}\n" for i, s in zip(rows.protein_id, rows.sequence))
    command = ["mmseqs", "easy-search", "test.fa", "train.fa", "hits.tsv", "tmp", "-s", "7.5", "-e", "1e-3", "-v", "1"]
    subprocess.run([*command, "--format-output", "query,target,fident,qcov"], cwd=place, check=True)
    hits = pandas.read_csv(f"{place}/hits.tsv", sep="\t", names=["query", "target", "identity", "coverage"])
for identity in (0.9, 0.5, 0.3):
    some = hits[(hits.identity >= identity) & (hits.coverage >= 0.5)]
    print(f"identity >= {identity} over half the chain: {some['query'].nunique()} test, {some.target.nunique()} training chains")
related = set(hits["query"])
for name, chains in [
    ("related", [line for line in lines if line["doc"]["protein_id"] in related]),
    ("unrelated", [line for line in lines if line["doc"]["protein_id"] not in related]),
]:
    pairs = {q: [p for c in chains for p in zip(c["target"][q], c["resps"][q]) if p[0] != "?"] for q in ("q3", "q8")}
    right = {q: sum(t == s for t, s in pairs[q]) / max(len(pairs[q]), 1) for q in pairs}
    print(f"{name}: {len(chains)} chains, Q3 {right['q3']:.4f}, Q8 {right['q8']:.4f}")
