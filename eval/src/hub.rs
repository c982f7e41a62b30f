//! Where a model is: a folder, or a name on the Hugging Face hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hf_hub::HFClientSync;

/// Files of a model repository that are used; weights in other formats are not fetched.
const FILES: &[&str] = &["*.json", "*.jinja", "*.safetensors", "*.txt"];

/// The folder of a model: `model` itself when it is a folder, else the snapshot of the repository `owner/name`, from the
/// cache that Python shares (`HF_HOME`) or downloaded (`HF_TOKEN` and `HF_ENDPOINT` are honoured, `HF_HUB_OFFLINE=1`
/// asks nobody).
///
/// # Errors
/// When it is neither, or cannot be fetched; the text says what to do.
pub fn resolve(model: &str) -> Result<PathBuf> {
    let folder = Path::new(model);
    if folder.is_dir() {
        return Ok(folder.to_owned());
    }
    let Some((owner, name)) = model.split_once('/').filter(|(o, n)| is_name(o) && is_name(n)) else {
        bail!(
            "there is no model folder {model}\nhint: give a folder with config.json and model.safetensors, or owner/name"
        );
    };
    let offline = std::env::var("HF_HUB_OFFLINE").is_ok_and(|v| !["", "0"].contains(&v.as_str()));
    let patterns = FILES.iter().map(|&f| f.to_owned()).collect();
    HFClientSync::new()
        .and_then(|client| {
            let repository = client.model(owner, name);
            repository.snapshot_download().allow_patterns(patterns).local_files_only(offline).send()
        })
        .with_context(|| {
            format!(
                "fetching model {model}\nhint: offline, copy its folder here and give the path; for a gated model accept \
                 its licence on its page and set HF_TOKEN"
            )
        })
}

fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part != "."
        && part != ".."
        && part.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
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
    }
}
