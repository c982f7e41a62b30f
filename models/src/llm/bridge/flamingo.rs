//! Flamingo (arXiv 2204.14198): a resampler whose latents the language model attends to from layers of its own, each
//! behind a gate that is shut at first. A token sees the proteins that stand before it, all of them.

use candle_core::{DType, Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::perceiver::repeated;
use super::{Ends, with_sites};
use crate::layers::{LayerNorm, Linear};
use crate::llm::protein_llm::Residues;
use crate::ops::{self, KeyMask, Sees};
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

const EPS: f64 = 1e-5;
/// Width of a feed-forward layer over that of its input.
const FFN_FACTOR: usize = 4;

/// Sizes of the resampler and of the layers that read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// latents per protein
    pub n_latents: usize,
    /// layers of the resampler
    pub n_layers: usize,
    /// heads of every attention
    pub n_heads: usize,
    /// width of a head
    pub head_dim: usize,
    /// there is a reading layer before the language model's layers number `every`, 2 · `every`, …, counted from 1
    pub every: usize,
    /// reading layers: the language model's depth divided by `every`
    pub n_blocks: usize,
    /// rows of the table of residue positions: longer proteins are refused
    pub max_residues: usize,
    /// whether the last latent of a protein with a site is that of the residue there
    pub site: bool,
}

/// Number of weights between an encoder of width `e` and a language model of width `c`.
pub(super) fn n_weights(config: &Config, e: u64, c: u64) -> u64 {
    let inner = (config.n_heads * config.head_dim) as u64;
    let ffn = |width: u64| 2 * width + 2 * FFN_FACTOR as u64 * width * width;
    let attention = |width: u64, key_width: u64| 2 * width * inner + 2 * key_width * inner;
    let layer = 4 * e + attention(e, e) + ffn(e);
    let block = 2 * c + attention(c, e) + ffn(c) + 2;
    let tables = (config.max_residues + config.n_latents) as u64 * e + c;
    tables + config.n_layers as u64 * layer + 2 * e + config.n_blocks as u64 * block
}

/// `LayerNorm → Linear → GELU → Linear`, without biases in the linear layers.
#[derive(Clone)]
struct FeedForward {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl FeedForward {
    fn new(weights: &Weights, width: usize) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::new(&weights.pp(0), width, EPS)?,
            up: Linear::no_bias(&weights.pp(1), width, FFN_FACTOR * width)?,
            down: Linear::no_bias(&weights.pp(3), FFN_FACTOR * width, width)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let h = ops::gelu(tape, &self.up.forward(tape, &self.norm.forward(tape, x)?)?)?;
        self.down.forward(tape, &h)
    }
}

/// Queries of one width, keys and values of another, no biases.
#[derive(Clone)]
struct CrossAttention {
    to_q: Linear,
    /// keys, then values
    to_kv: Linear,
    to_out: Linear,
    n_heads: usize,
}

impl CrossAttention {
    fn new(weights: &Weights, width: usize, key_width: usize, config: &Config) -> Result<Self> {
        let inner = config.n_heads * config.head_dim;
        Ok(Self {
            to_q: Linear::no_bias(&weights.pp("to_q"), width, inner)?,
            to_kv: Linear::no_bias(&weights.pp("to_kv"), key_width, 2 * inner)?,
            to_out: Linear::no_bias(&weights.pp("to_out"), inner, width)?,
            n_heads: config.n_heads,
        })
    }

    fn heads(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let (b, t, inner) = x.value().dims3()?;
        ops::reshape(tape, x, (b, t, self.n_heads, inner / self.n_heads))
    }

    /// # Shapes
    /// x `[B, S, K]` → keys and values, one beside the other, `[B, S, 2 · inner]`
    fn keys_and_values(&self, tape: &Tape, x: &Var) -> Result<Var> {
        self.to_kv.forward(tape, x)
    }

    /// # Shapes
    /// x `[B, T, W]`, kv `[B, S, 2 · inner]` → `[B, T, W]`
    fn forward(&self, tape: &Tape, x: &Var, kv: &Var, mask: &KeyMask) -> Result<Var> {
        let (b, t, _) = x.value().dims3()?;
        let inner = kv.value().dim(2)? / 2;
        let q = self.heads(tape, &self.to_q.forward(tape, x)?)?; // [B, T, H, D]
        let k = self.heads(tape, &ops::narrow(tape, kv, 2, 0, inner)?)?; // [B, S, H, D]
        let v = self.heads(tape, &ops::narrow(tape, kv, 2, inner, inner)?)?;
        let scale = 1.0 / ((inner / self.n_heads) as f64).sqrt();
        let mixed = ops::attention(tape, &q, &k, &v, mask, scale)?;
        self.to_out.forward(tape, &ops::reshape(tape, &mixed, (b, t, inner))?)
    }
}

/// Latents read residues and each other at once.
#[derive(Clone)]
struct ResamplerLayer {
    norm_media: LayerNorm,
    norm_latents: LayerNorm,
    attention: CrossAttention,
    ffn: FeedForward,
}

impl ResamplerLayer {
    fn new(weights: &Weights, width: usize, config: &Config) -> Result<Self> {
        let attention = weights.pp(0);
        Ok(Self {
            norm_media: LayerNorm::new(&attention.pp("norm_media"), width, EPS)?,
            norm_latents: LayerNorm::new(&attention.pp("norm_latents"), width, EPS)?,
            attention: CrossAttention::new(&attention, width, width, config)?,
            ffn: FeedForward::new(&weights.pp(1), width)?,
        })
    }

    fn forward(&self, tape: &Tape, residues: &Var, latents: &Var, lengths: &[usize]) -> Result<Var> {
        let n = latents.value().dim(1)?;
        let (media, queries) =
            (self.norm_media.forward(tape, residues)?, self.norm_latents.forward(tape, latents)?);
        // Latents stand before residues, so that padding stays behind all that is real.
        let keys = ops::cat(tape, &[&queries, &media], 1)?; // [P, N + L, W]
        let mask = KeyMask { lengths: lengths.iter().map(|l| n + l).collect(), sees: Sees::All };
        let kv = self.attention.keys_and_values(tape, &keys)?;
        let x = ops::add(tape, latents, &self.attention.forward(tape, &queries, &kv, &mask)?)?;
        ops::add(tape, &x, &self.ffn.forward(tape, &x)?)
    }
}

/// `x + tanh(gate) · attention`, then `+ tanh(gate) · feed-forward`.
#[derive(Clone)]
pub(super) struct GatedBlock {
    norm: LayerNorm,
    attention: CrossAttention,
    attn_gate: Param,
    ff: FeedForward,
    ff_gate: Param,
}

impl GatedBlock {
    pub(super) fn new(weights: &Weights, width: usize, media_width: usize, config: &Config) -> Result<Self> {
        let attention = weights.pp("attn");
        Ok(Self {
            norm: LayerNorm::new(&attention.pp("norm"), width, EPS)?,
            attention: CrossAttention::new(&attention, width, media_width, config)?,
            attn_gate: weights.get(1, "attn_gate", Init::Const(0.0))?,
            ff: FeedForward::new(&weights.pp("ff"), width)?,
            ff_gate: weights.get(1, "ff_gate", Init::Const(0.0))?,
        })
    }

    /// # Shapes
    /// media `[B, S, K]` → keys and values, one beside the other, `[B, S, 2 · inner]`
    pub(super) fn keys_and_values(&self, tape: &Tape, media: &Var) -> Result<Var> {
        self.attention.keys_and_values(tape, media)
    }

    /// # Shapes
    /// x `[B, T, C]`, kv `[B, S, 2 · inner]` → `[B, T, C]`
    pub(super) fn forward(&self, tape: &Tape, x: &Var, kv: &Var, mask: &KeyMask) -> Result<Var> {
        let gated =
            |branch: &Var, gate: &Param| ops::scale_by(tape, branch, &ops::tanh(tape, &tape.param(gate))?);
        let seen = self.attention.forward(tape, &self.norm.forward(tape, x)?, kv, mask)?;
        let x = ops::add(tape, x, &gated(&seen, &self.attn_gate)?)?;
        ops::add(tape, &x, &gated(&self.ff.forward(tape, &x)?, &self.ff_gate)?)
    }
}

/// The resampler and the reading layers.
#[derive(Clone)]
pub(super) struct Flamingo {
    config: Config,
    /// embedding of the placeholder, `[1, C]`
    token: Param,
    /// `[max_residues, E]`
    positions: Param,
    /// `[N, E]`
    latents: Param,
    layers: Vec<ResamplerLayer>,
    norm: LayerNorm,
    blocks: Vec<GatedBlock>,
}

impl Flamingo {
    pub(super) fn new(config: Config, ends: &Ends, weights: &Weights, token: Param) -> Result<Self> {
        let sizes = [config.n_latents, config.n_layers, config.n_heads, config.head_dim, config.every];
        if sizes.contains(&0) || config.n_blocks == 0 || config.max_residues == 0 {
            bail!("bridge: sizes must be positive, got {config:?}");
        }
        let width = ends.encoder_size;
        let (at, cross) = (weights.pp("resampler"), weights.pp("cross"));
        Ok(Self {
            token,
            positions: at.get((config.max_residues, width), "positions", Init::Normal(0.02))?,
            latents: at.get((config.n_latents, width), "latents", Init::Normal(1.0))?,
            layers: (0..config.n_layers)
                .map(|i| ResamplerLayer::new(&at.pp("layers").pp(i), width, &config))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(&at.pp("norm"), width, EPS)?,
            blocks: (0..config.n_blocks)
                .map(|i| GatedBlock::new(&cross.pp(i), ends.llm_size, width, &config))
                .collect::<Result<_>>()?,
            config,
        })
    }

    /// The placeholder's embedding, for each protein: `[P, 1, C]`.
    pub(super) fn tokens(&self, tape: &Tape, n_proteins: usize) -> Result<Var> {
        repeated(tape, &self.token, n_proteins)
    }

    /// # Shapes
    /// residues `[P, L, E]` → `[P, N, E]`
    pub(super) fn resample(&self, tape: &Tape, residues: &Residues) -> Result<Var> {
        let (p, l, _) = residues.vectors.dims3()?;
        if l > self.config.max_residues {
            bail!(
                "bridge: a protein of {l} residues; it was made for {}\nhint: a larger max_residues, or leave such proteins out",
                self.config.max_residues
            );
        }
        let numbers: Vec<u32> = (0..p).flat_map(|_| 0..l as u32).collect();
        let numbers = Tensor::from_vec(numbers, (p, l), &Device::Cpu)?;
        let positions = ops::embedding(tape, &tape.param(&self.positions), &numbers)?; // [P, L, E]
        let vectors = residues.vectors.to_device(positions.value().device())?;
        let x = ops::add(tape, &Var::constant(vectors), &positions)?;
        let mut latents = repeated(tape, &self.latents, p)?;
        for layer in &self.layers {
            latents = layer.forward(tape, &x, &latents, &residues.lengths)?;
        }
        if self.config.site {
            latents = with_sites(tape, &latents, &x, &residues.lengths, &residues.sites)?;
        }
        self.norm.forward(tape, &latents)
    }

    /// What the reading layers read for rows of which row b has its proteins at `places[b]`. Without any protein there is
    /// one key that nobody sees: the layers' feed-forward part is for every token.
    pub(super) fn media(
        &self,
        tape: &Tape,
        residues: Option<&Residues>,
        places: Vec<Vec<usize>>,
    ) -> Result<Media> {
        let (n_latents, every) = (self.config.n_latents, self.config.every);
        let Some(residues) = residues else {
            let inner = self.config.n_heads * self.config.head_dim;
            let kv = Var::constant(Tensor::zeros(
                (places.len(), 1, 2 * inner),
                DType::F32,
                self.latents.value().device(),
            )?);
            let kv = vec![kv; self.blocks.len()];
            return Ok(Media { blocks: self.blocks.clone(), kv, places, n_latents, every });
        };
        let latents = self.resample(tape, residues)?;
        let (p, n, _) = latents.value().dims3()?;
        let most = places.iter().map(Vec::len).max().unwrap_or(0) * n;
        // Each row's latents side by side; behind them stands the first one's number, which no token sees.
        let mut ids = vec![0u32; places.len() * most];
        let mut protein = 0;
        for (row, places) in ids.chunks_exact_mut(most.max(1)).zip(&places) {
            row.iter_mut()
                .take(places.len() * n)
                .enumerate()
                .for_each(|(at, id)| *id = (protein * n + at) as u32);
            protein += places.len();
        }
        if protein != p {
            bail!("bridge: {p} proteins, {protein} places");
        }
        let ids = Tensor::from_vec(ids, (places.len(), most), &Device::Cpu)?;
        let kv = |block: &GatedBlock| {
            let kv = block.keys_and_values(tape, &latents)?; // [P, N, 2 · inner]
            let width = kv.value().dim(2)?;
            ops::embedding(tape, &ops::reshape(tape, &kv, (p * n, width))?, &ids) // [B, S, 2 · inner]
        };
        let kv = self.blocks.iter().map(kv).collect::<Result<_>>()?;
        Ok(Media { blocks: self.blocks.clone(), kv, places, n_latents, every })
    }
}

/// The proteins of some rows, as the language model's layers see them: keys and values of every reading layer.
#[derive(Clone)]
pub struct Media {
    blocks: Vec<GatedBlock>,
    /// by reading layer, `[B, S, 2 · inner]`
    kv: Vec<Var>,
    /// where each row's proteins stand
    places: Vec<Vec<usize>>,
    n_latents: usize,
    every: usize,
}

impl Media {
    /// The same proteins for other rows: row i is this one's `rows[i]`. Carries no gradient.
    pub(crate) fn select(&self, rows: &[usize]) -> Result<Self> {
        if rows.iter().copied().eq(0..self.places.len()) {
            return Ok(self.clone());
        }
        let at: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let pick = |kv: &Var| {
            let at = Tensor::new(at.as_slice(), kv.value().device())?;
            Ok(Var::constant(kv.value().index_select(&at, 0)?.contiguous()?))
        };
        Ok(Self {
            blocks: self.blocks.clone(),
            kv: self.kv.iter().map(pick).collect::<Result<_>>()?,
            places: rows.iter().map(|&row| self.places[row].clone()).collect(),
            ..*self
        })
    }

    /// What enters layer number `layer`: `x`, after the reading layer before it, if there is one. Row b of `x` begins at
    /// position `starts[b]`.
    ///
    /// # Shapes
    /// x `[B, T, C]` → `[B, T, C]`
    pub(crate) fn read(&self, tape: &Tape, layer: usize, x: Var, starts: &[usize]) -> Result<Var> {
        let (b, t, _) = x.value().dims3()?;
        if !(layer + 1).is_multiple_of(self.every) {
            return Ok(x);
        }
        let at = (layer + 1) / self.every - 1;
        let (Some(block), Some(kv)) = (self.blocks.get(at), self.kv.get(at)) else {
            bail!("bridge: {} reading layers, but layer {layer} needs one more", self.blocks.len())
        };
        if b != self.places.len() || starts.len() != b {
            bail!("bridge: proteins of {} rows, tokens of {b}", self.places.len());
        }
        let seen = |row: usize, at: usize| {
            self.n_latents * self.places[row].iter().filter(|&&place| place <= at).count()
        };
        let first: Vec<usize> = (0..b)
            .flat_map(|row| (0..t).map(move |i| (row, starts[row] + i)))
            .map(|(row, at)| seen(row, at))
            .collect();
        let mask = KeyMask {
            lengths: self.places.iter().map(|p| p.len() * self.n_latents).collect(),
            sees: Sees::First(first),
        };
        block.forward(tape, &x, kv, &mask)
    }
}
