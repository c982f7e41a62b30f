//! The command line: clap, then one call per command.

mod allocator;
#[cfg(feature = "ballista")]
mod cluster;
mod download;
mod language;
mod predict;
mod profile;
mod recipe;
mod stages;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use eval::embeddings::Numbers;
use ingest::distinct::Key;
use ingest::near::Lsh;
use models::device::{self, Device};
use recipe::Recipe;
use stages::Training;

/// Version and a hash of the sources: written into every result.
const CODE: &str = env!("PEPTALK_CODE");

/// Recursive models and long tapes need more than the usual 8 MiB.
const STACK_BYTES: usize = 256 << 20;

/// Protein datasets, models and benchmark numbers that can be trusted
#[derive(Parser)]
#[command(name = "peptalk", version = CODE, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Threads to compute on; results do not depend on it [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    threads: Option<std::num::NonZero<usize>>,
}

#[derive(Subcommand)]
enum Command {
    /// Write the made-up sample data: raw files in the formats of the official sites
    World {
        /// Where to write the data folder
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Distinct proteins
        #[arg(long, value_name = "N", default_value_t = datasets::world::Config::default().n_proteins)]
        proteins: usize,
        /// Decides every byte
        #[arg(long, value_name = "N", default_value_t = datasets::world::Config::default().seed)]
        seed: u64,
    },
    /// Fetch raw files of the sources from their publishers; without a source, list what there is
    Download {
        /// Which sources
        #[arg(requires = "out")]
        source: Vec<String>,
        /// Folder for the files, laid out as the recipe.toml in it says
        #[arg(long, value_name = "DIR", requires = "source")]
        out: Option<PathBuf>,
        /// A list of sources of one's own, of the form of ingest/src/download/sources.toml
        #[arg(long, value_name = "FILE.toml")]
        registry: Option<PathBuf>,
        /// Ask this place first: what addresses begin with, and what to put instead
        #[arg(long, value_name = "OF=AT", requires = "source")]
        mirror: Vec<String>,
        /// Take newer files where the publisher has some
        #[arg(long, requires = "source")]
        update: bool,
    },
    /// Turn raw files into tables
    Ingest(IngestArgs),
    /// Ingest on more than one machine
    #[cfg(feature = "ballista")]
    Cluster {
        #[command(subcommand)]
        what: cluster::Cluster,
    },
    /// Train one stage of a recipe on its own
    Train {
        /// Which stage
        stage: Training,
        /// The recipe, a TOML file
        #[arg(long, value_name = "RECIPE.toml", required_unless_present = "resume")]
        config: Option<PathBuf>,
        /// Folder with the tables that `peptalk ingest` wrote
        #[arg(long, value_name = "DIR", required_unless_present = "resume")]
        tables: Option<PathBuf>,
        /// Folder of the run
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Change one setting of the recipe, such as ss.optim.lr=1e-3
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Go on with the interrupted run in --out, with its settings and tables
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        device: DeviceArgs,
    },
    /// Judge models on one task, beside their floors
    Eval {
        /// Which task
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(eval::TASKS))]
        task: String,
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Folder with the tables that `peptalk ingest` wrote
        #[arg(long, value_name = "DIR")]
        tables: PathBuf,
        /// Folder of a run or of a model; several language models are compared, several SS models predict together
        #[arg(long, value_name = "DIR", required = true)]
        model: Vec<PathBuf>,
        /// Where to write the report
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Ask a trained language model about proteins
    Chat {
        /// The question; without one, every line of the standard input is one
        question: Option<String>,
        /// Folder of a run or of a model, or owner/name of the Hugging Face hub
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
        /// A protein in one-letter code; several stand in the prompt in their order, before those of --fasta
        #[arg(long, value_name = "SEQUENCE")]
        protein: Vec<String>,
        /// A file whose proteins are all shown: FASTA, or CSV with the columns id and seq; plain or gzip
        #[arg(long, value_name = "FILE")]
        fasta: Vec<PathBuf>,
        /// The residue that the question is about, counted from 1
        #[arg(long, value_name = "N")]
        site: Option<std::num::NonZero<usize>>,
        /// Most tokens of an answer
        #[arg(long, value_name = "N", default_value_t = 256)]
        max_new_tokens: usize,
        /// 0 takes the most probable token every time
        #[arg(long, value_name = "T", default_value_t = 0.0)]
        temperature: f64,
        /// Decides every draw at a temperature above 0
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
    },
    /// Merge a trained language model into one folder that other programs read, with a card
    Export {
        /// Folder of a run or of a model, or owner/name of the Hugging Face hub
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
        /// Where to write the model
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Tables that it was trained on, for the card [default: those of its run]
        #[arg(long, value_name = "DIR")]
        tables: Option<PathBuf>,
        /// Its results.json of `peptalk eval`, for the card [default: that of its run]
        #[arg(long, value_name = "FILE")]
        results: Option<PathBuf>,
    },
    /// Keep what a protein encoder says of proteins in Parquet, for training stages and other programs
    Embed {
        /// FASTA, or CSV with the columns id and seq; plain or gzip
        #[arg(required_unless_present = "tables")]
        input: Option<PathBuf>,
        /// All proteins of the tables that `peptalk ingest` wrote
        #[arg(long, value_name = "DIR", conflicts_with = "input")]
        tables: Option<PathBuf>,
        /// Encoder: folder or file of ESM-2, ESM-C or ESM3, or owner/name of the Hugging Face hub
        #[arg(long, value_name = "PATH")]
        model: PathBuf,
        /// Folder of the cache; what it has is not computed again
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How numbers are kept
        #[arg(long, value_parser = language::numbers(), default_value = "f32")]
        numbers: Numbers,
    },
    /// Write what relatives of proteins have in each of their places: vectors for models of secondary structure
    Profile {
        /// FASTA, or CSV with the columns id and seq [default: the proteins of the tables with a secondary structure]
        input: Option<PathBuf>,
        /// Folder with the tables that `peptalk ingest` wrote, among whose proteins relatives are looked for
        #[arg(long, value_name = "DIR")]
        tables: PathBuf,
        /// Where to write the profiles, as `ss.vectors` reads them
        #[arg(long, value_name = "PARQUET")]
        out: PathBuf,
        /// How numbers are kept
        #[arg(long, value_parser = language::numbers(), default_value = "f32")]
        numbers: Numbers,
        /// The file's sequences are written from C to N, as those of NPPE-2
        #[arg(long, requires = "input")]
        backwards: bool,
    },
    /// Predict new sequences with a trained model
    Predict {
        #[command(subcommand)]
        what: Predict,
    },
    /// Turn a model of another program into a model folder
    Import {
        #[command(subcommand)]
        what: Import,
    },
    /// Give tables away, or compare them
    Data {
        #[command(subcommand)]
        what: Data,
    },
    /// Run the stages of a recipe in order; what is up to date is skipped, what was interrupted goes on
    Run {
        /// The recipe, a TOML file
        recipe: PathBuf,
        #[command(flatten)]
        run: RunArgs,
    },
    /// The whole way from raw files to a report: on made-up sample data, or with --data on real files
    Quickstart {
        #[command(flatten)]
        run: RunArgs,
    },
}

#[derive(Subcommand)]
enum Predict {
    /// Secondary structure, Q8 and Q3
    Ss {
        /// FASTA, or CSV with the columns id and seq; plain or gzip
        input: PathBuf,
        /// Folder of a run or of a model; several predict together
        #[arg(long, value_name = "DIR", required = true)]
        model: Vec<PathBuf>,
        /// Vectors of these proteins, for a model that was trained with `ss.vectors`
        #[arg(long, value_name = "FILE")]
        vectors: Option<PathBuf>,
        /// In their place, for a model of profiles: tables among whose proteins relatives are looked for
        #[arg(long, value_name = "DIR", conflicts_with = "vectors")]
        tables: Option<PathBuf>,
        /// Where to write the predictions
        #[arg(long, value_name = "PATH")]
        out: PathBuf,
        /// How predictions are written
        #[arg(long, value_enum, default_value_t = predict::Format::Csv)]
        format: predict::Format,
        /// How Q8 is chosen
        #[arg(long, value_parser = predict::q8(), default_value = "marginal")]
        q8: eval::ss::Q8,
        /// How Q3 is chosen
        #[arg(long, value_parser = predict::q3(), default_value = "both")]
        q3: eval::ss::Q3,
        /// The file's sequences are written from C to N, as those of NPPE-2; so are the predictions
        #[arg(long)]
        backwards: bool,
    },
}

#[derive(Subcommand)]
enum Data {
    /// Lay tables out as a dataset of the Hugging Face hub: Parquet by part, card, Croissant
    Publish {
        /// Folder with the tables that `peptalk ingest` wrote
        #[arg(long, value_name = "DIR")]
        tables: PathBuf,
        /// Where to write the dataset
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Its name, for the card [default: that of the folder]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Most rows of a file
        #[arg(long, value_name = "N", default_value_t = ingest::publish::SHARD_ROWS)]
        rows: usize,
    },
    /// Cluster the proteins of a FASTA file, level by level
    Cluster {
        /// FASTA, gzip or not
        fasta: PathBuf,
        /// Where to write the table: id, and the id at the centre of its cluster at every level
        #[arg(long, value_name = "TSV")]
        out: PathBuf,
        /// Least fraction of equal residues of a protein and its centre, level by level
        #[arg(long, value_name = "F,..", value_delimiter = ',', default_values_t = ingest::cluster::IDENTITIES)]
        identity: Vec<f64>,
        /// Least fraction of the longer of the two that is aligned
        #[arg(long, value_name = "F", default_value_t = ingest::cluster::COVERAGE)]
        coverage: f64,
    },
    /// Keep the first row of every key of Parquet files, in their order
    Distinct {
        /// Parquet files of the same columns
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Where to write the rows that stay
        #[arg(long, value_name = "PARQUET")]
        out: PathBuf,
        /// Columns of the key: text or numbers, equal to the letter
        #[arg(long, value_name = "COLUMN,..", value_delimiter = ',', required_unless_present = "sequence")]
        on: Vec<String>,
        /// Columns of the key that hold sequences: equal when blanks, gaps and case are put aside
        #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
        sequence: Vec<String>,
    },
    /// Find texts that are nearly the same, among millions
    Near {
        /// Parquet files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The column with the texts
        #[arg(long, value_name = "COLUMN")]
        text: String,
        /// Where to write the table: row, from 0 through all files, and the first row of its group
        #[arg(long, value_name = "TSV")]
        out: PathBuf,
        /// Least Jaccard similarity of two texts as sets of three words in a row
        #[arg(long, value_name = "F", default_value_t = ingest::near::THRESHOLD)]
        threshold: f64,
        /// Least share of the pairs of just this similarity that is found
        #[arg(long, value_name = "F", default_value_t = ingest::near::RECALL)]
        recall: f64,
    },
    /// Say what is different between two folders of tables; the exit code is 1 if a row is
    Diff {
        /// Folder with tables
        a: PathBuf,
        /// Folder with tables
        b: PathBuf,
    },
}

#[derive(Subcommand)]
enum Import {
    /// A BiLSTM-CRF for secondary structure that PyTorch or PyTorch Lightning saved
    Ss {
        /// .ckpt, .pth, .pt or .safetensors
        checkpoint: PathBuf,
        /// The letter of each row of its embedding, - for rows that are no residue
        #[arg(long, value_name = "LETTERS", allow_hyphen_values = true)]
        alphabet: String,
        /// Rename the beginning of its weights' names, beyond the known ones (models/src/ss/torch.rs)
        #[arg(long, value_name = "THEIRS=OURS")]
        rename: Vec<String>,
        /// It was trained on sequences from C to N
        #[arg(long)]
        reversed: bool,
        /// Where to write the model
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Where a stage computes.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Compute {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU, in a build with the feature cuda (sft)
    Cuda,
}

#[derive(Args)]
struct DeviceArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Compute::Cpu)]
    device: Compute,
    /// Let products on the GPU round their factors to TF32, for speed
    #[arg(long)]
    tf32: bool,
}

impl DeviceArgs {
    fn open(&self) -> Result<Device> {
        ensure!(
            !self.tf32 || self.device == Compute::Cuda,
            "--tf32 is for products on a GPU\nhint: add --device cuda, or leave it out"
        );
        device::allow_tf32(self.tf32);
        match self.device {
            Compute::Cpu => Ok(Device::Cpu),
            Compute::Cuda => Ok(device::cuda()?),
        }
    }
}

#[derive(Args)]
struct RecipeArgs {
    /// The recipe, a TOML file
    #[arg(long, value_name = "RECIPE.toml")]
    config: PathBuf,
    /// Change one setting of the recipe, such as ss.optim.lr=1e-3
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct IngestArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder that the recipe's file names are relative to
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where to write the tables
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Fetch the recipe's files from here into --data first: s3://BUCKET/FOLDER, gs:// or file:///
    #[cfg(feature = "object-store")]
    #[arg(long, value_name = "URL")]
    data_from: Option<String>,
    /// Put the tables here, too, when they are whole
    #[cfg(feature = "object-store")]
    #[arg(long, value_name = "URL")]
    out_to: Option<String>,
    /// Run the plans on the executors of this scheduler; they must see --data and --out under the same paths
    #[cfg(feature = "ballista")]
    #[arg(long, value_name = "HOST:PORT")]
    cluster: Option<String>,
}

#[derive(Args)]
struct RunArgs {
    /// Folder with the raw files, for recipes without a [world] section
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder for all results [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Change one setting of the recipe, such as ss.optim.lr=1e-3
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Check and print the recipe with all settings, and stop
    #[arg(long)]
    dry_run: bool,
}

/// A command that cannot be begun (exit code 2), or one that failed at work (exit code 1).
enum Failure {
    Usage(anyhow::Error),
    Work(anyhow::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    allocator::keep_freed_memory(matches!(cli.command, Command::Ingest(_)));
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
