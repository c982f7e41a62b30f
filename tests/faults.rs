//! One file at a time: faults of whole files and of the configuration, and what is odd but good.

use std::io::Write;
use std::path::Path;

use crate::kit::{balanced, one};
use datasets::table::{ProteinRow, Rows, SsRow};
use ingest::{Config, Kind, Reason};

/// Ingests one file of the given bytes and returns the error.
fn fails(kind: Kind, name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join(name), bytes).unwrap();
    let out = folder.path().join("tables");
    let error = ingest::run(&one(kind, name), folder.path(), &out).unwrap_err().to_string();
    assert!(!out.exists(), "{name}: a failed run writes nothing");
    assert!(error.contains("hint:"), "no cure in {error}");
    error
}

#[test]
fn faults_of_whole_files_name_file_place_and_cure() {
    let contains = |error: String, parts: &[&str]| {
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} not in {error}");
    };
    let folder = tempfile::tempdir().unwrap();
    let missing =
        ingest::run(&one(Kind::Gaf, "no.gaf"), folder.path(), &folder.path().join("out")).unwrap_err();
    contains(missing.to_string(), &["source one", "no.gaf", "hint:"]);
    contains(fails(Kind::Gaf, "empty.gaf", b""), &["empty.gaf is empty"]);
    contains(fails(Kind::Gaf, "page.gaf.gz", b"<html>"), &["page.gaf.gz", "gzip magic"]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let lines: String =
        (0..5_000_u64).map(|i| format!("{}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    packed.write_all(lines.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let cut = fails(Kind::Gaf, "cut.gaf.gz", &packed[..packed.len() / 2]);
    contains(cut, &["cut.gaf.gz", &format!("byte {}", packed.len() / 2), "truncated"]);
    let mut damaged = packed.clone();
    damaged[packed.len() / 2..packed.len() / 2 + 50].fill(0xff);
    contains(fails(Kind::Gaf, "bad.gaf.gz", &damaged), &["bad.gaf.gz", "damaged"]);
    contains(
        fails(Kind::SsCsv, "ss.csv", b"name,letters\na,b\n"),
        &["ss.csv, line 1", "name,letters", "sst8"],
    );
    contains(fails(Kind::DdgCsv, "d.csv", b"wt_seq,mut_seq\n"), &["d.csv, line 1", "lacks ddg, pdb_id, pos"]);
    contains(fails(Kind::Quickgo, "q.tsv", b"a\tb\n"), &["q.tsv, line 1", "GO TERM"]);
    contains(fails(Kind::MolInstructions, "m.json", b"{}"), &["m.json", "array"]);
    contains(
        fails(Kind::MolInstructions, "m.json", b"[{\"a\": 1}, {\"b"),
        &["m.json, byte", "record 2", "ends inside"],
    );
    contains(
        fails(Kind::MolInstructions, "two.json", b"[{\"a\": 1}]\n[]"),
        &["two.json, byte", "behind the array"],
    );
    contains(fails(Kind::Obo, "o.obo", b"format-version: 1.2\n"), &["o.obo", "no [Term]"]);
    // Of another kind than the recipe says.
    contains(
        fails(Kind::Gaf, "g.obo", b"format-version: 1.2\n"),
        &["g.obo", "no file of kind `gaf`", "`obo`"],
    );
    contains(fails(Kind::Obo, "u.dat", b"ID   X_Y   Reviewed; 7 AA.\n"), &["u.dat", "`swissprot_dat`"]);
    let pdb = b"HEADER    MADE UP\n";
    contains(fails(Kind::Cgdms, "s.pdb", pdb), &["s.pdb", "`structure` or `predicted`"]);
}

#[test]
fn faults_of_the_configuration_are_found_before_any_work() {
    let mut config = one(Kind::PpiPairs, "p.tsv");
    config.kinship.kmer = 9;
    config.source.push(config.source[0].clone());
    let error = ingest::run(&config, Path::new("nowhere"), Path::new("nowhere/out")).unwrap_err().to_string();
    for part in ["kmer 9", "two sources are named \"one\"", "needs a dictionary"] {
        assert!(error.contains(part), "{part} not in {error}");
    }
    let toml = "[[source]]\nname = \"a\"\nkind = \"swisprot\"\nfiles = [\"f\"]\nlicence = \"x\"";
    let error = toml::from_str::<Config>(toml).unwrap_err().to_string();
    assert!(error.contains("swissprot_dat") && error.contains("afdb_plddt"), "{error}");
    assert!(
        toml::from_str::<Config>("min_lenght = 3\nsource = []")
            .unwrap_err()
            .to_string()
            .contains("min_length")
    );
}

#[test]
fn odd_but_good_lines_are_read() {
    let folder = tempfile::tempdir().unwrap();
    // A byte-order mark, Windows line ends, blank lines, lower case, gaps, gzip under another name.
    let text = "\u{feff}id,seq,sst8,sst3\r\n\r\n1,mktayiakqrqisfvk-hfsrq,CCCCHHHHHHHHHHHHCCCCCC,CCCCHHHHHHHHHHHHCCCCCC\r\n";
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(text.as_bytes()).unwrap();
    fs_err::write(folder.path().join("s.csv"), packed.finish().unwrap()).unwrap();
    let out = folder.path().join("tables");
    let manifest = ingest::run(&one(Kind::SsCsv, "s.csv"), folder.path(), &out).unwrap();
    assert_eq!((manifest.files[0].rows_in, manifest.files[0].kept), (1, 1), "{:?}", manifest.files[0]);
    assert_eq!(ProteinRow::read(&out).unwrap()[0].sequence, "MKTAYIAKQRQISFVKHFSRQ");
    assert_eq!(SsRow::read(&out).unwrap()[0].q8, "CCCCHHHHHHHHHHHHCCCCC");
    // A column that a newer release has added is no fault, but it is told.
    let text =
        "id,seq,sst8,sst3,method\n1,MKTAYIAKQRQISFVKHFSRQ,CCCCHHHHHHHHHHHHCCCCC,CCCCHHHHHHHHHHHHCCCCC,NMR\n";
    fs_err::write(folder.path().join("s.csv"), text).unwrap();
    let manifest = ingest::run(&one(Kind::SsCsv, "s.csv"), folder.path(), &out).unwrap();
    assert_eq!((manifest.files[0].kept, &manifest.files[0].unread[..]), (1, &["method".to_owned()][..]));
}

/// XML needs no line breaks: two entries of one line are two records.
#[test]
fn records_on_one_line_are_told_apart() {
    let entry = |accession: &str, sequence: &str| {
        format!(
            "<entry dataset=\"Swiss-Prot\"><accession>{accession}</accession><protein><recommendedName>\
             <fullName>Imaginary kinase</fullName></recommendedName></protein><sequence>{sequence}</sequence></entry>"
        )
    };
    let both = entry("X0X0X0", "MKTAYIAKQRQISFVKSHFSR") + &entry("X1X1X1", "GGDWECLNPHVTRAMEIYKSF");
    let folder = tempfile::tempdir().unwrap();
    let text =
        format!("<?xml version=\"1.0\"?><uniprot xmlns=\"x\">{both}{}</uniprot>", entry("X2X2X2", "M1"));
    fs_err::write(folder.path().join("s.xml"), text).unwrap();
    let out = folder.path().join("tables");
    let manifest = ingest::run(&one(Kind::SwissprotXml, "s.xml"), folder.path(), &out).unwrap();
    balanced(&manifest);
    assert_eq!((manifest.files[0].rows_in, manifest.files[0].kept), (3, 2), "{:?}", manifest.files[0]);
    assert_eq!(ProteinRow::read(&out).unwrap().len(), 2);
}

/// The staged claims name a sequence once: here on a record that is refused, while another speaks of the same protein.
#[test]
fn the_sequence_of_a_refused_record_is_not_lost() {
    let record = |accession: &str, sequence: &str, text: &str| {
        serde_json::json!({ "instruction": "Say.", "input": sequence, "output": text,
            "metadata": { "protein_accession": accession, "task": "function" } })
    };
    let (first, other) = ("MKTAYIAKQRQISFVKSHFSR", "GGDWECLNPHVTRAMEIYKSF");
    let records = [
        record("X0", first, "Binds zinc."),
        record("X0", other, "Binds iron."),
        record("", other, "Cuts sugar."),
        record("", other, "Cuts  sugar."),
    ];
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("s.json"), serde_json::to_vec(&records).unwrap()).unwrap();
    let out = folder.path().join("tables");
    let manifest = ingest::run(&one(Kind::MolInstructions, "s.json"), folder.path(), &out).unwrap();
    balanced(&manifest);
    let file = &manifest.files[0];
    assert_eq!((file.kept, file.merged, file.quarantined[&Reason::IdConflict]), (2, 1, 1), "{file:?}");
    let mut sequences: Vec<String> =
        ProteinRow::read(&out).unwrap().into_iter().map(|p| p.sequence).collect();
    sequences.sort();
    assert_eq!(sequences, [other, first]);
}
