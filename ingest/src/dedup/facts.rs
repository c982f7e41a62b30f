//! Facts, and those that others stand for: the same text once more, or nearly the same about one protein, task and
//! question.

use std::collections::{BTreeMap, HashMap};

use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{JoinType, col};
use datasets::table::{FactRow, RepeatRow};
use serde::Deserialize;

use super::Plans;
use crate::Error;
use crate::near;

const COLUMNS: [&str; 6] = ["fact_id", "task", "question", "raw_text", "text", "evidence"];

/// Where a fact comes from.
#[derive(Deserialize)]
struct Place {
    order: u64,
    scope: String,
}

/// Of a scope, the facts that are merged into others: by their id the one that stands for them, and how similar it is.
type Merged = HashMap<(String, String), (String, f32)>;

impl Plans<'_> {
    /// Rows of `facts`, and of `repeats`. Above the similarity `near` a text about the same protein, task and question is
    /// merged into one that says nearly the same, a published test set's with its own only.
    pub(super) async fn facts(&mut self, near: Option<f64>) -> Result<(Vec<FactRow>, Vec<RepeatRow>), Error> {
        let (mut facts, places) = read(self.rows("fact", &COLUMNS, JoinType::RightSemi).await?).await?;
        // Before the near ones are, so that an equal text is not taken for one of those.
        let (equal, places_of_equal) = read(self.rows("fact", &COLUMNS, JoinType::RightAnti).await?).await?;
        let mut repeats = Vec::with_capacity(equal.len());
        let mut merged = Merged::new();
        if let Some(threshold) = near {
            let stand_ins = stand_ins(&facts, &places, threshold);
            let mut kept = Vec::with_capacity(facts.len() - stand_ins.len());
            for (at, fact) in facts.into_iter().enumerate() {
                let Some((by, similarity)) = stand_ins.get(&at) else {
                    kept.push(fact);
                    continue;
                };
                let Place { order, scope } = &places[at];
                self.kept.remove(order);
                self.near.insert(*order);
                merged.insert((scope.clone(), fact.fact_id.clone()), (by.clone(), *similarity));
                repeats.push(RepeatRow::new(fact, by.clone(), *similarity));
            }
            facts = kept;
        }
        for (fact, Place { scope, .. }) in equal.into_iter().zip(places_of_equal) {
            let stands = merged.get(&(scope, fact.fact_id.clone())).cloned();
            let (by, similarity) = stands.unwrap_or_else(|| (fact.fact_id.clone(), 1.0));
            repeats.push(RepeatRow::new(fact, by, similarity));
        }
        // Stable: of one fact those that came first stay first.
        repeats
            .sort_by(|a, b| (&a.protein_id, &a.task, &a.kept_id).cmp(&(&b.protein_id, &b.task, &b.kept_id)));
        Ok((facts, repeats))
    }
}

/// Facts of a plan by protein, task and source, and where each comes from.
async fn read(frame: DataFrame) -> Result<(Vec<FactRow>, Vec<Place>), Error> {
    let sorted = frame.sort_by(["protein_id", "task", "source", "order"].map(col).to_vec())?;
    let (mut facts, mut places) = (Vec::new(), Vec::new());
    for batch in sorted.collect().await? {
        facts.extend(serde_arrow::from_record_batch::<Vec<FactRow>>(&batch)?);
        places.extend(serde_arrow::from_record_batch::<Vec<Place>>(&batch)?);
    }
    Ok((facts, places))
}

/// By the place of a fact the id of the one that stands for it, and how similar the two are.
fn stand_ins(facts: &[FactRow], places: &[Place], threshold: f64) -> BTreeMap<usize, (String, f32)> {
    let mut found = BTreeMap::new();
    let mut begin = 0;
    for of_protein in facts.chunk_by(|a, b| a.protein_id == b.protein_id) {
        let mut subjects: BTreeMap<(&str, &str, &str), Vec<usize>> = BTreeMap::new();
        for (at, fact) in of_protein.iter().enumerate() {
            let subject = (places[begin + at].scope.as_str(), fact.task.as_str(), fact.question.as_str());
            subjects.entry(subject).or_default().push(begin + at);
        }
        for mut of_subject in subjects.into_values().filter(|of| of.len() > 1) {
            of_subject.sort_by_key(|&at| places[at].order);
            let texts: Vec<&str> = of_subject.iter().map(|&at| facts[at].text.as_str()).collect();
            for (nth, merged) in near::merge(&texts, threshold).into_iter().enumerate() {
                if let Some((by, similarity)) = merged {
                    let by = facts[of_subject[by]].fact_id.clone();
                    found.insert(of_subject[nth], (by, similarity as f32));
                }
            }
        }
        begin += of_protein.len();
    }
    found
}
