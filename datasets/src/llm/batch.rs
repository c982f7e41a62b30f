//! Examples → token ids → tensors.

use std::sync::Arc;

use candle_core::Tensor;

use super::prompt::{Example, Shown};
use crate::Error;
use crate::chat::Chat;
use crate::collate::Padding;
use crate::tokenizer::Tokenizer;

/// One chat as token ids.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Prompt, then completion.
    pub ids: Vec<u32>,
    /// How many of `ids` are prompt; the rest carries loss.
    pub n_prompt: usize,
    /// In the order of their places.
    pub proteins: Vec<Shown>,
}

/// Where the vectors of a protein go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Row of the batch.
    pub row: usize,
    /// First of its places in the row.
    pub start: usize,
    /// Index in the batch's proteins.
    pub protein: usize,
    /// The residue that the question is about, 0-based.
    pub site: Option<usize>,
}

/// Chats side by side. Padding stands behind the end of a row.
#[derive(Debug)]
pub struct LlmBatch {
    /// `[B, T]` u32
    pub tokens: Tensor,
    /// `[B, T]` u8, 1 = real
    pub mask: Tensor,
    /// `[B, T]` u8, 1 = this token is predicted (from the ones before it) and carries loss
    pub labels: Tensor,
    /// Real tokens of each row.
    pub lengths: Vec<usize>,
    /// Prompt tokens of each row.
    pub n_prompts: Vec<usize>,
    /// Distinct sequences, in the order of their first place.
    pub proteins: Vec<Arc<str>>,
    /// Where they go, by row and place.
    pub slots: Vec<Slot>,
}

impl Row {
    /// The same without the completion.
    pub fn prompt(&self) -> Self {
        let ids = self.ids[..self.n_prompt].to_vec();
        Self { ids, n_prompt: self.n_prompt, proteins: self.proteins.clone() }
    }

    /// Token ids of an example with its answer; each protein takes `n_embed` places.
    ///
    /// # Errors
    /// As [`Chat::encode`].
    pub fn encode(
        chat: &Chat,
        tokenizer: &Tokenizer,
        example: &Example,
        n_embed: usize,
    ) -> Result<Self, Error> {
        let encoded = chat.encode(tokenizer, &example.prompt, &example.answer, n_embed)?;
        Ok(Self { ids: encoded.ids, n_prompt: encoded.n_prompt, proteins: example.proteins.clone() })
    }

    /// Token ids of an example's prompt alone: what is sampled from.
    ///
    /// # Errors
    /// As [`Chat::encode_prompt`].
    pub fn encode_prompt(
        chat: &Chat,
        tokenizer: &Tokenizer,
        example: &Example,
        n_embed: usize,
    ) -> Result<Self, Error> {
        let ids = chat.encode_prompt(tokenizer, &example.prompt, n_embed)?;
        Ok(Self { n_prompt: ids.len(), ids, proteins: example.proteins.clone() })
    }

    /// Starts of the places of its proteins: runs of the placeholder, cut every `n_embed`.
    fn places(&self, embed: u32, n_embed: usize) -> Result<Vec<usize>, Error> {
        let at: Vec<usize> = (0..self.n_prompt).filter(|&i| self.ids[i] == embed).collect();
        let whole = n_embed > 0
            && at.chunks(n_embed).all(|c| c.len() == n_embed && c[n_embed - 1] == c[0] + n_embed - 1);
        if at.len() != self.proteins.len() * n_embed || !(whole || at.is_empty()) {
            return Err(Error::Text(format!(
                "a prompt has {} places for protein vectors, {} proteins of {n_embed} vectors belong to it",
                at.len(),
                self.proteins.len()
            )));
        }
        Ok(at.chunks(n_embed.max(1)).map(|c| c[0]).collect())
    }
}

impl LlmBatch {
    /// Puts rows together. `n_embed` is the number of vectors of each protein.
    ///
    /// # Errors
    /// When a prompt has a place without a protein or a protein without a place.
    pub fn collate(rows: &[Row], tokenizer: &Tokenizer, n_embed: usize) -> Result<Self, Error> {
        let special = tokenizer.special();
        let ids: Vec<&[u32]> = rows.iter().map(|row| &row.ids[..]).collect();
        let padding = Padding::new(ids.iter().map(|ids| ids.len()).collect())?;
        let label = |row: &Row| (0..row.ids.len()).map(|i| u8::from(i >= row.n_prompt)).collect();
        let labels: Vec<Vec<u8>> = rows.iter().map(label).collect();
        let (mut proteins, mut slots): (Vec<Arc<str>>, _) = (vec![], vec![]);
        for (at, row) in rows.iter().enumerate() {
            let places = row.places(special.protein_embed, n_embed)?;
            for (start, shown) in places.into_iter().zip(&row.proteins) {
                let known = proteins.iter().position(|p| *p == shown.sequence);
                let protein = known.unwrap_or_else(|| {
                    proteins.push(shown.sequence.clone());
                    proteins.len() - 1
                });
                slots.push(Slot { row: at, start, protein, site: shown.site });
            }
        }
        Ok(Self {
            tokens: padding.pad(ids, 1, special.end_of_text)?,
            mask: padding.mask()?,
            labels: padding.pad(labels.iter().map(Vec::as_slice), 1, 0)?,
            lengths: rows.iter().map(|row| row.ids.len()).collect(),
            n_prompts: rows.iter().map(|row| row.n_prompt).collect(),
            proteins,
            slots,
        })
    }
}

/// What carries loss, decoded, one line for each of the first `n_shown` rows: printed before the first step, because a
/// wrong mask trains without complaint.
///
/// # Errors
/// When a row carries no loss at all, or its last token is not the end of the turn (a model that is never taught to
/// stop does not stop).
pub fn audit(rows: &[Row], tokenizer: &Tokenizer, n_shown: usize) -> Result<Vec<String>, Error> {
    let special = tokenizer.special();
    for row in rows {
        let carries_loss = &row.ids[row.n_prompt.min(row.ids.len())..];
        if carries_loss.last() != Some(&special.turn_end) {
            let text = tokenizer.decode(&row.ids, false)?;
            return Err(Error::Text(format!(
                "masking audit: {} tokens of {text:?} carry loss, and the last of them is not <|im_end|>",
                carries_loss.len()
            )));
        }
    }
    let shown = rows.iter().take(n_shown);
    shown.map(|row| tokenizer.decode(&row.ids[row.n_prompt..], false)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{options, tables};
    use super::super::{ProteinPath, Records};
    use super::*;
    use crate::{rng, tokenizer};

    fn rows(n_embed: usize, path: ProteinPath) -> (Tokenizer, Vec<Row>) {
        let dir = tempfile::tempdir().unwrap();
        tables(dir.path());
        let tokenizer = tokenizer::tests::small();
        let all = options(&["function", "go", "ppi", "ddg", "plddt"]);
        let records = Records::read(dir.path(), &all, &|terms| terms.to_vec()).unwrap();
        let chat = Chat::chatml();
        let row = |r: &super::super::Record| {
            let example = r.ask(&mut rng(2, "ask", 5), path);
            Row::encode(&chat, &tokenizer, &example, n_embed).unwrap()
        };
        let rows = records.train.iter().map(row).collect();
        (tokenizer, rows)
    }

    #[test]
    fn a_batch_knows_where_its_proteins_go() {
        let (tokenizer, rows) = rows(3, ProteinPath::Encoder);
        let batch = LlmBatch::collate(&rows, &tokenizer, 3).unwrap();
        let tokens = batch.tokens.to_vec2::<u32>().unwrap();
        let labels = batch.labels.to_vec2::<u8>().unwrap();
        assert_eq!(batch.slots.len(), rows.iter().map(|r| r.proteins.len()).sum::<usize>());
        for slot in &batch.slots {
            let special = tokenizer.special();
            assert_eq!(tokens[slot.row][slot.start..slot.start + 3], [special.protein_embed; 3]);
            assert_eq!(tokens[slot.row][slot.start - 1], special.protein_start);
            assert_eq!(tokens[slot.row][slot.start + 3], special.protein_end);
        }
        for (at, row) in rows.iter().enumerate() {
            let own: Vec<_> = batch.slots.iter().filter(|s| s.row == at).collect();
            let shown = |s: &&Slot| Shown { sequence: batch.proteins[s.protein].clone(), site: s.site };
            let named: Vec<_> = own.iter().map(shown).collect();
            assert_eq!(named, row.proteins);
            let carried = labels[at].iter().filter(|&&l| l == 1).count();
            assert_eq!(carried, row.ids.len() - row.n_prompt);
        }
        let mut distinct = batch.proteins.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), batch.proteins.len());
    }

    #[test]
    fn places_and_proteins_must_agree() {
        let (tokenizer, mut rows) = rows(3, ProteinPath::Encoder);
        let error = LlmBatch::collate(&rows, &tokenizer, 2).unwrap_err().to_string();
        assert!(error.contains("places"), "{error}");
        rows[0].proteins.clear();
        assert!(LlmBatch::collate(&rows, &tokenizer, 3).is_err());
        let (tokenizer, mut rows) = self::rows(3, ProteinPath::Letters);
        assert!(LlmBatch::collate(&rows, &tokenizer, 3).unwrap().slots.is_empty());
        rows[0].proteins.push(Shown { sequence: "MK".into(), site: None });
        assert!(LlmBatch::collate(&rows, &tokenizer, 3).is_err());
    }

    #[test]
    fn the_audit_shows_loss_and_refuses_silence() {
        let (tokenizer, mut rows) = rows(1, ProteinPath::Encoder);
        let shown = audit(&rows, &tokenizer, 2).unwrap();
        assert_eq!(shown.len(), 2);
        assert!(shown.iter().all(|text| text.ends_with("<|im_end|>") && !text.contains("user")));
        rows[1].ids.pop();
        assert!(audit(&rows, &tokenizer, 2).unwrap_err().to_string().contains("<|im_end|>"));
        rows[1].n_prompt = rows[1].ids.len();
        assert!(audit(&rows, &tokenizer, 2).unwrap_err().to_string().contains("0 tokens"));
    }
}
