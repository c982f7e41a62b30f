//! The made-up sample data: a small protein universe, written as raw files in the formats of the official sources.
//!
//! Nothing in it is real, and file names say so. What it holds can be learnt, because few rules made it: motifs decide
//! functions (`motif`, `ontology`), secondary structure decides residues (`chain`), backbones (`backbone`) and burial,
//! burial decides stability (`stability`), locks and keys decide interactions (`ppi`), disorder decides pLDDT
//! (`plddt`). What is wrong with it is known, because every repeat, leak and bad row is planted and counted ([`Truth`]).

mod annotation;
mod backbone;
mod cath;
mod chain;
mod dice;
mod fault;
mod instruct;
mod lists;
mod motif;
mod ontology;
mod plddt;
mod ppi;
mod sheet;
mod ss;
mod stability;
mod structures;
mod swissprot;
mod truth;
mod uniprot;
mod universe;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;
use ontology::Ontology;
pub use truth::{Leaks, MAX_LENGTH, MIN_LENGTH, MotifTruth, Truth};
use universe::Universe;

/// Fewest proteins that leave room for every planted fault.
const MIN_PROTEINS: usize = 97;
/// Most proteins: those of Swiss-Prot and as many again.
const MAX_PROTEINS: usize = 1_000_000;

/// Section `[world]` of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Decides every byte of every file.
    pub seed: u64,
    /// Distinct proteins, 97 to 1,000,000; the first 40,000 may have structures.
    pub n_proteins: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { seed: 42, n_proteins: 2_000 }
    }
}

/// Writes the whole data folder: the sources, `truth.json` and `README.txt`. The same config gives the same bytes.
///
/// # Errors
/// [`Error::Text`] when `n_proteins` is out of range; else I/O errors, which name the file.
pub fn write(config: &Config, out: &Path) -> Result<Truth, Error> {
    let Config { seed, n_proteins } = *config;
    if !(MIN_PROTEINS..=MAX_PROTEINS).contains(&n_proteins) {
        return Err(Error::Text(format!(
            "world.n_proteins is {n_proteins}\nhint: choose {MIN_PROTEINS} to {MAX_PROTEINS}"
        )));
    }
    let (universe, ontology) = (Universe::new(seed, n_proteins), Ontology::new());
    let mut truth = Truth { seed, n_proteins, ..Truth::default() };
    swissprot::write(&universe, &ontology, out, &mut truth)?;
    instruct::write(&universe, out, &mut truth)?;
    ss::write(&universe, out, &mut truth)?;
    cath::write(&universe, out, &mut truth)?;
    annotation::write(&universe, &ontology, out, &mut truth)?;
    ppi::write(&universe, out, &mut truth)?;
    stability::write(&universe, out, &mut truth)?;
    plddt::write(&universe, out, &mut truth)?;
    uniprot::write(&universe, &ontology, out, &mut truth)?;
    lists::write(&universe, &ontology, out, &mut truth)?;
    structures::write(&universe, out, &mut truth)?;
    let silent = [&[ss::NPPE2_TEST][..], &instruct::LATER, &uniprot::FILES, &lists::FILES].concat();
    truth.relate(&universe, &[ss::CB513, stability::SSYM_DIRECT, stability::SSYM_REVERSE], &silent);
    truth.terms = ontology
        .leaves
        .iter()
        .zip(&motif::MOTIFS)
        .map(|(terms, motif)| MotifTruth { pattern: motif.pattern.to_owned(), terms: terms.clone() })
        .collect();
    let readme = format!(
        "All of this is made up: no protein, organism, term or measurement in this folder is real.\n\
         Written by `peptalk world --seed {seed} --proteins {n_proteins}`; truth.json says what was planted.\n"
    );
    sheet::write_file(&out.join("README.txt"), readme.as_bytes(), 1)?;
    let mut json = serde_json::to_vec_pretty(&truth).map_err(std::io::Error::from)?;
    json.push(b'\n');
    sheet::write_file(&out.join("truth.json"), &json, 1)?;
    Ok(truth)
}

#[cfg(test)]
mod tests;
