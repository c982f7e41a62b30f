//! The one matrix product. A row has the same bits in any product, alone or among others, on any number of threads.

#[cfg(target_arch = "x86_64")]
mod few_rows;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::mem::MaybeUninit;

use crate::view::Real;

/// Where a product goes. Without `accumulate` a kernel writes every number and reads none; it never leaves one that is none.
type Out<T> = [MaybeUninit<T>];

/// One way to compute a product.
pub struct Kernel<T> {
    /// Whether it computes `a · b`.
    fits: fn(&Matrix<'_, T>, &Matrix<'_, T>) -> bool,
    /// `out = a · b`, or `out += a · b`, of operands that fit, each number summed in one pass.
    pass: fn(&mut Out<T>, Matrix<'_, T>, Matrix<'_, T>, bool, Threads),
}

#[cfg(target_arch = "x86_64")]
pub(crate) const KERNELS: &[Kernel<f32>] = &[few_rows::KERNEL, tiles::KERNEL];
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const KERNELS: &[Kernel<f32>] = &[];

/// One operand of [`matmul`]: a matrix over a slice, with strides counted in elements.
#[derive(Clone, Copy)]
pub struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix `[rows, cols]` at the start of `data`.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols, 1)
    }

    /// A matrix with any strides.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn strided(data: &'a [T], rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Self {
        let end =
            if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 };
        assert!(end <= data.len(), "matrix [{rows}, {cols}] reaches {end}, the slice ends at {}", data.len());
        Self { data, rows, cols, row_stride, col_stride }
    }

    /// The transposed matrix (no copy).
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }
}

/// How many threads one [`matmul`] may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread only: for products inside a parallel loop.
    One,
    /// The rayon pool.
    All,
}

/// Up to this many output elements the kernel library sums a product with a transposed right side in another order
/// (measured for gemm 0.19: 256; smaller products there differ in the last bits).
const SMALL_PRODUCT: usize = 256;

/// `out = a · b`, or `out += a · b` with `accumulate`; `out` row-major `[a.rows, b.cols]`.
///
/// The bits of a row depend neither on the number of rows nor on the number of threads: a product so small that the
/// kernel library would take another path is filled up with rows of zeros. That is what makes a sampled token's
/// log-probability the trainer's own.
///
/// # Panics
/// On operands that do not fit.
pub fn matmul<T: Real>(
    out: &mut [T],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
    threads: Threads,
) {
    write(out_of(out), a, b, accumulate, threads);
}

fn out_of<T>(numbers: &mut [T]) -> &mut Out<T> {
    // SAFETY: the layout is the same, and kernels leave numbers where there were numbers.
    unsafe { &mut *(std::ptr::from_mut(numbers) as *mut Out<T>) }
}

/// [`matmul`] into a new matrix. To fill its memory with zeros first would cost a twentieth of a training step.
pub(crate) fn matmul_new<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>, threads: Threads) -> Vec<T> {
    let n = a.rows * b.cols;
    let mut out = Vec::with_capacity(n);
    write(&mut out.spare_capacity_mut()[..n], a, b, false, threads);
    // SAFETY: all numbers were written.
    unsafe { out.set_len(n) };
    out
}

fn write<T: Real>(out: &mut Out<T>, a: Matrix<'_, T>, b: Matrix<'_, T>, accumulate: bool, threads: Threads) {
    assert_eq!(a.cols, b.rows, "matmul: [{}, {}] · [{}, {}]", a.rows, a.cols, b.rows, b.cols);
    assert_eq!(
        out.len(),
        a.rows * b.cols,
        "matmul: the output has another size than [{}, {}]",
        a.rows,
        b.cols
    );
    if out.is_empty() {
        return;
    }
    if a.cols == 0 {
        if !accumulate {
            out.fill(MaybeUninit::new(T::zero()));
        }
        return;
    }
    if let Some(kernel) = T::KERNELS.iter().find(|kernel| (kernel.fits)(&a, &b)) {
        return by_depth(out, a, b, accumulate, threads, kernel.pass);
    }
    // A single row takes a matrix-vector path; few elements with a transposed right side take a dot-product path.
    let rows = if b.row_stride == 1 { (SMALL_PRODUCT / b.cols + 1).max(2) } else { 2 };
    if a.rows >= rows {
        return by_depth(out, a, b, accumulate, threads, library);
    }
    let mut filled = vec![T::zero(); rows * a.cols];
    for r in 0..a.rows {
        for c in 0..a.cols {
            filled[r * a.cols + c] = a.data[r * a.row_stride + c * a.col_stride];
        }
    }
    let mut all = vec![MaybeUninit::new(T::zero()); rows * b.cols];
    if accumulate {
        all[..out.len()].copy_from_slice(out);
    }
    by_depth(&mut all, Matrix::new(&filled, rows, a.cols), b, accumulate, threads, library);
    out.copy_from_slice(&all[..out.len()]);
}

/// Depth up to which the kernel library sums in one pass whatever the number of rows; deeper products are cut here,
/// because it would cut them at a depth that depends on the rows.
const DEPTH: usize = 512;
/// The library computes depths of 1 and 2 apart, with or without fused multiply-adds as it was compiled: only a product that
/// has no more may have such a part.
const LEAST_DEPTH: usize = 3;

/// Calls `pass` for the parts of a product that are summed in one pass, the first of them with `accumulate`.
fn by_depth<T>(
    out: &mut Out<T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
    threads: Threads,
    pass: impl Fn(&mut Out<T>, Matrix<'_, T>, Matrix<'_, T>, bool, Threads),
) {
    let mut from = 0;
    loop {
        let left = a.cols - from;
        let depth = match left {
            ..=DEPTH => left,
            _ if left < DEPTH + LEAST_DEPTH => DEPTH - LEAST_DEPTH,
            _ => DEPTH,
        };
        let a = Matrix { data: &a.data[from * a.col_stride..], cols: depth, ..a };
        let b = Matrix { data: &b.data[from * b.row_stride..], rows: depth, ..b };
        pass(out, a, b, accumulate || from > 0, threads);
        from += depth;
        if depth == left {
            return;
        }
    }
}

fn library<T: Real>(
    out: &mut Out<T>,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
    threads: Threads,
) {
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    let alpha = if accumulate { T::one() } else { T::zero() };
    // SAFETY: `Matrix` checked that all elements of both operands lie in their slices, the caller that `out` holds
    // rows × cols elements; the three do not overlap because `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr().cast::<T>(),
            1,
            b.cols as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            alpha,
            T::one(),
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i.wrapping_mul(2654435761) ^ seed.wrapping_mul(40503)) % 1000) as f32 / 500.0 - 1.0)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_row_has_the_same_bits_in_any_product(
            m in 1usize..70, k in 1usize..2000, n in 1usize..600, transposed: bool, seed: u32
        ) {
            let (a, b) = (numbers(m * k, seed), numbers(n * k, seed ^ 7));
            let weight = if transposed { Matrix::new(&b, n, k).t() } else { Matrix::new(&b, k, n) };
            let mut whole = vec![0.0; m * n];
            matmul(&mut whole, Matrix::new(&a, m, k), weight, false, Threads::All);
            let row = m / 2;
            let mut alone = vec![0.0; n];
            matmul(&mut alone, Matrix::new(&a[row * k..], 1, k), weight, false, Threads::One);
            prop_assert_eq!(&alone[..], &whole[row * n..(row + 1) * n]);
        }

        /// Few inputs, few more than are summed in one pass, and sums into what is there, as adapters of a low rank ask for.
        #[test]
        fn a_row_has_the_same_bits_at_the_edges_of_depth(
            m in 1usize..270, k in prop_oneof![1usize..5, 510usize..518, 1022usize..1030], n in 1usize..40,
            accumulate: bool, seed: u32
        ) {
            let (a, b) = (numbers(m * k, seed), numbers(n * k, seed ^ 7));
            let weight = Matrix::new(&b, n, k).t();
            let mut whole = numbers(m * n, seed ^ 5);
            let row = m / 2;
            let mut alone = whole[row * n..(row + 1) * n].to_vec();
            matmul(&mut whole, Matrix::new(&a, m, k), weight, accumulate, Threads::All);
            matmul(&mut alone, Matrix::new(&a[row * k..], 1, k), weight, accumulate, Threads::One);
            prop_assert_eq!(&alone[..], &whole[row * n..(row + 1) * n]);
        }

        #[test]
        fn matmul_is_the_sum_of_products(m in 1usize..7, k in 1usize..11, n in 1usize..5, seed: u32) {
            let (a, b) = (numbers(m * k, seed), numbers(k * n, seed ^ 3));
            let mut out = vec![1.0; m * n];
            matmul(&mut out, Matrix::new(&a, m, k), Matrix::new(&b, k, n), true, Threads::All);
            for i in 0..m {
                for j in 0..n {
                    let want = 1.0 + (0..k).map(|c| a[i * k + c] as f64 * b[c * n + j] as f64).sum::<f64>();
                    prop_assert!((out[i * n + j] as f64 - want).abs() < 1e-5);
                }
            }
        }
    }
}
