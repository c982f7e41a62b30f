"""`peptalk data near` beside datasketch and rensa: groups of nearly the same text among made-up answers.

    python benches/near.py FOLDER [HOW...] [--rows 500000] [--rounds 3]      (needs `peptalk` in the path)

Makes FOLDER/texts.parquet if it is not there: texts of made-up words, two in five of them an earlier original with some words
changed, left out or added. Then runs every HOW in turn, each in a process of its own on one thread, and prints wall seconds,
CPU seconds and the most memory (the least of all rounds), then what was found. All compare sets of three words in a row, in
lower case, at a Jaccard similarity of 0.8. The truth is computed from the texts: within the copies of one original every
pair whose similarity is 0.8 or more. Recall: how many of these are in one group; joined: groups that hold texts of several
originals, which have next to nothing in common.
"""

import argparse
import collections
import itertools
import os
import random
import subprocess
import sys
import time

THRESHOLD = 0.8
PUNCTUATION = ".,;:!?\"'()[]{}"


def make(path, n_rows):
    import pyarrow
    import pyarrow.parquet

    chance = random.Random(5)
    words = ["".join(chance.choices("abcdefghilmnoprstuvy", k=chance.randint(2, 11))) for _ in range(20_000)]
    often = list(itertools.accumulate(1 / (i + 1) for i in range(20_000)))
    originals, texts, families = [], [], []
    for _ in range(n_rows):
        if originals and chance.random() < 0.4:
            family = chance.randrange(len(originals))
            text = list(originals[family])
            for _ in range(chance.randint(0, max(1, len(text) // 12))):
                place = chance.randrange(len(text))
                text[place : place + chance.randint(0, 1)] = chance.choices(words, k=chance.randint(0, 1))
                text = text or [chance.choice(words)]
        else:
            text = chance.choices(words, cum_weights=often, k=int(chance.gammavariate(2, 22)) + 3)
            family = len(originals)
            originals.append(text)
        texts.append(" ".join(text).capitalize() + chance.choice(["", "."]))
        families.append(family)
    columns = {"text": texts, "family": families}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd", compression_level=1)


def read(path, column):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=[column])[column].to_pylist()


def shingles(text):
    words = [word for word in (word.strip(PUNCTUATION) for word in text.lower().split()) if word]
    if len(words) < 3:
        return {" ".join(words)}
    return {" ".join(words[at : at + 3]) for at in range(len(words) - 2)}


class Groups:
    def __init__(self, n):
        self.parent = list(range(n))

    def find(self, i):
        while self.parent[i] != i:
            self.parent[i] = i = self.parent[self.parent[i]]
        return i

    def join(self, i, j):
        low, high = sorted((self.find(i), self.find(j)))
        self.parent[high] = low

    def write(self, out):
        with open(out, "w") as file:
            file.write("row\tgroup\n")
            file.writelines(f"{i}\t{self.find(i)}\n" for i in range(len(self.parent)))


def datasketch(path, out):
    from datasketch import MinHash, MinHashLSH

    texts = read(path, "text")
    lsh, groups = MinHashLSH(num_perm=128, params=(16, 8)), Groups(len(texts))
    sets = ([shingle.encode() for shingle in shingles(text)] for text in texts)
    for row, minhash in enumerate(MinHash.generator(sets, num_perm=128)):
        for other in lsh.query(minhash):
            groups.join(other, row)
        lsh.insert(row, minhash, check_duplication=False)
    groups.write(out)


def rensa(path, out):
    import rensa

    texts = read(path, "text")
    lsh, groups = rensa.RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=16), Groups(len(texts))
    for row, text in enumerate(texts):
        minhash = rensa.RMinHash(num_perm=128, seed=42)
        minhash.update(list(shingles(text)))
        for other in lsh.query(minhash):
            groups.join(other, row)
        lsh.insert(row, minhash)
    groups.write(out)


PEERS = {f.__name__: f for f in (datasketch, rensa)}


def command(how, path, out):
    if how == "peptalk":
        return ["peptalk", "--threads", "1", "data", "near", "--text", "text", "--out", out, path]
    return [sys.executable, __file__, "--peer", how, path, out]


def run(how, path, out):
    begin = time.monotonic()
    process = subprocess.Popen(command(how, path, out), stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, how
    return time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def truth(texts, families):
    members, pairs = collections.defaultdict(list), []
    for row, family in enumerate(families):
        members[family].append(row)
    for rows in members.values():
        sets = {row: shingles(texts[row]) for row in rows} if len(rows) > 1 else {}
        for i, j in itertools.combinations(sets, 2):
            if len(sets[i] & sets[j]) >= THRESHOLD * len(sets[i] | sets[j]):
                pairs.append((i, j))
    return pairs


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("how", nargs="*", default=["peptalk", *PEERS])
    arguments.add_argument("--rows", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_intermixed_args()
    path = os.path.join(given.folder, "texts.parquet")
    out = {how: os.path.join(given.folder, f"{how}.tsv") for how in given.how}
    if not os.path.exists(path):
        os.makedirs(given.folder, exist_ok=True)
        make(f"{path}.part", given.rows)
        os.rename(f"{path}.part", path)
    used, found = collections.defaultdict(list), {}
    # Before anything is read here: a process begins with the memory of the one that starts it.
    for _ in range(given.rounds):
        for how in given.how:
            used[how].append(run(how, path, out[how]))
    families = read(path, "family")
    pairs = truth(read(path, "text"), families)
    print(f"{len(families)} texts, {len(pairs)} pairs")
    for how in given.how:
        with open(out[how]) as file:
            groups = [int(line.split("\t")[1]) for line in itertools.islice(file, 1, None)]
        held = collections.defaultdict(set)
        for row, group in enumerate(groups):
            held[group].add(families[row])
        together = sum(groups[i] == groups[j] for i, j in pairs)
        found[how] = len(held), together / len(pairs), sum(len(of) > 1 for of in held.values())
    for how in given.how:
        wall, cpu, memory = (min(values) for values in zip(*used[how]))
        n_groups, recall, joined = found[how]
        print(
            f"{how:<12} wall {wall:7.2f} s  CPU {cpu:7.2f} s  {memory:6.0f} MB  {n_groups} groups  recall {recall:.4f}  joined {joined}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        PEERS[sys.argv[2]](*sys.argv[3:])
    else:
        main()
