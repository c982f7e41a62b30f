//! The stages: what each reads, where it writes, and the order.

use std::path::Path;

use anyhow::Result;
use train::recipe::{Existing, Lock, Outcome, Stage, Work};

use crate::CODE;
use crate::recipe::Recipe;

/// `peptalk world`.
pub(crate) fn world(config: &datasets::world::Config, out: &Path) -> Result<()> {
    datasets::world::write(config, out)?;
    println!("{} made-up proteins: {}", config.n_proteins, out.display());
    Ok(())
}

/// `peptalk ingest`.
pub(crate) fn ingest(config: &ingest::Config, data: &Path, out: &Path) -> Result<()> {
    ingest::run(config, data, out)?;
    println!("tables: {}", out.display());
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
    println!("\n{:<9} {:<12} {:>9}  results", "stage", "", "seconds");
    for (name, folder, outcome) in outcomes {
        let (how, seconds) = match outcome {
            Outcome::UpToDate => ("up to date", String::new()),
            Outcome::Done { took, resumed: false } => ("done", format!("{:.1}", took.as_secs_f64())),
            Outcome::Done { took, resumed: true } => ("resumed", format!("{:.1}", took.as_secs_f64())),
        };
        println!("{name:<9} {how:<12} {seconds:>9}  {}", folder.display());
    }
    Ok(())
}

/// The stages of a recipe, in order.
fn plan<'a>(recipe: &'a Recipe, data: &'a Path, out: &Path) -> Result<Vec<Stage<'a>>> {
    let mut stages = Vec::new();
    let mut push = |name: &'static str, folder: &str, inputs, resumes, work: Work<'a>| -> Result<()> {
        stages.push(Stage {
            name,
            folder: out.join(folder),
            config: recipe.only(name)?,
            inputs,
            resumes,
            work,
        });
        Ok(())
    };
    if let Some(config) = &recipe.world {
        let work = |folder: &Path, _| Ok(datasets::world::write(config, folder).map(drop)?);
        push("world", "world", vec![], false, Box::new(work))?;
    }
    if let Some(config) = &recipe.ingest {
        let files = config.source.iter().flat_map(|source| source.files.iter().chain(&source.companion));
        let inputs = files.map(|file| (file.clone(), data.join(file))).collect();
        let work = |folder: &Path, _| Ok(ingest::run(config, data, folder).map(drop)?);
        push("ingest", "tables", inputs, false, Box::new(work))?;
    }
    Ok(stages)
}
