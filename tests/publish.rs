//! Tables as a dataset, and what is different between two folders of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::kit::section;
use datasets::table::{ContradictionRow, FactRow, PpiRow, ProteinRow, Rows, Split, TABLES, describe};
use datasets::world;
use ingest::diff::Diff;
use ingest::publish::publish;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The tables of a small world.
fn tables(folder: &Path, seed: u64) -> std::path::PathBuf {
    let data = folder.join(format!("world-{seed}"));
    world::write(&world::Config { seed, n_proteins: 97 }, &data).unwrap();
    let out = folder.join(format!("tables-{seed}"));
    ingest::run(&section("quickstart.toml"), &data, &out).unwrap();
    out
}

/// Rows of each file of a table, and the names of its columns.
fn published(dataset: &Path, table: &str) -> (BTreeMap<String, i64>, Vec<String>) {
    let (mut rows, mut columns) = (BTreeMap::new(), vec![]);
    for file in fs_err::read_dir(dataset.join("data").join(table)).unwrap() {
        let path = file.unwrap().path();
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(fs_err::File::open(&path).unwrap().into_file()).unwrap();
        columns = reader.schema().fields().iter().map(|f| f.name().clone()).collect();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let meta = reader.metadata();
        rows.insert(name, meta.file_metadata().num_rows());
        let at = columns.iter().position(|c| c == "protein_id");
        if let Some(at) = at {
            assert!(meta.row_group(0).column(at).bloom_filter_offset().is_some(), "{table}");
        }
    }
    (rows, columns)
}

#[test]
fn a_dataset_holds_every_row_in_its_part() {
    let place = tempfile::tempdir().unwrap();
    let tables = tables(place.path(), 7);
    let out = place.path().join("dataset");
    publish(&tables, &out, "made-up", 50).unwrap();

    let proteins = ProteinRow::read(&tables).unwrap();
    let parts: BTreeMap<&str, Split> = proteins.iter().map(|p| (p.protein_id.as_str(), p.split)).collect();
    let facts = FactRow::read(&tables).unwrap();
    let (files, columns) = published(&out, "facts");
    for (name, split) in [("train", Split::Train), ("validation", Split::Valid), ("test", Split::Test)] {
        let want = facts.iter().filter(|fact| parts[fact.protein_id.as_str()] == split).count() as i64;
        let own: Vec<(&String, &i64)> = files.iter().filter(|(file, _)| file.starts_with(name)).collect();
        assert_eq!(own.iter().map(|(_, n)| **n).sum::<i64>(), want, "{name}: {files:?}");
        let shards = (want as usize).div_ceil(50);
        let names: Vec<String> =
            (0..shards).map(|at| format!("{name}-{at:05}-of-{shards:05}.parquet")).collect();
        assert_eq!(own.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>(), names);
    }
    assert_eq!(files.values().sum::<i64>(), facts.len() as i64);
    assert!(columns.ends_with(&["sequence".into(), "cluster".into()]), "{columns:?}");
    assert!(columns.iter().all(|column| describe(column).is_some()), "{columns:?}");

    let pairs = PpiRow::read(&tables).unwrap();
    let (files, columns) = published(&out, "ppi");
    let of = |split: Split| pairs.iter().filter(|pair| pair.split == split).count() as i64;
    let excluded: i64 = files.iter().filter(|(file, _)| file.starts_with("excluded")).map(|(_, n)| *n).sum();
    assert_eq!((files.values().sum::<i64>(), excluded), (pairs.len() as i64, of(Split::Excluded)));
    assert!(columns.contains(&"sequence_b".into()) && columns.contains(&"cluster_a".into()), "{columns:?}");

    let card = fs_err::read_to_string(out.join("README.md")).unwrap();
    for text in
        ["- config_name: facts\n", "path: data/facts/train-*.parquet", "| swissprot | swissprot_dat |"]
    {
        assert!(card.contains(text), "{text}\n{card}");
    }
    let croissant: serde_json::Value =
        serde_json::from_slice(&fs_err::read(out.join("croissant.json")).unwrap()).unwrap();
    for file in croissant["distribution"].as_array().unwrap().iter().filter(|f| f["@type"] == "cr:FileObject")
    {
        let path = out.join(file["contentUrl"].as_str().unwrap());
        let (sha256, bytes) = datasets::file_sha256(&path).unwrap();
        assert_eq!(
            (file["sha256"].as_str(), file["contentSize"].as_str()),
            (Some(&*sha256), Some(&*format!("{bytes} B")))
        );
    }
    assert!(out.join("extra/quarantine.parquet").exists() && out.join("go.obo").exists());

    // Again: the same bytes.
    let before = croissant;
    publish(&tables, &out, "made-up", 50).unwrap();
    let after: serde_json::Value =
        serde_json::from_slice(&fs_err::read(out.join("croissant.json")).unwrap()).unwrap();
    assert_eq!(before, after);
}

#[test]
fn tables_are_compared_row_by_row() {
    let place = tempfile::tempdir().unwrap();
    let (one, other) = (tables(place.path(), 7), tables(place.path(), 8));
    let diff = Diff::of(&one, &one).unwrap();
    assert!(diff == Diff::default() && diff.same_rows(), "{diff:?}");
    let diff = Diff::of(&one, &other).unwrap();
    let proteins = diff.tables.iter().find(|table| table.table == "proteins").unwrap();
    assert!(proteins.only[0] > 0 && proteins.only[1] > 0, "{proteins:?}");
    assert!(diff.inputs.iter().any(|input| input.starts_with("swissprot: ")), "{:?}", diff.inputs);

    // One protein in another part: one row of one table.
    let third = place.path().join("third");
    fs_err::create_dir(&third).unwrap();
    for table in TABLES.iter().map(|table| format!("{table}.parquet")).chain(["manifest.json".to_owned()]) {
        fs_err::copy(one.join(&table), third.join(&table)).unwrap();
    }
    let mut rows = ProteinRow::read(&one).unwrap();
    let moved = rows.iter_mut().find(|row| row.split == Split::Train).unwrap();
    moved.split = Split::Test;
    rows.reverse();
    ProteinRow::write(&third, &rows).unwrap();
    let diff = Diff::of(&one, &third).unwrap();
    assert_eq!(diff.moved, BTreeMap::from([((Split::Train, Split::Test), 1)]));
    assert_eq!((diff.tables.len(), diff.tables[0].table, diff.tables[0].only), (1, "proteins", [1, 1]));
    assert!(diff.inputs.is_empty() && diff.settings.is_empty());

    // An earlier peptalk did not write every table.
    let listed = ContradictionRow::read(&one).unwrap().len() as u64;
    let mut manifest: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(third.join("manifest.json")).unwrap()).unwrap();
    manifest["tables"].as_object_mut().unwrap().remove("contradictions").unwrap();
    fs_err::write(third.join("manifest.json"), manifest.to_string()).unwrap();
    fs_err::remove_file(ContradictionRow::path(&third)).unwrap();
    let only = |diff: Diff| diff.tables.iter().find(|t| t.table == "contradictions").map_or(0, |t| t.only[0]);
    assert_eq!(only(Diff::of(&one, &third).unwrap()), listed);

    let call = |a: &Path, b: &Path| {
        let command =
            Command::new(env!("CARGO_BIN_EXE_peptalk")).args(["data", "diff"]).args([a, b]).output();
        let output = command.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(call(&one, &one).0, Some(0));
    let (code, text) = call(&one, &third);
    assert_eq!(code, Some(1));
    assert!(text.contains("1 protein(s) moved from train to test"), "{text}");
}
