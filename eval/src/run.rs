//! All evaluations of a run: which models there are, what they are judged on, one report.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use datasets::llm::{Options, Record};
use datasets::table::{DdgRow, GoRow, PpiRow, ProteinRow, Rows};
use serde::{Deserialize, Serialize};

use crate::dataset::hashed;
use crate::llm::{Asking, Corpus, Policy};
use crate::report::{self, Data, Dataset, Results, RunLog};
use crate::{contact, llm, ss};

/// Tasks that a recipe may name.
pub const TASKS: [&str; 5] = ["ss", "contact", "go", "ppi", "stability"];

/// The `eval` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of [`TASKS`], in the order of the report.
    pub tasks: Vec<String>,
    /// How the language models are asked; needed by go, ppi and stability alone, as `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asking: Option<Asking>,
    /// What they are asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Options>,
}

impl Config {
    /// # Errors
    /// Names what is no task, or a number out of range.
    pub fn validate(&self) -> Result<()> {
        let asks = self.tasks.iter().any(|task| ["go", "ppi", "stability"].contains(&task.as_str()));
        ensure!(
            !asks || (self.asking.is_some() && self.data.is_some()),
            "eval: go, ppi and stability need the sections [eval.asking] and [eval.data]"
        );
        ensure!(self.asking.as_ref().is_none_or(|a| a.samples > 0), "eval: asking.samples must be positive");
        match self.tasks.iter().find(|task| !TASKS.contains(&task.as_str())) {
            Some(task) => bail!("eval: there is no task {task:?}; there are: {}", TASKS.join(", ")),
            None => Ok(()),
        }
    }
}

/// The folders of what is judged.
#[derive(Debug, Default)]
pub struct Models {
    /// Secondary structure; several are judged together, as one.
    pub ss: Vec<PathBuf>,
    /// Contacts.
    pub contact: Option<PathBuf>,
    /// Language models by name, a later one beside the earlier: `sft`, `grpo`.
    pub policies: Vec<(String, PathBuf)>,
}

/// Judges the models on the test part of the tables and writes the report: the path of its page. A task without a model
/// is an error.
///
/// # Errors
/// When a model or a table cannot be read; names the task.
pub fn run(config: &Config, tables: &Path, models: &Models, runs: &[RunLog], out: &Path) -> Result<PathBuf> {
    config.validate()?;
    let mut results: Vec<Results> = vec![];
    let mut policies: Option<(Vec<(String, Policy)>, Corpus)> = None;
    for task in &config.tasks {
        let none = || format!("eval {task}: there is no model\nhint: train it, or give its folder");
        let found = match task.as_str() {
            "ss" => models.ss.first().with_context(none).and_then(|_| ss::run(&models.ss, tables)),
            "contact" => models.contact.as_ref().with_context(none).and_then(|m| contact::run(m, tables)),
            _ => {
                let (asking, data) =
                    config.asking.as_ref().zip(config.data.as_ref()).context("checked above")?;
                if policies.is_none() {
                    policies = Some((open(models)?, Corpus::read(tables, data)?));
                }
                let (policies, corpus) = policies.as_ref().context("the policies were just opened")?;
                answer(task, policies, corpus, asking, tables)
            }
        };
        results.extend(found.with_context(|| format!("evaluating {task}"))?);
    }
    report::write(out, &results, runs, Some(&Data::read(tables)?))
}

fn open(models: &Models) -> Result<Vec<(String, Policy)>> {
    if models.policies.is_empty() {
        bail!(
            "there is no language model to evaluate\nhint: train sft or grpo, or give the folder of a policy"
        );
    }
    models.policies.iter().map(|(name, folder)| Ok((name.clone(), Policy::load(folder)?))).collect()
}

fn answer(
    task: &str,
    policies: &[(String, Policy)],
    corpus: &Corpus,
    asking: &Asking,
    tables: &Path,
) -> Result<Vec<Results>> {
    let (kind, table): (&str, &str) = match task {
        "go" => ("go", GoRow::TABLE),
        "ppi" => ("ppi", PpiRow::TABLE),
        _ => ("ddg", DdgRow::TABLE),
    };
    let n = corpus.records.test.iter().filter(|record: &&Record| record.task == kind).count();
    let dataset = Dataset {
        name: "held-out".to_owned(),
        split: "test".to_owned(),
        n,
        n_used: n.min(asking.per_task),
        files: hashed(tables, &[ProteinRow::TABLE, table])?,
    };
    if n == 0 {
        bail!("no {kind} record lies in the test part\nhint: ingest more data");
    }
    match task {
        "go" => llm::go::run(policies, corpus, asking, &dataset),
        "ppi" => llm::ppi::run(policies, corpus, asking, &dataset),
        _ => llm::stability::run(policies, corpus, asking, &dataset),
    }
}
