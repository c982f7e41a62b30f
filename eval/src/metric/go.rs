//! Agreement of GO term sets over proteins: the same comparison that the reward uses, averaged.

use rewards::go::{Agreement, Terms, agreement};

use super::classification::mean;

/// Precision, recall and F1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prf {
    /// Share of the predicted terms that are true.
    pub precision: f64,
    /// Share of the true terms that are predicted.
    pub recall: f64,
    /// `2 both / (predicted + true)`.
    pub f1: f64,
}

/// Pooled over all (protein, term) pairs: proteins with many terms weigh more. Precision is 0 when nothing is
/// predicted. `None` when no protein has a term.
///
/// # Shapes
/// `predicted`, `truths`: one propagated set without roots per protein
pub fn micro<'a>(pairs: impl IntoIterator<Item = (&'a Terms, &'a Terms)>) -> Option<Prf> {
    let (mut both, mut predicted, mut truths) = (0, 0, 0);
    for (prediction, truth) in pairs {
        let found = agreement(prediction, truth);
        both += found.n_both;
        predicted += found.n_predicted;
        truths += found.n_true;
    }
    let ratio = |of: usize, to: usize| if to == 0 { 0.0 } else { of as f64 / to as f64 };
    let f1 = ratio(2 * both, predicted + truths);
    (truths > 0).then(|| Prf { precision: ratio(both, predicted), recall: ratio(both, truths), f1 })
}

/// Mean over proteins; the F1 is the mean of the F1s, and so the mean reward. `None` for no proteins.
///
/// # Shapes
/// as [`micro`]
pub fn macro_<'a>(pairs: impl IntoIterator<Item = (&'a Terms, &'a Terms)>) -> Option<Prf> {
    let all: Vec<Agreement> = pairs.into_iter().map(|(p, t)| agreement(p, t)).collect();
    let over = |f: fn(&Agreement) -> f64| mean(all.iter().map(f));
    Some(Prf { precision: over(|a| a.precision)?, recall: over(|a| a.recall)?, f1: over(|a| a.f1)? })
}
