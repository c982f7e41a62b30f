//! The model that answers: tokenizer, chat template, language model with its adapter, and how proteins enter it.
//!
//! One [`Policy`] serves training, sampling and evaluation, so that a question looks the same in all three.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use datasets::chat::{Chat, Message};
use datasets::collate::Padding;
use datasets::llm::{Example, LlmBatch, ProteinPath, Row, Shown, Slot, Truth};
use datasets::rng;
use datasets::tokenizer::{PROTEIN_EMBED, PROTEIN_END, PROTEIN_START, Special, Tokenizer};
use models::llm::bridge::{FlamingoConfig, PerceiverConfig, PoolConfig, Reader};
use models::llm::{
    self, Bridge, Completion, Encoder, LogitDifference, LoraConfig, Prompts, ProteinLlm, Qwen3, Residues,
    Rows, Sampling, bridge,
};
use models::ops::TokenScores;
use models::{Params, Tape, Weights};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::embeddings::{self, Cache};
use crate::hub::{Place, locate};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Completions that are sampled side by side: bounds the memory of the key/value cache.
const SAMPLED_AT_ONCE: usize = 512;
/// Residue vectors of proteins that are kept between batches, bytes.
const KEPT_BYTES: usize = 1 << 29;

/// How proteins enter: the `protein` section of an SFT recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "path", rename_all = "lowercase")]
pub enum ProteinConfig {
    /// As letters in the prompt.
    Letters,
    /// As vectors: a frozen encoder, attention pooling into `n_queries` vectors, a projector of two layers.
    Encoder {
        /// Encoder: a folder or a file of weights of ESM-2, ESM-C or ESM3, relative to the stage's folder, or `owner/name`
        /// of the Hugging Face hub.
        folder: PathBuf,
        /// Vectors of each protein.
        n_queries: usize,
        /// Whether the first of them is the mean over all residues.
        mean: bool,
        /// Whether the last of them is that of the mutated residue where a question is about a mutation.
        site: bool,
        /// Heads of the pooling.
        n_heads: usize,
        /// Width of the projector's hidden layer.
        hidden_size: usize,
    },
    /// As vectors: a frozen encoder and a Perceiver resampler.
    Perceiver {
        /// Encoder, as above.
        folder: PathBuf,
        /// Vectors of each protein.
        n_latents: usize,
        /// Layers of the resampler.
        n_layers: usize,
        /// Width of the resampler.
        width: usize,
        /// Heads of every attention.
        n_heads: usize,
        /// Width of its feed-forward layers.
        ffn_size: usize,
        /// Whether the last vector is that of the mutated residue where a question is about a mutation.
        site: bool,
    },
    /// As latents that gated cross-attention reads between the language model's layers.
    Flamingo {
        /// Encoder, as above.
        folder: PathBuf,
        /// Latents of each protein.
        n_latents: usize,
        /// Layers of the resampler.
        n_layers: usize,
        /// Heads of every attention.
        n_heads: usize,
        /// Width of a head.
        head_dim: usize,
        /// Language model layers for each reading layer.
        every: usize,
        /// Rows of the table of residue positions.
        max_residues: usize,
        /// Whether the last latent is that of the mutated residue where a question is about a mutation.
        site: bool,
    },
}

impl ProteinConfig {
    /// The encoder's folder or file; letters need none.
    pub fn encoder(&self) -> Option<&PathBuf> {
        match self {
            Self::Letters => None,
            Self::Encoder { folder, .. } | Self::Perceiver { folder, .. } | Self::Flamingo { folder, .. } => {
                Some(folder)
            }
        }
    }

    /// How residues are read, by a language model of `depth` layers.
    pub fn reader(&self, depth: usize) -> Option<Reader> {
        Some(match *self {
            Self::Letters => return None,
            Self::Encoder { n_queries, mean, site, n_heads, hidden_size, .. } => {
                Reader::Pool(PoolConfig { n_queries, mean, site, n_heads, hidden_size })
            }
            Self::Perceiver { n_latents, n_layers, width, n_heads, ffn_size, site, .. } => {
                Reader::Perceiver(PerceiverConfig { n_latents, n_layers, width, n_heads, ffn_size, site })
            }
            Self::Flamingo { n_latents, n_layers, n_heads, head_dim, every, max_residues, site, .. } => {
                Reader::Flamingo(FlamingoConfig {
                    n_latents,
                    n_layers,
                    n_heads,
                    head_dim,
                    every,
                    n_blocks: depth / every.max(1),
                    max_residues,
                    site,
                })
            }
        })
    }
}

/// `policy.json`: where the frozen parts are, relative to the policy's own folder.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    /// `None`: the folder's own weights, with the adapter merged in
    base: Option<PathBuf>,
    encoder: Option<PathBuf>,
}

/// How an answer is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saying {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// 0: the most probable token every time.
    pub temperature: f64,
    /// Decides every draw.
    pub seed: u64,
    /// The residue that the question is about, 0-based, in every protein.
    pub site: Option<usize>,
}

/// An adapter, and the model that it is for.
#[derive(Clone)]
struct Adapter {
    lora: LoraConfig,
    base: Place,
}

/// A language model with an adapter and, unless it reads letters, an encoder and a bridge.
pub struct Policy {
    tokenizer: Tokenizer,
    chat: Chat,
    model: ProteinLlm,
    /// `None`: merged into the weights
    adapter: Option<Adapter>,
    params: Params,
    encoder: Option<Place>,
    /// What the encoder said of a protein, `[L, E]` flat.
    encoded: Mutex<Encoded>,
    /// The same on disk.
    cache: Option<Arc<Mutex<Cache>>>,
}

/// Residue vectors by protein, and how many numbers they are.
#[derive(Default)]
struct Encoded {
    proteins: BTreeMap<Arc<str>, Vec<f32>>,
    n_numbers: usize,
}

impl Policy {
    /// A fresh adapter and bridge on a base model. Relative folders begin at `from`; `owner/name` is looked for at the hub.
    ///
    /// # Errors
    /// When a folder cannot be read, or the parts do not fit each other.
    pub fn new(
        from: &Path,
        base: &Path,
        protein: &ProteinConfig,
        lora: &LoraConfig,
        seed: u64,
    ) -> Result<Self> {
        let weights = || Weights::random(move |name| rng(seed, &format!("init/{name}"), 0));
        let base = locate(from, base)?;
        let (tokenizer, chat, plain) = open_base(&base.path)?;
        let model = plain.with_lora(lora, weights())?;
        let special = tokenizer.special();
        let depth = model.config().num_hidden_layers;
        let (protein, encoder) = match (protein.encoder(), protein.reader(depth)) {
            (Some(folder), Some(reader)) => {
                let place = locate(from, folder)?;
                let encoder = open_encoder(&place.path)?;
                let ends = bridge::Ends {
                    encoder_size: encoder.hidden_size(),
                    llm_size: model.config().hidden_size,
                    boundary_ids: [special.protein_start, special.protein_end],
                    placeholder_id: special.protein_embed,
                };
                let config = bridge::Config { ends, reader };
                let bridge = Bridge::new(config, weights(), model.embedding().value())?;
                (Some(llm::ProteinPath { encoder, bridge }), Some(place))
            }
            _ => (None, None),
        };
        let adapter = Adapter { lora: lora.clone(), base };
        Self::of(tokenizer, chat, ProteinLlm::new(model, protein)?, Some(adapter), encoder)
    }

    /// Reads what [`Policy::save`] wrote, or a chat model of others, which reads proteins as letters.
    ///
    /// # Errors
    /// Names the file that is missing or broken, or what does not fit.
    pub fn load(folder: &Path) -> Result<Self> {
        let read = || -> Result<Self> {
            let parts = match folder.join("policy.json") {
                path if !path.exists() && folder.join("config.json").exists() => {
                    Parts { base: None, encoder: None } // a language model of others
                }
                path => serde_json::from_str(&fs_err::read_to_string(path)?).context("policy.json")?,
            };
            let (model, adapter) = match parts.base {
                None => (Qwen3::load(folder)?, None),
                Some(base) => {
                    let base = locate(folder, &base)?;
                    let (_, _, plain) = open_base(&base.path)?;
                    let (model, lora) = plain.load_lora(folder)?;
                    (model, Some(Adapter { lora, base }))
                }
            };
            let encoder = parts.encoder.map(|encoder| locate(folder, &encoder)).transpose()?;
            let open = |place: &Place| -> Result<_> {
                let bridge = Bridge::load(folder, model.embedding().value())?;
                Ok(llm::ProteinPath { encoder: open_encoder(&place.path)?, bridge })
            };
            let protein = encoder.as_ref().map(open).transpose()?;
            let (tokenizer, chat) = (Tokenizer::load(folder)?, Chat::load(folder)?);
            Self::of(tokenizer, chat, ProteinLlm::new(model, protein)?, adapter, encoder)
        };
        read().with_context(|| format!("opening the policy {}", folder.display()))
    }

    fn of(
        tokenizer: Tokenizer,
        chat: Chat,
        model: ProteinLlm,
        adapter: Option<Adapter>,
        encoder: Option<Place>,
    ) -> Result<Self> {
        let params = model.params()?;
        Ok(Self { tokenizer, chat, model, adapter, params, encoder, encoded: Mutex::default(), cache: None })
    }

    /// Writes a PEFT adapter (or the whole model, if the adapter is merged into it), the bridge beside it (`bridge.safetensors`, so that readers of adapters need not know it),
    /// tokenizer and template, and `policy.json`, which says where base model and encoder are. `folder` may be a
    /// temporary one beside the final place.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let mut base = None;
        match &self.adapter {
            None => self.model.llm.save(folder)?,
            Some(adapter) => {
                let path = name_from(folder, &adapter.base)?;
                self.model.llm.save_lora(folder, &adapter.lora, &path.to_string_lossy())?;
                base = Some(path);
            }
        }
        if let Some(protein) = &self.model.protein {
            protein.bridge.save(folder)?;
        }
        self.tokenizer.save(folder, self.chat.source())?;
        let encoder = self.encoder.as_ref().map(|place| name_from(folder, place)).transpose()?;
        let parts = serde_json::to_string_pretty(&Parts { base, encoder })?;
        Ok(fs_err::write(folder.join("policy.json"), parts + "\n")?)
    }

    /// All weights but the encoder's; those of the base model are frozen.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Number of frozen weights, the encoder's among them, and of trained ones.
    pub fn counts(&self) -> (usize, usize) {
        let (all, trained) = self.params.counts();
        let encoder = self.model.protein.as_ref().map_or(0, |path| path.encoder.params().counts().0);
        (all - trained + encoder, trained)
    }

    /// Numbers that a training step keeps for each residue of a padded batch.
    pub fn n_kept(&self) -> u64 {
        self.model.protein.as_ref().map_or(0, |path| path.bridge.config().n_kept())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// How proteins stand in its prompts.
    pub fn path(&self) -> ProteinPath {
        match self.model.protein {
            Some(_) => ProteinPath::Encoder,
            None => ProteinPath::Letters,
        }
    }

    /// Residues of the longest protein that encoder and bridge take; letters have no limit but the model's context.
    pub fn max_residues(&self) -> Option<usize> {
        let path = self.model.protein.as_ref()?;
        let encoder = path.encoder.max_tokens().saturating_sub(2);
        Some(path.bridge.config().max_residues().map_or(encoder, |most| most.min(encoder)))
    }

    fn n_embed(&self) -> usize {
        self.model.protein.as_ref().map_or(1, |protein| protein.bridge.config().n_places())
    }

    /// Copies of the weights that are trained, by name.
    ///
    /// # Errors
    /// What candle says.
    pub fn trained(&self) -> Result<Tensors> {
        self.params.trainable().map(|p| Ok((p.name().to_string(), p.value().copy()?))).collect()
    }

    /// Overwrites the weights that are trained.
    ///
    /// # Errors
    /// Lists everything that is missing or does not fit.
    pub fn assign(&self, tensors: &Tensors) -> Result<()> {
        let mut trained = Params::default();
        self.params.trainable().try_for_each(|p| trained.insert(p.clone()))?;
        Ok(trained.assign(tensors)?)
    }

    /// A policy with the same frozen weights and its own copy of the trained ones: the reference of a KL term.
    ///
    /// # Errors
    /// What candle says.
    pub fn trained_copy(&self) -> Result<Self> {
        let (adapter, rest): (Tensors, Tensors) =
            self.trained()?.into_iter().partition(|(name, _)| name.contains(".lora_"));
        let own = self.adapter.as_ref().context("a merged policy has no adapter to copy")?;
        let model = self.model.llm.with_lora(&own.lora, Weights::loaded(adapter))?;
        let copy = |protein: &llm::ProteinPath| -> Result<_> {
            let config = protein.bridge.config().clone();
            let bridge = Bridge::new(config, Weights::loaded(rest.clone()), model.embedding().value())?;
            Ok(llm::ProteinPath { encoder: protein.encoder.clone(), bridge })
        };
        let protein = self.model.protein.as_ref().map(copy).transpose()?;
        let (tokenizer, chat) = (self.tokenizer.clone(), Chat::new(self.chat.source())?);
        let model = ProteinLlm::new(model, protein)?;
        let copy = Self::of(tokenizer, chat, model, self.adapter.clone(), self.encoder.clone())?;
        Ok(Self { cache: self.cache.clone(), ..copy })
    }

    /// This policy with its adapter merged into the weights, and what that changes in the logits of some token rows.
    ///
    /// # Errors
    /// What candle says.
    pub fn merged(&self, probes: &[Vec<u32>]) -> Result<(Self, LogitDifference)> {
        let llm = self.model.llm.merged()?;
        let change = self.model.llm.logit_difference(&llm, probes)?;
        let (tokenizer, chat) = (self.tokenizer.clone(), Chat::new(self.chat.source())?);
        let model = ProteinLlm::new(llm, self.model.protein.clone())?;
        Ok((Self::of(tokenizer, chat, model, None, self.encoder.clone())?, change))
    }

    /// The language model.
    pub fn model(&self) -> &Qwen3 {
        &self.model.llm
    }

    /// Its base model; `None` for a merged one.
    pub fn base(&self) -> Option<&Place> {
        self.adapter.as_ref().map(|adapter| &adapter.base)
    }

    /// How proteins enter, for a reader.
    pub fn how_proteins_enter(&self) -> String {
        let Some(path) = &self.model.protein else {
            return "Sequences stand in the prompt as letters: `<protein>MKT…</protein>`.".into();
        };
        let bridge = path.bridge.config();
        let how = match &bridge.reader {
            Reader::Pool(pool) => format!("{} vectors by attention pooling", pool.n_queries),
            Reader::Perceiver(perceiver) => {
                format!("{} vectors by a Perceiver resampler", perceiver.n_latents)
            }
            Reader::Flamingo(flamingo) => {
                format!(
                    "{} latents that {} gated cross-attention layers read",
                    flamingo.n_latents, flamingo.n_blocks
                )
            }
        };
        let n = path.encoder.params().counts().0;
        format!(
            "A frozen protein encoder of {n} weights gives a vector for each residue; the bridge (`bridge.safetensors`) makes \
             {how} of them. transformers reads the decoder alone; `peptalk` reads all of it, with the encoder that \
             `policy.json` names."
        )
    }

    /// A chat of one question and its answer, without proteins, as token ids.
    ///
    /// # Errors
    /// As [`Chat::encode`].
    pub fn chat_ids(&self, prompt: &[Message], answer: &str) -> Result<Vec<u32>> {
        Ok(self.chat.encode(&self.tokenizer, prompt, answer, self.n_embed())?.ids)
    }

    /// The answer to a question about some proteins, which are shown before it in their order.
    ///
    /// # Errors
    /// When a site lies behind the end of a protein, and as [`Policy::sample`].
    pub fn ask(&self, question: &str, proteins: &[String], saying: Saying) -> Result<String> {
        let mut text = String::new();
        for protein in proteins {
            match self.path() {
                ProteinPath::Encoder => text += &format!("{PROTEIN_START}{PROTEIN_EMBED}{PROTEIN_END}\n"),
                ProteinPath::Letters => text += &format!("<protein>{protein}</protein>\n"),
            }
            if let Some(site) = saying.site {
                ensure!(
                    site < protein.len(),
                    "there is no residue {} in a protein of {}",
                    site + 1,
                    protein.len()
                );
            }
        }
        let shown = |protein: &String| Shown { sequence: protein.as_str().into(), site: saying.site };
        let example = Example {
            task: "chat".into(),
            prompt: vec![Message::user(text + question)],
            answer: String::new(),
            proteins: match self.path() {
                ProteinPath::Encoder => proteins.iter().map(shown).collect(),
                ProteinPath::Letters => vec![],
            },
            cluster: String::new(),
            truth: Truth::Text(String::new()),
        };
        let prompt = [self.encode_prompt(&example)?];
        let said = match saying.temperature > 0.0 {
            false => self.answer(&prompt, saying.max_new_tokens)?,
            true => self.sample(&prompt, 1, saying.max_new_tokens, saying.temperature, |i| {
                rng(saying.seed, "chat", i as u64)
            })?,
        };
        self.decode(&said.first().context("no answer")?.tokens)
    }

    /// A question and its answer as token ids.
    ///
    /// # Errors
    /// As [`Row::encode`].
    pub fn encode(&self, example: &Example) -> Result<Row> {
        Ok(Row::encode(&self.chat, &self.tokenizer, example, self.n_embed())?)
    }

    /// A question as token ids, waiting for the answer.
    ///
    /// # Errors
    /// As [`Row::encode_prompt`].
    pub fn encode_prompt(&self, example: &Example) -> Result<Row> {
        Ok(Row::encode_prompt(&self.chat, &self.tokenizer, example, self.n_embed())?)
    }

    /// The text of a completion, without special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(tokens, true)?)
    }

    /// Log-probability of every completion token, row by row, at the temperature.
    ///
    /// # Shapes
    /// rows with N completion tokens in all → `[N]`
    ///
    /// # Errors
    /// When a row has no prompt or no completion, or its places do not fit its proteins.
    pub fn score(&self, tape: &Tape, rows: &[Row], temperature: f64) -> Result<TokenScores> {
        let (tokens, residues) = self.batch(rows)?;
        let width = tokens.ids.dim(1)?;
        let (mut places, mut targets) = (vec![], vec![]);
        for (at, row) in rows.iter().enumerate() {
            ensure!(0 < row.n_prompt && row.n_prompt < row.ids.len(), "a chat without a prompt or an answer");
            places.extend((row.n_prompt..row.ids.len()).map(|t| at * width + t - 1));
            targets.extend_from_slice(&row.ids[row.n_prompt..]);
        }
        let hidden = self.model.hidden(tape, &tokens, residues.as_ref())?;
        Ok(self.model.llm.token_logprobs(tape, &hidden, &places, &targets, temperature)?)
    }

    /// As [`Policy::score`], the rows standing behind each other in one line without padding, each seeing itself alone.
    ///
    /// # Errors
    /// As [`Policy::score`], and with a bridge whose vectors are read between the layers.
    pub fn score_packed(&self, tape: &Tape, rows: &[Row], temperature: f64) -> Result<TokenScores> {
        let (_, residues) = self.batch(rows)?;
        let residues = residues.map(|r| Residues { rows: vec![0; r.rows.len()], ..r });
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let (mut places, mut targets, mut start) = (vec![], vec![], 0);
        for row in rows {
            ensure!(0 < row.n_prompt && row.n_prompt < row.ids.len(), "a chat without a prompt or an answer");
            places.extend((row.n_prompt..row.ids.len()).map(|t| start + t - 1));
            targets.extend_from_slice(&row.ids[row.n_prompt..]);
            start += row.ids.len();
        }
        let documents = rows.iter().map(|row| row.ids.len()).collect();
        let ids = Tensor::from_vec(ids, (1, start), &candle_core::Device::Cpu)?;
        let line = Rows { ids, lengths: vec![start], documents: Some(vec![documents]) };
        let hidden = self.model.hidden(tape, &line, residues.as_ref())?;
        Ok(self.model.llm.token_logprobs(tape, &hidden, &places, &targets, temperature)?)
    }

    /// Samples `samples` answers to each prompt, prompt by prompt; `rng(i)` is answer i's generator. Neither the other
    /// prompts nor the number of threads changes an answer.
    ///
    /// # Errors
    /// When a prompt's places do not fit its proteins.
    pub fn sample(
        &self,
        prompts: &[Row],
        samples: usize,
        max_new_tokens: usize,
        temperature: f64,
        rng: impl Fn(usize) -> ChaCha8Rng,
    ) -> Result<Vec<Completion>> {
        let sampling = Sampling::Random { temperature, top_k: None, top_p: None };
        self.generate(prompts, samples, max_new_tokens, sampling, rng)
    }

    /// The answer to each prompt that takes the most probable token every time.
    ///
    /// # Errors
    /// As [`Policy::sample`].
    pub fn answer(&self, prompts: &[Row], max_new_tokens: usize) -> Result<Vec<Completion>> {
        self.generate(prompts, 1, max_new_tokens, Sampling::Greedy, |i| rng(0, "greedy", i as u64))
    }

    /// A protein token ends an answer as the end of the turn does: it means something in questions alone.
    fn generate(
        &self,
        prompts: &[Row],
        samples: usize,
        max_new_tokens: usize,
        sampling: Sampling,
        rng: impl Fn(usize) -> ChaCha8Rng,
    ) -> Result<Vec<Completion>> {
        let special = self.tokenizer.special();
        let stop = &[&self.model.llm.config().eos_token_ids[..], &protein_tokens(special)].concat();
        let at_once = (SAMPLED_AT_ONCE / samples.max(1)).max(1);
        let mut out = Vec::with_capacity(prompts.len() * samples);
        for prompts in prompts.chunks(at_once) {
            let (embedded, done) = (self.prompts(prompts)?, out.len());
            let draw = |i| rng(done + i);
            let llm = &self.model.llm;
            out.extend(llm::generate(llm, &embedded, samples, max_new_tokens, sampling, stop, draw)?);
        }
        Ok(out)
    }

    /// log p(yes) − log p(no) of each prompt, over the whole answers: above 0 where the model leans to yes.
    ///
    /// # Errors
    /// As [`Policy::sample`].
    pub fn yes_scores(&self, prompts: &[Row]) -> Result<Vec<f64>> {
        let answer = |word: &str| -> Result<Vec<u32>> {
            let mut ids = self.tokenizer.encode(&format!("<answer>{word}</answer>"))?;
            ids.push(self.tokenizer.special().turn_end);
            Ok(ids)
        };
        let (yes, no) = (answer("yes")?, answer("no")?);
        let mut out = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(SAMPLED_AT_ONCE / 2) {
            let both = (0..prompts.len()).flat_map(|p| [(p, yes.clone()), (p, no.clone())]);
            let completions: Vec<_> = both.collect();
            let scores = llm::score_completions(&self.model.llm, &self.prompts(prompts)?, &completions)?;
            out.extend(scores.chunks_exact(2).map(|pair| pair[0] - pair[1]));
        }
        Ok(out)
    }

    fn prompts(&self, prompts: &[Row]) -> Result<Prompts> {
        let (tokens, residues) = self.batch(prompts)?;
        Ok(self.model.prompts(&tokens, residues.as_ref())?)
    }

    /// Padded tokens and the encoded proteins. A protein that stands in several rows is encoded once.
    ///
    /// A sampled answer may end with a protein token (see [`Policy::generate`]). Nothing is predicted from a row's last
    /// token, so another stands in for it: no vector belongs there.
    fn batch(&self, rows: &[Row]) -> Result<(Rows, Option<Residues>)> {
        let special = self.tokenizer.special();
        let mut rows = rows.to_vec();
        for row in &mut rows {
            if let Some(last) = row.ids.last_mut().filter(|last| protein_tokens(special).contains(last)) {
                *last = special.end_of_text;
            }
        }
        let batch = LlmBatch::collate(&rows, &self.tokenizer, self.n_embed())?;
        let residues = match batch.proteins.is_empty() {
            true => None,
            false => Some(self.residues(&batch)?),
        };
        Ok((Rows::new(batch.tokens, batch.lengths), residues))
    }

    /// The residue vectors of every slot. The encoder is frozen and its bits do not depend on the batch, so what it said
    /// of a protein is kept, up to [`KEPT_BYTES`].
    fn residues(&self, batch: &LlmBatch) -> Result<Residues> {
        let mut known = self.encoded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new: Vec<&Arc<str>> =
            batch.proteins.iter().filter(|p| !known.proteins.contains_key(*p)).collect();
        for (protein, vectors) in self.encode_proteins(&new)? {
            known.n_numbers += vectors.len();
            known.proteins.insert(protein, vectors);
        }
        let of = |slot: &Slot| &known.proteins[&batch.proteins[slot.protein]];
        let lengths: Vec<usize> = batch.slots.iter().map(|slot| batch.proteins[slot.protein].len()).collect();
        let width = self.model.protein.as_ref().map_or(0, |path| path.encoder.hidden_size());
        let padding = Padding::new(lengths.clone())?;
        let residues = Residues {
            vectors: padding.pad(batch.slots.iter().map(|slot| &of(slot)[..]), width, 0.0)?,
            lengths,
            sites: batch.slots.iter().map(|slot| slot.site).collect(),
            rows: batch.slots.iter().map(|slot| slot.row).collect(),
        };
        if known.n_numbers * size_of::<f32>() > KEPT_BYTES {
            *known = Encoded::default();
        }
        Ok(residues)
    }
}

impl Policy {
    /// Residue vectors of proteins, from disk as far as they are there.
    fn encode_proteins(&self, proteins: &[&Arc<str>]) -> Result<Vec<(Arc<str>, Vec<f32>)>> {
        let Some(path) = &self.model.protein else {
            ensure!(proteins.is_empty(), "proteins for a model without an encoder");
            return Ok(vec![]);
        };
        let mut cache =
            self.cache.as_ref().map(|c| c.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let (mut out, mut new) = (vec![], vec![]);
        for &protein in proteins {
            match cache.as_ref().map(|cache| cache.get(protein)).transpose()?.flatten() {
                Some(vectors) => out.push((protein.clone(), vectors)),
                None => new.push(protein),
            }
        }
        if !new.is_empty() {
            let letters: Vec<&str> = new.iter().map(|protein| &***protein).collect();
            for (protein, vectors) in new.into_iter().zip(embeddings::encode(&path.encoder, &letters)?) {
                let kept = match &mut cache {
                    Some(cache) => cache.put(protein, &vectors)?,
                    None => vectors,
                };
                out.push((protein.clone(), kept));
            }
        }
        Ok(out)
    }

    /// From now on keeps what the encoder says on disk, and looks there first. A model without an encoder has no use for it.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn keep_embeddings(&mut self, from: &Path, config: &embeddings::Config) -> Result<()> {
        if let Some(path) = &self.model.protein {
            let cache = Cache::open(&from.join(&config.folder), &path.encoder, config.numbers)?;
            tracing::info!("embeddings of {} proteins are known", cache.len());
            self.cache = Some(Arc::new(Mutex::new(cache)));
        }
        Ok(())
    }
}

fn protein_tokens(special: Special) -> [u32; 3] {
    [special.protein_start, special.protein_embed, special.protein_end]
}

fn open_base(folder: &Path) -> Result<(Tokenizer, Chat, Qwen3)> {
    let open = || -> Result<_> {
        let (tokenizer, chat, model) = (Tokenizer::load(folder)?, Chat::load(folder)?, Qwen3::load(folder)?);
        let (tokens, rows) = (tokenizer.vocab_size(), model.config().vocab_size);
        ensure!(
            tokens <= rows,
            "the tokenizer has {tokens} tokens, protein tokens among them, the model rows for {rows}"
        );
        Ok((tokenizer, chat, model))
    };
    open().with_context(|| format!("opening the base model {}", folder.display()))
}

fn open_encoder(folder: &Path) -> Result<Encoder> {
    Encoder::load(folder).with_context(|| format!("opening the encoder {}", folder.display()))
}

/// How files in a folder name a model: as the hub does, or by the way there.
fn name_from(folder: &Path, place: &Place) -> Result<PathBuf> {
    match &place.hub {
        Some(name) => Ok(name.into()),
        None => relative(folder, &place.path),
    }
}

/// The path from one folder to another, so that a run folder may be moved as a whole.
pub(crate) fn relative(from: &Path, to: &Path) -> Result<PathBuf> {
    let (from, to) = (fs_err::canonicalize(from)?, fs_err::canonicalize(to)?);
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    Ok(up.chain(to.components().skip(shared)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_base_survives_a_move() {
        let dir = tempfile::tempdir().unwrap();
        let (base, policy) = (dir.path().join("ssl/model"), dir.path().join("sft/model"));
        fs_err::create_dir_all(&base).unwrap();
        fs_err::create_dir_all(&policy).unwrap();
        assert_eq!(relative(&policy, &base).unwrap(), Path::new("../../ssl/model"));
        assert_eq!(relative(&policy, &policy.join("../../ssl/model")).unwrap(), Path::new("../../ssl/model"));
    }
}
