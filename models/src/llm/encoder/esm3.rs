//! ESM3 (DOI 10.1126/science.ads0018) with its sequence track alone, and ESM-C, which is the same transformer with one
//! table of tokens before it.
//!
//! With no structure given, ESM3's geometric attention adds exactly zero and its other tracks are constants that depend on
//! the token at most, so all that stands before its transformer is one table too; it is computed when the weights are read.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Tensor, bail};
use serde_json::Value;

use super::{CHAIN_BREAK, CLS, EOS, PAD, check_lengths};
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::ops::{self, KeyMask, RopeTable, Sees};
use crate::param::Params;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

/// Base of the rotary frequencies.
const THETA: f64 = 1e4;
/// Of all norms.
const EPS: f64 = 1e-5;
/// Rows of the token table; 33 are used.
const N_TOKENS: usize = 64;
/// Depth at which a block's output is added as it is; others divide by √(depth / 36).
const UNSCALED_DEPTH: f64 = 36.0;
/// Width of a head in every released model.
const HEAD_DIM: usize = 64;
/// Tokens of the sequences that the released models were trained on.
const MAX_TOKENS: usize = 2048;

/// Weights that embeddings do not need: output heads, and what is multiplied by zero without a structure.
const UNUSED: [&str; 6] = [
    "output_heads.",
    "sequence_head.",
    "lm_head.",
    "encoder.residue_embed.",
    ".geom_attn.",
    "rotary.inv_freq",
];

/// ESM3 or ESM-C, without heads.
#[derive(Clone)]
pub struct Esm3 {
    embed: Embedding,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// whether the final norm is part of the embeddings: in ESM-C, not in ESM3
    normed: bool,
    n_heads: usize,
    max_tokens: usize,
    params: Params,
}

#[derive(Clone)]
struct Block {
    attn_norm: LayerNorm,
    /// query, key and value, one above the other: `[3 E, E]`
    qkv: Linear,
    q_norm: LayerNorm,
    k_norm: LayerNorm,
    out_proj: Linear,
    ffn_norm: LayerNorm,
    /// gate and value, one above the other: `[2 F, E]`
    up: Linear,
    down: Linear,
}

impl Block {
    fn new(weights: &Weights, width: usize, hidden: usize) -> Result<Self> {
        let (attn, ffn) = (weights.pp("attn"), weights.pp("ffn"));
        Ok(Self {
            attn_norm: LayerNorm::new(&attn.pp("layernorm_qkv.0"), width, EPS)?,
            qkv: Linear::no_bias(&attn.pp("layernorm_qkv.1"), width, 3 * width)?,
            q_norm: LayerNorm::no_bias(&attn.pp("q_ln"), width, EPS)?,
            k_norm: LayerNorm::no_bias(&attn.pp("k_ln"), width, EPS)?,
            out_proj: Linear::no_bias(&attn.pp("out_proj"), width, width)?,
            ffn_norm: LayerNorm::new(&ffn.pp(0), width, EPS)?,
            up: Linear::no_bias(&ffn.pp(1), width, 2 * hidden)?,
            down: Linear::no_bias(&ffn.pp(3), hidden, width)?,
        })
    }

    /// x + attention(x) · scale, then + feed-forward(·) · scale. Queries and keys are normalised over all heads together.
    fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        n_heads: usize,
        rope: &RopeTable,
        mask: &KeyMask,
        scale: f64,
    ) -> Result<Var> {
        let (b, l, width) = x.value().dims3()?;
        let dim = width / n_heads;
        let qkv = self.qkv.forward(tape, &self.attn_norm.forward(tape, x)?)?; // [B, L, 3 E]
        let part = |at: usize| ops::narrow(tape, &qkv, 2, at * width, width);
        let split = |y: &Var| ops::reshape(tape, y, (b, l, n_heads, dim)); // [B, L, H, D]
        let q = ops::rope(tape, &split(&self.q_norm.forward(tape, &part(0)?)?)?, rope)?;
        let k = ops::rope(tape, &split(&self.k_norm.forward(tape, &part(1)?)?)?, rope)?;
        let mixed = ops::attention(tape, &q, &k, &split(&part(2)?)?, mask, 1.0 / (dim as f64).sqrt())?;
        let mixed = self.out_proj.forward(tape, &ops::reshape(tape, &mixed, (b, l, width))?)?;
        let x = ops::add(tape, x, &ops::scale(tape, &mixed, scale)?)?;
        let up = self.up.forward(tape, &self.ffn_norm.forward(tape, &x)?)?; // [B, L, 2 F]
        let hidden = up.value().dim(2)? / 2;
        let (gate, value) =
            (ops::narrow(tape, &up, 2, 0, hidden)?, ops::narrow(tape, &up, 2, hidden, hidden)?);
        let down = self.down.forward(tape, &ops::swiglu(tape, &gate, &value)?)?;
        ops::add(tape, &x, &ops::scale(tape, &down, scale)?)
    }
}

impl Esm3 {
    /// Whether these are weights of ESM3 or ESM-C, in the spelling of the `esm` package or of transformers.
    pub(super) fn knows(tensors: &BTreeMap<String, Tensor>) -> bool {
        let holds = |name: &str| tensors.contains_key(name);
        holds("encoder.sequence_embed.weight")
            || (holds("embed.weight") && holds("transformer.norm.weight"))
            || tensors.keys().any(|name| name.ends_with("layers.0.self_attn.q_norm.weight") && is_esmc(name))
    }

    /// From weights by their official names. `config` gives the number of heads, and must agree with the weights in all
    /// else that it says; without it, heads have the width of all released models.
    ///
    /// # Errors
    /// Lists everything that the weights lack or have beyond the model, and every size in which the config differs.
    pub(super) fn new(tensors: BTreeMap<String, Tensor>, config: Option<&Value>) -> Result<Self> {
        let used = |name: &str| !UNUSED.iter().any(|part| name.contains(part));
        let mut tensors: BTreeMap<String, Tensor> =
            canonical(tensors.into_iter().filter(|(name, _)| used(name)).collect())?;
        let is_esm3 = tensors.contains_key("encoder.sequence_embed.weight");
        if is_esm3 {
            let (tracks, rest) = tensors.into_iter().partition(|(name, _)| name.starts_with("encoder."));
            tensors = rest;
            tensors.insert("embed.weight".into(), table_of_tracks(tracks)?);
        }
        let width = match tensors.get("embed.weight").map(Tensor::dims) {
            Some([_, width]) => *width,
            other => bail!("embed.weight has shape {other:?}"),
        };
        let is_block =
            |name: &&String| name.starts_with("transformer.blocks.") && name.ends_with("attn.q_ln.weight");
        let depth = tensors.keys().filter(is_block).count();
        let hidden =
            tensors.get("transformer.blocks.0.ffn.3.weight").and_then(|t| t.dim(1).ok()).unwrap_or(0);
        let sizes = Sizes { width, depth, hidden };
        let (n_heads, max_tokens) = sizes.heads_and_length(config)?;
        let weights = Weights::loaded(tensors);
        let transformer = weights.pp("transformer");
        let block = |i| Block::new(&transformer.pp("blocks").pp(i), width, hidden);
        Ok(Self {
            embed: Embedding::new(&weights.pp("embed"), N_TOKENS, width, Init::Const(0.0))?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::no_bias(&transformer.pp("norm"), width, EPS)?,
            normed: !is_esm3,
            n_heads,
            max_tokens,
            params: weights.finish()?,
        })
    }

    /// Width of a residue's vector.
    pub fn hidden_size(&self) -> usize {
        self.embed.weight.value().dims()[1]
    }

    /// Most tokens of a sequence.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// As [`super::Encoder::options`].
    pub(super) fn options(&self) -> String {
        format!("{} heads, final norm {}", self.n_heads, self.normed)
    }

    /// All weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// As [`super::Encoder::embeddings`]. A residue sees those of its own row alone (`sequence_id` in the `esm` package).
    pub(super) fn embeddings(&self, tape: &Tape, ids: &Tensor, lengths: &[usize]) -> Result<Var> {
        let x = self.trunk(tape, ids, lengths, self.blocks.len())?;
        match self.normed {
            true => self.norm.forward(tape, &x),
            false => Ok(x),
        }
    }

    /// What enters block number `depth`.
    fn trunk(&self, tape: &Tape, ids: &Tensor, lengths: &[usize], depth: usize) -> Result<Var> {
        let (b, l) = check_lengths(ids, lengths, self.max_tokens)?;
        let mut x = self.embed.forward(tape, ids)?;
        let positions: Vec<u32> = (0..b).flat_map(|_| 0..l as u32).collect();
        let rope = RopeTable::new(&positions, self.hidden_size() / self.n_heads, THETA)?;
        let mask = KeyMask { lengths: lengths.to_vec(), sees: Sees::All };
        let scale = 1.0 / (self.blocks.len() as f64 / UNSCALED_DEPTH).sqrt();
        for block in &self.blocks[..depth] {
            x = block.forward(tape, &x, self.n_heads, &rope, &mask, scale)?;
        }
        Ok(x)
    }
}

/// What the weights say of themselves.
struct Sizes {
    width: usize,
    depth: usize,
    hidden: usize,
}

impl Sizes {
    /// Heads and most tokens, from `config` or as in all released models.
    fn heads_and_length(&self, config: Option<&Value>) -> Result<(usize, usize)> {
        let said =
            |names: [&str; 2]| names.iter().find_map(|name| config?.get(name)?.as_u64()).map(|n| n as usize);
        for (names, found) in [
            (["hidden_size", "d_model"], self.width),
            (["num_hidden_layers", "n_layers"], self.depth),
            (["intermediate_size", "ffn_hidden_size"], self.hidden),
        ] {
            if said(names).is_some_and(|n| n != found) {
                bail!("config.json: {} is {:?}, the weights have {found}", names[0], said(names));
            }
        }
        let heads = said(["num_attention_heads", "n_heads"]).unwrap_or(self.width / HEAD_DIM);
        if heads == 0 || !self.width.is_multiple_of(2 * heads) {
            bail!(
                "{heads} heads for a width of {}\nhint: write {{\"n_heads\": …}} into config.json beside the weights",
                self.width
            );
        }
        Ok((heads, said(["max_position_embeddings", "max_tokens"]).unwrap_or(MAX_TOKENS)))
    }
}

/// ESM3's input for each token: its row of the sequence table and what the other tracks add when they are left out, as
/// `ESM3.forward` fills them in: structure tokens that say "masked", a mean pLDDT of 1, none of a residue, and the first
/// rows of the tables of secondary structure, solvent access and function. (The table of residue annotations skips its
/// first row.)
fn table_of_tracks(tracks: BTreeMap<String, Tensor>) -> Result<Tensor> {
    const N_STRUCTURE: usize = 4101;
    const STRUCTURE_MASK: u32 = 4096;
    const N_FUNCTION: usize = 8;
    let width = match tracks.get("encoder.sequence_embed.weight").map(Tensor::dims) {
        Some([_, width]) => *width,
        other => bail!("encoder.sequence_embed.weight has shape {other:?}"),
    };
    let weights = Weights::loaded(tracks);
    let encoder = weights.pp("encoder");
    let table =
        |name: &str, n: usize, width: usize| encoder.pp(name).get((n, width), "weight", Init::Const(0.0));
    let sequence = table("sequence_embed", N_TOKENS, width)?;
    let structure = table("structure_tokens_embed", N_STRUCTURE, width)?;
    let (ss8, sasa) = (table("ss8_embed", 11, width)?, table("sasa_embed", 19, width)?);
    let function: Vec<_> = (0..N_FUNCTION)
        .map(|i| table(&format!("function_embed.{i}"), 260, width / N_FUNCTION))
        .collect::<Result<_>>()?;
    let plddt = Linear::new(&encoder.pp("plddt_projection"), 16, width)?;
    let residue_plddt = Linear::new(&encoder.pp("structure_per_res_plddt_projection"), 16, width)?;
    weights.finish()?;

    let structure_of = |id: usize| match id as u32 {
        CLS => 4098,
        EOS => 4097,
        PAD => 4099,
        CHAIN_BREAK => 4100,
        _ => STRUCTURE_MASK,
    };
    let places = Tensor::from_iter((0..N_TOKENS).map(structure_of), &Device::Cpu)?;
    let off = Tape::off();
    let project = |linear: &Linear, value: f64| linear.forward(&off, &Var::constant(radial(value)?));
    let functions: Vec<Tensor> = function.iter().map(|t| t.value().narrow(0, 0, 1)).collect::<Result<_>>()?;
    let mut row = Tensor::cat(&functions, 1)?; // [1, E]
    for part in [ss8.value().narrow(0, 0, 1)?, sasa.value().narrow(0, 0, 1)?] {
        row = (row + part)?;
    }
    row = ((row + project(&plddt, 1.0)?.value())? + project(&residue_plddt, 0.0)?.value())?;
    (sequence.value() + structure.value().index_select(&places, 0)?)?.broadcast_add(&row)
}

/// exp(−((value − centre) / σ)²) for 16 centres from 0 to 1, σ = 1/16: `[1, 16]`.
fn radial(value: f64) -> Result<Tensor> {
    let near = |i: usize| (-((value - i as f64 / 15.0) * 16.0).powi(2)).exp() as f32;
    Tensor::from_vec((0..16).map(near).collect(), (1, 16), &Device::Cpu)
}

/// Whether a name is transformers' for ESM-C, which saves the bare encoder without its prefix.
fn is_esmc(name: &str) -> bool {
    name.starts_with("esmc.") || name.starts_with("layers.")
}

/// The names of the `esm` package. transformers has query, key and value apart, and gate and value of the feed-forward layer.
fn canonical(mut tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    const NAMES: [(&str, &str); 8] = [
        ("input_layernorm.weight", "attn.layernorm_qkv.0.weight"),
        ("input_layernorm.bias", "attn.layernorm_qkv.0.bias"),
        ("self_attn.q_norm.weight", "attn.q_ln.weight"),
        ("self_attn.k_norm.weight", "attn.k_ln.weight"),
        ("self_attn.o_proj.weight", "attn.out_proj.weight"),
        ("post_attention_layernorm.weight", "ffn.0.weight"),
        ("post_attention_layernorm.bias", "ffn.0.bias"),
        ("mlp.down_proj.weight", "ffn.3.weight"),
    ];
    const JOINED: [(&[&str], &str); 2] = [
        (
            &["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"],
            "attn.layernorm_qkv.1.weight",
        ),
        (&["mlp.gate_proj.weight", "mlp.up_proj.weight"], "ffn.1.weight"),
    ];
    if !tensors.keys().any(|name| is_esmc(name)) {
        return Ok(tensors);
    }
    let mut out = BTreeMap::new();
    while let Some((name, tensor)) = tensors.pop_first() {
        let plain = name.strip_prefix("esmc.").unwrap_or(&name);
        let Some((number, part)) = plain.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
            let renamed = match plain {
                "embed_tokens.weight" => "embed.weight",
                "norm.weight" => "transformer.norm.weight",
                other => other,
            };
            out.insert(renamed.to_owned(), tensor);
            continue;
        };
        let block = format!("transformer.blocks.{number}");
        let before = &name[..name.len() - part.len()];
        if let Some((parts, ours)) = JOINED.iter().find(|(parts, _)| parts.contains(&part)) {
            // The first part by the alphabet takes the others with it; a lacking one leaves a shape that does not fit.
            let mut found = BTreeMap::from([(part, tensor)]);
            for &other in parts.iter().filter(|&&other| other != part) {
                found.extend(tensors.remove(&format!("{before}{other}")).map(|t| (other, t)));
            }
            let stacked: Vec<&Tensor> = parts.iter().filter_map(|part| found.get(part)).collect();
            out.insert(format!("{block}.{ours}"), Tensor::cat(&stacked, 0)?);
            continue;
        }
        let renamed =
            NAMES.iter().find(|(theirs, _)| *theirs == part).map(|(_, ours)| format!("{block}.{ours}"));
        out.insert(renamed.unwrap_or(name.clone()), tensor);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
