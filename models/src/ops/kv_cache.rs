//! Attention of new tokens to all that a sequence holds, for generation.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::ops::attention::{Dims, Head, attend, write_token};
use crate::ops::kernel::LANES;
use crate::view::{tensor, view};

/// Keys and values of one layer for generation: preallocated, one line per sequence.
pub struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// keys and values on a GPU, `[rows · capacity, groups · dim]`; the vectors are empty then
    #[cfg(feature = "cuda")]
    gpu: Option<[Tensor; 2]>,
    groups: usize,
    dim: usize,
    capacity: usize,
}

impl KvCache {
    /// Room for `capacity` tokens in each of `rows` sequences with `groups` key heads of width `dim`, on the device of the
    /// model.
    ///
    /// # Errors
    /// When a GPU has too little memory.
    pub fn new(rows: usize, capacity: usize, groups: usize, dim: usize, device: &Device) -> Result<Self> {
        let capacity = capacity.next_multiple_of(LANES);
        let heads = if device.is_cpu() { rows * groups * capacity } else { 0 };
        let (keys, values) = (vec![0.0; heads * dim], vec![0.0; heads * dim.next_multiple_of(LANES)]);
        #[cfg(feature = "cuda")]
        let zeros = || Tensor::zeros((rows * capacity, groups * dim), candle_core::DType::F32, device);
        Ok(Self {
            keys,
            values,
            #[cfg(feature = "cuda")]
            gpu: if device.is_cuda() { Some([zeros()?, zeros()?]) } else { None },
            groups,
            dim,
            capacity,
        })
    }

    /// Tokens that fit in a row.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The rows `rows` of this cache, copied, in that order.
    ///
    /// # Errors
    /// When a GPU has too little memory.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let copy = |x: &[f32], width: usize| {
            rows.iter().flat_map(|&r| x[r * width..(r + 1) * width].iter().copied()).collect()
        };
        let (keys, values) = (self.key_size() * self.groups, self.value_size() * self.groups);
        #[cfg(feature = "cuda")]
        if let Some([keys, values]) = &self.gpu {
            let places = || rows.iter().flat_map(|&row| row * self.capacity..(row + 1) * self.capacity);
            let pick = |held: &Tensor| crate::cuda::gather_rows(held, places());
            let gpu = Some([pick(keys)?, pick(values)?]);
            return Ok(Self { keys: vec![], values: vec![], gpu, ..*self });
        }
        Ok(Self {
            keys: copy(&self.keys, keys),
            values: copy(&self.values, values),
            #[cfg(feature = "cuda")]
            gpu: None,
            ..*self
        })
    }

    fn key_size(&self) -> usize {
        self.capacity * self.dim
    }

    fn value_size(&self) -> usize {
        self.capacity * self.dim.next_multiple_of(LANES)
    }

    /// Appends `lengths[b]` tokens to each sequence, from position `starts[b]` on, and attends from them, causally, to all
    /// that the sequence holds. Batch row b is the cache's row `rows[b]`.
    ///
    /// # Shapes
    /// q `[B, T, H, D]`, k and v `[B, T, G, D]`, f32 → `[B, T, H, D]`
    ///
    /// # Errors
    /// On shapes that do not fit, or a full cache.
    pub fn attend(
        &mut self,
        qkv: [&Tensor; 3],
        rows: &[usize],
        starts: &[usize],
        lengths: &[usize],
        scale: f64,
    ) -> Result<Tensor> {
        let dims = Dims::new(qkv[0], qkv[1], qkv[2])?;
        if dims.groups != self.groups
            || dims.dim != self.dim
            || [rows.len(), starts.len(), lengths.len()] != [dims.batch; 3]
        {
            bail!(
                "cache of {} heads × {}: k {:?} for {} rows",
                self.groups,
                self.dim,
                qkv[1].dims(),
                rows.len()
            );
        }
        if let Some(b) = (0..dims.batch).find(|&b| starts[b] + lengths[b] > self.capacity) {
            bail!("cache: {} + {} tokens, room for {}", starts[b], lengths[b], self.capacity);
        }
        #[cfg(feature = "cuda")]
        if let Some(cache) = &self.gpu {
            return crate::cuda::attend(cache, self.capacity, qkv, (rows, starts, lengths), scale);
        }
        let [q, k, v] = [qkv[0].contiguous()?, qkv[1].contiguous()?, qkv[2].contiguous()?];
        let (q, k, v) = (view::<f32>(&q)?, view::<f32>(&k)?, view::<f32>(&v)?);
        let (key_size, value_size) = (self.key_size(), self.value_size());
        for b in 0..dims.batch {
            for g in 0..self.groups {
                let head = rows[b] * self.groups + g;
                let keys = &mut self.keys[head * key_size..(head + 1) * key_size];
                let values = &mut self.values[head * value_size..(head + 1) * value_size];
                for t in 0..lengths[b] {
                    let at = dims.at(b, t, dims.keys, g, 1);
                    let token = at..at + dims.dim;
                    write_token((&mut *keys, &mut *values), starts[b] + t, &k[token.clone()], &v[token]);
                }
            }
        }
        let mut out = vec![0.0; q.len()];
        out.par_chunks_mut((dims.rows() * dims.dim).max(1)).enumerate().for_each(|(task, out)| {
            let (b, g) = dims.head(task);
            let head = rows[b] * self.groups + g;
            let keys = &self.keys[head * key_size..(head + 1) * key_size];
            let values = &self.values[head * value_size..(head + 1) * value_size];
            let queries = dims.gather(&q, (b, g), dims.queries, dims.share, scale as f32);
            let visible = dims.visible(starts[b] + lengths[b], |t| starts[b] + t + 1);
            let mut log_sums = vec![0.0; visible.len()];
            attend(&queries, &visible, Head { keys, values, dim: dims.dim }, out, &mut log_sums);
        });
        tensor(dims.spread(out, dims.queries, dims.share), qkv[0].dims())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::numbers;
    use crate::ops::{KeyMask, Sees, attention};
    use crate::tape::{Tape, Var};
    use candle_core::DType;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_cache_gives_the_bits_of_the_whole(t in 1usize..75, cut in 0usize..75, dim in 1usize..40, share in 1usize..4) {
            let f32s = |shape: &[usize], seed| numbers(shape, seed).to_dtype(DType::F32).unwrap();
            let (groups, cut) = (2, cut.min(t));
            let q = f32s(&[1, t, groups * share, dim], 0.3);
            let (k, v) = (f32s(&[1, t, groups, dim], 1.1), f32s(&[1, t, groups, dim], 2.3));
            let [qv, kv, vv] = [&q, &k, &v].map(|x| Var::constant(x.clone()));
            let mask = KeyMask { lengths: vec![t], sees: Sees::Causal };
            let whole = attention(&Tape::off(), &qv, &kv, &vv, &mask, 0.7).unwrap();
            let mut cache = KvCache::new(3, t + 5, groups, dim, &Device::Cpu).unwrap();
            let mut parts = Vec::new();
            // a prefill of `cut` tokens, then one token at a time
            let steps = std::iter::once((0, cut)).chain((cut..t).map(|at| (at, 1))).filter(|s| s.1 > 0);
            for (at, n) in steps {
                let part = |x: &Tensor| x.narrow(1, at, n).unwrap();
                parts.push(cache.attend([&part(&q), &part(&k), &part(&v)], &[1], &[at], &[n], 0.7).unwrap());
            }
            let parts = Tensor::cat(&parts, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(parts, whole.value().flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
    }
}
