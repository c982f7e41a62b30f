//! Convolution along the chain.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul};
use crate::ops::kernel::{Number, add_to};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Rows whose weight gradients one task sums.
const ROWS: usize = 4;

/// `y[t] = bias + Σ_j weight[:, :, j] · x[t + j − (k − 1) / 2]` within each row's length; what lies outside counts as
/// zero, so padding never reaches a residue.
///
/// The windows of a row are a matrix with overlapping rows, so a row is one product and nothing is copied out.
///
/// # Shapes
/// `x`: `[B, L, I]`, `weight`: `[O, I, k]` with odd k (as `torch.nn.Conv1d`), `bias`: `[O]`, `lengths`: B numbers ≤ L →
/// `[B, L, O]`, zeros at padding
///
/// # Errors
/// On shapes that do not fit.
pub fn conv(tape: &Tape, x: &Var, weight: &Var, bias: &Var, lengths: &[usize]) -> Result<Var> {
    let (b, l, inputs) = x.value().dims3()?;
    let (outputs, width, k) = weight.value().dims3()?;
    if width != inputs || k % 2 == 0 || bias.value().dims() != [outputs] {
        bail!(
            "conv: input of width {inputs}, weight {:?} (odd kernel), bias {:?}",
            weight.value().dims(),
            bias.value().dims()
        );
    }
    if lengths.len() != b || lengths.iter().any(|&n| n > l) {
        bail!("conv: a batch [{b}, {l}] with lengths {lengths:?}");
    }
    dispatch!(x.value().dtype(), T => run::<T>(tape, x, weight, bias, lengths))
}

/// A row `[n, width]` between (k − 1) / 2 rows of zeros on either side; its windows are `[n, k · width]`.
struct Windows<T> {
    padded: Vec<T>,
    n: usize,
    k: usize,
    width: usize,
}

impl<T: Number> Windows<T> {
    fn new(row: &[T], k: usize, width: usize) -> Self {
        let border = (k - 1) / 2 * width;
        let mut padded = vec![T::zero(); row.len() + 2 * border];
        padded[border..border + row.len()].copy_from_slice(row);
        Self { padded, n: row.len() / width, k, width }
    }

    fn matrix(&self) -> Matrix<'_, T> {
        Matrix::strided(&self.padded, self.n, self.k * self.width, self.width, 1)
    }
}

fn numbers<T: Number>(tensor: &Tensor) -> Result<Vec<T>> {
    Ok(view::<T>(&tensor.contiguous()?)?.to_vec())
}

fn run<T: Number>(tape: &Tape, x: &Var, weight: &Var, bias: &Var, lengths: &[usize]) -> Result<Var> {
    let (b, l, inputs) = x.value().dims3()?;
    let (outputs, _, k) = weight.value().dims3()?;
    // [k, I, O]
    let taps: Vec<T> = numbers(&weight.value().permute((2, 1, 0))?)?;
    let offset: Vec<T> = numbers(bias.value())?;
    let input = x.value().contiguous()?;
    let mut y = vec![T::zero(); b * l * outputs];
    {
        let x = view::<T>(&input)?;
        y.par_chunks_mut(l * outputs).zip(x.par_chunks(l * inputs)).zip(lengths).for_each(|((y, x), &n)| {
            let y = &mut y[..n * outputs];
            y.chunks_exact_mut(outputs).for_each(|y| y.copy_from_slice(&offset));
            let windows = Windows::new(&x[..n * inputs], k, inputs);
            let taps = Matrix::new(&taps, k * inputs, outputs);
            matmul(y, windows.matrix(), taps, true, Threads::One);
        });
    }
    let y = tensor(y, (b, l, outputs))?;
    let lengths = lengths.to_vec();
    let parents = [x.clone(), weight.clone(), bias.clone()];
    Ok(tape.record(y, &[x, weight, bias], move |grad, grads| {
        let grad = grad.contiguous()?;
        let (dy, x) = (view::<T>(&grad)?, view::<T>(&input)?);
        let (dy, x): (&[T], &[T]) = (&dy, &x);
        if parents[0].needs_grad() {
            grads.add(
                &parents[0],
                tensor(input_gradient(dy, &taps, &lengths, [l, inputs, outputs, k]), (b, l, inputs))?,
            )?;
        }
        let blocks: Vec<(Vec<T>, Vec<T>)> = (0..b.div_ceil(ROWS))
            .into_par_iter()
            .map(|block| {
                let mut taps = vec![T::zero(); k * inputs * outputs];
                let mut offset = vec![T::zero(); outputs];
                for row in block * ROWS..b.min((block + 1) * ROWS) {
                    let n = lengths[row];
                    let dy = &dy[row * l * outputs..][..n * outputs];
                    let windows = Windows::new(&x[row * l * inputs..][..n * inputs], k, inputs);
                    let dy_matrix = Matrix::new(dy, n, outputs);
                    matmul(&mut taps, windows.matrix().t(), dy_matrix, true, Threads::One);
                    dy.chunks_exact(outputs).for_each(|dy| add_to(&mut offset, dy));
                }
                (taps, offset)
            })
            .collect();
        let mut sum = (vec![T::zero(); k * inputs * outputs], vec![T::zero(); outputs]);
        for (taps, offset) in &blocks {
            add_to(&mut sum.0, taps);
            add_to(&mut sum.1, offset);
        }
        grads.add(&parents[1], tensor(sum.0, (k, inputs, outputs))?.permute((2, 1, 0))?.contiguous()?)?;
        grads.add(&parents[2], tensor(sum.1, outputs)?)
    }))
}

/// `dx[t] = Σ_j dy[t − j + (k − 1) / 2] · weight[:, :, j]`: a convolution with the taps in the other order.
fn input_gradient<T: Number>(
    dy: &[T],
    taps: &[T],
    lengths: &[usize],
    [l, inputs, outputs, k]: [usize; 4],
) -> Vec<T> {
    // [k, O, I], last tap first
    let mut flipped = vec![T::zero(); taps.len()];
    for (j, tap) in taps.chunks_exact(inputs * outputs).rev().enumerate() {
        let flipped = &mut flipped[j * inputs * outputs..][..inputs * outputs];
        for i in 0..inputs {
            for o in 0..outputs {
                flipped[o * inputs + i] = tap[i * outputs + o];
            }
        }
    }
    let mut dx = vec![T::zero(); lengths.len() * l * inputs];
    dx.par_chunks_mut(l * inputs).zip(dy.par_chunks(l * outputs)).zip(lengths).for_each(|((dx, dy), &n)| {
        let windows = Windows::new(&dy[..n * outputs], k, outputs);
        let taps = Matrix::new(&flipped, k * outputs, inputs);
        matmul(&mut dx[..n * inputs], windows.matrix(), taps, false, Threads::One);
    });
    dx
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers as random;
    use candle_core::IndexOp;

    #[test]
    fn gradients_match_finite_differences() {
        let inputs = [random(&[5, 7, 2], 0.0), random(&[3, 2, 5], 1.0), random(&[3], 2.0)];
        gradcheck(&inputs, |tape, v| conv(tape, &v[0], &v[1], &v[2], &[7, 3, 0, 1, 6]));
    }

    #[test]
    fn values_are_those_of_candles_conv1d_on_each_row_alone() {
        let lengths = [7, 3, 5];
        let (x, w, b) = (random(&[3, 7, 2], 0.3), random(&[3, 2, 5], 1.3), random(&[3], 2.3));
        let vars: Vec<Var> = [&x, &w, &b].iter().map(|t| Var::constant((*t).clone())).collect();
        let got = conv(&Tape::off(), &vars[0], &vars[1], &vars[2], &lengths).unwrap();
        for (row, &n) in lengths.iter().enumerate() {
            let x = x.i((row..row + 1, ..n, ..)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
            let want =
                x.conv1d(&w, 2, 1, 1, 1).unwrap().broadcast_add(&b.reshape((1, 3, 1)).unwrap()).unwrap();
            let got = got.value().i((row..row + 1, ..n, ..)).unwrap().transpose(1, 2).unwrap();
            let difference = (got - want).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f64>().unwrap() < 1e-12);
        }
    }
}
