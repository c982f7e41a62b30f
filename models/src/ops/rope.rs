//! Rotary position embedding.

use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use candle_core::{Result, Tensor, bail};

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::{Number, for_rows, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Cosines and sines of the positions of one batch, computed once and used by every layer.
#[derive(Clone)]
pub struct RopeTable {
    /// cos and sin of `position · theta^(−2i/D)`: for each position `[2, D/2]`
    angles: Arc<Vec<f32>>,
    half: usize,
    /// the angles on the GPU, from their first use there
    #[cfg(feature = "cuda")]
    on_gpu: Arc<OnceLock<Tensor>>,
}

impl RopeTable {
    /// Angles for heads of width `dim` at each position (`[B · T]`, row by row).
    ///
    /// Frequencies and angles are rounded to f32 as transformers does it.
    ///
    /// # Errors
    /// When `dim` is odd.
    pub fn new(positions: &[u32], dim: usize, theta: f64) -> Result<Self> {
        if !dim.is_multiple_of(2) {
            bail!("rope: head width {dim} is odd");
        }
        let half = dim / 2;
        let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / dim as f32);
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let mut angles = Vec::with_capacity(positions.len() * dim);
        for &position in positions {
            let angle = |f: &f32| f64::from(position as f32 * f);
            angles.extend(frequencies.iter().map(|f| angle(f).cos() as f32));
            angles.extend(frequencies.iter().map(|f| angle(f).sin() as f32));
        }
        Ok(Self {
            angles: Arc::new(angles),
            half,
            #[cfg(feature = "cuda")]
            on_gpu: Arc::default(),
        })
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(&self, device: &candle_core::Device) -> Result<&Tensor> {
        if let Some(angles) = self.on_gpu.get() {
            return Ok(angles);
        }
        let angles = Tensor::new(self.angles.as_slice(), device)?;
        Ok(self.on_gpu.get_or_init(|| angles))
    }
}

/// Rotates the pairs (i, i + D/2) of each head by the angle of the row's position (arXiv 2104.09864, the half-split form
/// of GPT-NeoX, Llama, Qwen and ESM-2).
///
/// # Shapes
/// x `[B, T, H, D]`, table for `B · T` positions → the same
///
/// # Errors
/// When the table was made for other shapes.
pub fn rope(tape: &Tape, x: &Var, table: &RopeTable) -> Result<Var> {
    let (b, t, _, d) = x.value().dims4()?;
    if d != 2 * table.half || table.angles.len() != b * t * d {
        bail!(
            "rope: x {:?}, angles for {} numbers, expected {}",
            x.value().dims(),
            table.angles.len(),
            b * t * d
        );
    }
    let value = rotate(x.value(), table, false)?;
    let (parent, table) = (x.parent(), table.clone());
    Ok(tape.record(value, &[x], move |grad, grads| grads.add_to(&parent, rotate(&grad, &table, true)?)))
}

fn rotate(x: &Tensor, table: &RopeTable, back: bool) -> Result<Tensor> {
    let (_, _, heads, dim) = x.dims4()?;
    let x = x.contiguous()?;
    on_gpu!(x => crate::cuda::rope(&x, table.on_gpu(x.device())?, back));
    dispatch!(x.dtype(), T => {
        let mut out = view::<T>(&x)?.to_vec();
        for_rows(&mut out, heads * dim, |first, rows| rotate_rows(rows, &table.angles[first * dim..], heads, dim, back));
        tensor(out, x.dims())
    })
}

vectorised! {
    fn rotate_rows [T: Number] [T] (rows: &mut [T], angles: &[f32], heads: usize, dim: usize, back: bool) {
        let half = dim / 2;
        for (row, angles) in rows.chunks_exact_mut(heads * dim).zip(angles.chunks_exact(dim)) {
            let (cos, sin) = angles.split_at(half);
            for head in row.chunks_exact_mut(dim) {
                let (low, high) = head.split_at_mut(half);
                for i in 0..half {
                    let (c, s) = (T::of(f64::from(cos[i])), T::of(f64::from(sin[i])));
                    let s = if back { -s } else { s };
                    let (a, b) = (low[i], high[i]);
                    low[i] = a * c - b * s;
                    high[i] = b * c + a * s;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;

    #[test]
    fn gradients_match_finite_differences() {
        let table = RopeTable::new(&[0, 1, 2, 5, 6, 7], 10, 100.0).unwrap();
        gradcheck(&[numbers(&[2, 3, 3, 10], 0.1)], |t, v| rope(t, &v[0], &table));
    }

    #[test]
    fn products_depend_on_the_distance_only() {
        let (q, k) = (numbers(&[1, 1, 1, 6], 0.2), numbers(&[1, 1, 1, 6], 1.7));
        let turned = |x: &Tensor, at: u32| {
            let table = RopeTable::new(&[at], 6, 1e4).unwrap();
            rope(&Tape::off(), &Var::constant(x.clone()), &table).unwrap().value().clone()
        };
        let product =
            |i, j| (turned(&q, i) * turned(&k, j)).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap();
        assert!((product(3, 1) - product(13, 11)).abs() < 1e-6);
        assert!((product(3, 1) - product(3, 2)).abs() > 1e-3);
    }
}
