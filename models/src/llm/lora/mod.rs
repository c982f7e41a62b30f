//! Low-rank adapters (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732; DoRA, arXiv 2402.09353), in and out as PEFT folders.

mod config;

use std::path::Path;

use candle_core::{Device, Error, Result, Tensor, bail};
use serde_json::json;

pub use config::{Layers, LoraConfig, Modules};

use crate::device::{copy_to, on_gpu};
use crate::llm::files;
use crate::llm::qwen3::Qwen3;
use crate::matmul::{Matrix, Threads, matmul};
use crate::ops;
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};
use crate::weights::{Init, Weights, read_safetensors};

/// A weight without bias that may carry an adapter.
#[derive(Clone)]
pub(crate) struct Projection {
    weight: Param,
    lora: Option<Lora>,
}

#[derive(Clone)]
struct Lora {
    /// `[rank, in]`
    a: Param,
    /// `[out, rank]`
    b: Param,
    scale: f64,
    dropout: f64,
    /// DoRA: length of each row, `[out]`
    magnitude: Option<Param>,
}

impl Projection {
    pub(crate) fn new(weight: Param) -> Self {
        Self { weight, lora: None }
    }

    /// # Shapes
    /// x `[.., in]` → `[.., out]`
    pub(crate) fn forward(&self, tape: &Tape, x: &Var) -> Result<Var> {
        let Some(lora) = &self.lora else { return ops::linear(tape, x, &tape.param(&self.weight), None) };
        let (a, b) = (tape.param(&lora.a), tape.param(&lora.b));
        let weight = self.weight.value();
        if lora.dropout > 0.0
            && let Some(mut rng) = tape.draws(lora.a.name())
        {
            // What the adapter adds to W x, seen through a mask: s B A x', and for DoRA f ⊙ (W + s B A) x' − W x', f its
            // new row lengths.
            let frozen = Var::constant(weight.clone());
            let seen = ops::dropout(tape, x, lora.dropout, Some(&mut rng))?;
            let added = if lora.magnitude.is_some() {
                let adapted = ops::lora_linear(tape, &seen, weight, &a, &b, lora.scale)?;
                ops::sub(tape, &self.rescaled(tape, adapted)?, &ops::linear(tape, &seen, &frozen, None)?)?
            } else {
                let low = ops::linear(tape, &seen, &a, None)?;
                ops::scale(tape, &ops::linear(tape, &low, &b, None)?, lora.scale)?
            };
            return ops::add(tape, &ops::linear(tape, x, &frozen, None)?, &added);
        }
        let y = ops::lora_linear(tape, x, weight, &a, &b, lora.scale)?;
        self.rescaled(tape, y)
    }

    /// DoRA: `y` with rows of the lengths that it has learnt. Without it, `y`.
    fn rescaled(&self, tape: &Tape, y: Var) -> Result<Var> {
        let Some(magnitude) = self.lora.as_ref().and_then(|lora| lora.magnitude.as_ref()) else {
            return Ok(y);
        };
        // The length of the adapted rows is a constant of the gradient (DoRA, section 4.3).
        let lengths = row_lengths(&self.adapted()?)?;
        tape.candle(&[&y, &tape.param(magnitude)], move |v| v[0].broadcast_mul(&(&v[1] / &lengths)?))
    }

    /// W + scale · B A, in f32.
    fn adapted(&self) -> Result<Tensor> {
        let Some(lora) = &self.lora else { return Ok(self.weight.value().clone()) };
        let ((n_out, n_in), rank) = (self.weight.value().dims2()?, lora.a.value().dim(0)?);
        on_gpu!(self.weight.value() => {
            self.weight.value() + (lora.b.value().matmul(lora.a.value())? * lora.scale)?
        });
        let mut out = vec![0.0_f32; n_out * n_in];
        let (a, b) = (view::<f32>(lora.a.value())?, view::<f32>(lora.b.value())?);
        matmul(&mut out, Matrix::new(&b, n_out, rank), Matrix::new(&a, rank, n_in), false, Threads::All);
        for (o, &w) in out.iter_mut().zip(view::<f32>(self.weight.value())?.iter()) {
            *o = w + *o * lora.scale as f32;
        }
        tensor(out, (n_out, n_in))
    }

    /// The weight that gives, without an adapter, what this gives with it.
    fn merged(&self) -> Result<Tensor> {
        let adapted = self.adapted()?;
        match self.lora.as_ref().and_then(|lora| lora.magnitude.as_ref()) {
            Some(magnitude) => {
                let factor = (magnitude.value() / row_lengths(&adapted)?)?;
                adapted.broadcast_mul(&factor.unsqueeze(1)?)
            }
            None => Ok(adapted),
        }
    }
}

fn row_lengths(weight: &Tensor) -> Result<Tensor> {
    weight.sqr()?.sum(1)?.sqrt()
}

/// DoRA's row lengths: a saved adapter's, or those of the weight as it is.
fn magnitude(at: &Weights, weight: &Param) -> Result<Param> {
    const NAME: &str = "lora_magnitude_vector";
    let saved = at.holds(NAME);
    let magnitude = at.get(weight.value().dim(0)?, NAME, Init::Const(0.0))?;
    if !saved {
        magnitude.assign(&row_lengths(weight.value())?)?;
    }
    Ok(magnitude)
}

/// What merging an adapter changes in the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogitDifference {
    /// largest absolute difference
    pub largest: f64,
    /// mean absolute difference
    pub mean: f64,
}

const PREFIX: &str = "base_model.model";

impl Qwen3 {
    /// This model, its weights shared and frozen, with a new adapter whose tensors come from `weights`: fresh ones (A as
    /// PEFT draws it, B zero: the output does not change) or a saved adapter's. Replaces an adapter that is there.
    ///
    /// # Errors
    /// When a target names no projection; with loaded weights, lists what is missing or unexpected.
    pub fn with_lora(&self, config: &LoraConfig, weights: Weights) -> Result<Self> {
        let mut model = self.without_lora()?;
        model.params().set_trainable(false, |_| true);
        let choice = config.compile()?;
        let weights = weights.on(self.device());
        let names: Vec<String> = model.projections().map(|(name, _)| name).collect();
        if let Some(target) = choice.unused(&names) {
            bail!(
                "LoRA target {target:?} names no projection; there are {:?}, … in every layer",
                &names[..7]
            );
        }
        for (name, projection) in model.projections() {
            let Some(shape) = choice.shape(&name)? else { continue };
            let (n_out, n_in) = projection.weight.value().dims2()?;
            let at = weights.pp(PREFIX).pp(&name);
            let a = Init::Uniform(1.0 / (n_in as f32).sqrt());
            let lora = Lora {
                a: at.pp("lora_A").get((shape.rank, n_in), "weight", a)?,
                b: at.pp("lora_B").get((n_out, shape.rank), "weight", Init::Const(0.0))?,
                scale: shape.scale,
                dropout: config.lora_dropout,
                magnitude: config.use_dora.then(|| magnitude(&at, &projection.weight)).transpose()?,
            };
            projection.lora = Some(lora);
        }
        let params = weights.finish()?;
        params.iter().try_for_each(|p| model.params_mut().insert(p.clone()))?;
        Ok(model)
    }

    /// Puts a copy of another model's adapter on this one.
    pub(crate) fn copy_lora(&mut self, of: &Self) -> Result<()> {
        let (device, mut of) = (self.device().clone(), of.clone());
        let mut params = vec![];
        for ((_, from), (_, to)) in of.projections().zip(self.projections()) {
            let Some(lora) = &from.lora else { continue };
            let mut place = |param: &Param| {
                let param = Param::new(param.name().clone(), copy_to(param.value(), &device)?)?;
                params.push(param.clone());
                Ok::<_, Error>(param)
            };
            let magnitude = lora.magnitude.as_ref().map(&mut place).transpose()?;
            to.lora = Some(Lora { a: place(&lora.a)?, b: place(&lora.b)?, magnitude, ..*lora });
        }
        params.into_iter().try_for_each(|param| self.params_mut().insert(param))
    }

    /// This model without its adapter (the weights are shared).
    pub fn without_lora(&self) -> Result<Self> {
        let mut model = self.clone();
        for (_, projection) in model.projections() {
            projection.lora = None;
        }
        model.keep_params(|name| !name.starts_with(PREFIX))?;
        Ok(model)
    }

    /// A model of its own whose weights have the adapter added in, in f32.
    pub fn merged(&self) -> Result<Self> {
        let mut tensors = self.without_lora()?.params().snapshot()?;
        for (name, projection) in self.clone().projections() {
            tensors.insert(format!("{name}.weight"), projection.merged()?);
        }
        Qwen3::new(self.config().clone(), Weights::loaded(tensors).on(self.device()))
    }

    /// How far the logits of `merged` are from this model's on some token rows: the largest and the mean absolute
    /// difference. Sums are rounded in another order once the adapter is part of the weights, so it is small, not zero.
    ///
    /// # Errors
    /// On an empty row.
    pub fn logit_difference(&self, merged: &Self, probes: &[Vec<u32>]) -> Result<LogitDifference> {
        let (mut out, mut sum, mut n) = (LogitDifference::default(), 0.0, 0_u64);
        for probe in probes {
            let ids = Tensor::new(probe.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
            let logits = |model: &Self| {
                let off = Tape::off();
                let hidden = model.hidden(&off, &model.embed(&off, &ids)?, &[probe.len()])?;
                model.logits(&off, &hidden)
            };
            let (ours, theirs) = (logits(self)?, logits(merged)?);
            for (a, b) in view::<f32>(ours.value())?.iter().zip(view::<f32>(theirs.value())?.iter()) {
                let apart = f64::from((a - b).abs());
                out.largest = out.largest.max(apart);
                sum += apart;
                n += 1;
            }
        }
        out.mean = sum / n.max(1) as f64;
        Ok(out)
    }

    /// Reads a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`) onto this model.
    ///
    /// Rows of the embedding that the adapter replaces (`trainable_token_indices`) are replaced in a copy.
    ///
    /// # Errors
    /// On another kind of adapter, and as [`Qwen3::with_lora`].
    pub fn load_lora(&self, folder: &Path) -> Result<(Self, LoraConfig)> {
        let json = files::read_json(&folder.join("adapter_config.json"))?;
        let config = match LoraConfig::from_json(&json) {
            Ok(config) => config,
            Err(error) => bail!("{}: {error}", folder.join("adapter_config.json").display()),
        };
        let tokens = json["trainable_token_indices"].clone();
        let mut tensors = read_safetensors(&folder.join("adapter_model.safetensors"))?;
        let rows =
            tensors.remove(&format!("{PREFIX}.model.embed_tokens.token_adapter.trainable_tokens_delta"));
        let model = match rows {
            Some(rows) => {
                let tokens: Vec<usize> = serde_json::from_value(tokens).map_err(Error::wrap)?;
                self.with_token_rows(&tokens, &rows)?
            }
            None => self.clone(),
        };
        Ok((model.with_lora(&config, Weights::loaded(tensors))?, config))
    }

    /// Writes the adapter as a PEFT folder that names `base` as its base model.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save_lora(&self, folder: &Path, config: &LoraConfig, base: &str) -> Result<()> {
        fs_err::create_dir_all(folder)?;
        let mut json = serde_json::to_value(config).map_err(Error::wrap)?;
        for (key, value) in [
            ("peft_type", json!("LORA")),
            ("task_type", json!("CAUSAL_LM")),
            ("base_model_name_or_path", json!(base)),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            ("modules_to_save", json!(null)),
        ] {
            json[key] = value;
        }
        files::write_json(&folder.join("adapter_config.json"), &json)?;
        let adapter = self.params().iter().filter(|p| p.name().starts_with(PREFIX));
        let tensors = adapter.map(|p| (p.name().to_string(), p.value().clone())).collect();
        files::write_safetensors(&folder.join("adapter_model.safetensors"), tensors)
    }
}
