//! Times a step of supervised fine-tuning of a Qwen3 of random weights on a GPU (AdamW and clipping with it, every token
//! labelled), against `benches/torch_gpu.py`.
//!
//! `cargo run --release -p train --features models/cuda --example bench_gpu [small|0.6b] [exact|tf32]`

use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use models::llm::qwen3::Config;
use models::llm::{LoraConfig, Modules, Qwen3};
use models::{Tape, Weights, device, ops};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use train::optim::{AdamW, GroupConfig, ParamGroups};

const WARM_UP: usize = 3;
const REPEATS: usize = 10;

fn main() -> Result<()> {
    rayon::ThreadPoolBuilder::new().build_global()?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (size, precision) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [size, precision] => (size, precision),
        _ => bail!("which model (small or 0.6b), and products how (exact or tf32)?"),
    };
    device::allow_tf32(precision == "tf32");
    let gpu = device::cuda()?;
    let (config, batches): (_, &[(usize, usize)]) = match size {
        "small" => (sizes(8, 512, 8, 4, 64, 1536, 8192), &[(4, 512)]),
        _ => (sizes(28, 1024, 16, 8, 128, 3072, 151_936), &[(4, 512), (8, 1024)]),
    };
    let rng = |name: &str| {
        let hash = name.bytes().fold(7u64, |h, b| h.wrapping_mul(1_000_003) ^ u64::from(b));
        ChaCha8Rng::seed_from_u64(hash)
    };
    let base = Qwen3::new(config, Weights::random(rng).on(&gpu))?;
    for &(rows, tokens) in batches {
        for what in ["LoRA k, v", "LoRA all", "all weights"] {
            let target_modules: Modules = match what {
                "LoRA k, v" => ["k_proj", "v_proj"].into(),
                _ => Modules::Matching("all-linear".into()),
            };
            let lora = LoraConfig { target_modules, r: 16, lora_alpha: 32.0, ..LoraConfig::default() };
            let model = match what {
                "all weights" => {
                    base.params().set_trainable(true, |_| true);
                    base.clone()
                }
                _ => base.with_lora(&lora, Weights::random(rng))?,
            };
            let run = Bench { model, gpu: &gpu, rows, tokens };
            let Measured { ms, host, loss } = run.median()?;
            let peak = device::peak_memory(&gpu)? as f64 / (1u64 << 30) as f64;
            println!(
                "peptalk {size} {precision} {rows} × {tokens} {what}: {ms:.2} ms (host {host:.2}), {peak:.2} GiB, loss {loss:.4}"
            );
        }
    }
    Ok(())
}

fn sizes(
    layers: usize,
    hidden: usize,
    heads: usize,
    groups: usize,
    head_dim: usize,
    intermediate: usize,
    vocab: usize,
) -> Config {
    Config {
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: intermediate,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: groups,
        head_dim,
        max_position_embeddings: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: true,
        eos_token_ids: vec![1],
    }
}

struct Bench<'a> {
    model: Qwen3,
    gpu: &'a Device,
    rows: usize,
    tokens: usize,
}

struct Measured {
    /// median milliseconds of a step
    ms: f64,
    /// until all of forward and backward was submitted: near `ms`, the GPU waits for the host
    host: f64,
    /// of the last step
    loss: f32,
}

impl Bench<'_> {
    fn median(&self) -> Result<Measured> {
        let group = GroupConfig { pattern: "*".into(), lr_factor: 1.0, weight_decay: 0.01, clip_norm: 1.0 };
        let params = self.model.params();
        let mut optimiser = AdamW::new(ParamGroups::new(params, &[group])?, (0.9, 0.999), 1e-8)?;
        let (mut times, mut hosts, mut last) = (vec![], vec![], 0.0);
        for step in 0..WARM_UP + REPEATS {
            if step == WARM_UP {
                device::peak_memory(self.gpu)?; // from here on
            }
            let begun = Instant::now();
            let (loss, submitted) = self.step(&mut optimiser).with_context(|| format!("step {step}"))?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            hosts.push((submitted - begun).as_secs_f64() * 1e3);
            last = loss;
        }
        let median = |times: &mut Vec<f64>| {
            let times = &mut times[WARM_UP..];
            times.sort_by(f64::total_cmp);
            times[REPEATS / 2]
        };
        Ok(Measured { ms: median(&mut times), host: median(&mut hosts), loss: last })
    }

    fn step(&self, optimiser: &mut AdamW) -> Result<(f32, Instant)> {
        let (b, t) = (self.rows, self.tokens);
        let vocab = self.model.config().vocab_size as u32;
        let ids: Vec<u32> = (0..(b * t) as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect();
        let tape = Tape::on();
        let embedded =
            self.model.embed(&tape, &Tensor::new(ids.as_slice(), &Device::Cpu)?.reshape((b, t))?)?;
        let hidden = self.model.hidden(&tape, &embedded, &vec![t; b])?;
        let places: Vec<usize> = (0..b * t).filter(|at| (at + 1) % t > 0).collect();
        let targets: Vec<u32> = places.iter().map(|&at| ids[at + 1]).collect();
        let scores = self.model.token_logprobs(&tape, &hidden, &places, &targets, 1.0)?;
        let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
        let gradients = tape.backward(&loss)?;
        let submitted = Instant::now();
        let norms = optimiser.norms(&gradients)?;
        optimiser.step(&gradients, &norms, 1e-4)?;
        Ok((loss.value().to_scalar()?, submitted))
    }
}
