//! Pairs of proteins: each finds both in the dictionary of its source, and two sources, or one, may say the same pair twice.

use std::collections::HashMap;

use datafusion::dataframe::DataFrame;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, JoinType, col, lit};
use serde::{Deserialize, Serialize};

use super::{Plans, Refused};
use crate::Error;
use crate::claim::{self, number};
use crate::reason::Reason;

/// A pair whose proteins are found. Ids are numbers here, of which there may be millions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    /// The smaller id, and the other.
    pub(crate) proteins: [u128; 2],
    pub(crate) label: bool,
    /// Place of the source in the configuration.
    pub(crate) source: u8,
    pub(crate) modes: Vec<String>,
}

/// A claim with what the dictionary says.
#[derive(Deserialize)]
struct Claimed {
    order: u64,
    record: u64,
    id_a: String,
    id_b: String,
    label: bool,
    mode: String,
    found_a: Option<String>,
    found_b: Option<String>,
}

/// A claim whose proteins are found, with its mode as a number.
struct Found {
    /// Source of a published test set, 0 for all others: pairs repeat within a scope.
    scope: u8,
    proteins: [u128; 2],
    mode: u16,
    order: u64,
    record: u64,
    source: u8,
    label: bool,
}

impl Found {
    fn pair(&self) -> (u8, [u128; 2]) {
        (self.scope, self.proteins)
    }
}

impl Plans<'_> {
    /// Pairs with their proteins; those with both labels are refused.
    pub(super) async fn pairs(&mut self) -> Result<Vec<Pair>, Error> {
        let (mut unknown, mut alone) = (Vec::new(), Vec::new());
        let mut found: Vec<Found> = Vec::new();
        let (mut modes, mut numbers): (Vec<String>, HashMap<String, u16>) = Default::default();
        let add = |claim: Claimed| {
            let Claimed { order, record, id_a, id_b, label, mode, found_a, found_b } = claim;
            let (a, b) = match (found_a, found_b) {
                (Some(a), Some(b)) if a == b => {
                    alone.push(Refused { record, detail: id_a });
                    return Ok(());
                }
                (Some(a), Some(b)) => (number(&a), number(&b)),
                (a, _) => {
                    unknown.push(Refused { record, detail: if a.is_none() { id_a } else { id_b } });
                    return Ok(());
                }
            };
            let mode = match numbers.get(&mode) {
                Some(&number) => number,
                None => {
                    modes.push(mode.clone());
                    *numbers.entry(mode).or_insert(modes.len() as u16 - 1)
                }
            };
            let source = claim::place(order).0 as u8;
            let scope = if self.scope(order).is_empty() { 0 } else { source + 1 };
            found.push(Found { scope, proteins: [a.min(b), a.max(b)], mode, order, record, source, label });
            Ok(())
        };
        self.engine.each(self.claimed_pairs()?, add).await?;
        let detail = |id: &str| format!("the dictionary has no usable sequence for {id:?}");
        self.refuse(unknown, Reason::UnknownProtein, detail);
        self.refuse(alone, Reason::SelfPair, |id| format!("{id:?} and its partner have the same sequence"));

        found.sort_unstable_by_key(|claim| (claim.pair(), claim.order));
        let (mut pairs, mut contested, mut said) = (Vec::new(), Vec::new(), Vec::new());
        for claims in found.chunk_by(|a, b| a.pair() == b.pair()) {
            let first = &claims[0];
            if claims.iter().any(|claim| claim.label != first.label) {
                contested
                    .extend(claims.iter().map(|of| Refused { record: of.record, detail: String::new() }));
                continue;
            }
            // Of each mode the first claim is kept.
            said.clear();
            for claim in claims {
                if !said.contains(&claim.mode) {
                    said.push(claim.mode);
                    self.kept.insert(claim.order);
                }
            }
            let mut names: Vec<String> = said
                .iter()
                .map(|&mode| modes[mode as usize].clone())
                .filter(|mode| !mode.is_empty())
                .collect();
            names.sort();
            pairs.push(Pair {
                proteins: first.proteins,
                label: first.label,
                source: first.source,
                modes: names,
            });
        }
        let both = |_: &str| "this pair is given with both labels".into();
        self.refuse(contested, Reason::LabelConflict, both);
        let name = |pair: &Pair| &self.config.source[pair.source as usize].name;
        pairs.sort_by(|a, b| (a.proteins, name(a)).cmp(&(b.proteins, name(b))));
        Ok(pairs)
    }

    /// Claims of pairs, each with what the dictionary of its source calls its partners.
    fn claimed_pairs(&self) -> Result<DataFrame, Error> {
        let of_source = || col("order") >> lit(claim::SOURCE_BIT);
        let mut columns: Vec<Expr> = vec![col("order"), col("record"), of_source().alias("source")];
        columns.extend(["id_a", "id_b", "label", "mode"].map(|f| get_field(col("ppi"), f).alias(f)));
        let mut pairs = self.claims_for("ppi")?.select(columns)?;
        for end in ["a", "b"] {
            let [source, name, protein] = ["source", "name", "found"].map(|what| format!("{what}_{end}"));
            let dictionary = self
                .sound
                .clone()
                .filter(col("member").is_not_null())?
                .select(vec![
                    of_source().alias(&source),
                    col("accession").alias(&name),
                    col("protein_id").alias(&protein),
                ])?
                .distinct()?;
            let id = format!("id_{end}");
            // The side on the left is in memory while the other passes.
            pairs = dictionary.join(pairs, JoinType::Right, &[&source, &name], &["source", &id], None)?;
            pairs = pairs.drop_columns(&[&source, &name])?;
        }
        Ok(pairs)
    }
}
