//! `eval likelihood`: how probable the true answers are, beside the same with every protein's residues shuffled.
//!
//! The most direct answer to whether a policy reads its proteins: no grammar, no drawing, every token of every question
//! counts, and the two are compared in pairs.

use anyhow::Result;
use datasets::llm::Example;
use serde_json::{Map, json};

use super::{Asking, Corpus, Policy, Questions};
use crate::report::{Dataset, Results, Sample};
use crate::{Comparison, Kind};

/// Questions that are scored together; no score depends on it.
const BATCH: usize = 32;

/// Negative log-likelihood of one answer, and its tokens (which end with the end of the turn).
#[derive(Debug, Clone, Copy)]
struct Nll {
    nats: f64,
    tokens: usize,
}

/// Evaluates policies on questions of every task of the test part, in nats per token of the answers.
///
/// # Errors
/// When a question cannot be encoded.
pub fn run(
    policies: &[(String, Policy)],
    corpus: &Corpus,
    tasks: &[String],
    asking: &Asking,
    dataset: &Dataset,
) -> Result<Vec<Results>> {
    let mut results: Vec<Results> = vec![];
    let mut earlier: Vec<(String, Vec<Nll>)> = vec![];
    for (name, policy) in policies {
        let questions: Vec<Questions<'_>> = tasks
            .iter()
            .map(|task| Questions::new(&corpus.records.test, task, asking, policy.path()))
            .collect();
        let examples: Vec<&Example> = questions.iter().flat_map(|q| &q.examples).collect();
        let shuffled: Vec<&Example> = questions.iter().flat_map(|q| &q.shuffled).collect();
        let clusters: Vec<&str> = questions.iter().flat_map(Questions::clusters).collect();
        let of: Vec<&str> = examples.iter().map(|example| example.task.as_str()).collect();
        let (own, blind) = (score(policy, &examples)?, score(policy, &shuffled)?);
        let mut comparison =
            Comparison::new(&of, &clusters, &own)?.against("shuffled protein", Kind::Floor, &blind)?;
        for (other, scores) in &earlier {
            comparison = comparison.against(other, Kind::Reference, scores)?;
        }
        let mut rows = vec![comparison.row("nats_per_token", false, |pairs| mean(pairs, |_| true))];
        for task in tasks.iter().filter(|task| of.contains(&task.as_str())) {
            let metric = format!("nats_per_token_{task}");
            rows.push(comparison.row(&metric, false, |pairs| mean(pairs, |other| other == task)));
        }
        let samples = examples.iter().enumerate().map(|(at, example)| Sample {
            doc_id: at,
            doc: json!({ "task": example.task, "cluster": example.cluster }),
            target: json!(example.answer),
            arguments: json!(example.prompt.iter().map(|message| &message.content).collect::<Vec<_>>()),
            resps: json!(-own[at].nats),
            filtered_resps: json!(-own[at].nats),
            metrics: Map::from_iter([
                ("nats".to_owned(), json!(own[at].nats)),
                ("nats_shuffled".to_owned(), json!(blind[at].nats)),
                ("tokens".to_owned(), json!(own[at].tokens)),
            ]),
        });
        results.push(Results {
            task: "likelihood".to_owned(),
            model: name.clone(),
            dataset: Dataset { n_used: examples.len(), ..dataset.clone() },
            config: json!({ "asking": asking, "tasks": tasks }),
            samples: samples.collect(),
            rows,
            charts: vec![],
        });
        earlier.push((name.clone(), own));
    }
    Ok(results)
}

/// Nats per token of the answers of some tasks; `None` where a resample has no such answer.
fn mean(pairs: &[(&Nll, &&str)], counts: impl Fn(&str) -> bool) -> Option<f64> {
    let own = pairs.iter().filter(|(_, task)| counts(task));
    let (nats, tokens) = own.fold((0.0, 0), |(nats, n), (nll, _)| (nats + nll.nats, n + nll.tokens));
    (tokens > 0).then(|| nats / tokens as f64)
}

/// The true answer to each question.
fn score(policy: &Policy, examples: &[&Example]) -> Result<Vec<Nll>> {
    let mut scores = Vec::with_capacity(examples.len());
    for examples in examples.chunks(BATCH) {
        let rows = examples.iter().map(|example| policy.encode(example)).collect::<Result<Vec<_>>>()?;
        let logprobs = policy.logprobs(&rows, 1.0)?.into_iter();
        scores.extend(logprobs.map(|answer| Nll {
            tokens: answer.len(),
            nats: -answer.into_iter().map(f64::from).sum::<f64>(),
        }));
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_over_tokens_of_the_tasks_asked_for() {
        let nll = [(6.0, 3), (1.0, 1), (8.0, 2)].map(|(nats, tokens)| Nll { nats, tokens });
        let of = ["go", "ddg", "go"];
        let pairs: Vec<(&Nll, &&str)> = nll.iter().zip(&of).collect();
        assert_eq!(mean(&pairs, |_| true), Some(2.5));
        assert_eq!(mean(&pairs, |task| task == "go"), Some(2.8));
        assert_eq!(mean(&pairs, |task| task == "ppi"), None);
    }
}
