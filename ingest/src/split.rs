//! Parts of the data, by cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use datasets::table::{ProteinRow, Split};
use homology::Proteins;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::dedup::ProteinClaim;
use crate::{Error, mmseqs};

/// Who is kin among the proteins of the tables, whatever part they get: what takes long to find.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kin {
    /// Of every protein one that stands for its cluster.
    pub(crate) cluster: Vec<usize>,
    /// Pairs of a protein of a test set that asks for it and another that is of no test set, with a significant alignment.
    /// Everything is aligned with everything, which leaves nothing open: once for split and audit.
    pub(crate) homologs: Vec<(usize, usize)>,
    /// Pairs that MMseqs2 holds for relatives, if the recipe asks it.
    pub(crate) mmseqs: Vec<(usize, usize)>,
}

impl Kin {
    /// `sequences`: those of the proteins; `place`: a folder for MMseqs2.
    ///
    /// # Errors
    /// Those of [`mmseqs::relatives`].
    pub(crate) fn new(
        config: &Config,
        proteins: &[ProteinClaim],
        sequences: &Proteins<'_>,
        place: &Path,
    ) -> Result<Self, Error> {
        let mmseqs = match &config.mmseqs {
            Some(program) => mmseqs::relatives(program, &config.kinship, proteins, place)?,
            None => vec![],
        };
        let is_strict = |i: usize| config.excludes_homologs(&proteins[i].sources);
        let homologs = sequences.significant(is_strict, |j| !proteins[j].test);
        let cluster = sequences.clusters(&mmseqs, |i| proteins[i].test);
        Ok(Self { cluster, homologs, mmseqs })
    }
}

/// The sequences of proteins, to be compared.
pub(crate) fn sequences<'a>(config: &'a Config, proteins: &[ProteinClaim]) -> Proteins<'a> {
    let sequences: Vec<&str> = proteins.iter().map(|p| p.sequence.as_str()).collect();
    Proteins::new(&config.kinship, &sequences)
}

/// Clusters the proteins (sorted by id) and gives every one its part.
///
/// A cluster with a protein of a published test set: these are Test, its other members Excluded. Any other cluster
/// goes whole to Train, Valid or Test by a hash of its id, so a cluster keeps its part when others come or go. Homologs
/// of test sets that ask for it leave Train for Excluded one by one.
pub(crate) fn split(config: &Config, proteins: Vec<ProteinClaim>, kin: &Kin) -> Vec<ProteinRow> {
    let component = &kin.cluster;
    let homologs: BTreeSet<usize> = kin.homologs.iter().map(|pair| pair.1).collect();

    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (i, &root) in component.iter().enumerate() {
        members.entry(root).or_default().push(i);
    }
    // The longest member stands for a cluster, of equals the one with the smallest id (they are in that order).
    let longest = |of: &Vec<usize>| {
        of.iter().copied().max_by_key(|&i| (proteins[i].sequence.len(), std::cmp::Reverse(i)))
    };
    let representative: BTreeMap<usize, usize> =
        members.iter().filter_map(|(&root, of)| Some((root, longest(of)?))).collect();
    let published: BTreeSet<usize> =
        (0..proteins.len()).filter(|&i| proteins[i].test).map(|i| component[i]).collect();

    let ids: Vec<String> = proteins.iter().map(|p| p.protein_id.clone()).collect();
    let rows = proteins.into_iter().enumerate().map(|(i, protein)| {
        let root = component[i];
        let cluster = ids[representative[&root]].clone();
        let split = match (protein.test, published.contains(&root)) {
            (true, _) => Split::Test,
            (false, true) => Split::Excluded,
            (false, false) => match free(config, &cluster) {
                Split::Train if homologs.contains(&i) => Split::Excluded,
                part => part,
            },
        };
        let ProteinClaim { protein_id, sequence, accessions, sources, .. } = protein;
        ProteinRow { protein_id, sequence, accessions, sources, cluster, split }
    });
    rows.collect()
}

/// Part of a cluster without published test proteins.
fn free(config: &Config, cluster: &str) -> Split {
    let hash = Sha256::digest(cluster.as_bytes());
    let point = hash[..8].iter().fold(0_u64, |n, &b| n << 8 | u64::from(b)) as f64 / 2_f64.powi(64);
    match point {
        p if p < config.test_fraction => Split::Test,
        p if p < config.test_fraction + config.valid_fraction => Split::Valid,
        _ => Split::Train,
    }
}

/// Part of a pair: that of its partners if they agree.
pub(crate) fn of_pair(a: Option<Split>, b: Option<Split>) -> Split {
    match (a, b) {
        (Some(a), Some(b)) if a == b => a,
        _ => Split::Excluded,
    }
}
