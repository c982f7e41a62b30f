"""Clusters of `peptalk data cluster` beside those of MMseqs2, on proteins whose families are known.

    python benches/cluster_mmseqs.py FASTA [HOW...]     (needs `mmseqs` and `peptalk` in the path)
    python benches/cluster_mmseqs.py --world WORLD > FASTA

FASTA has headers `>id family=3 identity=0.62`, as made_up_families.py writes them; the second form takes the proteins of a
made-up world from five of its files and their families from truth.json. HOW is any of peptalk, linclust, cluster (default: the
first two). CPU seconds are user and system of the clustering alone: `mmseqs createdb` before it and the text of the
result are not counted, while peptalk's reading and writing is. Recall: of the relatives with so much of their founder,
how many are in its cluster. False: proteins in a cluster whose centre is of another family.
"""

import collections
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile

COVERAGE = "0.8"
BINS = [(0.9, 1.0), (0.7, 0.9), (0.5, 0.7), (0.3, 0.5)]


def write_world(world):
    truth = json.load(open(f"{world}/truth.json"))
    family = {protein: number for number, of in truth["families"].items() for protein in of}
    for protein, sequence in read_world(world, truth["identity"]).items():
        number = family.get(protein, protein)
        print(f">{protein} family={number} identity={truth['identity'][protein]:.3f}\n{sequence}")


def read_world(world, known):
    """Sequences of the proteins of the universe that five files hold, by id."""
    texts = [line.strip() for line in open(f"{world}/instruct/madeup_clap_protein_sequence.txt")]
    texts += [line.rstrip("\n").split("\t")[-1] for line in open(f"{world}/instruct/madeup_prot_describe.tsv")]
    texts += re.findall("<seq> ([A-Z ]+) </seq>", open(f"{world}/instruct/madeup_protein_lm.json").read())
    lines = gzip.open(f"{world}/ppi/madeup_dictionary.tsv.gz", "rt", errors="replace")
    texts += [line.strip().split("\t")[-1].upper() for line in lines]
    entries = gzip.open(f"{world}/swissprot/madeup_sprot.dat.gz", "rt", errors="replace").read().split("\n//")
    texts += [entry.rpartition("\nSQ ")[2].partition("\n")[2] for entry in entries]
    sequences = (re.sub("[^A-Z]", "", text) for text in texts)
    named = ((hashlib.sha256(sequence.encode()).hexdigest()[:32], sequence) for sequence in sequences)
    return {protein: sequence for protein, sequence in named if protein in known}


def seconds(*command):
    """CPU seconds of a command, and the most memory it held, MB."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def read_families(fasta):
    family, identity = {}, {}
    for line in open(fasta):
        if line[0] == ">":
            name, of, same = line[1:].split()
            family[name], identity[name] = of[7:], float(same[9:])
    return family, identity


def row(how, level, cpu, peak, centre, family, identity):
    founder = {family[p]: p for p in family if identity[p] == 1.0}
    recall = []
    for low, high in BINS:
        some = [p for p in family if low <= identity[p] < high and family[p] in founder]
        found = sum(centre[p] == centre[founder[family[p]]] for p in some)
        recall.append(f"{found / max(len(some), 1):.3f}")
    n_pairs = lambda sizes: sum(n * (n - 1) // 2 for n in sizes)
    together = n_pairs(collections.Counter((family[p], centre[p]) for p in family).values())
    pairs = together / n_pairs(collections.Counter(family.values()).values())
    false = sum(family[p] != family[centre[p]] for p in family) / len(family)
    n_clusters = len(set(centre.values()))
    print(f"| {how} | {level} | {cpu:.1f} | {peak:.0f} | {n_clusters} | {' | '.join(recall)} | {pairs:.3f} | {100 * false:.3f} % |", flush=True)


def main(fasta, *hows):
    family, identity = read_families(fasta)
    print("| who | identity | CPU-s | peak MB | clusters | ≥ .9 | .7–.9 | .5–.7 | .3–.5 | all pairs | false |\n" + "|---" * 11 + "|")
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mmseqs", "createdb", fasta, f"{place}/db", "-v", "1"], check=True, stdout=subprocess.DEVNULL)
        levels = ["0.9", "0.5", "0.3"]
        for how in hows or ("peptalk", "linclust"):
            for level in levels + (["0.9,0.5,0.3"] if how == "peptalk" else []):
                table = f"{place}/clusters.tsv"
                if how == "peptalk":
                    cpu, peak = seconds(
                        "peptalk", "data", "cluster", fasta, "--out", table, "--identity", level, "--coverage", COVERAGE
                    )
                    lines = [line.split() for line in open(table)][1:]
                    centre = {line[0]: line[-1] for line in lines}
                else:
                    clusters = f"{place}/{how}{level}"
                    options = ["--min-seq-id", level, "-c", COVERAGE, "--threads", "2", "-v", "1"]
                    cpu, peak = seconds("mmseqs", how, f"{place}/db", clusters, f"{place}/tmp", *options)
                    subprocess.run(["mmseqs", "createtsv", f"{place}/db", f"{place}/db", clusters, table, "-v", "1"], check=True)
                    centre = {member: of for of, member in (line.split() for line in open(table))}
                row(how, level, cpu, peak, centre, family, identity)


if sys.argv[1] == "--world":
    write_world(sys.argv[2])
else:
    main(*sys.argv[1:])
