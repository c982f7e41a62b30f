//! The manifest: what was read, what became of it, what was written and by which code.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::Config;
use crate::ledger::FileCounts;
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

/// Fills in hash and size of every input.
pub(crate) fn fingerprint(files: &mut [FileCounts], data: &Path) -> Result<(), Error> {
    for file in files {
        (file.sha256, file.bytes) = datasets::file_sha256(&data.join(&file.file))?;
    }
    Ok(())
}

/// Writes a value as indented JSON with a final line end.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    datasets::atomic_write(path, |file| Ok(std::io::Write::write_all(file, text.as_bytes())?))
}
