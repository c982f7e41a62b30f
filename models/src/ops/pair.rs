//! From residues to pairs of residues and back.

use candle_core::{Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul};
use crate::ops::kernel::{Number, add_to, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// `z_ij = left_i + right_j + relpos[clip(j − i, −R, R) + R]`: the pair embedding with relative positions (Jumper et al.
/// 2021, supplement, Algorithms 3 and 4).
///
/// # Shapes
/// `left`, `right`: `[B, L, C]`, `relpos`: `[2R + 1, C]` → `[B, L, L, C]`
///
/// # Errors
/// On shapes that do not fit.
pub fn pair_sum(tape: &Tape, left: &Var, right: &Var, relpos: &Var) -> Result<Var> {
    let (b, l, c) = left.value().dims3()?;
    let (bins, width) = relpos.value().dims2()?;
    if right.value().dims() != [b, l, c] || width != c || bins % 2 == 0 {
        bail!(
            "pair sum: left [{b}, {l}, {c}], right {:?}, relative positions [{bins}, {width}] (odd)",
            right.value().dims()
        );
    }
    let bin = move |i: usize, j: usize| (j + bins / 2).saturating_sub(i).min(bins - 1);
    let value = dispatch!(left.value().dtype(), T => {
        let (left, right, relpos) =
            (left.value().contiguous()?, right.value().contiguous()?, relpos.value().contiguous()?);
        let (left, right, relpos) = (view::<T>(&left)?, view::<T>(&right)?, view::<T>(&relpos)?);
        let (left, right, relpos): (&[T], &[T], &[T]) = (&left, &right, &relpos);
        let mut z = vec![T::default(); b * l * l * c];
        z.par_chunks_mut(l * c).enumerate().for_each(|(row, z)| {
            let (chain, i) = (row / l, row % l);
            for (j, z) in z.chunks_exact_mut(c).enumerate() {
                z.copy_from_slice(&left[row * c..][..c]);
                add_to(z, &right[(chain * l + j) * c..][..c]);
                add_to(z, &relpos[bin(i, j) * c..][..c]);
            }
        });
        tensor(z, (b, l, l, c))?
    });
    let parents = [left.clone(), right.clone(), relpos.clone()];
    Ok(tape.record(value, &[left, right, relpos], move |grad, grads| {
        let [d_left, d_right, d_relpos] = dispatch!(grad.dtype(), T => {
            let grad = grad.contiguous()?;
            let dz = view::<T>(&grad)?;
            let mut d_left = vec![T::default(); b * l * c];
            let mut d_right = vec![T::default(); b * l * c];
            let mut d_relpos = vec![T::default(); bins * c];
            for (row, dz) in dz.chunks_exact(l * c).enumerate() {
                let (chain, i) = (row / l, row % l);
                for (j, dz) in dz.chunks_exact(c).enumerate() {
                    add_to(&mut d_left[row * c..][..c], dz);
                    add_to(&mut d_right[(chain * l + j) * c..][..c], dz);
                    add_to(&mut d_relpos[bin(i, j) * c..][..c], dz);
                }
            }
            [tensor(d_left, (b, l, c))?, tensor(d_right, (b, l, c))?, tensor(d_relpos, (bins, c))?]
        });
        grads.add(&parents[0], d_left)?;
        grads.add(&parents[1], d_right)?;
        grads.add(&parents[2], d_relpos)
    }))
}

/// `z_ij[c] = Σ_h m_i[c, h] · v_j[h]`: with `m` a linear map of `u`, this is any linear map of the outer product
/// `u_i ⊗ v_j` (Jumper et al. 2021, supplement, Algorithm 10, for one sequence) without the outer product in memory.
///
/// # Shapes
/// `m`: `[B, L, C · h]`, `v`: `[B, L, h]` → `[B, L, L, C]`
///
/// # Errors
/// On shapes that do not fit.
pub fn outer_product(tape: &Tape, m: &Var, v: &Var) -> Result<Var> {
    let (b, l, width) = m.value().dims3()?;
    let (vb, vl, h) = v.value().dims3()?;
    if (vb, vl) != (b, l) || h == 0 || width % h != 0 {
        bail!(
            "outer product: m {:?}, v {:?}, expected [B, L, C·h] and [B, L, h]",
            m.value().dims(),
            v.value().dims()
        );
    }
    let c = width / h;
    let (left, right) = (m.value().contiguous()?, v.value().contiguous()?);
    let value = dispatch!(left.dtype(), T => {
        let (m, v) = (view::<T>(&left)?, view::<T>(&right)?);
        let (m, v): (&[T], &[T]) = (&m, &v);
        let mut z = vec![T::default(); b * l * l * c];
        z.par_chunks_mut(l * c).enumerate().for_each(|(row, z)| {
            let m = Matrix::new(&m[row * width..][..width], c, h);
            matmul(z, Matrix::new(&v[row / l * l * h..], l, h), m.t(), false, Threads::One);
        });
        tensor(z, (b, l, l, c))?
    });
    let parents = [m.clone(), v.clone()];
    Ok(tape.record(value, &[m, v], move |grad, grads| {
        let (dm, dv) = dispatch!(grad.dtype(), T => {
            let grad = grad.contiguous()?;
            let (m, v, dz) = (view::<T>(&left)?, view::<T>(&right)?, view::<T>(&grad)?);
            let (m, v, dz): (&[T], &[T], &[T]) = (&m, &v, &dz);
            let mut dm = vec![T::default(); b * l * width];
            dm.par_chunks_mut(width).enumerate().for_each(|(row, dm)| {
                let dz = Matrix::new(&dz[row * l * c..][..l * c], l, c);
                matmul(dm, dz.t(), Matrix::new(&v[row / l * l * h..], l, h), false, Threads::One);
            });
            let mut dv = vec![T::default(); b * l * h];
            dv.par_chunks_mut(l * h).enumerate().for_each(|(chain, dv)| {
                for row in chain * l..(chain + 1) * l {
                    let dz = Matrix::new(&dz[row * l * c..][..l * c], l, c);
                    matmul(dv, dz, Matrix::new(&m[row * width..], c, h), true, Threads::One);
                }
            });
            (tensor(dm, (b, l, width))?, tensor(dv, (b, l, h))?)
        });
        grads.add(&parents[0], dm)?;
        grads.add(&parents[1], dv)
    }))
}

/// `(x_ij + x_ji) / 2`.
///
/// # Shapes
/// `[B, L, L]` → `[B, L, L]`
pub fn symmetric(tape: &Tape, x: &Var) -> Result<Var> {
    let both = |x: &Tensor| -> Result<Tensor> { (x + x.transpose(1, 2)?.contiguous()?)?.affine(0.5, 0.0) };
    let parent = x.clone();
    Ok(tape.record(both(x.value())?, &[x], move |grad, grads| grads.add(&parent, both(&grad)?)))
}

/// Mean over each chain's own residues (zeros for an empty chain).
///
/// # Shapes
/// `x`: `[B, L, C]`, `lengths`: B numbers ≤ L → `[B, C]`
///
/// # Errors
/// On shapes that do not fit.
pub fn chain_mean(tape: &Tape, x: &Var, lengths: &[usize]) -> Result<Var> {
    let (b, l, c) = x.value().dims3()?;
    if lengths.len() != b || lengths.iter().any(|&n| n > l) {
        bail!("chain mean: a batch [{b}, {l}] with lengths {lengths:?}");
    }
    // [B, L]: 1 / n for the residues of a chain
    let shares: Vec<f64> =
        lengths.iter().flat_map(|&n| (0..l).map(move |t| if t < n { 1.0 / n as f64 } else { 0.0 })).collect();
    let (mean, parent) = (weighted_sum(&x.value().contiguous()?, &shares)?, x.clone());
    Ok(tape.record(mean, &[x], move |grad, grads| {
        grads.add(&parent, shared_out(&grad.contiguous()?, &shares, (b, l, c))?)
    }))
}

/// Sums over L of `x [B, L, C]` with weights `[B, L]`.
fn weighted_sum(x: &Tensor, shares: &[f64]) -> Result<Tensor> {
    let (b, l, c) = x.dims3()?;
    on_gpu!(x => x.broadcast_mul(&Tensor::from_vec(shares.to_vec(), (b, l, 1), x.device())?.to_dtype(x.dtype())?)?.sum(1));
    dispatch!(x.dtype(), T => {
        let mut sums = vec![T::default(); b * c];
        let numbers = view::<T>(x)?;
        let numbers: &[T] = &numbers;
        sums.par_chunks_mut(c).zip(numbers.par_chunks((l * c).max(1))).enumerate().for_each(|(b, (sums, x))| {
            x.chunks_exact(c).zip(&shares[b * l..]).for_each(|(x, &share)| add_times(sums, x, T::of(share)));
        });
        tensor(sums, (b, c))
    })
}

/// The gradient of [`weighted_sum`].
fn shared_out(grad: &Tensor, shares: &[f64], (b, l, c): (usize, usize, usize)) -> Result<Tensor> {
    on_gpu!(grad => grad.unsqueeze(1)?.broadcast_mul(
        &Tensor::from_vec(shares.to_vec(), (b, l, 1), grad.device())?.to_dtype(grad.dtype())?
    ));
    dispatch!(grad.dtype(), T => {
        let grad = view::<T>(grad)?;
        let grad: &[T] = &grad;
        let mut dx = vec![T::default(); b * l * c];
        dx.par_chunks_mut((l * c).max(1)).zip(grad.par_chunks(c)).enumerate().for_each(|(b, (dx, grad))| {
            dx.chunks_exact_mut(c).zip(&shares[b * l..]).for_each(|(dx, &share)| add_times(dx, grad, T::of(share)));
        });
        tensor(dx, (b, l, c))
    })
}

vectorised! {
    /// `into += share · from`
    fn add_times [T: Number] [T] (into: &mut [T], from: &[T], share: T) {
        for (a, &b) in into.iter_mut().zip(from) {
            *a += share * b;
        }
    }
}

vectorised! {
    /// `scale · w · (sigmoid(x) − y)`
    fn cross_entropy_slopes [T: Number] [T] (x: &[T], y: &[T], w: &[T], scale: T, out: &mut [T]) {
        for (out, (&x, (&y, &w))) in out.iter_mut().zip(x.iter().zip(y.iter().zip(w))) {
            *out = scale * w * (x.sigmoid() - y);
        }
    }
}

/// Weighted mean of the binary cross-entropy of logits: `Σ w · (softplus(x) − y · x) / Σ w` (0 when all weights are 0).
///
/// # Shapes
/// `logits`, `targets` (0 to 1), `weights` (≥ 0): one shape → scalar
///
/// # Errors
/// On shapes or number types that differ.
pub fn binary_cross_entropy(tape: &Tape, logits: &Var, targets: &Tensor, weights: &Tensor) -> Result<Var> {
    let shape = logits.value().shape().clone();
    if *targets.shape() != shape || *weights.shape() != shape {
        bail!(
            "binary cross-entropy: logits {shape:?}, targets {:?}, weights {:?}",
            targets.shape(),
            weights.shape()
        );
    }
    dispatch!(logits.value().dtype(), T => {
        let (x, y, w) = (logits.value().contiguous()?, targets.contiguous()?, weights.contiguous()?);
        let (x, y, w) = (view::<T>(&x)?, view::<T>(&y)?, view::<T>(&w)?);
        // Sums in f64: a map has tens of thousands of pairs.
        let total: f64 = w.iter().map(|&w| w.to_f64()).sum();
        let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
        let terms = x.iter().zip(y.iter().zip(w.iter())).map(|(&x, (&y, &w))| {
            let (x, y, w) = (x.to_f64(), y.to_f64(), w.to_f64());
            w * (x.max(0.0) + (-x.abs()).exp().ln_1p() - y * x)
        });
        let value = T::of(terms.sum::<f64>() * scale);
        let scale = T::of(scale);
        let mut slopes = vec![T::default(); x.len()];
        cross_entropy_slopes(&x, &y, &w, scale, &mut slopes);
        let parent = logits.clone();
        Ok(tape.record(tensor(vec![value], ())?, &[logits], move |grad, grads| {
            let upstream = view::<T>(&grad)?[0];
            grads.add(&parent, tensor(slopes.iter().map(|&s| s * upstream).collect::<Vec<T>>(), shape)?)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::{Device, IndexOp};

    #[test]
    fn gradients_match_finite_differences() {
        let (left, right) = (numbers(&[2, 5, 3], 0.0), numbers(&[2, 5, 3], 1.0));
        gradcheck(&[left, right, numbers(&[5, 3], 2.0)], |t, v| pair_sum(t, &v[0], &v[1], &v[2]));
        gradcheck(&[numbers(&[2, 5, 6], 0.0), numbers(&[2, 5, 2], 1.0)], |t, v| {
            outer_product(t, &v[0], &v[1])
        });
        gradcheck(&[numbers(&[2, 3, 3], 0.0)], |t, v| symmetric(t, &v[0]));
        gradcheck(&[numbers(&[3, 5, 2], 0.0)], |t, v| chain_mean(t, &v[0], &[5, 0, 2]));
        let targets = Tensor::new(&[[0.0, 1.0, 1.0], [0.5, 0.0, 1.0]], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[[1.0, 2.0, 0.0], [0.5, 1.0, 1.0]], &Device::Cpu).unwrap();
        gradcheck(&[numbers(&[2, 3], 0.4)], |t, v| binary_cross_entropy(t, &v[0], &targets, &weights));
    }

    #[test]
    fn values_follow_the_formulas() {
        let (left, right, relpos) =
            (numbers(&[2, 5, 3], 0.0), numbers(&[2, 5, 3], 1.0), numbers(&[5, 3], 2.0));
        let vars: Vec<Var> = [&left, &right, &relpos].iter().map(|t| Var::constant((*t).clone())).collect();
        let z = pair_sum(&Tape::off(), &vars[0], &vars[1], &vars[2]).unwrap();
        let (m, v) = (numbers(&[2, 5, 6], 0.2), numbers(&[2, 5, 2], 1.2));
        let outer =
            outer_product(&Tape::off(), &Var::constant(m.clone()), &Var::constant(v.clone())).unwrap();
        let scalar = |t: Tensor| t.to_scalar::<f64>().unwrap();
        for (b, i, j, c) in [(0, 0, 4, 1), (1, 4, 0, 2), (1, 2, 2, 0), (0, 3, 2, 1)] {
            let bin = (j as i64 - i as i64).clamp(-2, 2) + 2;
            let sum = scalar(left.i((b, i, c)).unwrap())
                + scalar(right.i((b, j, c)).unwrap())
                + scalar(relpos.i((bin as usize, c)).unwrap());
            assert!((scalar(z.value().i((b, i, j, c)).unwrap()) - sum).abs() < 1e-12);
            let product: f64 = (0..2)
                .map(|h| scalar(m.i((b, i, c * 2 + h)).unwrap()) * scalar(v.i((b, j, h)).unwrap()))
                .sum();
            assert!((scalar(outer.value().i((b, i, j, c)).unwrap()) - product).abs() < 1e-12);
        }
        let logits = Var::constant(Tensor::new(&[0.3, -2.0, 50.0], &Device::Cpu).unwrap());
        let targets = Tensor::new(&[1.0, 0.0, 1.0], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[1.0, 3.0, 0.0], &Device::Cpu).unwrap();
        let loss = binary_cross_entropy(&Tape::off(), &logits, &targets, &weights).unwrap();
        let p = |x: f64| 1.0 / (1.0 + (-x).exp());
        let want = (-p(0.3).ln() - 3.0 * (1.0 - p(-2.0)).ln()) / 4.0;
        assert!((scalar(loss.value().clone()) - want).abs() < 1e-12);
    }
}
