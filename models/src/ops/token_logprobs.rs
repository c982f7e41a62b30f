//! Log-probabilities of tokens: the language-model head and the softmax in one op, a few rows of logits at a time.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul};
use crate::ops::attention::largest;
use crate::ops::kernel::{LANES, Number, add_lanes, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Logits that exist at once: 2^22 numbers, but at least so many rows that packing the head's weight for each of them is a small part
/// (of a step at a vocabulary of 151,936: 11 % with 128 rows, 3 % with 512).
fn rows_at_once(vocab: usize) -> usize {
    ((1 << 22) / vocab.max(1)).clamp(512, 1024)
}

/// What [`token_logprobs`] gives.
pub struct TokenScores {
    /// `[N]`: log softmax(logits / temperature) at the target
    pub logprobs: Var,
    /// `[N]`: entropy of that distribution, nats; no gradient
    pub entropy: Tensor,
}

/// log softmax(hidden · weightᵀ / temperature) at each row's target. At no time are there logits for all rows.
///
/// # Shapes
/// hidden `[N, C]`, weight `[V, C]`, targets N ids → `[N]`
///
/// # Errors
/// On shapes that do not fit, or a target that the vocabulary does not have.
pub fn token_logprobs(
    tape: &Tape,
    hidden: &Var,
    weight: &Var,
    targets: &[u32],
    temperature: f64,
) -> Result<TokenScores> {
    let (rows, width) = hidden.value().dims2()?;
    let (vocab, weight_width) = weight.value().dims2()?;
    if width != weight_width || targets.len() != rows {
        bail!(
            "token_logprobs: hidden [{rows}, {width}], weight [{vocab}, {weight_width}], {} targets",
            targets.len()
        );
    }
    check_targets(targets, vocab)?;
    let x = hidden.value().contiguous()?;
    // A frozen head's part of the gradient is linear in the gradient of each row, so it is made here, where the
    // probabilities are at hand; a head that is trained needs them again in the backward pass.
    let unit = tape.is_on() && hidden.needs_grad() && !weight.needs_grad();
    let head = Head { hidden: &x, weight: weight.value(), targets, temperature };
    let (logprobs, entropy, log_sums, slopes) = scored(&head, unit)?;
    let (ph, pw, targets) = (hidden.clone(), weight.clone(), targets.to_vec());
    let logprobs = tape.record(logprobs, &[hidden, weight], move |grad, grads| match slopes {
        Some(slopes) => grads.add(&ph, slopes.broadcast_mul(&grad.unsqueeze(1)?)?),
        None => {
            let head = Head { hidden: &x, weight: pw.value(), targets: &targets, temperature };
            let (dx, dw) = slopes_of(&head, &log_sums, &grad.contiguous()?)?;
            grads.add(&ph, dx)?;
            grads.add(&pw, dw)
        }
    });
    Ok(TokenScores { logprobs, entropy })
}

/// The head of a language model and what it is asked.
pub(crate) struct Head<'a> {
    /// `[N, C]`
    pub(crate) hidden: &'a Tensor,
    /// `[V, C]`
    pub(crate) weight: &'a Tensor,
    /// N ids
    pub(crate) targets: &'a [u32],
    pub(crate) temperature: f64,
}

/// Log-probabilities, entropies, log-sums `[N]`; with `unit` d logprob / d hidden `[N, C]`.
fn scored(head: &Head<'_>, unit: bool) -> Result<(Tensor, Tensor, Tensor, Option<Tensor>)> {
    on_gpu!(head.hidden => crate::cuda::score(head, unit));
    let (rows, width) = head.hidden.dims2()?;
    dispatch!(head.hidden.dtype(), T => {
        let scored = score::<T>(head, unit)?;
        let slopes = if unit { Some(tensor(scored.slopes, (rows, width))?) } else { None };
        Ok((tensor(scored.logprobs, rows)?, tensor(scored.entropy, rows)?, tensor(scored.log_sums, rows)?, slopes))
    })
}

/// Gradients of the hidden states and of the weight.
fn slopes_of(head: &Head<'_>, log_sums: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    on_gpu!(grad => crate::cuda::score_slopes(head, log_sums, grad));
    dispatch!(grad.dtype(), T => gradients::<T>(head, log_sums, grad))
}

fn check_targets(targets: &[u32], vocab: usize) -> Result<()> {
    match targets.iter().find(|&&t| t as usize >= vocab) {
        Some(target) => bail!("target {target}, the vocabulary has {vocab} tokens"),
        None => Ok(()),
    }
}

/// log softmax(logits / temperature) at `target`, in the order of [`token_logprobs`]: what a sampler reports is what a
/// trainer computes, bit for bit.
pub fn logprob_of(logits: &[f32], target: usize, temperature: f64) -> f32 {
    let cold = (1.0 / temperature) as f32;
    let (log_sum, _) = summary(logits, cold);
    logits[target] * cold - log_sum
}

/// softmax(logits / temperature).
pub fn probabilities(logits: &[f32], temperature: f64) -> Vec<f32> {
    let cold = (1.0 / temperature) as f32;
    let mut out = logits.to_vec();
    soften(&mut out, summary(logits, cold).0, cold);
    out
}

vectorised! {
    fn soften [T: Number] [T] (logits: &mut [T], log_sum: T, cold: T) {
        for z in logits.iter_mut() {
            *z = (*z * cold - log_sum).fast_exp();
        }
    }
}

struct Scored<T> {
    logprobs: Vec<T>,
    entropy: Vec<T>,
    log_sums: Vec<T>,
    /// with `unit`: d logprob / d hidden, `[N, C]`
    slopes: Vec<T>,
}

fn score<T: Number>(head: &Head<'_>, unit: bool) -> Result<Scored<T>> {
    let Head { hidden, weight, targets, temperature } = *head;
    let (vocab, width) = weight.dims2()?;
    let (x, weight) = (view::<T>(hidden)?, view::<T>(weight)?);
    let (rows, cold) = (targets.len(), T::of(1.0 / temperature));
    let empty = || vec![T::zero(); rows];
    let slopes = vec![T::zero(); if unit { rows * width } else { 0 }];
    let mut out = Scored { logprobs: empty(), entropy: empty(), log_sums: empty(), slopes };
    let block = rows_at_once(vocab);
    let mut logits = vec![T::zero(); block.min(rows) * vocab];
    for from in (0..rows).step_by(block) {
        let n = block.min(rows - from);
        let logits = &mut logits[..n * vocab];
        let hidden = Matrix::new(&x[from * width..(from + n) * width], n, width);
        let head = Matrix::new(&weight, vocab, width);
        matmul(logits, hidden, head.t(), false, Threads::All);
        let targets = &targets[from..from + n];
        let found: Vec<(T, T)> = logits.par_chunks(vocab).map(|row| summary(row, cold)).collect();
        for (r, (log_sum, entropy)) in found.into_iter().enumerate() {
            let at = from + r;
            out.logprobs[at] = logits[r * vocab + targets[r] as usize] * cold - log_sum;
            (out.log_sums[at], out.entropy[at]) = (log_sum, entropy);
        }
        if unit {
            let log_sums = &out.log_sums[from..from + n];
            logits.par_chunks_mut(vocab).enumerate().for_each(|(r, row)| {
                logit_slopes(row, log_sums[r], cold, T::one(), targets[r] as usize);
            });
            let slopes = &mut out.slopes[from * width..(from + n) * width];
            matmul(slopes, Matrix::new(logits, n, vocab), head, false, Threads::All);
        }
    }
    Ok(out)
}

fn gradients<T: Number>(head: &Head<'_>, log_sums: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let Head { hidden, weight, targets, temperature } = *head;
    let (vocab, width) = weight.dims2()?;
    let shape = hidden.dims2()?;
    let (x, weight) = (view::<T>(hidden)?, view::<T>(weight)?);
    let (log_sums, grad) = (view::<T>(log_sums)?, view::<T>(grad)?);
    let (rows, cold) = (targets.len(), T::of(1.0 / temperature));
    let (mut dx, mut dw) = (vec![T::zero(); rows * width], vec![T::zero(); vocab * width]);
    let block = rows_at_once(vocab);
    let mut logits = vec![T::zero(); block.min(rows) * vocab];
    for from in (0..rows).step_by(block) {
        let n = block.min(rows - from);
        let logits = &mut logits[..n * vocab];
        let hidden = Matrix::new(&x[from * width..(from + n) * width], n, width);
        let head = Matrix::new(&weight, vocab, width);
        matmul(logits, hidden, head.t(), false, Threads::All);
        logits.par_chunks_mut(vocab).enumerate().for_each(|(r, row)| {
            logit_slopes(row, log_sums[from + r], cold, grad[from + r], targets[from + r] as usize);
        });
        let slopes = Matrix::new(logits, n, vocab);
        matmul(&mut dx[from * width..(from + n) * width], slopes, head, false, Threads::All);
        matmul(&mut dw, slopes.t(), hidden, true, Threads::All);
    }
    Ok((tensor(dx, shape)?, tensor(dw, (vocab, width))?))
}

vectorised! {
    /// ln Σ e^(cold · z) and the entropy of that distribution.
    fn summary [T: Number] [T] (logits: &[T], cold: T) -> (T, T) {
        let max = largest(logits) * cold;
        let (mut sums, mut moments) = ([T::zero(); LANES], [T::zero(); LANES]);
        let chunks = logits.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for l in 0..LANES {
                let z = chunk[l] * cold - max;
                let p = z.fast_exp();
                sums[l] += p;
                moments[l] = p.fused(z, moments[l]);
            }
        }
        for (l, &z) in rest.iter().enumerate() {
            let z = z * cold - max;
            let p = z.fast_exp();
            sums[l] += p;
            moments[l] = p.fused(z, moments[l]);
        }
        let (sum, moment) = (add_lanes(sums), add_lanes(moments));
        (max + T::ln(sum), T::ln(sum) - moment / sum)
    }
}

vectorised! {
    /// Logits into grad · d log softmax(z · cold)[target] / dz = grad · cold · (1[target] − p).
    fn logit_slopes [T: Number] [T] (logits: &mut [T], log_sum: T, cold: T, grad: T, target: usize) {
        let factor = -(grad * cold);
        for z in logits.iter_mut() {
            *z = (*z * cold - log_sum).fast_exp() * factor;
        }
        logits[target] -= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;

    #[test]
    fn gradients_match_finite_differences() {
        let (x, w) = (numbers(&[19, 5], 0.1), numbers(&[37, 5], 1.3));
        let targets: Vec<u32> = (0..19).map(|i| i * 11 % 37).collect();
        let both = |t: &Tape, v: &[Var]| Ok(token_logprobs(t, &v[0], &v[1], &targets, 0.7)?.logprobs);
        gradcheck(&[x.clone(), w.clone()], both);
        let frozen = Var::constant(w);
        gradcheck(&[x], |t, v| Ok(token_logprobs(t, &v[0], &frozen, &targets, 0.7)?.logprobs));
    }

    #[test]
    fn log_probabilities_are_normalised_and_the_entropy_is_theirs() -> Result<()> {
        let (x, w) = (numbers(&[1, 5], 0.1), Var::constant(numbers(&[37, 5], 1.3)));
        let all = Tensor::cat(&vec![x; 37], 0)?;
        let targets: Vec<u32> = (0..37).collect();
        let scores = token_logprobs(&Tape::off(), &Var::constant(all), &w, &targets, 0.6)?;
        let logp = scores.logprobs.value().to_vec1::<f64>()?;
        let total: f64 = logp.iter().map(|l| l.exp()).sum();
        let entropy: f64 = logp.iter().map(|l| -l * l.exp()).sum();
        assert!((total - 1.0).abs() < 1e-12);
        assert!((entropy - scores.entropy.to_vec1::<f64>()?[5]).abs() < 1e-12);
        let bad = token_logprobs(&Tape::off(), &Var::constant(numbers(&[1, 5], 0.1)), &w, &[37], 1.0);
        assert!(bad.err().is_some_and(|e| e.to_string().contains("target 37")));
        Ok(())
    }
}
