//! Sequences in batches of like lengths.

use anyhow::Result;

/// Predicts sequences in batches and gives the predictions in the order of the sequences. A batch holds as many as fit:
/// `fits(n, longest)` says whether n sequences do of which the longest has that many residues. One alone always does.
///
/// # Errors
/// As `predict`.
pub(crate) fn in_batches<P: Clone>(
    sequences: &[&str],
    fits: impl Fn(usize, usize) -> bool,
    mut predict: impl FnMut(&[&str]) -> Result<Vec<P>>,
) -> Result<Vec<P>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&at| sequences[at].len());
    let mut found: Vec<Option<P>> = vec![None; sequences.len()];
    let mut rest = &order[..];
    while !rest.is_empty() {
        let fit = (1..=rest.len()).take_while(|&n| fits(n, sequences[rest[n - 1]].len()));
        let (now, later) = rest.split_at(fit.last().unwrap_or(1));
        let batch: Vec<&str> = now.iter().map(|&at| sequences[at]).collect();
        for (&at, prediction) in now.iter().zip(predict(&batch)?) {
            found[at] = Some(prediction);
        }
        rest = later;
    }
    Ok(found.into_iter().flatten().collect())
}
