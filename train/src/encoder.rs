//! A small protein encoder from scratch: a masked language model with the shape of ESM-2, trained on the sequences of
//! the train split, so that everything runs where no checkpoint can be had.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use datasets::collate::Padding;
use datasets::rng;
use datasets::sampler::Budget;
use datasets::stream::Stream;
use datasets::table::{ProteinRow, Rows, Split, scan};
use models::llm::encoder::{self, EOS, Esm2, MASK, PAD};
use models::{Tape, Var, Weights, ops};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::guard::Guard;
use crate::optim::OptimConfig;
use crate::progress::refuse_leaks;
use crate::run_log::RunLog;

/// Share of the residues that are to be predicted; of these, 80% are masked, 10% replaced, 10% left. BERT and ESM-2 choose
/// 15%; a small model learns more from a step that asks more (arXiv 2202.08005; docs/lab-log.md).
const CHOSEN: f64 = 0.30;
/// Ids of the 20 standard residues: the first after the special tokens.
const STANDARD: std::ops::Range<u32> = 4..24;

/// Threads that read proteins beside the one that trains: one reads far more than is learnt from (docs/benchmarks.md).
const READERS: usize = 1;

/// What is read of a protein.
#[derive(Deserialize)]
struct Protein {
    sequence: String,
    split: Split,
}

impl Protein {
    /// Tokens of a protein to train on, or why it is none.
    fn n_tokens(&self, max_residues: usize) -> Result<usize, &'static str> {
        match self.split {
            Split::Train if self.sequence.len() <= max_residues => Ok(self.sequence.len() + 2),
            Split::Train => Err("longer than max_residues"),
            Split::Valid | Split::Test | Split::Excluded => Err("not of the train split"),
        }
    }

    fn is_held_out(&self, max_residues: usize) -> bool {
        matches!(self.split, Split::Valid | Split::Test) && self.sequence.len() <= max_residues
    }
}

/// The `encoder` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of every draw.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Residues in a batch, padding included.
    pub batch_residues: usize,
    /// Longer proteins are left out.
    pub max_residues: usize,
    /// Held-out proteins on which the perplexity is measured.
    pub eval_proteins: usize,
    /// Steps between measurements.
    pub eval_every: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// How it is trained.
    pub optim: OptimConfig,
}

/// Sizes of the encoder; names as in its `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
}

/// Trains the encoder and leaves it in `OUT/model`, as transformers reads ESM-2.
///
/// # Errors
/// On impossible settings, missing or leaking tables, a loss that stays without a finite value, I/O.
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool) -> Result<()> {
    ensure!(
        config.eval_every > 0 && config.save_every > 0,
        "encoder: eval_every and save_every must be positive"
    );
    refuse_leaks(tables)?;
    let table = ProteinRow::path(tables);
    let held_out = HeldOut::read(config, &table)?;
    let seed = config.seed;
    let model = encoder::Config {
        hidden_size: config.model.hidden_size,
        num_hidden_layers: config.model.num_hidden_layers,
        num_attention_heads: config.model.num_attention_heads,
        intermediate_size: config.model.intermediate_size,
        max_position_embeddings: config.max_residues + 2,
        layer_norm_eps: 1e-5,
        token_dropout: true,
    };
    let weights = Weights::random(move |name| rng(seed, &format!("init/{name}"), 0));
    let model = Esm2::new(model, weights)?;
    let (n, _) = model.params().counts();
    tracing::info!("encoder of {n} weights");

    let (budget, longest) = (Budget::Residues(config.batch_residues), config.max_residues);
    let mut stream =
        Stream::open(&[table], seed, budget, READERS, move |row: &Protein| row.n_tokens(longest))?;
    let (mut optimiser, schedule) = config.optim.build(model.params(), config.steps)?;
    let mut guard = Guard::new(config.max_bad_steps);
    let (mut step, mut resumed_at) = (0, None);
    if resume && let Some(mut checkpoint) = Checkpoint::latest(out)? {
        model.params().assign(&checkpoint.take("model")?)?;
        optimiser.load(&checkpoint.take("optimiser")?)?;
        let (position, skipped) = checkpoint.state()?;
        stream = stream.resume(position)?;
        guard.resume(skipped);
        step = checkpoint.step;
        resumed_at = Some(step);
    }
    let mut log = RunLog::open(out, config.steps, step)?;
    loop {
        if (step % config.eval_every == 0 || step == config.steps) && resumed_at != Some(step) {
            log.write(step, &held_out.measure(&model)?)?;
        }
        if step > 0 && (step % config.save_every == 0 || step == config.steps) {
            log.sync()?;
            Checkpoint::new(step, &(stream.position(), guard.skipped()))?
                .with("model", model.params().snapshot()?)
                .with("optimiser", optimiser.tensors()?)
                .save(out, 1)?;
        }
        if step == config.steps {
            break;
        }
        let hide = |(row, protein): (usize, &Protein)| {
            let mut rng = rng(seed, &format!("encoder/mask/{row}"), step);
            hide(&encoder::encode(&protein.sequence), &mut rng)
        };
        let hidden: Vec<Hidden> = stream.next_batch()?.rows.iter().enumerate().map(hide).collect();
        let tape = Tape::on();
        let (loss, _) = mean_loss(&tape, &model, &hidden)?;
        let value = f64::from(loss.value().to_scalar::<f32>()?);
        let gradients = tape.backward(&loss)?;
        let items = guard.step(&mut optimiser, &gradients, step, value, schedule.lr(step))?;
        step += 1;
        log.write(step, &items)?;
        log.advance(step);
    }
    log.finish()?;
    datasets::atomic_folder(&out.join("model"), |folder| model.save(folder).context("saving the encoder"))
}

/// A protein with some residues hidden.
struct Hidden {
    ids: Vec<u32>,
    /// Positions that are to be predicted, and what stood there.
    chosen: Vec<(usize, u32)>,
}

/// Chooses residues and hides them; at least one.
fn hide(ids: &[u32], rng: &mut ChaCha8Rng) -> Hidden {
    let mut hidden = Hidden { ids: ids.to_vec(), chosen: vec![] };
    let residues = 1..ids.len() - 1;
    for at in residues.clone() {
        if rng.random::<f64>() < CHOSEN {
            hidden.chosen.push((at, ids[at]));
        }
    }
    if hidden.chosen.is_empty() {
        let at = rng.random_range(residues);
        hidden.chosen.push((at, ids[at]));
    }
    for &(at, _) in &hidden.chosen {
        match rng.random::<f64>() {
            p if p < 0.8 => hidden.ids[at] = MASK,
            p if p < 0.9 => hidden.ids[at] = rng.random_range(STANDARD),
            _ => {}
        }
    }
    hidden
}

/// Mean cross-entropy of the chosen residues, and how many there are.
fn mean_loss(tape: &Tape, model: &Esm2, rows: &[Hidden]) -> Result<(Var, usize)> {
    let padding = Padding::new(rows.iter().map(|row| row.ids.len()).collect())?;
    let ids = padding.pad(rows.iter().map(|row| row.ids.as_slice()), 1, PAD)?;
    let hidden = model.hidden(tape, &ids, padding.lengths())?;
    let (mut places, mut targets) = (vec![], vec![]);
    for (row, hidden) in rows.iter().enumerate() {
        places.extend(hidden.chosen.iter().map(|(at, _)| row * padding.width() + at));
        targets.extend(hidden.chosen.iter().map(|(_, id)| *id as u8)); // there are 33 ids
    }
    let logits = model.masked_logits(tape, &hidden, &places)?;
    let n = targets.len();
    Ok((ops::cross_entropy(tape, &logits, &Tensor::from_vec(targets, n, &Device::Cpu)?)?, n))
}

/// Held-out proteins with the same residues hidden at every measurement.
struct HeldOut {
    batches: Vec<Vec<Hidden>>,
    /// Perplexity of the residue frequencies of train on the same residues: what a model that sees nothing reaches.
    floor: f64,
}

impl HeldOut {
    /// Reads the proteins twice, and keeps those that are measured: what is drawn depends on how many there are.
    fn read(config: &Config, table: &Path) -> Result<Self> {
        let longest = config.max_residues;
        let (mut letters, mut n_train, mut n_held_out, mut too_long) = ([0_u64; 128], 0, 0, 0);
        for protein in scan::<Protein>(table)? {
            let protein = protein?;
            match protein.split {
                Split::Excluded => {}
                _ if protein.sequence.len() > longest => too_long += 1,
                Split::Valid | Split::Test => n_held_out += 1,
                Split::Train => {
                    n_train += 1;
                    protein.sequence.bytes().for_each(|letter| letters[letter as usize & 127] += 1);
                }
            }
        }
        tracing::info!(
            "{n_train} proteins to train on; left out: {too_long} × protein longer than max_residues"
        );
        ensure!(
            n_train > 0 && n_held_out > 0,
            "{n_train} proteins to train on and {n_held_out} held out, of at most {longest} residues\nhint: raise max_residues or ingest more data"
        );
        let mut order: Vec<usize> = (0..n_held_out).collect();
        order.shuffle(&mut rng(config.seed, "encoder/held-out", 0));
        order.truncate(config.eval_proteins);
        let mut chosen: BTreeMap<usize, Vec<u32>> = order.iter().map(|&at| (at, vec![])).collect();
        let held_out = scan::<Protein>(table)?
            .filter(|protein| protein.as_ref().map_or(true, |protein| protein.is_held_out(longest)));
        for (at, protein) in held_out.enumerate() {
            let protein = protein?;
            chosen.entry(at).and_modify(|ids| *ids = encoder::encode(&protein.sequence));
        }
        let mask =
            |&at: &usize| hide(&chosen[&at], &mut rng(config.seed, "encoder/held-out/mask", at as u64));
        Self::new(config, &letters, order.iter().map(mask).collect())
    }

    /// `letters`: how often each ASCII letter stands in train.
    fn new(config: &Config, letters: &[u64; 128], mut rows: Vec<Hidden>) -> Result<Self> {
        ensure!(!rows.is_empty(), "encoder: eval_proteins must be positive");
        rows.sort_by_key(|row| row.ids.len());
        let mut counts = vec![1.0; MASK as usize + 1];
        for (letter, n) in letters.iter().enumerate().filter(|(_, n)| **n > 0) {
            let id = encoder::encode(&char::from(letter as u8).to_string())[1];
            counts[id as usize] += *n as f64;
        }
        let total: f64 = counts[EOS as usize + 1..].iter().sum();
        let targets: Vec<u32> = rows.iter().flat_map(|row| row.chosen.iter().map(|(_, id)| *id)).collect();
        let loss: f64 = targets.iter().map(|&id| -(counts[id as usize] / total).ln()).sum();
        let floor = (loss / targets.len() as f64).exp();
        let (mut batches, mut batch) = (vec![], vec![]);
        for row in rows {
            let length = row.ids.len();
            batch.push(row);
            if batch.len() * length >= config.batch_residues {
                batches.push(std::mem::take(&mut batch));
            }
        }
        batches.extend((!batch.is_empty()).then_some(batch));
        Ok(Self { batches, floor })
    }

    fn measure(&self, model: &Esm2) -> Result<Vec<(String, f64)>> {
        let (mut total, mut n) = (0.0, 0);
        for batch in &self.batches {
            let (loss, n_chosen) = mean_loss(&Tape::off(), model, batch)?;
            total += f64::from(loss.value().to_scalar::<f32>()?) * n_chosen as f64;
            n += n_chosen;
        }
        let loss = total / n as f64;
        Ok(vec![
            ("valid/loss".to_owned(), loss),
            ("valid/perplexity".to_owned(), loss.exp()),
            ("valid/perplexity_of_frequencies".to_owned(), self.floor),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hiding_follows_its_shares() {
        let ids = encoder::encode(&"ACDEFGHIKL".repeat(997));
        let hidden = hide(&ids, &mut rng(1, "test", 0));
        let n = hidden.chosen.len() as f64;
        assert!((n / 9970.0 - 0.30).abs() < 0.012, "{n}");
        let masked = hidden.chosen.iter().filter(|(at, _)| hidden.ids[*at] == MASK).count() as f64;
        let kept = hidden.chosen.iter().filter(|(at, id)| hidden.ids[*at] == *id).count() as f64;
        assert!((masked / n - 0.8).abs() < 0.04 && (kept / n - 0.105).abs() < 0.03, "{masked} {kept} {n}");
        let chosen: Vec<usize> = hidden.chosen.iter().map(|(at, _)| *at).collect();
        assert!((0..ids.len()).all(|at| chosen.contains(&at) || hidden.ids[at] == ids[at]));
        assert_eq!(hide(&encoder::encode("M"), &mut rng(1, "test", 1)).chosen.len(), 1);
    }

    #[test]
    fn the_stream_counts_tokens() {
        let protein = |split| Protein { sequence: "MKTXU".into(), split };
        assert_eq!(protein(Split::Train).n_tokens(5), Ok(encoder::encode("MKTXU").len()));
        assert_eq!(protein(Split::Train).n_tokens(4), Err("longer than max_residues"));
        assert_eq!(protein(Split::Test).n_tokens(5), Err("not of the train split"));
        assert!(protein(Split::Valid).is_held_out(5) && !protein(Split::Valid).is_held_out(4));
    }
}
