//! The leakage audit: does a held-out protein (Valid or Test) have a twin in Train?

use std::collections::BTreeMap;

use datasets::table::{ProteinRow, Split};
use homology::{Kinship, Proteins};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::config::Config;
use crate::split::Kin;

/// What was looked for, and the pairs of (held-out, training) protein ids that were found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// What makes two proteins alike.
    pub kinship: Kinship,
    /// Proteins in Train.
    pub n_train: usize,
    /// Proteins in Valid or Test.
    pub n_held_out: usize,
    /// Those of them that were held against all of Train for `alike`: all, or where a cascade has clustered (more
    /// residues than `kinship.exhaustive_residues`) those of published test sets.
    pub n_searched: usize,
    /// Pairs of equal sequence.
    pub exact: Vec<(String, String)>,
    /// Pairs of one cluster.
    pub cluster: Vec<(String, String)>,
    /// Pairs of relatives.
    pub alike: Vec<(String, String)>,
    /// Pairs with a significant alignment, of the test sources that exclude them.
    pub homologs: Vec<(String, String)>,
    /// Pairs that MMseqs2 holds for relatives, where a recipe asks it.
    #[serde(default)]
    pub mmseqs: Vec<(String, String)>,
}

impl Audit {
    /// Audits proteins by what they are, not by how the split was made. `published`: of every protein whether it is of a
    /// published test set.
    pub(crate) fn new(
        config: &Config,
        proteins: &[ProteinRow],
        sequences: &Proteins<'_>,
        published: &[bool],
        kin: &Kin,
    ) -> Self {
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
        let is_searched = |i: usize| is_held_out(i) && (sequences.is_exhaustive() || published[i]);
        let both_ways = kin.mmseqs.iter().flat_map(|&(i, j)| [(i, j), (j, i)]);
        let named = |pairs: Vec<(usize, usize)>| pairs.into_iter().map(|(i, j)| (id(i), id(j))).collect();
        Self {
            kinship: config.kinship.clone(),
            n_train: (0..proteins.len()).filter(|&i| is_train(i)).count(),
            n_held_out: (0..proteins.len()).filter(|&i| is_held_out(i)).count(),
            n_searched: (0..proteins.len()).filter(|&i| is_searched(i)).count(),
            exact: twins(|p| &p.sequence),
            cluster: twins(|p| &p.cluster),
            alike: named(sequences.relatives(is_searched, is_train)),
            homologs: named(kin.homologs.iter().copied().filter(|&(_, j)| is_train(j)).collect()),
            mmseqs: named(both_ways.filter(|&(i, j)| is_held_out(i) && is_train(j)).collect()),
        }
    }

    /// Passes on a clean audit.
    ///
    /// # Errors
    /// [`Error::Leak`] with the first ids.
    pub fn pass(&self) -> Result<(), Error> {
        let kinds = [
            ("same sequence", &self.exact),
            ("same cluster", &self.cluster),
            ("relatives", &self.alike),
            ("homologs", &self.homologs),
            ("relatives by MMseqs2", &self.mmseqs),
        ];
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
    use std::path::Path;

    use super::*;
    use crate::dedup::ProteinClaim;
    use crate::split;

    fn config(kinship: Kinship) -> Config {
        let mut source = crate::source::test_context(crate::Kind::SsCsv).source;
        (source.role, source.exclude_homologs) = (crate::Role::Test, true);
        Config {
            min_length: 20,
            max_length: 1000,
            kinship,
            valid_fraction: 0.0,
            test_fraction: 0.0,
            near_duplicates: None,
            memory_mib: 64,
            mmseqs: None,
            source: vec![source],
        }
    }

    #[test]
    fn a_distant_homolog_of_a_strict_test_set_is_a_leak() {
        let config = config(Kinship { identity: 0.9, containment: 1.0, ..Kinship::default() });
        let claim = |id: &str, sequence: &str, test| ProteinClaim {
            protein_id: id.into(),
            sequence: sequence.into(),
            accessions: vec![],
            sources: vec![if test { "test".into() } else { "other".into() }],
            test,
        };
        let held = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRV";
        let far = "MRSVYLARQKQLSYVRTHFNKELDERIGMLEIQSPVISKI";
        let claims = vec![claim("a", far, false), claim("b", held, true)];
        let sequences = split::sequences(&config, &claims);
        let kin = Kin::new(&config, &claims, &sequences, Path::new("")).unwrap();
        let mut rows = split::split(&config, claims, &kin);
        let audit = |rows: &[ProteinRow]| Audit::new(&config, rows, &sequences, &[true; 2], &kin);
        assert_ne!(rows[0].cluster, rows[1].cluster);
        assert_eq!((rows[0].split, rows[1].split), (Split::Excluded, Split::Test));
        audit(&rows).pass().unwrap();
        rows[0].split = Split::Train;
        let error = audit(&rows).pass().unwrap_err().to_string();
        assert!(error.contains("b and a (homologs)"), "{error}");
    }

    #[test]
    fn every_kind_of_leak_is_seen() {
        let config = config(Kinship { containment: 0.1, ..Kinship::default() });
        let row = |id: &str, sequence: &str, cluster: &str, split| ProteinRow {
            protein_id: id.into(),
            sequence: sequence.into(),
            accessions: vec![],
            sources: vec![],
            cluster: cluster.into(),
            split,
        };
        let (one, near, other) = ("MKTAYIAKQRQISFVKSHFSR", "MKTAYIAKQRQISFVKSHFSW", "GGDWECLNPHVTRAMEIYKSF");
        let audit_with = |kin: &Kin, rows: &[ProteinRow; 2]| {
            let sequences = rows.each_ref().map(|row| row.sequence.as_str());
            Audit::new(&config, rows, &Proteins::new(&config.kinship, &sequences), &[true; 2], kin).pass()
        };
        let audit = |rows: &[ProteinRow; 2]| audit_with(&Kin::default(), rows);
        audit(&[row("a", one, "a", Split::Train), row("b", other, "b", Split::Test)]).unwrap();
        audit(&[row("a", one, "a", Split::Excluded), row("b", near, "a", Split::Test)]).unwrap();
        let leaks = [(one, "c"), (near, "c"), (other, "a")];
        for (sequence, cluster) in leaks {
            let rows = [row("a", one, "a", Split::Train), row("b", sequence, cluster, Split::Valid)];
            let error = audit(&rows).unwrap_err().to_string();
            assert!(error.contains("b and a"), "{error}");
        }
        let kin = Kin { mmseqs: vec![(0, 1)], ..Kin::default() };
        let apart = [row("a", one, "a", Split::Train), row("b", other, "b", Split::Valid)];
        let error = audit_with(&kin, &apart).unwrap_err().to_string();
        assert!(error.contains("b and a (relatives by MMseqs2)"), "{error}");
    }
}
