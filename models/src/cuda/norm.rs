//! Normalisation of the last dimension.

use candle_core::{Result, Tensor};

use super::{Args, THREADS, column_sums, elements, empty, gpu_of, launch, warps};

/// The normalised rows, and (mean, 1 / deviation) of each.
pub(crate) fn norm(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    eps: f64,
    centred: bool,
) -> Result<(Tensor, Tensor)> {
    let (gpu, width) = (gpu_of(x)?, weight.dims1()?);
    let rows = x.elem_count() / width.max(1);
    let (out, stats) = (empty(gpu, x.shape())?, empty(gpu, (rows, 2))?);
    let args = Args {
        tensors: &[x, weight, bias.unwrap_or(weight), &out, &stats],
        sizes: &[rows, width, centred.into(), bias.is_some().into()],
        numbers: &[eps],
    };
    launch(gpu, "normalise", warps(rows), THREADS, &args)?;
    Ok((out, stats))
}

/// Gradient of x.
pub(crate) fn norm_slopes(
    grad: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    stats: &Tensor,
    centred: bool,
) -> Result<Tensor> {
    let (gpu, width) = (gpu_of(x)?, weight.dims1()?);
    let (rows, dx) = (stats.dim(0)?, empty(gpu, x.shape())?);
    let sizes = &[rows, width, centred.into()];
    let args = Args { tensors: &[grad, x, weight, stats, &dx], sizes, numbers: &[] };
    launch(gpu, "norm_slopes", warps(rows), THREADS, &args)?;
    Ok(dx)
}

/// Gradients of the weight and, if it is wanted, of the bias.
pub(crate) fn norm_weight_slopes(
    grad: &Tensor,
    x: &Tensor,
    stats: &Tensor,
    bias: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    let (gpu, n, rows) = (gpu_of(x)?, x.elem_count(), stats.dim(0)?);
    let width = n / rows.max(1);
    let products = empty(gpu, (rows, width))?;
    let args = Args { tensors: &[grad, x, stats, &products], sizes: &[n, width], numbers: &[] };
    launch(gpu, "norm_products", elements(n), THREADS, &args)?;
    let db = bias.then(|| column_sums(grad)).transpose()?;
    Ok((column_sums(&products)?, db))
}
