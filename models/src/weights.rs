//! Where a model's weights come from: drawn at random, or read from a checkpoint, strictly.
//!
//! A layer asks for `weights.pp("attn").get((out, in), "weight", Init::Normal(0.02))` and does not know which. When the
//! model is built, [`Weights::finish`] gives its [`Params`], or one error that lists every missing, unexpected and
//! wrongly shaped tensor together.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

use crate::param::{Param, Params};

/// How a weight is drawn when it is not loaded.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// The same number everywhere.
    Const(f32),
    /// Normal with mean 0 and this standard deviation.
    Normal(f32),
    /// Uniform in ±bound.
    Uniform(f32),
}

impl Init {
    /// What BERT, ESM-2 and Qwen3 draw for transformers: normal with standard deviation 0.02 from width 768 on, and more
    /// in narrower ones, so that a layer has the same gain. With 0.02 at width 64 every block begins at next to no output,
    /// and thousands of steps pass before it has learnt to look at more than one residue.
    pub fn transformer(width: usize) -> Self {
        Self::Normal(0.02 * (768.0 / width as f32).sqrt().max(1.0))
    }
}

type Draw = Box<dyn Fn(&str) -> ChaCha8Rng>;

enum Source {
    Random(Draw),
    Loaded(BTreeMap<String, Tensor>),
}

struct State {
    source: Source,
    device: Device,
    params: Params,
    missing: Vec<String>,
    shapes: Vec<String>,
    twice: Vec<String>,
}

/// The builder that is handed down the layers; each `pp` adds a part to the name.
#[derive(Clone)]
pub struct Weights {
    state: Rc<RefCell<State>>,
    prefix: String,
}

impl Weights {
    fn new(source: Source) -> Self {
        let state = State {
            source,
            device: Device::Cpu,
            params: Params::default(),
            missing: vec![],
            shapes: vec![],
            twice: vec![],
        };
        Self { state: Rc::new(RefCell::new(state)), prefix: String::new() }
    }

    /// Fresh weights. `rng` gives the generator for a weight's name, so a weight's numbers do not depend on what else
    /// the model holds.
    pub fn random(rng: impl Fn(&str) -> ChaCha8Rng + 'static) -> Self {
        Self::new(Source::Random(Box::new(rng)))
    }

    /// Weights by name, as read from a checkpoint; any float type, used as f32.
    pub fn loaded(tensors: BTreeMap<String, Tensor>) -> Self {
        Self::new(Source::Loaded(tensors))
    }

    /// The same weights on another device than the CPU. So a model moves: a new one is built of its
    /// [`Params::snapshot`] there.
    #[must_use]
    pub fn on(self, device: &Device) -> Self {
        self.state.borrow_mut().device = device.clone();
        self
    }

    /// The builder for a named part.
    #[must_use]
    pub fn pp(&self, part: impl std::fmt::Display) -> Self {
        let dot = if self.prefix.is_empty() { "" } else { "." };
        Self { state: self.state.clone(), prefix: format!("{}{dot}{part}", self.prefix) }
    }

    /// Whether a checkpoint holds this name (never for random weights): for options that a file decides, such as tied
    /// embeddings or LoRA.
    pub fn holds(&self, name: &str) -> bool {
        match &self.state.borrow().source {
            Source::Random(_) => false,
            Source::Loaded(tensors) => tensors.contains_key(&self.pp(name).prefix),
        }
    }

    /// The weight `name` of this part.
    ///
    /// A tensor that the checkpoint lacks or holds in another shape is reported by [`Weights::finish`], with all others.
    pub fn get(&self, shape: impl Into<Shape>, name: &str, init: Init) -> Result<Param> {
        let (shape, name) = (shape.into(), self.pp(name).prefix);
        let mut state = self.state.borrow_mut();
        let value = match &mut state.source {
            Source::Random(rng) => draw(&shape, init, &mut rng(&name))?,
            Source::Loaded(tensors) => match tensors.remove(&name) {
                Some(tensor) if *tensor.shape() == shape => tensor.to_dtype(DType::F32)?,
                Some(tensor) => {
                    state.shapes.push(format!("{name} is {:?}, the model has {shape:?}", tensor.dims()));
                    Tensor::zeros(&shape, DType::F32, &Device::Cpu)?
                }
                None => {
                    state.missing.push(name.clone());
                    Tensor::zeros(&shape, DType::F32, &Device::Cpu)?
                }
            },
        };
        let param = Param::new(name.clone(), value.to_device(&state.device)?)?;
        if state.params.insert(param.clone()).is_err() {
            state.twice.push(name);
        }
        Ok(param)
    }

    /// Ends the building.
    ///
    /// # Errors
    /// One error that lists what the checkpoint lacks, what it holds beyond the model, and what has another shape.
    pub fn finish(self) -> Result<Params> {
        let state = self.state.replace(State {
            source: Source::Loaded(BTreeMap::new()),
            device: Device::Cpu,
            params: Params::default(),
            missing: vec![],
            shapes: vec![],
            twice: vec![],
        });
        let unexpected: Vec<String> = match state.source {
            Source::Random(_) => vec![],
            Source::Loaded(tensors) => tensors.into_keys().collect(),
        };
        let State { missing, shapes, twice, params, .. } = state;
        if missing.len() + shapes.len() + twice.len() + unexpected.len() > 0 {
            bail!(
                "weights do not fit the model: missing {missing:?}, unexpected {unexpected:?}, wrong shape {shapes:?}, \
                 defined twice {twice:?}"
            );
        }
        Ok(params)
    }
}

fn draw(shape: &Shape, init: Init, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let n = shape.elem_count();
    let sampled = |values: Vec<f32>| Tensor::from_vec(values, shape.clone(), &Device::Cpu);
    match init {
        Init::Const(value) => sampled(vec![value; n]),
        Init::Normal(std) => match Normal::new(0.0, std) {
            Ok(normal) => sampled(normal.sample_iter(rng).take(n).collect()),
            Err(error) => bail!("initial standard deviation {std}: {error}"),
        },
        Init::Uniform(bound) => match Uniform::new_inclusive(-bound, bound) {
            Ok(uniform) => sampled(uniform.sample_iter(rng).take(n).collect()),
            Err(error) => bail!("initial bound {bound}: {error}"),
        },
    }
}

/// Reads the tensors of a safetensors file (or of all files of a sharded checkpoint) by name.
///
/// # Errors
/// Names the file that is missing or broken.
pub fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    match candle_core::safetensors::load(path, &Device::Cpu) {
        Ok(tensors) => Ok(tensors.into_iter().collect()),
        Err(error) => bail!("cannot read weights {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn rng(name: &str) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(name.len() as u64)
    }

    #[test]
    fn a_checkpoint_must_fit_in_every_name() {
        let weights = Weights::random(rng);
        weights.pp("a").get((2, 3), "weight", Init::Normal(1.0)).unwrap();
        weights.get(5, "bias", Init::Const(0.5)).unwrap();
        let params = weights.finish().unwrap();
        assert_eq!(params.counts(), (11, 11));

        let mut saved = params.snapshot().unwrap();
        saved.insert("extra".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
        saved.remove("bias");
        let weights = Weights::loaded(saved);
        weights.pp("a").get((3, 2), "weight", Init::Normal(1.0)).unwrap();
        weights.get(5, "bias", Init::Const(0.0)).unwrap();
        let error = weights.finish().unwrap_err().to_string();
        for part in ["missing [\"bias\"]", "unexpected [\"extra\"]", "a.weight is [2, 3]"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
