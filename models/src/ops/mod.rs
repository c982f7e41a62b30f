//! Ops on the tape: one file each, forward and backward side by side.

mod activation;
mod adamw;
pub(crate) mod attention;
pub(crate) mod basic;
mod conv;
mod crf;
mod cross_entropy;
mod dropout;
mod embedding;
pub(crate) mod kernel;
mod kv_cache;
mod lattice;
mod linear;
mod lstm;
mod mixture;
mod norm;
mod pair;
mod rope;
mod swiglu;
pub(crate) mod token_logprobs;
mod triangle;

pub use activation::{gelu, relu, sigmoid, silu, tanh};
pub use adamw::{AdamWRule, AdamWUpdate, adamw, squares};
pub use attention::{KeyMask, Sees, attention};
pub use basic::{add, cat, mean, mul, narrow, permute, reshape, scale, scale_by, sub, sum};
pub use conv::conv;
pub use crf::{CrfWeights, ScoredPath, crf_best_paths, crf_loss, crf_marginals, crf_sample, crf_viterbi};
pub use cross_entropy::cross_entropy;
pub use dropout::dropout;
pub use embedding::{embedding, replace_rows};
pub use kv_cache::KvCache;
pub use lattice::{ANY, Lattice};
pub use linear::{linear, lora_linear};
pub use lstm::{LstmWeights, bilstm};
pub use mixture::mixture_divergence;
pub use norm::{layer_norm, rms_norm};
pub use pair::{binary_cross_entropy, chain_mean, outer_product, pair_sum, symmetric};
pub use rope::{RopeTable, rope};
pub use swiglu::swiglu;
pub use token_logprobs::{TokenScores, logprob_of, probabilities, token_logprobs};
pub use triangle::{Triangle, triangle_product};

#[cfg(test)]
mod golden;

#[cfg(test)]
pub(crate) mod testing {
    use candle_core::{Device, Tensor};

    /// Irregular f64 numbers in ±1.
    pub(crate) fn numbers(shape: &[usize], seed: f64) -> Tensor {
        let n: usize = shape.iter().product();
        let data: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7 + seed).sin()).collect();
        Tensor::from_vec(data, shape, &Device::Cpu).expect("n numbers for the shape")
    }
}
