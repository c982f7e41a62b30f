//! Everything that was planted, so that whoever reads the files can be checked exactly.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::universe::Universe;
use crate::residue;

/// Sequences below this length are planted as `too_short`.
pub const MIN_LENGTH: usize = 20;
/// Sequences above this length are planted as `too_long`.
pub const MAX_LENGTH: usize = 1_000;

/// What `truth.json` holds. Files are named relative to the data folder; reasons are those of the ingest manifest;
/// proteins are named by [`crate::residue::protein_id`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// Seed that the files were drawn from.
    pub seed: u64,
    /// Distinct proteins of the universe (mutants and faulty rows not counted).
    pub n_proteins: usize,
    /// Rows of every file: lines, records or flat-file entries.
    pub rows: BTreeMap<String, u64>,
    /// Rows that repeat an earlier row of their file.
    pub merged: BTreeMap<String, u64>,
    /// Bad rows by file and reason. Rows = kept + merged + quarantined.
    pub quarantine: BTreeMap<String, BTreeMap<String, u64>>,
    /// What looks odd but is fine, by file and kind: `lower_case`, `gapped`, `nonstandard`, `crlf`, `bom`,
    /// `gzip_members`, `alt_id`, `replaced_term`, `missing_atoms`, `test_in_train` (the row's own metadata says test).
    pub odd: BTreeMap<String, BTreeMap<String, u64>>,
    /// Answers of one word, by file. In flat-file entries they are facts of a kept entry.
    pub single_word: BTreeMap<String, u64>,
    /// Evidence codes (`ECO:…`) written, by file, repeats and bad rows not counted.
    pub evidence_codes: BTreeMap<String, u64>,
    /// Files that hold each protein of the universe in a good row.
    pub found_in: BTreeMap<String, BTreeSet<String>>,
    /// Families with more than one protein: number → proteins.
    pub families: BTreeMap<usize, BTreeSet<String>>,
    /// Fraction of residues that each protein shares with the founder of its family (1 for founders), 3 decimals.
    pub identity: BTreeMap<String, f64>,
    /// Pairs of one family that differ in at most 3 % of their residues.
    pub near_duplicates: BTreeSet<(String, String)>,
    /// What stands on both sides of the fence.
    pub leaks: Leaks,
    /// Motifs of every protein, indices into `terms`.
    pub motifs: BTreeMap<String, Vec<usize>>,
    /// Pattern and terms of every motif: the rule that decides the annotations.
    pub terms: Vec<MotifTruth>,
}

/// Proteins of published test sets that train sources know.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaks {
    /// Proteins of a test file that a train file holds too.
    pub exact: BTreeSet<String>,
    /// Proteins of a test file that have another member of their family in a train file.
    pub homolog: BTreeSet<String>,
}

/// One motif.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MotifTruth {
    /// Residues, degenerate positions in brackets, `x` for any.
    pub pattern: String,
    /// Function, process and component that it decides.
    pub terms: [String; 3],
}

impl Truth {
    /// Good rows of a file: rows − merged − quarantined.
    pub fn kept(&self, file: &str) -> u64 {
        let bad: u64 = self.quarantine.get(file).map_or(0, |reasons| reasons.values().sum());
        self.rows.get(file).copied().unwrap_or(0) - self.merged.get(file).copied().unwrap_or(0) - bad
    }

    /// Notes that a good row of `file` holds the protein.
    pub(super) fn hold(&mut self, file: &str, sequence: &str) {
        let protein = residue::protein_id(sequence);
        self.found_in.entry(protein).or_default().insert(file.to_owned());
    }

    /// Counts something odd but fine.
    pub(super) fn note_odd(&mut self, file: &str, kind: &str) {
        *self.odd.entry(file.to_owned()).or_default().entry(kind.to_owned()).or_default() += 1;
    }

    /// Families, near duplicates, motifs and leaks, once all files are written. `test_files` have the role `test`;
    /// `silent` files (unlabelled, or of a later stage) belong to neither side.
    pub(super) fn relate(&mut self, universe: &Universe, test_files: &[&str], silent: &[&str]) {
        let id = |at: usize| residue::protein_id(universe.members[at].sequence());
        let mut families: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, member) in universe.members.iter().enumerate() {
            families.entry(member.family).or_default().push(at);
            self.motifs.insert(id(at), member.motifs.clone());
            self.identity.insert(id(at), (1e3 * member.identity).round() / 1e3);
        }
        families.retain(|_, members| members.len() > 1);
        for (family, members) in &families {
            self.families.insert(*family, members.iter().map(|&at| id(at)).collect());
            for (nth, &a) in members.iter().enumerate() {
                for &b in &members[..nth] {
                    let (x, y) = (universe.members[a].sequence(), universe.members[b].sequence());
                    let differ = x.bytes().zip(y.bytes()).filter(|(p, q)| p != q).count();
                    if differ * 100 <= 3 * x.len() {
                        let (x, y) = (id(a), id(b));
                        self.near_duplicates.insert(if x < y { (x, y) } else { (y, x) });
                    }
                }
            }
        }
        let in_test = |files: &BTreeSet<String>| files.iter().any(|f| test_files.contains(&f.as_str()));
        let neither = |f: &String| test_files.contains(&f.as_str()) || silent.contains(&f.as_str());
        let in_train = |files: &BTreeSet<String>| files.iter().any(|f| !neither(f));
        let trained: BTreeSet<&String> =
            self.found_in.iter().filter(|(_, files)| in_train(files)).map(|(p, _)| p).collect();
        let numbers = universe.families();
        for (protein, _) in self.found_in.iter().filter(|(_, files)| in_test(files)) {
            if trained.contains(protein) {
                self.leaks.exact.insert(protein.clone());
            }
            let family = numbers.get(protein).and_then(|number| self.families.get(number));
            if family.is_some_and(|members| members.iter().any(|m| m != protein && trained.contains(m))) {
                self.leaks.homolog.insert(protein.clone());
            }
        }
    }
}
