//! The tables: one row type each, one Parquet file each, in one folder.
//!
//! A row struct is the schema: field = column. [`Rows`], [`Writer`] and [`scan`] are the only way in and out, so a
//! column that changes its name or type is an error that names the file and the column, never a silent default.
//!
//! Units and conventions: coordinates in Å; positions 1-based in the stored sequence; ΔΔG is
//! `ΔG_mutant − ΔG_wild-type of folding` in kcal/mol, positive = destabilising, whatever the source's own sign;
//! pLDDT 0–100.

mod file;
pub mod row_group;

use serde::{Deserialize, Serialize};

pub(crate) use file::Columns;
pub use file::{ROW_GROUP, Rows, Writer, properties, scan};

/// Which part of the data a row belongs to. Decided once, by homology cluster, before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Trained on.
    Train,
    /// Tuned on.
    Valid,
    /// Reported on: held-out clusters and published test sets.
    Test,
    /// Used nowhere: a neighbour of a published test protein, or a pair whose partners lie in different parts.
    Excluded,
}

/// Rows of `proteins.parquet`: one per distinct normalised sequence of all sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProteinRow {
    /// [`crate::residue::protein_id`] of `sequence`.
    pub protein_id: String,
    /// Normalised residues.
    pub sequence: String,
    /// Accessions and chain ids under which the sources hold it, sorted.
    pub accessions: Vec<String>,
    /// Names of the sources that hold it, sorted.
    pub sources: Vec<String>,
    /// `protein_id` of the representative of its homology cluster.
    pub cluster: String,
    /// Part of the data, the same for the whole cluster (but for excluded neighbours of published test sets).
    pub split: Split,
}

/// Rows of `facts.parquet`: one statement in words about one protein. Prompts are rendered when a batch is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FactRow {
    /// 32 hex digits over protein, task and text.
    pub fact_id: String,
    /// The protein it speaks of.
    pub protein_id: String,
    /// Source name, as in the recipe.
    pub source: String,
    /// Accession in the source, empty if it has none.
    pub accession: String,
    /// What is stated: `name`, `organism`, `gene`, `function`, `subunit`, `location`, `ptm`, `disease`, `induction`,
    /// `tissue`, `catalytic_activity`, `domain`, `general`, `design`, `ec`, `keyword`, `similarity`, `qa`.
    pub task: String,
    /// The question of sources that hold questions and answers, else empty.
    pub question: String,
    /// Text as the source has it, `None` where it is `text`.
    pub raw_text: Option<String>,
    /// Text after the cleaning rules.
    pub text: String,
    /// Evidence codes (`ECO:0000269`), sorted; empty if the source has none.
    pub evidence: Vec<String>,
    /// Licence of the source.
    pub licence: String,
}

/// Rows of `chains.parquet`: backbones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainRow {
    /// Chain name as in the source, `1abc.A`.
    pub chain_id: String,
    /// The protein whose sequence it has.
    pub protein_id: String,
    /// Source name.
    pub source: String,
    /// Coordinates of N, CA, C, O in Å, row-major `[L, 4, 3]`; NaN where the structure has no atom.
    pub backbone_ang: Vec<f32>,
    /// CATH nodes `class.architecture.topology`, sorted; empty if unknown.
    pub cath: Vec<String>,
    /// Part in the published split (`train`, `validation`, `test`), empty if the source has none.
    pub published_split: String,
}

/// Rows of `ss.parquet`: secondary structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SsRow {
    /// Id in the source.
    pub id: String,
    /// The protein whose sequence it has.
    pub protein_id: String,
    /// Source name; a benchmark is a source whose role is `test`.
    pub source: String,
    /// One letter of `HGIEBSTC` per residue, `?` where unknown. Forward (N to C), like the sequence.
    pub q8: String,
    /// One letter of `HEC` per residue, `?` where unknown: the source's own three states, or the map of `q8`.
    pub q3: String,
    /// `1` where the residue counts in the benchmark, `0` where it does not (disorder, benchmark mask).
    pub mask: String,
}

/// Rows of `go.parquet`: one annotation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoRow {
    /// The annotated protein.
    pub protein_id: String,
    /// Accession in the source.
    pub accession: String,
    /// Current primary id, `GO:0003824`.
    pub term: String,
    /// `F`, `P` or `C`.
    pub aspect: String,
    /// Evidence code, `IDA`.
    pub evidence: String,
    /// Source name.
    pub source: String,
}

/// Rows of `ppi.parquet`: one unordered pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PpiRow {
    /// The first partner (the smaller id).
    pub protein_id_a: String,
    /// The second partner.
    pub protein_id_b: String,
    /// Whether they interact.
    pub label: bool,
    /// How they interact (`binding`, `reaction`, …), sorted; empty where no source says.
    pub modes: Vec<String>,
    /// Source name.
    pub source: String,
    /// Train, valid or test if both partners lie there; else excluded.
    pub split: Split,
}

/// Rows of `ddg.parquet`: one point mutation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DdgRow {
    /// The wild type.
    pub protein_id: String,
    /// Residue of the wild type at `position`.
    pub wild_type: String,
    /// 1-based position in the wild type's stored sequence.
    pub position: u32,
    /// Residue of the mutant.
    pub mutant: String,
    /// ΔG_mutant − ΔG_wild-type of folding, kcal/mol, positive = destabilising.
    pub ddg_kcal: f32,
    /// Measurements that were averaged into this row.
    pub n_measured: u32,
    /// Structure or domain the source names, empty if none.
    pub structure: String,
    /// Source name.
    pub source: String,
}

/// Rows of `plddt.parquet`: confidence of a predicted structure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlddtRow {
    /// The protein.
    pub protein_id: String,
    /// Accession or file name in the source.
    pub accession: String,
    /// Mean pLDDT, 0–100.
    pub mean_plddt: f32,
    /// pLDDT of every residue, 0–100; empty where the source has only the mean.
    pub plddt: Vec<f32>,
    /// Source name.
    pub source: String,
}

/// Rows of `contradictions.parquet`: facts of one protein and task that do not agree. All of them stay in `facts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContradictionRow {
    /// The protein.
    pub protein_id: String,
    /// The task, as in `facts`.
    pub task: String,
    /// The question, empty where the facts answer none.
    pub question: String,
    /// The facts, sorted.
    pub fact_ids: Vec<String>,
    /// Their sources, sorted.
    pub sources: Vec<String>,
}

/// Rows of `repeats.parquet`: a fact that another one stands for, as its source has it. Put back into `facts`, its own
/// columns are the row that it would have been.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepeatRow {
    /// The fact in `facts` that stands for it.
    pub kept_id: String,
    /// Jaccard similarity of the two texts as sets of three words in a row, at most 1; 1 where the texts are equal.
    pub similarity: f32,
    /// As in `facts`; that of `kept_id` where the texts are equal.
    pub fact_id: String,
    /// As in `facts`.
    pub protein_id: String,
    /// As in `facts`.
    pub source: String,
    /// As in `facts`.
    pub accession: String,
    /// As in `facts`.
    pub task: String,
    /// As in `facts`.
    pub question: String,
    /// As in `facts`.
    pub raw_text: Option<String>,
    /// As in `facts`.
    pub text: String,
    /// As in `facts`.
    pub evidence: Vec<String>,
    /// As in `facts`.
    pub licence: String,
}

/// Rows of `domains.parquet`: what CATH says of one domain, whether or not a source has its coordinates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainRow {
    /// CATH's id, `1oaiA00`.
    pub domain_id: String,
    /// The chain that it is part of, as in `chains`: `1oai.A`.
    pub chain_id: String,
    /// Class, architecture, topology, homology as far as the list goes: `1.10.8.10`, `1`; empty for bare lists.
    pub node: String,
    /// Source name.
    pub source: String,
}

/// Rows of `weights.parquet`: how much a GO term tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRow {
    /// Current primary id.
    pub term: String,
    /// Information accretion: −log2 of the probability of the term given its parents.
    pub information_bits: f64,
    /// Source name.
    pub source: String,
}

/// Rows of `quarantine.parquet`: what was not kept, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuarantineRow {
    /// Source name.
    pub source: String,
    /// File, relative to the data folder.
    pub file: String,
    /// 1-based line (text formats) or record number where it began.
    pub line: u64,
    /// Short reason, one of `ingest::Reason`: the counters of the manifest use the same names.
    pub reason: String,
    /// What exactly was wrong, for a person.
    pub detail: String,
    /// The record as read, lossily decoded, cut at 2,000 characters.
    pub raw: String,
}

/// What a column of the tables means, for a card.
pub fn describe(column: &str) -> Option<&'static str> {
    Some(match column {
        "protein_id" => "hash of the normalised sequence",
        "protein_id_a" | "protein_id_b" => "hash of the sequence of one partner",
        "sequence" => "normalised residues, N to C",
        "sequence_a" | "sequence_b" => "residues of one partner, N to C",
        "cluster" => "protein_id of the representative of the homology cluster",
        "cluster_a" | "cluster_b" => "homology cluster of one partner",
        "accessions" => "accessions and chain ids under which the sources hold the protein",
        "accession" => "accession in the source, empty if it has none",
        "sources" => "names of the sources that hold the protein",
        "source" => "name of the source",
        "split" => "part of the data",
        "fact_id" => "hash of protein, task and text",
        "task" => "what is stated",
        "question" => "the question of sources that hold questions and answers, else empty",
        "raw_text" => "the statement as the source has it, null where that is text",
        "text" => "the statement after the cleaning rules",
        "evidence" => "evidence codes",
        "licence" => "licence of the source",
        "chain_id" => "chain name in the source, 1abc.A",
        "backbone_ang" => "coordinates of N, CA, C, O in Å, row-major [L, 4, 3]; NaN where there is no atom",
        "cath" => "CATH nodes class.architecture.topology",
        "published_split" => "part in the split that the source published, empty if it has none",
        "id" => "id in the source",
        "q8" => "secondary structure, one letter of HGIEBSTC per residue, ? where unknown",
        "q3" => "secondary structure, one letter of HEC per residue, ? where unknown",
        "mask" => "1 where the residue counts in the benchmark",
        "term" => "GO term",
        "aspect" => "F (function), P (process) or C (component)",
        "label" => "whether the two proteins interact",
        "modes" => "how they interact",
        "wild_type" => "residue of the wild type at the position",
        "position" => "1-based position in the sequence",
        "mutant" => "residue of the mutant",
        "ddg_kcal" => "ΔG_mutant − ΔG_wild-type of folding, kcal/mol, positive = destabilising",
        "n_measured" => "measurements that were averaged",
        "structure" => "structure or domain that the source names",
        "mean_plddt" => "mean pLDDT, 0–100",
        "plddt" => "pLDDT of every residue, 0–100; empty where the source has only the mean",
        _ => return None,
    })
}

macro_rules! tables {
    ($($row:ty => $name:literal),* $(,)?) => {
        $(impl Rows for $row { const TABLE: &'static str = $name; })*
        /// File stems of all tables, in the order in which they are written.
        pub const TABLES: &[&str] = &[$($name),*];
    };
}

tables! {
    ProteinRow => "proteins",
    FactRow => "facts",
    ChainRow => "chains",
    SsRow => "ss",
    GoRow => "go",
    PpiRow => "ppi",
    DdgRow => "ddg",
    PlddtRow => "plddt",
    DomainRow => "domains",
    WeightRow => "weights",
    RepeatRow => "repeats",
    ContradictionRow => "contradictions",
    QuarantineRow => "quarantine",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let rows = vec![
            ProteinRow {
                protein_id: "a".into(),
                sequence: "MK".into(),
                accessions: vec!["P1".into(), "P2".into()],
                sources: vec![],
                cluster: "a".into(),
                split: Split::Excluded,
            };
            3
        ];
        ProteinRow::write(dir.path(), &rows).unwrap();
        assert_eq!(ProteinRow::read(dir.path()).unwrap(), rows);
        let chain = ChainRow {
            chain_id: "1abc.A".into(),
            protein_id: "a".into(),
            source: "s".into(),
            backbone_ang: vec![f32::NAN, 1.0],
            cath: vec![],
            published_split: String::new(),
        };
        ChainRow::write(dir.path(), std::slice::from_ref(&chain)).unwrap();
        assert!(ChainRow::read(dir.path()).unwrap()[0].backbone_ang[0].is_nan());
    }

    #[test]
    fn a_missing_table_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = GoRow::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("go.parquet") && error.contains("peptalk ingest"), "{error}");
    }

    #[test]
    fn an_empty_table_has_its_columns() {
        let dir = tempfile::tempdir().unwrap();
        PpiRow::write(dir.path(), &[]).unwrap();
        assert_eq!(PpiRow::read(dir.path()).unwrap(), vec![]);
    }
}
