//! Element by element.

use candle_core::{Result, Tensor};

use super::{Args, THREADS, elements, empty, gpu_of, launch};

/// One thread per element of the result, with its shape.
fn each(kernel: &str, tensors: &[&Tensor], more: &[usize]) -> Result<Tensor> {
    let gpu = gpu_of(tensors[0])?;
    let out = empty(gpu, tensors[0].shape())?;
    let n = out.elem_count();
    let args = Args { tensors: &[tensors, &[&out]].concat(), sizes: &[&[n], more].concat(), numbers: &[] };
    launch(gpu, kernel, elements(n), THREADS, &args)?;
    Ok(out)
}

/// `into += from`.
pub(crate) fn add_assign(into: &Tensor, from: &Tensor) -> Result<()> {
    let (gpu, n) = (gpu_of(into)?, into.elem_count());
    let args = Args { tensors: &[into, &from.contiguous()?], sizes: &[n], numbers: &[] };
    launch(gpu, "add_assign", elements(n), THREADS, &args)
}

/// A function of `ops/activation.rs` by its number.
pub(crate) fn activation(x: &Tensor, function: usize) -> Result<Tensor> {
    each("activation", &[x], &[function])
}

/// grad · f'(x), where y = f(x).
pub(crate) fn activation_slopes(grad: &Tensor, x: &Tensor, y: &Tensor, function: usize) -> Result<Tensor> {
    each("activation_slopes", &[grad, x, y], &[function])
}

/// silu(gate) ⊙ up
pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    each("swiglu", &[gate, up], &[])
}

/// Gradients of gate and up.
pub(crate) fn swiglu_slopes(grad: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let (gpu, n) = (gpu_of(grad)?, grad.elem_count());
    let (dgate, dup) = (empty(gpu, gate.shape())?, empty(gpu, up.shape())?);
    let args = Args { tensors: &[grad, gate, up, &dgate, &dup], sizes: &[n], numbers: &[] };
    launch(gpu, "swiglu_slopes", elements(n), THREADS, &args)?;
    Ok((dgate, dup))
}

/// x `[B, T, heads, D]` turned by angles `[B · T, 2, D/2]`, or back.
pub(crate) fn rope(x: &Tensor, angles: &Tensor, back: bool) -> Result<Tensor> {
    let (_, _, heads, dim) = x.dims4()?;
    let gpu = gpu_of(x)?;
    let (out, pairs) = (empty(gpu, x.shape())?, x.elem_count() / 2);
    let sizes = &[pairs, heads, dim / 2];
    let args = Args { tensors: &[x, angles, &out], sizes, numbers: &[if back { -1.0 } else { 1.0 }] };
    launch(gpu, "rope", elements(pairs), THREADS, &args)?;
    Ok(out)
}
