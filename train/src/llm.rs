//! What the language model's stages share: where their questions come from and what an answer is worth.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use datasets::llm::{Example, Mixture, Options, ProteinPath, Record, Records, Truth};
use datasets::rng;
use eval::llm::Policy;
use rand::seq::SliceRandom;
use rewards::go::Ontology;
use serde::{Deserialize, Serialize};

use crate::progress::refuse_leaks;

/// The `data` section of a language-model stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Names of [`datasets::llm::TASKS`].
    pub tasks: Vec<String>,
    /// A task of n records is met with probability ∝ n^alpha.
    pub alpha: f64,
    /// Records of longer proteins are left out and counted.
    pub max_residues: usize,
    /// Longer text answers are left out and counted.
    pub max_answer_chars: usize,
    /// Most GO terms an answer names.
    pub go_terms: usize,
}

impl DataConfig {
    /// Refuses settings that let in a protein that is too long for the policy's encoder: it would end the run when it is
    /// met, and cropping it unasked would lose what the question may be about.
    ///
    /// # Errors
    /// Says how long proteins may be.
    pub fn check_lengths(&self, policy: &Policy) -> Result<()> {
        match policy.max_residues() {
            Some(most) if most < self.max_residues => bail!(
                "data.max_residues is {}, but encoder and bridge were made for {most} residues\nhint: set data.max_residues={most} \
                 (longer proteins are then left out and counted), or use ones that were made for longer proteins",
                self.max_residues
            ),
            _ => Ok(()),
        }
    }
}

/// The records of a stage and the ontology that judges them.
pub struct Corpus {
    /// By part of the data.
    pub records: Records,
    /// Empty when no task asks for terms.
    pub ontology: Arc<Ontology>,
    alpha: f64,
}

impl Corpus {
    /// Reads the tables; what was left out is said in the log.
    ///
    /// # Errors
    /// As [`Records::read`], when the tables have a leak, and when `go.obo` is missing or broken.
    pub fn read(tables: &Path, config: &DataConfig) -> Result<Self> {
        refuse_leaks(tables)?;
        let options = Options {
            tasks: config.tasks.clone(),
            max_residues: config.max_residues,
            max_answer_chars: config.max_answer_chars,
            go_terms: config.go_terms,
        };
        let eval::llm::Corpus { records, ontology } = eval::llm::Corpus::read(tables, &options)?;
        Ok(Self { records, ontology, alpha: config.alpha })
    }

    /// The training questions of a stage; `stream` names its draws.
    pub fn questions(&self, seed: u64, stream: &'static str) -> Questions<'_> {
        self.mixed(|_| true, seed, stream)
    }

    /// Training questions of some of the tasks.
    pub fn questions_of(&self, tasks: &[String], seed: u64, stream: &'static str) -> Questions<'_> {
        self.mixed(|record| tasks.contains(&record.task), seed, stream)
    }

    fn mixed(&self, keep: impl Fn(&Record) -> bool, seed: u64, stream: &'static str) -> Questions<'_> {
        let records: Vec<&Record> = self.records.train.iter().filter(|record| keep(record)).collect();
        let mixture = Mixture::new(&records, self.alpha);
        for (task, n, share) in mixture.shares() {
            tracing::info!(
                "{stream}: {n} training records of {task}, {:.1}% of the questions",
                100.0 * share
            );
        }
        Questions { records, mixture, seed, stream }
    }

    /// Questions of the valid part, which settings may be chosen by: at most `per_task` records of every task, the same
    /// in every stage with this seed.
    ///
    /// # Errors
    /// When the part is empty.
    pub fn valid(&self, seed: u64, per_task: usize, path: ProteinPath) -> Result<Vec<Example>> {
        Self::held_out(&self.records.valid, seed, per_task, path).context("the valid part")
    }

    /// Questions of the test part, to judge what is finished.
    ///
    /// # Errors
    /// When the part is empty.
    pub fn test(&self, seed: u64, per_task: usize, path: ProteinPath) -> Result<Vec<Example>> {
        Self::held_out(&self.records.test, seed, per_task, path).context("the test part")
    }

    fn held_out(part: &[Record], seed: u64, per_task: usize, path: ProteinPath) -> Result<Vec<Example>> {
        let mut tasks: Vec<&str> = part.iter().map(|r| r.task.as_str()).collect();
        tasks.sort_unstable();
        tasks.dedup();
        ensure!(!tasks.is_empty(), "no record of the tasks lies here\nhint: ingest more data");
        let mut chosen = Vec::new();
        for task in tasks {
            let mut own: Vec<&Record> = part.iter().filter(|r| r.task == task).collect();
            own.shuffle(&mut rng(seed, &format!("held-out/{task}"), 0));
            chosen.extend(own.into_iter().take(per_task));
        }
        let ask =
            |(at, record): (usize, &Record)| record.ask(&mut rng(seed, "held-out/ask", at as u64), path);
        Ok(chosen.into_iter().enumerate().map(ask).collect())
    }
}

/// Training questions by number.
pub struct Questions<'a> {
    records: Vec<&'a Record>,
    mixture: Mixture,
    seed: u64,
    stream: &'static str,
}

impl Questions<'_> {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Question number `at` of the stage: a pure function of the seed and the number, so a resumed run needs no more
    /// than its step.
    pub fn get(&self, at: u64, path: ProteinPath) -> Example {
        let mut rng = rng(self.seed, self.stream, at);
        self.records[self.mixture.draw(&mut rng)].ask(&mut rng, path)
    }
}

/// What the answer to an example is scored against; `None` for answers in words.
pub fn truth(example: &Example, ontology: &Ontology) -> Option<rewards::Truth> {
    match &example.truth {
        Truth::Text(_) => None,
        // Terms of the one aspect that was asked for, with all that they imply, so that the right answer earns 1.
        Truth::Go { terms, .. } => Some(rewards::Truth::Go(ontology.propagate(terms))),
        Truth::Ppi(label) => Some(rewards::Truth::Ppi(*label)),
        Truth::Ddg(kcal) => Some(rewards::Truth::Ddg(*kcal)),
        Truth::Plddt(mean) => Some(rewards::Truth::Plddt(*mean)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use datasets::table::{DdgRow, FactRow, GoRow, PlddtRow, PpiRow, ProteinRow, Rows, Split};
    use rewards::Reward;

    pub(crate) fn data(tasks: &[&str]) -> DataConfig {
        let tasks = tasks.iter().map(|t| t.to_string()).collect();
        DataConfig { tasks, alpha: 0.5, max_residues: 60, max_answer_chars: 60, go_terms: 3 }
    }

    const OBO: &str = "format-version: 1.2\n\n[Term]\nid: GO:0000001\nname: root\nnamespace: molecular_function\n\n\
        [Term]\nid: GO:0000002\nname: turning\nnamespace: molecular_function\nis_a: GO:0000001 ! root\n\n\
        [Term]\nid: GO:0000003\nname: slow turning\nnamespace: molecular_function\nis_a: GO:0000002 ! turning\n\n\
        [Term]\nid: GO:0000004\nname: carriage\nnamespace: molecular_function\nis_a: GO:0000001 ! root\n";

    /// Tables of 24 proteins, half of which carry a motif that decides everything about them.
    pub(crate) fn tables(dir: &Path) {
        let turns = |i: usize| i.is_multiple_of(2);
        let sequence = |i: usize| {
            let filler: String = (0..11 + i % 7).map(|j| b"AGSTKELV"[(i * 5 + j * 3) % 8] as char).collect();
            format!("M{filler}{}{filler}", if turns(i) { "WHWCHW" } else { "DNPDNP" })
        };
        let id = |i: usize| format!("p{i:02}");
        let split = |i: usize| match i {
            0..16 => Split::Train,
            16..20 => Split::Valid,
            _ => Split::Test,
        };
        let protein = |i: usize| ProteinRow {
            protein_id: id(i),
            sequence: sequence(i),
            accessions: vec![],
            sources: vec!["s".into()],
            cluster: format!("c{i:02}"),
            split: split(i),
        };
        ProteinRow::write(dir, &(0..24).map(protein).collect::<Vec<_>>()).unwrap();
        let words = |i: usize| if turns(i) { "Turns slowly." } else { "Carries." };
        let fact = |i: usize| FactRow {
            fact_id: format!("f{i}"),
            protein_id: id(i),
            source: "s".into(),
            accession: String::new(),
            task: "function".into(),
            question: String::new(),
            raw_text: None,
            text: words(i).into(),
            evidence: vec![],
            licence: "CC0".into(),
        };
        FactRow::write(dir, &(0..24).map(fact).collect::<Vec<_>>()).unwrap();
        let go = |i: usize| GoRow {
            protein_id: id(i),
            accession: String::new(),
            term: if turns(i) { "GO:0000003" } else { "GO:0000004" }.into(),
            aspect: "F".into(),
            evidence: "IDA".into(),
            source: "s".into(),
        };
        GoRow::write(dir, &(0..24).map(go).collect::<Vec<_>>()).unwrap();
        let pair = |i: usize| PpiRow {
            protein_id_a: id(i),
            protein_id_b: id(i + 1 + i % 2),
            label: i.is_multiple_of(2),
            modes: vec![],
            source: "s".into(),
            split: split(i),
        };
        PpiRow::write(dir, &(0..22).map(pair).collect::<Vec<_>>()).unwrap();
        let ddg = |i: usize| DdgRow {
            protein_id: id(i),
            wild_type: "M".into(),
            position: 1,
            mutant: "A".into(),
            ddg_kcal: if turns(i) { 2.0 } else { -1.0 },
            n_measured: 1,
            structure: String::new(),
            source: "s".into(),
        };
        DdgRow::write(dir, &(0..24).map(ddg).collect::<Vec<_>>()).unwrap();
        let plddt = |i: usize| PlddtRow {
            protein_id: id(i),
            accession: String::new(),
            mean_plddt: if turns(i) { 91.0 } else { 42.0 },
            plddt: vec![],
            source: "s".into(),
        };
        PlddtRow::write(dir, &(0..24).map(plddt).collect::<Vec<_>>()).unwrap();
        fs_err::write(dir.join("go.obo"), OBO).unwrap();
        fs_err::write(dir.join("audit.json"), r#"{"exact":[],"cluster":[],"alike":[],"homologs":[]}"#)
            .unwrap();
    }

    #[test]
    fn every_answer_earns_everything() {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let corpus = Corpus::read(dir.path(), &data(&["function", "go", "ppi", "ddg", "plddt"])).unwrap();
        let reward = Reward { ontology: corpus.ontology.clone(), ..Reward::default() };
        let questions = corpus.questions(5, "test");
        let mut seen = std::collections::BTreeSet::new();
        for at in 0..97 {
            let example = questions.get(at, ProteinPath::Encoder);
            if let Some(truth) = truth(&example, &corpus.ontology) {
                let score = reward.score(&example.answer, &truth);
                assert!(score.value > 0.95, "{example:?} {score:?}");
                seen.insert(example.task);
            }
        }
        assert_eq!(seen.len(), 4);
        assert_eq!(questions.get(3, ProteinPath::Letters), questions.get(3, ProteinPath::Letters));
    }

    #[test]
    fn held_out_questions_are_fixed_and_held_out() {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let corpus = Corpus::read(dir.path(), &data(&["go", "plddt"])).unwrap();
        let [valid, test] =
            [Corpus::valid, Corpus::test].map(|part| part(&corpus, 5, 3, ProteinPath::Encoder).unwrap());
        for (part, clusters) in [(&valid, "c16".."c20"), (&test, "c20".."c24")] {
            assert_eq!(part.iter().filter(|e| e.task == "go").count(), 3);
            assert_eq!(part.len(), 6);
            assert!(part.iter().all(|e| clusters.contains(&e.cluster.as_str())));
        }
        assert_eq!(valid, corpus.valid(5, 3, ProteinPath::Encoder).unwrap());
    }
}
