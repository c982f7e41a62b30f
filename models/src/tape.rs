//! The tape: how gradients flow.
//!
//! A node is a value and a closure that takes the value's gradient and hands gradients on to what it was computed from.
//! An op computes its value however it likes (a fused loop, a candle call), then calls [`Tape::record`]. Training,
//! rollouts and inference are one forward code: on [`Tape::off`] nothing is recorded and nothing is kept.
//!
//! * A [`Var`] that needs no gradient (an input, a frozen weight) is a constant: ops ask [`Var::needs_grad`] and skip
//!   the product, so a frozen layer costs no weight gradient.
//! * Activations live in the closures; [`Tape::backward`] drops each closure as it passes, so memory falls while it runs.
//! * Gradients that meet are added in place.
//! * [`Tape::checkpoint`] keeps only a block's inputs and computes it again when its gradient arrives.
//! * [`Tape::candle`] runs any candle closure through candle's own autograd: for rare terms that deserve no fused op.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Result, Shape, Tensor, bail};
use rand_chacha::ChaCha8Rng;

use crate::ops::basic::{Pairwise, pairwise};
use crate::param::Param;
use crate::view::add_assign;

type Backward = Box<dyn FnOnce(Tensor, &mut Grads) -> Result<()>>;

type Draws = Rc<dyn Fn(&str) -> ChaCha8Rng>;

/// The record of one forward pass.
pub struct Tape {
    nodes: Option<RefCell<Vec<Option<Backward>>>>,
    /// what is random in a training step, by name
    draws: Option<Draws>,
}

/// A tensor on a tape.
#[derive(Clone, Debug)]
pub struct Var {
    value: Tensor,
    origin: Origin,
}

/// A [`Var`] without its value. An op whose gradient needs no value keeps this, so that the value can be freed.
#[derive(Clone, Debug)]
pub struct Parent {
    shape: Shape,
    origin: Origin,
}

impl Parent {
    /// Whether anybody wants its gradient.
    pub fn needs_grad(&self) -> bool {
        self.origin.needs_grad()
    }

    /// Its shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}

#[derive(Clone, Debug)]
enum Origin {
    Constant,
    Param(Arc<str>),
    Node(usize),
}

impl Origin {
    fn needs_grad(&self) -> bool {
        !matches!(self, Self::Constant)
    }
}

impl Var {
    /// A value through which no gradient flows.
    pub fn constant(value: Tensor) -> Self {
        Self { value, origin: Origin::Constant }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Whether anybody wants its gradient.
    pub fn needs_grad(&self) -> bool {
        self.origin.needs_grad()
    }

    /// Where its gradient goes.
    pub fn parent(&self) -> Parent {
        Parent { shape: self.value.shape().clone(), origin: self.origin.clone() }
    }

    /// The same value, cut off from the tape.
    pub fn detach(&self) -> Self {
        Self::constant(self.value.clone())
    }
}

impl From<Tensor> for Var {
    fn from(value: Tensor) -> Self {
        Self::constant(value)
    }
}

/// Gradients on their way back.
#[derive(Default)]
pub struct Grads {
    nodes: Vec<Option<Slot>>,
    params: BTreeMap<Arc<str>, Slot>,
}

struct Slot {
    grad: Tensor,
    /// Whether the numbers belong to this slot alone and may be added to in place.
    owned: bool,
}

impl Grads {
    /// Adds to the gradient of `var`; does nothing for a constant.
    ///
    /// # Errors
    /// When the gradient has another shape than the value.
    pub fn add(&mut self, var: &Var, grad: Tensor) -> Result<()> {
        self.add_to(&var.parent(), grad)
    }

    /// As [`Grads::add`], for an op that kept no value.
    pub fn add_to(&mut self, parent: &Parent, grad: Tensor) -> Result<()> {
        if parent.needs_grad() && *grad.shape() != parent.shape {
            bail!("gradient of shape {:?} for a value of shape {:?}", grad.shape(), parent.shape);
        }
        match &parent.origin {
            Origin::Constant => Ok(()),
            Origin::Node(at) => {
                if self.nodes.len() <= *at {
                    self.nodes.resize_with(at + 1, || None);
                }
                accumulate(&mut self.nodes[*at], grad)
            }
            Origin::Param(name) => self.add_param(name.clone(), grad),
        }
    }

    fn add_param(&mut self, name: Arc<str>, grad: Tensor) -> Result<()> {
        let mut slot = self.params.remove(&name);
        accumulate(&mut slot, grad)?;
        self.params.extend(slot.map(|slot| (name, slot)));
        Ok(())
    }
}

fn accumulate(slot: &mut Option<Slot>, grad: Tensor) -> Result<()> {
    match slot {
        None => *slot = Some(Slot { grad, owned: false }),
        Some(Slot { grad: sum, owned: true }) => add_assign(sum, &grad)?,
        // The first tensor may be shared with another slot or a closure, so the first sum is a new tensor.
        Some(Slot { grad: sum, owned }) => {
            *sum = pairwise(Pairwise::Add, sum, &grad)?;
            *owned = true;
        }
    }
    Ok(())
}

/// What [`Tape::backward`] found.
pub struct Gradients {
    /// By weight name, sorted. A trainable weight that the loss does not reach is absent.
    pub params: BTreeMap<String, Tensor>,
    nodes: Vec<Option<Slot>>,
}

impl Gradients {
    /// Gradient of a [`Tape::input`]; `None` if the loss does not depend on it.
    pub fn input(&self, var: &Var) -> Option<&Tensor> {
        match var.origin {
            Origin::Node(at) => self.nodes.get(at)?.as_ref().map(|slot| &slot.grad),
            _ => None,
        }
    }

    /// Adds the weight gradients of another pass (gradient accumulation).
    pub fn accumulate(&mut self, other: Gradients) -> Result<()> {
        for (name, grad) in other.params {
            match self.params.remove(&name) {
                Some(sum) => self.params.insert(name, pairwise(Pairwise::Add, &sum, &grad)?),
                None => self.params.insert(name, grad),
            };
        }
        Ok(())
    }
}

impl Tape {
    /// A tape that records.
    pub fn on() -> Self {
        Self { nodes: Some(RefCell::default()), draws: None }
    }

    /// A tape that records nothing: inference and rollouts.
    pub fn off() -> Self {
        Self { nodes: None, draws: None }
    }

    /// A tape whose forward pass is that of a training step with dropout: `rng` gives the generator for a name. Without it
    /// dropout is the identity, so sampling, scoring and evaluation agree.
    #[must_use]
    pub fn with_draws(self, rng: impl Fn(&str) -> ChaCha8Rng + 'static) -> Self {
        Self { draws: Some(Rc::new(rng)), ..self }
    }

    /// The generator for a name, in a training step with dropout.
    pub fn draws(&self, name: &str) -> Option<ChaCha8Rng> {
        self.draws.as_ref().map(|rng| rng(name))
    }

    /// Whether it records.
    pub fn is_on(&self) -> bool {
        self.nodes.is_some()
    }

    /// A weight, as seen by this tape: a constant when it is frozen or the tape is off.
    pub fn param(&self, param: &Param) -> Var {
        let origin = match self.is_on() && param.is_trainable() {
            true => Origin::Param(param.name().clone()),
            false => Origin::Constant,
        };
        Var { value: param.value().clone(), origin }
    }

    /// An input whose gradient is wanted (see [`Gradients::input`]).
    pub fn input(&self, value: Tensor) -> Var {
        match &self.nodes {
            None => Var::constant(value),
            Some(nodes) => {
                let mut nodes = nodes.borrow_mut();
                nodes.push(None);
                Var { value, origin: Origin::Node(nodes.len() - 1) }
            }
        }
    }

    /// Records an op: its value, what it was computed from, and how its gradient goes back to them. The closure holds
    /// what it needs (clones of [`Var`]s, saved tensors) and calls [`Grads::add`] for each parent.
    pub fn record(
        &self,
        value: Tensor,
        parents: &[&Var],
        backward: impl FnOnce(Tensor, &mut Grads) -> Result<()> + 'static,
    ) -> Var {
        match &self.nodes {
            Some(nodes) if parents.iter().any(|p| p.needs_grad()) => {
                let mut nodes = nodes.borrow_mut();
                nodes.push(Some(Box::new(backward)));
                Var { value, origin: Origin::Node(nodes.len() - 1) }
            }
            _ => Var::constant(value),
        }
    }

    /// Walks the tape backwards from `loss`, a scalar.
    ///
    /// # Errors
    /// When the tape is off, `loss` is no scalar or nothing that is trained leads to it.
    pub fn backward(self, loss: &Var) -> Result<Gradients> {
        if loss.value.elem_count() != 1 {
            bail!("backward needs a scalar, got {:?}", loss.value.shape());
        }
        let one = loss.value.ones_like()?;
        self.backward_from(&[(loss, one)])
    }

    /// Walks the tape backwards from several values with given gradients.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_from(self, seeds: &[(&Var, Tensor)]) -> Result<Gradients> {
        let Some(nodes) = self.nodes else { bail!("backward on a tape that is off") };
        if seeds.iter().all(|(var, _)| !var.needs_grad()) {
            bail!("backward: no trainable weight leads to this value");
        }
        let mut grads = Grads::default();
        for (var, grad) in seeds {
            grads.add(var, grad.clone())?;
        }
        let mut nodes = nodes.into_inner();
        let mut inputs: Vec<Option<Slot>> = Vec::new();
        inputs.resize_with(nodes.len(), || None);
        while let Some(node) = nodes.pop() {
            let Some(slot) = grads.nodes.get_mut(nodes.len()).and_then(Option::take) else { continue };
            match node {
                Some(backward) => backward(slot.grad, &mut grads)?,
                None => inputs[nodes.len()] = Some(slot),
            }
        }
        let params = grads.params.into_iter().map(|(name, slot)| (name.to_string(), slot.grad)).collect();
        Ok(Gradients { params, nodes: inputs })
    }

    /// Runs `block` without recording its inside and runs it again when its gradient arrives: activations for compute.
    /// `block` must be a pure function of its inputs and of weights.
    pub fn checkpoint(
        &self,
        inputs: &[&Var],
        block: impl Fn(&Tape, &[Var]) -> Result<Var> + 'static,
    ) -> Result<Var> {
        if !self.is_on() {
            return block(self, &inputs.iter().map(|v| v.detach()).collect::<Vec<_>>());
        }
        let draws = self.draws.clone();
        let unrecorded = Tape { draws: draws.clone(), ..Tape::off() };
        let value = block(&unrecorded, &inputs.iter().map(|v| v.detach()).collect::<Vec<_>>())?.value;
        let inputs: Vec<Var> = inputs.iter().map(|&v| v.clone()).collect();
        // The block's weights are not among `inputs`, so the node is recorded whether or not an input needs a gradient.
        let always = self.input(value.clone());
        let recompute = move |grad: Tensor, grads: &mut Grads| {
            let tape = Tape { draws: draws.clone(), ..Tape::on() };
            let leaf = |v: &Var| if v.needs_grad() { tape.input(v.value.clone()) } else { v.clone() };
            let leaves: Vec<Var> = inputs.iter().map(leaf).collect();
            let out = block(&tape, &leaves)?;
            if !out.needs_grad() {
                return Ok(());
            }
            let inner = tape.backward_from(&[(&out, grad)])?;
            for (input, leaf) in inputs.iter().zip(&leaves) {
                if let (true, Some(grad)) = (input.needs_grad(), inner.input(leaf)) {
                    grads.add(input, grad.clone())?;
                }
            }
            inner.params.into_iter().try_for_each(|(name, grad)| grads.add_param(name.into(), grad))
        };
        Ok(self.record(value, &[&always], recompute))
    }

    /// Computes `f` with candle and lets candle's autograd give its gradients (by computing it again). For terms that
    /// deserve no fused op. Beware of candle functions without gradients; `clippy.toml` forbids the known ones.
    pub fn candle(&self, inputs: &[&Var], f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static) -> Result<Var> {
        let value = f(&inputs.iter().map(|v| v.value.clone()).collect::<Vec<_>>())?;
        let parents: Vec<Var> = inputs.iter().map(|&v| v.clone()).collect();
        Ok(self.record(value, inputs, move |grad, grads| {
            let mut leaves = Vec::with_capacity(parents.len());
            for parent in &parents {
                leaves.push(match parent.needs_grad() {
                    true => candle_core::Var::from_tensor(&parent.value)?.into_inner(),
                    false => parent.value.clone(),
                });
            }
            let found = (f(&leaves)? * grad)?.sum_all()?.backward()?;
            for (parent, leaf) in parents.iter().zip(&leaves) {
                if let (true, Some(grad)) = (parent.needs_grad(), found.get(leaf)) {
                    grads.add(parent, grad.clone())?;
                }
            }
            Ok(())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use candle_core::{DType, Device};

    fn numbers(shape: (usize, usize)) -> Tensor {
        let n = shape.0 * shape.1;
        Tensor::arange(0u32, n as u32, &Device::Cpu)
            .and_then(|t| t.to_dtype(DType::F64)?.affine(0.37, -1.0)?.sin()?.reshape(shape))
            .unwrap()
    }

    fn product(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
        tape.candle(&[a, b], |x| &x[0] * &x[1])
    }

    #[test]
    fn gradients_that_meet_are_added() {
        // f = a·a·b, uses a three times on two paths
        gradcheck(&[numbers((2, 3)), numbers((2, 3))], |tape, v| {
            let square = product(tape, &v[0], &v[0])?;
            let out = product(tape, &square, &v[1])?;
            product(tape, &out, &v[0])
        });
    }

    #[test]
    fn a_checkpoint_changes_no_gradient() {
        gradcheck(&[numbers((3, 2)), numbers((3, 2))], |tape, v| {
            tape.checkpoint(&[&v[0], &v[1]], |tape, v| product(tape, &product(tape, &v[0], &v[1])?, &v[0]))
        });
        let weight = Param::new("w", numbers((3, 2))).unwrap();
        let tape = Tape::on();
        let inside = weight.clone();
        let out = tape
            .checkpoint(&[&Var::constant(numbers((3, 2)))], move |tape, v| {
                product(tape, &tape.param(&inside), &v[0])
            })
            .unwrap();
        let ones = out.value().ones_like().unwrap();
        let grads = tape.backward_from(&[(&out, ones)]).unwrap();
        let difference = (&grads.params["w"] - numbers((3, 2))).unwrap().abs().unwrap().sum_all().unwrap();
        assert_eq!(difference.to_scalar::<f64>().unwrap(), 0.0);
    }

    #[test]
    fn frozen_weights_and_constants_get_nothing() {
        let (a, b) = (Param::new("a", numbers((2, 2))).unwrap(), Param::new("b", numbers((2, 2))).unwrap());
        b.set_trainable(false);
        let tape = Tape::on();
        let out = product(&tape, &tape.param(&a), &tape.param(&b)).unwrap();
        let ones = out.value().ones_like().unwrap();
        let grads = tape.backward_from(&[(&out, ones)]).unwrap();
        assert_eq!(grads.params.keys().collect::<Vec<_>>(), ["a"]);
        assert!(!product(&Tape::off(), &Tape::off().param(&a), &Tape::off().param(&b)).unwrap().needs_grad());
    }
}
