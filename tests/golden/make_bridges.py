"""Resamplers and gated cross-attention by torch and flamingo-pytorch: python tests/golden/make_bridges.py

Needs torch, flamingo-pytorch and einops-exts. Writes bridges.safetensors beside this file: weights under our names,
inputs, outputs, and the gradients of Σ output · cos(0, 1, 2, …).
"""

import os

import torch
from flamingo_pytorch import GatedCrossAttentionBlock, PerceiverResampler
from safetensors.torch import save_file
from torch import nn

torch.manual_seed(19)
OUT = {}


def keep(kind, named, inputs, output):
    (output * torch.arange(output.numel(), dtype=torch.float32).cos().reshape(output.shape)).sum().backward()
    for name, parameter in named.items():
        OUT[f"{kind}.weight.{name}"] = parameter.detach()
        OUT[f"{kind}.grad.{name}"] = parameter.grad
    for name, tensor in inputs.items():
        OUT[f"{kind}.{name}"] = tensor
    OUT[f"{kind}.output"] = output.detach()


def spread(module):
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))


def perceiver():
    encoder, width, heads, ffn, latents, llm = 10, 12, 3, 20, 4, 7
    layers = nn.ModuleList(
        nn.TransformerDecoderLayer(width, heads, ffn, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(2)
    )
    norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
    inside, norm, outside = nn.Linear(encoder, width), nn.LayerNorm(width), nn.Linear(width, llm)
    start = nn.Parameter(torch.randn(latents, width))
    for module in (layers, norms, norm):
        spread(module)
    residues, lengths = torch.randn(3, 9, encoder), torch.tensor([9, 5, 1])
    padding = torch.arange(9)[None] >= lengths[:, None]
    x, media = start.expand(3, latents, width), inside(residues)
    for layer, own in zip(layers, norms):
        x = layer(x, own(media), memory_key_padding_mask=padding)
    named = {"resampler.latents": start}
    named |= {f"resampler.layers.{k}": v for k, v in layers.named_parameters()}
    named |= {f"resampler.layers.{k.replace('.', '.encoder_norm.')}": v for k, v in norms.named_parameters()}
    for name, module in (("input", inside), ("norm", norm), ("output", outside)):
        named |= {f"resampler.{name}.{k}": v for k, v in module.named_parameters()}
    keep("perceiver", named, {"residues": residues, "lengths": lengths}, outside(norm(x)))


def resampler():
    model = PerceiverResampler(dim=10, depth=2, dim_head=4, heads=3, num_latents=5, num_media_embeds=1)
    positions = nn.Parameter(torch.randn(8, 10))
    spread(model)
    with torch.no_grad():
        model.media_pos_emb.zero_()
    residues = torch.randn(2, 7, 10)
    output = model(residues + positions[:7])[:, 0]
    named = {f"resampler.{k}": v for k, v in model.named_parameters() if k != "media_pos_emb"}
    keep("resampler", named | {"resampler.positions": positions}, {"residues": residues}, output)


def gated():
    model = GatedCrossAttentionBlock(dim=10, dim_head=4, heads=3, only_attend_immediate_media=False)
    spread(model)
    with torch.no_grad():
        model.attn_gate.fill_(0.6)
        model.ff_gate.fill_(-0.4)
    x, media = torch.randn(1, 9, 10), torch.randn(1, 2, 4, 10)
    locations = torch.zeros(1, 9, dtype=torch.bool)
    locations[0, [0, 5]] = True  # before the first protein flamingo-pytorch attends to all, so there is no such token here
    inputs = {"x": x, "media": media.reshape(1, 8, 10)}
    keep("gated", dict(model.named_parameters()), inputs, model(x, media, media_locations=locations))


perceiver()
resampler()
gated()
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bridges.safetensors")
save_file({name: tensor.contiguous().clone() for name, tensor in OUT.items()}, path)
