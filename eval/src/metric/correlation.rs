//! Metrics of predicted numbers.

use super::classification::mean;
use super::ranking::midranks;

/// Pearson's r; `None` for under two examples or without variance on either side.
///
/// # Shapes
/// `a`, `b`: `n`
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mean_a, mean_b) = (mean(a.iter().copied())?, mean(b.iter().copied())?);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - mean_a) * (y - mean_b);
        aa += (x - mean_a).powi(2);
        bb += (y - mean_b).powi(2);
    }
    // The mean of equal numbers may be off by a rounding error: a constant has no variance all the same.
    let varies = |values: &[f64]| values.iter().any(|v| *v != values[0]);
    (varies(a) && varies(b) && aa * bb > 0.0).then(|| ab / (aa * bb).sqrt())
}

/// Spearman's ρ: Pearson's r of midranks. `None` as there, or when a value is NaN.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.iter().chain(b).any(|v| v.is_nan()) {
        return None;
    }
    pearson(&midranks(a), &midranks(b))
}

/// Root of the mean squared error; `None` for no examples.
pub fn rmse(a: &[f64], b: &[f64]) -> Option<f64> {
    mean(a.iter().zip(b).map(|(x, y)| (x - y).powi(2))).map(f64::sqrt)
}

/// Mean absolute error; `None` for no examples.
pub fn mae(a: &[f64], b: &[f64]) -> Option<f64> {
    mean(a.iter().zip(b).map(|(x, y)| (x - y).abs()))
}

/// Antisymmetry of ddG predictions: `(r(forward, reverse), mean(forward + reverse) / 2)`; ideal is `(−1, 0)`. The
/// correlation is `None` where Pearson's is, all is `None` for no examples.
///
/// # Shapes
/// `forward`, `reverse`: `n`, the same mutations in both directions, kcal/mol
pub fn antisymmetry(forward: &[f64], reverse: &[f64]) -> Option<(Option<f64>, f64)> {
    let bias = mean(forward.iter().zip(reverse).map(|(f, r)| (f + r) / 2.0))?;
    Some((pearson(forward, reverse), bias))
}
