"""A step of AdamW with clipping in PyTorch: the other side of bench_adamw.rs.

python benches/torch_adamw.py [THREADS]
"""

import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
torch.manual_seed(0)
REPEATS = 51

for tensors, rows, columns in [(200, 64, 64), (100, 512, 512)]:
    for how in ["foreach", "fused"]:
        params = [torch.nn.Parameter(torch.randn(rows, columns)) for _ in range(tensors)]
        for p in params:
            p.grad = 1e-3 * torch.randn(rows, columns)
        optimiser = torch.optim.AdamW(params, 1e-3, (0.9, 0.99), 1e-8, 0.01, **{how: True})
        times = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimiser.step()
            times.append(1e3 * (time.perf_counter() - begun))
        print(f"adamw of {tensors} × [{rows}, {columns}], {how}: median {sorted(times)[REPEATS // 2]:.3f} ms")
