//! Secondary structure without a model: the majority state, and the majority state of each residue letter.

use datasets::label::UNKNOWN;

/// Majority states of the training chains.
#[derive(Debug, Clone)]
pub struct Majority {
    /// The most common state.
    pub state: u8,
    of_letter: [u8; 256],
}

impl Majority {
    /// Counts states; unknown ones are left out. With nothing to count the state is the last one, coil.
    ///
    /// # Shapes
    /// each item: sequence of `L` letters, `L` state indices below `n_states` or [`UNKNOWN`]
    pub fn fit<'a>(n_states: u8, chains: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut counts = vec![[0_u64; 256]; n_states as usize];
        for (sequence, states) in chains {
            for (letter, &state) in sequence.bytes().zip(states).filter(|&(_, &state)| state != UNKNOWN) {
                counts[state as usize][letter as usize] += 1;
            }
        }
        let most =
            |count: &dyn Fn(u8) -> u64| (0..n_states).max_by_key(|&state| count(state)).unwrap_or_default();
        let state = most(&|state| counts[state as usize].iter().sum());
        let of_letter = std::array::from_fn(|letter| match most(&|state| counts[state as usize][letter]) {
            best if counts[best as usize][letter] > 0 => best,
            _ => state,
        });
        Majority { state, of_letter }
    }

    /// The most common state of each residue's letter.
    ///
    /// # Shapes
    /// `L` letters → `L` states
    pub fn by_letter(&self, sequence: &str) -> Vec<u8> {
        sequence.bytes().map(|letter| self.of_letter[letter as usize]).collect()
    }

    /// The most common state everywhere.
    pub fn constant(&self, length: usize) -> Vec<u8> {
        vec![self.state; length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_have_their_own_majority() {
        let chains = [("AAGG", &[0, 0, 2, 2][..]), ("AGV", &[2, 2, UNKNOWN][..])];
        let majority = Majority::fit(3, chains);
        assert_eq!(majority.state, 2);
        assert_eq!(majority.by_letter("AGVW"), [0, 2, 2, 2]);
        assert_eq!(majority.constant(2), [2, 2]);
        assert_eq!(Majority::fit(3, []).state, 2);
    }
}
