//! Reinforcement from verifiable rewards: groups of answers are sampled, scored by `rewards`, and the policy moves
//! towards those that beat their siblings (GRPO, arXiv 2402.03300; DAPO, arXiv 2503.14476), held near the SFT policy by
//! a KL term.
//!
//! Sampler and trainer are one forward code whose bits do not depend on the batch, so on the first update after
//! sampling every importance ratio is exactly 1. That is asserted on every buffer: a difference would be a bug that
//! biases the gradient and shows in no curve.

mod evaluation;
mod rollout;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use datasets::rng;
use models::{Gradients, Tape};
use rewards::Reward;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::guard::Guard;
use crate::llm::{Corpus, DataConfig};
use crate::loss::llm::{Completions, PolicyLoss, PolicyStats, Window};
use crate::optim::OptimConfig;
use crate::run_log::RunLog;
use eval::llm::Policy;

pub use evaluation::Evaluation;
pub use rollout::Rollout;

/// The `grpo` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of every draw.
    pub seed: u64,
    /// Folder of the SFT policy, relative to this stage's.
    pub policy: PathBuf,
    /// Optimiser steps.
    pub steps: u64,
    /// Questions in a buffer.
    pub questions: usize,
    /// Answers sampled to each question: G.
    pub group: usize,
    /// Parts of the buffer, each one optimiser step.
    pub mini_batches: u64,
    /// Passes over a buffer before the next is sampled.
    pub iterations: u64,
    /// Completions whose activations exist at once.
    pub micro_batch: usize,
    /// Longest answer in tokens; longer ones are cut.
    pub max_new_tokens: usize,
    /// Of sampling; log-probabilities are taken at the same.
    pub temperature: f64,
    /// Questions of each task of the valid part, asked on the way.
    pub valid_per_task: usize,
    /// Questions of each task of the test part, asked of the SFT policy and of the finished one.
    pub test_per_task: usize,
    /// Answers sampled to each of these questions.
    pub eval_samples: usize,
    /// Steps between measurements on the valid part; the first and the last step are always measured.
    pub eval_every: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// Where the encoder's vectors are kept on disk; without it they are computed anew in each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<eval::embeddings::Config>,
    /// Which questions.
    pub data: DataConfig,
    /// The policy loss.
    pub loss: PolicyLoss,
    /// How the policy is trained.
    pub optim: OptimConfig,
}

impl Config {
    fn validate(&self) -> Result<()> {
        let sizes =
            [self.questions, self.micro_batch, self.max_new_tokens, self.valid_per_task, self.test_per_task];
        let counts = [self.mini_batches, self.iterations, self.eval_every, self.save_every];
        ensure!(
            self.eval_samples > 0 && sizes.iter().all(|&n| n > 0) && counts.iter().all(|&n| n > 0),
            "grpo: sizes must be positive"
        );
        ensure!(self.group >= 2, "grpo: a group needs at least two answers, got group = {}", self.group);
        ensure!(self.temperature > 0.0, "grpo: temperature must be positive, got {}", self.temperature);
        ensure!(
            (self.questions as u64).is_multiple_of(self.mini_batches),
            "grpo: {} questions do not part into {} mini_batches",
            self.questions,
            self.mini_batches
        );
        Ok(())
    }

    /// Optimiser steps that one buffer serves.
    fn updates(&self) -> u64 {
        self.mini_batches * self.iterations
    }
}

/// Trains the policy and leaves it in `OUT/model`; `OUT/test.json` compares it with the SFT policy and the best constant
/// answers on questions of the test part, `OUT/completions/` holds what was sampled.
///
/// # Errors
/// On impossible settings, missing tables or policy, a ratio that is not 1 on the first update, I/O.
#[expect(clippy::too_many_lines, reason = "a training loop reads from top to bottom in one place")]
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool) -> Result<()> {
    config.validate()?;
    fs_err::create_dir_all(out)?; // the paths of the settings begin here
    let corpus = Corpus::read(tables, &config.data)?;
    let reward = Reward { ontology: corpus.ontology.clone(), ..Reward::default() };
    let questions = corpus.questions(config.seed, "grpo/questions");
    let mut policy = Policy::load(&out.join(&config.policy))?;
    config.data.check_lengths(&policy)?;
    if let Some(embeddings) = &config.embeddings {
        policy.keep_embeddings(out, embeddings)?;
    }
    let reference = policy.trained_copy()?;
    let floors = rollout::Floors::new(&corpus, &questions, &reward)?;
    let evaluation = |examples| Evaluation::new(examples, &corpus.ontology, &reward, &policy);
    let valid = evaluation(corpus.valid(config.seed, config.valid_per_task, policy.path())?)?;
    let test = evaluation(corpus.test(config.seed, config.test_per_task, policy.path())?)?;

    let (mut optimiser, schedule) = config.optim.build(policy.params(), config.steps)?;
    let mut guard = Guard::new(config.max_bad_steps);
    let (mut step, mut resumed_at, mut buffer) = (0, None, None);
    if resume && let Some(mut checkpoint) = Checkpoint::latest(out)? {
        policy.assign(&checkpoint.take("policy")?)?;
        optimiser.load(&checkpoint.take("optimiser")?)?;
        guard.resume(checkpoint.state()?);
        step = checkpoint.step;
        resumed_at = Some(step);
        if step % config.updates() != 0 {
            let first = step - step % config.updates();
            let tensors = checkpoint.take("rollout")?;
            buffer = Some(Rollout::restore(config, &policy, &questions, &corpus, first, &tensors)?);
        }
    }
    let mut log = RunLog::open(out, config.steps, step)?;
    loop {
        if (step % config.eval_every == 0 || step == config.steps) && resumed_at != Some(step) {
            log.write(step, &valid.log_items(&valid.rewards(config, &policy)?))?;
        }
        if step > 0 && (step % config.save_every == 0 || step == config.steps) {
            log.sync()?;
            let mut checkpoint = Checkpoint::new(step, &guard.skipped())?
                .with("policy", policy.trained()?)
                .with("optimiser", optimiser.tensors()?);
            if step % config.updates() != 0
                && let Some(buffer) = &buffer
            {
                checkpoint = checkpoint.with("rollout", buffer.tensors()?);
            }
            checkpoint.save(out, 1)?;
        }
        if step == config.steps {
            break;
        }
        let update = step % config.updates();
        let rollout = match buffer.take() {
            Some(rollout) if update > 0 => rollout,
            _ => Rollout::sample(config, &policy, &reference, &questions, &corpus, &reward, step)?,
        };
        if update == 0 {
            rollout.save(&out.join("completions").join(format!("step-{step:06}.jsonl")), &policy)?;
        }
        let (gradients, loss, stats) = gradients(config, &policy, &rollout, update)?;
        let norms = optimiser.norms(&gradients)?;
        let lr = schedule.lr(step);
        if guard.admits(step, loss, &norms)? {
            optimiser.step(&gradients, &norms, lr)?;
        }
        step += 1;
        let tokens = stats.tokens as f64;
        let mut items = vec![
            ("loss".to_owned(), loss),
            ("lr".to_owned(), lr),
            ("kl".to_owned(), stats.kl / tokens),
            ("clip_ratio/low".to_owned(), stats.clipped_low as f64 / tokens),
            ("clip_ratio/high".to_owned(), stats.clipped_high as f64 / tokens),
            ("ratio/largest_log".to_owned(), stats.largest_log_ratio),
        ];
        items.extend(norms.log_items());
        if update == 0 {
            items.extend(rollout.log_items(&floors, &reward));
        }
        log.write(step, &items)?;
        log.advance(step);
        buffer = Some(rollout);
    }
    log.finish()?;
    let [sft, grpo] = [&reference, &policy].map(|policy| test.rewards(config, policy));
    test.save(config.seed, &sft?, &grpo?, &out.join("test.json"))?;
    datasets::atomic_folder(&out.join("model"), |folder| policy.save(folder)).context("saving the policy")
}

/// Gradients, loss and statistics of one mini-batch of the buffer.
fn gradients(
    config: &Config,
    policy: &Policy,
    rollout: &Rollout,
    update: u64,
) -> Result<(Gradients, f64, PolicyStats)> {
    let part = rollout.mini_batch(config, update % config.mini_batches);
    let window = Window { rows: part.len(), tokens: part.clone().map(|row| rollout.old[row].len()).sum() };
    let rows: Vec<usize> = part.collect();
    let (mut sum, mut loss, mut stats) = (None::<Gradients>, 0.0, PolicyStats::default());
    for micro in rows.chunks(config.micro_batch) {
        let tape = Tape::on();
        let chats: Vec<_> = micro.iter().map(|&row| rollout.rows[row].clone()).collect();
        let scores = policy.score(&tape, &chats, config.temperature)?;
        let flat =
            |of: &[Vec<f32>]| micro.iter().flat_map(|&row| of[row].iter().copied()).collect::<Vec<f32>>();
        let (old, reference) = (flat(&rollout.old), flat(&rollout.reference));
        if update == 0 {
            assert_on_policy(&scores.logprobs.value().to_vec1()?, &old)?;
        }
        let completions = Completions {
            lengths: &micro.iter().map(|&row| rollout.old[row].len()).collect::<Vec<_>>(),
            advantages: &micro.iter().map(|&row| rollout.advantages[row]).collect::<Vec<_>>(),
            old: &old,
            reference: &reference,
        };
        let (value, found) = config.loss.apply(&tape, &scores.logprobs, completions, window)?;
        loss += f64::from(value.value().to_scalar::<f32>()?);
        stats.add(found);
        let gradients = tape.backward(&value)?;
        match &mut sum {
            Some(sum) => sum.accumulate(gradients)?,
            None => sum = Some(gradients),
        }
    }
    Ok((sum.context("a mini-batch without a completion")?, loss, stats))
}

/// The trainer's log-probabilities of freshly sampled tokens are the sampler's, bit for bit.
fn assert_on_policy(trainer: &[f32], sampler: &[f32]) -> Result<()> {
    let differ = trainer.iter().zip(sampler).filter(|(t, s)| t.to_bits() != s.to_bits()).count();
    ensure!(
        differ == 0 && trainer.len() == sampler.len(),
        "the importance ratio of {differ} of {} tokens is not exactly 1 on the first update after sampling: sampler and \
         trainer disagree, which would bias the gradient. This is a bug of the program, not of the settings",
        sampler.len()
    );
    Ok(())
}

/// The generator of completion `index` of the buffer that begins at `step`.
fn completion_rng(config: &Config, step: u64, index: usize) -> rand_chacha::ChaCha8Rng {
    rng(config.seed, &format!("grpo/completion/{index}"), step)
}
