"""Language model beside PyTorch and TRL: bench_llm.rs and torch_llm.py, each case in a process of its own, step by step in turn.

    cargo build --release --example bench_llm
    python benches/compare_llm.py --bin target/release/examples/bench_llm [--threads 1] [--rounds 5] [CASE ...]

CPU seconds of a step, least (and median) of the rounds; the ratio is theirs by ours, above 1 is faster. Memory is the most that
a process held. `startup` is everything from the start of the process to its first step: reading the model from disk,
putting on an adapter, making the optimiser.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
# Case, vocabulary, peers.
CASES = [
    ("forward", 8192, ["torch"]),
    ("lora_kv", 8192, ["torch", "trl"]),
    ("lora_all", 8192, ["torch"]),
    ("full", 8192, ["torch", "torch-fused"]),
    ("generate", 8192, ["torch"]),
    ("generate_one", 8192, ["torch"]),
    ("lora_kv", 151936, ["torch", "trl"]),
]


class Side:
    """A process that runs one step at a time."""

    def __init__(self, command, threads):
        environment = os.environ | {"MIMALLOC_PURGE_DELAY": "-1", "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        self.steps = []

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")
        return line.split()

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.steps.append([float(number) for number in self.line()])

    def close(self):
        self.process.stdin.close()
        self.peak = float(self.line()[0])
        self.process.wait()

    def least(self):
        return min(cpu for cpu, _ in self.steps)

    def __str__(self):
        median = [statistics.median(column) for column in zip(*self.steps)]
        return f"{self.least():.3f} ({median[0]:.3f}) CPU-s, {median[1]:.3f} s, {self.peak:.0f} MiB"


def steps(binary, case, vocab, peers, threads, rounds):
    commands = {"ours": [binary, case, str(vocab)]}
    commands |= {peer: torch(peer, case, vocab, threads) for peer in peers}
    sides = {}
    for name, command in commands.items():
        sides[name] = Side(command, threads)
        assert sides[name].line() == ["ready"]
    for _ in range(rounds):
        for side in sides.values():
            side.step()
    for side in sides.values():
        side.close()
    ours = sides.pop("ours")
    print(f"{case}, vocabulary {vocab}, threads {threads}: {ours}")
    for name, side in sides.items():
        print(f"  {name}: {side}; time × {side.least() / ours.least():.2f}, memory × {ours.peak / side.peak:.2f}", flush=True)


def startup(binary, threads, rounds):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(torch("torch", "save", 8192, threads) + [folder], check=True, capture_output=True)
        commands = {"ours": [binary, f"startup:{folder}"], "torch": torch("torch", "startup", 8192, threads) + [folder]}
        times = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                begun = time.perf_counter()
                side = Side(command, threads)
                assert side.line() == ["ready"]
                wall = time.perf_counter() - begun
                side.process.stdin.close()
                _, _, usage = os.wait4(side.process.pid, 0)
                times[name].append((usage.ru_utime + usage.ru_stime, wall))
    least = {name: [min(column) for column in zip(*rows)] for name, rows in times.items()}
    for name, (cpu, wall) in least.items():
        print(f"startup, {name}: {cpu:.3f} CPU-s, {wall:.3f} s, threads {threads}", flush=True)


def torch(peer, case, vocab, threads):
    return [sys.executable, str(HERE / "torch_llm.py"), peer, case, str(vocab), str(threads)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("cases", nargs="*", help="as CASE or CASE:VOCAB; all without one")
    arguments = parser.parse_args()
    wanted = set(arguments.cases)
    for case, vocab, peers in CASES:
        if not wanted or case in wanted and vocab == 8192 or f"{case}:{vocab}" in wanted:
            steps(arguments.bin, case, vocab, peers, arguments.threads, arguments.rounds)
    if not wanted or "startup" in wanted:
        startup(arguments.bin, arguments.threads, arguments.rounds)


main()
