//! Held-out questions: the policy beside the SFT policy it began as, and beside the best constant answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use datasets::llm::{Example, Row};
use datasets::rng;
use eval::metric::bootstrap::Bootstrap;
use rewards::{Reward, Truth};
use serde::Serialize;

use super::Config;
use crate::llm::{Corpus, truth};
use eval::llm::Policy;

/// Resamples of the intervals.
const N_RESAMPLES: usize = 1_000;

/// Mean rewards on the held-out questions, each with a 95% interval over homology clusters.
pub struct Evaluation {
    reward: Reward,
    examples: Vec<Example>,
    truths: Vec<Truth>,
    prompts: Vec<Row>,
    floor: Vec<f64>,
    seed: u64,
    sft: Vec<f64>,
    now: Vec<f64>,
}

/// What `heldout.json` holds: all tasks together, and each.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    all: Line,
    tasks: BTreeMap<String, Line>,
}

#[derive(Serialize)]
struct Line {
    n: usize,
    clusters: usize,
    grpo: Mean,
    sft: Mean,
    best_constant: Mean,
    gain_over_sft: Mean,
    gain_over_constant: Mean,
}

#[derive(Serialize)]
struct Mean {
    mean: f64,
    low: Option<f64>,
    high: Option<f64>,
}

impl Evaluation {
    pub(super) fn new(config: &Config, corpus: &Corpus, reward: &Reward, policy: &Policy) -> Result<Self> {
        let examples = corpus.held_out(config.seed, config.eval_per_task, policy.path())?;
        let scored: Option<Vec<Truth>> = examples.iter().map(|e| truth(e, &corpus.ontology)).collect();
        let truths = scored.context("grpo: only go, ppi, ddg and plddt have a score")?;
        let prompts = examples.iter().map(|e| policy.encode_prompt(e)).collect::<Result<_>>()?;
        // The best constant for these very truths: no policy that ignores the question can beat it.
        let mut floor = vec![0.0; examples.len()];
        let mut tasks: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, example) in examples.iter().enumerate() {
            tasks.entry(&example.task).or_default().push(at);
        }
        for members in tasks.values() {
            let own: Vec<Truth> = members.iter().map(|&at| truths[at].clone()).collect();
            let floors = rewards::floors(reward, &[], &own)?;
            let constant = floors.first().context("no held-out truth")?;
            members.iter().zip(&constant.scores).for_each(|(&at, &score)| floor[at] = f64::from(score));
        }
        let (reward, seed) = (reward.clone(), config.seed);
        Ok(Self { reward, examples, truths, prompts, floor, seed, sft: vec![], now: vec![] })
    }

    /// Samples answers of the policy as it is, the same draws at every step. At step 0 it is the SFT policy.
    pub(super) fn measure(
        &mut self,
        config: &Config,
        policy: &Policy,
        step: u64,
    ) -> Result<Vec<(String, f64)>> {
        let samples = config.eval_samples;
        let draw = |index: usize| rng(config.seed, "grpo/held-out", index as u64);
        let completions =
            policy.sample(&self.prompts, samples, config.max_new_tokens, config.temperature, draw)?;
        self.now = vec![0.0; self.examples.len()];
        for (index, completion) in completions.iter().enumerate() {
            let question = index / samples;
            let score = self.reward.score(&policy.decode(&completion.tokens)?, &self.truths[question]);
            self.now[question] += f64::from(score.value) / samples as f64;
        }
        if step == 0 {
            self.sft = self.now.clone();
        }
        let mut items = vec![];
        let Report { all, tasks } = self.report()?;
        let tasks = tasks.into_iter().map(|(task, line)| (format!("/{task}"), line));
        for (name, line) in [(String::new(), all)].into_iter().chain(tasks) {
            items.push((format!("valid/reward{name}"), line.grpo.mean));
            items.push((format!("valid/floor{name}"), line.best_constant.mean));
        }
        Ok(items)
    }

    /// Mean reward of every held-out question before the first step.
    pub(super) fn sft_rewards(&self) -> &[f64] {
        &self.sft
    }

    pub(super) fn resume(&mut self, sft_rewards: Vec<f64>) {
        self.sft = sft_rewards;
    }

    fn report(&self) -> Result<Report> {
        let mut tasks: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, example) in self.examples.iter().enumerate() {
            tasks.entry(example.task.clone()).or_default().push(at);
        }
        let all: Vec<usize> = (0..self.examples.len()).collect();
        let line = |(task, members): (String, Vec<usize>)| Ok((task, self.line(&members)?));
        Ok(Report { all: self.line(&all)?, tasks: tasks.into_iter().map(line).collect::<Result<_>>()? })
    }

    fn line(&self, members: &[usize]) -> Result<Line> {
        ensure!(self.sft.len() == self.now.len(), "the SFT policy was never evaluated");
        let clusters: Vec<&str> = members.iter().map(|&at| self.examples[at].cluster.as_str()).collect();
        let bootstrap = Bootstrap::new(&clusters, N_RESAMPLES, self.seed);
        let mean = |value: &(dyn Fn(usize) -> f64 + Sync)| {
            let over = |chosen: &[usize]| {
                chosen.iter().map(|&i| value(members[i])).sum::<f64>() / chosen.len() as f64
            };
            let interval = bootstrap.interval(bootstrap.map(over).into_iter().map(Some));
            let all: Vec<usize> = (0..members.len()).collect();
            Mean { mean: over(&all), low: interval.map(|i| i.low), high: interval.map(|i| i.high) }
        };
        Ok(Line {
            n: members.len(),
            clusters: bootstrap.n_clusters(),
            grpo: mean(&|at| self.now[at]),
            sft: mean(&|at| self.sft[at]),
            best_constant: mean(&|at| self.floor[at]),
            gain_over_sft: mean(&|at| self.now[at] - self.sft[at]),
            gain_over_constant: mean(&|at| self.now[at] - self.floor[at]),
        })
    }

    /// Writes the comparison.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.report()?)?;
        datasets::atomic_write(path, |file| Ok(writeln!(file, "{text}")?))
    }
}
