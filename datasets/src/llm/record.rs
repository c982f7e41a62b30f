//! Tables → records.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::table::{DdgRow, FactRow, GoRow, PlddtRow, PpiRow, ProteinRow, Rows, Split, SsRow};
use crate::{Error, label};

/// Tasks a recipe may name: the kinds of text facts, the structure at a residue, then the four whose answers are scored.
pub const TASKS: &[&str] = &[
    "name",
    "organism",
    "gene",
    "function",
    "subunit",
    "location",
    "ptm",
    "disease",
    "induction",
    "tissue",
    "catalytic_activity",
    "domain",
    "general",
    "ec",
    "keyword",
    "similarity",
    "qa",
    "ss",
    "go",
    "ppi",
    "ddg",
    "plddt",
];

/// Which records are wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Names of [`TASKS`].
    pub tasks: Vec<String>,
    /// Records of longer proteins are left out and counted: a cropped protein could lack what is asked for.
    pub max_residues: usize,
    /// Text answers longer than this many characters are left out and counted.
    pub max_answer_chars: usize,
    /// Most GO terms an answer names: the rarest in train.
    pub go_terms: usize,
}

/// What is true of one or two proteins.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A statement in words.
    Text {
        /// The question of the source, empty if it has none.
        question: String,
        /// The statement.
        text: String,
    },
    /// Terms of one aspect.
    Go {
        /// `F`, `P` or `C`.
        aspect: char,
        /// All annotated terms, sorted.
        terms: Vec<String>,
        /// The terms that an answer names, sorted: the most specific, of these the rarest.
        answer: Vec<String>,
    },
    /// Whether the two proteins interact.
    Ppi(bool),
    /// A point mutation; the second protein is the mutant.
    Ddg {
        /// Residue of the wild type.
        wild_type: char,
        /// 1-based position.
        position: u32,
        /// Residue of the mutant.
        mutant: char,
        /// `ΔG_mutant − ΔG_wild-type` of folding, kcal/mol, positive = destabilising.
        kcal: f32,
    },
    /// Mean pLDDT, 0–100.
    Plddt(f32),
    /// Index in [`crate::label::Q3`] of each residue; a question is about one of those that are known.
    Ss(Arc<[u8]>),
}

/// One fact, with the proteins it speaks of.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// One of [`TASKS`].
    pub task: String,
    /// Homology cluster of the first protein: the unit of bootstrap intervals.
    pub cluster: String,
    /// Sequences, in the order in which the fact speaks of them.
    pub proteins: Vec<Arc<str>>,
    /// What is true.
    pub fact: Fact,
}

/// The records of a run, by part of the data.
#[derive(Debug, Default)]
pub struct Records {
    /// Trained on.
    pub train: Vec<Record>,
    /// Tuned on.
    pub valid: Vec<Record>,
    /// Reported on.
    pub test: Vec<Record>,
    /// Rows that were left out, by task and reason.
    pub left_out: BTreeMap<String, usize>,
}

impl Records {
    /// Reads the tables that the tasks need. `most_specific` reduces a set of GO terms to those without a descendant
    /// in the set (the caller knows the ontology).
    ///
    /// # Errors
    /// On an unknown task, a missing table, or a task without a single training record.
    pub fn read(
        tables: &Path,
        options: &Options,
        most_specific: &dyn Fn(&[String]) -> Vec<String>,
    ) -> Result<Self, Error> {
        if let Some(unknown) = options.tasks.iter().find(|task| !TASKS.contains(&task.as_str())) {
            return Err(Error::Text(format!(
                "there is no task {unknown:?}; there are: {}",
                TASKS.join(", ")
            )));
        }
        let wants = |task: &str| options.tasks.iter().any(|wanted| wanted == task);
        let mut reader = Reader::new(tables, options)?;
        if options.tasks.iter().any(|task| !["ss", "go", "ppi", "ddg", "plddt"].contains(&task.as_str())) {
            reader.texts(FactRow::read(tables)?, &wants);
        }
        if wants("ss") {
            reader.ss(SsRow::read(tables)?);
        }
        if wants("go") {
            reader.go(GoRow::read(tables)?, most_specific);
        }
        if wants("ppi") {
            reader.ppi(PpiRow::read(tables)?);
        }
        if wants("ddg") {
            reader.ddg(DdgRow::read(tables)?);
        }
        if wants("plddt") {
            reader.plddt(PlddtRow::read(tables)?);
        }
        let records = reader.records;
        match options.tasks.iter().find(|task| !records.train.iter().any(|r| r.task == **task)) {
            None => Ok(records),
            Some(task) => Err(Error::Text(format!(
                "the tables in {} hold no training record of task {task}\nhint: take it out of `tasks`, or add a \
                 source that has it",
                tables.display()
            ))),
        }
    }
}

struct Reader<'a> {
    options: &'a Options,
    proteins: BTreeMap<String, (Arc<str>, String, Split)>,
    records: Records,
}

impl<'a> Reader<'a> {
    fn new(tables: &Path, options: &'a Options) -> Result<Self, Error> {
        let rows = ProteinRow::read(tables)?.into_iter();
        let entry = |p: ProteinRow| (p.protein_id, (Arc::from(p.sequence), p.cluster, p.split));
        Ok(Self { options, proteins: rows.map(entry).collect(), records: Records::default() })
    }

    /// Files a record under its split, or counts why not.
    fn add(&mut self, task: &str, ids: &[&str], split: Option<Split>, fact: Fact) {
        let mut leave_out = |why: &str| {
            *self.records.left_out.entry(format!("{task}: {why}")).or_default() += 1;
        };
        let found: Option<Vec<_>> = ids.iter().map(|id| self.proteins.get(*id)).collect();
        let Some(found) = found.filter(|found| !found.is_empty()) else {
            return leave_out("unknown protein");
        };
        if found.iter().any(|(sequence, ..)| sequence.len() > self.options.max_residues) {
            return leave_out("protein longer than max_residues");
        }
        let (_, cluster, own) = found[0];
        let record = Record {
            task: task.to_owned(),
            cluster: cluster.clone(),
            proteins: found.iter().map(|(sequence, ..)| sequence.clone()).collect(),
            fact,
        };
        match split.unwrap_or(*own) {
            Split::Train => self.records.train.push(record),
            Split::Valid => self.records.valid.push(record),
            Split::Test => self.records.test.push(record),
            Split::Excluded => leave_out("excluded from every split"),
        }
    }

    fn texts(&mut self, rows: Vec<FactRow>, wants: &dyn Fn(&str) -> bool) {
        for row in rows.into_iter().filter(|row| wants(&row.task)) {
            if row.text.chars().count() > self.options.max_answer_chars {
                let reason = format!("{}: answer longer than max_answer_chars", row.task);
                *self.records.left_out.entry(reason).or_default() += 1;
                continue;
            }
            let fact = Fact::Text { question: row.question, text: row.text };
            self.add(&row.task, &[&row.protein_id], None, fact);
        }
    }

    fn go(&mut self, rows: Vec<GoRow>, most_specific: &dyn Fn(&[String]) -> Vec<String>) {
        let mut sets: BTreeMap<(String, char), Vec<String>> = BTreeMap::new();
        for row in rows {
            let aspect = row.aspect.chars().next().unwrap_or('?');
            sets.entry((row.protein_id, aspect)).or_default().push(row.term);
        }
        for terms in sets.values_mut() {
            terms.sort_unstable();
            terms.dedup();
        }
        let mut frequency: BTreeMap<&str, usize> = BTreeMap::new();
        let in_train = |id: &str| self.proteins.get(id).is_some_and(|(.., split)| *split == Split::Train);
        for term in sets.iter().filter(|((id, _), _)| in_train(id)).flat_map(|(_, terms)| terms) {
            *frequency.entry(term).or_default() += 1;
        }
        let facts: Vec<_> = sets
            .iter()
            .map(|((id, aspect), terms)| {
                let mut answer = most_specific(terms);
                answer.sort_by_key(|term| (frequency.get(term.as_str()).copied().unwrap_or(0), term.clone()));
                answer.truncate(self.options.go_terms);
                answer.sort_unstable();
                (id.clone(), Fact::Go { aspect: *aspect, terms: terms.clone(), answer })
            })
            .collect();
        for (id, fact) in facts {
            self.add("go", &[&id], None, fact);
        }
    }

    fn ss(&mut self, rows: Vec<SsRow>) {
        for row in rows {
            let counted = row.q3.bytes().zip(row.mask.bytes());
            let state =
                |(letter, mask)| if mask == b'1' { label::q3_index(letter) } else { Some(label::UNKNOWN) };
            let states: Arc<[u8]> = counted.map(|at| state(at).unwrap_or(label::UNKNOWN)).collect();
            let fits = self.proteins.get(&row.protein_id).is_none_or(|p| p.0.len() == states.len());
            if !fits || states.iter().all(|&state| state == label::UNKNOWN) {
                *self.records.left_out.entry("ss: no residue with a label".to_owned()).or_default() += 1;
                continue;
            }
            self.add("ss", &[&row.protein_id], None, Fact::Ss(states));
        }
    }

    fn ppi(&mut self, rows: Vec<PpiRow>) {
        for row in rows {
            self.add("ppi", &[&row.protein_id_a, &row.protein_id_b], Some(row.split), Fact::Ppi(row.label));
        }
    }

    fn ddg(&mut self, rows: Vec<DdgRow>) {
        for row in rows {
            let letter = |text: &str| text.chars().next().unwrap_or('X');
            let (wild_type, mutant) = (letter(&row.wild_type), letter(&row.mutant));
            let fact = Fact::Ddg { wild_type, position: row.position, mutant, kcal: row.ddg_kcal };
            self.add("ddg", &[&row.protein_id], None, fact);
        }
    }

    fn plddt(&mut self, rows: Vec<PlddtRow>) {
        for row in rows {
            self.add("plddt", &[&row.protein_id], None, Fact::Plddt(row.mean_plddt));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn options(tasks: &[&str]) -> Options {
        let tasks = tasks.iter().map(|t| t.to_string()).collect();
        Options { tasks, max_residues: 50, max_answer_chars: 40, go_terms: 2 }
    }

    /// Five proteins (train, train, valid, test, excluded), the third of them too long, and facts of every task.
    pub(crate) fn tables(dir: &Path) {
        let splits = [Split::Train, Split::Train, Split::Valid, Split::Test, Split::Excluded];
        let proteins: Vec<ProteinRow> = splits
            .into_iter()
            .enumerate()
            .map(|(i, split)| ProteinRow {
                protein_id: format!("p{i}"),
                sequence: "MKTAYIAKQR".repeat(if i == 2 { 6 } else { i + 1 }),
                accessions: vec![],
                sources: vec![],
                cluster: format!("c{i}"),
                split,
            })
            .collect();
        ProteinRow::write(dir, &proteins).unwrap();
        let fact = |i: usize, text: &str| FactRow {
            fact_id: format!("f{i}"),
            protein_id: format!("p{i}"),
            source: "s".into(),
            accession: String::new(),
            task: "function".into(),
            question: String::new(),
            raw_text: None,
            text: text.into(),
            evidence: vec![],
            licence: "CC0".into(),
        };
        let long = "x".repeat(41);
        FactRow::write(dir, &[fact(0, "Binds kresp."), fact(1, &long), fact(3, "Turns."), fact(9, "Ghost.")])
            .unwrap();
        let go = |i: usize, n: usize, aspect: &str| GoRow {
            protein_id: format!("p{i}"),
            accession: String::new(),
            term: format!("GO:000000{n}"),
            aspect: aspect.into(),
            evidence: "IDA".into(),
            source: "s".into(),
        };
        let annotations =
            [go(0, 1, "F"), go(1, 1, "F"), go(1, 2, "F"), go(1, 3, "F"), go(1, 3, "F"), go(3, 4, "P")];
        GoRow::write(dir, &annotations).unwrap();
        let pair = |a: usize, b: usize, label: bool, split: Split| PpiRow {
            protein_id_a: format!("p{a}"),
            protein_id_b: format!("p{b}"),
            label,
            modes: vec![],
            source: "s".into(),
            split,
        };
        PpiRow::write(dir, &[pair(0, 1, true, Split::Train), pair(0, 3, false, Split::Excluded)]).unwrap();
        let ddg = DdgRow {
            protein_id: "p1".into(),
            wild_type: "K".into(),
            position: 2,
            mutant: "A".into(),
            ddg_kcal: 1.26,
            n_measured: 1,
            structure: String::new(),
            source: "s".into(),
        };
        DdgRow::write(dir, &[ddg]).unwrap();
        let plddt = PlddtRow {
            protein_id: "p0".into(),
            accession: String::new(),
            mean_plddt: 83.6,
            plddt: vec![],
            source: "s".into(),
        };
        PlddtRow::write(dir, &[plddt]).unwrap();
        let ss = |i: usize, mask: &str| SsRow {
            id: format!("{i}_A"),
            protein_id: format!("p{i}"),
            source: "s".into(),
            q8: "?".repeat(10),
            q3: "CHHHH?EEEC".into(),
            mask: mask.into(),
        };
        SsRow::write(dir, &[ss(0, "0111111111"), ss(0, "0000000000"), ss(1, "1111111111")]).unwrap();
    }

    #[test]
    fn every_row_is_a_record_or_counted() {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let all = options(&["function", "go", "ppi", "ddg", "plddt"]);
        let records = Records::read(dir.path(), &all, &|terms| terms.to_vec()).unwrap();
        assert_eq!((records.train.len(), records.valid.len(), records.test.len()), (6, 0, 2));
        assert_eq!(records.left_out["function: answer longer than max_answer_chars"], 1);
        assert_eq!(records.left_out["function: unknown protein"], 1);
        assert_eq!(records.left_out["ppi: excluded from every split"], 1);
        let terms = |i: usize| format!("GO:000000{i}");
        let wanted = Fact::Go {
            aspect: 'F',
            terms: vec![terms(1), terms(2), terms(3)],
            answer: vec![terms(2), terms(3)],
        };
        assert!(records.train.iter().any(|r| r.fact == wanted), "the two rarest of three terms");
    }

    #[test]
    fn only_residues_with_a_label_are_asked_about() {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let records = Records::read(dir.path(), &options(&["ss"]), &|terms| terms.to_vec()).unwrap();
        // One chain has no label that counts, one has labels of another length.
        assert_eq!((records.train.len(), records.left_out["ss: no residue with a label"]), (1, 2));
        let mut seen = std::collections::BTreeSet::new();
        for draw in 0..97 {
            let example =
                records.train[0].ask(&mut crate::rng(1, "ask", draw), super::super::ProteinPath::Encoder);
            let site = example.proteins[0].site.unwrap();
            assert!(site != 0 && site != 5, "residue {site}");
            let word = match b"CHHHH?EEEC"[site] {
                b'H' => "helix",
                b'E' => "strand",
                _ => "coil",
            };
            assert_eq!(example.answer, format!("<answer>{word}</answer>"));
            let letter = "MKTAYIAKQR".as_bytes()[site] as char;
            assert!(example.prompt[0].content.contains(&format!("{letter}{}", site + 1)), "{example:?}");
            seen.insert(site);
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn long_proteins_are_counted_not_cropped() {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let options = Options { max_residues: 15, ..options(&["go"]) };
        let records = Records::read(dir.path(), &options, &|terms| terms.to_vec()).unwrap();
        assert_eq!(records.train.len(), 1);
        assert_eq!(records.left_out["go: protein longer than max_residues"], 2);
    }

    #[test]
    fn unknown_and_empty_tasks_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let refused = |task: &str| {
            Records::read(dir.path(), &options(&[task]), &|t| t.to_vec()).unwrap_err().to_string()
        };
        assert!(refused("fold").contains("plddt"));
        assert!(refused("disease").contains("no training record of task disease"));
    }
}
