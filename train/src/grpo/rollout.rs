//! A buffer of sampled and scored answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use datasets::llm::{Example, ProteinPath, Row};
use rewards::{Reward, Score, Truth};

use super::{Config, completion_rng};
use crate::advantage::advantages;
use crate::llm::{Corpus, Questions, truth};
use crate::optim::Tensors;
use eval::llm::Policy;

/// The answers of one buffer, question by question.
pub struct Rollout {
    /// The step at which it was sampled.
    pub step: u64,
    /// Prompt and completion.
    pub rows: Vec<Row>,
    /// Log-probability of each completion token when it was sampled.
    pub old: Vec<Vec<f32>>,
    /// The same under the reference policy.
    pub reference: Vec<Vec<f32>>,
    /// One for each completion.
    pub rewards: Vec<f32>,
    /// One for each completion.
    pub advantages: Vec<f32>,
    n_constant_groups: usize,
    examples: Vec<Example>,
    truths: Vec<Truth>,
    scores: Vec<Score>,
    n_cut: usize,
}

impl Rollout {
    /// Samples and scores the buffer that begins at `step`.
    pub(super) fn sample(
        config: &Config,
        policy: &Policy,
        reference: &Policy,
        questions: &Questions<'_>,
        corpus: &Corpus,
        reward: &Reward,
        step: u64,
    ) -> Result<Self> {
        let (examples, truths) = ask(config, policy.path(), questions, corpus, step)?;
        let prompts: Vec<Row> = examples.iter().map(|e| policy.encode_prompt(e)).collect::<Result<_>>()?;
        let completions =
            policy.sample(&prompts, config.group, config.max_new_tokens, config.temperature, |index| {
                completion_rng(config, step, index)
            })?;
        let (mut rows, mut old, mut scores, mut n_cut) = (vec![], vec![], vec![], 0);
        for (index, completion) in completions.into_iter().enumerate() {
            let question = index / config.group;
            let text = policy.decode(&completion.tokens)?;
            scores.push(reward.score(&text, &truths[question]));
            rows.push(joined(&prompts[question], &completion.tokens));
            old.push(completion.logprobs);
            n_cut += usize::from(!completion.stopped);
        }
        let reference = reference_logprobs(config, reference, &rows)?;
        let rewards: Vec<f32> = scores.iter().map(|score| score.value).collect();
        let found = advantages(&rewards, config.group)?;
        Ok(Self {
            step,
            rows,
            old,
            reference,
            rewards,
            advantages: found.values,
            n_constant_groups: found.n_constant_groups,
            examples,
            truths,
            scores,
            n_cut,
        })
    }

    /// What a checkpoint keeps: completions, their log-probabilities and rewards. The questions come again from their
    /// numbers.
    pub(super) fn tensors(&self) -> Result<Tensors> {
        let flat = |of: &[Vec<f32>]| Tensor::new(of.concat(), &Device::Cpu);
        let lengths: Vec<u32> = self.old.iter().map(|logprobs| logprobs.len() as u32).collect();
        let ids: Vec<u32> =
            self.rows.iter().flat_map(|row| row.ids[row.n_prompt..].iter().copied()).collect();
        Ok(Tensors::from([
            ("ids".to_owned(), Tensor::new(ids, &Device::Cpu)?),
            ("lengths".to_owned(), Tensor::new(lengths, &Device::Cpu)?),
            ("old".to_owned(), flat(&self.old)?),
            ("reference".to_owned(), flat(&self.reference)?),
            ("rewards".to_owned(), Tensor::new(self.rewards.as_slice(), &Device::Cpu)?),
        ]))
    }

    /// The buffer that began at `step`, from a checkpoint.
    pub(super) fn restore(
        config: &Config,
        policy: &Policy,
        questions: &Questions<'_>,
        corpus: &Corpus,
        step: u64,
        tensors: &Tensors,
    ) -> Result<Self> {
        let get = |name: &str| tensors.get(name).with_context(|| format!("the rollout buffer has no {name}"));
        let (examples, truths) = ask(config, policy.path(), questions, corpus, step)?;
        let prompts: Vec<Row> = examples.iter().map(|e| policy.encode_prompt(e)).collect::<Result<_>>()?;
        let lengths: Vec<u32> = get("lengths")?.to_vec1()?;
        ensure!(
            lengths.len() == prompts.len() * config.group,
            "the rollout buffer of the checkpoint holds {} completions, {} × {} are wanted",
            lengths.len(),
            prompts.len(),
            config.group
        );
        let ids: Vec<u32> = get("ids")?.to_vec1()?;
        let rewards: Vec<f32> = get("rewards")?.to_vec1()?;
        let (ids, old) = (parts(&ids, &lengths), parts(&get("old")?.to_vec1::<f32>()?, &lengths));
        let reference = parts(&get("reference")?.to_vec1::<f32>()?, &lengths);
        let rows = ids.iter().enumerate().map(|(i, ids)| joined(&prompts[i / config.group], ids)).collect();
        let found = advantages(&rewards, config.group)?;
        let n_constant_groups = found.n_constant_groups;
        let (scores, n_cut, advantages) = (vec![], 0, found.values);
        Ok(Self {
            step,
            rows,
            old,
            reference,
            rewards,
            advantages,
            n_constant_groups,
            examples,
            truths,
            scores,
            n_cut,
        })
    }

    /// Completions of one part of the buffer.
    pub(super) fn mini_batch(&self, config: &Config, part: u64) -> Range<usize> {
        let size = self.rows.len() / config.mini_batches as usize;
        part as usize * size..(part as usize + 1) * size
    }

    /// Means over the buffer: reward, its parts by task beside what the best constant answer would have earned, and what
    /// went wrong.
    pub(super) fn log_items(&self, floors: &Floors, reward: &Reward) -> Vec<(String, f64)> {
        let n = self.rewards.len() as f64;
        let group = self.rewards.len() / self.examples.len();
        let mut tasks: BTreeMap<&str, (f64, f64, f64)> = BTreeMap::new();
        for (question, (example, truth)) in self.examples.iter().zip(&self.truths).enumerate() {
            let own = &self.rewards[question * group..(question + 1) * group];
            let (sum, floor, count) = tasks.entry(&example.task).or_default();
            *sum += own.iter().map(|&r| f64::from(r)).sum::<f64>() / group as f64;
            *floor += floors.earned(&example.task, truth, reward);
            *count += 1.0;
        }
        let mean = self.rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / n;
        let unread = self.scores.iter().filter(|score| score.reason.is_some()).count();
        let tokens: usize = self.old.iter().map(Vec::len).sum();
        let mut items = vec![
            ("reward".to_owned(), mean),
            ("constant_groups".to_owned(), self.n_constant_groups as f64 / self.examples.len() as f64),
            ("unread".to_owned(), unread as f64 / n),
            ("cut".to_owned(), self.n_cut as f64 / n),
            ("completion_tokens".to_owned(), tokens as f64 / n),
        ];
        for (task, (sum, floor, count)) in tasks {
            items.push((format!("reward/{task}"), sum / count));
            items.push((format!("floor/{task}"), floor / count));
        }
        items
    }

    /// Writes every completion with what it earned, one JSON object a line.
    pub(super) fn save(&self, path: &Path, policy: &Policy) -> Result<()> {
        let group = self.rewards.len() / self.examples.len();
        datasets::atomic_write(path, |file| -> Result<()> {
            let mut file = std::io::BufWriter::new(file);
            for (index, (row, score)) in self.rows.iter().zip(&self.scores).enumerate() {
                let example = &self.examples[index / group];
                let line = serde_json::json!({
                    "step": self.step,
                    "task": example.task,
                    "prompt": example.prompt.last().map(|message| &message.content),
                    "completion": policy.decode(&row.ids[row.n_prompt..])?,
                    "answer": example.answer,
                    "reward": score.value,
                    "reason": score.reason,
                    "advantage": self.advantages[index],
                });
                writeln!(file, "{line}")?;
            }
            Ok(file.flush()?)
        })
    }
}

/// The questions of the buffer that begins at `step`; answers in words cannot be scored.
fn ask(
    config: &Config,
    path: ProteinPath,
    questions: &Questions<'_>,
    corpus: &Corpus,
    step: u64,
) -> Result<(Vec<Example>, Vec<Truth>)> {
    let first = step / config.updates() * config.questions as u64;
    let examples: Vec<Example> =
        (0..config.questions as u64).map(|i| questions.get(first + i, path)).collect();
    let truths = examples
        .iter()
        .map(|example| {
            truth(example, &corpus.ontology).with_context(|| {
                format!(
                    "grpo: answers of task {} have no score; there are: go, ppi, ddg, plddt",
                    example.task
                )
            })
        })
        .collect::<Result<_>>()?;
    Ok((examples, truths))
}

fn joined(prompt: &Row, completion: &[u32]) -> Row {
    Row { ids: [&prompt.ids, completion].concat(), ..prompt.clone() }
}

fn parts<T: Copy>(flat: &[T], lengths: &[u32]) -> Vec<Vec<T>> {
    let mut rest = flat.iter().copied();
    lengths.iter().map(|&n| rest.by_ref().take(n as usize).collect()).collect()
}

fn reference_logprobs(config: &Config, reference: &Policy, rows: &[Row]) -> Result<Vec<Vec<f32>>> {
    let mut out = Vec::with_capacity(rows.len());
    for rows in rows.chunks(config.micro_batch) {
        out.extend(reference.logprobs(rows, config.temperature)?);
    }
    Ok(out)
}

/// The best constant answer of each task, chosen on training questions: what the reward is logged beside.
pub(super) struct Floors(BTreeMap<String, String>);

/// Training questions from which the constant answers are chosen.
const FLOOR_QUESTIONS: u64 = 2_000;

impl Floors {
    pub(super) fn new(corpus: &Corpus, questions: &Questions<'_>, reward: &Reward) -> Result<Self> {
        let mut truths: BTreeMap<String, Vec<Truth>> = BTreeMap::new();
        for at in 0..FLOOR_QUESTIONS {
            let example = questions.get(at, ProteinPath::Encoder);
            if let Some(truth) = truth(&example, &corpus.ontology) {
                truths.entry(example.task).or_default().push(truth);
            }
        }
        let best = |(task, truths): (String, Vec<Truth>)| -> Result<_> {
            let floors = rewards::floors(reward, &[], &truths)?;
            let constant = floors.first().context("no truth to choose a constant answer on")?;
            Ok((task, format!("<answer>{}</answer>", constant.answer)))
        };
        Ok(Self(truths.into_iter().map(best).collect::<Result<_>>()?))
    }

    fn earned(&self, task: &str, truth: &Truth, reward: &Reward) -> f64 {
        self.0.get(task).map_or(0.0, |answer| f64::from(reward.score(answer, truth).value))
    }
}
