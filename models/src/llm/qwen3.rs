//! Qwen3 (arXiv 2505.09388): a decoder with grouped heads, normalised queries and keys, rotary positions and SwiGLU.
//!
//! Training, scoring, prefill and decoding are one forward code, and on the CPU they give the same bits for a token
//! whatever stands beside it in the batch.

use std::path::Path;

use candle_core::{Device, Result, Tensor, bail};
use serde_json::{Value, json};

use crate::layers::{Embedding, RmsNorm};
use crate::llm::bridge::Media;
use crate::llm::files;
use crate::llm::lora::Projection;
use crate::ops::{self, KeyMask, KvCache, RopeTable, Sees};
use crate::param::{Param, Params};
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

/// The part of `config.json` that the model depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// rows of the embedding; may be more than the tokenizer has
    pub vocab_size: usize,
    /// width of the residual stream
    pub hidden_size: usize,
    /// width of the feed-forward layer
    pub intermediate_size: usize,
    /// number of blocks
    pub num_hidden_layers: usize,
    /// query heads
    pub num_attention_heads: usize,
    /// key and value heads
    pub num_key_value_heads: usize,
    /// width of a head
    pub head_dim: usize,
    /// tokens that the model was made for
    pub max_position_embeddings: usize,
    /// of all norms
    pub rms_norm_eps: f64,
    /// base of the rotary frequencies
    pub rope_theta: f64,
    /// whether the head is the embedding
    pub tie_word_embeddings: bool,
    /// tokens that end an answer
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// From a `config.json` in the spelling of transformers 4 (`rope_theta`) or 5 (`rope_parameters`). Keys that the model
    /// does not need are ignored.
    ///
    /// # Errors
    /// On a missing key, and on options that would change the numbers and are not supported (scaled positions, sliding
    /// windows, biases, another activation).
    pub fn from_json(config: &Value) -> Result<Self> {
        let size = |key: &str| match config.get(key).and_then(Value::as_u64) {
            Some(n) => Ok(n as usize),
            None => bail!("config.json: no number {key:?}"),
        };
        let rope = config.get("rope_parameters").filter(|v| !v.is_null());
        let scaling = config.get("rope_scaling").filter(|v| !v.is_null());
        let kind = rope.or(scaling).and_then(|v| v.get("rope_type").or(v.get("type")));
        if kind.and_then(Value::as_str).is_some_and(|kind| kind != "default") {
            bail!("config.json: rope type {kind:?} is not supported, only \"default\"");
        }
        let theta =
            rope.and_then(|r| r.get("rope_theta")).or(config.get("rope_theta")).and_then(Value::as_f64);
        let Some(rope_theta) = theta else {
            bail!("config.json: neither rope_theta nor rope_parameters.rope_theta")
        };
        for (key, expected) in [
            ("attention_bias", json!(false)),
            ("use_sliding_window", json!(false)),
            ("hidden_act", json!("silu")),
            ("model_type", json!("qwen3")),
        ] {
            if config.get(key).is_some_and(|found| *found != expected) {
                bail!("config.json: {key} is {}, this model has {expected}", config[key]);
            }
        }
        let heads = size("num_attention_heads")?;
        let eos = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
            other => other.and_then(Value::as_u64).into_iter().collect::<Vec<_>>(),
        };
        Ok(Self {
            vocab_size: size("vocab_size")?,
            hidden_size: size("hidden_size")?,
            intermediate_size: size("intermediate_size")?,
            num_hidden_layers: size("num_hidden_layers")?,
            num_attention_heads: heads,
            num_key_value_heads: size("num_key_value_heads")?,
            head_dim: size("head_dim").or_else(|_| size("hidden_size").map(|width| width / heads.max(1)))?,
            max_position_embeddings: size("max_position_embeddings")?,
            rms_norm_eps: config.get("rms_norm_eps").and_then(Value::as_f64).unwrap_or(1e-6),
            rope_theta,
            tie_word_embeddings: config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            eos_token_ids: eos.into_iter().map(|id| id as u32).collect(),
        })
    }

    /// Number of weights of a model of these sizes.
    pub fn n_weights(&self) -> u64 {
        let (width, dim) = (self.hidden_size as u64, self.head_dim as u64);
        let (heads, groups) = (self.num_attention_heads as u64 * dim, self.num_key_value_heads as u64 * dim);
        let attention = 2 * width * (heads + groups) + 2 * dim;
        let block = attention + 3 * width * self.intermediate_size as u64 + 2 * width;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        tables * self.vocab_size as u64 * width + self.num_hidden_layers as u64 * block + width
    }

    /// A `config.json` in the spelling of transformers 4, which every reader knows.
    pub fn to_json(&self) -> Value {
        let eos = match self.eos_token_ids[..] {
            [one] => json!(one),
            _ => json!(self.eos_token_ids),
        };
        json!({
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "max_window_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": null,
            "rope_theta": self.rope_theta,
            "sliding_window": null,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": "float32",
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocab_size,
        })
    }
}

/// The model. Clones share the weights (not the adapters that are put on afterwards).
#[derive(Clone)]
pub struct Qwen3 {
    config: Config,
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// `None`: the embedding is the head
    lm_head: Option<Param>,
    params: Params,
}

#[derive(Clone)]
struct Block {
    input_layernorm: RmsNorm,
    q_proj: Projection,
    k_proj: Projection,
    v_proj: Projection,
    o_proj: Projection,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    gate_proj: Projection,
    up_proj: Projection,
    down_proj: Projection,
}

impl Block {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.rms_norm_eps);
        let (heads, groups) =
            (config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim);
        let (attn, mlp) = (weights.pp("self_attn"), weights.pp("mlp"));
        let projection = |part: Weights, n_in, n_out| {
            Ok::<_, candle_core::Error>(Projection::new(part.get(
                (n_out, n_in),
                "weight",
                Init::transformer(width),
            )?))
        };
        Ok(Self {
            input_layernorm: RmsNorm::new(&weights.pp("input_layernorm"), width, eps)?,
            q_proj: projection(attn.pp("q_proj"), width, heads)?,
            k_proj: projection(attn.pp("k_proj"), width, groups)?,
            v_proj: projection(attn.pp("v_proj"), width, groups)?,
            o_proj: projection(attn.pp("o_proj"), heads, width)?,
            q_norm: RmsNorm::new(&attn.pp("q_norm"), config.head_dim, eps)?,
            k_norm: RmsNorm::new(&attn.pp("k_norm"), config.head_dim, eps)?,
            post_attention_layernorm: RmsNorm::new(&weights.pp("post_attention_layernorm"), width, eps)?,
            gate_proj: projection(mlp.pp("gate_proj"), width, config.intermediate_size)?,
            up_proj: projection(mlp.pp("up_proj"), width, config.intermediate_size)?,
            down_proj: projection(mlp.pp("down_proj"), config.intermediate_size, width)?,
        })
    }

    /// x + attention(norm(x)), then + feed-forward(norm(·)). `attend` is given q, k, v `[B, T, heads, D]`.
    fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        config: &Config,
        rope: &RopeTable,
        attend: impl FnOnce([&Var; 3]) -> Result<Var>,
    ) -> Result<Var> {
        let (b, t, _) = x.value().dims3()?;
        let (heads, groups, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
        let h = self.input_layernorm.forward(tape, x)?;
        let split = |y: &Var, heads| ops::reshape(tape, y, (b, t, heads, dim)); // [B, T, heads, D]
        let q = split(&self.q_proj.forward(tape, &h)?, heads)?;
        let k = split(&self.k_proj.forward(tape, &h)?, groups)?;
        let v = split(&self.v_proj.forward(tape, &h)?, groups)?;
        let q = ops::rope(tape, &self.q_norm.forward(tape, &q)?, rope)?;
        let k = ops::rope(tape, &self.k_norm.forward(tape, &k)?, rope)?;
        let mixed = ops::reshape(tape, &attend([&q, &k, &v])?, (b, t, heads * dim))?;
        let x = ops::add(tape, x, &self.o_proj.forward(tape, &mixed)?)?;
        let h = self.post_attention_layernorm.forward(tape, &x)?;
        let gated = ops::swiglu(tape, &self.gate_proj.forward(tape, &h)?, &self.up_proj.forward(tape, &h)?)?;
        ops::add(tape, &x, &self.down_proj.forward(tape, &gated)?)
    }

    /// The projections by their names in a checkpoint.
    fn projections(&mut self) -> [(&'static str, &mut Projection); 7] {
        [
            ("self_attn.q_proj", &mut self.q_proj),
            ("self_attn.k_proj", &mut self.k_proj),
            ("self_attn.v_proj", &mut self.v_proj),
            ("self_attn.o_proj", &mut self.o_proj),
            ("mlp.gate_proj", &mut self.gate_proj),
            ("mlp.up_proj", &mut self.up_proj),
            ("mlp.down_proj", &mut self.down_proj),
        ]
    }
}

impl Qwen3 {
    /// A model with the weights that `weights` gives (fresh, or a checkpoint's tensors by their official names).
    ///
    /// # Errors
    /// Lists everything that a checkpoint lacks or has beyond the model.
    pub fn new(config: Config, weights: Weights) -> Result<Self> {
        let (model, init) = (weights.pp("model"), Init::transformer(config.hidden_size));
        let embed = Embedding::new(&model.pp("embed_tokens"), config.vocab_size, config.hidden_size, init)?;
        let block = |i| Block::new(&config, &model.pp("layers").pp(i));
        let layers = (0..config.num_hidden_layers).map(block).collect::<Result<_>>()?;
        let norm = RmsNorm::new(&model.pp("norm"), config.hidden_size, config.rms_norm_eps)?;
        let head = |_| weights.pp("lm_head").get((config.vocab_size, config.hidden_size), "weight", init);
        let lm_head = (!config.tie_word_embeddings).then_some(()).map(head).transpose()?;
        Ok(Self { embed_tokens: embed, layers, norm, lm_head, params: weights.finish()?, config })
    }

    /// Reads a Hugging Face folder: `config.json` and `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// Names the file that is missing or broken, or everything in which weights and config differ.
    pub fn load(folder: &Path) -> Result<Self> {
        let config = Config::from_json(&files::read_json(&folder.join("config.json"))?)?;
        let mut tensors = files::read_model(folder)?;
        if config.tie_word_embeddings {
            tensors.remove("lm_head.weight"); // some writers repeat the embedding under this name
        }
        Self::new(config, Weights::loaded(tensors))
    }

    /// Writes `config.json` and `model.safetensors` (f32; beyond 5 GB several files and their index) as transformers reads
    /// them. Adapters are not written: merge them first, or save them with [`Qwen3::save_lora`].
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        files::write_json(&folder.join("config.json"), &self.config.to_json())?;
        let base = self.without_lora()?;
        let tensors = base.params.iter().map(|p| (p.name().to_string(), p.value().clone())).collect();
        files::write_model(folder, tensors)
    }

    /// Sizes and options.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All weights: the base's under the names of its checkpoint, the adapters' under PEFT's.
    pub fn params(&self) -> &Params {
        &self.params
    }

    pub(crate) fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// The projections of all blocks, by name (`model.layers.0.self_attn.q_proj`).
    pub(crate) fn projections(&mut self) -> impl Iterator<Item = (String, &mut Projection)> {
        self.layers.iter_mut().enumerate().flat_map(|(i, block)| {
            block.projections().into_iter().map(move |(name, p)| (format!("model.layers.{i}.{name}"), p))
        })
    }

    /// Where its weights lie.
    pub fn device(&self) -> &Device {
        self.embed_tokens.weight.value().device()
    }

    /// This model on a device: itself, or a copy with its adapter; what is frozen here is frozen there.
    ///
    /// # Errors
    /// When there is too little memory.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.device().same_device(device) {
            return Ok(self.clone());
        }
        let base = Weights::loaded(self.without_lora()?.params.snapshot()?).on(device);
        let mut model = Self::new(self.config.clone(), base)?;
        model.copy_lora(self)?;
        for param in model.params.iter() {
            param.set_trainable(self.params.get(param.name()).is_some_and(Param::is_trainable));
        }
        Ok(model)
    }

    /// The embedding table `[V, C]`.
    pub fn embedding(&self) -> &Param {
        &self.embed_tokens.weight
    }

    /// This model with rows `tokens` of the embedding (and of the head, if it is tied) replaced by `rows [n, C]`, in a copy.
    pub(crate) fn with_token_rows(&self, tokens: &[usize], rows: &Tensor) -> Result<Self> {
        let old = Var::constant(self.embedding().value().clone());
        let new = ops::replace_rows(&Tape::off(), &old, tokens, &Var::constant(rows.clone()))?;
        let weight = Param::new(self.embedding().name().clone(), new.value().clone())?;
        let mut model = self.clone();
        model.keep_params(|name| name != &**weight.name())?;
        model.params.insert(weight.clone())?;
        model.embed_tokens.weight = weight;
        Ok(model)
    }

    /// Forgets the weights whose name `keep` does not accept.
    pub(crate) fn keep_params(&mut self, keep: impl Fn(&str) -> bool) -> Result<()> {
        let mut kept = Params::default();
        self.params.iter().filter(|p| keep(p.name())).try_for_each(|p| kept.insert(p.clone()))?;
        self.params = kept;
        Ok(())
    }

    /// # Shapes
    /// ids `[B, T]` → `[B, T, C]`
    pub fn embed(&self, tape: &Tape, ids: &Tensor) -> Result<Var> {
        self.embed_tokens.forward(tape, ids)
    }

    /// The last block's output after the final norm. Row b has `lengths[b]` real positions; the others give numbers
    /// without meaning.
    ///
    /// # Shapes
    /// embeds `[B, T, C]` → `[B, T, C]`
    pub fn hidden(&self, tape: &Tape, embeds: &Var, lengths: &[usize]) -> Result<Var> {
        let (b, t, _) = embeds.value().dims3()?;
        let positions: Vec<u32> = (0..b).flat_map(|_| 0..t as u32).collect();
        let mask = KeyMask { lengths: lengths.to_vec(), sees: Sees::Causal };
        self.hidden_at(tape, embeds, &mask, &positions, None)
    }

    /// As [`Qwen3::hidden`], with a mask, a rotary position for each of the B · T places, and layers that read proteins.
    pub fn hidden_at(
        &self,
        tape: &Tape,
        embeds: &Var,
        mask: &KeyMask,
        positions: &[u32],
        media: Option<&Media>,
    ) -> Result<Var> {
        let rope = RopeTable::new(positions, self.config.head_dim, self.config.rope_theta)?;
        let mut x = embeds.clone();
        for (layer, block) in self.layers.iter().enumerate() {
            if let Some(media) = media {
                x = media.read(tape, layer, x, &vec![0; mask.lengths.len()])?;
            }
            let attend = |[q, k, v]: [&Var; 3]| ops::attention(tape, q, k, v, mask, self.scale());
            x = block.forward(tape, &x, &self.config, &rope, attend)?;
        }
        self.norm.forward(tape, &x)
    }

    /// Continues the sequences `rows` of a cache by `lengths[b]` tokens each (the rest of T is padding). Records nothing.
    ///
    /// # Shapes
    /// embeds `[B, T, C]` → `[B, T, C]`
    ///
    /// # Errors
    /// When a sequence does not fit.
    pub fn extend(
        &self,
        embeds: &Tensor,
        rows: &[usize],
        lengths: &[usize],
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let (_, t, _) = embeds.dims3()?;
        let tape = Tape::off();
        let starts: Vec<usize> = rows.iter().map(|&row| cache.lengths[row]).collect();
        let positions: Vec<u32> =
            starts.iter().flat_map(|&start| (start..start + t).map(|p| p as u32)).collect();
        let rope = RopeTable::new(&positions, self.config.head_dim, self.config.rope_theta)?;
        let mut x = Var::constant(embeds.clone());
        let media = cache.media.as_ref().map(|media| media.select(rows)).transpose()?;
        for (layer, (block, cache)) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            if let Some(media) = &media {
                x = media.read(&tape, layer, x, &starts)?;
            }
            let attend = |qkv: [&Var; 3]| {
                let mixed = cache.attend(qkv.map(Var::value), rows, &starts, lengths, self.scale())?;
                Ok(Var::constant(mixed))
            };
            x = block.forward(&tape, &x, &self.config, &rope, attend)?;
        }
        for (&row, &n) in rows.iter().zip(lengths) {
            cache.lengths[row] += n;
        }
        Ok(self.norm.forward(&tape, &x)?.value().clone())
    }

    fn scale(&self) -> f64 {
        1.0 / (self.config.head_dim as f64).sqrt()
    }

    /// The head's weight `[V, C]`.
    pub fn head(&self) -> &Param {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens.weight)
    }

    /// # Shapes
    /// hidden `[.., C]` → `[.., V]`
    pub fn logits(&self, tape: &Tape, hidden: &Var) -> Result<Var> {
        ops::linear(tape, hidden, &tape.param(self.head()), None)
    }

    /// log softmax(logits / temperature) of `targets[n]` at the flat position `rows[n]` (b · T + t) of `hidden`; no other
    /// position costs anything.
    ///
    /// # Shapes
    /// hidden `[B, T, C]` → logprobs and entropy `[N]`
    pub fn token_logprobs(
        &self,
        tape: &Tape,
        hidden: &Var,
        rows: &[usize],
        targets: &[u32],
        temperature: f64,
    ) -> Result<ops::TokenScores> {
        let (b, t, width) = hidden.value().dims3()?;
        let flat = ops::reshape(tape, hidden, (b * t, width))?;
        let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let rows = Tensor::new(rows, &Device::Cpu)?;
        let picked = ops::embedding(tape, &flat, &rows)?; // [N, C]
        ops::token_logprobs(tape, &picked, &tape.param(self.head()), targets, temperature)
    }

    /// An empty cache for `rows` sequences of up to `capacity` tokens, which read the proteins in `media`.
    ///
    /// # Errors
    /// When a GPU has too little memory.
    pub fn cache(&self, rows: usize, capacity: usize, media: Option<Media>) -> Result<Cache> {
        let (groups, dim) = (self.config.num_key_value_heads, self.config.head_dim);
        let layer = |_| KvCache::new(rows, capacity, groups, dim, self.device());
        let layers = (0..self.config.num_hidden_layers).map(layer).collect::<Result<_>>()?;
        Ok(Cache { layers, lengths: vec![0; rows], media })
    }
}

/// Keys and values of all layers for a set of growing sequences.
pub struct Cache {
    layers: Vec<KvCache>,
    lengths: Vec<usize>,
    /// of all sequences
    media: Option<Media>,
}

impl Cache {
    /// A cache whose sequence i continues this one's sequence `rows[i]`: G samples of one prompt pay for it once.
    ///
    /// # Errors
    /// What candle says.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(Self {
            layers: self.layers.iter().map(|layer| layer.select(rows)).collect::<Result<_>>()?,
            lengths: rows.iter().map(|&row| self.lengths[row]).collect(),
            media: self.media.as_ref().map(|media| media.select(rows)).transpose()?,
        })
    }

    /// Tokens in each sequence.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }
}
