//! Random draws with algorithms of our own, so that the bytes of the sample data do not change with a library version.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Draws from one addressed stream.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The draws at `(seed, "world/<stream>", step)`.
    pub(super) fn new(seed: u64, stream: &str, step: usize) -> Self {
        Self(crate::rng(seed, &format!("world/{stream}"), step as u64))
    }

    /// Uniform in `[0, 1)`.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`; the bias of the modulus is below 2⁻⁵⁰ for the small `n` used here.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// Uniform in `low..=high`.
    pub(super) fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// One of the items.
    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// An index with probability proportional to its weight.
    pub(super) fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.unit() * weights.iter().sum::<f64>();
        for (at, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return at;
            }
        }
        weights.len() - 1
    }

    /// Standard normal (Box–Muller).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Puts the items in random order (Fisher–Yates).
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_their_moments() {
        let mut dice = Dice::new(3, "test", 0);
        let normals: Vec<f64> = (0..9_973).map(|_| dice.normal()).collect();
        let mean = normals.iter().sum::<f64>() / normals.len() as f64;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / normals.len() as f64;
        assert!(mean.abs() < 0.04 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let heavy = (0..997).filter(|_| dice.weighted(&[1.0, 0.0, 3.0]) == 2).count();
        assert!((700..800).contains(&heavy), "{heavy}");
    }

    #[test]
    fn shuffle_keeps_the_items() {
        let mut items: Vec<usize> = (0..31).collect();
        Dice::new(3, "test", 1).shuffle(&mut items);
        assert_ne!(items, (0..31).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..31).collect::<Vec<_>>());
    }
}
