//! All evaluations of a run: which models there are, what they are judged on, one report.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use datasets::llm::Options;
use datasets::table::{DdgRow, FactRow, GoRow, PlddtRow, PpiRow, ProteinRow, Rows, SsRow};
use serde::{Deserialize, Serialize};

use crate::dataset::hashed;
use crate::llm::{Asking, Corpus, Policy};
use crate::report::{self, Data, Dataset, Results, RunLog};
use crate::{contact, llm, ss};

/// Tasks that a recipe may name.
pub const TASKS: [&str; 6] = ["ss", "contact", "go", "ppi", "stability", "likelihood"];

/// The `eval` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of [`TASKS`], in the order of the report.
    pub tasks: Vec<String>,
    /// How the language models are asked; needed by their tasks alone, as `data`.
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
        let asks = self.tasks.iter().find(|task| !["ss", "contact"].contains(&task.as_str()));
        if let Some(task) = asks.filter(|_| self.asking.is_none() || self.data.is_none()) {
            bail!("eval: {task} needs the sections [eval.asking] and [eval.data]");
        }
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
                answer(task, policies, corpus, (asking, data), tables)
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
    (asking, data): (&Asking, &Options),
    tables: &Path,
) -> Result<Vec<Results>> {
    let asked: Vec<String> = match task {
        "likelihood" => data.tasks.clone(),
        "stability" => vec!["ddg".to_owned()],
        task => vec![task.to_owned()],
    };
    let mut files: Vec<&str> = asked.iter().map(|task| table_of(task)).collect();
    files.sort_unstable();
    files.dedup();
    files.insert(0, ProteinRow::TABLE);
    let n_of = |task: &String| corpus.records.test.iter().filter(|record| record.task == *task).count();
    let dataset = Dataset {
        name: "held-out".to_owned(),
        split: "test".to_owned(),
        n: asked.iter().map(n_of).sum(),
        n_used: asked.iter().map(|task| n_of(task).min(asking.per_task)).sum(),
        files: hashed(tables, &files)?,
    };
    if dataset.n == 0 {
        bail!("no record of {} lies in the test part\nhint: ingest more data", asked.join(", "));
    }
    match task {
        "go" => llm::go::run(policies, corpus, asking, &dataset),
        "ppi" => llm::ppi::run(policies, corpus, asking, &dataset),
        "stability" => llm::stability::run(policies, corpus, asking, &dataset),
        _ => llm::likelihood::run(policies, corpus, &asked, asking, &dataset),
    }
}

/// The table that holds a task's records.
fn table_of(task: &str) -> &'static str {
    match task {
        "go" => GoRow::TABLE,
        "ppi" => PpiRow::TABLE,
        "ddg" => DdgRow::TABLE,
        "plddt" => PlddtRow::TABLE,
        "ss" => SsRow::TABLE,
        _ => FactRow::TABLE,
    }
}
