//! The language model's data: tables → [`Record`]s (facts, prompt-free) → [`Example`]s (a question in words, made when
//! a batch is made) → [`Row`]s of token ids → [`LlmBatch`].
//!
//! A record says what is true; how it is asked is drawn anew each time from several wordings. How often a task is met
//! is decided by [`Mixture`], never by copies of rows.

mod batch;
mod mixture;
mod prompt;
mod record;

pub use batch::{LlmBatch, Row, Slot, audit};
pub use mixture::{Mixture, shares};
pub use prompt::{Example, ProteinPath, Shown, Truth};
pub use record::{Fact, Options, Record, Records, TASKS};
