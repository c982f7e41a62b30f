//! Facts, and those that others stand for: the same text once more, or nearly the same about one protein, task and
//! question. They pass bucket by bucket, so that it does not matter how many there are; texts stay where they were read.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, LargeListArray, LargeStringBuilder, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, FieldRef, Schema};
use datasets::table::{ContradictionRow, FactRow, RepeatRow, Rows};
use hashbrown::HashMap;

use super::Plans;
use super::contradictions::contradictions;
use crate::config::Source;
use crate::parse::facts::{Row, rows};
use crate::parse::text_column;
use crate::{Error, buckets, claim, near};

/// A fact that was claimed, and by whom.
pub(super) struct Claimed<'a> {
    pub(super) source: &'a Source,
    pub(super) row: Row<'a>,
}

impl Claimed<'_> {
    /// Where it stands among the facts of its protein.
    fn within(&self) -> (&str, &str, u64) {
        (self.row.task, &self.source.name, self.row.order)
    }

    fn evidence(&self) -> impl Iterator<Item = &str> {
        self.row.evidence.split_terminator(' ')
    }
}

/// What is left of the facts of some proteins.
struct Merged {
    facts: RecordBatch,
    repeats: RecordBatch,
    contradictions: Vec<ContradictionRow>,
    /// Places of the facts, and of those that were merged into others of other words.
    kept: Vec<u64>,
    near: Vec<u64>,
}

/// Facts, by what becomes of them.
#[derive(Default)]
struct Chosen<'a> {
    facts: Vec<&'a Claimed<'a>>,
    /// With the id of the fact that stands for each, and how similar it is.
    repeats: Vec<(&'a Claimed<'a>, u128, f32)>,
    contradictions: Vec<ContradictionRow>,
    near: Vec<u64>,
}

impl Plans<'_> {
    /// Writes `facts`, `repeats` and `contradictions`. With `near_duplicates` a text about the same protein, task and
    /// question is merged into one that says nearly the same, a published test set's with its own only.
    pub(super) fn facts(&mut self) -> Result<(), Error> {
        let (mut facts, mut repeats) = (self.begin::<FactRow>()?, self.begin::<RepeatRow>()?);
        let mut contradictions = self.begin::<ContradictionRow>()?;
        let (mut kept, mut near) = (Vec::new(), Vec::new());
        let write = |merged: Merged| {
            facts.append(&merged.facts)?;
            repeats.append(&merged.repeats)?;
            merged.contradictions.into_iter().try_for_each(|row| contradictions.push(row))?;
            kept.extend(merged.kept);
            near.extend(merged.near);
            Ok(())
        };
        buckets::each(|bucket| self.merged(&self.parsed.facts.bucket(bucket)?), write)?;
        (self.facts, self.near) = (kept, near);
        self.end(facts)?;
        self.end(repeats)?;
        self.end(contradictions)
    }

    /// What is left of the facts of a bucket, protein by protein.
    fn merged(&self, bytes: &[u8]) -> Result<Merged, Error> {
        let mut claimed = Vec::new();
        for row in rows(bytes) {
            let row = row?;
            if !self.refused.contains_key(&claim::record_of(row.order)) {
                claimed.push(Claimed { source: self.source(row.order), row });
            }
        }
        let mut sorted: Vec<(u128, &Claimed<'_>)> = claimed.iter().map(|of| (of.row.protein, of)).collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.within().cmp(&b.1.within())));
        let mut chosen = Chosen::default();
        for of_protein in sorted.chunk_by(|a, b| a.0 == b.0) {
            self.choose(of_protein.iter().map(|of| of.1), &mut chosen);
        }
        let Chosen { facts, repeats, contradictions, near } = chosen;
        let kept = facts.iter().map(|of| of.row.order).collect();
        let facts = batch::<FactRow>(&facts, |_| None)?;
        let of_repeat = |name: &str| -> Option<ArrayRef> {
            let similarities = || Float32Array::from_iter_values(repeats.iter().map(|of| of.2));
            match name {
                "kept_id" => Some(id_column(&repeats, |of| of.1)),
                "similarity" => Some(Arc::new(similarities())),
                _ => None,
            }
        };
        let repeated: Vec<&Claimed<'_>> = repeats.iter().map(|of| of.0).collect();
        let repeats = batch::<RepeatRow>(&repeated, of_repeat)?;
        Ok(Merged { facts, repeats, contradictions, kept, near })
    }

    /// Of the facts of one protein those that stay, and those that others stand for.
    fn choose<'a>(&self, of_protein: impl Iterator<Item = &'a Claimed<'a>> + Clone, into: &mut Chosen<'a>) {
        // Facts are equal within a scope; of a published test set, which keeps all its rows, those of one name alone.
        let name = |Claimed { source, row }: &'a Claimed<'a>| {
            let scope = source.scope();
            (row.id, (!scope.is_empty()).then_some((scope, row.accession)))
        };
        let mut first_of: HashMap<_, &Claimed<'_>> = HashMap::new();
        for fact in of_protein.clone() {
            let first = first_of.entry(name(fact)).or_insert(fact);
            *first = std::cmp::min_by_key(*first, fact, |of| of.row.order);
        }
        let is_first = |fact: &&'a Claimed<'a>| first_of[&name(fact)].row.order == fact.row.order;
        let (first, equal): (Vec<&Claimed<'_>>, Vec<&Claimed<'_>>) = of_protein.partition(is_first);
        let threshold = self.config.near_duplicates;
        let stand_ins = threshold.map(|threshold| stand_ins(&first, threshold)).unwrap_or_default();
        // Of a scope, the facts that are merged into others: by their id the one that stands for them.
        let mut merged: HashMap<(&str, u128), (u128, f32)> = HashMap::new();
        let (begin, begin_repeats) = (into.facts.len(), into.repeats.len());
        for fact in first {
            let Claimed { source, row: Row { order, id, .. } } = fact;
            let Some(&(by, similarity)) = stand_ins.get(order) else {
                into.facts.push(fact);
                continue;
            };
            into.near.push(*order);
            merged.insert((source.scope(), *id), (by, similarity));
            into.repeats.push((fact, by, similarity));
        }
        for fact in equal {
            let of = (fact.source.scope(), fact.row.id);
            let (by, similarity) = merged.get(&of).copied().unwrap_or((fact.row.id, 1.0));
            into.repeats.push((fact, by, similarity));
        }
        // Stable: of one fact those that came first stay first.
        into.repeats[begin_repeats..].sort_by_key(|&(fact, by, _)| (fact.row.task, by));
        into.contradictions.extend(contradictions(&into.facts[begin..]));
    }
}

/// Rows of a table of facts; `more`: the columns that are not theirs, by name.
fn batch<T: Rows>(
    facts: &[&Claimed<'_>],
    more: impl Fn(&str) -> Option<ArrayRef>,
) -> Result<RecordBatch, Error> {
    let column = |field: &FieldRef| -> Result<ArrayRef, Error> {
        Ok(match (field.name().as_str(), field.data_type()) {
            ("fact_id", _) => id_column(facts, |of| of.row.id),
            ("protein_id", _) => id_column(facts, |of| of.row.protein),
            ("source", _) => text_column(facts, |of| Some(&of.source.name)),
            ("accession", _) => text_column(facts, |of| Some(of.row.accession)),
            ("task", _) => text_column(facts, |of| Some(of.row.task)),
            ("question", _) => text_column(facts, |of| Some(of.row.question)),
            ("raw_text", _) => text_column(facts, |of| of.row.raw_text),
            ("text", _) => text_column(facts, |of| Some(of.row.text)),
            ("evidence", DataType::LargeList(code)) => {
                let lengths = OffsetBuffer::from_lengths(facts.iter().map(|of| of.evidence().count()));
                let codes: Vec<&str> = facts.iter().flat_map(|of| of.evidence()).collect();
                let codes = text_column(&codes, |of| Some(of));
                Arc::new(LargeListArray::try_new(code.clone(), lengths, codes, None)?)
            }
            ("licence", _) => text_column(facts, |of| Some(&of.source.licence)),
            (name, _) => more(name).unwrap_or_else(|| unreachable!("a fact has no {name}")),
        })
    };
    let fields = T::fields()?;
    let columns = fields.iter().map(column).collect::<Result<_, _>>()?;
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// A column of ids.
fn id_column<T>(rows: &[T], id: impl Fn(&T) -> u128) -> ArrayRef {
    let mut column = LargeStringBuilder::with_capacity(rows.len(), 32 * rows.len());
    for row in rows {
        column.append_value(claim::id(id(row)));
    }
    Arc::new(column.finish())
}

/// The places of facts that another stands for, with its id and how similar the two are.
fn stand_ins(facts: &[&Claimed<'_>], threshold: f64) -> BTreeMap<u64, (u128, f32)> {
    let mut subjects: BTreeMap<(&str, &str, &str), Vec<&Row<'_>>> = BTreeMap::new();
    for Claimed { source, row } in facts {
        subjects.entry((source.scope(), row.task, row.question)).or_default().push(row);
    }
    let mut found = BTreeMap::new();
    for mut of_subject in subjects.into_values().filter(|of| of.len() > 1) {
        of_subject.sort_by_key(|row| row.order);
        let texts: Vec<&str> = of_subject.iter().map(|row| row.text).collect();
        for (nth, merged) in near::merge(&texts, threshold).into_iter().enumerate() {
            if let Some((by, similarity)) = merged {
                found.insert(of_subject[nth].order, (of_subject[by].id, similarity as f32));
            }
        }
    }
    found
}
