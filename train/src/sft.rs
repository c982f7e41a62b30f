//! Supervised fine-tuning: base model + frozen protein encoder + bridge + LoRA learn to answer questions about proteins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::Device;
use datasets::llm::{Example, Row, Truth, audit};
use datasets::pack::best_fit_decreasing;
use models::llm::LoraConfig;
use models::{Gradients, Tape};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::llm::{Corpus, DataConfig, Questions};
use crate::loss::llm::{Average, TokenLoss};
use crate::memory::{self, Memory};
use crate::optim::OptimConfig;
use crate::steps::Steps;
use eval::llm::{Policy, ProteinConfig};
use eval::metric::overlap;

/// Examples whose loss tokens are printed before the first step.
const AUDITED: usize = 4;

/// The `sft` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of every draw.
    pub seed: u64,
    /// The base model: its folder, relative to this stage's, or `owner/name` of the Hugging Face hub.
    pub base: PathBuf,
    /// Whether the base model may be one that has not learnt to end a turn.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_base: bool,
    /// Optimiser steps.
    pub steps: u64,
    /// Examples in a micro-batch.
    pub batch_size: usize,
    /// Micro-batches in a step.
    pub accumulation: usize,
    /// Most tokens of a micro-batch whose examples stand behind each other without padding; it takes the place of
    /// `batch_size`, which with `accumulation` then only says how many examples a step has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack_tokens: Option<usize>,
    /// What is minimised: `nll` or `dft`.
    #[serde(default)]
    pub loss: TokenLoss,
    /// Over what it is averaged: `token` or `answer`.
    #[serde(default)]
    pub average: Average,
    /// Questions of each task of the valid part on which the loss is measured.
    pub eval_per_task: usize,
    /// How many of them are also answered: how often letter by letter as it is true; for texts BLEU and ROUGE-L, too.
    #[serde(default)]
    pub eval_answers: usize,
    /// Steps between measurements.
    pub eval_every: u64,
    /// Measurements in a row without a lower held-out loss after which the run ends. The model is then the one with the lowest;
    /// without this setting, all steps are taken and it is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// Where the encoder's vectors are kept on disk; without it they are computed anew in each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<eval::embeddings::Config>,
    /// Which questions.
    pub data: DataConfig,
    /// Questions of the first steps; without it, they are those of all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<First>,
    /// How proteins enter.
    pub protein: ProteinConfig,
    /// A bridge to begin with, of the same sizes: the folder that `peptalk train align` leaves, relative to this stage's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<PathBuf>,
    /// The adapter.
    pub lora: LoraConfig,
    /// How it is trained.
    pub optim: OptimConfig,
}

/// Tasks that are asked before all are asked side by side: what needs two proteins compared is learnt late, or never among
/// tasks that pay sooner (docs/lab-log.md).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct First {
    /// How many of the stage's steps.
    pub steps: u64,
    /// Some of the tasks of `data`.
    pub tasks: Vec<String>,
    /// Share of the questions that are of these tasks; the rest is of all, so that none is unlearnt meanwhile.
    pub share: f64,
}

impl First {
    fn questions<'a>(&'a self, corpus: &'a Corpus, seed: u64) -> Result<(&'a Self, Questions<'a>)> {
        ensure!((0.0..=1.0).contains(&self.share), "sft: first.share is a number from 0 to 1");
        let questions = corpus.questions_of(&self.tasks, seed, "sft/first");
        ensure!(
            !questions.is_empty(),
            "sft: no training record of the first tasks {:?}\nhint: name tasks of sft.data",
            self.tasks
        );
        Ok((self, questions))
    }

    /// Whether question number `at`, of this step, is one of its own.
    fn asks(&self, seed: u64, step: u64, at: u64) -> bool {
        step < self.steps && datasets::rng(seed, "sft/share", at).random::<f64>() < self.share
    }
}

/// Trains the adapter and the bridge on `device` and leaves them in `OUT/model`.
///
/// # Errors
/// On impossible settings, missing tables or models, a mask that would train nothing, a loss that stays without a finite
/// value, I/O.
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool, device: &Device) -> Result<()> {
    let sizes = [config.batch_size as u64, config.accumulation as u64, config.eval_every, config.save_every];
    ensure!(sizes.iter().all(|&n| n > 0) && config.pack_tokens != Some(0), "sft: sizes must be positive");
    fs_err::create_dir_all(out)?; // the paths of the settings begin here
    let corpus = Corpus::read(tables, &config.data)?;
    let questions = corpus.questions(config.seed, "sft/questions");
    let first = config.first.as_ref().map(|first| first.questions(&corpus, config.seed)).transpose()?;
    if !config.allow_base {
        eval::llm::refuse_base(&eval::hub::locate(out, &config.base)?.path)?;
    }
    let mut policy = Policy::new(out, &config.base, &config.protein, &config.lora, config.seed)?;
    config.data.check_lengths(&policy)?;
    if let Some(bridge) = &config.bridge {
        policy.assign_bridge(&out.join(bridge))?;
    }
    if let Some(embeddings) = &config.embeddings {
        policy.keep_embeddings(out, embeddings)?;
    }
    let policy = policy.to_device(device)?;
    let (frozen, trained) = policy.counts();
    tracing::info!("policy of {frozen} frozen weights and {trained} trained ones");
    let held_out = corpus.valid(config.seed, config.eval_per_task, policy.path())?;

    let mut steps =
        Steps::new(out, "policy", &config.optim, policy.params(), config.steps, config.max_bad_steps)?
            .with_patience(config.patience);
    if resume {
        steps.resume(|weights| policy.assign(weights))?;
    }
    let mut log = steps.log()?;
    loop {
        let step = steps.done();
        if steps.measures(config.eval_every) {
            let (loss, mut items) = held_out_losses(config, &policy, &held_out)?;
            if steps.improves(loss) && config.patience.is_some() {
                save(&policy, out)?;
            }
            items.extend(answers(config, &policy, &held_out)?);
            log.write(step, &items)?;
        }
        steps.save(config.save_every, &mut log, || policy.trained())?;
        if steps.ended() {
            break;
        }
        let per_step = (config.batch_size * config.accumulation) as u64;
        let rows = (step * per_step..(step + 1) * per_step)
            .map(|at| {
                let asked = match &first {
                    Some((first, questions)) if first.asks(config.seed, step, at) => questions,
                    _ => &questions,
                };
                policy.encode(&asked.get(at, policy.path()))
            })
            .collect::<Result<Vec<Row>>>()?;
        let shown = audit(&rows, policy.tokenizer(), AUDITED)?;
        if steps.is_first() {
            shown.iter().for_each(|text| tracing::info!("carries loss: {text}"));
            say_memory(config, &policy, &rows);
        }
        let (gradients, loss) = gradients(config, &policy, &rows, step)?;
        steps.take(&gradients, loss, &mut log)?;
    }
    log.finish()?;
    if config.patience.is_none() {
        save(&policy, out)?;
    }
    Ok(())
}

fn save(policy: &Policy, out: &Path) -> Result<()> {
    datasets::atomic_folder(&out.join("model"), |folder| policy.save(folder)).context("saving the policy")
}

/// Gradients and loss of one step, the mean over all its micro-batches.
fn gradients(config: &Config, policy: &Policy, rows: &[Row], step: u64) -> Result<(Gradients, f64)> {
    let n_tokens = rows.iter().map(|row| row.ids.len() - row.n_prompt).sum();
    let n_answers = rows.len();
    let (mut sum, mut loss) = (None::<Gradients>, 0.0);
    for (micro, rows) in micro_batches(config, rows).into_iter().enumerate() {
        let seed = config.seed;
        let tape = Tape::on()
            .with_draws(move |name| datasets::rng(seed, &format!("sft/dropout/{micro}/{name}"), step));
        let scores = match config.pack_tokens {
            Some(_) => policy.score_packed(&tape, &rows, 1.0)?,
            None => policy.score(&tape, &rows, 1.0)?,
        };
        let value = match config.average {
            Average::Token => config.loss.mean(&tape, &scores.logprobs, n_tokens)?,
            Average::Answer => {
                let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len() - row.n_prompt).collect();
                config.loss.mean_of_answers(&tape, &scores.logprobs, &lengths, n_answers)?
            }
        };
        loss += f64::from(value.value().to_scalar::<f32>()?);
        let gradients = tape.backward(&value)?;
        match &mut sum {
            Some(sum) => sum.accumulate(gradients)?,
            None => sum = Some(gradients),
        }
    }
    Ok((sum.context("a step without an example")?, loss))
}

/// Says how much memory a step will take, from the micro-batches of the first one.
fn say_memory(config: &Config, policy: &Policy, rows: &[Row]) {
    let size = |batch: &Vec<Row>| {
        let widest = batch.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let tokens = match config.pack_tokens {
            Some(capacity) => capacity.max(widest),
            None => batch.len() * widest,
        };
        let proteins = || batch.iter().flat_map(|row| &row.proteins);
        let longest = proteins().map(|shown| shown.sequence.len()).max().unwrap_or(0);
        (tokens as u64, (proteins().count() * longest) as u64)
    };
    let (tokens, residues) = micro_batches(config, rows).iter().map(size).max().unwrap_or_default();
    let ((frozen, trained), kept) = (policy.counts(), residues * policy.n_kept());
    let model = policy.model().config();
    let memory = Memory::estimate(model, frozen as u64, trained as u64, tokens, kept);
    tracing::info!("memory of a micro-batch of {tokens} tokens and {residues} residues: about {memory}");
    let needed = memory.with_passing() - memory.frozen; // those are there already
    let on_cpu = policy.model().device().is_cpu();
    if on_cpu && memory::available().is_some_and(|there| there < needed) {
        let key = if config.pack_tokens.is_some() { "pack_tokens" } else { "batch_size" };
        tracing::warn!(
            "this is more than the system has free\nhint: lower sft.{key} and raise sft.accumulation"
        );
    }
}

/// A step's examples as they are computed together: those with the longest proteins first, so that little is padding and a
/// step that does not fit into memory says so at its beginning.
fn micro_batches(config: &Config, rows: &[Row]) -> Vec<Vec<Row>> {
    let Some(capacity) = config.pack_tokens else {
        let longest = |row: &Row| row.proteins.iter().map(|shown| shown.sequence.len()).max();
        let mut rows = rows.to_vec();
        rows.sort_by_key(|row| std::cmp::Reverse((longest(row), row.ids.len())));
        return rows.chunks(config.batch_size).map(<[Row]>::to_vec).collect();
    };
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let lines = best_fit_decreasing(&lengths, capacity).into_iter();
    lines.map(|line| line.into_iter().map(|at| rows[at].clone()).collect()).collect()
}

/// Of the first questions of each task: the share whose most probable answer is the true one and, where answers are words,
/// how much of their text it repeats.
fn answers(config: &Config, policy: &Policy, examples: &[Example]) -> Result<Vec<(String, f64)>> {
    let mut tasks: BTreeMap<&str, Vec<&Example>> = BTreeMap::new();
    for example in examples {
        let own = tasks.entry(&example.task).or_default();
        if own.len() < config.eval_answers {
            own.push(example);
        }
    }
    let mut items = vec![];
    for (task, examples) in tasks.into_iter().filter(|(_, examples)| !examples.is_empty()) {
        let rows = examples.iter().map(|e| policy.encode(e)).collect::<Result<Vec<Row>>>()?;
        let longest = rows.iter().map(|row| row.ids.len() - row.n_prompt).max().unwrap_or(0);
        let prompts: Vec<Row> = rows.iter().map(Row::prompt).collect();
        let said = policy.answer(&prompts, longest)?;
        let texts = said.iter().map(|said| policy.decode(&said.tokens)).collect::<Result<Vec<String>>>()?;
        let pairs = || texts.iter().map(String::as_str).zip(examples.iter().map(|e| e.answer.as_str()));
        let n = examples.len() as f64;
        let exact = said.iter().zip(pairs()).filter(|(said, (text, truth))| said.stopped && text == truth);
        items.push((format!("valid/exact/{task}"), exact.count() as f64 / n));
        if examples.iter().all(|e| matches!(e.truth, Truth::Text(_))) {
            let (said, true_ones): (Vec<&str>, Vec<&str>) = pairs().unzip();
            items.push((format!("valid/bleu/{task}"), overlap::bleu(&said, &true_ones)));
            let rouge = pairs().map(|(text, truth)| overlap::rouge_l(text, truth)).sum::<f64>();
            items.push((format!("valid/rouge_l/{task}"), rouge / n));
        }
    }
    Ok(items)
}

/// Mean loss of a held-out token, and for the log beside it its exponential and the loss of each task.
fn held_out_losses(
    config: &Config,
    policy: &Policy,
    examples: &[Example],
) -> Result<(f64, Vec<(String, f64)>)> {
    let mut tasks: BTreeMap<&str, (f64, usize)> = BTreeMap::new();
    for examples in examples.chunks(config.batch_size) {
        let rows = examples.iter().map(|e| policy.encode(e)).collect::<Result<Vec<Row>>>()?;
        for (example, answer) in examples.iter().zip(policy.logprobs(&rows, 1.0)?) {
            let (sum, count) = tasks.entry(&example.task).or_default();
            *count += answer.len();
            *sum -= answer.into_iter().map(f64::from).sum::<f64>();
        }
    }
    let (sum, count) = tasks.values().fold((0.0, 0), |(s, n), (sum, count)| (s + sum, n + count));
    let mean = sum / count as f64;
    let mut items = vec![("valid/loss".to_owned(), mean), ("valid/perplexity".to_owned(), mean.exp())];
    let task =
        |(task, (sum, count)): (&str, (f64, usize))| (format!("valid/loss/{task}"), sum / count as f64);
    items.extend(tasks.into_iter().map(task));
    Ok((mean, items))
}
