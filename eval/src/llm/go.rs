//! `eval go`: GO terms that a policy names, beside frequent terms and the terms of the nearest training protein.

use std::collections::BTreeMap;

use anyhow::Result;
use datasets::llm::{Fact, Record};
use rewards::go::Terms;
use rewards::{Answer, Reason, Reward, Task, answer};
use serde_json::{Map, json};

use super::{Asking, Corpus, Policy, Questions, answers, sample};
use crate::baseline::go::{constants, transfer};
use crate::baseline::neighbour::Neighbours;
use crate::metric::go::{Prf, macro_, micro};
use crate::report::{Dataset, Results};
use crate::{Comparison, Kind};

type Metric = (&'static str, fn(&[(&Terms, &Terms)]) -> Option<f64>);

/// The metrics, by name; the first, the mean reward, is the headline.
const METRICS: [Metric; 4] = [
    ("f1_mean", |pairs| of(macro_, pairs, |prf| prf.f1)),
    ("f1_micro", |pairs| of(micro, pairs, |prf| prf.f1)),
    ("precision_micro", |pairs| of(micro, pairs, |prf| prf.precision)),
    ("recall_micro", |pairs| of(micro, pairs, |prf| prf.recall)),
];

fn of<'a>(
    metric: fn(Vec<(&'a Terms, &'a Terms)>) -> Option<Prf>,
    pairs: &[(&'a Terms, &'a Terms)],
    part: fn(&Prf) -> f64,
) -> Option<f64> {
    metric(pairs.to_vec()).as_ref().map(part)
}

fn annotated(record: &Record) -> Option<(char, &[String])> {
    match &record.fact {
        Fact::Go { aspect, terms, .. } => Some((*aspect, terms)),
        _ => None,
    }
}

/// Evaluates policies on the test part. A question asks for the terms of one aspect; sets are propagated, without roots.
///
/// # Errors
/// When a prompt cannot be encoded.
pub fn run(
    policies: &[(String, Policy)],
    corpus: &Corpus,
    asking: &Asking,
    dataset: &Dataset,
) -> Result<Vec<Results>> {
    let reward = Reward { ontology: corpus.ontology.clone(), ..Reward::default() };
    let propagated = |record: &Record| annotated(record).map(|(_, terms)| reward.ontology.propagate(terms));
    let mut results: Vec<Results> = vec![];
    let mut earlier: Vec<(String, Vec<Terms>)> = vec![];
    for (name, policy) in policies {
        let questions = Questions::new(&corpus.records.test, "go", asking, policy.path());
        let truths: Vec<Terms> = questions.records.iter().filter_map(|r| propagated(r)).collect();
        let said = answers(policy, &questions.examples, asking)?;
        let read = |text: &String| answer::parse(Task::Go, text);
        let terms = |text: &String| match read(text) {
            Ok(Answer::Go(ids)) => reward.ontology.propagate(&ids),
            _ => Terms::default(),
        };
        let own: Vec<Terms> = said.iter().map(terms).collect();
        let blind: Vec<Terms> = answers(policy, &questions.shuffled, asking)?.iter().map(terms).collect();
        let floors = floors(corpus, &reward, &questions, &truths)?;
        let clusters = questions.clusters();
        let mut comparison =
            Comparison::new(&truths, &clusters, &own)?.against("shuffled protein", Kind::Floor, &blind)?;
        for (floor, predictions) in &floors {
            comparison = comparison.against(floor, Kind::Floor, predictions)?;
        }
        for (other, predictions) in &earlier {
            comparison = comparison.against(other, Kind::Reference, predictions)?;
        }
        let rows = METRICS.iter().map(|(metric, value)| comparison.row(metric, true, value)).collect();
        let samples = questions.examples.iter().enumerate().map(|(at, example)| {
            let parsed = read(&said[at]);
            let f1 = macro_([(&own[at], &truths[at])]).map(|prf| prf.f1);
            let metrics = Map::from_iter([("f1".to_owned(), json!(f1))]);
            sample(at, example, &said[at], parsed, metrics)
        });
        results.push(Results {
            task: "go".to_owned(),
            model: name.clone(),
            dataset: Dataset { n_used: truths.len(), ..dataset.clone() },
            config: json!({ "asking": asking, "unreadable": unreadable(&said, Task::Go) }),
            samples: samples.collect(),
            rows,
            charts: vec![],
        });
        earlier.push((name.clone(), own));
    }
    Ok(results)
}

/// Constant answers and the nearest training protein, each fitted per aspect.
fn floors(
    corpus: &Corpus,
    reward: &Reward,
    questions: &Questions<'_>,
    truths: &[Terms],
) -> Result<Vec<(String, Vec<Terms>)>> {
    let mut floors: BTreeMap<String, Vec<Terms>> = BTreeMap::new();
    for aspect in ['F', 'P', 'C'] {
        let train: Vec<&Record> =
            corpus.records.train.iter().filter(|r| annotated(r).is_some_and(|a| a.0 == aspect)).collect();
        let known: Vec<Terms> =
            train.iter().filter_map(|r| annotated(r)).map(|(_, t)| reward.ontology.propagate(t)).collect();
        let asked: Vec<usize> = (0..truths.len())
            .filter(|&at| annotated(questions.records[at]).is_some_and(|a| a.0 == aspect))
            .collect();
        let own: Vec<Terms> = asked.iter().map(|&at| truths[at].clone()).collect();
        if own.is_empty() {
            continue;
        }
        let mut place = |name: &str, predictions: Vec<Terms>| {
            let all = floors.entry(name.to_owned()).or_insert_with(|| vec![Terms::default(); truths.len()]);
            asked.iter().zip(predictions).for_each(|(&at, terms)| all[at] = terms);
        };
        let constant = constants(reward, &known, &own)?;
        let otherwise = constant.last().map(|(_, terms)| terms.clone()).unwrap_or_default();
        for (name, terms) in constant {
            place(name, vec![terms; own.len()]);
        }
        let neighbours = Neighbours::new(5, train.iter().map(|r| &*r.proteins[0]))?;
        let queries = asked.iter().map(|&at| &*questions.records[at].proteins[0]);
        place("nearest neighbour", transfer(&neighbours, &known, queries, &otherwise));
    }
    Ok(floors.into_iter().collect())
}

/// Answers that could not be read, by reason.
pub(super) fn unreadable(said: &[String], task: Task) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let reasons = said.iter().filter_map(|text| answer::parse(task, text).err());
    reasons.for_each(|reason: Reason| *counts.entry(reason.to_string()).or_insert(0) += 1);
    counts
}
