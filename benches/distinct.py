"""`peptalk data distinct` beside Polars and DuckDB: exact repeats out of protein-text records, Parquet to Parquet.

    python benches/distinct.py FOLDER [HOW...] [--rows 4500000] [--rounds 3]      (needs `peptalk` in the path)

Makes FOLDER/records.parquet if it is not there (made-up proteins of natural lengths, texts of made-up words; one record
in seven repeats an earlier one, a tenth of these in lower case), then runs every HOW in turn, each in a process of its
own on two threads, and prints wall seconds, CPU seconds and the most memory, the least of all rounds. All keep the first
row of every (sequence in upper case, question, answer) and write it with zstd at level 1; the rows kept are compared.
"""

import argparse
import collections
import multiprocessing
import os
import random
import subprocess
import sys
import time

KEY_COLUMNS = ["sequence", "question", "answer"]
KEY = "upper(sequence), question, answer"


def make(path, n_rows):
    import numpy
    import pyarrow
    import pyarrow.parquet

    chance, rng = random.Random(5), numpy.random.default_rng(5)
    n_proteins = max(1, n_rows * 2 // 15)
    lengths = numpy.clip(rng.lognormal(5.7, 0.6, n_proteins), 30, 2000).astype(int)
    ends = numpy.cumsum(lengths)
    letters = rng.choice(numpy.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype="u1"), ends[-1]).tobytes().decode()
    words = ["".join(chance.choices("abcdefghilmnoprstuvy", k=chance.randint(2, 11))) for _ in range(20_000)]
    prose = " ".join(chance.choices(words, weights=[1 / (i + 1) for i in range(20_000)], k=4_000_000))
    questions = [" ".join(chance.choices(words, k=9)) + "?" for _ in range(200)]

    def record():
        protein, begin = chance.randrange(n_proteins), chance.randrange(len(prose) - 1_200)
        sequence = letters[ends[protein] - lengths[protein] : ends[protein]]
        return sequence, chance.choice(questions), prose[begin : begin + int(chance.gammavariate(2, 170)) + 5]

    schema = pyarrow.schema([("row", pyarrow.int64()), *((c, pyarrow.string()) for c in KEY_COLUMNS)])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        earlier = []
        for begin in range(0, n_rows, 100_000):
            rows = []
            for _ in range(min(100_000, n_rows - begin)):
                if earlier and chance.random() < 1 / 7:
                    sequence, question, answer = chance.choice(earlier)
                    rows.append((sequence.lower() if chance.random() < 0.1 else sequence, question, answer))
                else:
                    rows.append(record())
            earlier = (earlier + chance.sample(rows, min(len(rows), 20_000)))[-200_000:]
            columns = [range(begin, begin + len(rows)), *zip(*rows)]
            writer.write_table(pyarrow.table([pyarrow.array(c, t.type) for c, t in zip(columns, schema)], schema))


def polars_unique(path, out):
    import polars

    rows = polars.scan_parquet(path).with_columns(polars.col("sequence").str.to_uppercase().alias("key"))
    rows = rows.unique(["key", "question", "answer"], keep="first", maintain_order=True).drop("key")
    rows.collect().write_parquet(out, compression="zstd", compression_level=1)


def polars_two_passes(path, out):
    import polars

    upper = polars.col("sequence").str.to_uppercase()
    keys = polars.scan_parquet(path).select("row", polars.struct(upper, "question", "answer").hash().alias("key"))
    first = keys.group_by("key").agg(polars.col("row").min()).select("row").collect(engine="streaming")
    rows = polars.scan_parquet(path).join(first.lazy(), on="row", how="semi")
    rows.sink_parquet(out, compression="zstd", compression_level=1, engine="streaming")


def duckdb_run(out, query):
    import duckdb

    duckdb.execute("SET threads = 2")
    duckdb.execute(f"COPY ({query}) TO '{out}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)")


def duckdb_group(path, out):
    first = "min(row) AS row, arg_min(sequence, row) AS sequence, question, answer"
    duckdb_run(out, f"SELECT {first} FROM '{path}' GROUP BY upper(sequence), question, answer")


def duckdb_two_passes(path, out):
    first = f"SELECT min(row) FROM '{path}' GROUP BY md5_number(concat_ws(chr(0), {KEY}))"
    duckdb_run(out, f"SELECT * FROM '{path}' WHERE row IN ({first})")


PEERS = {f.__name__: f for f in (polars_unique, polars_two_passes, duckdb_group, duckdb_two_passes)}


def command(how, path, out):
    if how == "peptalk":
        named = ["--sequence", "sequence", "--on", "question,answer"]
        return ["peptalk", "--threads", "2", "data", "distinct", *named, "--out", out, path]
    return [sys.executable, __file__, "--peer", how, path, out]


def run(how, path, out):
    begin = time.monotonic()
    process = subprocess.Popen(
        command(how, path, out), stdout=subprocess.DEVNULL, env={**os.environ, "POLARS_MAX_THREADS": "2"}
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, how
    return time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def kept(out):
    import pyarrow.compute
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(out, columns=["row"])["row"]
    return len(rows), pyarrow.compute.sum(rows).as_py()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("how", nargs="*", default=["peptalk", *PEERS])
    arguments.add_argument("--rows", type=int, default=4_500_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_intermixed_args()
    path, out = os.path.join(given.folder, "records.parquet"), os.path.join(given.folder, "out.parquet")
    if not os.path.exists(path):
        os.makedirs(given.folder, exist_ok=True)
        # In a process of its own, since the most memory of one that is begun later is at least that of the one that begins it.
        making = multiprocessing.Process(target=make, args=(f"{path}.part", given.rows))
        making.start()
        making.join()
        os.rename(f"{path}.part", path)
    print(f"{path}: {os.path.getsize(path) / 1e6:.0f} MB")
    used, rows = collections.defaultdict(list), {}
    for _ in range(given.rounds):
        for how in given.how:
            used[how].append(run(how, path, out))
            rows[how] = kept(out)
    for how in given.how:
        wall, cpu, memory = (min(values) for values in zip(*used[how]))
        print(f"{how:<18} wall {wall:6.2f} s  CPU {cpu:6.2f} s  {memory:6.0f} MB  {rows[how][0]} rows")
    assert len(set(rows.values())) == 1, rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        PEERS[sys.argv[2]](*sys.argv[3:])
    else:
        main()
