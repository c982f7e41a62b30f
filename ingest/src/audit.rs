//! The leakage audit: does a held-out protein (Valid or Test) have a twin in Train?

use std::collections::BTreeMap;

use datasets::table::{ProteinRow, Split};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cluster::Words;

/// What was looked for, and the pairs of (held-out, training) protein ids that were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// Word length of the containment test.
    pub kmer: usize,
    /// Its threshold.
    pub containment: f64,
    /// Proteins in Train.
    pub n_train: usize,
    /// Proteins in Valid or Test.
    pub n_held_out: usize,
    /// Pairs of equal sequence.
    pub exact: Vec<(String, String)>,
    /// Pairs of one cluster.
    pub cluster: Vec<(String, String)>,
    /// Pairs above the containment threshold.
    pub alike: Vec<(String, String)>,
}

impl Audit {
    /// Audits proteins by what they are, not by how the split was made.
    pub fn new(proteins: &[ProteinRow], kmer: usize, containment: f64) -> Self {
        let is_train = |i: usize| proteins[i].split == Split::Train;
        let is_held_out = |i: usize| matches!(proteins[i].split, Split::Valid | Split::Test);
        let id = |i: usize| proteins[i].protein_id.clone();
        let twins = |key: fn(&ProteinRow) -> &str| {
            let mut train: BTreeMap<&str, usize> = BTreeMap::new();
            for i in (0..proteins.len()).filter(|&i| is_train(i)) {
                train.entry(key(&proteins[i])).or_insert(i);
            }
            let twin = |i: usize| train.get(key(&proteins[i])).map(|&j| (id(i), id(j)));
            (0..proteins.len()).filter(|&i| is_held_out(i)).filter_map(twin).collect::<Vec<_>>()
        };
        let sequences: Vec<&str> = proteins.iter().map(|p| p.sequence.as_str()).collect();
        let alike = Words::new(&sequences, kmer).pairs(is_held_out, is_train, containment);
        Self {
            kmer,
            containment,
            n_train: (0..proteins.len()).filter(|&i| is_train(i)).count(),
            n_held_out: (0..proteins.len()).filter(|&i| is_held_out(i)).count(),
            exact: twins(|p| &p.sequence),
            cluster: twins(|p| &p.cluster),
            alike: alike.into_iter().map(|(i, j)| (id(i), id(j))).collect(),
        }
    }

    /// Passes on a clean audit.
    ///
    /// # Errors
    /// [`Error::Leak`] with the first ids.
    pub fn pass(&self) -> Result<(), Error> {
        let kinds = [("same sequence", &self.exact), ("same cluster", &self.cluster), ("alike", &self.alike)];
        let n = kinds.iter().map(|(_, pairs)| pairs.len()).sum();
        if n == 0 {
            return Ok(());
        }
        let all = kinds
            .iter()
            .flat_map(|(kind, pairs)| pairs.iter().map(move |(a, b)| format!("{a} and {b} ({kind})")));
        Err(Error::Leak { n, examples: all.take(10).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_leak_is_seen() {
        let row = |id: &str, sequence: &str, cluster: &str, split| ProteinRow {
            protein_id: id.into(),
            sequence: sequence.into(),
            accessions: vec![],
            sources: vec![],
            cluster: cluster.into(),
            split,
        };
        let (one, near, other) = ("MKTAYIAKQRQISFVKSHFSR", "MKTAYIAKQRQISFVKSHFSW", "GGDWECLNPHVTRAMEIYKSF");
        let clean = [row("a", one, "a", Split::Train), row("b", other, "b", Split::Test)];
        Audit::new(&clean, 5, 0.1).pass().unwrap();
        let excluded = [row("a", one, "a", Split::Excluded), row("b", near, "a", Split::Test)];
        Audit::new(&excluded, 5, 0.1).pass().unwrap();
        let leaks = [(one, "c"), (near, "c"), (other, "a")];
        for (sequence, cluster) in leaks {
            let rows = [row("a", one, "a", Split::Train), row("b", sequence, cluster, Split::Valid)];
            let error = Audit::new(&rows, 5, 0.1).pass().unwrap_err().to_string();
            assert!(error.contains("b and a"), "{error}");
        }
    }
}
