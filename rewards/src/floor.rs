//! Floors: what an answer earns that never looks at the prompt.
//!
//! Each floor is one answer, chosen from truths alone and scored as if a model had written it, by the very function
//! that scores the model. The scores are kept per example, so that the gain over a floor can be bootstrapped in pairs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::answer::{Answer, Confidence, Task};
use crate::{Reward, Truth, go};

/// One constant answer and what it earns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Floor {
    /// * `constant`: the best constant answer for the very truths it is scored on. No policy that ignores the prompt
    ///   can beat it (for `go` within the family "all terms of at least some frequency");
    /// * `majority`: the most common class in train (`ppi`, `plddt` with the mean number of that class), the most
    ///   common single term (`go`);
    /// * `mean`: the mean of train (`ddg`);
    /// * `frequency`: all terms at least as frequent in train as the threshold that earns most there (`go`).
    pub name: &'static str,
    /// The answer, as it would stand in the block.
    pub answer: String,
    /// What it earns for each truth, in their order.
    pub scores: Vec<f32>,
}

impl Floor {
    /// Mean reward; 0 for no truths.
    pub fn mean(&self) -> f64 {
        mean(self.scores.iter().map(|&s| f64::from(s)))
    }
}

/// Truths of more than one task cannot share a constant answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("floors need truths of one task, got {0} and {1}")]
pub struct MixedTasks(Task, Task);

/// The floors of a task on `test`. What depends on training data is chosen on `train`; with an empty `train` only
/// `constant` is given, with an empty `test` nothing.
///
/// # Errors
/// [`MixedTasks`] when the truths are not all of one task.
pub fn floors(reward: &Reward, train: &[Truth], test: &[Truth]) -> Result<Vec<Floor>, MixedTasks> {
    let Some(first) = test.first() else { return Ok(vec![]) };
    let task = first.task();
    if let Some(other) = train.iter().chain(test).find(|truth| truth.task() != task) {
        return Err(MixedTasks(task, other.task()));
    }
    let mut answers = vec![("constant", best_constant(reward, task, test))];
    if !train.is_empty() {
        match task {
            Task::Go => {
                answers.push(("majority", most_common_term(reward, train)));
                answers.push(("frequency", best_constant(reward, task, train)));
            }
            Task::Ppi => answers.push(("majority", best_constant(reward, task, train))),
            Task::Ddg => answers.push(("mean", Answer::Ddg(mean(numbers(train)) as f32))),
            Task::Plddt => answers.push(("majority", most_common_class(train))),
        }
    }
    let floor = |(name, answer): (_, Answer)| {
        let block = answer.block();
        let scores = test.iter().map(|truth| reward.score(&block, truth).value).collect();
        Floor { name, answer: answer.to_string(), scores }
    };
    Ok(answers.into_iter().map(floor).collect())
}

/// The constant answer that earns most on `truths`, which are not empty and all of `task`.
fn best_constant(reward: &Reward, task: Task, truths: &[Truth]) -> Answer {
    match task {
        Task::Go => answer_of(reward, &frequent_terms(&sets(truths))),
        Task::Ppi => {
            let n_yes = truths.iter().filter(|truth| **truth == Truth::Ppi(true)).count();
            Answer::Ppi(2 * n_yes > truths.len())
        }
        Task::Ddg => {
            let earns = |kcal: f32| sum(numbers(truths).map(|t| f64::from(reward.ddg.value(kcal, t as f32))));
            Answer::Ddg(best((-50..=100).map(|tenth| tenth as f32 / 10.0), earns))
        }
        Task::Plddt => {
            let classes = [Confidence::Low, Confidence::Medium, Confidence::High];
            let candidates = classes.into_iter().flat_map(|class| (0..=100).map(move |n| (class, n as f32)));
            let earns = |(class, n): (Confidence, f32)| {
                sum(numbers(truths).map(|t| f64::from(reward.structure.value(class, Some(n), t as f32).0)))
            };
            let (class, number) = best(candidates, earns);
            Answer::Plddt(class, Some(number))
        }
    }
}

/// All terms with at least the frequency among these sets that earns most on them.
pub fn frequent_terms(sets: &[&go::Terms]) -> go::Terms {
    let counts = term_counts(sets);
    let mut thresholds: Vec<usize> = counts.iter().map(|&(_, n)| n).collect();
    thresholds.sort_unstable_by(|a, b| b.cmp(a));
    thresholds.dedup();
    // A term in under 2% of the sets costs more precision than it can bring; 50 steps bound the search.
    let steps = thresholds.into_iter().filter(|n| n * 50 >= sets.len()).take(50);
    let with = |threshold: usize| {
        let indices = counts.iter().filter(|&&(_, n)| n >= threshold).map(|&(term, _)| term).collect();
        go::Terms { indices, n_unknown: 0 }
    };
    let earns = |threshold: usize| {
        let terms = with(threshold);
        sum(sets.iter().map(|truth| go::agreement(&terms, truth).f1))
    };
    with(best(steps.chain([usize::MAX]), earns))
}

fn most_common_term(reward: &Reward, truths: &[Truth]) -> Answer {
    let counts = term_counts(&sets(truths));
    let top = counts.iter().rev().max_by_key(|&&(_, n)| n);
    let indices = top.map(|&(term, _)| term).into_iter().collect();
    answer_of(reward, &go::Terms { indices, n_unknown: 0 })
}

/// The most specific terms, which propagate to the whole set again: sets of frequent terms are closed upwards.
fn answer_of(reward: &Reward, terms: &go::Terms) -> Answer {
    Answer::Go(reward.ontology.specific_ids(terms))
}

/// How many sets hold each term, by term.
fn term_counts(sets: &[&go::Terms]) -> Vec<(u32, usize)> {
    let mut counts = BTreeMap::new();
    for &term in sets.iter().flat_map(|terms| &terms.indices) {
        *counts.entry(term).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

fn most_common_class(truths: &[Truth]) -> Answer {
    let of_class = |class| numbers(truths).filter(move |&n| Confidence::of(n as f32) == class);
    let class =
        best([Confidence::High, Confidence::Medium, Confidence::Low], |class| of_class(class).count() as f64);
    Answer::Plddt(class, Some(mean(of_class(class)).clamp(0.0, 100.0) as f32))
}

fn sets(truths: &[Truth]) -> Vec<&go::Terms> {
    truths.iter().filter_map(|truth| if let Truth::Go(terms) = truth { Some(terms) } else { None }).collect()
}

fn numbers(truths: &[Truth]) -> impl Iterator<Item = f64> {
    truths.iter().filter_map(|truth| match truth {
        Truth::Ddg(n) | Truth::Plddt(n) => Some(f64::from(*n)),
        _ => None,
    })
}

/// The first of the candidates that earn most.
fn best<T: Copy>(candidates: impl IntoIterator<Item = T>, earns: impl Fn(T) -> f64) -> T {
    let scored = candidates.into_iter().map(|candidate| (candidate, earns(candidate)));
    let best = scored.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.expect("there are always candidates").0
}

fn sum(values: impl Iterator<Item = f64>) -> f64 {
    values.sum()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (n, sum) = values.fold((0_usize, 0.0), |(n, sum), value| (n + 1, sum + value));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn named<'a>(floors: &'a [Floor], name: &str) -> &'a Floor {
        floors.iter().find(|floor| floor.name == name).unwrap()
    }

    #[test]
    fn ppi_floors_are_class_shares() {
        let train = [true, false, false].map(Truth::Ppi);
        let test = [true, true, false, true, true].map(Truth::Ppi);
        let floors = floors(&Reward::default(), &train, &test).unwrap();
        assert_eq!(
            (named(&floors, "constant").answer.as_str(), named(&floors, "constant").mean()),
            ("yes", 0.8)
        );
        assert_eq!(
            (named(&floors, "majority").answer.as_str(), named(&floors, "majority").mean()),
            ("no", 0.2)
        );
    }

    /// 1/√(1 + s²) for normal truths, here as quantiles of N(1, 1.5²).
    #[test]
    fn ddg_constant_earns_what_theory_says() {
        let truths: Vec<Truth> = (0..997)
            .map(|i| {
                // A sum of many small uniform-like terms is close to normal: use the logistic approximation of the
                // normal quantile, good to 1%.
                let p = (f64::from(i) + 0.5) / 997.0;
                let z = (p / (1.0 - p)).ln() / 1.702;
                Truth::Ddg((1.0 + 1.5 * z) as f32)
            })
            .collect();
        let floors = floors(&Reward::default(), &truths, &truths).unwrap();
        let (constant, mean) = (named(&floors, "constant"), named(&floors, "mean"));
        assert_eq!((constant.answer.as_str(), mean.answer.as_str()), ("1.00", "1.00"));
        assert!((constant.mean() - 0.5547).abs() < 0.02, "{}", constant.mean());
    }

    #[test]
    fn no_constant_beats_the_constant() {
        let truths: Vec<Truth> = [91.0, 88.5, 35.0, 62.0, 84.0].map(Truth::Plddt).to_vec();
        let reward = Reward::default();
        let floors = floors(&reward, &truths, &truths).unwrap();
        let most = named(&floors, "constant").mean();
        for number in 0..=100 {
            for class in ["low", "medium", "high"] {
                let block = format!("<answer>{class}, {number}</answer>");
                let earned = mean(truths.iter().map(|t| f64::from(reward.score(&block, t).value)));
                assert!(earned <= most + 1e-9, "{block} {earned} {most}");
            }
        }
        assert!(named(&floors, "majority").answer.starts_with("high, 87.8"));
    }

    #[test]
    fn go_frequency_is_chosen_on_train() {
        let ontology = go::tests::toy();
        let truth = |ids: &[&str]| Truth::Go(ontology.propagate(ids));
        let train = [truth(&["GO:0000003"]), truth(&["GO:0000003"]), truth(&["GO:0000004"])];
        let test = [truth(&["GO:0000004"]), truth(&["GO:0000004", "GO:0000003"])];
        let reward = Reward { ontology: Arc::new(ontology.clone()), ..Reward::default() };
        let floors = floors(&reward, &train, &test).unwrap();
        assert_eq!(named(&floors, "majority").answer, "GO:0000002");
        assert_eq!(named(&floors, "frequency").answer, "GO:0000003");
        let found = &named(&floors, "frequency").scores;
        assert!((found[0] - 0.5).abs() < 1e-6 && (found[1] - 0.8).abs() < 1e-6, "{found:?}");
        // {2, 3, 4} is {2, 4} of frequency 2, or all of frequency ≥ 1.
        assert_eq!(named(&floors, "constant").answer, "GO:0000004");
    }

    fn real_lines(path: &str) -> Option<Vec<String>> {
        use std::io::Read;
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
        let root = std::env::var_os("PEPTALK_SHARED").map_or_else(|| beside.into(), std::path::PathBuf::from);
        let Ok(file) = fs_err::File::open(root.join(path)) else {
            eprintln!("skipped: needs ../shared/{path}");
            return None;
        };
        let mut text = String::new();
        flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        Some(text.lines().map(str::to_owned).collect())
    }

    /// The numbers in the documentation of [`crate::ddg`] and [`crate::structure`], found by a search in Python.
    #[test]
    fn floors_of_real_sets() {
        let reward = Reward::default();
        if let Some(lines) = real_lines("data/ddg/S2648.csv.gz") {
            // That file's sign is the opposite.
            let ddg = |line: &String| Truth::Ddg(-line.split(',').nth(3).unwrap().parse::<f32>().unwrap());
            let truths: Vec<Truth> = lines[1..].iter().map(ddg).collect();
            let floors = floors(&reward, &truths, &truths).unwrap();
            assert_eq!((truths.len(), named(&floors, "constant").answer.as_str()), (2648, "0.70"));
            assert!((named(&floors, "constant").mean() - 0.595).abs() < 5e-4);
        }
        if let Some(lines) = real_lines("data/plddt/afdb_mean_plddt.jsonl.gz") {
            let mean = |line: &String| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["globalMetricValue"].as_f64()
            };
            let truths: Vec<Truth> = lines.iter().filter_map(mean).map(|p| Truth::Plddt(p as f32)).collect();
            let floors = floors(&reward, &[], &truths).unwrap();
            assert_eq!(named(&floors, "constant").answer, "high, 89.0");
            assert!((named(&floors, "constant").mean() - 0.696).abs() < 5e-4);
        }
    }

    #[test]
    fn empty_and_mixed_truths() {
        assert_eq!(floors(&Reward::default(), &[], &[]), Ok(vec![]));
        let mixed = floors(&Reward::default(), &[Truth::Ddg(1.0)], &[Truth::Ppi(true)]);
        assert_eq!(mixed, Err(MixedTasks(Task::Ppi, Task::Ddg)));
        let bare = floors(&Reward::default(), &[], &[Truth::Ppi(true)]).unwrap();
        assert_eq!(bare.len(), 1);
    }
}
