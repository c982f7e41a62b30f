//! `eval go`: GO terms that a policy names, beside frequent terms and the terms of the nearest training protein.

use std::collections::BTreeMap;

use anyhow::Result;
use datasets::llm::{Fact, Record};
use rewards::go::{Terms, agreement};
use rewards::{Answer, Reason, Reward, Task, answer, frequent_terms};
use serde_json::{Map, json};

use super::{Asking, Corpus, Policy, Questions, sample, sampled};
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

/// Evaluates policies on the test part. A question asks for the terms of one aspect; sets are propagated, without roots. The
/// prediction is what several sampled answers agree on ([`consensus`]): the most probable answer of a policy that is
/// not sure is one rare list of terms, not the terms that are likely.
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
        let said = sampled(policy, &questions.examples, asking)?;
        let terms = |text: &String| match answer::parse(Task::Go, text) {
            Ok(Answer::Go(ids)) => reward.ontology.propagate(&ids),
            _ => Terms::default(),
        };
        let predict = |group: &Vec<String>| consensus(&group.iter().map(terms).collect::<Vec<_>>());
        let own: Vec<Terms> = said.iter().map(predict).collect();
        let blind: Vec<Terms> = sampled(policy, &questions.shuffled, asking)?.iter().map(predict).collect();
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
            let named = reward.ontology.specific_ids(&own[at]);
            let f1 = agreement(&own[at], &truths[at]).f1;
            let metrics = Map::from_iter([("f1".to_owned(), json!(f1))]);
            sample(at, example, &said[at].join("\n"), Ok(Answer::Go(named)), metrics)
        });
        results.push(Results {
            task: "go".to_owned(),
            model: name.clone(),
            dataset: Dataset { n_used: truths.len(), ..dataset.clone() },
            config: json!({ "asking": asking, "unreadable": unreadable(&said.concat(), Task::Go) }),
            samples: samples.collect(),
            rows,
            charts: vec![],
        });
        earlier.push((name.clone(), own));
    }
    Ok(results)
}

/// The terms that agree best with all answers to a question: what earns most if the truth is spread as they are. Tried are the
/// answers, and the terms that enough of them name.
fn consensus(answers: &[Terms]) -> Terms {
    let frequent = frequent_terms(&answers.iter().collect::<Vec<_>>());
    let worth = |terms: &Terms| answers.iter().map(|of| agreement(terms, of).f1).sum::<f64>();
    let tried = answers.iter().chain([&frequent]).map(|terms| (worth(terms), terms));
    let best = tried.reduce(|best, other| if other.0 > best.0 { other } else { best });
    best.map_or_else(Terms::default, |(_, terms)| terms.clone())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consensus_is_what_answers_agree_on() {
        let set = |indices: &[u32]| Terms { indices: indices.to_vec(), n_unknown: 0 };
        // Nobody says 1 and 2 alone, most say both.
        let said = [set(&[1, 2, 3]), set(&[1, 2, 4]), set(&[1, 2, 5]), set(&[6])];
        assert_eq!(consensus(&said), set(&[1, 2]));
        assert_eq!(consensus(&said[3..]), set(&[6]));
        let [most, one] = [set(&[7, 8]), set(&[9])];
        assert_eq!(consensus(&[most.clone(), one.clone(), most.clone(), most.clone()]), most);
        // A word more costs those who do not say it less than it gives the one who does.
        assert_eq!(consensus(&[most.clone(), one, most]), set(&[7, 8, 9]));
        // Not the best of all sets, but near it.
        let worth = |of: &Terms| said.iter().map(|one| agreement(of, one).f1).sum::<f64>();
        let subsets =
            (0..64).map(|bits: u32| set(&(1..=6).filter(|n| bits >> (n - 1) & 1 == 1).collect::<Vec<_>>()));
        let best = subsets.map(|of| worth(&of)).fold(0.0, f64::max);
        assert!(worth(&consensus(&said)) > 0.95 * best);
        assert_eq!(consensus(&[]), Terms::default());
    }
}
