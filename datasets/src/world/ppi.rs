//! Pairs that interact if one has a lock and the other its key, and the dictionary of their sequences.

use std::collections::BTreeSet;
use std::path::Path;

use super::Truth;
use super::dice::Dice;
use super::fault;
use super::motif::{MOTIFS, Role, interact};
use super::sheet::Sheet;
use super::universe::{Universe, ghost};
use crate::Error;

/// Two accessions and a label, no header.
pub(super) const PAIRS: &str = "ppi/madeup_interaction.tsv.gz";
/// Accession and sequence, no header.
pub(super) const DICTIONARY: &str = "ppi/madeup_dictionary.tsv.gz";

/// Pairs of each label for every protein of the dictionary.
const PER_PROTEIN: usize = 4;

/// Writes both files.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let docks = |m: usize| matches!(MOTIFS[m].role, Role::Lock(_) | Role::Key(_));
    let known = universe.choose("ppi", 0.6, |m| m.motifs.iter().any(|&m| docks(m)));
    write_dictionary(universe, &known, out, truth)?;
    let mut dice = universe.dice(PAIRS);
    let pairs = draw_pairs(universe, &known, &mut dice);
    let mut sheet = Sheet::new(PAIRS, "");
    let name = |at: usize| universe.members[at].accession.as_str();
    let line = |a: usize, b: usize, label: bool| format!("{}\t{}\t{}", name(a), name(b), u8::from(label));
    for &(a, b, label) in &pairs {
        sheet.keep(line(a, b, label));
        truth.hold(PAIRS, universe.members[a].sequence());
        truth.hold(PAIRS, universe.members[b].sequence());
    }
    let (a, b, label) = pairs[0];
    sheet.merge(line(a, b, label));
    for &(a, b, label) in pairs.iter().skip(1).take(3) {
        sheet.merge(line(b, a, label));
    }
    // pairs that were not drawn, so that both of their lines are the conflict
    let drawn: BTreeSet<(usize, usize)> = pairs.iter().map(|&(a, b, _)| (a.min(b), a.max(b))).collect();
    let undrawn = known.iter().flat_map(|&a| known.iter().map(move |&b| (a, b)));
    for (a, b) in undrawn.filter(|&(a, b)| a < b && !drawn.contains(&(a, b))).take(2) {
        sheet.fault("label_conflict", line(a, b, true));
        sheet.fault("label_conflict", line(b, a, false));
    }
    for &at in known.iter().take(2) {
        sheet.fault("self_pair", line(at, at, true));
    }
    for (number, &at) in known.iter().enumerate().take(3) {
        sheet.fault("unknown_protein", format!("{}\t{}\t1", name(at), ghost(3_000 + number)));
    }
    let good = format!("{}\t{}\t1", name(known[0]), ghost(3_100));
    for (reason, row) in fault::bytes(&good) {
        sheet.fault(reason, row);
    }
    sheet.fault("malformed", format!("{}\t{}", name(known[0]), name(known[1])));
    sheet.fault("malformed", format!("{}\t{}\tmaybe", name(known[0]), name(known[1])));
    sheet.finish(out, truth)
}

fn write_dictionary(
    universe: &Universe,
    known: &[usize],
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    let mut sheet = Sheet::new(DICTIONARY, "");
    for (nth, &at) in known.iter().enumerate() {
        let member = &universe.members[at];
        let spelt = match nth % 37 {
            5 => {
                truth.note_odd(DICTIONARY, "lower_case");
                member.sequence().to_lowercase()
            }
            9 => {
                truth.note_odd(DICTIONARY, "gapped");
                fault::gapped(member.sequence())
            }
            _ => member.sequence().to_owned(),
        };
        sheet.keep(format!("{}\t{spelt}", member.accession));
        truth.hold(DICTIONARY, member.sequence());
    }
    let mut dice = universe.dice(DICTIONARY);
    for &at in known.iter().take(2) {
        sheet.merge(format!("{}\t{}", universe.members[at].accession, universe.members[at].sequence()));
    }
    for &at in known.iter().skip(2).take(2) {
        let other = fault::letters(67, &mut dice);
        sheet.late_fault("id_conflict", format!("{}\t{other}", universe.members[at].accession));
    }
    for (number, (reason, sequence)) in fault::sequences(&mut dice).into_iter().enumerate() {
        sheet.fault(reason, format!("{}\t{sequence}", ghost(3_200 + number)));
    }
    for (reason, row) in fault::bytes(&format!("{}\t{}", ghost(3_300), fault::letters(31, &mut dice))) {
        sheet.fault(reason, row);
    }
    sheet.fault("malformed", ghost(3_301));
    sheet.finish(out, truth)
}

/// The pairs that interact.
pub(super) fn partners(universe: &Universe) -> Vec<(usize, usize)> {
    let docks = |m: usize| matches!(MOTIFS[m].role, Role::Lock(_) | Role::Key(_));
    let known = universe.choose("ppi", 0.6, |m| m.motifs.iter().any(|&m| docks(m)));
    let pairs = draw_pairs(universe, &known, &mut universe.dice(PAIRS));
    pairs.into_iter().filter(|pair| pair.2).map(|(a, b, _)| (a, b)).collect()
}

/// As many pairs that interact as do not. The negatives are the positives with their second partners exchanged, so
/// that no protein gives the label away on its own.
fn draw_pairs(universe: &Universe, known: &[usize], dice: &mut Dice) -> Vec<(usize, usize, bool)> {
    let fits = |a: usize, b: usize| interact(&universe.members[a].motifs, &universe.members[b].motifs);
    let wanted = PER_PROTEIN * known.len();
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::new();
    // two of 72 random pairs fit, so 100 tries a pair are plenty; small worlds may end with fewer
    for _ in 0..100 * wanted {
        if pairs.len() == wanted {
            break;
        }
        let (a, b) = (*dice.pick(known), *dice.pick(known));
        if a != b && fits(a, b) && seen.insert((a.min(b), a.max(b))) {
            pairs.push((a, b, true));
        }
    }
    let positives = pairs.clone();
    for &(a, _, _) in &positives {
        for _ in 0..100 {
            let b = dice.pick(&positives).1;
            if a != b && !fits(a, b) && seen.insert((a.min(b), a.max(b))) {
                pairs.push((a, b, false));
                break;
            }
        }
    }
    // exactly balanced even if a negative was not found
    let negatives = pairs.len() - positives.len();
    pairs.drain(negatives..positives.len());
    dice.shuffle(&mut pairs);
    pairs
}
