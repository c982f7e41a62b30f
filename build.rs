//! The version of the code, for the stamps of a run: the package's version and a hash of all sources. A stage that other
//! code has made is not up to date.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

const SOURCES: &[&str] = &[
    "Cargo.lock",
    "cli",
    "ingest/src",
    "datasets/src",
    "models/src",
    "rewards/src",
    "train/src",
    "eval/src",
];

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
        collect(Path::new(source), &mut files)?;
    }
    files.sort();
    // The keys of this hasher are fixed; the toolchain is, too (rust-toolchain.toml).
    let mut hash = DefaultHasher::new();
    for file in files {
        file.hash(&mut hash);
        fs_err::read(&file)?.hash(&mut hash);
    }
    println!("cargo::rustc-env=PEPTALK_CODE={}+{:016x}", env!("CARGO_PKG_VERSION"), hash.finish());
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs_err::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
