//! `eval ppi`: whether two proteins interact, scored by the log-probabilities of the two answers.

use std::collections::BTreeMap;

use anyhow::Result;
use datasets::llm::{Example, Fact, Record};
use rewards::{Answer, Task};
use serde_json::{Map, json};

use super::{Asking, Corpus, Policy, Questions, sample};
use crate::baseline::neighbour::Neighbours;
use crate::baseline::ppi::{Lengths, Similar, positive_rate};
use crate::metric::classification::Confusion;
use crate::metric::ranking::{auroc, average_precision};
use crate::report::{Chart, Dataset, Results};
use crate::{Comparison, Kind};

type Metric = (&'static str, fn(&[(&f64, &bool)]) -> Option<f64>);

/// The metrics, by name; the first is the headline. A pair counts as interacting when yes is more probable than no.
const METRICS: [Metric; 5] = [
    ("auroc", |pairs| ranked(auroc, pairs)),
    ("average_precision", |pairs| ranked(average_precision, pairs)),
    ("acc", |pairs| confusion(pairs).accuracy()),
    ("mcc", |pairs| confusion(pairs).mcc()),
    ("predicted_positive", |pairs| {
        Some(pairs.iter().filter(|p| *p.0 > 0.0).count() as f64 / pairs.len() as f64)
    }),
];

fn ranked(metric: fn(&[bool], &[f64]) -> Option<f64>, pairs: &[(&f64, &bool)]) -> Option<f64> {
    let (labels, scores): (Vec<bool>, Vec<f64>) =
        pairs.iter().map(|(score, label)| (**label, **score)).unzip();
    metric(&labels, &scores)
}

fn confusion(pairs: &[(&f64, &bool)]) -> Confusion {
    Confusion::of(2, pairs.iter().map(|(score, label)| (u8::from(**label), u8::from(**score > 0.0))))
}

fn label(record: &Record) -> bool {
    matches!(record.fact, Fact::Ppi(true))
}

/// Evaluates policies on the test pairs.
///
/// # Errors
/// When a prompt cannot be encoded.
pub fn run(
    policies: &[(String, Policy)],
    corpus: &Corpus,
    asking: &Asking,
    dataset: &Dataset,
) -> Result<Vec<Results>> {
    let mut results: Vec<Results> = vec![];
    let mut earlier: Vec<(String, Vec<f64>)> = vec![];
    for (name, policy) in policies {
        let questions = Questions::new(&corpus.records.test, "ppi", asking, policy.path());
        let truths: Vec<bool> = questions.records.iter().map(|r| label(r)).collect();
        let [yes, no] = [Answer::Ppi(true).block(), Answer::Ppi(false).block()];
        let preferences = |examples: &[Example]| -> Result<Vec<f64>> {
            policy.yes_scores(&examples.iter().map(|e| policy.encode_prompt(e)).collect::<Result<Vec<_>>>()?)
        };
        let own = preferences(&questions.examples)?;
        let blind = preferences(&questions.shuffled)?;
        let floors = floors(corpus, &questions)?;
        let clusters = questions.clusters();
        let mut comparison =
            Comparison::new(&truths, &clusters, &own)?.against("shuffled proteins", Kind::Floor, &blind)?;
        for (floor, predictions) in &floors {
            comparison = comparison.against(floor, Kind::Floor, predictions)?;
        }
        for (other, predictions) in &earlier {
            comparison = comparison.against(other, Kind::Reference, predictions)?;
        }
        let rows = METRICS.iter().map(|(metric, value)| comparison.row(metric, true, value)).collect();
        let all: Vec<(&f64, &bool)> = own.iter().zip(&truths).collect();
        let chart = Chart::Confusion {
            title: "Interaction".to_owned(),
            classes: vec!["no".to_owned(), "yes".to_owned()],
            matrix: confusion(&all),
        };
        let samples = questions.examples.iter().enumerate().map(|(at, example)| {
            let metrics =
                Map::from_iter([("acc".to_owned(), json!(u8::from((own[at] > 0.0) == truths[at])))]);
            let said = if own[at] > 0.0 { &yes } else { &no };
            sample(at, example, said, rewards::answer::parse(Task::Ppi, said), metrics)
        });
        results.push(Results {
            task: "ppi".to_owned(),
            model: name.clone(),
            dataset: Dataset { n_used: truths.len(), ..dataset.clone() },
            config: json!({ "asking": asking, "score": "log P(yes) - log P(no)" }),
            samples: samples.collect(),
            rows,
            charts: vec![chart],
        });
        earlier.push((name.clone(), own));
    }
    Ok(results)
}

/// The class share, the lengths and similar pairs, as log-odds.
fn floors(corpus: &Corpus, questions: &Questions<'_>) -> Result<Vec<(String, Vec<f64>)>> {
    let train: Vec<&Record> =
        corpus.records.train.iter().filter(|r| matches!(r.fact, Fact::Ppi(_))).collect();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut sequences: Vec<&str> = vec![];
    let mut number = |sequence| {
        *numbers.entry(sequence).or_insert_with(|| {
            sequences.push(sequence);
            sequences.len() - 1
        })
    };
    let pairs: Vec<(usize, usize, bool)> =
        train.iter().map(|r| (number(&*r.proteins[0]), number(&*r.proteins[1]), label(r))).collect();
    let labels: Vec<bool> = pairs.iter().map(|pair| pair.2).collect();
    let lengths = Lengths::fit(
        &pairs.iter().map(|&(a, b, l)| (sequences[a].len(), sequences[b].len(), l)).collect::<Vec<_>>(),
    );
    let neighbours = Neighbours::new(5, sequences.iter().copied())?;
    let similar = Similar::new(&neighbours, &pairs);
    let log_odds = |p: f64| (p.clamp(1e-6, 1.0 - 1e-6) / (1.0 - p.clamp(1e-6, 1.0 - 1e-6))).ln();
    let each = |predict: &dyn Fn(&str, &str) -> f64| -> Vec<f64> {
        questions.records.iter().map(|r| log_odds(predict(&r.proteins[0], &r.proteins[1]))).collect()
    };
    Ok(vec![
        ("majority".to_owned(), each(&|_, _| positive_rate(&labels))),
        ("lengths".to_owned(), each(&|a, b| lengths.predict(a.len(), b.len()))),
        ("similar pairs".to_owned(), each(&|a, b| similar.predict(a, b))),
    ])
}
