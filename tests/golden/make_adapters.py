"""Adapters by PEFT on the tiny Qwen3 of ../shared/fixtures, and their logits: python tests/golden/make_adapters.py FIXTURES

Needs torch, transformers 5 and peft 0.21. Writes adapters/ beside this file.
"""

import os
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM

FIXTURES = sys.argv[1]
OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "adapters")
IDS = torch.tensor([[37, 5, 493, 84, 495, 3, 301, 22]])


def base():
    return Qwen3ForCausalLM.from_pretrained(os.path.join(FIXTURES, "qwen3_tiny_tied")).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits[0, -3:]


def patterns():
    """Modules by regular expressions, DoRA, rsLoRA and dropout (which is off in evaluation) together."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path="qwen3_tiny_tied",
        r=3,
        lora_alpha=5,
        lora_dropout=0.1,
        target_modules=r".*\.layers\.1\..*(q|down)_proj|.*\.(k|gate)_proj",
        exclude_modules=r".*\.layers\.0\.self_attn\..*",
        rank_pattern={r"self_attn\.(q|k)_proj": 2},
        alpha_pattern={"gate_proj": 7},
        use_rslora=True,
        use_dora=True,
    )
    model = get_peft_model(base(), config)
    generator = torch.Generator().manual_seed(23)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.eval()
    model.peft_config["default"].base_model_name_or_path = "qwen3_tiny_tied"
    model.save_pretrained(os.path.join(OUT, "patterns"))
    os.remove(os.path.join(OUT, "patterns", "README.md"))
    return logits(model)


def tokens():
    """The fixture's adapter with rows of the embedding, on the base model as it is."""
    return logits(PeftModel.from_pretrained(base(), os.path.join(FIXTURES, "adapters/lora_kv_r4_tokens")).eval())


save_file({"ids": IDS, "patterns": patterns().contiguous(), "tokens": tokens().contiguous()}, os.path.join(OUT, "ref.safetensors"))
