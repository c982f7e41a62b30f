//! Row groups of Parquet, which threads encode beside each other and one writes in order.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::thread::JoinHandle;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::writer::SerializedFileWriter;
use rayon::prelude::*;

use super::file::{ROW_GROUP, properties};
use crate::Error;

/// The columns of a row group.
pub type Encoded = Vec<ArrowColumnChunk>;

/// Encodes the rows of one row group.
///
/// # Errors
/// Rows that do not fit the columns.
pub fn encode(
    factory: &ArrowRowGroupWriterFactory,
    schema: &SchemaRef,
    rows: &[RecordBatch],
) -> Result<Encoded, Error> {
    let mut writers = factory.create_column_writers(0)?;
    for batch in rows {
        let mut leaves = writers.iter_mut();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            for (leaf, writer) in compute_leaves(field, column)?.iter().zip(&mut leaves) {
                writer.write(leaf)?;
            }
        }
    }
    writers.into_iter().map(|writer| Ok(writer.close()?)).collect()
}

/// Writes a row group behind those that are there.
///
/// # Errors
/// I/O.
pub fn append<W: Write + Send>(writer: &mut SerializedFileWriter<W>, columns: Encoded) -> Result<(), Error> {
    let mut group = writer.next_row_group()?;
    columns.into_iter().try_for_each(|column| column.append_to_row_group(&mut group))?;
    group.close()?;
    Ok(())
}

/// Bytes of rows that are encoded at one time.
const ENCODING: usize = 128 << 20;
/// Bytes of full row groups that wait until there is one for every thread.
const WAITING: usize = 16 << 20;

fn bytes(rows: &[RecordBatch]) -> usize {
    rows.iter().map(RecordBatch::get_array_memory_size).sum()
}

/// A Parquet file that grows, written as [`properties`] says, by row groups of [`ROW_GROUP`] rows whatever they come in.
/// They are encoded some at a time by the threads of rayon, while whoever fills them waits, or by threads of their own; but for one,
/// what these work at takes [`ENCODING`] bytes at most.
pub struct RowGroups<W: Write + Send> {
    /// Rows of the row group that is being filled.
    held: Vec<RecordBatch>,
    n_held: usize,
    /// Row groups that wait to be encoded.
    waiting: Vec<Vec<RecordBatch>>,
    schema: SchemaRef,
    factory: Arc<ArrowRowGroupWriterFactory>,
    /// Row groups that are being encoded, and their bytes.
    encoding: VecDeque<(usize, JoinHandle<Result<Encoded, Error>>)>,
    n_encoders: usize,
    writer: SerializedFileWriter<W>,
    n_written: u64,
}

impl<W: Write + Send> RowGroups<W> {
    /// Begins a file of rows with these columns, which so many threads of their own encode, or those of rayon if none.
    ///
    /// # Errors
    /// I/O and Arrow errors, as those of the other methods.
    pub fn new(file: W, schema: SchemaRef, n_encoders: usize) -> Result<Self, Error> {
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties()?))?;
        let (writer, factory) = writer.into_serialized_writer()?;
        Ok(Self {
            held: vec![],
            n_held: 0,
            waiting: vec![],
            schema,
            factory: Arc::new(factory),
            encoding: VecDeque::new(),
            n_encoders,
            writer,
            n_written: 0,
        })
    }

    /// The next rows.
    ///
    /// # Errors
    /// Other columns than those of the file; I/O and Arrow errors.
    pub fn append(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        if rows.schema_ref().fields() != self.schema.fields() {
            let detail = format!("{} for a file of {}", rows.schema_ref(), self.schema);
            return Err(ArrowError::SchemaError(detail).into());
        }
        let mut begin = 0;
        while begin < rows.num_rows() {
            let n = (ROW_GROUP - self.n_held).min(rows.num_rows() - begin);
            self.held.push(rows.slice(begin, n));
            begin += n;
            self.n_held += n;
            if self.n_held == ROW_GROUP {
                self.group()?;
            }
        }
        Ok(())
    }

    /// Begins to encode the rows that are held.
    fn group(&mut self) -> Result<(), Error> {
        self.n_written += std::mem::take(&mut self.n_held) as u64;
        let rows = std::mem::take(&mut self.held);
        if self.n_encoders == 0 {
            self.waiting.push(rows);
            let bytes: usize = self.waiting.iter().map(|rows| bytes(rows)).sum();
            let is_enough = self.waiting.len() >= rayon::current_num_threads() || bytes > WAITING;
            return if is_enough { self.encode_waiting() } else { Ok(()) };
        }
        let bytes = bytes(&rows);
        self.write(self.n_encoders - 1, ENCODING.saturating_sub(bytes))?;
        let (factory, schema) = (self.factory.clone(), self.schema.clone());
        self.encoding.push_back((bytes, std::thread::spawn(move || encode(&factory, &schema, &rows))));
        Ok(())
    }

    /// Encodes and writes the row groups that wait.
    fn encode_waiting(&mut self) -> Result<(), Error> {
        let groups = std::mem::take(&mut self.waiting);
        let encode = |rows: Vec<RecordBatch>| encode(&self.factory, &self.schema, &rows);
        let encoded: Vec<Encoded> = groups.into_par_iter().map(encode).collect::<Result<_, _>>()?;
        encoded.into_iter().try_for_each(|columns| append(&mut self.writer, columns))
    }

    /// Writes row groups in the order in which they were begun, until so many of so many bytes are left.
    fn write(&mut self, n_left: usize, bytes_left: usize) -> Result<(), Error> {
        let bytes = |encoding: &VecDeque<(usize, _)>| encoding.iter().map(|of| of.0).sum::<usize>();
        while self.encoding.len() > n_left || bytes(&self.encoding) > bytes_left {
            let Some((_, group)) = self.encoding.pop_front() else { break };
            let columns = group.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            append(&mut self.writer, columns?)?;
        }
        Ok(())
    }

    /// Ends the file, and says how many rows it has.
    ///
    /// # Errors
    /// I/O and Arrow errors.
    pub fn close(mut self) -> Result<(W, u64), Error> {
        if self.n_held > 0 {
            self.group()?;
        }
        self.encode_waiting()?;
        self.write(0, 0)?;
        Ok((self.writer.into_inner()?, self.n_written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{ArrayRef, UInt64Array};
    use arrow::datatypes::UInt64Type;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    fn batch(rows: std::ops::Range<u64>) -> RecordBatch {
        let column: ArrayRef = Arc::new(UInt64Array::from_iter_values(rows));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    #[test]
    fn row_groups_are_full_whatever_comes_and_whoever_encodes() {
        const N: u64 = 3 * ROW_GROUP as u64 + 17;
        for step in [701, 3 * ROW_GROUP as u64 + 5] {
            let folder = tempfile::tempdir().unwrap();
            let written = [0, 1, 3].map(|n_encoders| {
                let path = folder.path().join(n_encoders.to_string());
                let file = fs_err::File::create(&path).unwrap().into_file();
                let mut file = RowGroups::new(file, batch(0..0).schema(), n_encoders).unwrap();
                for begin in (0..N).step_by(step as usize) {
                    file.append(&batch(begin..N.min(begin + step))).unwrap();
                }
                file.append(&batch(0..0)).unwrap();
                assert_eq!(file.close().unwrap().1, N);
                path
            });
            let bytes = written.each_ref().map(|path| fs_err::read(path).unwrap());
            assert!(bytes[0] == bytes[1] && bytes[0] == bytes[2], "bytes depend on the number of threads");
            let file = fs_err::File::open(&written[0]).unwrap().into_file();
            let file = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            let groups = file.metadata().row_groups().iter().map(|group| group.num_rows());
            assert_eq!(
                groups.collect::<Vec<_>>(),
                [ROW_GROUP as i64, ROW_GROUP as i64, ROW_GROUP as i64, 17]
            );
            let rows = file.build().unwrap().flat_map(|batch| {
                let numbers = batch.unwrap().column(0).clone();
                arrow::array::AsArray::as_primitive::<UInt64Type>(&numbers).values().to_vec()
            });
            assert!(rows.eq(0..N));
        }
        let other: ArrayRef = Arc::new(UInt64Array::from_iter_values(0..3));
        let other = RecordBatch::try_from_iter([("m", other)]).unwrap();
        let mut file = RowGroups::new(Vec::new(), batch(0..0).schema(), 0).unwrap();
        assert!(file.append(&other).is_err());
    }
}
