//! The optimiser: all weights in one launch.

use candle_core::{CudaDevice, DType, Device, Result, Tensor};

use super::{Args, THREADS, address, gpu_of, launch};
use crate::ops::{AdamWRule, AdamWUpdate};

/// Blocks for each of some tensors: enough for the largest.
fn blocks(sizes: impl Iterator<Item = usize>) -> usize {
    (sizes.max().unwrap_or(0) / (16 * THREADS)).clamp(1, 512)
}

fn addresses(gpu: &CudaDevice, rows: Vec<u64>) -> Result<Tensor> {
    let n = rows.len();
    let rows = rows.into_iter().map(u64::cast_signed).collect();
    Tensor::from_vec::<_, i64>(rows, n, &Device::Cuda(gpu.clone()))
}

/// The sum of squares of each tensor.
pub(crate) fn squares(tensors: &[Tensor]) -> Result<Vec<f64>> {
    let Some(first) = tensors.first() else { return Ok(vec![]) };
    let gpu = gpu_of(first)?;
    let blocks = blocks(tensors.iter().map(Tensor::elem_count));
    let mut rows = vec![];
    for tensor in tensors {
        rows.extend([address(tensor)?, tensor.elem_count() as u64]);
    }
    let rows = addresses(gpu, rows)?;
    let sums = Tensor::zeros(tensors.len() * blocks, DType::F64, first.device())?;
    let args = Args { tensors: &[&rows, &sums], sizes: &[blocks], numbers: &[] };
    launch(gpu, "squares", tensors.len() * blocks, THREADS, &args)?;
    Ok(sums.to_vec1::<f64>()?.chunks(blocks).map(|sums| sums.iter().sum()).collect())
}

/// One step of all weights.
pub(crate) fn adamw(rule: &AdamWRule, updates: &[AdamWUpdate<'_>]) -> Result<()> {
    let Some(first) = updates.first() else { return Ok(()) };
    let gpu = gpu_of(first.weight)?;
    let blocks = blocks(updates.iter().map(|u| u.weight.elem_count()));
    let (mut rows, mut rules) = (vec![], vec![]);
    for update in updates {
        for tensor in [update.weight, update.mean, update.square, update.gradient] {
            rows.push(address(tensor)?);
        }
        rows.push(update.weight.elem_count() as u64);
        rules.extend([update.clip, update.decay, update.step_size, update.root]);
    }
    let (rows, n) = (addresses(gpu, rows)?, rules.len());
    let rules = Tensor::from_vec(rules, n, first.weight.device())?;
    let numbers = [rule.mean_weight, rule.square_keep, rule.square_weight, rule.eps].map(f64::from);
    let args = Args { tensors: &[&rows, &rules], sizes: &[blocks], numbers: &numbers };
    launch(gpu, "adamw", updates.len() * blocks, THREADS, &args)
}
