//! The ops on an NVIDIA GPU: products by cuBLAS, the rest by the kernels in `kernels.cu`. One stream, so everything runs in
//! the order of the calls.
//!
//! An op keeps its public function, its checks and what it records on the tape; what computes a tensor from tensors has a
//! line `on_gpu!(x => cuda::…)` and goes on here when they lie on the GPU. The GPU computes in f32.

mod adamw;
mod attention;
mod elements;
mod kv_cache;
mod norm;
#[cfg(test)]
mod parity;
mod product;
mod rows;
mod token_logprobs;

use std::sync::OnceLock;

use candle_core::cuda::cudarc::driver::sys::{self, CUmemPool_attribute as Pool};
use candle_core::cuda::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg, result};
use candle_core::cuda::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda::{CudaStorageSlice as Slice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, Device, Result, Shape, Storage, Tensor, bail};

pub(crate) use adamw::{adamw, squares};
pub(crate) use attention::{attention, attention_gradients};
pub(crate) use elements::{activation, activation_slopes, add_assign, rope, swiglu, swiglu_slopes};
pub(crate) use kv_cache::attend;
pub(crate) use norm::{norm, norm_slopes, norm_weight_slopes};
pub(crate) use product::{linear, product, two_products, weight_gradient};
pub(crate) use rows::{column_sums, gather_rows, scatter_rows, sum_rows_of_ids};
pub(crate) use token_logprobs::{score, score_slopes};

/// Threads of a block.
const THREADS: usize = 256;
/// Blocks of kernels with one thread per element.
fn elements(n: usize) -> usize {
    n.div_ceil(THREADS)
}
/// Blocks of kernels with one warp per row.
fn warps(rows: usize) -> usize {
    rows.div_ceil(THREADS / 32)
}

/// Opens the first GPU for one stream and lets it keep freed memory for the next step.
pub(crate) fn open() -> Result<Device> {
    let device = match Device::new_cuda_with_stream(0) {
        Ok(device) => device,
        Err(error) => bail!(
            "no NVIDIA GPU answers: {error}\nhint: see nvidia-smi; on a machine without one, leave out --device"
        ),
    };
    let gpu = device.as_cuda_device()?;
    // SAFETY: all work is on the one stream that the device has, in the order of the calls.
    unsafe { gpu.disable_event_tracking() };
    set_pool(gpu, Pool::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX)?;
    Ok(device)
}

/// Most bytes that tensors took since the last call.
pub(crate) fn peak_memory(gpu: &CudaDevice) -> Result<u64> {
    let mut bytes = 0u64;
    gpu.cuda_stream().synchronize().w()?;
    // SAFETY: the attribute is a u64.
    unsafe {
        result::mem_pool::get_attribute(
            pool(gpu)?,
            Pool::CU_MEMPOOL_ATTR_USED_MEM_HIGH,
            (&raw mut bytes).cast(),
        )
    }
    .w()?;
    set_pool(gpu, Pool::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0)?;
    Ok(bytes)
}

/// What tensors are allocated from.
fn pool(gpu: &CudaDevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device exists.
    unsafe { result::device::get_default_mem_pool(gpu.cuda_stream().context().cu_device()) }.w()
}

fn set_pool(gpu: &CudaDevice, attribute: Pool, mut value: u64) -> Result<()> {
    // SAFETY: the attributes that are set here are u64.
    unsafe { result::mem_pool::set_attribute(pool(gpu)?, attribute, (&raw mut value).cast()) }.w()
}

/// The kernels for this GPU, compiled once.
fn ptx(gpu: &CudaDevice) -> Result<&'static str> {
    static PTX: OnceLock<String> = OnceLock::new();
    if let Some(ptx) = PTX.get() {
        return Ok(ptx);
    }
    let (major, minor) = gpu.cuda_stream().context().compute_capability().w()?;
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
        ..Default::default()
    };
    match compile_ptx_with_opts(include_str!("kernels.cu"), options) {
        Ok(ptx) => Ok(PTX.get_or_init(|| ptx.to_src())),
        Err(error) => bail!("NVRTC does not compile the kernels: {error:?}"),
    }
}

/// What a kernel is given, in this order.
struct Args<'a> {
    tensors: &'a [&'a Tensor],
    sizes: &'a [usize],
    numbers: &'a [f64],
}

/// Runs a kernel of `kernels.cu`; `threads` is a multiple of 32.
fn launch(gpu: &CudaDevice, kernel: &str, blocks: usize, threads: usize, args: &Args<'_>) -> Result<()> {
    if blocks == 0 {
        return Ok(());
    }
    let addresses = args.tensors.iter().map(|t| address(t)).collect::<Result<Vec<u64>>>()?;
    let sizes: Vec<u32> = args.sizes.iter().map(|&n| n as u32).collect();
    let numbers: Vec<f32> = args.numbers.iter().map(|&x| x as f32).collect();
    let function = gpu.get_or_load_custom_func(kernel, "peptalk", ptx(gpu)?)?;
    let mut call = function.builder();
    addresses.iter().for_each(|address| _ = call.arg(address));
    sizes.iter().for_each(|size| _ = call.arg(size));
    numbers.iter().for_each(|number| _ = call.arg(number));
    let config = LaunchConfig {
        grid_dim: (blocks as u32, 1, 1),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the caller gives the kernel the arguments that its text asks for, and tensors of the sizes it is told.
    unsafe { call.launch(config) }.w()?;
    Ok(())
}

/// Where a contiguous tensor on the GPU begins. Memory is freed in the order of the stream, so the address is good for
/// all work that is submitted while the tensor lives.
fn address(tensor: &Tensor) -> Result<u64> {
    fn at<T>(slice: &impl DevicePtr<T>, start: usize, gpu: &CudaDevice) -> u64 {
        slice.device_ptr(&gpu.cuda_stream()).0 + (start * size_of::<T>()) as u64
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(CudaStorage { slice, device }) = &*storage else {
        bail!(
            "a tensor of {:?} lies on the CPU, what it is computed with on the GPU\nhint: Tensor::to_device",
            tensor.dims()
        )
    };
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("the GPU needs contiguous tensors") };
    if end - start >= 1 << 31 {
        bail!("a tensor of {:?} is too large for the GPU, which takes up to 2^31 elements", tensor.dims());
    }
    match slice {
        Slice::F32(slice) => Ok(at(slice, start, device)),
        Slice::F64(slice) => Ok(at(slice, start, device)),
        Slice::U32(slice) => Ok(at(slice, start, device)),
        Slice::I64(slice) => Ok(at(slice, start, device)),
        _ => bail!("the GPU computes in f32, got {:?}", tensor.dtype()),
    }
}

/// The GPU on which a tensor of f32 lies.
fn gpu_of(tensor: &Tensor) -> Result<&CudaDevice> {
    if tensor.dtype() != candle_core::DType::F32 {
        bail!("the GPU computes in f32, got {:?}", tensor.dtype());
    }
    tensor.device().as_cuda_device()
}

/// A tensor for results: every element has to be written before it is read.
fn empty(gpu: &CudaDevice, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    // SAFETY: f32 has no invalid bits, and the caller writes all elements.
    let slice = unsafe { gpu.alloc::<f32>(shape.elem_count().max(1)) }?;
    Ok(Tensor::from((Storage::Cuda(CudaStorage::wrap_cuda_slice(slice, gpu.clone())), shape)))
}

/// Zeros, to which is added.
fn zeros(gpu: &CudaDevice, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::zeros(shape, candle_core::DType::F32, &Device::Cuda(gpu.clone()))
}

/// Numbers of rows, on the GPU.
fn indices(gpu: &CudaDevice, numbers: impl IntoIterator<Item = usize>) -> Result<Tensor> {
    let numbers: Vec<u32> = numbers.into_iter().map(|n| n as u32).collect();
    let n = numbers.len();
    Tensor::from_vec(numbers, n, &Device::Cuda(gpu.clone()))
}
