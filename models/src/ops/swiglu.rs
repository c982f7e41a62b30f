//! The gate of Llama-like feed-forward layers.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::{Number, rows_per_task, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// `silu(gate) ⊙ up` (arXiv 2002.05202), in one pass.
///
/// # Shapes
/// gate and up `[..]` → the same
///
/// # Errors
/// On two shapes.
pub fn swiglu(tape: &Tape, gate: &Var, up: &Var) -> Result<Var> {
    if gate.value().shape() != up.value().shape() {
        bail!("swiglu: gate {:?}, up {:?}", gate.value().dims(), up.value().dims());
    }
    let (g, u) = (gate.value().contiguous()?, up.value().contiguous()?);
    let value = gated(&g, &u)?;
    let (pg, pu) = (gate.clone(), up.clone());
    Ok(tape.record(value, &[gate, up], move |grad, grads| {
        let (dgate, dup) = gradients(&grad.contiguous()?, &g, &u)?;
        grads.add(&pg, dgate)?;
        grads.add(&pu, dup)
    }))
}

fn gated(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    on_gpu!(gate => crate::cuda::swiglu(gate, up));
    dispatch!(gate.dtype(), T => {
        let (g, u) = (view::<T>(gate)?, view::<T>(up)?);
        let mut out = vec![T::default(); g.len()];
        let task = rows_per_task(1);
        let parts = out.par_chunks_mut(task).zip(g.par_chunks(task)).zip(u.par_chunks(task));
        parts.for_each(|((out, gate), up)| values(gate, up, out));
        tensor(out, gate.dims())
    })
}

fn gradients(grad: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    on_gpu!(grad => crate::cuda::swiglu_slopes(grad, gate, up));
    dispatch!(grad.dtype(), T => gradient::<T>(grad, gate, up))
}

fn gradient<T: Number>(grad: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    let (dy, gate_values, up_values) = (view::<T>(grad)?, view::<T>(gate)?, view::<T>(up)?);
    let (mut dgate, mut dup) = (vec![T::zero(); dy.len()], vec![T::zero(); dy.len()]);
    let task = rows_per_task(1);
    dgate.par_chunks_mut(task).zip(dup.par_chunks_mut(task)).enumerate().for_each(|(b, (dgate, dup))| {
        let span = b * task..b * task + dgate.len();
        slopes(&dy[span.clone()], &gate_values[span.clone()], &up_values[span], dgate, dup);
    });
    Ok((tensor(dgate, gate.dims())?, tensor(dup, up.dims())?))
}

vectorised! {
    fn values [T: Number] [T] (gate: &[T], up: &[T], out: &mut [T]) {
        for ((out, &g), &u) in out.iter_mut().zip(gate).zip(up) {
            *out = g * g.sigmoid() * u;
        }
    }
}

vectorised! {
    fn slopes [T: Number] [T] (dy: &[T], gate: &[T], up: &[T], dgate: &mut [T], dup: &mut [T]) {
        for ((((dgate, dup), &dy), &g), &u) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
            let s = g.sigmoid();
            let y = g * s;
            *dgate = dy * u * y.fused(T::one() - s, s);
            *dup = dy * y;
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
        gradcheck(&[numbers(&[3, 37], 0.1), numbers(&[3, 37], 1.4)], |t, v| swiglu(t, &v[0], &v[1]));
    }
}
