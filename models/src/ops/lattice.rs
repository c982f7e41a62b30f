//! Which paths a conditional random field may take.

use candle_core::{Result, bail};

/// The states of a CRF: a label has as many as its shortest run is long, so that "a helix has four residues or more" is
/// a matter of steps between states. A label sequence has one path of states or none.
///
/// A run of the label passes its states in order and stays in the last one; only from there it may leave, to the first
/// state of another label. With runs of 1 this is the plain CRF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lattice {
    n_labels: usize,
    /// Label of each state.
    labels: Vec<u8>,
    /// Whether state i may be followed by state j, `[K, K]`.
    steps: Vec<bool>,
    /// Whether a chain may begin, and end, in a state.
    starts: Vec<bool>,
    ends: Vec<bool>,
}

/// The set of all labels: what is known of an unlabelled residue.
pub const ANY: u32 = u32::MAX;

impl Lattice {
    /// Labels whose runs have at least `shortest[label]` positions; label i is never followed by label j for `(i, j)` in
    /// `forbidden` (of two equal ones: it has no run longer than its shortest).
    ///
    /// # Errors
    /// Without a label, with more than 32 labels or 255 states, on a run of 0 and on a forbidden step of a label that
    /// is not there.
    pub fn new(shortest: &[usize], forbidden: &[(usize, usize)]) -> Result<Self> {
        let (n_labels, k) = (shortest.len(), shortest.iter().sum::<usize>());
        if n_labels == 0 || n_labels > 32 || k > 255 || shortest.contains(&0) {
            bail!("crf: shortest runs {shortest:?}: 1 to 32 labels of at least 1 position, 255 in all");
        }
        if let Some(pair) = forbidden.iter().find(|p| p.0 >= n_labels || p.1 >= n_labels) {
            bail!("crf: forbidden step {pair:?}, the labels are 0..{n_labels}");
        }
        let labels: Vec<u8> = (0..n_labels).flat_map(|label| vec![label as u8; shortest[label]]).collect();
        let starts: Vec<bool> = (0..k).map(|j| j == 0 || labels[j] != labels[j - 1]).collect();
        let ends: Vec<bool> = (0..k).map(|j| j + 1 == k || labels[j] != labels[j + 1]).collect();
        let allowed = |i: usize, j: usize| {
            let (from, to) = (labels[i] as usize, labels[j] as usize);
            let within = from == to && (j == i + 1 || (i == j && ends[i]));
            let closes = from == to && i == j; // the run goes on beyond its shortest length
            let leaves = from != to && ends[i] && starts[j];
            (within || leaves) && !((closes || leaves) && forbidden.contains(&(from, to)))
        };
        let steps = (0..k * k).map(|at| allowed(at / k, at % k)).collect();
        Ok(Self { n_labels, labels, steps, starts, ends })
    }

    /// Number of labels: the width of the emissions.
    pub fn n_labels(&self) -> usize {
        self.n_labels
    }

    /// Number of states: the width of the transitions.
    pub fn n_states(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn label(&self, state: usize) -> usize {
        self.labels[state] as usize
    }

    pub(crate) fn may_step(&self, from: usize, to: usize) -> bool {
        self.steps[from * self.labels.len() + to]
    }

    pub(crate) fn may_start(&self, state: usize) -> bool {
        self.starts[state]
    }

    pub(crate) fn may_end(&self, state: usize) -> bool {
        self.ends[state]
    }

    /// Whether some path has a label of every set.
    pub fn admits(&self, sets: &[u32]) -> bool {
        let k = self.n_states();
        let agrees = |set: u32, j: usize| set >> self.labels[j] & 1 == 1;
        let Some((&first, rest)) = sets.split_first() else { return true };
        let mut reached: Vec<bool> = (0..k).map(|j| self.starts[j] && agrees(first, j)).collect();
        for &set in rest {
            let next = |j: usize| agrees(set, j) && (0..k).any(|i| reached[i] && self.may_step(i, j));
            reached = (0..k).map(next).collect();
        }
        (0..k).any(|j| reached[j] && self.ends[j])
    }

    /// Forgets labels that no path has: of such a chain, runs that are too short and, if that is not enough, all.
    /// Returns how many were forgotten.
    pub fn relax(&self, sets: &mut [u32]) -> usize {
        if self.admits(sets) {
            return 0;
        }
        let shortest = |set: u32| self.labels.iter().filter(|&&l| set == 1 << l).count();
        let known = |sets: &[u32]| sets.iter().filter(|s| **s != ANY).count();
        let before = known(sets);
        for run in sets.chunk_by_mut(|a, b| a == b) {
            if run.len() < shortest(run[0]) {
                run.fill(ANY);
            }
        }
        if !self.admits(sets) {
            sets.fill(ANY);
        }
        before - known(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_never_shorter_than_it_may_be() {
        let lattice = Lattice::new(&[3, 1], &[]).unwrap();
        assert_eq!((lattice.n_labels(), lattice.n_states()), (2, 4));
        let admits = |labels: &[u32]| lattice.admits(&labels.iter().map(|l| 1 << l).collect::<Vec<_>>());
        for legal in [&[0, 0, 0][..], &[1, 0, 0, 0, 0, 1], &[1], &[1, 1], &[0, 0, 0, 1, 0, 0, 0], &[]] {
            assert!(admits(legal), "{legal:?}");
        }
        for illegal in [&[0][..], &[0, 0], &[1, 0, 0, 1], &[0, 0, 0, 1, 0, 0]] {
            assert!(!admits(illegal), "{illegal:?}");
        }
        let without = Lattice::new(&[3, 1], &[(0, 1), (0, 0)]).unwrap();
        assert!(
            without.admits(&[1, 1, 1]) && !without.admits(&[1, 1, 1, 1]) && !without.admits(&[1, 1, 1, 2])
        );
    }

    #[test]
    fn labels_against_the_rules_are_forgotten_and_counted() {
        let lattice = Lattice::new(&[3, 1], &[(1, 0)]).unwrap();
        let mut sets = [1, 1, 1, 2, 2];
        assert_eq!(lattice.relax(&mut sets), 0);
        let mut short = [1, 1, 2, 2];
        assert_eq!((lattice.relax(&mut short), short), (2, [ANY, ANY, 2, 2]));
        let mut back = [2, 1, 1, 1];
        assert_eq!((lattice.relax(&mut back), back), (4, [ANY; 4]));
    }

    #[test]
    fn impossible_lattices_are_refused() {
        assert!(Lattice::new(&[], &[]).is_err());
        assert!(Lattice::new(&[2, 0], &[]).is_err());
        assert!(Lattice::new(&[1; 33], &[]).is_err());
        assert!(Lattice::new(&[1, 1], &[(2, 0)]).is_err());
    }
}
