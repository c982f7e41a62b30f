//! Mutations: those that name their structure only find its sequence; distinct values of one change are measurements
//! of it and are averaged.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, col};
use datasets::table::DdgRow;
use serde::Deserialize;

use super::Plans;
use crate::Error;
use crate::reason::{Fault, Reason};

/// One measurement.
#[derive(Deserialize)]
struct Measured {
    order: u64,
    protein_id: String,
    wild_type: String,
    position: u32,
    mutant: String,
    ddg_kcal: f32,
    structure: String,
}

/// One measurement that names no protein, as a record.
#[derive(Deserialize)]
struct Unnamed {
    order: u64,
    record: u64,
    test: bool,
    wild_type: String,
    position: u32,
    mutant: String,
    ddg_kcal: f32,
    structure: String,
}

/// A sequence and the structure that a source of mutations gives it under.
#[derive(Deserialize)]
struct Named {
    order: u64,
    structure: String,
    protein_id: String,
    sequence: String,
}

const COLUMNS: [&str; 5] = ["wild_type", "position", "mutant", "ddg_kcal", "structure"];

impl Plans<'_> {
    /// Writes `ddg`, and returns the proteins of test sources that were found by their structure. Distinct values of the
    /// same change within a scope are measurements of it and are averaged.
    pub(super) async fn mutations(&mut self) -> Result<BTreeSet<String>, Error> {
        let named = self.claims("ddg", &COLUMNS)?.filter(col("protein_id").is_not_null())?;
        let mut measured: Vec<Measured> = self.engine.collect(named).await?;
        measured.retain(|m| self.kept.contains(&m.order));
        measured.sort_by_key(|m| m.order);
        let (found, tests) = self.named_by_structure(&measured).await?;
        measured.extend(found);
        let key = |m: &Measured| (m.protein_id.clone(), m.position, m.mutant.clone(), self.scope(m.order));
        measured.sort_by_cached_key(key); // stable: those found by structure stay last
        let same = |a: &Measured, b: &Measured| {
            (&a.protein_id, a.position, &a.mutant, self.scope(a.order))
                == (&b.protein_id, b.position, &b.mutant, self.scope(b.order))
        };
        let average = |values: &[Measured]| {
            let sum: f64 = values.iter().map(|m| f64::from(m.ddg_kcal)).sum();
            let first = &values[0];
            DdgRow {
                protein_id: first.protein_id.clone(),
                wild_type: first.wild_type.clone(),
                position: first.position,
                mutant: first.mutant.clone(),
                ddg_kcal: (sum / values.len() as f64) as f32,
                n_measured: values.len() as u32,
                structure: first.structure.clone(),
                source: self.source(first.order).name.clone(),
            }
        };
        let mut writer = self.begin::<DdgRow>()?;
        measured.chunk_by(same).map(average).try_for_each(|row| writer.push(row))?;
        self.end(writer)?;
        Ok(tests)
    }

    /// Finds the sequence of measurements that give their structure only. What repeats a value of `known` is merged.
    async fn named_by_structure(
        &mut self,
        known: &[Measured],
    ) -> Result<(Vec<Measured>, BTreeSet<String>), Error> {
        let ddg = self.claims_for("ddg")?;
        let mut columns: Vec<Expr> = ["order", "record", "test"].map(col).to_vec();
        columns.extend(COLUMNS.map(|f| get_field(col("ddg"), f).alias(f)));
        let unnamed = ddg.clone().filter(col("protein_id").is_null())?.select(columns)?;
        let unnamed: Vec<Unnamed> = self.engine.collect(unnamed.sort_by(vec![col("order")])?).await?;
        let (mut found, mut tests) = (Vec::new(), BTreeSet::new());
        if unnamed.is_empty() {
            return Ok((found, tests));
        }
        let wanted: BTreeSet<&str> = unnamed.iter().map(|u| u.structure.as_str()).collect();
        let named = ddg.filter(col("sequence").is_not_null())?;
        let named = named.select(vec![
            col("order"),
            get_field(col("ddg"), "structure").alias("structure"),
            col("protein_id"),
            col("sequence"),
        ])?;
        let mut named: Vec<Named> = self.engine.collect(named).await?;
        named.retain(|n| wanted.contains(n.structure.as_str()));
        named.sort_by_key(|n| n.order);
        let mut structures: BTreeMap<&str, &Named> = BTreeMap::new();
        for one in &named {
            structures.entry(&one.structure).or_insert(one);
        }
        let value = |scope: &str, protein: &str, position: u32, mutant: &str, ddg_kcal: f32| {
            (scope.to_owned(), protein.to_owned(), position, mutant.to_owned(), ddg_kcal.to_bits())
        };
        let of = |m: &Measured| value(self.scope(m.order), &m.protein_id, m.position, &m.mutant, m.ddg_kcal);
        let mut seen: BTreeSet<_> = known.iter().map(of).collect();
        // Where one row does not fit, the structure is numbered otherwise and the others fit by chance.
        let misfits: BTreeMap<String, String> = unnamed
            .iter()
            .filter_map(|row| {
                let named = structures.get(row.structure.as_str())?;
                Some((row.structure.clone(), mismatch(&named.sequence, row.position, &row.wild_type)?))
            })
            .collect();
        for row in unnamed {
            let known = structures.get(row.structure.as_str());
            let fault = match (known, misfits.get(&row.structure)) {
                (None, _) => {
                    let detail =
                        format!("no other source of mutations gives a sequence for {:?}", row.structure);
                    Some(Fault::new(Reason::NoSequence, detail))
                }
                (Some(_), Some(misfit)) => {
                    let detail = format!("{} is numbered otherwise: {misfit}", row.structure);
                    Some(Fault::new(Reason::MutationMismatch, detail))
                }
                (Some(_), None) => None,
            };
            if let Some(fault) = fault {
                self.refused.insert(row.record, fault);
                continue;
            }
            let protein_id = structures[row.structure.as_str()].protein_id.clone();
            if row.test {
                tests.insert(protein_id.clone());
            }
            let scope = self.scope(row.order);
            if seen.insert(value(scope, &protein_id, row.position, &row.mutant, row.ddg_kcal)) {
                self.kept.insert(row.order);
                let Unnamed { wild_type, position, mutant, ddg_kcal, structure, .. } = row;
                found.push(Measured {
                    order: row.order,
                    protein_id,
                    wild_type,
                    position,
                    mutant,
                    ddg_kcal,
                    structure,
                });
            }
        }
        Ok((found, tests))
    }
}

fn mismatch(sequence: &str, position: u32, wild_type: &str) -> Option<String> {
    let at = (position as usize).wrapping_sub(1);
    let there = sequence.get(at..at.saturating_add(1)).unwrap_or("");
    (there != wild_type).then(|| format!("{wild_type} expected at position {position}, found {there:?}"))
}
