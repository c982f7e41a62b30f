//! The UniProt flat file.

use std::path::Path;

use super::Truth;
use super::dice::Dice;
use super::fault;
use super::motif::{MOTIFS, Role};
use super::ontology::Ontology;
use super::sheet::Sheet;
use super::universe::{Member, ORGANISMS, Universe, accession, ghost};
use crate::Error;

/// The file.
pub(super) const FILE: &str = "swissprot/madeup_sprot.dat.gz";

/// Which proteins have an entry: three of five.
pub(super) fn chosen(universe: &Universe) -> Vec<usize> {
    universe.choose("swissprot", 0.6, |_| true)
}

/// Who says what an entry does: the GAF file, the QuickGO file, or the entry itself (`DR   GO;` lines).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Annotator {
    Gaf,
    QuickGo,
    Entry,
}

/// Every entry has one annotator.
pub(super) fn annotator(universe: &Universe, at: usize) -> Annotator {
    let mut dice = Dice::new(universe.seed, "annotator", at);
    *dice.pick(&[Annotator::Gaf, Annotator::Gaf, Annotator::QuickGo, Annotator::QuickGo, Annotator::Entry])
}

/// Writes `swissprot/madeup_sprot.dat.gz`.
pub(super) fn write(
    universe: &Universe,
    ontology: &Ontology,
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    let mut sheet = Sheet::new(FILE, "");
    let chosen = chosen(universe);
    let mut single_word = 0;
    let mut evidence = 0;
    for &at in &chosen {
        let member = &universe.members[at];
        let entry = Entry::new(universe, ontology, at);
        single_word += u64::from(entry.subunit.starts_with("Monomer"));
        let text = entry.render(&member.accession, member.sequence());
        evidence += text.matches("ECO:").count() as u64;
        sheet.keep(text);
        truth.hold(FILE, member.sequence());
    }
    // selenocysteine, pyrrolysine, ambiguous and unknown residues are rare but fine
    for (nth, letter) in "UOBZX".chars().enumerate() {
        let at = chosen[nth % chosen.len()];
        let sequence = format!("{}{letter}", fault::letters(61, &mut universe.dice("nonstandard")));
        let text = Entry::new(universe, ontology, at).render(&ghost(900 + nth), &sequence);
        evidence += text.matches("ECO:").count() as u64;
        sheet.keep(text);
        truth.hold(FILE, &sequence);
        truth.note_odd(FILE, "nonstandard");
    }
    truth.single_word.insert(FILE.to_owned(), single_word);
    truth.evidence_codes.insert(FILE.to_owned(), evidence);
    plant(&mut sheet, universe, ontology, &chosen);
    sheet.finish(out, truth)
}

fn plant(sheet: &mut Sheet, universe: &Universe, ontology: &Ontology, chosen: &[usize]) {
    let mut dice = universe.dice("swissprot/faults");
    let like = |nth: usize| Entry::new(universe, ontology, chosen[nth]);
    for nth in [1, 3, 4] {
        let member = &universe.members[chosen[nth]];
        sheet.merge(like(nth).render(&member.accession, member.sequence()));
    }
    for nth in [0, 2] {
        let other = fault::letters(53, &mut dice);
        sheet.late_fault("id_conflict", like(nth).render(&universe.members[chosen[nth]].accession, &other));
    }
    let mut ghosts = (0..).map(ghost);
    let mut next = || ghosts.next().expect("ghosts never end");
    for (reason, sequence) in fault::sequences(&mut dice) {
        sheet.fault(reason, like(0).render(&next(), &sequence));
    }
    for (reason, bytes) in fault::bytes(&like(1).render(&next(), &fault::letters(47, &mut dice))) {
        sheet.fault(reason, bytes);
    }
    let whole = like(2).render(&next(), &fault::letters(59, &mut dice));
    let without = |prefix: &str| {
        let lines: Vec<&str> = whole.lines().filter(|line| !line.starts_with(prefix)).collect();
        lines.join("\n")
    };
    sheet.fault("malformed", without("AC"));
    sheet.fault("malformed", without("SQ"));
}

/// What one entry says.
struct Entry<'a> {
    member: &'a Member,
    number: usize,
    subunit: String,
    dr: Vec<String>,
}

impl<'a> Entry<'a> {
    fn new(universe: &'a Universe, ontology: &Ontology, at: usize) -> Self {
        let member = &universe.members[at];
        let mut dice = Dice::new(universe.seed, "entry", at);
        let partner = member.motifs.iter().find_map(|&m| match MOTIFS[m].role {
            Role::Lock(_) => Some((MOTIFS[m].stem, "key")),
            Role::Key(_) => Some((MOTIFS[m].stem, "lock")),
            _ => None,
        });
        let subunit = match partner {
            Some((stem, end)) => format!("Interacts with proteins that have the {stem} {end}"),
            None if dice.chance(0.5) => "Monomer".to_owned(),
            None => "Homodimer of two equal chains".to_owned(),
        };
        let mut dr = Vec::new();
        if annotator(universe, at) == Annotator::Entry {
            let leaves: std::collections::BTreeSet<_> =
                member.motifs.iter().flat_map(|&m| &ontology.leaves[m]).collect();
            let line = |id: &&String| {
                let term = &ontology.terms[*id];
                format!("DR   GO; {id}; {}:{}; IEA:UniProtKB-KW.", term.aspect, term.name)
            };
            dr = leaves.iter().map(line).collect();
        }
        Self { member, number: at, subunit, dr }
    }

    fn render(&self, accession: &str, sequence: &str) -> String {
        let (member, length) = (self.member, sequence.len());
        let (organism, mnemonic, taxon) = ORGANISMS[member.organism];
        let experiment = format!("{{ECO:0000269|PubMed:{}}}", 99_000_000 + self.number);
        let inferred = "{ECO:0000255|HAMAP-Rule:MF_99999}";
        let secondary = if self.number.is_multiple_of(20) {
            format!(" {};", secondary(self.number))
        } else {
            String::new()
        };
        let mut lines = vec![
            format!("ID   {:<23} Reviewed;{length:>12} AA.", format!("{accession}_{mnemonic}")),
            format!("AC   {accession};{secondary}"),
            "DT   20-NOV-2026, integrated into UniProtKB/Swiss-Prot.".to_owned(),
            "DT   20-NOV-2026, sequence version 1.".to_owned(),
            "DT   20-NOV-2026, entry version 1.".to_owned(),
            format!("DE   RecName: Full={} {inferred};", member.name()),
        ];
        let enzymes: Vec<usize> =
            member.motifs.iter().copied().filter(|&m| MOTIFS[m].role == Role::Enzyme).collect();
        lines.extend(enzymes.iter().map(|m| format!("DE            EC=5.99.99.{m} {inferred};")));
        lines.push(format!("GN   Name={};", member.gene()));
        lines.extend(wrap("OS   ", "OS   ", &format!("{organism}.")));
        lines.push("OC   Made-up organisms; Ficta.".to_owned());
        lines.push(format!("OX   NCBI_TaxID={taxon};"));
        lines.extend(self.reference());
        let topic = |topic: &str, text: &str| wrap(&format!("CC   -!- {topic}: "), "CC       ", text);
        let mut function = member.function();
        function[..1].make_ascii_uppercase();
        lines.extend(topic("FUNCTION", &format!("{function}. {experiment}.")));
        for &m in &enzymes {
            let stem = MOTIFS[m].stem;
            lines.push("CC   -!- CATALYTIC ACTIVITY:".to_owned());
            let reaction = format!("Reaction={stem}ate = {stem}ol; EC=5.99.99.{m}; Evidence={experiment};");
            lines.extend(wrap("CC       ", "CC         ", &reaction));
        }
        lines.extend(topic("SUBUNIT", &format!("{}. {inferred}.", self.subunit)));
        let place = ["Amber granule", "Copper filament", "Outer veil"][member.motifs[0] % 3];
        lines.extend(topic("SUBCELLULAR LOCATION", &format!("{place} {experiment}.")));
        let family = format!("Belongs to the made-up family {}. {{ECO:0000305}}.", member.family);
        lines.extend(topic("SIMILARITY", &family));
        lines.extend(self.dr.iter().cloned());
        lines.push("PE   1: Evidence at protein level;".to_owned());
        let keywords: Vec<&str> = member.motifs.iter().map(|&m| MOTIFS[m].stem).collect();
        lines.extend(wrap(
            "KW   ",
            "KW   ",
            &format!("Made-up {}; Sample data.", keywords.join("; Made-up ")),
        ));
        lines.extend(sequence_block(sequence));
        lines.push("//".to_owned());
        lines.join("\n")
    }

    fn reference(&self) -> [String; 6] {
        [
            "RN   [1]".to_owned(),
            "RP   FUNCTION.".to_owned(),
            format!("RX   PubMed={};", 99_000_000 + self.number),
            "RA   Nobody N.;".to_owned(),
            "RT   \"A paper that was never written.\";".to_owned(),
            "RL   J. Made-up Res. 1:1-2(2026).".to_owned(),
        ]
    }
}

/// A secondary accession: a protein that was merged into this one.
fn secondary(number: usize) -> String {
    accession(8 * 12_960 + number % 12_960)
}

/// Lines of at most 75 columns, broken at blanks and after hyphens, as UniProt does.
fn wrap(first: &str, next: &str, text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    for piece in text.split_inclusive([' ', '-']) {
        if line.len() + piece.trim_end().len() > 75 && line.len() > next.len() {
            lines.push(line.trim_end().to_owned());
            line = next.to_owned();
        }
        line += piece;
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// The `SQ` block: six groups of ten residues a line.
fn sequence_block(sequence: &str) -> Vec<String> {
    let mut lines = vec![format!(
        "SQ   SEQUENCE {:>5} AA; {:>6} MW;  {:016X} CRC64;",
        sequence.len(),
        molecular_weight(sequence),
        crc64(sequence)
    )];
    for row in sequence.as_bytes().chunks(60) {
        let groups: Vec<&str> = row.chunks(10).map(|g| std::str::from_utf8(g).expect("ASCII")).collect();
        lines.push(format!("     {}", groups.join(" ")));
    }
    lines
}

/// Average mass in Da, residues beyond the twenty counted as 110.
fn molecular_weight(sequence: &str) -> u32 {
    let mass = |residue: u8| match residue {
        b'A' => 71.08,
        b'C' => 103.14,
        b'D' => 115.09,
        b'E' => 129.12,
        b'F' => 147.18,
        b'G' => 57.05,
        b'H' => 137.14,
        b'I' | b'L' => 113.16,
        b'K' => 128.17,
        b'M' => 131.19,
        b'N' => 114.10,
        b'P' => 97.12,
        b'Q' => 128.13,
        b'R' => 156.19,
        b'S' => 87.08,
        b'T' => 101.10,
        b'V' => 99.13,
        b'W' => 186.21,
        b'Y' => 163.18,
        _ => 110.0_f64,
    };
    (18.02 + sequence.bytes().map(mass).sum::<f64>()).round() as u32
}

/// The CRC-64 of UniProt (ISO 3309: polynomial x⁶⁴ + x⁴ + x³ + x + 1, reflected).
fn crc64(sequence: &str) -> u64 {
    sequence.bytes().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u64::from(byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xD800_0000_0000_0000 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the `SQ` lines that UniProt itself wrote.
    #[test]
    fn weight_and_checksum_are_those_of_uniprot() {
        let root = std::env::var("PEPTALK_SHARED").unwrap_or("../../shared".to_owned());
        let path = Path::new(&root).join("data/swissprot/uniprot_entries.dat.gz");
        let Ok(file) = fs_err::File::open(&path) else {
            eprintln!("skipped: needs ../shared/data/swissprot");
            return;
        };
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
        let mut checked = 0;
        for entry in text.split("\n//\n").filter(|e| e.contains("\nSQ ")).take(53) {
            let (_, block) = entry.split_once("\nSQ ").unwrap();
            let (head, rows) = block.split_once('\n').unwrap();
            let words: Vec<&str> = head.split_whitespace().collect();
            let sequence: String = rows.chars().filter(|c| !c.is_whitespace()).collect();
            assert_eq!(u64::from_str_radix(words[5], 16), Ok(crc64(&sequence)));
            let weight: f64 = words[3].parse().unwrap();
            if !sequence.contains(['X', 'U', 'B', 'Z', 'O']) {
                assert!((f64::from(molecular_weight(&sequence)) / weight - 1.0).abs() < 2e-4, "{words:?}");
            }
            checked += 1;
        }
        assert_eq!(checked, 53);
    }

    #[test]
    fn lines_are_at_most_75_columns_and_lose_nothing() {
        let text =
            "Made-up protein that holds the kresp lock that docks with partners and is well-known for it";
        let lines = wrap("CC   -!- FUNCTION: ", "CC       ", text);
        assert!(lines.len() > 1 && lines.iter().all(|l| l.len() <= 75));
        let body: Vec<&str> =
            lines.iter().enumerate().map(|(i, l)| &l[if i == 0 { 19 } else { 9 }..]).collect();
        assert_eq!(body.join(" ").replace("- ", "-"), text);
    }
}
