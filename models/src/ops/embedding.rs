//! Rows of a table by number.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::device::on_gpu;
use crate::dispatch;
use crate::ops::kernel::{Number, add_to};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// `y[.., c] = table[ids[..], c]`.
///
/// # Shapes
/// table `[V, C]`, ids `[..]` u32, on the CPU wherever the table lies → `[.., C]`
///
/// # Errors
/// On an id that the table does not have.
pub fn embedding(tape: &Tape, table: &Var, ids: &Tensor) -> Result<Var> {
    let (n, width) = table.value().dims2()?;
    if ids.dtype() != DType::U32 {
        bail!("embedding: ids are {:?}, expected U32", ids.dtype());
    }
    let ids_tensor = ids.contiguous()?;
    let ids = view::<u32>(&ids_tensor)?.to_vec();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= n) {
        bail!("embedding: id {id}, the table has {n} rows");
    }
    let shape = [ids_tensor.dims(), &[width]].concat();
    let value = gather(table.value(), &ids)?.reshape(shape)?;
    let parent = table.clone();
    Ok(tape.record(value, &[table], move |grad, grads| {
        grads.add(&parent, sum_by_id(&grad.contiguous()?, &ids, (n, width))?)
    }))
}

/// The rows `ids` of a table.
fn gather(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    on_gpu!(table => crate::cuda::gather_rows(table, ids.iter().map(|&id| id as usize)));
    let (_, width) = table.dims2()?;
    dispatch!(table.dtype(), T => {
        let rows = view::<T>(table)?;
        let mut out = Vec::with_capacity(ids.len() * width);
        ids.iter().for_each(|&id| out.extend_from_slice(&rows[id as usize * width..(id as usize + 1) * width]));
        tensor::<T>(out, (ids.len(), width))
    })
}

/// Adds gradient rows to the rows of their ids in a table of that shape.
fn sum_by_id(grad: &Tensor, ids: &[u32], (n, width): (usize, usize)) -> Result<Tensor> {
    on_gpu!(grad => crate::cuda::sum_rows_of_ids(grad, ids, n, width));
    dispatch!(grad.dtype(), T => tensor(scatter::<T>(&view::<T>(grad)?, ids, n, width), (n, width)))
}

/// `x` with some rows replaced: `y[rows[m]] = new[m]`. The gradient of a replaced row goes to `new` alone.
///
/// # Shapes
/// x `[N, C]`, new `[M, C]`, M different rows → `[N, C]`
///
/// # Errors
/// On a row that x does not have, or another number of rows than `new` has.
pub fn replace_rows(tape: &Tape, x: &Var, rows: &[usize], new: &Var) -> Result<Var> {
    let (n, width) = x.value().dims2()?;
    if new.value().dims() != [rows.len(), width] || rows.iter().any(|&r| r >= n) {
        bail!("replace_rows: x [{n}, {width}], {} rows, new {:?}", rows.len(), new.value().dims());
    }
    let (base, parts) = (x.value().contiguous()?, new.value().contiguous()?);
    let value = replaced(&base, rows, &parts)?;
    let (px, pn, rows) = (x.clone(), new.clone(), rows.to_vec());
    Ok(tape.record(value, &[x, new], move |grad, grads| {
        let grad = grad.contiguous()?;
        let ids: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let dnew = gather(&grad, &ids)?;
        grads.add(&px, replaced(&grad, &rows, &dnew.zeros_like()?)?)?;
        grads.add(&pn, dnew)
    }))
}

/// A copy of x with `new` in the places of the rows `rows`.
fn replaced(x: &Tensor, rows: &[usize], new: &Tensor) -> Result<Tensor> {
    on_gpu!(x => {
        let out = x.copy()?;
        crate::cuda::scatter_rows(&out, rows, new).map(|()| out)
    });
    let (n, width) = x.dims2()?;
    dispatch!(x.dtype(), T => {
        let (mut out, parts) = (view::<T>(x)?.to_vec(), view::<T>(new)?);
        for (&row, part) in rows.iter().zip(parts.chunks_exact(width)) {
            out[row * width..(row + 1) * width].copy_from_slice(part);
        }
        tensor(out, (n, width))
    })
}

/// Adds gradient rows to the rows of their ids: in parallel over ids, each id's rows in their order in the batch.
fn scatter<T: Number>(grad: &[T], ids: &[u32], n: usize, width: usize) -> Vec<T> {
    let mut order: Vec<usize> = (0..ids.len()).collect();
    order.sort_by_key(|&at| ids[at]); // stable
    let mut sums = vec![T::zero(); n * width];
    if width == 0 {
        return sums;
    }
    sums.par_chunks_mut(width).enumerate().for_each(|(id, sum)| {
        let first = order.partition_point(|&at| (ids[at] as usize) < id);
        for &at in order[first..].iter().take_while(|&&at| ids[at] as usize == id) {
            add_to(sum, &grad[at * width..(at + 1) * width]);
        }
    });
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::Device;

    #[test]
    fn replaced_rows_send_their_gradient_to_the_new_ones() {
        gradcheck(&[numbers(&[7, 3], 0.1), numbers(&[2, 3], 1.1)], |t, v| {
            replace_rows(t, &v[0], &[5, 2], &v[1])
        });
    }

    #[test]
    fn rows_that_repeat_add_their_gradients() {
        let ids = Tensor::new(&[[4u32, 1, 4], [0, 4, 2]], &Device::Cpu).unwrap();
        let inside = ids.clone();
        gradcheck(&[numbers(&[7, 3], 0.1)], move |t, v| embedding(t, &v[0], &inside));
        let table = Var::constant(numbers(&[4, 3], 0.1));
        assert!(embedding(&Tape::off(), &table, &ids).unwrap_err().to_string().contains("id 4"));
    }
}
