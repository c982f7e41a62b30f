//! A Perceiver resampler: latents that attend to each other and to the residues, layer by layer (arXiv 2107.14795; the
//! layer is torch's `TransformerDecoderLayer` with the norm first, and a norm of its own before the residues).

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

use super::attention::MultiheadAttention;
use super::{Ends, with_sites};
use crate::layers::{LayerNorm, Linear};
use crate::ops;
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

const EPS: f64 = 1e-5;

/// Sizes of a Perceiver resampler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// vectors per protein
    pub n_latents: usize,
    /// layers
    pub n_layers: usize,
    /// width of the latents
    pub width: usize,
    /// heads of every attention
    pub n_heads: usize,
    /// width of the feed-forward layers
    pub ffn_size: usize,
    /// whether the last vector of a protein with a site is that of the residue there
    pub site: bool,
}

/// The resampler.
#[derive(Clone)]
pub(super) struct Perceiver {
    site: bool,
    input: Linear,
    /// `[N, W]`
    latents: Param,
    layers: Vec<Layer>,
    norm: LayerNorm,
    output: Linear,
}

#[derive(Clone)]
struct Layer {
    norm1: LayerNorm,
    self_attn: MultiheadAttention,
    norm2: LayerNorm,
    encoder_norm: LayerNorm,
    multihead_attn: MultiheadAttention,
    norm3: LayerNorm,
    linear1: Linear,
    linear2: Linear,
}

impl Layer {
    fn new(weights: &Weights, config: &Config) -> Result<Self> {
        let norm = |name: &str| LayerNorm::new(&weights.pp(name), config.width, EPS);
        let attention = |name: &str| MultiheadAttention::new(&weights.pp(name), config.width, config.n_heads);
        Ok(Self {
            norm1: norm("norm1")?,
            self_attn: attention("self_attn")?,
            norm2: norm("norm2")?,
            encoder_norm: norm("encoder_norm")?,
            multihead_attn: attention("multihead_attn")?,
            norm3: norm("norm3")?,
            linear1: Linear::new(&weights.pp("linear1"), config.width, config.ffn_size)?,
            linear2: Linear::new(&weights.pp("linear2"), config.ffn_size, config.width)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var, residues: &Var, lengths: &[usize]) -> Result<Var> {
        let h = self.norm1.forward(tape, x)?;
        let all = vec![h.value().dim(1)?; lengths.len()];
        let x = ops::add(tape, x, &self.self_attn.forward(tape, &h, &h, &all)?)?;
        let (h, seen) = (self.norm2.forward(tape, &x)?, self.encoder_norm.forward(tape, residues)?);
        let x = ops::add(tape, &x, &self.multihead_attn.forward(tape, &h, &seen, lengths)?)?;
        let h = ops::gelu(tape, &self.linear1.forward(tape, &self.norm3.forward(tape, &x)?)?)?;
        ops::add(tape, &x, &self.linear2.forward(tape, &h)?)
    }
}

impl Perceiver {
    pub(super) fn new(config: Config, ends: &Ends, weights: &Weights) -> Result<Self> {
        if config.n_latents == 0 || config.n_layers == 0 {
            bail!("bridge: {} latents in {} layers", config.n_latents, config.n_layers);
        }
        let at = weights.pp("resampler");
        let layer = |i| Layer::new(&at.pp("layers").pp(i), &config);
        Ok(Self {
            site: config.site,
            input: Linear::new(&at.pp("input"), ends.encoder_size, config.width)?,
            latents: at.get((config.n_latents, config.width), "latents", Init::Normal(1.0))?,
            layers: (0..config.n_layers).map(layer).collect::<Result<_>>()?,
            norm: LayerNorm::new(&at.pp("norm"), config.width, EPS)?,
            output: Linear::new(&at.pp("output"), config.width, ends.llm_size)?,
        })
    }

    /// # Shapes
    /// residues `[P, L, E]` → `[P, N, C]`
    pub(super) fn forward(
        &self,
        tape: &Tape,
        residues: &Var,
        lengths: &[usize],
        sites: &[Option<usize>],
    ) -> Result<Var> {
        let residues = self.input.forward(tape, residues)?; // [P, L, W]
        let mut x = repeated(tape, &self.latents, lengths.len())?;
        for layer in &self.layers {
            x = layer.forward(tape, &x, &residues, lengths)?;
        }
        if self.site {
            x = with_sites(tape, &x, &residues, lengths, sites)?;
        }
        self.output.forward(tape, &self.norm.forward(tape, &x)?)
    }
}

/// The same rows for each of `n` proteins.
///
/// # Shapes
/// `[N, W]` → `[n, N, W]`
pub(super) fn repeated(tape: &Tape, rows: &Param, n: usize) -> Result<Var> {
    let (count, width) = rows.value().dims2()?;
    let rows = ops::reshape(tape, &tape.param(rows), (1, count, width))?;
    ops::cat(tape, &vec![&rows; n], 0)
}
