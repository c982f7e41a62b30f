//! The account as a table for people: what became of the records of every file.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::ledger::FileCounts;
use crate::manifest::Manifest;
use crate::reason::Reason;

impl Manifest {
    /// A Markdown table, one line for each file of the recipe (all files of a folder together): records read, kept,
    /// merged, quarantined by reason, and parts of kept records that were not.
    pub fn account(&self) -> String {
        let mut text = String::from(
            "| source | file | in | kept | merged | quarantined | parts of kept records |\n|---|---|---:|---:|---:|---|---|\n",
        );
        let mut total = FileCounts::default();
        for source in &self.config.source {
            for name in crate::source::files(source) {
                let folder = format!("{}/", name.trim_end_matches('/'));
                let is_of = |f: &&FileCounts| {
                    f.source == source.name && (f.file == *name || f.file.starts_with(&folder))
                };
                let mut sum = FileCounts::default();
                let mut n_files = 0;
                for file in self.files.iter().filter(is_of) {
                    n_files += 1;
                    sum.add(file);
                    total.add(file);
                }
                let files = if n_files > 1 { format!("{folder} ({n_files} files)") } else { name.to_owned() };
                line(&mut text, &source.name, &files, &sum);
            }
        }
        line(&mut text, "all", "", &total);
        text
    }
}

impl FileCounts {
    fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.kept += other.kept;
        self.merged += other.merged;
        for (of, with) in [
            (&mut self.quarantined, &other.quarantined),
            (&mut self.parts_quarantined, &other.parts_quarantined),
        ] {
            for (reason, n) in with {
                *of.entry(*reason).or_default() += n;
            }
        }
    }
}

fn line(text: &mut String, source: &str, file: &str, counts: &FileCounts) {
    let reasons = |of: &BTreeMap<Reason, u64>| {
        of.iter().map(|(reason, n)| format!("{} {n}", reason.name())).collect::<Vec<_>>().join(", ")
    };
    let FileCounts { rows_in, kept, merged, quarantined, parts_quarantined, .. } = counts;
    let (bad, parts) = (reasons(quarantined), reasons(parts_quarantined));
    let row = format!("| {source} | {file} | {rows_in} | {kept} | {merged} | {bad} | {parts} |");
    writeln!(text, "{row}").expect("a string takes all text");
}
