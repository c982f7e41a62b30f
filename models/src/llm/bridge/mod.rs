//! From residues to what the language model reads. A bridge is one of three readers:
//!
//! | reader | what it makes of a protein | where it enters |
//! |---|---|---|
//! | `pool` | attention pooling into vectors, a projector of two layers | in place of the placeholders |
//! | `perceiver` | latents that attend to each other and to the residues, a projection (arXiv 2107.14795) | in place of the placeholders |
//! | `flamingo` | latents (arXiv 2204.14198) | gated cross-attention before every n-th layer |

mod attention;
mod flamingo;
mod perceiver;
mod pool;

use std::path::Path;

use candle_core::{Device, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use flamingo::{Config as FlamingoConfig, Media};
pub use perceiver::Config as PerceiverConfig;
pub use pool::Config as PoolConfig;

use crate::llm::files;
use crate::llm::protein_llm::Residues;
use crate::ops;
use crate::param::{Param, Params};
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights, read_safetensors};

/// What a bridge connects, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// its two ends
    pub ends: Ends,
    /// what is between them
    pub reader: Reader,
}

/// The two ends of a bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ends {
    /// width of the encoder
    pub encoder_size: usize,
    /// width of the language model
    pub llm_size: usize,
    /// token ids that stand before and after a protein's vectors and whose embeddings are learnt
    pub boundary_ids: [u32; 2],
    /// token id that each vector of a protein replaces
    pub placeholder_id: u32,
}

/// How residues are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Reader {
    /// attention pooling
    Pool(PoolConfig),
    /// a resampler whose latents are put into the prompt
    Perceiver(PerceiverConfig),
    /// a resampler whose latents are attended to
    Flamingo(FlamingoConfig),
}

impl Config {
    /// Places that each protein takes in a prompt.
    pub fn n_places(&self) -> usize {
        match &self.reader {
            Reader::Pool(config) => config.n_queries,
            Reader::Perceiver(config) => config.n_latents,
            Reader::Flamingo(_) => 1,
        }
    }

    /// Number of weights of a bridge of these sizes.
    pub fn n_weights(&self) -> u64 {
        let (e, c) = (self.ends.encoder_size as u64, self.ends.llm_size as u64);
        let attention = |width: u64| 4 * (width * width + width); // torch's, with biases
        let linear = |n_in: u64, n_out: u64| n_in * n_out + n_out;
        let reader = match &self.reader {
            Reader::Pool(pool) => {
                let (n, hidden) = (pool.n_queries as u64, pool.hidden_size as u64);
                n * e + attention(e) + 2 * e + linear(e, hidden) + linear(hidden, c)
            }
            Reader::Perceiver(p) => {
                let (n, w, ffn) = (p.n_latents as u64, p.width as u64, p.ffn_size as u64);
                let layer = 8 * w + 2 * attention(w) + linear(w, ffn) + linear(ffn, w);
                linear(e, w) + n * w + p.n_layers as u64 * layer + 2 * w + linear(w, c)
            }
            Reader::Flamingo(f) => flamingo::n_weights(f, e, c),
        };
        reader + 2 * c // the boundary tokens
    }

    /// Numbers that a training step keeps for each residue of a padded batch.
    pub fn n_kept(&self) -> u64 {
        let e = self.ends.encoder_size as u64;
        match &self.reader {
            Reader::Pool(_) => 3 * e, // vectors, keys, values
            Reader::Perceiver(p) => e + (1 + 3 * p.n_layers as u64) * p.width as u64,
            Reader::Flamingo(f) => {
                let inner = (f.n_heads * f.head_dim) as u64;
                2 * e + f.n_layers as u64 * (2 * e + 4 * inner)
            }
        }
    }

    /// Residues of the longest protein that it reads, if there is a limit.
    pub fn max_residues(&self) -> Option<usize> {
        match &self.reader {
            Reader::Flamingo(config) => Some(config.max_residues),
            _ => None,
        }
    }

    /// From `bridge.json`; files from before there was more than one reader hold the keys of pooling side by side.
    fn from_json(json: Value) -> Result<Self> {
        let json = match json {
            Value::Object(old) if !old.contains_key("reader") => {
                const ENDS: [&str; 4] = ["encoder_size", "llm_size", "boundary_ids", "placeholder_id"];
                let (ends, mut pool): (Map<_, _>, Map<_, _>) =
                    old.into_iter().partition(|(key, _)| ENDS.contains(&key.as_str()));
                pool.insert("kind".into(), json!("pool"));
                json!({"ends": ends, "reader": pool})
            }
            other => other,
        };
        serde_json::from_value(json).map_err(candle_core::Error::wrap)
    }
}

#[derive(Clone)]
enum Kind {
    Pool(pool::Pool),
    Perceiver(perceiver::Perceiver),
    Flamingo(flamingo::Flamingo),
}

/// A bridge, and the embeddings of the tokens around a protein.
#[derive(Clone)]
pub struct Bridge {
    config: Config,
    kind: Kind,
    /// embeddings of the boundary tokens, `[2, C]`
    boundary: Param,
    params: Params,
}

impl Bridge {
    /// A bridge with the weights that `weights` gives.
    ///
    /// Fresh embeddings of boundary tokens are the mean of `embedding` (the language model's table `[V, C]`): near what the
    /// model knows, where an untrained row may be anything.
    ///
    /// # Errors
    /// On sizes that do not fit; lists everything that a checkpoint lacks or has beyond the model.
    pub fn new(config: Config, weights: Weights, embedding: &Tensor) -> Result<Self> {
        let (ends, out) = (&config.ends, config.ends.llm_size);
        if embedding.dim(1)? != out {
            bail!("bridge to width {out}, the language model has {}", embedding.dim(1)?);
        }
        let mean_token = |at: &Weights, rows: usize| {
            let fresh = !at.holds("weight");
            let rows_of = at.get((rows, out), "weight", Init::Const(0.0))?;
            if fresh {
                rows_of.assign(&embedding.mean_keepdim(0)?.broadcast_as((rows, out))?.contiguous()?)?;
            }
            Ok::<_, candle_core::Error>(rows_of)
        };
        let boundary = mean_token(&weights.pp("boundary"), 2)?;
        let kind = match &config.reader {
            Reader::Pool(pool) => Kind::Pool(pool::Pool::new(pool.clone(), ends, &weights)?),
            Reader::Perceiver(perceiver) => {
                Kind::Perceiver(perceiver::Perceiver::new(perceiver.clone(), ends, &weights)?)
            }
            Reader::Flamingo(flamingo) => {
                let token = mean_token(&weights.pp("media_token"), 1)?;
                Kind::Flamingo(flamingo::Flamingo::new(flamingo.clone(), ends, &weights, token)?)
            }
        };
        Ok(Self { kind, boundary, params: weights.finish()?, config })
    }

    /// Reads what [`Bridge::save`] wrote.
    ///
    /// # Errors
    /// As [`Bridge::new`], and when a file is missing or broken.
    pub fn load(folder: &Path, embedding: &Tensor) -> Result<Self> {
        let config = Config::from_json(files::read_json(&folder.join("bridge.json"))?)?;
        Self::new(config, Weights::loaded(read_safetensors(&folder.join("bridge.safetensors"))?), embedding)
    }

    /// Writes `bridge.json` and `bridge.safetensors`: beside a PEFT adapter, which stays free of them.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        let config = serde_json::to_value(&self.config).map_err(candle_core::Error::wrap)?;
        files::write_json(&folder.join("bridge.json"), &config)?;
        let tensors = self.params.iter().map(|p| (p.name().to_string(), p.value().clone())).collect();
        files::write_safetensors(&folder.join("bridge.safetensors"), tensors)
    }

    /// This bridge on a device: itself, or a copy.
    ///
    /// # Errors
    /// When there is too little memory.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        if self.boundary.value().device().same_device(device) {
            return Ok(self.clone());
        }
        let table = Tensor::zeros((1, self.config.ends.llm_size), candle_core::DType::F32, device)?; // nothing is drawn
        Self::new(self.config.clone(), Weights::loaded(self.params.snapshot()?).on(device), &table)
    }

    /// Sizes and token ids.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// All weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The vectors that stand in the prompt for each protein, N of them. Protein p has `lengths[p]` residues, the rest is
    /// padding; a site is the residue that a question is about.
    ///
    /// # Shapes
    /// residues `[P, L, E]` → `[P, N, C]`
    ///
    /// # Errors
    /// On a site behind the end.
    pub fn forward(
        &self,
        tape: &Tape,
        residues: &Var,
        lengths: &[usize],
        sites: &[Option<usize>],
    ) -> Result<Var> {
        match &self.kind {
            Kind::Pool(pool) => pool.forward(tape, residues, lengths, sites),
            Kind::Perceiver(perceiver) => perceiver.forward(tape, residues, lengths, sites),
            Kind::Flamingo(flamingo) => flamingo.tokens(tape, lengths.len()),
        }
    }

    /// What the language model's layers attend to, where the bridge works that way: the proteins of each of the rows,
    /// whose places are `places[row]`.
    ///
    /// # Errors
    /// As [`Bridge::forward`], and on a protein beyond the table of positions.
    pub(crate) fn media(
        &self,
        tape: &Tape,
        residues: Option<&Residues>,
        places: Vec<Vec<usize>>,
    ) -> Result<Option<Media>> {
        match &self.kind {
            Kind::Flamingo(flamingo) => flamingo.media(tape, residues, places).map(Some),
            _ => Ok(None),
        }
    }

    /// The embeddings of the boundary tokens `[2, C]`.
    pub fn boundary(&self, tape: &Tape) -> Var {
        tape.param(&self.boundary)
    }
}

/// Proteins that have a site, and the sites' places among the residues of all (`[P, L]` flat).
fn rows_at_sites(sites: &[Option<usize>], lengths: &[usize], width: usize) -> Result<(Vec<usize>, Tensor)> {
    if sites.len() != lengths.len()
        || sites.iter().zip(lengths).any(|(site, &n)| site.is_some_and(|at| at >= n))
    {
        bail!("bridge: sites {sites:?} of proteins of {lengths:?} residues");
    }
    let marked: Vec<(usize, usize)> =
        sites.iter().enumerate().filter_map(|(p, site)| Some((p, (*site)?))).collect();
    let at: Vec<u32> = marked.iter().map(|(p, site)| (p * width + site) as u32).collect();
    Ok((marked.into_iter().map(|(p, _)| p).collect(), Tensor::new(at, &Device::Cpu)?))
}

/// The last latent of each protein with a site, replaced by what `read` makes of the residue there.
///
/// # Shapes
/// latents `[P, N, W]`, residues `[P, L, W]` → `[P, N, W]`
fn with_sites(
    tape: &Tape,
    latents: &Var,
    residues: &Var,
    lengths: &[usize],
    sites: &[Option<usize>],
) -> Result<Var> {
    if sites.iter().all(Option::is_none) {
        return Ok(latents.clone());
    }
    let (p, l, width) = residues.value().dims3()?;
    let n = latents.value().dim(1)?;
    let (marked, at) = rows_at_sites(sites, lengths, l)?;
    let new = ops::embedding(tape, &ops::reshape(tape, residues, (p * l, width))?, &at)?;
    let rows: Vec<usize> = marked.iter().map(|p| p * n + n - 1).collect();
    let flat = ops::reshape(tape, latents, (p * n, width))?;
    ops::reshape(tape, &ops::replace_rows(tape, &flat, &rows, &new)?, (p, n, width))
}

#[cfg(test)]
mod tests;
