//! The stages: what each reads, where it writes, and the order.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use train::recipe::{Existing, Lock, Outcome, Stage, Work, interrupted};

use crate::CODE;
use crate::recipe::Recipe;

/// The training stages, in the order in which they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Training {
    /// Secondary structure: BiLSTM + CRF
    Ss,
    /// Contacts and CATH classes
    Contact,
}

impl Training {
    /// The stage of a recipe, or `None` if it has no such section.
    fn stage<'a>(self, recipe: &'a Recipe, tables: &Path, folder: PathBuf) -> Result<Option<Stage<'a>>> {
        let inputs = vec![("tables".to_owned(), tables.to_owned())];
        let tables = tables.to_owned();
        let (name, work): (_, Option<Work<'a>>) = match self {
            Self::Ss => (
                "ss",
                recipe.ss.as_ref().map(|config| -> Work {
                    Box::new(move |out, resume| train::ss::run(config, &tables, out, resume))
                }),
            ),
            Self::Contact => (
                "contact",
                recipe.contact.as_ref().map(|config| -> Work {
                    Box::new(move |out, resume| train::contact::run(config, &tables, out, resume))
                }),
            ),
        };
        let Some(work) = work else { return Ok(None) };
        Ok(Some(Stage { name, folder, config: recipe.only(name)?, inputs, resumes: true, work }))
    }
}

/// `peptalk world`.
pub(crate) fn world(config: &datasets::world::Config, out: &Path) -> Result<()> {
    datasets::world::write(config, out)?;
    println!("{} made-up proteins: {}", config.n_proteins, out.display());
    Ok(())
}

/// `peptalk ingest`.
pub(crate) fn ingest(config: &ingest::Config, data: &Path, out: &Path) -> Result<()> {
    ensure!(
        !out.exists() || out.join("manifest.json").exists() || out.read_dir()?.next().is_none(),
        "{} holds files, but no tables; it would be replaced\nhint: give a new folder as --out",
        out.display()
    );
    ingest::run(config, data, out)?;
    println!("tables: {}", out.display());
    Ok(())
}

/// `peptalk train`: one stage, on tables that lie anywhere.
pub(crate) fn train(
    training: Training,
    recipe: &Recipe,
    tables: Option<PathBuf>,
    out: &Path,
    resume: bool,
) -> Result<()> {
    let _lock = Lock::take(out)?;
    let tables = match tables {
        Some(tables) => tables,
        None => interrupted(out)?.remove("tables").context("the run was begun without tables")?,
    };
    let stage = training.stage(recipe, &tables, out.to_owned())?;
    let stage = stage.with_context(|| format!("recipe {:?} has no section for {training:?}", recipe.name))?;
    print!("{}", train::config::resolved(&stage.config)?);
    let existing = if resume { Existing::Resume } else { Existing::Refuse };
    summarise(&[(stage.name, out.to_owned(), stage.run(CODE, existing)?)]);
    Ok(())
}

/// `peptalk run`: all stages of a recipe, in order.
pub(crate) fn run(recipe: &Recipe, data: &Path, out: &Path) -> Result<()> {
    let _lock = Lock::take(out)?;
    let mut outcomes = Vec::new();
    for stage in plan(recipe, data, out)? {
        tracing::info!("stage {}", stage.name);
        outcomes.push((stage.name, stage.folder.clone(), stage.run(CODE, Existing::Update)?));
    }
    summarise(&outcomes);
    Ok(())
}

fn summarise(outcomes: &[(&str, PathBuf, Outcome)]) {
    println!("\n{:<9} {:<12} {:>9}  results", "stage", "", "seconds");
    for (name, folder, outcome) in outcomes {
        let (how, seconds) = match outcome {
            Outcome::UpToDate => ("up to date", String::new()),
            Outcome::Done { took, resumed: false } => ("done", format!("{:.1}", took.as_secs_f64())),
            Outcome::Done { took, resumed: true } => ("resumed", format!("{:.1}", took.as_secs_f64())),
        };
        println!("{name:<9} {how:<12} {seconds:>9}  {}", folder.display());
    }
}

/// The stages of a recipe, in order.
fn plan<'a>(recipe: &'a Recipe, data: &'a Path, out: &Path) -> Result<Vec<Stage<'a>>> {
    let mut stages = Vec::new();
    if let Some(config) = &recipe.world {
        let work: Work = Box::new(|folder, _| Ok(datasets::world::write(config, folder).map(drop)?));
        let (folder, config) = (out.join("world"), recipe.only("world")?);
        stages.push(Stage { name: "world", folder, config, inputs: vec![], resumes: false, work });
    }
    let tables = out.join("tables");
    if let Some(config) = &recipe.ingest {
        let files = config.source.iter().flat_map(|source| source.files.iter().chain(&source.companion));
        let inputs = files.map(|file| (file.clone(), data.join(file))).collect();
        let work: Work = Box::new(move |folder, _| Ok(ingest::run(config, data, folder).map(drop)?));
        let (folder, config) = (tables.clone(), recipe.only("ingest")?);
        stages.push(Stage { name: "ingest", folder, config, inputs, resumes: false, work });
    }
    for training in Training::value_variants() {
        stages.extend(training.stage(recipe, &tables, out.join(format!("{training:?}").to_lowercase()))?);
    }
    Ok(stages)
}
