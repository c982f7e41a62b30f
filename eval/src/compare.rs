//! From predictions to rows: a model beside its floors, on the same examples and the same resamples.

use crate::metric::bootstrap::Bootstrap;
use crate::report::{Baseline, Row};

/// Resamples of every interval.
pub(crate) const N_RESAMPLES: usize = 1_000;
/// Seed of the resamples.
pub(crate) const SEED: u64 = 42;

/// What a baseline is to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Needs no model, or no input: constant, majority, frequency, nearest neighbour, shuffled input. The headline is
    /// the gain over the best of them.
    Floor,
    /// Another trained system to compare with, as the SFT policy beside the GRPO one.
    Reference,
}

/// Predictions of one model and its baselines for the same examples.
///
/// `P` is a prediction and `T` a truth of one example (protein, chain, pair, mutation), whatever the metrics need:
/// a class, a number, a confusion matrix of one chain.
#[derive(Debug)]
pub struct Comparison<'a, P, T> {
    truths: &'a [T],
    model: &'a [P],
    baselines: Vec<(String, Kind, &'a [P])>,
    bootstrap: Bootstrap,
}

impl<'a, P: Sync, T: Sync> Comparison<'a, P, T> {
    /// A model's predictions; `clusters` names the homology cluster of each example.
    ///
    /// # Errors
    /// When the three are not of one length.
    pub fn new(truths: &'a [T], clusters: &[impl AsRef<str>], model: &'a [P]) -> anyhow::Result<Self> {
        let n = truths.len();
        anyhow::ensure!(
            model.len() == n && clusters.len() == n,
            "{} predictions and {} clusters for {n} truths",
            model.len(),
            clusters.len()
        );
        let bootstrap = Bootstrap::new(clusters, N_RESAMPLES, SEED);
        Ok(Comparison { truths, model, baselines: vec![], bootstrap })
    }

    /// Adds what the model is compared with.
    ///
    /// # Errors
    /// When it has another number of predictions.
    pub fn against(mut self, name: &str, kind: Kind, predictions: &'a [P]) -> anyhow::Result<Self> {
        let (got, n) = (predictions.len(), self.truths.len());
        anyhow::ensure!(got == n, "baseline {name} has {got} predictions for {n} truths");
        self.baselines.push((name.to_owned(), kind, predictions));
        Ok(self)
    }

    /// One metric of the model and of every baseline, with intervals, and gains bootstrapped in pairs.
    ///
    /// `value` gets (prediction, truth) of the examples of one resample, repeated as often as they were drawn.
    pub fn row(
        &self,
        metric: &str,
        higher_is_better: bool,
        value: impl Fn(&[(&P, &T)]) -> Option<f64> + Sync,
    ) -> Row {
        let of = |predictions: &[P], examples: &[usize]| {
            let pairs: Vec<(&P, &T)> =
                examples.iter().map(|&at| (&predictions[at], &self.truths[at])).collect();
            value(&pairs)
        };
        let systems: Vec<&[P]> = [self.model].into_iter().chain(self.baselines.iter().map(|b| b.2)).collect();
        let all: Vec<usize> = (0..self.truths.len()).collect();
        let values: Vec<Option<f64>> = systems.iter().map(|system| of(system, &all)).collect();
        let resampled: Vec<Vec<Option<f64>>> =
            self.bootstrap.map(|examples| systems.iter().map(|system| of(system, examples)).collect());

        let sign = if higher_is_better { 1.0 } else { -1.0 };
        let gain = |values: &[Option<f64>], at: usize| Some(sign * (values[0]? - values[at]?));
        let baselines = self.baselines.iter().enumerate().map(|(i, (name, kind, _))| Baseline {
            name: name.clone(),
            kind: *kind,
            value: values[i + 1],
            interval: self.bootstrap.interval(resampled.iter().map(|r| r[i + 1])),
            gain: gain(&values, i + 1),
            gain_interval: self.bootstrap.interval(resampled.iter().map(|r| gain(r, i + 1))),
        });
        Row {
            metric: metric.to_owned(),
            filter: "none".to_owned(),
            higher_is_better,
            value: values[0],
            interval: self.bootstrap.interval(resampled.iter().map(|r| r[0])),
            n: self.truths.len(),
            n_clusters: self.bootstrap.n_clusters(),
            baselines: baselines.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::correlation::rmse;

    fn mean(pairs: &[(&f64, &f64)]) -> Option<f64> {
        (!pairs.is_empty()).then(|| pairs.iter().map(|(p, _)| **p).sum::<f64>() / pairs.len() as f64)
    }

    #[test]
    fn gains_are_paired() {
        let truths: Vec<f64> = (0..37).map(f64::from).collect();
        let clusters: Vec<String> = (0..37).map(|i| (i / 3).to_string()).collect();
        // Noise that both share: each value alone is uncertain, their difference is not.
        let model: Vec<f64> = truths.iter().map(|t| (t * 7.3).sin() + 0.25).collect();
        let floor: Vec<f64> = truths.iter().map(|t| (t * 7.3).sin()).collect();
        let row = Comparison::new(&truths, &clusters, &model)
            .and_then(|c| c.against("floor", Kind::Floor, &floor))
            .and_then(|c| c.against("sft", Kind::Reference, &truths))
            .unwrap()
            .row("mean", true, mean);
        let against = &row.baselines[0];
        assert!((against.gain.unwrap() - 0.25).abs() < 1e-12);
        let gain = against.gain_interval.unwrap();
        assert!((gain.high - gain.low).abs() < 1e-12);
        assert!(row.interval.unwrap().high - row.interval.unwrap().low > 0.1);
        assert_eq!((row.n, row.n_clusters), (37, 13));
        assert_eq!(row.best_floor().unwrap().name, "floor", "a reference is no floor");
    }

    #[test]
    fn lower_can_be_better() {
        let truths = [1.0, 2.0, 3.0];
        let (good, bad) = ([1.1, 2.1, 3.1], [2.0, 2.0, 2.0]);
        let row = Comparison::new(&truths, &["a", "b", "c"], &good)
            .and_then(|c| c.against("mean", Kind::Floor, &bad))
            .unwrap()
            .row("rmse", false, |pairs| {
                let (p, t): (Vec<f64>, Vec<f64>) = pairs.iter().map(|(p, t)| (**p, **t)).unzip();
                rmse(&p, &t)
            });
        assert!(row.baselines[0].gain.unwrap() > 0.7);
        let refused = Comparison::new(&truths, &["a"], &good);
        assert!(refused.unwrap_err().to_string().contains("3 predictions and 1 clusters for 3 truths"));
    }
}
