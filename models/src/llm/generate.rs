//! Sampling with a key/value cache, and scores of given completions.
//!
//! Every completion draws from a generator of its own and the model's bits do not depend on the batch, so neither the
//! batch nor the number of threads changes a sample.

use candle_core::{Device, IndexOp, Result, Tensor, bail};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::llm::bridge::Media;
use crate::llm::qwen3::{Cache, Qwen3};
use crate::ops;
use crate::tape::{Tape, Var};
use crate::view::view;

/// Right-padded prompts, embedded.
pub struct Prompts {
    /// `[P, T, C]`
    pub embeds: Tensor,
    /// real positions of each prompt, at least 1
    pub lengths: Vec<usize>,
    /// the proteins that layers of the model read, if it has such layers
    pub media: Option<Media>,
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// the most probable token (the lowest id among equals)
    Greedy,
    /// by chance
    Random {
        /// logits are divided by it
        temperature: f64,
        /// only the k most probable tokens
        top_k: Option<usize>,
        /// only the most probable tokens that together reach this probability
        top_p: Option<f64>,
    },
}

impl Sampling {
    fn temperature(self) -> f64 {
        match self {
            Self::Greedy => 1.0,
            Self::Random { temperature, .. } => temperature,
        }
    }

    fn check(self) -> Result<()> {
        let Self::Random { temperature, top_k, top_p } = self else { return Ok(()) };
        if temperature.is_nan()
            || temperature <= 0.0
            || top_k == Some(0)
            || top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0))
        {
            bail!("sampling {self:?}: needs temperature > 0, top_k ≥ 1 and 0 < top_p ≤ 1");
        }
        Ok(())
    }
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// token ids, with the stop token if one came
    pub tokens: Vec<u32>,
    /// log softmax(logits / temperature) of each token over the whole vocabulary, whatever top-k and top-p are
    pub logprobs: Vec<f32>,
    /// whether a stop token came before the limit
    pub stopped: bool,
}

/// Samples `samples` completions for each prompt, prompt by prompt (completion i belongs to prompt i / samples). Each
/// prompt is read once. `rng(i)` is completion i's generator.
///
/// # Errors
/// On an empty prompt or impossible sampling options.
pub fn generate(
    model: &Qwen3,
    prompts: &Prompts,
    samples: usize,
    max_new_tokens: usize,
    sampling: Sampling,
    stop: &[u32],
    rng: impl Fn(usize) -> ChaCha8Rng,
) -> Result<Vec<Completion>> {
    sampling.check()?;
    let of_prompt: Vec<usize> = (0..prompts.lengths.len() * samples).map(|i| i / samples).collect();
    let (mut cache, last) = prefill(model, prompts, &of_prompt, max_new_tokens)?;
    let mut logits = head(model, &last)?;
    let blank = Completion { tokens: vec![], logprobs: vec![], stopped: false };
    let mut out = vec![blank; of_prompt.len()];
    let mut rngs: Vec<ChaCha8Rng> = (0..out.len()).map(rng).collect();
    let mut active: Vec<usize> = (0..out.len()).collect();
    for step in 0..max_new_tokens {
        let chosen = draw(&logits, &active, &mut rngs, sampling)?;
        for (&row, (token, logprob)) in active.iter().zip(chosen) {
            out[row].tokens.push(token);
            out[row].logprobs.push(logprob);
            out[row].stopped = stop.contains(&token);
        }
        active.retain(|&row| !out[row].stopped);
        if active.is_empty() || step + 1 == max_new_tokens {
            break;
        }
        let tokens: Vec<u32> = active.iter().filter_map(|&row| out[row].tokens.last().copied()).collect();
        let tokens = Tensor::from_vec(tokens, (active.len(), 1), &Device::Cpu)?;
        let embeds = model.embed(&Tape::off(), &tokens)?;
        let hidden = model.extend(embeds.value(), &active, &vec![1; active.len()], &mut cache)?;
        logits = head(model, &hidden.squeeze(1)?)?;
    }
    Ok(out)
}

/// log-probability of each completion, given as (prompt, tokens): the sum over its tokens, at temperature 1. Prompts are
/// read once.
///
/// # Errors
/// On an empty prompt or an unknown prompt number.
pub fn score_completions(
    model: &Qwen3,
    prompts: &Prompts,
    completions: &[(usize, Vec<u32>)],
) -> Result<Vec<f64>> {
    let of_prompt: Vec<usize> = completions.iter().map(|(prompt, _)| *prompt).collect();
    if let Some(prompt) = of_prompt.iter().find(|&&p| p >= prompts.lengths.len()) {
        bail!("completion of prompt {prompt}, there are {}", prompts.lengths.len());
    }
    let longest = completions.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    let (mut cache, last) = prefill(model, prompts, &of_prompt, longest)?;
    // The hidden states from which the tokens are predicted: the prompt's last, then those of all tokens but the last.
    let width = longest.saturating_sub(1);
    let mut hidden = vec![last.unsqueeze(1)?];
    if width > 0 {
        let mut fed = vec![0u32; completions.len() * width];
        for (row, (_, tokens)) in fed.chunks_exact_mut(width).zip(completions) {
            row.iter_mut().zip(tokens.iter().take(tokens.len().saturating_sub(1))).for_each(|(f, &t)| *f = t);
        }
        let fed =
            model.embed(&Tape::off(), &Tensor::from_vec(fed, (completions.len(), width), &Device::Cpu)?)?;
        let lengths: Vec<usize> =
            completions.iter().map(|(_, tokens)| tokens.len().saturating_sub(1)).collect();
        let rows: Vec<usize> = (0..completions.len()).collect();
        hidden.push(model.extend(fed.value(), &rows, &lengths, &mut cache)?);
    }
    let hidden = Var::constant(Tensor::cat(&hidden, 1)?.contiguous()?); // [N, longest, C]
    let places = |(row, (_, tokens)): (usize, &(usize, Vec<u32>))| {
        (0..tokens.len()).map(|t| row * (width + 1) + t).collect::<Vec<_>>()
    };
    let rows: Vec<usize> = completions.iter().enumerate().flat_map(places).collect();
    let targets: Vec<u32> = completions.iter().flat_map(|(_, tokens)| tokens.iter().copied()).collect();
    let scores = model.token_logprobs(&Tape::off(), &hidden, &rows, &targets, 1.0)?;
    let scores = scores.logprobs.value().to_vec1::<f32>()?;
    let mut scores = scores.into_iter();
    Ok(completions
        .iter()
        .map(|(_, tokens)| scores.by_ref().take(tokens.len()).map(f64::from).sum())
        .collect())
}

/// Reads the prompts and gives one cached sequence for each number in `of_prompt`, with room for `room` tokens more, and
/// the hidden state `[N, C]` at the end of its prompt.
fn prefill(model: &Qwen3, prompts: &Prompts, of_prompt: &[usize], room: usize) -> Result<(Cache, Tensor)> {
    let (n, width, _) = prompts.embeds.dims3()?;
    if prompts.lengths.len() != n || prompts.lengths.iter().any(|&len| len == 0 || len > width) {
        bail!("{n} prompts of width {width} with lengths {:?}", prompts.lengths);
    }
    let rows: Vec<usize> = (0..n).collect();
    let mut cache = model.cache(n, width + room, prompts.media.clone())?;
    let hidden = model.extend(&prompts.embeds, &rows, &prompts.lengths, &mut cache)?;
    let last =
        of_prompt.iter().map(|&p| hidden.i((p, prompts.lengths[p] - 1))).collect::<Result<Vec<_>>>()?;
    let cache = if of_prompt == rows { cache } else { cache.select(of_prompt)? };
    Ok((cache, Tensor::stack(&last, 0)?))
}

fn head(model: &Qwen3, hidden: &Tensor) -> Result<Tensor> {
    Ok(model.logits(&Tape::off(), &Var::constant(hidden.contiguous()?))?.value().clone())
}

/// The next token of each active sequence and its log-probability; `logits` has one row for each of them.
fn draw(
    logits: &Tensor,
    active: &[usize],
    rngs: &mut [ChaCha8Rng],
    sampling: Sampling,
) -> Result<Vec<(u32, f32)>> {
    let vocab = logits.dim(1)?;
    let logits = logits.to_device(&Device::Cpu)?;
    let logits = view::<f32>(&logits)?;
    let mut working: Vec<&mut ChaCha8Rng> = rngs
        .iter_mut()
        .enumerate()
        .filter(|(row, _)| active.binary_search(row).is_ok())
        .map(|(_, rng)| rng)
        .collect();
    let rows = working.par_iter_mut().zip(logits.par_chunks(vocab));
    let chosen = rows.map(|(rng, logits)| {
        let token = choose(logits, sampling, rng);
        (token, ops::logprob_of(logits, token as usize, sampling.temperature()))
    });
    Ok(chosen.collect())
}

fn choose(logits: &[f32], sampling: Sampling, rng: &mut ChaCha8Rng) -> u32 {
    if sampling == Sampling::Greedy {
        let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
        return (0..logits.len()).fold(0, better) as u32;
    }
    // 53 random bits make a uniform number in [0, 1).
    let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let probabilities = distribution(logits, sampling);
    let mut left = uniform * probabilities.iter().map(|&p| f64::from(p)).sum::<f64>();
    let mut last = 0;
    for (token, &p) in probabilities.iter().enumerate().filter(|(_, p)| **p > 0.0) {
        last = token;
        left -= f64::from(p);
        if left < 0.0 {
            break;
        }
    }
    last as u32
}

/// The probabilities from which the next token is drawn: softmax at the temperature, then top-k, then top-p, as
/// transformers orders them (rounding may leave their sum a little off 1).
pub fn distribution(logits: &[f32], sampling: Sampling) -> Vec<f32> {
    let mut p = ops::probabilities(logits, sampling.temperature());
    let Sampling::Random { top_k, top_p, .. } = sampling else { return p };
    if top_k.is_none() && top_p.is_none() {
        return p;
    }
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
    let mut kept = top_k.unwrap_or(p.len()).min(p.len());
    let mass = |n: usize| order[..n].iter().map(|&i| f64::from(p[i])).sum::<f64>();
    if let Some(top_p) = top_p {
        let enough = mass(kept) * top_p;
        let mut sum = 0.0;
        let reached = order[..kept].iter().position(|&i| {
            sum += f64::from(p[i]);
            sum >= enough
        });
        kept = reached.map_or(kept, |at| at + 1);
    }
    let total = mass(kept);
    order[kept..].iter().for_each(|&i| p[i] = 0.0);
    order[..kept].iter().for_each(|&i| p[i] = (f64::from(p[i]) / total) as f32);
    p
}
