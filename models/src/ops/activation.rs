//! Element-wise functions.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::{Number, rows_per_task, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// A function and its slope at x, where y = f(x).
trait Function: Copy + Send + Sync + 'static {
    /// as `cuda/kernels.cu` counts them
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    const NUMBER: usize;
    fn value<T: Number>(x: T) -> T;
    fn slope<T: Number>(x: T, y: T) -> T;
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident $kind:ident $number:literal: |$x:ident| $value:expr, |$sx:ident, $y:ident| $slope:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $kind;

        impl Function for $kind {
            const NUMBER: usize = $number;

            #[inline(always)]
            fn value<T: Number>($x: T) -> T { $value }

            #[inline(always)]
            fn slope<T: Number>($sx: T, $y: T) -> T { $slope }
        }

        $(#[$doc])*
        ///
        /// # Errors
        /// When x is neither f32 nor f64.
        pub fn $name(tape: &Tape, x: &Var) -> Result<Var> {
            elementwise::<$kind>(tape, x)
        }
    )*};
}

functions! {
    /// `x · Φ(x)`, Φ the normal distribution (GELU with erf, as PyTorch's default; arXiv 1606.08415).
    ///
    /// Below −10 it is 0, and so is its slope (they are less than 1e-21): what is less still would be subnormal when it is
    /// multiplied with a gradient, and products of subnormal numbers take five times as long.
    gelu Gelu 0: |x| if x < T::of(-10.0) { T::zero() } else { x * x.normal_cdf() },
        |x, _y| if x < T::of(-10.0) {
            T::zero()
        } else {
            x.fused(T::of(0.398_942_280_401_432_7) * (T::of(-0.5) * x * x).fast_exp(), x.normal_cdf())
        };
    /// `x / (1 + e^−x)` (also called swish).
    silu Silu 1: |x| x * x.sigmoid(), |x, y| { let s = x.sigmoid(); y.fused(T::one() - s, s) };
    /// `max(x, 0)`, slope 0 at 0.
    relu Relu 2: |x| x.larger(T::zero()), |x, _y| if x > T::zero() { T::one() } else { T::zero() };
    /// Hyperbolic tangent.
    tanh Tanh 3: |x| x.fast_tanh(), |_x, y| T::one() - y * y;
    /// `1 / (1 + e^−x)`.
    sigmoid Sigmoid 4: |x| x.sigmoid(), |_x, y| y * (T::one() - y);
}

fn elementwise<F: Function>(tape: &Tape, x: &Var) -> Result<Var> {
    let input = x.value().contiguous()?;
    let value = applied::<F>(&input)?;
    let (parent, output) = (x.clone(), value.clone());
    Ok(tape.record(value, &[x], move |grad, grads| {
        grads.add(&parent, times_slope::<F>(&grad.contiguous()?, &input, &output)?)
    }))
}

fn applied<F: Function>(input: &Tensor) -> Result<Tensor> {
    on_gpu!(input => crate::cuda::activation(input, F::NUMBER));
    dispatch!(input.dtype(), T => {
        let x = view::<T>(input)?;
        let mut out = vec![T::default(); x.len()];
        let task = rows_per_task(1);
        out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| values::<T, F>(x, out));
        tensor(out, input.dims())
    })
}

fn times_slope<F: Function>(grad: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    on_gpu!(grad => crate::cuda::activation_slopes(grad, x, y, F::NUMBER));
    dispatch!(grad.dtype(), T => gradient::<T, F>(grad, x, y))
}

fn gradient<T: Number, F: Function>(grad: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (g, x, y) = (view::<T>(grad)?, view::<T>(x)?, view::<T>(y)?);
    let mut dx = vec![T::zero(); g.len()];
    let task = rows_per_task(1);
    dx.par_chunks_mut(task).enumerate().for_each(|(b, dx)| {
        let span = b * task..b * task + dx.len();
        slopes::<T, F>(&g[span.clone()], &x[span.clone()], &y[span], dx);
    });
    tensor(dx, grad.dims())
}

vectorised! {
    fn values [T: Number, F: Function] [T, F] (x: &[T], out: &mut [T]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = F::value(x);
        }
    }
}

vectorised! {
    fn slopes [T: Number, F: Function] [T, F] (grad: &[T], x: &[T], y: &[T], dx: &mut [T]) {
        for (((dx, &g), &x), &y) in dx.iter_mut().zip(grad).zip(x).zip(y) {
            *dx = g * F::slope(x, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::DType;

    #[test]
    fn gradients_match_finite_differences() {
        let x = [(numbers(&[3, 41], 0.1) * 2.0).unwrap()];
        gradcheck(&x, |t, v| gelu(t, &v[0]));
        gradcheck(&x, |t, v| silu(t, &v[0]));
        gradcheck(&x, |t, v| relu(t, &v[0]));
        gradcheck(&x, |t, v| tanh(t, &v[0]));
        gradcheck(&x, |t, v| sigmoid(t, &v[0]));
    }

    #[test]
    fn far_below_zero_nothing_is_subnormal() -> Result<()> {
        let x: Vec<f32> = (0..6_000).map(|at| -at as f32 * 0.01).collect();
        let x = Var::constant(Tensor::new(x, &candle_core::Device::Cpu)?);
        let y = gelu(&Tape::off(), &x)?;
        let slopes = times_slope::<Gelu>(&(x.value().ones_like()? * 1e-8)?, x.value(), y.value())?;
        for number in [y.value(), &slopes].map(|t| t.to_vec1::<f32>()).into_iter().flat_map(Result::unwrap) {
            assert!(!number.is_subnormal(), "{number}");
        }
        Ok(())
    }

    #[test]
    fn values_are_candles() -> Result<()> {
        let x = (numbers(&[3, 41], 0.1) * 4.0)?.to_dtype(DType::F32)?;
        let var = Var::constant(x.clone());
        let off = Tape::off();
        for (got, want) in [
            (gelu(&off, &var)?, x.gelu_erf()?),
            (silu(&off, &var)?, x.silu()?),
            (relu(&off, &var)?, x.relu()?),
            (tanh(&off, &var)?, x.tanh()?),
        ] {
            let difference = (got.value() - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 1e-6, "{difference}");
        }
        Ok(())
    }
}
