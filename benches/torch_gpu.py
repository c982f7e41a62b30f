"""A step of supervised fine-tuning of a Qwen3 of random weights on a GPU in PyTorch: the other side of bench_gpu.rs.

python benches/torch_gpu.py [small|0.6b] [exact|tf32|bf16]

bf16: autocast over f32 weights, as the trainers of transformers and TRL do it. Adapters by PEFT.
"""

import sys
import time
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

warnings.filterwarnings("ignore")
WARM_UP, REPEATS = 3, 10
size, precision = sys.argv[1:]
torch.set_float32_matmul_precision("highest" if precision == "exact" else "high")
torch.manual_seed(0)

layers, hidden, heads, groups, dim, intermediate, vocab = (
    (8, 512, 8, 4, 64, 1536, 8192) if size == "small" else (28, 1024, 16, 8, 128, 3072, 151936)
)
batches = [(4, 512)] if size == "small" else [(4, 512), (8, 1024)]


def model(what):
    config = Qwen3Config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, head_dim=dim, max_position_embeddings=2048,
        tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    with torch.device("cuda"):
        base = Qwen3ForCausalLM(config).float()
    if what == "all weights":
        return base
    targets = ["k_proj", "v_proj"] if what == "LoRA k, v" else "all-linear"
    return get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))


for rows, tokens in batches:
    for what in ["LoRA k, v", "LoRA all", "all weights"]:
        m = model(what).train()
        trained = [p for p in m.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, 1e-4, weight_decay=0.01, fused=True)
        ids = torch.randint(2, vocab, (rows, tokens), device="cuda")
        times = []
        for step in range(WARM_UP + REPEATS):
            if step == WARM_UP:
                torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            begun = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
                loss = m(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - begun))
        times = sorted(times[WARM_UP:])
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"torch {size} {precision} {rows} × {tokens} {what}: {times[REPEATS // 2]:.2f} ms, {peak:.2f} GiB, "
            f"loss {loss.item():.4f}",
            flush=True,
        )
        del m, trained, optimiser, loss
        torch.cuda.empty_cache()
