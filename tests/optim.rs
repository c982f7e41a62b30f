//! The schedule against TRL's record of a run.

use candle_core::{Device, Tensor};
use models::{Param, Params};
use train::optim::{GroupConfig, OptimConfig};
use train::schedule::{ScheduleConfig, ScheduleKind};

use crate::kit::{Tol, assert_close, shared};

#[test]
fn learning_rates_are_trl_s() {
    for (name, kind) in [("lora_cosine", ScheduleKind::Cosine), ("lora_linear_noclip", ScheduleKind::Linear)]
    {
        let Some(path) = shared(&format!("fixtures/sft/{name}.json")) else { return };
        let record: serde_json::Value = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
        let number = |key: &str| record["config"][key].as_f64().unwrap();
        let want: Vec<f64> = record["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["lr_used"].as_f64().unwrap())
            .collect();
        let group = GroupConfig { pattern: "*".into(), lr_factor: 1.0, weight_decay: 0.0, clip_norm: 1.0 };
        let config = OptimConfig {
            lr: number("learning_rate"),
            betas: (0.9, 0.999),
            eps: 1e-8,
            schedule: ScheduleConfig { kind, warmup_steps: number("warmup_steps") as u64 },
            group: vec![group],
        };
        let mut params = Params::default();
        params.insert(Param::new("w", Tensor::new(&[0f32], &Device::Cpu).unwrap()).unwrap()).unwrap();
        let (_, schedule) = config.build(&params, want.len() as u64).unwrap();
        let got: Vec<f64> = (0..want.len() as u64).map(|step| schedule.lr(step)).collect();
        assert_close(&got, &want, Tol::F64);
    }
}
