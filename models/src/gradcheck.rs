//! Gradients against finite differences, in f64: the test of every op.

use candle_core::{Result, Tensor};

use crate::tape::{Tape, Var};

/// Checks the gradient of `f` with respect to every element of every input.
///
/// `f` may return any shape; the checked scalar is its sum weighted by fixed irregular numbers, so that a transposed or
/// permuted gradient cannot pass.
///
/// # Panics
/// At the first element whose analytic and numeric derivative differ by more than 1e-6 (relative to 1 + |value|).
pub fn gradcheck(inputs: &[Tensor], f: impl Fn(&Tape, &[Var]) -> Result<Var>) {
    let weigh = |out: &Tensor| -> Result<Tensor> {
        let n = out.elem_count();
        let weights: Vec<f64> = (0..n).map(|i| 0.5 + ((i * 7919) % 101) as f64 / 101.0).collect();
        Tensor::from_vec(weights, out.shape(), out.device())
    };
    let scalar = |inputs: &[Tensor]| -> Result<f64> {
        let vars: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
        let out = f(&Tape::off(), &vars)?;
        (out.value() * weigh(out.value())?)?.sum_all()?.to_scalar()
    };
    let analytic = || -> Result<Vec<Tensor>> {
        let tape = Tape::on();
        let vars: Vec<Var> = inputs.iter().map(|t| tape.input(t.clone())).collect();
        let out = f(&tape, &vars)?;
        let grads = tape.backward_from(&[(&out, weigh(out.value())?)])?;
        vars.iter().map(|v| grads.input(v).cloned().map_or_else(|| v.value().zeros_like(), Ok)).collect()
    };
    let grads = analytic().expect("the op runs on the given inputs");
    let step = 1e-5;
    for (which, input) in inputs.iter().enumerate() {
        let numbers =
            input.flatten_all().and_then(|t| t.to_vec1::<f64>()).expect("inputs of gradcheck are f64");
        let grad = grads[which]
            .flatten_all()
            .and_then(|t| t.to_vec1::<f64>())
            .expect("gradients of gradcheck are f64");
        for at in 0..numbers.len() {
            let moved = |by: f64| {
                let mut numbers = numbers.clone();
                numbers[at] += by;
                let mut inputs = inputs.to_vec();
                inputs[which] = Tensor::from_vec(numbers, input.shape(), input.device()).expect("same shape");
                scalar(&inputs).expect("the op runs on the given inputs")
            };
            let numeric = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (numeric - grad[at]).abs() <= 1e-6 * (1.0 + numeric.abs()),
                "input {which}, element {at}: finite difference {numeric}, gradient {}",
                grad[at]
            );
        }
    }
}
