//! The `[ingest]` section of a recipe.

use std::collections::BTreeSet;
use std::path::Path;

use fs_err as fs;
use homology::Kinship;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::claim::MAX_FILES;

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
    /// What makes two proteins relatives, which are kept together.
    #[serde(default)]
    pub kinship: Kinship,
    /// The MMseqs2 program, whose relatives are kept together, too. It searches all with all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mmseqs: Option<String>,
    /// Fraction of the free clusters in the validation part.
    #[serde(default = "default_valid_fraction")]
    pub valid_fraction: f64,
    /// Fraction of the free clusters in the test part.
    #[serde(default = "default_test_fraction")]
    pub test_fraction: f64,
    /// Jaccard similarity from which on a fact about one protein, task and question is merged into one that says nearly the
    /// same; without it only equal texts are merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<f64>,
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
fn default_valid_fraction() -> f64 {
    0.05
}
fn default_test_fraction() -> f64 {
    0.10
}
fn default_memory_mib() -> usize {
    512
}

/// One source: files of one format, one origin, one role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Free and unique; the `source` column of the tables.
    pub name: String,
    /// The format.
    pub kind: Kind,
    /// Relative to the data folder, in order. A folder stands for the files in it, by name; an archive (zip, tar,
    /// packed or not) for its members.
    pub files: Vec<String>,
    /// Files that the kind reads beside them: the split of `cath_chains`, `structure` and `cgdms`, the dictionary
    /// of `ppi_pairs` and `string_actions`, the labels and then the mask of `ss_fasta`, the texts of `swissprot_clap`.
    #[serde(default)]
    pub companion: Vec<String>,
    /// Whether the source may be trained on.
    #[serde(default)]
    pub role: Role,
    /// Of a test source: every protein with a significant alignment to one of its proteins leaves training, however far
    /// they have diverged. Everything is aligned with everything.
    #[serde(default)]
    pub exclude_homologs: bool,
    /// `ss_csv`: the file is written C to N; sequence and labels are turned round.
    #[serde(default)]
    pub reversed: bool,
    /// Licence of the content, carried into every fact.
    pub licence: String,
}

impl Source {
    /// Its name for published test sets, empty for training sources: repeats merge within a scope, so that a benchmark keeps
    /// all its rows.
    pub(crate) fn scope(&self) -> &str {
        if self.role == Role::Test { &self.name } else { "" }
    }
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
    /// UniProtKB XML.
    SwissprotXml,
    /// UniProtKB FASTA: name, organism and gene of the header.
    SwissprotFasta,
    /// UniProtKB table, as uniprot.org exports it.
    SwissprotTsv,
    /// Mol-Instructions, protein part: JSON array, official fields or RAPM's (or the zip of all).
    MolInstructions,
    /// ProteinLMDataset, `swissProt2Text.json`.
    ProteinLm,
    /// SwissProtCLAP, sequences (companion: texts).
    SwissprotClap,
    /// ProtDescribe, TSV.
    Protdescribe,
    /// Protein2Text-QA, JSON array or JSON lines.
    Protein2text,
    /// Secondary structure as CSV: PISCES, NPPE-2, CB513 and CB6133 (Princeton), CB513 of NetSurfP-2.
    SsCsv,
    /// Secondary structure as FASTA, H E C only (companions: labels, then mask): FLIP, of NetSurfP-2.
    SsFasta,
    /// `chain_set.jsonl` of Ingraham et al. (companion: its split), or a list like `ts50.json`.
    CathChains,
    /// CATH's lists of domains: CLF, codes, classes, bare ids.
    CathDomains,
    /// Backbones of cgdms, one text file a chain (companion: the split of `cath_chains`).
    Cgdms,
    /// Experimental structures, PDB or mmCIF (companion: the split of `cath_chains`).
    Structure,
    /// Predicted structures, PDB or mmCIF, with pLDDT for B factors.
    Predicted,
    /// Gene Ontology, OBO.
    Obo,
    /// CAFA's information accretion of GO terms.
    CafaIa,
    /// Annotations, GAF.
    Gaf,
    /// Annotations, QuickGO's TSV download.
    Quickgo,
    /// Sequences with GO labels, JSON lines (PDB-GO of InstructProtein).
    GoLabels,
    /// Pairs `id, id, 0/1` (companion: a dictionary `id, sequence` or FASTA).
    PpiPairs,
    /// STRING's actions, as in SHS27k (companion: a dictionary).
    StringActions,
    /// PROSTATA's CSV of stability changes (S2648, S3421, S669, Ssym, mega-scale); negative = destabilising there.
    DdgCsv,
    /// FireProtDB in ThermoMPNN's CSV; positive = destabilising there.
    Fireprot,
    /// STRUM's Q3421, without sequences; negative = destabilising there.
    Strum,
    /// Folding free energies of bioemu-benchmarks; positive = destabilising there.
    Bioemu,
    /// Mean pLDDT of AlphaFold DB models, JSON lines.
    AfdbPlddt,
}

impl Kind {
    /// Name in a recipe.
    pub(crate) fn name(self) -> String {
        // Serde holds the names; a unit variant is written as a string.
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Endings of the members that are read when a file is an archive, before a `.gz`; all if there are none.
    pub(crate) fn members(self) -> &'static [&'static str] {
        match self {
            Kind::MolInstructions => &["json"],
            Kind::Cgdms => &["txt"],
            Kind::Structure | Kind::Predicted => &["pdb", "ent", "cif"],
            _ => &[],
        }
    }

    /// Whether the kind reads companions: (least, most).
    fn companions(self) -> (usize, usize) {
        match self {
            Kind::PpiPairs | Kind::StringActions => (1, usize::MAX),
            Kind::SsFasta => (2, 2),
            Kind::SwissprotClap => (1, 1),
            Kind::CathChains | Kind::Structure | Kind::Cgdms => (0, 1),
            _ => (0, 0),
        }
    }
}

impl Config {
    /// These sources, with every rule at its default.
    pub(crate) fn of(source: Vec<Source>) -> Self {
        Self {
            min_length: default_min_length(),
            max_length: default_max_length(),
            kinship: Kinship::default(),
            valid_fraction: default_valid_fraction(),
            test_fraction: default_test_fraction(),
            near_duplicates: None,
            mmseqs: None,
            memory_mib: default_memory_mib(),
            source,
        }
    }

    /// Whether one of these sources is a test set whose homologs leave training.
    pub(crate) fn excludes_homologs(&self, sources: &[String]) -> bool {
        self.source.iter().any(|s| s.exclude_homologs && sources.contains(&s.name))
    }

    /// With the files of a folder in the place of its name: sorted, hidden ones left out.
    ///
    /// # Errors
    /// I/O; a folder without files.
    pub(crate) fn expanded(&self, data: &Path) -> Result<Self, Error> {
        let mut config = self.clone();
        for source in &mut config.source {
            let mut files = Vec::new();
            for name in &source.files {
                let folder = data.join(name);
                if !folder.is_dir() {
                    files.push(name.clone());
                    continue;
                }
                let mut inside = Vec::new();
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    let file = entry.file_name().to_string_lossy().into_owned();
                    if entry.path().is_file() && !file.starts_with('.') {
                        inside.push(format!("{}/{file}", name.trim_end_matches('/')));
                    }
                }
                inside.sort();
                if inside.is_empty() {
                    return Err(Error::Empty { path: folder });
                }
                files.extend(inside);
            }
            source.files = files;
        }
        Ok(config)
    }

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
        let Kinship { evalue, identity, coverage, kmer, containment, .. } = self.kinship;
        must(evalue > 0.0, format!("kinship.evalue {evalue} is not above 0"));
        for (name, value) in [("identity", identity), ("coverage", coverage)] {
            must((0.0..=1.0).contains(&value), format!("kinship.{name} {value} is not in [0, 1]"));
        }
        must((4..=6).contains(&kmer), format!("kinship.kmer {kmer} is not in 4..=6"));
        must(
            containment > 0.0 && containment <= 1.0,
            format!("kinship.containment {containment} is not in (0, 1]"),
        );
        for (name, value) in [("valid_fraction", self.valid_fraction), ("test_fraction", self.test_fraction)]
        {
            must((0.0..1.0).contains(&value), format!("{name} {value} is not in [0, 1)"));
        }
        must(
            self.valid_fraction + self.test_fraction < 1.0,
            "valid_fraction + test_fraction leave nothing to train on".into(),
        );
        if let Some(threshold) = self.near_duplicates {
            must(
                threshold > 0.0 && threshold <= 1.0,
                format!(
                    "near_duplicates {threshold} is not in (0, 1]; leave it out to merge equal texts only"
                ),
            );
        }
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
                source.files.len() + source.companion.len() <= MAX_FILES,
                format!("source {name:?} has more than {MAX_FILES} files"),
            );
            must(
                source.role == Role::Test || !source.exclude_homologs,
                format!("source {name:?}: exclude_homologs is for sources with role \"test\""),
            );
            must(
                source.kind == Kind::SsCsv || !source.reversed,
                format!("source {name:?}: only ss_csv can be reversed"),
            );
            must(
                !matches!(source.kind, Kind::SsFasta | Kind::SwissprotClap) || source.files.len() == 1,
                format!("source {name:?}: kinds ss_fasta and swissprot_clap take one file"),
            );
            let (least, most) = source.kind.companions();
            let n = source.companion.len();
            let needs = match source.kind {
                Kind::SsFasta => "kind ss_fasta needs two companions: labels, then mask",
                Kind::SwissprotClap => "kind swissprot_clap needs the texts as companion",
                Kind::StringActions => "kind string_actions needs a dictionary as companion",
                _ => "kind ppi_pairs needs a dictionary as companion",
            };
            must(n >= least, format!("source {name:?}: {needs}"));
            must(n <= most, format!("source {name:?}: {n} companion files, at most {most} for its kind"));
        }
        if faults.is_empty() { Ok(()) } else { Err(Error::Config(faults)) }
    }
}
