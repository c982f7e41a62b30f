//! The five text sources of protein instructions.

use std::path::Path;

use serde_json::{Value, json};

use super::Truth;
use super::dice::Dice;
use super::fault;
use super::motif::{MOTIFS, Role};
use super::sheet::{Layout, Sheet};
use super::universe::{Member, Universe, ghost};
use crate::Error;

/// The Mol-Instructions files: path, task as in their metadata, share of the proteins.
const MOL: [(&str, &str, f64); 5] = [
    ("instruct/madeup_mol_instructions/catalytic_activity.json", "catalytic activity", 0.3),
    ("instruct/madeup_mol_instructions/domain_motif.json", "domain/motif", 0.15),
    ("instruct/madeup_mol_instructions/general_function.json", "general function", 0.2),
    ("instruct/madeup_mol_instructions/protein_function.json", "protein function", 0.2),
    ("instruct/madeup_mol_instructions/protein_design.json", "protein design", 0.1),
];

/// Files that only a later stage reads.
pub(super) const LATER: [&str; 5] = [
    "instruct/madeup_protein_lm.json",
    "instruct/madeup_clap_protein_sequence.txt",
    "instruct/madeup_clap_text_sequence.txt",
    "instruct/madeup_prot_describe.tsv",
    "instruct/madeup_protein2text_qa.json",
];

/// Stock openers, which say nothing about the protein.
const OPENERS: [&str; 4] = [
    "Judging by the sequence, this protein most likely",
    "Based on the given amino acid sequence, the protein",
    "An analysis of the sequence suggests that the protein",
    "Upon evaluating your submitted sequence, our predictive algorithms suggest that it",
];

/// Writes every text file.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    for (file, task, share) in MOL {
        write_mol(universe, file, task, share, out, truth)?;
    }
    write_protein_lm(universe, out, truth)?;
    write_clap(universe, out, truth)?;
    write_prot_describe(universe, out, truth)?;
    write_qa(universe, out, truth)
}

/// Whether Mol-Instructions puts a protein into its own test part: one in ten.
fn is_test(universe: &Universe, at: usize) -> bool {
    Dice::new(universe.seed, "mol/split", at).chance(0.1)
}

fn write_mol(
    universe: &Universe,
    file: &'static str,
    task: &str,
    share: f64,
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    let enzymatic = |m: &Member| m.motifs.iter().any(|&at| MOTIFS[at].role == Role::Enzyme);
    let chosen = universe.choose(file, share, |m| task != "catalytic activity" || enzymatic(m));
    let mut sheet = Sheet::new(file, "").layout(Layout::JsonArray);
    let mut records = Vec::new();
    for &at in &chosen {
        let member = &universe.members[at];
        let spelt = if records.len() == 1 {
            truth.note_odd(file, "lower_case");
            member.sequence().to_lowercase()
        } else {
            member.sequence().to_owned()
        };
        let split = if is_test(universe, at) { "test" } else { "train" };
        if split == "test" {
            truth.note_odd(file, "test_in_train");
        }
        let text = answer(member, task, &mut Dice::new(universe.seed, file, at));
        let record = Record { accession: &member.accession, sequence: &spelt, task, split, text: &text };
        records.push(record.render());
        truth.hold(file, member.sequence());
    }
    truth.single_word.insert(file.to_owned(), 0);
    records.iter().for_each(|record| sheet.keep(record.to_string()));
    plant_mol(&mut sheet, universe, task, &chosen, &records, truth);
    sheet.finish(out, truth)
}

fn plant_mol(
    sheet: &mut Sheet,
    universe: &Universe,
    task: &str,
    chosen: &[usize],
    records: &[Value],
    truth: &mut Truth,
) {
    let mut dice = universe.dice(sheet.path());
    for record in records.iter().take(2) {
        sheet.merge(record.to_string());
    }
    let Some((&first, record)) = chosen.first().zip(records.first()) else { return };
    let (member, design) = (&universe.members[first], task == "protein design");
    let text = answer(member, task, &mut dice);
    let accession = member.accession.as_str();
    let other = fault::letters(43, &mut dice);
    let conflict = Record { accession, sequence: &other, task, split: "train", text: &text };
    sheet.late_fault("id_conflict", conflict.render().to_string());
    let mut number = 0;
    let mut ghostly = |sequence: &str, text: &str| {
        number += 1;
        let accession = &ghost(1_000 + number);
        Record { accession, sequence, task, split: "train", text }.render().to_string()
    };
    for (reason, sequence) in fault::sequences(&mut dice) {
        let row = ghostly(&sequence, &text);
        sheet.fault(reason, row);
    }
    let sequence = fault::letters(37, &mut dice);
    if !design {
        for word in ["Unknown.", "Enzyme"] {
            sheet.fault("single_word", ghostly(&sequence, word));
            *truth.single_word.entry(sheet.path().to_owned()).or_default() += 1;
        }
        sheet.fault("empty_text", ghostly(&sequence, ""));
        sheet.fault("empty_text", ghostly(&sequence, " \n "));
    }
    let mut wrong_type = record.clone();
    wrong_type["output"] = json!(17);
    let mut missing = record.clone();
    missing.as_object_mut().expect("records are objects").remove("input");
    for bad in [wrong_type, missing, json!("not a record"), json!(null)] {
        sheet.fault("malformed", bad.to_string());
    }
}

/// A record of Mol-Instructions.
struct Record<'a> {
    accession: &'a str,
    sequence: &'a str,
    task: &'a str,
    split: &'a str,
    text: &'a str,
}

impl Record<'_> {
    fn render(&self) -> Value {
        let Self { accession, sequence, task, split, text } = *self;
        let fenced = format!("```\n{sequence}\n```");
        let (instruction, input, output) = match task {
            "protein design" => {
                ("Design a protein sequence that has the following properties.", text.to_owned(), fenced)
            }
            "catalytic activity" => {
                ("Examine the provided protein and name the reaction it promotes:", fenced, text.to_owned())
            }
            "domain/motif" => ("Name the motifs that occur in this protein:", fenced, text.to_owned()),
            _ => ("Describe what the protein with this sequence does:", fenced, text.to_owned()),
        };
        json!({
            "instruction": instruction, "input": input, "output": output,
            "metadata": {
                "protein_accession": accession, "seq_len": sequence.len().to_string(), "task": task, "split": split,
            },
        })
    }
}

fn answer(member: &Member, task: &str, dice: &mut Dice) -> String {
    let deed = member.function();
    let stems: Vec<&str> = member.motifs.iter().map(|&m| MOTIFS[m].stem).collect();
    match task {
        "catalytic activity" => {
            let reactions: Vec<String> = member
                .motifs
                .iter()
                .filter(|&&m| MOTIFS[m].role == Role::Enzyme)
                .map(|&m| format!("{0}ate = {0}ol", MOTIFS[m].stem))
                .collect();
            format!("{} promotes the reaction {}.", dice.pick(&OPENERS), reactions.join(" and "))
        }
        "domain/motif" => format!("{} contains the motifs of {}.", dice.pick(&OPENERS), stems.join(", ")),
        "general function" => format!("{} {deed}, as all of its made-up kin.", dice.pick(&OPENERS)),
        "protein function" => format!("{} {deed}.", dice.pick(&OPENERS)),
        _ => format!("1. The protein {deed}.\n2. The protein has {} residues.", member.chain.len()),
    }
}

/// ProteinLMDataset: headed sections in one long text, the sequence spelt with blanks.
fn write_protein_lm(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(LATER[0], "").layout(Layout::JsonArray);
    let (mut single_word, mut evidence) = (0, 0);
    for at in universe.choose(LATER[0], 0.3, |_| true) {
        let member = &universe.members[at];
        let spelt: Vec<String> = member.sequence().chars().map(String::from).collect();
        // a third of the answers on subunits is one word, as in the original
        let subunit = if at % 3 == 0 { "Monomer." } else { "Homodimer of two equal chains." };
        single_word += u64::from(at % 3 == 0);
        let text = format!(
            "{}, with UniProt accession number {}, has the sequence <seq> {} </seq>.\nFunction: The protein {}. \
             {{ECO:0000255}}\nSubunit Structure: {subunit}\nInduction: By made-up stress in the morning.",
            member.name(),
            member.accession,
            spelt.join(" "),
            member.function(),
        );
        evidence += 1;
        sheet.keep(json!({ "conversation": [{ "output": text }] }).to_string());
        truth.hold(LATER[0], member.sequence());
    }
    truth.single_word.insert(LATER[0].to_owned(), single_word);
    truth.evidence_codes.insert(LATER[0].to_owned(), evidence);
    sheet.finish(out, truth)
}

/// SwissProtCLAP: two files of alternating lines, in the same order.
fn write_clap(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let (mut sequences, mut texts) = (Sheet::new(LATER[1], ""), Sheet::new(LATER[2], ""));
    for at in universe.choose(LATER[1], 0.25, |_| true) {
        let member = &universe.members[at];
        let text =
            format!("Protein that {}. Belongs to the made-up family {}.", member.function(), member.family);
        sequences.keep(format!("{}\n{}", member.accession, member.sequence()));
        texts.keep(format!("{}\n{text}", member.accession));
        truth.hold(LATER[1], member.sequence());
    }
    sequences.finish(out, truth)?;
    texts.finish(out, truth)
}

/// ProtDescribe: prefixes and evidence codes are part of the cells.
fn write_prot_describe(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let header = "EntryName\tProteinName\tFunction\tSubcellularLocation\tSimilarity\tSequence\n";
    let mut sheet = Sheet::new(LATER[3], header);
    let (mut single_word, mut evidence) = (0, 0);
    for at in universe.choose(LATER[3], 0.3, |_| true) {
        let member = &universe.members[at];
        let place = if at % 17 == 0 { "Veil" } else { "Outer veil" };
        single_word += u64::from(at % 17 == 0);
        evidence += 2;
        sheet.keep(format!(
            "{}\tPROTEIN NAME: {}\tFUNCTION: This protein {} {{ECO:0000255|HAMAP-Rule:MF_99999}}\t\
             SUBCELLULAR LOCATION: {place}\tSIMILARITY: Belongs to the made-up family {} {{ECO:0000305}}\t{}",
            member.entry_name(),
            member.name(),
            member.function(),
            member.family,
            member.sequence(),
        ));
        truth.hold(LATER[3], member.sequence());
    }
    truth.single_word.insert(LATER[3].to_owned(), single_word);
    truth.evidence_codes.insert(LATER[3].to_owned(), evidence);
    sheet.finish(out, truth)
}

/// Protein2Text-QA: conversations about one protein.
fn write_qa(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(LATER[4], "").layout(Layout::JsonArray);
    for at in universe.choose(LATER[4], 0.1, |_| true) {
        let member = &universe.members[at];
        for (nth, &m) in member.motifs.iter().enumerate() {
            let question =
                format!("<protein_sequence>\nWhat does this protein have to do with {}?", MOTIFS[m].stem);
            let record = json!({
                "long_format_id": format!("{}_{nth}", member.accession), "id": member.accession,
                "protein": member.name(), "pmc_id": [], "amino_seq": member.sequence(),
                "conversations": [
                    { "from": "human", "value": question },
                    { "from": "gpt", "value": format!("It {}.", MOTIFS[m].deed()) },
                ],
            });
            sheet.keep(record.to_string());
        }
        truth.hold(LATER[4], member.sequence());
    }
    sheet.finish(out, truth)
}
