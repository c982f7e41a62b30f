//! Held-out questions, put to a policy with and without its proteins.

use anyhow::Result;
use datasets::llm::{Example, ProteinPath, Record};
use datasets::rng;
use models::llm::Completion;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::Policy;
use crate::baseline::shuffled;

/// How a policy is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asking {
    /// Of the choice of questions and wordings.
    pub seed: u64,
    /// Most questions of each task.
    pub per_task: usize,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Answers sampled to a question whose answer is a number or some terms; what they agree on is the prediction.
    pub samples: usize,
}

/// The questions of one task: records of the test part, each in one wording, and the same with every sequence shuffled.
pub struct Questions<'a> {
    /// What is asked about.
    pub records: Vec<&'a Record>,
    /// As words.
    pub examples: Vec<Example>,
    /// The same words about the same residues in another order: what a policy answers when it cannot read the protein.
    pub shuffled: Vec<Example>,
}

impl<'a> Questions<'a> {
    /// At most `asking.per_task` questions, the same for every policy.
    pub fn new(test: &'a [Record], task: &str, asking: &Asking, path: ProteinPath) -> Self {
        let mut records: Vec<&Record> = test.iter().filter(|record| record.task == task).collect();
        records.shuffle(&mut rng(asking.seed, &format!("eval/{task}"), 0));
        records.truncate(asking.per_task);
        let ask = |at: usize, record: &Record| record.ask(&mut rng(asking.seed, "eval/ask", at as u64), path);
        let examples = records.iter().enumerate().map(|(at, record)| ask(at, record)).collect();
        let blind = records.iter().enumerate().map(|(at, record)| {
            let proteins =
                record.proteins.iter().map(|p| shuffled(p, asking.seed, at as u64).into()).collect();
            ask(at, &Record { proteins, ..(*record).clone() })
        });
        Self { shuffled: blind.collect(), examples, records }
    }

    /// Homology clusters, one per question.
    pub fn clusters(&self) -> Vec<&str> {
        self.records.iter().map(|record| record.cluster.as_str()).collect()
    }
}

/// `asking.samples` sampled answers to each question, decoded.
///
/// # Errors
/// When a prompt cannot be encoded.
pub(super) fn sampled(policy: &Policy, examples: &[Example], asking: &Asking) -> Result<Vec<Vec<String>>> {
    let prompts = examples.iter().map(|example| policy.encode_prompt(example)).collect::<Result<Vec<_>>>()?;
    let draw = |answer: usize| rng(asking.seed, "eval/samples", answer as u64);
    let completions = policy.sample(&prompts, asking.samples, asking.max_new_tokens, 1.0, draw)?;
    let decode = |group: &[Completion]| group.iter().map(|c| policy.decode(&c.tokens)).collect();
    completions.chunks_exact(asking.samples).map(decode).collect()
}
