//! What the hot loops are made of: number functions that vectorise, and one macro that compiles a loop for AVX-512, AVX2
//! and the plain machine and picks at run time.
//!
//! All three versions do the same operations in the same order (sums run in [`LANES`] fixed lanes, multiply-adds are
//! explicit), so the bits of a result depend on neither the processor nor the number of threads.

use std::ops::Range;

use rayon::prelude::*;

use crate::view::Real;

/// Partial sums of one reduction. Element i goes to lane i mod 32, and the lanes are added in a fixed tree.
pub(crate) const LANES: usize = 32;

/// Elements that one parallel task works on, about: cuts depend on shapes only, never on the number of threads.
const TASK: usize = 1 << 14;

/// [`Real`] numbers with functions that compile to vector code. In f32 they are polynomials with a relative error
/// below 1e-6, in f64 (gradient checks) the exact library functions.
pub(crate) trait Number: Real {
    /// `self · a + b` with one rounding.
    fn fused(self, a: Self, b: Self) -> Self;
    /// e^x; in f32 0 below −87.3 and no larger than e^88.3.
    fn fast_exp(self) -> Self;
    /// tanh x
    fn fast_tanh(self) -> Self;
    /// Probability that a standard normal number is below x: ½ erfc(−x / √2).
    fn normal_cdf(self) -> Self;
    /// From an f64 constant.
    fn of(value: f64) -> Self;
    /// The larger of two, by one comparison.
    fn larger(self, other: Self) -> Self;

    /// 1 / (1 + e^−x)
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::one() / (Self::one() + (-self).fast_exp())
    }

    /// `R` rows of `a` (`stride` apart) times `W` columns, from `column` on, of a panel `[depth, 32]`, each sum one chain of
    /// multiply-adds over ascending depth.
    #[inline(always)]
    fn tile<const R: usize, const W: usize>(
        a: &[Self],
        stride: usize,
        depth: usize,
        panel: &[Self],
        column: usize,
    ) -> [[Self; W]; R] {
        narrow_tile(a, stride, depth, panel, column)
    }
}

#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for &c in &coefficients[1..] {
        sum = sum.mul_add(x, c);
    }
    sum
}

/// Chebyshev fit of erfc(z) e^(z²) / t over t = 1 / (1 + 0.3275911 z), highest power first.
const ERFC: [f32; 10] = [
    0.059_904_285,
    -0.334_741_06,
    0.669_017_5,
    -0.616_037,
    0.548_381_8,
    -0.075_919_25,
    0.214_912_44,
    0.163_679_83,
    0.186_035_2,
    0.184_766_3,
];

impl Number for f32 {
    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }

    /// 2^n · e^r with |r| ≤ ½ ln 2; the polynomial is the Chebyshev fit of (e^r − 1 − r) / r².
    #[inline(always)]
    fn fast_exp(self) -> Self {
        let x = if self > 88.3 { 88.3 } else { self };
        let x = if x < -87.3 { -87.3 } else { x };
        // Adding 1.5 · 2^23 rounds to the nearest integer and leaves it in the lowest bits.
        let shift = 12_582_912.0_f32;
        let shifted = x.mul_add(std::f32::consts::LOG2_E, shift);
        let n = shifted - shift;
        // ln 2 in two parts, the first short enough for n times it to be exact
        let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
        let tail = polynomial(r, [0.001_392_625_1, 0.008_363_233, 0.041_666_554, 0.166_665_77, 0.5]);
        let mantissa = (tail * r).mul_add(r, r) + 1.0;
        let exponent = (shifted.to_bits().wrapping_sub(shift.to_bits()).wrapping_add(127)) << 23;
        let value = mantissa * f32::from_bits(exponent);
        if self < -87.3 { 0.0 } else { value }
    }

    #[inline(always)]
    fn fast_tanh(self) -> Self {
        let square = self * self;
        let tail =
            polynomial(square, [-0.005_923_726, 0.020_873_46, -0.053_823_76, 0.133_325_84, -0.333_333_27]);
        let small = (tail * square).mul_add(self, self);
        let size = self.abs();
        let large = (1.0 - 2.0 / ((2.0 * size).fast_exp() + 1.0)).copysign(self);
        if size < 0.65 { small } else { large }
    }

    /// erfc z = t · P(t) · e^−z², t = 1 / (1 + 0.3275911 z), for z ≥ 0 (the form of Abramowitz and Stegun 7.1.26, with a
    /// fit of nine degrees).
    #[inline(always)]
    fn normal_cdf(self) -> Self {
        let size = self.abs();
        let t = 1.0 / (size * std::f32::consts::FRAC_1_SQRT_2).mul_add(0.327_591_1, 1.0);
        let series = polynomial(t, ERFC);
        let tail = 0.5 * t * series * (-0.5 * size * size).fast_exp();
        if self < 0.0 { tail } else { 1.0 - tail }
    }

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    /// By hand where registers have 512 bits: of the loop the compiler makes registers of a column of eight rows, gathers
    /// their numbers, and runs at a fifth of the speed.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn tile<const R: usize, const W: usize>(
        a: &[f32],
        stride: usize,
        depth: usize,
        panel: &[f32],
        column: usize,
    ) -> [[f32; W]; R] {
        if W.is_multiple_of(WIDE) && wide_registers() {
            // SAFETY: AVX-512 was detected.
            return unsafe { wide_tile(a, stride, depth, panel, column) };
        }
        narrow_tile(a, stride, depth, panel, column)
    }
}

/// f32 numbers of a register of 512 bits.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 16;

/// [`Number::tile`] in registers of 512 bits; `W` is a multiple of 16, at most 32.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn wide_tile<const R: usize, const W: usize>(
    a: &[f32],
    stride: usize,
    depth: usize,
    panel: &[f32],
    column: usize,
) -> [[f32; W]; R] {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    let rows: [&[f32]; R] = std::array::from_fn(|r| &a[r * stride..r * stride + depth]);
    let mut sums = [[_mm512_setzero_ps(); LANES / WIDE]; R];
    for (k, b) in panel[..depth * LANES].chunks_exact(LANES).enumerate() {
        for (v, b) in b[column..column + W].chunks_exact(WIDE).enumerate() {
            // SAFETY: a chunk has 16 numbers.
            let b = unsafe { _mm512_loadu_ps(b.as_ptr()) };
            for r in 0..R {
                // SAFETY: a row has `depth` numbers, the panel as many lines.
                let x = _mm512_set1_ps(unsafe { *rows[r].get_unchecked(k) });
                sums[r][v] = _mm512_fmadd_ps(x, b, sums[r][v]);
            }
        }
    }
    let mut numbers = [[0.0; W]; R];
    for (numbers, sums) in numbers.iter_mut().zip(&sums) {
        for (numbers, &sum) in numbers.chunks_exact_mut(WIDE).zip(sums) {
            // SAFETY: a chunk has 16 numbers.
            unsafe { _mm512_storeu_ps(numbers.as_mut_ptr(), sum) }
        }
    }
    numbers
}

/// 1 / k!
const INVERSE_FACTORIALS: [f64; 14] = {
    let mut inverse = [1.0; 14];
    let mut k = 1;
    while k < 14 {
        inverse[k] = inverse[k - 1] / k as f64;
        k += 1;
    }
    inverse
};

impl Number for f64 {
    #[inline(always)]
    fn fused(self, a: Self, b: Self) -> Self {
        self.mul_add(a, b)
    }

    /// 2^n · e^r with |r| ≤ ½ ln 2, and for e^r its series to r¹³ / 13!, whose rest is below one part in 2⁵³.
    #[inline(always)]
    fn fast_exp(self) -> Self {
        let x = if self > 709.0 { 709.0 } else { self };
        let x = if x < -708.0 { -708.0 } else { x };
        // Adding 1.5 · 2^52 rounds to the nearest integer and leaves it in the lowest bits.
        let shift = 6_755_399_441_055_744.0_f64;
        let shifted = x.mul_add(std::f64::consts::LOG2_E, shift);
        let n = shifted - shift;
        // ln 2 in two parts, the first short enough for n times it to be exact
        let r = n.mul_add(-1.908_214_929_270_587_7e-10, n.mul_add(-0.693_147_180_369_123_8, x));
        let mut series = INVERSE_FACTORIALS[13];
        for k in (0..13).rev() {
            series = series.mul_add(r, INVERSE_FACTORIALS[k]);
        }
        let exponent = (shifted.to_bits().wrapping_sub(shift.to_bits()).wrapping_add(1023)) << 52;
        let value = series * f64::from_bits(exponent);
        if self < -708.0 { 0.0 } else { value }
    }

    #[inline(always)]
    fn fast_tanh(self) -> Self {
        f64::tanh(self)
    }

    #[inline(always)]
    fn normal_cdf(self) -> Self {
        0.5 * candle_core::cpu::erf::erfc_f64(-self * std::f64::consts::FRAC_1_SQRT_2)
    }

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// Defines a function compiled for AVX-512, for AVX2 and for any machine; a call takes the best that the CPU has.
macro_rules! vectorised {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident [$($generic:tt)*] [$($pass:tt)*] ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name<$($generic)*>($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn plain<$($generic)*>($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512<$($generic)*>($($arg: $ty),*) $(-> $ret)? {
                    plain::<$($pass)*>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$($generic)*>($($arg: $ty),*) $(-> $ret)? {
                    plain::<$($pass)*>($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the features of `avx512` were detected.
                    return unsafe { avx512::<$($pass)*>($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features of `avx2` were detected.
                    return unsafe { avx2::<$($pass)*>($($arg),*) };
                }
            }
            plain::<$($pass)*>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Whether there are 32 registers of 512 bits, or 16 of 256.
#[inline(always)]
pub(crate) fn wide_registers() -> bool {
    #[cfg(target_arch = "x86_64")]
    let wide = is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    let wide = false;
    wide
}

/// [`Number::tile`] as a loop.
#[inline(always)]
fn narrow_tile<T: Number, const R: usize, const W: usize>(
    a: &[T],
    stride: usize,
    depth: usize,
    panel: &[T],
    column: usize,
) -> [[T; W]; R] {
    let rows: [&[T]; R] = std::array::from_fn(|r| &a[r * stride..r * stride + depth]);
    let mut sums = [[T::zero(); W]; R];
    for (k, b) in panel[..depth * LANES].chunks_exact(LANES).enumerate() {
        let b = &b[column..column + W];
        for r in 0..R {
            // SAFETY: a row has `depth` numbers, the panel as many lines. (A check of each costs half of the speed.)
            let x = unsafe { *rows[r].get_unchecked(k) };
            for l in 0..W {
                sums[r][l] = x.fused(b[l], sums[r][l]);
            }
        }
    }
    sums
}

/// Adds the lanes in a fixed tree.
#[inline(always)]
pub(crate) fn add_lanes<T: Number>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Σ f(i) over 0..n in fixed lanes.
#[inline(always)]
pub(crate) fn sum_by<T: Number>(n: usize, f: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let whole = n / LANES * LANES;
    let mut i = 0;
    while i < whole {
        for (l, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + l);
        }
        i += LANES;
    }
    for (l, lane) in lanes.iter_mut().enumerate().take(n - whole) {
        *lane += f(whole + l);
    }
    add_lanes(lanes)
}

/// Rows of `width` numbers that one parallel task takes.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Calls `f(first row, rows)` for blocks of whole rows of `out`, in parallel.
pub(crate) fn for_rows<T: Number>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= rows * width {
        return f(0, out);
    }
    out.par_chunks_mut(rows * width).enumerate().for_each(|(block, out)| f(block * rows, out));
}

/// Column sums of per-row terms: `add(row, sums)` adds row `row`'s terms to `sums` (`width` numbers).
pub(crate) fn sum_rows<T: Number>(rows: usize, width: usize, add: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    sum_blocks(rows, rows_per_task(width).max(32), width, |rows, sums| rows.for_each(|row| add(row, sums)))
}

/// Sums of `width` numbers over blocks of rows: `add(rows, sums)` adds those of some rows to zeros. Blocks are computed in
/// parallel and added in order, so the bits do not depend on the number of threads.
pub(crate) fn sum_blocks<T: Number>(
    rows: usize,
    block: usize,
    width: usize,
    add: impl Fn(Range<usize>, &mut [T]) + Sync,
) -> Vec<T> {
    let blocks: Vec<Vec<T>> = (0..rows.div_ceil(block))
        .into_par_iter()
        .map(|b| {
            let mut sums = vec![T::zero(); width];
            add(b * block..((b + 1) * block).min(rows), &mut sums);
            sums
        })
        .collect();
    let mut sums = vec![T::zero(); width];
    blocks.iter().for_each(|block| add_to(&mut sums, block));
    sums
}

vectorised! {
    /// Every value becomes e to its power.
    pub(crate) fn exp_all [T: Number] [T] (values: &mut [T]) {
        for value in values {
            *value = value.fast_exp();
        }
    }
}

vectorised! {
    /// `into += from`
    pub(crate) fn add_to [T: Number] [T] (into: &mut [T], from: &[T]) {
        for (a, &b) in into.iter_mut().zip(from) {
            *a += b;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(from: f64, to: f64, got: impl Fn(f32) -> f32, want: impl Fn(f64) -> f64) -> f64 {
        let at = |i: usize| (from + (to - from) * i as f64 / 20_011.0) as f32;
        (0..20_011).map(at).map(|x| (f64::from(got(x)) / want(f64::from(x)) - 1.0).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn fast_functions_are_exact_to_a_millionth() {
        assert!(worst(-87.0, 88.0, Number::fast_exp, f64::exp) < 3e-7);
        assert!(worst(-9.0, 9.1, Number::fast_tanh, f64::tanh) < 5e-7);
        assert!(worst(-6.0, 6.0, Number::normal_cdf, Number::normal_cdf) < 2e-6);
        assert!(worst(-80.0, 80.0, Number::sigmoid, |x| 1.0 / (1.0 + (-x).exp())) < 5e-7);
        assert_eq!(f32::NEG_INFINITY.fast_exp(), 0.0);
        assert_eq!(0.0_f32.fast_exp(), 1.0);
        assert!(f32::NAN.fast_exp().is_nan());
    }

    #[test]
    fn sums_do_not_depend_on_zeros_behind() {
        let numbers: Vec<f32> = (0..67).map(|i| (i as f32 * 0.37).sin()).collect();
        let padded = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
        assert_eq!(sum_by(67, padded), sum_by(131, padded));
    }
}
