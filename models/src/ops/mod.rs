//! Ops on the tape: one file each, forward and backward side by side.

mod basic;
mod lstm;

pub use basic::{add, cat, mean, mul, narrow, permute, reshape, scale, sub, sum};
pub use lstm::{LstmWeights, bilstm};
