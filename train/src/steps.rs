//! What loops with nothing but their step to remember share: where they stand, their checkpoints, their optimiser.

use std::path::{Path, PathBuf};

use anyhow::Result;
use models::{Gradients, Params};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::guard::Guard;
use crate::optim::{AdamW, OptimConfig, Tensors};
use crate::progress::Best;
use crate::run_log::RunLog;
use crate::schedule::Schedule;

/// What a checkpoint says beside its step.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Standing {
    /// Steps that the guard skipped.
    skipped: u64,
    /// The measurement with the lowest held-out loss.
    best: Best,
}

/// A run of optimiser steps.
pub struct Steps {
    out: PathBuf,
    name: &'static str,
    total: u64,
    done: u64,
    resumed_at: Option<u64>,
    optimiser: AdamW,
    schedule: Schedule,
    guard: Guard,
    patience: Option<u64>,
    standing: Standing,
}

impl Steps {
    /// A run of `total` steps in `out` that ends at the `max_bad_steps`-th bad one in a row. Checkpoints keep the weights under
    /// `name`.
    ///
    /// # Errors
    /// As [`OptimConfig::build`].
    pub fn new(
        out: &Path,
        name: &'static str,
        optim: &OptimConfig,
        params: &Params,
        total: u64,
        max_bad_steps: u64,
    ) -> Result<Self> {
        let (optimiser, schedule) = optim.build(params, total)?;
        Ok(Self {
            out: out.to_owned(),
            name,
            total,
            done: 0,
            resumed_at: None,
            optimiser,
            schedule,
            guard: Guard::new(max_bad_steps),
            patience: None,
            standing: Standing::default(),
        })
    }

    /// Ends the run early, too: after so many measurements in a row that [`Steps::improves`] was told of and said no to.
    #[must_use]
    pub fn with_patience(self, patience: Option<u64>) -> Self {
        Self { patience, ..self }
    }

    /// Goes on after the latest checkpoint, if there is one; `assign` takes the weights.
    ///
    /// # Errors
    /// As [`Checkpoint::latest`], and when the checkpoint is of another model.
    pub fn resume(&mut self, assign: impl FnOnce(&Tensors) -> Result<()>) -> Result<()> {
        if let Some(mut checkpoint) = Checkpoint::latest(&self.out)? {
            assign(&checkpoint.take(self.name)?)?;
            self.optimiser.load(&checkpoint.take("optimiser")?)?;
            self.standing = checkpoint.state()?;
            self.guard.resume(self.standing.skipped);
            self.done = checkpoint.step;
            self.resumed_at = Some(self.done);
        }
        Ok(())
    }

    /// The log of the run.
    ///
    /// # Errors
    /// As [`RunLog::open`].
    pub fn log(&self) -> Result<RunLog> {
        RunLog::open(&self.out, self.total, self.done)
    }

    /// Steps done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Whether all are done, or enough of them.
    pub fn ended(&self) -> bool {
        self.done == self.total || self.patience.is_some_and(|patience| self.standing.best.stale >= patience)
    }

    /// Whether the next step is the first since the program was started.
    pub fn is_first(&self) -> bool {
        self.done == self.resumed_at.unwrap_or(0)
    }

    /// Whether it is time to measure. What was measured before a checkpoint is in the log already.
    pub fn measures(&self, every: u64) -> bool {
        (self.done.is_multiple_of(every) || self.ended()) && self.resumed_at != Some(self.done)
    }

    /// Takes note of a held-out loss: whether it is the lowest so far.
    pub fn improves(&mut self, loss: f64) -> bool {
        self.standing.best.takes(-loss)
    }

    /// Saves a checkpoint, if it is time to.
    ///
    /// # Errors
    /// I/O errors, with the path.
    pub fn save(
        &self,
        every: u64,
        log: &mut RunLog,
        weights: impl FnOnce() -> Result<Tensors>,
    ) -> Result<()> {
        if self.done > 0 && (self.done.is_multiple_of(every) || self.ended()) {
            log.sync()?;
            Checkpoint::new(self.done, &Standing { skipped: self.guard.skipped(), ..self.standing })?
                .with(self.name, weights()?)
                .with("optimiser", self.optimiser.tensors()?)
                .save(&self.out, 1)?;
        }
        Ok(())
    }

    /// Takes a step, if its loss and gradients are admitted, and logs it.
    ///
    /// # Errors
    /// As [`Guard::step`] and [`RunLog::write`].
    pub fn take(&mut self, gradients: &Gradients, loss: f64, log: &mut RunLog) -> Result<()> {
        let lr = self.schedule.lr(self.done);
        let items = self.guard.step(&mut self.optimiser, gradients, self.done, loss, lr)?;
        self.done += 1;
        log.write(self.done, &items)?;
        log.advance(self.done);
        Ok(())
    }
}
