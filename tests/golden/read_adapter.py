"""Logits of an adapter as PEFT reads it: python tests/golden/read_adapter.py BASE ADAPTER

Writes ADAPTER/logits.safetensors; a key that is missing or unexpected is an error.
"""

import os
import sys
import warnings

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM

warnings.filterwarnings("error", message=".*missing adapter keys.*")
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(Qwen3ForCausalLM.from_pretrained(base), adapter).eval()
ids = torch.tensor([[37, 5, 493, 84, 495, 3, 301, 22]])
with torch.no_grad():
    logits = model(input_ids=ids, use_cache=False).logits
save_file({"ids": ids, "logits": logits.contiguous()}, os.path.join(adapter, "logits.safetensors"))
