//! Ours of `benches/stream_hf.py`: an epoch of batches out of Parquet files with a column `sequence`.
//!
//! `cargo run --release --example bench_stream -- CASE BUDGET THREADS FILE...`
//!
//! CASE: `by_length` or `packed`, batches of at most BUDGET residues (with and without padding); `resume`, by length, stopped
//! at half of the epoch and opened again. Prints what the epoch held, and the seconds until its first batch
//! (of `resume`: the first after the stop) and until its last.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use datasets::sampler::{Budget, Position};
use datasets::stream::{Batch, Stream};
use serde::Deserialize;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Protein {
    sequence: String,
}

/// What was handed out.
#[derive(Default)]
struct Seen {
    batches: u64,
    rows: u64,
    residues: usize,
    with_padding: usize,
}

impl Seen {
    fn add(&mut self, batch: &Batch<Protein>, packed: bool) {
        let lengths = || batch.rows.iter().map(|row| row.sequence.len());
        self.batches += 1;
        self.rows += batch.rows.len() as u64;
        self.residues += lengths().sum::<usize>();
        self.with_padding += match packed {
            true => lengths().sum(),
            false => batch.rows.len() * lengths().max().unwrap_or(0),
        };
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("usage: bench_stream CASE BUDGET THREADS FILE...");
    let (case, size, threads) = (next()?, next()?.parse()?, next()?.parse()?);
    let files: Vec<PathBuf> = arguments.map(Into::into).collect();
    let packed = case == "packed";
    let budget = match case.as_str() {
        "by_length" | "resume" => Budget::Residues(size),
        "packed" => Budget::Packed(size),
        other => bail!("no case {other:?}"),
    };
    let open = || Stream::open(&files, 7, budget, threads, |row: &Protein| Ok(row.sequence.len()));
    let mut seen = Seen::default();
    let position = match case.as_str() {
        "resume" => half(open()?, &mut seen)?,
        _ => Position::default(),
    };
    let begin = Instant::now();
    let mut stream = open()?.resume(position)?;
    let mut first = Duration::ZERO;
    loop {
        let batch = stream.next_batch()?;
        if batch.at.epoch > 0 {
            break;
        }
        if first.is_zero() {
            first = begin.elapsed();
        }
        seen.add(&batch, packed);
    }
    let filled = match packed {
        true => seen.residues as f64 / (seen.batches * size as u64) as f64,
        false => seen.residues as f64 / seen.with_padding as f64,
    };
    println!(
        "{{\"rows\": {}, \"residues\": {}, \"batches\": {}, \"filled\": {filled:.4}, \"first_s\": {:.3}, \"s\": {:.3}}}",
        seen.rows,
        seen.residues,
        seen.batches,
        first.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Takes batches until the epoch's half is through, and says where it stopped.
fn half(mut stream: Stream<Protein>, seen: &mut Seen) -> Result<Position> {
    while 2 * seen.rows < stream.rows() {
        seen.add(&stream.next_batch()?, false);
    }
    Ok(stream.position())
}
