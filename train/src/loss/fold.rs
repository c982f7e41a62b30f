//! Structure: contacts and CATH classes.

use anyhow::Result;
use datasets::fold::FoldBatch;
use models::fold::ContactOutput;
use models::{Tape, ops};

use crate::loss::LossTerms;

/// `contact`: binary cross-entropy over the known pairs that count, in which a contact weighs `positive_weight`;
/// `class`: binary cross-entropy of every CATH class (a chain may have several).
///
/// # Errors
/// When the output is not that of the batch.
pub fn contact_terms(
    tape: &Tape,
    output: &ContactOutput,
    batch: &FoldBatch,
    positive_weight: f64,
    class_weight: f64,
) -> Result<LossTerms> {
    // weight = mask · (1 + (w − 1) · target)
    let weights = (&batch.contacts_mask * batch.contacts.affine(positive_weight - 1.0, 1.0)?)?;
    let contact = ops::binary_cross_entropy(tape, &output.contacts, &batch.contacts, &weights)?;
    let class = ops::binary_cross_entropy(tape, &output.classes, &batch.classes, &batch.classes_mask)?;
    Ok(LossTerms::new().with("contact", 1.0, contact).with("class", class_weight, class))
}
