//! Predictors that need no model: what a trained one must beat.

use rand::seq::SliceRandom;

pub mod contact;
pub mod go;
pub mod neighbour;
pub mod ppi;
pub mod ss;
pub mod stability;

/// The residues of a sequence in a random order: a model that scores the same on it has learnt composition only.
/// Deterministic in `seed` and the sequence's number `at`.
pub fn shuffled(sequence: &str, seed: u64, at: u64) -> String {
    let mut letters: Vec<char> = sequence.chars().collect();
    letters.shuffle(&mut datasets::rng(seed, "baseline/shuffled", at));
    letters.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffling_keeps_the_composition() {
        let (sequence, other) = ("MKTAYIAKQRQISFVKSHFSRQ", shuffled("MKTAYIAKQRQISFVKSHFSRQ", 1, 5));
        let sorted = |s: &str| {
            let mut letters: Vec<char> = s.chars().collect();
            letters.sort_unstable();
            letters
        };
        assert_eq!(sorted(sequence), sorted(&other));
        assert_ne!(sequence, other);
        assert_eq!(other, shuffled(sequence, 1, 5));
        assert_ne!(other, shuffled(sequence, 1, 6));
    }
}
