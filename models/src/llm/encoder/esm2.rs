//! The shape of ESM-2 (DOI 10.1126/science.ade2574): reads its Hugging Face checkpoints, and is
//! also trained here from scratch as a small masked language model.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Result, Tensor, bail};
use serde_json::{Value, json};

use super::{MASK, PAD, VOCAB, check_lengths};
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::llm::files;
use crate::ops::{self, KeyMask, RopeTable, Sees};
use crate::param::{Param, Params};
use crate::tape::{Tape, Var};
use crate::view::view;
use crate::weights::{Init, Weights};

/// The part of an ESM-2 `config.json` that the model depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// width of the residual stream
    pub hidden_size: usize,
    /// number of blocks
    pub num_hidden_layers: usize,
    /// heads
    pub num_attention_heads: usize,
    /// width of the feed-forward layer
    pub intermediate_size: usize,
    /// longest sequence, with `<cls>` and `<eos>`
    pub max_position_embeddings: usize,
    /// of all norms
    pub layer_norm_eps: f64,
    /// whether embeddings are rescaled by the number of `<mask>` tokens, as ESM-2 was trained
    pub token_dropout: bool,
}

impl Config {
    /// From an ESM-2 `config.json`.
    ///
    /// # Errors
    /// On a missing key, and on options that would change the numbers and are not supported.
    pub fn from_json(config: &Value) -> Result<Self> {
        let size = |key: &str| match config.get(key).and_then(Value::as_u64) {
            Some(n) => Ok(n as usize),
            None => bail!("config.json: no number {key:?}"),
        };
        for (key, expected) in [
            ("model_type", json!("esm")),
            ("position_embedding_type", json!("rotary")),
            ("emb_layer_norm_before", json!(false)),
            ("vocab_size", json!(VOCAB.len())),
        ] {
            if config.get(key).is_some_and(|found| !found.is_null() && *found != expected) {
                bail!("config.json: {key} is {}, this encoder has {expected}", config[key]);
            }
        }
        Ok(Self {
            hidden_size: size("hidden_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: size("num_attention_heads")?,
            intermediate_size: size("intermediate_size")?,
            max_position_embeddings: size("max_position_embeddings")?,
            layer_norm_eps: config.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-5),
            token_dropout: config.get("token_dropout").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// As transformers writes it.
    pub fn to_json(&self) -> Value {
        json!({
            "architectures": ["EsmForMaskedLM"],
            "model_type": "esm",
            "attention_probs_dropout_prob": 0.0,
            "emb_layer_norm_before": false,
            "hidden_dropout_prob": 0.0,
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "is_folding_model": false,
            "layer_norm_eps": self.layer_norm_eps,
            "mask_token_id": MASK,
            "max_position_embeddings": self.max_position_embeddings,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "pad_token_id": PAD,
            "position_embedding_type": "rotary",
            "tie_word_embeddings": true,
            "token_dropout": self.token_dropout,
            "torch_dtype": "float32",
            "vocab_size": VOCAB.len(),
        })
    }
}

/// Base of the rotary frequencies.
const THETA: f64 = 1e4;
/// Share of the embeddings that was zeroed in training: 15 % of the residues chosen, 80 % of those masked.
const MASKED_IN_TRAINING: f64 = 0.15 * 0.8;

/// The encoder with its masked-language-model head.
#[derive(Clone)]
pub struct Esm2 {
    config: Config,
    word_embeddings: Embedding,
    layers: Vec<Block>,
    emb_layer_norm_after: LayerNorm,
    head_dense: Linear,
    head_norm: LayerNorm,
    /// `[33]`; the head's weight is the embedding
    head_bias: Param,
    params: Params,
}

#[derive(Clone)]
struct Block {
    attention_norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
}

impl Block {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let attention = weights.pp("attention");
        let linear = |at: &Weights, n_in, n_out| {
            Linear::with_init(at, n_in, n_out, Init::transformer(width), Some(Init::Const(0.0)))
        };
        let inner = attention.pp("self");
        Ok(Self {
            attention_norm: LayerNorm::new(&attention.pp("LayerNorm"), width, eps)?,
            query: linear(&inner.pp("query"), width, width)?,
            key: linear(&inner.pp("key"), width, width)?,
            value: linear(&inner.pp("value"), width, width)?,
            attention_output: linear(&attention.pp("output").pp("dense"), width, width)?,
            norm: LayerNorm::new(&weights.pp("LayerNorm"), width, eps)?,
            intermediate: linear(&weights.pp("intermediate").pp("dense"), width, config.intermediate_size)?,
            output: linear(&weights.pp("output").pp("dense"), config.intermediate_size, width)?,
        })
    }

    fn forward(&self, tape: &Tape, x: &Var, heads: usize, rope: &RopeTable, mask: &KeyMask) -> Result<Var> {
        let (b, l, width) = x.value().dims3()?;
        let dim = width / heads;
        let h = self.attention_norm.forward(tape, x)?;
        let split = |y: Var| ops::reshape(tape, &y, (b, l, heads, dim)); // [B, L, H, D]
        let q = ops::rope(tape, &split(self.query.forward(tape, &h)?)?, rope)?;
        let k = ops::rope(tape, &split(self.key.forward(tape, &h)?)?, rope)?;
        let v = split(self.value.forward(tape, &h)?)?;
        let mixed = ops::attention(tape, &q, &k, &v, mask, 1.0 / (dim as f64).sqrt())?;
        let mixed = ops::reshape(tape, &mixed, (b, l, width))?;
        let x = ops::add(tape, x, &self.attention_output.forward(tape, &mixed)?)?;
        let h = self.intermediate.forward(tape, &self.norm.forward(tape, &x)?)?;
        ops::add(tape, &x, &self.output.forward(tape, &ops::gelu(tape, &h)?)?)
    }
}

impl Esm2 {
    /// An encoder with the weights that `weights` gives, under the names of ESM-2's Hugging Face checkpoints.
    ///
    /// # Errors
    /// When the heads do not divide the width; lists everything that a checkpoint lacks or has beyond the model.
    pub fn new(config: Config, weights: Weights) -> Result<Self> {
        if !config.hidden_size.is_multiple_of(2 * config.num_attention_heads) {
            bail!(
                "hidden_size {} is no even multiple of {} heads",
                config.hidden_size,
                config.num_attention_heads
            );
        }
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let init = Init::transformer(width);
        let (esm, head) = (weights.pp("esm"), weights.pp("lm_head"));
        let encoder = esm.pp("encoder");
        let embeddings = esm.pp("embeddings").pp("word_embeddings");
        let dense = Linear::with_init(&head.pp("dense"), width, width, init, Some(Init::Const(0.0)))?;
        let layer = |i| Block::new(&config, &encoder.pp("layer").pp(i));
        Ok(Self {
            word_embeddings: Embedding::new(&embeddings, VOCAB.len(), width, init)?,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            emb_layer_norm_after: LayerNorm::new(&encoder.pp("emb_layer_norm_after"), width, eps)?,
            head_dense: dense,
            head_norm: LayerNorm::new(&head.pp("layer_norm"), width, eps)?,
            head_bias: head.get(VOCAB.len(), "bias", Init::Const(0.0))?,
            params: weights.finish()?,
            config,
        })
    }

    /// Reads a Hugging Face folder of ESM-2 (or of [`Esm2::save`]).
    ///
    /// # Errors
    /// Names the file that is missing or broken, or everything in which weights and config differ.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::of(&files::read_json(&folder.join("config.json"))?, files::read_model(folder)?)
    }

    /// From the content of a Hugging Face folder.
    pub(super) fn of(config: &Value, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        Self::new(Config::from_json(config)?, Weights::loaded(canonical(tensors)))
    }

    /// Writes `config.json` and `model.safetensors` as transformers reads them.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        files::write_json(&folder.join("config.json"), &self.config.to_json())?;
        let tensors = self.params.iter().map(|p| (p.name().to_string(), p.value().clone())).collect();
        files::write_safetensors(&folder.join("model.safetensors"), tensors)
    }

    /// Sizes and options.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The last block's output after the final norm. Row b has `lengths[b]` tokens (with `<cls>` and `<eos>`), the rest is
    /// padding and gives numbers without meaning.
    ///
    /// # Shapes
    /// ids `[B, L]` → `[B, L, C]`
    ///
    /// # Errors
    /// On a sequence longer than the encoder was made for.
    pub fn hidden(&self, tape: &Tape, ids: &Tensor, lengths: &[usize]) -> Result<Var> {
        let (b, l) = check_lengths(ids, lengths, self.config.max_position_embeddings)?;
        let mut x = self.embed(tape, ids, lengths)?;
        let positions: Vec<u32> = (0..b).flat_map(|_| 0..l as u32).collect();
        let rope =
            RopeTable::new(&positions, self.config.hidden_size / self.config.num_attention_heads, THETA)?;
        let mask = KeyMask { lengths: lengths.to_vec(), sees: Sees::All };
        for block in &self.layers {
            x = block.forward(tape, &x, self.config.num_attention_heads, &rope, &mask)?;
        }
        self.emb_layer_norm_after.forward(tape, &x)
    }

    /// Token embeddings; with `token_dropout`, masked tokens are zero and the others scaled by
    /// (1 − 0.12) / (1 − share of masked tokens), in evaluation too.
    fn embed(&self, tape: &Tape, ids: &Tensor, lengths: &[usize]) -> Result<Var> {
        let embedded = self.word_embeddings.forward(tape, ids)?;
        if !self.config.token_dropout {
            return Ok(embedded);
        }
        let (b, l) = ids.dims2()?;
        let ids = ids.contiguous()?;
        let ids = view::<u32>(&ids)?;
        let mut factors = Vec::with_capacity(ids.len());
        for (row, &length) in ids.chunks_exact(l.max(1)).zip(lengths) {
            let masked = row[..length].iter().filter(|&&id| id == MASK).count() as f64;
            let factor = (1.0 - MASKED_IN_TRAINING) / (1.0 - masked / length as f64);
            factors.extend(row.iter().map(|&id| if id == MASK { 0.0 } else { factor as f32 }));
        }
        let factors = Tensor::from_vec(factors, (b, l, 1), embedded.value().device())?;
        let factors = factors.broadcast_as(embedded.value().shape())?.contiguous()?;
        ops::mul(tape, &embedded, &Var::constant(factors))
    }

    /// Logits of the residues at the flat positions `rows` (b · L + l) of `hidden`.
    ///
    /// # Shapes
    /// hidden `[B, L, C]` → `[N, 33]`
    pub fn masked_logits(&self, tape: &Tape, hidden: &Var, rows: &[usize]) -> Result<Var> {
        let (b, l, width) = hidden.value().dims3()?;
        let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let rows = Tensor::new(rows, &candle_core::Device::Cpu)?;
        let picked = ops::embedding(tape, &ops::reshape(tape, hidden, (b * l, width))?, &rows)?; // [N, C]
        let h = ops::gelu(tape, &self.head_dense.forward(tape, &picked)?)?;
        let h = self.head_norm.forward(tape, &h)?;
        ops::linear(tape, &h, &tape.param(&self.word_embeddings.weight), Some(&tape.param(&self.head_bias)))
    }
}

/// The names of today's checkpoints: old ones call a norm's weights gamma and beta, repeat the tied head and carry buffers
/// and a contact head that the embeddings do not need.
fn canonical(tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    const UNUSED: [&str; 5] = [
        "contact_head.",
        "rotary_embeddings.inv_freq",
        "position_ids",
        "position_embeddings.weight",
        "lm_head.decoder.",
    ];
    let wanted = tensors.into_iter().filter(|(name, _)| !UNUSED.iter().any(|part| name.contains(part)));
    wanted.map(|(name, t)| (name.replace(".gamma", ".weight").replace(".beta", ".bias"), t)).collect()
}
