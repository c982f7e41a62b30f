//! The account as tables for people: what became of the records of every file, and what each task has in each part.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use datasets::table::Split;

use crate::ledger::FileCounts;
use crate::manifest::Manifest;
use crate::reason::Reason;
use crate::tasks::{Answers, Task, draws};

/// The temperatures at which shares of draws are shown: as records come, between, all tasks alike.
const ALPHAS: [f64; 3] = [1.0, 0.5, 0.0];

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

    /// Markdown tables of the tasks: their records in each part and how often these are drawn, what answers in words have
    /// in common, and warnings.
    pub fn parts(&self) -> String {
        let mut text = String::from(
            "| task | train: records · proteins · clusters | valid | test | excluded | drawn at α = 1, each met | α = 0.5 | \
             α = 0 | training records of |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        );
        let drawn = ALPHAS.map(|alpha| draws(&self.tasks, alpha));
        for (name, task) in &self.tasks {
            let part = |split: &Split| match task.parts.get(split) {
                Some(part) => format!("{} · {} · {}", part.records, part.proteins, part.clusters),
                None => "–".into(),
            };
            let parts = [Split::Train, Split::Valid, Split::Test, Split::Excluded].map(|split| part(&split));
            let shares = drawn.each_ref().map(|drawn| match drawn.get(name.as_str()) {
                Some(draws) => {
                    let times: Vec<String> =
                        draws.times.iter().map(|times| format!("× {times:.2}")).collect();
                    format!("{:.1} %, {}", 100.0 * draws.share, times.join(" / "))
                }
                None => "–".into(),
            });
            let sources = sources(task);
            let row = format!("| {name} | {} | {} | {sources} |", parts.join(" | "), shares.join(" | "));
            writeln!(text, "{row}").expect("a string takes all text");
        }
        let mut answers = String::new();
        for (name, task) in &self.tasks {
            let cell = |split: &Split| {
                let part = task.parts.get(split)?;
                let Answers { texts, in_train, near_train } = part.answers?;
                let said = in_train.zip(near_train).map(|(equal, near)| format!(" · {equal} · {near}"));
                Some(format!("{} · {texts}{}", part.records, said.unwrap_or_default()))
            };
            let cells = [Split::Train, Split::Valid, Split::Test].map(|split| cell(&split));
            if cells.iter().any(Option::is_some) {
                let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".into()));
                writeln!(answers, "| {name} | {} |", cells.join(" | ")).expect("a string takes all text");
            }
        }
        if !answers.is_empty() {
            text += "\n| answers in words | train: answers · groups | valid: answers · groups · in train · nearly in train | test |\n\
                     |---|---:|---:|---:|\n";
            text += &answers;
        }
        if !self.warnings.is_empty() {
            text += "\nWarnings:\n\n";
            self.warnings.iter().for_each(|warning| text += &format!("* {warning}\n"));
        }
        text
    }
}

/// Which sources the training records are of, the largest first.
fn sources(task: &Task) -> String {
    let total = task.sources.values().sum::<u64>() as f64;
    let mut sources: Vec<(&String, u64)> = task.sources.iter().map(|(source, &n)| (source, n)).collect();
    sources.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    let of = |(source, n): &(&String, u64)| format!("{source} {:.1} %", 100.0 * *n as f64 / total);
    sources.iter().map(of).collect::<Vec<_>>().join(", ")
}

impl FileCounts {
    fn add(&mut self, other: &Self) {
        self.rows_in += other.rows_in;
        self.kept += other.kept;
        self.merged += other.merged;
        self.merged_near += other.merged_near;
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
    let FileCounts { rows_in, kept, merged, merged_near, quarantined, parts_quarantined, .. } = counts;
    let (bad, parts) = (reasons(quarantined), reasons(parts_quarantined));
    let merged = if *merged_near > 0 { format!("{merged} ({merged_near} near)") } else { merged.to_string() };
    let row = format!("| {source} | {file} | {rows_in} | {kept} | {merged} | {bad} | {parts} |");
    writeln!(text, "{row}").expect("a string takes all text");
}
