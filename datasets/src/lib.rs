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
mod protein;
pub mod residue;
mod rng;
pub mod sampler;
pub mod sequences;
pub mod ss;
pub mod table;
pub mod tokenizer;
pub mod world;

use std::io::Read;
use std::path::Path;

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
    let folder = path.parent().unwrap_or(Path::new("."));
    fs_err::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
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
    Ok((hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(), bytes))
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
