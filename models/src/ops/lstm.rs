//! Bidirectional LSTM over a padded batch, forward and backward in one op.
//!
//! Rows are sorted by length and packed step after step (the layout of PyTorch's `pack_padded_sequence`): the rows that
//! still run at a step lie side by side, so a step is one product `[n, H] · [H, 4H]` added onto `x · W_ihᵀ`, which was
//! one product for all steps. Nothing is computed for padding, and the reverse direction starts at each row's own end.
//!
//! Gates in PyTorch's order i, f, g, o: `c = f ⊙ c₋₁ + i ⊙ g`, `h = o ⊙ tanh c` (Hochreiter & Schmidhuber 1997 with
//! forget gates). Directions and blocks of [`ROWS`] rows run in parallel; the bits depend on neither.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::dispatch;
use crate::matmul::{Matrix, Threads, matmul};
use crate::ops::kernel::{Number, add_to, vectorised};
use crate::tape::{Tape, Var};
use crate::view::{tensor, view};

/// Rows that one task carries. Fixed, because weight gradients are summed block by block.
const ROWS: usize = 32;

/// The weights of one direction, as [`torch.nn.LSTM`](https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html)
/// has them.
#[derive(Clone, Debug)]
pub struct LstmWeights {
    /// `[4H, I]`
    pub weight_ih: Var,
    /// `[4H, H]`
    pub weight_hh: Var,
    /// `[4H]`
    pub bias_ih: Var,
    /// `[4H]`
    pub bias_hh: Var,
}

impl LstmWeights {
    fn vars(&self) -> [&Var; 4] {
        [&self.weight_ih, &self.weight_hh, &self.bias_ih, &self.bias_hh]
    }

    /// `(I, H)` after checking all shapes against each other.
    fn sizes(&self) -> Result<(usize, usize)> {
        let (gates, inputs) = self.weight_ih.value().dims2()?;
        let (rows, hidden) = self.weight_hh.value().dims2()?;
        let biases = [self.bias_ih.value().dims1()?, self.bias_hh.value().dims1()?];
        if gates != 4 * hidden || rows != gates || biases != [gates; 2] {
            bail!(
                "lstm: weights [{gates}, {inputs}] and [{rows}, {hidden}], biases {biases:?}; expected 4H rows"
            );
        }
        Ok((inputs, hidden))
    }
}

/// Runs both directions over `x`.
///
/// # Shapes
/// `x`: `[B, L, I]`, `lengths`: B numbers ≤ L → `[B, L, 2H]`, the forward direction first; zeros at padding
///
/// # Errors
/// On shapes that do not fit and on a length beyond L.
pub fn bilstm(
    tape: &Tape,
    x: &Var,
    forward: &LstmWeights,
    reverse: &LstmWeights,
    lengths: &[usize],
) -> Result<Var> {
    let (b, l, inputs) = x.value().dims3()?;
    if forward.sizes()? != reverse.sizes()? || forward.sizes()?.0 != inputs {
        bail!("lstm: input of width {inputs}, weights (I, H) {:?}, {:?}", forward.sizes()?, reverse.sizes()?);
    }
    if lengths.len() != b || lengths.iter().any(|&n| n > l) {
        bail!("lstm: a batch [{b}, {l}] with lengths {lengths:?}");
    }
    dispatch!(x.value().dtype(), T => run::<T>(tape, x, [forward, reverse], lengths))
}

/// The weights of one direction as plain numbers.
struct Cell<T> {
    inputs: usize,
    hidden: usize,
    ih: Vec<T>,
    hh: Vec<T>,
    /// `hh` transposed, `[H, 4H]`: the layout that the step's product reads without repacking.
    hh_t: Vec<T>,
    bias: Vec<T>,
}

impl<T: Number> Cell<T> {
    fn new(weights: &LstmWeights) -> Result<Self> {
        let (inputs, hidden) = weights.sizes()?;
        let numbers = |v: &Tensor| -> Result<Vec<T>> { Ok(view::<T>(&v.contiguous()?)?.to_vec()) };
        let hh = weights.weight_hh.value();
        let mut bias = numbers(weights.bias_ih.value())?;
        add_to(&mut bias, &numbers(weights.bias_hh.value())?);
        let ih = numbers(weights.weight_ih.value())?;
        Ok(Self { inputs, hidden, ih, hh: numbers(hh)?, hh_t: numbers(&hh.t()?)?, bias })
    }
}

/// A block of rows in packed order. Step `s` owns the packed rows `starts[s]..starts[s + 1]`.
struct Block {
    starts: Vec<usize>,
    /// For every packed row, its position in the flattened batch `[B·L]`.
    places: Vec<usize>,
}

impl Block {
    /// Packs rows given as (row, length), longest first.
    fn new(rows: &[(usize, usize)], l: usize, reverse: bool) -> Self {
        let (mut starts, mut places) = (vec![0], vec![]);
        for step in 0..rows.first().map_or(0, |r| r.1) {
            let running = rows.iter().take_while(|r| r.1 > step);
            places.extend(running.map(|&(row, n)| row * l + if reverse { n - 1 - step } else { step }));
            starts.push(places.len());
        }
        Self { starts, places }
    }

    fn steps(&self) -> usize {
        self.starts.len() - 1
    }

    /// Copies the packed rows of `from` (`[B·L, width]`, taking `width` columns from `column`) side by side.
    fn pack<T: Number>(&self, from: &[T], stride: usize, column: usize, width: usize) -> Vec<T> {
        let mut packed = Vec::with_capacity(self.places.len() * width);
        for &place in &self.places {
            packed.extend_from_slice(&from[place * stride + column..][..width]);
        }
        packed
    }
}

/// What the backward pass of a block needs. All arrays are packed.
struct Trace<T> {
    /// Inputs `[N, I]`.
    x: Vec<T>,
    /// Activated gates `[N, 4H]`.
    gates: Vec<T>,
    /// Cell states `[N, H]`.
    cells: Vec<T>,
    /// Outputs `[N, H]`.
    hidden: Vec<T>,
}

/// Gradients of a block.
struct BlockGrads<T> {
    x: Vec<T>,
    ih: Vec<T>,
    hh: Vec<T>,
    bias: Vec<T>,
}

fn run<T: Number>(tape: &Tape, x: &Var, weights: [&LstmWeights; 2], lengths: &[usize]) -> Result<Var> {
    let (b, l, inputs) = x.value().dims3()?;
    let hidden = weights[0].sizes()?.1;
    let mut rows: Vec<(usize, usize)> = lengths.iter().copied().enumerate().filter(|r| r.1 > 0).collect();
    rows.sort_by_key(|&(row, n)| (std::cmp::Reverse(n), row));
    let jobs: Vec<(usize, Block)> = rows
        .chunks(ROWS)
        .flat_map(|rows| [(0, Block::new(rows, l, false)), (1, Block::new(rows, l, true))])
        .collect();

    let cells = [Cell::<T>::new(weights[0])?, Cell::new(weights[1])?];
    let numbers = x.value().contiguous()?;
    let numbers = view::<T>(&numbers)?;
    let numbers: &[T] = &numbers;
    let traces: Vec<Trace<T>> = jobs
        .par_iter()
        .map(|(direction, block)| forward(&cells[*direction], block, block.pack(numbers, inputs, 0, inputs)))
        .collect();
    let mut y = vec![T::zero(); b * l * 2 * hidden];
    for ((direction, block), trace) in jobs.iter().zip(&traces) {
        for (&place, h) in block.places.iter().zip(trace.hidden.chunks_exact(hidden)) {
            y[(2 * place + direction) * hidden..][..hidden].copy_from_slice(h);
        }
    }
    let y = tensor(y, (b, l, 2 * hidden))?;

    let parents: Vec<&Var> = weights.iter().flat_map(|w| w.vars()).chain([x]).collect();
    let (owned, source) = ([weights[0].clone(), weights[1].clone()], x.clone());
    Ok(tape.record(y, &parents, move |grad, grads| {
        let grad = grad.contiguous()?;
        let grad = view::<T>(&grad)?;
        let grad: &[T] = &grad;
        let found: Vec<BlockGrads<T>> = (&jobs, traces)
            .into_par_iter()
            .map(|((direction, block), trace)| {
                let dh = block.pack(grad, 2 * hidden, direction * hidden, hidden);
                backward(&cells[*direction], block, trace, dh)
            })
            .collect();
        let mut dx = vec![T::zero(); b * l * inputs];
        for ((_, block), grads) in jobs.iter().zip(&found) {
            for (&place, from) in block.places.iter().zip(grads.x.chunks_exact(inputs)) {
                add_to(&mut dx[place * inputs..][..inputs], from);
            }
        }
        grads.add(&source, tensor(dx, (b, l, inputs))?)?;
        for (direction, weights) in owned.iter().enumerate() {
            let total = |part: fn(&BlockGrads<T>) -> &[T], n: usize| {
                let mut sum = vec![T::zero(); n];
                let mine = jobs.iter().zip(&found).filter(|((d, _), _)| *d == direction);
                mine.for_each(|(_, grads)| add_to(&mut sum, part(grads)));
                sum
            };
            let gates = 4 * hidden;
            grads.add(&weights.weight_ih, tensor(total(|g| &g.ih, gates * inputs), (gates, inputs))?)?;
            grads.add(&weights.weight_hh, tensor(total(|g| &g.hh, gates * hidden), (gates, hidden))?)?;
            let bias = tensor(total(|g| &g.bias, gates), gates)?;
            grads.add(&weights.bias_ih, bias.clone())?;
            grads.add(&weights.bias_hh, bias)?;
        }
        Ok(())
    }))
}

/// All steps of a block in one direction; `x` packed `[N, I]`.
fn forward<T: Number>(cell: &Cell<T>, block: &Block, x: Vec<T>) -> Trace<T> {
    let (n, h) = (block.places.len(), cell.hidden);
    let mut gates: Vec<T> = cell.bias.repeat(n);
    let ih = Matrix::new(&cell.ih, 4 * h, cell.inputs).t();
    matmul(&mut gates, Matrix::new(&x, n, cell.inputs), ih, true, Threads::One);
    let mut cells = vec![T::zero(); n * h];
    let mut hidden = vec![T::zero(); n * h];
    for step in 0..block.steps() {
        let rows = block.starts[step]..block.starts[step + 1];
        let gates = &mut gates[rows.start * 4 * h..rows.end * 4 * h];
        let (old_hidden, hidden) = hidden.split_at_mut(rows.start * h);
        let (old_cells, cells) = cells.split_at_mut(rows.start * h);
        let (hidden, cells) = (&mut hidden[..rows.len() * h], &mut cells[..rows.len() * h]);
        if step > 0 {
            // The rows that still run are the first of the last step's rows.
            let last = block.starts[step - 1] * h..(block.starts[step - 1] + rows.len()) * h;
            let previous = Matrix::new(&old_hidden[last.clone()], rows.len(), h);
            matmul(gates, previous, Matrix::new(&cell.hh_t, h, 4 * h), true, Threads::One);
            cells.copy_from_slice(&old_cells[last]);
        }
        activate(gates, cells, hidden, h);
    }
    Trace { x, gates, cells, hidden }
}

/// Gradients of a block from `dh`, the packed gradient of its outputs `[N, H]`.
fn backward<T: Number>(cell: &Cell<T>, block: &Block, trace: Trace<T>, mut dh: Vec<T>) -> BlockGrads<T> {
    let Trace { x, mut gates, cells, hidden } = trace;
    let (n, h, inputs) = (block.places.len(), cell.hidden, cell.inputs);
    let first = block.starts[1];
    let mut dc = vec![T::zero(); first * h];
    let start_cells = vec![T::zero(); first * h];
    for step in (0..block.steps()).rev() {
        let rows = block.starts[step]..block.starts[step + 1];
        if let Some(&end) = block.starts.get(step + 2) {
            let later = end - rows.end;
            let dz = Matrix::new(&gates[rows.end * 4 * h..end * 4 * h], later, 4 * h);
            let dh = &mut dh[rows.start * h..(rows.start + later) * h];
            matmul(dh, dz, Matrix::new(&cell.hh, 4 * h, h), true, Threads::One);
        }
        let before = match step {
            0 => &start_cells[..],
            _ => &cells[block.starts[step - 1] * h..],
        };
        let (at, end) = (rows.start * h, rows.end * h);
        let gates = &mut gates[4 * at..4 * end];
        activate_back(gates, &cells[at..end], before, &dh[at..end], &mut dc, h);
    }
    // Packed outputs of the step before, for all rows after the first step.
    let mut previous = Vec::with_capacity((n - first) * h);
    for step in 1..block.steps() {
        let from = block.starts[step - 1] * h;
        previous.extend_from_slice(&hidden[from..from + (block.starts[step + 1] - block.starts[step]) * h]);
    }
    let mut grads = BlockGrads {
        x: vec![T::zero(); n * inputs],
        ih: vec![T::zero(); 4 * h * inputs],
        hh: vec![T::zero(); 4 * h * h],
        bias: vec![T::zero(); 4 * h],
    };
    let dz = Matrix::new(&gates, n, 4 * h);
    matmul(&mut grads.x, dz, Matrix::new(&cell.ih, 4 * h, inputs), false, Threads::One);
    matmul(&mut grads.ih, dz.t(), Matrix::new(&x, n, inputs), false, Threads::One);
    let later = Matrix::new(&gates[first * 4 * h..], n - first, 4 * h);
    matmul(&mut grads.hh, later.t(), Matrix::new(&previous, n - first, h), false, Threads::One);
    gates.chunks_exact(4 * h).for_each(|dz| add_to(&mut grads.bias, dz));
    grads
}

vectorised! {
    /// The element-wise part of a step, for all its rows: `gates` `[n, 4H]` are activated in place, `cells` `[n, H]` turn
    /// from c₋₁ to c, `hidden` `[n, H]` becomes h.
    fn activate [T: Number] [T] (gates: &mut [T], cells: &mut [T], hidden: &mut [T], h: usize) {
        let rows = cells.chunks_exact_mut(h).zip(hidden.chunks_exact_mut(h));
        for (gates, (cells, hidden)) in gates.chunks_exact_mut(4 * h).zip(rows) {
            let (input_and_forget, rest) = gates.split_at_mut(2 * h);
            let (g, o) = rest.split_at_mut(h);
            // One array at a time: of loops over more the compiler makes no vector code.
            input_and_forget.iter_mut().for_each(|x| *x = x.sigmoid());
            o.iter_mut().for_each(|x| *x = x.sigmoid());
            g.iter_mut().for_each(|x| *x = x.fast_tanh());
            let (i, f) = input_and_forget.split_at(h);
            for (((c, &i), &f), &g) in cells.iter_mut().zip(i).zip(f).zip(&*g) {
                *c = f * *c + i * g;
            }
            for ((h, &c), &o) in hidden.iter_mut().zip(&*cells).zip(&*o) {
                *h = o * c.fast_tanh();
            }
        }
    }
}

vectorised! {
    /// The way back of a step's rows: `gates` turn from activations to the gradient of what went into them; `dc` turns
    /// from the gradient of c (from the step after) to that of c₋₁; `before` is c₋₁.
    fn activate_back [T: Number] [T] (
        gates: &mut [T], cells: &[T], before: &[T], dh: &[T], dc: &mut [T], h: usize
    ) {
        let one = T::one();
        let rows = cells.chunks_exact(h).zip(before.chunks_exact(h)).zip(dh.chunks_exact(h).zip(dc.chunks_exact_mut(h)));
        for (gates, ((cells, before), (dh, dc))) in gates.chunks_exact_mut(4 * h).zip(rows) {
            let (i, rest) = gates.split_at_mut(h);
            let (f, rest) = rest.split_at_mut(h);
            let (g, o) = rest.split_at_mut(h);
            let (g, o) = (&mut g[..h], &mut o[..h]);
            for at in 0..h {
                let squashed = cells[at].fast_tanh();
                let dcell = dc[at] + dh[at] * o[at] * (one - squashed * squashed);
                o[at] = dh[at] * squashed * o[at] * (one - o[at]);
                dc[at] = dcell * f[at];
                f[at] = dcell * before[at] * f[at] * (one - f[at]);
                let input = i[at];
                i[at] = dcell * g[at] * input * (one - input);
                g[at] = dcell * input * (one - g[at] * g[at]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::gradcheck;
    use crate::ops::testing::numbers;
    use candle_core::{DType, Device, IndexOp};
    use candle_nn::rnn::{Direction, LSTM, LSTMConfig, RNN};

    const LENGTHS: [usize; 4] = [3, 5, 0, 4];

    /// x `[4, 5, 3]`, then the weights of two directions with H = 2.
    fn inputs() -> Vec<Tensor> {
        let mut all = vec![numbers(&[4, 5, 3], 0.3)];
        for direction in 0..2 {
            for (i, shape) in [&[8, 3][..], &[8, 2], &[8], &[8]].into_iter().enumerate() {
                all.push(numbers(shape, 1.0 + i as f64 + 10.0 * direction as f64));
            }
        }
        all
    }

    fn weights(v: &[Var]) -> LstmWeights {
        let [weight_ih, weight_hh, bias_ih, bias_hh] = v else { panic!("four weights") };
        LstmWeights {
            weight_ih: weight_ih.clone(),
            weight_hh: weight_hh.clone(),
            bias_ih: bias_ih.clone(),
            bias_hh: bias_hh.clone(),
        }
    }

    fn both(tape: &Tape, v: &[Var], lengths: &[usize]) -> Result<Var> {
        bilstm(tape, &v[0], &weights(&v[1..5]), &weights(&v[5..9]), lengths)
    }

    #[test]
    fn gradients_match_finite_differences() {
        gradcheck(&inputs(), |tape, v| both(tape, v, &LENGTHS));
    }

    #[test]
    fn values_are_those_of_candles_lstm_row_by_row() {
        for dtype in [DType::F64, DType::F32] {
            let inputs: Vec<Tensor> = inputs().iter().map(|t| t.to_dtype(dtype).unwrap()).collect();
            let vars: Vec<Var> = inputs.iter().cloned().map(Var::constant).collect();
            let got = both(&Tape::off(), &vars, &LENGTHS).unwrap();
            for (row, &n) in LENGTHS.iter().enumerate() {
                let padding = got.value().i((row, n.., ..)).unwrap().abs().unwrap().sum_all().unwrap();
                assert_eq!(padding.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap(), 0.0);
                if n == 0 {
                    continue;
                }
                let x = inputs[0].i((row..row + 1, ..n, ..)).unwrap();
                for direction in 0..2 {
                    let want = judge(&inputs[1 + 4 * direction..5 + 4 * direction], &x, direction == 1);
                    let got = got.value().i((row..row + 1, ..n, 2 * direction..2 * direction + 2)).unwrap();
                    let difference = (got - want).unwrap().abs().unwrap().max_all().unwrap();
                    let difference = difference.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                    let tolerance = if dtype == DType::F64 { 1e-12 } else { 1e-6 };
                    assert!(difference < tolerance, "row {row}, direction {direction}: {difference}");
                }
            }
        }
    }

    fn judge(weights: &[Tensor], x: &Tensor, reverse: bool) -> Tensor {
        let names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"];
        let suffix = if reverse { "_reverse" } else { "" };
        let named = names.iter().zip(weights).map(|(n, w)| (format!("{n}{suffix}"), w.clone())).collect();
        let vb = candle_nn::VarBuilder::from_tensors(named, x.dtype(), &Device::Cpu);
        let direction = if reverse { Direction::Backward } else { Direction::Forward };
        let lstm = LSTM::new(3, 2, LSTMConfig { direction, ..Default::default() }, vb).unwrap();
        let n = x.dim(1).unwrap();
        let order: Vec<u32> = if reverse { (0..n as u32).rev().collect() } else { (0..n as u32).collect() };
        let order = Tensor::new(order, &Device::Cpu).unwrap();
        let x = x.index_select(&order, 1).unwrap().contiguous().unwrap();
        let states = lstm.seq(&x).unwrap();
        lstm.states_to_tensor(&states).unwrap().index_select(&order, 1).unwrap()
    }

    #[test]
    fn a_batch_gives_the_bits_of_its_rows_alone() {
        let (i, h, l) = (7, 13, 11);
        let single = |t: Tensor| Var::constant(t.to_dtype(DType::F32).unwrap());
        let weights = |seed: f64| LstmWeights {
            weight_ih: single(numbers(&[4 * h, i], seed)),
            weight_hh: single(numbers(&[4 * h, h], seed + 1.0)),
            bias_ih: single(numbers(&[4 * h], seed + 2.0)),
            bias_hh: single(numbers(&[4 * h], seed + 3.0)),
        };
        let (forward, reverse) = (weights(0.1), weights(5.1));
        let lengths: Vec<usize> = (0..37).map(|row| 1 + (row * 5) % l).collect();
        let x = numbers(&[37, l, i], 0.9).to_dtype(DType::F32).unwrap();
        let tape = Tape::off();
        let all = bilstm(&tape, &Var::constant(x.clone()), &forward, &reverse, &lengths).unwrap();
        for row in [0, 1, 17, 36] {
            let n = lengths[row];
            let x = Var::constant(x.i((row..row + 1, ..n, ..)).unwrap().contiguous().unwrap());
            let alone = bilstm(&tape, &x, &forward, &reverse, &[n]).unwrap();
            let bits = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(
                bits(alone.value().clone()),
                bits(all.value().i((row, ..n, ..)).unwrap()),
                "row {row}"
            );
        }
    }
}
