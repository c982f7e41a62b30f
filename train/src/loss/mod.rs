//! Losses: one file per task, and the list that totals and logs them.

pub mod fold;
pub mod llm;
pub mod ss;

use anyhow::{Result, ensure};
use candle_core::DType;
use models::{Tape, Var, ops};

/// The terms of a loss, in order. Total and log line derive from this one list, so no term can be in one and not in the
/// other.
#[derive(Default)]
pub struct LossTerms(Vec<(String, f64, Var)>);

impl LossTerms {
    /// No terms yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `weight · value`; `value` is a scalar. A weight of zero keeps the term out of the total and in the log.
    #[must_use]
    pub fn with(mut self, name: &str, weight: f64, value: Var) -> Self {
        self.0.push((name.to_owned(), weight, value));
        self
    }

    /// The weighted sum, a scalar on the tape.
    ///
    /// # Errors
    /// When there is no term with a weight, or a value is no scalar.
    pub fn total(&self, tape: &Tape) -> Result<Var> {
        let mut total: Option<Var> = None;
        for (name, weight, value) in self.0.iter().filter(|(_, weight, _)| *weight != 0.0) {
            ensure!(value.value().rank() == 0, "loss {name} is no scalar: {:?}", value.value().shape());
            let term = ops::scale(tape, value, *weight)?;
            total = Some(match total {
                None => term,
                Some(sum) => ops::add(tape, &sum, &term)?,
            });
        }
        total.ok_or_else(|| anyhow::anyhow!("no loss has a weight"))
    }

    /// The log line: `loss` (the weighted sum), then `loss/NAME` for every term (before its weight) where there are
    /// several.
    ///
    /// # Errors
    /// When a value is no scalar.
    pub fn log_items(&self) -> Result<Vec<(String, f64)>> {
        let mut items = vec![("loss".to_owned(), 0.0)];
        for (name, weight, value) in &self.0 {
            let number = value.value().to_dtype(DType::F64)?.to_scalar::<f64>()?;
            if *weight != 0.0 {
                items[0].1 += weight * number;
            }
            items.push((format!("loss/{name}"), number));
        }
        if self.0.len() == 1 && self.0[0].1 == 1.0 {
            items.truncate(1);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn total_and_log_are_one_list() {
        let tape = Tape::on();
        let input = |x: f64| tape.input(Tensor::new(x, &Device::Cpu).unwrap());
        let (a, b, c) = (input(2.0), input(-3.0), input(7.0));
        let terms =
            LossTerms::new().with("a", 1.0, a.clone()).with("b", 0.5, b.clone()).with("c", 0.0, c.clone());
        let total = terms.total(&tape).unwrap();
        assert_eq!(total.value().to_scalar::<f64>().unwrap(), 0.5);
        let items = terms.log_items().unwrap();
        let names: Vec<&str> = items.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["loss", "loss/a", "loss/b", "loss/c"]);
        assert_eq!(items.iter().map(|(_, v)| *v).collect::<Vec<_>>(), [0.5, 2.0, -3.0, 7.0]);
        let gradients = tape.backward(&total).unwrap();
        let of = |v: &Var| gradients.input(v).map(|g| g.to_scalar::<f64>().unwrap());
        assert_eq!((of(&a), of(&b), of(&c)), (Some(1.0), Some(0.5), None));
    }
}
