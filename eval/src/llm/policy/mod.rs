//! The model that answers: tokenizer, chat template, language model with its adapter, and how proteins enter it.
//!
//! One [`Policy`] serves training, sampling and evaluation, so that a question looks the same in all three.

mod protein;
mod residues;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use datasets::chat::Chat;
use datasets::llm::ProteinPath;
use datasets::rng;
use datasets::tokenizer::Tokenizer;
use models::device::copy_to;
use models::llm::bridge::Reader;
use models::llm::{self, Bridge, LogitDifference, LoraConfig, ProteinLlm, Qwen3, bridge};
use models::{Params, Weights};
use serde::{Deserialize, Serialize};

pub use protein::ProteinConfig;
pub use words::Saying;

use crate::embeddings::{Known, open_encoder};
use crate::hub::{Place, locate};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// `policy.json`: where the frozen parts are, relative to the policy's own folder.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    /// `None`: the folder's own weights, with the adapter merged in
    base: Option<PathBuf>,
    encoder: Option<PathBuf>,
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
    /// What the encoder said of proteins.
    known: Arc<Mutex<Known>>,
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
        Ok(Self { tokenizer, chat, model, adapter, params, encoder, known: Arc::default() })
    }

    /// This policy with its language model and bridge on another device.
    ///
    /// # Errors
    /// When there is too little memory.
    pub fn to_device(self, device: &Device) -> Result<Self> {
        let model = self.model.to_device(device)?;
        Ok(Self { params: model.params()?, model, ..self })
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
                let path = adapter.base.name_from(folder)?;
                self.model.llm.save_lora(folder, &adapter.lora, &path.to_string_lossy())?;
                base = Some(path);
            }
        }
        if let Some(protein) = &self.model.protein {
            protein.bridge.save(folder)?;
        }
        self.tokenizer.save(folder, self.chat.source())?;
        let encoder = self.encoder.as_ref().map(|place| place.name_from(folder)).transpose()?;
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
        let encoder = path.encoder.max_residues();
        Some(path.bridge.config().max_residues().map_or(encoder, |most| most.min(encoder)))
    }

    fn n_embed(&self) -> usize {
        self.model.protein.as_ref().map_or(1, |protein| protein.bridge.config().n_places())
    }

    /// Copies of the weights that are trained, by name, on the CPU.
    ///
    /// # Errors
    /// What candle says.
    pub fn trained(&self) -> Result<Tensors> {
        self.params
            .trainable()
            .map(|p| Ok((p.name().to_string(), copy_to(p.value(), &Device::Cpu)?)))
            .collect()
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
        Ok(Self { known: self.known.clone(), ..copy })
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

    /// The bridge, unless it reads letters.
    pub fn bridge(&self) -> Option<&Bridge> {
        self.model.protein.as_ref().map(|path| &path.bridge)
    }

    /// Overwrites the bridge with a saved one of the same sizes.
    ///
    /// # Errors
    /// When it cannot be read, or is of other sizes.
    pub fn assign_bridge(&self, folder: &Path) -> Result<()> {
        let bridge = self.bridge().context("a model that reads letters has no bridge")?;
        let saved = Bridge::load(folder, self.model.llm.embedding().value())
            .with_context(|| format!("opening the bridge {}", folder.display()))?;
        ensure!(
            saved.config() == bridge.config(),
            "the bridge {} is {:?}, this one {:?}\nhint: the same `protein` settings, base model and encoder for both",
            folder.display(),
            saved.config(),
            bridge.config()
        );
        Ok(bridge.params().assign(&saved.params().snapshot()?)?)
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
