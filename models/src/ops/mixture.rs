//! How far a mixture of softmaxes is from a distribution.

use candle_core::{Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::ops::kernel::Number;
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Mean over P of `KL(wanted ‖ m)`, where `m = Σ_n softmax(logits_n) / N`: each of N voices may say something else, and
/// together they shall say what is wanted (a mixture of softmaxes, arXiv 1711.03953, with equal weights).
///
/// # Shapes
/// `logits`: `[P, N, K]`, `wanted`: `[P, K]`, each row a distribution → scalar, nats
///
/// # Errors
/// On shapes that do not fit.
pub fn mixture_divergence(tape: &Tape, logits: &Var, wanted: &Tensor) -> Result<Var> {
    let (p, n, k) = logits.value().dims3()?;
    if wanted.dims() != [p, k] || p * n * k == 0 {
        bail!("mixture: logits [{p}, {n}, {k}], wanted {:?}", wanted.dims());
    }
    dispatch!(logits.value().dtype(), T => {
        let (x, wanted) = (logits.value().contiguous()?, wanted.contiguous()?);
        let (x, wanted) = (view::<T>(&x)?, view::<T>(&wanted)?);
        let (x, wanted): (&[T], &[T]) = (&x, &wanted);
        let mut slopes = vec![T::default(); x.len()];
        let one = |((x, wanted), slopes): ((&[T], &[T]), &mut [T])| -> f64 {
            let mut said: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
            let mut mixed = vec![0.0; k];
            for voice in said.chunks_mut(k) {
                let top = voice.iter().copied().fold(f64::MIN, f64::max);
                voice.iter_mut().for_each(|x| *x = (*x - top).exp());
                let sum: f64 = voice.iter().sum();
                for (said, mixed) in voice.iter_mut().zip(&mut mixed) {
                    *said /= sum;
                    *mixed += *said / n as f64;
                }
            }
            let wanted: Vec<f64> = wanted.iter().map(|w| w.to_f64()).collect();
            mixed.iter_mut().for_each(|m| *m = m.max(f64::MIN_POSITIVE));
            for (voice, slopes) in said.chunks(k).zip(slopes.chunks_mut(k)) {
                // What a voice takes credit for: its part of each wanted word.
                let part = |w: usize| wanted[w] * voice[w] / (n as f64 * mixed[w]);
                let all: f64 = (0..k).map(part).sum();
                for (w, slope) in slopes.iter_mut().enumerate() {
                    *slope = T::of((all * voice[w] - part(w)) / p as f64);
                }
            }
            wanted.iter().zip(&mixed).filter(|(w, _)| **w > 0.0).map(|(w, m)| w * (w / m).ln()).sum()
        };
        let losses: Vec<f64> =
            x.par_chunks(n * k).zip(wanted.par_chunks(k)).zip(slopes.par_chunks_mut(n * k)).map(one).collect();
        let value = tensor(vec![T::of(losses.iter().sum::<f64>() / p as f64)], ())?;
        let parent = logits.clone();
        Ok(tape.record(value, &[logits], move |grad, grads| {
            let upstream = view::<T>(&grad)?[0];
            grads.add(&parent, tensor(slopes.into_iter().map(|s| s * upstream).collect::<Vec<T>>(), (p, n, k))?)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::Device;

    fn wanted() -> Tensor {
        Tensor::new(&[[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0]], &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_match_finite_differences() {
        gradcheck(&[numbers(&[2, 3, 4], 0.3)], |tape, v| mixture_divergence(tape, &v[0], &wanted()));
    }

    #[test]
    fn values_match_the_formula_and_voices_that_share_the_words_are_at_zero() {
        let logits = numbers(&[2, 3, 4], 0.8);
        let x = logits.to_vec3::<f64>().unwrap();
        let want: f64 = (0..2)
            .flat_map(|p| (0..4).map(move |w| (p, w)))
            .map(|(p, w)| {
                let soft = |voice: &Vec<f64>| voice[w].exp() / voice.iter().map(|x| x.exp()).sum::<f64>();
                let (m, t) =
                    (x[p].iter().map(soft).sum::<f64>() / 3.0, wanted().to_vec2::<f64>().unwrap()[p][w]);
                if t > 0.0 { t * (t / m).ln() / 2.0 } else { 0.0 }
            })
            .sum();
        let value = |x: Tensor| {
            let loss = mixture_divergence(&Tape::off(), &Var::constant(x), &wanted()).unwrap();
            loss.value().to_scalar::<f64>().unwrap()
        };
        assert!((value(logits) - want).abs() < 1e-12);
        let says = |w: usize| [0, 1, 2, 3].map(|at| if at == w { 60.0 } else { 0.0 });
        let shared = [[says(0), says(0), says(1), says(2)], [says(2), says(2), says(2), says(2)]];
        assert!(value(Tensor::new(&shared, &Device::Cpu).unwrap()).abs() < 1e-12);
    }
}
