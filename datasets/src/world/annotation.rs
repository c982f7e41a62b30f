//! The ontology file and two annotation files: GAF and QuickGO.

use std::collections::BTreeSet;
use std::path::Path;

use super::dice::Dice;
use super::fault;
use super::ontology::{Ontology, Term, namespace};
use super::sheet::{self, Sheet};
use super::swissprot::{self, Annotator};
use super::universe::{Member, ORGANISMS, Universe, ghost};
use super::{Truth, motif};
use crate::Error;

const OBO: &str = "go/madeup_go.obo";
/// Annotations in the GO consortium's own format.
pub(super) const GAF: &str = "go/madeup_goa.gaf.gz";
/// Annotations as QuickGO exports them.
pub(super) const QUICKGO: &str = "go/madeup_quickgo.tsv.gz";

/// An id that the ontology does not have.
pub(super) const UNKNOWN: &str = "GO:9909999";

/// Writes the three files.
pub(super) fn write(
    universe: &Universe,
    ontology: &Ontology,
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    sheet::write_file(&out.join(OBO), ontology.to_obo().as_bytes(), 1)?;
    truth.rows.insert(OBO.to_owned(), ontology.terms.len() as u64);
    let gaf_header = "!gaf-version: 2.2\n!every line of this file is made up\n";
    let gaf = Sheet::new(GAF, gaf_header).gzip_members(2);
    truth.note_odd(GAF, "gzip_members");
    write_file(gaf, Annotator::Gaf, gaf_line, universe, ontology, truth).finish(out, truth)?;
    let quickgo_header = "GENE PRODUCT DB\tGENE PRODUCT ID\tSYMBOL\tQUALIFIER\tGO TERM\tGO NAME\tGO ASPECT\tECO ID\t\
        GO EVIDENCE CODE\tREFERENCE\tWITH/FROM\tTAXON ID\tTAXON NAME\tASSIGNED BY\tGENE NAME\tDATE\n";
    let quickgo = Sheet::new(QUICKGO, quickgo_header);
    write_file(quickgo, Annotator::QuickGo, quickgo_line, universe, ontology, truth).finish(out, truth)
}

/// The terms of a protein: the leaves of its motifs, one in seven said less exactly, at the parent.
fn annotations(universe: &Universe, ontology: &Ontology, at: usize) -> BTreeSet<String> {
    let mut dice = Dice::new(universe.seed, "annotations", at);
    let leaves = universe.members[at].motifs.iter().flat_map(|&m| &ontology.leaves[m]);
    let said = leaves.map(|leaf| {
        let parent = &ontology.terms[leaf].is_a[0];
        if dice.chance(1.0 / 7.0) { parent.clone() } else { leaf.clone() }
    });
    said.collect()
}

/// One annotation, to be written in either format.
struct Line<'a> {
    accession: &'a str,
    member: &'a Member,
    id: &'a str,
    term: &'a Term,
    evidence: (&'a str, &'a str),
    negated: bool,
}

fn write_file(
    mut sheet: Sheet,
    annotator: Annotator,
    render: fn(&Line<'_>) -> String,
    universe: &Universe,
    ontology: &Ontology,
    truth: &mut Truth,
) -> Sheet {
    let mut dice = universe.dice(sheet.path());
    let mut lines = Vec::new();
    for at in swissprot::chosen(universe) {
        if swissprot::annotator(universe, at) != annotator {
            continue;
        }
        let member = &universe.members[at];
        for id in annotations(universe, ontology, at) {
            let term = &ontology.terms[&id];
            let spelt = spell(ontology, term, &mut dice, |kind| truth.note_odd(sheet.path(), kind));
            let evidence =
                *dice.pick(&[("IDA", "ECO:0000314"), ("IMP", "ECO:0000315"), ("IEA", "ECO:0000501")]);
            let accession = &member.accession;
            lines.push(render(&Line { accession, member, id: &spelt, term, evidence, negated: false }));
        }
        truth.hold(sheet.path(), member.sequence());
    }
    lines.iter().for_each(|line| sheet.keep(line.as_str()));
    lines.iter().step_by(7).take(4).for_each(|line| sheet.merge(line.as_str()));
    plant(&mut sheet, render, universe, ontology);
    sheet
}

/// The id under which a term is named: now and then an alternative one, or an obsolete term that it replaced.
fn spell(ontology: &Ontology, term: &Term, dice: &mut Dice, mut note: impl FnMut(&str)) -> String {
    if !term.alt_ids.is_empty() && dice.chance(0.2) {
        note("alt_id");
        return term.alt_ids[0].clone();
    }
    let forerunner =
        ontology.obsolete(true).into_iter().find(|old| old.replaced_by.as_ref() == Some(&term.id));
    match forerunner {
        Some(old) if dice.chance(0.2) => {
            note("replaced_term");
            old.id.clone()
        }
        _ => term.id.clone(),
    }
}

fn plant(sheet: &mut Sheet, render: fn(&Line<'_>) -> String, universe: &Universe, ontology: &Ontology) {
    let holder = swissprot::chosen(universe)[0];
    let member = &universe.members[holder];
    // terms that the protein does not have, so that a bad line that is let through changes the table
    let foreign =
        (0..motif::MOTIFS.len()).filter(|m| !member.motifs.contains(m)).map(|m| &ontology.leaves[m][0]);
    let foreign: Vec<&String> = foreign.collect();
    let evidence = ("IDA", "ECO:0000314");
    let line = |accession: &str, id: &str, term: &str, negated: bool| {
        render(&Line { accession, member, id, term: &ontology.terms[term], evidence, negated })
    };
    let known = member.accession.as_str();
    for term in &foreign[..3] {
        sheet.fault("negated", line(known, term, term, true));
    }
    for term in &foreign[3..5] {
        sheet.fault("unknown_term", line(known, UNKNOWN, term, false));
    }
    for term in ontology.obsolete(false) {
        sheet.fault("obsolete_term", line(known, &term.id, &term.id, false));
    }
    for (number, term) in foreign[5..8].iter().enumerate() {
        sheet.fault("no_sequence", line(&ghost(2_000 + number), term, term, false));
    }
    let good = line(known, foreign[8], foreign[8], false);
    for (reason, row) in fault::bytes(&good) {
        sheet.fault(reason, row);
    }
    let short: Vec<&str> = good.split('\t').take(5).collect();
    sheet.fault("malformed", short.join("\t"));
}

fn qualifier(line: &Line<'_>) -> String {
    let relation = match line.term.aspect {
        'F' => "enables",
        'P' => "involved_in",
        _ => "located_in",
    };
    if line.negated { format!("NOT|{relation}") } else { relation.to_owned() }
}

/// The 17 columns of GAF 2.2.
fn gaf_line(line: &Line<'_>) -> String {
    let Line { accession, member, id, term, evidence, .. } = line;
    let taxon = ORGANISMS[member.organism].2;
    format!(
        "UniProtKB\t{accession}\t{}\t{}\t{id}\tPMID:99000000\t{}\t\t{}\t{}\t\tprotein\ttaxon:{taxon}\t20261120\tMadeUp\t\t",
        member.gene(),
        qualifier(line),
        evidence.0,
        term.aspect,
        member.name(),
    )
}

/// The 16 columns of a QuickGO download.
fn quickgo_line(line: &Line<'_>) -> String {
    let Line { accession, member, id, term, evidence, .. } = line;
    let (organism, _, taxon) = ORGANISMS[member.organism];
    format!(
        "UniProtKB\t{accession}\t{}\t{}\t{id}\t{}\t{}\t{}\t{}\tPMID:99000000\t\t{taxon}\t{organism}\tMadeUp\t{}\t20261120",
        member.gene(),
        qualifier(line),
        term.name,
        namespace(term.aspect),
        evidence.1,
        evidence.0,
        member.name(),
    )
}
