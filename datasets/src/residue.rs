//! Residues: the one alphabet of the project and the cleaning of sequences.
//!
//! [`normalise`] is what every source goes through, so that the same protein has the same letters,
//! and so the same [`protein_id`], wherever it came from.

use sha2::{Digest, Sha256};

/// The 25 letters a stored sequence may hold: the 20 standard residues, then X (unknown), B, Z (ambiguous),
/// U (selenocysteine), O (pyrrolysine).
pub const LETTERS: &[u8; 25] = b"ACDEFGHIKLMNPQRSTVWYXBZUO";

/// Token id of padding in every residue tensor.
pub const PAD: u32 = 0;
/// Token id of a masked residue (masked-LM training, classifier-free guidance). Never used as padding.
pub const MASK: u32 = 1;
/// Number of residue token ids: PAD, MASK and the 25 letters.
pub const N_TOKENS: usize = 2 + LETTERS.len();

/// Token id of a residue letter (2..27); any letter outside [`LETTERS`] counts as X.
pub fn token(letter: u8) -> u32 {
    let at = LETTERS.iter().position(|&l| l == letter).unwrap_or(20);
    2 + at as u32
}

/// Token ids of a normalised sequence.
///
/// # Shapes
/// `L` letters → `L` ids
pub fn encode(sequence: &str) -> Vec<u32> {
    sequence.bytes().map(token).collect()
}

/// What [`normalise`] refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SequenceError {
    /// Nothing is left after blanks, gaps and the final stop are removed.
    #[error("empty sequence")]
    Empty,
    /// A character that is no residue letter in any of the formats.
    #[error("character {letter:?} at position {position} is not a residue")]
    Letter {
        /// The offending character.
        letter: char,
        /// 1-based position in the text as given.
        position: usize,
    },
}

/// Cleans a sequence as the sources spell it: blanks and alignment gaps (`-`, `.`) go, lower case becomes upper,
/// a final stop `*` goes, a `*` or `J` inside becomes X (non-standard residue; Kaggle's files use `*` so).
///
/// Length changes only through gaps and a final stop: callers that hold per-residue labels check lengths on the
/// text they were given.
///
/// # Errors
/// [`SequenceError`] names the first character that is no residue.
pub fn normalise(text: &str) -> Result<String, SequenceError> {
    if is_normal(text) {
        return Ok(text.to_owned());
    }
    let trimmed = text.trim().trim_end_matches('*');
    let mut out = String::with_capacity(trimmed.len());
    for (at, byte) in trimmed.bytes().enumerate() {
        match NORMAL[usize::from(byte)] {
            BLANK => {}
            WRONG => {
                let position = trimmed[..at].chars().count() + 1;
                let letter = trimmed[at..].chars().next().unwrap_or_default();
                return Err(SequenceError::Letter { letter, position });
            }
            letter => out.push(char::from(letter)),
        }
    }
    if out.is_empty() { Err(SequenceError::Empty) } else { Ok(out) }
}

/// Whether [`normalise`] would change nothing, which is so for most sequences and quick to see.
pub fn is_normal(text: &str) -> bool {
    text.bytes().fold(!text.is_empty(), |normal, b| normal & b.is_ascii_uppercase() & (b != b'J'))
}

/// What [`normalise`] leaves out, and what it refuses.
const BLANK: u8 = 0;
const WRONG: u8 = 1;
/// What every byte of a sequence becomes.
const NORMAL: [u8; 256] = {
    let mut normal = became(became([WRONG; 256], b" \t\r\n-.", BLANK), b"*Jj", b'X');
    let mut i = 0;
    while i < LETTERS.len() {
        normal = became(normal, &[LETTERS[i], LETTERS[i].to_ascii_lowercase()], LETTERS[i]);
        i += 1;
    }
    normal
};

/// The table with another entry for some bytes.
const fn became(mut table: [u8; 256], bytes: &[u8], entry: u8) -> [u8; 256] {
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] = entry;
        i += 1;
    }
    table
}

/// The id of a protein: the first 128 bits of the SHA-256 of its normalised sequence, 32 hex digits.
pub fn protein_id(sequence: &str) -> String {
    crate::hex(&Sha256::digest(sequence.as_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalise_cleans_what_sources_write() {
        assert_eq!(normalise(" mkt-AY.i*\r\n").unwrap(), "MKTAYI");
        assert_eq!(normalise("MK*TJ").unwrap(), "MKXTX");
        assert_eq!(normalise("***"), Err(SequenceError::Empty));
        assert_eq!((normalise(""), is_normal("")), (Err(SequenceError::Empty), false));
        for letter in 0..128 {
            let text = char::from(letter).to_string();
            assert_eq!(is_normal(&text), normalise(&text).as_ref() == Ok(&text), "{text:?}");
        }
        assert_eq!(normalise("MK1T"), Err(SequenceError::Letter { letter: '1', position: 3 }));
        assert_eq!(
            normalise("M-\u{e9}\u{df}T"),
            Err(SequenceError::Letter { letter: '\u{e9}', position: 3 })
        );
        assert_eq!(normalise("M\u{0}"), Err(SequenceError::Letter { letter: '\0', position: 2 }));
    }

    #[test]
    fn tokens_are_distinct_and_unknown_is_x() {
        let ids = encode(std::str::from_utf8(LETTERS).unwrap());
        assert_eq!(ids, (2..27).collect::<Vec<u32>>());
        assert_eq!(token(b'?'), token(b'X'));
    }

    #[test]
    fn id_is_the_hash_of_the_letters() {
        assert_eq!(protein_id("MK").len(), 32);
        assert_ne!(protein_id("MK"), protein_id("KM"));
    }
}
