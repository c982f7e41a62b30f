//! Normalisation of the last dimension.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::{Number, rows_per_task, sum_by, sum_rows, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// `y = (x − mean) / √(variance + eps) · weight + bias`, mean and variance (divided by C) over the last dimension
/// (arXiv 1607.06450).
///
/// # Shapes
/// x `[.., C]`, weight `[C]`, bias `[C]` → `[.., C]`
///
/// # Errors
/// On shapes that do not fit.
pub fn layer_norm(tape: &Tape, x: &Var, weight: &Var, bias: Option<&Var>, eps: f64) -> Result<Var> {
    norm(tape, x, weight, bias, eps, true)
}

/// `y = x / √(mean(x²) + eps) · weight` over the last dimension (arXiv 1910.07467).
///
/// # Shapes
/// x `[.., C]`, weight `[C]` → `[.., C]`
///
/// # Errors
/// On shapes that do not fit.
pub fn rms_norm(tape: &Tape, x: &Var, weight: &Var, eps: f64) -> Result<Var> {
    norm(tape, x, weight, None, eps, false)
}

fn norm(tape: &Tape, x: &Var, weight: &Var, bias: Option<&Var>, eps: f64, centred: bool) -> Result<Var> {
    let width = weight.value().dims1()?;
    if x.value().dims().last() != Some(&width) || bias.is_some_and(|b| b.value().dims() != [width]) {
        bail!("norm: x {:?}, bias {:?}, weight [{width}]", x.value().dims(), bias.map(|b| b.value().dims()));
    }
    let input = x.value().contiguous()?;
    let (value, stats) = normalised(&input, weight.value(), bias.map(Var::value), eps, centred)?;
    let parents: Vec<&Var> = [x, weight].into_iter().chain(bias).collect();
    let (px, pw, pb) = (x.clone(), weight.clone(), bias.cloned());
    Ok(tape.record(value, &parents, move |grad, grads| {
        let grad = grad.contiguous()?;
        let bias_wanted = pb.as_ref().is_some_and(Var::needs_grad);
        if pw.needs_grad() || bias_wanted {
            let (dw, db) = weight_gradients(&grad, &input, &stats, bias_wanted)?;
            grads.add(&pw, dw)?;
            if let (Some(bias), Some(db)) = (&pb, db) {
                grads.add(bias, db)?;
            }
        }
        match px.needs_grad() {
            true => grads.add(&px, input_gradient(&grad, &input, pw.value(), &stats, centred)?),
            false => Ok(()),
        }
    }))
}

/// The normalised rows, and (mean, 1 / deviation) of each.
fn normalised(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
    centred: bool,
) -> Result<(Tensor, Tensor)> {
    on_gpu!(input => crate::cuda::norm(input, weight, bias, eps, centred));
    let width = weight.dims1()?;
    dispatch!(input.dtype(), T => {
        let (x, weight) = (view::<T>(input)?, view::<T>(weight)?);
        let bias = bias.map(|b| view::<T>(b)).transpose()?;
        let rows = x.len() / width.max(1);
        let (mut out, mut stats) = (vec![T::default(); x.len()], vec![T::default(); 2 * rows]);
        let block = rows_per_task(width);
        let task = |(b, (out, stats)): (usize, (&mut [T], &mut [T]))| {
            let x = &x[b * block * width..b * block * width + out.len()];
            normalise(x, &weight, bias.as_deref(), T::of(eps), centred, out, stats);
        };
        out.par_chunks_mut(block * width).zip(stats.par_chunks_mut(block * 2)).enumerate().for_each(task);
        Ok((tensor(out, input.dims())?, tensor(stats, (rows, 2))?))
    })
}

vectorised! {
    /// Rows of `x` into `out`; (mean, 1 / deviation) of each row into `stats`.
    fn normalise [T: Number] [T] (
        x: &[T], weight: &[T], bias: Option<&[T]>, eps: T, centred: bool, out: &mut [T], stats: &mut [T],
    ) {
        let width = weight.len();
        let n = T::of(width as f64);
        for ((x, out), stats) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(stats.chunks_exact_mut(2)) {
            let mean = if centred { sum_by(width, |i| x[i]) / n } else { T::zero() };
            let variance = sum_by(width, |i| (x[i] - mean) * (x[i] - mean)) / n;
            let factor = T::one() / T::sqrt(variance + eps);
            match bias {
                Some(bias) => {
                    for i in 0..width {
                        out[i] = ((x[i] - mean) * factor).fused(weight[i], bias[i]);
                    }
                }
                None => {
                    for i in 0..width {
                        out[i] = (x[i] - mean) * factor * weight[i];
                    }
                }
            }
            stats[0] = mean;
            stats[1] = factor;
        }
    }
}

fn weight_gradients(
    grad: &Tensor,
    x: &Tensor,
    stats: &Tensor,
    bias: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    on_gpu!(grad => crate::cuda::norm_weight_slopes(grad, x, stats, bias));
    let rows = stats.dim(0)?;
    let width = grad.elem_count() / rows.max(1);
    dispatch!(grad.dtype(), T => {
        let (g, x, stats) = (view::<T>(grad)?, view::<T>(x)?, view::<T>(stats)?);
        let span = |row: usize| row * width..(row + 1) * width;
        let dw = sum_rows(rows, width, |row, sums: &mut [T]| {
            add_scaled_rows(sums, &g[span(row)], &x[span(row)], stats[2 * row], stats[2 * row + 1]);
        });
        let db = match bias {
            true => Some(tensor(sum_rows(rows, width, |row, sums: &mut [T]| {
                crate::ops::kernel::add_to(sums, &g[span(row)]);
            }), width)?),
            false => None,
        };
        Ok((tensor(dw, width)?, db))
    })
}

vectorised! {
    fn add_scaled_rows [T: Number] [T] (sums: &mut [T], grad: &[T], x: &[T], mean: T, factor: T) {
        for ((sum, &g), &x) in sums.iter_mut().zip(grad).zip(x) {
            *sum = g.fused((x - mean) * factor, *sum);
        }
    }
}

/// With x̂ the normalised row and h = grad ⊙ weight: dx = (h − mean(h) − x̂ · mean(h ⊙ x̂)) / deviation; without the
/// middle term when the mean is not subtracted.
fn input_gradient(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    stats: &Tensor,
    centred: bool,
) -> Result<Tensor> {
    on_gpu!(grad => crate::cuda::norm_slopes(grad, x, weight, stats, centred));
    let width = weight.dims1()?;
    dispatch!(grad.dtype(), T => {
        let (g, x, weight, stats) = (view::<T>(grad)?, view::<T>(x)?, view::<T>(weight)?, view::<T>(stats)?);
        let mut dx = vec![T::default(); g.len()];
        let block = rows_per_task(width);
        dx.par_chunks_mut(block * width).enumerate().for_each(|(b, dx)| {
            let span = b * block * width..b * block * width + dx.len();
            denormalise(&g[span.clone()], &x[span], &weight, &stats[b * block * 2..], centred, dx);
        });
        tensor(dx, grad.dims())
    })
}

vectorised! {
    fn denormalise [T: Number] [T] (grad: &[T], x: &[T], weight: &[T], stats: &[T], centred: bool, dx: &mut [T]) {
        let width = weight.len();
        let n = T::of(width as f64);
        let rows = grad.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (((g, x), dx), stats) in rows.zip(stats.chunks_exact(2)) {
            let (mean, factor) = (stats[0], stats[1]);
            let along = sum_by(width, |i| g[i] * weight[i] * (x[i] - mean)) * factor / n;
            let level = if centred { sum_by(width, |i| g[i] * weight[i]) / n } else { T::zero() };
            for i in 0..width {
                dx[i] = (g[i] * weight[i] - level - (x[i] - mean) * factor * along) * factor;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::{D, DType};

    #[test]
    fn gradients_match_finite_differences() {
        let (x, w, b) = (numbers(&[2, 3, 37], 0.1), numbers(&[37], 1.3), numbers(&[37], 2.2));
        gradcheck(&[x.clone(), w.clone(), b], |t, v| layer_norm(t, &v[0], &v[1], Some(&v[2]), 1e-5));
        gradcheck(&[x.clone(), w.clone()], |t, v| layer_norm(t, &v[0], &v[1], None, 1e-5));
        gradcheck(&[x, w], |t, v| rms_norm(t, &v[0], &v[1], 1e-6));
    }

    #[test]
    fn values_are_the_definition() -> Result<()> {
        let (x, w) =
            (numbers(&[5, 41], 0.3).to_dtype(DType::F32)?, numbers(&[41], 0.9).to_dtype(DType::F32)?);
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let want = centred.broadcast_div(&(centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?)?;
        let want = want.broadcast_mul(&w)?;
        let got = layer_norm(&Tape::off(), &Var::constant(x), &Var::constant(w), None, 1e-5)?;
        let difference = (got.value() - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(difference < 1e-5, "{difference}");
        Ok(())
    }
}
