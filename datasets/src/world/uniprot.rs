//! UniProt's other formats: XML, FASTA and the table that its site exports, each of some of the proteins.

use std::path::Path;

use super::Truth;
use super::fault;
use super::ontology::Ontology;
use super::sheet::{Layout, Sheet};
use super::universe::{Member, ORGANISMS, Universe, ghost};
use crate::Error;

/// The files; the recipe of the sample run does not read them.
pub(super) const FILES: [&str; 3] = [XML, FASTA, TABLE];
const XML: &str = "swissprot/madeup_sprot.xml.gz";
const FASTA: &str = "swissprot/madeup_sprot.fasta.gz";
const TABLE: &str = "swissprot/madeup_sprot.tsv.gz";

/// Writes the three files.
pub(super) fn write(
    universe: &Universe,
    ontology: &Ontology,
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    let xml = Sheet::new(
        XML,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<uniprot xmlns=\"http://uniprot.org/uniprot\">\n",
    );
    let element = |at: usize, accession: &str, sequence: &str| {
        element(&universe.members[at], ontology, accession, sequence)
    };
    write_file(xml.layout(Layout::Xml("\n</uniprot>\n")), universe, &element, out, truth, |sheet| {
        let sequence = fault::letters(41, &mut universe.dice(XML));
        let whole = element(0, &ghost(6_000), &sequence);
        sheet.fault("malformed", whole.replace("accession>", "number>"));
        sheet.fault("malformed", whole.replace("</protein>", ""));
    })?;
    let fasta = |at: usize, accession: &str, sequence: &str| {
        let member = &universe.members[at];
        let (organism, mnemonic, taxon) = ORGANISMS[member.organism];
        format!(
            ">sp|{accession}|{accession}_{mnemonic} {} OS={organism} OX={taxon} GN={} PE=1 SV=1\n{sequence}",
            member.name(),
            member.gene()
        )
    };
    write_file(Sheet::new(FASTA, ""), universe, &fasta, out, truth, |sheet| {
        sheet.fault("malformed", format!(">{} no bars\nMKTAYIAKQRQISFVKSHFSRQ", ghost(6_000)));
    })?;
    let header = "Entry\tEntry Name\tProtein names\tOrganism\tFunction [CC]\tSequence\n";
    let line = |at: usize, accession: &str, sequence: &str| {
        let member = &universe.members[at];
        let (organism, mnemonic, _) = ORGANISMS[member.organism];
        let (name, function) = (member.name(), member.function());
        format!(
            "{accession}\t{accession}_{mnemonic}\t{name}\t{organism}\tFUNCTION: This protein {function} \
             {{ECO:0000305}}.\t{sequence}"
        )
    };
    write_file(Sheet::new(TABLE, header), universe, &line, out, truth, |sheet| {
        sheet.fault("malformed", format!("{}\tonly three\tcells", ghost(6_000)));
    })
}

/// A tenth of the proteins, two of them twice, and everything that can be wrong with them; `more` plants what is special
/// to the format.
fn write_file(
    mut sheet: Sheet,
    universe: &Universe,
    row: &dyn Fn(usize, &str, &str) -> String,
    out: &Path,
    truth: &mut Truth,
    more: impl FnOnce(&mut Sheet),
) -> Result<(), Error> {
    let file = sheet.path();
    let chosen = universe.choose(file, 0.1, |_| true);
    let of = |at: usize| {
        let member = &universe.members[at];
        row(at, &member.accession, member.sequence())
    };
    for &at in &chosen {
        sheet.keep(of(at));
        truth.hold(file, universe.members[at].sequence());
    }
    chosen.iter().take(2).for_each(|&at| sheet.merge(of(at)));
    let mut dice = universe.dice(file);
    for &at in chosen.iter().skip(2).take(2) {
        let other = fault::letters(61, &mut dice);
        sheet.late_fault("id_conflict", row(at, &universe.members[at].accession, &other));
    }
    for (number, (reason, sequence)) in fault::sequences(&mut dice).into_iter().enumerate() {
        sheet.fault(reason, row(0, &ghost(6_001 + number), &sequence));
    }
    let sequence = fault::letters(37, &mut dice);
    for (reason, bytes) in fault::bytes(&row(0, &ghost(6_100), &sequence)) {
        sheet.fault(reason, bytes);
    }
    more(&mut sheet);
    sheet.finish(out, truth)
}

fn element(member: &Member, ontology: &Ontology, accession: &str, sequence: &str) -> String {
    let (organism, mnemonic, taxon) = ORGANISMS[member.organism];
    let leaf = &ontology.terms[&ontology.leaves[member.motifs[0]][0]];
    format!(
        "<entry dataset=\"Swiss-Prot\" created=\"2026-11-20\">\n<accession>{accession}</accession>\n\
         <name>{accession}_{mnemonic}</name>\n<protein><recommendedName><fullName evidence=\"1\">{}</fullName>\
         </recommendedName></protein>\n<gene><name type=\"primary\">{}</name></gene>\n<organism>\
         <name type=\"scientific\">{organism}</name><dbReference type=\"NCBI Taxonomy\" id=\"{taxon}\"/></organism>\n\
         <comment type=\"function\"><text evidence=\"1\">This protein {} &amp; nothing else.</text></comment>\n\
         <dbReference type=\"GO\" id=\"{}\"><property type=\"term\" value=\"{}:{}\"/>\
         <property type=\"evidence\" value=\"ECO:0000314\"/></dbReference>\n\
         <keyword id=\"KW-9999\">Sample data</keyword>\n<evidence type=\"ECO:0000255\" key=\"1\"/>\n\
         <sequence length=\"{}\">{sequence}</sequence>\n</entry>",
        member.name(),
        member.gene(),
        member.function(),
        leaf.id,
        leaf.aspect,
        leaf.name,
        sequence.len(),
    )
}
