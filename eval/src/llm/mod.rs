//! The language model: what it is asked, what it answers, and what that is worth.

mod base;
mod corpus;
mod export;
pub mod go;
pub mod likelihood;
mod policy;
pub mod ppi;
mod question;
pub mod stability;

pub use base::{Signal, refuse_base, signals};
pub use corpus::Corpus;
pub use export::{About, export};
pub use policy::{Policy, ProteinConfig, Saying, Tensors};
pub use question::{Asking, Questions};

use question::sampled;

use datasets::llm::Example;
use rewards::{Answer, Reason};
use serde_json::{Map, Value, json};

use crate::report::Sample;

fn sample(
    at: usize,
    example: &Example,
    said: &str,
    read: Result<Answer, Reason>,
    metrics: Map<String, Value>,
) -> Sample {
    let prompt: Vec<&str> = example.prompt.iter().map(|message| message.content.as_str()).collect();
    let proteins: Vec<&str> = example.proteins.iter().map(|shown| &*shown.sequence).collect();
    Sample {
        doc_id: at,
        doc: json!({ "cluster": example.cluster, "proteins": proteins }),
        target: json!(example.answer),
        arguments: json!(prompt),
        resps: json!(said),
        filtered_resps: match read {
            Ok(answer) => json!(answer.to_string()),
            Err(reason) => json!({ "unreadable": reason }),
        },
        metrics,
    }
}
