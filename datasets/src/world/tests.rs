//! The files are read back with other code than wrote them, and counted again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use serde_json::Value;

use super::*;
use crate::residue::{self, SequenceError};

const CONFIG: Config = Config { seed: 7, n_proteins: 149 };

/// Every file of the folder, decompressed.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            let mut file = fs_err::File::open(&path).unwrap();
            if name.ends_with(".gz") {
                flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).unwrap();
            } else {
                file.read_to_end(&mut bytes).unwrap();
            }
            all.insert(name, bytes);
        }
    }
    all
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (truth, first) = world();
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(write(&CONFIG, a.path()).unwrap() == *truth);
    write(&Config { seed: 8, ..CONFIG }, b.path()).unwrap();
    let (again, other) = (files(a.path()), files(b.path()));
    for (name, bytes) in first {
        assert!(*bytes == again[name], "{name} has other bytes the second time");
        let is_same = other.get(name) == Some(bytes);
        assert!(!is_same || name.ends_with(".obo"), "{name} does not depend on the seed");
    }
    // and gzip holds no time of writing
    assert_eq!(fs_err::read(a.path().join(annotation::GAF)).unwrap()[4..8], [0; 4]);
    let json = fs_err::read_to_string(a.path().join("truth.json")).unwrap();
    assert!(serde_json::from_str::<Truth>(&json).unwrap() == *truth);
}

/// What a reader makes of a row: `None` to keep it, else `merged` or the reason why not.
type Verdict = Option<&'static str>;

fn sequence_fault(sequence: &str) -> Verdict {
    match residue::normalise(sequence) {
        Err(SequenceError::Empty) => Some("empty_sequence"),
        Err(SequenceError::Letter { .. }) => Some("bad_sequence"),
        Ok(s) if s.len() < MIN_LENGTH => Some("too_short"),
        Ok(s) if s.len() > MAX_LENGTH => Some("too_long"),
        Ok(_) => None,
    }
}

fn byte_fault(row: &[u8]) -> Result<&str, &'static str> {
    if row.len() > 8 << 20 {
        return Err("line_too_long");
    }
    let text = std::str::from_utf8(row).map_err(|_| "not_utf8")?;
    if text.contains('\0') { Err("nul_byte") } else { Ok(text) }
}

/// First come, first served: the same id and text again is a repeat, the same id with another sequence a conflict.
#[derive(Default)]
struct Seen(BTreeMap<String, (String, String)>);

impl Seen {
    fn check(&mut self, id: &str, sequence: &str, rest: &str) -> Verdict {
        let now = (residue::normalise(sequence).unwrap(), rest.to_owned());
        match self.0.get(id) {
            Some(before) if *before == now => Some("merged"),
            Some(before) if before.0 != now.0 => Some("id_conflict"),
            _ => {
                self.0.insert(id.to_owned(), now);
                None
            }
        }
    }
}

fn recount<'a>(
    truth: &Truth,
    file: &str,
    rows: impl Iterator<Item = &'a [u8]>,
    mut judge: impl FnMut(&str) -> Verdict,
) {
    let (mut total, mut merged, mut quarantine) = (0, 0, BTreeMap::<String, u64>::new());
    for row in rows {
        total += 1;
        match byte_fault(row).map_or_else(Some, &mut judge) {
            None => {}
            Some("merged") => merged += 1,
            Some(reason) => *quarantine.entry(reason.to_owned()).or_default() += 1,
        }
    }
    assert_eq!((total, merged), (truth.rows[file], truth.merged[file]), "{file}");
    assert_eq!(quarantine, truth.quarantine[file], "{file}");
}

fn lines(bytes: &[u8], header: usize) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.skip(header).filter(|line| !line.is_empty() && line[0] != b'!')
}

/// One world for all tests.
fn world() -> &'static (Truth, BTreeMap<String, Vec<u8>>) {
    static WORLD: std::sync::OnceLock<(Truth, BTreeMap<String, Vec<u8>>)> = std::sync::OnceLock::new();
    WORLD.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let truth = write(&CONFIG, dir.path()).unwrap();
        (truth, files(dir.path()))
    })
}

#[test]
fn planted_rows_are_found_again() {
    let (truth, files) = world();
    let file = |name: &str| files[name].as_slice();

    let mut seen = Seen::default();
    recount(truth, ss::PISCES, lines(file(ss::PISCES), 1), |row| {
        let cells: Vec<&str> = row.split(',').collect();
        let &[id, _, sequence, q8, _, ..] = cells.as_slice() else { return Some("malformed") };
        let bad = |l: u8| !b"HGIEBSTC".contains(&l);
        let label = if cells.len() != 11 {
            Some("malformed")
        } else if let Some(fault) = sequence_fault(sequence) {
            Some(fault)
        } else if q8.len() != sequence.len() {
            Some("label_length")
        } else {
            q8.bytes().any(bad).then_some("bad_label")
        };
        label.or_else(|| seen.check(id, sequence, q8))
    });

    let mut seen = Seen::default();
    recount(truth, ppi::DICTIONARY, lines(file(ppi::DICTIONARY), 0), |row| {
        let Some((id, sequence)) = row.split_once('\t') else { return Some("malformed") };
        sequence_fault(sequence).or_else(|| seen.check(id, sequence, ""))
    });
    let known = seen.0;
    recount_pairs(truth, file(ppi::PAIRS), &known.keys().cloned().collect());

    let mut seen = Seen::default();
    recount(truth, plddt::FILE, lines(file(plddt::FILE), 0), |row| {
        let Ok(record) = serde_json::from_str::<Value>(&row.replace("NaN", "null")) else {
            return Some("malformed");
        };
        let sequence = record["uniprotSequence"].as_str().unwrap();
        let value = match &record["globalMetricValue"] {
            Value::Null => Some("missing_value"),
            Value::Number(x) if !(0.0..=100.0).contains(&x.as_f64().unwrap()) => Some("out_of_range"),
            Value::Number(_) => None,
            _ => Some("malformed"),
        };
        value
            .or_else(|| sequence_fault(sequence))
            .or_else(|| seen.check(record["uniprotAccession"].as_str().unwrap(), sequence, ""))
    });

    for (name, bytes) in files.iter().filter(|(name, _)| name.contains("mol_instructions")) {
        recount_records(truth, name, bytes);
    }
    recount_mutations(truth, file(stability::S2648));
    recount_chains(truth, file(cath::CHAINS));
    recount_entries(truth, file(swissprot::FILE));
    let annotated: BTreeSet<String> = known.into_keys().chain(accessions(file(swissprot::FILE))).collect();
    for (name, header) in [(annotation::GAF, 0), (annotation::QUICKGO, 1)] {
        recount_annotations(truth, name, lines(file(name), header), &annotated);
    }
}

fn recount_pairs(truth: &Truth, bytes: &[u8], known: &BTreeSet<String>) {
    let parse = |row: &str| {
        let cells: Vec<&str> = row.split('\t').collect();
        let &[a, b, label @ ("0" | "1")] = cells.as_slice() else { return None };
        let pair = if a < b { (a, b) } else { (b, a) };
        Some((pair.0.to_owned(), pair.1.to_owned(), label == "1"))
    };
    let all: BTreeSet<(String, String, bool)> =
        lines(bytes, 0).filter_map(|row| byte_fault(row).ok().and_then(parse)).collect();
    let mut seen = BTreeSet::new();
    let mut balance = 0;
    recount(truth, ppi::PAIRS, lines(bytes, 0), |row| {
        let Some((a, b, label)) = parse(row) else { return Some("malformed") };
        if a == b {
            return Some("self_pair");
        }
        if !known.contains(&a) || !known.contains(&b) {
            return Some("unknown_protein");
        }
        if all.contains(&(a.clone(), b.clone(), !label)) {
            return Some("label_conflict");
        }
        if !seen.insert((a, b)) {
            return Some("merged");
        }
        balance += if label { 1 } else { -1 };
        None
    });
    assert_eq!(balance, 0, "as many partners as strangers");
}

fn recount_records(truth: &Truth, file: &str, bytes: &[u8]) {
    let records: Vec<Value> = serde_json::from_slice(bytes).unwrap();
    let rows: Vec<String> = records.iter().map(Value::to_string).collect();
    let mut seen = Seen::default();
    recount(truth, file, rows.iter().map(String::as_bytes), |row| {
        let record: Value = serde_json::from_str(row).unwrap();
        let text = |key: &str| record.get(key).and_then(Value::as_str);
        let (Some(_), Some(input), Some(output)) = (text("instruction"), text("input"), text("output"))
        else {
            return Some("malformed");
        };
        let design = record["metadata"]["task"] == "protein design";
        let (fenced, said) = if design { (output, input) } else { (input, output) };
        let sequence = fenced.trim_matches(['`', '\n']);
        let id = record["metadata"]["protein_accession"].as_str().unwrap();
        sequence_fault(sequence).or_else(|| match said.split_whitespace().count() {
            0 => Some("empty_text"),
            1 => Some("single_word"),
            _ => seen.check(id, sequence, said),
        })
    });
}

fn recount_mutations(truth: &Truth, bytes: &[u8]) {
    let mut seen = BTreeSet::new();
    recount(truth, stability::S2648, lines(bytes, 1), |row| {
        let cells: Vec<&str> = row.split(',').collect();
        let &[_, wild, mutant, ddg, _, info, pos] = cells.as_slice() else { return Some("malformed") };
        let at: usize = pos.parse().unwrap();
        let (from, to) = (info.as_bytes()[0], *info.as_bytes().last().unwrap());
        if ddg.is_empty() || ddg == "nan" {
            return Some("missing_value");
        }
        let Ok(ddg) = ddg.parse::<f64>() else { return Some("malformed") };
        if ddg.abs() > 25.0 {
            return Some("out_of_range");
        }
        if from == to {
            return Some("bad_mutation");
        }
        let mut expected = wild.as_bytes().to_vec();
        if expected.get(at) != Some(&from) {
            return Some("mutation_mismatch");
        }
        expected[at] = to;
        if expected != mutant.as_bytes() {
            return Some("mutation_mismatch");
        }
        (!seen.insert((wild.to_owned(), at, to))).then_some("merged")
    });
}

fn recount_chains(truth: &Truth, bytes: &[u8]) {
    let mut seen = Seen::default();
    recount(truth, cath::CHAINS, lines(bytes, 0), |row| {
        // as f64 values that JSON has no words for
        let row = row.replace("NaN", "null").replace("Infinity", "\"infinity\"");
        let Ok(record) = serde_json::from_str::<Value>(&row) else { return Some("malformed") };
        let Some(sequence) = record["seq"].as_str() else { return Some("malformed") };
        if let Some(fault) = sequence_fault(sequence) {
            return Some(fault);
        }
        let atoms: Vec<&Vec<Value>> =
            ["N", "CA", "C", "O"].iter().map(|a| record["coords"][a].as_array().unwrap()).collect();
        let seen_ca = atoms[1].iter().any(|p| p[0].is_number());
        let shape = atoms.iter().all(|a| a.len() == sequence.len());
        if !shape || !seen_ca || row.contains("infinity") {
            return Some("bad_coordinates");
        }
        seen.check(record["name"].as_str().unwrap(), sequence, "")
    });
}

/// Entries of a flat file, each with its `//` line.
fn entries(bytes: &[u8]) -> Vec<&[u8]> {
    let mut entries = Vec::new();
    let mut start = 0;
    for at in 0..bytes.len() {
        if bytes[at..].starts_with(b"\n//\n") {
            entries.push(&bytes[start..at + 4]);
            start = at + 4;
        }
    }
    assert_eq!(start, bytes.len(), "the last entry ends in //");
    entries
}

fn entry_parts(entry: &str) -> (Option<&str>, Option<String>) {
    let accession = entry.lines().find_map(|l| l.strip_prefix("AC   ")).and_then(|l| l.split(';').next());
    let has_block = entry.contains("\nSQ   ");
    let sequence = entry.lines().filter(|l| l.starts_with("     ")).collect::<String>().replace(' ', "");
    (accession, has_block.then_some(sequence))
}

fn accessions(bytes: &[u8]) -> Vec<String> {
    let texts = entries(bytes).into_iter().filter_map(|e| byte_fault(e).ok());
    let good = texts.filter_map(|entry| match entry_parts(entry) {
        (Some(id), Some(sequence)) if sequence_fault(&sequence).is_none() => Some(id.to_owned()),
        _ => None,
    });
    good.collect()
}

fn recount_entries(truth: &Truth, bytes: &[u8]) {
    let mut seen = Seen::default();
    let (mut evidence, mut single) = (0, 0);
    recount(truth, swissprot::FILE, entries(bytes).into_iter(), |entry| {
        let (Some(accession), Some(sequence)) = entry_parts(entry) else { return Some("malformed") };
        assert!(entry.lines().all(|l| l.len() <= 75 || !l.starts_with("CC")), "{entry}");
        let verdict = sequence_fault(&sequence).or_else(|| seen.check(accession, &sequence, entry));
        if verdict.is_none() {
            evidence += entry.matches("ECO:").count() as u64;
            single += entry.matches("SUBUNIT: Monomer.").count() as u64;
        }
        verdict
    });
    assert_eq!(evidence, truth.evidence_codes[swissprot::FILE]);
    assert!(single >= truth.single_word[swissprot::FILE], "{single}");
}

fn recount_annotations<'a>(
    truth: &Truth,
    name: &str,
    rows: impl Iterator<Item = &'a [u8]>,
    annotated: &BTreeSet<String>,
) {
    let ontology = Ontology::new();
    let mut seen = BTreeSet::new();
    let columns = if name == annotation::GAF { 17 } else { 16 };
    recount(truth, name, rows, |row| {
        let cells: Vec<&str> = row.split('\t').collect();
        if cells.len() != columns {
            return Some("malformed");
        }
        let alternative = ontology.terms.values().find(|t| t.alt_ids.iter().any(|alt| alt == cells[4]));
        let Some(term) = ontology.terms.get(cells[4]).or(alternative) else { return Some("unknown_term") };
        if cells[3].starts_with("NOT") {
            return Some("negated");
        }
        if term.obsolete && term.replaced_by.is_none() {
            return Some("obsolete_term");
        }
        if !annotated.contains(cells[1]) {
            return Some("no_sequence");
        }
        (!seen.insert(row.to_owned())).then_some("merged")
    });
}

#[test]
fn motifs_decide_the_annotations() {
    let (truth, files) = world();
    let ontology = Ontology::new();
    let mut sequences: BTreeMap<String, String> = BTreeMap::new();
    for entry in entries(&files[swissprot::FILE]).into_iter().filter_map(|e| byte_fault(e).ok()) {
        if let (Some(id), Some(sequence)) = entry_parts(entry) {
            sequences.entry(id.to_owned()).or_insert(sequence);
        }
    }
    let mut terms = BTreeMap::<&str, BTreeSet<&str>>::new();
    for row in lines(&files[annotation::GAF], 0).filter_map(|row| byte_fault(row).ok()) {
        let cells: Vec<&str> = row.split('\t').collect();
        if cells.len() != 17 || cells[3].starts_with("NOT") || !sequences.contains_key(cells[1]) {
            continue;
        }
        if cells[4] == annotation::UNKNOWN || ontology.obsolete(false).iter().any(|old| old.id == cells[4]) {
            continue;
        }
        terms.entry(cells[1]).or_default().insert(cells[4]);
        if let Some(motif) = truth.terms.iter().position(|motif| motif.terms[0] == cells[4]) {
            assert!(motif::MOTIFS[motif].is_in(&sequences[cells[1]]), "{row}");
        }
    }
    assert!(terms.len() > 20, "{}", terms.len());
    for (accession, said) in terms {
        for (motif, leaves) in motif::MOTIFS.iter().zip(&ontology.leaves) {
            if !motif.is_in(&sequences[accession]) {
                continue;
            }
            for leaf in leaves {
                let term = &ontology.terms[leaf];
                let forerunner =
                    ontology.obsolete(true).into_iter().find(|old| old.replaced_by.as_ref() == Some(leaf));
                let mut names =
                    [leaf, &term.is_a[0]].into_iter().chain(&term.alt_ids).chain(forerunner.map(|t| &t.id));
                assert!(names.any(|id| said.contains(id.as_str())), "{accession} lacks {leaf}");
            }
        }
    }
}

#[test]
fn reverse_mutations_have_the_opposite_sign() {
    let (_, files) = world();
    let read = |name: &str| -> Vec<Vec<String>> {
        let rows = lines(&files[name], 1).map(|row| std::str::from_utf8(row).unwrap());
        rows.map(|row| row.split(',').map(String::from).collect()).collect()
    };
    let (direct, reverse) = (read(stability::SSYM_DIRECT), read(stability::SSYM_REVERSE));
    assert!(direct.len() > 20 && direct.len() == reverse.len());
    let number = |row: &Vec<String>| row[3].parse::<f64>().unwrap();
    for (d, r) in direct.iter().zip(&reverse) {
        assert_eq!((&d[1], &d[2]), (&r[2], &r[1]));
        assert_eq!(number(d), -number(r));
    }
    let mean = direct.iter().map(number).sum::<f64>() / direct.len() as f64;
    assert!(mean < -0.3, "negative = destabilising, and most mutations are: mean {mean}");
    let fireprot: Vec<f64> = read_fireprot(&files[stability::FIREPROT]);
    let mean = fireprot.iter().sum::<f64>() / fireprot.len() as f64;
    assert!(mean > 0.3, "positive = destabilising: mean {mean}");
}

fn read_fireprot(bytes: &[u8]) -> Vec<f64> {
    let rows = lines(bytes, 1).map(|row| std::str::from_utf8(row).unwrap().split(',').collect::<Vec<_>>());
    let complete = rows.filter(|cells| cells.len() == 44);
    let mut values = Vec::new();
    for cells in complete {
        let (wild, at, value) = (cells[8], cells[39].parse::<usize>().unwrap(), cells[10].parse::<f64>());
        if value.is_ok() && cells[40][at..=at] == *wild {
            // 1-based in the full sequence, 0-based in that of the structure
            assert_eq!(cells[36][cells[7].parse::<usize>().unwrap() - 1..][..1], *wild);
        }
        values.extend(value.ok().filter(|v| v.abs() < 25.0));
    }
    values
}

#[test]
fn too_small_a_world_says_how_large_it_must_be() {
    let dir = tempfile::tempdir().unwrap();
    let error = write(&Config { seed: 7, n_proteins: 11 }, dir.path()).unwrap_err().to_string();
    assert!(error.contains("n_proteins is 11") && error.contains("hint:"), "{error}");
}
