//! Where a model is: a folder, or a name on the Hugging Face hub.

use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use hf_hub::repository::{RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFClientSync, HFRepositorySync};

/// Files of a model repository that are used; weights in other formats are not fetched. ESM3 and ESM-C of the `esm` package
/// have no other weights than these of PyTorch.
const FILES: &[&str] = &[
    "*.json",
    "*.jinja",
    "*.safetensors",
    "*.txt",
    "data/weights/esm3_sm_open_v1.pth",
    "data/weights/esmc_*.pth",
];

/// Bytes of weights that are asked for at once. What an interrupted download had of a piece is fetched again, what it had of
/// others is not.
const PIECE: u64 = 64 << 20;

/// A model as settings name it.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Its folder on this machine, or the file that was named.
    pub path: PathBuf,
    /// `owner/name`, if it came from the hub.
    pub hub: Option<String>,
}

impl Place {
    /// How files in a folder name it: as the hub does, or by the way there.
    ///
    /// # Errors
    /// When one of the two is not there.
    pub(crate) fn name_from(&self, folder: &Path) -> Result<PathBuf> {
        match &self.hub {
            Some(name) => Ok(name.into()),
            None => relative(folder, &self.path),
        }
    }
}

/// The path from a folder to another, or to a file, so that a run folder may be moved as a whole.
pub(crate) fn relative(from: &Path, to: &Path) -> Result<PathBuf> {
    let (from, to) = (fs::canonicalize(from)?, fs::canonicalize(to)?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    Ok(up.chain(to.components().skip(shared)).collect())
}

/// The model that `named` means for settings in the folder `from`: a path seen from there, if something is there, else
/// `owner/name` of the hub, fetched if need be.
///
/// # Errors
/// As [`resolve`].
pub fn locate(from: &Path, named: &Path) -> Result<Place> {
    let path = from.join(named);
    if path.exists() || repository(named).is_none() {
        return Ok(Place { path, hub: None });
    }
    let name = named.to_string_lossy().into_owned();
    Ok(Place { path: resolve(&name)?, hub: Some(name) })
}

/// The folder of a model: `model` itself when it is a folder, else the snapshot of the repository `owner/name`, from the
/// cache that Python shares (`HF_HOME`) or downloaded (`HF_TOKEN` and `HF_ENDPOINT` are honoured, `HF_HUB_OFFLINE=1`
/// asks nobody). What an interrupted download had is not fetched again, but for the last 64 MiB of it at most.
///
/// # Errors
/// When it is neither, cannot be fetched, or a file arrived with another content than the hub says; the text says what to
/// do.
pub fn resolve(model: &str) -> Result<PathBuf> {
    let folder = Path::new(model);
    if folder.is_dir() {
        return Ok(folder.to_owned());
    }
    let Some((owner, name)) = repository(folder) else {
        bail!(
            "there is no model folder {model}\nhint: give a folder with config.json and model.safetensors, or owner/name"
        );
    };
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !["", "0"].contains(&v.as_str()));
    let patterns = FILES.iter().map(|&f| f.to_owned()).collect();
    let begin = SystemTime::now();
    if !offline {
        tracing::info!("model {model}: looking at the hub");
    }
    let fetch = || -> Result<PathBuf> {
        let client = HFClient::new()?;
        let cache = client.cache_dir().join(format!("models--{owner}--{name}"));
        let repository = HFClientSync::from_inner(client)?.model(owner, name);
        if !offline {
            fetch_weights(&repository, &cache)?;
        }
        let download = repository.snapshot_download();
        let snapshot = download.allow_patterns(patterns).local_files_only(offline).send()?;
        verify(&snapshot, begin)?;
        Ok(snapshot)
    };
    fetch().with_context(|| {
        format!(
            "fetching model {model}\nhint: offline, copy its folder here and give the path; for a gated model accept its \
             licence on its page and set HF_TOKEN"
        )
    })
}

/// `owner` and `name` of a hub repository.
fn repository(model: &Path) -> Option<(&str, &str)> {
    let (owner, name) = model.to_str()?.split_once('/')?;
    (is_name(owner) && is_name(name)).then_some((owner, name))
}

fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part != "."
        && part != ".."
        && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

/// Whether it is one of [`FILES`].
fn is_used(path: &str) -> bool {
    FILES.iter().any(|pattern| match pattern.split_once('*') {
        Some((begin, end)) => path.starts_with(begin) && path.ends_with(end),
        None => path == *pattern,
    })
}

/// Whether a blob is named by the SHA-256 of what is in it, as large ones are.
fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether downloads into this folder were interrupted.
fn has_parts(blobs: &Path) -> Result<bool> {
    if !blobs.exists() {
        return Ok(false);
    }
    for entry in fs::read_dir(blobs)? {
        if entry?.path().extension().is_some_and(|end| end == "incomplete") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Fetches large files into the cache of a repository, behind what an interrupted download has left there, of Python's too. (The client
/// itself would begin anew.) Their blob is named by their hash, which [`verify`] compares.
fn fetch_weights(repository: &HFRepositorySync<RepoTypeModel>, cache: &Path) -> Result<()> {
    let blobs = &cache.join("blobs");
    let has_parts = has_parts(blobs)?;
    let commit = repository.info().revision("main").send()?.sha.context("the hub names no commit")?;
    for entry in repository.list_tree().revision(&commit).recursive(true).send()? {
        let RepoTreeEntry::File { path, size, .. } = entry else { continue };
        let is_there = cache.join("snapshots").join(&commit).join(&path).exists();
        if is_there || !is_used(&path) || (size <= PIECE && !has_parts) {
            continue;
        }
        let file = repository.get_file_metadata().filepath(&path).revision(&commit).send()?;
        let (blob, part) = (blobs.join(&file.etag), blobs.join(format!("{}.incomplete", file.etag)));
        if !is_hash(&file.etag) || blob.exists() || (file.file_size <= PIECE && !part.exists()) {
            continue;
        }
        fs::create_dir_all(blobs)?;
        let mut out = fs::OpenOptions::new().create(true).append(true).open(&part)?.into_file();
        // Whoever fetches it already is waited for.
        out.lock()?;
        if blob.exists() {
            continue;
        }
        let mut length = out.metadata()?.len();
        if length > file.file_size {
            out.set_len(0)?;
            length = 0;
        }
        while length < file.file_size {
            tracing::info!("{path}: {} of {} MiB", length >> 20, file.file_size >> 20);
            let piece = length..(length + PIECE).min(file.file_size);
            let fetched = repository.download_file_to_bytes().filename(&path).revision(&commit);
            let bytes = fetched.range(piece.clone()).send()?;
            ensure!(
                bytes.len() as u64 == piece.end - piece.start,
                "{path}: asked for bytes {piece:?}, got {}\nhint: try again; a proxy between may not pass ranges on",
                bytes.len()
            );
            out.write_all(&bytes)?;
            length = piece.end;
        }
        // So that it is verified, though all of it may have been there.
        out.set_modified(SystemTime::now())?;
        out.sync_all()?;
        fs::rename(part, blob)?;
    }
    Ok(())
}

/// Compares the files that came since `begin` with their SHA-256, which is the name of their blob if they are large; what
/// does not fit is removed, so that it is fetched again. The client itself writes whatever the server answers.
fn verify(snapshot: &Path, begin: SystemTime) -> Result<()> {
    let mut folders = vec![snapshot.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let blob = fs::canonicalize(&path)?;
            let expected =
                blob.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            // a second of tolerance: clocks of file systems are coarse
            let age = fs::metadata(&blob)?.modified()?;
            if !is_hash(&expected) || age + std::time::Duration::from_secs(1) < begin {
                continue;
            }
            if datasets::file_sha256(&blob)?.0 != expected {
                fs::remove_file(&path)?;
                fs::remove_file(&blob)?;
                let name = path.strip_prefix(snapshot).unwrap_or(&path).display();
                bail!("{name} did not arrive as the hub has it and was removed\nhint: try again");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_itself_and_nothing_else_is_guessed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(resolve(dir.path().to_str().unwrap()).unwrap(), dir.path());
        for not_there in ["no-such-folder", "a/b/c", "../x", "/no/such"] {
            let error = resolve(not_there).unwrap_err().to_string();
            assert!(error.contains("no model folder") && error.contains("hint:"), "{error}");
        }
        // what stands beside the settings comes before the hub, and a path that cannot be a name stays a path
        fs::create_dir_all(dir.path().join("owner/name")).unwrap();
        for named in ["owner/name", "../encoder/model", "weights.pth"] {
            let place = locate(dir.path(), Path::new(named)).unwrap();
            assert_eq!(place, Place { path: dir.path().join(named), hub: None });
        }
    }

    #[test]
    fn the_way_to_the_base_survives_a_move() {
        let dir = tempfile::tempdir().unwrap();
        let (base, policy) = (dir.path().join("ssl/model"), dir.path().join("sft/model"));
        fs_err::create_dir_all(&base).unwrap();
        fs_err::create_dir_all(&policy).unwrap();
        assert_eq!(relative(&policy, &base).unwrap(), Path::new("../../ssl/model"));
        assert_eq!(relative(&policy, &policy.join("../../ssl/model")).unwrap(), Path::new("../../ssl/model"));
    }
}
