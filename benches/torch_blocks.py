"""One training step of a small Qwen3 in PyTorch, one thread, forward and backward: the other side of bench_blocks.

python benches/torch_blocks.py
"""

import time

import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)
torch.manual_seed(0)
LAYERS, WIDTH, FFN, HEADS, GROUPS, DIM, VOCAB = 4, 512, 1536, 8, 4, 64, 512
BATCH, TOKENS, ROUNDS, THETA = 4, 128, 7, 1e6


class Projection(nn.Linear):
    """A weight without bias; with `adapt`, frozen and corrected by a low-rank product."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)
        self.a = self.b = None

    def adapt(self, rank, scale):
        self.a = nn.Parameter(torch.randn(rank, self.in_features) / self.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(self.out_features, rank))
        self.scale = scale

    def forward(self, x):
        y = super().forward(x)
        return y if self.a is None else y + self.scale * F.linear(F.linear(x, self.a), self.b)


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_in, self.norm_mid = nn.RMSNorm(WIDTH, eps=1e-6), nn.RMSNorm(WIDTH, eps=1e-6)
        self.q_norm, self.k_norm = nn.RMSNorm(DIM, eps=1e-6), nn.RMSNorm(DIM, eps=1e-6)
        self.q, self.k, self.v = Projection(WIDTH, HEADS * DIM), Projection(WIDTH, GROUPS * DIM), Projection(WIDTH, GROUPS * DIM)
        self.o = Projection(HEADS * DIM, WIDTH)
        self.gate, self.up, self.down = Projection(WIDTH, FFN), Projection(WIDTH, FFN), Projection(FFN, WIDTH)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        h = self.norm_in(x)
        q = rotate(self.q_norm(self.q(h).view(b, t, HEADS, DIM)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k(h).view(b, t, GROUPS, DIM)).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, GROUPS, DIM).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(b, t, HEADS * DIM))
        h = self.norm_mid(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.RMSNorm(WIDTH, eps=1e-6)

    def loss(self, ids, targets):
        angles = torch.arange(ids.shape[1])[:, None] / THETA ** (torch.arange(0, DIM, 2) / DIM)
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin())
        return F.cross_entropy(F.linear(self.norm(x), self.embed.weight).flatten(0, 1), targets.flatten())


def report(what, model, ids, targets):
    least = float("inf")
    for _ in range(ROUNDS):
        model.zero_grad()
        before = time.process_time()
        model.loss(ids, targets).backward()
        least = min(least, 1e3 * (time.process_time() - before))
    print(f"{what}: {least:.1f} ms")


model = Model()
rows = torch.randint(VOCAB, (BATCH, TOKENS + 1))
report("torch, all weights", model, rows[:, :-1], rows[:, 1:])
model.requires_grad_(False)
for block in model.blocks:
    block.k.adapt(16, 2.0)
    block.v.adapt(16, 2.0)
report("torch, frozen base with LoRA on k and v (rank 16)", model, rows[:, :-1], rows[:, 1:])
