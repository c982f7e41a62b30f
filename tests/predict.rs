//! Predictions of new sequences: one output for each, in their order, whatever the file holds.

use std::path::Path;

use datasets::residue::N_TOKENS;
use datasets::table::{ProteinRow, Rows, Split, SsRow};
use eval::embeddings::VectorFile;
use eval::ss::{Beside, Gains, SsModel};
use models::Weights;
use models::ss::{BiLstmCrf, BiLstmCrfConfig};

use crate::kit::{root, run, shared};

/// A network of random weights that reads so many numbers beside each residue.
fn network(features: usize) -> BiLstmCrf {
    let config = BiLstmCrfConfig {
        n_tokens: N_TOKENS,
        embed: 6,
        conv_layers: 1,
        kernel: 3,
        features,
        hidden: 5,
        projection: 7,
        dropout: 0.0,
        gelu: true,
        min_runs: [4, 3, 5, 2, 1, 1, 1, 1],
        forbidden: vec![],
        reversed: false,
    };
    BiLstmCrf::new(config, Weights::random(|name| datasets::rng(3, name, 0))).unwrap()
}

/// A folder with a model of random weights and sequences of every kind: `in.fasta`.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    network(0).save(&place.path().join("model")).unwrap();
    Gains::equal().save(&place.path().join("model")).unwrap();
    let long = "MKTAYIAKQRQISFVKSHFSRQ".repeat(1819);
    let text = format!(
        ">b first\nMKTAYIAKQRQISF\nVKSHFSRQ*\n>empty\n>b again\nmkta-yiak\n>long\n{long}\n>dna\n{}\n>x\nMXBZ\n",
        "ACGT".repeat(6)
    );
    fs_err::write(place.path().join("in.fasta"), text).unwrap();
    place
}

/// Runs `peptalk predict ss`; gives what it said on stderr.
fn predict(place: &Path, input: &str, out: &str, more: &[&str]) -> String {
    let at = |name: &str| place.join(name).to_str().unwrap().to_owned();
    let (input, model, out) = (at(input), at("model"), at(out));
    let args = [&["predict", "ss", &input, "--model", &model, "--out", &out], more].concat();
    let (code, _, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    err
}

#[test]
fn every_sequence_has_its_output_in_every_format() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    let err = predict(place.path(), "in.fasta", "out.csv", &[]);
    for note in ["1 sequences without a residue", "1 sequences with the id", "dna looks like nucleotides"] {
        assert!(err.contains(note), "{err}");
    }
    let text = fs_err::read_to_string(at("out.csv")).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["id", "sst8", "sst3"]);
    let lengths = [("b", 22), ("empty", 0), ("b", 8), ("long", 40_018), ("dna", 24), ("x", 4)];
    for (row, (id, n)) in rows[1..].iter().zip(lengths) {
        assert_eq!((row[0], row[1].len(), row[2].len()), (id, n, n));
        assert!(row[1].chars().all(|c| "HGIEBSTC".contains(c)) && row[2].chars().all(|c| "HEC".contains(c)));
    }
    assert_eq!(rows.len(), 7);

    predict(place.path(), "in.fasta", "out.jsonl", &["--format", "jsonl", "--q8", "path", "--q3", "map"]);
    let lines = fs_err::read_to_string(at("out.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((first["p8"].as_array().unwrap().len(), lines.lines().count()), (22, 6));
    let path = first["sst8"].as_str().unwrap();
    for run in path.as_bytes().chunk_by(|a, b| a == b) {
        let shortest = match run[0] {
            b'H' => 4,
            b'G' => 3,
            b'I' => 5,
            b'E' => 2,
            _ => 1,
        };
        assert!(run.len() >= shortest, "{path}");
    }

    predict(place.path(), "in.fasta", "ss2", &["--format", "ss2"]);
    let mut names: Vec<String> = fs_err::read_dir(at("ss2"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["b.2.ss2", "b.ss2", "dna.ss2", "empty.ss2", "long.ss2", "x.ss2"]);
    predict(place.path(), "in.fasta", "horiz", &["--format", "horiz", "--q8", "f1"]);
    assert!(fs_err::read_to_string(at("horiz/b.horiz")).unwrap().contains("AA: MKTAYIAKQRQISFVKSHFSRQ"));
}

#[test]
fn a_file_written_backwards_is_predicted_backwards() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    fs_err::write(at("forward.csv"), "id,seq\n7,MKTAYIAKQRQISFVK\n").unwrap();
    fs_err::write(at("backward.csv"), "id,seq\n7,KVFSIQRQKAIYATKM\n").unwrap();
    predict(place.path(), "forward.csv", "f.csv", &[]);
    predict(place.path(), "backward.csv", "b.csv", &["--backwards"]);
    let row = |name: &str| fs_err::read_to_string(at(name)).unwrap().lines().nth(1).unwrap().to_owned();
    let (forward, backward) = (row("f.csv"), row("b.csv"));
    let turned: Vec<String> = backward.split(',').skip(1).map(|s| s.chars().rev().collect()).collect();
    assert_eq!(forward.split(',').skip(1).collect::<Vec<_>>(), turned);
}

#[test]
fn the_nppe2_test_file_gives_a_submission() {
    let Some(test) = shared("data/ss/nppe2/test.csv") else { return };
    let place = place();
    fs_err::copy(&test, place.path().join("test.csv")).unwrap();
    predict(place.path(), "test.csv", "submission.csv", &["--backwards"]);
    let read = |name: &str| fs_err::read_to_string(place.path().join(name)).unwrap();
    let (asked, said) = (read("test.csv"), read("submission.csv"));
    assert_eq!(said.lines().next(), Some("id,sst8,sst3"));
    assert_eq!(asked.lines().count(), said.lines().count());
    for (asked, said) in asked.lines().zip(said.lines()).skip(1) {
        let (asked, said): (Vec<&str>, Vec<&str>) = (asked.split(',').collect(), said.split(',').collect());
        assert_eq!((asked[0], asked[1].len(), asked[1].len()), (said[0], said[1].len(), said[2].len()));
    }
}

#[test]
fn what_cannot_be_predicted_is_named() {
    let place = place();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    fs_err::write(at("bad.fasta"), ">a\nMK\n>b\nM1K\n").unwrap();
    fs_err::write(at("none.fasta"), "").unwrap();
    for (input, model, says) in [
        ("bad.fasta", "model", "bad.fasta, line 3: sequence b: character '1' at position 2"),
        ("none.fasta", "model", "empty"),
        ("missing.fasta", "model", "missing.fasta"),
        ("in.fasta", "nowhere", "nowhere"),
    ] {
        let (code, _, err) =
            run(&["predict", "ss", &at(input), "--model", &at(model), "--out", &at("out.csv")]);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(says), "{err}");
        assert!(!place.path().join("out.csv").exists());
    }
}

#[test]
fn a_checkpoint_of_lightning_is_imported_and_predicts() {
    let place = place();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let checkpoint = root().join("tests/golden/lightning.ckpt");
    let import = |more: &[&str]| {
        let args = ["import", "ss", checkpoint.to_str().unwrap(), "--out", &at("imported")];
        run(&[&args[..], more].concat())
    };
    let (code, _, err) = import(&["--alphabet", "-ACDEFGHIKLMNPQRSTVWYX"]);
    assert_eq!(code, 0, "{err}");
    let args = [
        "predict",
        "ss",
        &at("in.fasta"),
        "--model",
        &at("imported"),
        "--out",
        &at("out.csv"),
        "--q8",
        "path",
    ];
    let (code, _, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    assert_eq!(fs_err::read_to_string(at("out.csv")).unwrap().lines().count(), 7);
    for (more, says) in [
        (
            &["--alphabet", "-ACDEFGHIKLMNPQRSTVWYX", "--rename", "fc_q3.=head."][..],
            "unexpected [\"head.bias\"",
        ),
        (&["--alphabet", "ACD"], "22 rows, --alphabet 3 letters"),
    ] {
        let (code, _, err) = import(more);
        assert!(code == 1 && err.contains(says), "{err}");
    }
}

#[test]
fn embeddings_are_made_once_and_every_protein_is_accounted_for() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let encoder = root().join("tests/golden/esmc");
    fs_err::write(at("in.fasta"), ">a\nMKTAY\n>b\n\n>c\nGGHIK\n>again\nMKTAY\n>long\nMKTAYIAKQRQISFVKSH\n")
        .unwrap();
    let embed = |more: &[&str]| {
        let (input, out) = (at("in.fasta"), at("out"));
        run(&[&["embed", &input, "--out", &out, "--model", encoder.to_str().unwrap()], more].concat())
    };
    let (code, out, err) = embed(&[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("2 encoded, 1 known or twice in the list, 1 empty, 1 longer than 14 residues"),
        "{out}"
    );
    let (_, out, _) = embed(&[]);
    assert!(out.contains("0 encoded, 3 known") && out.contains("embeddings of 2 proteins"), "{out}");
    let (_, out, _) = embed(&["--numbers", "f16"]);
    assert!(out.contains("2 encoded"), "another precision is another cache: {out}");
    let (code, _, err) = run(&["embed", &at("in.fasta"), "--out", &at("out"), "--model", &at("no-model")]);
    assert!(code == 1 && err.contains("holds no encoder"), "{err}");
}

#[test]
fn relatives_in_the_tables_are_heard_in_a_prediction() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let known = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV";
    let new = known.replace("QLEER", "QLDER").replace("GLIEVQAP", "GLVEVNAP").replace("VKVKALP", "VRVKSLP");
    let stranger = "GSHMCCWWPPNNGGDDEEFFHHYYTTSSVVAAIILLKKRRQQMMWCWPNGDEFHYTSVAILKRQM";
    let tables = |name: &str, sequences: &[&str]| {
        let folder = place.path().join(name);
        fs_err::create_dir(&folder).unwrap();
        let id = datasets::residue::protein_id;
        let rows = sequences.iter().map(|sequence| ProteinRow {
            protein_id: id(sequence),
            sequence: (*sequence).into(),
            accessions: vec![],
            sources: vec![],
            cluster: id(sequence),
            split: Split::Train,
        });
        ProteinRow::write(&folder, &rows.collect::<Vec<_>>()).unwrap();
        let states = "C".repeat(sequences[0].len());
        let ss = SsRow {
            id: "1abcA".into(),
            protein_id: id(sequences[0]),
            source: "pisces".into(),
            q8: states.clone(),
            q3: states.clone(),
            mask: states.replace('C', "1"),
        };
        SsRow::write(&folder, &[ss]).unwrap();
        folder.to_str().unwrap().to_owned()
    };
    let (family, strangers) = (tables("family", &[stranger, known]), tables("strangers", &[stranger]));
    let (code, out, err) = run(&["profile", "--tables", &family, "--out", &at("profiles.parquet")]);
    assert!(code == 0 && out.contains("profiles of 1 proteins among 2"), "{out}{err}");

    let vectors = VectorFile::open(&place.path().join("profiles.parquet")).unwrap();
    let model = SsModel::new(network(vectors.width()), Some(Beside::Vectors(vectors.into()))).unwrap();
    model.save(&place.path().join("model")).unwrap();
    Gains::equal().save(&place.path().join("model")).unwrap();
    let turned: String = new.chars().rev().collect();
    fs_err::write(at("new.fasta"), format!(">new\n{new}\n>none\n>new too\n{new}\n")).unwrap();
    fs_err::write(at("turned.fasta"), format!(">new\n{turned}\n")).unwrap();
    let said = |name: &str| -> Vec<String> {
        let text = fs_err::read_to_string(at(name)).unwrap();
        text.lines().map(|line| line.split_once("\"sst8\"").map_or("", |of| of.1).to_owned()).collect()
    };
    let jsonl = ["--format", "jsonl"];
    predict(place.path(), "new.fasta", "family.jsonl", &[&jsonl[..], &["--tables", &family]].concat());
    predict(place.path(), "new.fasta", "strangers.jsonl", &[&jsonl[..], &["--tables", &strangers]].concat());
    let (with, without) = (said("family.jsonl"), said("strangers.jsonl"));
    assert_eq!((with.len(), &with[0]), (3, &with[2]));
    assert_ne!(with[0], without[0], "a relative is not heard");
    // What was made before is the same.
    let profiles = ["profile", &at("new.fasta"), "--tables", &family, "--out", &at("new.parquet")];
    assert_eq!(run(&profiles).0, 0);
    let vectors = at("new.parquet");
    predict(place.path(), "new.fasta", "before.jsonl", &[&jsonl[..], &["--vectors", &vectors]].concat());
    assert_eq!(said("before.jsonl"), with);
    let csv = |name: &str| fs_err::read_to_string(at(name)).unwrap().lines().nth(1).unwrap().to_owned();
    predict(place.path(), "new.fasta", "forward.csv", &["--tables", &family]);
    predict(place.path(), "turned.fasta", "turned.csv", &["--tables", &family, "--backwards"]);
    let backward: Vec<String> =
        csv("turned.csv").split(',').skip(1).map(|s| s.chars().rev().collect()).collect();
    assert_eq!(csv("forward.csv").split(',').skip(1).collect::<Vec<_>>(), backward);

    let (code, _, err) =
        run(&["predict", "ss", &at("new.fasta"), "--model", &at("model"), "--out", &at("out.csv")]);
    assert!(code == 1 && err.contains("predict with --tables DIR"), "{err}");
    network(0).save(&place.path().join("plain")).unwrap();
    let plain = ["predict", "ss", &at("new.fasta"), "--model", &at("plain"), "--tables", &family];
    let (code, _, err) = run(&[&plain[..], &["--out", &at("out.csv")]].concat());
    assert!(code == 1 && err.contains("reads no profiles"), "{err}");
}
