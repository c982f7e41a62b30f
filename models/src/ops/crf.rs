//! Linear-chain conditional random field: loss, marginals, best paths (Lafferty, McCallum & Pereira 2001).
//!
//! The score of a path of states y with labels c(y) is `start[y₁] + Σ e[t, c(y_t)] + Σ transitions[y_{t−1}, y_t] +
//! end[y_L]`, for the paths that the [`Lattice`] has. The sums over paths run on probabilities that are scaled to 1 at
//! every position (no logarithm inside the recursion), in f64, so that emissions may lie 700 nats apart. What is known of
//! a residue is a set of labels (one; those of a coarser class; all): the loss is `log Z(all paths) − log Z(paths that
//! agree with the sets)`, and its gradient the difference of the two expectations. Steps that the lattice lacks are
//! zeros, exactly.

use candle_core::{Result, Tensor, WithDType, bail};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::dispatch;
use crate::ops::kernel::{exp_all, vectorised};
use crate::ops::lattice::{ANY, Lattice};
use crate::tape::{Tape, Var};
use crate::view::{Real, tensor, view};

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

/// The labels of every row's best path (Viterbi; ties go to the lower state).
///
/// # Shapes
/// `emissions`: `[B, L, C]` → B label sequences, each as long as its row
///
/// # Errors
/// As [`crf_marginals`].
pub fn crf_viterbi(
    emissions: &Tensor,
    weights: &CrfWeights,
    lattice: &Lattice,
    lengths: &[usize],
) -> Result<Vec<Vec<u8>>> {
    let chain = Chain::new(emissions, weights, lattice, lengths)?;
    let (_, l, c) = emissions.dims3()?;
    let all = rows(emissions)?;
    let paths = lengths.par_iter().zip(all.par_chunks(l * c)).map(|(&n, row)| chain.best_path(&row[..n * c]));
    paths.collect::<Option<_>>().ok_or_else(no_path)
}

/// The labels of a path, and its score.
pub type ScoredPath = (Vec<u8>, f64);

/// Labels and score of every row's `n_best` best paths, best first; fewer where the lattice has fewer.
///
/// # Shapes
/// `emissions`: `[B, L, C]` → B lists
///
/// # Errors
/// As [`crf_marginals`].
pub fn crf_best_paths(
    emissions: &Tensor,
    weights: &CrfWeights,
    lattice: &Lattice,
    lengths: &[usize],
    n_best: usize,
) -> Result<Vec<Vec<ScoredPath>>> {
    let chain = Chain::new(emissions, weights, lattice, lengths)?;
    let (_, l, c) = emissions.dims3()?;
    let all = rows(emissions)?;
    let paths = lengths.par_iter().zip(all.par_chunks(l * c));
    let found: Vec<_> = paths.map(|(&n, row)| chain.best_paths(&row[..n * c], n_best)).collect();
    if n_best > 0 && found.iter().any(Vec::is_empty) {
        return Err(no_path());
    }
    Ok(found)
}

/// The labels of a path of every row that is drawn from the model's own distribution; `rng(row)` is the row's generator.
///
/// # Shapes
/// `emissions`: `[B, L, C]` → B label sequences, each as long as its row
///
/// # Errors
/// As [`crf_marginals`].
pub fn crf_sample(
    emissions: &Tensor,
    weights: &CrfWeights,
    lattice: &Lattice,
    lengths: &[usize],
    rng: impl Fn(usize) -> ChaCha8Rng + Sync,
) -> Result<Vec<Vec<u8>>> {
    let chain = Chain::new(emissions, weights, lattice, lengths)?;
    let (_, l, c) = emissions.dims3()?;
    let all = rows(emissions)?;
    let rows = lengths.par_iter().zip(all.par_chunks(l * c)).enumerate();
    let paths = rows.map(|(row, (&n, e))| chain.sample(&e[..n * c], &mut rng(row)));
    paths.collect::<Option<_>>().ok_or_else(no_path)
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
        // x[t, c] = e^(e[t, c] − max), f[t, j] = P(y_t = j | x_1..t), scale[t] = what f was divided by
        let n = emissions.len() / width;
        let mut x = vec![f64::NEG_INFINITY; n * width];
        let mut log_z = 0.0;
        for (t, (x, scores)) in x.chunks_exact_mut(width).zip(emissions.chunks_exact(width)).enumerate() {
            let agreeing = (0..width).filter(|&c| agrees(t, c));
            let top = agreeing.clone().map(|c| scores[c]).fold(f64::NEG_INFINITY, f64::max);
            agreeing.for_each(|c| x[c] = scores[c] - top);
            log_z += top;
        }
        exp_all(&mut x);
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

    /// Forward filtering, then backward sampling. `None` if there is no path.
    fn sample(&self, emissions: &[f64], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
        let (k, width) = (self.k, self.n_labels);
        let n = emissions.len() / width;
        let mut f = vec![0.0; n * k];
        for (t, scores) in emissions.chunks_exact(width).enumerate() {
            let (old, now) = f.split_at_mut(t * k);
            let now = &mut now[..k];
            match t {
                0 => now.copy_from_slice(&self.start_factors),
                _ => product(now, &old[(t - 1) * k..], &self.factors),
            }
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            now.iter_mut().zip(&self.labels).for_each(|(v, &c)| *v *= (scores[c] - top).exp());
            let sum: f64 = now.iter().sum();
            now.iter_mut().for_each(|v| *v /= sum);
        }
        let mut path = vec![0; n];
        let mut onward = self.end_factors.clone();
        for (t, out) in path.iter_mut().enumerate().rev() {
            let weights = f[t * k..][..k].iter().zip(&onward).map(|(f, o)| f * o);
            let total: f64 = weights.clone().sum();
            if total.is_nan() || total <= 0.0 {
                return None;
            }
            let mut left = rng.random::<f64>() * total;
            let mut state = 0;
            for (j, weight) in weights.enumerate().filter(|w| w.1 > 0.0) {
                state = j;
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
            *out = self.labels[state] as u8;
            onward.copy_from_slice(&self.factors_t[state * k..][..k]);
        }
        Some(path)
    }

    /// Viterbi in max-plus with back-pointers. `None` if there is no path.
    fn best_path(&self, emissions: &[f64]) -> Option<Vec<u8>> {
        let (k, width) = (self.k, self.n_labels);
        if emissions.is_empty() {
            return Some(vec![]);
        }
        let n = emissions.len() / width;
        let mut best: Vec<f64> =
            self.start.iter().zip(&self.labels).map(|(s, &c)| s + emissions[c]).collect();
        let mut from = vec![0u8; n * k];
        let mut next = vec![0.0; k];
        for (t, scores) in emissions.chunks_exact(width).enumerate().skip(1) {
            next.fill(f64::NEG_INFINITY);
            let from = &mut from[t * k..][..k];
            for (i, (&before, steps)) in best.iter().zip(self.transitions.chunks_exact(k)).enumerate() {
                for j in 0..k {
                    let score = before + steps[j];
                    if score > next[j] {
                        (next[j], from[j]) = (score, i as u8);
                    }
                }
            }
            for (j, b) in best.iter_mut().enumerate() {
                *b = next[j] + scores[self.labels[j]];
            }
        }
        best.iter_mut().zip(&self.end).for_each(|(b, s)| *b += s);
        let (mut state, score) = best
            .iter()
            .enumerate()
            .fold((0, f64::NEG_INFINITY), |a, (j, &s)| if s > a.1 { (j, s) } else { a });
        if score == f64::NEG_INFINITY {
            return None;
        }
        let mut path = vec![0; n];
        for (t, out) in path.iter_mut().enumerate().rev() {
            *out = self.labels[state] as u8;
            state = from[t * k + state] as usize;
        }
        Some(path)
    }

    /// The same for the `n_best` best: every state keeps as many ways to it, each with where it came from (state, rank).
    fn best_paths(&self, emissions: &[f64], n_best: usize) -> Vec<ScoredPath> {
        type Way = (f64, usize, usize);
        let (k, width) = (self.k, self.n_labels);
        if emissions.is_empty() || n_best == 0 {
            return vec![(vec![], 0.0); n_best.min(1)];
        }
        let keep = |mut ways: Vec<Way>| {
            ways.retain(|way| way.0 > f64::NEG_INFINITY);
            ways.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
            ways.truncate(n_best);
            ways
        };
        let mut ways: Vec<Vec<Vec<Way>>> =
            vec![(0..k).map(|j| keep(vec![(self.start[j] + emissions[self.labels[j]], 0, 0)])).collect()];
        for scores in emissions.chunks_exact(width).skip(1) {
            let before = &ways[ways.len() - 1];
            let to = |j: usize| {
                let step = |(i, from): (usize, &Vec<Way>)| -> Vec<Way> {
                    let score = self.transitions[i * k + j] + scores[self.labels[j]];
                    from.iter().enumerate().map(|(rank, way)| (way.0 + score, i, rank)).collect()
                };
                keep(before.iter().enumerate().flat_map(step).collect())
            };
            ways.push((0..k).map(to).collect());
        }
        let last = &ways[ways.len() - 1];
        let end = |(j, from): (usize, &Vec<Way>)| -> Vec<Way> {
            from.iter().enumerate().map(|(rank, way)| (way.0 + self.end[j], j, rank)).collect()
        };
        let ends = keep(last.iter().enumerate().flat_map(end).collect());
        let back = |(score, mut state, mut rank): Way| {
            let mut path = vec![0; ways.len()];
            for (out, ways) in path.iter_mut().zip(&ways).rev() {
                *out = self.labels[state] as u8;
                (_, state, rank) = ways[state][rank];
            }
            (path, score)
        };
        ends.into_iter().map(back).collect()
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
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::Device;
    use rand::SeedableRng;

    /// Three labels: the plain CRF, one with forbidden steps, and one whose first label has runs of two or more.
    fn lattices() -> [Lattice; 3] {
        [(&[1, 1, 1], &[][..]), (&[1, 1, 1], &[(0, 1), (2, 0)]), (&[2, 1, 1], &[(1, 2)])]
            .map(|(shortest, forbidden)| Lattice::new(shortest, forbidden).unwrap())
    }

    const C: usize = 3;

    fn weights(v: &[Var]) -> CrfWeights {
        CrfWeights { transitions: v[0].clone(), start: v[1].clone(), end: v[2].clone() }
    }

    fn model(lattice: &Lattice) -> Vec<Tensor> {
        let k = lattice.n_states();
        vec![numbers(&[k, k], 2.0), numbers(&[k], 3.0), numbers(&[k], 4.0)]
    }

    /// The labels and the score of every path of length `n`, from the definition.
    fn paths(e: &[f64], lattice: &Lattice, n: usize) -> Vec<(Vec<u8>, f64)> {
        let k = lattice.n_states();
        let [t, a, b] = [0, 1, 2].map(|i| model(lattice)[i].flatten_all().unwrap().to_vec1::<f64>().unwrap());
        let mut all = vec![];
        for code in 0..k.pow(n as u32) {
            let y: Vec<usize> = (0..n).map(|at| code / k.pow(at as u32) % k).collect();
            let legal = lattice.may_start(y[0])
                && lattice.may_end(y[n - 1])
                && y.windows(2).all(|w| lattice.may_step(w[0], w[1]));
            if legal {
                let labels: Vec<u8> = y.iter().map(|&j| lattice.label(j) as u8).collect();
                let emitted: f64 = labels.iter().enumerate().map(|(at, &c)| e[at * C + c as usize]).sum();
                let stepped: f64 = y.windows(2).map(|w| t[w[0] * k + w[1]]).sum();
                all.push((labels, a[y[0]] + emitted + stepped + b[y[n - 1]]));
            }
        }
        all
    }

    fn log_sum(scores: impl Iterator<Item = f64>) -> f64 {
        scores.map(f64::exp).sum::<f64>().ln()
    }

    #[test]
    fn loss_marginals_and_best_paths_are_those_of_all_paths() {
        let (lengths, l) = ([5, 2, 3], 5);
        // Sets: one label, two labels, any; 9 residues of which something is known.
        let sets: Vec<u32> = vec![2, ANY, 5, 1, 1, /**/ 4, 4, 0, 0, 0, /**/ 6, ANY, 4, 0, 0];
        let emissions = numbers(&[3, l, C], 0.5);
        let e = emissions.to_vec3::<f64>().unwrap();
        for lattice in lattices() {
            let vars: Vec<Var> = model(&lattice).into_iter().map(Var::constant).collect();
            let crf = weights(&vars);
            let marginals = crf_marginals(&emissions, &crf, &lattice, &lengths).unwrap();
            let marginals = marginals.to_vec3::<f64>().unwrap();
            let best = crf_viterbi(&emissions, &crf, &lattice, &lengths).unwrap();
            let listed = crf_best_paths(&emissions, &crf, &lattice, &lengths, 7).unwrap();
            let mut want = 0.0;
            for (row, &n) in lengths.iter().enumerate() {
                let e: Vec<f64> = e[row].concat();
                let mut all = paths(&e, &lattice, n);
                all.sort_by(|a, b| b.1.total_cmp(&a.1));
                let agrees = |y: &[u8]| y.iter().zip(&sets[row * l..]).all(|(y, &set)| set >> y & 1 == 1);
                let every = log_sum(all.iter().map(|p| p.1));
                want += every - log_sum(all.iter().filter(|p| agrees(&p.0)).map(|p| p.1));
                assert_eq!(best[row], all[0].0);
                assert_eq!(listed[row].len(), all.len().min(7));
                for (got, want) in listed[row].iter().zip(&all) {
                    assert!(got.0 == want.0 && (got.1 - want.1).abs() < 1e-12, "{got:?} {want:?}");
                }
                for (t, got) in marginals[row].iter().enumerate() {
                    for (c, got) in got.iter().enumerate() {
                        let through = all.iter().filter(|p| t < n && p.0[t] == c as u8);
                        let p: f64 = through.map(|p| (p.1 - every).exp()).sum();
                        assert!((got - p).abs() < 1e-12);
                    }
                }
            }
            let sets = Tensor::from_slice(&sets, (3, l), &Device::Cpu).unwrap();
            let emissions = Var::constant(emissions.clone());
            let got = crf_loss(&Tape::off(), &emissions, &crf, &lattice, &sets, &lengths).unwrap();
            assert!((got.value().to_scalar::<f64>().unwrap() - want / 8.0).abs() < 1e-12);
        }
    }

    #[test]
    fn sampled_paths_are_as_frequent_as_they_are_probable() {
        let n = 3;
        let emissions = numbers(&[1, n, C], 0.5);
        let e: Vec<f64> = emissions.flatten_all().unwrap().to_vec1().unwrap();
        for lattice in lattices() {
            let vars: Vec<Var> = model(&lattice).into_iter().map(Var::constant).collect();
            let all = paths(&e, &lattice, n);
            let every = log_sum(all.iter().map(|p| p.1));
            let mut counts = std::collections::BTreeMap::<Vec<u8>, f64>::new();
            let draws = 4_000;
            for draw in 0..draws {
                let rng = |_| rand_chacha::ChaCha8Rng::seed_from_u64(draw);
                let path = crf_sample(&emissions, &weights(&vars), &lattice, &[n], rng).unwrap().remove(0);
                *counts.entry(path).or_default() += 1.0 / draws as f64;
            }
            let found: f64 = all
                .iter()
                .map(|(path, score)| {
                    let p = (score - every).exp();
                    // Five standard deviations of a share of so many draws.
                    let slack = 5.0 * (p * (1.0 - p) / draws as f64).sqrt() + 1e-3;
                    let share = counts.get(path).copied().unwrap_or(0.0);
                    assert!((share - p).abs() < slack, "{path:?}: {share} of the draws, probability {p}");
                    share
                })
                .sum();
            assert!((found - 1.0).abs() < 1e-9, "a path that the lattice lacks was drawn");
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (lengths, l) = ([5, 1, 0, 3], 5);
        let sets: Vec<u32> =
            (0..20u32).map(|i| if i % 4 == 1 { ANY } else { 4 | 1 << (i * 7 % 3) }).collect();
        let sets = Tensor::from_vec(sets, (4, l), &Device::Cpu).unwrap();
        for lattice in lattices() {
            let mut inputs = vec![numbers(&[4, l, C], 0.1)];
            inputs.extend(model(&lattice));
            gradcheck(&inputs, |tape, v| crf_loss(tape, &v[0], &weights(&v[1..]), &lattice, &sets, &lengths));
        }
    }

    #[test]
    fn emissions_far_apart_and_labels_against_the_rules_are_handled() {
        let [plain, forbidding, _] = lattices();
        let single: Vec<Var> = model(&plain)
            .iter()
            .map(|v| Var::constant(v.to_dtype(candle_core::DType::F32).unwrap()))
            .collect();
        let sets = Tensor::from_slice(&[1u32, 2], (1, 2), &Device::Cpu).unwrap();
        let far = Tensor::new(&[[[-600.0f32, 0.0, 600.0], [0.0, -600.0, 600.0]]], &Device::Cpu).unwrap();
        let loss = |lattice: &Lattice| {
            crf_loss(&Tape::off(), &Var::constant(far.clone()), &weights(&single), lattice, &sets, &[2])
        };
        let value = loss(&plain).unwrap().value().to_scalar::<f32>().unwrap();
        assert!((value - 1200.0).abs() < 5.0, "{value}");
        assert!(loss(&forbidding).unwrap_err().to_string().contains("row 0"));
        let every: Vec<(usize, usize)> = (0..9).map(|i| (i / 3, i % 3)).collect();
        let none = Lattice::new(&[1, 1, 1], &every).unwrap();
        assert!(crf_viterbi(&far, &weights(&single), &none, &[2]).is_err());
        assert!(crf_marginals(&far, &weights(&single), &none, &[2]).is_err());
        assert!(crf_best_paths(&far, &weights(&single), &none, &[2], 3).is_err());
    }
}
