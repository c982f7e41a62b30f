//! Results and the files they become.

use serde::Serialize;

use crate::Kind;
use crate::metric::bootstrap::Interval;

/// One metric of one model on one data set, with everything that is needed to judge it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `acc`, `auroc`, `f1_micro`.
    pub metric: String,
    /// Which part of the examples or answers it is over; `none` for all (the name lm-evaluation-harness uses).
    pub filter: String,
    /// Direction.
    pub higher_is_better: bool,
    /// The model's value; `None` where the metric is not defined.
    pub value: Option<f64>,
    /// Its interval over clusters.
    pub interval: Option<Interval>,
    /// Examples.
    pub n: usize,
    /// Homology clusters they lie in.
    pub n_clusters: usize,
    /// Floors and references on the same examples.
    pub baselines: Vec<Baseline>,
}

/// What stands beside a model's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Baseline {
    /// `constant`, `majority`, `frequency`, `neighbour`, `shuffled`, `sft`.
    pub name: String,
    /// Floor or reference.
    pub kind: Kind,
    /// Its value.
    pub value: Option<f64>,
    /// The interval of its value.
    pub interval: Option<Interval>,
    /// How much better the model is (positive is better, whatever the direction of the metric).
    pub gain: Option<f64>,
    /// The interval of the gain, in pairs.
    pub gain_interval: Option<Interval>,
}

impl Row {
    /// The floor that is hardest to beat.
    pub fn best_floor(&self) -> Option<&Baseline> {
        let floors = self.baselines.iter().filter(|b| b.kind == Kind::Floor && b.gain.is_some());
        floors.min_by(|a, b| a.gain.unwrap_or(f64::INFINITY).total_cmp(&b.gain.unwrap_or(f64::INFINITY)))
    }
}
