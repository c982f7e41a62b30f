"""The bidirectional LSTM and the CRF in PyTorch: the other side of bench_ss.rs.

python benches/torch_ss.py [THREADS]    (the CRF needs pytorch-crf 0.7.2)
"""

import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
torch.manual_seed(0)
B, L, K, REPEATS = 32, 256, 8, 9


def median(name, work):
    times = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begun))
    print(f"{name}: median {sorted(times[1:])[REPEATS // 2]:.2f} ms")


for inputs, hidden in [(128, 256), (128, 128), (64, 64)]:
    x = torch.randn(B, L, inputs, requires_grad=True)
    lstm = torch.nn.LSTM(inputs, hidden, batch_first=True, bidirectional=True)

    def forward():
        with torch.no_grad():
            lstm(x)

    def both():
        y, _ = lstm(x)
        y.backward(torch.ones_like(y))

    median(f"bilstm {inputs} to {hidden}, forward", forward)
    median(f"bilstm {inputs} to {hidden}, forward + backward", both)

try:
    from torchcrf import CRF
except ImportError:
    raise SystemExit("pip install pytorch-crf for the CRF")

crf = CRF(K, batch_first=True)
emissions, labels = torch.randn(B, L, K, requires_grad=True), torch.randint(0, K, (B, L))
median("crf of 8 states, loss + gradient", lambda: (-crf(emissions, labels)).backward())
median("crf of 8 states, Viterbi", lambda: crf.decode(emissions))
