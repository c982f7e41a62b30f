//! A moving average of the weights.

use anyhow::{Result, ensure};
use models::{Param, Params, view};

use crate::optim::Tensors;

/// Exponential moving average with a warm start: at update `n` (from 0) the decay is `min(decay, (1 + n) / (10 + n))`,
/// so early averages are not held back by the random start.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    updates: u64,
    average: Params,
}

impl Ema {
    /// An average that begins at the weights as they are.
    ///
    /// # Errors
    /// When `decay` lies outside [0, 1).
    pub fn new(params: &Params, decay: f64) -> Result<Self> {
        ensure!(
            (0.0..1.0).contains(&decay),
            "the decay of the moving average must lie in [0, 1), got {decay}"
        );
        let mut average = Params::default();
        for param in params.iter() {
            average.insert(Param::new(param.name().clone(), param.value().copy()?)?)?;
        }
        Ok(Self { decay, updates: 0, average })
    }

    /// Moves the average towards `params`, the weights it was made of.
    ///
    /// # Errors
    /// When a weight is gone or is not f32 on the CPU.
    pub fn update(&mut self, params: &Params) -> Result<()> {
        let n = self.updates as f64;
        let weight = (1.0 - self.decay.min((1.0 + n) / (10.0 + n))) as f32;
        for average in self.average.iter() {
            let Some(param) = params.get(average.name()) else {
                anyhow::bail!("the model no longer has the weight {}", average.name());
            };
            let new = view::<f32>(param.value())?;
            average.update(|old| old.iter_mut().zip(&*new).for_each(|(a, p)| *a += weight * (p - *a)))?;
        }
        self.updates += 1;
        Ok(())
    }

    /// Runs `work` (evaluation, saving the final model) with the average in place of the weights.
    ///
    /// # Errors
    /// What `work` says.
    pub fn in_place<T>(&self, params: &Params, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let kept = params.snapshot()?;
        params.assign(&self.average.snapshot()?)?;
        let result = work();
        params.assign(&kept)?;
        result
    }

    /// The averages by name and the number of updates behind them.
    ///
    /// # Errors
    /// What candle says.
    pub fn state(&self) -> Result<(Tensors, u64)> {
        Ok((self.average.snapshot()?, self.updates))
    }

    /// Takes a state back.
    ///
    /// # Errors
    /// When the names or shapes are not those of the model.
    pub fn load(&mut self, tensors: &Tensors, updates: u64) -> Result<()> {
        self.average.assign(tensors)?;
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn the_average_follows_with_a_warm_start() {
        let mut params = Params::default();
        params.insert(Param::new("w", Tensor::new(&[1.0f32, -2.0], &Device::Cpu).unwrap()).unwrap()).unwrap();
        let mut ema = Ema::new(&params, 0.2).unwrap();
        let (mut want, mut value) = (1.0, 1.0);
        for n in 0..5 {
            value += 0.5;
            params.get("w").unwrap().update(|w| w[0] += 0.5).unwrap();
            ema.update(&params).unwrap();
            let decay = f64::min(0.2, (1.0 + f64::from(n)) / (10.0 + f64::from(n)));
            want = decay * want + (1.0 - decay) * value;
        }
        let now = || params.get("w").unwrap().value().to_vec1::<f32>().unwrap();
        let inside = ema.in_place(&params, || Ok(now())).unwrap();
        assert!((f64::from(inside[0]) - want).abs() < 1e-6, "{inside:?} {want}");
        assert_eq!(now(), [3.5, -2.0]);
        let (tensors, updates) = ema.state().unwrap();
        let mut other = Ema::new(&params, 0.2).unwrap();
        other.load(&tensors, updates).unwrap();
        assert_eq!(other.in_place(&params, || Ok(now())).unwrap(), inside);
    }
}
