"""`datasets::stream` beside the streaming of Hugging Face `datasets`: an epoch of shuffled proteins out of Parquet.

    cargo build --release --workspace --example bench_stream
    python benches/stream_hf.py FOLDER target/release/examples/bench_stream [HOW...] [--rows 450000] [--rounds 3]

Makes FOLDER/proteins.parquet if it is not there (made-up sequences of natural lengths with ids, clusters and accessions,
in row groups of 8,192, zstd at level 1), then runs every HOW in turn, each in a process of its own, and prints seconds, rows
a second, CPU seconds of the whole process and the most memory, the best of all rounds. Ours hands out batches of at most
16,384 residues, by length or packed, out of windows of 131,072 rows; theirs hands out rows, plain or through a shuffle
buffer of 1,000 (its default) or 131,072. Both read the column `sequence` alone, and must see the same rows. `resume` stops
at half of the epoch, opens the file again and goes on: seconds to the first row after the stop, and rows of the
epoch in all.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import time

BUDGET, WINDOW = 16_384, 131_072


def make(path, n_rows):
    import hashlib

    import numpy
    import pyarrow
    import pyarrow.parquet

    rng = numpy.random.default_rng(5)
    letters = numpy.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", dtype="u1")
    schema = pyarrow.schema(
        [
            ("protein_id", pyarrow.string()),
            ("sequence", pyarrow.string()),
            ("accessions", pyarrow.list_(pyarrow.string())),
            ("cluster", pyarrow.string()),
            ("split", pyarrow.string()),
        ]
    )
    with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:
        for begin in range(0, n_rows, 8_192):
            lengths = numpy.clip(rng.lognormal(5.7, 0.6, min(8_192, n_rows - begin)), 30, 2000).astype(int)
            sequences = [rng.choice(letters, n).tobytes().decode() for n in lengths]
            ids = [hashlib.sha256(s.encode()).hexdigest()[:32] for s in sequences]
            accessions = [[f"A{begin + at:09}"] for at in range(len(ids))]
            columns = [ids, sequences, accessions, ids[::-1], ["train"] * len(ids)]
            writer.write_table(pyarrow.table(dict(zip(schema.names, columns)), schema), row_group_size=8_192)


def rows_of(path, buffer):
    import datasets

    rows = datasets.load_dataset("parquet", data_files=path, split="train", streaming=True, columns=["sequence"])
    return rows.shuffle(seed=7, buffer_size=buffer) if buffer else rows


def hf(path, buffer, resume=False):
    import pyarrow.parquet

    rows, seen, residues = rows_of(path, buffer), 0, 0
    if resume:
        half = pyarrow.parquet.ParquetFile(path).metadata.num_rows // 2
        for row in rows:
            seen, residues = seen + 1, residues + len(row["sequence"])
            if seen == half:
                break
        state = rows.state_dict()
    begin, first = time.monotonic(), None
    rows = rows_of(path, buffer)
    if resume:
        rows.load_state_dict(state)
    for row in rows:
        first = first or time.monotonic() - begin
        seen, residues = seen + 1, residues + len(row["sequence"])
    print(json.dumps({"rows": seen, "residues": residues, "first_s": first, "s": time.monotonic() - begin}))


HOW = {
    "peptalk, by length": ["by_length", BUDGET, 1],
    "peptalk, by length, 2 readers": ["by_length", BUDGET, 2],
    "peptalk, packed": ["packed", BUDGET, 1],
    "peptalk, resume": ["resume", BUDGET, 1],
    "datasets, not shuffled": [0, ""],
    "datasets, buffer 1000": [1_000, ""],
    "datasets, buffer 131072": [WINDOW, ""],
    "datasets, buffer 1000, resume": [1_000, "resume"],
    "datasets, buffer 131072, resume": [WINDOW, "resume"],
}


def run(how, path, ours):
    command = [ours, *HOW[how], path] if how.startswith("peptalk") else [sys.executable, __file__, "--hf", path, *HOW[how]]
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    said = json.loads(process.stdout.read().splitlines()[-1])
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, how
    return {**said, "cpu": used.ru_utime + used.ru_stime, "mb": used.ru_maxrss / 1024}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("folder")
    arguments.add_argument("ours", help="path of the example bench_stream")
    arguments.add_argument("how", nargs="*", default=list(HOW))
    arguments.add_argument("--rows", type=int, default=450_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_intermixed_args()
    path = os.path.join(given.folder, "proteins.parquet")
    if not os.path.exists(path):
        os.makedirs(given.folder, exist_ok=True)
        make(f"{path}.part", given.rows)
        os.rename(f"{path}.part", path)
    print(f"{path}: {os.path.getsize(path) / 1e6:.0f} MB")
    rounds = collections.defaultdict(list)
    for _ in range(given.rounds):
        for how in given.how:
            rounds[how].append(run(how, path, given.ours))
    whole = [how for how in given.how if not (how.startswith("datasets") and how.endswith("resume"))]
    assert len({(run["rows"], run["residues"]) for how in whole for run in rounds[how]}) == 1, "all see the same rows"
    for how in given.how:
        best = {key: min(run[key] for run in rounds[how]) for key in rounds[how][0]}
        filled = f"  filled {best['filled']:.4f}" if "filled" in best else ""
        # what `resume` did before the stop is not timed
        speed = "" if how.endswith("resume") else f"{best['s']:6.2f} s {best['rows'] / best['s']:9.0f} rows/s"
        print(
            f"{how:<32}{best['rows']:>8} rows {best['residues']} residues  {speed:<25} first {best['first_s']:6.2f} s"
            f"  CPU {best['cpu']:6.2f} s {best['mb']:6.0f} MB{filled}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--hf"]:
        hf(sys.argv[2], int(sys.argv[3]), resume=sys.argv[4] == "resume")
    else:
        main()
