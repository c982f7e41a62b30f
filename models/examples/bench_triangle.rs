//! Times the triangle multiplicative block, forward and backward, against `benches/torch_triangle.py`: one chain of 125
//! residues, `C_z` = 128, c = 64.
//!
//! `MIMALLOC_PURGE_DELAY=-1 RAYON_NUM_THREADS=1 cargo run --release -p models --example bench_triangle`

use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use models::fold::TriangleBlock;
use models::ops::Triangle;
use models::{Init, Tape, Weights};
use rand::SeedableRng;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPEATS: usize = 9;

fn main() -> Result<()> {
    // As the program does: this thread is one of the pool's.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().map_err(candle_core::Error::wrap)?;
    let (l, pair, hidden) = (125, 128, 64);
    let weights = Weights::random(|name| rand_chacha::ChaCha8Rng::seed_from_u64(name.len() as u64));
    let z = weights.get((1, l, l, pair), "z", Init::Normal(1.0))?.value().clone();
    for edges in [Triangle::Outgoing, Triangle::Incoming] {
        let block = TriangleBlock::new(edges, pair, hidden, &weights.pp(format!("{edges:?}")))?;
        let mut times: Vec<f64> = (0..REPEATS).map(|_| step(&block, &z, l)).collect::<Result<_>>()?;
        times.sort_by(f64::total_cmp);
        println!("triangle {edges:?}, forward + backward: median {:.1} ms", times[REPEATS / 2]);
    }
    Ok(())
}

/// Milliseconds of one pass, with gradients of the input and of all weights.
fn step(block: &TriangleBlock, z: &Tensor, l: usize) -> Result<f64> {
    let ones = Tensor::ones(z.shape(), z.dtype(), &Device::Cpu)?;
    let begun = Instant::now();
    let tape = Tape::on();
    let input = tape.input(z.clone());
    let out = block.forward(&tape, &input, &[l])?;
    let grads = tape.backward_from(&[(&out, ones)])?;
    let elapsed = begun.elapsed().as_secs_f64() * 1e3;
    assert!(grads.input(&input).is_some() && grads.params.len() == 10);
    Ok(elapsed)
}
