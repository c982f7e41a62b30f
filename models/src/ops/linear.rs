//! Products with weights in the layout of Hugging Face and PyTorch: `weight[out, in]`.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use crate::device::on_gpu;
use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul, matmul_new};
use crate::ops::kernel::{Number, add_to, for_rows, sum_blocks, sum_rows};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

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
    let value = outputs(&input, weight.value(), bias.map(Var::value), &shape)?;
    let parents: Vec<&Var> = [x, weight].into_iter().chain(bias).collect();
    let (px, pw, pb) = (x.parent(), weight.clone(), bias.map(Var::parent));
    let input = weight.needs_grad().then_some(input); // a frozen weight does not ask what it was given
    Ok(tape.record(value, &parents, move |grad, grads| {
        let grad = grad.contiguous()?;
        if px.needs_grad() {
            grads.add_to(&px, product(&grad, pw.value(), false, 1.0, px.shape().dims())?)?;
        }
        if let Some(input) = &input {
            grads.add(&pw, weight_gradient(&grad, input)?)?;
        }
        match &pb {
            Some(bias) if bias.needs_grad() => grads.add_to(bias, column_sums(&grad)?),
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
    let low = product(&input, a.value(), true, scale, &[rows, rank])?;
    let value = two_products((&input, weight), (&low, b.value()), true, &shape)?;
    let (px, pa, pb, weight) = (x.parent(), a.clone(), b.clone(), weight.clone());
    Ok(tape.record(value, &[x, a, b], move |grad, grads| {
        let grad = grad.contiguous()?;
        if pb.needs_grad() {
            grads.add(&pb, weight_gradient(&grad, &low)?)?;
        }
        let dlow = product(&grad, pb.value(), false, scale, &[rows, rank])?;
        if px.needs_grad() {
            let dx = two_products((&grad, &weight), (&dlow, pa.value()), false, px.shape().dims())?;
            grads.add_to(&px, dx)?;
        }
        match pa.needs_grad() {
            true => grads.add(&pa, weight_gradient(&dlow, &input)?),
            false => Ok(()),
        }
    }))
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

/// `x · weightᵀ + bias` over all rows of x.
fn outputs(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::linear(x, weight, bias, shape));
    let n_out = weight.dim(0)?;
    dispatch!(x.dtype(), T => {
        let mut out = times::<T>(x, weight, true)?;
        if let Some(bias) = bias {
            let bias = view::<T>(bias)?;
            for_rows(&mut out, n_out, |_, rows| rows.chunks_exact_mut(n_out).for_each(|row| add_to(row, &bias)));
        }
        tensor(out, shape)
    })
}

/// `factor · x · weight`, or `· weightᵀ`, over all rows of x.
fn product(x: &Tensor, weight: &Tensor, transposed: bool, factor: f64, shape: &[usize]) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::product(x, weight, transposed, factor, shape));
    dispatch!(x.dtype(), T => {
        let mut out = times::<T>(x, weight, transposed)?;
        if factor != 1.0 {
            out.iter_mut().for_each(|v| *v *= T::of(factor));
        }
        tensor(out, shape)
    })
}

/// The sum of the products of two pairs, each as [`product`] has it.
fn two_products(
    (x, weight): (&Tensor, &Tensor),
    (y, other): (&Tensor, &Tensor),
    transposed: bool,
    shape: &[usize],
) -> Result<Tensor> {
    on_gpu!(x => crate::cuda::two_products((x, weight), (y, other), transposed, shape));
    dispatch!(x.dtype(), T => {
        let mut out = times::<T>(x, weight, transposed)?;
        let (y, numbers) = (view::<T>(y)?, view::<T>(other)?);
        let right = right(&numbers, other, transposed)?;
        let depth = if transposed { last_dim(other) } else { other.dim(0)? };
        matmul(&mut out, Matrix::new(&y, y.len() / depth.max(1), depth), right, true, Threads::All);
        tensor(out, shape)
    })
}

/// `gradᵀ · x` over all rows → `[out, in]`.
fn weight_gradient(grad: &Tensor, x: &Tensor) -> Result<Tensor> {
    let shape = (last_dim(grad), last_dim(x));
    on_gpu!(x => crate::cuda::weight_gradient(grad, x, shape));
    dispatch!(grad.dtype(), T => tensor(transposed_times::<T>(grad, x)?, shape))
}

/// A weight `[out, in]` as the right side of a product.
fn right<'a, T: Number>(numbers: &'a [T], weight: &Tensor, transposed: bool) -> Result<Matrix<'a, T>> {
    let (n_out, n_in) = weight.dims2()?;
    let matrix = Matrix::new(numbers, n_out, n_in);
    Ok(if transposed { matrix.t() } else { matrix })
}

/// `x · weight`, or `· weightᵀ`, over all rows of x.
fn times<T: Number>(x: &Tensor, weight: &Tensor, transposed: bool) -> Result<Vec<T>> {
    let (n_out, n_in) = weight.dims2()?;
    let depth = if transposed { n_in } else { n_out };
    let (x, numbers) = (view::<T>(x)?, view::<T>(weight)?);
    let rows = x.len() / depth.max(1);
    Ok(matmul_new(Matrix::new(&x, rows, depth), right(&numbers, weight, transposed)?, Threads::All))
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
    let operands = |rows: Range<usize>| {
        let grad = Matrix::new(&grad[rows.start * n_out..], rows.len(), n_out);
        (grad.t(), Matrix::new(&x[rows.start * n_in..], rows.len(), n_in))
    };
    if n_out * n_in > SMALL || rows <= BLOCK {
        let (grad, x) = operands(0..rows);
        return Ok(matmul_new(grad, x, Threads::All));
    }
    Ok(sum_blocks(rows, BLOCK, n_out * n_in, |rows, out| {
        let (grad, x) = operands(rows);
        matmul(out, grad, x, false, Threads::One);
    }))
}

fn last_dim(x: &Tensor) -> usize {
    x.dims().last().copied().unwrap_or(1)
}

/// Sums over all but the last dimension.
fn column_sums(grad: &Tensor) -> Result<Tensor> {
    on_gpu!(grad => crate::cuda::column_sums(grad));
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
