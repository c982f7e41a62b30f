//! `peptalk profile`: what the relatives of a protein have in its places, for models of secondary structure.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use datasets::residue::protein_id;
use datasets::sequences::Sequences;
use datasets::table::{ProteinRow, Rows, SsRow};
use eval::embeddings::{Numbers, VectorFile};
use homology::{Kinship, PROFILE_WIDTH, Proteins};

use crate::predict::directed;

/// Writes the profiles of the proteins of a file, or of those of the tables whose secondary structure is known, from their
/// relatives in the tables. `backwards`: the file is written from C to N, the profiles are not.
///
/// # Errors
/// When the proteins cannot be read or the profiles not be written.
pub(crate) fn profile(
    input: Option<&Path>,
    backwards: bool,
    tables: &Path,
    out: &Path,
    numbers: Numbers,
) -> Result<()> {
    let (mut sequences, mut places) = (Vec::new(), HashMap::new());
    for row in ProteinRow::read(tables)? {
        places.insert(row.protein_id, sequences.len());
        sequences.push(row.sequence);
    }
    let n_library = sequences.len();
    let mut wanted = BTreeSet::new();
    match input {
        None => {
            for SsRow { protein_id, .. } in SsRow::read(tables)? {
                let place = places.get(&protein_id);
                wanted.insert(*place.with_context(|| format!("the tables have no protein {protein_id}"))?);
            }
        }
        Some(input) => {
            for named in Sequences::open(input)? {
                let sequence = directed(&named?.sequence, backwards);
                if sequence.is_empty() {
                    continue;
                }
                let place = *places.entry(protein_id(&sequence)).or_insert(sequences.len());
                if place == sequences.len() {
                    sequences.push(sequence);
                }
                wanted.insert(place);
            }
        }
    }
    ensure!(
        !wanted.is_empty(),
        "there is no protein to write a profile of\nhint: without a file of sequences it is those of the tables whose secondary structure is known"
    );
    // All that an alignment shows, however short or unlike.
    let rule = Kinship { identity: 0.0, coverage: 0.0, containment: 1.0, ..Kinship::default() };
    let proteins = Proteins::with_library(&rule, &sequences, n_library);
    let profiles = proteins.profiles(|at| wanted.contains(&at));
    let profiles = profiles.map(|(at, profile)| (sequences[at].as_str(), profile));
    VectorFile::write(out, PROFILE_WIDTH, numbers, profiles)?;
    println!("profiles of {} proteins among {n_library}: {}", wanted.len(), out.display());
    Ok(())
}
