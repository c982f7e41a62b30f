//! Products of a few rows with a weight `[out, in]`: decoding, in which reading the weight is most of the work.
//!
//! The kernel library copies the weight into an order of its own before it multiplies. Here blocks of 8 outputs × 8 inputs
//! are turned round in registers, and used at once by a single row, or put into a panel that stays in the cache. A sum is one
//! chain of multiply-adds over ascending depth, as in the library, so a row has the same bits either way.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::{Kernel, LEAST_DEPTH, Matrix, Out, Threads};
use crate::ops::kernel::{LANES, Number, vectorised, wide_registers};

/// Up to this many rows this is at least as fast as the library, and as [tiles](super::tiles) of wide registers.
const MOST_ROWS: usize = 256;
const MOST_ROWS_WIDE: usize = 64;
/// Outputs and inputs of a block.
const BLOCK: usize = 8;
/// Outputs between the block that is computed and the one that is fetched.
const AHEAD: usize = 2 * BLOCK;

pub(super) const KERNEL: Kernel<f32> = Kernel { fits, pass };

/// Not a single output or [few inputs](LEAST_DEPTH), which the library sums in another way.
fn fits(a: &Matrix<'_, f32>, b: &Matrix<'_, f32>) -> bool {
    let most = if wide_registers() { MOST_ROWS_WIDE } else { MOST_ROWS };
    a.col_stride == 1
        && b.row_stride == 1
        && a.rows <= most
        && b.cols > 1
        && a.cols >= LEAST_DEPTH
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
}

fn pass(out: &mut Out<f32>, a: Matrix<'_, f32>, b: Matrix<'_, f32>, accumulate: bool, threads: Threads) {
    assert!(fits(&a, &b));
    let (rows, n_out) = (a.rows, b.cols);
    // Panels of 32 outputs, `[rows, 32]` each, one behind the other.
    let mut sums = vec![0.0; rows * n_out.next_multiple_of(LANES)];
    let room = || vec![0.0; if rows == 1 && n_out.is_multiple_of(LANES) { 0 } else { a.cols * LANES }];
    let panel = |room: &mut Vec<f32>, (panel, sums): (usize, &mut [f32])| {
        let first = panel * LANES;
        let outputs = LANES.min(n_out - first);
        let weight = Rows { data: &b.data[first * b.col_stride..], rows: outputs, stride: b.col_stride };
        let x = Rows { data: a.data, rows, stride: a.row_stride };
        // SAFETY: `fits` found AVX2 and FMA.
        unsafe { panel_sums(x, weight, a.cols, room, sums) }
    };
    match threads {
        Threads::One => {
            let mut room = room();
            sums.chunks_mut(rows * LANES).enumerate().for_each(|part| panel(&mut room, part));
        }
        Threads::All => {
            sums.par_chunks_mut(rows * LANES).enumerate().with_min_len(4).for_each_init(room, panel);
        }
    }
    for (panel, sums) in sums.chunks(rows * LANES).enumerate() {
        for (out, sums) in out.chunks_exact_mut(n_out).zip(sums.chunks_exact(LANES)) {
            for (out, &sum) in out[panel * LANES..].iter_mut().zip(sums) {
                // SAFETY: what is added to is a number.
                let before = if accumulate { unsafe { out.assume_init() } } else { 0.0 };
                out.write(if accumulate { before + sum } else { sum });
            }
        }
    }
}

/// Rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) stride: usize,
}

/// The products of all rows of `x` with up to 32 rows of `weight`, `[rows, 32]`; of fewer, the other columns mean nothing.
/// `panel [depth, 32]` is room to work in.
#[target_feature(enable = "avx2,fma")]
fn panel_sums(x: Rows<'_>, weight: Rows<'_>, depth: usize, panel: &mut [f32], sums: &mut [f32]) {
    if x.rows == 1 && weight.rows == LANES {
        for first in (0..LANES).step_by(2 * BLOCK) {
            let weight = Rows { data: &weight.data[first * weight.stride..], ..weight };
            sums[first..first + 2 * BLOCK].copy_from_slice(&row_sums(&x.data[..depth], weight));
        }
        return;
    }
    turn(weight, depth, panel, LANES);
    tiles(x.data, x.stride, depth, panel, sums);
}

/// Packs rows of `depth` numbers as `[depth, width]`.
#[target_feature(enable = "avx2,fma")]
pub(super) fn turn(weight: Rows<'_>, depth: usize, panel: &mut [f32], width: usize) {
    for first in (0..weight.rows).step_by(BLOCK) {
        let group = Rows { data: &weight.data[first * weight.stride..], ..weight };
        let whole = if weight.rows - first < BLOCK { 0 } else { depth / BLOCK * BLOCK };
        for at in (0..whole).step_by(BLOCK) {
            fetch(group, depth, at);
            for (i, column) in turned(group, at).into_iter().enumerate() {
                let to = &mut panel[(at + i) * width + first..][..BLOCK];
                // SAFETY: `to` has 8 numbers.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr(), column) }
            }
        }
        for o in 0..BLOCK.min(weight.rows - first) {
            for at in whole..depth {
                panel[at * width + first + o] = group.data[o * weight.stride + at];
            }
        }
    }
}

vectorised! {
    /// Rows of `x` times a panel `[depth, 32]`.
    fn tiles [] [] (x: &[f32], stride: usize, depth: usize, panel: &[f32], sums: &mut [f32]) {
        #[inline(always)]
        fn rows<const R: usize, const W: usize>(
            x: &[f32], stride: usize, depth: usize, panel: &[f32], sums: &mut [f32],
        ) -> usize {
            for column in (0..LANES).step_by(W) {
                let tile = f32::tile::<R, W>(x, stride, depth, panel, column);
                for (sums, tile) in sums.chunks_exact_mut(LANES).zip(&tile) {
                    sums[column..column + W].copy_from_slice(tile);
                }
            }
            R
        }
        const HALF: usize = LANES / 2;
        let (wide, n) = (wide_registers(), sums.len() / LANES);
        let mut row = 0;
        while row < n {
            let (x, sums) = (&x[row * stride..], &mut sums[row * LANES..]);
            row += match n - row {
                8.. if wide => rows::<8, LANES>(x, stride, depth, panel, sums),
                6.. => rows::<6, HALF>(x, stride, depth, panel, sums),
                4.. => rows::<4, HALF>(x, stride, depth, panel, sums),
                2.. => rows::<2, LANES>(x, stride, depth, panel, sums),
                _ => rows::<1, LANES>(x, stride, depth, panel, sums),
            };
        }
    }
}

/// One row times 16 rows of weights.
#[target_feature(enable = "avx2,fma")]
fn row_sums(x: &[f32], weight: Rows<'_>) -> [f32; 2 * BLOCK] {
    let groups = [0, 1].map(|g| Rows { data: &weight.data[g * BLOCK * weight.stride..], ..weight });
    let mut chains = [_mm256_setzero_ps(); 2];
    let whole = x.len() / BLOCK * BLOCK;
    for at in (0..whole).step_by(BLOCK) {
        for (chain, group) in chains.iter_mut().zip(groups) {
            fetch(group, x.len(), at);
            for (column, &x) in turned(group, at).into_iter().zip(&x[at..at + BLOCK]) {
                *chain = _mm256_fmadd_ps(_mm256_set1_ps(x), column, *chain);
            }
        }
    }
    let mut sums = [0.0; 2 * BLOCK];
    for (sums, chain) in sums.chunks_exact_mut(BLOCK).zip(chains) {
        // SAFETY: a chunk has 8 numbers.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), chain) }
    }
    for (o, sum) in sums.iter_mut().enumerate() {
        for (at, &x) in x.iter().enumerate().skip(whole) {
            *sum = x.mul_add(weight.data[o * weight.stride + at], *sum);
        }
    }
    sums
}

/// Columns `at` to `at + 8` of 8 rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn turned(weight: Rows<'_>, at: usize) -> [__m256; BLOCK] {
    let block = &weight.data[at..(BLOCK - 1) * weight.stride + at + BLOCK];
    let mut columns = [_mm256_setzero_ps(); BLOCK];
    for (half, columns) in columns.chunks_exact_mut(4).enumerate() {
        // Rows i and i + 4 side by side, four numbers of each.
        let pair = |i: usize| {
            let from = |row: usize| {
                // SAFETY: the block ends 8 columns on in its last row.
                unsafe { _mm_loadu_ps(block.as_ptr().add(row * weight.stride + 4 * half)) }
            };
            _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(from(i)), from(i + 4))
        };
        let rows = [pair(0), pair(1), pair(2), pair(3)];
        let low = [_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpacklo_ps(rows[2], rows[3])];
        let high = [_mm256_unpackhi_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[2], rows[3])];
        for (columns, [a, b]) in columns.chunks_exact_mut(2).zip([low, high]) {
            columns[0] = _mm256_shuffle_ps::<0x44>(a, b);
            columns[1] = _mm256_shuffle_ps::<0xEE>(a, b);
        }
    }
    columns
}

/// Asks for the share of input block `at` in the rows [`AHEAD`] of the group, row after row: eight rows side by side are
/// no pattern that the processor foresees.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn fetch(group: Rows<'_>, depth: usize, at: usize) {
    const LINE: usize = 16; // numbers
    let (row, column) = (at * BLOCK / depth, at * BLOCK % depth);
    let from = group.data.as_ptr().wrapping_add((AHEAD + row) * group.stride + column);
    for line in 0..BLOCK * BLOCK / LINE {
        // A fetch from where there is nothing does nothing.
        _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line * LINE).cast());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{by_depth, library, out_of};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_has_the_bits_of_the_library(
            rows in 1usize..40, depth in LEAST_DEPTH..1100, n_out in 2usize..300, accumulate: bool
        ) {
            let numbers = |n: usize, seed: usize| -> Vec<f32> {
                (0..n).map(|i| ((i * 7919 + seed) as f32 * 0.37).sin()).collect()
            };
            let (x, weight) = (numbers(rows * depth, 1), numbers(n_out * depth, 5));
            let (a, b) = (Matrix::new(&x, rows, depth), Matrix::new(&weight, n_out, depth).t());
            let mut here = numbers(rows * n_out, 3);
            let before = here.clone();
            prop_assume!(fits(&a, &b));
            by_depth(out_of(&mut here), a, b, accumulate, Threads::One, pass);
            // Enough rows for the library not to take one of its paths for small products.
            let most = rows.max(256 / n_out + 2);
            let many: Vec<f32> = x.iter().copied().cycle().take(most * depth).collect();
            let mut there: Vec<f32> = before.into_iter().chain(std::iter::repeat(0.0)).take(most * n_out).collect();
            let a = Matrix::new(&many, most, depth);
            by_depth(out_of(&mut there), a, b, accumulate, Threads::One, library);
            prop_assert_eq!(&here[..], &there[..rows * n_out]);
        }
    }
}
