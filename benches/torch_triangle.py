"""The triangle multiplicative block in PyTorch, one thread, forward and backward: the other side of bench_triangle.rs.

python benches/torch_triangle.py
"""

import time

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
L, PAIR, HIDDEN, REPEATS = 125, 128, 64, 9


class Triangle(torch.nn.Module):
    def __init__(self, edges):
        super().__init__()
        self.edges = edges
        self.norm_in = torch.nn.LayerNorm(PAIR)
        self.project = torch.nn.Linear(PAIR, 4 * HIDDEN)
        self.norm_out = torch.nn.LayerNorm(HIDDEN)
        self.out = torch.nn.Linear(HIDDEN, PAIR)
        self.gate = torch.nn.Linear(PAIR, PAIR)

    def forward(self, z):
        z = self.norm_in(z)
        a, a_gate, b, b_gate = self.project(z).chunk(4, dim=-1)
        a, b = (v.permute(0, 3, 1, 2) for v in (a * a_gate.sigmoid(), b * b_gate.sigmoid()))
        t = a @ b.transpose(2, 3) if self.edges == "Outgoing" else a.transpose(2, 3) @ b
        return self.gate(z).sigmoid() * self.out(self.norm_out(t.permute(0, 2, 3, 1)))


for edges in ["Outgoing", "Incoming"]:
    block, z = Triangle(edges), torch.randn(1, L, L, PAIR, requires_grad=True)
    times = []
    for _ in range(REPEATS + 2):
        block.zero_grad()
        z.grad = None
        begun = time.perf_counter()
        out = block(z)
        out.backward(torch.ones_like(out))
        times.append(1e3 * (time.perf_counter() - begun))
    print(f"triangle {edges}, forward + backward: median {sorted(times[2:])[REPEATS // 2]:.1f} ms")
