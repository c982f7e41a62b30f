//! Text ↔ token ids: the tokenizer of a model folder, and a small one of our own.
//!
//! [`Tokenizer::load`] reads any Hugging Face `tokenizer.json`; the three protein tokens are appended where the folder
//! lacks them (behind Qwen3's 151,669 entries they land on ids 151669–151671, for which its embedding already has
//! rows). [`Tokenizer::train`] makes a byte-level BPE with the pre-tokenizer of Qwen3 and one rule more: inside a long
//! run of capital letters each letter is a token of its own, so a sequence written as text costs one token per residue.

use std::ops::Range;
use std::path::Path;

use fs_err as fs;
use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, TokenizerBuilder,
};

use crate::Error;

/// End of a text; the padding token too.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Start of a chat turn.
pub const TURN_START: &str = "<|im_start|>";
/// End of a chat turn: what a model must learn to say.
pub const TURN_END: &str = "<|im_end|>";
/// Before the vectors of a protein.
pub const PROTEIN_START: &str = "<|protein_start|>";
/// Stands where the vectors of a protein go.
pub const PROTEIN_EMBED: &str = "<|protein_embed|>";
/// Behind the vectors of a protein.
pub const PROTEIN_END: &str = "<|protein_end|>";

const SPECIAL: [&str; 6] = [END_OF_TEXT, TURN_START, TURN_END, PROTEIN_START, PROTEIN_EMBED, PROTEIN_END];

/// From this many capital letters in a row on, they are residues and no word.
const RESIDUE_RUN: usize = 6;
/// Words, single digits, punctuation and blanks, as the Qwen models split them.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The ids that chats and proteins are built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special {
    /// [`END_OF_TEXT`]
    pub end_of_text: u32,
    /// [`TURN_START`]
    pub turn_start: u32,
    /// [`TURN_END`]
    pub turn_end: u32,
    /// [`PROTEIN_START`]
    pub protein_start: u32,
    /// [`PROTEIN_EMBED`]
    pub protein_embed: u32,
    /// [`PROTEIN_END`]
    pub protein_end: u32,
}

/// A tokenizer that knows the chat and protein tokens.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: Special,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// When the file is missing or broken, or lacks a chat token.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_bytes(fs::read(&path)?)
            .map_err(|e| Error::Text(format!("cannot read tokenizer {}: {e}", path.display())))?;
        Self::new(inner).map_err(|e| Error::Text(format!("tokenizer {}: {e}", path.display())))
    }

    /// Trains a byte-level BPE of at most `vocab_size` tokens, special ones included. The same texts in the same order
    /// give the same bytes.
    ///
    /// # Errors
    /// When `vocab_size` has no room for the 256 bytes and the special tokens.
    pub fn train<T: AsRef<str> + Send>(
        texts: impl Iterator<Item = T> + Send,
        vocab_size: usize,
    ) -> Result<Self, Error> {
        let alphabet = ByteLevel::alphabet();
        if vocab_size < alphabet.len() + SPECIAL.len() {
            let least = alphabet.len() + SPECIAL.len();
            return Err(Error::Text(format!(
                "vocab_size {vocab_size}: a byte-level tokenizer needs {least}"
            )));
        }
        let text = |e: tokenizers::Error| Error::Text(format!("cannot train the tokenizer: {e}"));
        let isolate = |pattern: &str| {
            Split::new(SplitPattern::Regex(pattern.into()), SplitDelimiterBehavior::Isolated, false)
        };
        // one letter of a run: so many before it, the rest of the run behind it
        let letter =
            |before: usize| format!("(?<=[A-Z]{{{before}}})[A-Z](?=[A-Z]{{{}}})", RESIDUE_RUN - 1 - before);
        let residues = (0..RESIDUE_RUN).map(letter).collect::<Vec<_>>().join("|");
        let bytes = ByteLevel::new(false, true, false);
        let steps = vec![
            isolate(&residues).map_err(text)?.into(),
            isolate(WORDS).map_err(text)?.into(),
            PreTokenizerWrapper::from(bytes),
        ];
        let mut inner = TokenizerBuilder::<BPE, _, _, PostProcessorWrapper, _>::new()
            .with_model(BPE::default())
            .with_normalizer(Some(NormalizerWrapper::from(NFC)))
            .with_pre_tokenizer(Some(PreTokenizerWrapper::from(Sequence::new(steps))))
            .with_decoder(Some(DecoderWrapper::from(bytes)))
            .build()
            .map_err(text)?;
        let mut trainer = BpeTrainer::builder()
            .vocab_size(vocab_size - SPECIAL.len())
            .min_frequency(2)
            .initial_alphabet(alphabet.into_iter().collect())
            .show_progress(false)
            .build();
        inner.train(&mut trainer, texts).map_err(text)?;
        inner.add_special_tokens(SPECIAL.map(added)).map_err(text)?;
        Self::new(inner.into()).map_err(Error::Text)
    }

    fn new(mut inner: tokenizers::Tokenizer) -> Result<Self, String> {
        inner
            .add_special_tokens([PROTEIN_START, PROTEIN_EMBED, PROTEIN_END].map(added))
            .map_err(|e| format!("cannot add the protein tokens: {e}"))?;
        let id = |token: &str| {
            inner.token_to_id(token).ok_or(format!(
                "there is no token {token}\nhint: use the tokenizer of a chat model of the Qwen family"
            ))
        };
        let special = Special {
            end_of_text: id(END_OF_TEXT)?,
            turn_start: id(TURN_START)?,
            turn_end: id(TURN_END)?,
            protein_start: id(PROTEIN_START)?,
            protein_embed: id(PROTEIN_EMBED)?,
            protein_end: id(PROTEIN_END)?,
        };
        Ok(Self { inner, special })
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` as Hugging Face reads them (the
    /// template stands in the config too, for readers before transformers 5).
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, folder: &Path, chat_template: &str) -> Result<(), Error> {
        let tokenizer = self
            .inner
            .to_string(true)
            .map_err(|e| Error::Text(format!("cannot write the tokenizer of {}: {e}", folder.display())))?;
        let config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "eos_token": TURN_END,
            "pad_token": END_OF_TEXT,
            "chat_template": chat_template,
        });
        write(&folder.join("tokenizer.json"), &tokenizer)?;
        write(&folder.join("tokenizer_config.json"), &format!("{config:#}\n"))?;
        write(&folder.join("chat_template.jinja"), chat_template)
    }

    /// Token ids of a text; special tokens in the text become their ids.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.inner.encode_fast(text, false);
        Ok(encoding.map_err(|e| Error::Text(format!("cannot tokenize {text:?}: {e}")))?.get_ids().to_vec())
    }

    /// Token ids of a text, and the bytes of it that each stands for.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn encode_with_places(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), Error> {
        let encoding = self.inner.encode(text, false);
        let encoding = encoding.map_err(|e| Error::Text(format!("cannot tokenize {text:?}: {e}")))?;
        let places = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoding.get_ids().to_vec(), places))
    }

    /// The text of token ids. Ids that the tokenizer does not know (a model's table may be larger) give nothing.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        let text = self.inner.decode(ids, skip_special);
        text.map_err(|e| Error::Text(format!("cannot decode {ids:?}: {e}")))
    }

    /// The ids of the chat and protein tokens.
    pub fn special(&self) -> Special {
        self.special
    }

    /// Number of tokens: one more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }
}

fn added(token: &str) -> AddedToken {
    AddedToken::from(token, true).normalized(false)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    crate::atomic_write(path, |file| Ok(file.write_all(text.as_bytes())?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shared;

    pub(crate) fn small() -> Tokenizer {
        let words = ["binds kresp and carries it", "catalyzes the turning", "<answer>GO:0012345</answer>"];
        Tokenizer::train(words.iter().cycle().take(60), 300).unwrap()
    }

    #[test]
    fn the_reference_cases_are_exact() {
        let Some(fixtures) = shared("fixtures/tokenizer_and_template.json") else { return };
        let cases: serde_json::Value = serde_json::from_slice(&fs::read(&fixtures).unwrap()).unwrap();
        let tokenizer = Tokenizer::load(&fixtures.with_file_name("qwen3_tiny_tied")).unwrap();
        assert_eq!(cases["tokenize"].as_array().unwrap().len(), 14);
        for case in cases["tokenize"].as_array().unwrap() {
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(case["text"].as_str().unwrap()).unwrap(), ids, "{case}");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"], "{case}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded_skip_special"], "{case}");
        }
        assert_eq!(tokenizer.special().protein_embed, 494);
        assert_eq!(tokenizer.vocab_size(), 496);
    }

    #[test]
    fn training_is_repeatable_and_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (small(), small());
        assert_eq!(one.inner.to_string(false).unwrap(), two.inner.to_string(false).unwrap());
        one.save(dir.path(), "template").unwrap();
        let read = Tokenizer::load(dir.path()).unwrap();
        for text in ["binds kresp\r\n  αβ 🧬", "<|im_start|>user\nMKTAYIAKQR<|im_end|>", "GO:0012345", ""]
        {
            let ids = one.encode(text).unwrap();
            assert_eq!(read.encode(text).unwrap(), ids);
            assert_eq!(read.decode(&ids, false).unwrap(), text);
        }
        assert_eq!(read.special(), one.special());
        assert!(one.vocab_size() <= 300);
    }

    #[test]
    fn digits_and_residues_stand_alone() {
        let texts = ["MKTAYIAKQRQISF 12345"; 30];
        let tokenizer = Tokenizer::train(texts.iter(), 400).unwrap();
        assert_eq!(tokenizer.encode("12345").unwrap().len(), 5);
        let around =
            tokenizer.encode("<protein>").unwrap().len() + tokenizer.encode("</protein>").unwrap().len();
        for sequence in ["MKTAYI", "MKTAYIAKQ", "MKTAYIAKQRQISFVKSHFSRQ"] {
            let ids = tokenizer.encode(&format!("<protein>{sequence}</protein>")).unwrap();
            assert_eq!(ids.len(), around + sequence.len(), "{sequence}");
        }
        let tokenizer = Tokenizer::train(["the MKTAY kinase"; 30].iter(), 400).unwrap();
        assert_eq!(tokenizer.encode("the MKTAY kinase").unwrap().len(), 3, "an acronym is a word");
    }

    #[test]
    fn a_vocabulary_without_room_is_refused() {
        let error = Tokenizer::train(["a"].iter(), 200).err().unwrap().to_string();
        assert!(error.contains("200") && error.contains("262"), "{error}");
    }
}
