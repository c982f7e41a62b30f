//! Predictions → metrics → report. No training code.
//!
//! A task runner brings three things per example: the truth, the prediction and the homology cluster. [`Comparison`]
//! turns them into [`report::Row`]s, in which every number has its interval (bootstrap over clusters), its floors, and
//! the gain over the best of them; [`report::write`] makes `results.json`, `samples_<task>.jsonl` and one HTML page.

pub mod baseline;
mod batch;
mod compare;
pub mod contact;
mod dataset;
pub mod embeddings;
pub mod hub;
pub mod llm;
pub mod metric;
pub mod report;
mod run;
pub mod ss;

pub use compare::{Comparison, Kind};
pub use run::{Config, Models, TASKS, run};
