"""Profiles of `peptalk profile` beside the PSSMs that PSI-BLAST makes of the same proteins among the same.

    python benches/profiles.py TABLES PROFILES.parquet [--source cb513] [--n 120]      (needs `psiblast` in the path)

Takes N proteins of a source of the tables, has PSI-BLAST look for their relatives among all proteins of the tables (E < 1e-3;
one round and two), and prints how its scores correlate with ours and the seconds that it took.
"""

import argparse
import hashlib
import os
import random
import subprocess
import tempfile
import time

import numpy
import polars

OURS, THEIRS = "ACDEFGHIKLMNPQRSTVWY", "ARNDCQEGHILKMFPSTWYV"


def pssm(path):
    rows = [line.split() for line in open(path)]
    scores = [[int(x) for x in row[2:22]] for row in rows if len(row) >= 22 and row[0].isdigit()]
    return numpy.array(scores, float)[:, [THEIRS.index(letter) for letter in OURS]]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tables")
    arguments.add_argument("profiles")
    arguments.add_argument("--source", default="cb513")
    arguments.add_argument("--n", type=int, default=120)
    given = arguments.parse_args()
    proteins = polars.read_parquet(os.path.join(given.tables, "proteins.parquet"))
    of_source = proteins.filter(polars.col("sources").list.contains(given.source))["sequence"].to_list()
    chosen = random.Random(1).sample(sorted(of_source), given.n)
    rows = polars.read_parquet(given.profiles).select("sequence_sha256", "n_residues", "numbers", "vectors")
    ours = {
        key: numpy.frombuffer(vectors, numbers.replace("f", "<f").replace("32", "4").replace("16", "2")).reshape(n, -1)
        for key, n, numbers, vectors in rows.iter_rows()
    }
    with tempfile.TemporaryDirectory() as folder:
        database = os.path.join(folder, "all")
        with open(f"{database}.fasta", "w") as file:
            file.writelines(f">{at}\n{sequence}\n" for at, sequence in enumerate(proteins["sequence"]))
        making = ["makeblastdb", "-in", f"{database}.fasta", "-dbtype", "prot", "-out", database]
        subprocess.run(making, check=True, stdout=subprocess.DEVNULL)
        query, out = os.path.join(folder, "query.fasta"), os.path.join(folder, "pssm")
        for rounds in (1, 2):
            theirs, here, begin = [], [], time.monotonic()
            for sequence in chosen:
                with open(query, "w") as file:
                    file.write(f">query\n{sequence}\n")
                command = ["psiblast", "-query", query, "-db", database, "-num_iterations", str(rounds)]
                command += ["-inclusion_ethresh", "1e-3", "-evalue", "1e-3", "-out_ascii_pssm", out]
                command += ["-save_pssm_after_last_round", "-out", os.devnull, "-max_target_seqs", "5000"]
                if os.path.exists(out):
                    os.remove(out)
                subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
                if os.path.exists(out):  # there is none of a protein that nothing aligns with
                    theirs.append(pssm(out))
                    here.append(ours[hashlib.sha256(sequence.encode()).digest()][:, :20])
            seconds = time.monotonic() - begin
            theirs, here = numpy.concatenate(theirs), numpy.concatenate(here).astype(float)
            correlation = numpy.corrcoef(theirs.ravel(), here.ravel())[0, 1]
            print(f"PSI-BLAST, {rounds} rounds: {len(theirs)} places, r = {correlation:.3f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
