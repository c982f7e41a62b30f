//! A policy's words: what it is shown, how probable an answer is, and what it answers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use datasets::chat::Message;
use datasets::llm::{Example, ProteinPath, Row, Shown, Truth};
use datasets::rng;
use datasets::tokenizer::{PROTEIN_EMBED, PROTEIN_END, PROTEIN_START, Special};
use models::llm::{self, Completion, Layout, Prompts, Residues, Rows, Sampling};
use models::ops::{self, TokenScores};
use models::{Tape, Var};
use rand_chacha::ChaCha8Rng;

use super::Policy;

/// Completions that are sampled side by side: bounds the memory of the key/value cache.
const SAMPLED_AT_ONCE: usize = 512;

/// How an answer is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Saying {
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
    /// 0: the most probable token every time.
    pub temperature: f64,
    /// Decides every draw.
    pub seed: u64,
    /// The residue that the question is about, 0-based, in every protein.
    pub site: Option<usize>,
}

/// The answers as bags of words over all their tokens: each answer's distinct tokens, weighted by how rare they are,
/// ln((answers + 1) / answers that hold it), sum 1.
fn word_bags(rows: &[Row]) -> (Vec<u32>, Vec<f32>) {
    let answers: Vec<BTreeSet<u32>> =
        rows.iter().map(|row| row.ids[row.n_prompt..].iter().copied().collect()).collect();
    let mut holders = BTreeMap::<u32, usize>::new();
    answers.iter().flatten().for_each(|&word| *holders.entry(word).or_default() += 1);
    let rarity = |n: usize| ((rows.len() + 1) as f32 / n as f32).ln();
    let bag = |answer: &BTreeSet<u32>| {
        let weigh = |(word, n): (&u32, &usize)| if answer.contains(word) { rarity(*n) } else { 0.0 };
        let weights: Vec<f32> = holders.iter().map(weigh).collect();
        let sum = weights.iter().sum::<f32>();
        weights.into_iter().map(move |w| w / sum).collect::<Vec<f32>>()
    };
    let bags = answers.iter().flat_map(bag).collect();
    (holders.into_keys().collect(), bags)
}

impl Policy {
    /// A chat of one question and its answer, without proteins, as token ids.
    ///
    /// # Errors
    /// As [`Chat::encode`].
    pub fn chat_ids(&self, prompt: &[Message], answer: &str) -> Result<Vec<u32>> {
        Ok(self.chat.encode(&self.tokenizer, prompt, answer, self.n_embed())?.ids)
    }

    /// The answer to a question about some proteins, which are shown before it in their order.
    ///
    /// # Errors
    /// When a site lies behind the end of a protein, and as [`Policy::sample`].
    pub fn ask(&self, question: &str, proteins: &[String], saying: Saying) -> Result<String> {
        let mut text = String::new();
        for protein in proteins {
            match self.path() {
                ProteinPath::Encoder => text += &format!("{PROTEIN_START}{PROTEIN_EMBED}{PROTEIN_END}\n"),
                ProteinPath::Letters => text += &format!("<protein>{protein}</protein>\n"),
            }
            if let Some(site) = saying.site {
                ensure!(
                    site < protein.len(),
                    "there is no residue {} in a protein of {}",
                    site + 1,
                    protein.len()
                );
            }
        }
        let shown = |protein: &String| Shown { sequence: protein.as_str().into(), site: saying.site };
        let example = Example {
            task: "chat".into(),
            prompt: vec![Message::user(text + question)],
            answer: String::new(),
            proteins: match self.path() {
                ProteinPath::Encoder => proteins.iter().map(shown).collect(),
                ProteinPath::Letters => vec![],
            },
            cluster: String::new(),
            truth: Truth::Text(String::new()),
        };
        let prompt = [self.encode_prompt(&example)?];
        let said = match saying.temperature > 0.0 {
            false => self.answer(&prompt, saying.max_new_tokens)?,
            true => self.sample(&prompt, 1, saying.max_new_tokens, saying.temperature, |i| {
                rng(saying.seed, "chat", i as u64)
            })?,
        };
        self.decode(&said.first().context("no answer")?.tokens)
    }

    /// A question and its answer as token ids.
    ///
    /// # Errors
    /// As [`Row::encode`].
    pub fn encode(&self, example: &Example) -> Result<Row> {
        Ok(Row::encode(&self.chat, &self.tokenizer, example, self.n_embed())?)
    }

    /// A question as token ids, waiting for the answer.
    ///
    /// # Errors
    /// As [`Row::encode_prompt`].
    pub fn encode_prompt(&self, example: &Example) -> Result<Row> {
        Ok(Row::encode_prompt(&self.chat, &self.tokenizer, example, self.n_embed())?)
    }

    /// The text of a completion, without special tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        Ok(self.tokenizer.decode(tokens, true)?)
    }

    /// Log-probability of every completion token, row by row, at the temperature. Neighbours with the same prompt pay for it
    /// once: their bits are those of rows of their own.
    ///
    /// # Shapes
    /// rows with N completion tokens in all → `[N]`
    ///
    /// # Errors
    /// When a row has no prompt or no completion, or its places do not fit its proteins.
    pub fn score(&self, tape: &Tape, rows: &[Row], temperature: f64) -> Result<TokenScores> {
        check_chats(rows)?;
        let same = |a: &Row, b: &Row| a.ids[..a.n_prompt] == b.ids[..b.n_prompt] && a.proteins == b.proteins;
        let trees: Vec<&[Row]> = rows.chunk_by(same).collect();
        let mut joined = vec![];
        for tree in &trees {
            let mut row = tree[0].prompt();
            for branch in *tree {
                row.ids.extend_from_slice(&branch.ids[branch.n_prompt..]);
                self.cover_end(&mut row.ids);
            }
            joined.push(row);
        }
        let (mut tokens, residues) = self.batch(&joined)?;
        let width = tokens.ids.dim(1)?;
        let (mut places, mut targets) = (vec![], vec![]);
        for (at, tree) in trees.iter().enumerate() {
            let trunk = tree[0].n_prompt;
            let mut start = trunk;
            for row in *tree {
                let said = &row.ids[trunk..];
                let before = [trunk - 1].into_iter().chain(start..start + said.len() - 1);
                places.extend(before.map(|t| at * width + t));
                targets.extend_from_slice(said);
                start += said.len();
            }
        }
        if trees.len() < rows.len() {
            let lengths = |tree: &&[Row]| {
                [tree[0].n_prompt]
                    .into_iter()
                    .chain(tree.iter().map(|row| row.ids.len() - row.n_prompt))
                    .collect()
            };
            tokens.layout = Layout::Trees(trees.iter().map(lengths).collect());
        }
        let hidden = self.model.hidden(tape, &tokens, residues.as_ref())?;
        Ok(self.model.llm.token_logprobs(tape, &hidden, &places, &targets, temperature)?)
    }

    /// Log-probabilities of each row's completion tokens at the temperature, where nothing is trained.
    ///
    /// # Errors
    /// As [`Policy::score`].
    pub fn logprobs(&self, rows: &[Row], temperature: f64) -> Result<Vec<Vec<f32>>> {
        let scores = self.score(&Tape::off(), rows, temperature)?;
        let mut rest = scores.logprobs.value().to_vec1::<f32>()?.into_iter();
        Ok(rows.iter().map(|row| rest.by_ref().take(row.ids.len() - row.n_prompt).collect()).collect())
    }

    /// As [`Policy::score`], the rows standing behind each other in one line without padding, each seeing itself alone.
    ///
    /// # Errors
    /// As [`Policy::score`], and with a bridge whose vectors are read between the layers.
    pub fn score_packed(&self, tape: &Tape, rows: &[Row], temperature: f64) -> Result<TokenScores> {
        check_chats(rows)?;
        let (_, residues) = self.batch(rows)?;
        let residues = residues.map(|r| Residues { rows: vec![0; r.rows.len()], ..r });
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.ids.iter().copied()).collect();
        let (mut places, mut targets, mut start) = (vec![], vec![], 0);
        for row in rows {
            places.extend((row.n_prompt..row.ids.len()).map(|t| start + t - 1));
            targets.extend_from_slice(&row.ids[row.n_prompt..]);
            start += row.ids.len();
        }
        let documents = rows.iter().map(|row| row.ids.len()).collect();
        let ids = Tensor::from_vec(ids, (1, start), &candle_core::Device::Cpu)?;
        let line = Rows { ids, lengths: vec![start], layout: Layout::Documents(vec![documents]) };
        let hidden = self.model.hidden(tape, &line, residues.as_ref())?;
        Ok(self.model.llm.token_logprobs(tape, &hidden, &places, &targets, temperature)?)
    }

    /// How far what the vectors of a protein say, read as words, is from the words of the answer (see [`word_bags`]): the
    /// loss that teaches a bridge before the language model listens.
    ///
    /// # Shapes
    /// → scalar, nats
    ///
    /// # Errors
    /// When a row does not show one protein, or with a bridge whose vectors do not stand in the prompt.
    pub fn alignment(&self, tape: &Tape, rows: &[Row]) -> Result<Var> {
        ensure!(
            rows.iter().all(|row| row.proteins.len() == 1),
            "vectors are aligned with answers about one protein\nhint: leave other tasks out of align.data.tasks"
        );
        let (words, bags) = word_bags(rows);
        let bags = Tensor::from_vec(bags, (rows.len(), words.len()), &candle_core::Device::Cpu)?;
        let residues = self.batch(rows)?.1.context("a model that reads letters has no vectors to align")?;
        let logits = self.model.words_of_proteins(tape, &residues, &words)?;
        Ok(ops::mixture_divergence(tape, &logits, &bags)?)
    }

    /// Samples `samples` answers to each prompt, prompt by prompt; `rng(i)` is answer i's generator. Neither the other
    /// prompts nor the number of threads changes an answer.
    ///
    /// # Errors
    /// When a prompt's places do not fit its proteins.
    pub fn sample(
        &self,
        prompts: &[Row],
        samples: usize,
        max_new_tokens: usize,
        temperature: f64,
        rng: impl Fn(usize) -> ChaCha8Rng,
    ) -> Result<Vec<Completion>> {
        let sampling = Sampling::Random { temperature, top_k: None, top_p: None };
        self.generate(prompts, samples, max_new_tokens, sampling, rng)
    }

    /// The answer to each prompt that takes the most probable token every time.
    ///
    /// # Errors
    /// As [`Policy::sample`].
    pub fn answer(&self, prompts: &[Row], max_new_tokens: usize) -> Result<Vec<Completion>> {
        self.generate(prompts, 1, max_new_tokens, Sampling::Greedy, |i| rng(0, "greedy", i as u64))
    }

    /// A protein token ends an answer as the end of the turn does: it means something in questions alone.
    fn generate(
        &self,
        prompts: &[Row],
        samples: usize,
        max_new_tokens: usize,
        sampling: Sampling,
        rng: impl Fn(usize) -> ChaCha8Rng,
    ) -> Result<Vec<Completion>> {
        let special = self.tokenizer.special();
        let stop = &[&self.model.llm.config().eos_token_ids[..], &protein_tokens(special)].concat();
        let at_once = (SAMPLED_AT_ONCE / samples.max(1)).max(1);
        let mut out = Vec::with_capacity(prompts.len() * samples);
        for prompts in prompts.chunks(at_once) {
            let (embedded, done) = (self.prompts(prompts)?, out.len());
            let draw = |i| rng(done + i);
            let llm = &self.model.llm;
            out.extend(llm::generate(llm, &embedded, samples, max_new_tokens, sampling, stop, draw)?);
        }
        Ok(out)
    }

    /// log p(yes) − log p(no) of each prompt, over the whole answers: above 0 where the model leans to yes.
    ///
    /// # Errors
    /// As [`Policy::sample`].
    pub fn yes_scores(&self, prompts: &[Row]) -> Result<Vec<f64>> {
        let answer = |word: &str| -> Result<Vec<u32>> {
            let mut ids = self.tokenizer.encode(&format!("<answer>{word}</answer>"))?;
            ids.push(self.tokenizer.special().turn_end);
            Ok(ids)
        };
        let (yes, no) = (answer("yes")?, answer("no")?);
        let mut out = Vec::with_capacity(prompts.len());
        for prompts in prompts.chunks(SAMPLED_AT_ONCE / 2) {
            let both = (0..prompts.len()).flat_map(|p| [(p, yes.clone()), (p, no.clone())]);
            let completions: Vec<_> = both.collect();
            let scores = llm::score_completions(&self.model.llm, &self.prompts(prompts)?, &completions)?;
            out.extend(scores.chunks_exact(2).map(|pair| pair[0] - pair[1]));
        }
        Ok(out)
    }

    fn prompts(&self, prompts: &[Row]) -> Result<Prompts> {
        let (tokens, residues) = self.batch(prompts)?;
        Ok(self.model.prompts(&tokens, residues.as_ref())?)
    }
}

/// Refuses rows of which nothing can be scored.
fn check_chats(rows: &[Row]) -> Result<()> {
    let whole = |row: &Row| 0 < row.n_prompt && row.n_prompt < row.ids.len();
    ensure!(rows.iter().all(whole), "a chat without a prompt or an answer");
    Ok(())
}

pub(super) fn protein_tokens(special: Special) -> [u32; 3] {
    [special.protein_start, special.protein_embed, special.protein_end]
}
