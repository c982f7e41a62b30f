//! CPU tensors as slices.
//!
//! Every fused op is a plain loop over slices, generic over [`Real`] so that its gradient can be checked in f64.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Deref;
use std::panic::Location;
use std::path::Path;

use candle_core::{
    CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Storage, StorageRef, Tensor, WithDType, bail,
};

use crate::device::on_gpu;
use crate::matmul::{self, Kernel};

/// The number types the ops are written for: f32 (training, inference) and f64 (gradient checks).
pub trait Real: WithDType + std::ops::Neg<Output = Self> + std::iter::Sum + Default {
    /// e^x
    fn exp(self) -> Self;
    /// natural logarithm
    fn ln(self) -> Self;
    /// hyperbolic tangent
    fn tanh(self) -> Self;
    /// square root
    fn sqrt(self) -> Self;
    /// the larger of two (neither is NaN)
    fn max(self, other: Self) -> Self;
    /// Our own kernels for products, the first that fits is taken.
    #[doc(hidden)]
    const KERNELS: &[Kernel<Self>];
}

macro_rules! real {
    ($t:ty, $kernels:expr) => {
        impl Real for $t {
            fn exp(self) -> Self {
                <$t>::exp(self)
            }
            fn ln(self) -> Self {
                <$t>::ln(self)
            }
            fn tanh(self) -> Self {
                <$t>::tanh(self)
            }
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            fn max(self, other: Self) -> Self {
                <$t>::max(self, other)
            }
            const KERNELS: &[Kernel<Self>] = $kernels;
        }
    };
}
real!(f32, matmul::KERNELS);
real!(f64, &[]);

/// Runs `$body` with `$t` bound to the tensor's number type: `dispatch!(x.dtype(), T => forward::<T>(&x))`.
#[macro_export]
macro_rules! dispatch {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $t = f32;
                $body
            }
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            other => candle_core::bail!("this op needs f32 or f64, got {other:?}"),
        }
    };
}

/// A contiguous CPU tensor, borrowed as a slice in row-major order.
pub struct View<'a, T> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
    number: PhantomData<T>,
}

impl<T: WithDType> Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Storage::Cpu(storage) = &*self.storage else { unreachable!("View::new checked the device") };
        let all = T::cpu_storage_as_slice(storage).expect("View::new checked the number type");
        &all[self.start..self.start + self.len]
    }
}

/// Borrows a tensor as a slice. Call [`Tensor::contiguous`] first where it may be a view with strides.
///
/// # Errors
/// On another device, number type or a non-contiguous layout.
#[track_caller]
pub fn view<T: WithDType>(tensor: &Tensor) -> Result<View<'_, T>> {
    if tensor.dtype() != T::DTYPE {
        bail!("this op needs {:?}, got {:?}", T::DTYPE, tensor.dtype());
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("this op needs a contiguous tensor") };
    if !matches!(&*storage, Storage::Cpu(_)) {
        let file = Path::new(Location::caller().file());
        bail!(
            "{} runs on the CPU alone, got a tensor on {:?}\nhint: leave out --device",
            file.file_stem().unwrap_or_default().display(),
            tensor.device().location()
        );
    }
    Ok(View { storage, start, len: end - start, number: PhantomData })
}

/// A tensor that owns `data`, without copying it.
pub fn tensor<T: WithDType>(data: Vec<T>, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::from_vec(data, shape.into(), &candle_core::Device::Cpu)
}

/// Applies `f` to the elements of a contiguous f32 CPU tensor in place.
pub(crate) fn update(tensor: &Tensor, f: impl FnOnce(&mut [f32])) -> Result<()> {
    struct Update<F>(Cell<Option<F>>);
    impl<F: FnOnce(&mut [f32])> InplaceOp1 for Update<F> {
        fn name(&self) -> &'static str {
            "update"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            let Some((start, end)) = layout.contiguous_offsets() else {
                bail!("update needs a contiguous tensor")
            };
            let CpuStorage::F32(all) = storage else { bail!("update needs an f32 tensor") };
            self.0.take().into_iter().for_each(|f| f(&mut all[start..end]));
            Ok(())
        }
    }
    if !tensor.device().is_cpu() {
        bail!(
            "numbers are changed by a function on the CPU alone, got a tensor on {:?}",
            tensor.device().location()
        );
    }
    tensor.inplace_op1(&Update(Cell::new(Some(f))))
}

/// `into += from`, in place, for two contiguous tensors of one shape, number type and device.
pub(crate) fn add_assign(into: &Tensor, from: &Tensor) -> Result<()> {
    struct Add;
    impl InplaceOp2 for Add {
        fn name(&self) -> &'static str {
            "add_assign"
        }

        fn cpu_fwd(&self, a: &mut CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<()> {
            fn add<T: WithDType>(a: &mut [T], b: &[T]) {
                for (a, &b) in a.iter_mut().zip(b) {
                    *a += b;
                }
            }
            let (Some((sa, ea)), Some((sb, eb))) = (la.contiguous_offsets(), lb.contiguous_offsets()) else {
                bail!("add_assign needs contiguous tensors")
            };
            match (a, b) {
                (CpuStorage::F32(a), CpuStorage::F32(b)) => add(&mut a[sa..ea], &b[sb..eb]),
                (CpuStorage::F64(a), CpuStorage::F64(b)) => add(&mut a[sa..ea], &b[sb..eb]),
                _ => bail!("add_assign needs two f32 or two f64 tensors"),
            }
            Ok(())
        }
    }
    if into.shape() != from.shape() {
        bail!("add_assign: shapes {:?} and {:?}", into.shape(), from.shape());
    }
    on_gpu!(into => crate::cuda::add_assign(into, from));
    into.inplace_op2(&from.contiguous()?, &Add)
}
