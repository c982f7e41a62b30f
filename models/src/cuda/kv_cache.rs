//! Keys and values of generated sequences.

use candle_core::{Result, Tensor};

use super::{attention, gather_rows, scatter_rows};
use crate::ops::attention::Dims;
use crate::ops::{KeyMask, Sees};

/// Appends tokens to a cache of keys and values, `[rows · capacity, G · D]` each, and attends from them; as the op.
pub(crate) fn attend(
    cache: &[Tensor; 2],
    capacity: usize,
    qkv: [&Tensor; 3],
    (rows, starts, lengths): (&[usize], &[usize], &[usize]),
    scale: f64,
) -> Result<Tensor> {
    let dims = Dims::new(qkv[0], qkv[1], qkv[2])?;
    let width = dims.groups * dims.dim;
    let token = |b: usize, t: usize| (b * dims.keys + t, rows[b] * capacity + starts[b] + t);
    let (from, to): (Vec<usize>, Vec<usize>) =
        (0..dims.batch).flat_map(|b| (0..lengths[b]).map(move |t| token(b, t))).unzip();
    for (held, new) in cache.iter().zip(&qkv[1..]) {
        let new = new.contiguous()?.reshape((dims.batch * dims.keys, width))?;
        scatter_rows(held, &to, &gather_rows(&new, from.iter().copied())?)?;
    }
    let held: Vec<usize> = starts.iter().zip(lengths).map(|(start, n)| start + n).collect();
    let longest = held.iter().copied().max().unwrap_or(0);
    let of_rows = |held: &Tensor| {
        let places = rows.iter().flat_map(|&row| (0..longest).map(move |t| row * capacity + t));
        gather_rows(held, places)?.reshape((dims.batch, longest, dims.groups, dims.dim))
    };
    let inputs = [qkv[0].contiguous()?, of_rows(&cache[0])?, of_rows(&cache[1])?];
    let first = starts.iter().flat_map(|&start| (0..dims.queries).map(move |t| start + t + 1));
    let mask = KeyMask { lengths: held, sees: Sees::First(first.collect()) };
    Ok(attention(&inputs, Dims { keys: longest, ..dims }, &mask, scale)?.0)
}
