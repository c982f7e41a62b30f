//! Raw files → tables: every record accounted for, bad input of every kind, identical bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ingest::{Config, Manifest};

/// `../shared` beside the checkout, or where `PEPTALK_SHARED` says.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("PEPTALK_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    folder.is_dir().then_some(folder)
}

/// The `[ingest]` section of a recipe.
fn section(recipe: &str) -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(recipe);
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
        text += &format!("{:<14} {:<60} {:>7} {:>7} {:>7} {reasons:?} parts {parts:?}\n", f.source, f.file, f.rows_in, f.kept, f.merged);
    }
    text + &format!("{:?}\n{:?} clusters {} {:?}\n", manifest.tables, manifest.proteins_by_split, manifest.n_clusters, manifest.largest_clusters)
}

#[test]
fn real_files_are_accounted_for() {
    let Some(shared) = shared() else {
        eprintln!("skipped: needs ../shared/data");
        return;
    };
    let out = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    let manifest = ingest::run(&section("real-small.toml"), &shared.join("data"), &out.path().join("tables")).unwrap();
    eprintln!("{} in {:.1?}", account(&manifest), started.elapsed());
    balanced(&manifest);
}
