//! Structure: contacts and classes from a sequence.

mod contact;

pub use contact::{ContactClassifier, ContactConfig, ContactOutput, TriangleBlock};
