//! The files that a unit becomes: its claims, and the facts among them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, BooleanArray, LargeStringBuilder, RecordBatch, UInt64Array, new_null_array};
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datasets::table::row_group::{self, Encoded};
use hashbrown::HashSet;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use super::facts::{self, Block};
use crate::Error;
use crate::claim::{self, Claim};

/// Claims that are written together where files are small.
const GROUP: usize = 1 << 11;

/// Bytes of a page: large enough to be copied quickly, small enough to stay in the cache.
const PAGE_BYTES: usize = 64 << 10;

/// Proteins whose sequence is remembered to be in the file, at most.
const MOST_KNOWN: usize = 1 << 20;

/// Columns of a claim.
pub(super) fn fields() -> Result<Vec<FieldRef>, Error> {
    Ok(Vec::<FieldRef>::from_type::<Claim>(TracingOptions::default())?)
}

/// A file of claims that grows, a row group at a time, and beside it one of the facts among them.
pub(crate) struct Claims {
    encoder: Arc<Encoder>,
    writer: SerializedFileWriter<std::fs::File>,
    facts: facts::Writer,
    /// Not yet written.
    rest: Vec<Claim>,
    /// That nobody waits for these any more.
    is_over: Arc<AtomicBool>,
}

/// Claims as they are written.
pub(crate) struct Group {
    columns: Encoded,
    facts: Block,
}

/// Makes groups of claims, on any thread.
pub(crate) struct Encoder {
    fields: Vec<FieldRef>,
    schema: SchemaRef,
    factory: ArrowRowGroupWriterFactory,
    /// Proteins whose sequence is on some claim of the file.
    known: Mutex<HashSet<u128>>,
}

impl Encoder {
    pub(crate) fn encode(&self, mut claims: Vec<Claim>) -> Result<Group, Error> {
        self.leave_out_known(&mut claims);
        let columns = row_group::encode(&self.factory, &self.schema, &[self.rows(&claims)?])?;
        Ok(Group { columns, facts: Block::new(&claims) })
    }

    /// Takes the sequences from facts about known proteins: there may be hundreds about one.
    fn leave_out_known(&self, claims: &mut [Claim]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for claim in claims.iter_mut().filter(|claim| claim.fact.is_some() && claim.sequence.is_some()) {
            if known.len() == MOST_KNOWN {
                known.clear();
            }
            if claim.protein_id.as_deref().is_some_and(|id| !known.insert(claim::number(id))) {
                claim.sequence = None;
            }
        }
    }

    fn rows(&self, claims: &[Claim]) -> Result<RecordBatch, Error> {
        let tables: BTreeSet<&str> = claims.iter().filter_map(Claim::table).collect();
        let is_rare = |field: &&FieldRef| tables.contains(field.name().as_str());
        let fields: Vec<FieldRef> = self.fields.iter().filter(is_rare).cloned().collect();
        let mut rare = serde_arrow::to_arrow(&fields, claims)?.into_iter();
        // What every claim has is quicker to make by hand.
        let column = |field: &FieldRef| -> ArrayRef {
            match field.name().as_str() {
                "order" => Arc::new(UInt64Array::from_iter_values(claims.iter().map(|of| of.order))),
                "record" => Arc::new(UInt64Array::from_iter_values(claims.iter().map(|of| of.record))),
                "accession" => text_column(claims, |of| Some(&of.accession)),
                "protein_id" => text_column(claims, |of| of.protein_id.as_deref()),
                "sequence" => text_column(claims, |of| of.sequence.as_deref()),
                "test" => Arc::new(BooleanArray::from_iter(claims.iter().map(|of| Some(of.test)))),
                "key" => text_column(claims, |of| of.key.as_deref()),
                _ if is_rare(&field) => rare.next().expect("a column for every field"),
                _ => new_null_array(field.data_type(), claims.len()),
            }
        };
        Ok(RecordBatch::try_new(self.schema.clone(), self.fields.iter().map(column).collect())?)
    }
}

/// A column of texts, which takes the room that it needs and no more.
pub(crate) fn text_column<'a, T>(rows: &'a [T], text: impl Fn(&'a T) -> Option<&'a str>) -> ArrayRef {
    let bytes = rows.iter().filter_map(&text).map(str::len).sum();
    let mut column = LargeStringBuilder::with_capacity(rows.len(), bytes);
    rows.iter().for_each(|row| column.append_option(text(row)));
    Arc::new(column.finish())
}

impl Claims {
    pub(super) fn new(
        file: std::fs::File,
        facts: std::fs::File,
        is_over: Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let fields = fields()?;
        // They live for minutes: quick to write counts more than small.
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_dictionary_enabled(false);
        for column in ["go.term", "go.aspect", "go.evidence"] {
            let path = ColumnPath::new(column.split('.').map(str::to_owned).collect());
            properties = properties.set_column_dictionary_enabled(path, true);
        }
        let schema = Arc::new(Schema::new(fields.clone()));
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties.build()))?;
        let (writer, factory) = writer.into_serialized_writer()?;
        let encoder = Arc::new(Encoder { fields, schema, factory, known: Mutex::default() });
        Ok(Self { encoder, writer, facts: facts::Writer::new(facts), rest: vec![], is_over })
    }

    /// What makes the groups of these files.
    pub(crate) fn encoder(&self) -> Arc<Encoder> {
        self.encoder.clone()
    }

    /// Writes claims behind those that are there.
    pub(crate) fn add(&mut self, claims: Vec<Claim>) -> Result<(), Error> {
        self.rest.extend(claims);
        if self.rest.len() >= GROUP { self.write_rest() } else { Ok(()) }
    }

    /// Writes a group behind what is there.
    pub(crate) fn append(&mut self, group: Group) -> Result<(), Error> {
        self.write_rest()?;
        self.write(group)
    }

    fn write_rest(&mut self) -> Result<(), Error> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let group = self.encoder.encode(std::mem::take(&mut self.rest))?;
        self.write(group)
    }

    fn write(&mut self, Group { columns, facts }: Group) -> Result<(), Error> {
        if self.is_over.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("another file of the recipe could not be read").into());
        }
        row_group::append(&mut self.writer, columns)?;
        self.facts.append(facts)
    }

    pub(super) fn close(mut self) -> Result<(), Error> {
        self.write_rest()?;
        self.writer.close()?;
        self.facts.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::claim::Go;

    /// Against serde_arrow, which makes every column from the same claims.
    #[test]
    fn columns_made_by_hand_are_those_of_serde() {
        let [file, facts] = [0; 2].map(|_| tempfile::tempfile().unwrap());
        let encoder = Claims::new(file, facts, Arc::default()).unwrap().encoder();
        let (term, aspect, evidence, locus) = ("GO:1".into(), "F".into(), "IDA".into(), String::new());
        let claims = [
            Claim { order: 7, record: 4, sequence: Some("MKT".into()), test: true, ..Claim::default() },
            Claim { key: Some("k".into()), protein_id: Some("p".into()), ..Claim::default() },
            Claim { accession: "µ".into(), ..Claim::default() },
            Claim { go: Some(Go { term, aspect, evidence, locus }.into()), ..Claim::default() },
        ];
        for claims in [&claims[..], &claims[..1], &claims[1..2], &claims[2..], &[]] {
            let want = serde_arrow::to_arrow(&encoder.fields, claims).unwrap();
            assert_eq!(encoder.rows(claims).unwrap().columns(), want);
        }
    }
}
