//! Attention with weights as torch's `MultiheadAttention` names them.

use candle_core::{Result, bail};

use crate::layers::Linear;
use crate::ops::{self, KeyMask, Sees};
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

/// Several heads, with biases.
#[derive(Clone)]
pub(super) struct MultiheadAttention {
    /// query, key and value projections, one above the other: `[3 W, W]`
    in_proj_weight: Param,
    /// `[3 W]`
    in_proj_bias: Param,
    out_proj: Linear,
    n_heads: usize,
}

impl MultiheadAttention {
    /// Drawn as torch draws it.
    pub(super) fn new(weights: &Weights, width: usize, n_heads: usize) -> Result<Self> {
        if n_heads == 0 || !width.is_multiple_of(n_heads) {
            bail!("bridge: {n_heads} heads for a width of {width}");
        }
        let xavier = Init::Uniform((6.0 / (4 * width) as f32).sqrt());
        let plain = Init::Uniform(1.0 / (width as f32).sqrt());
        Ok(Self {
            in_proj_weight: weights.get((3 * width, width), "in_proj_weight", xavier)?,
            in_proj_bias: weights.get(3 * width, "in_proj_bias", Init::Const(0.0))?,
            out_proj: Linear::with_init(
                &weights.pp("out_proj"),
                width,
                width,
                plain,
                Some(Init::Const(0.0)),
            )?,
            n_heads,
        })
    }

    /// Row b of `queries` attends to the first `lengths[b]` of `keys`.
    ///
    /// # Shapes
    /// queries `[B, T, W]`, keys `[B, S, W]` → `[B, T, W]`
    pub(super) fn forward(&self, tape: &Tape, queries: &Var, keys: &Var, lengths: &[usize]) -> Result<Var> {
        let (b, t, width) = queries.value().dims3()?;
        let (heads, dim) = (self.n_heads, width / self.n_heads);
        let (weight, bias) = (tape.param(&self.in_proj_weight), tape.param(&self.in_proj_bias));
        let project = |x: &Var, part: usize| {
            let weight = ops::narrow(tape, &weight, 0, part * width, width)?;
            let bias = ops::narrow(tape, &bias, 0, part * width, width)?;
            let y = ops::linear(tape, x, &weight, Some(&bias))?;
            ops::reshape(tape, &y, (b, x.value().dim(1)?, heads, dim)) // [B, ·, H, D]
        };
        let (q, k, v) = (project(queries, 0)?, project(keys, 1)?, project(keys, 2)?);
        let mask = KeyMask { lengths: lengths.to_vec(), sees: Sees::All };
        let mixed = ops::attention(tape, &q, &k, &v, &mask, 1.0 / (dim as f64).sqrt())?;
        self.out_proj.forward(tape, &ops::reshape(tape, &mixed, (b, t, width))?)
    }
}
