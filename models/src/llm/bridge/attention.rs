//! Attention with weights as torch's `MultiheadAttention` names them.

use candle_core::{Result, bail};

use crate::layers::Linear;
use crate::ops::{self, KeyMask, Sees};
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

/// Which of the three projections.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Query,
    Key,
    Value,
}

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
        let q = self.project(tape, queries, Part::Query)?;
        let (k, v) = (self.project(tape, keys, Part::Key)?, self.project(tape, keys, Part::Value)?);
        self.output(tape, &self.mix(tape, &q, &k, &v, lengths)?)
    }

    /// One of the three projections, by heads.
    ///
    /// # Shapes
    /// x `[B, T, W]` → `[B, T, H, D]`
    pub(super) fn project(&self, tape: &Tape, x: &Var, part: Part) -> Result<Var> {
        let (b, t, width) = x.value().dims3()?;
        let weight = ops::narrow(tape, &tape.param(&self.in_proj_weight), 0, part as usize * width, width)?;
        let bias = ops::narrow(tape, &tape.param(&self.in_proj_bias), 0, part as usize * width, width)?;
        let y = ops::linear(tape, x, &weight, Some(&bias))?;
        ops::reshape(tape, &y, (b, t, self.n_heads, width / self.n_heads))
    }

    /// Means of the values, weighted by how well queries and keys agree.
    ///
    /// # Shapes
    /// q `[B, T, H, D]`, k and v `[B, S, H, D]` → `[B, T, W]`
    pub(super) fn mix(&self, tape: &Tape, q: &Var, k: &Var, v: &Var, lengths: &[usize]) -> Result<Var> {
        let (b, t, heads, dim) = q.value().dims4()?;
        let mask = KeyMask { lengths: lengths.to_vec(), sees: Sees::All };
        let mixed = ops::attention(tape, q, k, v, &mask, 1.0 / (dim as f64).sqrt())?;
        ops::reshape(tape, &mixed, (b, t, heads * dim))
    }

    /// The projection behind the heads, `[.., W]` → `[.., W]`.
    pub(super) fn output(&self, tape: &Tape, mixed: &Var) -> Result<Var> {
        self.out_proj.forward(tape, mixed)
    }
}
