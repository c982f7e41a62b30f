"""A tiny ESM-C of transformers with its embeddings, and files of torch.save: python tests/golden/make_encoder.py

Needs torch and transformers 5. Writes esmc/ and torch/ beside this file. The weights are random.
"""

import os

import torch
from safetensors.torch import save_file
from transformers import EsmcConfig, EsmcForMaskedLM

HERE = os.path.dirname(os.path.abspath(__file__))
torch.manual_seed(5)


def esmc():
    folder = os.path.join(HERE, "esmc")
    config = EsmcConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=7, max_position_embeddings=16
    )
    config._attn_implementation = "eager"
    model = EsmcForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.4 if parameter.dim() > 1 else 0.2) + (parameter.dim() == 1))
    ids = torch.tensor([[0, 20, 15, 11, 4, 4, 7, 5, 2], [0, 6, 6, 31, 24, 2, 1, 1, 1]])
    with torch.no_grad():
        hidden = model.esmc(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state
    model.save_pretrained(folder)
    save_file({"ids": ids, "last_hidden_state": hidden.contiguous()}, os.path.join(folder, "ref.safetensors"))


class Code:
    """What a pickle may do when Python loads it."""

    def __reduce__(self):
        return os.system, ("echo loaded",)


def torch_files():
    folder = os.path.join(HERE, "torch")
    os.makedirs(folder, exist_ok=True)
    numbers = torch.arange(24, dtype=torch.float32)
    tensors = {
        "plain": numbers.reshape(2, 3, 4).clone(),
        "half": numbers[:6].half(),
        "bf16": torch.randn(3, 2).bfloat16(),
        "double": torch.randn(2, 2).double(),
        "long": torch.tensor([3, -7]),
        "scalar": torch.tensor(2.5),
        "offset": numbers[5:11],
        "transposed": numbers.reshape(4, 6).t(),
        "strided": numbers.reshape(4, 6)[1:, ::2],
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
    }
    save = lambda value, name: torch.save(value, os.path.join(folder, name))
    save(tensors, "views.pth")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, os.path.join(folder, "views.safetensors"))
    save({"state": Code()}, "code.pth")
    save(torch.nn.Linear(2, 2), "module.pth")
    save({"weight": torch.zeros(2), "epoch": 3}, "training.pth")
    save({"index": torch.zeros(2, dtype=torch.int32)}, "int32.pth")


esmc()
torch_files()
