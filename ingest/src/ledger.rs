//! The account of every record: read, kept, merged or quarantined.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use datasets::table::QuarantineRow;
use serde::{Deserialize, Serialize};

use crate::claim::{self, Claim};
use crate::config::Config;
use crate::manifest::Fingerprint;
use crate::reason::{Fault, Reason};
use crate::source;

/// Longest text of a record that the quarantine keeps, characters.
const LONGEST_RAW: usize = 2_000;

/// What became of the records of one file. `rows_in = kept + merged + Σ quarantined`, always.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FileCounts {
    /// Source name.
    pub source: String,
    /// Path relative to the data folder.
    pub file: String,
    /// SHA-256 of the file as it lies there.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// Records read, in the unit of the file: flat-file or FASTA entry, JSON record, CSV line, OBO term.
    pub rows_in: u64,
    /// Records that gave at least one row or are the term of an ontology.
    pub kept: u64,
    /// Records that only repeat what was read before.
    pub merged: u64,
    /// Those of them that say in other words what was kept (`ingest.near_duplicates`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub merged_near: u64,
    /// Records that gave nothing, by reason.
    pub quarantined: BTreeMap<Reason, u64>,
    /// Parts of kept records that gave nothing (a one-word comment of a flat-file entry), by reason.
    pub parts_quarantined: BTreeMap<Reason, u64>,
    /// Columns of a table that nothing was read of: what a newer release has added, or what no table of ours holds.
    pub unread: Vec<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What parsers and plans note of records, in any order; [`Ledger::close`] sorts it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    notes: Mutex<Notes>,
}

/// What is in a ledger: as a file, what became of the records of some files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// By the place at which the records of a file begin.
    files: BTreeMap<u64, Tally>,
    faults: Vec<Entry>,
    /// The tables that something was claimed for ([`Claim::table`]).
    tables: BTreeSet<String>,
}

/// What became of the records of one file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tally {
    read: u64,
    kept: u64,
    merged: u64,
    /// Those of them that were merged into other words.
    merged_near: u64,
    /// Members of an archive: the line of the archive after which each begins, and its name.
    members: BTreeMap<u64, String>,
    unread: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    record: u64,
    fault: Fault,
    raw: String,
    is_part: bool,
}

impl Ledger {
    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(&self, source: usize, file: usize, note: impl FnOnce(&mut Tally)) {
        note(self.notes().files.entry(claim::record(source, file, 0)).or_default());
    }

    /// Counts records read from a file.
    pub(crate) fn read(&self, source: usize, file: usize, n: u64) {
        self.tally(source, file, |of| of.read += n);
    }

    /// Counts records that gave a row, or are of use without one (terms of an ontology, entries of a companion).
    pub(crate) fn keep(&self, source: usize, file: usize, n: u64) {
        self.tally(source, file, |of| of.kept += n);
    }

    /// Counts records that only repeat others, `n_near` of them something in other words.
    pub(crate) fn merge(&self, source: usize, file: usize, n: u64, n_near: u64) {
        self.tally(source, file, |of| {
            of.merged += n;
            of.merged_near += n_near;
        });
    }

    /// Notes columns that nothing was read of.
    pub(crate) fn unread(&self, source: usize, file: usize, columns: Vec<String>) {
        self.tally(source, file, |of| of.unread = columns);
    }

    /// Notes that the lines of an archive after `begin` are those of a member.
    pub(crate) fn member(&self, source: usize, file: usize, begin: u64, name: &str) {
        self.tally(source, file, |of| drop(of.members.insert(begin, name.to_owned())));
    }

    /// Notes what is claimed.
    pub(crate) fn claimed(&self, claims: &[Claim]) {
        let tables: BTreeSet<&str> = claims.iter().filter_map(Claim::table).collect();
        self.notes().tables.extend(tables.into_iter().map(str::to_owned));
    }

    /// The tables that something was claimed for.
    pub(crate) fn tables(&self) -> BTreeSet<String> {
        self.notes().tables.clone()
    }

    /// Notes a record that gives nothing, or a part of a record.
    pub(crate) fn quarantine(&self, record: u64, fault: Fault, raw: &str, is_part: bool) {
        let raw = cut(raw);
        self.notes().faults.push(Entry { record, fault, raw, is_part });
    }

    /// What was noted; the ledger is empty then.
    pub(crate) fn take(&self) -> Notes {
        std::mem::take(&mut *self.notes())
    }

    /// Adds what was noted elsewhere.
    pub(crate) fn add(&self, other: Notes) {
        let mut notes = self.notes();
        notes.faults.extend(other.faults);
        notes.tables.extend(other.tables);
        for (file, Tally { read, kept, merged, merged_near, members, unread }) in other.files {
            let of = notes.files.entry(file).or_default();
            of.read += read;
            of.kept += kept;
            of.merged += merged;
            of.merged_near += merged_near;
            of.members.extend(members);
            of.unread.extend(unread);
        }
    }

    /// Draws up the account. `inputs`: of every source its files in reading order.
    pub(crate) fn close(
        &self,
        config: &Config,
        inputs: &[Vec<Fingerprint>],
    ) -> (Vec<FileCounts>, Vec<QuarantineRow>) {
        let Notes { mut files, mut faults, .. } = self.take();
        let mut counts: BTreeMap<(usize, usize), FileCounts> = BTreeMap::new();
        let mut members: BTreeMap<(usize, usize), BTreeMap<u64, String>> = BTreeMap::new();
        for (s, (source, inputs)) in config.source.iter().zip(inputs).enumerate() {
            for (f, (file, input)) in source::files(source).zip(inputs).enumerate() {
                let tally = files.remove(&claim::record(s, f, 0)).unwrap_or_default();
                let Tally { read: rows_in, kept, merged, merged_near, members: of_archive, unread } = tally;
                let count = FileCounts {
                    source: source.name.clone(),
                    file: file.to_owned(),
                    sha256: input.sha256.clone(),
                    bytes: input.bytes,
                    rows_in,
                    kept,
                    merged,
                    merged_near,
                    unread,
                    ..FileCounts::default()
                };
                counts.insert((s, f), count);
                members.insert((s, f), of_archive);
            }
        }
        let named = |file: (usize, usize), line: u64, archive: &str| {
            let member = members.get(&file).and_then(|of| of.range(..line).next_back());
            member.map_or((archive.to_owned(), line), |(begin, name)| {
                (format!("{archive}/{name}"), line - begin)
            })
        };
        faults.sort_by(|a, b| {
            (a.record, a.is_part, a.fault.reason, &a.fault.detail).cmp(&(
                b.record,
                b.is_part,
                b.fault.reason,
                &b.fault.detail,
            ))
        });
        let at = |record: u64| {
            let (s, f, line) = claim::place(record);
            ((s, f), line)
        };
        let mut rows = Vec::with_capacity(faults.len());
        for entry in faults {
            let (place, line) = at(entry.record);
            let count = counts.entry(place).or_default();
            let (file, line) = named(place, line, &count.file);
            let by_reason = if entry.is_part { &mut count.parts_quarantined } else { &mut count.quarantined };
            *by_reason.entry(entry.fault.reason).or_default() += 1;
            rows.push(QuarantineRow {
                source: count.source.clone(),
                file,
                line,
                reason: entry.fault.reason.name().into(),
                detail: entry.fault.detail,
                raw: entry.raw,
            });
        }
        (counts.into_values().collect(), rows)
    }
}

/// The beginning of a record's text, as much as the quarantine keeps.
pub(crate) fn cut(raw: &str) -> String {
    if raw.len() <= LONGEST_RAW {
        return raw.to_owned();
    }
    let end = raw.char_indices().nth(LONGEST_RAW).map_or(raw.len(), |(at, _)| at);
    raw[..end].to_owned()
}
