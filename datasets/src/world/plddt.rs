//! Mean pLDDT of predicted structures, as AlphaFold DB reports it.

use std::path::Path;

use super::Truth;
use super::dice::Dice;
use super::fault;
use super::sheet::Sheet;
use super::universe::{Universe, ghost};
use crate::Error;

/// One JSON object a line.
pub(super) const FILE: &str = "plddt/madeup_afdb_mean_plddt.jsonl.gz";

/// The rule of the universe: order is predicted with confidence, disorder is not; 0–100.
fn mean_plddt(disorder: f64, dice: &mut Dice) -> f64 {
    (95.0 - 72.0 * disorder + 2.5 * dice.normal()).clamp(30.0, 98.0)
}

fn row(accession: &str, sequence: &str, value: &str) -> String {
    let end = sequence.len();
    format!(
        "{{\"uniprotAccession\": \"{accession}\", \"uniprotEnd\": \"{end}\", \"uniprotSequence\": \"{sequence}\", \
         \"globalMetricValue\": {value}}}"
    )
}

/// Writes the file.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let mut sheet = Sheet::new(FILE, "");
    let chosen = universe.choose("plddt", 0.45, |_| true);
    let mut rows = Vec::new();
    for &at in &chosen {
        let member = &universe.members[at];
        let value = mean_plddt(member.chain.disorder(), &mut Dice::new(universe.seed, "plddt/value", at));
        rows.push(row(&member.accession, member.sequence(), &format!("{value:.2}")));
        truth.hold(FILE, member.sequence());
    }
    rows.iter().for_each(|row| sheet.keep(row.as_str()));
    rows.iter().skip(1).take(3).for_each(|row| sheet.merge(row.as_str()));
    let mut dice = universe.dice(FILE);
    for &at in chosen.iter().take(2) {
        let other = fault::letters(71, &mut dice);
        sheet.late_fault("id_conflict", row(&universe.members[at].accession, &other, "70.0"));
    }
    let mut ghosts = (5_000..).map(ghost);
    let mut next = || ghosts.next().expect("ghosts never end");
    for (reason, sequence) in fault::sequences(&mut dice) {
        sheet.fault(reason, row(&next(), &sequence, "70.0"));
    }
    let sequence = fault::letters(53, &mut dice);
    for (reason, value) in [
        ("missing_value", "null"),
        ("missing_value", "NaN"),
        ("out_of_range", "123.4"),
        ("out_of_range", "-1.0"),
        ("malformed", "\"high\""),
        ("malformed", "70.0, \"unfinished\": "),
    ] {
        sheet.fault(reason, row(&next(), &sequence, value));
    }
    for (reason, bytes) in fault::bytes(&row(&next(), &sequence, "70.0")) {
        sheet.fault(reason, bytes);
    }
    sheet.fault("line_too_long", row(&next(), &"A".repeat(9 << 20), "70.0"));
    sheet.finish(out, truth)
}
