//! The errors that end an ingest. Faults of single records are no errors: they are counted ([`crate::Reason`]).

use std::path::PathBuf;

/// What ends an ingest before it has written anything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be meant so; every fault on its own line.
    #[error("the ingest section of the configuration has {} fault(s):\n{}", .0.len(), .0.join("\n"))]
    Config(Vec<String>),
    /// A file that is not there.
    #[error(
        "source {source_name}: there is no file {path}\nhint: check `files` and `companion` of the source; paths are relative to the data folder"
    )]
    Missing {
        /// The source.
        source_name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another run writes into the same folder.
    #[error("another peptalk works on {out}\nhint: wait for it to end, or give another output folder")]
    Busy {
        /// The folder.
        out: PathBuf,
    },
    /// A registry of sources that cannot be meant so.
    #[error("{place}: {}", .faults.join("\n"))]
    Registry {
        /// The registry.
        place: String,
        /// Every fault.
        faults: Vec<String>,
    },
    /// A source that the registry does not know.
    #[error(
        "there is no source {name:?}; there are {known}\nhint: `peptalk download` alone says what each of them is"
    )]
    UnknownSource {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Files that did not come, each with what was tried and where it belongs.
    #[error(
        "{} file(s) could not be fetched:\n{}\nhint: run it again to go on, or fetch them by hand, from the addresses above to their places, and run it again to have them checked",
        .0.len(), .0.join("\n")
    )]
    NotFetched(Vec<String>),
    /// A file without a byte of content.
    #[error("{path} is empty\nhint: fetch it again, or take it out of the recipe")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file named `.gz` that is none.
    #[error(
        "{path} is named .gz but does not begin with the gzip magic bytes\nhint: an error page saved as a file, or a file already unpacked: fetch it again or rename it"
    )]
    NotGzip {
        /// The file.
        path: PathBuf,
    },
    /// A gzip stream, or the member of an archive, that ends early or is damaged.
    #[error(
        "{path}: the packed data are truncated or damaged at byte {offset} of {length} ({source})\nhint: the download was cut; fetch the file again"
    )]
    Gzip {
        /// The file.
        path: PathBuf,
        /// How many compressed bytes were read.
        offset: u64,
        /// Size of the file.
        length: u64,
        /// What the decoder said.
        source: std::io::Error,
    },
    /// A packed file that unpacks to far more than text does.
    #[error(
        "{path}: {packed} packed bytes gave {unpacked} bytes so far, more than 200 for one; it was not read on\nhint: an archive bomb, or not a data file; unpack it by hand and look if you trust it"
    )]
    Bomb {
        /// The file.
        path: PathBuf,
        /// Bytes read of the file on disk.
        packed: u64,
        /// Bytes that came out of them.
        unpacked: u64,
    },
    /// An archive that cannot be read.
    #[error("{path}: {detail}\nhint: {hint}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// A header that lacks columns.
    #[error("{path}, line {line}: the header lacks {missing}; it has: {got}\nhint: {hint}")]
    Header {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: u64,
        /// What was looked for.
        missing: String,
        /// What was found.
        got: String,
        /// What to do.
        hint: String,
    },
    /// A file of another format than the kind says.
    #[error("{path}, {place}: {detail}\nhint: {hint}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Line or byte.
        place: String,
        /// What is wrong.
        detail: String,
        /// What to do.
        hint: String,
    },
    /// Levels of a cascade that are none.
    #[error(
        "identities {got}, coverage {coverage}: no levels of a cascade\nhint: give falling identities above 0, as in 0.9,0.5,0.3, and a coverage above 0; 1 is the most"
    )]
    Levels {
        /// The identities.
        got: String,
        /// The coverage.
        coverage: f64,
    },
    /// A similarity that texts cannot have, or a share of pairs that cannot be found.
    #[error(
        "threshold {threshold}, recall {recall}: nothing to look for\nhint: give a threshold above 0, at most 1, and a recall between 0 and 1, as 0.8 and 0.95"
    )]
    Similarity {
        /// The least Jaccard similarity.
        threshold: f64,
        /// The share of pairs that must be found.
        recall: f64,
    },
    /// A file in which something else stands than a moment ago.
    #[error(
        "{path} has changed since it was parsed\nhint: leave the raw files alone until the ingest has ended; run it again"
    )]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// MMseqs2 that a recipe asks for.
    #[error(
        "{program}: {detail}\nhint: `ingest.mmseqs` names the MMseqs2 program (14 was used); install it, or leave the key out"
    )]
    Mmseqs {
        /// The program.
        program: String,
        /// What it said.
        detail: String,
    },
    /// Proteins of training that are too close to held-out ones.
    #[error("leak: {n} pair(s) of a training and a held-out protein are alike, {}\nhint: a fault of the split; audit.json lists them all", .examples.join("; "))]
    Leak {
        /// How many pairs.
        n: usize,
        /// Up to ten of them, by id.
        examples: Vec<String>,
    },
    /// Files.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The relational engine.
    #[error("the relational plan failed: {0}")]
    Plan(#[from] datafusion::error::DataFusionError),
    /// The machines that plans are sent to.
    #[cfg(feature = "ballista")]
    #[error(
        "the cluster of {address}: {detail}\nhint: `peptalk cluster scheduler` must run there, and an executor at least"
    )]
    Cluster {
        /// The scheduler.
        address: String,
        /// What went wrong.
        detail: String,
    },
    /// An object store.
    #[cfg(feature = "object-store")]
    #[error(
        "{address}: {detail}\nhint: credentials are read from the environment, as the vendors' own programs do (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, …)"
    )]
    Store {
        /// The folder in it.
        address: String,
        /// What went wrong.
        detail: String,
    },
    /// Tables.
    #[error(transparent)]
    Table(#[from] datasets::Error),
    /// Rows that do not fit their columns.
    #[error(transparent)]
    Rows(#[from] serde_arrow::Error),
    /// Columns that are put together.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Files of tables.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// The manifest or the audit.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
