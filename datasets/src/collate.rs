//! Rows of different lengths → one padded tensor, with the mask from the same lengths.

use candle_core::{Device, Tensor, WithDType};

use crate::Error;

/// The shape of a padded batch. Every tensor of a batch and its mask come from here, so they cannot disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding {
    lengths: Vec<usize>,
    width: usize,
}

impl Padding {
    /// Rows of these lengths, padded to the longest.
    ///
    /// # Errors
    /// When there is no row or an empty one.
    pub fn new(lengths: Vec<usize>) -> Result<Self, Error> {
        let width = lengths.iter().copied().max().unwrap_or(0);
        if width == 0 || lengths.contains(&0) {
            return Err(Error::Batch(format!(
                "a batch needs rows that are not empty, got lengths {lengths:?}"
            )));
        }
        Ok(Self { lengths, width })
    }

    /// Real length of every row.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Length of the longest row: L.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Pads rows of `per_residue` values a residue on the right.
    ///
    /// # Shapes
    /// B rows of `length · per_residue` values → `[B, L, per_residue]`, or `[B, L]` for one value a residue
    ///
    /// # Errors
    /// When a row has another length than this batch says.
    pub fn pad<'a, T: WithDType>(
        &self,
        rows: impl IntoIterator<Item = &'a [T]>,
        per_residue: usize,
        fill: T,
    ) -> Result<Tensor, Error> {
        let mut data = Vec::with_capacity(self.lengths.len() * self.width * per_residue);
        let mut count = 0;
        for (row, (values, &length)) in rows.into_iter().zip(&self.lengths).enumerate() {
            if values.len() != length * per_residue {
                return Err(Error::Batch(format!(
                    "row {row} of a batch has {} values, expected {length} · {per_residue}",
                    values.len()
                )));
            }
            data.extend_from_slice(values);
            count = row + 1;
            data.resize(count * self.width * per_residue, fill);
        }
        if count != self.lengths.len() {
            return Err(Error::Batch(format!("a batch of {} rows was given {count}", self.lengths.len())));
        }
        let (b, l) = (self.lengths.len(), self.width);
        Ok(match per_residue {
            1 => Tensor::from_vec(data, (b, l), &Device::Cpu)?,
            _ => Tensor::from_vec(data, (b, l, per_residue), &Device::Cpu)?,
        })
    }

    /// 1 for real, 0 for padding.
    ///
    /// # Shapes
    /// `[B, L]` u8
    ///
    /// # Errors
    /// What candle says.
    pub fn mask(&self) -> Result<Tensor, Error> {
        let row = |&n: &usize| (0..self.width).map(move |at| u8::from(at < n));
        let data: Vec<u8> = self.lengths.iter().flat_map(row).collect();
        Ok(Tensor::from_vec(data, (self.lengths.len(), self.width), &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_mask_have_one_shape() {
        let padding = Padding::new(vec![1, 3]).unwrap();
        let rows: [&[u32]; 2] = [&[7], &[1, 2, 3]];
        let padded = padding.pad(rows, 1, 9).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(padded, [[7, 9, 9], [1, 2, 3]]);
        assert_eq!(padding.mask().unwrap().to_vec2::<u8>().unwrap(), [[1, 0, 0], [1, 1, 1]]);
        let rows: [&[f32]; 2] = [&[0.5, 1.5], &[1.0; 6]];
        assert_eq!(padding.pad(rows, 2, 0.0).unwrap().dims(), [2, 3, 2]);
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let padding = Padding::new(vec![2, 3]).unwrap();
        assert!(padding.pad([&[1u32, 2][..], &[1, 2]], 1, 0).is_err());
        assert!(padding.pad([&[1u32, 2][..]], 1, 0).is_err());
        assert!(Padding::new(vec![]).is_err() && Padding::new(vec![0, 2]).is_err());
    }
}
