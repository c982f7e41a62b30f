//! The protein language model: a protein encoder, a bridge, and Qwen3 with LoRA.

pub mod bridge;
pub mod encoder;
mod files;
mod generate;
#[cfg(test)]
mod judges;
mod lora;
mod protein_llm;
pub mod qwen3;

#[cfg(test)]
pub(crate) mod behaviour;
#[cfg(test)]
pub(crate) mod behaviour_protein;
#[cfg(test)]
pub(crate) mod parity;
#[cfg(test)]
mod parity_protein;

pub use bridge::{Bridge, Media};
pub use encoder::{Encoder, Esm2};
pub use generate::{Completion, Prompts, Sampling, distribution, generate, score_completions};
pub use lora::{Layers, LogitDifference, LoraConfig, Modules};
pub use protein_llm::{Layout, ProteinLlm, ProteinPath, Proteins, Residues, Rows};
pub use qwen3::{Cache, Qwen3};
