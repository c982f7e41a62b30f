//! The command line: clap, then one call per command.

mod allocator;
mod args;
#[cfg(feature = "ballista")]
mod cluster;
mod download;
mod language;
mod predict;
mod profile;
mod recipe;
mod stages;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use args::{Cli, Command, Data, Import, IngestArgs, Predict, RunArgs};
use clap::Parser;
use ingest::distinct::Key;
use ingest::near::Lsh;
use recipe::Recipe;

/// Version and a hash of the sources: written into every result.
const CODE: &str = env!("PEPTALK_CODE");

/// Recursive models and long tapes need more than the usual 8 MiB.
const STACK_BYTES: usize = 256 << 20;

/// A command that cannot be begun (exit code 2), or one that failed at work (exit code 1).
enum Failure {
    Usage(anyhow::Error),
    Work(anyhow::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_ingest = match cli.command {
        Command::Ingest(_) => true,
        #[cfg(feature = "ballista")]
        Command::Cluster { .. } => true,
        _ => false,
    };
    allocator::keep_freed_memory(is_ingest);
    let filter = tracing_subscriber::EnvFilter::try_from_env("PEPTALK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_timer(tracing_subscriber::fmt::time::uptime())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // On a thread of its own, for the size of its stack.
    let worker = std::thread::Builder::new().name("peptalk".into()).stack_size(STACK_BYTES);
    let failure = match worker.spawn(move || dispatch(cli)).map(std::thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => return ExitCode::SUCCESS,
        Ok(Ok(Err(failure))) => failure,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => Failure::Work(anyhow::Error::new(error).context("starting the worker thread")),
    };
    let (error, code) = match failure {
        Failure::Usage(error) => (error, 2),
        Failure::Work(error) => (error, 1),
    };
    let (text, hints) = explain(&error);
    eprintln!("error: {text}");
    for hint in hints {
        eprintln!("{hint}");
    }
    ExitCode::from(code)
}

/// The chain of causes in one text, and the lines of advice that any of them brought along.
fn explain(error: &anyhow::Error) -> (String, Vec<String>) {
    let (mut causes, mut hints) = (Vec::<String>::new(), Vec::new());
    for cause in error.chain() {
        let text = cause.to_string();
        let (advice, lines): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("hint:"));
        hints.extend(
            advice.into_iter().map(str::to_owned).filter(|hint| !hints.contains(hint)).collect::<Vec<_>>(),
        );
        let text = lines.join("\n");
        // An error that prints its source itself would say it twice.
        if !causes.iter().any(|said| said.contains(&text)) {
            causes.push(text);
        }
    }
    (causes.join(": "), hints)
}

fn ingest(args: &IngestArgs) -> Result<(), Failure> {
    let recipe = Recipe::load(&args.recipe.config, &args.recipe.set).map_err(Failure::Usage)?;
    let config = recipe.section(recipe.ingest.as_ref(), "ingest").map_err(Failure::Usage)?;
    let (data, out) = (&args.data, &args.out);
    let run = || {
        #[cfg(feature = "ballista")]
        if let Some(scheduler) = &args.cluster {
            return ingest::run_on(scheduler, config, data, out);
        }
        ingest::run(config, data, out)
    };
    #[cfg(feature = "object-store")]
    let run = || {
        if let Some(address) = &args.data_from {
            ingest::store::fetch(address, config, data)?;
        }
        let manifest = run()?;
        if let Some(address) = &args.out_to {
            ingest::store::put(out, address)?;
        }
        Ok(manifest)
    };
    stages::ingest(out, run).map_err(Failure::Work)
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    // This thread is one of them: a parallel loop begins where it is called, without waking another thread first and
    // sleeping until it is done.
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    let pool = pool.num_threads(cli.threads.map_or(0, std::num::NonZero::get)).build_global();
    pool.context("starting the threads").map_err(Failure::Work)?;
    match cli.command {
        Command::World { out, proteins, seed } => {
            let config = datasets::world::Config { seed, n_proteins: proteins };
            stages::world(&config, &out).map_err(Failure::Work)
        }
        Command::Download { source, out, registry, mirror, update } => {
            let wish = download::Wish::new(registry.as_deref(), &mirror, update).map_err(Failure::Usage)?;
            let Some(out) = out else {
                wish.list();
                return Ok(());
            };
            let sources = wish.choose(&source).map_err(Failure::Usage)?;
            wish.fetch(&sources, &out).map_err(Failure::Work)
        }
        Command::Ingest(args) => ingest(&args),
        #[cfg(feature = "ballista")]
        Command::Cluster { what } => cluster::run(what).map_err(Failure::Work),
        Command::Train { stage, config, tables, out, set, resume, device } => {
            let config = config.unwrap_or_else(|| out.join(train::config::CONFIG));
            let recipe = Recipe::load(&config, &set).map_err(Failure::Usage)?;
            let device = device.open().map_err(Failure::Usage)?;
            stages::train(stage, &recipe, tables, &out, resume, &device).map_err(Failure::Work)
        }
        Command::Eval { task, recipe, tables, model, out } => {
            let recipe = Recipe::load(&recipe.config, &recipe.set).map_err(Failure::Usage)?;
            let config = recipe.section(recipe.eval.as_ref(), "eval").map_err(Failure::Usage)?;
            stages::evaluate(&task, config, &tables, &model, &out).map_err(Failure::Work)
        }
        Command::Chat { question, model, protein, fasta, site, max_new_tokens, temperature, seed } => {
            let site = site.map(|site| site.get() - 1);
            let saying = eval::llm::Saying { max_new_tokens, temperature, seed, site };
            let talk = language::Talk { model, proteins: protein, files: fasta, saying };
            language::chat(&talk, question.as_deref()).map_err(Failure::Work)
        }
        Command::Export { model, out, tables, results } => {
            language::export(&model, tables, results, &out).map_err(Failure::Work)
        }
        Command::Embed { input, tables, model, out, numbers } => {
            language::embed(input.as_deref(), tables.as_deref(), &model, &out, numbers).map_err(Failure::Work)
        }
        Command::Profile { input, tables, out, numbers, backwards } => {
            profile::profile(input.as_deref(), backwards, &tables, &out, numbers).map_err(Failure::Work)
        }
        Command::Predict {
            what: Predict::Ss { input, model, vectors, tables, out, format, q8, q3, backwards },
        } => {
            let options = predict::Options { models: model, vectors, tables, format, q8, q3, backwards };
            predict::ss(&input, &out, &options).map_err(Failure::Work)
        }
        Command::Import { what: Import::Ss { checkpoint, alphabet, rename, reversed, out } } => {
            let names = rename.iter().map(|pair| match pair.split_once('=') {
                Some((theirs, ours)) => Ok((theirs.to_owned(), ours.to_owned())),
                None => Err(anyhow::anyhow!("--rename {pair}: expected THEIRS=OURS")),
            });
            let names = names.collect::<Result<Vec<_>>>().map_err(Failure::Usage)?;
            predict::import(&checkpoint, &alphabet, &names, reversed, &out).map_err(Failure::Work)
        }
        Command::Data { what } => data(what),
        Command::Run { recipe, run } => {
            let recipe = Recipe::load(&recipe, &run.set).map_err(Failure::Usage)?;
            start(&recipe, &run)
        }
        Command::Quickstart { run } => {
            let recipe = Recipe::quickstart(run.data.is_some(), &run.set).map_err(Failure::Usage)?;
            start(&recipe, &run)
        }
    }
}

/// `peptalk data`.
fn data(what: Data) -> Result<(), Failure> {
    match what {
        Data::Publish { tables, out, name, rows } => {
            stages::publish(&tables, &out, name.as_deref(), rows).map_err(Failure::Work)
        }
        Data::Cluster { fasta, out, identity, coverage } => {
            stages::cluster(&fasta, &out, &identity, coverage).map_err(Failure::Work)
        }
        Data::Distinct { files, out, on, sequence } => {
            stages::distinct(&files, &Key { columns: on, sequences: sequence }, &out).map_err(Failure::Work)
        }
        Data::Near { files, text, out, threshold, recall } => {
            let lsh = Lsh::new(threshold, recall).map_err(|error| Failure::Usage(error.into()))?;
            stages::near(&files, &text, &lsh, &out).map_err(Failure::Work)
        }
        Data::Diff { a, b } => stages::diff(&a, &b).map_err(Failure::Work),
    }
}

fn start(recipe: &Recipe, run: &RunArgs) -> Result<(), Failure> {
    let out = run.out.clone().unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    recipe.is_whole().map_err(Failure::Usage)?;
    let data = recipe.data(run.data.as_deref(), &out).map_err(Failure::Usage)?;
    print!("{}", recipe.resolved().map_err(Failure::Usage)?);
    if run.dry_run {
        return Ok(());
    }
    stages::run(recipe, &data, &out).map_err(Failure::Work)
}
