use std::io::Write as _;

use datasets::table::{FactRow, QuarantineRow, Rows};
use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

use crate::{Config, Error, Manifest};

/// A zip archive, written by hand: name, flags, method (0 stored, 8 deflated), content.
fn zip_of(members: &[(&str, u16, u16, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, flags, method, content) in members {
        let packed = if *method == 8 {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let mut sum = Crc::new();
        sum.update(content);
        let offset = bytes.len() as u32;
        let mut common = Vec::new();
        for half in [20, *flags, *method, 0, 0] {
            common.extend_from_slice(&half.to_le_bytes());
        }
        for word in [sum.sum(), packed.len() as u32, content.len() as u32] {
            common.extend_from_slice(&word.to_le_bytes());
        }
        common.extend_from_slice(&(name.len() as u16).to_le_bytes());
        common.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(b"PK\x03\x04");
        bytes.extend_from_slice(&common);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&packed);
        directory.extend_from_slice(b"PK\x01\x02\x14\x00");
        directory.extend_from_slice(&common);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
    }
    let (begin, n) = (bytes.len() as u32, members.len() as u16);
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&n.to_le_bytes());
    bytes.extend_from_slice(&n.to_le_bytes());
    bytes.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&begin.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

fn tar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in members {
        let mut header = tar::Header::new_ustar();
        // Names as they are, `..` included.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Ingests one file of the given bytes.
fn ingest(name: &str, bytes: &[u8]) -> Result<(Manifest, Vec<FactRow>, Vec<QuarantineRow>), Error> {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join(name), bytes).unwrap();
    let source = serde_json::json!({
        "name": "one", "kind": "mol_instructions", "files": [name], "licence": "none"
    });
    let config: Config =
        serde_json::from_value(serde_json::json!({ "min_length": 3, "source": [source] })).unwrap();
    let out = folder.path().join("tables");
    let manifest = crate::run(&config, folder.path(), &out)?;
    Ok((manifest, FactRow::read(&out)?, QuarantineRow::read(&out)?))
}

fn record(sequence: &str, text: &str, task: &str) -> String {
    let metadata = serde_json::json!({ "task": task, "split": "train" });
    serde_json::json!({ "instruction": "Say.", "input": sequence, "output": text, "metadata": metadata })
        .to_string()
}

#[test]
fn the_zip_of_mol_instructions_is_read_in_place() {
    let function = format!("[{},{}]", record("MKTAY", "Binds zinc.", ""), record("MK1", "Binds iron.", ""));
    let design = format!("[{}]", record("Bind gold.", "```\nMKTAYW\n```", "protein design"));
    let zip = zip_of(&[
        ("Protein/", 0, 0, b""),
        ("Protein/protein_function.json", 0, 8, function.as_bytes()),
        ("__MACOSX/._protein_function.json", 0, 0, b"Mac"),
        ("Protein/README.md", 0, 8, b"not json"),
        ("Protein/protein_design.json", 0, 0, design.as_bytes()),
    ]);
    let (manifest, facts, quarantine) = ingest("all.zip", &zip).unwrap();
    assert_eq!((manifest.files.len(), manifest.files[0].rows_in, manifest.files[0].kept), (1, 3, 2));
    // The task is that of the member's name where the record names none.
    let mut tasks: Vec<&str> = facts.iter().map(|f| f.task.as_str()).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, ["design", "function"]);
    let bad = &quarantine[0];
    assert_eq!((bad.file.as_str(), bad.line), ("all.zip/Protein/protein_function.json", 2));

    let tar = gzip(&tar_of(&[
        ("a/function.json", function.as_bytes()),
        ("a/design.json.gz", &gzip(design.as_bytes())),
    ]));
    let (manifest, facts, quarantine) = ingest("all.tar.gz", &tar).unwrap();
    assert_eq!((manifest.files[0].rows_in, facts.len()), (3, 2));
    assert_eq!(quarantine[0].file, "all.tar.gz/a/function.json");
}

#[test]
fn harmful_and_damaged_archives_are_refused() {
    let good = format!("[{}]", record("MKTAY", "Binds zinc.", "function"));
    let refused = |name: &str, bytes: &[u8], part: &str| {
        let error = ingest(name, bytes).unwrap_err().to_string();
        assert!(
            error.contains(part) && error.contains(name) && error.contains("hint:"),
            "{part} not in {error}"
        );
    };
    let one = |name: &str| zip_of(&[(name, 0, 8, good.as_bytes())]);
    refused("a.zip", &one("../function.json"), "outside of its folder");
    refused("a.zip", &one("/etc/function.json"), "outside of its folder");
    refused("a.tar", &tar_of(&[("../function.json", good.as_bytes())]), "outside of its folder");
    let inner = one("function.json");
    refused("a.zip", &zip_of(&[("function.json", 0, 0, &inner)]), "archive in an archive");
    refused("a.tar", &tar_of(&[("function.json", &inner)]), "archive in an archive");
    refused("a.zip", &zip_of(&[("function.json", 1, 0, good.as_bytes())]), "encrypted");
    refused("a.zip", &zip_of(&[("function.json", 0, 12, good.as_bytes())]), "packed by");
    refused("a.zip", &one("function.txt"), "no member that ends in json");
    refused("a.zip", &inner[..inner.len() - 30], "no readable zip archive");
    let mut damaged = inner;
    damaged[14] ^= 0xff; // the checksum, here and in the directory
    let directory = damaged.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    damaged[directory + 16] ^= 0xff;
    refused("a.zip", &damaged, "checksum");
    let tar = tar_of(&[("function.json", " ".repeat(5_000).as_bytes())]);
    refused("a.tar", &tar[..2_000], "before the member does");
    let bomb = [&b"[\""[..], &vec![b'a'; 4 << 20]].concat();
    refused("a.zip", &zip_of(&[("function.json", 0, 8, &bomb)]), "archive bomb");
    refused("a.json.gz", &gzip(&bomb), "archive bomb");
    refused("a.tar.gz", &gzip(&tar_of(&[("b.json", &bomb)])), "archive bomb");
}
