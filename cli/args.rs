//! What may be written on the command line.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use eval::embeddings::Numbers;
use models::device::{self, Device};

#[cfg(feature = "ballista")]
use crate::cluster;
use crate::stages::Training;
use crate::{CODE, language, predict};

/// Protein datasets, models and benchmark numbers that can be trusted
#[derive(Parser)]
#[command(name = "peptalk", version = CODE, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Threads to compute on; results do not depend on it [default: one per core]
    #[arg(long, global = true, value_name = "N")]
    pub(crate) threads: Option<std::num::NonZero<usize>>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
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
pub(crate) enum Predict {
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
pub(crate) enum Data {
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
pub(crate) enum Import {
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
pub(crate) enum Compute {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU, in a build with the feature cuda (sft)
    Cuda,
}

#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute
    #[arg(long, value_enum, default_value_t = Compute::Cpu)]
    pub(crate) device: Compute,
    /// Let products on the GPU round their factors to TF32, for speed
    #[arg(long)]
    tf32: bool,
}

impl DeviceArgs {
    pub(crate) fn open(&self) -> Result<Device> {
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
pub(crate) struct RecipeArgs {
    /// The recipe, a TOML file
    #[arg(long, value_name = "RECIPE.toml")]
    pub(crate) config: PathBuf,
    /// Change one setting of the recipe, such as ss.optim.lr=1e-3
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    pub(crate) recipe: RecipeArgs,
    /// Folder that the recipe's file names are relative to
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Where to write the tables
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Fetch the recipe's files from here into --data first: s3://BUCKET/FOLDER, gs:// or file:///
    #[cfg(feature = "object-store")]
    #[arg(long, value_name = "URL")]
    pub(crate) data_from: Option<String>,
    /// Put the tables here, too, when they are whole
    #[cfg(feature = "object-store")]
    #[arg(long, value_name = "URL")]
    pub(crate) out_to: Option<String>,
    /// Run the plans on the executors of this scheduler; they must see --data and --out under the same paths
    #[cfg(feature = "ballista")]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) cluster: Option<String>,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// Folder with the raw files, for recipes without a [world] section
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Folder for all results [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Change one setting of the recipe, such as ss.optim.lr=1e-3
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check and print the recipe with all settings, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}
