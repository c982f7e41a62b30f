//! Rows by number, sums over rows.

use candle_core::{Result, Tensor, bail};

use super::{Args, THREADS, elements, empty, gpu_of, indices, launch, zeros};

/// The rows `ids` of a table `[V, C]` → `[N, C]`.
pub(crate) fn gather_rows(table: &Tensor, ids: impl IntoIterator<Item = usize>) -> Result<Tensor> {
    let (gpu, (_, width)) = (gpu_of(table)?, table.dims2()?);
    let ids = indices(gpu, ids)?;
    let out = empty(gpu, (ids.dim(0)?, width))?;
    let n = out.elem_count();
    let args = Args { tensors: &[table, &ids, &out], sizes: &[n, width], numbers: &[] };
    launch(gpu, "gather_rows", elements(n), THREADS, &args)?;
    Ok(out)
}

/// `into[ids[m]] = x[m]`, in place; different ids.
pub(crate) fn scatter_rows(into: &Tensor, ids: &[usize], x: &Tensor) -> Result<()> {
    let (gpu, (_, width)) = (gpu_of(into)?, into.dims2()?);
    let (ids, n) = (indices(gpu, ids.iter().copied())?, x.elem_count());
    let args = Args { tensors: &[x, &ids, into], sizes: &[n, width], numbers: &[] };
    launch(gpu, "scatter_rows", elements(n), THREADS, &args)
}

/// Adds the rows of `x [N, C]` to the rows of their ids among `n`, each id's in their order → `[n, C]`.
pub(crate) fn sum_rows_of_ids(x: &Tensor, ids: &[u32], n: usize, width: usize) -> Result<Tensor> {
    let gpu = gpu_of(x)?;
    let out = zeros(gpu, (n, width))?;
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&at| ids[at]); // stable
    let of_one: Vec<&[usize]> = order.chunk_by(|&a, &b| ids[a] == ids[b]).collect();
    let mut starts = vec![0];
    starts.extend(of_one.iter().scan(0, |end, rows| {
        *end += rows.len();
        Some(*end)
    }));
    let blocks = of_one.len();
    let different = indices(gpu, of_one.iter().map(|rows| ids[rows[0]] as usize))?;
    let (starts, order) = (indices(gpu, starts)?, indices(gpu, order)?);
    let args = Args { tensors: &[x, &different, &starts, &order, &out], sizes: &[width], numbers: &[] };
    launch(gpu, "sum_rows_of_ids", blocks, THREADS, &args)?;
    Ok(out)
}

/// Rows that one block sums.
const BLOCK: usize = 256;

/// Sums over all but the last dimension.
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let Some(&width) = x.dims().last() else { bail!("column sums of a scalar") };
    let (gpu, rows) = (gpu_of(x)?, x.elem_count() / width.max(1));
    let sums = |x: &Tensor, rows: usize, block: usize| {
        let blocks = rows.div_ceil(block);
        let out = empty(gpu, (blocks, width))?;
        let args = Args { tensors: &[x, &out], sizes: &[rows, width, block], numbers: &[] };
        launch(gpu, "column_sums", blocks * width.div_ceil(32), THREADS, &args)?;
        Ok::<_, candle_core::Error>(out)
    };
    if rows == 0 {
        return zeros(gpu, width);
    }
    let parts = sums(x, rows, BLOCK)?;
    let blocks = parts.dim(0)?;
    sums(&parts, blocks, blocks)?.reshape(width)
}
