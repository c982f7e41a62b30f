//! Learning rates over the steps of a run.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// The shape of the curve after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The peak, to the end.
    Constant,
    /// A straight line to zero.
    Linear,
    /// Half a cosine to zero.
    Cosine,
}

/// The `schedule` table of an optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// `constant`, `linear` or `cosine`.
    pub kind: ScheduleKind,
    /// Steps in which the rate rises in a straight line from 0 to the peak.
    pub warmup_steps: u64,
}

/// The learning rate of every step, as Hugging Face's `get_scheduler` has it: step indices start at 0, so with a
/// warm-up the first step has rate 0.
#[derive(Clone, Debug)]
pub struct Schedule {
    peak: f64,
    kind: ScheduleKind,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// A schedule that ends after `total_steps`.
    ///
    /// # Errors
    /// When the peak is not a positive number or the warm-up is longer than the run.
    pub fn new(peak: f64, config: &ScheduleConfig, total_steps: u64) -> Result<Self> {
        ensure!(peak > 0.0 && peak.is_finite(), "lr must be positive, got {peak}");
        ensure!(
            config.warmup_steps <= total_steps,
            "warmup_steps is {}, but the run has only {total_steps} steps",
            config.warmup_steps
        );
        Ok(Self { peak, kind: config.kind, warmup_steps: config.warmup_steps, total_steps })
    }

    /// The rate of step `step`, counted from 0.
    pub fn lr(&self, step: u64) -> f64 {
        let (step, warmup, total) = (step as f64, self.warmup_steps as f64, self.total_steps as f64);
        if step < warmup {
            return self.peak * step / warmup;
        }
        let done = (step - warmup) / (total - warmup).max(1.0);
        self.peak
            * match self.kind {
                ScheduleKind::Constant => 1.0,
                ScheduleKind::Linear => (1.0 - done).max(0.0),
                ScheduleKind::Cosine => (0.5 * (1.0 + (std::f64::consts::PI * done).cos())).max(0.0),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, warmup_steps: u64, total: u64) -> Vec<f64> {
        let schedule = Schedule::new(2.0, &ScheduleConfig { kind, warmup_steps }, total).unwrap();
        (0..=total).map(|step| schedule.lr(step)).collect()
    }

    #[test]
    fn the_curves_are_those_of_hugging_face() {
        // transformers 5.23: get_scheduler(name, optimizer with lr 2.0, 2 warm-up steps, 6 steps)
        let close = |got: Vec<f64>, want: [f64; 7]| {
            assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12), "{got:?}");
        };
        close(rates(ScheduleKind::Constant, 2, 6), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]);
        close(rates(ScheduleKind::Linear, 2, 6), [0.0, 1.0, 2.0, 1.5, 1.0, 0.5, 0.0]);
        let root = 0.5_f64.sqrt();
        close(rates(ScheduleKind::Cosine, 2, 6), [0.0, 1.0, 2.0, 1.0 + root, 1.0, 1.0 - root, 0.0]);
        assert_eq!(rates(ScheduleKind::Linear, 0, 2), [2.0, 1.0, 0.0]);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_is_refused() {
        let config = ScheduleConfig { kind: ScheduleKind::Constant, warmup_steps: 7 };
        assert!(Schedule::new(1.0, &config, 5).unwrap_err().to_string().contains("7"));
    }
}
