//! AdamW over groups of weights.
//!
//! Every step of a loop is three lines, so that a bad gradient never reaches a weight and no norm goes unlogged:
//!
//! ```ignore
//! let norms = optimiser.norms(&gradients)?;
//! if guard.admits(step, loss, &norms)? {
//!     optimiser.step(&gradients, &norms, lr)?;
//! }
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use models::device::copy_to;
use models::ops::{self, AdamWRule, AdamWUpdate};
use models::{Gradients, Param, Params};
use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, ScheduleConfig};

/// Tensors by name, as they lie in one safetensors file.
pub type Tensors = BTreeMap<String, Tensor>;

/// The `optim` section of a training stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// β₁ and β₂.
    pub betas: (f64, f64),
    /// ε, added to the root of the second moment.
    pub eps: f64,
    /// How the learning rate moves.
    pub schedule: ScheduleConfig,
    /// The groups; together they hold every trained weight exactly once.
    pub group: Vec<GroupConfig>,
}

impl OptimConfig {
    /// The optimiser of `params` and the learning rates of a run of `total_steps`.
    ///
    /// # Errors
    /// On a number outside its range, and as [`ParamGroups::new`].
    pub fn build(&self, params: &Params, total_steps: u64) -> Result<(AdamW, Schedule)> {
        let schedule = Schedule::new(self.lr, &self.schedule, total_steps)?;
        Ok((AdamW::new(ParamGroups::new(params, &self.group)?, self.betas, self.eps)?, schedule))
    }
}

/// What the weights of one group share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Which weights: names in which `*` stands for any characters, alternatives parted by `|` (`"*.bias|norm.*"`).
    pub pattern: String,
    /// Times the schedule's learning rate.
    pub lr_factor: f64,
    /// Decoupled weight decay, times the group's learning rate.
    pub weight_decay: f64,
    /// Gradients of the group are scaled to this norm when theirs is larger; `inf` clips nothing.
    pub clip_norm: f64,
}

impl GroupConfig {
    fn holds(&self, name: &str) -> bool {
        self.pattern.split('|').any(|glob| matches(glob, name))
    }
}

/// Whether `name` fits `glob`, in which `*` stands for any characters.
pub fn matches(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((head, rest)) => name.strip_prefix(head).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}

/// The trained weights of a model, each in exactly one group.
#[derive(Debug)]
pub struct ParamGroups(Vec<(GroupConfig, Vec<Param>)>);

impl ParamGroups {
    /// Distributes the trainable weights of `params`.
    ///
    /// # Errors
    /// When a pattern matches no trainable weight, or a trainable weight matches no or several patterns; the weights
    /// are named.
    pub fn new(params: &Params, configs: &[GroupConfig]) -> Result<Self> {
        let mut groups: Vec<(GroupConfig, Vec<Param>)> =
            configs.iter().map(|c| (c.clone(), vec![])).collect();
        let (mut without, mut several) = (vec![], vec![]);
        for param in params.trainable() {
            let mut fitting: Vec<_> = groups.iter_mut().filter(|(c, _)| c.holds(param.name())).collect();
            match fitting.as_mut_slice() {
                [] => without.push(param.name().to_string()),
                [(_, members)] => members.push(param.clone()),
                _ => several.push(param.name().to_string()),
            }
        }
        let names: Vec<&str> = params.trainable().map(|p| &**p.name()).collect();
        ensure!(!names.is_empty(), "the model has no trainable weight");
        ensure!(
            without.is_empty() && several.is_empty(),
            "every trained weight belongs to exactly one group: in none {without:?}, in several {several:?}"
        );
        for (config, members) in &groups {
            ensure!(
                !members.is_empty(),
                "group pattern {:?} matches no trained weight; there are {}",
                config.pattern,
                names.join(", ")
            );
            let numbers = [config.lr_factor, config.weight_decay, config.clip_norm];
            ensure!(
                numbers.iter().all(|&n| n >= 0.0) && config.clip_norm > 0.0,
                "group {:?}: lr_factor and weight_decay must not be negative, clip_norm must be positive",
                config.pattern
            );
        }
        Ok(Self(groups))
    }
}

/// Gradient norms before clipping, per group and over all.
#[derive(Clone, Debug, PartialEq)]
pub struct StepNorms {
    /// Group pattern and norm, in the order of the groups.
    pub groups: Vec<(String, f64)>,
    /// Norm over all groups.
    pub total: f64,
}

impl StepNorms {
    /// Whether no gradient holds NaN or infinity.
    pub fn is_finite(&self) -> bool {
        self.total.is_finite()
    }

    /// The norms under the names they have in the log: `grad_norm`, then `grad_norm/PATTERN` where there are several
    /// groups.
    pub fn log_items(&self) -> Vec<(String, f64)> {
        let mut items = vec![("grad_norm".to_owned(), self.total)];
        if self.groups.len() > 1 {
            items.extend(self.groups.iter().map(|(name, norm)| (format!("grad_norm/{name}"), *norm)));
        }
        items
    }
}

struct Moments {
    /// Steps in which the weight had a gradient.
    steps: u64,
    /// where the weight lies, changed in place
    mean: Tensor,
    square: Tensor,
}

/// AdamW with decoupled weight decay (Loshchilov & Hutter 2019), operation for operation as `torch.optim.AdamW`:
/// `p ·= 1 − lr·wd`, moments, `p −= lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)`. A weight without a gradient is left as it is. The
/// moments lie where the weight lies.
pub struct AdamW {
    groups: ParamGroups,
    betas: (f64, f64),
    eps: f64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// A fresh optimiser.
    ///
    /// # Errors
    /// When a β lies outside [0, 1) or ε is not positive, and when there is no memory for the moments.
    pub fn new(groups: ParamGroups, betas: (f64, f64), eps: f64) -> Result<Self> {
        let unit = 0.0..1.0;
        ensure!(
            unit.contains(&betas.0) && unit.contains(&betas.1),
            "betas must lie in [0, 1), got {betas:?}"
        );
        ensure!(eps > 0.0, "eps must be positive, got {eps}");
        let zeros = |p: &Param| {
            let (mean, square) = (p.value().zeros_like()?, p.value().zeros_like()?);
            Ok((p.name().to_string(), Moments { steps: 0, mean, square }))
        };
        let members = groups.0.iter().flat_map(|(_, members)| members);
        let moments = members.map(zeros).collect::<Result<_>>()?;
        Ok(Self { groups, betas, eps, moments })
    }

    /// Norms of the gradients as they are, in f64 and in one order of summation on any number of threads.
    ///
    /// # Errors
    /// When a gradient is not f32.
    pub fn norms(&self, gradients: &Gradients) -> Result<StepNorms> {
        let mut groups = Vec::with_capacity(self.groups.0.len());
        for (config, members) in &self.groups.0 {
            let found = members.iter().filter_map(|p| gradients.params.get(&**p.name()).cloned());
            let squares = ops::squares(&found.collect::<Vec<Tensor>>())?;
            groups.push((config.pattern.clone(), squares.iter().sum::<f64>()));
        }
        let total = groups.iter().map(|(_, squares)| squares).sum::<f64>().sqrt();
        Ok(StepNorms { groups: groups.into_iter().map(|(name, s)| (name, s.sqrt())).collect(), total })
    }

    /// One step with learning rate `lr` (times each group's factor). Gradients are clipped per group by
    /// `min(1, clip_norm / (norm + 1e-6))`, the rule of `torch.nn.utils.clip_grad_norm_`.
    ///
    /// # Errors
    /// When a norm is not finite (ask [`crate::guard::Guard::admits`] first) or a gradient has the wrong kind.
    pub fn step(&mut self, gradients: &Gradients, norms: &StepNorms, lr: f64) -> Result<()> {
        ensure!(norms.is_finite(), "a gradient is not finite: {norms:?}");
        let mut of_one = vec![];
        for ((config, members), (_, norm)) in self.groups.0.iter().zip(&norms.groups) {
            let clip = (config.clip_norm / (norm + 1e-6)).min(1.0);
            let lr = lr * config.lr_factor;
            for param in members {
                let Some(gradient) = gradients.params.get(&**param.name()) else { continue };
                let moments =
                    self.moments.get_mut(&**param.name()).expect("every grouped weight has moments");
                moments.steps += 1;
                of_one.push((param, gradient.contiguous()?, clip, lr, config.weight_decay));
            }
        }
        let mut updates = Vec::with_capacity(of_one.len());
        for (param, gradient, clip, lr, weight_decay) in &of_one {
            let moments = &self.moments[&**param.name()];
            let t = i32::try_from(moments.steps).context("more than 2³¹ steps")?;
            updates.push(AdamWUpdate {
                weight: param.value(),
                mean: &moments.mean,
                square: &moments.square,
                gradient,
                clip: *clip as f32,
                decay: (1.0 - lr * weight_decay) as f32,
                step_size: (lr / (1.0 - self.betas.0.powi(t))) as f32,
                root: (1.0 - self.betas.1.powi(t)).sqrt() as f32,
            });
        }
        let rule = AdamWRule {
            mean_weight: (1.0 - self.betas.0) as f32,
            square_keep: self.betas.1 as f32,
            square_weight: (1.0 - self.betas.1) as f32,
            eps: self.eps as f32,
        };
        Ok(ops::adamw(&rule, &updates)?)
    }

    /// The state, copied to the CPU: `NAME.exp_avg`, `NAME.exp_avg_sq` (shaped as the weight) and `NAME.step` (u32 scalar).
    ///
    /// # Errors
    /// What candle says.
    pub fn tensors(&self) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        for param in self.groups.0.iter().flat_map(|(_, members)| members) {
            let name = param.name();
            let moments = &self.moments[&**name];
            let copy = |tensor: &Tensor| copy_to(tensor, &Device::Cpu);
            tensors.insert(format!("{name}.exp_avg"), copy(&moments.mean)?);
            tensors.insert(format!("{name}.exp_avg_sq"), copy(&moments.square)?);
            let steps = u32::try_from(moments.steps).context("more than 2³² steps")?;
            tensors.insert(format!("{name}.step"), Tensor::new(steps, &Device::Cpu)?);
        }
        Ok(tensors)
    }

    /// Takes the state back.
    ///
    /// # Errors
    /// Lists every missing, unexpected and wrongly shaped tensor together.
    pub fn load(&mut self, tensors: &Tensors) -> Result<()> {
        let wanted = self.tensors()?;
        let missing: Vec<_> = wanted.keys().filter(|name| !tensors.contains_key(*name)).collect();
        let unexpected: Vec<_> = tensors.keys().filter(|name| !wanted.contains_key(*name)).collect();
        let differs =
            |name: &String, t: &Tensor| tensors.get(name).is_some_and(|got| got.shape() != t.shape());
        let shapes: Vec<_> =
            wanted.iter().filter(|(name, t)| differs(name, t)).map(|(name, _)| name).collect();
        if missing.len() + unexpected.len() + shapes.len() > 0 {
            bail!(
                "optimiser state does not fit the groups: missing {missing:?}, unexpected {unexpected:?}, \
                 wrong shape {shapes:?}"
            );
        }
        for (name, moments) in &mut self.moments {
            let device = moments.mean.device().clone();
            // A copy of its own, for the steps change it in place.
            let tensor = |of: &str| {
                let tensor = tensors[&format!("{name}.{of}")].to_dtype(DType::F32)?;
                copy_to(&tensor, &device)?.contiguous()
            };
            (moments.mean, moments.square) = (tensor("exp_avg")?, tensor("exp_avg_sq")?);
            moments.steps = tensors[&format!("{name}.step")].to_scalar::<u32>()?.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::{Tape, ops};

    fn params(sizes: &[(&str, usize)]) -> Params {
        let mut params = Params::default();
        for (i, (name, n)) in sizes.iter().enumerate() {
            let numbers: Vec<f32> = (0..*n).map(|j| ((i * 31 + j) as f32 * 0.7).sin()).collect();
            params.insert(Param::new(*name, Tensor::new(numbers, &Device::Cpu).unwrap()).unwrap()).unwrap();
        }
        params
    }

    fn group(pattern: &str) -> GroupConfig {
        GroupConfig { pattern: pattern.into(), lr_factor: 1.0, weight_decay: 0.0, clip_norm: f64::INFINITY }
    }

    /// Gradients of Σ over weights of Σ (w + shift)², so that they change with the weights.
    fn gradients(params: &Params, shift: f32) -> Gradients {
        let tape = Tape::on();
        let mut total: Option<models::Var> = None;
        for param in params.iter() {
            let shifts = Tensor::full(shift, param.value().shape(), &Device::Cpu).unwrap();
            let x = ops::add(&tape, &tape.param(param), &shifts.into()).unwrap();
            let sum = ops::sum(&tape, &ops::mul(&tape, &x, &x).unwrap()).unwrap();
            total = Some(total.map_or(sum.clone(), |t| ops::add(&tape, &t, &sum).unwrap()));
        }
        tape.backward(&total.unwrap()).unwrap()
    }

    fn numbers(params: &Params, name: &str) -> Vec<f32> {
        params.get(name).unwrap().value().to_vec1().unwrap()
    }

    #[test]
    fn globs() {
        for (glob, name, fits) in [
            ("*", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "b.a.b", false),
            ("*.bias", "a.bias", true),
            ("*.bias", "a.bias2", false),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("ab", "ab", true),
        ] {
            assert_eq!(matches(glob, name), fits, "{glob} {name}");
        }
    }

    #[test]
    fn every_weight_belongs_to_exactly_one_group() {
        let params = params(&[("crf.start", 2), ("head.bias", 3), ("head.weight", 5)]);
        let error = |groups: &[GroupConfig]| ParamGroups::new(&params, groups).unwrap_err().to_string();
        assert!(error(&[group("crf.*")]).contains("in none [\"head.bias\", \"head.weight\"]"));
        assert!(error(&[group("*"), group("*.bias")]).contains("in several [\"head.bias\"]"));
        let unused = error(&[group("crf.*|head.*"), group("tail.*")]);
        assert!(
            unused.contains("\"tail.*\" matches no trained weight") && unused.contains("head.bias"),
            "{unused}"
        );
        ParamGroups::new(&params, &[group("crf.*|*.bias"), group("*.weight")]).unwrap();
        params.set_trainable(false, |name| name == "crf.start");
        assert!(error(&[group("crf.*"), group("head.*")]).contains("crf.*"));
    }

    #[test]
    fn steps_are_those_of_adamw_written_out_in_f64() {
        let params = params(&[("a", 7), ("b", 5)]);
        let configs = [
            GroupConfig { lr_factor: 0.5, weight_decay: 0.1, clip_norm: 0.3, ..group("a") },
            GroupConfig { weight_decay: 0.01, ..group("b") },
        ];
        let (betas, eps) = ((0.9, 0.99), 1e-8);
        let mut optimiser = AdamW::new(ParamGroups::new(&params, &configs).unwrap(), betas, eps).unwrap();
        let start = |name| numbers(&params, name).into_iter().map(f64::from).collect::<Vec<_>>();
        let mut want = [start("a"), start("b")];
        let mut moments = [vec![(0.0, 0.0); 7], vec![(0.0, 0.0); 5]];
        for t in 1..=11 {
            let (lr, shift) = (0.1 / f64::from(t), 0.2 * f64::from(t));
            let gradients = gradients(&params, shift as f32);
            let norms = optimiser.norms(&gradients).unwrap();
            optimiser.step(&gradients, &norms, lr).unwrap();
            for g in 0..2 {
                let gradient: Vec<f64> = want[g].iter().map(|w| 2.0 * (w + shift)).collect();
                let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                assert!((norm - norms.groups[g].1).abs() < 1e-5 * norm, "{norm} {norms:?}");
                let clip = (configs[g].clip_norm / (norm + 1e-6)).min(1.0);
                let lr = lr * configs[g].lr_factor;
                for i in 0..gradient.len() {
                    let (m, v) = &mut moments[g][i];
                    let gradient = gradient[i] * clip;
                    *m = betas.0 * *m + (1.0 - betas.0) * gradient;
                    *v = betas.1 * *v + (1.0 - betas.1) * gradient * gradient;
                    let m_hat = *m / (1.0 - betas.0.powi(t));
                    let v_hat = *v / (1.0 - betas.1.powi(t));
                    want[g][i] =
                        want[g][i] * (1.0 - lr * configs[g].weight_decay) - lr * m_hat / (v_hat.sqrt() + eps);
                }
            }
        }
        for (name, want) in ["a", "b"].iter().zip(&want) {
            for (got, want) in numbers(&params, name).iter().zip(want) {
                assert!((f64::from(*got) - want).abs() < 1e-5, "{name}: {got} {want}");
            }
        }
    }

    #[test]
    fn a_resumed_optimiser_goes_on_with_the_same_bits() {
        let run = |break_at: Option<u64>| {
            let params = params(&[("a", 40_001)]);
            let fresh =
                || AdamW::new(ParamGroups::new(&params, &[group("*")]).unwrap(), (0.9, 0.999), 1e-8).unwrap();
            let mut optimiser = fresh();
            for step in 0..5 {
                if break_at == Some(step) {
                    let state = optimiser.tensors().unwrap();
                    optimiser = fresh();
                    optimiser.load(&state).unwrap();
                }
                let gradients = gradients(&params, 0.3);
                let norms = optimiser.norms(&gradients).unwrap();
                optimiser.step(&gradients, &norms, 1e-2).unwrap();
            }
            numbers(&params, "a")
        };
        assert_eq!(run(None), run(Some(3)));
        let threads =
            |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(|| run(None));
        assert_eq!(threads(1), threads(2));
    }

    #[test]
    fn state_and_bad_gradients_are_refused_with_names() {
        let params = params(&[("a", 2), ("b", 3)]);
        let mut optimiser =
            AdamW::new(ParamGroups::new(&params, &[group("*")]).unwrap(), (0.9, 0.999), 1e-8).unwrap();
        let mut state = optimiser.tensors().unwrap();
        let moved = state.remove("a.exp_avg").unwrap();
        state.insert("c.exp_avg".into(), moved);
        let error = optimiser.load(&state).unwrap_err().to_string();
        assert!(
            error.contains("missing [\"a.exp_avg\"]") && error.contains("unexpected [\"c.exp_avg\"]"),
            "{error}"
        );
        let mut gradients = gradients(&params, 0.1);
        gradients.params.insert("a".into(), Tensor::new(&[f32::NAN, 0.0], &Device::Cpu).unwrap());
        let before = numbers(&params, "b");
        let norms = optimiser.norms(&gradients).unwrap();
        assert!(!norms.is_finite());
        assert!(optimiser.step(&gradients, &norms, 1.0).is_err());
        assert_eq!(numbers(&params, "b"), before);
    }
}
