//! Facts, and those that others stand for: the same text once more, or nearly the same about one protein, task and
//! question. They pass protein by protein, so that it does not matter how many there are.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;
use datasets::table::{ContradictionRow, FactRow, RepeatRow};
use serde::Deserialize;

use super::Plans;
use crate::Error;
use crate::buckets::sorted;
use crate::contradiction::contradictions;
use crate::near;

const COLUMNS: [&str; 6] = ["fact_id", "task", "question", "raw_text", "text", "evidence"];

/// Where a fact comes from.
#[derive(Deserialize)]
struct Place {
    order: u64,
    scope: String,
}

/// A claimed fact.
type Claimed = (FactRow, Place);

/// What is left of the facts of one protein, or of several.
#[derive(Default)]
struct Merged {
    facts: Vec<FactRow>,
    repeats: Vec<RepeatRow>,
    contradictions: Vec<ContradictionRow>,
    /// Places of the facts that were merged into others of other words.
    near: Vec<u64>,
}

impl Plans<'_> {
    /// Writes `facts`, `repeats` and `contradictions`. With `near_duplicates` a text about the same protein, task and
    /// question is merged into one that says nearly the same, a published test set's with its own only.
    pub(super) async fn facts(&mut self) -> Result<(), Error> {
        let dealt = self.dealt(self.claims("fact", &COLUMNS)?).await?;
        let (mut facts, mut repeats) = (self.begin::<FactRow>()?, self.begin::<RepeatRow>()?);
        let mut contradictions = self.begin::<ContradictionRow>()?;
        let mut near = Vec::new();
        let merge =
            |claims: RecordBatch| self.merged(&sorted(&claims, &["protein_id", "task", "source", "order"])?);
        let write = |merged: Merged| {
            merged.facts.into_iter().try_for_each(|row| facts.push(row))?;
            merged.repeats.into_iter().try_for_each(|row| repeats.push(row))?;
            merged.contradictions.into_iter().try_for_each(|row| contradictions.push(row))?;
            near.extend(merged.near);
            Ok(())
        };
        dealt.each(merge, write)?;
        near.iter().for_each(|order| _ = self.kept.remove(order));
        self.near.extend(near);
        self.end(facts)?;
        self.end(repeats)?;
        self.end(contradictions)
    }

    /// What is left of facts, which stand protein by protein.
    fn merged(&self, claims: &RecordBatch) -> Result<Merged, Error> {
        let licences: HashMap<&str, &str> =
            self.config.source.iter().map(|s| (s.name.as_str(), s.licence.as_str())).collect();
        let facts: Vec<FactRow> = serde_arrow::from_record_batch(claims)?;
        let places: Vec<Place> = serde_arrow::from_record_batch(claims)?;
        let (mut merged, mut of_protein) = (Merged::default(), Vec::new());
        for (mut fact, place) in facts.into_iter().zip(places) {
            fact.licence = licences[fact.source.as_str()].to_owned();
            if of_protein.last().is_some_and(|(last, _): &Claimed| last.protein_id != fact.protein_id) {
                self.merge(std::mem::take(&mut of_protein), &mut merged);
            }
            of_protein.push((fact, place));
        }
        self.merge(of_protein, &mut merged);
        Ok(merged)
    }

    /// Of the facts of one protein those that stay, and those that others stand for.
    fn merge(&self, claimed: Vec<Claimed>, into: &mut Merged) {
        let (mut first, equal): (Vec<Claimed>, Vec<Claimed>) =
            claimed.into_iter().partition(|(_, place)| self.kept.contains(&place.order));
        let mut repeats = Vec::with_capacity(equal.len());
        // Of a scope, the facts that are merged into others: by their id the one that stands for them, and how similar it is.
        let mut merged: HashMap<(String, String), (String, f32)> = HashMap::new();
        let stand_ins =
            self.config.near_duplicates.map(|threshold| stand_ins(&first, threshold)).unwrap_or_default();
        let mut facts = Vec::with_capacity(first.len());
        for (at, (fact, Place { order, scope })) in first.drain(..).enumerate() {
            let Some((by, similarity)) = stand_ins.get(&at) else {
                facts.push(fact);
                continue;
            };
            into.near.push(order);
            merged.insert((scope, fact.fact_id.clone()), (by.clone(), *similarity));
            repeats.push(RepeatRow::new(fact, by.clone(), *similarity));
        }
        for (fact, Place { scope, .. }) in equal {
            let stands = merged.get(&(scope, fact.fact_id.clone())).cloned();
            let (by, similarity) = stands.unwrap_or_else(|| (fact.fact_id.clone(), 1.0));
            repeats.push(RepeatRow::new(fact, by, similarity));
        }
        // Stable: of one fact those that came first stay first.
        repeats.sort_by(|a, b| (&a.task, &a.kept_id).cmp(&(&b.task, &b.kept_id)));
        into.contradictions.extend(contradictions(&facts));
        into.facts.extend(facts);
        into.repeats.extend(repeats);
    }
}

/// By the place of a fact the id of the one that stands for it, and how similar the two are.
fn stand_ins(facts: &[Claimed], threshold: f64) -> BTreeMap<usize, (String, f32)> {
    let mut subjects: BTreeMap<(&str, &str, &str), Vec<usize>> = BTreeMap::new();
    for (at, (fact, place)) in facts.iter().enumerate() {
        let subject = (place.scope.as_str(), fact.task.as_str(), fact.question.as_str());
        subjects.entry(subject).or_default().push(at);
    }
    let mut found = BTreeMap::new();
    for mut of_subject in subjects.into_values().filter(|of| of.len() > 1) {
        of_subject.sort_by_key(|&at| facts[at].1.order);
        let texts: Vec<&str> = of_subject.iter().map(|&at| facts[at].0.text.as_str()).collect();
        for (nth, merged) in near::merge(&texts, threshold).into_iter().enumerate() {
            if let Some((by, similarity)) = merged {
                let by = facts[of_subject[by]].0.fact_id.clone();
                found.insert(of_subject[nth], (by, similarity as f32));
            }
        }
    }
    found
}
