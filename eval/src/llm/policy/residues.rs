//! A policy's proteins, as its frozen encoder reads them.

use std::path::Path;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use datasets::collate::Padding;
use datasets::llm::{LlmBatch, Row};
use models::llm::{Residues, Rows};

use super::Policy;
use super::words::protein_tokens;
use crate::embeddings;

impl Policy {
    /// Padded tokens and the encoded proteins. A protein that stands in several rows is encoded once.
    pub(super) fn batch(&self, rows: &[Row]) -> Result<(Rows, Option<Residues>)> {
        let mut rows = rows.to_vec();
        rows.iter_mut().for_each(|row| self.cover_end(&mut row.ids));
        let batch = LlmBatch::collate(&rows, &self.tokenizer, self.n_embed())?;
        let residues = match batch.proteins.is_empty() {
            true => None,
            false => Some(self.residues(&batch)?),
        };
        Ok((Rows::new(batch.tokens, batch.lengths), residues))
    }

    /// A sampled answer may end with a protein token (see [`Policy::generate`]). Nothing is predicted from the last token, so
    /// another stands in for it when the model is shown the answer: no vector belongs there.
    pub(super) fn cover_end(&self, ids: &mut [u32]) {
        let special = self.tokenizer.special();
        if let Some(last) = ids.last_mut().filter(|last| protein_tokens(special).contains(last)) {
            *last = special.end_of_text;
        }
    }

    /// The residue vectors of every slot.
    fn residues(&self, batch: &LlmBatch) -> Result<Residues> {
        let path = self.model.protein.as_ref().context("proteins for a model without an encoder")?;
        let proteins: Vec<&str> = batch.proteins.iter().map(|protein| &**protein).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let vectors = known.vectors(&proteins, |missing| embeddings::encode(&path.encoder, missing))?;
        let slots = &batch.slots;
        let lengths: Vec<usize> = slots.iter().map(|slot| batch.proteins[slot.protein].len()).collect();
        let padding = Padding::new(lengths.clone())?;
        let of_slots = slots.iter().map(|slot| &vectors[slot.protein][..]);
        Ok(Residues {
            vectors: padding.pad(of_slots, path.encoder.hidden_size(), 0.0)?,
            lengths,
            sites: slots.iter().map(|slot| slot.site).collect(),
            rows: slots.iter().map(|slot| slot.row).collect(),
        })
    }

    /// From now on keeps what the encoder says on disk, and looks there first. A model without an encoder has no use for it.
    ///
    /// # Errors
    /// As [`embeddings::Known::keep`].
    pub fn keep_embeddings(&mut self, from: &Path, config: &embeddings::Config) -> Result<()> {
        match &self.model.protein {
            Some(path) => {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).keep(from, config, &path.encoder)
            }
            None => Ok(()),
        }
    }
}
