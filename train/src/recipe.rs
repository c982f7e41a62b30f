//! The engine of a recipe: stages that run once, know when they are up to date, and go on after a kill.
//!
//! A stage leaves `done.json` in its folder: its settings, the hashes of the files it read and wrote, and the version of
//! the code. When all of them still hold, the stage is skipped. While it works there is `begun.json` instead; a training
//! stage that finds its own goes on from the last checkpoint, any other difference begins the stage again.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use datasets::file_sha256;
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::config;

/// Name of the file that says a stage is finished, and of what it came.
pub const DONE: &str = "done.json";
const BEGUN: &str = "begun.json";
const LOCK: &str = ".lock";

/// One stage of a run.
pub struct Stage<'a> {
    /// The name: section of the recipe and, by default, folder.
    pub name: &'static str,
    /// Where its results go.
    pub folder: PathBuf,
    /// Its resolved settings.
    pub config: toml::Table,
    /// Files and folders that it reads, with the names that the stamp knows them by.
    pub inputs: Vec<(String, PathBuf)>,
    /// Whether it goes on after a kill (training) or begins again (ingest).
    pub resumes: bool,
    /// Does the work, given the folder and whether an interrupted run is to be resumed.
    pub work: Work<'a>,
}

/// What a stage does, given its folder and whether to go on from the last checkpoint.
pub type Work<'a> = Box<dyn Fn(&Path, bool) -> Result<()> + 'a>;

/// What to do with results that lie in the folder already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Keep them when they are up to date, go on when they are an interrupted run of the same stage, else replace them.
    Update,
    /// Refuse.
    Refuse,
    /// Keep or go on; refuse when settings or inputs are others.
    Resume,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was nothing to do.
    UpToDate,
    /// It ran for so long; `resumed` if it went on from an interrupted run.
    Done {
        /// Wall time.
        took: Duration,
        /// Whether an interrupted run was continued.
        resumed: bool,
    },
}

/// What decides the results of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stamp {
    stage: String,
    code: String,
    config: toml::Table,
    /// SHA-256 by name of the input, or path of a file in it.
    inputs: BTreeMap<String, String>,
}

/// `begun.json`.
#[derive(Serialize, Deserialize)]
struct Begun {
    #[serde(flatten)]
    stamp: Stamp,
    /// Where the inputs lie, so that the run can be resumed without naming them again.
    paths: Vec<(String, PathBuf)>,
}

/// `done.json`.
#[derive(Serialize, Deserialize)]
struct Done {
    #[serde(flatten)]
    stamp: Stamp,
    /// SHA-256 by path in the stage's folder.
    outputs: BTreeMap<String, String>,
}

impl Stage<'_> {
    /// Brings the stage up to date. `code` is the version of the program.
    ///
    /// # Errors
    /// What the work says, I/O errors, and as [`Existing`] rules.
    pub fn run(&self, code: &str, existing: Existing) -> Result<Outcome> {
        let stamp = self.stamp(code)?;
        let done: Option<Done> = read_json(&self.folder.join(DONE))?;
        let finished = done.as_ref().filter(|done| done.stamp == stamp);
        let begun: Option<Begun> = read_json(&self.folder.join(BEGUN))?;
        let old = done.as_ref().map(|done| &done.stamp).or(begun.as_ref().map(|begun| &begun.stamp));
        if existing == Existing::Refuse && old.is_some() {
            bail!(
                "{} holds a run already\nhint: --resume goes on with it; or give another --out",
                self.folder.display()
            );
        }
        if let Some(done) = finished
            && done.outputs == hashes(&self.folder)?
        {
            if begun.is_some() {
                fs::remove_file(self.folder.join(BEGUN))?; // killed between the two stamps
            }
            return Ok(Outcome::UpToDate);
        }
        let resumed =
            self.resumes && finished.is_none() && begun.as_ref().is_some_and(|begun| begun.stamp == stamp);
        if !resumed {
            let why = old.map_or_else(Vec::new, |old| old.differences(&stamp));
            ensure!(
                existing != Existing::Resume || why.is_empty(),
                "{} was begun with others:\n  {}\nhint: resume with those, or give another --out",
                self.folder.display(),
                why.join("\n  ")
            );
            if old.is_some() {
                tracing::info!(
                    "{} begins again: {}",
                    self.name,
                    why.first().map_or("its results changed", |w| w)
                );
            }
            self.clear()?;
        }
        self.execute(&stamp, resumed)
    }

    fn execute(&self, stamp: &Stamp, resumed: bool) -> Result<Outcome> {
        let begin = Instant::now();
        if self.resumes {
            fs::create_dir_all(&self.folder)?;
            config::save_or_compare(&self.folder, &self.config)?;
            let absolute = |(name, path): &(String, PathBuf)| Ok((name.clone(), std::path::absolute(path)?));
            let paths = self.inputs.iter().map(absolute).collect::<Result<_>>()?;
            write_json(&self.folder.join(BEGUN), &Begun { stamp: stamp.clone(), paths })?;
        }
        (self.work)(&self.folder, resumed).with_context(|| format!("stage {}", self.name))?;
        config::save_or_compare(&self.folder, &self.config)?;
        let done = Done { stamp: stamp.clone(), outputs: hashes(&self.folder)? };
        write_json(&self.folder.join(DONE), &done)?;
        if self.resumes {
            fs::remove_file(self.folder.join(BEGUN))?;
        }
        Ok(Outcome::Done { took: begin.elapsed(), resumed })
    }

    /// Empties the folder, the stamps first, so that a kill in between leaves nothing that looks whole.
    fn clear(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        for name in [DONE, BEGUN] {
            if self.folder.join(name).exists() {
                fs::remove_file(self.folder.join(name))?;
            }
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == LOCK => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    fn stamp(&self, code: &str) -> Result<Stamp> {
        let mut inputs = BTreeMap::new();
        for (name, input) in &self.inputs {
            ensure!(
                input.exists(),
                "stage {} reads {}, which is not there\nhint: run the stage that writes it first",
                self.name,
                input.display()
            );
            match input.is_dir() {
                true => inputs
                    .extend(hashes(input)?.into_iter().map(|(file, hash)| (format!("{name}/{file}"), hash))),
                false => drop(inputs.insert(name.clone(), file_sha256(input)?.0)),
            }
        }
        Ok(Stamp { stage: self.name.to_owned(), code: code.to_owned(), config: self.config.clone(), inputs })
    }
}

impl Stamp {
    /// What is not the same in `new`, for a person.
    fn differences(&self, new: &Stamp) -> Vec<String> {
        let mut lines = config::diff(&self.config, &new.config);
        let names = |stamp: &Stamp| stamp.inputs.keys().cloned().collect::<std::collections::BTreeSet<_>>();
        for name in names(self).union(&names(new)) {
            if self.inputs.get(name) != new.inputs.get(name) {
                lines.push(format!("input {name} is not what it was"));
            }
        }
        if self.code != new.code {
            lines.push(format!("code: {} there, {} now", self.code, new.code));
        }
        lines
    }
}

/// The inputs of the interrupted run in `folder`, by name.
///
/// # Errors
/// When there is none, or its file cannot be read.
pub fn interrupted(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    match read_json::<Begun>(&folder.join(BEGUN))? {
        Some(begun) => Ok(begun.paths.into_iter().collect()),
        None if folder.join(DONE).exists() => bail!("the run in {} is finished", folder.display()),
        None => bail!("{} holds no run that could be resumed", folder.display()),
    }
}

/// Holds a folder for one run at a time. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the open file")] std::fs::File);

impl Lock {
    /// Takes the folder, which is made if need be.
    ///
    /// # Errors
    /// When another process holds it, or when it is neither empty nor the folder of an earlier run: what lies in a run
    /// folder may be replaced, and nobody's own files shall be.
    pub fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let path = folder.join(LOCK);
        let is_run = [LOCK, BEGUN, DONE].iter().any(|name| folder.join(name).exists());
        ensure!(
            is_run || fs::read_dir(folder)?.next().is_none(),
            "{} holds files, but no earlier run\nhint: give a new or empty folder as --out",
            folder.display()
        );
        let file = fs::OpenOptions::new().create(true).append(true).open(&path)?.into_parts().0;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "another run works in {}\nhint: wait for it to end, or give another --out",
                folder.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", path.display()))
            }
        }
    }
}

/// SHA-256 of all result files below `folder` by relative path: not of logs with wall times, of checkpoints (they may be
/// thrown away) and of what the engine itself writes.
fn hashes(folder: &Path) -> Result<BTreeMap<String, String>> {
    fn passes(name: &str) -> bool {
        let own = [DONE, BEGUN, "timing.jsonl"].contains(&name);
        !own && !name.starts_with('.') && !name.starts_with("checkpoint-") && !name.starts_with("events.out.")
    }
    fn walk(folder: &Path, prefix: &str, out: &mut BTreeMap<String, String>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !passes(&name) {
                continue;
            }
            let path = format!("{prefix}{name}");
            match entry.file_type()?.is_dir() {
                true => walk(&entry.path(), &format!("{path}/"), out)?,
                false => drop(out.insert(path, file_sha256(&entry.path())?.0)),
            }
        }
        Ok(())
    }
    let mut out = BTreeMap::new();
    walk(folder, "", &mut out)?;
    Ok(out)
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    match path.exists() {
        false => Ok(None),
        true => {
            let text = fs::read_to_string(path)?;
            Ok(Some(serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?))
        }
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    datasets::atomic_write(path, |file| Ok(file.write_all(text.as_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A stage that copies its input and notes how it was called; it stops half-way when the input says `stop`.
    fn stage<'a>(place: &Path, config: &str, calls: &'a RefCell<Vec<bool>>) -> Stage<'a> {
        let input = place.join("in");
        let work = {
            let input = input.clone();
            move |folder: &Path, resume: bool| {
                calls.borrow_mut().push(resume);
                fs::write(folder.join("half"), "")?;
                ensure!(!place_stops(&input), "killed");
                Ok(fs::copy(input.join("a"), folder.join("out")).map(drop)?)
            }
        };
        Stage {
            name: "copy",
            folder: place.join("copy"),
            config: config.parse().unwrap(),
            inputs: vec![("in".into(), input)],
            resumes: true,
            work: Box::new(work),
        }
    }

    fn place_stops(input: &Path) -> bool {
        input.parent().unwrap().join("stop").exists()
    }

    fn place() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("in")).unwrap();
        fs::write(place.path().join("in/a"), "one").unwrap();
        place
    }

    fn ran(outcome: Outcome) -> bool {
        outcome != Outcome::UpToDate
    }

    #[test]
    fn a_stage_runs_again_only_when_something_changed() {
        let (place, calls) = (place(), RefCell::default());
        let run = |config: &str, code: &str| {
            ran(stage(place.path(), config, &calls).run(code, Existing::Update).unwrap())
        };
        assert!(run("a = 1", "v1"));
        assert!(!run("a = 1", "v1"));
        assert!(run("a = 2", "v1"));
        assert!(run("a = 2", "v2"));
        fs::write(place.path().join("in/a"), "two").unwrap();
        assert!(run("a = 2", "v2"));
        assert_eq!(fs::read_to_string(place.path().join("copy/out")).unwrap(), "two");
        fs::write(place.path().join("copy/out"), "spoilt").unwrap();
        assert!(run("a = 2", "v2"));
        assert!(!run("a = 2", "v2"));
        let begun = place.path().join("copy/begun.json");
        fs::write(&begun, r#"{"stage":"copy","code":"v2","config":{},"inputs":{},"paths":[]}"#).unwrap();
        assert!(!run("a = 2", "v2") && !begun.exists());
        fs::create_dir(place.path().join("copy/checkpoint-3")).unwrap();
        assert!(!run("a = 2", "v2"));
        assert_eq!(*calls.borrow(), [false; 5]);
    }

    #[test]
    fn an_interrupted_stage_goes_on_if_it_is_still_the_same() {
        let (place, calls) = (place(), RefCell::default());
        let run = |config: &str, existing| stage(place.path(), config, &calls).run("v1", existing);
        fs::write(place.path().join("stop"), "").unwrap();
        assert!(run("a = 1", Existing::Update).is_err());
        fs::remove_file(place.path().join("stop")).unwrap();
        let error = run("a = 2", Existing::Resume).unwrap_err().to_string();
        assert!(error.contains("a: 1 there, 2 now"), "{error}");
        assert!(run("a = 1", Existing::Refuse).unwrap_err().to_string().contains("--resume"));
        assert!(matches!(run("a = 1", Existing::Resume).unwrap(), Outcome::Done { resumed: true, .. }));
        assert_eq!(run("a = 1", Existing::Resume).unwrap(), Outcome::UpToDate);
        assert_eq!(*calls.borrow(), [false, true]);
    }

    #[test]
    fn a_changed_stage_begins_with_an_empty_folder() {
        let (place, calls) = (place(), RefCell::default());
        fs::write(place.path().join("stop"), "").unwrap();
        assert!(stage(place.path(), "a = 1", &calls).run("v1", Existing::Update).is_err());
        fs::write(place.path().join("copy/checkpoint-9"), "").unwrap();
        fs::remove_file(place.path().join("stop")).unwrap();
        stage(place.path(), "a = 2", &calls).run("v1", Existing::Update).unwrap();
        assert!(!place.path().join("copy/checkpoint-9").exists());
        assert_eq!(*calls.borrow(), [false, false]);
    }

    #[test]
    fn one_run_per_folder() {
        let place = place();
        assert!(Lock::take(place.path()).unwrap_err().to_string().contains("holds files"));
        let run = place.path().join("run");
        let first = Lock::take(&run).unwrap();
        assert!(Lock::take(&run).unwrap_err().to_string().contains("another run works in"));
        drop(first);
        fs::write(run.join("done.json"), "").unwrap();
        Lock::take(&run).unwrap();
        fs::remove_file(run.join(LOCK)).unwrap(); // as in a copy without hidden files
        Lock::take(&run).unwrap();
    }

    #[test]
    fn a_missing_input_is_named() {
        let (place, calls) = (place(), RefCell::default());
        fs::remove_dir_all(place.path().join("in")).unwrap();
        let error = stage(place.path(), "", &calls).run("v1", Existing::Update).unwrap_err().to_string();
        assert!(error.contains("in, which is not there"), "{error}");
    }
}
