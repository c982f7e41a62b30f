"""The other side of compare_llm.py: the cases of bench_llm.rs in transformers, PEFT and TRL.

python benches/torch_llm.py PEER CASE VOCAB THREADS [FOLDER]

PEER: torch, torch-fused (the fused AdamW) or trl. Runs the case once, says `ready`, and again for every line of stdin, to
which it answers with CPU and wall seconds. At the end of stdin it says what the most memory was, in MiB.
"""

import os
import resource
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
PEER, CASE, VOCAB, THREADS = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

import torch  # noqa: E402

torch.set_num_threads(THREADS)
torch.manual_seed(0)

import transformers  # noqa: E402

BATCH, TOKENS, PROMPT, NEW_TOKENS = 4, 512, 64, 128
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OUT = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what the libraries print goes to stderr


def fresh():
    config = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=0, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return transformers.Qwen3ForCausalLM(config).float()


def adapted(model, modules):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=modules, task_type="CAUSAL_LM"))


def ids(rows, tokens):
    return torch.randint(2, VOCAB, (rows, tokens))


def training(model):
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, 1e-4, fused=True if PEER == "torch-fused" else None)
    rows = ids(BATCH, TOKENS)

    def step():
        model(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def generation(model, n, **how):
    rows = ids(n, PROMPT)
    mask = torch.ones_like(rows)
    model.eval()

    @torch.no_grad()
    def step():
        out = model.generate(input_ids=rows, attention_mask=mask, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, **how)
        assert out.shape == (n, PROMPT + NEW_TOKENS)

    return step


def forward(model):
    rows = ids(BATCH, TOKENS)
    model.eval()

    @torch.no_grad()
    def step():
        assert model(input_ids=rows, use_cache=False).logits.shape == (BATCH, TOKENS, VOCAB)

    return step


def clock():
    return time.process_time(), time.perf_counter()


def answer(before):
    OUT.write(" ".join(str(now - then) for now, then in zip(clock(), before)) + "\n")


def trl(model):
    """Serves the steps from inside SFTTrainer; what it does between two of them (loading data) is not counted."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from trl import SFTConfig, SFTTrainer

    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")

    class Clock(transformers.TrainerCallback):
        before = None

        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 0:
                return
            if state.global_step == 1:
                OUT.write("ready\n")
            control.should_training_stop = not sys.stdin.readline()
            self.before = clock()

        def on_step_end(self, args, state, control, **_):
            if self.before and not control.should_training_stop:
                answer(self.before)

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, per_device_train_batch_size=BATCH, max_steps=200, max_length=TOKENS, learning_rate=1e-4,
            report_to=[], save_strategy="no", logging_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True,
            gradient_checkpointing=False, dataloader_pin_memory=False,
        )  # fmt: skip
        data = Dataset.from_dict({"input_ids": ids(16 * BATCH, TOKENS).tolist()})
        SFTTrainer(model, config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]).train()


def serve():
    match CASE:
        case "forward":
            step = forward(fresh())
        case "lora_kv":
            step = training(adapted(fresh(), ALL[1:3]))
        case "lora_all":
            step = training(adapted(fresh(), ALL))
        case "full":
            step = training(fresh())
        case "generate":
            step = generation(fresh(), 64, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        case "generate_one":
            step = generation(fresh(), 1, do_sample=False)
        case "startup":
            model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[5], dtype=torch.float32)
            step = training(adapted(model, ALL[1:3]))
        case "save":
            fresh().save_pretrained(sys.argv[5])
            return
    if CASE != "startup":
        step()
    OUT.write("ready\n")
    for _ in sys.stdin:
        before = clock()
        step()
        answer(before)


if PEER == "trl":
    trl(adapted(fresh(), ALL[1:3]) if CASE == "lora_kv" else fresh())
else:
    serve()
OUT.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")
