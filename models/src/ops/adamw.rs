//! The arithmetic of AdamW on slices of one weight.

use crate::ops::kernel::{LANES, add_lanes, vectorised};

/// The numbers of one step that all elements of a weight share.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// factor of the gradient
    pub clip: f32,
    /// factor of the weight: 1 − lr · weight decay
    pub decay: f32,
    /// 1 − β₁
    pub mean_weight: f32,
    /// β₂
    pub square_keep: f32,
    /// 1 − β₂
    pub square_weight: f32,
    /// lr / (1 − β₁ᵗ)
    pub step_size: f32,
    /// √(1 − β₂ᵗ)
    pub root: f32,
    /// ε
    pub eps: f32,
}

impl AdamWStep {
    /// Moves a weight and its moments, all of one length (arXiv 1711.05101).
    pub fn apply(&self, weights: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
        apply(*self, weights, mean, square, gradient);
    }
}

vectorised! {
    fn apply [] [] (step: AdamWStep, weights: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
        for (((w, m), v), &g) in weights.iter_mut().zip(mean).zip(square).zip(gradient) {
            let g = g * step.clip;
            *w *= step.decay;
            *m += step.mean_weight * (g - *m);
            *v = step.square_keep * *v + step.square_weight * g * g;
            *w -= step.step_size * (*m / (v.sqrt() / step.root + step.eps));
        }
    }
}

vectorised! {
    /// Σ x² in f64, in fixed lanes.
    pub fn sum_of_squares [] [] (x: &[f32]) -> f64 {
        let mut sums = [0.0; LANES];
        let chunks = x.chunks_exact(LANES);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (sum, &x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(rest) {
            *sum += f64::from(x) * f64::from(x);
        }
        add_lanes(sums)
    }
}
