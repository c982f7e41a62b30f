//! Results and the files they become.
//!
//! [`write()`] makes, in the output folder:
//!
//! * `<model>/results.json`: the shape of lm-evaluation-harness (`results` → task → `metric,filter`), with everything
//!   that shape has no room for (floors, intervals, gains) under `peptalk`;
//! * `<model>/samples_<task>.jsonl`: one line per example;
//! * `report.html`: one page without outside resources, over all models, training logs and the data they came from.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Kind;
use crate::metric::bootstrap::Interval;
use crate::metric::calibration::Bin;
use crate::metric::classification::Confusion;

mod harness;
mod page;
mod source;
mod svg;

pub use source::{Data, RunLog};

/// Version of the code that made a result.
pub const CODE_VERSION: &str = concat!("peptalk ", env!("CARGO_PKG_VERSION"));

/// What one model did on one data set.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// One of [`crate::TASKS`].
    pub task: String,
    /// Name of the model in tables and folders: `sft`, `grpo`, `bilstm-crf`.
    pub model: String,
    /// What it was tested on.
    pub dataset: Dataset,
    /// The resolved configuration of the evaluation, the checkpoint among it.
    pub config: Value,
    /// The numbers; the first row is the headline.
    pub rows: Vec<Row>,
    /// Pictures beside them.
    #[serde(skip)]
    pub charts: Vec<Chart>,
    /// One record per example.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

impl Results {
    /// The task's name in files: task and data set, in letters that every file system takes.
    pub fn key(&self) -> String {
        file_name(&format!("{}_{}", self.task, self.dataset.name))
    }
}

/// What a model was tested on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dataset {
    /// `cb513`, `ssym`.
    pub name: String,
    /// `test`, `valid`.
    pub split: String,
    /// Examples in the data set.
    pub n: usize,
    /// Examples that the metrics are over: fewer under a limit.
    pub n_used: usize,
    /// Tables it was read from: (file, SHA-256).
    pub files: Vec<(String, String)>,
}

/// One metric of one model on one data set, with everything that is needed to judge it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `acc`, `auroc`, `f1_micro`.
    pub metric: String,
    /// Which part of the examples or answers it is over; `none` for all (the name lm-evaluation-harness uses).
    pub filter: String,
    /// Direction.
    pub higher_is_better: bool,
    /// The model's value; `None` where the metric is not defined.
    pub value: Option<f64>,
    /// Its interval over clusters.
    pub interval: Option<Interval>,
    /// Examples.
    pub n: usize,
    /// Homology clusters they lie in.
    pub n_clusters: usize,
    /// Floors and references on the same examples.
    pub baselines: Vec<Baseline>,
}

/// What stands beside a model's value.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Baseline {
    /// `constant`, `majority`, `frequency`, `neighbour`, `shuffled`, `sft`.
    pub name: String,
    /// Floor or reference.
    pub kind: Kind,
    /// Its value.
    pub value: Option<f64>,
    /// The interval of its value.
    pub interval: Option<Interval>,
    /// How much better the model is (positive is better, whatever the direction of the metric).
    pub gain: Option<f64>,
    /// The interval of the gain, in pairs.
    pub gain_interval: Option<Interval>,
}

impl Row {
    /// Names the part of the examples that the row is over, as a length bin or an aspect.
    pub fn filtered(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.filter);
        self
    }

    /// The floor that is hardest to beat.
    pub fn best_floor(&self) -> Option<&Baseline> {
        let floors = self.baselines.iter().filter(|b| b.kind == Kind::Floor);
        let gains = floors.filter_map(|b| b.gain.map(|gain| (gain, b)));
        gains.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, floor)| floor)
    }
}

/// A picture beside the numbers of a result.
#[derive(Debug, Clone)]
pub enum Chart {
    /// Truth by prediction.
    Confusion {
        /// Over the picture.
        title: String,
        /// Names of the classes.
        classes: Vec<String>,
        /// The counts.
        matrix: Confusion,
    },
    /// Confidence against frequency.
    Reliability {
        /// Over the picture.
        title: String,
        /// From [`crate::metric::calibration::reliability`].
        bins: Vec<Bin>,
    },
    /// Truth (horizontal) against prediction.
    Scatter {
        /// Over the picture.
        title: String,
        /// Unit of both axes.
        unit: String,
        /// (truth, prediction).
        points: Vec<(f64, f64)>,
    },
}

/// One example in `samples_<task>.jsonl`, with the field names of lm-evaluation-harness.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Number of the example.
    pub doc_id: usize,
    /// The example: ids, cluster, what was asked about.
    pub doc: Value,
    /// The truth.
    pub target: Value,
    /// What the model was given; `Null` where it is no text.
    pub arguments: Value,
    /// What it said, as it said it.
    pub resps: Value,
    /// What was read from that.
    pub filtered_resps: Value,
    /// Score of this example by metric.
    #[serde(flatten)]
    pub metrics: Map<String, Value>,
}

/// Writes all files of a report and returns the path of the page.
///
/// Nothing in them depends on the clock: the same results give the same bytes.
///
/// # Errors
/// Two results of one model with the same [`Results::key`]; I/O, with the file.
pub fn write(out: &Path, results: &[Results], runs: &[RunLog], data: Option<&Data>) -> Result<PathBuf> {
    let mut seen = BTreeSet::new();
    for result in results {
        let names = (file_name(&result.model), result.key());
        ensure!(seen.insert(names), "two results of model {} are both {}", result.model, result.key());
    }
    let models: BTreeSet<&str> = results.iter().map(|r| r.model.as_str()).collect();
    for model in models {
        let of_model: Vec<&Results> = results.iter().filter(|r| r.model == model).collect();
        let folder = out.join(file_name(model));
        let mut text = serde_json::to_string_pretty(&harness::results(model, &of_model, data))?;
        text.push('\n');
        put(&folder.join("results.json"), text.as_bytes())?;
        for result in of_model {
            let mut lines = Vec::new();
            for sample in &result.samples {
                serde_json::to_writer(&mut lines, sample)?;
                lines.push(b'\n');
            }
            put(&folder.join(format!("samples_{}.jsonl", result.key())), &lines)?;
        }
    }
    let page = out.join("report.html");
    put(&page, page::render(results, runs, data)?.as_bytes())?;
    Ok(page)
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    datasets::atomic_write(path, |file| file.write_all(bytes))
        .with_context(|| format!("cannot write report file {}", path.display()))
}

fn file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    name.chars().map(plain).collect()
}

#[cfg(test)]
mod tests;
