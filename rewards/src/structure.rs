//! Structure quality: how well a completion knows the mean pLDDT of the predicted structure.
//!
//! With truth `p` and an answer of category `c` and number `n`:
//!
//! * `category` = 1 if `c` is the class of `p` (above 80, above 50, the rest), else 0;
//! * `number` = `exp(−(n − p)² / (2 · 10²))`, 0 if no number was given;
//! * `claim` = 1 if `high` and `p > 70`, or `low` and `p < 50`; ½ if either is claimed and 50 ≤ p ≤ 70; else 0.
//!
//! The value is their weighted mean. The published reward weighted claim 0.4, number 0.3, category 0.3 and found the
//! claim by substring ("unstructured" counted as "structured"); here `high` and `low` are the claims. The audited
//! default drops the claim: it pays the category a second time, and mostly to whoever always says `high`. On 7,430
//! AlphaFold DB means the constant `high, 89` earns 0.776 with the published weights and 0.696 with the default.

use serde::{Deserialize, Serialize};

use crate::answer::Confidence;

const SIGMA_PLDDT: f64 = 10.0;

/// Weights of the three parts; they are divided by their sum, so the value stays in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Weight of the class.
    pub category: f32,
    /// Weight of the number.
    pub number: f32,
    /// Weight of the claim.
    pub claim: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Weights { category: 0.5, number: 0.5, claim: 0.0 }
    }
}

impl Weights {
    /// The weights as published.
    pub const SEED: Weights = Weights { category: 0.3, number: 0.3, claim: 0.4 };

    /// The reward of an answer for a mean pLDDT, and its parts.
    pub fn value(
        &self,
        class: Confidence,
        number: Option<f32>,
        truth: f32,
    ) -> (f32, Vec<(&'static str, f32)>) {
        let category = f32::from(u8::from(truth.is_finite() && class == Confidence::of(truth)));
        let number = number.map_or(0.0, |n| gaussian(n, truth));
        let claim = claim(class, truth);
        let sum = self.category + self.number + self.claim;
        let value = (self.category * category + self.number * number + self.claim * claim) / sum;
        let value = if value.is_finite() { value } else { 0.0 };
        (value, vec![("category", category), ("number", number), ("claim", claim)])
    }
}

fn gaussian(answer: f32, truth: f32) -> f32 {
    let z = f64::from(answer - truth) / SIGMA_PLDDT;
    let value = (-0.5 * z * z).exp() as f32;
    if value.is_finite() { value } else { 0.0 }
}

fn claim(class: Confidence, truth: f32) -> f32 {
    match class {
        Confidence::High if truth > 70.0 => 1.0,
        Confidence::Low if truth < 50.0 => 1.0,
        Confidence::High | Confidence::Low if (50.0..=70.0).contains(&truth) => 0.5,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Confidence::{High, Low, Medium};

    #[test]
    fn every_weight_changes_the_value() {
        let value = |weights: Weights, class, number, truth| weights.value(class, number, truth).0;
        assert_eq!(value(Weights::default(), High, Some(85.0), 85.0), 1.0);
        assert_eq!(value(Weights::default(), High, None, 85.0), 0.5);
        let ten_off = 0.5 * (-0.5_f32).exp();
        assert!((value(Weights::default(), Medium, Some(75.0), 85.0) - ten_off).abs() < 1e-6);
        assert!((value(Weights::SEED, High, None, 75.0) - 0.4).abs() < 1e-6);
        assert!((value(Weights::SEED, Low, None, 60.0) - 0.2).abs() < 1e-6);
        assert!((value(Weights::SEED, High, None, 40.0)).abs() < 1e-6);
        assert!((value(Weights::SEED, Low, Some(40.0), 40.0) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn classes_begin_above_their_bounds() {
        assert_eq!([80.1, 80.0, 50.1, 50.0].map(Confidence::of), [High, Medium, Medium, Low]);
    }
}
