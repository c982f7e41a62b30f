//! The account of every record: read, kept, merged or quarantined.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use datasets::table::QuarantineRow;
use serde::{Deserialize, Serialize};

use crate::claim;
use crate::config::Config;
use crate::reason::{Fault, Reason};
use crate::{Error, source};

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

/// What became of a record with sound claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// One of its claims is a row.
    Kept,
    /// It only repeats others.
    Merged,
    /// It only repeats others, and something of it in other words.
    MergedNear,
}

/// Shared by all parsers. Rows come in any order; [`Ledger::close`] sorts them.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    read: BTreeMap<(usize, usize), u64>,
    kept_without_rows: BTreeMap<(usize, usize), u64>,
    merged_without_rows: BTreeMap<(usize, usize), u64>,
    /// Members of archives: the line of the archive after which each begins, and its name.
    members: BTreeMap<(usize, usize), BTreeMap<u64, String>>,
    unread: BTreeMap<(usize, usize), Vec<String>>,
    faults: Vec<Entry>,
    failure: Option<Error>,
}

#[derive(Debug)]
struct Entry {
    record: u64,
    fault: Fault,
    raw: String,
    is_part: bool,
}

impl Ledger {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts records read from a file.
    pub(crate) fn read(&self, source: usize, file: usize, n: u64) {
        *self.state().read.entry((source, file)).or_default() += n;
    }

    /// Counts records that are kept though they give no row (terms of an ontology).
    pub(crate) fn keep(&self, source: usize, file: usize, n: u64) {
        *self.state().kept_without_rows.entry((source, file)).or_default() += n;
    }

    /// Counts records that repeat others and would give no row (terms of an ontology).
    pub(crate) fn merge(&self, source: usize, file: usize, n: u64) {
        *self.state().merged_without_rows.entry((source, file)).or_default() += n;
    }

    /// Notes columns that nothing was read of.
    pub(crate) fn unread(&self, source: usize, file: usize, columns: Vec<String>) {
        self.state().unread.insert((source, file), columns);
    }

    /// Notes that the lines of an archive after `begin` are those of a member.
    pub(crate) fn member(&self, source: usize, file: usize, begin: u64, name: &str) {
        self.state().members.entry((source, file)).or_default().insert(begin, name.to_owned());
    }

    /// Notes a record that gives nothing, or a part of a record.
    pub(crate) fn quarantine(&self, record: u64, fault: Fault, raw: &str, is_part: bool) {
        let raw = cut(raw);
        self.state().faults.push(Entry { record, fault, raw, is_part });
    }

    /// Keeps the error that ends the run; of several the first stays.
    pub(crate) fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
    }

    /// The error that ended the run, if one did.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// Draws up the account. `claimed`: records with at least one claim.
    pub(crate) fn close(
        &self,
        config: &Config,
        claimed: &BTreeMap<u64, Fate>,
    ) -> (Vec<FileCounts>, Vec<QuarantineRow>) {
        let mut state = self.state();
        let mut counts: BTreeMap<(usize, usize), FileCounts> = BTreeMap::new();
        for (s, source) in config.source.iter().enumerate() {
            for (f, file) in source::files(source).enumerate() {
                let rows_in = state.read.get(&(s, f)).copied().unwrap_or(0);
                let kept = state.kept_without_rows.get(&(s, f)).copied().unwrap_or(0);
                let merged = state.merged_without_rows.get(&(s, f)).copied().unwrap_or(0);
                let unread = state.unread.get(&(s, f)).cloned().unwrap_or_default();
                let (source, file) = (source.name.clone(), file.to_owned());
                let count =
                    FileCounts { source, file, rows_in, kept, merged, unread, ..FileCounts::default() };
                counts.insert((s, f), count);
            }
        }
        let members = std::mem::take(&mut state.members);
        let named = |file: (usize, usize), line: u64, archive: &str| {
            let member = members.get(&file).and_then(|of| of.range(..line).next_back());
            member.map_or((archive.to_owned(), line), |(begin, name)| {
                (format!("{archive}/{name}"), line - begin)
            })
        };
        state.faults.sort_by(|a, b| {
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
        for (&record, &fate) in claimed {
            let count = counts.entry(at(record).0).or_default();
            *(if fate == Fate::Kept { &mut count.kept } else { &mut count.merged }) += 1;
            count.merged_near += u64::from(fate == Fate::MergedNear);
        }
        let mut rows = Vec::with_capacity(state.faults.len());
        for entry in &state.faults {
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
                detail: entry.fault.detail.clone(),
                raw: entry.raw.clone(),
            });
        }
        (counts.into_values().collect(), rows)
    }
}

/// The beginning of a record's text, as much as the quarantine keeps.
pub(crate) fn cut(raw: &str) -> String {
    raw.chars().take(LONGEST_RAW).collect()
}
