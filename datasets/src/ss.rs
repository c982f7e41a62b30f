//! Secondary structure: tables → records → batches.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Tensor;

use crate::collate::Padding;
use crate::table::{ProteinRow, Rows, Split, SsRow};
use crate::{Error, label, residue};

/// One labelled chain, N to C.
#[derive(Debug, Clone, PartialEq)]
pub struct SsRecord {
    /// Id in the source.
    pub id: String,
    /// Source name.
    pub source: String,
    /// The protein.
    pub protein_id: String,
    /// Its homology cluster.
    pub cluster: String,
    /// Its part of the data.
    pub split: Split,
    /// Residue letters, L of them.
    pub sequence: String,
    /// Index in [`label::Q8`] per residue; [`label::UNKNOWN`] where the label is unknown or does not count.
    pub q8: Vec<u8>,
    /// Index in [`label::Q3`] per residue; as `q8`.
    pub q3: Vec<u8>,
    /// What is known of the Q8 label of each residue, as a set with a bit per state: that state; where only Q3 is known,
    /// the states of that class; all.
    pub sets: Vec<u32>,
}

impl SsRecord {
    fn new(row: SsRow, protein: &ProteinRow) -> Result<Self, Error> {
        let n = protein.sequence.len();
        for (what, text) in [("q8", &row.q8), ("q3", &row.q3), ("mask", &row.mask)] {
            if text.len() != n {
                return Err(Error::Length { id: row.id, what, got: text.len(), expected: n });
            }
        }
        let labels = |text: &str, index: fn(u8) -> Option<u8>| -> Result<Vec<u8>, Error> {
            let counted = row.mask.bytes().map(|m| m == b'1');
            text.bytes()
                .zip(counted)
                .enumerate()
                .map(|(at, (letter, counted))| match index(letter) {
                    Some(state) => Ok(if counted { state } else { label::UNKNOWN }),
                    None => {
                        Err(Error::Label { id: row.id.clone(), letter: letter as char, position: at + 1 })
                    }
                })
                .collect()
        };
        let (q8, q3) = (labels(&row.q8, label::q8_index)?, labels(&row.q3, label::q3_index)?);
        Ok(Self {
            id: row.id,
            source: row.source,
            protein_id: row.protein_id,
            cluster: protein.cluster.clone(),
            split: protein.split,
            sequence: protein.sequence.clone(),
            sets: q8.iter().zip(&q3).map(|(&q8, &q3)| label::q8_set(q8, q3)).collect(),
            q8,
            q3,
        })
    }

    /// Reads all labelled chains of a tables folder, in the order of the table.
    ///
    /// # Errors
    /// When a table is missing or broken, or a row does not fit its protein.
    pub fn read(tables: &Path) -> Result<Vec<Self>, Error> {
        let proteins = ProteinRow::read(tables)?;
        let by_id: HashMap<&str, &ProteinRow> = proteins.iter().map(|p| (p.protein_id.as_str(), p)).collect();
        let record = |row: SsRow| match by_id.get(row.protein_id.as_str()) {
            Some(protein) => Self::new(row, protein),
            None => Err(Error::NoProtein { table: SsRow::TABLE, id: row.id, protein_id: row.protein_id }),
        };
        SsRow::read(tables)?.into_iter().map(record).collect()
    }

    /// Number of residues.
    #[expect(clippy::len_without_is_empty, reason = "a chain is never empty")]
    pub fn len(&self) -> usize {
        self.sequence.len()
    }
}

/// Padded chains and their labels.
#[derive(Debug)]
pub struct SsBatch {
    /// Residue token ids `[B, L]` u32, [`residue::PAD`] at padding.
    pub tokens: Tensor,
    /// Q8 indices `[B, L]` u8, [`label::UNKNOWN`] where unknown and at padding.
    pub q8: Tensor,
    /// Q3 indices `[B, L]` u8; as `q8`.
    pub q3: Tensor,
    /// Sets of Q8 states `[B, L]` u32, all of them at padding.
    pub sets: Tensor,
    /// Lengths, width and mask.
    pub padding: Padding,
}

impl SsBatch {
    /// Collates records. With `reversed`, residues and labels run from C to N: the reading direction of the NPPE-2
    /// files, an option for comparison with what was trained on them.
    ///
    /// # Errors
    /// When there is no record.
    pub fn new(records: &[&SsRecord], reversed: bool) -> Result<Self, Error> {
        fn directed<T: Clone>(values: &[T], reversed: bool) -> Vec<T> {
            if reversed { values.iter().rev().cloned().collect() } else { values.to_vec() }
        }
        let padding = Padding::new(records.iter().map(|r| r.len()).collect())?;
        let tokens: Vec<Vec<u32>> =
            records.iter().map(|r| directed(&residue::encode(&r.sequence), reversed)).collect();
        let labels = |of: fn(&SsRecord) -> &[u8]| -> Result<Tensor, Error> {
            let rows: Vec<Vec<u8>> = records.iter().map(|r| directed(of(r), reversed)).collect();
            padding.pad(rows.iter().map(Vec::as_slice), 1, label::UNKNOWN)
        };
        Ok(Self {
            tokens: padding.pad(tokens.iter().map(Vec::as_slice), 1, residue::PAD)?,
            q8: labels(|r| &r.q8)?,
            q3: labels(|r| &r.q3)?,
            sets: {
                let sets: Vec<Vec<u32>> = records.iter().map(|r| directed(&r.sets, reversed)).collect();
                padding.pad(sets.iter().map(Vec::as_slice), 1, u32::MAX)?
            },
            padding,
        })
    }

    /// Replaces all labels by `paths`, Q8 indices in the direction of the batch, a row each.
    ///
    /// # Errors
    /// When they are not as long as the rows.
    pub fn relabel(&mut self, paths: &[Vec<u8>]) -> Result<(), Error> {
        let fits = |(path, &n): (&Vec<u8>, &usize)| path.len() == n;
        if paths.len() != self.padding.lengths().len() || !paths.iter().zip(self.padding.lengths()).all(fits)
        {
            return Err(Error::Batch("labels of other lengths than the chains".into()));
        }
        let q3: Vec<Vec<u8>> =
            paths.iter().map(|p| p.iter().map(|&s| label::q8_to_q3(s)).collect()).collect();
        let sets: Vec<Vec<u32>> = paths.iter().map(|p| p.iter().map(|&s| 1 << s).collect()).collect();
        self.q8 = self.padding.pad(paths.iter().map(Vec::as_slice), 1, label::UNKNOWN)?;
        self.q3 = self.padding.pad(q3.iter().map(Vec::as_slice), 1, label::UNKNOWN)?;
        self.sets = self.padding.pad(sets.iter().map(Vec::as_slice), 1, u32::MAX)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protein(id: &str, sequence: &str) -> ProteinRow {
        ProteinRow {
            protein_id: id.into(),
            sequence: sequence.into(),
            accessions: vec![],
            sources: vec![],
            cluster: "c".into(),
            split: Split::Valid,
        }
    }

    fn row(protein_id: &str, q8: &str, q3: &str, mask: &str) -> SsRow {
        SsRow {
            id: format!("{protein_id}_A"),
            protein_id: protein_id.into(),
            source: "s".into(),
            q8: q8.into(),
            q3: q3.into(),
            mask: mask.into(),
        }
    }

    #[test]
    fn what_does_not_count_is_unknown_and_direction_turns_everything() {
        let dir = tempfile::tempdir().unwrap();
        ProteinRow::write(dir.path(), &[protein("a", "MKT"), protein("b", "W")]).unwrap();
        SsRow::write(dir.path(), &[row("a", "H?E", "HCE", "110"), row("b", "C", "C", "1")]).unwrap();
        let records = SsRecord::read(dir.path()).unwrap();
        assert_eq!(records[0].q8, [0, label::UNKNOWN, label::UNKNOWN]);
        assert_eq!(records[0].q3, [0, 2, label::UNKNOWN]);
        let batch = SsBatch::new(&[&records[1], &records[0]], true).unwrap();
        let tokens = batch.tokens.to_vec2::<u32>().unwrap();
        let [w, m, k, t] = [b'W', b'M', b'K', b'T'].map(residue::token);
        assert_eq!(tokens, [[w, residue::PAD, residue::PAD], [t, k, m]]);
        assert_eq!(batch.q3.to_vec2::<u8>().unwrap(), [[2, 255, 255], [255, 2, 0]]);
        let any = u32::MAX;
        assert_eq!(batch.sets.to_vec2::<u32>().unwrap(), [[1 << 7, any, any], [any, 0b1110_0000, 1]]);
        let mut batch = batch;
        batch.relabel(&[vec![3], vec![7, 0, 0]]).unwrap();
        assert_eq!(batch.q8.to_vec2::<u8>().unwrap(), [[3, 255, 255], [7, 0, 0]]);
        assert_eq!(batch.q3.to_vec2::<u8>().unwrap(), [[1, 255, 255], [2, 0, 0]]);
        assert_eq!(batch.sets.to_vec2::<u32>().unwrap(), [[8, any, any], [128, 1, 1]]);
        assert!(batch.relabel(&[vec![3]]).is_err());
    }

    #[test]
    fn rows_that_do_not_fit_their_protein_are_named() {
        let dir = tempfile::tempdir().unwrap();
        ProteinRow::write(dir.path(), &[protein("a", "MKT")]).unwrap();
        for (bad, text) in [
            (row("a", "HH", "HHH", "111"), "q8 has 2"),
            (row("a", "HZH", "HHH", "111"), "'Z' at position 2"),
            (row("x", "H", "H", "1"), "protein x"),
        ] {
            SsRow::write(dir.path(), &[bad]).unwrap();
            let error = SsRecord::read(dir.path()).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
