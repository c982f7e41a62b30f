//! Raw files → tables: every record accounted for, bad input of every kind, identical bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use datasets::world::{self, Truth};
use ingest::{Config, Manifest};

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.ends_with("ingest") { root.join("..") } else { root.into() }
}

/// `../shared` beside the checkout, or where `PEPTALK_SHARED` says.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("PEPTALK_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The `[ingest]` section of a recipe.
fn section(recipe: &str) -> Config {
    let path = root().join("recipes").join(recipe);
    let recipe: toml::Table = toml::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    recipe["ingest"].clone().try_into().unwrap()
}

fn balanced(manifest: &Manifest) {
    for file in &manifest.files {
        let quarantined: u64 = file.quarantined.values().sum();
        assert_eq!(file.rows_in, file.kept + file.merged + quarantined, "{}: {file:?}", file.file);
    }
}

/// The account of a run as a table for people.
fn account(manifest: &Manifest) -> String {
    let mut text = String::new();
    for f in &manifest.files {
        let reasons: BTreeMap<&str, u64> = f.quarantined.iter().map(|(r, n)| (r.name(), *n)).collect();
        let parts: BTreeMap<&str, u64> = f.parts_quarantined.iter().map(|(r, n)| (r.name(), *n)).collect();
        text += &format!(
            "{:<14} {:<60} {:>7} {:>7} {:>7} {reasons:?} parts {parts:?}\n",
            f.source, f.file, f.rows_in, f.kept, f.merged
        );
    }
    text + &format!(
        "{:?}\n{:?} clusters {} {:?}\n",
        manifest.tables, manifest.proteins_by_split, manifest.n_clusters, manifest.largest_clusters
    )
}

#[test]
fn real_files_are_accounted_for() {
    let Some(shared) = shared() else {
        eprintln!("skipped: needs ../shared/data");
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    let manifest =
        ingest::run(&section("real-small.toml"), &shared.join("data"), &out.path().join("tables")).unwrap();
    eprintln!("{} in {:.1?}", account(&manifest), started.elapsed());
    balanced(&manifest);
}

fn world(folder: &Path, n_proteins: usize) -> Truth {
    world::write(&world::Config { seed: 7, n_proteins }, folder).unwrap()
}

/// The account of every file is the planted one.
fn matches_truth(manifest: &Manifest, truth: &Truth) {
    for f in &manifest.files {
        let reasons: BTreeMap<String, u64> =
            f.quarantined.iter().map(|(r, n)| (r.name().to_owned(), *n)).collect();
        assert_eq!(f.rows_in, truth.rows[&f.file], "rows of {}", f.file);
        assert_eq!(reasons, truth.quarantine.get(&f.file).cloned().unwrap_or_default(), "{}", f.file);
        assert_eq!(f.merged, truth.merged.get(&f.file).copied().unwrap_or(0), "repeats of {}", f.file);
        assert_eq!(f.kept, truth.kept(&f.file), "rows kept of {}", f.file);
    }
}

#[test]
fn the_world_is_counted_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let truth = world(folder.path(), 211);
    let out = folder.path().join("tables");
    let manifest = ingest::run(&section("quickstart.toml"), folder.path(), &out).unwrap();
    eprintln!("{}", account(&manifest));
    balanced(&manifest);
    matches_truth(&manifest, &truth);
}
