//! The small ops that need no fusing.
//!
//! On the CPU, sums and products of tensors are not candle's: those run on a pool of threads of its own, which spins
//! beside ours and takes a core from it.

use candle_core::{DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::Number;
use crate::tape::{Parent, Tape, Var};
use crate::view::{tensor, view};

/// Elements that one task works on.
const CHUNK: usize = 1 << 15;

/// An arithmetic on pairs of elements.
#[derive(Clone, Copy)]
pub(crate) enum Pairwise {
    Add,
    Sub,
    Mul,
}

/// Element by element, equal shapes.
pub(crate) fn pairwise(what: Pairwise, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    fn run<T: Number>(a: &Tensor, b: &Tensor, f: impl Fn(T, T) -> T + Sync) -> Result<Tensor> {
        let (a, b) = (a.contiguous()?, b.contiguous()?);
        let (x, y) = (view::<T>(&a)?, view::<T>(&b)?);
        let (x, y): (&[T], &[T]) = (&x, &y);
        let mut out = vec![T::zero(); x.len()];
        out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK))).for_each(
            |(out, (x, y))| {
                out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (&x, &y))| *out = f(x, y));
            },
        );
        tensor(out, a.shape())
    }
    if a.shape() != b.shape() {
        bail!("elements of {:?} and {:?} do not pair", a.shape(), b.shape());
    }
    on_gpu!(a => match what {
        Pairwise::Add => a + b,
        Pairwise::Sub => a - b,
        Pairwise::Mul => a * b,
    });
    dispatch!(a.dtype(), T => match what {
        Pairwise::Add => run::<T>(a, b, |x, y| x + y),
        Pairwise::Sub => run::<T>(a, b, |x, y| x - y),
        Pairwise::Mul => run::<T>(a, b, |x, y| x * y),
    })
}

/// `factor · x`.
fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    fn run<T: Number>(x: &Tensor, factor: f64) -> Result<Tensor> {
        let (contiguous, factor) = (x.contiguous()?, T::of(factor));
        let numbers = view::<T>(&contiguous)?;
        let numbers: &[T] = &numbers;
        tensor(numbers.par_iter().with_min_len(CHUNK).map(|&x| x * factor).collect(), x.shape())
    }
    on_gpu!(x => x.affine(factor, 0.0));
    dispatch!(x.dtype(), T => run::<T>(x, factor))
}

fn same_shape(op: &str, a: &Var, b: &Var) -> Result<()> {
    if a.value().shape() != b.value().shape() {
        bail!("{op}: shapes {:?} and {:?}", a.value().shape(), b.value().shape());
    }
    Ok(())
}

/// `a + b`, equal shapes.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    same_shape("add", a, b)?;
    let (pa, pb) = (a.parent(), b.parent());
    Ok(tape.record(pairwise(Pairwise::Add, a.value(), b.value())?, &[a, b], move |grad, grads| {
        grads.add_to(&pa, grad.clone())?;
        grads.add_to(&pb, grad)
    }))
}

/// `a − b`, equal shapes.
pub fn sub(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    same_shape("sub", a, b)?;
    let (pa, pb) = (a.parent(), b.parent());
    Ok(tape.record(pairwise(Pairwise::Sub, a.value(), b.value())?, &[a, b], move |grad, grads| {
        grads.add_to(&pa, grad.clone())?;
        grads.add_to(&pb, scaled(&grad, -1.0)?)
    }))
}

/// `a ⊙ b`, equal shapes.
pub fn mul(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    same_shape("mul", a, b)?;
    let (pa, pb) = (a.clone(), b.clone());
    Ok(tape.record(pairwise(Pairwise::Mul, a.value(), b.value())?, &[a, b], move |grad, grads| {
        if pa.needs_grad() {
            grads.add(&pa, pairwise(Pairwise::Mul, &grad, pb.value())?)?;
        }
        if pb.needs_grad() {
            grads.add(&pb, pairwise(Pairwise::Mul, &grad, pa.value())?)?;
        }
        Ok(())
    }))
}

/// `factor · x`.
pub fn scale(tape: &Tape, x: &Var, factor: f64) -> Result<Var> {
    let parent = x.parent();
    Ok(tape.record(scaled(x.value(), factor)?, &[x], move |grad, grads| {
        grads.add_to(&parent, scaled(&grad, factor)?)
    }))
}

/// `factor · x`, the factor being learnt.
///
/// # Shapes
/// x any, factor one number → as x
///
/// # Errors
/// When the factor is not one number.
pub fn scale_by(tape: &Tape, x: &Var, factor: &Var) -> Result<Var> {
    if factor.value().elem_count() != 1 {
        bail!("scale_by: a factor of shape {:?}", factor.value().dims());
    }
    let number = factor.value().flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?[0];
    let (px, pf) = (x.clone(), factor.clone());
    Ok(tape.record(scaled(x.value(), number)?, &[x, factor], move |grad, grads| {
        if pf.needs_grad() {
            let product = pairwise(Pairwise::Mul, &grad, px.value())?.sum_all()?;
            grads.add(&pf, product.reshape(pf.value().shape())?)?;
        }
        grads.add(&px, scaled(&grad, number)?)
    }))
}

/// The sum of all elements, a scalar.
pub fn sum(tape: &Tape, x: &Var) -> Result<Var> {
    let parent = x.parent();
    Ok(tape.record(x.value().sum_all()?, &[x], move |grad, grads| {
        grads.add_to(&parent, grad.broadcast_as(parent.shape())?.contiguous()?)
    }))
}

/// The mean of all elements, a scalar.
pub fn mean(tape: &Tape, x: &Var) -> Result<Var> {
    scale(tape, &sum(tape, x)?, 1.0 / x.value().elem_count() as f64)
}

/// The same elements in another shape.
pub fn reshape(tape: &Tape, x: &Var, shape: impl Into<Shape>) -> Result<Var> {
    let parent = x.parent();
    Ok(tape.record(x.value().reshape(shape.into())?, &[x], move |grad, grads| {
        grads.add_to(&parent, grad.reshape(parent.shape())?)
    }))
}

/// The axes in another order, contiguous.
pub fn permute(tape: &Tape, x: &Var, order: &[usize]) -> Result<Var> {
    let mut back = vec![0; order.len()];
    for (to, &from) in order.iter().enumerate() {
        back[from] = to;
    }
    let parent = x.parent();
    Ok(tape.record(x.value().permute(order)?.contiguous()?, &[x], move |grad, grads| {
        grads.add_to(&parent, grad.permute(back.as_slice())?.contiguous()?)
    }))
}

/// `len` elements of axis `dim` from `start`, contiguous.
pub fn narrow(tape: &Tape, x: &Var, dim: usize, start: usize, len: usize) -> Result<Var> {
    let parent = x.parent();
    let after = x.value().dim(dim)?.saturating_sub(start + len);
    Ok(tape.record(x.value().narrow(dim, start, len)?.contiguous()?, &[x], move |grad, grads| {
        grads.add_to(&parent, grad.pad_with_zeros(dim, start, after)?)
    }))
}

/// Concatenation along axis `dim`.
pub fn cat(tape: &Tape, parts: &[&Var], dim: usize) -> Result<Var> {
    let values: Vec<&Tensor> = parts.iter().map(|v| v.value()).collect();
    let parents: Vec<Parent> = parts.iter().map(|part| part.parent()).collect();
    Ok(tape.record(Tensor::cat(&values, dim)?, parts, move |grad, grads| {
        let mut start = 0;
        for parent in &parents {
            let len = parent.shape().dims()[dim];
            if parent.needs_grad() {
                grads.add_to(parent, grad.narrow(dim, start, len)?.contiguous()?)?;
            }
            start += len;
        }
        Ok(())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use candle_core::Device;

    fn numbers(shape: &[usize], seed: f64) -> Tensor {
        let n: usize = shape.iter().product();
        let data: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7 + seed).sin()).collect();
        Tensor::from_vec(data, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (a, b) = (numbers(&[2, 3, 5], 0.1), numbers(&[2, 3, 5], 1.9));
        let two = [a.clone(), b.clone()];
        gradcheck(&two, |t, v| add(t, &v[0], &v[1]));
        gradcheck(&two, |t, v| sub(t, &v[0], &v[1]));
        gradcheck(&two, |t, v| mul(t, &v[0], &v[1]));
        gradcheck(&two, |t, v| cat(t, &[&v[0], &v[1], &v[0]], 1));
        gradcheck(&two[..1], |t, v| scale(t, &v[0], -0.3));
        gradcheck(&[a.clone(), numbers(&[1], 0.4)], |t, v| scale_by(t, &v[0], &v[1]));
        gradcheck(&two[..1], |t, v| mean(t, &v[0]));
        gradcheck(&two[..1], |t, v| reshape(t, &v[0], (5, 6)));
        gradcheck(&two[..1], |t, v| permute(t, &v[0], &[2, 0, 1]));
        gradcheck(&two[..1], |t, v| narrow(t, &v[0], 1, 1, 2));
    }
}
