"""`peptalk ingest` beside DuckDB and Polars: protein-text records in JSON to clean, distinct records in Parquet.

    python benches/ingest.py FOLDER [HOW...] [--rows 4500000] [--rounds 2]      (needs `peptalk` in the path)

Makes FOLDER/function.json if it is not there, in the form of Mol-Instructions (made-up proteins of natural lengths, one for
ten records; texts of made-up words; one record in seven repeats an earlier one; some answers of one word, some
sequences too short), then runs every HOW in turn, each in a process of its own on two threads. All of them read the
array, put sequences in upper case, leave out sequences of fewer than 20 or more than 1,000 residues and answers of one word,
keep the first record of every (sequence, answer), split by protein, count records and letters by part, and write
Parquet with zstd at level 1. What is kept is compared record by record.

DuckDB and Polars split by a hash of the sequence, and that is all they do. peptalk accounts for every record, keeps its text, and
splits by homology: its time is given until the records are distinct and written ("distinct"), and whole.
"""

import argparse
import collections
import json
import os
import random
import re
import subprocess
import sys
import time

RECIPE = """name = "made-up"
seed = 1
[ingest]
[[ingest.source]]
name = "made_up"
kind = "mol_instructions"
files = ["function.json"]
licence = "none"
"""


def make(path, n_rows):
    import numpy

    chance, rng = random.Random(5), numpy.random.default_rng(5)
    n_proteins = max(1, n_rows // 10)
    lengths = numpy.clip(rng.lognormal(5.7, 0.6, n_proteins), 12, 1100).astype(int)
    ends = numpy.cumsum(lengths)
    letters = rng.choice(numpy.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype="u1"), ends[-1]).tobytes().decode()
    words = ["".join(chance.choices("abcdefghilmnoprstuvy", k=chance.randint(2, 11))) for _ in range(20_000)]
    prose = " ".join(chance.choices(words, weights=[1 / (i + 1) for i in range(20_000)], k=4_000_000))

    def record():
        protein, begin = chance.randrange(n_proteins), chance.randrange(len(prose) - 1_200)
        sequence = letters[ends[protein] - lengths[protein] : ends[protein]]
        answer = prose[begin : begin + int(chance.gammavariate(2, 170)) + 5].strip().capitalize() + "."
        if chance.random() < 0.01:
            answer = chance.choice(words).capitalize() + "."
        return sequence, answer

    earlier = []
    with open(path, "w") as file:
        file.write("[\n")
        for begin in range(0, n_rows, 100_000):
            rows = []
            for _ in range(min(100_000, n_rows - begin)):
                sequence, answer = chance.choice(earlier) if earlier and chance.random() < 1 / 7 else record()
                rows.append((sequence, answer))
                text = {
                    "instruction": "What does this protein do?",
                    "input": f"```\n{sequence.lower() if chance.random() < 0.1 else sequence}\n```",
                    "output": answer,
                    "metadata": {"task": "protein function", "split": "train"},
                }
                file.write((",\n" if begin or len(rows) > 1 else "") + json.dumps(text))
            earlier = (earlier + chance.sample(rows, min(len(rows), 20_000)))[-200_000:]
        file.write("\n]\n")


def polars(path, out):
    import polars

    column = polars.col
    rows = polars.read_json(path).lazy().select(
        column("input").str.split("```").list.get(1).str.strip_chars().str.to_uppercase().alias("sequence"),
        column("output").str.strip_chars().str.replace_all(r"\s+", " ").alias("answer"),
    )
    rows = rows.filter(column("sequence").str.len_bytes().is_between(20, 1000) & column("answer").str.contains(" "))
    rows = rows.unique(["sequence", "answer"], keep="first", maintain_order=True)
    point = column("sequence").hash(7) % 100
    part = polars.when(point < 5).then(polars.lit("valid")).when(point < 15).then(polars.lit("test"))
    rows = rows.with_columns(part.otherwise(polars.lit("train")).alias("part")).collect(engine="streaming")
    rows.write_parquet(out, compression="zstd", compression_level=1)
    letters = (column("sequence").str.len_bytes().sum(), column("answer").str.len_bytes().sum().alias("of answers"))
    print(rows.group_by("part").agg(polars.len(), *letters))


def duckdb(path, out):
    import duckdb

    duckdb.execute("SET threads = 2")
    duckdb.execute(f"""CREATE TABLE rows AS
        SELECT *, CASE WHEN hash(sequence) % 100 < 5 THEN 'valid' WHEN hash(sequence) % 100 < 15 THEN 'test'
            ELSE 'train' END AS part
        FROM (SELECT DISTINCT upper(trim(string_split(input, '```')[2], E' \\n')) AS sequence,
                regexp_replace(trim(output, E' \\n'), '\\s+', ' ', 'g') AS answer
            FROM read_json('{path}', format = 'array', columns = {{input: 'VARCHAR', output: 'VARCHAR'}}))
        WHERE strlen(sequence) BETWEEN 20 AND 1000 AND contains(answer, ' ')""")
    duckdb.execute(f"COPY rows TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")
    print(duckdb.sql("SELECT part, count(*), sum(strlen(sequence)), sum(strlen(answer)) FROM rows GROUP BY part"))


PEERS = {f.__name__: f for f in (duckdb, polars)}


def run(how, folder):
    path, out = os.path.join(folder, "function.json"), os.path.join(folder, f"{how}.parquet")
    command = [sys.executable, __file__, "--peer", how, path, out]
    if how == "peptalk":
        recipe = os.path.join(folder, "recipe.toml")
        with open(recipe, "w") as file:
            file.write(RECIPE)
        out = os.path.join(folder, "tables")
        command = ["peptalk", "--threads", "2", "ingest", "--config", recipe, "--data", folder, "--out", out]
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "POLARS_MAX_THREADS": "2"},
    )
    distinct, said = None, []
    for line in process.stderr:
        said.append(line)
        if " deduplicated" in re.sub(r"\x1b\[\d+m", "", line):
            with open(f"/proc/{process.pid}/stat") as stat:
                ticks = stat.read().rpartition(")")[2].split()[11:13]
            distinct = time.monotonic() - begin, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, "".join(said[-20:])
    whole = time.monotonic() - begin, used.ru_utime + used.ru_stime
    return *(distinct or whole), *whole, used.ru_maxrss / 1024


def kept(how, folder):
    """The number of records and a sum that tells sets of records apart."""
    import polars

    if how == "peptalk":
        tables = os.path.join(folder, "tables")
        proteins = polars.scan_parquet(os.path.join(tables, "proteins.parquet")).select("protein_id", "sequence")
        facts = polars.scan_parquet(os.path.join(tables, "facts.parquet")).select("protein_id", answer="text")
        rows = facts.join(proteins, on="protein_id")
    else:
        rows = polars.scan_parquet(os.path.join(folder, f"{how}.parquet"))
    both = polars.concat_str("sequence", "answer", separator="\n").hash(3)
    return rows.select(polars.len(), (both % 1_000_003).cast(polars.Int64).sum().alias("sum")).collect().row(0)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("how", nargs="*", default=["peptalk", *PEERS])
    arguments.add_argument("--rows", type=int, default=4_500_000)
    arguments.add_argument("--rounds", type=int, default=2)
    given = arguments.parse_intermixed_args()
    path = os.path.join(given.folder, "function.json")
    if not os.path.exists(path):
        os.makedirs(given.folder, exist_ok=True)
        make(f"{path}.part", given.rows)
        os.rename(f"{path}.part", path)
    print(f"{path}: {os.path.getsize(path) / 1e6:.0f} MB")
    used, rows = collections.defaultdict(list), {}
    for _ in range(given.rounds):
        for how in given.how:
            used[how].append(run(how, given.folder))
            rows[how] = kept(how, given.folder)
    for how in given.how:
        wall, cpu, whole_wall, whole_cpu, memory = (min(values) for values in zip(*used[how]))
        print(
            f"{how:<8} distinct: wall {wall:6.1f} s, CPU {cpu:6.1f} s; whole: {whole_wall:6.1f} s, {whole_cpu:6.1f} s; "
            f"{memory:6.0f} MB  {rows[how][0]} rows"
        )
    assert len(set(rows.values())) == 1, rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        PEERS[sys.argv[2]](*sys.argv[3:])
    else:
        main()
