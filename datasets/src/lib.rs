//! Tables → records → batches.
//!
//! The principal types are [`Protein`] (one chain, every per-residue fact of one length), the rows of [`table`] and the
//! batches of each task. [`world`] makes the embedded sample data.

pub mod chat;
pub mod collate;
mod error;
pub mod fold;
pub mod label;
pub mod llm;
pub mod pack;
mod protein;
pub mod residue;
mod rng;
pub mod sampler;
pub mod sequences;
pub mod ss;
pub mod stream;
pub mod table;
pub mod tokenizer;
pub mod world;

use std::io::Read;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

pub use error::Error;
pub use protein::Protein;
pub use rng::rng;

/// Writes a file whole or not at all: temporary name beside it, fsync, rename, fsync of the folder.
///
/// # Errors
/// What `write` or the file system says; the temporary file is removed then.
pub fn atomic_write<E: From<std::io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut std::fs::File) -> Result<(), E>,
) -> Result<(), E> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Not by the process alone: on a shared disk there may be another machine's with the same number.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let temporary = folder.join(format!(".{name}.{}-{now:x}.tmp", std::process::id()));
    let mut file = fs_err::File::create(&temporary)?.into_parts().0;
    let result = write(&mut file).and_then(|()| Ok(file.sync_all()?));
    drop(file);
    if let Err(error) = result {
        let _ = fs_err::remove_file(&temporary);
        return Err(error);
    }
    fs_err::rename(&temporary, path)?;
    fs_err::File::open(folder)?.sync_all()?;
    Ok(())
}

/// Writes a folder whole or not at all: `write` fills a temporary folder beside `folder`, which then takes its place (an
/// older `folder` is removed). For results that are more than one file.
///
/// # Errors
/// What `write` or the file system says.
pub fn atomic_folder<E: From<std::io::Error>>(
    folder: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let Some(name) = folder.file_name() else {
        return Err(std::io::Error::other(format!("{} is no place for a folder", folder.display())).into());
    };
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = parent.join(format!(".{}.tmp", name.to_string_lossy()));
    if temporary.exists() {
        fs_err::remove_dir_all(&temporary)?;
    }
    fs_err::create_dir_all(&temporary)?;
    write(&temporary)?;
    sync(&temporary)?;
    if folder.exists() {
        fs_err::remove_dir_all(folder)?;
    }
    fs_err::rename(&temporary, folder)?;
    Ok(fs_err::File::open(parent)?.sync_all()?)
}

fn sync(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        for file in fs_err::read_dir(path)? {
            sync(&file?.path())?;
        }
    }
    fs_err::File::open(path)?.sync_all()
}

/// SHA-256 of a file as it lies there, hexadecimal, and its size in bytes.
///
/// # Errors
/// What the file system says, with the path.
pub fn file_sha256(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = fs_err::File::open(path)?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 18], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
    Ok((hex(&hash.finalize()), bytes))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[half as usize]);
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        digits.push(digit(byte >> 4));
        digits.push(digit(byte & 15));
    }
    digits
}

/// A path beside the checkout that holds data or fixtures too large to commit; `None`, said on stderr, where it is
/// absent.
#[cfg(test)]
pub(crate) fn shared(path: &str) -> Option<std::path::PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("PEPTALK_SHARED").map_or_else(|| beside.into(), std::path::PathBuf::from);
    let found = root.join(path);
    if !found.exists() {
        eprintln!("skipped: needs ../shared/{path}");
        return None;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("model");
        let write = |text: &'static str| move |to: &Path| fs_err::write(to.join("a"), text);
        atomic_folder(&folder, write("old")).unwrap();
        let failed = atomic_folder(&folder, |to| {
            fs_err::write(to.join("a"), "new")?;
            Err(std::io::Error::other("stop"))
        });
        assert!(failed.is_err());
        assert_eq!(fs_err::read_to_string(folder.join("a")).unwrap(), "old");
        atomic_folder(&folder, write("new")).unwrap();
        assert_eq!(fs_err::read_to_string(folder.join("a")).unwrap(), "new");
    }
}
