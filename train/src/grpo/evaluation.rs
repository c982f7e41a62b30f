//! Held-out questions: the policy beside the SFT policy it began as, and beside the best constant answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use datasets::llm::{Example, Row};
use datasets::rng;
use eval::metric::bootstrap::Bootstrap;
use rewards::go::Ontology;
use rewards::{Reward, Truth};
use serde::Serialize;

use super::Config;
use crate::llm::truth;
use eval::llm::Policy;

/// Resamples of the intervals.
const N_RESAMPLES: usize = 1_000;

/// Held-out questions and what an answer to them earns.
pub struct Evaluation {
    reward: Reward,
    examples: Vec<Example>,
    truths: Vec<Truth>,
    prompts: Vec<Row>,
    /// Of the best constant answer for these very truths: no policy that ignores the question can beat it.
    floor: Vec<f64>,
}

/// What `test.json` holds: all tasks together, and each.
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
    /// Takes questions as `policy` reads them.
    pub(super) fn new(
        examples: Vec<Example>,
        ontology: &Ontology,
        reward: &Reward,
        policy: &Policy,
    ) -> Result<Self> {
        let scored: Option<Vec<Truth>> = examples.iter().map(|e| truth(e, ontology)).collect();
        let truths = scored.context("grpo: only go, ppi, ddg and plddt have a score")?;
        let prompts = examples.iter().map(|e| policy.encode_prompt(e)).collect::<Result<_>>()?;
        let mut floor = vec![0.0; examples.len()];
        for members in tasks(&examples).values() {
            let own: Vec<Truth> = members.iter().map(|&at| truths[at].clone()).collect();
            let floors = rewards::floors(reward, &[], &own)?;
            let constant = floors.first().context("no held-out truth")?;
            members.iter().zip(&constant.scores).for_each(|(&at, &score)| floor[at] = f64::from(score));
        }
        Ok(Self { reward: reward.clone(), examples, truths, prompts, floor })
    }

    /// Mean reward of the policy's sampled answers to each question: the same draws for every policy.
    pub(super) fn rewards(&self, config: &Config, policy: &Policy) -> Result<Vec<f64>> {
        let samples = config.eval_samples;
        let draw = |index: usize| rng(config.seed, "grpo/held-out", index as u64);
        let completions =
            policy.sample(&self.prompts, samples, config.max_new_tokens, config.temperature, draw)?;
        let mut means = vec![0.0; self.examples.len()];
        for (index, completion) in completions.iter().enumerate() {
            let question = index / samples;
            let score = self.reward.score(&policy.decode(&completion.tokens)?, &self.truths[question]);
            means[question] += f64::from(score.value) / samples as f64;
        }
        Ok(means)
    }

    /// Mean reward and floor, over all tasks and for each.
    pub(super) fn log_items(&self, rewards: &[f64]) -> Vec<(String, f64)> {
        let all = (String::new(), (0..rewards.len()).collect());
        let tasks = tasks(&self.examples).into_iter().map(|(task, members)| (format!("/{task}"), members));
        let mut items = vec![];
        for (name, members) in std::iter::once(all).chain(tasks) {
            let mean =
                |of: &[f64]| members.iter().map(|&at: &usize| of[at]).sum::<f64>() / members.len() as f64;
            items.push((format!("valid/reward{name}"), mean(rewards)));
            items.push((format!("valid/floor{name}"), mean(&self.floor)));
        }
        items
    }

    /// Writes the comparison of two policies by their rewards.
    pub(super) fn save(&self, seed: u64, sft: &[f64], grpo: &[f64], path: &Path) -> Result<()> {
        let line = |members: Vec<usize>| self.line(seed, sft, grpo, &members);
        let report = Report {
            all: line((0..self.examples.len()).collect()),
            tasks: tasks(&self.examples)
                .into_iter()
                .map(|(task, own)| (task.to_owned(), line(own)))
                .collect(),
        };
        let text = serde_json::to_string_pretty(&report)?;
        datasets::atomic_write(path, |file| Ok(writeln!(file, "{text}")?))
    }

    fn line(&self, seed: u64, sft: &[f64], grpo: &[f64], members: &[usize]) -> Line {
        let clusters: Vec<&str> = members.iter().map(|&at| self.examples[at].cluster.as_str()).collect();
        let bootstrap = Bootstrap::new(&clusters, N_RESAMPLES, seed);
        let mean = |value: &(dyn Fn(usize) -> f64 + Sync)| {
            let over = |chosen: &[usize]| {
                chosen.iter().map(|&i| value(members[i])).sum::<f64>() / chosen.len() as f64
            };
            let interval = bootstrap.interval(bootstrap.map(over).into_iter().map(Some));
            let all: Vec<usize> = (0..members.len()).collect();
            Mean { mean: over(&all), low: interval.map(|i| i.low), high: interval.map(|i| i.high) }
        };
        Line {
            n: members.len(),
            clusters: bootstrap.n_clusters(),
            grpo: mean(&|at| grpo[at]),
            sft: mean(&|at| sft[at]),
            best_constant: mean(&|at| self.floor[at]),
            gain_over_sft: mean(&|at| grpo[at] - sft[at]),
            gain_over_constant: mean(&|at| grpo[at] - self.floor[at]),
        }
    }
}

/// Numbers of the questions of each task.
fn tasks(examples: &[Example]) -> BTreeMap<&str, Vec<usize>> {
    let mut tasks: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    examples.iter().enumerate().for_each(|(at, e)| tasks.entry(&e.task).or_default().push(at));
    tasks
}
