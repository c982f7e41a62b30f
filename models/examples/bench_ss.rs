//! Times the bidirectional LSTM and the CRF, forward and backward, against `benches/torch_ss.py`: 32 chains of 256
//! residues.
//!
//! `MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS=1 cargo run --release -p models --example bench_ss`

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use models::ops::{CrfWeights, Lattice, LstmWeights, bilstm, crf_loss, crf_viterbi};
use models::{Init, Param, Tape, Weights};
use rand::SeedableRng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPEATS: usize = 9;
const B: usize = 32;
const L: usize = 256;

fn main() -> Result<()> {
    // As the program does: this thread is one of the pool's.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().map_err(candle_core::Error::wrap)?;
    let weights = Weights::random(|name| rand_chacha::ChaCha8Rng::seed_from_u64(name.len() as u64));
    for (inputs, hidden) in [(128, 256), (128, 128), (64, 64)] {
        let named = weights.pp(format!("lstm{hidden}"));
        let x = named.get((B, L, inputs), "x", Init::Normal(1.0))?;
        let params = (0..8)
            .map(|at| match at % 4 {
                0 => named.get((4 * hidden, inputs), &format!("ih{at}"), Init::Uniform(0.1)),
                1 => named.get((4 * hidden, hidden), &format!("hh{at}"), Init::Uniform(0.1)),
                _ => named.get(4 * hidden, &format!("bias{at}"), Init::Uniform(0.1)),
            })
            .collect::<Result<Vec<Param>>>()?;
        let ones = Tensor::ones((B, L, 2 * hidden), candle_core::DType::F32, &Device::Cpu)?;
        let pass = |tape: &Tape| -> Result<models::Var> {
            let var = |at: usize| tape.param(&params[at]);
            let direction = |from: usize| LstmWeights {
                weight_ih: var(from),
                weight_hh: var(from + 1),
                bias_ih: var(from + 2),
                bias_hh: var(from + 3),
            };
            bilstm(tape, &tape.param(&x), &direction(0), &direction(4), &[L; B])
        };
        median(&format!("bilstm {inputs} to {hidden}, forward"), || pass(&Tape::off()).map(drop))?;
        median(&format!("bilstm {inputs} to {hidden}, forward + backward"), || {
            let tape = Tape::on();
            let y = pass(&tape)?;
            tape.backward_from(&[(&y, ones.clone())]).map(drop)
        })?;
    }
    for (name, runs) in [("8", [1; 8]), ("18", [4, 3, 5, 2, 1, 1, 1, 1])] {
        crf(name, &Lattice::new(&runs, &[])?, &weights.pp(format!("crf{name}")))?;
    }
    Ok(())
}

fn crf(name: &str, lattice: &Lattice, weights: &Weights) -> Result<()> {
    let (c, k) = (lattice.n_labels(), lattice.n_states());
    let emissions = weights.get((B, L, c), "emissions", Init::Normal(1.0))?;
    let transitions = weights.get((k, k), "transitions", Init::Normal(1.0))?;
    let (start, end) =
        (weights.get(k, "start", Init::Normal(1.0))?, weights.get(k, "end", Init::Normal(1.0))?);
    let crf = |tape: &Tape| CrfWeights {
        transitions: tape.param(&transitions),
        start: tape.param(&start),
        end: tape.param(&end),
    };
    // Runs of six residues, which every lattice has.
    let mut sets: Vec<u32> = (0..B * L).map(|at| 1 << ((at / 6) * (at / 6) % 61 % c)).collect();
    sets.chunks_exact_mut(L).for_each(|row| {
        lattice.relax(row);
    });
    let sets = Tensor::from_vec(sets, (B, L), &Device::Cpu)?;
    median(&format!("crf of {name} states, loss + gradient"), || {
        let tape = Tape::on();
        let loss = crf_loss(&tape, &tape.param(&emissions), &crf(&tape), lattice, &sets, &[L; B])?;
        tape.backward(&loss).map(drop)
    })?;
    median(&format!("crf of {name} states, Viterbi"), || {
        crf_viterbi(emissions.value(), &crf(&Tape::off()), lattice, &[L; B]).map(drop)
    })
}

/// Prints the median time of `work`, in ms.
fn median(name: &str, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    work()?;
    let mut times = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let begun = Instant::now();
        work()?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{name}: median {:.2} ms", times[REPEATS / 2]);
    Ok(())
}
