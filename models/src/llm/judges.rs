//! Second opinions: candle's autograd on every gradient of the tape, candle-transformers' Qwen3 on the logits.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{Activation, VarBuilder};

use crate::llm::behaviour::{tiny, tokens};
use crate::llm::parity::difference;
use crate::llm::qwen3::Config;
use crate::ops;
use crate::tape::Tape;

#[path = "../../examples/bench_blocks/reference.rs"]
mod reference;

fn batch(rows: &[Vec<u32>]) -> Tensor {
    Tensor::new(rows.to_vec(), &Device::Cpu).unwrap()
}

#[test]
fn every_gradient_is_that_of_candles_autograd() -> Result<()> {
    for tied in [true, false] {
        let model = tiny(tied);
        let (ids, targets) = (batch(&[tokens(1, 13), tokens(2, 13)]), batch(&[tokens(3, 13), tokens(4, 13)]));
        let vars: BTreeMap<String, Var> = model
            .params()
            .snapshot()?
            .into_iter()
            .map(|(name, t)| Ok((name, Var::from_tensor(&t)?)))
            .collect::<Result<_>>()?;
        let weights = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let want = reference::loss(&weights, model.config(), &ids, &targets)?;
        let wanted = want.backward()?;

        let tape = Tape::on();
        let hidden = model.hidden(&tape, &model.embed(&tape, &ids)?, &[13, 13])?;
        let places: Vec<usize> = (0..26).collect();
        let targets = targets.flatten_all()?.to_vec1::<u32>()?;
        let scores = model.token_logprobs(&tape, &hidden, &places, &targets, 1.0)?;
        let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
        assert!(difference(loss.value(), &want) < 1e-5);
        let grads = tape.backward(&loss)?;
        let mut worst = 0.0_f32;
        for (name, grad) in &grads.params {
            let want = wanted.get(&vars[name]).unwrap();
            let size = want.abs()?.max_all()?.to_scalar::<f32>()?;
            worst = worst.max(difference(grad, want) / size.max(1.0));
        }
        println!("tape against candle's autograd, {} weights: {worst:e}", grads.params.len());
        assert!(worst < 1e-5, "{worst}");
        assert_eq!(grads.params.len(), vars.len());
    }
    Ok(())
}

#[test]
fn logits_are_those_of_candle_transformers() -> Result<()> {
    let model = tiny(false);
    let config = model.config();
    let theirs = candle_transformers::models::qwen3::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        head_dim: config.head_dim,
        attention_bias: false,
        num_key_value_heads: config.num_key_value_heads,
        max_position_embeddings: config.max_position_embeddings,
        sliding_window: None,
        max_window_layers: config.num_hidden_layers,
        tie_word_embeddings: false,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: Activation::Silu,
    };
    let weights: HashMap<String, Tensor> = model.params().snapshot()?.into_iter().collect();
    let weights = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let mut judge = candle_transformers::models::qwen3::ModelForCausalLM::new(&theirs, weights)?;
    let ids = batch(&[tokens(7, 19)]);
    let want = judge.forward(&ids, 0)?.flatten_all()?;
    let off = Tape::off();
    let hidden = model.hidden(&off, &model.embed(&off, &ids)?, &[19])?;
    let last = crate::tape::Var::constant(hidden.value().narrow(1, 18, 1)?.contiguous()?);
    let got = model.logits(&off, &last)?.value().flatten_all()?;
    let apart = difference(&got, &want);
    println!("against candle-transformers: {apart:e}");
    assert!(apart < 1e-4, "{apart}");
    Ok(())
}
