//! How many relatives the seeds find of those that aligning everything finds:
//! `cargo build --release --workspace --example seed_recall`, then `target/release/examples/seed_recall proteins.fasta 12` asks of
//! every twelfth protein.

use std::error::Error;
use std::time::Instant;

use homology::{Kinship, Proteins};

fn main() -> Result<(), Box<dyn Error>> {
    let [fasta, step] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "FASTA STEP")?;
    let step: usize = step.parse()?;
    let text = fs_err::read_to_string(fasta)?;
    let entries = text.split('>').skip(1).filter_map(|entry| entry.split_once('\n'));
    let sequences: Vec<String> =
        entries.map(|(_, lines)| lines.split_whitespace().collect::<String>().to_uppercase()).collect();
    // By alignment alone.
    let rule = Kinship { containment: 1.0, ..Kinship::default() };
    let proteins = Proteins::new(&rule, &sequences);

    let started = Instant::now();
    let found = proteins.relatives(|_| true, |_| true);
    println!("{} proteins, {} pairs of relatives in {:.1?}", sequences.len(), found.len(), started.elapsed());

    let started = Instant::now();
    let mut want: Vec<(usize, usize)> = Vec::new();
    for i in (0..sequences.len()).step_by(step) {
        let others = (0..sequences.len()).filter(|&j| j != i).collect();
        want.extend(proteins.kin(i, others).into_iter().map(|j| (i.min(j), i.max(j))));
    }
    want.sort_unstable();
    want.dedup();
    let n_found = want.iter().filter(|pair| found.binary_search(pair).is_ok()).count();
    println!(
        "{n_found} of {} that aligning every {step}th with everything finds, in {:.1?}",
        want.len(),
        started.elapsed()
    );
    Ok(())
}
