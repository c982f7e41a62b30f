//! `peptalk chat`, `peptalk export` and `peptalk embed`: a trained language model, asked or given away, and its encoder.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::builder::TypedValueParser;
use datasets::sequences::Sequences;
use datasets::table::{ProteinRow, Rows};
use eval::embeddings::{self, Cache, Numbers};
use eval::llm::{About, Policy, Saying};

use crate::predict::choice;
use crate::stages::language_model;

/// What is asked of `peptalk chat`.
pub(crate) struct Talk {
    pub(crate) model: PathBuf,
    /// Residue letters.
    pub(crate) proteins: Vec<String>,
    /// FASTA files.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) saying: Saying,
}

impl Talk {
    /// The proteins in the order in which they are shown.
    fn sequences(&self) -> Result<Vec<String>> {
        let mut out = vec![];
        for (at, letters) in self.proteins.iter().enumerate() {
            let sequence = datasets::residue::normalise(letters);
            out.push(sequence.with_context(|| format!("--protein number {}", at + 1))?);
        }
        for path in &self.files {
            for named in Sequences::open(path)? {
                let named = named?;
                ensure!(
                    !named.sequence.is_empty(),
                    "{}, line {}: {} has no residues",
                    path.display(),
                    named.line,
                    named.id
                );
                out.push(named.sequence);
            }
        }
        Ok(out)
    }
}

/// Answers one question, or each line of the standard input, about the same proteins.
///
/// # Errors
/// When the model or a file cannot be read, or a protein is longer than the model takes.
pub(crate) fn chat(talk: &Talk, question: Option<&str>) -> Result<()> {
    let proteins = talk.sequences()?;
    let policy = Policy::load(&language_model(&talk.model)?)?;
    if let Some(most) = policy.max_residues() {
        for (at, protein) in proteins.iter().enumerate() {
            ensure!(
                protein.len() <= most,
                "protein number {} has {} residues, the model takes {most}\nhint: give the domain that the question is about",
                at + 1,
                protein.len()
            );
        }
    }
    let mut out = std::io::stdout();
    let mut answer = |question: &str| -> Result<()> {
        let said = policy.ask(question, &proteins, talk.saying)?;
        Ok(writeln!(out, "{said}")?)
    };
    if let Some(question) = question {
        return answer(question);
    }
    let input = std::io::stdin();
    let prompt = || -> Result<()> {
        if input.is_terminal() {
            eprint!("> ");
            std::io::stderr().flush()?;
        }
        Ok(())
    };
    prompt()?;
    for line in input.lock().lines() {
        let line = line.context("reading the questions")?;
        if !line.trim().is_empty() {
            answer(line.trim())?;
        }
        prompt()?;
    }
    Ok(())
}

/// Writes a policy as a model of its own; what the card needs is looked for where a run keeps it.
///
/// # Errors
/// When the model cannot be read or `out` not be written.
pub(crate) fn export(
    model: &Path,
    tables: Option<PathBuf>,
    results: Option<PathBuf>,
    out: &Path,
) -> Result<()> {
    ensure!(!out.exists(), "{} is there already\nhint: give a new folder as --out", out.display());
    let (out, folder) = (&std::path::absolute(out)?, language_model(model)?);
    let run = folder.parent().unwrap_or(Path::new("."));
    let settings = run.join(train::config::CONFIG);
    let stage = run.file_name().map_or("policy".into(), |name| name.to_string_lossy().into_owned());
    let there = |path: PathBuf| path.exists().then_some(path);
    let whole = run.join("..");
    let about = About {
        name: out.file_name().map_or(stage.clone(), |name| name.to_string_lossy().into_owned()),
        settings: there(settings).map(fs_err::read_to_string).transpose()?,
        tables: tables.or_else(|| there(whole.join("tables/manifest.json")).map(|_| whole.join("tables"))),
        results: results.or_else(|| there(whole.join("eval").join(&stage).join("results.json"))),
    };
    let policy = Policy::load(&folder)?;
    let mut change = None;
    datasets::atomic_folder(out, |folder| {
        change = Some(eval::llm::export(&policy, &about, folder)?);
        anyhow::Ok(())
    })?;
    let change = change.context("nothing was merged")?;
    println!("merging changed logits by {:.1e} at most, {:.1e} on average", change.largest, change.mean);
    println!("model: {}", out.display());
    Ok(())
}

/// How embeddings are kept: names as in recipes.
const NUMBERS: [(&str, &str); 3] = [
    ("f32", "To the bit"),
    ("f16", "Half the size, 11 bits of precision"),
    ("bf16", "Half the size, 8 bits of precision"),
];

/// Reads how embeddings are kept.
pub(crate) fn numbers() -> impl TypedValueParser<Value = Numbers> {
    choice(&NUMBERS)
}

/// Fills a cache of embeddings.
///
/// # Errors
/// When the proteins, the encoder or the cache cannot be read, or the cache not be written.
pub(crate) fn embed(
    input: Option<&Path>,
    tables: Option<&Path>,
    model: &Path,
    out: &Path,
    numbers: Numbers,
) -> Result<()> {
    let mut sequences: Vec<String> = vec![];
    if let Some(tables) = tables {
        sequences.extend(ProteinRow::read(tables)?.into_iter().map(|row| row.sequence));
    }
    for named in input.map(Sequences::open).transpose()?.into_iter().flatten() {
        sequences.push(named?.sequence);
    }
    let n_empty = sequences.iter().filter(|sequence| sequence.is_empty()).count();
    sequences.retain(|sequence| !sequence.is_empty());
    let model = language_model(model)?;
    let encoder = embeddings::open_encoder(&model)?;
    let mut cache = Cache::open(out, &encoder, numbers)?;
    let letters: Vec<&str> = sequences.iter().map(String::as_str).collect();
    let account = embeddings::fill(&mut cache, &encoder, &letters)?;
    println!(
        "{} encoded, {} known or twice in the list, {n_empty} empty, {} longer than {} residues: left out",
        account.new,
        account.known,
        account.too_long,
        encoder.max_residues()
    );
    println!("embeddings of {} proteins: {}", cache.len(), cache.folder().display());
    Ok(())
}
