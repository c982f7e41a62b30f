//! What the tests share: the program, places to run it, reference data, and one comparison of numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Where the checkout is.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program, on one thread, quiet.
pub(crate) fn peptalk() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peptalk"));
    command.env("PEPTALK_LOG", "warn").args(["--threads", "1"]);
    command
}

/// Runs the program; gives exit code, standard output and standard error.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = peptalk().args(args).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    (status.code().expect("no signal ended the program"), text(stdout), text(stderr))
}

/// A path of the reference data beside the checkout (or in `PEPTALK_SHARED`); says so when it is not there.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let place =
        std::env::var_os("PEPTALK_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from).join(path);
    if !place.exists() {
        eprintln!("skipped: needs ../shared/{path}");
        return None;
    }
    Some(place)
}

/// How close is close.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tol {
    /// Computed in f64 on both sides.
    F64,
}

/// Compares two lists of numbers, absolutely up to 1 and relatively above.
#[track_caller]
pub(crate) fn assert_close(got: &[f64], want: &[f64], tol: Tol) {
    let limit = match tol {
        Tol::F64 => 1e-9,
    };
    assert_eq!(got.len(), want.len(), "number of values");
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= limit * w.abs().max(1.0), "value {at}: got {g}, want {w} ({tol:?})");
    }
}

/// The `[ingest]` section of a recipe.
pub(crate) fn section(recipe: &str) -> ingest::Config {
    let path = root().join("recipes").join(recipe);
    let recipe: toml::Table = toml::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    recipe["ingest"].clone().try_into().unwrap()
}

/// An ingest of one file.
pub(crate) fn one(kind: ingest::Kind, name: &str) -> ingest::Config {
    let mut config = section("quickstart.toml");
    let (name, licence) = (name.to_owned(), "none".to_owned());
    config.source = vec![ingest::Source {
        name: "one".into(),
        kind,
        files: vec![name],
        companion: vec![],
        role: ingest::Role::Train,
        exclude_homologs: false,
        reversed: false,
        licence,
    }];
    config
}

/// The account of every file adds up.
pub(crate) fn balanced(manifest: &ingest::Manifest) {
    for file in &manifest.files {
        let quarantined: u64 = file.quarantined.values().sum();
        assert_eq!(file.rows_in, file.kept + file.merged + quarantined, "{}: {file:?}", file.file);
    }
}

/// Contents of all files but those with wall times and the lock.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs_err::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name != ".lock" && name != "timing.jsonl" && !name.starts_with("events.out.") {
                let relative = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(relative, fs_err::read(&path).unwrap());
            }
        }
    }
    files
}
