//! Attention by products over blocks of queries; what softmax and masks do to a block of scores is one kernel.

use std::ops::Range;

use candle_core::{CudaDevice, DType, Device, Result, Tensor};

use super::product::{Matrices, Sizes, multiply};
use super::{Args, THREADS, address, elements, empty, gpu_of, launch, warps, zeros};
use crate::ops::attention::{Dims, Saved};
use crate::ops::{KeyMask, Sees};

/// Scores that exist at once, about: 32 MiB stay in the GPU's cache from one kernel to the next.
const SCORES: usize = 1 << 23;

/// The queries of a batch in blocks, and what each sees.
struct Queries {
    /// `[B, T, 3]`: query t sees key j if j < s₀ or s₁ ≤ j < s₂
    sees: Tensor,
    blocks: Vec<Block>,
}

/// Some queries of all batch rows, and the keys that they see.
struct Block {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Queries {
    fn new(gpu: &CudaDevice, mask: &KeyMask, dims: Dims) -> Result<Self> {
        let mut sees = Vec::with_capacity(dims.batch * dims.queries);
        for (b, &length) in mask.lengths.iter().enumerate() {
            let n = length as u32;
            match &mask.sees {
                Sees::All => sees.extend((0..dims.queries).map(|_| [0, 0, n])),
                Sees::Causal => sees.extend((0..dims.queries as u32).map(|t| [0, 0, n.min(t + 1)])),
                Sees::First(first) => {
                    let first = &first[b * dims.queries..(b + 1) * dims.queries];
                    sees.extend(first.iter().map(|&seen| [0, 0, n.min(seen as u32)]));
                }
                Sees::Documents(rows) => sees.extend(spans(&rows[b], 0, dims.queries)),
                Sees::Trees(rows) => {
                    sees.extend(spans(&rows[b], rows[b].first().copied().unwrap_or(0), dims.queries));
                }
            }
        }
        let scores_of_query = dims.batch * dims.groups * dims.share * dims.keys;
        let size = (SCORES / scores_of_query.max(1)).clamp(16, dims.queries.max(16));
        let block = |from: usize| {
            let queries = from..(from + size).min(dims.queries);
            let of = |b: usize| &sees[b * dims.queries + queries.start..b * dims.queries + queries.end];
            let seen = (0..dims.batch).flat_map(of);
            let first = |s: &[u32; 3]| if s[0] > 0 { 0 } else { s[1] };
            let end = seen.clone().map(|s| s[0].max(s[2])).max().unwrap_or(0);
            let start = seen.filter(|s| s[0] > 0 || s[1] < s[2]).map(first).min().unwrap_or(0);
            Block { queries, keys: start as usize..end as usize }
        };
        let blocks = (0..dims.queries).step_by(size).map(block).filter(|b| !b.keys.is_empty()).collect();
        let sees: Vec<u32> = sees.into_iter().flatten().collect();
        let sees = Tensor::from_vec(sees, (dims.batch, dims.queries, 3), &Device::Cuda(gpu.clone()))?;
        Ok(Self { sees, blocks })
    }
}

/// What the queries of spans of these lengths see: `trunk` keys of the row and those of their own span up to themselves;
/// the first span is the trunk itself, or there is none. Queries behind the last span see nothing.
fn spans(lengths: &[usize], trunk: usize, queries: usize) -> impl Iterator<Item = [u32; 3]> {
    let mut start = 0;
    let mut sees = vec![];
    for &n in lengths {
        let trunk = if start == 0 { 0 } else { trunk };
        sees.extend((start..start + n).map(|t| [trunk as u32, start as u32, t as u32 + 1]));
        start += n;
    }
    sees.into_iter().chain(std::iter::repeat([0; 3])).take(queries)
}

/// One block of one op: its sizes, and where its parts lie.
struct Shape<'a> {
    dims: Dims,
    block: &'a Block,
    /// numbers from one row of scores to the next, a multiple of 4 for the tensor cores
    stride: usize,
}

impl Shape<'_> {
    fn rows(&self) -> usize {
        self.block.queries.len() * self.dims.share
    }

    fn sizes(&self, depth: usize, cols: usize) -> Sizes {
        Sizes { batch: self.dims.batch * self.dims.groups, rows: self.rows(), depth, cols }
    }

    /// For products that sum over the queries.
    fn sizes_of_keys(&self) -> Sizes {
        Sizes { rows: self.block.keys.len(), ..self.sizes(self.rows(), self.dims.dim) }
    }

    /// The block's scores of every head.
    fn scores(&self, tensor: &Tensor) -> Result<Matrices> {
        Matrices::new(tensor, 0, self.stride, self.rows() * self.stride)
    }

    /// The block's rows of `[B · G, T · share, D]`.
    fn of_queries(&self, tensor: &Tensor) -> Result<Matrices> {
        let Dims { share, dim, queries, .. } = self.dims;
        Matrices::new(tensor, self.block.queries.start * share * dim, dim, queries * share * dim)
    }

    /// The block's keys of `[B · G, S, D]`.
    fn of_keys(&self, tensor: &Tensor) -> Result<Matrices> {
        let Dims { dim, keys, .. } = self.dims;
        Matrices::new(tensor, self.block.keys.start * dim, dim, keys * dim)
    }

    /// The whole numbers that both kernels of scores are given.
    fn kernel_sizes(&self) -> [usize; 9] {
        let (Dims { batch, groups, share, queries, .. }, block) = (self.dims, self.block);
        let rows = batch * groups * self.rows();
        let seen = block.queries.len();
        [
            rows,
            seen,
            share,
            groups,
            queries,
            block.queries.start,
            block.keys.start,
            block.keys.len(),
            self.stride,
        ]
    }
}

fn shapes(dims: Dims, queries: &Queries) -> impl Iterator<Item = Shape<'_>> {
    queries.blocks.iter().map(move |block| {
        let stride = block.keys.len().next_multiple_of(4);
        Shape { dims, block, stride }
    })
}

/// Room for the scores of any block.
fn scores(gpu: &CudaDevice, dims: Dims, queries: &Queries) -> Result<Tensor> {
    let size = |s: Shape<'_>| dims.batch * dims.groups * s.rows() * s.stride;
    empty(gpu, shapes(dims, queries).map(size).max().unwrap_or(0))
}

/// `[B, tokens, G, width]` → `[B, G, tokens, width]`.
fn heads_first(gpu: &CudaDevice, dims: Dims, x: &Tensor, tokens: usize, width: usize) -> Result<Tensor> {
    swap(gpu, x, [dims.batch, tokens, dims.groups, width])
}

/// `[batch, n, m, width]` → `[batch, m, n, width]`.
fn swap(gpu: &CudaDevice, x: &Tensor, [batch, n, m, width]: [usize; 4]) -> Result<Tensor> {
    let (out, total) = (empty(gpu, (batch, m, n, width))?, x.elem_count());
    let aligned = width.is_multiple_of(4) && address(x)?.is_multiple_of(16);
    let (kernel, each) = if aligned { ("swap_axes_4", 4) } else { ("swap_axes", 1) };
    let args = Args { tensors: &[x, &out], sizes: &[total / each, n, m, width / each], numbers: &[] };
    launch(gpu, kernel, elements(total / each), THREADS, &args)?;
    Ok(out)
}

/// The output, and the log-sums of the scores, `[B · G, T · share]`.
pub(crate) fn attention(
    inputs: &[Tensor; 3],
    dims: Dims,
    mask: &KeyMask,
    scale: f64,
) -> Result<(Tensor, Tensor)> {
    let gpu = gpu_of(&inputs[0])?;
    let Dims { batch, queries: tokens, keys, groups, share, dim } = dims;
    let queries = Queries::new(gpu, mask, dims)?;
    let q = heads_first(gpu, dims, &inputs[0], tokens, share * dim)?;
    let k = heads_first(gpu, dims, &inputs[1], keys, dim)?;
    let v = heads_first(gpu, dims, &inputs[2], keys, dim)?;
    let out = zeros(gpu, (batch, groups, tokens, share * dim))?;
    let log_sums = zeros(gpu, (batch * groups, dims.rows()))?;
    let scores = scores(gpu, dims, &queries)?;
    for shape in shapes(dims, &queries) {
        let seen = shape.block.keys.len();
        let (all, k, v) = (shape.scores(&scores)?, shape.of_keys(&k)?, shape.of_keys(&v)?);
        multiply(gpu, shape.sizes(dim, seen), all, (shape.of_queries(&q)?, k.t()), scale, false)?;
        let sizes = &shape.kernel_sizes();
        let args = Args { tensors: &[&scores, &queries.sees, &log_sums], sizes, numbers: &[] };
        launch(gpu, "attention_weights", warps(sizes[0]), THREADS, &args)?;
        multiply(gpu, shape.sizes(seen, dim), shape.of_queries(&out)?, (all, v), 1.0, false)?;
    }
    let out = swap(gpu, &out, [batch, groups, tokens, share * dim])?;
    Ok((out.reshape(inputs[0].shape())?, log_sums))
}

/// Gradients of q, k and v; the formulas are those of the CPU.
pub(crate) fn attention_gradients(saved: &Saved, grad: &Tensor) -> Result<[Tensor; 3]> {
    let Saved { inputs, output, log_sums, dims, mask, scale } = saved;
    let (dims, scale, gpu) = (*dims, *scale, gpu_of(grad)?);
    let Dims { batch, queries: tokens, keys, groups, share, dim } = dims;
    let queries = Queries::new(gpu, mask, dims)?;
    let of_queries = |x: &Tensor| heads_first(gpu, dims, x, tokens, share * dim);
    let (q, output, grad) = (of_queries(&inputs[0])?, of_queries(output)?, of_queries(grad)?);
    let k = heads_first(gpu, dims, &inputs[1], keys, dim)?;
    let v = heads_first(gpu, dims, &inputs[2], keys, dim)?;
    let dq = Tensor::zeros(q.shape(), DType::F32, q.device())?;
    let (dk, dv) = (zeros(gpu, k.shape())?, zeros(gpu, v.shape())?);
    let (weights, slopes) = (scores(gpu, dims, &queries)?, scores(gpu, dims, &queries)?);
    for shape in shapes(dims, &queries) {
        let seen = shape.block.keys.len();
        let (p, ds) = (shape.scores(&weights)?, shape.scores(&slopes)?);
        let (q, g) = (shape.of_queries(&q)?, shape.of_queries(&grad)?);
        let (k, v) = (shape.of_keys(&k)?, shape.of_keys(&v)?);
        multiply(gpu, shape.sizes(dim, seen), p, (q, k.t()), scale, false)?;
        multiply(gpu, shape.sizes(dim, seen), ds, (g, v.t()), 1.0, false)?;
        let sizes = &[&shape.kernel_sizes()[..], &[dim]].concat();
        let tensors = &[&weights, &slopes, &queries.sees, log_sums, &output, &grad];
        let args = Args { tensors, sizes, numbers: &[scale] };
        launch(gpu, "attention_slopes", warps(sizes[0]), THREADS, &args)?;
        multiply(gpu, shape.sizes_of_keys(), shape.of_keys(&dv)?, (p.t(), g), 1.0, true)?;
        multiply(gpu, shape.sizes(seen, dim), shape.of_queries(&dq)?, (ds, k), 1.0, false)?;
        multiply(gpu, shape.sizes_of_keys(), shape.of_keys(&dk)?, (ds.t(), q), 1.0, true)?;
    }
    Ok([
        swap(gpu, &dq, [batch, groups, tokens, share * dim])?.reshape(inputs[0].shape())?,
        swap(gpu, &dk, [batch, groups, keys, dim])?.reshape(inputs[1].shape())?,
        swap(gpu, &dv, [batch, groups, keys, dim])?.reshape(inputs[2].shape())?,
    ])
}
