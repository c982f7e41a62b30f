//! Products of matrices, by cuBLAS.

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::cublas::{result, sys};
use candle_core::{CudaDevice, Result, Tensor};

use super::{Args, THREADS, address, elements, empty, gpu_of, launch};

/// A batch of row-major matrices on the GPU: `batch` of them `step` elements apart, each row `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Matrices {
    /// of the first element
    at: u64,
    stride: usize,
    step: usize,
    transposed: bool,
}

impl Matrices {
    /// Matrices that begin at element `start` of a contiguous tensor.
    pub(super) fn new(tensor: &Tensor, start: usize, stride: usize, step: usize) -> Result<Self> {
        let at = address(tensor)? + (start * size_of::<f32>()) as u64;
        Ok(Self { at, stride, step, transposed: false })
    }

    /// All rows of a tensor whose last dimension is `width`.
    fn rows(tensor: &Tensor, width: usize) -> Result<Self> {
        Self::new(tensor, 0, width, 0)
    }

    /// The transposed matrices.
    pub(super) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn operation(self) -> sys::cublasOperation_t {
        match self.transposed {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        }
    }
}

/// Sizes of a batch of products `[rows, depth] · [depth, cols]`.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) cols: usize,
}

/// `out = factor · a b`, or `out += factor · a b` with `add`.
///
/// The caller answers for the sizes: the matrices must lie in their tensors.
pub(super) fn multiply(
    gpu: &CudaDevice,
    sizes: Sizes,
    out: Matrices,
    (a, b): (Matrices, Matrices),
    factor: f64,
    add: bool,
) -> Result<()> {
    let Sizes { batch, rows, depth, cols } = sizes;
    if batch * rows * cols == 0 {
        return Ok(());
    }
    let compute = match candle_core::cuda::gemm_reduced_precision_f32() {
        true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let (alpha, beta) = (factor as f32, if add { 1.0_f32 } else { 0.0 });
    let kind = sys::cudaDataType_t::CUDA_R_32F;
    // cuBLAS counts down columns: to it these are the transposed matrices, and outᵀ = bᵀ aᵀ.
    // SAFETY: by the caller's word all matrices lie in tensors that live on this GPU; the factors are read before the call
    // returns.
    unsafe {
        result::gemm_strided_batched_ex(
            *gpu.cublas_handle().handle(),
            b.operation(),
            a.operation(),
            cols as i32,
            rows as i32,
            depth as i32,
            (&raw const alpha).cast(),
            b.at as *const _,
            kind,
            b.stride as i32,
            b.step as i64,
            a.at as *const _,
            kind,
            a.stride as i32,
            a.step as i64,
            (&raw const beta).cast(),
            out.at as *mut _,
            kind,
            out.stride as i32,
            out.step as i64,
            batch as i32,
            compute,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// A weight `[out, in]` as the right side of a product, and the product's depth and columns.
fn right(weight: &Tensor, transposed: bool) -> Result<(Matrices, usize, usize)> {
    let (n_out, n_in) = weight.dims2()?;
    let matrix = Matrices::rows(weight, n_in)?;
    Ok(if transposed { (matrix.t(), n_in, n_out) } else { (matrix, n_out, n_in) })
}

/// `factor · x · weight`, or `· weightᵀ`, over all rows of x; the result has the shape `dims`.
pub(crate) fn product(
    x: &Tensor,
    weight: &Tensor,
    transposed: bool,
    factor: f64,
    dims: &[usize],
) -> Result<Tensor> {
    let gpu = gpu_of(x)?;
    let (weight, depth, cols) = right(weight, transposed)?;
    let (out, rows) = (empty(gpu, dims)?, x.elem_count() / depth.max(1));
    let sizes = Sizes { batch: 1, rows, depth, cols };
    let sides = (Matrices::rows(x, depth)?, weight);
    multiply(gpu, sizes, Matrices::rows(&out, cols)?, sides, factor, false)?;
    Ok(out)
}

/// The sum of two [`product`]s with factor 1.
pub(crate) fn two_products(
    (x, weight): (&Tensor, &Tensor),
    (y, other): (&Tensor, &Tensor),
    transposed: bool,
    dims: &[usize],
) -> Result<Tensor> {
    let gpu = gpu_of(x)?;
    let out = product(x, weight, transposed, 1.0, dims)?;
    let (other, depth, cols) = right(other, transposed)?;
    let sizes = Sizes { batch: 1, rows: y.elem_count() / depth.max(1), depth, cols };
    multiply(gpu, sizes, Matrices::rows(&out, cols)?, (Matrices::rows(y, depth)?, other), 1.0, true)?;
    Ok(out)
}

/// `gradᵀ · x` over all rows → `[out, in]`.
pub(crate) fn weight_gradient(grad: &Tensor, x: &Tensor, (n_out, n_in): (usize, usize)) -> Result<Tensor> {
    let gpu = gpu_of(grad)?;
    let (out, depth) = (empty(gpu, (n_out, n_in))?, grad.elem_count() / n_out.max(1));
    let sizes = Sizes { batch: 1, rows: n_out, depth, cols: n_in };
    let sides = (Matrices::rows(grad, n_out)?.t(), Matrices::rows(x, n_in)?);
    multiply(gpu, sizes, Matrices::rows(&out, n_in)?, sides, 1.0, false)?;
    Ok(out)
}

/// `x · weightᵀ + bias` over all rows of x.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, dims: &[usize]) -> Result<Tensor> {
    let out = product(x, weight, true, 1.0, dims)?;
    if let Some(bias) = bias {
        let (gpu, n) = (gpu_of(x)?, out.elem_count());
        let args = Args { tensors: &[&out, bias], sizes: &[n, bias.dims1()?], numbers: &[] };
        launch(gpu, "add_bias", elements(n), THREADS, &args)?;
    }
    Ok(out)
}
