//! Are probabilities what they say?

use serde::Serialize;

/// One bin of a reliability plot.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bin {
    /// Examples in the bin.
    pub n: usize,
    /// Mean predicted probability.
    pub confidence: f64,
    /// Share that was true.
    pub frequency: f64,
}

/// Mean squared error of probabilities; `None` for no examples.
pub fn brier(labels: &[bool], probabilities: &[f64]) -> Option<f64> {
    let squares =
        labels.iter().zip(probabilities).map(|(&label, p)| (p - f64::from(u8::from(label))).powi(2));
    super::classification::mean(squares)
}

/// The occupied bins of `n_bins` equal widths, closed on the right; the first includes 0.
pub fn reliability(labels: &[bool], probabilities: &[f64], n_bins: usize) -> Vec<Bin> {
    let mut sums = vec![(0_usize, 0.0, 0_usize); n_bins];
    for (&label, &p) in labels.iter().zip(probabilities) {
        let at = ((p * n_bins as f64).ceil() as usize).clamp(1, n_bins) - 1;
        sums[at].0 += 1;
        sums[at].1 += p;
        sums[at].2 += usize::from(label);
    }
    let bin = |(n, sum, hits): (usize, f64, usize)| Bin {
        n,
        confidence: sum / n as f64,
        frequency: hits as f64 / n as f64,
    };
    sums.into_iter().filter(|&(n, ..)| n > 0).map(bin).collect()
}

/// Expected calibration error: the mean gap between confidence and frequency over the bins of [`reliability`].
pub fn ece(labels: &[bool], probabilities: &[f64], n_bins: usize) -> Option<f64> {
    let gaps = reliability(labels, probabilities, n_bins);
    let total: usize = gaps.iter().map(|bin| bin.n).sum();
    let weighted = gaps.iter().map(|bin| bin.n as f64 * (bin.confidence - bin.frequency).abs());
    (total > 0).then(|| weighted.sum::<f64>() / total as f64)
}
