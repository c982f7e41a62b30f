//! `train contact`: contacts and CATH classes from a sequence.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use datasets::fold::{CATH_CLASSES, FoldBatch, FoldRecord};
use datasets::residue::N_TOKENS;
use datasets::rng;
use datasets::sampler::{Budget, Sampler};
use datasets::table::Split;
use models::fold::{ContactClassifier, ContactConfig};
use models::{Tape, Weights};
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::ema::Ema;
use crate::guard::Guard;
use crate::loss;
use crate::optim::OptimConfig;
use crate::progress::{Progress, refuse_leaks};
use crate::run_log::RunLog;

/// The `contact` section of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of initial weights, order and dropout.
    pub seed: u64,
    /// Most epochs.
    pub epochs: u64,
    /// Longer chains are left out of training and validation, and counted in the log; never cut.
    pub max_length: usize,
    /// Pairs of residues in a batch, padding included.
    pub batch_pairs: usize,
    /// How much more a contact weighs than a pair that is none.
    pub positive_weight: f64,
    /// Weight of the class loss; that of the contacts is 1.
    pub class_weight: f64,
    /// Decay of the moving average of the weights that is validated and kept; 0 follows the weights.
    pub ema_decay: f64,
    /// Validations in a row without a better score after which the run ends.
    pub patience: u64,
    /// Steps between checkpoints (each epoch ends with one, too).
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// How it is trained.
    pub optim: OptimConfig,
}

/// The `contact.model` section: [`ContactConfig`] without what the data decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residue tower (even).
    pub single: usize,
    /// Residual convolution blocks before the LSTM.
    pub conv_layers: usize,
    /// Residues that a convolution sees (odd).
    pub kernel: usize,
    /// Width of the pair tower.
    pub pair: usize,
    /// Width of the two factors of the outer product.
    pub outer: usize,
    /// Channels of the triangle update.
    pub triangle: usize,
    /// Pair blocks.
    pub blocks: usize,
    /// Relative positions beyond ±this share one vector.
    pub relpos: usize,
    /// Dropout.
    pub dropout: f64,
}

impl ModelConfig {
    fn resolve(&self) -> ContactConfig {
        ContactConfig {
            n_tokens: N_TOKENS,
            n_classes: CATH_CLASSES.len(),
            single: self.single,
            conv_layers: self.conv_layers,
            kernel: self.kernel,
            pair: self.pair,
            outer: self.outer,
            triangle: self.triangle,
            blocks: self.blocks,
            relpos: self.relpos,
            dropout: self.dropout,
        }
    }
}

/// Trains the model and leaves the best one, by P@L at |i − j| ≥ 6 on the validation part, in `OUT/model`.
///
/// # Errors
/// On impossible settings, tables with a leak, a loss that stays without a finite value, I/O.
#[expect(clippy::too_many_lines, reason = "a training loop reads from top to bottom in one place")]
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool) -> Result<()> {
    ensure!(
        config.epochs > 0 && config.patience > 0 && config.save_every > 0,
        "contact: counts must be positive"
    );
    refuse_leaks(tables)?;
    let [train, valid] = records(config, tables)?;
    let lengths = train.iter().map(FoldRecord::len).collect();
    let sampler = Sampler::new(config.seed, lengths, Budget::Pairs(config.batch_pairs))?;
    let total = sampler.total(config.epochs);
    let seed = config.seed;
    let weights = Weights::random(move |name| rng(seed, &format!("init/{name}"), 0));
    let model = ContactClassifier::new(config.model.resolve(), weights)?;
    let params = model.params();
    tracing::info!(
        "contact: {} training and {} validation chains, {} weights, {total} steps",
        train.len(),
        valid.len(),
        params.counts().0
    );
    let (mut optimiser, schedule) = config.optim.build(params, total)?;
    let mut ema = Ema::new(params, config.ema_decay)?;
    let mut guard = Guard::new(config.max_bad_steps);
    let (mut at, mut step) = (Progress::default(), 0);
    if resume && let Some(mut checkpoint) = Checkpoint::latest(out)? {
        params.assign(&checkpoint.take("model")?)?;
        optimiser.load(&checkpoint.take("optimiser")?)?;
        at = checkpoint.state()?;
        ema.load(&checkpoint.take("ema")?, at.ema_updates)?;
        guard.resume(at.skipped);
        step = checkpoint.step;
    }
    let sequences: Vec<&str> = valid.iter().map(|r| r.protein.sequence()).collect();
    let mut log = RunLog::open(out, total, step)?;
    let mut batches = sampler.epoch(at.position.epoch);
    loop {
        if at.wants_validation() {
            let items = ema.in_place(params, || {
                let scores = eval::contact::score(&valid, &eval::contact::predict(&model, &sequences)?);
                let items = eval::contact::log_items(&scores, "valid");
                let (_, precision) =
                    items.first().context("contact: no validation chain has a contact to find")?;
                if at.validated(*precision) {
                    datasets::atomic_folder(&out.join("model"), |folder| {
                        model.save(folder).map_err(anyhow::Error::from)
                    })?;
                }
                Ok(items)
            })?;
            log.write(step, &items)?;
            batches = sampler.epoch(at.position.epoch);
        }
        let ends = at.position.epoch == config.epochs || at.best.stale >= config.patience;
        if step > 0 && (at.position.batch == 0 || step.is_multiple_of(config.save_every)) {
            log.sync()?;
            let (average, ema_updates) = ema.state()?;
            Checkpoint::new(step, &Progress { skipped: guard.skipped(), ema_updates, ..at.clone() })?
                .with("model", params.snapshot()?)
                .with("optimiser", optimiser.tensors()?)
                .with("ema", average)
                .save(out, 1)?;
        }
        if ends {
            break;
        }

        let rows: Vec<&FoldRecord> =
            batches[at.position.batch as usize].iter().map(|&record| &train[record]).collect();
        let batch = FoldBatch::new(&rows)?;
        let tape = Tape::on();
        let dropout = &mut rng(seed, "dropout", step);
        let output = model.forward(&tape, &batch.tokens, batch.padding.lengths(), Some(dropout))?;
        let terms =
            loss::fold::contact_terms(&tape, &output, &batch, config.positive_weight, config.class_weight)?;
        let total_loss = terms.total(&tape)?;
        let mut items = terms.log_items()?;
        let gradients = tape.backward(&total_loss)?;
        let norms = optimiser.norms(&gradients)?;
        let lr = schedule.lr(step);
        if guard.admits(step, items[0].1, &norms)? {
            optimiser.step(&gradients, &norms, lr)?;
            ema.update(params)?;
        }
        at.advance(batches.len());
        step += 1;
        items.push(("lr".to_owned(), lr));
        items.extend(norms.log_items());
        log.write(step, &items)?;
        log.advance(step);
    }
    log.finish()
}

/// Chains to train on and to validate on.
fn records(config: &Config, tables: &Path) -> Result<[Vec<FoldRecord>; 2]> {
    let all = FoldRecord::read(tables).context("reading the backbones")?;
    let part = |split: Split, name: &str| -> Result<Vec<FoldRecord>> {
        let whole: Vec<&FoldRecord> = all.iter().filter(|r| r.split == split).collect();
        let short: Vec<FoldRecord> =
            whole.iter().filter(|r| r.len() <= config.max_length).map(|&r| r.clone()).collect();
        let longer = whole.len() - short.len();
        tracing::info!(
            "contact: {} {name} chains, {longer} more are longer than {} residues and left out",
            short.len(),
            config.max_length
        );
        ensure!(
            !short.is_empty(),
            "contact: no chain lies in the {name} part\nhint: ingest more, or raise max_length"
        );
        Ok(short)
    };
    Ok([part(Split::Train, "train")?, part(Split::Valid, "valid")?])
}

#[cfg(test)]
mod tests;
