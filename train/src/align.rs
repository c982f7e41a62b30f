//! A bridge before the language model listens: each vector of a protein is read as if it were a word, and together they
//! shall say the words of an answer about it.
//!
//! A bridge that learns from a language model's answers alone may never find what decides them (docs/lab-log.md). BLIP-2
//! (arXiv 2301.12597) and ProtT3 (arXiv 2405.12564) train theirs in two such stages, too. Here the targets are words in the
//! language model's own embedding, so nothing is trained that the next stage throws away, and no layer of it is run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use datasets::llm::Row;
use eval::llm::{Policy, ProteinConfig};
use models::Tape;
use models::llm::LoraConfig;
use serde::{Deserialize, Serialize};

use crate::llm::{Corpus, DataConfig};
use crate::optim::OptimConfig;
use crate::steps::Steps;

/// The `align` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of every draw.
    pub seed: u64,
    /// The language model whose words are said: its folder, relative to this stage's, or `owner/name` of the Hugging Face hub.
    pub base: PathBuf,
    /// Optimiser steps.
    pub steps: u64,
    /// Answers in a step: what differs between them is learnt.
    pub batch_size: usize,
    /// Answers of each task of the valid part on which the loss is measured.
    pub eval_per_task: usize,
    /// Steps between measurements.
    pub eval_every: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// Which questions; each must be about one protein.
    pub data: DataConfig,
    /// Encoder and bridge.
    pub protein: ProteinConfig,
    /// How the bridge is trained.
    pub optim: OptimConfig,
}

/// Trains the bridge and leaves it in `OUT/model`.
///
/// # Errors
/// On impossible settings, missing tables or models, tasks about more than one protein, a loss that stays without a finite
/// value, I/O.
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool) -> Result<()> {
    ensure!(
        config.batch_size > 1 && config.eval_every > 0 && config.save_every > 0,
        "align: sizes must be positive, batch_size 2 or more"
    );
    fs_err::create_dir_all(out)?; // the paths of the settings begin here
    let corpus = Corpus::read(tables, &config.data)?;
    let questions = corpus.questions(config.seed, "align/questions");
    // A policy like that of the next stage. Nothing but the bridge is used of it, so the adapter is the smallest there is.
    let lora =
        LoraConfig { target_modules: ["v_proj"].into(), r: 1, lora_alpha: 1.0, ..LoraConfig::default() };
    let policy = Policy::new(out, &config.base, &config.protein, &lora, config.seed)?;
    config.data.check_lengths(&policy)?;
    let bridge = policy.bridge().context("align: a model that reads letters has no bridge")?;
    let held_out = corpus.valid(config.seed, config.eval_per_task, policy.path())?;
    let held_out = held_out.iter().map(|example| policy.encode(example)).collect::<Result<Vec<Row>>>()?;

    let mut steps =
        Steps::new(out, "bridge", &config.optim, bridge.params(), config.steps, config.max_bad_steps)?;
    if resume {
        steps.resume(|weights| Ok(bridge.params().assign(weights)?))?;
    }
    let mut log = steps.log()?;
    loop {
        let step = steps.done();
        if steps.measures(config.eval_every) {
            let mut sum = 0.0;
            for rows in held_out.chunks(config.batch_size) {
                let loss = policy.alignment(&Tape::off(), rows)?.value().to_scalar::<f32>()?;
                sum += f64::from(loss) * rows.len() as f64;
            }
            log.write(step, &[("valid/loss".to_owned(), sum / held_out.len() as f64)])?;
        }
        steps.save(config.save_every, &mut log, || Ok(bridge.params().snapshot()?))?;
        if steps.ended() {
            break;
        }
        let n = config.batch_size as u64;
        let rows = (step * n..(step + 1) * n)
            .map(|at| policy.encode(&questions.get(at, policy.path())))
            .collect::<Result<Vec<Row>>>()?;
        let seed = config.seed;
        let tape = Tape::on().with_draws(move |name| datasets::rng(seed, &format!("align/{name}"), step));
        let loss = policy.alignment(&tape, &rows)?;
        let gradients = tape.backward(&loss)?;
        let loss = f64::from(loss.value().to_scalar::<f32>()?);
        steps.take(&gradients, loss, &mut log)?;
    }
    log.finish()?;
    datasets::atomic_folder(&out.join("model"), |folder| bridge.save(folder)).context("saving the bridge")
}
