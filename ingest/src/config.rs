//! The `[ingest]` section of a recipe.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Error;

/// What is ingested, and the rules of cleaning, clustering and splitting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Shorter sequences are quarantined.
    #[serde(default = "default_min_length")]
    pub min_length: usize,
    /// Longer sequences are quarantined.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Word length of the clustering, 4 to 6 residues.
    #[serde(default = "default_kmer")]
    pub kmer: usize,
    /// Two proteins join when they share this fraction of the words of the one with fewer (or are alike on a diagonal).
    #[serde(default = "default_containment")]
    pub containment: f64,
    /// Fraction of the free clusters in the validation part.
    #[serde(default = "default_valid_fraction")]
    pub valid_fraction: f64,
    /// Fraction of the free clusters in the test part.
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,
    /// Memory that the relational plans may hold before they spill to disk, MiB.
    #[serde(default = "default_memory_mib")]
    pub memory_mib: usize,
    /// The sources, in order of precedence: of exact repeats the first stays.
    pub source: Vec<Source>,
}

fn default_min_length() -> usize {
    20
}
fn default_max_length() -> usize {
    1000
}
fn default_kmer() -> usize {
    5
}
fn default_containment() -> f64 {
    0.2
}
fn default_valid_fraction() -> f64 {
    0.05
}
fn default_test_fraction() -> f64 {
    0.10
}
fn default_memory_mib() -> usize {
    2048
}

/// One source: files of one format, one origin, one role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Free and unique; the `source` column of the tables.
    pub name: String,
    /// The format.
    pub kind: Kind,
    /// Relative to the data folder, in order.
    pub files: Vec<String>,
    /// Files that the kind reads beside them: the split of `cath_chains`, the dictionary of `ppi_pairs`, the labels and
    /// then the mask of `ss_fasta`.
    #[serde(default)]
    pub companion: Vec<String>,
    /// Whether the source may be trained on.
    #[serde(default)]
    pub role: Role,
    /// `ss_csv`: the file is written C to N; sequence and labels are turned round.
    #[serde(default)]
    pub reversed: bool,
    /// Licence of the content, carried into every fact.
    pub licence: String,
}

/// Whether a source may be trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Split by cluster.
    #[default]
    Train,
    /// A published test set: its proteins are Test, their neighbours are kept out of training.
    Test,
}

/// The formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// UniProtKB flat file (`.dat`).
    SwissprotDat,
    /// Mol-Instructions, protein part: JSON array, official fields or RAPM's.
    MolInstructions,
    /// Secondary structure as CSV: PISCES, NPPE-2, CB513 and CB6133 (Princeton), CB513 of NetSurfP-2.
    SsCsv,
    /// Secondary structure as FASTA, H E C only (companions: labels, then mask): FLIP, of NetSurfP-2.
    SsFasta,
    /// `chain_set.jsonl` of Ingraham et al. (companion: its split), or a list like `ts50.json`.
    CathChains,
    /// Gene Ontology, OBO.
    Obo,
    /// Annotations, GAF.
    Gaf,
    /// Annotations, QuickGO's TSV download.
    Quickgo,
    /// Pairs `id, id, 0/1` (companion: a dictionary `id, sequence` or FASTA).
    PpiPairs,
    /// PROSTATA's CSV of stability changes (S2648, S3421, Ssym, mega-scale); negative = destabilising there.
    DdgCsv,
    /// FireProtDB in ThermoMPNN's CSV; positive = destabilising there.
    Fireprot,
    /// Mean pLDDT of AlphaFold DB models, JSON lines.
    AfdbPlddt,
}

impl Kind {
    /// Whether the kind reads companions: (least, most).
    fn companions(self) -> (usize, usize) {
        match self {
            Kind::PpiPairs => (1, usize::MAX),
            Kind::SsFasta => (2, 2),
            Kind::CathChains => (0, 1),
            _ => (0, 0),
        }
    }
}

impl Config {
    /// Checks what can be checked without opening a file.
    ///
    /// # Errors
    /// [`Error::Config`] with every fault found, not only the first.
    pub fn validate(&self) -> Result<(), Error> {
        let mut faults = Vec::new();
        let mut must = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        must(self.min_length >= 1, "min_length must be at least 1".into());
        must(
            self.max_length >= self.min_length,
            format!("max_length {} is below min_length {}", self.max_length, self.min_length),
        );
        must((4..=6).contains(&self.kmer), format!("kmer {} is not in 4..=6", self.kmer));
        must(
            self.containment > 0.0 && self.containment <= 1.0,
            format!("containment {} is not in (0, 1]", self.containment),
        );
        for (name, value) in [("valid_fraction", self.valid_fraction), ("test_fraction", self.test_fraction)]
        {
            must((0.0..1.0).contains(&value), format!("{name} {value} is not in [0, 1)"));
        }
        must(
            self.valid_fraction + self.test_fraction < 1.0,
            "valid_fraction + test_fraction leave nothing to train on".into(),
        );
        must(self.memory_mib >= 64, format!("memory_mib {} is below 64", self.memory_mib));
        must(!self.source.is_empty(), "there is no [[ingest.source]]".into());
        must(self.source.len() <= 127, format!("{} sources; at most 127", self.source.len()));
        must(
            self.source.iter().filter(|s| s.kind == Kind::Obo).count() <= 1,
            "more than one source of kind obo".into(),
        );
        let mut names = BTreeSet::new();
        for source in &self.source {
            let name = &source.name;
            must(!name.is_empty(), "a source has an empty name".into());
            must(names.insert(name), format!("two sources are named {name:?}"));
            must(!source.files.is_empty(), format!("source {name:?} has no files"));
            must(
                source.files.len() + source.companion.len() <= 255,
                format!("source {name:?} has more than 255 files"),
            );
            must(
                source.kind == Kind::SsCsv || !source.reversed,
                format!("source {name:?}: only ss_csv can be reversed"),
            );
            must(
                !matches!(source.kind, Kind::Obo | Kind::SsFasta) || source.files.len() == 1,
                format!("source {name:?}: kinds obo and ss_fasta take one file"),
            );
            let (least, most) = source.kind.companions();
            let n = source.companion.len();
            let needs = match source.kind {
                Kind::SsFasta => "kind ss_fasta needs two companions: labels, then mask",
                _ => "kind ppi_pairs needs a dictionary as companion",
            };
            must(n >= least, format!("source {name:?}: {needs}"));
            must(n <= most, format!("source {name:?}: {n} companion files, at most {most} for its kind"));
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Config(faults)) }
    }
}
