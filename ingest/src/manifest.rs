//! The manifest: what was read, what became of it, what was written and by which code.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::Config;
use crate::ledger::FileCounts;
use crate::source;
use crate::tasks::Task;

/// `manifest.json` of a tables folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the code.
    pub peptalk: String,
    /// The configuration as used.
    pub config: Config,
    /// Every input file with its account.
    pub files: Vec<FileCounts>,
    /// Rows of every table.
    pub tables: BTreeMap<String, u64>,
    /// Proteins of every part.
    pub proteins_by_split: BTreeMap<String, u64>,
    /// Number of homology clusters.
    pub n_clusters: u64,
    /// Sizes of the ten largest.
    pub largest_clusters: Vec<u64>,
    /// What each task has in each part.
    #[serde(default)]
    pub tasks: BTreeMap<String, Task>,
    /// What there is too little of: task, name of the warning, particulars.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Manifest {
    /// Reads the manifest of a tables folder.
    ///
    /// # Errors
    /// I/O (the file is named), or JSON of another shape.
    pub fn read(tables: &Path) -> Result<Self, Error> {
        Ok(serde_json::from_str(&fs_err::read_to_string(tables.join("manifest.json"))?)?)
    }
}

/// What a file is known by.
#[derive(Debug, Clone)]
pub(crate) struct Fingerprint {
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// Hash and size of every input: of every source its files in reading order.
pub(crate) fn fingerprints(config: &Config, data: &Path) -> Result<Vec<Vec<Fingerprint>>, Error> {
    let of_file = |file: &str| -> Result<Fingerprint, Error> {
        let (sha256, bytes) = datasets::file_sha256(&data.join(file))?;
        Ok(Fingerprint { sha256, bytes })
    };
    config.source.par_iter().map(|source| source::files(source).map(of_file).collect()).collect()
}

/// Writes a value as indented JSON with a final line end.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    datasets::atomic_write(path, |file| Ok(std::io::Write::write_all(file, text.as_bytes())?))
}
