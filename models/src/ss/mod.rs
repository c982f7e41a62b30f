//! Secondary structure: residues → Q8 by a conditional random field, Q3 beside it.

pub mod torch;

use std::path::Path;

use candle_core::{Result, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::folder;
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::ops::{self, CrfWeights, Lattice, LstmWeights};
use crate::param::{Param, Params};
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

const EPS: f64 = 1e-5;

/// Everything that shapes a [`BiLstmCrf`]: the `config.json` beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BiLstmCrfConfig {
    /// Residue tokens.
    pub n_tokens: usize,
    /// Width of embedding and convolutions.
    pub embed: usize,
    /// Residual convolution blocks before the LSTM; 0 for none.
    pub conv_layers: usize,
    /// Residues that a convolution sees (odd).
    pub kernel: usize,
    /// Numbers that something else says of every residue, such as a protein language model; 0 for none.
    #[serde(default)]
    pub features: usize,
    /// Width of each LSTM direction.
    pub hidden: usize,
    /// Width of the projection that both heads read.
    pub projection: usize,
    /// Dropout after embedding, convolutions and projection, while training.
    pub dropout: f64,
    /// Whether a GELU follows the projection's norm (the published network has none).
    pub gelu: bool,
    /// Residues that a run of each Q8 state has at least: the states of the CRF's lattice.
    pub min_runs: [usize; 8],
    /// Q8 states that never follow each other, as pairs of indices (from, to): exact zeros in the CRF.
    pub forbidden: Vec<(usize, usize)>,
    /// Whether sequences are read from C to N. The batch does it; the flag travels with the weights.
    pub reversed: bool,
}

/// Number of Q8 and of Q3 states.
const STATES: (usize, usize) = (8, 3);

/// Embedding (and features) → residual convolutions → BiLSTM → projection → CRF over Q8 and a linear Q3 head.
#[derive(Debug)]
pub struct BiLstmCrf {
    config: BiLstmCrfConfig,
    embedding: Embedding,
    features: Option<Linear>,
    convs: Vec<ConvBlock>,
    lstm: BiLstm,
    projection: Linear,
    norm: LayerNorm,
    q8: Linear,
    q3: Linear,
    lattice: Lattice,
    crf: Crf,
    params: Params,
}

/// What the heads say.
#[derive(Debug)]
pub struct SsOutput {
    /// CRF emissions (before any transition) `[B, L, 8]`.
    pub q8: Var,
    /// Q3 logits `[B, L, 3]`.
    pub q3: Var,
}

impl BiLstmCrf {
    /// Weights as PyTorch draws them; CRF scores start at 0, so training starts from independent residues.
    ///
    /// # Errors
    /// On a configuration that no model has, and as [`Weights::finish`].
    pub fn new(config: BiLstmCrfConfig, weights: Weights) -> Result<Self> {
        if config.kernel.is_multiple_of(2)
            || config.hidden == 0
            || config.projection == 0
            || config.embed == 0
        {
            bail!("ss model: kernel must be odd and widths positive, got {config:?}");
        }
        let lattice = Lattice::new(&config.min_runs, &config.forbidden)?;
        let convs = (0..config.conv_layers)
            .map(|i| ConvBlock::new(config.embed, config.kernel, &weights.pp("convs").pp(i)));
        Ok(Self {
            embedding: Embedding::new(
                &weights.pp("embedding"),
                config.n_tokens,
                config.embed,
                Init::Normal(1.0),
            )?,
            features: match config.features {
                0 => None,
                width => Some(Linear::new(&weights.pp("features"), width, config.embed)?),
            },
            convs: convs.collect::<Result<_>>()?,
            lstm: BiLstm::new(config.embed, config.hidden, &weights.pp("lstm"))?,
            projection: Linear::new(&weights.pp("projection"), 2 * config.hidden, config.projection)?,
            norm: LayerNorm::new(&weights.pp("norm"), config.projection, EPS)?,
            q8: Linear::new(&weights.pp("q8"), config.projection, STATES.0)?,
            q3: Linear::new(&weights.pp("q3"), config.projection, STATES.1)?,
            crf: Crf::new(lattice.n_states(), &weights.pp("crf"))?,
            lattice,
            params: weights.finish()?,
            config,
        })
    }

    /// Reads the folder that [`BiLstmCrf::save`] wrote.
    ///
    /// # Errors
    /// Names the file that is missing or does not fit.
    pub fn load(folder: &Path) -> Result<Self> {
        let (config, weights) = folder::load(folder)?;
        Self::new(config, weights)
    }

    /// Writes `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        folder::save(folder, &self.config, &self.params)
    }

    /// All weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What it was built from.
    pub fn config(&self) -> &BiLstmCrfConfig {
        &self.config
    }

    /// Emissions and logits. Dropout is on where there is a generator.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]` u32, `features`: `[B, L, F]` where the model reads any, `lengths`: B numbers ≤ L
    ///
    /// # Errors
    /// On shapes that do not fit.
    pub fn forward(
        &self,
        tape: &Tape,
        tokens: &Tensor,
        features: Option<&Tensor>,
        lengths: &[usize],
        mut rng: Option<&mut ChaCha8Rng>,
    ) -> Result<SsOutput> {
        let p = self.config.dropout;
        let mut x = self.embedding.forward(tape, tokens)?; // [B, L, embed]
        match (&self.features, features) {
            (Some(linear), Some(features)) => {
                let said = linear.forward(tape, &Var::constant(features.clone()))?; // [B, L, embed]
                x = ops::add(tape, &x, &said)?;
            }
            (None, None) => {}
            _ => bail!(
                "ss model: made for {} features a residue, and was given other input",
                self.config.features
            ),
        }
        let mut x = ops::dropout(tape, &x, p, rng.as_deref_mut())?;
        for conv in &self.convs {
            x = conv.forward(tape, &x, lengths, p, rng.as_deref_mut())?;
        }
        let x = self.lstm.forward(tape, &x, lengths)?; // [B, L, 2 hidden]
        let x = self.projection.forward(tape, &x)?; // [B, L, projection]
        let mut x = self.norm.forward(tape, &x)?;
        if self.config.gelu {
            x = ops::gelu(tape, &x)?;
        }
        let x = ops::dropout(tape, &x, p, rng)?;
        Ok(SsOutput { q8: self.q8.forward(tape, &x)?, q3: self.q3.forward(tape, &x)? })
    }

    /// The paths of its CRF.
    pub fn lattice(&self) -> &Lattice {
        &self.lattice
    }

    /// CRF loss of an output: mean negative log-likelihood per residue of which anything is known.
    ///
    /// # Shapes
    /// `sets`: `[B, L]` u32, a bit for each Q8 state that a residue may have → scalar
    ///
    /// # Errors
    /// As [`ops::crf_loss`].
    pub fn crf_loss(&self, tape: &Tape, q8: &Var, sets: &Tensor, lengths: &[usize]) -> Result<Var> {
        ops::crf_loss(tape, q8, &self.crf.weights(tape), &self.lattice, sets, lengths)
    }

    /// The best legal Q8 path of every chain.
    ///
    /// # Errors
    /// As [`ops::crf_viterbi`].
    pub fn viterbi(&self, q8: &Tensor, lengths: &[usize]) -> Result<Vec<Vec<u8>>> {
        ops::crf_viterbi(q8, &self.crf.weights(&Tape::off()), &self.lattice, lengths)
    }

    /// A Q8 path of every chain, drawn as probable as it is.
    ///
    /// # Errors
    /// As [`ops::crf_sample`].
    pub fn sample(
        &self,
        q8: &Tensor,
        lengths: &[usize],
        rng: impl Fn(usize) -> ChaCha8Rng + Sync,
    ) -> Result<Vec<Vec<u8>>> {
        ops::crf_sample(q8, &self.crf.weights(&Tape::off()), &self.lattice, lengths, rng)
    }

    /// Probability of every Q8 state at every residue, `[B, L, 8]`.
    ///
    /// # Errors
    /// As [`ops::crf_marginals`].
    pub fn marginals(&self, q8: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        ops::crf_marginals(q8, &self.crf.weights(&Tape::off()), &self.lattice, lengths)
    }
}

/// `x + gelu(conv(norm(x)))`, zeros added at padding.
#[derive(Debug)]
pub(crate) struct ConvBlock {
    norm: LayerNorm,
    weight: Param,
    bias: Param,
}

impl ConvBlock {
    pub(crate) fn new(width: usize, kernel: usize, weights: &Weights) -> Result<Self> {
        let init = Init::Uniform(1.0 / ((width * kernel) as f32).sqrt());
        let conv = weights.pp("conv");
        Ok(Self {
            norm: LayerNorm::new(&weights.pp("norm"), width, EPS)?,
            weight: conv.get((width, width, kernel), "weight", init)?,
            bias: conv.get(width, "bias", init)?,
        })
    }

    pub(crate) fn forward(
        &self,
        tape: &Tape,
        x: &Var,
        lengths: &[usize],
        p: f64,
        rng: Option<&mut ChaCha8Rng>,
    ) -> Result<Var> {
        let y = self.norm.forward(tape, x)?;
        let y = ops::conv(tape, &y, &tape.param(&self.weight), &tape.param(&self.bias), lengths)?;
        let y = ops::dropout(tape, &ops::gelu(tape, &y)?, p, rng)?;
        ops::add(tape, x, &y)
    }
}

/// A bidirectional LSTM layer under PyTorch's weight names.
#[derive(Debug)]
pub(crate) struct BiLstm([[Param; 4]; 2]);

impl BiLstm {
    pub(crate) fn new(inputs: usize, hidden: usize, weights: &Weights) -> Result<Self> {
        let init = Init::Uniform(1.0 / (hidden as f32).sqrt());
        let direction = |suffix: &str| -> Result<[Param; 4]> {
            Ok([
                weights.get((4 * hidden, inputs), &format!("weight_ih_l0{suffix}"), init)?,
                weights.get((4 * hidden, hidden), &format!("weight_hh_l0{suffix}"), init)?,
                weights.get(4 * hidden, &format!("bias_ih_l0{suffix}"), init)?,
                weights.get(4 * hidden, &format!("bias_hh_l0{suffix}"), init)?,
            ])
        };
        Ok(Self([direction("")?, direction("_reverse")?]))
    }

    /// # Shapes
    /// x `[B, L, I]` → `[B, L, 2H]`
    pub(crate) fn forward(&self, tape: &Tape, x: &Var, lengths: &[usize]) -> Result<Var> {
        let [forward, reverse] = self.0.each_ref().map(|[ih, hh, bias_ih, bias_hh]| LstmWeights {
            weight_ih: tape.param(ih),
            weight_hh: tape.param(hh),
            bias_ih: tape.param(bias_ih),
            bias_hh: tape.param(bias_hh),
        });
        ops::bilstm(tape, x, &forward, &reverse, lengths)
    }
}

/// Weights of a conditional random field over K states, all 0 at the start; names as in the pytorch-crf package.
#[derive(Debug)]
struct Crf {
    transitions: Param,
    start: Param,
    end: Param,
}

impl Crf {
    fn new(k: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            transitions: weights.get((k, k), "transitions", Init::Const(0.0))?,
            start: weights.get(k, "start_transitions", Init::Const(0.0))?,
            end: weights.get(k, "end_transitions", Init::Const(0.0))?,
        })
    }

    fn weights(&self, tape: &Tape) -> CrfWeights {
        CrfWeights {
            transitions: tape.param(&self.transitions),
            start: tape.param(&self.start),
            end: tape.param(&self.end),
        }
    }
}

#[cfg(test)]
mod tests;
