//! `peptalk predict`: a trained model on new sequences, without tables.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use datasets::sequences::{Named, Sequences};
use eval::embeddings::Numbers;
use eval::ss::{Decoder, Gains, Posterior, Predictor, Q3, Q8, write};
use homology::PROFILE_WIDTH;
use models::ss::BiLstmCrf;
use serde::de::DeserializeOwned;
use toml::Value;

use crate::profile::profile;
use crate::stages::model_in;

/// Residues that are read and predicted before they are written: bounds the memory.
const CHUNK_RESIDUES: usize = 1 << 17;

/// How predictions are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// id,sst8,sst3: one file
    Csv,
    /// All probabilities, one JSON object a line: one file
    Jsonl,
    /// PSIPRED's vertical format: a folder with a file for each sequence
    Ss2,
    /// PSIPRED's horizontal format: a folder with a file for each sequence
    Horiz,
}

/// Names of [`Q8`] and what they are for.
const Q8_CHOICES: [(&str, &str); 4] = [
    ("marginal", "The most probable state of each residue: for accuracy"),
    ("legal", "The legal path with the most residues right on average: no helix shorter than DSSP has them"),
    ("path", "The path that is most probable as a whole (Viterbi)"),
    ("f1", "What macro-F1 gains most by"),
];

/// Names of [`Q3`] and what they are for.
const Q3_CHOICES: [(&str, &str); 5] = [
    ("both", "The Q3 head and the sums together"),
    ("head", "The Q3 head"),
    ("sums", "The class whose Q8 states are most probable together"),
    ("map", "The class of the chosen Q8 state"),
    ("f1", "What macro-F1 gains most by"),
];

/// Reads one of the choices, by its name in recipes.
pub(crate) fn choice<T>(choices: &'static [(&str, &str)]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = choices.iter().map(|&(name, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(values).try_map(|name| T::deserialize(Value::String(name)))
}

/// Reads how Q8 is chosen.
pub(crate) fn q8() -> impl TypedValueParser<Value = Q8> {
    choice(&Q8_CHOICES)
}

/// Reads how Q3 is chosen.
pub(crate) fn q3() -> impl TypedValueParser<Value = Q3> {
    choice(&Q3_CHOICES)
}

/// What is asked of `peptalk predict ss`.
pub(crate) struct Options {
    pub(crate) models: Vec<PathBuf>,
    pub(crate) vectors: Option<PathBuf>,
    pub(crate) tables: Option<PathBuf>,
    pub(crate) format: Format,
    pub(crate) q8: Q8,
    pub(crate) q3: Q3,
    pub(crate) backwards: bool,
}

/// Predicts every sequence of a file, in its order.
///
/// # Errors
/// When a model or the file cannot be read, or the result not be written.
pub(crate) fn ss(input: &Path, out: &Path, options: &Options) -> Result<()> {
    let folders: Vec<PathBuf> = options.models.iter().map(|folder| model_in(folder)).collect();
    let made; // it goes when all is predicted
    let vectors = match &options.tables {
        None => options.vectors.clone(),
        Some(tables) => {
            for folder in &folders {
                ensure!(
                    BiLstmCrf::load(folder)?.config().features == PROFILE_WIDTH,
                    "the model {} reads no profiles\nhint: leave --tables out",
                    folder.display()
                );
            }
            made = tempfile::tempdir()?;
            let path = made.path().join("profiles.parquet");
            profile(Some(input), options.backwards, tables, &path, Numbers::F32)?;
            Some(path)
        }
    };
    let predictor = Predictor::load(&folders, vectors.as_deref())?;
    let gains = Gains::load(folders.first().context("no model to predict with")?)?;
    let decoder = Decoder { q8: options.q8, q3: options.q3, gains };
    let notes = match options.format {
        Format::Csv | Format::Jsonl => {
            ensure!(!out.is_dir(), "{} is a folder; this format is one file", out.display());
            let mut notes = Notes::default();
            datasets::atomic_write(out, |file| {
                let mut file = BufWriter::new(file);
                if options.format == Format::Csv {
                    write::csv_header(&mut file)?;
                }
                notes = each(input, &predictor, options.backwards, |named, posterior| {
                    let said = decoder.decode(posterior);
                    match options.format {
                        Format::Csv => write::csv(&mut file, named, &said)?,
                        _ => write::jsonl(&mut file, named, &said, posterior, decoder.q3)?,
                    }
                    Ok(())
                })?;
                anyhow::Ok(file.flush()?)
            })?;
            notes
        }
        Format::Ss2 | Format::Horiz => {
            fs_err::create_dir_all(out)?;
            let extension = if options.format == Format::Ss2 { "ss2" } else { "horiz" };
            let mut names = BTreeSet::new();
            each(input, &predictor, options.backwards, |named, posterior| {
                let (said, classes) = (decoder.decode(posterior), posterior.classes(decoder.q3));
                datasets::atomic_write(&out.join(file_name(named, extension, &mut names)), |file| {
                    let mut file = BufWriter::new(file);
                    match options.format {
                        Format::Ss2 => write::ss2(&mut file, named, &said, &classes)?,
                        _ => write::horiz(&mut file, named, &said, &classes)?,
                    }
                    anyhow::Ok(file.flush()?)
                })
            })?
        }
    };
    notes.say();
    println!("{} predictions: {}", notes.n, out.display());
    Ok(())
}

/// Hands every sequence and what is thought of it to `write`, in the order and the direction of the file.
fn each(
    input: &Path,
    predictor: &Predictor,
    backwards: bool,
    mut write: impl FnMut(&Named, &Posterior) -> Result<()>,
) -> Result<Notes> {
    let mut notes = Notes::default();
    let mut sequences = Sequences::open(input)?.peekable();
    while sequences.peek().is_some() {
        let (mut chunk, mut residues): (Vec<Named>, usize) = (vec![], 0);
        while residues < CHUNK_RESIDUES
            && let Some(named) = sequences.next()
        {
            let named = named?;
            notes.see(&named);
            residues += named.sequence.len();
            chunk.push(named);
        }
        let texts: Vec<String> = chunk.iter().map(|named| directed(&named.sequence, backwards)).collect();
        let known: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        let mut posteriors = predictor.predict(&known)?.into_iter();
        for named in &chunk {
            // A sequence without residues has an output without states.
            let nothing = Posterior { q8: vec![], q3: vec![], path: vec![], legal: vec![] };
            let mut posterior = match named.sequence.is_empty() {
                true => nothing,
                false => posteriors.next().context("a sequence without a prediction")?,
            };
            if backwards {
                posterior.reverse();
            }
            write(named, &posterior)?;
        }
    }
    Ok(notes)
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// A sequence from N to C.
pub(crate) fn directed(sequence: &str, backwards: bool) -> String {
    if backwards { sequence.chars().rev().collect() } else { sequence.to_owned() }
}

/// Writes a checkpoint of PyTorch as a model folder. It says nothing of the states' commonness: all count as equal.
///
/// # Errors
/// As [`BiLstmCrf::import`], and when the folder cannot be written.
pub(crate) fn import(
    checkpoint: &Path,
    alphabet: &str,
    names: &[(String, String)],
    reversed: bool,
    out: &Path,
) -> Result<()> {
    let import = models::ss::torch::Import { alphabet, letters: datasets::residue::LETTERS, names, reversed };
    let model = BiLstmCrf::import(checkpoint, &import)?;
    model.save(out)?;
    Gains::equal().save(out)?;
    println!("{} weights: {}", model.params().counts().0, out.display());
    Ok(())
}

/// What is odd about the sequences, counted.
#[derive(Default)]
struct Notes {
    n: usize,
    empty: usize,
    repeated: usize,
    nucleotides: usize,
    /// Hashes of the ids: a file may be long.
    ids: HashSet<u64>,
}

impl Notes {
    fn see(&mut self, named: &Named) {
        self.n += 1;
        self.empty += usize::from(named.sequence.is_empty());
        self.repeated += usize::from(!self.ids.insert(hash(&named.id)));
        if named.is_nucleotides() {
            self.nucleotides += 1;
            if self.nucleotides == 1 {
                tracing::warn!(
                    "line {}: {} looks like nucleotides; it is read as residues",
                    named.line,
                    named.id
                );
            }
        }
    }

    fn say(&self) {
        for (n, what) in [
            (self.empty, "without a residue: their outputs are empty"),
            (self.repeated, "with the id of an earlier one: each has its own output"),
            (self.nucleotides, "that look like nucleotides"),
        ] {
            if n > 0 {
                tracing::warn!("{n} sequences {what}");
            }
        }
    }
}

/// The id as a file name; of equal ones the later get a number.
fn file_name(named: &Named, extension: &str, names: &mut BTreeSet<String>) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let stem: String = named.id.chars().map(plain).collect();
    let stem = if stem.is_empty() || stem.starts_with('.') { format!("sequence{stem}") } else { stem };
    let numbered = (2..).map(|n| format!("{stem}.{n}.{extension}"));
    let mut all = std::iter::once(format!("{stem}.{extension}")).chain(numbered);
    all.find(|name| names.insert(name.clone())).unwrap_or(stem)
}
