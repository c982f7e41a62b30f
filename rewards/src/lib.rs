//! Text in, [`Score`] out.
//!
//! A completion is read by the one grammar of [`answer`] and compared with a [`Truth`]; nothing outside the answer
//! block is ever looked at, so no phrase, negation or number in the reasoning can earn or cost anything. Scoring is
//! total: every string gives a value in `[0, 1]`, and a string that cannot be read gives 0 and a counted [`Reason`].
//!
//! The reward that trains a task and the metric that judges it are these functions. Beside every reward stand its
//! floors ([`floors`]): what an answer earns that never looks at the prompt.
//!
//! | task | answer | value | constant answer earns |
//! |---|---|---|---|
//! | [`go`] | `GO:0003824, GO:0016301` | F1 of the propagated term sets, roots left out | the frequent terms: 0.42 on a made-up set |
//! | [`ppi`] | `yes` or `no` | right 1, wrong 0 | the larger class, 0.5 when balanced |
//! | [`ddg`] | `1.25` | `exp(−err² / 2σ²)`, σ = 1 kcal/mol | 0.595 on S2648 |
//! | [`structure`] | `high, 84` | weighted category and pLDDT parts | 0.696 on 7,430 AlphaFold DB means |

pub mod answer;
pub mod ddg;
mod floor;
pub mod go;
pub mod ppi;
pub mod structure;

use std::sync::Arc;

pub use answer::{Answer, Confidence, Reason, Task};
pub use floor::{Floor, MixedTasks, floors, frequent_terms};
use serde::Serialize;

/// What is true of one prompt. The truth decides how the answer is read, so a reward cannot meet the wrong task.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// Propagated annotations, from [`go::Ontology::propagate`].
    Go(go::Terms),
    /// Whether the two proteins interact.
    Ppi(bool),
    /// `ΔG_mutant − ΔG_wild-type` of folding, kcal/mol, positive = destabilising.
    Ddg(f32),
    /// Mean pLDDT of the predicted structure, 0–100.
    Plddt(f32),
}

impl Truth {
    /// The task whose answers this truth judges.
    pub fn task(&self) -> Task {
        match self {
            Truth::Go(_) => Task::Go,
            Truth::Ppi(_) => Task::Ppi,
            Truth::Ddg(_) => Task::Ddg,
            Truth::Plddt(_) => Task::Plddt,
        }
    }
}

/// What one completion earned, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// The reward, in `[0, 1]`.
    pub value: f32,
    /// The terms that the value is made of, each in `[0, 1]`, in a fixed order per task; empty when nothing was read.
    pub parts: Vec<(&'static str, f32)>,
    /// Why the completion could not be read; the value is 0 then.
    pub reason: Option<Reason>,
    /// What was read.
    pub parsed: Option<Answer>,
}

impl Score {
    fn unread(reason: Reason) -> Self {
        Score { value: 0.0, parts: vec![], reason: Some(reason), parsed: None }
    }

    fn read(answer: Answer, value: f32, parts: Vec<(&'static str, f32)>) -> Self {
        Score { value: value.clamp(0.0, 1.0), parts, reason: None, parsed: Some(answer) }
    }
}

/// Scores completions of every task.
#[derive(Debug, Clone, Default)]
pub struct Reward {
    /// The ontology in which GO answers are propagated. It must be the one that made the truths.
    pub ontology: Arc<go::Ontology>,
    /// The ddG formula.
    pub ddg: ddg::Gaussian,
    /// The structure formula.
    pub structure: structure::Weights,
}

impl Reward {
    /// Scores one completion. Total: any text, any truth.
    pub fn score(&self, completion: &str, truth: &Truth) -> Score {
        let answer = match answer::parse(truth.task(), completion) {
            Ok(answer) => answer,
            Err(reason) => return Score::unread(reason),
        };
        match (&answer, truth) {
            (Answer::Go(ids), Truth::Go(truth)) => {
                let found = go::agreement(&self.ontology.propagate(ids), truth);
                let parts = vec![("precision", found.precision as f32), ("recall", found.recall as f32)];
                Score::read(answer, found.f1 as f32, parts)
            }
            (&Answer::Ppi(says), &Truth::Ppi(truth)) => {
                let value = ppi::right(says, truth);
                Score::read(answer, value, vec![("right", value)])
            }
            (&Answer::Ddg(kcal), &Truth::Ddg(truth)) => {
                let parts = vec![("direction", ddg::direction(kcal, truth))];
                Score::read(answer, self.ddg.value(kcal, truth), parts)
            }
            (&Answer::Plddt(category, number), &Truth::Plddt(truth)) => {
                let (value, parts) = self.structure.value(category, number, truth);
                Score::read(answer, value, parts)
            }
            // `parse` was asked for the task of the truth.
            _ => Score::unread(Reason::NoAnswer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn truths() -> Vec<Truth> {
        let ontology = go::tests::toy();
        vec![
            Truth::Go(ontology.propagate(&["GO:0000003"])),
            Truth::Ppi(true),
            Truth::Ppi(false),
            Truth::Ddg(-1.2),
            Truth::Ddg(f32::NAN),
            Truth::Plddt(85.0),
            Truth::Plddt(f32::INFINITY),
        ]
    }

    fn reward() -> Reward {
        Reward { ontology: Arc::new(go::tests::toy()), ..Reward::default() }
    }

    proptest! {
        #[test]
        fn any_text_scores_in_the_unit_interval(text in ".*", inside in "[-+0-9.,a-zGO: \u{2212}]{0,17}") {
            for truth in truths() {
                for completion in [text.clone(), format!("{text}<answer>{inside}</answer>{text}")] {
                    let score = reward().score(&completion, &truth);
                    prop_assert!((0.0..=1.0).contains(&score.value), "{score:?}");
                    prop_assert!(score.parts.iter().all(|(_, p)| (0.0..=1.0).contains(p)), "{score:?}");
                    prop_assert_eq!(score.parsed.is_none(), score.reason.is_some());
                }
            }
        }

        #[test]
        fn the_text_around_the_block_changes_nothing(text in "[^<]*") {
            for truth in truths() {
                for inside in ["yes", "no", "-1.2", "high, 84", "GO:0000003"] {
                    let bare = reward().score(&format!("<answer>{inside}</answer>"), &truth);
                    let wrapped = reward().score(&format!("{text}<answer> {inside}\n</answer>{text}"), &truth);
                    prop_assert_eq!(&bare, &wrapped);
                }
            }
        }
    }

    /// The faults of a published reward for this system: every phrase here was misread by it. Outside the block they
    /// are invisible, inside it they are unreadable: neither earns anything.
    #[test]
    fn phrases_that_fooled_others_earn_nothing() {
        let cases = [
            (Truth::Ppi(true), "They are unlikely to interact"),
            (Truth::Ppi(true), "I cannot tell."),
            (Truth::Ppi(false), "I cannot tell."),
            (Truth::Ppi(true), "There is no doubt that they interact"),
            (Truth::Ppi(false), "no interaction"),
            (Truth::Ppi(false), "No, they do not interact."),
            (Truth::Ppi(true), "yes and no"),
            (Truth::Ppi(true), "90% identical"),
            (Truth::Ddg(-1.2), "in 2.0 M urea the ddG is -1.2"),
            (Truth::Ddg(-1.5), "The ddG is -1.5"),
            (Truth::Ddg(-1.5), "ddG = -1.5"),
            (Truth::Ddg(2.0), "does not destabilize"),
            (Truth::Ddg(1.0), "1.0 kcal/mol"),
            (Truth::Ddg(1.0), "about 1.0"),
            (Truth::Ddg(1.0), "nan"),
            (Truth::Ddg(1.0), "inf"),
            (Truth::Ddg(1.0), "1e0"),
            (Truth::Plddt(85.0), "unstructured"),
            (Truth::Plddt(85.0), "disordered"),
            (Truth::Plddt(85.0), "not high, 85"),
            (Truth::Plddt(85.0), "85"),
            (Truth::Go(go::tests::toy().propagate(&["GO:0000003"])), "not GO:0000003"),
            (Truth::Go(go::tests::toy().propagate(&["GO:0000003"])), "GO:00000030"),
            (Truth::Go(go::tests::toy().propagate(&["GO:0000003"])), "GO: 0000003"),
            (Truth::Go(go::tests::toy().propagate(&["GO:0000003"])), "GO:0000003 is absent"),
        ];
        for (truth, phrase) in cases {
            for completion in [phrase.to_owned(), format!("<answer>{phrase}</answer>")] {
                let score = reward().score(&completion, &truth);
                assert_eq!(score.value, 0.0, "{completion}");
                assert!(score.reason.is_some(), "{completion}");
            }
        }
    }

    #[test]
    fn right_answers_earn_one() {
        let cases = [
            (Truth::Ppi(false), "no"),
            (Truth::Ppi(true), "Yes"),
            (Truth::Ddg(-1.2), "\u{2212}1.2"),
            (Truth::Ddg(-1.2), "-1.2"),
            (Truth::Ddg(0.5), "+0.5"),
            (Truth::Plddt(85.0), "high, 85"),
            (Truth::Go(go::tests::toy().propagate(&["GO:0000003"])), "GO:0000003"),
        ];
        for (truth, text) in cases {
            let score = reward().score(&format!("2.0 M urea. no <answer>{text}</answer>"), &truth);
            assert!((score.value - 1.0).abs() < 1e-6, "{text}: {score:?}");
        }
    }
}
