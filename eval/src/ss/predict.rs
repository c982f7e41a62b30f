//! From sequences to probabilities and paths, by one model or by several together.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, IndexOp, Tensor};
use datasets::collate::Padding;
use datasets::residue;
use models::ops::{self, CrfWeights, Lattice};
use models::ss::BiLstmCrfConfig;
use models::{Tape, Var};

use super::model::SsModel;
use crate::batch::in_batches;

/// Residues that are predicted together, padding included; no prediction depends on it.
const BATCH_RESIDUES: usize = 1 << 14;

/// What is thought of one chain, N to C.
#[derive(Debug, Clone, PartialEq)]
pub struct Posterior {
    /// Probability of every Q8 state at every residue: the marginals of the CRF, the mean over the models.
    pub q8: Vec<[f32; 8]>,
    /// Probability of every Q3 class at every residue by the Q3 head, the mean over the models.
    pub q3: Vec<[f32; 3]>,
    /// Index in [`datasets::label::Q8`] per residue: the path that is most probable as a whole, of the first model. It has
    /// few segments: a doubtful helix is left out though each of its residues is more probable in it than not.
    pub path: Vec<u8>,
    /// As `path`: the legal path with the most residues right on average.
    pub legal: Vec<u8>,
}

impl Posterior {
    /// Turns it to run from C to N, or back.
    pub fn reverse(&mut self) {
        self.q8.reverse();
        self.q3.reverse();
        self.path.reverse();
        self.legal.reverse();
    }
}

/// Models of one reading direction and one lattice.
pub struct Predictor {
    models: Vec<SsModel>,
}

impl Predictor {
    /// # Errors
    /// Without a model, or when one reads the other way or has other legal paths.
    pub fn new(models: Vec<SsModel>) -> Result<Self> {
        let first = models.first().context("no model to predict with")?;
        let (lattice, reversed) = (first.head.lattice(), first.head.config().reversed);
        let alike = |m: &SsModel| m.head.lattice() == lattice && m.head.config().reversed == reversed;
        ensure!(
            models.iter().all(alike),
            "models of different reading directions or minimum runs do not predict together"
        );
        Ok(Self { models })
    }

    /// Reads models, as [`SsModel::load_with`].
    ///
    /// # Errors
    /// As [`Predictor::new`]; names the model folder that cannot be read.
    pub fn load(folders: &[PathBuf], vectors: Option<&Path>) -> Result<Self> {
        Self::new(folders.iter().map(|folder| SsModel::load_with(folder, vectors)).collect::<Result<_>>()?)
    }

    /// What each was built from.
    pub fn configs(&self) -> Vec<&BiLstmCrfConfig> {
        self.models.iter().map(|m| m.head.config()).collect()
    }

    /// Predicts sequences of any length, in their order. They are read in the direction that the models were trained in.
    ///
    /// # Errors
    /// On an empty sequence.
    pub fn predict(&self, sequences: &[&str]) -> Result<Vec<Posterior>> {
        predict(&self.models.iter().collect::<Vec<_>>(), sequences)
    }
}

/// As [`Predictor::predict`], of borrowed models.
///
/// # Errors
/// On an empty sequence.
pub fn predict(models: &[&SsModel], sequences: &[&str]) -> Result<Vec<Posterior>> {
    let fits = |n: usize, longest: usize| n * longest <= BATCH_RESIDUES;
    in_batches(sequences, fits, |batch| predict_batch(models, batch))
}

fn predict_batch(models: &[&SsModel], sequences: &[&str]) -> Result<Vec<Posterior>> {
    let reversed = models[0].head.config().reversed;
    let padding = Padding::new(sequences.iter().map(|s| s.len()).collect())?;
    let mut tokens: Vec<Vec<u32>> = sequences.iter().map(|s| residue::encode(s)).collect();
    if reversed {
        tokens.iter_mut().for_each(|row| row.reverse());
    }
    let tokens = padding.pad(tokens.iter().map(Vec::as_slice), 1, residue::PAD)?;
    let lengths = padding.lengths();
    let mut posteriors: Vec<Posterior> = vec![];
    for model in models {
        let output = model.forward(&Tape::off(), &tokens, sequences, None)?;
        let q8 = model.head.marginals(output.q8.value(), lengths)?;
        let paths = model.head.viterbi(output.q8.value(), lengths)?;
        for (row, path) in paths.into_iter().enumerate() {
            let q8 = states(&q8.i((row, ..lengths[row]))?)?;
            let mut q3: Vec<[f32; 3]> = states(&output.q3.value().i((row, ..lengths[row]))?)?;
            for p in &mut q3 {
                let shares = ops::probabilities(p, 1.0);
                p.copy_from_slice(&shares);
            }
            match posteriors.get_mut(row) {
                Some(sum) => {
                    sum.q8.as_flattened_mut().iter_mut().zip(q8.as_flattened()).for_each(|(s, p)| *s += p);
                    sum.q3.as_flattened_mut().iter_mut().zip(q3.as_flattened()).for_each(|(s, p)| *s += p);
                }
                None => posteriors.push(Posterior { q8, q3, path, legal: vec![] }),
            }
        }
    }
    let share = 1.0 / models.len() as f32;
    for p in &mut posteriors {
        p.q8.as_flattened_mut().iter_mut().chain(p.q3.as_flattened_mut()).for_each(|p| *p *= share);
        p.legal = legal_path(&p.q8, models[0].head.lattice())?;
    }
    if reversed {
        posteriors.iter_mut().for_each(Posterior::reverse);
    }
    Ok(posteriors)
}

/// The rows of a matrix `[L, N]`.
fn states<const N: usize>(matrix: &Tensor) -> Result<Vec<[f32; N]>> {
    let numbers: Vec<f32> = matrix.flatten_all()?.to_vec1()?;
    Ok(numbers.as_chunks::<N>().0.to_vec())
}

/// The legal path with the largest sum of probabilities.
fn legal_path(probabilities: &[[f32; 8]], lattice: &Lattice) -> Result<Vec<u8>> {
    let k = lattice.n_states();
    let zeros = |shape: &[usize]| {
        Ok::<_, anyhow::Error>(Var::constant(Tensor::zeros(shape, DType::F32, &Device::Cpu)?))
    };
    let weights = CrfWeights { transitions: zeros(&[k, k])?, start: zeros(&[k])?, end: zeros(&[k])? };
    let numbers = probabilities.as_flattened().to_vec();
    let numbers = Tensor::from_vec(numbers, (1, probabilities.len(), 8), &Device::Cpu)?;
    Ok(ops::crf_viterbi(&numbers, &weights, lattice, &[probabilities.len()])?.remove(0))
}
