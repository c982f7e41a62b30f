//! The training loops, one file each, and what they share: optimiser, schedule, guard, log, checkpoints, config.

pub mod advantage;
pub mod align;
pub mod checkpoint;
pub mod config;
pub mod contact;
pub mod ema;
pub mod encoder;
pub mod grpo;
pub mod guard;
pub mod llm;
#[cfg(test)]
mod llm_tests;
pub mod loss;
pub mod memory;
pub mod optim;
#[cfg(test)]
mod parity_tests;
pub mod progress;
pub mod recipe;
pub mod run_log;
pub mod schedule;
pub mod sft;
pub mod ss;
pub mod ssl;
pub mod steps;
