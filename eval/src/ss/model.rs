//! A model of secondary structure with what it reads beside the residues: a frozen protein encoder, or a file of vectors.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use datasets::collate::Padding;
use models::llm::Encoder;
use models::ss::{BiLstmCrf, SsOutput};
use models::{Params, Tape};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::embeddings::{self, Known, VectorFile, open_encoder};
use crate::hub::{self, Place};

/// Beside the weights: where the encoder or the vectors are.
const PARTS: &str = "encoder.json";

/// A BiLSTM-CRF with what it reads beside the residues.
pub struct SsModel {
    /// The part that is trained.
    pub head: BiLstmCrf,
    beside: Option<Beside>,
}

/// Vectors of the residues that are not learnt here.
pub enum Beside {
    /// What an encoder says.
    Encoder(Box<FrozenEncoder>),
    /// What a file holds.
    Vectors(Box<VectorFile>),
}

/// An encoder whose weights stay as they are.
pub struct FrozenEncoder {
    encoder: Encoder,
    place: Place,
    /// What it said, while training: what is predicted is seldom met again.
    known: Option<Mutex<Known>>,
}

/// What is read, by the way there from the model's folder; of an encoder as [`hub::locate`] understands it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Parts {
    Encoder(PathBuf),
    Vectors(PathBuf),
}

impl SsModel {
    /// # Errors
    /// When the head was made for vectors of another width.
    pub fn new(head: BiLstmCrf, beside: Option<Beside>) -> Result<Self> {
        let (wants, has) = (head.config().features, beside.as_ref().map_or(0, Beside::width));
        ensure!(
            wants == has,
            "a model that reads {wants} numbers a residue beside the letters cannot read {has}"
        );
        Ok(Self { head, beside })
    }

    /// Reads a model folder, and the encoder or the vectors that it names.
    ///
    /// # Errors
    /// Names the file that is missing or does not fit.
    pub fn load(folder: &Path) -> Result<Self> {
        Self::load_with(folder, None)
    }

    /// As [`SsModel::load`], with another file of vectors in the place of the one that the model was trained with.
    ///
    /// # Errors
    /// Also when the model reads no vectors.
    pub fn load_with(folder: &Path, vectors: Option<&Path>) -> Result<Self> {
        let head =
            BiLstmCrf::load(folder).with_context(|| format!("loading the model {}", folder.display()))?;
        let beside = match head.config().features {
            0 => None,
            _ => {
                let text = fs_err::read_to_string(folder.join(PARTS))?;
                let parts = serde_json::from_str(&text)
                    .with_context(|| format!("{} names no encoder", folder.join(PARTS).display()))?;
                Some(match parts {
                    Parts::Encoder(encoder) => Beside::Encoder(FrozenEncoder::load(folder, &encoder)?.into()),
                    Parts::Vectors(trained) => {
                        let trained = folder.join(trained);
                        Beside::Vectors(VectorFile::open(vectors.unwrap_or(&trained))?.into())
                    }
                })
            }
        };
        ensure!(
            vectors.is_none() || matches!(beside, Some(Beside::Vectors(_))),
            "the model {} reads no vectors\nhint: leave --vectors out",
            folder.display()
        );
        Self::new(head, beside)
    }

    /// Writes the weights and where the encoder or the vectors are. `folder` may be a temporary one beside the final place.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.head.save(folder)?;
        let parts = match &self.beside {
            None => return Ok(()),
            Some(Beside::Encoder(encoder)) => Parts::Encoder(encoder.place.name_from(folder)?),
            Some(Beside::Vectors(file)) => Parts::Vectors(hub::relative(folder, file.path())?),
        };
        Ok(fs_err::write(folder.join(PARTS), serde_json::to_string_pretty(&parts)? + "\n")?)
    }

    /// The weights that are trained.
    pub fn params(&self) -> &Params {
        self.head.params()
    }

    /// Emissions and logits of a batch. `sequences` are the residues behind the tokens, N to C whatever the model's
    /// direction.
    ///
    /// # Shapes
    /// tokens `[B, L]` u32, B sequences
    ///
    /// # Errors
    /// On shapes that do not fit.
    pub fn forward(
        &self,
        tape: &Tape,
        tokens: &Tensor,
        sequences: &[&str],
        rng: Option<&mut ChaCha8Rng>,
    ) -> Result<SsOutput> {
        let padding = Padding::new(sequences.iter().map(|s| s.len()).collect())?;
        let features = match &self.beside {
            Some(beside) => Some(beside.features(sequences, &padding, self.head.config().reversed)?),
            None => None,
        };
        Ok(self.head.forward(tape, tokens, features.as_ref(), padding.lengths(), rng)?)
    }
}

impl Beside {
    /// Numbers a residue.
    pub fn width(&self) -> usize {
        match self {
            Self::Encoder(encoder) => encoder.width(),
            Self::Vectors(file) => file.width(),
        }
    }

    /// Vectors of all residues, in the direction of the batch.
    ///
    /// # Shapes
    /// B sequences → `[B, L, E]`, zeros at padding
    fn features(&self, sequences: &[&str], padding: &Padding, reversed: bool) -> Result<Tensor> {
        let width = self.width();
        let mut rows = match self {
            Self::Encoder(encoder) => encoder.vectors(sequences)?,
            Self::Vectors(file) => file.vectors(sequences)?.iter().map(|vectors| vectors.to_vec()).collect(),
        };
        if reversed {
            rows.iter_mut().for_each(|row| *row = row.chunks(width).rev().flatten().copied().collect());
        }
        let all = padding.pad(rows.iter().map(Vec::as_slice), width, 0.0)?;
        Ok(all.reshape((sequences.len(), (), width))?)
    }
}

impl FrozenEncoder {
    /// The encoder, of any kind that [`Encoder::load`] knows, that `named` means for settings in the folder `from`.
    ///
    /// # Errors
    /// As [`hub::locate`] and [`open_encoder`].
    pub fn load(from: &Path, named: &Path) -> Result<Self> {
        let place = hub::locate(from, named)?;
        Ok(Self { encoder: open_encoder(&place.path)?, place, known: None })
    }

    /// From now on remembers what the encoder says, on disk too where a folder is given; relative to the folder `from`.
    ///
    /// # Errors
    /// As [`Known::keep`].
    pub fn remember(&mut self, from: &Path, disk: Option<&embeddings::Config>) -> Result<()> {
        let mut known = Known::default();
        if let Some(config) = disk {
            known.keep(from, config, &self.encoder)?;
        }
        self.known = Some(Mutex::new(known));
        Ok(())
    }

    /// Numbers a residue.
    pub fn width(&self) -> usize {
        self.encoder.hidden_size()
    }

    /// Vectors of all residues of some proteins, `[L, E]` flat each. A chain beyond the encoder's limit is read in windows
    /// that overlap by half; a residue takes its vector from the window whose middle is nearest.
    fn vectors(&self, sequences: &[&str]) -> Result<Vec<Vec<f32>>> {
        let most = self.encoder.max_residues().max(1);
        let windows: Vec<Vec<(usize, usize)>> = sequences.iter().map(|s| windows(s.len(), most)).collect();
        let pieces =
            sequences.iter().zip(&windows).flat_map(|(s, of)| of.iter().map(|&(from, to)| &s[from..to]));
        let pieces: Vec<&str> = pieces.collect();
        let encode = |pieces: &[&str]| embeddings::encode(&self.encoder, pieces);
        let said = match &self.known {
            Some(known) => known.lock().unwrap_or_else(PoisonError::into_inner).vectors(&pieces, encode)?,
            None => encode(&pieces)?.into_iter().map(Arc::from).collect(),
        };
        let mut said = said.into_iter();
        let width = self.width();
        let mut rows = Vec::with_capacity(sequences.len());
        for (sequence, windows) in sequences.iter().zip(&windows) {
            let mut row = Vec::with_capacity(sequence.len() * width);
            for ((&(from, _), own), vectors) in
                windows.iter().zip(owned(sequence.len(), windows)).zip(&mut said)
            {
                row.extend_from_slice(&vectors[(own.start - from) * width..(own.end - from) * width]);
            }
            rows.push(row);
        }
        Ok(rows)
    }
}

/// Pieces of at most `most` residues that cover `n`, each beginning in the middle of the one before.
fn windows(n: usize, most: usize) -> Vec<(usize, usize)> {
    if n <= most {
        return vec![(0, n)];
    }
    let last = n - most;
    let starts = (0..last).step_by((most / 2).max(1)).chain([last]);
    starts.map(|from| (from, from + most)).collect()
}

/// The residues that are taken from each window: up to the middle of what it shares with the next.
fn owned(n: usize, windows: &[(usize, usize)]) -> Vec<std::ops::Range<usize>> {
    let ends = windows.windows(2).map(|pair| (pair[1].0 + pair[0].1) / 2).chain([n]);
    let mut start = 0;
    ends.map(|end| std::mem::replace(&mut start, end)..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::Weights;
    use models::llm::encoder;
    use models::ss::BiLstmCrfConfig;

    /// An ESM-2 for `most` tokens, drawn at random.
    fn saved_encoder(folder: &Path, most: usize) {
        let config = encoder::Config {
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            intermediate_size: 20,
            max_position_embeddings: most,
            layer_norm_eps: 1e-5,
            token_dropout: false,
        };
        encoder::Esm2::new(config, Weights::random(|name| datasets::rng(5, name, 0)))
            .unwrap()
            .save(folder)
            .unwrap();
    }

    fn head(features: usize, reversed: bool) -> BiLstmCrf {
        let config = BiLstmCrfConfig { features, ..crate::ss::tests::config(reversed) };
        BiLstmCrf::new(config, Weights::random(|name| datasets::rng(3, name, 0))).unwrap()
    }

    #[test]
    fn windows_cover_a_chain_and_each_residue_is_taken_once() {
        for (n, most) in [(5, 7), (7, 7), (8, 7), (50, 7), (51, 8), (3, 1)] {
            let windows = windows(n, most);
            let owned = owned(n, &windows);
            assert!(owned.iter().flat_map(Clone::clone).eq(0..n), "{n} {most}");
            for (window, own) in windows.iter().zip(&owned) {
                assert!(window.1 - window.0 <= most && window.0 <= own.start && own.end <= window.1);
            }
        }
    }

    #[test]
    fn the_encoder_is_heard_in_both_directions_and_a_batch_gives_what_its_chains_give() {
        let place = tempfile::tempdir().unwrap();
        saved_encoder(&place.path().join("esm"), 40);
        for reversed in [false, true] {
            let encoder = FrozenEncoder::load(place.path(), Path::new("esm")).unwrap();
            let model = SsModel::new(head(12, reversed), Some(Beside::Encoder(encoder.into()))).unwrap();
            model.save(&place.path().join("model")).unwrap();
            let model = SsModel::load(&place.path().join("model")).unwrap();
            let texts = ["MKTAYIAKQRQISFVKSHFSR", "GGDWECLNPH", "W"];
            let together = crate::ss::predict(&[&model], &texts).unwrap();
            for (text, said) in texts.iter().zip(&together) {
                assert_eq!(crate::ss::predict(&[&model], &[text]).unwrap()[0], *said);
            }
            // A far residue reaches the other end only through the encoder's attention.
            let other = crate::ss::predict(&[&model], &["WKTAYIAKQRQISFVKSHFSR"]).unwrap();
            assert_ne!(other[0].q8.last(), together[0].q8.last());
        }
    }

    #[test]
    fn a_long_chain_is_read_in_windows() {
        let place = tempfile::tempdir().unwrap();
        saved_encoder(place.path(), 12);
        let encoder = FrozenEncoder::load(place.path(), Path::new("")).unwrap();
        let long = "MKTAYIAKQRQISFVKSHFSRGGDWECLNPH";
        let of = |text: &str| encoder.vectors(&[text]).unwrap().remove(0);
        let (whole, window) = (of(long), of(&long[5..15]));
        assert_eq!(whole.len(), long.len() * 12);
        // The second window begins at 5 and owns the residues from the middle of what it shares with the first.
        assert_eq!(whole[7 * 12..12 * 12], window[2 * 12..7 * 12]);
    }

    #[test]
    fn a_file_of_vectors_is_read_in_both_directions_and_another_may_take_its_place() {
        let place = tempfile::tempdir().unwrap();
        let (trained, other) = (place.path().join("a.safetensors"), place.path().join("b.safetensors"));
        let save = |path: &Path, proteins: &[&str], scale: f64| {
            let vectors = |p: &str| {
                (Tensor::rand(0f32, 1.0, (p.len(), 20), &candle_core::Device::Cpu).unwrap() * scale).unwrap()
            };
            let all = proteins.iter().map(|p| (VectorFile::name(p), vectors(p)));
            let all: std::collections::HashMap<String, Tensor> = all.collect();
            candle_core::safetensors::save(&all, path).unwrap();
        };
        save(&trained, &["MKTAYIAKQ", "GG"], 1.0);
        save(&other, &["MKTAYIAKQ", "WW"], 3.0);
        for reversed in [false, true] {
            let folder = place.path().join(format!("model-{reversed}"));
            fs_err::create_dir(&folder).unwrap();
            let file = VectorFile::open(&trained).unwrap();
            SsModel::new(head(20, reversed), Some(Beside::Vectors(file.into())))
                .unwrap()
                .save(&folder)
                .unwrap();
            let load = |vectors| SsModel::load_with(&folder, vectors).unwrap();
            let (own, with) = (load(None), load(Some(&other)));
            let say = |model: &SsModel, texts: &[&str]| crate::ss::predict(&[model], texts);
            let together = say(&own, &["MKTAYIAKQ", "GG"]).unwrap();
            assert_eq!(say(&own, &["GG"]).unwrap()[0], together[1]);
            assert_ne!(say(&with, &["MKTAYIAKQ"]).unwrap()[0], together[0]);
            assert!(say(&with, &["WW"]).is_ok());
            let error = format!("{:#}", say(&own, &["WW"]).unwrap_err());
            assert!(error.contains("a.safetensors: none of the protein WW"), "{error}");
        }
        let plain = place.path().join("plain");
        fs_err::create_dir(&plain).unwrap();
        head(0, false).save(&plain).unwrap();
        let error = format!("{:#}", SsModel::load_with(&plain, Some(&other)).err().unwrap());
        assert!(error.contains("reads no vectors"), "{error}");
    }

    #[test]
    fn a_head_without_its_encoder_is_refused() {
        assert!(SsModel::new(head(12, false), None).is_err());
        let place = tempfile::tempdir().unwrap();
        head(12, false).save(place.path()).unwrap();
        let error = SsModel::load(place.path()).err().map(|e| format!("{e:#}")).unwrap();
        assert!(error.contains("encoder.json"), "{error}");
    }
}
