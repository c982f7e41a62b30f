//! Times a step of AdamW with clipping over many tensors, against `benches/torch_adamw.py`.
//!
//! `RAYON_NUM_THREADS=1 cargo run --release -p train --example bench_adamw`

use std::time::Instant;

use anyhow::Result;
use models::{Init, Param, Tape, Weights, ops};
use rand::SeedableRng;
use train::optim::{AdamW, GroupConfig, ParamGroups};

const REPEATS: usize = 51;

fn main() -> Result<()> {
    // As the program does: this thread is one of the pool's.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?;
    // Many small tensors, and fewer large ones.
    for (tensors, rows, columns) in [(200, 64, 64), (100, 512, 512)] {
        let weights = Weights::random(|name| rand_chacha::ChaCha8Rng::seed_from_u64(name.len() as u64));
        let weight = |at: usize| weights.get((rows, columns), &format!("w{at}"), Init::Normal(1.0));
        let params = (0..tensors).map(weight).collect::<candle_core::Result<Vec<Param>>>()?;
        let all = weights.finish()?;
        let group = GroupConfig { pattern: "*".into(), lr_factor: 1.0, weight_decay: 0.01, clip_norm: 1.0 };
        let mut optimiser = AdamW::new(ParamGroups::new(&all, &[group])?, (0.9, 0.99), 1e-8)?;
        let tape = Tape::on();
        let vars: Vec<_> = params.iter().map(|param| tape.param(param)).collect();
        let mut sum = ops::scale(&tape, &vars[0], 1e-3)?;
        for var in &vars[1..] {
            sum = ops::add(&tape, &sum, &ops::scale(&tape, var, 1e-3)?)?;
        }
        let gradients = tape.backward_from(&[(&sum, sum.value().clone())])?;
        let mut times = vec![];
        for _ in 0..REPEATS {
            let begun = Instant::now();
            let norms = optimiser.norms(&gradients)?;
            optimiser.step(&gradients, &norms, 1e-3)?;
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!("adamw of {tensors} × [{rows}, {columns}]: median {:.3} ms", times[REPEATS / 2]);
    }
    Ok(())
}
