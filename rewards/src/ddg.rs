//! Stability: a Gaussian of the error, `exp(−(answer − truth)² / 2σ²)`.
//!
//! With σ = 1 kcal/mol this is the published formula, and after an audit it stays the default. A constant answer
//! earns `1/√(1 + s²)` on normal truths of standard deviation `s` that it is centred on, so the number means little
//! without its floor. On S2648 (s = 1.47), with the skill `(mean − floor) / (1 − floor)` of two predictors that do
//! look at the mutation (means per substitution over other proteins, Pearson 0.40; a noisy oracle, Pearson 0.69):
//!
//! | formula | best constant | skill at 0.40 | skill at 0.69 |
//! |---|---|---|---|
//! | `exp(−e²/2)` | 0.595 | **0.073** | **0.234** |
//! | `exp(−e²/2·0.5²)` | 0.371 | 0.018 | 0.093 |
//! | `1/(1 + e²)` | 0.564 | 0.054 | 0.175 |
//! | `exp(−abs e)` | 0.445 | 0.036 | 0.116 |
//! | 0.7 `exp(−e²/2)` + 0.3 right direction | 0.648 | 0.058 | 0.223 |
//!
//! Narrower kernels lower the floor, but lower what a useful predictor gains over it even more; a bonus for the
//! direction mostly pays for always saying "destabilising". So: σ = 1, and the gain over the floor is the headline.

use serde::{Deserialize, Serialize};

/// `exp(−err² / 2σ²)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gaussian {
    /// σ in kcal/mol; positive.
    pub sigma_kcal: f32,
}

impl Default for Gaussian {
    fn default() -> Self {
        Gaussian { sigma_kcal: 1.0 }
    }
}

impl Gaussian {
    /// The reward of an answer, both in kcal/mol; 0 for a truth that is no number.
    pub fn value(&self, answer_kcal: f32, truth_kcal: f32) -> f32 {
        let z = f64::from(answer_kcal - truth_kcal) / f64::from(self.sigma_kcal);
        let value = (-0.5 * z * z).exp() as f32;
        if value.is_finite() { value } else { 0.0 }
    }
}

/// 1 if answer and truth lie on the same side of zero, else 0. Reported beside the reward, not part of it.
pub fn direction(answer_kcal: f32, truth_kcal: f32) -> f32 {
    f32::from(u8::from((answer_kcal > 0.0) == (truth_kcal > 0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_values() {
        let reward = Gaussian::default();
        assert!((reward.value(0.2, 0.0) - 0.980_198_7).abs() < 1e-6);
        assert!((reward.value(-1.0, 0.0) - 0.606_530_66).abs() < 1e-6);
        assert!((Gaussian { sigma_kcal: 0.5 }.value(0.5, 0.0) - 0.606_530_66).abs() < 1e-6);
        assert_eq!(reward.value(1e38, -1e38), 0.0);
        assert_eq!(Gaussian { sigma_kcal: 0.0 }.value(1.0, 1.0), 0.0);
    }
}
