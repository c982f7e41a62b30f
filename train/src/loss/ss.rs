//! Secondary structure: the conditional random field over Q8 and the classes of Q3.

use anyhow::Result;
use datasets::ss::SsBatch;
use models::ss::{BiLstmCrf, SsOutput};
use models::{Tape, ops};

use crate::loss::LossTerms;

/// `q8`: negative log-likelihood of the labels under the CRF, or with `independent` the cross-entropy of its emissions
/// (the warm-up before the transitions are trained); `q3`: cross-entropy. All are means over the labelled residues of the
/// batch, so one learning rate serves both, and residues without a label cost nothing.
///
/// # Errors
/// When the output is not that of the batch.
pub fn terms(
    tape: &Tape,
    model: &BiLstmCrf,
    output: &SsOutput,
    batch: &SsBatch,
    independent: bool,
    q3_weight: f64,
) -> Result<LossTerms> {
    let q8 = match independent {
        true => ops::cross_entropy(tape, &output.q8, &batch.q8)?,
        false => model.crf_loss(tape, &output.q8, &batch.sets, batch.padding.lengths())?,
    };
    let q3 = ops::cross_entropy(tape, &output.q3, &batch.q3)?;
    Ok(LossTerms::new().with("q8", 1.0, q8).with("q3", q3_weight, q3))
}
