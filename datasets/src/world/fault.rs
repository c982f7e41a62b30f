//! The ways in which a row can be bad, shared by the writers.

use super::dice::Dice;

/// Sequences that no table takes, with the reason.
pub(super) fn sequences(dice: &mut Dice) -> Vec<(&'static str, String)> {
    vec![
        ("empty_sequence", String::new()),
        ("bad_sequence", format!("{}1{}", letters(31, dice), letters(17, dice))),
        ("bad_sequence", format!("{}@{}", letters(23, dice), letters(29, dice))),
        ("too_short", letters(13, dice)),
        ("too_long", letters(1_013, dice)),
    ]
}

/// Random residues.
pub(super) fn letters(n: usize, dice: &mut Dice) -> String {
    (0..n).map(|_| *dice.pick(b"ACDEFGHIKLMNPQRSTVWY") as char).collect()
}

/// A good row with bytes in the middle of it that no text has: the reason and the row.
pub(super) fn bytes(row: &str) -> [(&'static str, Vec<u8>); 2] {
    let (before, after) = row.as_bytes().split_at(row.len() / 2);
    [("not_utf8", [before, &[0xff, 0xfe], after].concat()), ("nul_byte", [before, &[0], after].concat())]
}

/// A sequence as some files spell it: lower case, or with the gaps of an alignment. It is not at fault.
pub(super) fn gapped(sequence: &str) -> String {
    let (before, after) = sequence.split_at(sequence.len() / 3);
    format!("{before}--{after}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::residue;

    #[test]
    fn faults_are_faults_and_gaps_are_not() {
        let bad = sequences(&mut Dice::new(1, "test", 0));
        for (reason, sequence) in bad {
            assert_eq!(residue::normalise(&sequence).is_err(), !reason.starts_with("too"), "{sequence}");
        }
        assert_eq!(residue::normalise(&gapped("MKTAYI")).unwrap(), "MKTAYI");
        let [(_, not_text), (_, with_nul)] = bytes("some row");
        assert!(String::from_utf8(not_text).is_err() && with_nul.contains(&0));
    }
}
