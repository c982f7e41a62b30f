//! Products in registers of 512 bits.
//!
//! A tile of 8 rows × 48 columns has its sums in 24 registers; a depth costs three loads of columns and eight numbers of
//! rows. Columns are packed in panels `[depth, 48]`, in the order in which they are read; rows are read where they are, and
//! packed as `[depth, 8]` only if their numbers do not lie side by side. A sum is one chain of multiply-adds over ascending
//! depth, as in the library, so a row has the same bits either way.

use std::arch::x86_64::*;
use std::cell::Cell;

use rayon::prelude::*;

use super::few_rows::{Rows, turn};
use super::{Kernel, LEAST_DEPTH, Matrix, Out, Threads};

/// Rows of a tile.
const ROWS: usize = 8;
/// Columns of a tile.
const COLS: usize = 48;
/// Numbers of a register.
const WIDE: usize = 16;
/// Rows that are packed at once: 128 × 512 numbers take a fifth of the second cache.
const BLOCK_ROWS: usize = 128;
/// Columns that are packed at once: 512 × 1536 numbers, 3 MiB.
const BLOCK_COLS: usize = 4 * GROUP_COLS;
/// Columns that one thread packs at a time: read in rows of 1.5 KiB.
const GROUP_COLS: usize = 8 * COLS;
/// Up to this many rows, columns that lie side by side are read where they are.
const UNPACKED_ROWS: usize = 32;
/// A right operand of so many numbers stays in the second cache, where the library, which packs nothing then, is faster.
const SMALL: usize = 1 << 17;
/// Depths between the line of a panel that is multiplied and the one that is fetched.
const AHEAD: usize = 16;

thread_local! {
    static ROW_ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static PANEL_ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

pub(super) const KERNEL: Kernel<f32> = Kernel { fits, pass };

/// Not a single column or [few inputs](LEAST_DEPTH), which the library sums in another way, nor what it is faster at.
fn fits(a: &Matrix<'_, f32>, b: &Matrix<'_, f32>) -> bool {
    let small = a.col_stride == 1 && a.rows > UNPACKED_ROWS && b.rows * b.cols <= SMALL;
    b.cols > 1 && a.cols >= LEAST_DEPTH && !small && is_x86_feature_detected!("avx512f")
}

fn pass(out: &mut Out<f32>, a: Matrix<'_, f32>, b: Matrix<'_, f32>, accumulate: bool, threads: Threads) {
    assert!(is_x86_feature_detected!("avx512f") && out.len() == a.rows * b.cols);
    let (n, depth) = (b.cols, a.cols);
    let block = match threads {
        Threads::One => BLOCK_ROWS,
        Threads::All => a.rows.div_ceil(rayon::current_num_threads()).next_multiple_of(ROWS).min(BLOCK_ROWS),
    };
    let unpacked = b.col_stride == 1 && n.is_multiple_of(WIDE) && a.rows <= UNPACKED_ROWS;
    for first in (0..n).step_by(BLOCK_COLS) {
        let columns = BLOCK_COLS.min(n - first);
        let packed = if unpacked { 0 } else { columns.next_multiple_of(WIDE) * depth };
        with_room(&PANEL_ROOM, packed, |packed| {
            let pack = |(group, to): (usize, &mut [f32])| {
                let at = group * GROUP_COLS;
                let lines = Lines::columns(b, first + at, GROUP_COLS.min(columns - at));
                // SAFETY: AVX-512 was detected.
                unsafe { lines.pack_columns(to) }
            };
            match threads {
                Threads::One => packed.chunks_mut(GROUP_COLS * depth).enumerate().for_each(pack),
                Threads::All => packed.par_chunks_mut(GROUP_COLS * depth).enumerate().for_each(pack),
            }
            let packed = &*packed;
            let panel = |at: usize, width: usize| match unpacked {
                true => Panel { data: &b.data[first + at..], stride: b.row_stride, width },
                false => {
                    let stride = width.next_multiple_of(WIDE);
                    Panel { data: &packed[at * depth..], stride, width }
                }
            };
            let rows = |(index, out): (usize, &mut Out<f32>)| {
                let a = Matrix { data: &a.data[index * block * a.row_stride..], rows: out.len() / n, ..a };
                with_rows(a, |side| {
                    for (at, width) in panels(columns) {
                        for (group, out) in out.chunks_mut(ROWS * n).enumerate() {
                            let side = Side { data: &side.data[group * side.group..], ..side };
                            let out = &mut out[first + at..];
                            // SAFETY: AVX-512 was detected.
                            unsafe { tile(side, panel(at, width), depth, out, n, accumulate) }
                        }
                    }
                });
            };
            match threads {
                Threads::One => out.chunks_mut(block * n).enumerate().for_each(rows),
                Threads::All => out.par_chunks_mut(block * n).enumerate().for_each(rows),
            }
        });
    }
}

/// Gives `f` the rows of `a`, packed in panels `[depth, 8]` where the numbers of a row do not lie side by side.
fn with_rows(a: Matrix<'_, f32>, f: impl FnOnce(Side<'_>)) {
    if a.col_stride == 1 {
        return f(Side { data: a.data, group: ROWS * a.row_stride, row: a.row_stride, step: 1 });
    }
    with_room(&ROW_ROOM, a.rows.next_multiple_of(ROWS) * a.cols, |packed| {
        // SAFETY: AVX-512 was detected.
        unsafe { Lines::rows(a, 0, a.rows).pack_rows(packed) }
        f(Side { data: packed, group: ROWS * a.cols, row: 1, step: ROWS });
    });
}

/// Lends `n` numbers of room that the thread keeps. What they are is left over from before.
fn with_room<T>(
    room: &'static std::thread::LocalKey<Cell<Vec<f32>>>,
    n: usize,
    f: impl FnOnce(&mut [f32]) -> T,
) -> T {
    // Taken away, since a thread that waits for others may begin another product.
    let mut numbers = room.take();
    if numbers.len() < n + WIDE {
        numbers = vec![0.0; n + WIDE];
    }
    // A register that begins with a line of the cache is loaded in one piece.
    let from = numbers.as_ptr().align_offset(64);
    let result = f(&mut numbers[from..from + n]);
    room.set(numbers);
    result
}

/// Where the panels of some columns begin and how wide they are: 48, but at the end of a group two of 32 or less in place of 48
/// and a narrow one.
fn panels(columns: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = (columns - at).min(GROUP_COLS - at % GROUP_COLS);
        let width = if left > COLS && left <= COLS + WIDE { 2 * WIDE } else { left.min(COLS) };
        at += width;
        (width > 0).then_some((at - width, width))
    })
}

/// Rows of the left operand or columns of the right one: `n` lines of `depth` numbers.
#[derive(Clone, Copy)]
struct Lines<'a> {
    data: &'a [f32],
    n: usize,
    depth: usize,
    line_stride: usize,
    depth_stride: usize,
}

impl<'a> Lines<'a> {
    fn rows(a: Matrix<'a, f32>, first: usize, n: usize) -> Self {
        let data = &a.data[first * a.row_stride..];
        Self { data, n, depth: a.cols, line_stride: a.row_stride, depth_stride: a.col_stride }
    }

    fn columns(b: Matrix<'a, f32>, first: usize, n: usize) -> Self {
        Self::rows(b.t(), first, n)
    }

    /// Packs lines in panels `[depth, 8]`.
    #[target_feature(enable = "avx512f")]
    fn pack_rows(&self, to: &mut [f32]) {
        if self.line_stride > 1 {
            for (panel, to) in to.chunks_exact_mut(ROWS * self.depth).enumerate() {
                let first = panel * ROWS;
                let data = &self.data[first * self.line_stride..];
                Self { data, n: ROWS.min(self.n - first), ..*self }.turn(to, ROWS);
            }
            return;
        }
        // All panels at once: what lies side by side is read side by side.
        for k in 0..self.depth {
            let from = &self.data[k * self.depth_stride..][..self.n];
            let (whole, rest) = from.as_chunks::<ROWS>();
            let mut at = k * ROWS;
            for from in whole {
                to[at..at + ROWS].copy_from_slice(from);
                at += ROWS * self.depth;
            }
            for (to, from) in to.iter_mut().skip(at).zip(rest) {
                *to = *from;
            }
        }
    }

    /// Packs lines in [panels], with zeros where a last register is not full.
    #[target_feature(enable = "avx512f")]
    fn pack_columns(&self, to: &mut [f32]) {
        if !self.n.is_multiple_of(WIDE) {
            let (at, width) = panels(self.n).last().expect("a line");
            to[at * self.depth..][..width.next_multiple_of(WIDE) * self.depth].fill(0.0);
        }
        if self.line_stride > 1 {
            for (at, width) in panels(self.n) {
                let data = &self.data[at * self.line_stride..];
                Self { data, n: width, ..*self }
                    .turn(&mut to[at * self.depth..], width.next_multiple_of(WIDE));
            }
            return;
        }
        for k in 0..self.depth {
            let from = &self.data[k * self.depth_stride..][..self.n];
            for (at, width) in panels(self.n) {
                let to = &mut to[at * self.depth + k * width.next_multiple_of(WIDE)..][..width];
                let from = &from[at..at + width];
                let (whole, rest) = from.as_chunks::<WIDE>();
                let (to, after) = to.as_chunks_mut::<WIDE>();
                to.iter_mut().zip(whole).for_each(|(to, from)| *to = *from);
                after.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// Packs lines that do not lie side by side as `[depth, width]`.
    #[target_feature(enable = "avx512f")]
    fn turn(&self, to: &mut [f32], width: usize) {
        if self.depth_stride == 1 {
            return turn(
                Rows { data: self.data, rows: self.n, stride: self.line_stride },
                self.depth,
                to,
                width,
            );
        }
        for (k, to) in to.chunks_exact_mut(width).take(self.depth).enumerate() {
            for (line, to) in to.iter_mut().take(self.n).enumerate() {
                *to = self.data[line * self.line_stride + k * self.depth_stride];
            }
        }
    }
}

/// Rows of the left operand: how far apart are groups of 8, the rows of a group, and the numbers of a row.
#[derive(Clone, Copy)]
struct Side<'a> {
    data: &'a [f32],
    group: usize,
    row: usize,
    step: usize,
}

/// Columns of the right operand: `width` numbers for each depth, `stride` apart.
#[derive(Clone, Copy)]
struct Panel<'a> {
    data: &'a [f32],
    stride: usize,
    width: usize,
}

/// As many rows as `out` has, times a panel, into the first columns of these rows, `n` apart.
#[target_feature(enable = "avx512f")]
fn tile(side: Side<'_>, panel: Panel<'_>, depth: usize, out: &mut Out<f32>, n: usize, accumulate: bool) {
    let height = (out.len() - panel.width) / n + 1;
    assert!(
        height <= ROWS
            && side.data.len() > (height - 1) * side.row + (depth - 1) * side.step
            && panel.data.len() >= (depth - 1) * panel.stride + panel.width.next_multiple_of(WIDE)
    );
    macro_rules! sums {
        ($($height:literal)*) => {
            match (height, panel.width.div_ceil(WIDE)) {
                $(
                    ($height, 1) => sums::<$height, 1>(side, panel, depth, out, n, accumulate),
                    ($height, 2) => sums::<$height, 2>(side, panel, depth, out, n, accumulate),
                    ($height, 3) => sums::<$height, 3>(side, panel, depth, out, n, accumulate),
                )*
                _ => unreachable!("tiles are at most 8 × 48"),
            }
        };
    }
    sums!(1 2 3 4 5 6 7 8)
}

/// [`tile`] of `R` rows and `V` registers of columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums<const R: usize, const V: usize>(
    side: Side<'_>,
    panel: Panel<'_>,
    depth: usize,
    out: &mut Out<f32>,
    n: usize,
    accumulate: bool,
) {
    let last: __mmask16 = u16::MAX >> (V * WIDE - panel.width);
    let mask = |v: usize| if v + 1 == V { last } else { u16::MAX };
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let rows: [*const f32; R] = std::array::from_fn(|r| side.data[r * side.row..].as_ptr());
    let (mut at, mut line) = (0, panel.data.as_ptr());
    for r in 0..R {
        for v in 0..V {
            // A fetch from where there is nothing does nothing.
            _mm_prefetch::<_MM_HINT_ET0>(out.as_ptr().wrapping_add(r * n + v * WIDE).cast());
        }
    }
    for _ in 0..depth {
        let columns: [__m512; V] = std::array::from_fn(|v| {
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(AHEAD * panel.stride + v * WIDE).cast());
            // SAFETY: `tile` checked that the panel has `depth` lines of so many numbers.
            unsafe { _mm512_loadu_ps(line.add(v * WIDE)) }
        });
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `tile` checked that a row has `depth` numbers, `step` apart.
            let x = _mm512_set1_ps(unsafe { *rows[r].add(at) });
            for (sum, &column) in sums.iter_mut().zip(&columns) {
                *sum = _mm512_fmadd_ps(x, column, *sum);
            }
        }
        at += side.step;
        line = line.wrapping_add(panel.stride);
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let out = out[r * n..][..panel.width].as_mut_ptr().cast::<f32>();
        for (v, mut sum) in sums.into_iter().enumerate() {
            let out = out.wrapping_add(v * WIDE);
            // SAFETY: the row has `width` numbers; the mask leaves out what is beyond.
            unsafe {
                if accumulate {
                    sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask(v), out), sum);
                }
                _mm512_mask_storeu_ps(out, mask(v), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{by_depth, library, out_of};
    use super::*;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed) as f32 * 0.37).sin()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn it_has_the_bits_of_the_library(
            rows in prop_oneof![1usize..40, 120usize..140, 250usize..300],
            depth in prop_oneof![LEAST_DEPTH..90, 505usize..520, 1020usize..1030],
            cols in prop_oneof![2usize..130, 1530usize..1540],
            (left, right) in any::<(bool, bool)>(),
            (accumulate, all) in any::<(bool, bool)>(),
        ) {
            prop_assume!(is_x86_feature_detected!("avx512f"));
            // Enough rows for the library not to take one of its paths for small products.
            let most = rows.max(256 / cols + 2);
            let (x, weight) = (numbers(most * depth, 1), numbers(cols * depth, 5));
            let a = if left { Matrix::new(&x, depth, most).t() } else { Matrix::new(&x, most, depth) };
            let b = if right { Matrix::new(&weight, cols, depth).t() } else { Matrix::new(&weight, depth, cols) };
            let mut here = numbers(rows * cols, 3);
            let mut there = numbers(most * cols, 3);
            let threads = if all { Threads::All } else { Threads::One };
            let few = Matrix { rows, ..a };
            by_depth(out_of(&mut here), few, b, accumulate, threads, pass);
            by_depth(out_of(&mut there), a, b, accumulate, Threads::One, library);
            prop_assert_eq!(&here[..], &there[..rows * cols]);
        }
    }
}
