//! What a frozen encoder says of a protein, kept in Parquet so that it is computed once.
//!
//! A cache is a folder of parts below `ROOT/MODEL`, MODEL being a hash of the encoder's weights and options: another
//! encoder has another folder, and a fine-tuned one too. A part is written whole or not at all, so a run that was killed
//! goes on behind the last one. Each row is a protein:
//!
//! | column | |
//! |---|---|
//! | `sequence_sha256` | SHA-256 of the residue letters, 32 bytes |
//! | `n_residues`, `width` | L and E |
//! | `numbers` | `f32`, `f16` or `bf16` |
//! | `vectors` | L · E numbers, little-endian, residue by residue (`numpy.frombuffer`) |

mod file;
mod known;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{
    Array, AsArray, BinaryArray, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use candle_core::IndexOp;
use datasets::collate::Padding;
use fs_err as fs;
use half::{bf16, f16};
use indicatif::{ProgressBar, ProgressStyle};
use models::llm::{Encoder, encoder};
use models::{Tape, view};
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::in_batches;

pub use file::VectorFile;
pub use known::Known;

/// Bytes of vectors after which a part is written.
const PART_BYTES: usize = 64 << 20;
/// Bytes of vectors in a row group: what is read to get one protein.
const GROUP_BYTES: usize = 4 << 20;
/// Tokens, padding included, that are encoded side by side.
const TOKENS_AT_ONCE: usize = 4096;

type Key = [u8; 32];

/// How vectors are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// To the bit.
    #[default]
    F32,
    /// Half the size; 11 bits of precision, up to 65,504.
    F16,
    /// Half the size; 8 bits of precision.
    Bf16,
}

impl Numbers {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::F32, Self::F16, Self::Bf16].into_iter().find(|numbers| numbers.name() == name)
    }

    fn encode(self, x: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::F16 => x.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Self::Bf16 => x.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let pair = |b: &[u8]| [b[0], b[1]];
        match self {
            Self::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Self::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes(pair(b)).to_f32()).collect(),
            Self::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(pair(b)).to_f32()).collect(),
        }
    }
}

/// The `embeddings` section of a stage that reads proteins through an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of the cache, relative to the stage's; other stages and `peptalk embed` may fill and use the same.
    pub folder: PathBuf,
    /// `f32`, `f16` or `bf16`. With less than f32 the stage sees rounded vectors, from the first step on.
    #[serde(default)]
    pub numbers: Numbers,
}

/// Where a protein lies.
#[derive(Debug, Clone, Copy)]
struct Spot {
    file: usize,
    group: usize,
    row: usize,
}

/// Vectors of proteins in Parquet files, all of one width and kind.
#[derive(Default)]
struct Files {
    /// Width and kind: what was asked for, or what the first row has.
    kind: Option<(usize, Numbers)>,
    paths: Vec<PathBuf>,
    index: BTreeMap<Key, Spot>,
}

impl Files {
    /// Reads the keys of a file.
    fn add(&mut self, path: &Path) -> Result<()> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path)?.into_file())?;
        let groups: Vec<usize> =
            builder.metadata().row_groups().iter().map(|group| group.num_rows() as usize).collect();
        let columns =
            ProjectionMask::columns(builder.parquet_schema(), ["sequence_sha256", "width", "numbers"]);
        let places = groups.iter().enumerate().flat_map(|(group, &n)| (0..n).map(move |row| (group, row)));
        let mut places = places.collect::<Vec<_>>().into_iter();
        for batch in builder.with_projection(columns).build()? {
            let batch = batch?;
            let keys = column(&batch, "sequence_sha256")?
                .as_fixed_size_binary_opt()
                .context("keys of another type than 32 bytes")?;
            let widths = column(&batch, "width")?
                .as_primitive_opt::<UInt32Type>()
                .context("widths of another type than unsigned 32 bits")?;
            let numbers =
                column(&batch, "numbers")?.as_string_opt::<i32>().context("numbers of another type")?;
            for at in 0..batch.num_rows() {
                let name = numbers.value(at);
                let numbers = Numbers::named(name).with_context(|| format!("it holds numbers of {name}"))?;
                let here = (widths.value(at) as usize, numbers);
                let wanted = *self.kind.get_or_insert(here);
                ensure!(
                    here == wanted,
                    "it holds vectors of {} {name}, expected {} {}",
                    here.0,
                    wanted.0,
                    wanted.1.name()
                );
                let key: Key = keys.value(at).try_into().context("a key that is no SHA-256")?;
                let (group, row) = places.next().context("more rows than its footer says")?;
                self.index.insert(key, Spot { file: self.paths.len(), group, row });
            }
        }
        self.paths.push(path.to_owned());
        Ok(())
    }

    /// The vectors of a protein, `[L, E]` flat, if they are known.
    fn get(&self, sequence: &str) -> Result<Option<Vec<f32>>> {
        let Some(&spot) = self.index.get(&key(sequence)) else { return Ok(None) };
        let path = &self.paths[spot.file];
        let vectors = self.read(path, spot, sequence.len());
        vectors.map(Some).with_context(|| format!("the embeddings {}", path.display()))
    }

    fn read(&self, path: &Path, spot: Spot, n_residues: usize) -> Result<Vec<f32>> {
        let (width, numbers) = self.kind.context("nothing was read")?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path)?.into_file())?;
        let columns = ProjectionMask::columns(builder.parquet_schema(), ["vectors"]);
        let mut before = 0;
        for batch in builder.with_row_groups(vec![spot.group]).with_projection(columns).build()? {
            let batch = batch?;
            if spot.row < before + batch.num_rows() {
                let vectors =
                    column(&batch, "vectors")?.as_binary_opt::<i32>().context("vectors of another type")?;
                let found = numbers.decode(vectors.value(spot.row - before));
                let (got, want) = (found.len(), n_residues * width);
                ensure!(got == want, "{got} numbers for {n_residues} residues of {width}");
                return Ok(found);
            }
            before += batch.num_rows();
        }
        bail!("row {} of group {} is not there", spot.row, spot.group)
    }
}

/// The Parquet files of a folder, by name.
fn parquet_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        paths.extend(path.extension().is_some_and(|e| e == "parquet").then_some(path));
    }
    paths.sort();
    Ok(paths)
}

/// The vectors that one encoder gave.
pub struct Cache {
    folder: PathBuf,
    numbers: Numbers,
    width: usize,
    parts: Files,
    waiting: BTreeMap<Key, Vec<u8>>,
    waiting_bytes: usize,
}

impl Cache {
    /// Opens the cache of an encoder below `root`; it may be empty.
    ///
    /// # Errors
    /// Names a part that is broken or holds other vectors than these.
    pub fn open(root: &Path, encoder: &Encoder, numbers: Numbers) -> Result<Self> {
        let folder = root.join(format!("{}-{}", fingerprint(encoder)?, numbers.name()));
        fs::create_dir_all(&folder)?;
        let width = encoder.hidden_size();
        let mut parts = Files { kind: Some((width, numbers)), ..Files::default() };
        for path in parquet_in(&folder)? {
            parts.add(&path).with_context(|| {
                format!("the embeddings {}\nhint: remove this file, it is made again", path.display())
            })?;
        }
        Ok(Self { folder, numbers, width, parts, waiting: BTreeMap::new(), waiting_bytes: 0 })
    }

    /// Where its parts lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of proteins.
    pub fn len(&self) -> usize {
        self.parts.index.len() + self.waiting.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The vectors of a protein, `[L, E]` flat, if they are known.
    ///
    /// # Errors
    /// Names a part that cannot be read.
    pub fn get(&self, sequence: &str) -> Result<Option<Vec<f32>>> {
        match self.waiting.get(&key(sequence)) {
            Some(bytes) => Ok(Some(self.numbers.decode(bytes))),
            None => self.parts.get(sequence),
        }
    }

    /// Keeps the vectors of a protein, `[L, E]` flat, and gives them back as they will be read.
    ///
    /// # Errors
    /// When a part cannot be written.
    pub fn put(&mut self, sequence: &str, vectors: &[f32]) -> Result<Vec<f32>> {
        ensure!(
            vectors.len() == sequence.len() * self.width,
            "{} numbers for {} residues of {}",
            vectors.len(),
            sequence.len(),
            self.width
        );
        let bytes = self.numbers.encode(vectors);
        let kept = self.numbers.decode(&bytes);
        self.waiting_bytes += bytes.len();
        self.waiting.insert(key(sequence), bytes);
        if self.waiting_bytes >= PART_BYTES {
            self.flush()?;
        }
        Ok(kept)
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        // Not a number that another process took meanwhile.
        let free = |n: &usize| !self.folder.join(format!("part-{n:05}.parquet")).exists();
        let number = (self.parts.paths.len()..).find(free).context("no free number for a part")?;
        let path = self.folder.join(format!("part-{number:05}.parquet"));
        self.waiting_bytes = 0;
        write(&path, self.width, self.numbers, std::mem::take(&mut self.waiting))?;
        self.parts.add(&path)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::warn!("{error:#}"); // what is lost is computed again
        }
    }
}

/// Writes a file of vectors, each in bytes.
fn write(
    path: &Path,
    width: usize,
    numbers: Numbers,
    rows: impl IntoIterator<Item = (Key, Vec<u8>)>,
) -> Result<()> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("sequence_sha256", DataType::FixedSizeBinary(32), false),
        Field::new("n_residues", DataType::UInt32, false),
        Field::new("width", DataType::UInt32, false),
        Field::new("numbers", DataType::Utf8, false),
        Field::new("vectors", DataType::Binary, false),
    ]));
    let size = numbers.encode(&[0.0]).len() * width;
    let mut rows = rows.into_iter().peekable();
    datasets::atomic_write(path, |file| -> Result<()> {
        // Vectors do not compress; a group is as large as what one reading may cost.
        let properties = WriterProperties::builder().set_dictionary_enabled(false).build();
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties))?;
        while let Some(first) = rows.next() {
            let mut bytes = first.1.len();
            let mut group = vec![first];
            while let Some(row) = rows.next_if(|(_, row)| bytes + row.len() <= GROUP_BYTES) {
                bytes += row.1.len();
                group.push(row);
            }
            let batch = RecordBatch::try_new(
                schema.clone(),
                vec![
                    Arc::new(FixedSizeBinaryArray::try_from_iter(group.iter().map(|(key, _)| key))?),
                    Arc::new(UInt32Array::from_iter_values(
                        group.iter().map(|(_, row)| (row.len() / size) as u32),
                    )),
                    Arc::new(UInt32Array::from_iter_values(group.iter().map(|_| width as u32))),
                    Arc::new(StringArray::from_iter_values(group.iter().map(|_| numbers.name()))),
                    Arc::new(BinaryArray::from_iter_values(group.iter().map(|(_, row)| row))),
                ],
            )?;
            writer.write(&batch)?;
            writer.flush()?; // a row group
        }
        writer.close()?;
        Ok(())
    })
    .with_context(|| format!("writing the vectors {}", path.display()))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Arc<dyn Array>> {
    batch.column_by_name(name).with_context(|| format!("it has no column {name}"))
}

fn key(sequence: &str) -> Key {
    Sha256::digest(sequence.as_bytes()).into()
}

/// A hash of all that decides an encoder's vectors, 16 hexadecimal digits.
fn fingerprint(encoder: &Encoder) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(encoder.options().as_bytes());
    for param in encoder.params().iter() {
        hash.update(param.name().as_bytes());
        let numbers = view::<f32>(param.value())?;
        for chunk in numbers.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
            hash.update(&bytes);
        }
    }
    Ok(datasets::hex(&hash.finalize()[..8]))
}

/// What became of a list of proteins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Encoded now.
    pub new: usize,
    /// Known before, or twice in the list.
    pub known: usize,
    /// Longer than the encoder takes, and left out.
    pub too_long: usize,
}

/// Encodes the proteins that a cache lacks, in batches of like lengths.
///
/// # Errors
/// What the encoder or the cache says.
pub fn fill(cache: &mut Cache, encoder: &Encoder, sequences: &[&str]) -> Result<Account> {
    let mut account = Account::default();
    let most = encoder.max_residues();
    let mut missing: Vec<&str> = vec![];
    let mut taken = std::collections::BTreeSet::new();
    for &sequence in sequences {
        let key = key(sequence);
        let is_known = || cache.parts.index.contains_key(&key) || cache.waiting.contains_key(&key);
        if sequence.len() > most {
            account.too_long += 1;
        } else if is_known() || !taken.insert(key) {
            account.known += 1;
        } else {
            missing.push(sequence);
        }
    }
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {per_sec} {eta}")?;
    let bar = ProgressBar::new(missing.len() as u64).with_style(style).with_prefix("proteins");
    in_batches(&missing, fit, |batch| {
        for (sequence, vectors) in batch.iter().zip(encode_batch(encoder, batch)?) {
            cache.put(sequence, &vectors)?;
        }
        account.new += batch.len();
        bar.inc(batch.len() as u64);
        Ok(vec![(); batch.len()])
    })?;
    bar.finish_and_clear();
    cache.flush()?;
    Ok(account)
}

/// Reads an encoder.
///
/// # Errors
/// As [`Encoder::load`], with the path.
pub fn open_encoder(path: &Path) -> Result<Encoder> {
    Encoder::load(path).with_context(|| format!("opening the encoder {}", path.display()))
}

/// Residue vectors of some proteins without those of `<cls>` and `<eos>`, `[L, E]` flat each.
///
/// # Errors
/// On an empty sequence, or one longer than the encoder takes.
pub fn encode(encoder: &Encoder, sequences: &[&str]) -> Result<Vec<Vec<f32>>> {
    in_batches(sequences, fit, |batch| encode_batch(encoder, batch))
}

/// Whether n proteins are encoded side by side of which the longest has that many residues.
fn fit(n: usize, longest: usize) -> bool {
    n * (longest + 2) <= TOKENS_AT_ONCE
}

fn encode_batch(encoder: &Encoder, sequences: &[&str]) -> Result<Vec<Vec<f32>>> {
    let ids: Vec<Vec<u32>> = sequences.iter().map(|sequence| encoder::encode(sequence)).collect();
    ensure!(sequences.iter().all(|sequence| !sequence.is_empty()), "a protein has no residues");
    let padding = Padding::new(ids.iter().map(Vec::len).collect())?;
    let tokens = padding.pad(ids.iter().map(Vec::as_slice), 1, encoder::PAD)?;
    let vectors = encoder.embeddings(&Tape::off(), &tokens, padding.lengths())?;
    let inside = |(row, ids): (usize, &Vec<u32>)| -> Result<Vec<f32>> {
        Ok(vectors.value().i((row, 1..ids.len() - 1))?.flatten_all()?.to_vec1()?)
    };
    ids.iter().enumerate().map(inside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCES: [&str; 5] = ["MKTAYIAK", "GGHIKLM", "M", "ACDEFGHIKLMNPQ", "WYWY"];

    pub(super) fn encoder() -> Encoder {
        Encoder::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/esmc")).unwrap()
    }

    fn parts(root: &Path) -> Vec<PathBuf> {
        let folder = fs::read_dir(root).unwrap().next().unwrap().unwrap().path();
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn vectors_come_back_and_are_made_once() {
        let (root, encoder) = (tempfile::tempdir().unwrap(), encoder());
        let direct = encode(&encoder, &SEQUENCES).unwrap();
        let mut cache = Cache::open(root.path(), &encoder, Numbers::F32).unwrap();
        assert!(cache.is_empty() && cache.get("MKT").unwrap().is_none());
        let long = "M".repeat(15); // the encoder takes 14
        let list = [&SEQUENCES[..3], &[&long, SEQUENCES[0]]].concat();
        let account = fill(&mut cache, &encoder, &list).unwrap();
        assert_eq!(account, Account { new: 3, known: 1, too_long: 1 });
        drop(cache);
        // a later run goes on behind
        let mut cache = Cache::open(root.path(), &encoder, Numbers::F32).unwrap();
        assert_eq!(cache.len(), 3);
        let account = fill(&mut cache, &encoder, &SEQUENCES).unwrap();
        assert_eq!(account, Account { new: 2, known: 3, too_long: 0 });
        for (sequence, direct) in SEQUENCES.iter().zip(&direct) {
            assert_eq!(cache.get(sequence).unwrap().as_ref(), Some(direct));
        }
        assert_eq!(parts(root.path()).len(), 2);
        // what waits is seen, and written at the end
        cache.put("AAAA", &[0.5; 4 * 12]).unwrap();
        assert_eq!(cache.get("AAAA").unwrap(), Some(vec![0.5; 48]));
        assert!(cache.put("AAA", &[0.0; 7]).is_err());
        drop(cache);
        assert_eq!(parts(root.path()).len(), 3);
    }

    #[test]
    fn half_precision_is_rounded_from_the_start() {
        let encoder = encoder();
        let direct = encode(&encoder, &SEQUENCES).unwrap();
        for (numbers, precision) in [(Numbers::F16, 1e-3), (Numbers::Bf16, 8e-3)] {
            let root = tempfile::tempdir().unwrap();
            let mut cache = Cache::open(root.path(), &encoder, numbers).unwrap();
            let kept: Vec<Vec<f32>> =
                SEQUENCES.iter().zip(&direct).map(|(s, v)| cache.put(s, v).unwrap()).collect();
            drop(cache);
            let cache = Cache::open(root.path(), &encoder, numbers).unwrap();
            for ((sequence, direct), kept) in SEQUENCES.iter().zip(&direct).zip(&kept) {
                assert_eq!(cache.get(sequence).unwrap().as_ref(), Some(kept));
                assert!(direct.iter().zip(kept).all(|(a, b)| (a - b).abs() <= precision * a.abs() + 1e-7));
                assert_ne!(direct, kept);
            }
        }
    }

    #[test]
    fn another_encoder_has_another_folder_and_a_broken_part_is_named() {
        let (root, encoder) = (tempfile::tempdir().unwrap(), encoder());
        let mut cache = Cache::open(root.path(), &encoder, Numbers::F32).unwrap();
        fill(&mut cache, &encoder, &SEQUENCES).unwrap();
        drop(cache);
        let other = self::encoder();
        let param = other.params().iter().next().unwrap();
        param.update(|x| x[0] += 1e-3).unwrap();
        assert!(Cache::open(root.path(), &other, Numbers::F32).unwrap().is_empty());
        let path = Cache::open(root.path(), &encoder, Numbers::F32).unwrap().parts.paths[0].clone();
        let bytes = fs::read(&path).unwrap();
        for broken in [&bytes[..bytes.len() / 2], b"PAR1", b""] {
            fs::write(&path, broken).unwrap();
            let error = format!("{:#}", Cache::open(root.path(), &encoder, Numbers::F32).err().unwrap());
            assert!(
                error.contains("part-00000.parquet") && error.contains("hint: remove this file"),
                "{error}"
            );
        }
    }
}
