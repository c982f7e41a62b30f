//! Rows of a table by number.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::ops::kernel::{Number, add_to};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// `y[.., c] = table[ids[..], c]`.
///
/// # Shapes
/// table `[V, C]`, ids `[..]` u32 → `[.., C]`
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
    let value = dispatch!(table.value().dtype(), T => {
        let rows = view::<T>(table.value())?;
        let mut out = Vec::with_capacity(ids.len() * width);
        ids.iter().for_each(|&id| out.extend_from_slice(&rows[id as usize * width..(id as usize + 1) * width]));
        tensor::<T>(out, shape)?
    });
    let parent = table.clone();
    Ok(tape.record(value, &[table], move |grad, grads| {
        let grad = grad.contiguous()?;
        let dtable = dispatch!(grad.dtype(), T => tensor(scatter::<T>(&view::<T>(&grad)?, &ids, n, width), (n, width))?);
        grads.add(&parent, dtable)
    }))
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
    let value = dispatch!(base.dtype(), T => {
        let (mut out, parts) = (view::<T>(&base)?.to_vec(), view::<T>(&parts)?);
        for (&row, part) in rows.iter().zip(parts.chunks_exact(width)) {
            out[row * width..(row + 1) * width].copy_from_slice(part);
        }
        tensor(out, (n, width))?
    });
    let (px, pn, rows) = (x.clone(), new.clone(), rows.to_vec());
    Ok(tape.record(value, &[x, new], move |grad, grads| {
        let grad = grad.contiguous()?;
        dispatch!(grad.dtype(), T => {
            let mut dx = view::<T>(&grad)?.to_vec();
            let mut dnew = Vec::with_capacity(rows.len() * width);
            for &row in &rows {
                let row = &mut dx[row * width..(row + 1) * width];
                dnew.extend_from_slice(row);
                row.fill(T::default());
            }
            grads.add(&px, tensor(dx, (n, width))?)?;
            grads.add(&pn, tensor(dnew, (rows.len(), width))?)
        })
    }))
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
