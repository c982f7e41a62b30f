//! The temporary folder of a run.

use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// The temporary folder beside the output, held by one run at a time. Removed when the run ends, however it ends; what a
/// killed run has made, the next one uses.
#[derive(Debug)]
pub(crate) struct Work {
    folder: PathBuf,
    /// The system lets go of the lock when the file is closed, however the process ends.
    _lock: std::fs::File,
}

impl Work {
    /// Makes the folder; what a killed run has made in it stays.
    ///
    /// # Errors
    /// [`Error::Busy`] when another run holds it; I/O.
    pub(crate) fn begin(out: &Path) -> Result<Self, Error> {
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let folder = parent.join(format!(".{name}.ingest"));
        let lock = lock(&folder, out)?;
        let old = folder.join("old");
        if old.exists() && !out.exists() {
            // The run before was killed between the two renames of `publish`.
            fs::rename(&old, out)?;
        }
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
        let work = Self { folder: fs::canonicalize(folder)?, _lock: lock };
        fs::create_dir_all(work.staging())?;
        fs::create_dir_all(work.tables())?;
        Ok(work)
    }

    /// Where claims are staged.
    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.join("staging")
    }

    /// Where the tables are written.
    pub(crate) fn tables(&self) -> PathBuf {
        self.folder.join("tables")
    }

    /// Where rows wait to be sorted.
    pub(crate) fn buckets(&self) -> PathBuf {
        self.folder.join("buckets")
    }

    /// Where MMseqs2 works.
    pub(crate) fn mmseqs(&self) -> PathBuf {
        self.folder.join("mmseqs")
    }

    /// Makes an empty folder of the tables.
    pub(crate) fn empty_tables(&self) -> Result<(), Error> {
        fs::remove_dir_all(self.tables())?;
        Ok(fs::create_dir(self.tables())?)
    }

    /// What a killed run has kept under this name, or what `make` makes, which is kept. The name says what it was made from.
    pub(crate) async fn kept<T: Serialize + DeserializeOwned>(
        &self,
        name: &str,
        make: impl AsyncFnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = self.folder.join("kept").join(name).with_added_extension("json");
        if path.exists() {
            tracing::info!(name, "made before");
            return Ok(serde_json::from_reader(BufReader::new(fs::File::open(path)?))?);
        }
        let made = make().await?;
        keep(&path, &made)?;
        Ok(made)
    }

    /// Puts the new tables in the place of the old ones.
    pub(crate) fn publish(&self, out: &Path) -> Result<(), Error> {
        if out.exists() {
            // Two renames, since a folder cannot be replaced by one: between them the old tables lie in `old`.
            fs::rename(out, self.folder.join("old"))?;
        }
        fs::rename(self.tables(), out)?;
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "the temporary folder stays behind");
        }
    }
}

/// Writes a value for the next run, as JSON for nobody to look at.
pub(crate) fn keep<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    datasets::atomic_write(path, |file| {
        let mut file = BufWriter::new(file);
        serde_json::to_writer(&mut file, value)?;
        Ok(file.flush()?)
    })
}

/// Holds a lock file for one who writes into `out`. The system lets go of it when the file is closed, however the process
/// ends.
///
/// # Errors
/// [`Error::Busy`] when another process holds it.
pub(crate) fn hold(file: &std::fs::File, out: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Busy { out: out.into() }),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Takes the lock of a work folder, which is made if need be.
fn lock(folder: &Path, out: &Path) -> Result<std::fs::File, Error> {
    let path = folder.join("lock");
    let owner = std::process::id().to_string();
    loop {
        fs::create_dir_all(folder)?;
        let file = match fs::OpenOptions::new().create(true).append(true).open(&path) {
            Ok(file) => file.into_parts().0,
            // A run that ends takes the folder away between the two steps.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        hold(&file, out)?;
        // Locked may be a file that the run before has just removed: then no one finds what is written to it.
        file.set_len(0)?;
        (&file).write_all(owner.as_bytes())?;
        if fs::read_to_string(&path).is_ok_and(|written| written == owner) {
            return Ok(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_run() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("tables");
        let first = Work::begin(&out).unwrap();
        let error = Work::begin(&out).unwrap_err().to_string();
        assert!(error.contains("tables") && error.contains("hint:"), "{error}");
        assert!(first.staging().is_dir(), "the refused run leaves the other alone");
        drop(first);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        // What a killed run leaves has no lock.
        fs::create_dir_all(place.path().join(".tables.ingest/staging/old")).unwrap();
        fs::create_dir_all(place.path().join(".tables.ingest/old/last")).unwrap();
        let next = Work::begin(&out).unwrap();
        assert!(next.staging().join("old").exists(), "what was parsed stays");
        assert!(out.join("last").exists(), "the last good tables are back");
    }
}
