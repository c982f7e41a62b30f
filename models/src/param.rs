//! Weights: named, shared, updated in place.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::device::{copy_to, on_gpu};
use crate::view::{update, view};

/// One weight. Clones share the numbers, so an optimiser's step is seen by every layer that holds it.
#[derive(Clone, Debug)]
pub struct Param {
    name: Arc<str>,
    value: Tensor,
    trainable: Arc<AtomicBool>,
}

impl Param {
    /// A trainable weight.
    pub fn new(name: impl Into<Arc<str>>, value: Tensor) -> Result<Self> {
        Ok(Self { name: name.into(), value: value.contiguous()?, trainable: Arc::new(AtomicBool::new(true)) })
    }

    /// Dotted name: the key in checkpoints.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The numbers.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether gradients are computed for it.
    pub fn is_trainable(&self) -> bool {
        self.trainable.load(Ordering::Relaxed)
    }

    /// Freezes or thaws it. A frozen weight costs no gradient product.
    pub fn set_trainable(&self, trainable: bool) {
        self.trainable.store(trainable, Ordering::Relaxed);
    }

    /// Changes the numbers in place (EMA, loading).
    ///
    /// # Errors
    /// When the weight is not f32 on the CPU.
    pub fn update(&self, f: impl FnOnce(&mut [f32])) -> Result<()> {
        update(&self.value, f)
    }

    /// Overwrites the numbers in place, from any device.
    ///
    /// # Errors
    /// On another shape.
    pub fn assign(&self, value: &Tensor) -> Result<()> {
        if value.shape() != self.value.shape() {
            bail!("weight {}: shape {:?}, got {:?}", self.name, self.value.shape(), value.shape());
        }
        let value = value.to_dtype(DType::F32)?.to_device(self.value.device())?.contiguous()?;
        on_gpu!(self.value => self.value.flatten_all()?.slice_set(&value.flatten_all()?, 0, 0));
        let new = view::<f32>(&value)?;
        self.update(|old| old.copy_from_slice(&new))
    }
}

/// All weights of a model, by name. The order is the alphabet's, in every process.
#[derive(Clone, Debug, Default)]
pub struct Params(BTreeMap<Arc<str>, Param>);

impl Params {
    /// Adds a weight.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn insert(&mut self, param: Param) -> Result<()> {
        match self.0.insert(param.name.clone(), param) {
            None => Ok(()),
            Some(old) => bail!("weight {} is defined twice", old.name),
        }
    }

    /// The weight of that name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.0.get(name)
    }

    /// All weights, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.0.values()
    }

    /// Weights that are trained, sorted by name.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        self.iter().filter(|p| p.is_trainable())
    }

    /// Number of weights' numbers, all and trainable.
    pub fn counts(&self) -> (usize, usize) {
        let count = |p: &Param| p.value.elem_count();
        (self.iter().map(count).sum(), self.trainable().map(count).sum())
    }

    /// The weights of both.
    ///
    /// # Errors
    /// When a name is in both.
    pub fn merge(mut self, other: Params) -> Result<Self> {
        for param in other.0.into_values() {
            self.insert(param)?;
        }
        Ok(self)
    }

    /// Freezes or thaws every weight whose name `select` accepts; returns how many.
    pub fn set_trainable(&self, trainable: bool, select: impl Fn(&str) -> bool) -> usize {
        self.iter().filter(|p| select(&p.name)).map(|p| p.set_trainable(trainable)).count()
    }

    /// Copies of the numbers on the CPU, for checkpoints, EMA, best-model keeping and KL references.
    pub fn snapshot(&self) -> Result<BTreeMap<String, Tensor>> {
        self.iter().map(|p| Ok((p.name.to_string(), copy_to(&p.value, &Device::Cpu)?))).collect()
    }

    /// Overwrites all weights from `tensors`.
    ///
    /// # Errors
    /// Lists every missing and every unexpected name, and every wrong shape, together.
    pub fn assign(&self, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let missing: Vec<&str> =
            self.iter().map(|p| &*p.name).filter(|n| !tensors.contains_key(*n)).collect();
        let unexpected: Vec<&String> = tensors.keys().filter(|n| self.get(n).is_none()).collect();
        let shapes: Vec<String> = self
            .iter()
            .filter_map(|p| tensors.get(&*p.name).map(|t| (p, t)))
            .filter(|(p, t)| p.value.shape() != t.shape())
            .map(|(p, t)| format!("{} is {:?}, the model has {:?}", p.name, t.dims(), p.value.dims()))
            .collect();
        if missing.len() + unexpected.len() + shapes.len() > 0 {
            bail!(
                "weights do not fit the model: missing {missing:?}, unexpected {unexpected:?}, wrong shape {shapes:?}"
            );
        }
        self.iter().try_for_each(|p| p.assign(&tensors[&*p.name]))
    }

    /// Writes all weights as safetensors.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: std::collections::HashMap<String, Tensor> =
            self.iter().map(|p| (p.name.to_string(), p.value.clone())).collect();
        candle_core::safetensors::save(&tensors, path)
    }
}
