//! `peptalk predict`: a trained model on new sequences, without tables.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use datasets::sequences::{Named, Sequences};
use eval::ss::{Decoder, Posterior, Prediction, Predictor, Priors, Q3, Q8, write};
use models::ss::BiLstmCrf;

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

/// How Q8 is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Q8Choice {
    /// The most probable state of each residue: for accuracy
    Marginal,
    /// The legal path with the most residues right on average: no helix shorter than DSSP has them
    Legal,
    /// The path that is most probable as a whole (Viterbi)
    Path,
    /// Probability against commonness: for macro-F1
    Prior,
}

/// How Q3 is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Q3Choice {
    /// The Q3 head and the sums together
    Both,
    /// The Q3 head
    Head,
    /// The class whose Q8 states are most probable together
    Sums,
    /// The class of the chosen Q8 state
    Map,
    /// Probability against commonness: for macro-F1
    Prior,
}

/// What is asked of `peptalk predict ss`.
pub(crate) struct Options {
    pub(crate) models: Vec<PathBuf>,
    pub(crate) format: Format,
    pub(crate) q8: Q8Choice,
    pub(crate) q3: Q3Choice,
    pub(crate) backwards: bool,
}

/// Predicts every sequence of a file, in its order.
///
/// # Errors
/// When a model or the file cannot be read, or the result not be written.
pub(crate) fn ss(input: &Path, out: &Path, options: &Options) -> Result<()> {
    let folders: Vec<PathBuf> = options.models.iter().map(|folder| model_in(folder)).collect();
    let predictor = Predictor::load(&folders)?;
    let decoder = Decoder {
        q8: match options.q8 {
            Q8Choice::Marginal => Q8::Marginal,
            Q8Choice::Path => Q8::Path,
            Q8Choice::Legal => Q8::Legal,
            Q8Choice::Prior => Q8::Prior,
        },
        q3: match options.q3 {
            Q3Choice::Both => Q3::Both,
            Q3Choice::Head => Q3::Head,
            Q3Choice::Sums => Q3::Sums,
            Q3Choice::Map => Q3::Map,
            Q3Choice::Prior => Q3::Prior,
        },
        priors: Priors::load(folders.first().context("no model to predict with")?)?,
    };
    let mut writer = Writer::new(out, options.format)?;
    let mut notes = Notes::default();
    let mut chunk: Vec<Named> = vec![];
    let mut residues = 0;
    let mut sequences = Sequences::open(input)?;
    loop {
        let next = sequences.next().transpose()?;
        let ends = next.is_none();
        if let Some(named) = next {
            notes.see(&named);
            residues += named.sequence.len();
            chunk.push(named);
        }
        if ends || residues >= CHUNK_RESIDUES {
            let texts: Vec<String> =
                chunk.iter().map(|named| directed(&named.sequence, options.backwards)).collect();
            let known: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
            let mut posteriors = predictor.predict(&known)?.into_iter();
            for named in chunk.drain(..) {
                // A sequence without residues has an output without states.
                let nothing = Posterior { q8: vec![], q3: vec![], path: vec![], legal: vec![] };
                let mut posterior = match named.sequence.is_empty() {
                    true => nothing,
                    false => posteriors.next().context("a sequence without a prediction")?,
                };
                if options.backwards {
                    posterior.reverse();
                }
                writer.write(&named, &decoder.decode(&posterior), &posterior, decoder.q3)?;
            }
            residues = 0;
        }
        if ends {
            break;
        }
    }
    writer.finish()?;
    notes.say();
    println!("{} predictions: {}", notes.n, out.display());
    Ok(())
}

fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

fn directed(sequence: &str, backwards: bool) -> String {
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
    Priors { shares: [0.125; 8], tau: 0.0, q3_tau: 0.0 }.save(out)?;
    println!("{} weights: {}", model.params().counts().0, out.display());
    Ok(())
}

/// A run folder stands for the model in it.
fn model_in(folder: &Path) -> PathBuf {
    let inside = folder.join("model");
    if inside.is_dir() { inside } else { folder.to_owned() }
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

/// One file of all predictions, or a folder with one for each.
enum Writer {
    File { format: Format, out: BufWriter<fs_err::File>, temporary: PathBuf, place: PathBuf },
    Folder { format: Format, place: PathBuf, names: BTreeSet<String> },
}

impl Writer {
    fn new(place: &Path, format: Format) -> Result<Self> {
        if matches!(format, Format::Ss2 | Format::Horiz) {
            fs_err::create_dir_all(place)?;
            let names = BTreeSet::new();
            return Ok(Self::Folder { format, place: place.to_owned(), names });
        }
        ensure!(!place.is_dir(), "{} is a folder; this format is one file", place.display());
        if let Some(folder) = place.parent() {
            fs_err::create_dir_all(folder)?;
        }
        let temporary = PathBuf::from(format!("{}.tmp", place.display()));
        let mut out = BufWriter::new(fs_err::File::create(&temporary)?);
        if format == Format::Csv {
            write::csv_header(&mut out)?;
        }
        Ok(Self::File { format, out, temporary, place: place.to_owned() })
    }

    fn write(&mut self, named: &Named, said: &Prediction, posterior: &Posterior, q3: Q3) -> Result<()> {
        match self {
            Self::File { format: Format::Csv, out, .. } => write::csv(out, named, said)?,
            Self::File { out, .. } => write::jsonl(out, named, said, posterior, q3)?,
            Self::Folder { format, place, names } => {
                let (extension, vertical) =
                    if *format == Format::Ss2 { ("ss2", true) } else { ("horiz", false) };
                let mut out =
                    BufWriter::new(fs_err::File::create(place.join(file_name(named, extension, names)))?);
                let classes = posterior.classes(q3);
                match vertical {
                    true => write::ss2(&mut out, named, said, &classes)?,
                    false => write::horiz(&mut out, named, said, &classes)?,
                }
                out.flush()?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if let Self::File { out, temporary, place, .. } = self {
            out.flush()?;
            fs_err::rename(temporary, place)?;
        }
        Ok(())
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
