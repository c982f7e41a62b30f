//! The contact classifier: a residue tower, a pair tower, and two heads.

use std::path::Path;

use candle_core::{Result, Tensor, bail};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::folder;
use crate::layers::{Embedding, LayerNorm, Linear};
use crate::ops::{self, Triangle};
use crate::param::{Param, Params};
use crate::ss::{BiLstm, ConvBlock};
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

const EPS: f64 = 1e-5;
/// Logit of a contact before training: about one pair in fifty. From 0, many steps would go into learning that.
const RARE: f32 = -4.0;

/// Everything that shapes a [`ContactClassifier`]: the `config.json` beside its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContactConfig {
    /// Residue tokens.
    pub n_tokens: usize,
    /// Classes of the chain head.
    pub n_classes: usize,
    /// Width of the residue tower (even): embedding, convolutions and both LSTM directions together.
    pub single: usize,
    /// Residual convolution blocks before the LSTM.
    pub conv_layers: usize,
    /// Residues that a convolution sees (odd).
    pub kernel: usize,
    /// Width of the pair tower.
    pub pair: usize,
    /// Width of the two factors of the outer product.
    pub outer: usize,
    /// Channels of the triangle update.
    pub triangle: usize,
    /// Pair blocks.
    pub blocks: usize,
    /// Relative positions beyond ±this share one vector.
    pub relpos: usize,
    /// Dropout in the residue tower and after the pair embedding, while training.
    pub dropout: f64,
}

/// Residue tower (embedding → convolutions → BiLSTM) and pair tower (outer sum with relative positions → blocks of outer
/// product, triangle updates and a transition). The contact head reads the pairs, the class head the residues.
#[derive(Debug)]
pub struct ContactClassifier {
    config: ContactConfig,
    embedding: Embedding,
    convs: Vec<ConvBlock>,
    lstm: BiLstm,
    norm: LayerNorm,
    left: Linear,
    right: Linear,
    relpos: Param,
    blocks: Vec<PairBlock>,
    pair_norm: LayerNorm,
    contact: Linear,
    class: Linear,
    params: Params,
}

/// What the heads say.
#[derive(Debug)]
pub struct ContactOutput {
    /// Logit of a contact, symmetric `[B, L, L]`.
    pub contacts: Var,
    /// Logit of every CATH class `[B, n_classes]`.
    pub classes: Var,
}

impl ContactClassifier {
    /// Weights as PyTorch draws them.
    ///
    /// # Errors
    /// On a configuration that no model has, and as [`Weights::finish`].
    pub fn new(config: ContactConfig, weights: Weights) -> Result<Self> {
        let sizes = [config.single, config.pair, config.outer, config.triangle, config.n_classes];
        if sizes.contains(&0) || !config.single.is_multiple_of(2) || config.kernel.is_multiple_of(2) {
            bail!("contact model: widths must be positive, `single` even, `kernel` odd, got {config:?}");
        }
        let (single, pair) = (config.single, config.pair);
        let narrow = Init::Uniform(1.0 / (pair as f32).sqrt());
        let convs = (0..config.conv_layers)
            .map(|i| ConvBlock::new(single, config.kernel, &weights.pp("convs").pp(i)));
        let blocks = (0..config.blocks).map(|i| PairBlock::new(&config, &weights.pp("blocks").pp(i)));
        Ok(Self {
            embedding: Embedding::new(&weights.pp("embedding"), config.n_tokens, single, Init::Normal(1.0))?,
            convs: convs.collect::<Result<_>>()?,
            lstm: BiLstm::new(single, single / 2, &weights.pp("lstm"))?,
            norm: LayerNorm::new(&weights.pp("norm"), single, EPS)?,
            left: Linear::new(&weights.pp("left"), single, pair)?,
            right: Linear::new(&weights.pp("right"), single, pair)?,
            relpos: weights.get((2 * config.relpos + 1, pair), "relpos", Init::Normal(0.5))?,
            blocks: blocks.collect::<Result<_>>()?,
            pair_norm: LayerNorm::new(&weights.pp("pair_norm"), pair, EPS)?,
            contact: Linear::with_init(&weights.pp("contact"), pair, 1, narrow, Some(Init::Const(RARE)))?,
            class: Linear::new(&weights.pp("class"), single, config.n_classes)?,
            params: weights.finish()?,
            config,
        })
    }

    /// Reads the folder that [`ContactClassifier::save`] wrote.
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
    pub fn config(&self) -> &ContactConfig {
        &self.config
    }

    /// Logits of both heads. Dropout is on where there is a generator.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]` u32, `lengths`: B numbers ≤ L
    ///
    /// # Errors
    /// On shapes that do not fit.
    pub fn forward(
        &self,
        tape: &Tape,
        tokens: &Tensor,
        lengths: &[usize],
        mut rng: Option<&mut ChaCha8Rng>,
    ) -> Result<ContactOutput> {
        let (b, l) = tokens.dims2()?;
        let p = self.config.dropout;
        let mut s = self.embedding.forward(tape, tokens)?; // [B, L, single]
        for conv in &self.convs {
            s = conv.forward(tape, &s, lengths, p, rng.as_deref_mut())?;
        }
        let context = self.lstm.forward(tape, &s, lengths)?;
        let s = self.norm.forward(tape, &ops::add(tape, &s, &context)?)?;
        let s = ops::dropout(tape, &s, p, rng.as_deref_mut())?;

        let (left, right) = (self.left.forward(tape, &s)?, self.right.forward(tape, &s)?);
        let z = ops::pair_sum(tape, &left, &right, &tape.param(&self.relpos))?; // [B, L, L, pair]
        let mut z = ops::dropout(tape, &z, p, rng)?;
        for block in &self.blocks {
            z = block.forward(tape, &s, &z, lengths)?;
        }
        let z = self.pair_norm.forward(tape, &z)?;
        let contacts = ops::reshape(tape, &self.contact.forward(tape, &z)?, (b, l, l))?;
        let pooled = ops::chain_mean(tape, &s, lengths)?; // [B, single]
        Ok(ContactOutput {
            contacts: ops::symmetric(tape, &contacts)?,
            classes: self.class.forward(tape, &pooled)?,
        })
    }
}

/// `z += outer(s)`, `z += triangle(z)` outgoing and incoming, `z += transition(z)`.
#[derive(Debug)]
struct PairBlock {
    /// Linear map of `u_i ⊗ v_j` into the pair tower, as a map of u (see [`ops::outer_product`]).
    outer_u: Linear,
    outer_v: Linear,
    outgoing: TriangleBlock,
    incoming: TriangleBlock,
    norm: LayerNorm,
    expand: Linear,
    contract: Linear,
}

impl PairBlock {
    fn new(config: &ContactConfig, weights: &Weights) -> Result<Self> {
        let (single, pair, outer) = (config.single, config.pair, config.outer);
        Ok(Self {
            outer_u: Linear::new(&weights.pp("outer_u"), single, pair * outer)?,
            outer_v: Linear::new(&weights.pp("outer_v"), single, outer)?,
            outgoing: TriangleBlock::new(Triangle::Outgoing, pair, config.triangle, &weights.pp("outgoing"))?,
            incoming: TriangleBlock::new(Triangle::Incoming, pair, config.triangle, &weights.pp("incoming"))?,
            norm: LayerNorm::new(&weights.pp("norm"), pair, EPS)?,
            expand: Linear::new(&weights.pp("expand"), pair, 2 * pair)?,
            contract: Linear::new(&weights.pp("contract"), 2 * pair, pair)?,
        })
    }

    fn forward(&self, tape: &Tape, s: &Var, z: &Var, lengths: &[usize]) -> Result<Var> {
        let (u, v) = (self.outer_u.forward(tape, s)?, self.outer_v.forward(tape, s)?);
        let z = ops::add(tape, z, &ops::outer_product(tape, &u, &v)?)?;
        let z = ops::add(tape, &z, &self.outgoing.forward(tape, &z, lengths)?)?;
        let z = ops::add(tape, &z, &self.incoming.forward(tape, &z, lengths)?)?;
        let hidden = self.expand.forward(tape, &self.norm.forward(tape, &z)?)?;
        ops::add(tape, &z, &self.contract.forward(tape, &ops::relu(tape, &hidden)?)?)
    }
}

/// The triangle multiplicative update (Jumper et al. 2021, supplement, Algorithms 11 and 12), as a change to add:
/// `σ(gate(z')) ⊙ out(norm(t))` with `z' = norm(z)` and t the gated triangle product of `z'`.
#[derive(Debug)]
pub struct TriangleBlock {
    edges: Triangle,
    norm_in: LayerNorm,
    /// The four projections `a, a_gate, b, b_gate` as one `[4c, C_z]`.
    project: Linear,
    norm_out: LayerNorm,
    out: Linear,
    gate: Linear,
}

impl TriangleBlock {
    /// `pair` is C_z, `hidden` c.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn new(edges: Triangle, pair: usize, hidden: usize, weights: &Weights) -> Result<Self> {
        Ok(Self {
            edges,
            norm_in: LayerNorm::new(&weights.pp("norm_in"), pair, EPS)?,
            project: Linear::new(&weights.pp("project"), pair, 4 * hidden)?,
            norm_out: LayerNorm::new(&weights.pp("norm_out"), hidden, EPS)?,
            out: Linear::new(&weights.pp("out"), hidden, pair)?,
            gate: Linear::new(&weights.pp("gate"), pair, pair)?,
        })
    }

    /// # Shapes
    /// z `[B, L, L, C_z]` → `[B, L, L, C_z]`
    ///
    /// # Errors
    /// On shapes that do not fit.
    pub fn forward(&self, tape: &Tape, z: &Var, lengths: &[usize]) -> Result<Var> {
        let z = self.norm_in.forward(tape, z)?;
        let t = ops::triangle_product(tape, &self.project.forward(tape, &z)?, lengths, self.edges)?;
        let out = self.out.forward(tape, &self.norm_out.forward(tape, &t)?)?;
        let gate = ops::sigmoid(tape, &self.gate.forward(tape, &z)?)?;
        ops::mul(tape, &gate, &out)
    }
}

#[cfg(test)]
mod tests;
