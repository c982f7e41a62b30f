//! Attention pooling into a fixed number of vectors, then a projector of two layers.

use candle_core::{Result, bail};
use serde::{Deserialize, Serialize};

use super::attention::{MultiheadAttention, Part};
use super::{Ends, with_sites};
use crate::layers::{LayerNorm, Linear};
use crate::ops;
use crate::param::Param;
use crate::tape::{Tape, Var};
use crate::weights::{Init, Weights};

/// Sizes of attention pooling and projector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// vectors per protein
    pub n_queries: usize,
    /// whether the first vector is the mean over all residues, whatever its query has learnt to look for
    #[serde(default)]
    pub mean: bool,
    /// whether the last vector of a protein with a site is that of the residue there
    #[serde(default)]
    pub site: bool,
    /// heads of the pooling
    pub n_heads: usize,
    /// width of the projector's hidden layer
    pub hidden_size: usize,
}

/// Learned queries attend to the residues (the semantics of torch's `MultiheadAttention`), a norm, two linear layers with
/// GELU.
#[derive(Clone)]
pub(super) struct Pool {
    config: Config,
    /// `[Q, E]`
    query_tokens: Param,
    attention: MultiheadAttention,
    layer_norm: LayerNorm,
    /// named `proj.0` and `proj.2`, as in a torch `Sequential`
    hidden: Linear,
    output: Linear,
}

/// Multiplies query q's token by a number from ¼ for the first to 4 for the last: blunt queries see what a whole chain is
/// like, sharp ones find single residues. With equal ones, a task of the one kind keeps the other from being learnt.
fn sharpen(n_queries: usize) -> impl Fn((usize, &mut [f32])) {
    move |(q, token)| {
        let place = q as f32 / (n_queries.max(2) - 1) as f32;
        token.iter_mut().for_each(|x| *x *= 4f32.powf(2.0 * place - 1.0));
    }
}

impl Pool {
    pub(super) fn new(config: Config, ends: &Ends, weights: &Weights) -> Result<Self> {
        let (width, out) = (ends.encoder_size, ends.llm_size);
        if config.n_queries == 0 {
            bail!("bridge: n_queries = 0");
        }
        if config.n_queries < usize::from(config.mean) + usize::from(config.site) {
            bail!("bridge: mean and site each take a vector, n_queries = {}", config.n_queries);
        }
        let (pool, proj) = (weights.pp("pool"), weights.pp("proj"));
        let fresh = !pool.holds("query_tokens");
        let query_tokens = pool.get((config.n_queries, width), "query_tokens", Init::Normal(1.0))?;
        if fresh {
            query_tokens.update(|tokens| {
                tokens.chunks_exact_mut(width).enumerate().for_each(sharpen(config.n_queries))
            })?;
        }
        Ok(Self {
            query_tokens,
            attention: MultiheadAttention::new(&pool.pp("cross_attention"), width, config.n_heads)?,
            layer_norm: LayerNorm::new(&pool.pp("layer_norm"), width, 1e-5)?,
            hidden: Linear::new(&proj.pp(0), width, config.hidden_size)?,
            output: Linear::new(&proj.pp(2), config.hidden_size, out)?,
            config,
        })
    }

    /// The vectors that stand for each protein. Protein p has `lengths[p]` residues, the rest is padding; the last query
    /// of a protein with a site attends to nothing but the residue there (with [`Config::site`]): pooled over a whole
    /// chain, one changed residue is hardly seen. With [`Config::mean`] the first query attends to all alike.
    ///
    /// # Shapes
    /// residues `[P, L, E]` → `[P, Q, C]`
    ///
    /// # Errors
    /// On a site behind the end.
    pub(super) fn forward(
        &self,
        tape: &Tape,
        residues: &Var,
        lengths: &[usize],
        sites: &[Option<usize>],
    ) -> Result<Var> {
        let (p, l, width) = residues.value().dims3()?;
        let (queries, attention) = (self.config.n_queries, &self.attention);
        // The queries are the same for all proteins: projected once, then repeated.
        let tokens = ops::reshape(tape, &tape.param(&self.query_tokens), (1, queries, width))?;
        let q = attention.project(tape, &tokens, Part::Query)?; // [1, Q, H, D]
        let q = ops::cat(tape, &vec![&q; p], 0)?; // [P, Q, H, D]
        let k = attention.project(tape, residues, Part::Key)?; // [P, L, H, D]
        let v = attention.project(tape, residues, Part::Value)?;
        let mut pooled = attention.mix(tape, &q, &k, &v, lengths)?;
        let values = ops::reshape(tape, &v, (p, l, width))?;
        if self.config.mean {
            let mean = ops::chain_mean(tape, &values, lengths)?;
            let rows: Vec<usize> = (0..p).map(|p| p * queries).collect();
            let flat = ops::reshape(tape, &pooled, (p * queries, width))?;
            pooled = ops::reshape(tape, &ops::replace_rows(tape, &flat, &rows, &mean)?, (p, queries, width))?;
        }
        if self.config.site {
            pooled = with_sites(tape, &pooled, &values, lengths, sites)?;
        }
        let pooled = attention.output(tape, &pooled)?;
        let pooled = self.layer_norm.forward(tape, &pooled)?;
        self.output.forward(tape, &ops::gelu(tape, &self.hidden.forward(tape, &pooled)?)?)
    }
}
