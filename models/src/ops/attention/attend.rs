//! The forward kernel: query rows of one head against panels of keys and values, of a batch or of the key/value cache.

use crate::ops::kernel::{LANES, Number, sum_by, vectorised, wide_registers};

/// Keys and values of one head in the order in which the kernel reads them.
pub(super) struct Panels<T> {
    keys: Vec<T>,
    values: Vec<T>,
    dim: usize,
}

impl<T: Number> Panels<T> {
    pub(super) fn new(keys: usize, dim: usize) -> Self {
        let capacity = keys.next_multiple_of(LANES);
        let values = vec![T::zero(); capacity * dim.next_multiple_of(LANES)];
        Self { keys: vec![T::zero(); capacity * dim], values, dim }
    }

    pub(super) fn as_ref(&self) -> Head<'_, T> {
        Head { keys: &self.keys, values: &self.values, dim: self.dim }
    }

    pub(super) fn as_mut(&mut self) -> (&mut [T], &mut [T]) {
        (&mut self.keys, &mut self.values)
    }
}

/// Borrowed [`Panels`]: keys `[S/32, D, 32]`, values `[D/32, S, 32]`, both filled up with zeros.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Head<'a, T> {
    pub(in crate::ops) keys: &'a [T],
    pub(in crate::ops) values: &'a [T],
    pub(in crate::ops) dim: usize,
}

/// Writes one token's key and value, `[D]` each, as number `at`.
pub(in crate::ops) fn write_token<T: Number>(
    (keys, values): (&mut [T], &mut [T]),
    at: usize,
    key: &[T],
    value: &[T],
) {
    let (dim, capacity) = (key.len(), keys.len() / key.len());
    let panel = &mut keys[at / LANES * LANES * dim..];
    for (d, &k) in key.iter().enumerate() {
        panel[d * LANES + at % LANES] = k;
    }
    for (c, part) in value.chunks(LANES).enumerate() {
        let from = (c * capacity + at) * LANES;
        values[from..from + part.len()].copy_from_slice(part);
    }
}

/// Numbers of one row that [`tile`] sums at once: with the six or eight rows beside it what the registers of AVX2 and
/// AVX-512 hold. It decides no bit.
const NARROW: usize = LANES / 2;

vectorised! {
    /// Attention of query rows `[rows, D]` (already scaled) that see the first `visible[row]` keys each.
    pub(in crate::ops) fn attend [T: Number] [T] (queries: &[T], visible: &[usize], head: Head<'_, T>, out: &mut [T], log_sums: &mut [T]) {
        let most = visible.iter().copied().max().unwrap_or(0).next_multiple_of(LANES);
        let mut scores = vec![T::zero(); 8 * most];
        let mut task = Attend { queries, visible, head, scores: &mut scores, out, log_sums };
        let wide = wide_registers();
        let mut row = 0;
        while row < visible.len() {
            row += match visible.len() - row {
                8.. if wide => task.rows::<8, LANES>(row),
                6.. => task.rows::<6, NARROW>(row),
                4.. => task.rows::<4, NARROW>(row),
                2.. => task.rows::<2, LANES>(row),
                _ => task.rows::<1, LANES>(row),
            };
        }
    }
}

/// One call of [`attend`].
struct Attend<'a, T> {
    queries: &'a [T],
    visible: &'a [usize],
    head: Head<'a, T>,
    scores: &'a mut [T],
    out: &'a mut [T],
    log_sums: &'a mut [T],
}

impl<T: Number> Attend<'_, T> {
    /// The `R` rows from `first` on, `W` numbers at once; returns R.
    #[inline(always)]
    fn rows<const R: usize, const W: usize>(&mut self, first: usize) -> usize {
        let dim = self.head.dim;
        let capacity = self.head.keys.len() / dim;
        let visible = &self.visible[first..first + R];
        let most = visible.iter().copied().max().unwrap_or(0);
        let width = most.next_multiple_of(LANES);
        for from in (0..width).step_by(W) {
            let panel = &self.head.keys[from / LANES * dim * LANES..];
            let tile = T::tile::<R, W>(&self.queries[first * dim..], dim, dim, panel, from % LANES);
            for (r, tile) in tile.iter().enumerate() {
                self.scores[r * width + from..][..W].copy_from_slice(tile);
            }
        }
        let mut sums = [T::one(); R];
        for r in 0..R {
            let (sum, log_sum) = soften(&mut self.scores[r * width..(r + 1) * width], visible[r]);
            sums[r] = sum;
            self.log_sums[first + r] = log_sum;
        }
        for from in (0..dim).step_by(W) {
            let panel = &self.head.values[from / LANES * capacity * LANES..];
            let tile = T::tile::<R, W>(self.scores, width, most, panel, from % LANES);
            let part = W.min(dim - from);
            for r in 0..R {
                let out = &mut self.out[(first + r) * dim + from..][..part];
                for (out, &x) in out.iter_mut().zip(&tile[r]) {
                    *out = x / sums[r];
                }
            }
        }
        R
    }
}

/// Turns the first `n` scores into e^(score − max) and the others into zeros; returns their sum and max + ln sum.
#[inline(always)]
fn soften<T: Number>(scores: &mut [T], n: usize) -> (T, T) {
    scores[n..].fill(T::zero());
    if n == 0 {
        return (T::one(), T::of(f64::INFINITY));
    }
    let max = largest(&scores[..n]);
    for s in &mut scores[..n] {
        *s = (*s - max).fast_exp();
    }
    let sum = sum_by(scores.len(), |i| scores[i]);
    (sum, max + T::ln(sum))
}

/// The largest of some numbers.
#[inline(always)]
pub(crate) fn largest<T: Number>(numbers: &[T]) -> T {
    let mut lanes = [T::of(f64::NEG_INFINITY); LANES];
    let chunks = numbers.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.larger(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = lane.larger(x);
    }
    lanes.into_iter().fold(T::of(f64::NEG_INFINITY), Number::larger)
}
