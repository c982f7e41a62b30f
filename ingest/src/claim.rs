//! What a record says: at most one row for one table, with its place in the sources.
//!
//! Parsers make claims, the staging files hold them, the relational work ([`crate::dedup`]) chooses among them. The
//! `order` of a claim is its place (source, file, line, part); whatever it chooses, it chooses the lowest
//! order, so no thread count and no batch size changes a result.

use datasets::residue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clean;
use crate::config::{Role, Source};

/// A claim, as staged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// Place: source (7 bits), file (14), line (30), part of the record (12); the highest bit is free.
    pub(crate) order: u64,
    /// Place of its record: `order` with part 0.
    pub(crate) record: u64,
    /// Id in the source, empty if it has none.
    pub(crate) accession: String,
    /// The protein, where the record itself holds the sequence.
    pub(crate) protein_id: Option<String>,
    /// Its residues; on the first claim of a record only, and not on all of those that are facts.
    pub(crate) sequence: Option<String>,
    /// Whether the protein is of a published test set.
    pub(crate) test: bool,
    /// Hash of table, key and value: equal claims are repeats. `None` where only a join can tell (GO, pairs), and for facts,
    /// which are looked at protein by protein.
    pub(crate) key: Option<String>,
    /// That the source knows the protein under `accession`.
    pub(crate) member: Option<Member>,
    /// For `facts`; staged beside the other claims ([`crate::parse::facts`]).
    #[serde(skip)]
    pub(crate) fact: Option<Box<Fact>>,
    /// For `chains`.
    pub(crate) chain: Option<Box<Chain>>,
    /// For `ss`.
    pub(crate) ss: Option<Box<Ss>>,
    /// For `go`.
    pub(crate) go: Option<Box<Go>>,
    /// For `ppi`.
    pub(crate) ppi: Option<Box<Pair>>,
    /// For `ddg`.
    pub(crate) ddg: Option<Box<Ddg>>,
    /// For `plddt`.
    pub(crate) plddt: Option<Box<Plddt>>,
    /// For `domains`.
    pub(crate) domain: Option<Box<Domain>>,
    /// For `weights`.
    pub(crate) weight: Option<Box<Weight>>,
}

/// A protein of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Whether annotations look their proteins up here first.
    pub(crate) is_reference: bool,
}

/// Columns of `facts`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fact {
    /// `fact_id` as a number.
    pub(crate) id: u128,
    pub(crate) task: &'static str,
    pub(crate) question: String,
    /// Text as the source has it, `None` where it is `text`.
    pub(crate) raw_text: Option<String>,
    pub(crate) text: String,
    pub(crate) evidence: Vec<String>,
}

/// Columns of `chains`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chain {
    pub(crate) backbone_ang: Vec<f32>,
    pub(crate) cath: Vec<String>,
    pub(crate) published_split: String,
}

/// Columns of `ss`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ss {
    pub(crate) q8: String,
    pub(crate) q3: String,
    pub(crate) mask: String,
}

/// Columns of `go`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Go {
    pub(crate) term: String,
    pub(crate) aspect: String,
    pub(crate) evidence: String,
    /// Another name of the gene product, `4932.YAL001C`: taxon and locus as STRING writes them; empty if none.
    pub(crate) locus: String,
}

/// A pair by the ids of its dictionary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pair {
    pub(crate) id_a: String,
    pub(crate) id_b: String,
    pub(crate) label: bool,
    /// How they interact, empty where the source does not say.
    pub(crate) mode: String,
}

/// Columns of `ddg`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ddg {
    pub(crate) wild_type: String,
    pub(crate) position: u32,
    pub(crate) mutant: String,
    pub(crate) ddg_kcal: f32,
    pub(crate) structure: String,
}

/// Columns of `plddt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plddt {
    pub(crate) mean_plddt: f32,
    pub(crate) plddt: Vec<f32>,
}

/// Columns of `domains`; the chain is the accession.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Domain {
    pub(crate) domain_id: String,
    pub(crate) node: String,
}

/// Columns of `weights`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Weight {
    pub(crate) term: String,
    pub(crate) information_bits: f64,
}

impl Claim {
    /// A claim about a protein whose sequence the record holds.
    pub(crate) fn of(protein: Residues, accession: &str) -> Self {
        let Residues { id, sequence } = protein;
        Self {
            accession: accession.into(),
            protein_id: Some(id),
            sequence: Some(sequence),
            ..Self::default()
        }
    }

    /// The column that it has something in, which names its table.
    pub(crate) fn table(&self) -> Option<&'static str> {
        let tables = [
            ("member", self.member.is_some()),
            ("fact", self.fact.is_some()),
            ("chain", self.chain.is_some()),
            ("ss", self.ss.is_some()),
            ("go", self.go.is_some()),
            ("ppi", self.ppi.is_some()),
            ("ddg", self.ddg.is_some()),
            ("plddt", self.plddt.is_some()),
            ("domain", self.domain.is_some()),
            ("weight", self.weight.is_some()),
        ];
        tables.into_iter().find(|&(_, is_for)| is_for).map(|(table, _)| table)
    }

    /// Fills in the place and the key.
    pub(crate) fn place(&mut self, source: &Source, record: u64, part: u64) {
        self.record = record;
        self.order = record | part;
        self.test |= source.role == Role::Test;
        if part > 0 {
            self.sequence = None;
        }
        self.key = self.hash(source);
    }

    fn hash(&self, source: &Source) -> Option<String> {
        if self.fact.is_some() {
            return None;
        }
        let scope = source.scope();
        let mut fields = vec![scope, self.protein_id.as_deref().unwrap_or_default()];
        if !scope.is_empty() {
            fields.push(&self.accession);
        }
        let value: String;
        if self.member.is_some() {
            fields.extend(["member", &source.name, &self.accession]);
        } else if let Some(chain) = &self.chain {
            value = chain.backbone_ang.iter().map(|x| format!("{:08x}", x.to_bits())).collect();
            fields.extend(["chain", &value]);
        } else if let Some(ss) = &self.ss {
            fields.extend(["ss", &ss.q8, &ss.q3, &ss.mask]);
        } else if let Some(domain) = &self.domain {
            fields.extend(["domain", &domain.domain_id, &domain.node]);
        } else if let Some(weight) = &self.weight {
            fields.extend(["weight", &weight.term]);
        } else if self.protein_id.is_none() {
            return None; // only a join can tell of which protein it is
        } else if let Some(ddg) = &self.ddg {
            value = format!("{} {} {:08x}", ddg.position, ddg.mutant, ddg.ddg_kcal.to_bits());
            fields.extend(["ddg", &value]);
        } else if let Some(plddt) = &self.plddt {
            value = format!("{:08x}", plddt.mean_plddt.to_bits());
            fields.extend(["plddt", &value]);
        } else {
            return None;
        }
        let mut hash = Sha256::new();
        for field in fields {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field.as_bytes());
        }
        Some(datasets::hex(&hash.finalize()[..16]))
    }
}

impl Fact {
    /// A fact with its id: a hash of protein, task, question and text.
    pub(crate) fn new(
        protein_id: &str,
        task: &'static str,
        question: &str,
        raw_text: &str,
        text: String,
    ) -> Self {
        let mut hash = Sha256::new();
        for field in [protein_id, task, question, &text] {
            hash.update(field.as_bytes());
            hash.update([0]);
        }
        let hash: [u8; 32] = hash.finalize().into();
        Self {
            id: u128::from_be_bytes(*hash.first_chunk().expect("it is longer")),
            task,
            question: question.into(),
            raw_text: (raw_text != text).then(|| raw_text.into()),
            text,
            evidence: clean::evidence(raw_text),
        }
    }
}

/// A normalised sequence and its id.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Residues {
    /// [`residue::protein_id`].
    pub(crate) id: String,
    /// Normalised residues.
    pub(crate) sequence: String,
}

impl Residues {
    /// Names a normalised sequence.
    pub(crate) fn new(sequence: String) -> Self {
        Self { id: residue::protein_id(&sequence), sequence }
    }
}

/// Files of one source, at most.
pub(crate) const MAX_FILES: usize = 1 << 14;
/// Lines of one file (all members of an archive together), at most.
pub(crate) const MAX_LINES: u64 = 1 << 30;
/// Claims of one record, at most.
pub(crate) const MAX_PARTS: usize = 1 << 12;

/// The bit of a place at which its source begins.
pub(crate) const SOURCE_BIT: u64 = 56;

/// Place of a record.
pub(crate) fn record(source: usize, file: usize, line: u64) -> u64 {
    (source as u64) << SOURCE_BIT | (file as u64) << 42 | (line % MAX_LINES) << 12
}

/// Source, file and line of a place.
pub(crate) fn place(order: u64) -> (usize, usize, u64) {
    ((order >> SOURCE_BIT) as usize, order as usize >> 42 & (MAX_FILES - 1), order >> 12 & (MAX_LINES - 1))
}

/// The id of a protein or a fact, 32 hex digits, as a number.
pub(crate) fn number(id: &str) -> u128 {
    let is_id = id.bytes().fold(id.len() == 32, |is, b| is & b.is_ascii_hexdigit());
    assert!(is_id, "{id:?} is no 32 hex digits");
    // Letters have bit 6, digits do not.
    let half = |digits: &[u8]| digits.iter().fold(0, |n, b| n << 4 | u64::from((b & 15) + 9 * (b >> 6)));
    let (high, low) = id.as_bytes().split_at(16);
    u128::from(half(high)) << 64 | u128::from(half(low))
}

/// The id that is this number.
pub(crate) fn id(number: u128) -> String {
    datasets::hex(&number.to_be_bytes())
}

/// Place of the record that a claim is of.
pub(crate) fn record_of(order: u64) -> u64 {
    order & !(MAX_PARTS as u64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers() {
        for id in ["00000000000000000000000000000000", "0123456789abcdef9f00aA5e7d31c8B2", &"f".repeat(32)] {
            assert_eq!(number(id), u128::from_str_radix(id, 16).unwrap());
            assert_eq!(super::id(number(id)), id.to_ascii_lowercase());
        }
    }

    #[test]
    fn places_survive_packing() {
        let order = record(126, 16_383, 1_000_000_000) | 4_095;
        assert_eq!(place(order), (126, 16_383, 1_000_000_000));
        assert_eq!(record_of(order), record(126, 16_383, 1_000_000_000));
        assert!(record(0, 16_383, 9) < record(1, 0, 1));
        assert_eq!(record(127, 16_383, MAX_LINES - 1) >> 63, 0);
    }
}
