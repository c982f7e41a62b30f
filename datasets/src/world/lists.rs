//! Short tables: CATH's domain list, information accretion, sequences with GO labels, STRING's actions, and the two
//! lists of mutations that hold no wild type.

use std::path::Path;

use super::Truth;
use super::annotation::UNKNOWN;
use super::cath;
use super::fault;
use super::ontology::Ontology;
use super::ppi;
use super::sheet::Sheet;
use super::stability::{self, Mutation};
use super::universe::{Universe, ghost};
use crate::Error;

/// The files; the recipe of the sample run does not read them.
pub(super) const FILES: [&str; 6] = [DOMAINS, WEIGHTS, LABELS, ACTIONS, STRUM, ENERGIES];
const DOMAINS: &str = "cath/madeup_domain_list.txt";
const WEIGHTS: &str = "go/madeup_IA.txt.gz";
const LABELS: &str = "go/madeup_labels_mf.lm.jsonl.gz";
const ACTIONS: &str = "ppi/madeup_actions.txt.gz";
const STRUM: &str = "ddg/madeup_Q.txt";
const ENERGIES: &str = "ddg/madeup_folding_free_energies.csv";

/// Writes all of them.
pub(super) fn write(
    universe: &Universe,
    ontology: &Ontology,
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    domains(universe, out, truth)?;
    weights(universe, ontology, out, truth)?;
    labels(universe, ontology, out, truth)?;
    actions(universe, out, truth)?;
    strum(universe, out, truth)?;
    energies(universe, out, truth)
}

/// `CathDomainList`, CLF 2.0.
fn domains(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(DOMAINS, "# CATH List File (CLF) Format 2.0, made up\n");
    let mut rows = Vec::new();
    for at in universe.choose_solved(DOMAINS, 0.3, |_| true) {
        let member = &universe.members[at];
        let node = cath::node(member);
        let parts: Vec<&str> = node.split('.').collect();
        rows.push(format!(
            "{}A00 {:>5} {:>5} {:>5}    10     1     1     1     1     1 {:>5} 2.000",
            member.pdb.to_lowercase(),
            parts[0],
            parts[1],
            parts[2],
            member.chain.len()
        ));
    }
    rows.iter().for_each(|row| sheet.keep(row.as_str()));
    rows.iter().take(2).for_each(|row| sheet.merge(row.as_str()));
    sheet.fault("malformed", "0zzzA00 1 10 8");
    sheet.fault("malformed", rows[0].replacen("A00", "0", 1));
    sheet.fault("bad_label", rows[1].replacen("   10 ", "  ten ", 1));
    for (reason, bytes) in fault::bytes(&rows[2]) {
        sheet.fault(reason, bytes);
    }
    sheet.finish(out, truth)
}

/// CAFA's `IA.txt`.
fn weights(universe: &Universe, ontology: &Ontology, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(WEIGHTS, "");
    let mut dice = universe.dice(WEIGHTS);
    let current: Vec<&String> =
        ontology.terms.iter().filter(|(_, term)| !term.obsolete).map(|(id, _)| id).collect();
    for id in &current {
        sheet.keep(format!("{id}\t{:.3}", dice.between(0.0, 9.0)));
    }
    sheet.merge(format!("{}\t0.5", current[0]));
    sheet.fault("unknown_term", format!("{UNKNOWN}\t1.0"));
    sheet.fault("out_of_range", format!("{}\t-1.0", current[1]));
    sheet.fault("missing_value", format!("{}\tnan", current[1]));
    sheet.fault("malformed", format!("{}\tmuch", current[1]));
    sheet.fault("malformed", current[1].as_str());
    sheet.finish(out, truth)
}

/// PDB-GO as InstructProtein writes it.
fn labels(universe: &Universe, ontology: &Ontology, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(LABELS, "");
    let row = |sequence: &str, label: &[&str]| {
        serde_json::json!({ "sequence": sequence, "label": label, "negative_labels": [UNKNOWN] }).to_string()
    };
    let mut known = None;
    for at in universe.choose(LABELS, 0.1, |_| true) {
        let member = &universe.members[at];
        let terms: Vec<&str> = member.motifs.iter().map(|&m| ontology.leaves[m][0].as_str()).collect();
        let text = row(member.sequence(), &terms);
        known.get_or_insert_with(|| text.clone());
        sheet.keep(text);
        truth.hold(LABELS, member.sequence());
    }
    let mut dice = universe.dice(LABELS);
    let leaf = ontology.leaves[0][0].as_str();
    for (reason, sequence) in fault::sequences(&mut dice) {
        sheet.fault(reason, row(&sequence, &[leaf]));
    }
    let sequence = fault::letters(43, &mut dice);
    sheet.fault("missing_value", row(&sequence, &[]));
    sheet.fault("unknown_term", row(&sequence, &[UNKNOWN]));
    sheet.fault("malformed", row(&sequence, &[leaf]).replace("label\"", "tag\""));
    known.into_iter().for_each(|text| sheet.merge(text));
    sheet.finish(out, truth)
}

/// STRING's actions: every pair that interacts, each mode in both directions.
fn actions(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let header = "item_id_a\titem_id_b\tmode\taction\tis_directional\ta_is_acting\tscore\n";
    let mut sheet = Sheet::new(ACTIONS, header);
    let name = |at: usize| universe.members[at].accession.as_str();
    let line = |a: &str, b: &str, mode: &str, score: &str| format!("{a}\t{b}\t{mode}\t\tf\tf\t{score}");
    let pairs = ppi::partners(universe);
    for (nth, &(a, b)) in pairs.iter().enumerate() {
        let mode = ["binding", "reaction", "activation"][nth % 3];
        sheet.keep(line(name(a), name(b), mode, "900"));
        sheet.merge(line(name(b), name(a), mode, "900"));
        if nth % 5 == 0 {
            sheet.keep(line(name(a), name(b), "ptmod", "400"));
        }
        truth.hold(ACTIONS, universe.members[a].sequence());
        truth.hold(ACTIONS, universe.members[b].sequence());
    }
    let (a, b) = (name(pairs[0].0), name(pairs[0].1));
    sheet.fault("self_pair", line(a, a, "binding", "900"));
    sheet.fault("unknown_protein", line(a, &ghost(7_000), "binding", "900"));
    sheet.fault("bad_label", line(a, b, "friendship", "900"));
    sheet.fault("out_of_range", line(a, b, "binding", "1900"));
    sheet.fault("missing_value", line(a, b, "binding", ""));
    sheet.fault("malformed", format!("{a}\t{b}\tbinding"));
    sheet.finish(out, truth)
}

/// Q3421's layout, of mutations that S2648 has: everything is there already, but for two that are measured again.
fn strum(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let header = "PDB_ID Chain  Pos(PDB) Wildtype mutant  ddG     T       pH   Position(I-TASSER)\n\
                  ------ -----  -------- -------- ------  ----   ----    ----  ------------------\n";
    let mut sheet = Sheet::new(STRUM, header);
    let line = |m: &Mutation<'_>, hundredths: i64| {
        let (value, at) = (stability::kcal(-hundredths), m.at + 1);
        format!("{}\tA\t{at}\t{}\t{}\t{value}\t25\t7.0\t{at}\t", m.member.pdb, m.wild_type, m.mutant)
    };
    let all = stability::of_s2648(universe);
    for mutation in all.iter().take(40) {
        sheet.merge(line(mutation, mutation.hundredths));
    }
    for mutation in all.iter().take(2) {
        sheet.keep(line(mutation, mutation.hundredths + 7));
    }
    let first = line(&all[0], all[0].hundredths);
    sheet.fault("no_sequence", first.replacen(&all[0].member.pdb, "0ZZZ", 1));
    let last = &all[all.len() - 1]; // of another structure, all of whose rows go
    let misplaced = Mutation { at: (last.at + 1) % last.member.chain.len(), ..*last };
    let there = misplaced.member.sequence().as_bytes()[misplaced.at] as char;
    if there != misplaced.wild_type {
        sheet.fault("mutation_mismatch", line(&misplaced, 10));
    }
    sheet.fault("out_of_range", line(&all[0], 9_900));
    sheet.fault("malformed", first.replacen("\tA\t", "\t", 1));
    sheet.fault("bad_mutation", line(&Mutation { mutant: all[0].wild_type, ..all[0] }, 10));
    sheet.finish(out, truth)
}

/// `system_info.csv` of bioemu-benchmarks: wild types and mutants, each with its own sequence.
fn energies(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(ENERGIES, "name,name_wt,mutant,dg_exp,ddg_exp,sequence\n");
    let row = |m: &Mutation<'_>, change: &str, ddg: &str| {
        let pdb = &m.member.pdb;
        format!("{pdb}__{change},{pdb},True,-2.0,{ddg},{}", m.mutant_sequence())
    };
    let all = stability::of_s2648(universe);
    let mut wild_types = std::collections::BTreeSet::new();
    for mutation in all.iter().take(30) {
        if wild_types.insert(&mutation.member.pdb) {
            let pdb = &mutation.member.pdb;
            sheet.keep(format!("{pdb},{pdb},False,-3.0,0.0,{}", mutation.member.sequence()));
        }
        sheet.keep(row(mutation, &mutation.info(), &stability::kcal(mutation.hundredths)));
        truth.hold(ENERGIES, mutation.member.sequence());
    }
    let first = &all[0];
    sheet.fault("bad_mutation", row(first, &format!("{}_A1C", first.info()), "1.0"));
    sheet.fault("bad_mutation", row(first, "", "1.0"));
    sheet.fault("missing_value", row(first, &first.info(), ""));
    sheet.fault("out_of_range", row(first, &first.info(), "99.0"));
    let beyond = format!("{}9999{}", first.wild_type, first.mutant);
    sheet.fault("mutation_mismatch", row(first, &beyond, "1.0"));
    sheet.fault("bad_label", row(first, &first.info(), "1.0").replacen("True", "maybe", 1));
    sheet.finish(out, truth)
}
