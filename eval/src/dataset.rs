//! What a result was computed from.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// File name and SHA-256 of tables.
///
/// # Errors
/// When a table cannot be read.
pub(crate) fn hashed(tables: &Path, names: &[&str]) -> Result<Vec<(String, String)>> {
    let hash = |name: &&str| {
        let file = format!("{name}.parquet");
        let mut reader = fs_err::File::open(tables.join(&file))?;
        let (mut sha, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
        loop {
            match reader.read(&mut buffer).with_context(|| format!("hashing {file}"))? {
                0 => break,
                n => sha.update(&buffer[..n]),
            }
        }
        Ok((file, sha.finalize().iter().map(|b| format!("{b:02x}")).collect()))
    };
    names.iter().map(hash).collect()
}
