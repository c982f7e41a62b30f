//! Numbers of torch's and TRL's training loops; see `../shared/fixtures`.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use models::llm::{LoraConfig, ProteinLlm, Qwen3, Rows};
use models::{Gradients, Param, Params, Tape, Var, Weights, ops, read_safetensors};
use serde_json::Value;

use crate::loss::llm::TokenLoss;
use crate::loss::llm::tests::shared;
use crate::optim::{GroupConfig, OptimConfig};
use crate::schedule::{ScheduleConfig, ScheduleKind};

type Tensors = BTreeMap<String, Tensor>;

fn difference(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// A tape's gradients that are these: of Σ weight · gradient.
fn gradients(params: &Params, wanted: &Tensors) -> Gradients {
    let tape = Tape::on();
    let mut total: Option<Var> = None;
    for param in params.iter() {
        let grad = Var::constant(wanted[&**param.name()].clone());
        let product = ops::sum(&tape, &ops::mul(&tape, &tape.param(param), &grad).unwrap()).unwrap();
        total = Some(total.map_or(product.clone(), |t| ops::add(&tape, &t, &product).unwrap()));
    }
    tape.backward(&total.unwrap()).unwrap()
}

/// One step of AdamW with two groups. The fixture keeps the weights after it; those before it, which give the fixture's loss
/// and gradients (`models`: `parity_protein`), follow from the step's formula, here in f64.
#[test]
fn a_step_with_two_learning_rates_is_that_of_torch() {
    let Some(path) = shared("fixtures/bridge.safetensors") else { return };
    let fixture = read_safetensors(&path).unwrap();
    let part = |prefix: &str| -> Tensors {
        let found =
            fixture.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())));
        found.collect()
    };
    let (after, grads) = (part("after."), part("grad."));
    let mut params = Params::default();
    for (name, after) in &after {
        let (lr, decay) = if name.contains("lora_") { (2e-3, 0.01) } else { (2e-2, 0.0) };
        let [after, grad] = [after, &grads[name]].map(|t| t.to_dtype(DType::F64).unwrap());
        let step = ((&grad / (grad.abs().unwrap() + 1e-8).unwrap()).unwrap() * lr).unwrap();
        let before = ((after + step).unwrap() / (1.0 - lr * decay)).unwrap().to_dtype(DType::F32).unwrap();
        params.insert(Param::new(name.as_str(), before).unwrap()).unwrap();
    }
    let group = |pattern: &str, lr_factor: f64, weight_decay: f64| GroupConfig {
        pattern: pattern.into(),
        lr_factor,
        weight_decay,
        clip_norm: f64::INFINITY,
    };
    let config = OptimConfig {
        lr: 2e-3,
        betas: (0.9, 0.999),
        eps: 1e-8,
        schedule: ScheduleConfig { kind: ScheduleKind::Constant, warmup_steps: 0 },
        group: vec![group("base_model.*", 1.0, 0.01), group("pool.*|proj.*", 10.0, 0.0)],
    };
    let (mut optimiser, schedule) = config.build(&params, 1).unwrap();
    let gradients = gradients(&params, &grads);
    let norms = optimiser.norms(&gradients).unwrap();
    optimiser.step(&gradients, &norms, schedule.lr(0)).unwrap();
    for param in params.iter() {
        let apart = difference(param.value(), &after[&**param.name()]);
        assert!(apart < 1e-6, "{}: {apart}", param.name());
    }
}

/// TRL's SFTTrainer with a LoRA adapter: 6 steps of 2 micro-batches; cosine with clipping and decay, linear without, DFT.
#[test]
fn sft_runs_are_those_of_trl() {
    let Some(folder) = shared("fixtures/sft") else { return };
    let base = Qwen3::load(&folder.with_file_name("qwen3_tiny_tied")).unwrap();
    for name in ["lora_cosine", "lora_linear_noclip", "lora_dft"] {
        let text = fs_err::read(folder.join(name).with_extension("json")).unwrap();
        let fixture: Value = serde_json::from_slice(&text).unwrap();
        let tensors = read_safetensors(&folder.join(name).with_extension("safetensors")).unwrap();
        let settings = &fixture["config"];
        let number = |key: &str| settings[key].as_f64().unwrap();
        let init =
            tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix("init.")?.to_owned(), t.clone())));
        let lora = LoraConfig {
            target_modules: ["k_proj", "v_proj"].into(),
            r: 4,
            lora_alpha: 8.0,
            ..LoraConfig::default()
        };
        let llm = base.with_lora(&lora, Weights::loaded(init.collect())).unwrap();
        let model = ProteinLlm::new(llm, None).unwrap();
        let config = OptimConfig {
            lr: number("learning_rate"),
            betas: (0.9, number("adam_beta2")),
            eps: 1e-8,
            schedule: ScheduleConfig {
                kind: if settings["lr_scheduler_type"] == "cosine" {
                    ScheduleKind::Cosine
                } else {
                    ScheduleKind::Linear
                },
                warmup_steps: settings["warmup_steps"].as_u64().unwrap(),
            },
            group: vec![GroupConfig {
                pattern: "base_model.*".into(),
                lr_factor: 1.0,
                weight_decay: number("weight_decay"),
                clip_norm: number("max_grad_norm"),
            }],
        };
        let loss: TokenLoss = match &settings["loss_type"] {
            Value::Null => TokenLoss::default(),
            named => serde_json::from_value(named.clone()).unwrap(),
        };
        let steps = fixture["steps"].as_array().unwrap();
        let (mut optimiser, schedule) = config.build(model.llm.params(), steps.len() as u64).unwrap();
        let mut worst = 0.0_f32;
        for (step, want) in steps.iter().enumerate() {
            let want_number = |key: &str| want[key].as_f64().unwrap();
            let mut sum: Option<Gradients> = None;
            for micro in 0..2 {
                let (rows, labelled) = micro_batch(&tensors, 2 * step + micro);
                let tape = Tape::on();
                let (scores, _) = model.token_logprobs(&tape, &rows, None, &labelled, 1.0).unwrap();
                let n = want["num_items"].as_u64().unwrap() as usize;
                let value = loss.mean(&tape, &scores.logprobs, n).unwrap();
                let got = f64::from(value.value().to_scalar::<f32>().unwrap());
                let micro_loss = want["micro_losses"][micro].as_f64().unwrap();
                assert!((got - micro_loss).abs() < 1e-4, "{name} step {step}: {got} {micro_loss}");
                let gradients = tape.backward(&value).unwrap();
                match &mut sum {
                    Some(sum) => sum.accumulate(gradients).unwrap(),
                    None => sum = Some(gradients),
                }
            }
            let gradients = sum.unwrap();
            let norms = optimiser.norms(&gradients).unwrap();
            let norm = norms.log_items().into_iter().find(|(key, _)| key.starts_with("grad_norm")).unwrap().1;
            assert!((norm - want_number("grad_norm_preclip")).abs() < 1e-4, "{name} step {step}: {norm}");
            let lr = schedule.lr(step as u64);
            assert!((lr - want_number("lr_used")).abs() < 1e-12, "{name} step {step}: {lr}");
            optimiser.step(&gradients, &norms, lr).unwrap();
            for param in model.llm.params().trainable() {
                worst =
                    worst.max(difference(param.value(), &tensors[&format!("step{step}.{}", param.name())]));
            }
        }
        println!("{name}: adapters differ by at most {worst:e}");
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

/// Rows of a fixture and which of their tokens carry loss.
fn micro_batch(tensors: &Tensors, at: usize) -> (Rows, Vec<bool>) {
    let of = |name: &str| &tensors[&format!("mb{at}.{name}")];
    let mask: Vec<Vec<i64>> = of("attention_mask").to_vec2().unwrap();
    let lengths = mask.iter().map(|row| row.iter().sum::<i64>() as usize).collect();
    let labels: Vec<i64> = of("labels").flatten_all().unwrap().to_vec1().unwrap();
    let ids = of("input_ids").to_dtype(DType::U32).unwrap();
    (Rows::new(ids, lengths), labels.iter().map(|&label| label != -100).collect())
}
