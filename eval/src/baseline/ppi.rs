//! Interaction without a model: the class share, the lengths, and pairs of similar proteins.

use std::collections::BTreeMap;

use super::neighbour::Neighbours;

/// Neighbours per partner that are looked up.
const N_NEIGHBOURS: usize = 11;
/// Strength of the prior in a mean of few pairs.
const N_PRIOR: f64 = 1.0;
/// Length bins per partner.
const N_BINS: usize = 8;

/// Share of interacting pairs; 0.5 for none.
pub fn positive_rate(labels: &[bool]) -> f64 {
    match labels.len() {
        0 => 0.5,
        n => labels.iter().filter(|&&label| label).count() as f64 / n as f64,
    }
}

/// Interaction probability from the lengths of the two partners alone: the share among training pairs of the same
/// two octiles of length, drawn to the overall share.
#[derive(Debug, Clone)]
pub struct Lengths {
    bounds: Vec<usize>,
    counts: BTreeMap<(usize, usize), (f64, f64)>,
    prior: f64,
}

impl Lengths {
    /// Counts training pairs.
    ///
    /// # Shapes
    /// `pairs`: (length a, length b, label)
    pub fn fit(pairs: &[(usize, usize, bool)]) -> Self {
        let mut lengths: Vec<usize> = pairs.iter().flat_map(|&(a, b, _)| [a, b]).collect();
        lengths.sort_unstable();
        let bounds =
            (1..N_BINS).filter_map(|bin| lengths.get(bin * lengths.len() / N_BINS).copied()).collect();
        let labels: Vec<bool> = pairs.iter().map(|pair| pair.2).collect();
        let mut fitted = Lengths { bounds, counts: BTreeMap::new(), prior: positive_rate(&labels) };
        for &(a, b, label) in pairs {
            let bins = fitted.bins(a, b);
            let count = fitted.counts.entry(bins).or_default();
            count.0 += f64::from(u8::from(label));
            count.1 += 1.0;
        }
        fitted
    }

    fn bins(&self, a: usize, b: usize) -> (usize, usize) {
        let bin = |length| self.bounds.partition_point(|&bound| bound <= length);
        (bin(a.min(b)), bin(a.max(b)))
    }

    /// Probability for one pair of lengths.
    pub fn predict(&self, a: usize, b: usize) -> f64 {
        let (hits, n) = self.counts.get(&self.bins(a, b)).copied().unwrap_or_default();
        (hits + N_PRIOR * self.prior) / (n + N_PRIOR)
    }
}

/// Interaction probability from training pairs whose partners resemble the two: the mean of their labels weighted by
/// the product of the k-mer containments, drawn to the overall share.
#[derive(Debug)]
pub struct Similar<'a> {
    neighbours: &'a Neighbours,
    labels: BTreeMap<(usize, usize), bool>,
    prior: f64,
}

impl<'a> Similar<'a> {
    /// Training pairs as numbers of the sequences that `neighbours` was made of.
    pub fn new(neighbours: &'a Neighbours, pairs: &[(usize, usize, bool)]) -> Self {
        let labels: Vec<bool> = pairs.iter().map(|pair| pair.2).collect();
        let prior = positive_rate(&labels);
        Similar {
            neighbours,
            labels: pairs.iter().map(|&(a, b, label)| ((a.min(b), a.max(b)), label)).collect(),
            prior,
        }
    }

    /// Probability for one pair of sequences.
    pub fn predict(&self, a: &str, b: &str) -> f64 {
        let (of_a, of_b) =
            (self.neighbours.nearest(a, N_NEIGHBOURS), self.neighbours.nearest(b, N_NEIGHBOURS));
        let (mut hits, mut weights) = (0.0, 0.0);
        for &(x, near_x) in &of_a {
            for &(y, near_y) in &of_b {
                if let Some(&label) = self.labels.get(&(x.min(y), x.max(y))) {
                    hits += near_x * near_y * f64::from(u8::from(label));
                    weights += near_x * near_y;
                }
            }
        }
        // A weak prior: even one distant pair outranks none.
        (hits + 0.01 * self.prior) / (weights + 0.01)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_pairs_decide() {
        let train = ["MKTAYIAKQR", "GGGWWWHHHC", "PPLPPLPPLP"];
        let neighbours = Neighbours::new(3, train).unwrap();
        let similar = Similar::new(&neighbours, &[(0, 1, true), (2, 0, false)]);
        assert!(similar.predict("GGWWWHHH", "MKTAYIA") > 0.9);
        assert_eq!(similar.predict("GGWWWHHH", "MKTAYIA"), similar.predict("MKTAYIA", "GGWWWHHH"));
        assert!(similar.predict("MKTAYIA", "PPLPPL") < 0.1);
        assert!((similar.predict("CCCCC", "DDDDD") - 0.5).abs() < 1e-12);
    }

    #[test]
    fn lengths_alone_can_separate() {
        let pairs: Vec<_> =
            (0..97).map(|i| if i % 2 == 0 { (50 + i, 60, true) } else { (500 + i, 600, false) }).collect();
        let lengths = Lengths::fit(&pairs);
        assert!(lengths.predict(55, 61) > 0.8 && lengths.predict(601, 555) < 0.2);
        assert!((Lengths::fit(&[]).predict(3, 5) - 0.5).abs() < 1e-12);
    }
}
