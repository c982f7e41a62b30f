//! Linear-chain conditional random field: loss, marginals, best path (Lafferty, McCallum & Pereira 2001).
//!
//! The score of a path is `start[y₁] + Σ e[t, y_t] + Σ transitions[y_{t−1}, y_t] + end[y_L]`. The sums over paths run on
//! probabilities that are scaled to 1 at every position (no logarithm inside the recursion), in f64, so that emissions
//! may lie 700 nats apart. Residues without a label cost nothing: the loss is `log Z(all paths) − log Z(paths that agree
//! with the known labels)`, and its gradient the difference of the two expectations. Forbidden steps are zeros, exactly.

use candle_core::{Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::tape::{Tape, Var};
use crate::view::{Real, tensor, view};

/// The weights of a CRF over K states.
#[derive(Clone, Debug)]
pub struct CrfWeights {
    /// Score of going from state i to state j, `[K, K]`.
    pub transitions: Var,
    /// Score of beginning in a state, `[K]`.
    pub start: Var,
    /// Score of ending in a state, `[K]`.
    pub end: Var,
}

/// Pairs of states (from, to) that never follow each other.
pub type Forbidden = [(usize, usize)];

/// Mean negative log-likelihood per labelled residue.
///
/// # Shapes
/// `emissions`: `[B, L, K]`, `labels`: `[B, L]` u8 with K or more for unknown, `lengths`: B numbers ≤ L → scalar (0 when no
/// residue is labelled)
///
/// # Errors
/// On shapes that do not fit, and when the labels of a row follow no path that `forbidden` leaves.
pub fn crf_loss(
    tape: &Tape,
    emissions: &Var,
    weights: &CrfWeights,
    forbidden: &Forbidden,
    labels: &Tensor,
    lengths: &[usize],
) -> Result<Var> {
    dispatch!(emissions.value().dtype(), T => loss::<T>(tape, emissions, weights, forbidden, labels, lengths))
}

/// Probability of every state at every residue.
///
/// # Shapes
/// `emissions`: `[B, L, K]` → `[B, L, K]`, rows sum to 1, zeros at padding
///
/// # Errors
/// On shapes that do not fit, and when `forbidden` leaves no path.
pub fn crf_marginals(
    emissions: &Tensor,
    weights: &CrfWeights,
    forbidden: &Forbidden,
    lengths: &[usize],
) -> Result<Tensor> {
    let chain = Chain::new(emissions, weights, forbidden, lengths)?;
    let (b, l, k) = emissions.dims3()?;
    let all = rows(emissions)?;
    let found: Vec<Expected> = lengths
        .par_iter()
        .zip(all.par_chunks(l * k))
        .map(|(&n, row)| {
            let mut found = Expected::new(n, k);
            chain.log_z(&row[..n * k], |_, _| true, Some((&mut found, 1.0)))?;
            Some(found)
        })
        .collect::<Option<_>>()
        .ok_or_else(no_path)?;
    let mut marginals = vec![0.0; b * l * k];
    for (to, from) in marginals.chunks_exact_mut(l * k).zip(&found) {
        to[..from.emissions.len()].copy_from_slice(&from.emissions);
    }
    tensor(marginals, (b, l, k))?.to_dtype(emissions.dtype())
}

/// The best path of every row (Viterbi; ties go to the lower state).
///
/// # Shapes
/// `emissions`: `[B, L, K]` → B paths, each as long as its row
///
/// # Errors
/// On shapes that do not fit, and when `forbidden` leaves no path.
pub fn crf_viterbi(
    emissions: &Tensor,
    weights: &CrfWeights,
    forbidden: &Forbidden,
    lengths: &[usize],
) -> Result<Vec<Vec<u8>>> {
    let chain = Chain::new(emissions, weights, forbidden, lengths)?;
    let (_, l, k) = emissions.dims3()?;
    let all = rows(emissions)?;
    let paths = lengths.par_iter().zip(all.par_chunks(l * k)).map(|(&n, row)| chain.best_path(&row[..n * k]));
    paths.collect::<Option<_>>().ok_or_else(no_path)
}

fn no_path() -> candle_core::Error {
    candle_core::Error::Msg("crf: the forbidden steps leave no path".into())
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
    /// Scores; −∞ where forbidden.
    transitions: Vec<f64>,
    start: Vec<f64>,
    end: Vec<f64>,
    /// e^score, and its transpose.
    factors: Vec<f64>,
    factors_t: Vec<f64>,
}

/// Expected counts, added up with signs: the gradient of a log Z.
struct Expected {
    emissions: Vec<f64>,
    transitions: Vec<f64>,
    start: Vec<f64>,
    end: Vec<f64>,
}

impl Expected {
    fn new(n: usize, k: usize) -> Self {
        Self {
            emissions: vec![0.0; n * k],
            transitions: vec![0.0; k * k],
            start: vec![0.0; k],
            end: vec![0.0; k],
        }
    }
}

impl Chain {
    fn new(
        emissions: &Tensor,
        weights: &CrfWeights,
        forbidden: &Forbidden,
        lengths: &[usize],
    ) -> Result<Self> {
        let (b, l, k) = emissions.dims3()?;
        let (transitions, start, end) =
            (weights.transitions.value(), weights.start.value(), weights.end.value());
        if transitions.dims() != [k, k] || start.dims() != [k] || end.dims() != [k] || k > 255 {
            bail!(
                "crf: {k} states (at most 255), transitions {:?}, start {:?}, end {:?}",
                transitions.dims(),
                start.dims(),
                end.dims()
            );
        }
        if lengths.len() != b || lengths.iter().any(|&n| n > l) {
            bail!("crf: a batch [{b}, {l}] with lengths {lengths:?}");
        }
        if let Some(pair) = forbidden.iter().find(|p| p.0 >= k || p.1 >= k) {
            bail!("crf: forbidden step {pair:?}, the states are 0..{k}");
        }
        let mut transitions = rows(transitions)?;
        forbidden.iter().for_each(|&(from, to)| transitions[from * k + to] = f64::NEG_INFINITY);
        let factors: Vec<f64> = transitions.iter().map(|s| s.exp()).collect();
        let factors_t = (0..k * k).map(|at| factors[at % k * k + at / k]).collect();
        Ok(Self { k, transitions, start: rows(start)?, end: rows(end)?, factors, factors_t })
    }

    /// log of the sum of e^score over the paths whose every state `agrees(position, state)`; adds `sign` times the
    /// expected counts of those paths. `None` if there is no such path.
    fn log_z(
        &self,
        emissions: &[f64],
        agrees: impl Fn(usize, usize) -> bool,
        expected: Option<(&mut Expected, f64)>,
    ) -> Option<f64> {
        let k = self.k;
        if emissions.is_empty() {
            return Some(0.0);
        }
        // x[t, j] = e^(e[t, j] − max), f[t, j] = P(y_t = j | x_1..t), c[t] = what f was divided by
        let n = emissions.len() / k;
        let (mut x, mut f) = (vec![0.0; n * k], vec![0.0; n * k]);
        let mut c = vec![0.0; n];
        let mut log_z = 0.0;
        for t in 0..n {
            let (scores, x) = (&emissions[t * k..][..k], &mut x[t * k..][..k]);
            let agreeing = (0..k).filter(|&j| agrees(t, j));
            let top = agreeing.clone().map(|j| scores[j]).fold(f64::NEG_INFINITY, f64::max);
            agreeing.for_each(|j| x[j] = (scores[j] - top).exp());
            let (old, now) = f.split_at_mut(t * k);
            let now = &mut now[..k];
            match t {
                0 => now.iter_mut().zip(&self.start).for_each(|(v, s)| *v = s.exp()),
                _ => product(now, &old[(t - 1) * k..], &self.factors),
            }
            now.iter_mut().zip(x.iter()).for_each(|(v, x)| *v *= x);
            c[t] = now.iter().sum();
            now.iter_mut().for_each(|v| *v /= c[t]);
            log_z += top + f64::ln(c[t]);
        }
        let last = &f[(n - 1) * k..];
        let ends: f64 = last.iter().zip(&self.end).map(|(f, s)| f * s.exp()).sum();
        log_z += ends.ln();
        if !log_z.is_finite() {
            return None;
        }
        if let Some((expected, sign)) = expected {
            self.expect(&x, &f, &c, ends, expected, sign);
        }
        Some(log_z)
    }

    /// The way back: b[t, i] is scaled so that `f ⊙ b` are the marginals.
    fn expect(&self, x: &[f64], f: &[f64], c: &[f64], ends: f64, expected: &mut Expected, sign: f64) {
        let (k, n) = (self.k, c.len());
        let mut b: Vec<f64> = self.end.iter().map(|s| s.exp() / ends).collect();
        let mut pairs = vec![0.0; k * k];
        let mut reached = vec![0.0; k];
        for t in (0..n).rev() {
            let f_now = &f[t * k..][..k];
            for (j, out) in expected.emissions[t * k..][..k].iter_mut().enumerate() {
                let marginal = sign * f_now[j] * b[j];
                *out += marginal;
                if t == 0 {
                    expected.start[j] += marginal;
                }
                if t == n - 1 {
                    expected.end[j] += marginal;
                }
            }
            if t > 0 {
                for j in 0..k {
                    reached[j] = x[t * k + j] * b[j] / c[t];
                }
                // P(y_{t−1} = i, y_t = j) = f[t−1, i] · e^transition · reached[j]; the factor is put in at the end.
                for (pairs, &f) in pairs.chunks_exact_mut(k).zip(&f[(t - 1) * k..]) {
                    if f != 0.0 {
                        pairs.iter_mut().zip(&reached).for_each(|(p, r)| *p += f * r);
                    }
                }
                product(&mut b, &reached, &self.factors_t);
            }
        }
        for ((out, p), factor) in expected.transitions.iter_mut().zip(&pairs).zip(&self.factors) {
            *out += sign * p * factor;
        }
    }

    /// Viterbi in max-plus with back-pointers. `None` if there is no path.
    fn best_path(&self, emissions: &[f64]) -> Option<Vec<u8>> {
        let k = self.k;
        if emissions.is_empty() {
            return Some(vec![]);
        }
        let mut best: Vec<f64> = self.start.iter().zip(emissions).map(|(s, e)| s + e).collect();
        let mut from = vec![0u8; emissions.len()];
        let mut next = vec![0.0; k];
        for (t, scores) in emissions.chunks_exact(k).enumerate().skip(1) {
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
            best.iter_mut().zip(&next).zip(scores).for_each(|((b, n), e)| *b = n + e);
        }
        best.iter_mut().zip(&self.end).for_each(|(b, s)| *b += s);
        let (mut state, score) = best
            .iter()
            .enumerate()
            .fold((0, f64::NEG_INFINITY), |a, (j, &s)| if s > a.1 { (j, s) } else { a });
        if score == f64::NEG_INFINITY {
            return None;
        }
        let mut path = vec![0; emissions.len() / k];
        for (t, out) in path.iter_mut().enumerate().rev() {
            *out = state as u8;
            state = from[t * k + state] as usize;
        }
        Some(path)
    }
}

/// `out[j] = Σ_i v[i] · matrix[i, j]`, skipping the zeros of `v` (most of them, where labels are known).
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
    forbidden: &Forbidden,
    labels: &Tensor,
    lengths: &[usize],
) -> Result<Var> {
    let chain = Chain::new(emissions.value(), weights, forbidden, lengths)?;
    let (b, l, k) = emissions.value().dims3()?;
    if labels.dims() != [b, l] {
        bail!("crf: emissions [{b}, {l}, {k}], labels {:?}", labels.dims());
    }
    let labels = labels.contiguous()?;
    let labels = view::<u8>(&labels)?;
    let labels: &[u8] = &labels;
    let all = rows(emissions.value())?;
    let parents = [emissions, &weights.transitions, &weights.start, &weights.end];
    let wants_grad = tape.is_on() && parents.iter().any(|v| v.needs_grad());
    let known = |row: usize| labels[row * l..][..lengths[row]].iter().filter(|&&y| (y as usize) < k).count();
    let labelled: usize = (0..b).map(known).sum();
    let scale = 1.0 / labelled.max(1) as f64;

    let found: Vec<(f64, Expected)> = (0..b)
        .into_par_iter()
        .map(|row| {
            let (e, y) = (&all[row * l * k..][..lengths[row] * k], &labels[row * l..][..lengths[row]]);
            let mut found = Expected::new(if wants_grad { y.len() } else { 0 }, k);
            let agrees = |t: usize, j: usize| y[t] as usize >= k || y[t] as usize == j;
            let every = chain.log_z(e, |_, _| true, wants_grad.then_some((&mut found, scale)));
            let right = chain.log_z(e, agrees, wants_grad.then_some((&mut found, -scale)));
            match (every, right) {
                (Some(every), Some(right)) => Ok((every - right, found)),
                _ => bail!("crf: the labels of row {row} follow no path that the forbidden steps leave"),
            }
        })
        .collect::<Result<_>>()?;
    let value = tensor(vec![T::from_f64(found.iter().map(|f| f.0).sum::<f64>() * scale)], ())?;
    if !wants_grad {
        return Ok(Var::constant(value));
    }
    let mut gradient = Expected::new(b * l, k);
    for (row, (_, found)) in found.iter().enumerate() {
        gradient.emissions[row * l * k..][..found.emissions.len()].copy_from_slice(&found.emissions);
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

    const K: usize = 3;
    const UNKNOWN: u8 = 255;

    fn weights(v: &[Var]) -> CrfWeights {
        CrfWeights { transitions: v[0].clone(), start: v[1].clone(), end: v[2].clone() }
    }

    fn model() -> Vec<Tensor> {
        vec![numbers(&[K, K], 2.0), numbers(&[K], 3.0), numbers(&[K], 4.0)]
    }

    /// Every path of length `n` with its score, from the definition.
    fn paths(e: &[f64], model: &[Tensor], n: usize, forbidden: &Forbidden) -> Vec<(Vec<u8>, f64)> {
        let [t, a, b] = [0, 1, 2].map(|i| model[i].flatten_all().unwrap().to_vec1::<f64>().unwrap());
        let mut all = vec![];
        for code in 0..K.pow(n as u32) {
            let y: Vec<usize> = (0..n).map(|at| code / K.pow(at as u32) % K).collect();
            if y.windows(2).any(|w| forbidden.contains(&(w[0], w[1]))) {
                continue;
            }
            let emitted: f64 = y.iter().enumerate().map(|(at, &j)| e[at * K + j]).sum();
            let stepped: f64 = y.windows(2).map(|w| t[w[0] * K + w[1]]).sum();
            let score = a[y[0]] + emitted + stepped + b[y[n - 1]];
            all.push((y.iter().map(|&j| j as u8).collect(), score));
        }
        all
    }

    fn log_sum(scores: impl Iterator<Item = f64>) -> f64 {
        scores.map(f64::exp).sum::<f64>().ln()
    }

    #[expect(clippy::needless_range_loop, reason = "indices as in the formula")]
    #[test]
    fn loss_marginals_and_best_path_are_those_of_all_paths() {
        let (lengths, l) = ([4, 2, 3], 4);
        let labels: Vec<u8> =
            vec![1, UNKNOWN, 0, 2, /**/ 2, 2, 9, 9, /**/ UNKNOWN, UNKNOWN, UNKNOWN, 0];
        let emissions = numbers(&[3, l, K], 0.5);
        let e = emissions.to_vec3::<f64>().unwrap();
        for forbidden in [&[][..], &[(0, 1), (2, 0)]] {
            let vars: Vec<Var> = model().into_iter().map(Var::constant).collect();
            let marginals = crf_marginals(&emissions, &weights(&vars), forbidden, &lengths).unwrap();
            let marginals = marginals.to_vec3::<f64>().unwrap();
            let best = crf_viterbi(&emissions, &weights(&vars), forbidden, &lengths).unwrap();
            let mut want = 0.0;
            for (row, &n) in lengths.iter().enumerate() {
                let e: Vec<f64> = e[row].concat();
                let all = paths(&e, &model(), n, forbidden);
                let agrees = |y: &[u8]| {
                    y.iter().zip(&labels[row * l..]).all(|(y, &known)| known as usize >= K || *y == known)
                };
                let every = log_sum(all.iter().map(|p| p.1));
                want += every - log_sum(all.iter().filter(|p| agrees(&p.0)).map(|p| p.1));
                let top = all.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
                assert_eq!(best[row], top.0);
                for t in 0..l {
                    for j in 0..K {
                        let through = all.iter().filter(|p| t < n && p.0[t] == j as u8);
                        let p: f64 = through.map(|p| (p.1 - every).exp()).sum();
                        assert!((marginals[row][t][j] - p).abs() < 1e-12);
                    }
                }
            }
            let labels = Tensor::from_slice(&labels, (3, l), &Device::Cpu).unwrap();
            let emissions = Var::constant(emissions.clone());
            let got =
                crf_loss(&Tape::off(), &emissions, &weights(&vars), forbidden, &labels, &lengths).unwrap();
            assert!((got.value().to_scalar::<f64>().unwrap() - want / 5.0).abs() < 1e-12);
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (lengths, l) = ([5, 1, 0, 3], 5);
        let labels: Vec<u8> = (0..20).map(|i| if i % 4 == 1 { UNKNOWN } else { (i * 7 % 3) as u8 }).collect();
        let labels = Tensor::from_vec(labels, (4, l), &Device::Cpu).unwrap();
        let mut inputs = vec![numbers(&[4, l, K], 0.1)];
        inputs.extend(model());
        for forbidden in [&[][..], &[(0, 0)]] {
            gradcheck(&inputs, |tape, v| {
                crf_loss(tape, &v[0], &weights(&v[1..]), forbidden, &labels, &lengths)
            });
        }
    }

    #[test]
    fn emissions_far_apart_and_labels_against_the_rules_are_handled() {
        let vars: Vec<Var> = model().into_iter().map(Var::constant).collect();
        let labels = Tensor::from_slice(&[0u8, 1], (1, 2), &Device::Cpu).unwrap();
        let far = Tensor::new(&[[[-600.0f32, 0.0, 600.0], [0.0, -600.0, 600.0]]], &Device::Cpu).unwrap();
        let single: Vec<Var> = vars
            .iter()
            .map(|v| Var::constant(v.value().to_dtype(candle_core::DType::F32).unwrap()))
            .collect();
        let loss = |forbidden: &Forbidden| {
            crf_loss(&Tape::off(), &Var::constant(far.clone()), &weights(&single), forbidden, &labels, &[2])
        };
        let value = loss(&[]).unwrap().value().to_scalar::<f32>().unwrap();
        assert!((value - 1200.0).abs() < 5.0, "{value}");
        assert!(loss(&[(0, 1)]).unwrap_err().to_string().contains("row 0"));
        let every: Vec<(usize, usize)> = (0..9).map(|i| (i / 3, i % 3)).collect();
        assert!(crf_viterbi(&far, &weights(&single), &every, &[2]).is_err());
        assert!(crf_marginals(&far, &weights(&single), &every, &[2]).is_err());
    }
}
