//! The secondary-structure tables: PISCES, the Kaggle competition (reversed) and CB513.

use std::path::Path;

use super::Truth;
use super::chain::text;
use super::fault;
use super::sheet::{Layout, Sheet};
use super::universe::{Universe, ghost_pdb};
use crate::{Error, label};

pub(super) const PISCES: &str = "ss/madeup_pisces.csv.gz";
pub(super) const NPPE2_TRAIN: &str = "ss/madeup_nppe2_train.csv";
/// Has no labels, so it belongs to neither side.
pub(super) const NPPE2_TEST: &str = "ss/madeup_nppe2_test.csv";
/// The published test set.
pub(super) const CB513: &str = "ss/madeup_cb513.csv";

/// Writes the four files.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let pisces = universe.choose_solved("pisces", 0.4, |m| m.chain.disorder() < 0.3);
    write_pisces(universe, &pisces, out, truth)?;
    write_nppe2(universe, out, truth)?;
    write_cb513(universe, &pisces, out, truth)
}

/// Three states of eight, both in letters.
fn q3(q8: &str) -> String {
    let letter = |l: u8| label::q8_index(l).map_or(b'?', |i| label::Q3[label::q8_to_q3(i) as usize]);
    text(q8.bytes().map(letter).collect())
}

fn pisces_row(pdb: &str, sequence: &str, q8: &str, q3: &str) -> String {
    let odd = if sequence.contains('*') { "True" } else { "False" };
    format!("{pdb},A,{sequence},{q8},{q3},{},{odd},XRAY,1.8,0.19,0.23", sequence.len())
}

fn write_pisces(universe: &Universe, chosen: &[usize], out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let header = "pdb_id,chain_code,seq,sst8,sst3,len,has_nonstd_aa,Exptl.,resolution,R-factor,FreeRvalue\n";
    let mut sheet = Sheet::new(PISCES, header);
    for (nth, &at) in chosen.iter().enumerate() {
        let member = &universe.members[at];
        let (q8, mut spelt) = (member.q8(), member.sequence().to_owned());
        if nth % 101 == 2 {
            spelt.make_ascii_lowercase();
            truth.note_odd(PISCES, "lower_case");
        }
        sheet.keep(pisces_row(&member.pdb, &spelt, &q8, &q3(&q8)));
        truth.hold(PISCES, member.sequence());
    }
    let mut dice = universe.dice(PISCES);
    for (nth, letter) in ['*', 'X', 'U', 'B', 'Z', 'O'].into_iter().enumerate() {
        let sequence = format!("{}{letter}{}", fault::letters(19, &mut dice), fault::letters(23, &mut dice));
        sheet.keep(pisces_row(&ghost_pdb(900 + nth), &sequence, &"C".repeat(43), &"C".repeat(43)));
        truth.hold(PISCES, &sequence.replace('*', "X"));
        truth.note_odd(PISCES, "nonstandard");
    }
    for &at in chosen.iter().take(3) {
        let (member, q8) = (&universe.members[at], universe.members[at].q8());
        sheet.merge(pisces_row(&member.pdb, member.sequence(), &q8, &q3(&q8)));
    }
    for &at in chosen.iter().skip(3).take(2) {
        let other = fault::letters(47, &mut dice);
        let labels = "C".repeat(47);
        sheet.late_fault("id_conflict", pisces_row(&universe.members[at].pdb, &other, &labels, &labels));
    }
    let mut rows = Vec::new();
    for (reason, sequence) in fault::sequences(&mut dice) {
        rows.push((reason, sequence.clone(), "C".repeat(sequence.len())));
    }
    for (reason, labels) in [
        ("label_length", "C".repeat(40)),
        ("label_length", "C".repeat(42)),
        ("label_length", String::new()),
        ("bad_label", format!("{}Q{}", "C".repeat(20), "C".repeat(20))),
        ("bad_label", format!("{}7{}", "C".repeat(3), "H".repeat(37))),
    ] {
        rows.push((reason, fault::letters(41, &mut dice), labels));
    }
    for (nth, (reason, sequence, labels)) in rows.into_iter().enumerate() {
        sheet.fault(reason, pisces_row(&ghost_pdb(nth), &sequence, &labels, &"C".repeat(labels.len())));
    }
    let good = pisces_row(&ghost_pdb(20), &fault::letters(41, &mut dice), &"C".repeat(41), &"C".repeat(41));
    for (reason, row) in fault::bytes(&good) {
        sheet.fault(reason, row);
    }
    sheet.fault("malformed", format!("{},A,{}", ghost_pdb(21), fault::letters(41, &mut dice)));
    sheet.fault("malformed", format!("{good},one,column,too,many"));
    sheet.finish(out, truth)
}

/// As on Kaggle: a part of PISCES and other chains, sequence and labels written from C to N, Windows line ends.
fn write_nppe2(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let reversed = |text: &str| -> String { text.chars().rev().collect() };
    let chosen = universe.choose_solved("nppe2", 0.25, |m| m.chain.disorder() < 0.3);
    let (train, test): (Vec<usize>, Vec<usize>) = chosen.iter().partition(|&&at| at % 5 != 4);
    let mut sheet = Sheet::new(NPPE2_TRAIN, "id,seq,sst8,sst3\r\n").layout(Layout::CrLf);
    truth.note_odd(NPPE2_TRAIN, "crlf");
    for (number, &at) in train.iter().enumerate() {
        let member = &universe.members[at];
        let q8 = reversed(&member.q8());
        sheet.keep(format!("{number},{},{q8},{}", reversed(member.sequence()), q3(&q8)));
        truth.hold(NPPE2_TRAIN, member.sequence());
    }
    let mut dice = universe.dice(NPPE2_TRAIN);
    let mut number = train.len();
    for (reason, sequence) in fault::sequences(&mut dice) {
        let labels = "C".repeat(sequence.len());
        sheet.fault(reason, format!("{number},{sequence},{labels},{labels}"));
        number += 1;
    }
    sheet.fault("label_length", format!("{number},{},CCHHHHC,CCHHHHC", fault::letters(31, &mut dice)));
    sheet.finish(out, truth)?;

    let mut sheet = Sheet::new(NPPE2_TEST, "id,seq\n");
    for (number, &at) in test.iter().enumerate() {
        let member = &universe.members[at];
        sheet.keep(format!("{number},{}", reversed(member.sequence())));
        truth.hold(NPPE2_TEST, member.sequence());
    }
    sheet.finish(out, truth)
}

/// The test set: mostly chains that PISCES does not have, and some that it has (planted leaks). Coil is `L`; the file
/// begins with a byte-order mark.
fn write_cb513(universe: &Universe, pisces: &[usize], out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let known = |at: &usize| pisces.binary_search(at).is_ok();
    let candidates = universe.choose_solved("cb513", 0.2, |m| m.chain.disorder() < 0.3);
    let (leaked, fresh): (Vec<usize>, Vec<usize>) = candidates.into_iter().partition(known);
    let fresh_n = (fresh.len() / 2).max(3).min(fresh.len());
    let leaked_n = (fresh_n / 4).max(2).min(leaked.len());
    let mut sheet = Sheet::new(CB513, "\u{feff}id,len,input,expected\n");
    truth.note_odd(CB513, "bom");
    for &at in leaked[..leaked_n].iter().chain(&fresh[..fresh_n]) {
        let member = &universe.members[at];
        let number = sheet.next() + 1;
        let labels = member.q8().replace('C', "L");
        sheet.keep(format!("{number},{},{},{labels}", labels.len(), member.sequence()));
        truth.hold(CB513, member.sequence());
    }
    let mut dice = universe.dice(CB513);
    let number = sheet.next() + 1;
    sheet.fault("label_length", format!("{number},29,{},LLL", fault::letters(29, &mut dice)));
    sheet.finish(out, truth)
}
