//! Secondary-structure labels: Q8, Q3 and the one mapping between them.

/// The eight DSSP states in the order of every tensor and report: `H G I E B S T C`.
pub const Q8: &[u8; 8] = b"HGIEBSTC";
/// The three states in the order of every tensor and report: `H E C`.
pub const Q3: &[u8; 3] = b"HEC";
/// Index of a residue whose label is unknown. It carries no loss and is counted in no metric.
pub const UNKNOWN: u8 = 255;

/// Index in [`Q8`] of a DSSP letter. Coil is spelt `C`, `L`, `-`, `_`, blank or (mkdssp ≥ 4) `P` by the sources;
/// `?` and `X` mean unknown and give [`UNKNOWN`]. `None`: not a DSSP letter.
pub fn q8_index(letter: u8) -> Option<u8> {
    match letter {
        b'L' | b'-' | b'_' | b' ' | b'P' => Some(7),
        b'?' | b'X' => Some(UNKNOWN),
        _ => Q8.iter().position(|&l| l == letter).map(|i| i as u8),
    }
}

/// Index in [`Q3`] of a three-state letter; coil spellings and unknown as in [`q8_index`].
pub fn q3_index(letter: u8) -> Option<u8> {
    match letter {
        b'L' | b'-' | b'_' | b' ' => Some(2),
        b'?' | b'X' => Some(UNKNOWN),
        _ => Q3.iter().position(|&l| l == letter).map(|i| i as u8),
    }
}

/// The map of Q8 to Q3 used by DSSP-based benchmarks: H, G, I → H; E, B → E; S, T, C → C. Unknown stays unknown.
pub fn q8_to_q3(q8: u8) -> u8 {
    match q8 {
        0..=2 => 0,
        3 | 4 => 1,
        5..=7 => 2,
        _ => UNKNOWN,
    }
}

/// The Q8 states that a residue may have, as a set with a bit per state, from what is known of it.
pub fn q8_set(q8: u8, q3: u8) -> u32 {
    let states = |of: &dyn Fn(u8) -> bool| (0..Q8.len() as u8).filter(|&s| of(s)).map(|s| 1 << s).sum();
    match (usize::from(q8) < Q8.len(), usize::from(q3) < Q3.len()) {
        (true, _) => 1 << q8,
        (false, true) => states(&|state| q8_to_q3(state) == q3),
        (false, false) => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_maps_as_the_benchmarks_do() {
        let q3: Vec<u8> = Q8.iter().map(|&l| Q3[q8_to_q3(q8_index(l).unwrap()) as usize]).collect();
        assert_eq!(&q3, b"HHHEECCC");
        assert_eq!(q8_index(b'L'), q8_index(b'C'));
        assert_eq!(q8_index(b'Z'), None);
        assert_eq!(q8_to_q3(UNKNOWN), UNKNOWN);
        assert_eq!(q8_set(3, 1), 0b1000);
        assert_eq!([0, 1, 2].map(|q3| q8_set(UNKNOWN, q3)), [0b111, 0b1_1000, 0b1110_0000]);
        assert_eq!(q8_set(UNKNOWN, UNKNOWN), u32::MAX);
    }
}
