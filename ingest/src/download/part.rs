//! The part of a file that is here: its bytes under a temporary name, and beside it what they are of.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use super::http::Fault;
use crate::manifest::write_json;

/// How often it is written down how far the file has come.
const EVERY: Duration = Duration::from_secs(1);

/// What the bytes are of, and which of them are here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The address that they came from.
    pub(super) address: String,
    /// What makes a version of the file: a strong ETag, or the time of its last change.
    pub(super) validator: Option<String>,
    /// Size of the file in bytes; unknown, it is not gone on with.
    pub(super) total: Option<u64>,
    /// SHA-256 that the server gave.
    sha256: Option<String>,
    /// Bytes that are here: first, and the first that is not; in order, apart.
    here: Vec<(u64, u64)>,
}

impl State {
    /// Of a file of which nothing is here.
    pub(super) fn new(
        address: &str,
        validator: Option<String>,
        total: Option<u64>,
        sum: Option<&Checksum>,
    ) -> Self {
        let sha256 = match sum {
            Some(Checksum::Sha256(digits)) => Some(digits.clone()),
            _ => None,
        };
        Self { address: address.to_owned(), validator, total, sha256, here: vec![] }
    }

    /// The checksum that the server gave.
    pub(super) fn checksum(&self) -> Option<Checksum> {
        self.sha256.clone().map(Checksum::Sha256)
    }

    fn add(&mut self, begin: u64, end: u64) {
        self.here.push((begin, end));
        self.here.sort_unstable();
        self.here.dedup_by(|next, before| {
            let touch = next.0 <= before.1;
            if touch {
                before.1 = before.1.max(next.1);
            }
            touch
        });
    }

    /// How many bytes are here.
    pub(super) fn bytes(&self) -> u64 {
        self.here.iter().map(|(begin, end)| end - begin).sum()
    }

    /// What is missing, in order, in pieces of at most `piece` bytes.
    pub(super) fn missing(&self, piece: u64) -> Vec<(u64, u64)> {
        let ends = self.here.iter().copied().chain(self.total.map(|total| (total, total)));
        let mut pieces = Vec::new();
        let mut at = 0;
        for (begin, end) in ends {
            while at < begin {
                let next = (at + piece).min(begin);
                pieces.push((at, next));
                at = next;
            }
            at = end;
        }
        pieces
    }
}

/// The two files of a part.
pub(super) struct Part {
    pub(super) path: PathBuf,
    note: PathBuf,
    file: fs::File,
    pub(super) state: State,
    /// Whether an earlier run left it.
    pub(super) resumed: bool,
    noted: Instant,
}

impl Part {
    /// What is here of the file at `place` from `address`, if it can be gone on with.
    pub(super) fn resume(place: &Path, address: &str) -> Result<Option<Self>, Fault> {
        let (path, note) = names(place);
        let Ok(text) = fs::read_to_string(&note) else { return Ok(None) };
        let Ok(state) = serde_json::from_str::<State>(&text) else { return Ok(None) };
        let length = fs::metadata(&path).map_or(0, |file| file.len());
        let ends = state.here.last().map_or(0, |last| last.1);
        if state.address != address || state.validator.is_none() || state.total.is_none() || length < ends {
            return Ok(None);
        }
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        Ok(Some(Self { path, note, file, state, resumed: true, noted: Instant::now() }))
    }

    /// A part without bytes.
    pub(super) fn begin(place: &Path, state: State) -> Result<Self, Fault> {
        let (path, note) = names(place);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        if note.exists() {
            fs::remove_file(&note)?;
        }
        let file = fs::File::create(&path)?;
        Ok(Self { path, note, file, state, resumed: false, noted: Instant::now() })
    }

    /// Takes bytes, and writes down how far the file has come if that was a while ago.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(bytes)?;
        self.state.add(at, at + bytes.len() as u64);
        if self.state.total.is_some() && self.noted.elapsed() >= EVERY {
            self.note()?;
        }
        Ok(())
    }

    /// Writes down how far the file has come, once its bytes are on the disk.
    pub(super) fn note(&mut self) -> Result<(), Fault> {
        self.file.sync_all()?;
        write_json(&self.note, &self.state)?;
        self.noted = Instant::now();
        Ok(())
    }

    /// Gives the file its name.
    pub(super) fn publish(self, place: &Path) -> Result<(), Fault> {
        self.file.sync_all()?;
        fs::rename(&self.path, place)?;
        fs::File::open(place.parent().unwrap_or(Path::new(".")))?.sync_all()?;
        if self.note.exists() {
            fs::remove_file(&self.note)?;
        }
        Ok(())
    }
}

/// Removes what is here of a file.
pub(super) fn remove(place: &Path) -> Result<(), Fault> {
    let (path, note) = names(place);
    for path in [note, path] {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn names(place: &Path) -> (PathBuf, PathBuf) {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    (place.with_file_name(format!("{name}.part")), place.with_file_name(format!("{name}.part.json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Bytes are here or missing, never both, whatever came in which order.
        #[test]
        fn what_is_missing_is_what_is_not_here(
            total in 1u64..97,
            piece in 1u64..13,
            came in proptest::collection::vec((0u64..97, 0u64..23), 0..11),
        ) {
            let mut state = State { total: Some(total), ..State::default() };
            let mut here = vec![false; total as usize];
            for (begin, length) in came {
                let (begin, end) = (begin.min(total), (begin + length).min(total));
                if begin < end {
                    state.add(begin, end);
                    here[begin as usize..end as usize].fill(true);
                }
            }
            prop_assert_eq!(state.bytes(), here.iter().filter(|h| **h).count() as u64);
            for (begin, end) in state.missing(piece) {
                prop_assert!(begin < end && end - begin <= piece);
                for byte in &mut here[begin as usize..end as usize] {
                    prop_assert!(!*byte);
                    *byte = true;
                }
            }
            prop_assert!(here.iter().all(|h| *h));
        }
    }
}
