//! Numbers of torch's and TRL's training loops; see `../shared/fixtures`.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use models::{Gradients, Param, Params, Tape, Var, ops, read_safetensors};

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
