//! Softmax attention with grouped heads; the kernel also serves the key/value cache.
//!
//! Each query's scores, softmax and weighted sum are computed in an order that depends on the query's own keys alone:
//! products run over ascending keys, sums in fixed lanes, and a key that a query does not see adds an exact zero. So the
//! training forward, a prefill and a decode step give the same bits. No more than a few rows of scores exist at once;
//! the backward pass computes them again from the saved log-sums.

mod attend;

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul, matmul_new};
use crate::ops::kernel::{Number, add_to, sum_by, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

use attend::Panels;
pub(crate) use attend::largest;
pub(super) use attend::{Head, attend, write_token};

/// Which keys the queries of a batch see.
#[derive(Clone, Debug)]
pub struct KeyMask {
    /// Real keys of each batch row; keys from there on are padding.
    pub lengths: Vec<usize>,
    /// Which of the real ones each query sees.
    pub sees: Sees,
}

/// Which keys a query sees.
#[derive(Clone, Debug)]
pub enum Sees {
    /// Every one.
    All,
    /// Query i those up to number i.
    Causal,
    /// Query i of batch row b the first `n[b · T + i]`.
    First(Vec<usize>),
    /// Row b consists of documents of these lengths, one behind the other, and a query sees those up to itself of its own:
    /// a document gives the same bits as in a row of its own.
    Documents(Vec<Vec<usize>>),
    /// Row b begins with a trunk, of the first of these lengths; behind it stand branches of the other lengths. A query of a
    /// branch sees the trunk and its own branch up to itself: a branch gives the same bits as alone behind the trunk.
    Trees(Vec<Vec<usize>>),
}

/// A part of a batch row whose queries see keys of that part alone.
struct Part {
    queries: Range<usize>,
    /// how many keys at the row's beginning it sees before its own
    trunk: usize,
    own: Range<usize>,
    /// of the part's keys, how many each row of scores sees
    visible: Vec<usize>,
}

/// `out = softmax(scale · q kᵀ + mask) v` per head; query head h reads key head `h / (H / G)`. A query that sees no key
/// gets zeros.
///
/// # Shapes
/// q `[B, T, H, D]`, k and v `[B, S, G, D]` with G a divisor of H, mask for B rows (causal: S = T) → `[B, T, H, D]`
///
/// # Errors
/// On shapes that do not fit.
pub fn attention(tape: &Tape, q: &Var, k: &Var, v: &Var, mask: &KeyMask, scale: f64) -> Result<Var> {
    let dims = Dims::new(q.value(), k.value(), v.value())?;
    if mask.lengths.len() != dims.batch || mask.lengths.iter().any(|&n| n > dims.keys) {
        bail!("attention: lengths {:?} for {} rows of {} keys", mask.lengths, dims.batch, dims.keys);
    }
    match &mask.sees {
        Sees::Causal if dims.queries != dims.keys => {
            bail!("attention: causal with {} queries and {} keys", dims.queries, dims.keys)
        }
        Sees::First(n) if n.len() != dims.batch * dims.queries => {
            bail!("attention: {} visible counts for {} × {} queries", n.len(), dims.batch, dims.queries)
        }
        Sees::Documents(rows) | Sees::Trees(rows)
            if dims.queries != dims.keys
                || rows.len() != dims.batch
                || rows.iter().zip(&mask.lengths).any(|(row, &n)| row.iter().sum::<usize>() != n) =>
        {
            bail!("attention: documents or trees {rows:?} in rows of {:?} tokens", mask.lengths)
        }
        _ => {}
    }
    let inputs = [q.value().contiguous()?, k.value().contiguous()?, v.value().contiguous()?];
    let (output, log_sums) = attended(&inputs, dims, mask, scale)?;
    let parents = [q.clone(), k.clone(), v.clone()];
    let saved = Saved { inputs, output: output.clone(), log_sums, dims, mask: mask.clone(), scale };
    Ok(tape.record(output, &[q, k, v], move |grad, grads| {
        let found = saved.gradients(&grad.contiguous()?)?;
        parents.iter().zip(found).try_for_each(|(parent, grad)| grads.add(parent, grad))
    }))
}

/// What the backward pass needs.
pub(crate) struct Saved {
    /// q, k and v
    pub(crate) inputs: [Tensor; 3],
    pub(crate) output: Tensor,
    /// `[B · G, T · share]`
    pub(crate) log_sums: Tensor,
    pub(crate) dims: Dims,
    pub(crate) mask: KeyMask,
    pub(crate) scale: f64,
}

impl Saved {
    /// Gradients of q, k and v.
    fn gradients(&self, grad: &Tensor) -> Result<[Tensor; 3]> {
        on_gpu!(grad => crate::cuda::attention_gradients(self, grad));
        dispatch!(grad.dtype(), T => backward::<T>(self, grad))
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Dims {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// key heads
    pub(crate) groups: usize,
    /// query heads per key head
    pub(crate) share: usize,
    pub(crate) dim: usize,
}

impl Dims {
    pub(crate) fn new(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        let (batch, queries, heads, dim) = q.dims4()?;
        let (_, keys, groups, _) = k.dims4()?;
        let fits = k.dims() == [batch, keys, groups, dim] && v.dims() == k.dims();
        if !fits || groups == 0 || !heads.is_multiple_of(groups) {
            bail!("attention: q {:?}, k {:?}, v {:?}", q.dims(), k.dims(), v.dims());
        }
        Ok(Self { batch, queries, keys, groups, share: heads / groups, dim })
    }

    /// Rows of scores of one key head: every query, every query head that reads it.
    pub(crate) fn rows(&self) -> usize {
        self.queries * self.share
    }

    /// Number of keys that each row of one batch row sees; `seen(t)` is that of query t.
    pub(super) fn visible(&self, length: usize, seen: impl Fn(usize) -> usize) -> Vec<usize> {
        (0..self.queries).flat_map(|t| std::iter::repeat_n(seen(t).min(length), self.share)).collect()
    }

    /// The parts of batch row `b` under a mask.
    fn parts(&self, mask: &KeyMask, b: usize) -> Vec<Part> {
        let length = mask.lengths[b];
        let whole = |visible| vec![Part { queries: 0..self.queries, trunk: 0, own: 0..length, visible }];
        match &mask.sees {
            Sees::All => whole(self.visible(length, |_| length)),
            Sees::Causal => whole(self.visible(length, |t| t + 1)),
            Sees::First(n) => whole(self.visible(length, |t| n[b * self.queries + t])),
            Sees::Documents(rows) => self.spans(&rows[b], 0),
            Sees::Trees(rows) => self.spans(&rows[b], rows[b].first().copied().unwrap_or(0)),
        }
    }

    /// Spans of these lengths, one behind the other; those behind the first see `trunk` keys of the row before their own.
    fn spans(&self, lengths: &[usize], trunk: usize) -> Vec<Part> {
        let mut start = 0;
        let part = |&n: &usize| {
            let (own, trunk) = (start..start + n, if start == 0 { 0 } else { trunk });
            start += n;
            let visible = Dims { queries: n, ..*self }.visible(trunk + n, |t| trunk + t + 1);
            Part { queries: own.clone(), trunk, own, visible }
        };
        lengths.iter().map(part).collect()
    }

    /// Where head `g`'s numbers of token `t` start in a `[B, T, G · share, D]` tensor.
    pub(super) fn at(&self, b: usize, t: usize, tokens: usize, g: usize, share: usize) -> usize {
        ((b * tokens + t) * self.groups + g) * share * self.dim
    }

    /// The rows of one key head, `[tokens · share, D]`, times `factor`.
    pub(super) fn gather<T: Number>(
        &self,
        x: &[T],
        (b, g): (usize, usize),
        tokens: usize,
        share: usize,
        factor: T,
    ) -> Vec<T> {
        let width = share * self.dim;
        let mut out = Vec::with_capacity(tokens * width);
        for t in 0..tokens {
            let at = self.at(b, t, tokens, g, share);
            out.extend(x[at..at + width].iter().map(|&x| x * factor));
        }
        out
    }

    /// `[B, G, tokens, share, D]` → `[B, tokens, G · share, D]`.
    pub(super) fn spread<T: Number>(&self, x: Vec<T>, tokens: usize, share: usize) -> Vec<T> {
        if tokens == 1 || self.groups == 1 {
            return x;
        }
        let width = share * self.dim;
        let mut out = vec![T::zero(); x.len()];
        out.par_chunks_mut(self.groups * width).enumerate().for_each(|(row, out)| {
            let (b, t) = (row / tokens, row % tokens);
            for (g, out) in out.chunks_exact_mut(width).enumerate() {
                let at = ((b * self.groups + g) * tokens + t) * width;
                out.copy_from_slice(&x[at..at + width]);
            }
        });
        out
    }

    pub(super) fn head(&self, task: usize) -> (usize, usize) {
        (task / self.groups, task % self.groups)
    }
}

/// The output, and the log-sums of the scores, `[B · G, T · share]`.
fn attended(inputs: &[Tensor; 3], dims: Dims, mask: &KeyMask, scale: f64) -> Result<(Tensor, Tensor)> {
    on_gpu!(inputs[0] => crate::cuda::attention(inputs, dims, mask, scale));
    dispatch!(inputs[0].dtype(), T => {
        let (out, log_sums) = forward::<T>(inputs, dims, mask, scale)?;
        Ok((tensor(out, inputs[0].dims())?, tensor(log_sums, (dims.batch * dims.groups, dims.rows()))?))
    })
}

type Rows<T> = (Vec<T>, Vec<T>);

fn forward<T: Number>(inputs: &[Tensor; 3], dims: Dims, mask: &KeyMask, scale: f64) -> Result<Rows<T>> {
    let [q, k, v] = inputs;
    let (q, k, v) = (view::<T>(q)?, view::<T>(k)?, view::<T>(v)?);
    let rows = dims.rows();
    let mut out = vec![T::zero(); dims.batch * dims.groups * rows * dims.dim];
    let mut log_sums = vec![T::zero(); dims.batch * dims.groups * rows];
    let tasks = out.par_chunks_mut((rows * dims.dim).max(1)).zip(log_sums.par_chunks_mut(rows.max(1)));
    tasks.enumerate().for_each(|(task, (out, log_sums))| {
        let (b, g) = dims.head(task);
        let queries = dims.gather(&q, (b, g), dims.queries, dims.share, T::of(scale));
        for part in dims.parts(mask, b) {
            let mut panels = Panels::new(part.trunk + part.own.len(), dims.dim);
            for (place, t) in (0..part.trunk).chain(part.own).enumerate() {
                let at = dims.at(b, t, dims.keys, g, 1);
                let token = at..at + dims.dim;
                write_token(panels.as_mut(), place, &k[token.clone()], &v[token]);
            }
            let rows = part.queries.start * dims.share..part.queries.end * dims.share;
            let span = rows.start * dims.dim..rows.end * dims.dim;
            let (out, log_sums) = (&mut out[span.clone()], &mut log_sums[rows]);
            attend(&queries[span], &part.visible, panels.as_ref(), out, log_sums);
        }
    });
    Ok((dims.spread(out, dims.queries, dims.share), log_sums))
}

/// Rows of scores that exist at once in the backward pass of one head.
const BLOCK: usize = 64;

/// With P the attention weights and dP = dO Vᵀ: dV = Pᵀ dO, dS = P ⊙ (dP − rowsum(dO ⊙ O)), dQ = scale · dS K,
/// dK = scale · dSᵀ Q (arXiv 2205.14135, algorithm 4).
fn backward<T: Number>(saved: &Saved, grad: &Tensor) -> Result<[Tensor; 3]> {
    let Saved { inputs: [q, k, v], output, log_sums, dims, mask, scale } = saved;
    let shapes = [q.dims(), k.dims(), v.dims()];
    let (q, k, v) = (view::<T>(q)?, view::<T>(k)?, view::<T>(v)?);
    let (o, grad, log_sums) = (view::<T>(output)?, view::<T>(grad)?, view::<T>(log_sums)?);
    let (rows, dim) = (dims.rows(), dims.dim);
    let tasks = dims.batch * dims.groups;
    let mut dq = vec![T::zero(); tasks * rows * dim];
    let (mut dk, mut dv) =
        (vec![T::zero(); tasks * dims.keys * dim], vec![T::zero(); tasks * dims.keys * dim]);
    let size = |n: usize| (n * dim).max(1);
    let parts = dq.par_chunks_mut(size(rows)).zip(dk.par_chunks_mut(size(dims.keys)));
    parts.zip(dv.par_chunks_mut(size(dims.keys))).enumerate().for_each(|(task, ((dq, dk), dv))| {
        let head = dims.head(task);
        let queries = |x: &[T]| dims.gather(x, head, dims.queries, dims.share, T::one());
        let keys = |x: &[T]| dims.gather(x, head, dims.keys, 1, T::one());
        let (q, o, grad, k, v) = (queries(&q), queries(&o), queries(&grad), keys(&k), keys(&v));
        for part in dims.parts(mask, head.0) {
            let rows_of = part.queries.start * dims.share..part.queries.end * dims.share;
            let at = rows_of.start * dim..rows_of.end * dim;
            let (trunk, own) = (part.trunk * dim, part.own.start * dim..part.own.end * dim);
            let seen = |x: &[T]| [&x[..trunk], &x[own.clone()]].concat();
            let (k, v) = (seen(&k), seen(&v));
            let part = PartOfHead {
                q: &q[at.clone()],
                k: &k,
                v: &v,
                o: &o[at.clone()],
                grad: &grad[at.clone()],
                log_sums: &log_sums[task * rows..(task + 1) * rows][rows_of],
                visible: part.visible,
                dim,
                scale: T::of(*scale),
            };
            let (mut dk_part, mut dv_part) = (vec![T::zero(); k.len()], vec![T::zero(); v.len()]);
            part.gradients(&mut dq[at], &mut dk_part, &mut dv_part);
            for (all, part) in [(&mut *dk, dk_part), (&mut *dv, dv_part)] {
                add_to(&mut all[..trunk], &part[..trunk]);
                add_to(&mut all[own.clone()], &part[trunk..]);
            }
        }
    });
    Ok([
        tensor(dims.spread(dq, dims.queries, dims.share), shapes[0])?,
        tensor(dims.spread(dk, dims.keys, 1), shapes[1])?,
        tensor(dims.spread(dv, dims.keys, 1), shapes[2])?,
    ])
}

/// What the backward pass of a part of one key head needs, `[rows, D]` or `[S, D]` each.
struct PartOfHead<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    o: &'a [T],
    grad: &'a [T],
    log_sums: &'a [T],
    visible: Vec<usize>,
    dim: usize,
    scale: T,
}

impl<T: Number> PartOfHead<'_, T> {
    fn gradients(&self, dq: &mut [T], dk: &mut [T], dv: &mut [T]) {
        let dim = self.dim;
        let rows = self.visible.len();
        let one = Threads::One;
        for from in (0..rows).step_by(BLOCK) {
            let n = BLOCK.min(rows - from);
            let keys = self.visible[from..from + n].iter().copied().max().unwrap_or(0);
            if keys == 0 {
                continue;
            }
            let span = from * dim..(from + n) * dim;
            let (q, grad) =
                (Matrix::new(&self.q[span.clone()], n, dim), Matrix::new(&self.grad[span.clone()], n, dim));
            let (k, v) = (Matrix::new(self.k, keys, dim), Matrix::new(self.v, keys, dim));
            let mut weights = matmul_new(q, k.t(), one);
            let mut slopes = matmul_new(grad, v.t(), one);
            let visible = &self.visible[from..from + n];
            let (o, g) = (&self.o[span.clone()], &self.grad[span.clone()]);
            recompute(&mut weights, &mut slopes, visible, &self.log_sums[from..from + n], o, g, self.scale);
            matmul(&mut dv[..keys * dim], Matrix::new(&weights, n, keys).t(), grad, true, one);
            matmul(&mut dq[span], Matrix::new(&slopes, n, keys), k, false, one);
            matmul(&mut dk[..keys * dim], Matrix::new(&slopes, n, keys).t(), q, true, one);
        }
    }
}

vectorised! {
    /// Scores into attention weights, and dP into scale · dS.
    fn recompute [T: Number] [T] (
        weights: &mut [T], slopes: &mut [T], visible: &[usize], log_sums: &[T], o: &[T], grad: &[T], scale: T,
    ) {
        let rows = visible.len();
        let (keys, dim) = (weights.len() / rows, o.len() / rows);
        for r in 0..rows {
            let (o, g) = (&o[r * dim..(r + 1) * dim], &grad[r * dim..(r + 1) * dim]);
            let along = sum_by(dim, |i| o[i] * g[i]);
            let weights = &mut weights[r * keys..(r + 1) * keys];
            let slopes = &mut slopes[r * keys..(r + 1) * keys];
            weights[visible[r]..].fill(T::zero());
            slopes[visible[r]..].fill(T::zero());
            for (w, s) in weights[..visible[r]].iter_mut().zip(&mut slopes[..visible[r]]) {
                *w = w.fused(scale, -log_sums[r]).fast_exp();
                *s = *w * (*s - along) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::{D, Device};

    /// The definition, in candle, one batch row at a time.
    fn naive(q: &Tensor, k: &Tensor, v: &Tensor, seen: &[usize], scale: f64) -> Result<Tensor> {
        let (t, h, _) = q.dims3()?;
        let (s, g, _) = k.dims3()?;
        let mut heads = Vec::new();
        for head in 0..h {
            let pick = |x: &Tensor, at: usize| x.narrow(1, at, 1)?.squeeze(1)?.contiguous();
            let (q, k, v) = (pick(q, head)?, pick(k, head / (h / g))?, pick(v, head / (h / g))?);
            let mask: Vec<f64> = (0..t * s).map(|x| if x % s < seen[x / s] { 0.0 } else { -1e30 }).collect();
            let mask = Tensor::from_vec(mask, (t, s), &Device::Cpu)?;
            let scores = ((q.matmul(&k.t()?)? * scale)? + mask)?;
            let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
            let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
            heads.push(weights.matmul(&v)?);
        }
        Tensor::stack(&heads, 1)
    }

    #[test]
    fn values_are_the_definition() -> Result<()> {
        let first: Vec<usize> = (0..2 * 13).map(|i| 1 + i * 7 % 71).collect();
        for (t, s, sees, lengths) in [
            (67, 67, Sees::Causal, [67, 41]),
            (3, 71, Sees::All, [71, 37]),
            (13, 71, Sees::First(first), [71, 37]),
        ] {
            let (q, k, v) =
                (numbers(&[2, t, 6, 5], 0.1), numbers(&[2, s, 3, 5], 0.7), numbers(&[2, s, 3, 5], 1.9));
            let [qv, kv, vv] = [&q, &k, &v].map(|x| Var::constant(x.clone()));
            let mask = KeyMask { lengths: lengths.to_vec(), sees: sees.clone() };
            let got = attention(&Tape::off(), &qv, &kv, &vv, &mask, 0.45)?;
            for (b, &length) in lengths.iter().enumerate() {
                let seen = |i: usize| match &sees {
                    Sees::All => length,
                    Sees::Causal => length.min(i + 1),
                    Sees::First(n) => length.min(n[b * t + i]),
                    Sees::Documents(_) | Sees::Trees(_) => unreachable!("not among the cases"),
                };
                let seen: Vec<usize> = (0..t).map(seen).collect();
                let want = naive(&q.get(b)?, &k.get(b)?, &v.get(b)?, &seen, 0.45)?;
                let difference = (got.value().get(b)? - want)?.abs()?.max_all()?.to_scalar::<f64>()?;
                assert!(difference < 1e-12, "{difference}");
            }
        }
        Ok(())
    }

    #[test]
    fn a_document_gives_the_bits_of_a_row_of_its_own() -> Result<()> {
        let inputs =
            [numbers(&[1, 47, 6, 5], 0.1), numbers(&[1, 47, 3, 5], 0.7), numbers(&[1, 47, 3, 5], 1.9)];
        let [q, k, v] = inputs.map(|x| Var::constant(x.to_dtype(candle_core::DType::F32).unwrap()));
        let lengths = [7, 1, 37];
        let mask = KeyMask { lengths: vec![45], sees: Sees::Documents(vec![lengths.to_vec()]) };
        let packed = attention(&Tape::off(), &q, &k, &v, &mask, 0.45)?;
        let mut start = 0;
        for n in lengths {
            let own = [&q, &k, &v]
                .map(|x| Var::constant(x.value().narrow(1, start, n).unwrap().contiguous().unwrap()));
            let alone = KeyMask { lengths: vec![n], sees: Sees::Causal };
            let alone = attention(&Tape::off(), &own[0], &own[1], &own[2], &alone, 0.45)?;
            let packed = packed.value().narrow(1, start, n)?.flatten_all()?.to_vec1::<f32>()?;
            assert_eq!(packed, alone.value().flatten_all()?.to_vec1::<f32>()?);
            start += n;
        }
        let wrong = KeyMask { lengths: vec![45], sees: Sees::Documents(vec![vec![7, 1]]) };
        assert!(attention(&Tape::off(), &q, &k, &v, &wrong, 0.45).is_err());
        Ok(())
    }

    #[test]
    fn a_branch_gives_the_bits_of_its_row_and_the_trunk_the_sum_of_the_gradients() -> Result<()> {
        let (trunk, branches) = (11, [3, 1, 35]);
        let n = trunk + branches.iter().sum::<usize>();
        let inputs = [numbers(&[1, n, 6, 5], 0.1), numbers(&[1, n, 3, 5], 0.7), numbers(&[1, n, 3, 5], 1.9)];
        let tape = Tape::on();
        let [q, k, v] = inputs.map(|x| tape.input(x.to_dtype(candle_core::DType::F32).unwrap()));
        let lengths: Vec<usize> = [trunk].into_iter().chain(branches).collect();
        let mask = KeyMask { lengths: vec![n], sees: Sees::Trees(vec![lengths]) };
        let together = attention(&tape, &q, &k, &v, &mask, 0.45)?;
        let slopes = numbers(together.value().dims(), 2.3).to_dtype(candle_core::DType::F32)?;
        let gradients = tape.backward_from(&[(&together, slopes.clone())])?;
        let mut trunk_sum = slopes.narrow(1, 0, trunk)?.narrow(2, 0, 3)?.zeros_like()?;
        let mut start = trunk;
        for (at, n) in branches.into_iter().enumerate() {
            let row = |x: &Tensor| {
                Tensor::cat(&[x.narrow(1, 0, trunk).unwrap(), x.narrow(1, start, n).unwrap()], 1).unwrap()
            };
            let tape = Tape::on();
            let [q, k, v] = [&q, &k, &v].map(|x| tape.input(row(x.value())));
            let mask = KeyMask { lengths: vec![trunk + n], sees: Sees::Causal };
            let alone = attention(&tape, &q, &k, &v, &mask, 0.45)?;
            let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(alone.value()), flat(&row(together.value())));
            // The trunk's own slopes count once.
            let mut slopes = row(&slopes);
            if at > 0 {
                slopes = Tensor::cat(
                    &[slopes.narrow(1, 0, trunk)?.zeros_like()?, slopes.narrow(1, trunk, n)?],
                    1,
                )?;
            }
            let found = tape.backward_from(&[(&alone, slopes)])?;
            trunk_sum = (trunk_sum + found.input(&k).unwrap().narrow(1, 0, trunk)?)?;
            start += n;
        }
        let got = gradients.input(&k).unwrap().narrow(1, 0, trunk)?;
        let worst = (got - trunk_sum)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(worst < 1e-5, "{worst}");
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() {
        let inputs = [numbers(&[2, 5, 4, 3], 0.1), numbers(&[2, 5, 2, 3], 0.7), numbers(&[2, 5, 2, 3], 1.9)];
        let causal = KeyMask { lengths: vec![5, 3], sees: Sees::Causal };
        gradcheck(&inputs, |t, v| attention(t, &v[0], &v[1], &v[2], &causal, 0.6));
        let first = KeyMask { lengths: vec![5, 4], sees: Sees::First(vec![0, 2, 5, 1, 3, 4, 0, 1, 5, 2]) };
        gradcheck(&inputs, |t, v| attention(t, &v[0], &v[1], &v[2], &first, 0.6));
        let documents = KeyMask { lengths: vec![5, 4], sees: Sees::Documents(vec![vec![2, 3], vec![1, 3]]) };
        gradcheck(&inputs, |t, v| attention(t, &v[0], &v[1], &v[2], &documents, 0.6));
        let trees = KeyMask { lengths: vec![5, 4], sees: Sees::Trees(vec![vec![2, 2, 1], vec![1, 1, 2]]) };
        gradcheck(&inputs, |t, v| attention(t, &v[0], &v[1], &v[2], &trees, 0.6));
        let inputs = [numbers(&[2, 2, 3, 5], 0.1), numbers(&[2, 7, 3, 5], 0.7), numbers(&[2, 7, 3, 5], 1.9)];
        let full = KeyMask { lengths: vec![0, 7], sees: Sees::All };
        gradcheck(&inputs, |t, v| attention(t, &v[0], &v[1], &v[2], &full, 0.6));
    }
}
