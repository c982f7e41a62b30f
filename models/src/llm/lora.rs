//! Low-rank adapters (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732; DoRA, arXiv 2402.09353), in and out as PEFT folders.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Error, Result, Tensor, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::llm::files;
use crate::llm::qwen3::Qwen3;
use crate::ops;
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::view::{Matrix, Threads, matmul, tensor, view};
use crate::weights::{Init, Weights, read_safetensors};

/// Which projections are adapted, and how. Names and meanings are PEFT's; other keys of its `adapter_config.json` do not
/// change the numbers of a trained adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraConfig {
    /// last parts of the projections' names: `q_proj`, `self_attn.v_proj`, …
    pub target_modules: Vec<String>,
    /// rank
    pub r: usize,
    /// the correction is multiplied by alpha / rank
    pub lora_alpha: f64,
    /// by alpha / √rank instead
    #[serde(default)]
    pub use_rslora: bool,
    /// ranks of single projections, by the last parts of their names
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// alphas of single projections
    #[serde(default)]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// trains the length of each row of the weight apart from its direction
    #[serde(default)]
    pub use_dora: bool,
}

impl LoraConfig {
    fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|t| ends_with_part(module, t))
    }

    fn rank(&self, module: &str) -> usize {
        named(&self.rank_pattern, module).unwrap_or(self.r)
    }

    fn scale(&self, module: &str) -> f64 {
        let rank = self.rank(module) as f64;
        let alpha = named(&self.alpha_pattern, module).unwrap_or(self.lora_alpha);
        alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

fn ends_with_part(module: &str, part: &str) -> bool {
    module.strip_suffix(part).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn named<T: Copy>(pattern: &BTreeMap<String, T>, module: &str) -> Option<T> {
    pattern.iter().find(|(part, _)| ends_with_part(module, part)).map(|(_, &value)| value)
}

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
        let y = ops::lora_linear(tape, x, self.weight.value(), &a, &b, lora.scale)?;
        let Some(magnitude) = &lora.magnitude else { return Ok(y) };
        // The length of the adapted rows is a constant of the gradient (DoRA, section 4.3).
        let lengths = row_lengths(&self.adapted()?)?;
        tape.candle(&[&y, &tape.param(magnitude)], move |v| v[0].broadcast_mul(&(&v[1] / &lengths)?))
    }

    /// W + scale · B A, in f32.
    fn adapted(&self) -> Result<Tensor> {
        let Some(lora) = &self.lora else { return Ok(self.weight.value().clone()) };
        let ((n_out, n_in), rank) = (self.weight.value().dims2()?, lora.a.value().dim(0)?);
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
        let mut unused = config.target_modules.clone();
        for (name, projection) in model.projections() {
            if !config.targets(&name) {
                continue;
            }
            unused.retain(|target| !ends_with_part(&name, target));
            let (n_out, n_in) = projection.weight.value().dims2()?;
            let (rank, at) = (config.rank(&name), weights.pp(PREFIX).pp(&name));
            let a = Init::Uniform(1.0 / (n_in as f32).sqrt());
            let lora = Lora {
                a: at.pp("lora_A").get((rank, n_in), "weight", a)?,
                b: at.pp("lora_B").get((n_out, rank), "weight", Init::Const(0.0))?,
                scale: config.scale(&name),
                magnitude: config.use_dora.then(|| magnitude(&at, &projection.weight)).transpose()?,
            };
            projection.lora = Some(lora);
        }
        if let Some(target) = unused.first() {
            let valid: Vec<String> = model.projections().map(|(name, _)| name).take(7).collect();
            bail!("LoRA target {target:?} names no projection; there are {valid:?}, … in every layer");
        }
        let params = weights.finish()?;
        params.iter().try_for_each(|p| model.params_mut().insert(p.clone()))?;
        Ok(model)
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

    /// A model of its own whose weights have the adapter added in.
    pub fn merged(&self) -> Result<Self> {
        let mut tensors = self.without_lora()?.params().snapshot()?;
        for (name, projection) in self.clone().projections() {
            tensors.insert(format!("{name}.weight"), projection.merged()?);
        }
        Qwen3::new(self.config().clone(), Weights::loaded(tensors))
    }

    /// Reads a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`) onto this model.
    ///
    /// Rows of the embedding that the adapter replaces (`trainable_token_indices`) are replaced in a copy.
    ///
    /// # Errors
    /// On another kind of adapter, and as [`Qwen3::with_lora`].
    pub fn load_lora(&self, folder: &Path) -> Result<(Self, LoraConfig)> {
        let json = files::read_json(&folder.join("adapter_config.json"))?;
        if json["peft_type"] != "LORA" || !json["target_modules"].is_array() {
            bail!(
                "{}: needs peft_type LORA and a list of target_modules, got {} and {}",
                folder.display(),
                json["peft_type"],
                json["target_modules"]
            );
        }
        let tokens = json["trainable_token_indices"].clone();
        let config: LoraConfig = serde_json::from_value(json).map_err(Error::wrap)?;
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
            ("lora_dropout", json!(0.0)),
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
