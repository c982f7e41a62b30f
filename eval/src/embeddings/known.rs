//! The vectors of proteins that were asked for lately, in memory and, where a folder is given, on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use models::llm::Encoder;

use super::{Cache, Config};

/// Memory for vectors, bytes.
const MEMORY: usize = 1 << 30;

/// Vectors by protein. Memory is in two halves: what was asked for lately, and what was before; when the first is full, it
/// takes the place of the second, which is forgotten.
#[derive(Default)]
pub struct Known {
    lately: BTreeMap<Arc<str>, Arc<[f32]>>,
    before: BTreeMap<Arc<str>, Arc<[f32]>>,
    /// numbers in `lately`
    n_lately: usize,
    disk: Option<Cache>,
}

impl Known {
    /// From now on keeps what the encoder says on disk, too, and looks there first. A relative folder begins at `from`.
    ///
    /// # Errors
    /// As [`Cache::open`].
    pub fn keep(&mut self, from: &Path, config: &Config, encoder: &Encoder) -> Result<()> {
        let cache = Cache::open(&from.join(&config.folder), encoder, config.numbers)?;
        tracing::info!("embeddings of {} proteins are known", cache.len());
        self.disk = Some(cache);
        Ok(())
    }

    /// The vectors of each of some proteins, `[L, E]` flat. A protein's do not depend on the others, so only those that are
    /// not known are asked for; `say` gives theirs, in order.
    ///
    /// # Errors
    /// What `say` or the disk says.
    pub fn vectors(
        &mut self,
        proteins: &[&str],
        say: impl FnOnce(&[&str]) -> Result<Vec<Vec<f32>>>,
    ) -> Result<Vec<Arc<[f32]>>> {
        let mut missing: BTreeSet<&str> = BTreeSet::new();
        for &protein in proteins {
            if let Some((protein, vectors)) = self.before.remove_entry(protein) {
                self.remember(protein, vectors);
            }
            if self.lately.contains_key(protein) {
                continue;
            }
            match self.disk.as_ref().map(|disk| disk.get(protein)).transpose()?.flatten() {
                Some(vectors) => self.remember(protein.into(), vectors.into()),
                None => drop(missing.insert(protein)),
            }
        }
        let missing: Vec<&str> = missing.into_iter().collect();
        for (protein, vectors) in missing.iter().zip(say(&missing)?) {
            let vectors = match &mut self.disk {
                Some(disk) => disk.put(protein, &vectors)?,
                None => vectors,
            };
            self.remember((*protein).into(), vectors.into());
        }
        let of = |protein: &&str| self.lately[*protein].clone();
        let vectors = proteins.iter().map(of).collect();
        if self.n_lately * size_of::<f32>() > MEMORY / 2 {
            self.before = std::mem::take(&mut self.lately);
            self.n_lately = 0;
        }
        Ok(vectors)
    }

    fn remember(&mut self, protein: Arc<str>, vectors: Arc<[f32]>) {
        self.n_lately += vectors.len();
        self.lately.insert(protein, vectors);
    }
}
