//! One side of `benches/compare_llm.py`: training steps, a forward pass, generation and start-up of a Qwen3 of 8 layers and
//! width 512 on 4 rows of 512 tokens, in the code that the program runs.
//!
//! `MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS=1 cargo run --release -p train --example bench_llm -- CASE [VOCAB]`
//!
//! CASE: forward, lora_kv, lora_all, full, generate, generate_one, or `startup:FOLDER` of a model. Runs the case once, says
//! `ready`, and again for every line of stdin, to which it answers with CPU and wall seconds. At the end of stdin it
//! says what the most memory was, in MiB.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use models::llm::qwen3::Config;
use models::llm::{LoraConfig, Modules, Prompts, Qwen3, Sampling, generate};
use models::{Tape, Weights, ops};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use train::optim::{AdamW, GroupConfig, ParamGroups};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 4;
const TOKENS: usize = 512;
const PROMPT: usize = 64;
const NEW_TOKENS: usize = 128;
const KV: [&str; 2] = ["k_proj", "v_proj"];
const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

type Step = Box<dyn FnMut() -> Result<()>>;

fn main() -> Result<()> {
    // As the program does: this thread is one of the pool's.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?;
    let mut arguments = std::env::args().skip(1);
    let case = arguments.next().context("usage: bench_llm CASE [VOCAB]")?;
    let vocab = arguments.next().map_or(Ok(8192), |n| n.parse::<usize>())?;
    let fresh = || Qwen3::new(config(vocab), Weights::random(rng));
    let mut step: Step = match case.as_str() {
        "forward" => forward(fresh()?)?,
        "lora_kv" => training(adapted(&fresh()?, KV.into())?)?,
        "lora_all" => training(adapted(&fresh()?, ALL.into())?)?,
        "full" => training(fresh()?)?,
        "generate" => {
            generation(fresh()?, 64, Sampling::Random { temperature: 1.0, top_k: None, top_p: None })?
        }
        "generate_one" => generation(fresh()?, 1, Sampling::Greedy)?,
        other => match other.strip_prefix("startup:") {
            Some(folder) => training(adapted(&Qwen3::load(Path::new(folder))?, KV.into())?)?,
            None => bail!("no case {other:?}"),
        },
    };
    if !case.starts_with("startup:") {
        step()?;
    }
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let (cpu, wall) = (cpu_seconds()?, Instant::now());
        step()?;
        say(&format!("{} {}", cpu_seconds()? - cpu, wall.elapsed().as_secs_f64()))?;
    }
    say(&peak_mib()?.to_string())
}

fn config(vocab_size: usize) -> Config {
    Config {
        vocab_size,
        hidden_size: 512,
        intermediate_size: 1536,
        num_hidden_layers: 8,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 64,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: true,
        eos_token_ids: vec![1],
    }
}

fn rng(name: &str) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(name.len() as u64)
}

/// Ids without a pattern, `[rows, tokens]`; never the first two.
fn ids(rows: usize, tokens: usize, vocab: usize) -> Result<Tensor> {
    let id = |at: u32| 2 + at.wrapping_mul(2_654_435_761) % (vocab as u32 - 2);
    Ok(Tensor::from_vec((0..(rows * tokens) as u32).map(id).collect(), (rows, tokens), &Device::Cpu)?)
}

fn adapted(base: &Qwen3, modules: Modules) -> Result<Qwen3> {
    let lora = LoraConfig { target_modules: modules, r: 16, lora_alpha: 32.0, ..LoraConfig::default() };
    Ok(base.with_lora(&lora, Weights::random(rng))?)
}

/// The logits of every token.
fn forward(model: Qwen3) -> Result<Step> {
    let ids = ids(BATCH, TOKENS, model.config().vocab_size)?;
    Ok(Box::new(move || {
        let tape = Tape::off();
        let hidden = model.hidden(&tape, &model.embed(&tape, &ids)?, &[TOKENS; BATCH])?;
        ensure!(model.logits(&tape, &hidden)?.value().dims().len() == 3);
        Ok(())
    }))
}

/// A step of the optimiser, every token but the first of a row being a label.
fn training(model: Qwen3) -> Result<Step> {
    let ids = ids(BATCH, TOKENS, model.config().vocab_size)?;
    let labels = ids.narrow(1, 1, TOKENS - 1)?.flatten_all()?.to_vec1::<u32>()?;
    let places: Vec<usize> = (0..BATCH * TOKENS).filter(|at| at % TOKENS < TOKENS - 1).collect();
    let group = GroupConfig { pattern: "*".into(), lr_factor: 1.0, weight_decay: 0.01, clip_norm: 1.0 };
    let mut optimiser = AdamW::new(ParamGroups::new(model.params(), &[group])?, (0.9, 0.999), 1e-8)?;
    Ok(Box::new(move || {
        let tape = Tape::on();
        let hidden = model.hidden(&tape, &model.embed(&tape, &ids)?, &[TOKENS; BATCH])?;
        let scores = model.token_logprobs(&tape, &hidden, &places, &labels, 1.0)?;
        let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
        let gradients = tape.backward(&loss)?;
        let norms = optimiser.norms(&gradients)?;
        optimiser.step(&gradients, &norms, 1e-4)
    }))
}

fn generation(model: Qwen3, rows: usize, sampling: Sampling) -> Result<Step> {
    let ids = ids(rows, PROMPT, model.config().vocab_size)?;
    let embeds = model.embed(&Tape::off(), &ids)?.value().clone();
    let prompts = Prompts { embeds, lengths: vec![PROMPT; rows], media: None };
    Ok(Box::new(move || {
        let rng = |row| ChaCha8Rng::seed_from_u64(row as u64);
        let said = generate(&model, &prompts, 1, NEW_TOKENS, sampling, &[], rng)?;
        ensure!(said.iter().all(|said| said.tokens.len() == NEW_TOKENS));
        Ok(())
    }))
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// CPU time of all threads of this process, from the scheduler's own count (Linux).
fn cpu_seconds() -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs_err::read_dir("/proc/self/task")? {
        let line = fs_err::read_to_string(task?.path().join("schedstat"))?;
        nanoseconds += first_number(&line)?;
    }
    Ok(nanoseconds / 1e9)
}

/// Most memory that this process has held.
fn peak_mib() -> Result<f64> {
    let status = fs_err::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(first_number(line)? / 1024.0)
}

fn first_number(line: &str) -> Result<f64> {
    Ok(line.split_whitespace().next().context("an empty line")?.parse()?)
}
