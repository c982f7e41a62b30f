//! A base model from scratch: a tokenizer and a small Qwen3-shaped decoder, trained to predict the next token of the
//! rendered texts (facts, questions and answers, sequences as letters). For machines where no checkpoint is at hand; a
//! recipe that names a base model has no need of this stage.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use datasets::chat::{CHATML, Chat};
use datasets::llm::{Example, LlmBatch, ProteinPath, Row};
use datasets::tokenizer::Tokenizer;
use models::llm::qwen3::{self, Qwen3};
use models::{Tape, Weights};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::llm::{Corpus, DataConfig, Questions};
use crate::loss::llm::TokenLoss;
use crate::optim::OptimConfig;
use crate::steps::Steps;

/// The `ssl` section of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of every draw.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Texts in a step.
    pub batch_size: usize,
    /// Fraction of the texts that spell their proteins; the others hold the placeholder, which costs no reading.
    pub letters_fraction: f64,
    /// Most tokens of the tokenizer.
    pub vocab_size: usize,
    /// Training questions that the tokenizer is made from.
    pub tokenizer_texts: u64,
    /// Held-out texts of each task on which the loss is measured.
    pub eval_per_task: usize,
    /// Steps between measurements.
    pub eval_every: u64,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// Which facts.
    pub data: DataConfig,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// How it is trained.
    pub optim: OptimConfig,
}

/// Sizes of the decoder; names as in its `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest text in tokens.
    pub max_position_embeddings: usize,
}

impl ModelConfig {
    fn resolve(&self, tokenizer: &Tokenizer) -> qwen3::Config {
        let special = tokenizer.special();
        qwen3::Config {
            vocab_size: tokenizer.vocab_size(),
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            max_position_embeddings: self.max_position_embeddings,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tie_word_embeddings: true,
            eos_token_ids: vec![special.turn_end, special.end_of_text],
        }
    }
}

/// Trains the base model and leaves it in `OUT/model`.
///
/// # Errors
/// On impossible settings, missing tables, a loss that stays without a finite value, I/O.
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool) -> Result<()> {
    ensure!(
        config.batch_size > 0 && config.eval_every > 0 && config.save_every > 0,
        "ssl: sizes must be positive"
    );
    let corpus = Corpus::read(tables, &config.data)?;
    let questions = corpus.questions(config.seed, "ssl/questions");
    let tokenizer = train_tokenizer(config, &questions)?;
    let chat = Chat::chatml();
    let seed = config.seed;
    let weights = Weights::random(move |name| datasets::rng(seed, &format!("init/{name}"), 0));
    let model = Qwen3::new(config.model.resolve(&tokenizer), weights)?;
    let (n, _) = model.params().counts();
    tracing::info!("base model of {n} weights, {} tokens", tokenizer.vocab_size());
    let held_out = corpus.valid(config.seed, config.eval_per_task, ProteinPath::Letters)?;
    let held_out: Vec<Row> = held_out.iter().map(|e| text(&chat, &tokenizer, e)).collect::<Result<_>>()?;

    let mut steps =
        Steps::new(out, "model", &config.optim, model.params(), config.steps, config.max_bad_steps)?;
    if resume {
        steps.resume(|weights| Ok(model.params().assign(weights)?))?;
    }
    let mut log = steps.log()?;
    loop {
        let step = steps.done();
        if steps.measures(config.eval_every) {
            let loss = held_out_loss(&model, &tokenizer, &held_out, config.batch_size)?;
            log.write(step, &[("valid/loss", loss), ("valid/perplexity", loss.exp())])?;
        }
        steps.save(config.save_every, &mut log, || Ok(model.params().snapshot()?))?;
        if steps.ended() {
            break;
        }
        let rows = (0..config.batch_size as u64)
            .map(|slot| {
                let at = step * config.batch_size as u64 + slot;
                let letters =
                    datasets::rng(seed, "ssl/letters", at).random::<f64>() < config.letters_fraction;
                let path = if letters { ProteinPath::Letters } else { ProteinPath::Encoder };
                text(&chat, &tokenizer, &questions.get(at, path))
            })
            .collect::<Result<Vec<Row>>>()?;
        let tape = Tape::on();
        let (logprobs, n_tokens) = next_tokens(&tape, &model, &tokenizer, &rows)?;
        let loss = TokenLoss::Nll.mean(&tape, &logprobs, n_tokens)?;
        let value = f64::from(loss.value().to_scalar::<f32>()?);
        let gradients = tape.backward(&loss)?;
        steps.take(&gradients, value, &mut log)?;
    }
    log.finish()?;
    datasets::atomic_folder(&out.join("model"), |folder| {
        model.save(folder)?;
        tokenizer.save(folder, CHATML)?;
        let eos = model.config().eos_token_ids.clone();
        let generation = serde_json::json!({
            "eos_token_id": eos, "pad_token_id": eos.last(), "do_sample": true, "temperature": 1.0,
        });
        fs_err::write(folder.join("generation_config.json"), format!("{generation:#}\n"))?;
        anyhow::Ok(())
    })
    .context("saving the base model")
}

/// The tokenizer, from the words of questions and answers and, one letter a token, some sequences.
fn train_tokenizer(config: &Config, questions: &Questions<'_>) -> Result<Tokenizer> {
    let texts = (0..config.tokenizer_texts).flat_map(|at| {
        let example = questions.get(at, ProteinPath::Letters);
        let question = example.prompt.into_iter().map(|message| message.content);
        question.chain([example.answer]).collect::<Vec<_>>()
    });
    Ok(Tokenizer::train(texts.collect::<Vec<_>>().into_iter(), config.vocab_size)?)
}

/// A whole chat in which every token carries loss. Proteins stand there as letters, or as a placeholder that no vector
/// replaces: the model learns the form of a question before it learns to look at a protein.
fn text(chat: &Chat, tokenizer: &Tokenizer, example: &Example) -> Result<Row> {
    let row = Row::encode(chat, tokenizer, example, 1)?;
    Ok(Row { proteins: vec![], n_prompt: 0, ..row })
}

/// Log-probability of every token but the first of each row, and how many there are.
fn next_tokens(
    tape: &Tape,
    model: &Qwen3,
    tokenizer: &Tokenizer,
    rows: &[Row],
) -> Result<(models::Var, usize)> {
    let longest = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
    let most = model.config().max_position_embeddings;
    ensure!(longest <= most, "a text of {longest} tokens, max_position_embeddings is {most}");
    let batch = LlmBatch::collate(rows, tokenizer, 1)?;
    let embeds = model.embed(tape, &batch.tokens)?;
    let hidden = model.hidden(tape, &embeds, &batch.lengths)?;
    let width = batch.tokens.dim(1)?;
    let places: Vec<usize> = batch
        .lengths
        .iter()
        .enumerate()
        .flat_map(|(row, &n)| (0..n - 1).map(move |t| row * width + t))
        .collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| row.ids[1..].iter().copied()).collect();
    let scores = model.token_logprobs(tape, &hidden, &places, &targets, 1.0)?;
    Ok((scores.logprobs, targets.len()))
}

fn held_out_loss(model: &Qwen3, tokenizer: &Tokenizer, rows: &[Row], batch_size: usize) -> Result<f64> {
    let (mut total, mut n) = (0.0, 0);
    for rows in rows.chunks(batch_size) {
        let (logprobs, n_tokens) = next_tokens(&Tape::off(), model, tokenizer, rows)?;
        let sum: Tensor = logprobs.value().sum_all()?;
        total -= f64::from(sum.to_scalar::<f32>()?);
        n += n_tokens;
    }
    Ok(total / n as f64)
}
