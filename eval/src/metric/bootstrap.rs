//! Intervals by resampling homology clusters.
//!
//! Proteins of one cluster are not independent, so clusters are drawn, with replacement, and all their examples come
//! along. A difference of two systems is bootstrapped in pairs: both are computed on the same draw.

use std::collections::BTreeMap;

use rand::RngExt;
use rayon::prelude::*;
use serde::Serialize;

/// A percentile interval at 95%.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
    /// Standard deviation of the resampled values.
    pub stderr: f64,
    /// Resamples on which the metric was defined.
    pub n_resamples: usize,
}

/// Which examples form which cluster.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    clusters: Vec<Vec<usize>>,
    n_resamples: usize,
    seed: u64,
}

impl Bootstrap {
    /// Clusters by name, one name per example.
    pub fn new(cluster_of: &[impl AsRef<str>], n_resamples: usize, seed: u64) -> Self {
        let mut clusters: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, cluster) in cluster_of.iter().enumerate() {
            clusters.entry(cluster.as_ref()).or_default().push(at);
        }
        Bootstrap { clusters: clusters.into_values().collect(), n_resamples, seed }
    }

    /// Number of clusters.
    pub fn n_clusters(&self) -> usize {
        self.clusters.len()
    }

    /// `statistic` of the example indices of every resample. Resample `b` depends on the seed and `b` alone, so
    /// neither the number of threads nor that of resamples changes it.
    pub fn map<R: Send>(&self, statistic: impl Fn(&[usize]) -> R + Sync) -> Vec<R> {
        let draw = |b: usize| {
            let mut rng = datasets::rng(self.seed, "bootstrap", b as u64);
            let picks = (0..self.clusters.len()).map(|_| rng.random_range(0..self.clusters.len()));
            let examples: Vec<usize> = picks.flat_map(|at| self.clusters[at].iter().copied()).collect();
            statistic(&examples)
        };
        (0..self.n_resamples).into_par_iter().map(draw).collect()
    }

    /// The interval of resampled values. `None` with under two clusters (nothing to resample) or when the metric was
    /// undefined on over half of the resamples.
    pub fn interval(&self, values: impl IntoIterator<Item = Option<f64>>) -> Option<Interval> {
        let mut values: Vec<f64> = values.into_iter().flatten().collect();
        if self.clusters.len() < 2 || values.len() * 2 < self.n_resamples || values.len() < 2 {
            return None;
        }
        values.sort_by(f64::total_cmp);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let (low, high) = (percentile(&values, 0.025), percentile(&values, 0.975));
        Some(Interval { low, high, stderr: variance.sqrt(), n_resamples: values.len() })
    }
}

/// Percentile of sorted values with linear interpolation between the neighbours (NumPy's default).
fn percentile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, share) = (at.floor() as usize, at.fract());
    sorted[low] + share * (sorted[(low + 1).min(sorted.len() - 1)] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean_interval(values: &[f64], clusters: &[String]) -> Interval {
        let bootstrap = Bootstrap::new(clusters, 997, 7);
        let means =
            bootstrap.map(|rows| Some(rows.iter().map(|&r| values[r]).sum::<f64>() / rows.len() as f64));
        bootstrap.interval(means).unwrap()
    }

    fn sample(n: usize) -> Vec<f64> {
        let mut rng = datasets::rng(3, "test", 0);
        (0..n).map(|_| (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0).collect()
    }

    /// Of independent numbers the standard error is s/√n and the interval ±1.96 of it.
    #[test]
    fn the_mean_has_the_textbook_interval() {
        let values = sample(401);
        let each: Vec<String> = (0..401).map(|i| i.to_string()).collect();
        let got = mean_interval(&values, &each);
        let mean = values.iter().sum::<f64>() / 401.0;
        let s = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        let want = s / 401_f64.sqrt();
        assert!((got.stderr / want - 1.0).abs() < 0.08, "{} {want}", got.stderr);
        assert!(((got.high - got.low) / (2.0 * 1.96 * want) - 1.0).abs() < 0.12, "{got:?}");
    }

    /// Copies inside a cluster add no information: the interval stays as wide as without them.
    #[test]
    fn copies_in_a_cluster_do_not_narrow_it() {
        let values = sample(101);
        let each: Vec<String> = (0..101).map(|i| format!("{i:03}")).collect();
        let single = mean_interval(&values, &each);
        let copied: Vec<f64> = values.iter().flat_map(|&v| [v; 7]).collect();
        let owners: Vec<String> = each.iter().flat_map(|e| vec![e.clone(); 7]).collect();
        let many = mean_interval(&copied, &owners);
        assert!((single.low - many.low).abs() < 1e-9 && (single.high - many.high).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_numpys() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert!((percentile(&sorted, 0.25) - 1.75).abs() < 1e-12);
        assert_eq!((percentile(&sorted, 0.0), percentile(&sorted, 1.0)), (1.0, 8.0));
    }

    #[test]
    fn one_cluster_has_no_interval() {
        let bootstrap = Bootstrap::new(&["a", "a"], 11, 1);
        assert_eq!(bootstrap.interval(bootstrap.map(|_| Some(1.0))), None);
    }
}
