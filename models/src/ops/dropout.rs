//! Dropout.

use candle_core::{Result, bail};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::Number;
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Sets each element to zero with probability `p` and multiplies the others by 1 / (1 − p). Without a generator
/// (evaluation) or with `p = 0` it is the identity.
///
/// # Shapes
/// any → the same
///
/// # Errors
/// When `p` is not in [0, 1).
pub fn dropout(tape: &Tape, x: &Var, p: f64, rng: Option<&mut ChaCha8Rng>) -> Result<Var> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout probability {p}, expected 0 ≤ p < 1");
    }
    let Some(rng) = rng.filter(|_| p > 0.0) else { return Ok(x.clone()) };
    let threshold = (p * f64::from(u32::MAX)) as u32;
    let kept: Vec<bool> = (0..x.value().elem_count()).map(|_| rng.next_u32() >= threshold).collect();
    let factor = 1.0 / (1.0 - p);
    let value = masked(x.value(), &kept, factor)?;
    let parent = x.parent();
    Ok(tape.record(value, &[x], move |grad, grads| grads.add_to(&parent, masked(&grad, &kept, factor)?)))
}

fn masked(x: &candle_core::Tensor, kept: &[bool], factor: f64) -> Result<candle_core::Tensor> {
    let x = x.contiguous()?;
    on_gpu!(x => {
        let factors = kept.iter().map(|&k| if k { factor as f32 } else { 0.0 }).collect();
        &x * candle_core::Tensor::from_vec(factors, x.shape(), x.device())?
    });
    dispatch!(x.dtype(), T => {
        let factor = T::of(factor);
        let out = view::<T>(&x)?.iter().zip(kept).map(|(&x, &k)| if k { x * factor } else { T::default() }).collect();
        tensor::<T>(out, x.dims())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::Tensor;
    use rand::SeedableRng;

    #[test]
    fn a_third_is_dropped_and_the_mean_stays() -> Result<()> {
        let x = Var::constant(Tensor::ones(30_011, candle_core::DType::F32, &candle_core::Device::Cpu)?);
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let y = dropout(&Tape::off(), &x, 1.0 / 3.0, Some(&mut rng))?.value().to_vec1::<f32>()?;
        let dropped = y.iter().filter(|&&v| v == 0.0).count() as f64 / y.len() as f64;
        assert!((dropped - 1.0 / 3.0).abs() < 0.01, "{dropped}");
        assert!(y.iter().all(|&v| v == 0.0 || (v - 1.5).abs() < 1e-6));
        let same = dropout(&Tape::off(), &x, 0.5, None)?;
        assert_eq!(same.value().to_vec1::<f32>()?, x.value().to_vec1::<f32>()?);
        assert!(dropout(&Tape::off(), &x, 1.0, None).is_err());
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() {
        gradcheck(&[numbers(&[3, 7], 0.1)], |t, v| {
            dropout(t, &v[0], 0.4, Some(&mut ChaCha8Rng::seed_from_u64(3)))
        });
    }
}
