//! Records → questions in words.

use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::record::{Fact, Record};
use crate::chat::Message;
use crate::label;
use crate::tokenizer::{PROTEIN_EMBED, PROTEIN_END, PROTEIN_START};

/// How a protein stands in the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProteinPath {
    /// As vectors of the encoder, between the boundary tokens.
    Encoder,
    /// As letters: `<protein>MKT…</protein>`.
    Letters,
}

/// What is true of an example, in the words of the tables. Text answers have no score.
#[derive(Debug, Clone, PartialEq)]
pub enum Truth {
    /// The statement.
    Text(String),
    /// Annotated terms of one aspect (`F`, `P`, `C`), not yet propagated.
    Go {
        /// The aspect that was asked for.
        aspect: char,
        /// The terms, sorted.
        terms: Vec<String>,
    },
    /// Whether they interact.
    Ppi(bool),
    /// kcal/mol, positive = destabilising.
    Ddg(f32),
    /// Mean pLDDT, 0–100.
    Plddt(f32),
}

/// A protein that a question shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its residues.
    pub sequence: Arc<str>,
    /// The residue that the question is about, 0-based: where a mutation is, or whose structure is asked for.
    pub site: Option<usize>,
}

impl Shown {
    fn whole(sequence: &Arc<str>) -> Self {
        Self { sequence: sequence.clone(), site: None }
    }
}

/// One question with its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// One of [`super::TASKS`].
    pub task: String,
    /// The chat up to where the model speaks.
    pub prompt: Vec<Message>,
    /// What it should say.
    pub answer: String,
    /// In the order of their places in the prompt; empty where the prompt spells them in letters.
    pub proteins: Vec<Shown>,
    /// Homology cluster.
    pub cluster: String,
    /// What an answer is scored against.
    pub truth: Truth,
}

const GO: &[&str] = &[
    "{A}\nWhich {aspect} terms of the Gene Ontology describe this protein?",
    "{A}\nList the GO terms of this protein. Aspect: {aspect}.",
    "Annotate this protein with {aspect} GO terms.\n{A}",
];
const PPI: &[&str] = &[
    "Protein A: {A}\nProtein B: {B}\nDo they interact?",
    "{A}\n{B}\nDo these two proteins bind each other? Answer yes or no.",
    "Does the first protein interact with the second?\n{A}\n{B}",
];
const DDG: &[&str] = &[
    "Wild type: {A}\nMutant: {B}\nThe mutation {code} replaces {from} by {to}. What is its ddG in kcal/mol?",
    "{A}\n{B}\nThe second protein is the first with {code}: {from} becomes {to}. ddG of folding in kcal/mol?",
    "How much does {code} ({from} to {to}) destabilise the protein, in kcal/mol?\nBefore: {A}\nAfter: {B}",
];
const PLDDT: &[&str] = &[
    "{A}\nHow confident is the predicted structure: high, medium or low? Give the mean pLDDT too.",
    "{A}\nWhat pLDDT does the predicted structure of this protein have?",
    "Rate the confidence of a structure prediction for this protein.\n{A}",
];
const SS: &[&str] = &[
    "{A}\nWhat is the secondary structure of {code}, a {from}: helix, strand or coil?",
    "{A}\nIs {code} ({from}) in a helix, in a strand or in neither?",
    "Say the secondary structure at {code} ({from}).\n{A}",
];
const TEXT: &[&str] =
    &["{A}\nWhat is the {what} of this protein?", "{A}\nState its {what}.", "Describe the {what}.\n{A}"];

impl Record {
    /// Asks about the record in one of the wordings. Partners of an interaction come in either order.
    pub fn ask(&self, rng: &mut ChaCha8Rng, path: ProteinPath) -> Example {
        let mut proteins: Vec<Shown> = self.proteins.iter().map(Shown::whole).collect();
        let (wordings, answer, truth) = match &self.fact {
            Fact::Text { text, .. } => (TEXT, text.clone(), Truth::Text(text.clone())),
            Fact::Go { aspect, terms, answer } => {
                (GO, block(&answer.join(", ")), Truth::Go { aspect: *aspect, terms: terms.clone() })
            }
            Fact::Ppi(label) => {
                if rng.random() {
                    proteins.reverse();
                }
                (PPI, block(if *label { "yes" } else { "no" }), Truth::Ppi(*label))
            }
            Fact::Ddg { position, mutant, kcal, .. } => {
                proteins.push(Shown::whole(&mutate(&self.proteins[0], *position, *mutant)));
                proteins.iter_mut().for_each(|protein| protein.site = Some(*position as usize - 1));
                (DDG, block(&format!("{kcal:.1}")), Truth::Ddg(*kcal))
            }
            Fact::Plddt(mean) => (PLDDT, block(&plddt_answer(*mean)), Truth::Plddt(*mean)),
            Fact::Ss(states) => {
                let known: Vec<usize> =
                    (0..states.len()).filter(|&at| states[at] != label::UNKNOWN).collect();
                let site = known[rng.random_range(..known.len())];
                proteins[0].site = Some(site);
                let answer = block(["helix", "strand", "coil"][usize::from(states[site])]);
                (SS, answer.clone(), Truth::Text(answer))
            }
        };
        let wording = wordings[rng.random_range(0..wordings.len())];
        let question = self.fill(wording, &proteins, path);
        Example {
            task: self.task.clone(),
            prompt: vec![Message::user(question)],
            answer,
            proteins: if path == ProteinPath::Encoder { proteins } else { vec![] },
            cluster: self.cluster.clone(),
            truth,
        }
    }

    fn fill(&self, wording: &str, proteins: &[Shown], path: ProteinPath) -> String {
        let shown = |at: usize| match (path, proteins.get(at)) {
            (ProteinPath::Encoder, _) => format!("{PROTEIN_START}{PROTEIN_EMBED}{PROTEIN_END}"),
            (ProteinPath::Letters, shown) => {
                format!("<protein>{}</protein>", shown.map_or("", |s| s.sequence.as_ref()))
            }
        };
        let mut question = wording.to_owned();
        match &self.fact {
            Fact::Text { question: asked, .. } if !asked.is_empty() => question = format!("{{A}}\n{asked}"),
            Fact::Text { .. } => question = question.replace("{what}", &self.task.replace('_', " ")),
            Fact::Go { aspect, .. } => question = question.replace("{aspect}", aspect_name(*aspect)),
            Fact::Ddg { wild_type, position, mutant, .. } => {
                question = question
                    .replace("{code}", &format!("{wild_type}{position}{mutant}"))
                    .replace("{from}", residue_name(*wild_type))
                    .replace("{to}", residue_name(*mutant));
            }
            Fact::Ss(_) => {
                let site = proteins[0].site.unwrap_or_default();
                let letter = proteins[0].sequence.as_bytes()[site] as char;
                question = question
                    .replace("{code}", &format!("{letter}{}", site + 1))
                    .replace("{from}", residue_name(letter));
            }
            Fact::Ppi(_) | Fact::Plddt(_) => {}
        }
        question.replace("{A}", &shown(0)).replace("{B}", &shown(1))
    }
}

/// The block that rewards read; the grammar is that of the rewards crate.
fn block(content: &str) -> String {
    format!("<answer>{}</answer>", if content.is_empty() { "none" } else { content })
}

fn plddt_answer(mean: f32) -> String {
    let class = match mean {
        m if m > 80.0 => "high",
        m if m > 50.0 => "medium",
        _ => "low",
    };
    format!("{class}, {mean:.0}")
}

fn mutate(sequence: &str, position: u32, mutant: char) -> Arc<str> {
    let at = position as usize;
    sequence
        .chars()
        .enumerate()
        .map(|(i, letter)| if i + 1 == at { mutant } else { letter })
        .collect::<String>()
        .into()
}

fn aspect_name(aspect: char) -> &'static str {
    match aspect {
        'F' => "molecular function",
        'P' => "biological process",
        _ => "cellular component",
    }
}

fn residue_name(letter: char) -> &'static str {
    match letter {
        'A' => "alanine",
        'C' => "cysteine",
        'D' => "aspartate",
        'E' => "glutamate",
        'F' => "phenylalanine",
        'G' => "glycine",
        'H' => "histidine",
        'I' => "isoleucine",
        'K' => "lysine",
        'L' => "leucine",
        'M' => "methionine",
        'N' => "asparagine",
        'P' => "proline",
        'Q' => "glutamine",
        'R' => "arginine",
        'S' => "serine",
        'T' => "threonine",
        'V' => "valine",
        'W' => "tryptophan",
        'Y' => "tyrosine",
        _ => "another residue",
    }
}

#[cfg(test)]
mod tests {
    use super::super::Records;
    use super::super::record::tests::{options, tables};
    use super::*;
    use crate::rng;

    fn records() -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let all = options(&["function", "go", "ppi", "ddg", "plddt"]);
        Records::read(dir.path(), &all, &|terms| terms.to_vec()).unwrap().train
    }

    #[test]
    fn answers_follow_the_grammar() {
        let answers: Vec<String> =
            records().iter().map(|r| r.ask(&mut rng(1, "ask", 0), ProteinPath::Encoder).answer).collect();
        for wanted in [
            "Binds kresp.",
            "<answer>GO:0000001</answer>",
            "<answer>GO:0000002, GO:0000003</answer>",
            "<answer>yes</answer>",
            "<answer>1.3</answer>",
            "<answer>high, 84</answer>",
        ] {
            assert!(answers.iter().any(|a| a == wanted), "{wanted} in {answers:?}");
        }
    }

    #[test]
    fn every_wording_shows_every_protein() {
        for record in records() {
            let mut seen = std::collections::BTreeSet::new();
            for step in 0..40 {
                let encoder = record.ask(&mut rng(1, "ask", step), ProteinPath::Encoder);
                let letters = record.ask(&mut rng(1, "ask", step), ProteinPath::Letters);
                let text = &encoder.prompt[0].content;
                assert_eq!(text.matches(PROTEIN_EMBED).count(), encoder.proteins.len(), "{text}");
                assert!(letters.proteins.is_empty());
                for protein in &encoder.proteins {
                    let shown = format!("<protein>{}</protein>", protein.sequence);
                    assert!(letters.prompt[0].content.contains(&shown), "{}", letters.prompt[0].content);
                }
                assert!(!text.contains('{') && !text.contains('}'), "{text}");
                seen.insert(text.clone());
            }
            assert_eq!(seen.len(), 3, "three wordings of {}", record.task);
        }
    }

    #[test]
    fn the_mutant_differs_in_its_position_only() {
        let records = records();
        let ddg = records
            .iter()
            .find(|r| r.task == "ddg")
            .unwrap()
            .ask(&mut rng(1, "ask", 0), ProteinPath::Encoder);
        let shown: Vec<_> = ddg.proteins.iter().map(|p| (&*p.sequence, p.site)).collect();
        assert_eq!(shown, [("MKTAYIAKQRMKTAYIAKQR", Some(1)), ("MATAYIAKQRMKTAYIAKQR", Some(1))]);
        assert!(ddg.prompt[0].content.contains("K2A") && ddg.prompt[0].content.contains("lysine"));
    }
}
