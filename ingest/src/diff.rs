//! What is different between two folders of tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use arrow::row::{RowConverter, SortField};
use datasets::table::{ProteinRow, Rows, Split, TABLES};
use fs_err as fs;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::manifest::Manifest;

/// One table in both folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableDiff {
    /// Name of the table.
    pub table: &'static str,
    /// Rows of both.
    pub rows: [u64; 2],
    /// Rows that only one of them has; a row that is there twice counts twice.
    pub only: [u64; 2],
}

/// The difference of two folders of tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Tables that differ.
    pub tables: Vec<TableDiff>,
    /// Proteins that stand in another part, by the two parts.
    pub moved: BTreeMap<(Split, Split), u64>,
    /// Input files that are not the same bytes in both, or in one only.
    pub inputs: Vec<String>,
    /// Settings that differ: name, and its value in both (`-` where it is missing).
    pub settings: Vec<(String, [String; 2])>,
}

impl Diff {
    /// Compares two folders of `peptalk ingest`, row by row, wherever a row stands.
    ///
    /// # Errors
    /// When a table or a manifest is missing or broken.
    pub fn of(a: &Path, b: &Path) -> Result<Self, Error> {
        let mut diff = Self::default();
        let (old, new) = (Manifest::read(a)?, Manifest::read(b)?);
        for table in TABLES {
            // A table that an earlier peptalk did not write has no rows there.
            let rows = |folder: &Path, manifest: &Manifest| match manifest.tables.contains_key(*table) {
                true => count(&folder.join(format!("{table}.parquet"))),
                false => Ok(HashMap::new()),
            };
            let (first, second) = (rows(a, &old)?, rows(b, &new)?);
            let sum = |of: &HashMap<[u8; 16], u64>| of.values().sum::<u64>();
            let beyond = |own: &HashMap<[u8; 16], u64>, other: &HashMap<[u8; 16], u64>| {
                own.iter().map(|(row, n)| n.saturating_sub(other.get(row).copied().unwrap_or(0))).sum::<u64>()
            };
            let only = [beyond(&first, &second), beyond(&second, &first)];
            if only != [0, 0] {
                diff.tables.push(TableDiff { table, rows: [sum(&first), sum(&second)], only });
            }
        }
        let parts = |tables: &Path| -> Result<HashMap<String, Split>, Error> {
            Ok(ProteinRow::read(tables)?.into_iter().map(|p| (p.protein_id, p.split)).collect())
        };
        let (before, after) = (parts(a)?, parts(b)?);
        for (id, from) in &before {
            if let Some(to) = after.get(id).filter(|to| *to != from) {
                *diff.moved.entry((*from, *to)).or_default() += 1;
            }
        }
        let hashes = |manifest: &Manifest| -> BTreeMap<String, String> {
            manifest.files.iter().map(|f| (format!("{}: {}", f.source, f.file), f.sha256.clone())).collect()
        };
        diff.inputs = unlike(&hashes(&old), &hashes(&new)).map(|(name, _)| name).collect();
        let settings = |manifest: &Manifest| -> Result<BTreeMap<String, String>, Error> {
            let mut flat = BTreeMap::from([("peptalk".to_owned(), manifest.peptalk.clone())]);
            flatten("", &serde_json::to_value(&manifest.config)?, &mut flat);
            Ok(flat)
        };
        diff.settings = unlike(&settings(&old)?, &settings(&new)?).collect();
        Ok(diff)
    }

    /// Whether the rows of all tables are the same.
    pub fn same_rows(&self) -> bool {
        self.tables.is_empty()
    }

    /// For a reader.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut say = |line: String| writeln!(text, "{line}").expect("a string takes all text");
        match self.same_rows() {
            true => say("the rows of all tables are the same".into()),
            false => {
                say("| table | rows of A | rows of B | only in A | only in B |\n|---|---:|---:|---:|---:|"
                    .into());
                for TableDiff { table, rows: [a, b], only: [left, right] } in &self.tables {
                    say(format!("| {table} | {a} | {b} | {left} | {right} |"));
                }
            }
        }
        for ((from, to), n) in &self.moved {
            say(format!("{n} protein(s) moved from {from:?} to {to:?}").to_lowercase());
        }
        for input in &self.inputs {
            say(format!("other input: {input}"));
        }
        for (name, [a, b]) in &self.settings {
            say(format!("other setting: {name}: {a} → {b}"));
        }
        text
    }
}

/// Entries that are not the same in both.
fn unlike<'a>(
    a: &'a BTreeMap<String, String>,
    b: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = (String, [String; 2])> + 'a {
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let value =
        |of: &BTreeMap<String, String>, name: &str| of.get(name).cloned().unwrap_or_else(|| "-".into());
    names.into_iter().filter_map(move |name| {
        let both = [value(a, name), value(b, name)];
        (both[0] != both[1]).then(|| (name.clone(), both))
    })
}

/// Every leaf of a JSON value under its path; the elements of lists that have a name, under it.
fn flatten(path: &str, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    use serde_json::Value;
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&below(key), value, into)),
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for (at, item) in items.iter().enumerate() {
                let name = item["name"].as_str().map_or_else(|| at.to_string(), str::to_owned);
                flatten(&below(&name), item, into);
            }
        }
        leaf => {
            into.insert(path.to_owned(), leaf.to_string());
        }
    }
}

/// How often each row is there, by its hash.
fn count(path: &Path) -> Result<HashMap<[u8; 16], u64>, Error> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path)?.into_file())?;
    let fields = reader.schema().fields().iter().map(|field| SortField::new(field.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let mut counts = HashMap::new();
    for batch in reader.build()? {
        for row in &converter.convert_columns(batch?.columns())? {
            let hash = Sha256::digest(row.as_ref());
            let key: [u8; 16] = hash[..16].try_into().expect("a hash has 32 bytes");
            *counts.entry(key).or_default() += 1;
        }
    }
    Ok(counts)
}
