//! The stages: what each reads, where it writes, and the order.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use eval::Models;
use eval::hub::Place;
use eval::report::RunLog;
use ingest::distinct::Key;
use ingest::near::Lsh;
use models::device::Device;
use train::recipe::{Existing, Lock, Outcome, Stage, Work, interrupted};

use crate::CODE;
use crate::recipe::Recipe;

/// The training stages, in the order in which they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Training {
    /// Protein encoder by masked residues
    Encoder,
    /// Secondary structure: BiLSTM + CRF
    Ss,
    /// Contacts and CATH classes
    Contact,
    /// Tokenizer and base language model by next tokens
    Ssl,
    /// Bridge by the words of answers
    Align,
    /// Adapter and bridge by questions and answers
    Sft,
    /// The same by rewards
    Grpo,
}

impl Training {
    /// The stage of a recipe, or `None` if it has no such section.
    fn stage<'a>(
        self,
        recipe: &'a Recipe,
        tables: &Path,
        folder: PathBuf,
        device: &Device,
    ) -> Result<Option<Stage<'a>>> {
        ensure!(
            device.is_cpu() || self == Self::Sft,
            "{self:?} computes on the CPU alone\nhint: leave out --device"
        );
        let seat = Seat { recipe, tables, folder: &folder };
        match self {
            Self::Ss => seat.stage("ss", recipe.ss.as_ref(), train::ss::run, |ss| {
                let teachers = ss.distil.iter().flat_map(|distil| &distil.teachers).enumerate();
                let teachers = teachers.map(|(at, teacher)| (format!("teacher-{at}"), teacher));
                let beside = [("encoder", &ss.encoder), ("vectors", &ss.vectors)];
                let beside =
                    beside.into_iter().filter_map(|(name, path)| Some((name.to_owned(), path.as_ref()?)));
                teachers.chain(beside).collect()
            }),
            Self::Contact => seat.stage("contact", recipe.contact.as_ref(), train::contact::run, |_| vec![]),
            Self::Encoder => seat.stage("encoder", recipe.encoder.as_ref(), train::encoder::run, |_| vec![]),
            Self::Ssl => seat.stage("ssl", recipe.ssl.as_ref(), train::ssl::run, |_| vec![]),
            Self::Align => seat.stage("align", recipe.align.as_ref(), train::align::run, |align| {
                let encoder = align.protein.encoder().map(|folder| ("encoder".to_owned(), folder));
                [("base".to_owned(), &align.base)].into_iter().chain(encoder).collect()
            }),
            Self::Sft => {
                let device = device.clone();
                let run = move |sft: &train::sft::Config, tables: &Path, out: &Path, resume: bool| {
                    train::sft::run(sft, tables, out, resume, &device)
                };
                seat.stage("sft", recipe.sft.as_ref(), run, |sft| {
                    let encoder = sft.protein.encoder().map(|folder| ("encoder".to_owned(), folder));
                    let bridge = sft.bridge.iter().map(|folder| ("bridge".to_owned(), folder));
                    [("base".to_owned(), &sft.base)].into_iter().chain(encoder).chain(bridge).collect()
                })
            }
            Self::Grpo => seat.stage("grpo", recipe.grpo.as_ref(), train::grpo::run, |grpo| {
                vec![("policy".to_owned(), &grpo.policy)]
            }),
        }
    }
}

/// Where a training stage stands.
struct Seat<'p, 'a> {
    recipe: &'a Recipe,
    tables: &'p Path,
    folder: &'p Path,
}

impl<'a> Seat<'_, 'a> {
    /// A stage that reads the tables and the models that `models` names, whose paths begin at the stage's folder. `run` is
    /// its loop: settings, tables, run folder, whether to resume.
    fn stage<C>(
        &self,
        name: &'static str,
        config: Option<&'a C>,
        run: impl Fn(&C, &Path, &Path, bool) -> Result<()> + 'a,
        models: impl Fn(&'a C) -> Vec<(String, &'a PathBuf)>,
    ) -> Result<Option<Stage<'a>>> {
        let Some(config) = config else { return Ok(None) };
        let mut inputs = vec![("tables".to_owned(), self.tables.to_owned())];
        for (name, path) in models(config) {
            // What the hub has is fetched now; a folder may be the work of a stage before this one.
            inputs.push(match eval::hub::locate(self.folder, path)? {
                Place { path, hub: Some(_) } => (name, path),
                Place { .. } => (name, seen_from(self.folder, path)?),
            });
        }
        let tables = self.tables.to_owned();
        let work: Work = Box::new(move |out, resume| run(config, &tables, out, resume));
        let (folder, config) = (self.folder.to_owned(), self.recipe.only(name)?);
        Ok(Some(Stage { name, folder, config, inputs, resumes: true, work }))
    }
}

/// `path` as it is meant in a folder that need not exist yet, which `..` could not be followed from.
fn seen_from(folder: &Path, path: &Path) -> Result<PathBuf> {
    let mut place = std::path::absolute(folder)?;
    for part in path.components() {
        match part {
            Component::ParentDir => drop(place.pop()),
            part => place.push(part),
        }
    }
    Ok(place)
}

/// `peptalk world`.
pub(crate) fn world(config: &datasets::world::Config, out: &Path) -> Result<()> {
    datasets::world::write(config, out)?;
    println!("{} made-up proteins: {}", config.n_proteins, out.display());
    Ok(())
}

/// `peptalk ingest`. `run`: writes the tables.
pub(crate) fn ingest(
    out: &Path,
    run: impl FnOnce() -> Result<ingest::Manifest, ingest::Error>,
) -> Result<()> {
    ensure!(
        !out.exists() || out.join("manifest.json").exists() || out.read_dir()?.next().is_none(),
        "{} holds files, but no tables; it would be replaced\nhint: give a new folder as --out",
        out.display()
    );
    let manifest = run()?;
    print!("{}\n{}", manifest.account(), manifest.parts());
    println!("\ntables: {}", out.display());
    Ok(())
}

/// `peptalk data publish`.
pub(crate) fn publish(tables: &Path, out: &Path, name: Option<&str>, rows: usize) -> Result<()> {
    ensure!(
        !out.exists() || out.join("croissant.json").exists() || out.read_dir()?.next().is_none(),
        "{} holds files, but no dataset; it would be replaced\nhint: give a new folder as --out",
        out.display()
    );
    let of_folder =
        || out.file_name().map_or_else(|| "proteins".into(), |name| name.to_string_lossy().into_owned());
    ingest::publish::publish(tables, out, &name.map_or_else(of_folder, str::to_owned), rows)?;
    println!("dataset: {}", out.display());
    Ok(())
}

/// `peptalk data cluster`.
pub(crate) fn cluster(fasta: &Path, out: &Path, identities: &[f64], coverage: f64) -> Result<()> {
    for level in ingest::cluster::cluster(fasta, out, identities, coverage)? {
        println!("identity {}: {} clusters", level.identity, level.n_clusters);
    }
    println!("table: {}", out.display());
    Ok(())
}

/// `peptalk data distinct`.
pub(crate) fn distinct(files: &[PathBuf], key: &Key, out: &Path) -> Result<()> {
    let counts = ingest::distinct::distinct(files, key, out)?;
    println!("{} of {} rows stay: {}", counts.kept, counts.rows, out.display());
    Ok(())
}

/// `peptalk data near`.
pub(crate) fn near(files: &[PathBuf], text: &str, lsh: &Lsh, out: &Path) -> Result<()> {
    println!("{} bands of {} hashes", lsh.bands, lsh.rows);
    let counts = ingest::near::near(files, text, lsh, out)?;
    println!("{} groups among {} rows: {}", counts.groups, counts.rows, out.display());
    Ok(())
}

/// `peptalk data diff`.
pub(crate) fn diff(a: &Path, b: &Path) -> Result<()> {
    let diff = ingest::diff::Diff::of(a, b)?;
    print!("{}", diff.text());
    ensure!(diff.same_rows(), "the tables differ");
    Ok(())
}

/// `peptalk train`: one stage, on tables that lie anywhere.
pub(crate) fn train(
    training: Training,
    recipe: &Recipe,
    tables: Option<PathBuf>,
    out: &Path,
    resume: bool,
    device: &Device,
) -> Result<()> {
    let _lock = Lock::take(out)?;
    let tables = match tables {
        Some(tables) => tables,
        None => interrupted(out)?.remove("tables").context("the run was begun without tables")?,
    };
    let stage = training.stage(recipe, &tables, out.to_owned(), device)?;
    let stage = stage.with_context(|| format!("recipe {:?} has no section for {training:?}", recipe.name))?;
    print!("{}", train::config::resolved(&stage.config)?);
    let existing = if resume { Existing::Resume } else { Existing::Refuse };
    summarise(&[(stage.name, out.to_owned(), stage.run(CODE, existing)?)]);
    Ok(())
}

/// `peptalk eval`: one task, on models and tables that lie anywhere.
pub(crate) fn evaluate(
    task: &str,
    config: &eval::Config,
    tables: &Path,
    models: &[PathBuf],
    out: &Path,
) -> Result<()> {
    let config = eval::Config { tasks: vec![task.to_owned()], ..config.clone() };
    // A run folder gives the model in it its name.
    let named = |folder: &PathBuf| {
        let run = if folder.ends_with("model") { folder.parent().unwrap_or(folder) } else { folder };
        let name = run.file_name().map_or("model".to_owned(), |name| name.to_string_lossy().into_owned());
        (name, model_in(folder))
    };
    let policies: Vec<(String, PathBuf)> = models.iter().map(named).collect();
    let folders: Vec<PathBuf> = policies.iter().map(|(_, folder)| folder.clone()).collect();
    let models = Models { contact: folders.first().cloned(), ss: folders, policies };
    println!("report: {}", eval::run(&config, tables, &models, &[], out)?.display());
    Ok(())
}

/// A run folder stands for the model in it.
pub(crate) fn model_in(folder: &Path) -> PathBuf {
    let inside = folder.join("model");
    if inside.is_dir() { inside } else { folder.to_owned() }
}

/// The language model that `named` means: a run's, a model folder, or `owner/name` of the hub.
pub(crate) fn language_model(named: &Path) -> Result<PathBuf> {
    Ok(model_in(&eval::hub::locate(Path::new(""), named)?.path))
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
    if recipe.eval.is_some() {
        println!("\nreport: {}", std::path::absolute(out.join("eval/report.html"))?.display());
    }
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
        let folder = out.join(format!("{training:?}").to_lowercase());
        stages.extend(training.stage(recipe, &tables, folder, &Device::Cpu)?);
    }
    if let Some(config) = &recipe.eval {
        let trained: Vec<(&'static str, PathBuf)> = stages
            .iter()
            .filter(|stage| stage.resumes)
            .map(|stage| (stage.name, stage.folder.clone()))
            .collect();
        let named = |(name, folder): &(&'static str, PathBuf)| ((*name).to_owned(), folder.clone());
        let inputs =
            [("tables".to_owned(), tables.clone())].into_iter().chain(trained.iter().map(named)).collect();
        let work: Work = Box::new(move |folder, _| {
            let model = |name: &str| trained.iter().find(|t| t.0 == name).map(|t| t.1.join("model"));
            let policy = |name: &str| Some((name.to_owned(), model(name)?));
            let models = Models {
                ss: model("ss").into_iter().collect(),
                contact: model("contact"),
                policies: ["sft", "grpo"].into_iter().filter_map(policy).collect(),
            };
            let read = |(name, folder): &(&str, PathBuf)| RunLog::read(name, &folder.join("log.jsonl"));
            let runs = trained.iter().map(read).collect::<Result<Vec<_>>>()?;
            eval::run(config, &tables, &models, &runs, folder).map(drop)
        });
        let (folder, config) = (out.join("eval"), recipe.only("eval")?);
        stages.push(Stage { name: "eval", folder, config, inputs, resumes: false, work });
    }
    Ok(stages)
}
