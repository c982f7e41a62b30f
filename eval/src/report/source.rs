//! What the page shows beside results: training logs, and the account of the data.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The logged quantities of one training run.
#[derive(Debug, Clone, Default)]
pub struct RunLog {
    /// Name of the run: `ss`, `sft`, `grpo`.
    pub name: String,
    /// (quantity, values by step), in the order in which the log first names them.
    pub series: Vec<(String, BTreeMap<u64, f64>)>,
    /// Dashed lines: (quantity, label, value).
    pub floors: Vec<(String, String, f64)>,
}

impl RunLog {
    /// Reads a `log.jsonl`: one object per line with a `step`; nested objects give dotted names, text is skipped. Of a
    /// step that a resumed run logged again the last line counts; a last line that a killed run cut is left out.
    ///
    /// # Errors
    /// I/O, or the number of a line (not the last) that is no JSON object with a step.
    pub fn read(name: &str, path: &Path) -> Result<Self> {
        let text =
            fs_err::read_to_string(path).with_context(|| format!("cannot read the log of run {name}"))?;
        let mut log = RunLog { name: name.to_owned(), ..RunLog::default() };
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).peekable();
        while let Some((at, line)) = lines.next() {
            let object: Option<Value> = serde_json::from_str(line).ok();
            match object.as_ref().and_then(|o| Some((o, o.get("step")?.as_u64()?))) {
                Some((object, step)) => log.add(step, "", object),
                None if lines.peek().is_none() => {}
                None => anyhow::bail!("{}, line {}: no JSON object with a step", path.display(), at + 1),
            }
        }
        Ok(log)
    }

    fn add(&mut self, step: u64, prefix: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields.iter().filter(|(key, _)| !(prefix.is_empty() && *key == "step")) {
                    let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    self.add(step, &name, value);
                }
            }
            Value::Number(number) => {
                let at = self.series.iter().position(|(name, _)| name == prefix).unwrap_or_else(|| {
                    self.series.push((prefix.to_owned(), BTreeMap::new()));
                    self.series.len() - 1
                });
                self.series[at].1.extend(number.as_f64().map(|value| (step, value)));
            }
            _ => {}
        }
    }

    /// Adds a dashed line to the curve of a quantity: what a constant answer earns, what the SFT policy earned.
    #[must_use]
    pub fn with_floor(mut self, quantity: &str, label: &str, value: f64) -> Self {
        self.floors.push((quantity.to_owned(), label.to_owned(), value));
        self
    }
}

/// The account of a tables folder, from its `manifest.json` and `audit.json`. Fields that the page does not show are
/// not read.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Data {
    /// Every input file.
    pub files: Vec<InputFile>,
    /// Rows of every table.
    pub tables: BTreeMap<String, u64>,
    /// Proteins of every part.
    pub proteins_by_split: BTreeMap<String, u64>,
    /// Homology clusters.
    pub n_clusters: u64,
    /// The leakage audit, if there is one.
    #[serde(skip_deserializing)]
    pub audit: Option<Audit>,
}

/// What became of the records of one input file.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct InputFile {
    /// Source name.
    pub source: String,
    /// Path in the data folder.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Records read.
    pub rows_in: u64,
    /// Records that gave rows.
    pub kept: u64,
    /// Exact repeats.
    pub merged: u64,
    /// Records that gave nothing, by reason.
    pub quarantined: BTreeMap<String, u64>,
}

/// Pairs of held-out and training proteins that should not be.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Audit {
    /// The settings that say what makes two proteins relatives.
    pub kinship: BTreeMap<String, f64>,
    /// Proteins in train.
    pub n_train: u64,
    /// Proteins held out.
    pub n_held_out: u64,
    /// Pairs of equal sequence.
    pub exact: Vec<(String, String)>,
    /// Pairs of one cluster.
    pub cluster: Vec<(String, String)>,
    /// Pairs of relatives.
    pub alike: Vec<(String, String)>,
    /// Pairs with a significant alignment, of the test sources that exclude them.
    pub homologs: Vec<(String, String)>,
}

impl Data {
    /// Reads the account of a tables folder; `audit.json` may be missing.
    ///
    /// # Errors
    /// I/O, or JSON of another shape, with the file.
    pub fn read(tables: &Path) -> Result<Self> {
        fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
            let text = fs_err::read_to_string(path)?;
            serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))
        }
        let mut data: Data = parse(&tables.join("manifest.json"))?;
        let audit = tables.join("audit.json");
        data.audit = if audit.exists() { Some(parse(&audit)?) } else { None };
        Ok(data)
    }

    /// Whether the inputs are the made-up sample data, which carries it in its file names.
    pub fn is_made_up(&self) -> bool {
        let name = |file: &str| file.rsplit('/').next().is_some_and(|name| name.starts_with("madeup_"));
        self.files.iter().any(|input| name(&input.file))
    }
}
