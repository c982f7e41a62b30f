//! What a result was computed from.

use std::path::Path;

use anyhow::Result;

/// File name and SHA-256 of tables.
///
/// # Errors
/// When a table cannot be read.
pub(crate) fn hashed(tables: &Path, names: &[&str]) -> Result<Vec<(String, String)>> {
    let hash = |name: &&str| {
        let file = format!("{name}.parquet");
        let (sha256, _) = datasets::file_sha256(&tables.join(&file))?;
        Ok((file, sha256))
    };
    names.iter().map(hash).collect()
}
