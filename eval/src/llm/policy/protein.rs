//! How proteins enter: settings.

use std::path::PathBuf;

use models::llm::bridge::{FlamingoConfig, PerceiverConfig, PoolConfig, Reader};
use serde::{Deserialize, Serialize};

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
