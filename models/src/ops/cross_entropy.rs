//! Classification of residues into a few classes.

use candle_core::{Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::ops::kernel::Number;
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Mean cross-entropy over the labelled elements: `log Σ_k e^x[k] − x[label]` (0 when no element is labelled).
///
/// For few classes; a vocabulary has its own op, which never holds all logits.
///
/// # Shapes
/// `logits`: `[.., K]`, `labels`: `[..]` u8 with K or more for unknown → scalar
///
/// # Errors
/// On shapes that do not fit.
pub fn cross_entropy(tape: &Tape, logits: &Var, labels: &Tensor) -> Result<Var> {
    let shape = logits.value().dims().to_vec();
    let Some((&k, rows)) = shape.split_last() else { bail!("cross-entropy of a scalar") };
    if labels.dims() != rows || k == 0 {
        bail!("cross-entropy: logits {shape:?}, labels {:?}", labels.dims());
    }
    let labels = labels.contiguous()?;
    let labels = view::<u8>(&labels)?;
    let labels: &[u8] = &labels;
    let labelled = labels.iter().filter(|&&y| (y as usize) < k).count();
    let scale = 1.0 / labelled.max(1) as f64;
    dispatch!(logits.value().dtype(), T => {
        let x = logits.value().contiguous()?;
        let x = view::<T>(&x)?;
        let x: &[T] = &x;
        let mut slopes = vec![T::default(); x.len()];
        let row = |(x, (slopes, &label)): (&[T], (&mut [T], &u8))| -> f64 {
            let label = label as usize;
            if label >= k {
                return 0.0;
            }
            let top = x.iter().copied().fold(x[0], T::larger);
            let powers: Vec<f64> = x.iter().map(|&x| (x - top).to_f64().exp()).collect();
            let sum: f64 = powers.iter().sum();
            for (at, (slope, power)) in slopes.iter_mut().zip(&powers).enumerate() {
                *slope = T::of(scale * (power / sum - f64::from(u8::from(at == label))));
            }
            sum.ln() - (x[label] - top).to_f64()
        };
        let losses: Vec<f64> =
            x.par_chunks(k).zip(slopes.par_chunks_mut(k).zip(labels)).map(row).collect();
        let value = tensor(vec![T::of(losses.iter().sum::<f64>() * scale)], ())?;
        let parent = logits.clone();
        Ok(tape.record(value, &[logits], move |grad, grads| {
            let upstream = view::<T>(&grad)?[0];
            grads.add(&parent, tensor(slopes.into_iter().map(|s| s * upstream).collect::<Vec<T>>(), shape)?)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::Device;

    #[test]
    fn gradients_match_finite_differences_and_values_the_formula() {
        let labels = Tensor::new(&[[0u8, 255, 2], [1, 3, 1]], &Device::Cpu).unwrap();
        let logits = numbers(&[2, 3, 3], 0.3);
        gradcheck(std::slice::from_ref(&logits), |tape, v| cross_entropy(tape, &v[0], &labels));
        let got = cross_entropy(&Tape::off(), &Var::constant(logits.clone()), &labels).unwrap();
        let x = logits.to_vec3::<f64>().unwrap();
        let one = |x: &[f64], y: usize| x.iter().map(|x| x.exp()).sum::<f64>().ln() - x[y];
        let want = (one(&x[0][0], 0) + one(&x[0][2], 2) + one(&x[1][0], 1) + one(&x[1][2], 1)) / 4.0;
        assert!((got.value().to_scalar::<f64>().unwrap() - want).abs() < 1e-12);
        let none = Tensor::new(&[[9u8; 3]; 2], &Device::Cpu).unwrap();
        let got = cross_entropy(&Tape::off(), &Var::constant(logits), &none).unwrap();
        assert_eq!(got.value().to_scalar::<f64>().unwrap(), 0.0);
    }
}
