//! One chain with everything that is known per residue, of one length.

use crate::label;
use crate::{Error, residue};

/// One protein chain. The constructor checks that labels and coordinates have the length of the sequence, so nothing
/// after it needs to.
#[derive(Debug, Clone, PartialEq)]
pub struct Protein {
    id: String,
    sequence: String,
    backbone_ang: Option<Vec<[[f32; 3]; 4]>>,
    q8: Option<Vec<u8>>,
}

impl Protein {
    /// A chain of normalised residues.
    ///
    /// # Errors
    /// [`Error::Sequence`] when a letter is not in [`residue::LETTERS`].
    pub fn new(id: impl Into<String>, sequence: impl Into<String>) -> Result<Self, Error> {
        let (id, sequence) = (id.into(), sequence.into());
        if let Some((at, letter)) = sequence.bytes().enumerate().find(|(_, l)| !residue::LETTERS.contains(l))
        {
            let source = residue::SequenceError::Letter { letter: letter as char, position: at + 1 };
            return Err(Error::Sequence { id, source });
        }
        if sequence.is_empty() {
            return Err(Error::Sequence { id, source: residue::SequenceError::Empty });
        }
        Ok(Self { id, sequence, backbone_ang: None, q8: None })
    }

    /// Adds coordinates.
    ///
    /// # Shapes
    /// `backbone_ang`: `[L, 4, 3]` flattened, N, CA, C, O, Å, NaN where missing
    ///
    /// # Errors
    /// [`Error::Length`] when it is not `12 L` numbers.
    pub fn with_backbone(mut self, backbone_ang: &[f32]) -> Result<Self, Error> {
        self.check("backbone", backbone_ang.len(), 12 * self.len())?;
        let atom = |a: &[f32]| [a[0], a[1], a[2]];
        let residue = |r: &[f32]| [atom(&r[..3]), atom(&r[3..6]), atom(&r[6..9]), atom(&r[9..])];
        self.backbone_ang = Some(backbone_ang.chunks_exact(12).map(residue).collect());
        Ok(self)
    }

    /// Adds secondary structure in letters of `HGIEBSTC` and `?`.
    ///
    /// # Errors
    /// [`Error::Length`] on another length than the sequence, [`Error::Label`] on a letter that is no state.
    pub fn with_q8(mut self, letters: &str) -> Result<Self, Error> {
        self.check("q8", letters.len(), self.len())?;
        let index = |(at, letter): (usize, u8)| {
            label::q8_index(letter).ok_or(Error::Label {
                id: self.id.clone(),
                letter: letter as char,
                position: at + 1,
            })
        };
        self.q8 = Some(letters.bytes().enumerate().map(index).collect::<Result<_, _>>()?);
        Ok(self)
    }

    fn check(&self, what: &'static str, got: usize, expected: usize) -> Result<(), Error> {
        if got == expected {
            return Ok(());
        }
        Err(Error::Length { id: self.id.clone(), what, got, expected })
    }

    /// Name of the chain.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Residue letters.
    pub fn sequence(&self) -> &str {
        &self.sequence
    }

    /// Number of residues.
    #[expect(clippy::len_without_is_empty, reason = "a protein is never empty")]
    pub fn len(&self) -> usize {
        self.sequence.len()
    }

    /// N, CA, C, O of every residue in Å.
    pub fn backbone_ang(&self) -> Option<&[[[f32; 3]; 4]]> {
        self.backbone_ang.as_deref()
    }

    /// Q8 index of every residue ([`label::UNKNOWN`] where not known).
    pub fn q8(&self) -> Option<&[u8]> {
        self.q8.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_agree() {
        let protein = Protein::new("x", "MKT").unwrap();
        assert!(protein.clone().with_q8("HH").is_err());
        assert!(protein.clone().with_backbone(&[0.0; 24]).is_err());
        let protein = protein.with_q8("HC?").unwrap().with_backbone(&[0.5; 36]).unwrap();
        assert_eq!(protein.q8().unwrap(), [0, 7, label::UNKNOWN]);
        assert_eq!(protein.backbone_ang().unwrap().len(), 3);
        assert!(Protein::new("x", "MK1").is_err());
    }
}
