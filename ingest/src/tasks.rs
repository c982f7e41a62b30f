//! What each task has in each part of the data: records, proteins, clusters, and how much of what is said in a held-out
//! part is said in train; and how often a record is drawn.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use datasets::llm;
use datasets::table::{
    ChainRow, DdgRow, FactRow, GoRow, PlddtRow, PpiRow, ProteinRow, Rows, Split, SsRow, scan,
};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::Error;
use crate::near::{self, Lsh, Texts};

/// With fewer clusters in train a task is warned of: what is learnt may be that of a few families.
pub const FEW_CLUSTERS: u64 = 50;

/// A task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// What each part has of it; parts without a record are left out.
    pub parts: BTreeMap<Split, Part>,
    /// Training records of every source.
    pub sources: BTreeMap<String, u64>,
    /// Training records that are drawn with equal chances, pool by pool: one, or for `ppi` the pairs that do not interact
    /// and those that do.
    pub pools: Vec<u64>,
}

/// A task in one part of the data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Records as a batch takes them: facts, pairs, mutations, chains, annotations of a protein in one aspect.
    pub records: u64,
    /// Proteins that they speak of.
    pub proteins: u64,
    /// Homology clusters of these.
    pub clusters: u64,
    /// Of answers in words: what they have in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
}

/// What the answers of a part have in common with each other and with train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Groups of nearly the same text ([`near::THRESHOLD`]).
    pub texts: u64,
    /// Of a held-out part: answers that are, word by word, one of train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_train: Option<u64>,
    /// Of a held-out part: answers whose group has one of train, the equal ones too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_train: Option<u64>,
}

/// What is counted of a row.
#[derive(Deserialize)]
struct Counts {
    protein_id: String,
    source: String,
}

/// What is counted of a fact.
#[derive(Deserialize)]
struct Fact {
    protein_id: String,
    source: String,
    task: String,
    text: String,
}

/// What is counted of an annotation.
#[derive(Deserialize)]
struct Annotation {
    protein_id: String,
    source: String,
    aspect: String,
}

/// Counts every task of a tables folder, by name.
///
/// # Errors
/// A table that cannot be read.
pub(crate) fn count(tables: &Path, proteins: &[ProteinRow]) -> Result<BTreeMap<String, Task>, Error> {
    let mut counter = Counter::new(proteins);
    let of_one = [
        ("chains", ChainRow::path(tables)),
        ("ss", SsRow::path(tables)),
        ("ddg", DdgRow::path(tables)),
        ("plddt", PlddtRow::path(tables)),
    ];
    for (task, path) in of_one {
        for row in scan::<Counts>(&path)? {
            let row = row?;
            counter.add(task, &row.source, &[&row.protein_id], None, false);
        }
    }
    // All terms of an aspect are one record, of the source of the first. Annotations are sorted by protein.
    let mut aspects: BTreeSet<String> = BTreeSet::new();
    let mut of = String::new();
    for row in scan::<Annotation>(&GoRow::path(tables))? {
        let row = row?;
        if of != row.protein_id {
            aspects.clear();
            of.clone_from(&row.protein_id);
        }
        if aspects.insert(row.aspect) {
            counter.add("go", &row.source, &[&row.protein_id], None, false);
        }
    }
    for row in scan::<PpiRow>(&PpiRow::path(tables))? {
        let row = row?;
        let pair = [row.protein_id_a.as_str(), &row.protein_id_b];
        counter.add("ppi", &row.source, &pair, Some(row.split), row.label);
    }

    let mut answers: BTreeMap<String, Said> = BTreeMap::new();
    for fact in scan::<Fact>(&FactRow::path(tables))? {
        let fact = fact?;
        counter.add(&fact.task, &fact.source, &[&fact.protein_id], None, false);
        let split = counter.proteins[fact.protein_id.as_str()].split;
        match answers.get_mut(&fact.task) {
            Some(said) => said.add(fact.text, split),
            None => answers.entry(fact.task).or_default().add(fact.text, split),
        }
    }
    let mut tasks = counter.finish();
    let lsh = Lsh::new(near::THRESHOLD, near::RECALL)?;
    for (task, mut said) in answers {
        for (split, answers) in said.compare(&lsh) {
            let part = tasks.get_mut(&task).and_then(|task| task.parts.get_mut(&split));
            part.expect("its facts are counted").answers = Some(answers);
        }
    }
    Ok(tasks)
}

/// The answers of one task: of equal ones the shingles of one and how many each part has, since many proteins are answered
/// alike.
#[derive(Default)]
struct Said {
    /// By 128 bits of hash the number of a text.
    numbers: HashMap<u128, usize>,
    texts: Texts,
    /// Of each text how many answers each part has, in the order of [`PARTS`].
    n: Vec<[u64; PARTS.len()]>,
    /// Texts whose shingles are not made yet.
    waiting: Vec<String>,
}

/// Parts that answers are compared between.
const PARTS: [Split; 4] = [Split::Train, Split::Valid, Split::Test, Split::Excluded];
/// Texts whose shingles are made together.
const TOGETHER: usize = 8_192;

impl Said {
    fn add(&mut self, text: String, split: Split) {
        let next = self.n.len();
        let number = *self.numbers.entry(XxHash3_128::oneshot(text.as_bytes())).or_insert(next);
        if number == next {
            self.n.push([0; PARTS.len()]);
            self.waiting.push(text);
            if self.waiting.len() == TOGETHER {
                self.shingle();
            }
        }
        let part = PARTS.iter().position(|&part| part == split).expect("every part is there");
        self.n[number][part] += 1;
    }

    fn shingle(&mut self) {
        self.texts.extend(&std::mem::take(&mut self.waiting));
    }

    /// What the answers of every part have in common.
    fn compare(&mut self, lsh: &Lsh) -> BTreeMap<Split, Answers> {
        self.shingle();
        let groups = lsh.groups(&self.texts);
        let n = &self.n;
        let of = |part: usize| (0..n.len()).filter(move |&at| n[at][part] > 0);
        let trained: HashSet<u64> = of(0).map(|at| self.texts.whole(at)).collect();
        let near: HashSet<usize> = of(0).map(|at| groups[at]).collect();
        let answers = |part: usize| {
            let count = |is_said: &dyn Fn(usize) -> bool| -> u64 {
                of(part).filter(|&at| is_said(at)).map(|at| n[at][part]).sum()
            };
            let is_held_out = matches!(PARTS[part], Split::Valid | Split::Test);
            Answers {
                texts: of(part).map(|at| groups[at]).collect::<HashSet<_>>().len() as u64,
                in_train: is_held_out.then(|| count(&|at| trained.contains(&self.texts.whole(at)))),
                near_train: is_held_out.then(|| count(&|at| near.contains(&groups[at]))),
            }
        };
        let parts = (0..PARTS.len()).filter(|&part| of(part).next().is_some());
        parts.map(|part| (PARTS[part], answers(part))).collect()
    }
}

/// A protein, as it is counted.
struct Counted {
    number: u32,
    cluster: u32,
    split: Split,
}

/// What is counted so far of a task.
#[derive(Default)]
struct Tally {
    records: BTreeMap<Split, u64>,
    proteins: HashSet<(Split, u32)>,
    clusters: HashSet<(Split, u32)>,
    sources: BTreeMap<String, u64>,
    pools: BTreeMap<bool, u64>,
}

struct Counter<'a> {
    proteins: HashMap<&'a str, Counted>,
    tasks: BTreeMap<String, Tally>,
}

impl<'a> Counter<'a> {
    fn new(proteins: &'a [ProteinRow]) -> Self {
        let mut clusters: HashMap<&str, u32> = HashMap::new();
        let counted = proteins.iter().enumerate().map(|(number, protein)| {
            let next = clusters.len() as u32;
            let cluster = *clusters.entry(&protein.cluster).or_insert(next);
            (protein.protein_id.as_str(), Counted { number: number as u32, cluster, split: protein.split })
        });
        Self { proteins: counted.collect(), tasks: BTreeMap::new() }
    }

    /// Counts a record; without a part of its own it has that of its protein.
    fn add(&mut self, task: &str, source: &str, proteins: &[&str], split: Option<Split>, pool: bool) {
        if !self.tasks.contains_key(task) {
            self.tasks.insert(task.to_owned(), Tally::default());
        }
        let tally = self.tasks.get_mut(task).expect("it has just been put there");
        let split = split.unwrap_or(self.proteins[proteins[0]].split);
        *tally.records.entry(split).or_default() += 1;
        for protein in proteins.iter().map(|id| &self.proteins[id]) {
            tally.proteins.insert((split, protein.number));
            tally.clusters.insert((split, protein.cluster));
        }
        if split == Split::Train {
            match tally.sources.get_mut(source) {
                Some(n) => *n += 1,
                None => _ = tally.sources.insert(source.to_owned(), 1),
            }
            *tally.pools.entry(pool).or_default() += 1;
        }
    }

    fn finish(self) -> BTreeMap<String, Task> {
        let task = |tally: Tally| {
            let in_part =
                |of: &HashSet<(Split, u32)>, split| of.iter().filter(|(s, _)| *s == split).count() as u64;
            let part = |(&split, &records): (&Split, &u64)| {
                let (proteins, clusters) = (in_part(&tally.proteins, split), in_part(&tally.clusters, split));
                (split, Part { records, proteins, clusters, answers: None })
            };
            Task {
                parts: tally.records.iter().map(part).collect(),
                sources: tally.sources,
                pools: tally.pools.into_values().collect(),
            }
        };
        self.tasks.into_iter().map(|(name, tally)| (name, task(tally))).collect()
    }
}

/// How a task is met when all tasks of the language model are drawn with one α.
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    /// Probability of the task.
    pub share: f64,
    /// How often a record of each pool is met while as many are drawn as there are training records.
    pub times: Vec<f64>,
}

/// The balanced sampling of all tasks that a language model is asked ([`llm::TASKS`]) and that have a training record: a
/// task with a probability ∝ n^α, then a pool, then one of its records ([`llm::Mixture`]).
pub fn draws(tasks: &BTreeMap<String, Task>, alpha: f64) -> BTreeMap<&str, Draws> {
    let drawn: Vec<(&str, &Task)> = tasks
        .iter()
        .map(|(name, task)| (name.as_str(), task))
        .filter(|(name, task)| llm::TASKS.contains(name) && !task.pools.is_empty())
        .collect();
    let sizes: Vec<usize> = drawn.iter().map(|(_, task)| task.pools.iter().sum::<u64>() as usize).collect();
    let total = sizes.iter().sum::<usize>() as f64;
    let draws = drawn.iter().zip(llm::shares(&sizes, alpha)).map(|((name, task), share)| {
        let of_pool = share * total / task.pools.len() as f64;
        (*name, Draws { share, times: task.pools.iter().map(|&n| of_pool / n as f64).collect() })
    });
    draws.collect()
}

/// What a task is warned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warning {
    /// A part has no record.
    Empty(Split),
    /// Train has records of fewer than [`FEW_CLUSTERS`] clusters, these many.
    FewClusters(u64),
}

/// Warnings of every task.
pub fn warnings(tasks: &BTreeMap<String, Task>) -> Vec<(&str, Warning)> {
    let of_part = |task: &Task, split: Split| match task.parts.get(&split) {
        None => Some(Warning::Empty(split)),
        Some(part) if split == Split::Train && part.clusters < FEW_CLUSTERS => {
            Some(Warning::FewClusters(part.clusters))
        }
        Some(_) => None,
    };
    let parts = [Split::Train, Split::Valid, Split::Test];
    let of_task = |(name, task)| parts.iter().filter_map(move |&split| Some((name, of_part(task, split)?)));
    tasks.iter().map(|(name, task)| (name.as_str(), task)).flat_map(of_task).collect()
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Warning::Empty(split) => {
                let part = format!("{split:?}").to_lowercase();
                write!(f, "empty_{part}: no record in {part}")
            }
            Warning::FewClusters(n) => {
                write!(f, "few_clusters: {n} homology cluster(s) in train, fewer than {FEW_CLUSTERS}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protein(id: &str, cluster: &str, split: Split) -> ProteinRow {
        ProteinRow {
            protein_id: id.into(),
            sequence: String::new(),
            accessions: vec![],
            sources: vec![],
            cluster: cluster.into(),
            split,
        }
    }

    fn fact(protein: &str, task: &str, source: &str, text: &str) -> FactRow {
        FactRow {
            fact_id: String::new(),
            protein_id: protein.into(),
            source: source.into(),
            accession: String::new(),
            task: task.into(),
            question: String::new(),
            raw_text: None,
            text: text.into(),
            evidence: vec![],
            licence: String::new(),
        }
    }

    fn tasks() -> BTreeMap<String, Task> {
        let family =
            "Belongs to the family of things that are made up and of no use to anybody who reads this";
        let proteins = [
            protein("a", "a", Split::Train),
            protein("b", "a", Split::Train),
            protein("c", "c", Split::Train),
            protein("d", "d", Split::Test),
            protein("e", "e", Split::Excluded),
        ];
        let facts = [
            fact("a", "similarity", "s", family),
            fact("b", "similarity", "s", &format!("{family}.")),
            fact("c", "similarity", "t", "Belongs to nobody."),
            fact("d", "similarity", "s", &family.to_uppercase()),
            fact("d", "similarity", "s", &format!("{family} again")),
            fact("d", "similarity", "s", "Belongs to somebody else."),
            fact("a", "design", "s", "A thing."),
        ];
        let pair = |a: &str, b: &str, label, split| PpiRow {
            protein_id_a: a.into(),
            protein_id_b: b.into(),
            label,
            modes: vec![],
            source: "p".into(),
            split,
        };
        let ppi = [
            pair("a", "b", true, Split::Train),
            pair("a", "c", false, Split::Train),
            pair("b", "c", false, Split::Train),
            pair("c", "d", false, Split::Excluded),
        ];
        let go = |protein: &str, term: &str, aspect: &str| GoRow {
            protein_id: protein.into(),
            accession: String::new(),
            term: term.into(),
            aspect: aspect.into(),
            evidence: String::new(),
            source: "g".into(),
        };
        let go = [go("a", "x", "F"), go("a", "y", "F"), go("a", "z", "P"), go("d", "x", "F")];
        let folder = tempfile::tempdir().unwrap();
        FactRow::write(folder.path(), &facts).unwrap();
        GoRow::write(folder.path(), &go).unwrap();
        PpiRow::write(folder.path(), &ppi).unwrap();
        ChainRow::write(folder.path(), &[]).unwrap();
        SsRow::write(folder.path(), &[]).unwrap();
        DdgRow::write(folder.path(), &[]).unwrap();
        PlddtRow::write(folder.path(), &[]).unwrap();
        count(folder.path(), &proteins).unwrap()
    }

    fn sizes(task: &Task, split: Split) -> (u64, u64, u64) {
        let part = &task.parts[&split];
        (part.records, part.proteins, part.clusters)
    }

    #[test]
    fn records_proteins_and_clusters_are_counted_by_part() {
        let tasks = tasks();
        assert_eq!(tasks.keys().collect::<Vec<_>>(), ["design", "go", "ppi", "similarity"]);
        assert_eq!(sizes(&tasks["similarity"], Split::Train), (3, 3, 2));
        assert_eq!(sizes(&tasks["ppi"], Split::Train), (3, 3, 2));
        assert_eq!(sizes(&tasks["ppi"], Split::Excluded), (1, 2, 2));
        assert_eq!((&tasks["ppi"].pools[..], &tasks["go"].pools[..]), (&[2, 1][..], &[2][..]));
        assert_eq!(sizes(&tasks["go"], Split::Test), (1, 1, 1));
        assert_eq!(tasks["similarity"].sources, BTreeMap::from([("s".into(), 2), ("t".into(), 1)]));
        let warned: Vec<String> =
            warnings(&tasks).iter().map(|(task, warning)| format!("{task}: {warning}")).collect();
        assert_eq!(warned.len(), 10, "{warned:#?}");
        assert_eq!(warned[0], "design: few_clusters: 1 homology cluster(s) in train, fewer than 50");
        assert_eq!(warned[4], "go: empty_valid: no record in valid");
    }

    #[test]
    fn what_is_said_in_train_is_counted() {
        let tasks = tasks();
        let answers = |split| tasks["similarity"].parts[&split].answers.unwrap();
        assert_eq!(answers(Split::Train), Answers { texts: 2, in_train: None, near_train: None });
        assert_eq!(answers(Split::Test), Answers { texts: 2, in_train: Some(1), near_train: Some(2) });
    }

    #[test]
    fn shares_of_draws_are_the_sampler_s() {
        let tasks = tasks();
        let drawn = draws(&tasks, 0.5);
        assert_eq!(drawn.keys().collect::<Vec<_>>(), [&"go", &"ppi", &"similarity"]);
        let share = 3_f64.sqrt() / (2.0 * 3_f64.sqrt() + 2_f64.sqrt());
        assert!((drawn["ppi"].share - share).abs() < 1e-12);
        // Half of the draws is for the one pair that interacts, half for the two that do not.
        let want = [share * 8.0 / 2.0 / 2.0, share * 8.0 / 2.0];
        assert!(drawn["ppi"].times.iter().zip(want).all(|(times, want)| (times - want).abs() < 1e-12));
        let even = draws(&tasks, 1.0);
        assert!(
            (even["go"].times[0] - 1.0).abs() < 1e-12 && (even["similarity"].times[0] - 1.0).abs() < 1e-12
        );
    }
}
