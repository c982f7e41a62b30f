//! Proteins and text in one model: encoder → bridge → Qwen3.

use candle_core::{Device, Result, Tensor, bail};

use crate::llm::bridge::{Bridge, Config, Media, Reader};
use crate::llm::encoder::Encoder;
use crate::llm::generate::Prompts;
use crate::llm::qwen3::Qwen3;
use crate::ops::{self, KeyMask, Sees};
use crate::param::Params;
use crate::tape::{Tape, Var};
use crate::view::view;

/// What turns proteins into vectors. A model without it reads sequences as text.
#[derive(Clone)]
pub struct ProteinPath {
    /// frozen
    pub encoder: Encoder,
    /// trained
    pub bridge: Bridge,
}

/// A language model that sees proteins.
#[derive(Clone)]
pub struct ProteinLlm {
    /// with or without an adapter
    pub llm: Qwen3,
    /// `None`: text only
    pub protein: Option<ProteinPath>,
}

/// Right-padded token rows.
#[derive(Clone, Debug)]
pub struct Rows {
    /// `[B, T]` u32
    pub ids: Tensor,
    /// real tokens of each row
    pub lengths: Vec<usize>,
    /// what stands in a row
    pub layout: Layout,
}

/// What stands in the rows of a batch. Every chat has the bits that it has alone in a row.
#[derive(Clone, Debug)]
pub enum Layout {
    /// One chat.
    Chats,
    /// Several chats, one behind the other: the tokens of each.
    Documents(Vec<Vec<usize>>),
    /// A prompt and, behind it, several answers to it: the tokens of each. The prompt is paid for once.
    Trees(Vec<Vec<usize>>),
}

impl Rows {
    /// One chat in each row.
    pub fn new(ids: Tensor, lengths: Vec<usize>) -> Self {
        Self { ids, lengths, layout: Layout::Chats }
    }
}

/// The proteins of a batch, in the order in which their placeholders stand in the rows.
#[derive(Clone, Debug)]
pub struct Proteins {
    /// the encoder's ids, `[P, L]` u32, right-padded
    pub ids: Tensor,
    /// tokens of each protein, with `<cls>` and `<eos>`
    pub lengths: Vec<usize>,
    /// the row of each protein, ascending; a row may have none or several
    pub rows: Vec<usize>,
}

impl ProteinLlm {
    /// Puts the parts together and freezes the encoder.
    ///
    /// # Errors
    /// When the parts' widths differ.
    pub fn new(llm: Qwen3, protein: Option<ProteinPath>) -> Result<Self> {
        if let Some(path) = &protein {
            let (from, to) = (path.encoder.hidden_size(), llm.config().hidden_size);
            let Config { ends, reader } = path.bridge.config();
            if (ends.encoder_size, ends.llm_size) != (from, to) {
                bail!(
                    "bridge from {} to {}, encoder {from}, language model {to}",
                    ends.encoder_size,
                    ends.llm_size
                );
            }
            let depth = llm.config().num_hidden_layers;
            if let Reader::Flamingo(config) = reader
                && config.n_blocks != depth / config.every
            {
                bail!(
                    "bridge of {} reading layers, one for every {} of {depth}",
                    config.n_blocks,
                    config.every
                );
            }
            path.encoder.params().set_trainable(false, |_| true);
        }
        Ok(Self { llm, protein })
    }

    /// This model with its language model and bridge on a device: they, or copies. The encoder stays: what it says is
    /// computed once for each protein and kept.
    ///
    /// # Errors
    /// When there is too little memory.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let place = |path: &ProteinPath| -> Result<_> {
            Ok(ProteinPath { encoder: path.encoder.clone(), bridge: path.bridge.to_device(device)? })
        };
        let protein = self.protein.as_ref().map(place).transpose()?;
        Self::new(self.llm.to_device(device)?, protein)
    }

    /// The weights of all parts that a checkpoint of a training run holds: language model, adapter and bridge. The frozen
    /// encoder is not among them.
    ///
    /// # Errors
    /// When two parts use one name.
    pub fn params(&self) -> Result<Params> {
        let params = self.llm.params().clone();
        match &self.protein {
            Some(path) => params.merge(path.bridge.params().clone()),
            None => Ok(params),
        }
    }

    /// Residue vectors of each protein without `<cls>` and `<eos>`: they need no gradient, so a loop may keep them.
    ///
    /// # Shapes
    /// → `[P, L − 2, E]`
    ///
    /// # Errors
    /// On a protein without residues.
    pub fn encode(&self, proteins: &Proteins) -> Result<Option<Residues>> {
        let Some(path) = &self.protein else {
            bail!("proteins for a model without an encoder\nhint: write the sequences into the prompts")
        };
        if let Some(p) = proteins.lengths.iter().position(|&n| n < 3) {
            bail!("protein {p} has no residues");
        }
        if proteins.lengths.is_empty() {
            return Ok(None);
        }
        let hidden = path.encoder.embeddings(&Tape::off(), &proteins.ids, &proteins.lengths)?;
        let inside = hidden.value().dim(1)? - 2;
        Ok(Some(Residues {
            vectors: hidden.value().narrow(1, 1, inside)?.contiguous()?,
            lengths: proteins.lengths.iter().map(|n| n - 2).collect(),
            sites: vec![None; proteins.lengths.len()],
            rows: proteins.rows.clone(),
        }))
    }

    /// Input embeddings: tokens, learned boundary tokens, and protein vectors at the placeholders.
    ///
    /// # Shapes
    /// rows `[B, T]` → `[B, T, C]`
    ///
    /// # Errors
    /// When a row's placeholders are not its proteins' vectors, one for one.
    pub fn embed(&self, tape: &Tape, rows: &Rows, residues: Option<&Residues>) -> Result<Var> {
        let (b, t) = rows.ids.dims2()?;
        let embedded = self.llm.embed(tape, &rows.ids)?;
        let Some(path) = &self.protein else {
            return match residues {
                Some(_) => bail!("proteins for a model without an encoder"),
                None => Ok(embedded),
            };
        };
        let (ends, n_places) = (&path.bridge.config().ends, path.bridge.config().n_places());
        let width = ends.llm_size;
        let mut x = ops::reshape(tape, &embedded, (b * t, width))?;
        let boundaries = places(rows, &ends.boundary_ids)?;
        if !boundaries.is_empty() {
            let ids = rows.ids.flatten_all()?.to_vec1::<u32>()?;
            let which: Vec<u32> =
                boundaries.iter().map(|&at| u32::from(ids[at] == ends.boundary_ids[1])).collect();
            let which = Tensor::new(which, rows.ids.device())?;
            let new = ops::embedding(tape, &path.bridge.boundary(tape), &which)?;
            x = ops::replace_rows(tape, &x, &boundaries, &new)?;
        }
        let slots = places(rows, &[ends.placeholder_id])?;
        let owners = residues.map_or(&[][..], |r| &r.rows);
        if !owners.is_sorted() {
            bail!("proteins in the order of rows {owners:?}, expected ascending");
        }
        for row in 0..b {
            let slots = slots.iter().filter(|&&at| at / t == row).count();
            let proteins = owners.iter().filter(|&&owner| owner == row).count();
            if slots != proteins * n_places {
                bail!("row {row}: {slots} placeholders, {proteins} proteins of {n_places} vectors each");
            }
        }
        if let Some(residues) = residues {
            let residue_vectors = Var::constant(residues.vectors.to_device(self.llm.device())?);
            let vectors = path.bridge.forward(tape, &residue_vectors, &residues.lengths, &residues.sites)?;
            let vectors = ops::reshape(tape, &vectors, (owners.len() * n_places, width))?;
            x = ops::replace_rows(tape, &x, &slots, &vectors)?;
        }
        ops::reshape(tape, &x, (b, t, width))
    }

    /// What a protein's vectors say of some words, read as the language model reads words: √C times the cosine of a vector
    /// and a word's embedding.
    ///
    /// # Shapes
    /// `words`: W token ids → `[P, N, W]`
    ///
    /// # Errors
    /// With a bridge whose vectors do not stand in the prompt.
    pub fn words_of_proteins(&self, tape: &Tape, residues: &Residues, words: &[u32]) -> Result<Var> {
        let Some(ProteinPath { bridge, .. }) =
            self.protein.as_ref().filter(|path| !matches!(path.bridge.config().reader, Reader::Flamingo(_)))
        else {
            bail!("only vectors that stand in the prompt can be compared with words");
        };
        let vectors = Var::constant(residues.vectors.to_device(self.llm.device())?);
        let vectors = bridge.forward(tape, &vectors, &residues.lengths, &residues.sites)?;
        let embedding = self.llm.embedding().value();
        let table = embedding.index_select(&Tensor::new(words, embedding.device())?, 0)?;
        let norms = (table.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-6)?;
        let directions = Var::constant(table.broadcast_div(&norms)?);
        let ones = Var::constant(embedding.ones_like()?.narrow(0, 0, 1)?.flatten_all()?);
        let unit = ops::rms_norm(tape, &vectors, &ones, 1e-6)?; // of length √C
        ops::linear(tape, &unit, &directions, None)
    }

    /// What layers of the language model read beside the tokens, with a bridge that works that way.
    ///
    /// # Errors
    /// As [`ProteinLlm::embed`].
    fn media(&self, tape: &Tape, rows: &Rows, residues: Option<&Residues>) -> Result<Option<Media>> {
        let Some(path) = &self.protein else { return Ok(None) };
        let (b, t) = rows.ids.dims2()?;
        let mut by_row = vec![vec![]; b];
        for at in places(rows, &[path.bridge.config().ends.placeholder_id])? {
            by_row[at / t].push(at % t);
        }
        path.bridge.media(tape, residues, by_row)
    }

    /// The language model's hidden states.
    ///
    /// # Shapes
    /// rows `[B, T]` → `[B, T, C]`
    ///
    /// # Errors
    /// As [`ProteinLlm::embed`].
    pub fn hidden(&self, tape: &Tape, rows: &Rows, residues: Option<&Residues>) -> Result<Var> {
        let (embedded, media) = (self.embed(tape, rows, residues)?, self.media(tape, rows, residues)?);
        let (b, t) = rows.ids.dims2()?;
        // Positions of the spans of a row: those behind the first count on from `trunk`; zeros for the padding.
        let spans = |row: &[usize], trunk: usize| {
            let of = |(at, &n): (usize, &usize)| {
                (0..n as u32).map(move |t| if at == 0 { t } else { trunk as u32 + t })
            };
            let spans: Vec<u32> = row.iter().enumerate().flat_map(of).collect();
            spans.into_iter().chain(std::iter::repeat(0)).take(t)
        };
        let (sees, positions): (_, Vec<u32>) = match &rows.layout {
            Layout::Chats => (Sees::Causal, (0..b).flat_map(|_| 0..t as u32).collect()),
            Layout::Documents(_) if media.is_some() => {
                bail!(
                    "a bridge whose vectors are read between the layers needs one chat in each row\nhint: no packing"
                )
            }
            Layout::Documents(rows) => {
                (Sees::Documents(rows.clone()), rows.iter().flat_map(|row| spans(row, 0)).collect())
            }
            Layout::Trees(rows) => {
                let positions = rows.iter().flat_map(|row| spans(row, row.first().copied().unwrap_or(0)));
                (Sees::Trees(rows.clone()), positions.collect())
            }
        };
        let mask = KeyMask { lengths: rows.lengths.clone(), sees };
        self.llm.hidden_at(tape, &embedded, &mask, &positions, media.as_ref())
    }

    /// Log-probabilities of the labelled tokens, row by row: `labelled[b · T + t]` says whether row b's token t is to be
    /// predicted (from the tokens before it). Also their places b · T + t, and the distributions' entropies.
    ///
    /// # Shapes
    /// rows `[B, T]` → `[N]`
    ///
    /// # Errors
    /// As [`ProteinLlm::embed`]; when a first or padded token is labelled, or none is.
    pub fn token_logprobs(
        &self,
        tape: &Tape,
        rows: &Rows,
        residues: Option<&Residues>,
        labelled: &[bool],
        temperature: f64,
    ) -> Result<(ops::TokenScores, Vec<usize>)> {
        let (b, t) = rows.ids.dims2()?;
        let places: Vec<usize> = (0..labelled.len()).filter(|&at| labelled[at]).collect();
        let wrong = |at: &usize| at.is_multiple_of(t) || at % t >= rows.lengths[at / t];
        if labelled.len() != b * t || places.is_empty() || places.iter().any(wrong) {
            bail!(
                "{} labels for [{b}, {t}] tokens, {} of them to predict; a row's first token and padding cannot be",
                labelled.len(),
                places.len()
            );
        }
        let ids = rows.ids.contiguous()?;
        let ids = view::<u32>(&ids)?;
        let targets: Vec<u32> = places.iter().map(|&at| ids[at]).collect();
        let before: Vec<usize> = places.iter().map(|at| at - 1).collect();
        let hidden = self.hidden(tape, rows, residues)?;
        Ok((self.llm.token_logprobs(tape, &hidden, &before, &targets, temperature)?, places))
    }

    /// Prompts for [`crate::llm::generate`] and [`crate::llm::score_completions`].
    ///
    /// # Errors
    /// As [`ProteinLlm::embed`].
    pub fn prompts(&self, rows: &Rows, residues: Option<&Residues>) -> Result<Prompts> {
        let embeds = self.embed(&Tape::off(), rows, residues)?.value().clone();
        let media = self.media(&Tape::off(), rows, residues)?;
        Ok(Prompts { embeds, lengths: rows.lengths.clone(), media })
    }
}

/// Where some tokens stand, b · T + t, ascending.
fn places(rows: &Rows, wanted: &[u32]) -> Result<Vec<usize>> {
    let ids = rows.ids.contiguous()?;
    let ids = view::<u32>(&ids)?;
    Ok((0..ids.len()).filter(|&at| wanted.contains(&ids[at])).collect())
}

/// Encoded proteins of a batch.
#[derive(Clone, Debug)]
pub struct Residues {
    /// `[P, L, E]`
    pub vectors: Tensor,
    /// residues of each protein
    pub lengths: Vec<usize>,
    /// the residue of each protein that the question is about, 0-based
    pub sites: Vec<Option<usize>>,
    /// the row of each protein, ascending
    pub rows: Vec<usize>,
}
