//! The arrows between the crates, and one version of what must be one.

use std::collections::{BTreeMap, BTreeSet};

use crate::kit::root;

/// Which crates a crate may use (design: rewards, models and datasets stand alone).
const ARROWS: &[(&str, &[&str])] = &[
    ("rewards", &[]),
    ("models", &[]),
    ("datasets", &[]),
    ("homology", &["datasets"]),
    ("ingest", &["datasets", "homology"]),
    ("eval", &["rewards", "models", "datasets"]),
    ("train", &["rewards", "models", "datasets", "eval"]),
];

/// Crates of which two versions would mean two types of the same name.
const ONE_VERSION: &[&str] = &["arrow", "parquet", "candle-core", "datafusion", "tokenizers", "safetensors"];

fn toml(path: &str) -> toml::Table {
    fs_err::read_to_string(root().join(path)).unwrap().parse().unwrap()
}

#[test]
fn crates_use_only_what_their_arrows_say() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let members = toml("Cargo.toml")["workspace"]["members"].clone();
    let members: BTreeSet<String> = members.try_into().unwrap();
    assert_eq!(members, arrows.keys().map(ToString::to_string).collect());
    for (name, allowed) in ARROWS {
        let manifest = toml(&format!("{name}/Cargo.toml"));
        let used = ["dependencies", "dev-dependencies", "build-dependencies"]
            .iter()
            .filter_map(|section| manifest.get(*section))
            .flat_map(|section| section.as_table().unwrap().keys().cloned());
        for dependency in used.filter(|dependency| members.contains(dependency)) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{name} must not use {dependency}, only {allowed:?}"
            );
        }
    }
}

#[test]
fn versions_are_written_once() {
    for (name, _) in ARROWS {
        let manifest = toml(&format!("{name}/Cargo.toml"));
        for section in ["dependencies", "dev-dependencies"] {
            for (dependency, how) in manifest.get(section).and_then(|s| s.as_table()).into_iter().flatten() {
                assert_eq!(
                    how.get("workspace").and_then(toml::Value::as_bool),
                    Some(true),
                    "{name}/Cargo.toml: the version of {dependency} belongs into the root Cargo.toml"
                );
            }
        }
    }
}

#[test]
fn what_must_be_one_is_one() {
    let lock = toml("Cargo.lock");
    for wanted in ONE_VERSION {
        let versions: Vec<_> = lock["package"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|package| package["name"].as_str() == Some(wanted))
            .map(|package| package["version"].as_str().unwrap())
            .collect();
        assert_eq!(versions.len(), 1, "{wanted}: {versions:?}");
    }
}
