//! What watches a run: numbers that are none, and groups that learn nothing.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use models::Gradients;

use crate::optim::{AdamW, StepNorms};

/// Steps in a row with a zero gradient after which a group raises the alarm.
const SILENT_STEPS: u64 = 3;

/// Skips steps whose loss or gradient is not finite and ends the run when there are too many in a row.
#[derive(Debug)]
pub struct Guard {
    max_in_a_row: u64,
    in_a_row: u64,
    skipped: u64,
    silent: BTreeMap<String, u64>,
}

impl Guard {
    /// A guard that ends the run at the `max_in_a_row`-th bad step in a row.
    pub fn new(max_in_a_row: u64) -> Self {
        Self { max_in_a_row, in_a_row: 0, skipped: 0, silent: BTreeMap::new() }
    }

    /// Whether the step may be taken. A group whose gradient is exactly zero in three steps running is warned about
    /// once: a head that the loss does not reach learns nothing, and no loss curve shows it.
    ///
    /// # Errors
    /// At the last bad step in a row that is allowed.
    pub fn admits(&mut self, step: u64, loss: f64, norms: &StepNorms) -> Result<bool> {
        if loss.is_finite() && norms.is_finite() {
            self.in_a_row = 0;
            self.watch(step, norms);
            return Ok(true);
        }
        self.in_a_row += 1;
        self.skipped += 1;
        tracing::warn!("step {step} is skipped: loss {loss}, gradient norms {:?}", norms.groups);
        if self.in_a_row >= self.max_in_a_row {
            bail!(
                "{} steps in a row had a loss or gradient that is not finite (the last: step {step}, loss {loss}, \
                 gradient norms {:?})\nhint: lower lr, or clip_norm of the group named here",
                self.in_a_row,
                norms.groups
            );
        }
        Ok(false)
    }

    /// Takes step number `step`, if it is admitted, and gives what the log says of it: `loss`, `lr`, gradient norms.
    ///
    /// # Errors
    /// As [`Guard::admits`], and what the optimiser says.
    pub fn step(
        &mut self,
        optimiser: &mut AdamW,
        gradients: &Gradients,
        step: u64,
        loss: f64,
        lr: f64,
    ) -> Result<Vec<(String, f64)>> {
        let norms = optimiser.norms(gradients)?;
        if self.admits(step, loss, &norms)? {
            optimiser.step(gradients, &norms, lr)?;
        }
        let mut items = vec![("loss".to_owned(), loss), ("lr".to_owned(), lr)];
        items.extend(norms.log_items());
        Ok(items)
    }

    fn watch(&mut self, step: u64, norms: &StepNorms) {
        for (group, norm) in &norms.groups {
            let silent = self.silent.entry(group.clone()).or_default();
            *silent = if *norm == 0.0 { *silent + 1 } else { 0 };
            if *silent == SILENT_STEPS {
                tracing::warn!(
                    "group {group:?} has had a zero gradient for {SILENT_STEPS} steps, at step {step}"
                );
            }
        }
    }

    /// Groups that had a zero gradient in the last three steps or longer.
    pub fn silent_groups(&self) -> impl Iterator<Item = &str> {
        self.silent.iter().filter(|(_, steps)| **steps >= SILENT_STEPS).map(|(group, _)| group.as_str())
    }

    /// Steps skipped so far, for the log and the checkpoint.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Continues the count of a resumed run.
    pub fn resume(&mut self, skipped: u64) {
        self.skipped = skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norms(a: f64, b: f64) -> StepNorms {
        StepNorms { groups: vec![("a".into(), a), ("b".into(), b)], total: (a * a + b * b).sqrt() }
    }

    #[test]
    fn bad_steps_are_skipped_and_too_many_end_the_run() {
        let mut guard = Guard::new(3);
        assert!(guard.admits(0, 1.0, &norms(1.0, 1.0)).unwrap());
        assert!(!guard.admits(1, f64::NAN, &norms(1.0, 1.0)).unwrap());
        assert!(!guard.admits(2, 1.0, &norms(f64::INFINITY, 1.0)).unwrap());
        assert!(guard.admits(3, 1.0, &norms(1.0, 1.0)).unwrap());
        assert!(!guard.admits(4, 1.0, &norms(1.0, f64::NAN)).unwrap());
        assert!(!guard.admits(5, f64::INFINITY, &norms(1.0, 1.0)).unwrap());
        let error = guard.admits(6, 1.0, &norms(f64::NAN, 1.0)).unwrap_err().to_string();
        assert!(error.contains("3 steps in a row") && error.contains("step 6"), "{error}");
        assert_eq!(guard.skipped(), 5);
    }

    #[test]
    fn a_group_without_gradient_raises_an_alarm() {
        let mut guard = Guard::new(3);
        for step in 0..2 {
            guard.admits(step, 1.0, &norms(0.5, 0.0)).unwrap();
        }
        assert_eq!(guard.silent_groups().count(), 0);
        guard.admits(2, 1.0, &norms(0.5, 0.0)).unwrap();
        assert_eq!(guard.silent_groups().collect::<Vec<_>>(), ["b"]);
        guard.admits(3, 1.0, &norms(0.5, 0.1)).unwrap();
        assert_eq!(guard.silent_groups().count(), 0);
    }
}
