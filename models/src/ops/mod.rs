//! Ops on the tape: one file each, forward and backward side by side.

mod basic;
mod crf;
mod lstm;

pub use basic::{add, cat, mean, mul, narrow, permute, reshape, scale, sub, sum};
pub use crf::{CrfWeights, Forbidden, crf_loss, crf_marginals, crf_viterbi};
pub use lstm::{LstmWeights, bilstm};
