//! Connected components.

/// Components of the first numbers, which joining makes fewer; each is known by its smallest number, whatever the order in
/// which they were joined.
pub(crate) struct Components(Vec<usize>);

impl Components {
    /// Every number alone.
    pub(crate) fn new(n: usize) -> Self {
        Self((0..n).collect())
    }

    /// The component of a number.
    pub(crate) fn of(&self, mut i: usize) -> usize {
        while self.0[i] != i {
            i = self.0[i];
        }
        i
    }

    /// Makes one component of two.
    pub(crate) fn join(&mut self, i: usize, j: usize) {
        let (a, b) = (self.of(i), self.of(j));
        let (low, high) = (a.min(b), a.max(b));
        self.0[high] = low;
        // Shorter ways for the next who asks.
        for mut at in [i, j] {
            while self.0[at] != low {
                at = std::mem::replace(&mut self.0[at], low);
            }
        }
    }

    /// Of every number its component.
    pub(crate) fn all(mut self) -> Vec<usize> {
        for i in 0..self.0.len() {
            // A number's parent is smaller, so its component is known already.
            self.0[i] = self.0[self.0[i]];
        }
        self.0
    }
}

/// Connected components of `n` proteins under pairs: per protein the smallest index of its component.
pub fn components(n: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
    let mut components = Components::new(n);
    pairs.iter().for_each(|&(i, j)| components.join(i, j));
    components.all()
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn components_are_those_of_spreading_labels(pairs in prop::collection::vec((0..23_usize, 0..23_usize), 0..40)) {
            let mut labels: Vec<usize> = (0..23).collect();
            for _ in 0..23 {
                for &(i, j) in &pairs {
                    let least = labels[i].min(labels[j]);
                    (labels[i], labels[j]) = (least, least);
                }
            }
            prop_assert_eq!(components(23, &pairs), labels.clone());
            let backward: Vec<(usize, usize)> = pairs.iter().rev().map(|&(i, j)| (j, i)).collect();
            prop_assert_eq!(components(23, &backward), labels);
        }
    }
}
