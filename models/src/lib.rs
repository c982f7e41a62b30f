//! Tensors in, tensors out: the models and the fused ops they are made of. No files but weights, no losses, no loops.
//!
//! The principal idea is the [`tape`]: an op computes a value and records how its gradient goes back. Weights are
//! [`Param`]s, built through [`Weights`] under the name they have in a checkpoint.

#[cfg(feature = "cuda")]
mod cuda;
pub mod device;
pub mod fold;
mod folder;
#[doc(hidden)]
pub mod gradcheck;
pub mod layers;
pub mod llm;
mod matmul;
pub mod ops;
mod param;
pub mod ss;
mod state_dict;
pub mod tape;
mod view;
mod weights;

pub use matmul::{Matrix, Threads, matmul};
pub use param::{Param, Params};
pub use state_dict::read_state_dict;
pub use tape::{Gradients, Tape, Var};
pub use view::{Real, View, tensor, view};
pub use weights::{Init, Weights, read_safetensors};
