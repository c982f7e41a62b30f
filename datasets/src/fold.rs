//! Backbones: tables → records → batches. Coordinates in Å.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use crate::collate::Padding;
use crate::table::{ChainRow, ProteinRow, Rows, Split};
use crate::{Error, Protein, residue};

/// The CATH classes in the order of every tensor and report: mainly alpha, mainly beta, alpha beta, few secondary
/// structures (nodes 1 to 4).
pub const CATH_CLASSES: [&str; 4] = ["mainly alpha", "mainly beta", "alpha beta", "few secondary structures"];
/// Two residues are in contact when their Cα lie nearer than this (Å).
pub const CONTACT_ANG: f32 = 8.0;
/// Pairs nearer than this along the chain touch in any fold; they carry no loss and count in no metric.
pub const MIN_SEPARATION: usize = 6;

/// Index of Cα among N, CA, C, O.
const CA: usize = 1;

/// One chain with its backbone.
#[derive(Debug, Clone)]
pub struct FoldRecord {
    /// Residues and coordinates.
    pub protein: Protein,
    /// Id of the protein in the proteins table.
    pub protein_id: String,
    /// Its homology cluster.
    pub cluster: String,
    /// Its part of the data.
    pub split: Split,
    /// Whether it has the class, in the order of [`CATH_CLASSES`]; all false where CATH does not know the chain. One
    /// chain may have several (12.9 % of CATH 4.2).
    pub classes: [bool; CATH_CLASSES.len()],
}

impl FoldRecord {
    fn new(row: ChainRow, protein: &ProteinRow) -> Result<Self, Error> {
        let mut classes = [false; CATH_CLASSES.len()];
        for node in &row.cath {
            let class = node.split('.').next().and_then(|class| class.parse::<usize>().ok());
            if let Some(known) = class.and_then(|class| classes.get_mut(class.wrapping_sub(1))) {
                *known = true;
            }
        }
        Ok(Self {
            protein: Protein::new(row.chain_id, &protein.sequence)?.with_backbone(&row.backbone_ang)?,
            protein_id: row.protein_id,
            cluster: protein.cluster.clone(),
            split: protein.split,
            classes,
        })
    }

    /// Reads all chains of a tables folder, in the order of the table.
    ///
    /// # Errors
    /// When a table is missing or broken, or a row does not fit its protein.
    pub fn read(tables: &Path) -> Result<Vec<Self>, Error> {
        let proteins = ProteinRow::read(tables)?;
        let by_id: HashMap<&str, &ProteinRow> = proteins.iter().map(|p| (p.protein_id.as_str(), p)).collect();
        let record = |row: ChainRow| match by_id.get(row.protein_id.as_str()) {
            Some(protein) => Self::new(row, protein),
            None => {
                Err(Error::NoProtein { table: ChainRow::TABLE, id: row.chain_id, protein_id: row.protein_id })
            }
        };
        ChainRow::read(tables)?.into_iter().map(record).collect()
    }

    /// Number of residues.
    #[expect(clippy::len_without_is_empty, reason = "a chain is never empty")]
    pub fn len(&self) -> usize {
        self.protein.len()
    }

    /// For every ordered pair whether it is a contact; `None` where a Cα is missing or the pair lies nearer than
    /// [`MIN_SEPARATION`] along the chain. Row-major `[L, L]`.
    pub fn contacts(&self) -> Vec<Option<bool>> {
        let backbone = self.protein.backbone_ang().unwrap_or_default();
        let ca: Vec<Option<[f32; 3]>> =
            backbone.iter().map(|r| r[CA].iter().all(|x| x.is_finite()).then_some(r[CA])).collect();
        let mut pairs = Vec::with_capacity(ca.len() * ca.len());
        for (i, a) in ca.iter().enumerate() {
            for (j, b) in ca.iter().enumerate() {
                pairs.push(match (a, b) {
                    (Some(a), Some(b)) if i.abs_diff(j) >= MIN_SEPARATION => {
                        let square: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
                        Some(square < CONTACT_ANG * CONTACT_ANG)
                    }
                    _ => None,
                });
            }
        }
        pairs
    }
}

/// Padded chains with what a contact model is asked.
#[derive(Debug)]
pub struct FoldBatch {
    /// Residue token ids `[B, L]` u32, [`residue::PAD`] at padding.
    pub tokens: Tensor,
    /// 1 where two Cα are in contact, `[B, L, L]` f32.
    pub contacts: Tensor,
    /// 1 where `contacts` is known and counts, `[B, L, L]` f32.
    pub contacts_mask: Tensor,
    /// 1 where a chain has the CATH class, `[B, 4]` f32.
    pub classes: Tensor,
    /// 1 in the rows of chains that CATH knows, `[B, 4]` f32.
    pub classes_mask: Tensor,
    /// Lengths, width and mask.
    pub padding: Padding,
}

impl FoldBatch {
    /// Collates records.
    ///
    /// # Errors
    /// When there is no record.
    pub fn new(records: &[&FoldRecord]) -> Result<Self, Error> {
        let padding = Padding::new(records.iter().map(|r| r.len()).collect())?;
        let (b, l) = (records.len(), padding.width());
        let tokens: Vec<Vec<u32>> = records.iter().map(|r| residue::encode(r.protein.sequence())).collect();
        let (mut contacts, mut contacts_mask) = (vec![0f32; b * l * l], vec![0f32; b * l * l]);
        for (row, record) in records.iter().enumerate() {
            let n = record.len();
            for (at, known) in record.contacts().into_iter().enumerate() {
                let place = (row * l + at / n) * l + at % n;
                contacts[place] = f32::from(u8::from(known == Some(true)));
                contacts_mask[place] = f32::from(u8::from(known.is_some()));
            }
        }
        let number = |yes: bool| f32::from(u8::from(yes));
        let classes: Vec<f32> = records.iter().flat_map(|r| r.classes.map(number)).collect();
        let known = |r: &&FoldRecord| [number(r.classes.contains(&true)); CATH_CLASSES.len()];
        let classes_mask: Vec<f32> = records.iter().flat_map(known).collect();
        let cpu = &Device::Cpu;
        Ok(Self {
            tokens: padding.pad(tokens.iter().map(Vec::as_slice), 1, residue::PAD)?,
            contacts: Tensor::from_vec(contacts, (b, l, l), cpu)?,
            contacts_mask: Tensor::from_vec(contacts_mask, (b, l, l), cpu)?,
            classes: Tensor::from_vec(classes, (b, CATH_CLASSES.len()), cpu)?,
            classes_mask: Tensor::from_vec(classes_mask, (b, CATH_CLASSES.len()), cpu)?,
            padding,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain whose Cα lie on a line, 1 Å apart.
    fn chain(n: usize, missing: usize, cath: &[&str]) -> (ProteinRow, ChainRow) {
        let protein = ProteinRow {
            protein_id: format!("p{n}"),
            sequence: "A".repeat(n),
            accessions: vec![],
            sources: vec![],
            cluster: "c".into(),
            split: Split::Train,
        };
        let mut backbone: Vec<f32> = (0..n).flat_map(|i| [i as f32, 0.0, 0.0].repeat(4)).collect();
        backbone[missing * 12 + 3] = f32::NAN;
        let row = ChainRow {
            chain_id: format!("{n}.A"),
            protein_id: protein.protein_id.clone(),
            source: "s".into(),
            backbone_ang: backbone,
            cath: cath.iter().map(|&c| c.into()).collect(),
            published_split: String::new(),
        };
        (protein, row)
    }

    #[test]
    fn contacts_follow_the_distance_and_missing_atoms_are_unknown() {
        let dir = tempfile::tempdir().unwrap();
        let (proteins, chains): (Vec<_>, Vec<_>) =
            [chain(11, 2, &["1.10.8", "3.40.50"]), chain(7, 0, &[])].into_iter().unzip();
        ProteinRow::write(dir.path(), &proteins).unwrap();
        ChainRow::write(dir.path(), &chains).unwrap();
        let records = FoldRecord::read(dir.path()).unwrap();
        let pairs = records[0].contacts();
        let at = |i: usize, j: usize| pairs[i * 11 + j];
        assert_eq!((at(0, 6), at(7, 0), at(0, 8), at(1, 6)), (Some(true), Some(true), Some(false), None));
        assert_eq!((at(2, 8), at(2, 10)), (None, None));

        let batch = FoldBatch::new(&[&records[1], &records[0]]).unwrap();
        assert_eq!(batch.classes.to_vec2::<f32>().unwrap(), [[0.0; 4], [1.0, 0.0, 1.0, 0.0]]);
        assert_eq!(batch.classes_mask.to_vec2::<f32>().unwrap(), [[0.0; 4], [1.0; 4]]);
        let (contacts, mask) =
            (batch.contacts.to_vec3::<f32>().unwrap(), batch.contacts_mask.to_vec3::<f32>().unwrap());
        assert_eq!(
            (contacts[1][0][6], mask[1][0][6], contacts[1][0][8], mask[1][0][8]),
            (1.0, 1.0, 0.0, 1.0)
        );
        assert_eq!(mask[0].concat().iter().sum::<f32>(), 0.0); // 1..=6 apart from the missing first residue
        assert_eq!(mask[1][2].iter().sum::<f32>(), 0.0);
    }

    #[test]
    fn a_chain_of_another_length_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (protein, mut row) = chain(5, 0, &[]);
        row.backbone_ang.truncate(48);
        ProteinRow::write(dir.path(), &[protein]).unwrap();
        ChainRow::write(dir.path(), &[row]).unwrap();
        let error = FoldRecord::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("5.A") && error.contains("48"), "{error}");
    }
}
