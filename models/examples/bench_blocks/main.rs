//! Times one training step (forward and backward) of a small Qwen3 on the tape, with candle's autograd, and — by
//! `benches/torch_blocks.py` — in PyTorch: 4 layers, width 512, 8 query and 4 key heads, 4 rows of 128 tokens.
//!
//! `MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS=1 CANDLE_NUM_THREADS=1 cargo run --release -p models --example bench_blocks`
//!
//! Prints CPU milliseconds, the least of the rounds: other work on the machine does not count.

mod reference;

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, Var};
use models::llm::qwen3::Config;
use models::llm::{LoraConfig, Prompts, Qwen3, Sampling, generate};
use models::{Tape, Weights, ops};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 7;
const BATCH: usize = 4;
const TOKENS: usize = 128;
const VOCAB: u32 = 512;

fn main() -> Result<()> {
    // As the program does: this thread is one of the pool's.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().map_err(candle_core::Error::wrap)?;
    let config = Config {
        vocab_size: VOCAB as usize,
        hidden_size: 512,
        intermediate_size: 1536,
        num_hidden_layers: 4,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 64,
        max_position_embeddings: 1024,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: true,
        eos_token_ids: vec![0],
    };
    let rng = |name: &str| ChaCha8Rng::seed_from_u64(name.len() as u64);
    let model = Qwen3::new(config.clone(), Weights::random(rng))?;
    let ids: Vec<u32> =
        (0..(BATCH * (TOKENS + 1)) as u32).map(|i| i.wrapping_mul(2_654_435_761) % VOCAB).collect();
    let rows = Tensor::from_vec(ids, (BATCH, TOKENS + 1), &Device::Cpu)?;
    let (input, targets) =
        (rows.narrow(1, 0, TOKENS)?.contiguous()?, rows.narrow(1, 1, TOKENS)?.contiguous()?);

    report("tape, all weights", || tape_step(&model, &input, &targets))?;
    let lora = LoraConfig {
        target_modules: ["k_proj", "v_proj"].into(),
        r: 16,
        lora_alpha: 32.0,
        ..LoraConfig::default()
    };
    let vars: BTreeMap<String, Var> = model
        .params()
        .snapshot()?
        .into_iter()
        .map(|(name, t)| Ok((name, Var::from_tensor(&t)?)))
        .collect::<Result<_>>()?;
    let adapted = model.with_lora(&lora, Weights::random(rng))?;
    report("tape, frozen base with LoRA on k and v (rank 16)", || tape_step(&adapted, &input, &targets))?;
    let weights: BTreeMap<String, Tensor> =
        vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
    report("candle autograd, all weights", || {
        let grads = reference::loss(&weights, &config, &input, &targets)?.backward()?;
        Ok(usize::from(grads.get(&weights["model.norm.weight"]).is_some()))
    })?;
    let prompts = Prompts {
        embeds: model.embed(&Tape::off(), &input)?.value().clone(),
        lengths: vec![TOKENS; BATCH],
        media: None,
    };
    let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
    report("sampling 16 × 64 tokens after 4 prompts of 128", || {
        let out =
            generate(&adapted, &prompts, 4, 64, sampling, &[], |i| ChaCha8Rng::seed_from_u64(i as u64))?;
        Ok(out.len())
    })
}

/// Forward and backward; gives the number of weights with a gradient.
fn tape_step(model: &Qwen3, input: &Tensor, targets: &Tensor) -> Result<usize> {
    let tape = Tape::on();
    let hidden = model.hidden(&tape, &model.embed(&tape, input)?, &[TOKENS; BATCH])?;
    let places: Vec<usize> = (0..BATCH * TOKENS).collect();
    let targets = targets.flatten_all()?.to_vec1::<u32>()?;
    let scores = model.token_logprobs(&tape, &hidden, &places, &targets, 1.0)?;
    let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
    Ok(tape.backward(&loss)?.params.len())
}

fn report(what: &str, mut step: impl FnMut() -> Result<usize>) -> Result<()> {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let before = cpu_ms()?;
        assert!(step()? > 0);
        least = least.min(cpu_ms()? - before);
    }
    println!("{what}: {least:.1} ms");
    Ok(())
}

/// CPU time of all threads of this process, from the scheduler's own count (Linux).
fn cpu_ms() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs_err::read_dir("/proc/self/task")? {
        let line = fs_err::read_to_string(task?.path().join("schedstat"))?;
        let first = line.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
        nanoseconds += first.ok_or_else(|| candle_core::Error::Msg(format!("schedstat: {line}")))?;
    }
    Ok(nanoseconds / 1e6)
}
