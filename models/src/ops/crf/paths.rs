//! Single paths of a CRF: the best, the best few, and one by chance.

use candle_core::{Result, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{Chain, CrfWeights, filter, no_path, rows};
use crate::ops::lattice::Lattice;

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

impl Chain {
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

    /// Forward filtering, then backward sampling. `None` if there is no path.
    fn sample(&self, emissions: &[f64], rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
        let (k, width) = (self.k, self.n_labels);
        let n = emissions.len() / width;
        let (mut f, mut scale) = (vec![0.0; n * k], vec![0.0; n]);
        filter(self, &self.emitted(emissions, |_, _| true).0, &mut f, &mut scale);
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
}
