//! Every recipe in `recipes/` is whole.

use std::path::PathBuf;

use crate::kit::{root, run};

fn recipes() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join("recipes")];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "toml") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_recipe_loads_and_its_resolved_form_is_complete() {
    let place = tempfile::tempdir().unwrap();
    let all = recipes();
    assert!(!all.is_empty());
    for path in all {
        let text = fs_err::read_to_string(&path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["name"].as_str(), path.file_stem().unwrap().to_str(), "{}", path.display());
        let dry_run = |path: &std::path::Path| {
            let folder = place.path().to_str().unwrap();
            let mut args = vec!["run", path.to_str().unwrap(), "--dry-run", "--out", folder];
            if !table.contains_key("world") {
                args.extend(["--data", folder]);
            }
            let (code, out, err) = run(&args);
            assert_eq!(code, 0, "{}: {err}", path.display());
            out
        };
        let resolved = dry_run(&path);
        let again = place.path().join("resolved.toml");
        fs_err::write(&again, &resolved).unwrap();
        assert_eq!(dry_run(&again), resolved, "{}", path.display());
    }
}
