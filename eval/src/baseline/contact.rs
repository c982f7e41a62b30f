//! Contacts without a model: how often residues so far apart in the chain touch.

/// Contact frequency per sequence separation.
#[derive(Debug, Clone)]
pub struct Separation {
    frequency: Vec<f32>,
}

impl Separation {
    /// Counts contacts of training chains. Separations that no chain has get the frequency of the largest that one
    /// has, 0 if there is none.
    ///
    /// # Shapes
    /// each item: `L` and contacts `[L, L]` row-major, 1 or 0, any other value (255) where unknown
    pub fn fit<'a>(chains: impl IntoIterator<Item = (usize, &'a [u8])>) -> Self {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for (length, contacts) in chains {
            counts.resize(counts.len().max(length), (0, 0));
            for i in 0..length {
                for j in i..length {
                    if contacts[i * length + j] <= 1 {
                        counts[j - i].0 += u64::from(contacts[i * length + j]);
                        counts[j - i].1 += 1;
                    }
                }
            }
        }
        let mut frequency = Vec::with_capacity(counts.len());
        for (hits, n) in counts {
            let before = frequency.last().copied().unwrap_or(0.0);
            frequency.push(if n > 0 { hits as f32 / n as f32 } else { before });
        }
        Separation { frequency }
    }

    /// The frequency for every pair.
    ///
    /// # Shapes
    /// → `[L, L]` row-major
    pub fn predict(&self, length: usize) -> Vec<f32> {
        let at = |separation: usize| {
            self.frequency.get(separation).or(self.frequency.last()).copied().unwrap_or(0.0)
        };
        (0..length * length).map(|pair| at((pair / length).abs_diff(pair % length))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequency_by_separation() {
        let contacts = [1, 1, 0, 1, 1, 0, 0, 0, 255];
        let fitted = Separation::fit([(3, &contacts[..])]);
        assert_eq!(fitted.predict(2), [1.0, 0.5, 0.5, 1.0]);
        assert_eq!(fitted.predict(5)[4], 0.0);
        assert_eq!(Separation::fit([]).predict(2), [0.0; 4]);
    }
}
