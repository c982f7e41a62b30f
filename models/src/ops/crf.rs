//! Linear-chain conditional random field: loss, marginals, best paths (Lafferty, McCallum & Pereira 2001).
//!
//! The score of a path of states y with labels c(y) is `start[y₁] + Σ e[t, c(y_t)] + Σ transitions[y_{t−1}, y_t] +
//! end[y_L]`, for the paths that the [`Lattice`] has. The sums over paths run on probabilities that are scaled to 1 at
//! every position (no logarithm inside the recursion), in f64, so that emissions may lie 700 nats apart. What is known of
//! a residue is a set of labels (one; those of a coarser class; all): the loss is `log Z(all paths) − log Z(paths that
//! agree with the sets)`, and its gradient the difference of the two expectations. Steps that the lattice lacks are
//! zeros, exactly.

mod paths;

use candle_core::{Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::ops::kernel::{exp_all, vectorised};
use crate::ops::lattice::{ANY, Lattice};
use crate::tape::{Tape, Var};
use crate::view::{Real, tensor, view};

pub use paths::{ScoredPath, crf_best_paths, crf_sample, crf_viterbi};

/// The weights of a CRF over the K states of a lattice. Those of steps that the lattice lacks are never read.
#[derive(Clone, Debug)]
pub struct CrfWeights {
    /// Score of going from state i to state j, `[K, K]`.
    pub transitions: Var,
    /// Score of beginning in a state, `[K]`.
    pub start: Var,
    /// Score of ending in a state, `[K]`.
    pub end: Var,
}

/// Mean negative log-likelihood per residue of which anything is known.
///
/// # Shapes
/// `emissions`: `[B, L, C]` over C labels, `sets`: `[B, L]` u32 with bit c set where the residue may have label c,
/// `lengths`: B numbers ≤ L → scalar (0 when nothing is known)
///
/// # Errors
/// On shapes that do not fit, and when no path of the lattice agrees with the sets of a row.
pub fn crf_loss(
    tape: &Tape,
    emissions: &Var,
    weights: &CrfWeights,
    lattice: &Lattice,
    sets: &Tensor,
    lengths: &[usize],
) -> Result<Var> {
    dispatch!(emissions.value().dtype(), T => loss::<T>(tape, emissions, weights, lattice, sets, lengths))
}

/// Probability of every label at every residue.
///
/// # Shapes
/// `emissions`: `[B, L, C]` → `[B, L, C]`, rows sum to 1, zeros at padding
///
/// # Errors
/// On shapes that do not fit, and when the lattice has no path of that length.
pub fn crf_marginals(
    emissions: &Tensor,
    weights: &CrfWeights,
    lattice: &Lattice,
    lengths: &[usize],
) -> Result<Tensor> {
    let chain = Chain::new(emissions, weights, lattice, lengths)?;
    let (b, l, c) = emissions.dims3()?;
    let all = rows(emissions)?;
    let found: Vec<Expected> = lengths
        .par_iter()
        .zip(all.par_chunks(l * c))
        .map(|(&n, row)| {
            let mut found = Expected::new(n, &chain);
            chain.log_z(&row[..n * c], |_, _| true, Some((&mut found, 1.0)))?;
            Some(found)
        })
        .collect::<Option<_>>()
        .ok_or_else(no_path)?;
    let mut marginals = vec![0.0; b * l * c];
    for (to, from) in marginals.chunks_exact_mut(l * c).zip(&found) {
        to[..from.emissions.len()].copy_from_slice(&from.emissions);
    }
    tensor(marginals, (b, l, c))?.to_dtype(emissions.dtype())
}

fn no_path() -> candle_core::Error {
    candle_core::Error::Msg("crf: the lattice has no path of this length".into())
}

/// Emissions as f64, whatever they are.
fn rows(emissions: &Tensor) -> Result<Vec<f64>> {
    dispatch!(emissions.dtype(), T => {
        Ok(view::<T>(&emissions.contiguous()?)?.iter().map(|v| v.to_f64()).collect())
    })
}

/// Weights in the form in which the recursions read them.
struct Chain {
    k: usize,
    n_labels: usize,
    /// Label of each state.
    labels: Vec<usize>,
    /// Scores; −∞ where the lattice has no step.
    transitions: Vec<f64>,
    start: Vec<f64>,
    end: Vec<f64>,
    /// e^score of the steps, its transpose, and those of beginnings and ends.
    factors: Vec<f64>,
    factors_t: Vec<f64>,
    start_factors: Vec<f64>,
    end_factors: Vec<f64>,
}

/// Expected counts, added up with signs: the gradient of a log Z.
struct Expected {
    emissions: Vec<f64>,
    transitions: Vec<f64>,
    start: Vec<f64>,
    end: Vec<f64>,
}

impl Expected {
    fn new(n: usize, chain: &Chain) -> Self {
        Self {
            emissions: vec![0.0; n * chain.n_labels],
            transitions: vec![0.0; chain.k * chain.k],
            start: vec![0.0; chain.k],
            end: vec![0.0; chain.k],
        }
    }
}

impl Chain {
    fn new(emissions: &Tensor, weights: &CrfWeights, lattice: &Lattice, lengths: &[usize]) -> Result<Self> {
        let (b, l, c) = emissions.dims3()?;
        let k = lattice.n_states();
        let (transitions, start, end) =
            (weights.transitions.value(), weights.start.value(), weights.end.value());
        if c != lattice.n_labels() || transitions.dims() != [k, k] || start.dims() != [k] || end.dims() != [k]
        {
            bail!(
                "crf: a lattice of {} labels and {k} states, emissions {:?}, transitions {:?}, start {:?}, end {:?}",
                lattice.n_labels(),
                emissions.dims(),
                transitions.dims(),
                start.dims(),
                end.dims()
            );
        }
        if lengths.len() != b || lengths.iter().any(|&n| n > l) {
            bail!("crf: a batch [{b}, {l}] with lengths {lengths:?}");
        }
        let only = |scores: Vec<f64>, allowed: &dyn Fn(usize) -> bool| -> Vec<f64> {
            let score = |(at, score)| if allowed(at) { score } else { f64::NEG_INFINITY };
            scores.into_iter().enumerate().map(score).collect()
        };
        let transitions = only(rows(transitions)?, &|at| lattice.may_step(at / k, at % k));
        let factors: Vec<f64> = transitions.iter().map(|s| s.exp()).collect();
        let factors_t = (0..k * k).map(|at| factors[at % k * k + at / k]).collect();
        let start = only(rows(start)?, &|state| lattice.may_start(state));
        let end = only(rows(end)?, &|state| lattice.may_end(state));
        Ok(Self {
            k,
            n_labels: c,
            labels: (0..k).map(|state| lattice.label(state)).collect(),
            start_factors: start.iter().map(|s| s.exp()).collect(),
            end_factors: end.iter().map(|s| s.exp()).collect(),
            start,
            end,
            transitions,
            factors,
            factors_t,
        })
    }

    /// x[t, c] = e^(e[t, c] − max) over the labels that `agrees(position, label)`, zero for the others; and the sum of the
    /// maxima.
    fn emitted(&self, emissions: &[f64], agrees: impl Fn(usize, usize) -> bool) -> (Vec<f64>, f64) {
        let width = self.n_labels;
        let (mut x, mut tops) = (vec![f64::NEG_INFINITY; emissions.len()], 0.0);
        for (t, (x, scores)) in x.chunks_exact_mut(width).zip(emissions.chunks_exact(width)).enumerate() {
            let agreeing = (0..width).filter(|&c| agrees(t, c));
            let top = agreeing.clone().map(|c| scores[c]).fold(f64::NEG_INFINITY, f64::max);
            agreeing.for_each(|c| x[c] = scores[c] - top);
            tops += top;
        }
        exp_all(&mut x);
        (x, tops)
    }

    /// log of the sum of e^score over the paths whose every label `agrees(position, label)`; adds `sign` times the
    /// expected counts of those paths. `None` if there is no such path.
    fn log_z(
        &self,
        emissions: &[f64],
        agrees: impl Fn(usize, usize) -> bool,
        expected: Option<(&mut Expected, f64)>,
    ) -> Option<f64> {
        let (k, width) = (self.k, self.n_labels);
        if emissions.is_empty() {
            return Some(0.0);
        }
        // f[t, j] = P(y_t = j | x_1..t), scale[t] = what f was divided by
        let n = emissions.len() / width;
        let (x, mut log_z) = self.emitted(emissions, agrees);
        let (mut f, mut scale) = (vec![0.0; n * k], vec![0.0; n]);
        filter(self, &x, &mut f, &mut scale);
        let mut product = 1.0;
        for &scale in &scale {
            product *= scale;
            // Few logarithms, and no product that leaves the range of numbers.
            if !(1e-250..1e250).contains(&product) {
                log_z += f64::ln(product);
                product = 1.0;
            }
        }
        let last = &f[(n - 1) * k..];
        let ends: f64 = last.iter().zip(&self.end_factors).map(|(f, s)| f * s).sum();
        log_z += product.ln() + ends.ln();
        if !log_z.is_finite() {
            return None;
        }
        if let Some((expected, sign)) = expected {
            expect(self, &x, &f, &scale, ends, expected, sign);
        }
        Some(log_z)
    }
}

vectorised! {
    /// The way there: f and the scales from x; zeros from where no path goes on.
    fn filter [] [] (chain: &Chain, x: &[f64], f: &mut [f64], scale: &mut [f64]) {
        let (k, width) = (chain.k, chain.n_labels);
        for (t, (x, scale)) in x.chunks_exact(width).zip(scale).enumerate() {
            let (old, now) = f.split_at_mut(t * k);
            let now = &mut now[..k];
            match t {
                0 => now.copy_from_slice(&chain.start_factors),
                _ => product(now, &old[(t - 1) * k..], &chain.factors),
            }
            now.iter_mut().zip(&chain.labels).for_each(|(v, &c)| *v *= x[c]);
            *scale = now.iter().sum();
            if *scale == 0.0 {
                return;
            }
            let inverse = 1.0 / *scale;
            now.iter_mut().for_each(|v| *v *= inverse);
        }
    }
}

vectorised! {
    /// The way back: b[t, i] is scaled so that `f ⊙ b` are the marginals of states.
    fn expect [] [] (
        chain: &Chain, x: &[f64], f: &[f64], scale: &[f64], ends: f64, expected: &mut Expected, sign: f64
    ) {
        let (k, width, n) = (chain.k, chain.n_labels, scale.len());
        let mut b: Vec<f64> = chain.end_factors.iter().map(|s| s / ends).collect();
        let mut pairs = vec![0.0; k * k];
        let mut reached = vec![0.0; k];
        for t in (0..n).rev() {
            let f_now = &f[t * k..][..k];
            let out = &mut expected.emissions[t * width..][..width];
            for j in 0..k {
                let marginal = sign * f_now[j] * b[j];
                out[chain.labels[j]] += marginal;
                if t == 0 {
                    expected.start[j] += marginal;
                }
                if t == n - 1 {
                    expected.end[j] += marginal;
                }
            }
            if t > 0 {
                let inverse = 1.0 / scale[t];
                for j in 0..k {
                    reached[j] = x[t * width + chain.labels[j]] * b[j] * inverse;
                }
                // P(y_{t−1} = i, y_t = j) = f[t−1, i] · e^transition · reached[j]; the factor is put in at the end.
                for (pairs, &f) in pairs.chunks_exact_mut(k).zip(&f[(t - 1) * k..]) {
                    if f != 0.0 {
                        pairs.iter_mut().zip(&reached).for_each(|(p, r)| *p += f * r);
                    }
                }
                product(&mut b, &reached, &chain.factors_t);
            }
        }
        for ((out, p), factor) in expected.transitions.iter_mut().zip(&pairs).zip(&chain.factors) {
            *out += sign * p * factor;
        }
    }
}

/// `out[j] = Σ_i v[i] · matrix[i, j]`, skipping the zeros of `v` (most of them, where labels are known).
#[inline(always)]
fn product(out: &mut [f64], v: &[f64], matrix: &[f64]) {
    out.fill(0.0);
    for (&v, row) in v.iter().zip(matrix.chunks_exact(out.len())) {
        if v != 0.0 {
            out.iter_mut().zip(row).for_each(|(out, m)| *out += v * m);
        }
    }
}

fn loss<T: Real>(
    tape: &Tape,
    emissions: &Var,
    weights: &CrfWeights,
    lattice: &Lattice,
    sets: &Tensor,
    lengths: &[usize],
) -> Result<Var> {
    let chain = Chain::new(emissions.value(), weights, lattice, lengths)?;
    let (b, l, c) = emissions.value().dims3()?;
    if sets.dims() != [b, l] {
        bail!("crf: emissions [{b}, {l}, {c}], sets {:?}", sets.dims());
    }
    let sets = sets.contiguous()?;
    let sets = view::<u32>(&sets)?;
    let sets: &[u32] = &sets;
    let all = rows(emissions.value())?;
    let parents = [emissions, &weights.transitions, &weights.start, &weights.end];
    let wants_grad = tape.is_on() && parents.iter().any(|v| v.needs_grad());
    let any = ANY >> (32 - c);
    let known = |row: usize| sets[row * l..][..lengths[row]].iter().filter(|&&set| set & any != any).count();
    let n_known: usize = (0..b).map(known).sum();
    let scale = 1.0 / n_known.max(1) as f64;

    let found: Vec<(f64, Expected)> = (0..b)
        .into_par_iter()
        .map(|row| {
            let (e, sets) = (&all[row * l * c..][..lengths[row] * c], &sets[row * l..][..lengths[row]]);
            let mut found = Expected::new(if wants_grad { sets.len() } else { 0 }, &chain);
            let agrees = |t: usize, label: usize| sets[t] >> label & 1 == 1;
            let every = chain.log_z(e, |_, _| true, wants_grad.then_some((&mut found, scale)));
            let right = chain.log_z(e, agrees, wants_grad.then_some((&mut found, -scale)));
            match (every, right) {
                (Some(every), Some(right)) => Ok((every - right, found)),
                _ => bail!("crf: the lattice has no path with the labels of row {row}"),
            }
        })
        .collect::<Result<_>>()?;
    let value = tensor(vec![T::from_f64(found.iter().map(|f| f.0).sum::<f64>() * scale)], ())?;
    if !wants_grad {
        return Ok(Var::constant(value));
    }
    let mut gradient = Expected::new(b * l, &chain);
    for (row, (_, found)) in found.iter().enumerate() {
        gradient.emissions[row * l * c..][..found.emissions.len()].copy_from_slice(&found.emissions);
        for (sum, part) in [
            (&mut gradient.transitions, &found.transitions),
            (&mut gradient.start, &found.start),
            (&mut gradient.end, &found.end),
        ] {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
    }
    let owned: Vec<Var> = parents.iter().map(|&v| v.clone()).collect();
    Ok(tape.record(value, &parents, move |grad, grads| {
        let upstream = view::<T>(&grad)?[0].to_f64();
        let Expected { emissions, transitions, start, end } = gradient;
        for (parent, numbers) in owned.iter().zip([emissions, transitions, start, end]) {
            let numbers: Vec<T> = numbers.into_iter().map(|g| T::from_f64(g * upstream)).collect();
            grads.add(parent, tensor(numbers, parent.value().shape())?)?;
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests;
