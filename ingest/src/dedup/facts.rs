//! Facts, and those that others stand for: the same text once more, or nearly the same about one protein, task and
//! question. They pass protein by protein, so that it does not matter how many there are; texts stay in their columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, LargeStringArray, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{Schema, UInt64Type};
use datasets::table::{ContradictionRow, FactRow, RepeatRow, Rows};
use hashbrown::HashMap;

use super::Plans;
use super::contradictions::contradictions;
use crate::Error;
use crate::claim::number;
use crate::near;

const COLUMNS: [&str; 6] = ["fact_id", "task", "question", "raw_text", "text", "evidence"];

/// A fact that was claimed, as it stands in the columns.
#[derive(Clone, Copy)]
pub(super) struct Claimed<'a> {
    pub(super) order: u64,
    pub(super) scope: &'a str,
    pub(super) protein_id: &'a str,
    pub(super) source: &'a str,
    pub(super) accession: &'a str,
    pub(super) fact_id: &'a str,
    pub(super) task: &'a str,
    pub(super) question: &'a str,
    pub(super) text: &'a str,
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

/// Rows of claims, by what becomes of them.
#[derive(Default)]
struct Chosen<'a> {
    facts: Vec<u32>,
    /// With the id of the fact that stands for each, and how similar it is.
    repeats: Vec<(u32, &'a str, f32)>,
    contradictions: Vec<ContradictionRow>,
    near: Vec<u64>,
}

impl Plans<'_> {
    /// Writes `facts`, `repeats` and `contradictions`. With `near_duplicates` a text about the same protein, task and
    /// question is merged into one that says nearly the same, a published test set's with its own only.
    pub(super) async fn facts(&mut self) -> Result<(), Error> {
        let dealt = self.dealt(self.claims("fact", &COLUMNS)?).await?;
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
        dealt.each(|claims| self.merged(claims), write)?;
        (self.facts, self.near) = (kept, near);
        self.end(facts)?;
        self.end(repeats)?;
        self.end(contradictions)
    }

    /// What is left of these facts, protein by protein.
    fn merged(&self, claims: &[RecordBatch]) -> Result<Merged, Error> {
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (nth, batch) in claims.iter().enumerate() {
            places.extend((0..batch.num_rows()).map(|row| (nth, row)));
            rows.extend(claimed(batch));
        }
        let places =
            |of: &[u32]| -> Vec<(usize, usize)> { of.iter().map(|&row| places[row as usize]).collect() };
        let mut order: Vec<(u128, u32)> = rows.iter().map(|row| number(row.protein_id)).zip(0..).collect();
        let within = |row: u32| {
            let Claimed { task, source, order, .. } = rows[row as usize];
            (task, source, order)
        };
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| within(a.1).cmp(&within(b.1))));
        let mut chosen = Chosen::default();
        for of_protein in order.chunk_by(|a, b| a.0 == b.0) {
            self.choose(&rows, of_protein.iter().map(|of| of.1), &mut chosen);
        }
        let Chosen { facts, repeats, contradictions, near } = chosen;
        let kept = facts.iter().map(|&row| rows[row as usize].order).collect();
        let facts = self.columns(claims, &places(&facts))?;
        let kept_id: ArrayRef = Arc::new(LargeStringArray::from_iter_values(repeats.iter().map(|of| of.1)));
        let similarity: ArrayRef = Arc::new(Float32Array::from_iter_values(repeats.iter().map(|of| of.2)));
        let of_repeats: Vec<u32> = repeats.iter().map(|of| of.0).collect();
        let of_facts = self.columns(claims, &places(&of_repeats))?;
        Ok(Merged {
            facts: batch::<FactRow>(facts)?,
            repeats: batch::<RepeatRow>([vec![kept_id, similarity], of_facts].concat())?,
            contradictions,
            kept,
            near,
        })
    }

    /// Of the facts of one protein those that stay, and those that others stand for.
    fn choose<'a>(
        &self,
        rows: &[Claimed<'a>],
        of_protein: impl Iterator<Item = u32> + Clone,
        into: &mut Chosen<'a>,
    ) {
        let place = |row: u32| rows[row as usize].order;
        // Facts are equal within a scope; of a published test set, which keeps all its rows, those of one name alone.
        let name = |row: u32| {
            let Claimed { scope, fact_id, accession, .. } = rows[row as usize];
            (number(fact_id), scope, if scope.is_empty() { "" } else { accession })
        };
        let mut first_of: HashMap<(u128, &str, &str), u32> = HashMap::new();
        for row in of_protein.clone() {
            let first = first_of.entry(name(row)).or_insert(row);
            *first = std::cmp::min_by_key(*first, row, |&row| place(row));
        }
        let (first, equal): (Vec<u32>, Vec<u32>) = of_protein.partition(|&row| first_of[&name(row)] == row);
        let stand_ins = self
            .config
            .near_duplicates
            .map(|threshold| stand_ins(rows, &first, threshold))
            .unwrap_or_default();
        // Of a scope, the facts that are merged into others: by their id the one that stands for them.
        let mut merged: HashMap<(&str, &str), (&str, f32)> = HashMap::new();
        let (begin, begin_repeats) = (into.facts.len(), into.repeats.len());
        for row in first {
            let Claimed { order, scope, fact_id, .. } = rows[row as usize];
            let Some(&(by, similarity)) = stand_ins.get(&row) else {
                into.facts.push(row);
                continue;
            };
            into.near.push(order);
            merged.insert((scope, fact_id), (by, similarity));
            into.repeats.push((row, by, similarity));
        }
        for row in equal {
            let Claimed { scope, fact_id, .. } = rows[row as usize];
            let (by, similarity) = merged.get(&(scope, fact_id)).copied().unwrap_or((fact_id, 1.0));
            into.repeats.push((row, by, similarity));
        }
        // Stable: of one fact those that came first stay first.
        into.repeats[begin_repeats..].sort_by_key(|&(row, by, _)| (rows[row as usize].task, by));
        into.contradictions
            .extend(contradictions(into.facts[begin..].iter().map(|&row| &rows[row as usize])));
    }

    /// The columns of a fact, of the claims at these places (batch and row).
    fn columns(&self, claims: &[RecordBatch], places: &[(usize, usize)]) -> Result<Vec<ArrayRef>, Error> {
        let names = [&["fact_id", "protein_id", "source", "accession"][..], &COLUMNS[1..]].concat();
        let columns = names.iter().map(|name| claims[0].schema_ref().index_of(name));
        let columns: Vec<usize> = columns.collect::<Result<_, _>>()?;
        let claims: Vec<RecordBatch> =
            claims.iter().map(|of| of.project(&columns)).collect::<Result<_, _>>()?;
        let taken = interleave_record_batch(&claims.iter().collect::<Vec<_>>(), places)?;
        let licences: HashMap<&str, &str> =
            self.config.source.iter().map(|s| (s.name.as_str(), s.licence.as_str())).collect();
        let sources =
            taken.column_by_name("source").expect("it was taken").as_string::<i64>().iter().flatten();
        let licence: ArrayRef = Arc::new(LargeStringArray::from_iter_values(sources.map(|of| licences[of])));
        Ok([taken.columns(), &[licence]].concat())
    }
}

/// The facts of these claims.
fn claimed(claims: &RecordBatch) -> impl Iterator<Item = Claimed<'_>> {
    let column = |name| claims.column_by_name(name).expect("a fact that was claimed has it");
    let orders = column("order").as_primitive::<UInt64Type>().values();
    let names = ["scope", "protein_id", "source", "accession", "fact_id", "task", "question", "text"];
    let texts = names.map(|name| column(name).as_string::<i64>());
    orders.iter().enumerate().map(move |(row, &order)| {
        let [scope, protein_id, source, accession, fact_id, task, question, text] =
            texts.map(|of| of.value(row));
        Claimed { order, scope, protein_id, source, accession, fact_id, task, question, text }
    })
}

/// Rows of a table by its columns.
fn batch<T: Rows>(columns: Vec<ArrayRef>) -> Result<RecordBatch, Error> {
    Ok(RecordBatch::try_new(Arc::new(Schema::new(T::fields()?)), columns)?)
}

/// Of facts those that another stands for, with its id and how similar the two are.
fn stand_ins<'a>(rows: &[Claimed<'a>], facts: &[u32], threshold: f64) -> BTreeMap<u32, (&'a str, f32)> {
    let mut subjects: BTreeMap<(&str, &str, &str), Vec<u32>> = BTreeMap::new();
    for &row in facts {
        let Claimed { scope, task, question, .. } = rows[row as usize];
        subjects.entry((scope, task, question)).or_default().push(row);
    }
    let mut found = BTreeMap::new();
    for mut of_subject in subjects.into_values().filter(|of| of.len() > 1) {
        of_subject.sort_by_key(|&row| rows[row as usize].order);
        let texts: Vec<&str> = of_subject.iter().map(|&row| rows[row as usize].text).collect();
        for (nth, merged) in near::merge(&texts, threshold).into_iter().enumerate() {
            if let Some((by, similarity)) = merged {
                found.insert(of_subject[nth], (rows[of_subject[by] as usize].fact_id, similarity as f32));
            }
        }
    }
    found
}
