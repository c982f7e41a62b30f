//! `eval stability`: the ddG that a policy names, beside predictors that see only which residue becomes which.

use std::collections::BTreeMap;

use anyhow::Result;
use datasets::llm::{Fact, Record};
use rewards::{Answer, Task, answer};
use serde_json::{Map, json};

use super::go::unreadable;
use super::{Asking, Corpus, Policy, Questions, sample, sampled};
use crate::baseline::stability::{Mutation, Substitutions};
use crate::metric::correlation::{antisymmetry, mae, pearson, rmse, spearman};
use crate::report::{Chart, Dataset, Results};
use crate::{Comparison, Kind};

type Metric = (&'static str, bool, fn(&[f64], &[f64]) -> Option<f64>);

/// The metrics, by name and direction; the first is the headline.
const METRICS: [Metric; 4] =
    [("spearman", true, spearman), ("pearson", true, pearson), ("rmse", false, rmse), ("mae", false, mae)];

fn mutation(record: &Record) -> Option<Mutation> {
    match record.fact {
        Fact::Ddg { wild_type, mutant, kcal, .. } => Some((wild_type as u8, mutant as u8, f64::from(kcal))),
        _ => None,
    }
}

/// Evaluates policies on the test mutations. The prediction is the mean of the middle half of several sampled answers: the
/// most probable answer is the commonest number, not the expected one, and one slip of the tongue (a lost decimal point) would
/// outweigh all others in a mean. An answer that cannot be read counts as the mean of training, so that silence is no
/// advantage.
///
/// # Errors
/// When a prompt cannot be encoded.
pub fn run(
    policies: &[(String, Policy)],
    corpus: &Corpus,
    asking: &Asking,
    dataset: &Dataset,
) -> Result<Vec<Results>> {
    let train: Vec<Mutation> = corpus.records.train.iter().filter_map(mutation).collect();
    let substitutions = Substitutions::fit(&train);
    let mut results: Vec<Results> = vec![];
    let mut earlier: Vec<(String, Vec<f64>)> = vec![];
    for (name, policy) in policies {
        let questions = Questions::new(&corpus.records.test, "ddg", asking, policy.path());
        let asked: Vec<Mutation> = questions.records.iter().filter_map(|r| mutation(r)).collect();
        let truths: Vec<f64> = asked.iter().map(|m| m.2).collect();
        let said = sampled(policy, &questions.examples, asking)?;
        let number = |text: &String| match answer::parse(Task::Ddg, text) {
            Ok(Answer::Ddg(kcal)) => f64::from(kcal),
            _ => substitutions.constant(),
        };
        let predict = |group: &Vec<String>| interquartile_mean(group.iter().map(number).collect());
        let own: Vec<f64> = said.iter().map(predict).collect();
        let blind: Vec<f64> = sampled(policy, &questions.shuffled, asking)?.iter().map(predict).collect();
        let floor = |predict: &dyn Fn(&Mutation) -> f64| asked.iter().map(predict).collect::<Vec<f64>>();
        let constant = floor(&|_| substitutions.constant());
        let matrix = floor(&|m| substitutions.matrix(m.0, m.1));
        let hydrophobicity = floor(&|m| substitutions.hydrophobicity(m.0, m.1));
        let clusters = questions.clusters();
        let mut comparison = Comparison::new(&truths, &clusters, &own)?
            .against("constant", Kind::Floor, &constant)?
            .against("substitution mean", Kind::Floor, &matrix)?
            .against("hydrophobicity", Kind::Floor, &hydrophobicity)?
            .against("shuffled proteins", Kind::Floor, &blind)?;
        for (other, predictions) in &earlier {
            comparison = comparison.against(other, Kind::Reference, predictions)?;
        }
        let row = |&(metric, higher, value): &Metric| {
            comparison.row(metric, higher, |pairs| {
                let (predicted, true_): (Vec<f64>, Vec<f64>) = pairs.iter().map(|(p, t)| (**p, **t)).unzip();
                value(&predicted, &true_)
            })
        };
        let samples = questions.examples.iter().enumerate().map(|(at, example)| {
            let metrics = Map::from_iter([("abs_error".to_owned(), json!((own[at] - truths[at]).abs()))]);
            sample(at, example, &said[at].join("\n"), Ok(Answer::Ddg(own[at] as f32)), metrics)
        });
        let chart = Chart::Scatter {
            title: "ΔΔG".to_owned(),
            unit: "kcal/mol".to_owned(),
            points: truths.iter().copied().zip(own.iter().copied()).collect(),
        };
        results.push(Results {
            task: "stability".to_owned(),
            model: name.clone(),
            dataset: Dataset { n_used: truths.len(), ..dataset.clone() },
            config: json!({
                "asking": asking,
                "unreadable": unreadable(&said.concat(), Task::Ddg),
                "antisymmetry": reversed(&questions, &own),
            }),
            samples: samples.collect(),
            rows: METRICS.iter().map(row).collect(),
            charts: vec![chart],
        });
        earlier.push((name.clone(), own));
    }
    Ok(results)
}

/// Mean of the numbers without the lowest quarter and the highest one.
fn interquartile_mean(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = &numbers[numbers.len() / 4..numbers.len() - numbers.len() / 4];
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// Mutations that were asked about in both directions: their number, the correlation of the two predictions (−1 is
/// right) and the bias, half the mean of their sums (0 is right).
fn reversed(questions: &Questions<'_>, predictions: &[f64]) -> serde_json::Value {
    type Key<'a> = (&'a str, u32, char);
    let mut by_key: BTreeMap<Key<'_>, f64> = BTreeMap::new();
    let mut pairs: Vec<(f64, f64)> = vec![];
    for (example, (record, &kcal)) in questions.examples.iter().zip(questions.records.iter().zip(predictions))
    {
        let (Fact::Ddg { wild_type, position, mutant, .. }, Some(after)) =
            (&record.fact, example.proteins.get(1))
        else {
            continue;
        };
        if let Some(&other) = by_key.get(&(&*after.sequence, *position, *wild_type)) {
            pairs.push((kcal, other));
        }
        by_key.insert((&*record.proteins[0], *position, *mutant), kcal);
    }
    let (forward, backward): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
    let found = antisymmetry(&forward, &backward);
    json!({ "n": forward.len(), "pearson": found.and_then(|f| f.0), "bias": found.map(|f| f.1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slip_does_not_move_the_middle_half() {
        assert_eq!(interquartile_mean(vec![1.5]), 1.5);
        assert_eq!(interquartile_mean(vec![2.0, 1.0]), 1.5);
        assert_eq!(interquartile_mean(vec![340.0, 1.0, 2.0, 0.0]), 1.5);
        // scipy.stats.trim_mean(range(10), 0.25)
        assert_eq!(interquartile_mean((0..10).map(f64::from).collect()), 4.5);
    }
}
