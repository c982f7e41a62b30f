//! Tables → a folder to give away, laid out as the Hugging Face hub does it.
//!
//! | what | where |
//! |---|---|
//! | a table that speaks of proteins, by part, its rows with sequence and cluster | `data/TABLE/train-00000-of-00003.parquet` |
//! | what speaks of no protein, and the quarantine | `extra/` |
//! | card: configurations, numbers, columns, sources and their licences | `README.md` |
//! | the same for machines, with every file's SHA-256 | `croissant.json` (Croissant 1.0) |
//! | what it was made of | `manifest.json`, `audit.json`, `account.md`, `go.obo` |

mod card;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datasets::table::{
    ChainRow, ContradictionRow, DdgRow, DomainRow, FactRow, GoRow, PlddtRow, PpiRow, ProteinRow,
    QuarantineRow, RepeatRow, Rows, Split, SsRow, WeightRow, row_group::RowGroups,
};
use fs_err as fs;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::Error;
use crate::manifest::Manifest;

/// Rows of a file, as a rule: some hundred megabytes of facts.
pub const SHARD_ROWS: usize = 500_000;

/// A written file.
struct Shard {
    /// Relative to the folder.
    path: String,
    sha256: String,
    bytes: u64,
}

/// One part of one table.
struct Part {
    split: &'static str,
    rows: u64,
    shards: Vec<Shard>,
}

/// One table.
struct Table {
    name: &'static str,
    schema: SchemaRef,
    parts: Vec<Part>,
}

impl Table {
    fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.parts.iter().flat_map(|part| &part.shards)
    }
}

/// What every row is told of its protein.
struct Protein {
    sequence: String,
    cluster: String,
    split: Split,
}

/// Writes the tables of a folder as a dataset into `out`, which appears whole; `rows_per_shard` rows of a part are a file.
/// The same tables give identical bytes. Tables are streamed; the proteins alone are held in memory.
///
/// # Errors
/// When `tables` is no finished folder of `peptalk ingest`, a row names a protein that the tables lack, or I/O.
pub fn publish(tables: &Path, out: &Path, name: &str, rows_per_shard: usize) -> Result<(), Error> {
    let manifest = Manifest::read(tables)?;
    let proteins: BTreeMap<String, Protein> = ProteinRow::read(tables)?
        .into_iter()
        .map(|p| (p.protein_id, Protein { sequence: p.sequence, cluster: p.cluster, split: p.split }))
        .collect();
    datasets::atomic_folder(out, |folder| {
        let shelf = Shelf { tables, folder, proteins: &proteins, rows_per_shard: rows_per_shard.max(1) };
        let all = [
            shelf.put::<ProteinRow>()?,
            shelf.put::<FactRow>()?,
            shelf.put::<ChainRow>()?,
            shelf.put::<SsRow>()?,
            shelf.put::<GoRow>()?,
            shelf.put::<PpiRow>()?,
            shelf.put::<DdgRow>()?,
            shelf.put::<PlddtRow>()?,
        ];
        let all: Vec<Table> = all.into_iter().filter(|table| table.rows() > 0).collect();
        fs::create_dir_all(folder.join("extra"))?;
        let extra =
            [DomainRow::path, WeightRow::path, RepeatRow::path, ContradictionRow::path, QuarantineRow::path];
        // An earlier peptalk did not write every table.
        for path in extra.map(|path| path(tables)).iter().filter(|path| path.exists()) {
            fs::copy(path, folder.join("extra").join(path.file_name().unwrap_or_default()))?;
        }
        for file in ["manifest.json", "audit.json", "account.md", "go.obo"] {
            let from = tables.join(file);
            if from.exists() {
                fs::copy(&from, folder.join(file))?;
            }
        }
        fs::write(folder.join("README.md"), card::markdown(name, &manifest, &all, &proteins))?;
        crate::manifest::write_json(&folder.join("croissant.json"), &card::croissant(name, &manifest, &all))
    })
}

/// Where tables go.
struct Shelf<'a> {
    tables: &'a Path,
    folder: &'a Path,
    proteins: &'a BTreeMap<String, Protein>,
    rows_per_shard: usize,
}

impl Shelf<'_> {
    fn put<R: Rows>(&self) -> Result<Table, Error> {
        let path = R::path(self.tables);
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path)?.into_file())?.build()?;
        let plan = Plan::of(&R::fields()?.iter().map(|f| f.name().clone()).collect::<Vec<_>>());
        let (mut parts, mut schema) = (BTreeMap::<Split, Writer>::new(), None);
        for batch in reader {
            let (batch, splits) = plan.complete(&batch?, self.proteins, &path)?;
            schema.get_or_insert_with(|| batch.schema());
            for split in [Split::Train, Split::Valid, Split::Test, Split::Excluded] {
                let own: BooleanArray = splits.iter().map(|of| Some(*of == split)).collect();
                if own.true_count() > 0 {
                    let folder = self.folder.join("data").join(R::TABLE);
                    let writer = parts
                        .entry(split)
                        .or_insert_with(|| Writer::new(folder, name_of(split), self.rows_per_shard));
                    writer.write(&filter_record_batch(&batch, &own)?)?;
                }
            }
        }
        let parts = parts.into_values().map(|writer| writer.close(self.folder)).collect::<Result<_, _>>()?;
        let schema = schema.unwrap_or_else(|| Arc::new(Schema::empty()));
        Ok(Table { name: R::TABLE, schema, parts })
    }
}

/// The parts' names at the hub.
fn name_of(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Valid => "validation",
        Split::Test => "test",
        Split::Excluded => "excluded",
    }
}

/// What is added to the rows of a table: for each column with a protein's id, sequence and cluster, unless they are there.
struct Plan {
    /// The column with the id, and what is added to the names of the new columns.
    ids: Vec<(String, String)>,
    has_sequence: bool,
    has_split: bool,
}

impl Plan {
    fn of(columns: &[String]) -> Self {
        let id = |name: &String| Some((name.clone(), name.strip_prefix("protein_id")?.to_owned()));
        let has = |name: &str| columns.iter().any(|column| column == name);
        Self {
            ids: columns.iter().filter_map(id).collect(),
            has_sequence: has("sequence"),
            has_split: has("split"),
        }
    }

    /// The batch with its new columns, and the part of every row.
    fn complete(
        &self,
        batch: &RecordBatch,
        proteins: &BTreeMap<String, Protein>,
        path: &Path,
    ) -> Result<(RecordBatch, Vec<Split>), Error> {
        let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        let mut splits = vec![];
        for (id, suffix) in &self.ids {
            let named = strings(batch, id)
                .into_iter()
                .map(|id| {
                    proteins.get(&id).ok_or_else(|| Error::Format {
                        path: path.to_owned(),
                        place: format!("protein {id}"),
                        detail: "it is not in proteins.parquet".into(),
                        hint: "run `peptalk ingest` again".into(),
                    })
                })
                .collect::<Result<Vec<&Protein>, Error>>()?;
            if splits.is_empty() {
                splits = named.iter().map(|protein| protein.split).collect();
            }
            if !self.has_sequence {
                let mut add = |name: &str, of: fn(&Protein) -> &str| {
                    let column: StringArray = named.iter().map(|protein| Some(of(protein))).collect();
                    fields.push(Arc::new(Field::new(format!("{name}{suffix}"), DataType::Utf8, false)));
                    columns.push(Arc::new(column) as ArrayRef);
                };
                add("sequence", |protein| &protein.sequence);
                add("cluster", |protein| &protein.cluster);
            }
        }
        if self.has_split {
            let parse = |text: String| serde_json::from_value(text.into());
            splits = strings(batch, "split").into_iter().map(parse).collect::<Result<_, _>>()?;
        }
        Ok((RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?, splits))
    }
}

/// A column of text.
fn strings(batch: &RecordBatch, name: &str) -> Vec<String> {
    let column = batch.column_by_name(name).map(|column| arrow::compute::cast(column, &DataType::Utf8));
    let Some(Ok(column)) = column else { return vec![] };
    let text = column.as_any().downcast_ref::<StringArray>();
    text.map(|text| text.iter().map(|cell| cell.unwrap_or_default().to_owned()).collect()).unwrap_or_default()
}

/// Writes one part of a table, a file after the other; how many there are is known at the end, so names are given then.
struct Writer {
    folder: PathBuf,
    split: &'static str,
    rows_per_shard: usize,
    open: Option<(RowGroups<std::fs::File>, usize)>,
    n_shards: usize,
    rows: u64,
}

impl Writer {
    fn new(folder: PathBuf, split: &'static str, rows_per_shard: usize) -> Self {
        Self { folder, split, rows_per_shard, open: None, n_shards: 0, rows: 0 }
    }

    fn unnamed(&self, shard: usize) -> PathBuf {
        self.folder.join(format!("{}-{shard:05}.parquet", self.split))
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let mut from = 0;
        while from < batch.num_rows() {
            let (mut writer, held) = match self.open.take() {
                Some(open) => open,
                None => {
                    fs::create_dir_all(&self.folder)?;
                    let file = fs::File::create(self.unnamed(self.n_shards))?.into_file();
                    self.n_shards += 1;
                    (RowGroups::new(file, batch.schema(), 0)?, 0)
                }
            };
            let n = (batch.num_rows() - from).min(self.rows_per_shard - held);
            writer.append(&batch.slice(from, n))?;
            from += n;
            match held + n == self.rows_per_shard {
                true => writer.close().map(|_| ())?,
                false => self.open = Some((writer, held + n)),
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// The finished part; paths are relative to `root`.
    fn close(mut self, root: &Path) -> Result<Part, Error> {
        if let Some((writer, _)) = self.open.take() {
            writer.close()?;
        }
        let shard = |at: usize| -> Result<Shard, Error> {
            let name = format!("{}-{at:05}-of-{:05}.parquet", self.split, self.n_shards);
            let path = self.folder.join(name);
            fs::rename(self.unnamed(at), &path)?;
            let (sha256, bytes) = datasets::file_sha256(&path)?;
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            Ok(Shard { path, sha256, bytes })
        };
        let shards = (0..self.n_shards).map(shard).collect::<Result<_, _>>()?;
        Ok(Part { split: self.split, rows: self.rows, shards })
    }
}
