//! The layers that every model here is made of: weights with a name and a shape, and one op.

use candle_core::{Result, Tensor};

use crate::ops;
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

/// `y = x Wᵀ + b`; weights `weight[out, in]`, `bias[out]`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param,
    /// `[out]`
    pub bias: Option<Param>,
}

impl Linear {
    /// With bias. Drawn as PyTorch draws it: uniform in ±1/√in.
    pub fn new(weights: &Weights, n_in: usize, n_out: usize) -> Result<Self> {
        let init = Init::Uniform(1.0 / (n_in as f32).sqrt());
        Self::with_init(weights, n_in, n_out, init, Some(init))
    }

    /// Without bias. Drawn uniform in ±1/√in.
    pub fn no_bias(weights: &Weights, n_in: usize, n_out: usize) -> Result<Self> {
        Self::with_init(weights, n_in, n_out, Init::Uniform(1.0 / (n_in as f32).sqrt()), None)
    }

    /// With the given draws; no bias when `bias` is `None`.
    pub fn with_init(
        weights: &Weights,
        n_in: usize,
        n_out: usize,
        weight: Init,
        bias: Option<Init>,
    ) -> Result<Self> {
        let weight = weights.get((n_out, n_in), "weight", weight)?;
        let bias = bias.map(|init| weights.get(n_out, "bias", init)).transpose()?;
        Ok(Self { weight, bias })
    }

    /// # Shapes
    /// x `[.., in]` → `[.., out]`
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let bias = self.bias.as_ref().map(|b| tape.param(b));
        ops::linear(tape, x, &tape.param(&self.weight), bias.as_ref())
    }
}

/// Layer normalisation; weights `weight[C]`, `bias[C]`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Param,
    bias: Option<Param>,
    eps: f64,
}

impl LayerNorm {
    /// With bias; starts as the identity.
    pub fn new(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        let bias = Some(weights.get(width, "bias", Init::Const(0.0))?);
        Ok(Self { weight: weights.get(width, "weight", Init::Const(1.0))?, bias, eps })
    }

    /// Without bias.
    pub fn no_bias(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: weights.get(width, "weight", Init::Const(1.0))?, bias: None, eps })
    }

    /// # Shapes
    /// x `[.., C]` → the same
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let bias = self.bias.as_ref().map(|b| tape.param(b));
        ops::layer_norm(tape, x, &tape.param(&self.weight), bias.as_ref(), self.eps)
    }
}

/// Root-mean-square normalisation; weight `weight[C]`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Param,
    eps: f64,
}

impl RmsNorm {
    /// Starts as a pure normalisation.
    pub fn new(weights: &Weights, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: weights.get(width, "weight", Init::Const(1.0))?, eps })
    }

    /// # Shapes
    /// x `[.., C]` → the same
    pub fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        ops::rms_norm(tape, x, &tape.param(&self.weight), self.eps)
    }
}

/// A table of vectors; weight `weight[V, C]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// `[V, C]`
    pub weight: Param,
}

impl Embedding {
    /// With the given draw.
    pub fn new(weights: &Weights, n: usize, width: usize, init: Init) -> Result<Self> {
        Ok(Self { weight: weights.get((n, width), "weight", init)? })
    }

    /// # Shapes
    /// ids `[..]` u32 → `[.., C]`
    pub fn forward(&self, tape: &Tape, ids: &Tensor) -> Result<Var> {
        ops::embedding(tape, &tape.param(&self.weight), ids)
    }
}
