//! Checkpoints: everything a run needs to go on, in one folder that is there whole or not at all.
//!
//! A folder is written as `.checkpoint-N.tmp`, its files are synced, it is renamed to `checkpoint-N`, the parent is
//! synced. The name is the proof of completeness: a killed or crashed run leaves no `checkpoint-N` that is torn.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::optim::Tensors;

/// The state of a run after `step` optimiser steps.
///
/// Files: `NAME.safetensors` for each entry of `tensors` (by convention `model`, `optimiser`, `ema`; a loop may add its
/// own, such as a rollout buffer), `state.json`, and `config.toml`, the resolved config.
#[derive(Debug)]
pub struct Checkpoint {
    /// Optimiser steps done.
    pub step: u64,
    /// Tensors by file and name.
    pub tensors: BTreeMap<String, Tensors>,
    /// Counters, sampler positions and the like.
    pub state: serde_json::Value,
}

const PREFIX: &str = "checkpoint-";

impl Checkpoint {
    /// A checkpoint of nothing but counters; add tensors with [`Checkpoint::with`].
    ///
    /// # Errors
    /// When `state` has no JSON form.
    pub fn new(step: u64, state: &impl Serialize) -> Result<Self> {
        Ok(Self { step, tensors: BTreeMap::new(), state: serde_json::to_value(state)? })
    }

    /// Adds the file `NAME.safetensors`.
    #[must_use]
    pub fn with(mut self, name: &str, tensors: Tensors) -> Self {
        self.tensors.insert(name.to_owned(), tensors);
        self
    }

    /// Writes `RUN/checkpoint-STEP` and removes all but the newest `keep` (at least one) checkpoints. The resolved
    /// config of the run, `RUN/config.toml`, is copied into it. Saving a step that is already there does nothing: a
    /// resumed run may pass the step it began at.
    ///
    /// # Errors
    /// I/O errors, with the path.
    pub fn save(&self, run: &Path, keep: usize) -> Result<PathBuf> {
        let folder = run.join(format!("{PREFIX}{}", self.step));
        if folder.exists() {
            return Ok(folder);
        }
        let temporary = run.join(format!(".{PREFIX}{}.tmp", self.step));
        self.write(run, &temporary, &folder).with_context(|| format!("saving {}", folder.display()))?;
        let steps = steps(run)?;
        for step in &steps[..steps.len().saturating_sub(keep.max(1))] {
            remove(run, *step)?;
        }
        Ok(folder)
    }

    fn write(&self, run: &Path, temporary: &Path, folder: &Path) -> Result<()> {
        if temporary.exists() {
            fs::remove_dir_all(temporary)?;
        }
        fs::create_dir_all(temporary)?;
        for (name, tensors) in &self.tensors {
            save_tensors(&temporary.join(name).with_extension("safetensors"), tensors)?;
        }
        let state = serde_json::json!({ "step": self.step, "state": self.state });
        fs::write(temporary.join("state.json"), serde_json::to_string_pretty(&state)? + "\n")?;
        let config = run.join("config.toml");
        if config.exists() {
            fs::copy(config, temporary.join("config.toml"))?;
        }
        for file in fs::read_dir(temporary)? {
            fs::File::open(file?.path())?.sync_all()?;
        }
        fs::File::open(temporary)?.sync_all()?;
        fs::rename(temporary, folder)?;
        fs::File::open(run)?.sync_all()?;
        Ok(())
    }

    /// Reads a checkpoint folder.
    ///
    /// # Errors
    /// When a file is missing or broken, with its path.
    pub fn load(folder: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let text = fs::read_to_string(folder.join("state.json"))?;
            let mut state: serde_json::Value = serde_json::from_str(&text).context("state.json")?;
            let step = state["step"].as_u64().context("state.json has no step")?;
            let mut tensors = BTreeMap::new();
            for file in fs::read_dir(folder)? {
                let path = file?.path();
                if path.extension().is_some_and(|e| e == "safetensors") {
                    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    tensors.insert(name, models::read_safetensors(&path)?);
                }
            }
            Ok(Self { step, tensors, state: state["state"].take() })
        };
        read().with_context(|| format!("loading {}", folder.display()))
    }

    /// The newest checkpoint of a run folder, if there is one. Leftovers of a killed save are removed.
    ///
    /// # Errors
    /// I/O errors, and as [`Checkpoint::load`].
    pub fn latest(run: &Path) -> Result<Option<Self>> {
        if !run.exists() {
            return Ok(None);
        }
        for file in fs::read_dir(run)? {
            let path = file?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&format!(".{PREFIX}")) && name.ends_with(".tmp") {
                fs::remove_dir_all(&path)?;
            }
        }
        steps(run)?.last().map(|step| Self::load(&run.join(format!("{PREFIX}{step}")))).transpose()
    }

    /// Takes out the tensors of `NAME.safetensors`.
    ///
    /// # Errors
    /// When the checkpoint has no such file; those it has are listed.
    pub fn take(&mut self, name: &str) -> Result<Tensors> {
        match self.tensors.remove(name) {
            Some(tensors) => Ok(tensors),
            None => bail!(
                "checkpoint-{} has no {name}.safetensors, only {:?}",
                self.step,
                self.tensors.keys().collect::<Vec<_>>()
            ),
        }
    }

    /// The counters, as saved.
    ///
    /// # Errors
    /// When they have another form than `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.state.clone())
            .with_context(|| format!("state of checkpoint-{}", self.step))
    }
}

/// Steps of all checkpoints of a run, ascending.
fn steps(run: &Path) -> Result<Vec<u64>> {
    let mut steps = Vec::new();
    for file in fs::read_dir(run)? {
        let name = file?.file_name();
        steps.extend(name.to_string_lossy().strip_prefix(PREFIX).and_then(|n| n.parse::<u64>().ok()));
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Removes a checkpoint so that a kill in between leaves none that is torn: renamed first, deleted then.
fn remove(run: &Path, step: u64) -> Result<()> {
    let doomed = run.join(format!(".{PREFIX}{step}.tmp"));
    fs::rename(run.join(format!("{PREFIX}{step}")), &doomed)?;
    Ok(fs::remove_dir_all(doomed)?)
}

/// Writes tensors as one safetensors file; the same tensors give the same bytes.
///
/// # Errors
/// I/O errors, with the path.
pub fn save_tensors(path: &Path, tensors: &Tensors) -> Result<()> {
    // safetensors sorts by number type and name itself, so the map's order does not reach the file.
    let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn tensors(n: usize) -> Tensors {
        let tensor = |i: usize| Tensor::arange(0.0f32, (i + 2) as f32, &Device::Cpu).unwrap();
        (0..n).map(|i| (format!("w{}", (i * 7) % n), tensor(i))).collect()
    }

    fn save(run: &Path, step: u64, keep: usize) -> PathBuf {
        let state = serde_json::json!({ "epoch": 3 });
        Checkpoint::new(step, &state).unwrap().with("model", tensors(13)).save(run, keep).unwrap()
    }

    #[test]
    fn what_is_saved_comes_back_and_old_ones_go() {
        let run = tempfile::tempdir().unwrap();
        assert!(Checkpoint::latest(run.path()).unwrap().is_none());
        fs::write(run.path().join("config.toml"), "a = 1\n").unwrap();
        for step in [5, 90, 100] {
            save(run.path(), step, 2);
        }
        assert_eq!(steps(run.path()).unwrap(), [90, 100]);
        let mut checkpoint = Checkpoint::latest(run.path()).unwrap().unwrap();
        assert_eq!((checkpoint.step, &checkpoint.state["epoch"]), (100, &serde_json::json!(3)));
        let error = checkpoint.take("ema").unwrap_err().to_string();
        assert!(error.contains("no ema.safetensors") && error.contains("model"), "{error}");
        let model = checkpoint.take("model").unwrap();
        assert_eq!(model.keys().collect::<Vec<_>>(), tensors(13).keys().collect::<Vec<_>>());
        assert_eq!(model["w7"].to_vec1::<f32>().unwrap(), tensors(13)["w7"].to_vec1::<f32>().unwrap());
        assert_eq!(fs::read_to_string(run.path().join("checkpoint-100/config.toml")).unwrap(), "a = 1\n");
    }

    #[test]
    fn the_same_tensors_give_the_same_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bytes = |run: &Path| fs::read(save(run, 1, 1).join("model.safetensors")).unwrap();
        assert_eq!(bytes(a.path()), bytes(b.path()));
    }

    #[test]
    fn a_torn_save_is_never_loaded() {
        let run = tempfile::tempdir().unwrap();
        save(run.path(), 1, 9);
        let torn = run.path().join(".checkpoint-2.tmp");
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join("model.safetensors"), "half").unwrap();
        assert_eq!(Checkpoint::latest(run.path()).unwrap().unwrap().step, 1);
        assert!(!torn.exists());
    }

    #[test]
    fn a_broken_file_is_named() {
        let run = tempfile::tempdir().unwrap();
        let folder = save(run.path(), 1, 1);
        fs::write(folder.join("model.safetensors"), "half").unwrap();
        let error = format!("{:#}", Checkpoint::latest(run.path()).unwrap_err());
        assert!(error.contains("checkpoint-1") && error.contains("model.safetensors"), "{error}");
    }
}
