//! The optimiser's step over all weights, and the norms that it is clipped by.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::ops::kernel::{sum_by, vectorised};
use crate::view::{update, view};

/// Elements that one thread works on at a time; fixed, so sums have one order on any number of threads.
const CHUNK: usize = 1 << 14;

/// What all weights share: `1 − β₁`, `β₂`, `1 − β₂` and ε.
#[derive(Clone, Copy, Debug)]
pub struct AdamWRule {
    /// `1 − β₁`
    pub mean_weight: f32,
    /// `β₂`
    pub square_keep: f32,
    /// `1 − β₂`
    pub square_weight: f32,
    /// ε
    pub eps: f32,
}

/// One weight in one step. All four tensors have one shape, are contiguous f32 and lie on one device.
#[derive(Clone, Copy, Debug)]
pub struct AdamWUpdate<'a> {
    /// changed in place
    pub weight: &'a Tensor,
    /// first moment, changed in place
    pub mean: &'a Tensor,
    /// second moment, changed in place
    pub square: &'a Tensor,
    /// as it came back
    pub gradient: &'a Tensor,
    /// factor of the gradient
    pub clip: f32,
    /// factor of the weight: `1 − lr · wd`
    pub decay: f32,
    /// `lr / (1 − β₁ᵗ)`
    pub step_size: f32,
    /// `√(1 − β₂ᵗ)`
    pub root: f32,
}

/// A step of AdamW (Loshchilov & Hutter 2019) of each weight, operation for operation as `torch.optim.AdamW`, in one pass
/// over its numbers.
///
/// # Errors
/// On tensors of another kind.
pub fn adamw(rule: &AdamWRule, updates: &[AdamWUpdate<'_>]) -> Result<()> {
    let Some(first) = updates.first() else { return Ok(()) };
    on_gpu!(first.weight => crate::cuda::adamw(rule, updates));
    updates.iter().try_for_each(|one| {
        let gradient = view::<f32>(one.gradient)?;
        nested(one, |weights, mean, square| {
            weights
                .par_chunks_mut(CHUNK)
                .zip(mean.par_chunks_mut(CHUNK))
                .zip(square.par_chunks_mut(CHUNK))
                .zip(gradient.par_chunks(CHUNK))
                .for_each(|(((w, m), v), g)| chunk(rule, one, w, m, v, g));
        })
    })
}

/// The three tensors that a step changes, as slices.
fn nested(one: &AdamWUpdate<'_>, f: impl FnOnce(&mut [f32], &mut [f32], &mut [f32])) -> Result<()> {
    let (mut of_mean, mut of_square) = (Ok(()), Ok(()));
    update(one.weight, |weights| {
        of_mean = update(one.mean, |mean| {
            of_square = update(one.square, |square| f(weights, mean, square));
        });
    })?;
    of_mean.and(of_square)
}

vectorised! {
    fn chunk [] [] (
        rule: &AdamWRule,
        one: &AdamWUpdate<'_>,
        weights: &mut [f32],
        mean: &mut [f32],
        square: &mut [f32],
        gradient: &[f32],
    ) {
        for (((w, m), v), &g) in weights.iter_mut().zip(mean).zip(square).zip(gradient) {
            let g = g * one.clip;
            *w *= one.decay;
            *m += rule.mean_weight * (g - *m);
            *v = rule.square_keep * *v + rule.square_weight * g * g;
            *w -= one.step_size * (*m / (v.sqrt() / one.root + rule.eps));
        }
    }
}

/// The sum of squares of each tensor, in f64 and in one order of summation on any number of threads.
///
/// # Errors
/// On tensors that are not f32.
pub fn squares(tensors: &[Tensor]) -> Result<Vec<f64>> {
    let tensors = tensors.iter().map(Tensor::contiguous).collect::<Result<Vec<Tensor>>>()?;
    let Some(first) = tensors.first() else { return Ok(vec![]) };
    on_gpu!(first => crate::cuda::squares(&tensors));
    let sum = |tensor: &Tensor| {
        let numbers = view::<f32>(tensor)?;
        let sums: Vec<f64> = numbers.par_chunks(CHUNK).map(sum_of_squares).collect();
        Ok(sums.iter().sum())
    };
    tensors.iter().map(sum).collect()
}

vectorised! {
    /// Σ x² in f64, in fixed lanes.
    fn sum_of_squares [] [] (x: &[f32]) -> f64 {
        sum_by(x.len(), |i| f64::from(x[i]) * f64::from(x[i]))
    }
}
