//! The products of the triangle multiplicative update (Jumper et al. 2021, supplement, Algorithms 11 and 12), with their
//! gates.

use candle_core::{Result, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul};
use crate::ops::kernel::{Number, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Channels that one task carries.
const CHANNELS: usize = 8;

/// Which edges of the triangle meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Triangle {
    /// Algorithm 11: `t_ij = Σ_k a_ik ⊙ b_jk`.
    Outgoing,
    /// Algorithm 12: `t_ij = Σ_k a_ki ⊙ b_kj`.
    Incoming,
}

/// `t_ij = Σ_k a_ik ⊙ b_jk` (or the incoming form) with `a = σ(a_gate) ⊙ a_value`, `b = σ(b_gate) ⊙ b_value`; i, j and k
/// run over a chain's own residues.
///
/// # Shapes
/// `x`: `[B, L, L, 4c]`, the last axis `a_value, a_gate, b_value, b_gate`; `lengths`: B numbers ≤ L → `[B, L, L, c]`, zeros
/// at padding
///
/// # Errors
/// On shapes that do not fit.
pub fn triangle_product(tape: &Tape, x: &Var, lengths: &[usize], edges: Triangle) -> Result<Var> {
    let (b, l, l2, width) = x.value().dims4()?;
    if l != l2 || width % 4 != 0 || lengths.len() != b || lengths.iter().any(|&n| n > l) {
        bail!("triangle product: {:?} with lengths {lengths:?}, expected [B, L, L, 4c]", x.value().dims());
    }
    dispatch!(x.value().dtype(), T => run::<T>(tape, x, lengths, edges))
}

/// Up to [`CHANNELS`] channels of one chain; arrays are `[channels, n, n]`.
struct Slab<T> {
    chain: usize,
    n: usize,
    channels: std::ops::Range<usize>,
    a: Vec<T>,
    b: Vec<T>,
}

/// Copies channels `from..from + count` of the pixels `[n, n, width]` of an `[l, l, width]` array to `[count, n, n]`.
fn channels_first<T: Number>(x: &[T], l: usize, n: usize, width: usize, from: usize, count: usize) -> Vec<T> {
    let mut out = vec![T::zero(); count * n * n];
    for i in 0..n {
        for j in 0..n {
            let pixel = &x[(i * l + j) * width + from..][..count];
            for (channel, &value) in pixel.iter().enumerate() {
                out[(channel * n + i) * n + j] = value;
            }
        }
    }
    out
}

vectorised! {
    /// Puts the gated values of a slab, `σ(gate) ⊙ value`, in the place of the values.
    fn open_gates [T: Number] [T] (value: &mut [T], gate: &[T]) {
        for (value, &gate) in value.iter_mut().zip(gate) {
            *value *= gate.sigmoid();
        }
    }
}

vectorised! {
    /// Puts the gradients of value and gate, from that of `σ(gate) ⊙ value`, in their places.
    fn ungate [T: Number] [T] (grad: &[T], value: &mut [T], gate: &mut [T]) {
        for ((&grad, value), gate) in grad.iter().zip(value).zip(gate) {
            let open = gate.sigmoid();
            *gate = grad * *value * open * (T::one() - open);
            *value = grad * open;
        }
    }
}

/// The four parts of `x` for some channels, channels first.
fn parts<T: Number>(x: &[T], l: usize, n: usize, c: usize, channels: &std::ops::Range<usize>) -> [Vec<T>; 4] {
    [0, 1, 2, 3].map(|part| channels_first(x, l, n, 4 * c, part * c + channels.start, channels.len()))
}

fn run<T: Number>(tape: &Tape, x: &Var, lengths: &[usize], edges: Triangle) -> Result<Var> {
    let (b, l, _, width) = x.value().dims4()?;
    let c = width / 4;
    let input = x.value().contiguous()?;
    let (slabs, products): (Vec<Slab<T>>, Vec<Vec<T>>) = {
        let x = view::<T>(&input)?;
        let x: &[T] = &x;
        let jobs: Vec<(usize, usize)> =
            (0..b).flat_map(|chain| (0..c).step_by(CHANNELS).map(move |first| (chain, first))).collect();
        let forward = |(chain, first): (usize, usize)| {
            let (n, channels) = (lengths[chain], first..c.min(first + CHANNELS));
            let [mut a, a_gate, mut b, b_gate] = parts(&x[chain * l * l * width..], l, n, c, &channels);
            open_gates::<T>(&mut a, &a_gate);
            open_gates::<T>(&mut b, &b_gate);
            let slab = Slab { chain, n, channels, a, b };
            let product = slab.products(edges);
            (slab, product)
        };
        jobs.into_par_iter().map(forward).unzip()
    };
    let mut t = vec![T::zero(); b * l * l * c];
    scatter(&mut t, l, c, slabs.iter().zip(&products).map(|(slab, t)| (slab, slab.channels.start, &t[..])));
    let parent = x.clone();
    Ok(tape.record(tensor(t, (b, l, l, c))?, &[x], move |grad, grads| {
        let grad = grad.contiguous()?;
        let (dt, x) = (view::<T>(&grad)?, view::<T>(&input)?);
        let (dt, x): (&[T], &[T]) = (&dt, &x);
        let back = |slab: &Slab<T>| -> [Vec<T>; 4] {
            let dt = channels_first(
                &dt[slab.chain * l * l * c..],
                l,
                slab.n,
                c,
                slab.channels.start,
                slab.channels.len(),
            );
            let (da, db) = slab.gradients(&dt, edges);
            let [mut a, mut a_gate, mut b, mut b_gate] =
                parts(&x[slab.chain * l * l * width..], l, slab.n, c, &slab.channels);
            ungate::<T>(&da, &mut a, &mut a_gate);
            ungate::<T>(&db, &mut b, &mut b_gate);
            [a, a_gate, b, b_gate]
        };
        let found: Vec<[Vec<T>; 4]> = slabs.par_iter().map(back).collect();
        let mut dx = vec![T::zero(); b * l * l * width];
        let placed = slabs.iter().zip(&found).flat_map(|(slab, parts)| {
            parts
                .iter()
                .enumerate()
                .map(move |(part, numbers)| (slab, part * c + slab.channels.start, &numbers[..]))
        });
        scatter(&mut dx, l, width, placed);
        grads.add(&parent, tensor(dx, (b, l, l, width))?)
    }))
}

impl<T: Number> Slab<T> {
    /// The product of every channel, `[channels, n, n]`.
    fn products(&self, edges: Triangle) -> Vec<T> {
        let (n, area) = (self.n, (self.n * self.n).max(1));
        let mut out = vec![T::zero(); self.a.len()];
        for (at, out) in out.chunks_exact_mut(area).enumerate() {
            let [a, b] = [&self.a, &self.b].map(|x| Matrix::new(&x[at * area..], n, n));
            match edges {
                Triangle::Outgoing => matmul(out, a, b.t(), false, Threads::One),
                Triangle::Incoming => matmul(out, a.t(), b, false, Threads::One),
            }
        }
        out
    }

    /// `(da, db)` from the gradient of the products.
    fn gradients(&self, dt: &[T], edges: Triangle) -> (Vec<T>, Vec<T>) {
        let (n, area) = (self.n, (self.n * self.n).max(1));
        let mut da = vec![T::zero(); dt.len()];
        let mut db = vec![T::zero(); dt.len()];
        for at in (0..dt.len()).step_by(area) {
            let matrix = |x| Matrix::new(x, n, n);
            let (dt, a, b) = (matrix(&dt[at..]), matrix(&self.a[at..]), matrix(&self.b[at..]));
            let (da, db) = (&mut da[at..at + area], &mut db[at..at + area]);
            match edges {
                Triangle::Outgoing => {
                    matmul(da, dt, b, false, Threads::One);
                    matmul(db, dt.t(), a, false, Threads::One);
                }
                Triangle::Incoming => {
                    matmul(da, b, dt.t(), false, Threads::One);
                    matmul(db, a, dt, false, Threads::One);
                }
            }
        }
        (da, db)
    }
}

/// Puts arrays `[count, n, n]` back into the pixels of `[B, l, l, width]`, each at its slab's chain and a first channel.
fn scatter<'a, T: Number>(
    out: &mut [T],
    l: usize,
    width: usize,
    placed: impl Iterator<Item = (&'a Slab<T>, usize, &'a [T])>,
) {
    let placed: Vec<_> = placed.collect();
    out.par_chunks_mut(l * width).enumerate().for_each(|(row, out)| {
        let (chain, i) = (row / l, row % l);
        for &(slab, first, numbers) in placed.iter().filter(|(slab, ..)| slab.chain == chain && i < slab.n) {
            let n = slab.n;
            for j in 0..n {
                let pixel = &mut out[j * width + first..][..slab.channels.len()];
                for (channel, out) in pixel.iter_mut().enumerate() {
                    *out = numbers[(channel * n + i) * n + j];
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;

    #[test]
    fn gradients_match_finite_differences() {
        for edges in [Triangle::Outgoing, Triangle::Incoming] {
            gradcheck(&[numbers(&[2, 3, 3, 8], 0.4)], |tape, v| {
                triangle_product(tape, &v[0], &[3, 2], edges)
            });
        }
    }

    #[test]
    fn values_are_the_sums_of_the_definition() {
        let (b, l, c, lengths) = (2, 5, 11, [5, 3]);
        let x = numbers(&[b, l, l, 4 * c], 0.7);
        let flat = x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for edges in [Triangle::Outgoing, Triangle::Incoming] {
            let got = triangle_product(&Tape::off(), &Var::constant(x.clone()), &lengths, edges).unwrap();
            let got = got.value().flatten_all().unwrap().to_vec1::<f64>().unwrap();
            for chain in 0..b {
                let part = |i: usize, j: usize, which: usize, channel: usize| {
                    let at = |which: usize| flat[((chain * l + i) * l + j) * 4 * c + which * c + channel];
                    at(which) / (1.0 + (-at(which + 1)).exp())
                };
                for i in 0..l {
                    for j in 0..l {
                        for channel in 0..c {
                            let n = lengths[chain];
                            let want: f64 = (0..n)
                                .filter(|_| i < n && j < n)
                                .map(|k| match edges {
                                    Triangle::Outgoing => part(i, k, 0, channel) * part(j, k, 2, channel),
                                    Triangle::Incoming => part(k, i, 0, channel) * part(k, j, 2, channel),
                                })
                                .sum();
                            let got = got[((chain * l + i) * l + j) * c + channel];
                            assert!((got - want).abs() < 1e-12, "{edges:?} {chain} {i} {j} {channel}");
                        }
                    }
                }
            }
        }
    }
}
