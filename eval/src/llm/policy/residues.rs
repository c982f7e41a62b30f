//! A policy's proteins: what the frozen encoder says of them, once, in memory and on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use datasets::collate::Padding;
use datasets::llm::{LlmBatch, Row, Slot};
use models::llm::{Residues, Rows};

use super::Policy;
use super::words::protein_tokens;
use crate::embeddings::{self, Cache};

/// Residue vectors of proteins that are kept between batches, bytes.
const KEPT_BYTES: usize = 1 << 29;

/// Residue vectors by protein, and how many numbers they are.
#[derive(Default)]
pub(super) struct Encoded {
    proteins: BTreeMap<Arc<str>, Vec<f32>>,
    n_numbers: usize,
}

impl Policy {
    /// Padded tokens and the encoded proteins. A protein that stands in several rows is encoded once.
    ///
    /// A sampled answer may end with a protein token (see [`Policy::generate`]). Nothing is predicted from a row's last
    /// token, so another stands in for it: no vector belongs there.
    pub(super) fn batch(&self, rows: &[Row]) -> Result<(Rows, Option<Residues>)> {
        let special = self.tokenizer.special();
        let mut rows = rows.to_vec();
        for row in &mut rows {
            if let Some(last) = row.ids.last_mut().filter(|last| protein_tokens(special).contains(last)) {
                *last = special.end_of_text;
            }
        }
        let batch = LlmBatch::collate(&rows, &self.tokenizer, self.n_embed())?;
        let residues = match batch.proteins.is_empty() {
            true => None,
            false => Some(self.residues(&batch)?),
        };
        Ok((Rows::new(batch.tokens, batch.lengths), residues))
    }

    /// The residue vectors of every slot. The encoder is frozen and its bits do not depend on the batch, so what it said
    /// of a protein is kept, up to [`KEPT_BYTES`].
    fn residues(&self, batch: &LlmBatch) -> Result<Residues> {
        let mut known = self.encoded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new: Vec<&Arc<str>> =
            batch.proteins.iter().filter(|p| !known.proteins.contains_key(*p)).collect();
        for (protein, vectors) in self.encode_proteins(&new)? {
            known.n_numbers += vectors.len();
            known.proteins.insert(protein, vectors);
        }
        let of = |slot: &Slot| &known.proteins[&batch.proteins[slot.protein]];
        let lengths: Vec<usize> = batch.slots.iter().map(|slot| batch.proteins[slot.protein].len()).collect();
        let width = self.model.protein.as_ref().map_or(0, |path| path.encoder.hidden_size());
        let padding = Padding::new(lengths.clone())?;
        let residues = Residues {
            vectors: padding.pad(batch.slots.iter().map(|slot| &of(slot)[..]), width, 0.0)?,
            lengths,
            sites: batch.slots.iter().map(|slot| slot.site).collect(),
            rows: batch.slots.iter().map(|slot| slot.row).collect(),
        };
        if known.n_numbers * size_of::<f32>() > KEPT_BYTES {
            *known = Encoded::default();
        }
        Ok(residues)
    }

    /// Residue vectors of proteins, from disk as far as they are there.
    fn encode_proteins(&self, proteins: &[&Arc<str>]) -> Result<Vec<(Arc<str>, Vec<f32>)>> {
        let Some(path) = &self.model.protein else {
            ensure!(proteins.is_empty(), "proteins for a model without an encoder");
            return Ok(vec![]);
        };
        let mut cache =
            self.cache.as_ref().map(|c| c.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let (mut out, mut new) = (vec![], vec![]);
        for &protein in proteins {
            match cache.as_ref().map(|cache| cache.get(protein)).transpose()?.flatten() {
                Some(vectors) => out.push((protein.clone(), vectors)),
                None => new.push(protein),
            }
        }
        if !new.is_empty() {
            let letters: Vec<&str> = new.iter().map(|protein| &***protein).collect();
            for (protein, vectors) in new.into_iter().zip(embeddings::encode(&path.encoder, &letters)?) {
                let kept = match &mut cache {
                    Some(cache) => cache.put(protein, &vectors)?,
                    None => vectors,
                };
                out.push((protein.clone(), kept));
            }
        }
        Ok(out)
    }

    /// From now on keeps what the encoder says on disk, and looks there first. A model without an encoder has no use for it.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn keep_embeddings(&mut self, from: &Path, config: &embeddings::Config) -> Result<()> {
        if let Some(path) = &self.model.protein {
            let cache = Cache::open(&from.join(&config.folder), &path.encoder, config.numbers)?;
            tracing::info!("embeddings of {} proteins are known", cache.len());
            self.cache = Some(Arc::new(Mutex::new(cache)));
        }
        Ok(())
    }
}
