//! Protein encoders: frozen language models of residues, recognised by what their weights are called.
//!
//! | encoder | weights | paper |
//! |---|---|---|
//! | ESM-2, and the small one of `train encoder` | Hugging Face folder | DOI 10.1126/science.ade2574 |
//! | ESM-C | `.pth` or safetensors of the `esm` package, Hugging Face folder | evolutionaryscale.ai/blog/esm-cambrian |
//! | ESM3, its sequence track alone | `.pth` or safetensors of the `esm` package | DOI 10.1126/science.ads0018 |

mod esm2;
mod esm3;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Result, Tensor, bail};
use serde_json::Value;

pub use esm2::{Config, Esm2};
pub use esm3::Esm3;

use crate::llm::files;
use crate::param::Params;
use crate::state_dict::read_state_dict;
use crate::tape::{Tape, Var};
use crate::weights::read_safetensors;

/// Letters of the 33 tokens by their ids. Id 31 is `<null_1>` in ESM-2 and separates chains in ESM3.
const VOCAB: [&str; 33] = [
    "<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "V", "S", "E", "R", "T", "I", "D", "P", "K", "Q", "N",
    "F", "Y", "M", "H", "W", "C", "X", "B", "U", "Z", "O", ".", "-", "|", "<mask>",
];

/// Begins every sequence.
pub const CLS: u32 = 0;
/// Fills a batch up.
pub const PAD: u32 = 1;
/// Ends every sequence.
pub const EOS: u32 = 2;
const UNK: u32 = 3;
/// Separates chains in ESM3 and ESM-C.
const CHAIN_BREAK: u32 = 31;
/// Stands for a hidden residue.
pub const MASK: u32 = 32;

/// `<cls> residues <eos>` as ids; a letter that the vocabulary lacks becomes `<unk>`.
pub fn encode(residues: &str) -> Vec<u32> {
    let id = |c: char| {
        let letter = c.to_ascii_uppercase();
        let found = VOCAB[..CHAIN_BREAK as usize].iter().position(|v| v.len() == 1 && v.starts_with(letter));
        found.map_or(UNK, |id| id as u32)
    };
    std::iter::once(CLS).chain(residues.chars().map(id)).chain([EOS]).collect()
}

/// A protein encoder.
#[derive(Clone)]
pub enum Encoder {
    /// ESM-2 and what is trained here.
    Esm2(Esm2),
    /// ESM3 and ESM-C.
    Esm3(Esm3),
}

impl Encoder {
    /// Reads the encoder at `path`: a folder with `model.safetensors` (or its shards) or one `.pth` file, or such a file
    /// itself. Which encoder it is, its names say; what they do not say (the heads, and all of ESM-2's options) stands in
    /// `config.json` beside it.
    ///
    /// # Errors
    /// Names the file that is missing or broken, says when the weights are of no encoder known here, and lists everything
    /// in which weights and config differ.
    pub fn load(path: &Path) -> Result<Self> {
        let (file, folder) = place(path)?;
        let tensors = match &file {
            None => files::read_model(&folder)?,
            Some(file) if file.extension().is_some_and(|e| e == "safetensors") => read_safetensors(file)?,
            Some(file) => read_state_dict(file)?,
        };
        let config = folder.join("config.json");
        let config = if config.exists() { Some(files::read_json(&config)?) } else { None };
        match Self::of(tensors, config.as_ref()) {
            Ok(encoder) => Ok(encoder),
            Err(error) => bail!("{}: {error}", path.display()),
        }
    }

    fn of(tensors: BTreeMap<String, Tensor>, config: Option<&Value>) -> Result<Self> {
        if Esm3::knows(&tensors) {
            return Ok(Self::Esm3(Esm3::new(tensors, config)?));
        }
        if !tensors.keys().any(|name| name.ends_with("embeddings.word_embeddings.weight")) {
            let names: Vec<&String> = tensors.keys().take(5).collect();
            bail!("these weights are of no encoder known here (ESM-2, ESM-C, ESM3): {names:?}, …");
        }
        match config {
            Some(config) => Ok(Self::Esm2(Esm2::of(config, tensors)?)),
            None => bail!("weights of ESM-2 without the config.json that belongs beside them"),
        }
    }

    /// Width of a residue's vector.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Esm2(encoder) => encoder.config().hidden_size,
            Self::Esm3(encoder) => encoder.hidden_size(),
        }
    }

    /// Most tokens of a sequence, `<cls>` and `<eos>` among them.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Esm2(encoder) => encoder.config().max_position_embeddings,
            Self::Esm3(encoder) => encoder.max_tokens(),
        }
    }

    /// All that decides its numbers beside the weights, as text: for hashes.
    pub fn options(&self) -> String {
        match self {
            Self::Esm2(encoder) => encoder.config().to_json().to_string(),
            Self::Esm3(encoder) => encoder.options(),
        }
    }

    /// Most residues of a sequence.
    pub fn max_residues(&self) -> usize {
        self.max_tokens().saturating_sub(2)
    }

    /// All weights.
    pub fn params(&self) -> &Params {
        match self {
            Self::Esm2(encoder) => encoder.params(),
            Self::Esm3(encoder) => encoder.params(),
        }
    }

    /// What the encoder's authors call its embeddings: after the final norm in ESM-2 and ESM-C, before it in ESM3. Row b
    /// has `lengths[b]` tokens (with `<cls>` and `<eos>`), the rest is padding and gives numbers without meaning.
    ///
    /// # Shapes
    /// ids `[B, L]` → `[B, L, E]`
    ///
    /// # Errors
    /// On a sequence longer than the encoder was made for: cropping it is for the caller to decide.
    pub fn embeddings(&self, tape: &Tape, ids: &Tensor, lengths: &[usize]) -> Result<Var> {
        match self {
            Self::Esm2(encoder) => encoder.hidden(tape, ids, lengths),
            Self::Esm3(encoder) => encoder.embeddings(tape, ids, lengths),
        }
    }
}

impl From<Esm2> for Encoder {
    fn from(encoder: Esm2) -> Self {
        Self::Esm2(encoder)
    }
}

/// Refuses ids and lengths that do not belong together or go beyond `most` tokens.
fn check_lengths(ids: &Tensor, lengths: &[usize], most: usize) -> Result<(usize, usize)> {
    let (b, l) = ids.dims2()?;
    if l > most || lengths.len() != b || lengths.iter().any(|&n| n > l) {
        bail!(
            "encoder: ids {:?} with lengths {lengths:?}; it was made for {most} tokens\nhint: crop the sequence, or use an \
             encoder that was made for longer ones",
            ids.dims()
        );
    }
    Ok((b, l))
}

/// The weight file, unless it is the folder's `model.safetensors`, and the folder.
fn place(path: &Path) -> Result<(Option<PathBuf>, PathBuf)> {
    if path.is_file() {
        return Ok((Some(path.to_owned()), path.parent().unwrap_or(Path::new("")).to_owned()));
    }
    let holds = |name: &str| path.join(name).exists();
    if holds("model.safetensors") || holds("model.safetensors.index.json") {
        return Ok((None, path.to_owned()));
    }
    let mut found = vec![];
    for folder in [path.to_owned(), path.join("data/weights")].iter().filter(|folder| folder.is_dir()) {
        for entry in fs_err::read_dir(folder)? {
            let file = entry?.path();
            found.extend(file.extension().is_some_and(|e| e == "pth" || e == "pt").then_some(file));
        }
    }
    found.sort_unstable();
    match &found[..] {
        [file] => Ok((Some(file.clone()), path.to_owned())),
        [] => bail!("{} holds no encoder: neither model.safetensors nor a .pth file", path.display()),
        several => bail!("{} holds several .pth files: {several:?}\nhint: name one", path.display()),
    }
}
