//! Products with weights in the layout of Hugging Face and PyTorch: `weight[out, in]`.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use crate::dispatch;
use crate::ops::kernel::{Number, add_to, for_rows, sum_blocks, sum_rows};
use crate::tape::{Tape, Var};
use crate::view::{Matrix, Threads, matmul, tensor, view};

/// `y[.., o] = Σ_i x[.., i] · weight[o, i] + bias[o]`.
///
/// A constant weight or bias costs no gradient product. The bits of a row do not depend on the number of rows.
///
/// # Shapes
/// x `[.., in]`, weight `[out, in]`, bias `[out]` → `[.., out]`
///
/// # Errors
/// On shapes that do not fit.
pub fn linear(tape: &Tape, x: &Var, weight: &Var, bias: Option<&Var>) -> Result<Var> {
    let (n_out, n_in) = weight.value().dims2()?;
    let shape = rows_of("linear", x.value(), n_in, n_out)?;
    let input = x.value().contiguous()?;
    if let Some(bias) = bias
        && bias.value().dims() != [n_out]
    {
        bail!("linear: bias {:?}, expected [{n_out}]", bias.value().dims());
    }
    let value = dispatch!(input.dtype(), T => {
        let mut out = times_transposed::<T>(&input, weight.value())?;
        if let Some(bias) = bias {
            let bias = view::<T>(bias.value())?;
            for_rows(&mut out, n_out, |_, rows| rows.chunks_exact_mut(n_out).for_each(|row| add_to(row, &bias)));
        }
        tensor(out, shape)?
    });
    let parents: Vec<&Var> = [x, weight].into_iter().chain(bias).collect();
    let (px, pw, pb) = (x.clone(), weight.clone(), bias.cloned());
    Ok(tape.record(value, &parents, move |grad, grads| {
        let grad = grad.contiguous()?;
        if px.needs_grad() {
            let dx = dispatch!(grad.dtype(), T => tensor(times::<T>(&grad, pw.value())?, px.value().dims())?);
            grads.add(&px, dx)?;
        }
        if pw.needs_grad() {
            let dw =
                dispatch!(grad.dtype(), T => tensor(transposed_times::<T>(&grad, &input)?, (n_out, n_in))?);
            grads.add(&pw, dw)?;
        }
        match &pb {
            Some(bias) if bias.needs_grad() => grads.add(bias, column_sums(&grad)?),
            _ => Ok(()),
        }
    }))
}

/// A frozen weight with a low-rank correction: `y = x Wᵀ + scale · (x Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685). `weight` gets no
/// gradient, whatever it is on the tape.
///
/// # Shapes
/// x `[.., in]`, weight `[out, in]`, a `[rank, in]`, b `[out, rank]` → `[.., out]`
///
/// # Errors
/// On shapes that do not fit.
pub fn lora_linear(tape: &Tape, x: &Var, weight: &Tensor, a: &Var, b: &Var, scale: f64) -> Result<Var> {
    let (n_out, n_in) = weight.dims2()?;
    let (rank, a_in) = a.value().dims2()?;
    if a_in != n_in || b.value().dims() != [n_out, rank] {
        bail!("lora_linear: weight {:?}, A {:?}, B {:?}", weight.dims(), a.value().dims(), b.value().dims());
    }
    let shape = rows_of("lora_linear", x.value(), n_in, n_out)?;
    let input = x.value().contiguous()?;
    let rows = input.elem_count() / n_in.max(1);
    let (value, low) = dispatch!(input.dtype(), T => {
        let mut low = times_transposed::<T>(&input, a.value())?;
        scale_by(&mut low, T::of(scale));
        let mut out = times_transposed::<T>(&input, weight)?;
        let b = view::<T>(b.value())?;
        let b = Matrix::new(&b, n_out, rank).t();
        matmul(&mut out, Matrix::new(&low, rows, rank), b, true, Threads::All);
        (tensor(out, shape)?, tensor(low, (rows, rank))?)
    });
    let (px, pa, pb, weight) = (x.clone(), a.clone(), b.clone(), weight.clone());
    Ok(tape.record(value, &[x, a, b], move |grad, grads| {
        let grad = grad.contiguous()?;
        dispatch!(grad.dtype(), T => {
            if pb.needs_grad() {
                grads.add(&pb, tensor(transposed_times::<T>(&grad, &low)?, (n_out, rank))?)?;
            }
            let mut dlow = times::<T>(&grad, pb.value())?; // [rows, rank]
            scale_by(&mut dlow, T::of(scale));
            if px.needs_grad() {
                let mut dx = times::<T>(&grad, &weight)?;
                let a = view::<T>(pa.value())?;
                matmul(&mut dx, Matrix::new(&dlow, rows, rank), Matrix::new(&a, rank, n_in), true, Threads::All);
                grads.add(&px, tensor(dx, px.value().dims())?)?;
            }
            if pa.needs_grad() {
                grads.add(&pa, tensor(transposed_times::<T>(&tensor(dlow, (rows, rank))?, &input)?, (rank, n_in))?)?;
            }
            Ok(())
        })
    }))
}

fn scale_by<T: Number>(numbers: &mut [T], factor: T) {
    numbers.iter_mut().for_each(|v| *v *= factor);
}

/// Checks the last dimension of `x` and gives the shape of the product.
fn rows_of(op: &str, x: &Tensor, n_in: usize, n_out: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == n_in => *last = n_out,
        _ => bail!("{op}: x {:?}, expected [.., {n_in}]", x.dims()),
    }
    Ok(shape)
}

/// `x · weightᵀ` over all rows of x.
pub(crate) fn times_transposed<T: Number>(x: &Tensor, weight: &Tensor) -> Result<Vec<T>> {
    let (n_out, n_in) = weight.dims2()?;
    let (x, weight) = (view::<T>(x)?, view::<T>(weight)?);
    let rows = x.len() / n_in.max(1);
    let mut out = vec![T::zero(); rows * n_out];
    matmul(&mut out, Matrix::new(&x, rows, n_in), Matrix::new(&weight, n_out, n_in).t(), false, Threads::All);
    Ok(out)
}

/// `grad · weight` over all rows of grad.
fn times<T: Number>(grad: &Tensor, weight: &Tensor) -> Result<Vec<T>> {
    let (n_out, n_in) = weight.dims2()?;
    let (grad, weight) = (view::<T>(grad)?, view::<T>(weight)?);
    let rows = grad.len() / n_out.max(1);
    let mut out = vec![T::zero(); rows * n_in];
    matmul(&mut out, Matrix::new(&grad, rows, n_out), Matrix::new(&weight, n_out, n_in), false, Threads::All);
    Ok(out)
}

/// Rows that one thread multiplies in [`transposed_times`]: fixed, so sums have one order on any number of threads.
const BLOCK: usize = 2048;
/// Up to this many weights the rows are shared out among threads; of more, the weights.
const SMALL: usize = 1 << 16;

/// `gradᵀ · x` over all rows.
fn transposed_times<T: Number>(grad: &Tensor, x: &Tensor) -> Result<Vec<T>> {
    let (n_out, n_in) = (last_dim(grad), last_dim(x));
    let (grad, x) = (view::<T>(grad)?, view::<T>(x)?);
    let (grad, x): (&[T], &[T]) = (&grad, &x);
    let rows = grad.len() / n_out.max(1);
    let product = |rows: Range<usize>, out: &mut [T], threads| {
        let grad = Matrix::new(&grad[rows.start * n_out..], rows.len(), n_out);
        matmul(out, grad.t(), Matrix::new(&x[rows.start * n_in..], rows.len(), n_in), false, threads);
    };
    if n_out * n_in > SMALL || rows <= BLOCK {
        let mut out = vec![T::zero(); n_out * n_in];
        product(0..rows, &mut out, Threads::All);
        return Ok(out);
    }
    Ok(sum_blocks(rows, BLOCK, n_out * n_in, |rows, out| product(rows, out, Threads::One)))
}

fn last_dim(x: &Tensor) -> usize {
    x.dims().last().copied().unwrap_or(1)
}

/// Sums over all but the last dimension.
fn column_sums(grad: &Tensor) -> Result<Tensor> {
    let width = last_dim(grad);
    dispatch!(grad.dtype(), T => {
        let grad = view::<T>(grad)?;
        let sums = sum_rows(grad.len() / width.max(1), width, |row, sums: &mut [T]| {
            add_to(sums, &grad[row * width..(row + 1) * width]);
        });
        tensor(sums, width)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;

    #[test]
    fn gradients_match_finite_differences() {
        let (x, w, b) = (numbers(&[2, 3, 5], 0.1), numbers(&[7, 5], 1.3), numbers(&[7], 2.2));
        gradcheck(&[x.clone(), w.clone(), b], |t, v| linear(t, &v[0], &v[1], Some(&v[2])));
        gradcheck(&[x.clone(), w.clone()], |t, v| linear(t, &v[0], &v[1], None));
        let (a, b) = (numbers(&[2, 5], 0.7), numbers(&[7, 2], 0.4));
        gradcheck(&[x, a, b], move |t, v| lora_linear(t, &v[0], &w, &v[1], &v[2], 0.3));
    }

    #[test]
    fn a_gradient_in_blocks_is_the_sum_over_all_rows() {
        let rows = 2 * BLOCK + 37;
        let (grad, x) = (numbers(&[rows, 3], 0.1), numbers(&[rows, 5], 1.3));
        let got = tensor(transposed_times::<f64>(&grad, &x).unwrap(), (3, 5)).unwrap();
        let want = grad.t().unwrap().matmul(&x).unwrap();
        let worst = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(worst < 1e-9, "{worst}");
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient_and_wrong_shapes_are_named() {
        let (x, w) = (numbers(&[3, 5], 0.1), numbers(&[7, 5], 1.3));
        let tape = Tape::on();
        let (x, w) = (tape.input(x), Var::constant(w));
        let y = linear(&tape, &x, &w, None).unwrap();
        let ones = y.value().ones_like().unwrap();
        let grads = tape.backward_from(&[(&y, ones)]).unwrap();
        assert!(grads.input(&x).is_some() && grads.input(&w).is_none());
        let narrow = Var::constant(numbers(&[3, 4], 0.0));
        assert!(
            linear(&Tape::off(), &narrow, &w, None).unwrap_err().to_string().contains("expected [.., 5]")
        );
    }
}
