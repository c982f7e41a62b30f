//! Where a model's numbers lie and its products are computed.

pub use candle_core::Device;
use candle_core::{Result, Tensor};

/// The first NVIDIA GPU.
///
/// Ask for it once and pass it on: tensors of two calls cannot be used together.
///
/// # Errors
/// In a build without the feature `cuda`, and where no GPU answers; says what to do.
pub fn cuda() -> Result<Device> {
    #[cfg(feature = "cuda")]
    return crate::cuda::open();
    #[cfg(not(feature = "cuda"))]
    candle_core::bail!(
        "this build of peptalk computes on the CPU alone\nhint: cargo build --release --features cuda (it needs the CUDA \
         toolkit)"
    )
}

/// A copy of a tensor on a device: its numbers are copied once, wherever it lies.
///
/// # Errors
/// When there is too little memory.
pub fn copy_to(tensor: &Tensor, device: &Device) -> Result<Tensor> {
    match tensor.device().same_device(device) {
        true => tensor.copy(),
        false => tensor.to_device(device),
    }
}

/// Whether products on a GPU may round their factors to TF32 (10 bits of mantissa instead of 23; sums stay f32), for
/// speed (docs/benchmarks.md). Exact ones are the default. What PyTorch calls `torch.set_float32_matmul_precision("high")`.
pub fn allow_tf32(allow: bool) {
    #[cfg(feature = "cuda")]
    candle_core::cuda::set_gemm_reduced_precision_f32(allow);
    #[cfg(not(feature = "cuda"))]
    let _ = allow;
}

/// Most bytes of a GPU that tensors took at once since the last call of this function.
///
/// # Errors
/// On the CPU, and what the driver says.
pub fn peak_memory(device: &Device) -> Result<u64> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(gpu) = device {
        return crate::cuda::peak_memory(gpu);
    }
    candle_core::bail!("peak memory of {:?}: only a GPU keeps account of it", device.location())
}

/// `return`s what the GPU computes, where the tensor lies on one: `on_gpu!(x => cuda::rope(x, table))` at the top of a
/// function of tensors.
macro_rules! on_gpu {
    ($tensor:expr => $result:expr) => {
        #[cfg(feature = "cuda")]
        if $tensor.device().is_cuda() {
            return $result;
        }
        #[cfg(not(feature = "cuda"))]
        let _ = &$tensor;
    };
}
pub(crate) use on_gpu;

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    #[test]
    fn a_build_without_the_feature_says_how_to_get_it() {
        assert!(super::cuda().unwrap_err().to_string().contains("cargo build --release --features cuda"));
    }
}
