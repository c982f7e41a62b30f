//! Qwen3 written with plain candle ops and trained by candle's own autograd: the judge of the tape's gradients, and the
//! other side of its benchmark. No op here is one of those whose gradient candle drops.

use std::collections::BTreeMap;

use super::Config;
use candle_core::{D, DType, Device, Result, Tensor};

/// Mean cross-entropy of `targets` after `ids`.
///
/// # Shapes
/// ids and targets `[B, T]`; weights by the names of a checkpoint → scalar
pub(super) fn loss(
    weights: &BTreeMap<String, Tensor>,
    config: &Config,
    ids: &Tensor,
    targets: &Tensor,
) -> Result<Tensor> {
    let (b, t) = ids.dims2()?;
    let width = config.hidden_size;
    let at = |name: &str| weights.get(name).cloned().ok_or_else(|| candle_core::Error::Msg(name.to_string()));
    let mut x =
        at("model.embed_tokens.weight")?.index_select(&ids.flatten_all()?, 0)?.reshape((b, t, width))?;
    let (rope, mask) = (angles(config, t)?, causal(t)?);
    for layer in 0..config.num_hidden_layers {
        let weight = |name: &str| at(&format!("model.layers.{layer}.{name}.weight"));
        x = block(&x, &weight, config, &rope, &mask)?;
    }
    let x = rms_norm(&x, &at("model.norm.weight")?, config)?.reshape((b * t, width))?;
    let head = if config.tie_word_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let logits = x.matmul(&at(head)?.t()?)?;
    candle_nn::loss::cross_entropy(&logits, &targets.flatten_all()?)
}

fn block(
    x: &Tensor,
    weight: &dyn Fn(&str) -> Result<Tensor>,
    config: &Config,
    rope: &(Tensor, Tensor),
    mask: &Tensor,
) -> Result<Tensor> {
    let (b, t, _) = x.dims3()?;
    let (heads, groups, dim) = (config.num_attention_heads, config.num_key_value_heads, config.head_dim);
    let h = rms_norm(x, &weight("input_layernorm")?, config)?;
    let project = |name: &str, heads| linear(&h, &weight(name)?)?.reshape((b, t, heads, dim));
    let q = rms_norm(&project("self_attn.q_proj", heads)?, &weight("self_attn.q_norm")?, config)?;
    let k = rms_norm(&project("self_attn.k_proj", groups)?, &weight("self_attn.k_norm")?, config)?;
    let v = project("self_attn.v_proj", groups)?.transpose(1, 2)?;
    let (q, k) = (rotate(&q.transpose(1, 2)?, rope)?, rotate(&k.transpose(1, 2)?, rope)?); // [B, H, T, D]
    let repeat = |x: Tensor| {
        let wide = x.unsqueeze(2)?.broadcast_as((b, groups, heads / groups, t, dim))?;
        wide.contiguous()?.reshape((b, heads, t, dim))
    };
    let (k, v) = (repeat(k)?, repeat(v.contiguous()?)?);
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (dim as f64).sqrt())?.broadcast_add(mask)?;
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
    let mixed = mixed.transpose(1, 2)?.contiguous()?.reshape((b, t, heads * dim))?;
    let x = (x + linear(&mixed, &weight("self_attn.o_proj")?)?)?;
    let h = rms_norm(&x, &weight("post_attention_layernorm")?, config)?;
    let gated = (linear(&h, &weight("mlp.gate_proj")?)?.silu()? * linear(&h, &weight("mlp.up_proj")?)?)?;
    x + linear(&gated, &weight("mlp.down_proj")?)?
}

fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (b, t, width) = x.dims3()?;
    x.reshape((b * t, width))?.matmul(&weight.t()?)?.reshape((b, t, ()))
}

fn rms_norm(x: &Tensor, weight: &Tensor, config: &Config) -> Result<Tensor> {
    let size = (x.sqr()?.mean_keepdim(D::Minus1)? + config.rms_norm_eps)?.sqrt()?;
    x.broadcast_div(&size)?.broadcast_mul(weight)
}

/// cos and sin, `[T, D/2]`
fn angles(config: &Config, t: usize) -> Result<(Tensor, Tensor)> {
    let dim = config.head_dim;
    let frequency = |i: usize| 1.0 / config.rope_theta.powf((2 * i) as f64 / dim as f64);
    let angles: Vec<f32> =
        (0..t).flat_map(|p| (0..dim / 2).map(move |i| (p as f64 * frequency(i)) as f32)).collect();
    let angles = Tensor::from_vec(angles, (t, dim / 2), &Device::Cpu)?;
    Ok((angles.cos()?, angles.sin()?))
}

fn rotate(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let half = x.dim(3)? / 2;
    let (low, high) = (x.narrow(3, 0, half)?, x.narrow(3, half, half)?);
    let turned = [
        (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?,
        (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?,
    ];
    Tensor::cat(&turned, 3)
}

fn causal(t: usize) -> Result<Tensor> {
    let mask: Vec<f32> = (0..t * t).map(|at| if at % t > at / t { f32::NEG_INFINITY } else { 0.0 }).collect();
    Tensor::from_vec(mask, (t, t), &Device::Cpu)?.to_dtype(DType::F32)
}
