//! The errors of this crate.

use std::path::PathBuf;

use crate::residue::SequenceError;

/// What can go wrong between a table and a batch.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written; the text names it.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A table that was never written.
    #[error("there is no table {path}\nhint: `peptalk ingest` writes it")]
    NoTable {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A table without a column that is wanted.
    #[error("table {path} has no column {column:?}, it has {}\nhint: it is of another kind or of another version; write it again", columns.join(", "))]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        column: String,
        /// What is there.
        columns: Vec<String>,
    },
    /// A table that cannot be read.
    #[error(
        "cannot read table {path}: {source}\nhint: it is damaged, no Parquet, or has columns of other types; make or fetch it again"
    )]
    Table {
        /// The file.
        path: PathBuf,
        /// What Parquet or Arrow said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Parquet.
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Arrow.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Rows that do not fit their columns.
    #[error(transparent)]
    Rows(#[from] serde_arrow::Error),
    /// A sequence that is none.
    #[error("protein {id}: {source}")]
    Sequence {
        /// The protein.
        id: String,
        /// What is wrong with it.
        source: SequenceError,
    },
    /// A file of sequences that cannot be read on.
    #[error("{path}, line {line}: {what}")]
    Sequences {
        /// The file.
        path: PathBuf,
        /// From 1; 0 for the file as a whole.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// Per-residue data of another length than the sequence.
    #[error("protein {id}: {what} has {got} values, expected {expected}")]
    Length {
        /// The protein.
        id: String,
        /// Which data.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A secondary-structure letter that is none.
    #[error("protein {id}: {letter:?} at position {position} is no secondary-structure state")]
    Label {
        /// The protein.
        id: String,
        /// The letter.
        letter: char,
        /// 1-based position.
        position: usize,
    },
    /// A batch that cannot be made.
    #[error("{0}")]
    Batch(String),
    /// A row that names a protein which the proteins table lacks.
    #[error(
        "table {table}: {id} belongs to protein {protein_id}, which is not in the proteins table\nhint: the tables were not written by one `peptalk ingest`"
    )]
    NoProtein {
        /// The table of the row.
        table: &'static str,
        /// The row.
        id: String,
        /// The protein it names.
        protein_id: String,
    },
    /// A chat template or tokenizer that does not do what it must.
    #[error("{0}")]
    Text(String),
    /// Tensors.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
