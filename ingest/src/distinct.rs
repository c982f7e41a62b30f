//! Exact repeats out of Parquet files of any size: of rows with one key the first stays, in the order of the files.
//!
//! Keys are compared by 128 bits of hash, not by their text: a set of hashes is all that must be remembered. The calling
//! thread reads, hashes and drops what the set has; others encode the row groups of what is left, of which a few wait.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use datasets::residue;
use datasets::table::{ROW_GROUP, row_group::RowGroups};
use fs_err as fs;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use twox_hash::XxHash3_128;

use crate::Error;

/// What makes two rows the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Key {
    /// Columns that are equal to the letter (text, or numbers by their text).
    pub columns: Vec<String>,
    /// Columns of sequences that are equal once normalised ([`datasets::residue::normalise`]); what is no sequence counts
    /// as it is written.
    pub sequences: Vec<String>,
}

/// Rows read, and rows that stayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows of all files.
    pub rows: u64,
    /// Distinct ones.
    pub kept: u64,
}

/// Writes the first row of every key in `files`, in their order, to `out`: the same bytes on any number of threads.
///
/// Memory: 39 bytes a row at most for the set, and a row group of [`datasets::table`] a thread. The chance that any two
/// different keys of n rows have one hash is n² / 2¹²⁹: 3e-26 for 4.5 million.
///
/// # Errors
/// I/O; files of different columns; a key without columns, or of columns that a file lacks or that have no text.
pub fn distinct(files: &[PathBuf], key: &Key, out: &Path) -> Result<Counts, Error> {
    let input = Input::open(files, key)?;
    let mut counts = Counts::default();
    datasets::atomic_write(out, |file| {
        counts = input.write(file)?;
        Ok::<_, Error>(())
    })?;
    Ok(counts)
}

/// Files of one schema.
struct Input<'a> {
    files: &'a [PathBuf],
    schema: SchemaRef,
    /// Columns of the key, and whether they hold sequences.
    key: Vec<(usize, bool)>,
    rows: u64,
}

impl<'a> Input<'a> {
    fn open(files: &'a [PathBuf], key: &Key) -> Result<Self, Error> {
        let bad = |path: &Path, detail, hint: &str| format_error(path, "columns", detail, hint);
        let (mut schema, mut rows): (Option<SchemaRef>, _) = (None, 0);
        for path in files {
            let file = reader(path)?;
            rows += file.metadata().file_metadata().num_rows().cast_unsigned();
            let got = file.schema();
            let first = schema.get_or_insert_with(|| got.clone());
            if first.fields() != got.fields() {
                let detail = format!("{got} here, {first} in {}", files[0].display());
                return Err(bad(path, detail, "rows are compared between files of the same columns only"));
            }
        }
        let first = files.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
        let names = key.columns.iter().map(|name| (name, false));
        let names = names.chain(key.sequences.iter().map(|name| (name, true)));
        let (Some(schema), false) = (schema, key.columns.is_empty() && key.sequences.is_empty()) else {
            return Err(bad(first, "no file or no column was named".into(), "name both"));
        };
        let column = |(name, sequence): (&String, bool)| match schema.column_with_name(name) {
            Some((at, field)) if arrow::compute::can_cast_types(field.data_type(), &DataType::Utf8View) => {
                Ok((at, sequence))
            }
            Some((_, field)) => Err(bad(
                first,
                format!("{name:?} is of type {}", field.data_type()),
                "a key is made of columns of text or numbers",
            )),
            None => {
                let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                Err(bad(first, format!("there is no {name:?}"), &format!("it has {}", names.join(", "))))
            }
        };
        let key = names.map(column).collect::<Result<_, _>>()?;
        Ok(Self { files, schema, key, rows })
    }

    fn write(&self, file: &mut std::fs::File) -> Result<Counts, Error> {
        let mut seen = Seen::with_capacity_and_hasher(self.rows as usize, BuildHasherDefault::default());
        let n_encoders = match rayon::current_num_threads() {
            1 => 0,
            n => n,
        };
        let mut out = RowGroups::new(file, self.schema.clone(), n_encoders)?;
        let (mut rows, mut keys) = (0, Vec::new());
        for path in self.files {
            for batch in reader(path)?.with_batch_size(ROW_GROUP).build()? {
                let batch = batch.map_err(|error| broken(path, &error))?;
                self.hash(&batch, &mut keys)?;
                let new: BooleanArray = keys.iter().map(|&key| Some(seen.insert(key))).collect();
                out.append(&filter_record_batch(&batch, &new)?)?;
                rows += keys.len() as u64;
            }
        }
        let (_, kept) = out.close()?;
        Ok(Counts { rows, kept })
    }

    /// Hash of the key of every row.
    fn hash(&self, batch: &RecordBatch, keys: &mut Vec<u128>) -> Result<(), Error> {
        let text = |&(at, sequence): &(usize, bool)| -> Result<_, Error> {
            Ok((cast(batch.column(at), &DataType::Utf8View)?.as_string_view().clone(), sequence))
        };
        let columns = self.key.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut bytes = Vec::new();
        keys.clear();
        keys.extend((0..batch.num_rows()).map(|row| {
            bytes.clear();
            for (column, sequence) in &columns {
                if column.is_null(row) {
                    bytes.extend(u64::MAX.to_le_bytes());
                    continue;
                }
                let text = column.value(row);
                let text = if *sequence { normal(text) } else { text.into() };
                // The length before the text keeps columns apart.
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            XxHash3_128::oneshot(&bytes)
        }));
        Ok(())
    }
}

/// A sequence, normalised.
fn normal(text: &str) -> Cow<'_, str> {
    if residue::is_normal(text) {
        return text.into();
    }
    residue::normalise(text).map_or(text.into(), Cow::from)
}

pub(crate) fn reader(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<std::fs::File>, Error> {
    let file = fs::File::open(path)?.into_file();
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(path, &error))
}

pub(crate) fn broken(path: &Path, error: &dyn std::fmt::Display) -> Error {
    format_error(path, "as Parquet", error.to_string(), "no Parquet file, or damaged; make or fetch it again")
}

pub(crate) fn format_error(path: &Path, place: &str, detail: String, hint: &str) -> Error {
    Error::Format { path: path.into(), place: place.into(), detail, hint: hint.into() }
}

/// Hashes that were seen.
type Seen = HashSet<u128, BuildHasherDefault<Low>>;

/// The lower half of a hash is hash enough.
#[derive(Default)]
struct Low(u64);

impl Hasher for Low {
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of 128 bits are hashed");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use datasets::rng;
    use parquet::arrow::ArrowWriter;
    use rand::Rng;

    type Row = (String, Option<String>, i64);

    fn write(path: &Path, rows: &[Row], group: usize) {
        let column = |name: &str, array: ArrayRef| (name.to_owned(), array, true);
        let batch = RecordBatch::try_from_iter_with_nullable([
            column("seq", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.0)))),
            column("text", Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1.as_deref())))),
            column("n", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2)))),
        ]);
        let batch = batch.unwrap();
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_max_row_group_row_count(Some(group))
            .build();
        let file = fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    fn read(path: &Path) -> Vec<Row> {
        let mut rows = Vec::new();
        for batch in reader(path).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            let (seq, text) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
            let n = batch.column(2).as_primitive::<arrow::datatypes::Int64Type>();
            rows.extend((0..batch.num_rows()).map(|i| {
                (seq.value(i).to_owned(), text.is_valid(i).then(|| text.value(i).to_owned()), n.value(i))
            }));
        }
        rows
    }

    fn key(columns: &[&str], sequences: &[&str]) -> Key {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Key { columns: owned(columns), sequences: owned(sequences) }
    }

    /// Against a plain loop over normalised rows, over two files and more rows than a row group has.
    #[test]
    fn the_first_row_of_every_key_stays_on_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = rng(7, "distinct", 0);
        let mut rows: Vec<Row> = (0..30_000)
            .map(|n| {
                let seq = ["MKT", "mk-t", "MJ", "MX", "M1", "", "AB"][(rng.next_u32() % 7) as usize];
                let text = (!rng.next_u32().is_multiple_of(10)).then(|| (rng.next_u32() % 9_000).to_string());
                (seq.to_owned(), text, n)
            })
            .collect();
        rows[0].1 = Some("x".repeat(1 << 20));
        let files = [folder.path().join("a.parquet"), folder.path().join("b.parquet")];
        write(&files[0], &rows[..11_000], 700);
        write(&files[1], &rows[11_000..], 100_000);
        let mut seen = std::collections::BTreeSet::new();
        let mut want = rows.clone();
        want.retain(|(seq, text, _)| {
            seen.insert((residue::normalise(seq).unwrap_or(seq.clone()), text.clone()))
        });
        assert!(want.len() > 2 * ROW_GROUP, "{}", want.len());

        let mut bytes = Vec::new();
        for threads in [1, 3] {
            let out = folder.path().join("out.parquet");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let counts = pool.install(|| distinct(&files, &key(&["text"], &["seq"]), &out)).unwrap();
            assert_eq!(counts, Counts { rows: 30_000, kept: want.len() as u64 });
            assert!(read(&out) == want);
            bytes.push(fs::read(&out).unwrap());
        }
        assert!(bytes[0] == bytes[1], "two runs differ");
    }

    #[test]
    fn columns_are_kept_apart_and_numbers_are_keys_too() {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("a.parquet"), folder.path().join("out.parquet"));
        let row = |a: &str, b: &str, n| (a.to_owned(), Some(b.to_owned()), n);
        let rows = [row("AB", "C", 1), row("A", "BC", 1), row("AB", "C", 2), row("AB", "C", 1)];
        write(&file, &rows, 2);
        let kept = |key: Key| distinct(std::slice::from_ref(&file), &key, &out).unwrap().kept;
        assert_eq!(kept(key(&["seq", "text"], &[])), 2);
        assert_eq!(kept(key(&["seq", "text", "n"], &[])), 3);
        assert_eq!(kept(key(&["n"], &[])), 2);
        assert_eq!(read(&out), [rows[0].clone(), rows[2].clone()]);
    }

    #[test]
    fn what_cannot_be_compared_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.parquet"), folder.path().join("b.parquet"));
        let out = folder.path().join("out.parquet");
        write(&a, &[("MK".into(), None, 1)], 1);
        let other =
            RecordBatch::try_from_iter([("seq", Arc::new(StringArray::from(vec!["MK"])) as ArrayRef)]);
        let other = other.unwrap();
        let mut writer = ArrowWriter::try_new(fs::File::create(&b).unwrap(), other.schema(), None).unwrap();
        writer.write(&other).unwrap();
        writer.close().unwrap();
        let cut = folder.path().join("cut.parquet");
        let bytes = fs::read(&a).unwrap();
        fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
        for (files, key, say) in [
            (vec![cut], key(&["seq"], &[]), "cut.parquet"),
            (vec![a.clone()], key(&["txt"], &[]), "there is no \"txt\""),
            (vec![a.clone()], key(&[], &[]), "no file or no column"),
            (vec![], key(&["seq"], &[]), "no file or no column"),
            (vec![a.clone(), b.clone()], key(&["seq"], &[]), "b.parquet"),
        ] {
            let error = distinct(&files, &key, &out).unwrap_err().to_string();
            assert!(error.contains(say) && error.contains("hint: "), "{error}");
        }
        assert!(!out.exists());
    }
}
