//! How rows become Parquet files and come back.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use arrow::record_batch::RecordBatch;
use fs_err as fs;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use super::row_group::RowGroups;
use crate::Error;

/// Rows of a row group: small enough to stream, large enough to compress.
pub const ROW_GROUP: usize = 8_192;

/// Bytes of a page, before it is compressed: what a thread has at hand in its cache.
const PAGE_BYTES: usize = 128 << 10;

/// How tables are written: zstd, small row groups, a bloom filter on the protein's id.
///
/// # Errors
/// None in practice: of the compression level.
pub fn properties() -> Result<WriterProperties, Error> {
    let id = ColumnPath::from("protein_id");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_data_page_size_limit(PAGE_BYTES)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_bloom_filter_enabled(id.clone(), true)
        .set_column_bloom_filter_max_ndv(id, ROW_GROUP as u64)
        .set_created_by(format!("peptalk {}", env!("CARGO_PKG_VERSION")));
    // Rows stand by protein: of other columns the least and the most of a page tell nothing.
    for column in ["protein_id", "protein_id_a", "protein_id_b"] {
        properties = properties.set_column_statistics_enabled(column.into(), EnabledStatistics::Page);
    }
    // Hardly one is there twice.
    for column in ["fact_id", "sequence", "raw_text", "text"] {
        properties = properties.set_column_dictionary_enabled(column.into(), false);
    }
    Ok(properties.build())
}

/// A row type that has a table.
pub trait Rows: Serialize + DeserializeOwned + Sized {
    /// File stem of the table: `proteins` for `proteins.parquet`.
    const TABLE: &'static str;

    /// Path of the table in a tables folder.
    fn path(tables: &Path) -> PathBuf {
        tables.join(Self::TABLE).with_extension("parquet")
    }

    /// The Arrow columns of the table.
    fn fields() -> Result<Vec<FieldRef>, Error> {
        fields::<Self>()
    }

    /// Rows as one record batch.
    fn to_batch(rows: &[Self]) -> Result<RecordBatch, Error> {
        Ok(serde_arrow::to_record_batch(&Self::fields()?, &rows)?)
    }

    /// Writes the table into `tables` (temporary name, fsync, rename), as [`properties`] says.
    ///
    /// # Errors
    /// I/O and Arrow errors, with the path.
    fn write(tables: &Path, rows: &[Self]) -> Result<(), Error> {
        crate::atomic_write(&Self::path(tables), |file| {
            let mut writer = Writer::<Self, _>::new(file)?;
            for chunk in rows.chunks(ROW_GROUP) {
                writer.append(&Self::to_batch(chunk)?)?;
            }
            writer.close()?;
            Ok(())
        })
    }

    /// Reads the whole table from `tables`.
    ///
    /// # Errors
    /// [`Error::NoTable`] when it was never written; else I/O and Arrow errors with the path.
    fn read(tables: &Path) -> Result<Vec<Self>, Error> {
        scan(&Self::path(tables))?.collect()
    }
}

/// A table that is written row by row, or some rows at a time.
pub struct Writer<T, W: Write + Send> {
    rows: Vec<T>,
    groups: RowGroups<W>,
}

impl<T: Rows, W: Write + Send> Writer<T, W> {
    /// Begins the table in a file.
    ///
    /// # Errors
    /// I/O and Arrow errors, as those of the other methods.
    pub fn new(file: W) -> Result<Self, Error> {
        let schema = Arc::new(arrow::datatypes::Schema::new(T::fields()?));
        Ok(Self { rows: vec![], groups: RowGroups::new(file, schema, 0)? })
    }

    /// The next row.
    ///
    /// # Errors
    /// I/O and Arrow errors.
    pub fn push(&mut self, row: T) -> Result<(), Error> {
        self.rows.push(row);
        if self.rows.len() < ROW_GROUP { Ok(()) } else { self.flush() }
    }

    /// The next rows, which have the columns of the table.
    ///
    /// # Errors
    /// I/O and Arrow errors.
    pub fn append(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        self.flush()?;
        self.groups.append(rows)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.groups.append(&T::to_batch(&std::mem::take(&mut self.rows))?)
    }

    /// Ends the table: the file, and how many rows it has.
    ///
    /// # Errors
    /// I/O and Arrow errors.
    pub fn close(mut self) -> Result<(W, u64), Error> {
        self.flush()?;
        self.groups.close()
    }
}

/// The Arrow columns of a row type.
fn fields<T: DeserializeOwned>() -> Result<Vec<FieldRef>, Error> {
    let options = TracingOptions::default().enums_without_data_as_strings(true);
    Ok(Vec::<FieldRef>::from_type::<T>(options)?)
}

/// The rows of a Parquet file in their order, of which a few thousand are in memory. Only the columns that `T` has are read.
///
/// # Errors
/// [`Error::NoTable`], [`Error::NoColumn`]; else I/O and Arrow errors with the path.
pub fn scan<T: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<T, Error>>, Error> {
    let file = Columns::open::<T>(path)?;
    let parts = file.read((0..file.groups().len()).collect())?;
    Ok(parts.flat_map(|part| {
        let (rows, error) = match part {
            Ok(rows) => (rows, None),
            Err(error) => (vec![], Some(Err(error))),
        };
        rows.into_iter().map(Ok).chain(error)
    }))
}

/// A Parquet file of which some columns are read.
pub(crate) struct Columns {
    pub(crate) path: PathBuf,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
}

impl Columns {
    /// The columns that `T` has; what is in them is not read yet.
    pub(crate) fn open<T: DeserializeOwned>(path: &Path) -> Result<Self, Error> {
        if !path.exists() {
            return Err(Error::NoTable { path: path.to_owned() });
        }
        let file = fs::File::open(path)?.into_file();
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default());
        let metadata = metadata.map_err(|e| Error::Table { path: path.to_owned(), source: e.into() })?;
        let there = metadata.schema().fields();
        let place = |field: FieldRef| {
            there.iter().position(|other| other.name() == field.name()).ok_or_else(|| Error::NoColumn {
                path: path.to_owned(),
                column: field.name().clone(),
                columns: there.iter().map(|field| field.name().clone()).collect(),
            })
        };
        let places = fields::<T>()?.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let mask = ProjectionMask::roots(metadata.parquet_schema(), places);
        Ok(Self { path: path.to_owned(), metadata, mask })
    }

    /// Rows of each of its row groups.
    pub(crate) fn groups(&self) -> Vec<usize> {
        let groups = self.metadata.metadata().row_groups();
        groups.iter().map(|group| group.num_rows().unsigned_abs() as usize).collect()
    }

    /// The rows of some row groups, a few thousand at a time.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        groups: Vec<usize>,
    ) -> Result<impl Iterator<Item = Result<Vec<T>, Error>> + use<T>, Error> {
        let path = self.path.clone();
        let in_file = move |source: Box<dyn std::error::Error + Send + Sync>| Error::Table {
            path: path.clone(),
            source,
        };
        let file = fs::File::open(&self.path)?.into_file();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(self.mask.clone())
            .with_row_groups(groups)
            .with_batch_size(ROW_GROUP)
            .build()
            .map_err(|e| in_file(e.into()))?;
        Ok(reader.map(move |batch| {
            let batch = batch.map_err(|e| in_file(e.into()))?;
            serde_arrow::from_record_batch(&batch).map_err(|e| in_file(e.into()))
        }))
    }
}
