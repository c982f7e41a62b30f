//! Secondary structure as FASTA (FLIP, of NetSurfP-2): sequences, and as companions their labels `H E C` and their masks
//! (`1` resolved) under the same ids. Q8 is unknown. `SET=test` in the header of the labels makes the protein Test;
//! `VALIDATION` is not followed, since the split is by cluster.

use std::collections::{BTreeMap, BTreeSet};

use indicatif::ProgressBar;

use crate::Error;
use crate::claim;
use crate::fasta::{Entries, Entry};
use crate::ledger::Ledger;
use crate::reader::{Input, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, ss};

/// The companions by id: labels, then mask.
#[derive(Debug, Default)]
struct Labels {
    columns: [BTreeMap<String, Entry>; 2],
}

impl Labels {
    /// Reads the companions. Of entries with the same id the first stays.
    ///
    /// # Errors
    /// Faults of a whole file.
    fn read(context: &Context, ledger: &Ledger) -> Result<Self, Error> {
        let mut labels = Self::default();
        for (file, (path, column)) in context.companions.iter().zip(&mut labels.columns).enumerate() {
            let input = Input::open(path, ProgressBar::hidden())?;
            let mut entries = Entries::open(Lines::new(input))?;
            let mut n = 0;
            while let Some(mut entry) = entries.next()? {
                n += 1;
                let id = entry.id().to_owned();
                let fault = match entry.fault.take() {
                    None if id.is_empty() => Some(Fault::new(Reason::Malformed, "the id is empty")),
                    None if column.contains_key(&id) => {
                        Some(Fault::new(Reason::IdConflict, format!("{id:?} is in the file twice")))
                    }
                    fault => fault,
                };
                if let Some(fault) = fault {
                    let record = claim::record(context.index, file, entry.line);
                    ledger.quarantine(record, fault, &entry.raw(), false);
                } else {
                    column.insert(id, entry);
                }
            }
            ledger.read(context.index, file, n);
        }
        Ok(labels)
    }
}

/// Reads the sequences. Entries of the companions are kept when a sequence has their id.
pub(crate) fn read(context: &Context, lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let labels = Labels::read(context, &sink.ledger)?;
    let (mut entries, mut seen) = (Entries::open(lines)?, BTreeSet::new());
    let next = || {
        let entry = entries.next()?;
        seen.extend(entry.iter().filter(|entry| entry.fault.is_none()).map(|entry| entry.id().to_owned()));
        Ok(entry)
    };
    sink.records(next, |entry| parse(context, &labels, entry))?;
    for (file, column) in labels.columns.iter().enumerate() {
        let (used, unused): (Vec<&Entry>, Vec<&Entry>) =
            column.values().partition(|entry| seen.contains(entry.id()));
        sink.ledger.keep(context.index, file, used.len() as u64);
        for entry in unused {
            let fault = Fault::new(Reason::NoSequence, format!("no usable sequence for {:?}", entry.id()));
            let record = claim::record(context.index, file, entry.line);
            sink.ledger.quarantine(record, fault, &entry.raw(), false);
        }
    }
    Ok(())
}

fn parse(context: &Context, labels: &Labels, entry: &Entry) -> Result<Parsed, Fault> {
    let id = entry.id();
    if id.is_empty() {
        return Err(Fault::new(Reason::Malformed, "the id is empty"));
    }
    let [labels, masks] = &labels.columns;
    let missing = |what: &str| Fault::new(Reason::MissingValue, format!("no usable {what} for {id:?}"));
    let labels = labels.get(id).ok_or_else(|| missing("labels"))?;
    let mask = masks.get(id).ok_or_else(|| missing("mask"))?;
    if let Some((at, c)) = mask.text.chars().enumerate().find(|(_, c)| !matches!(c, '0' | '1')) {
        return Err(Fault::new(Reason::BadLabel, format!("mask: {c:?} at position {}", at + 1)));
    }
    let record = ss::Record {
        id: id.into(),
        sequence: entry.text.clone(),
        q8: None,
        q3: Some(labels.text.clone()),
        mask: Some(mask.text.clone()),
    };
    let mut parsed = ss::claim(context, record)?;
    let is_test = labels.header.split_whitespace().any(|word| word.eq_ignore_ascii_case("SET=test"));
    for claim in &mut parsed.claims {
        claim.test = is_test;
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use datasets::table::{ProteinRow, Rows, Split, SsRow};

    use super::*;
    use crate::{Config, FileCounts};

    const SEQUENCES: &str = ">1aaa-A of a beast\r\nmkay\r\n\r\nwlta\r\n>2bbb-B\nMKTWYV-LLQ\n>3ccc-C\nMKTWYV\n\
        >4ddd-D\nMKTWYV\n>5eee-E\n>1aaa-A\nMKAYWLTA\n>1aaa-A\nGGGGPPPP\n>6fff-F\nMKTWYV\n>7ggg-G\nMKTWYV\n\
        >8hhh-H\nGGSWPCDEF\n>\nMKTWYV\n";
    const LABELS: &str = ">1aaa-A SET=train VALIDATION=True\r\nCCHH\r\nHHEC\r\n>2bbb-B SET=train\nHHHHHCCEE?\n\
        >2bbb-B\nCCCCCCCCCC\n>4ddd-D\nCCCCC\n>5eee-E\n>6fff-F\nCCCHHh\n>7ggg-G\nCCCCCC\n\
        >8hhh-H SET=test VALIDATION=False\nCCCEEECCC\n>9zzz-Z\nCCC\n";
    const MASK: &str = ">1aaa-A\r\n1111\r\n1110\r\n>2bbb-B\n1111111111\n>3ccc-C\n111111\n>4ddd-D\n111111\n>5eee-E\n\
        >6fff-F\n111111\n>7ggg-G\n111211\n>8hhh-H\n011111111";

    fn config(companion: &[&str]) -> Config {
        let source = serde_json::json!({
            "name": "flip", "kind": "ss_fasta", "files": ["s.fasta"], "companion": companion, "licence": "none"
        });
        serde_json::from_value(serde_json::json!({ "min_length": 3, "source": [source] })).unwrap()
    }

    type Ingested = (Vec<SsRow>, Vec<ProteinRow>, Vec<FileCounts>);

    fn ingest(labels: &str) -> Result<Ingested, Error> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("s.fasta", SEQUENCES), ("l.fasta", labels), ("m.fasta", MASK)] {
            fs_err::write(folder.path().join(name), text).unwrap();
        }
        let out = folder.path().join("tables");
        let manifest = crate::run(&config(&["l.fasta", "m.fasta"]), folder.path(), &out)?;
        Ok((SsRow::read(&out)?, ProteinRow::read(&out)?, manifest.files))
    }

    #[test]
    fn every_entry_of_the_three_files_is_accounted_for() {
        let (rows, proteins, files) = ingest(LABELS).unwrap();
        let row = |id: &str| {
            let row = rows.iter().find(|r| r.id == id).unwrap();
            let protein = proteins.iter().find(|p| p.protein_id == row.protein_id).unwrap();
            assert_eq!(row.q8, "?".repeat(protein.sequence.len()));
            (protein.sequence.as_str(), row.q3.as_str(), row.mask.as_str(), protein.split == Split::Test)
        };
        assert_eq!(rows.len(), 3);
        let (sequence, q3, mask, _) = row("1aaa-A");
        assert_eq!((sequence, q3, mask), ("MKAYWLTA", "CCHHHHEC", "11111110"));
        let (sequence, q3, mask, _) = row("2bbb-B");
        assert_eq!((sequence, q3, mask), ("MKTWYVLLQ", "HHHHHCEE?", "111111110"));
        assert_eq!(row("8hhh-H"), ("GGSWPCDEF", "CCCEEECCC", "011111111", true));

        let counts = |at: usize| (files[at].rows_in, files[at].kept, files[at].merged);
        assert_eq!([0, 1, 2].map(counts), [(9, 7, 0), (8, 8, 0), (11, 3, 1)]);
        let reasons = |at: usize| -> Vec<(&str, u64)> {
            files[at].quarantined.iter().map(|(reason, &n)| (reason.name(), n)).collect()
        };
        assert_eq!(reasons(0), [("no_sequence", 1), ("id_conflict", 1)]);
        assert!(reasons(1).is_empty(), "{:?}", reasons(1));
        let labels = [("label_length", 1), ("bad_label", 2), ("missing_value", 1), ("id_conflict", 1)];
        assert_eq!(reasons(2)[..2], [("malformed", 1), ("empty_sequence", 1)]);
        assert_eq!(reasons(2)[2..], labels);
    }

    #[test]
    fn faults_of_whole_files_name_file_place_and_cure() {
        let error = ingest("\nCCHH\n").unwrap_err().to_string();
        assert!(error.contains("l.fasta, line 2") && error.contains("hint:"), "{error}");
        let error = config(&["l.fasta"]).validate().unwrap_err().to_string();
        assert!(error.contains("labels, then mask"), "{error}");
    }
}
