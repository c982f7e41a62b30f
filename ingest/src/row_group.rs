//! Row groups of Parquet, which threads encode beside each other and one writes in order.

use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::file::writer::SerializedFileWriter;

use crate::Error;

/// The columns of a row group.
pub(crate) type Encoded = Vec<ArrowColumnChunk>;

/// Encodes the rows of one row group.
pub(crate) fn encode(
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
pub(crate) fn append<W: Write + Send>(
    writer: &mut SerializedFileWriter<W>,
    columns: Encoded,
) -> Result<(), Error> {
    let mut group = writer.next_row_group()?;
    columns.into_iter().try_for_each(|column| column.append_to_row_group(&mut group))?;
    group.close()?;
    Ok(())
}
