//! Log-probabilities of tokens: the head's products over blocks of rows, softmax by one kernel.

use std::ops::Range;

use candle_core::{CudaDevice, Result, Tensor};

use super::product::{Matrices, Sizes, multiply};
use super::{Args, THREADS, elements, empty, gpu_of, indices, launch, zeros};
use crate::ops::token_logprobs::Head;

/// Logits that exist at once, 256 MiB.
const LOGITS: usize = 1 << 26;
/// Threads that share a row of logits.
const ROW_THREADS: usize = 1024;

/// The logits of one block of rows.
struct Logits {
    rows: Range<usize>,
    logits: Tensor,
    targets: Tensor,
}

impl Head<'_> {
    fn sizes(&self) -> Result<(usize, usize, usize)> {
        let (vocab, width) = self.weight.dims2()?;
        Ok((self.targets.len(), vocab, width))
    }

    fn blocks(&self) -> Result<Vec<Range<usize>>> {
        let (rows, vocab, _) = self.sizes()?;
        let size = (LOGITS / vocab.max(1)).max(16);
        Ok((0..rows).step_by(size).map(|from| from..(from + size).min(rows)).collect())
    }

    fn logits(&self, gpu: &CudaDevice, rows: Range<usize>) -> Result<Logits> {
        let (_, vocab, width) = self.sizes()?;
        let logits = empty(gpu, (rows.len(), vocab))?;
        let hidden = Matrices::new(self.hidden, rows.start * width, width, 0)?;
        let weight = Matrices::new(self.weight, 0, width, 0)?;
        let sizes = Sizes { batch: 1, rows: rows.len(), depth: width, cols: vocab };
        multiply(gpu, sizes, Matrices::new(&logits, 0, vocab, 0)?, (hidden, weight.t()), 1.0, false)?;
        let targets = indices(gpu, self.targets[rows.clone()].iter().map(|&t| t as usize))?;
        Ok(Logits { rows, logits, targets })
    }

    /// Logits become slopes of the log-probabilities, times `grad [N]` if there is one, and those of the hidden states are
    /// written to `dx [N, C]`.
    fn slopes(
        &self,
        gpu: &CudaDevice,
        block: &Logits,
        log_sums: &Tensor,
        grad: Option<&Tensor>,
        dx: &Tensor,
    ) -> Result<()> {
        let ((_, vocab, width), n) = (self.sizes()?, block.logits.elem_count());
        let rows = block.rows.len();
        let part = |x: &Tensor| x.narrow(0, block.rows.start, rows);
        let (log_sums, weights) = (part(log_sums)?, grad.map(part).transpose()?);
        let args = Args {
            tensors: &[&block.logits, &block.targets, &log_sums, weights.as_ref().unwrap_or(&log_sums)],
            sizes: &[n, vocab, grad.is_some().into()],
            numbers: &[1.0 / self.temperature],
        };
        launch(gpu, "logit_slopes", elements(n), THREADS, &args)?;
        let out = Matrices::new(dx, block.rows.start * width, width, 0)?;
        let sides = (Matrices::new(&block.logits, 0, vocab, 0)?, Matrices::new(self.weight, 0, width, 0)?);
        multiply(gpu, Sizes { batch: 1, rows, depth: vocab, cols: width }, out, sides, 1.0, false)
    }
}

/// Log-probabilities, entropies, log-sums `[N]`; with `unit` also d logprob / d hidden `[N, C]`.
pub(crate) fn score(head: &Head<'_>, unit: bool) -> Result<(Tensor, Tensor, Tensor, Option<Tensor>)> {
    let gpu = gpu_of(head.hidden)?;
    let (rows, vocab, width) = head.sizes()?;
    let (logprobs, entropy, log_sums) = (empty(gpu, rows)?, empty(gpu, rows)?, empty(gpu, rows)?);
    let slopes = unit.then(|| empty(gpu, (rows, width))).transpose()?;
    for rows in head.blocks()? {
        let block = head.logits(gpu, rows)?;
        let part = |x: &Tensor| x.narrow(0, block.rows.start, block.rows.len());
        let args = Args {
            tensors: &[&block.logits, &block.targets, &part(&logprobs)?, &part(&entropy)?, &part(&log_sums)?],
            sizes: &[vocab],
            numbers: &[1.0 / head.temperature],
        };
        launch(gpu, "logit_summary", block.rows.len(), ROW_THREADS, &args)?;
        if let Some(slopes) = &slopes {
            head.slopes(gpu, &block, &log_sums, None, slopes)?;
        }
    }
    Ok((logprobs, entropy, log_sums, slopes))
}

/// Gradients of the hidden states and the head's weight.
pub(crate) fn score_slopes(head: &Head<'_>, log_sums: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let gpu = gpu_of(head.hidden)?;
    let (rows, vocab, width) = head.sizes()?;
    let (dx, dw) = (empty(gpu, (rows, width))?, zeros(gpu, (vocab, width))?);
    for rows in head.blocks()? {
        let block = head.logits(gpu, rows)?;
        head.slopes(gpu, &block, log_sums, Some(grad), &dx)?;
        let sides = (
            Matrices::new(&block.logits, 0, vocab, 0)?.t(),
            Matrices::new(head.hidden, block.rows.start * width, width, 0)?,
        );
        let sizes = Sizes { batch: 1, rows: vocab, depth: block.rows.len(), cols: width };
        multiply(gpu, sizes, Matrices::new(&dw, 0, width, 0)?, sides, 1.0, true)?;
    }
    Ok((dx, dw))
}
