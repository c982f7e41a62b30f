//! Rows by protein, however many there are: dealt out into buckets by the beginning of the protein's id, each of which is small
//! enough to be sorted in memory.

use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{
    SortColumn, SortOptions, concat_batches, interleave_record_batch, lexsort_to_indices, take_record_batch,
};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use fs_err as fs;
use rayon::prelude::*;

use crate::Error;

/// One for every value of the first two hex digits of an id.
pub(crate) const N: usize = 256;
/// Bytes of rows that are dealt out together.
const DEAL: usize = if cfg!(test) { 1 << 14 } else { 32 << 20 };

/// Rows that are being dealt out. What is no more than one deal stays in memory.
pub(crate) struct Buckets {
    folder: PathBuf,
    waiting: Vec<RecordBatch>,
    bytes: usize,
    files: Vec<StreamWriter<BufWriter<File>>>,
}

/// Rows in buckets, of which each may be asked for once and from any thread.
pub(crate) struct Dealt {
    folder: PathBuf,
    has_files: bool,
    /// The rows that were dealt out last, by bucket, and where each bucket begins.
    last: Option<(RecordBatch, Vec<usize>)>,
}

impl Buckets {
    /// `folder`: for their files, if it comes to that.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, waiting: vec![], bytes: 0, files: vec![] }
    }

    /// Takes rows, of which one column is `protein_id`; rows without one go into the first bucket.
    pub(crate) fn add(&mut self, rows: RecordBatch) -> Result<(), Error> {
        self.bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
        if self.bytes < DEAL {
            return Ok(());
        }
        if self.files.is_empty() {
            fs::create_dir_all(&self.folder)?;
            let create = |bucket| {
                let file = fs::File::create(file(&self.folder, bucket))?.into_file();
                Ok(StreamWriter::try_new_buffered(file, self.waiting[0].schema_ref())?)
            };
            self.files = (0..N).map(create).collect::<Result<_, Error>>()?;
        }
        let deal = Deal::new(std::mem::take(&mut self.waiting));
        self.bytes = 0;
        // Every thread writes into some of the files.
        let n_files = N.div_ceil(rayon::current_num_threads());
        self.files.par_chunks_mut(n_files).enumerate().try_for_each(|(nth, files)| {
            let first = nth * n_files;
            let rows = deal.rows(first..first + files.len())?;
            for (bucket, file) in (first..).zip(files) {
                let (begin, end) =
                    (deal.begin[bucket] - deal.begin[first], deal.begin[bucket + 1] - deal.begin[first]);
                if begin < end {
                    file.write(&rows.slice(begin, end - begin))?;
                }
            }
            Ok(())
        })
    }

    /// Ends the dealing.
    pub(crate) fn close(mut self) -> Result<Dealt, Error> {
        self.files.iter_mut().try_for_each(StreamWriter::finish)?;
        let mut last = None;
        if !self.waiting.is_empty() {
            let deal = Deal::new(self.waiting);
            last = Some((deal.rows(0..N)?, deal.begin));
        }
        Ok(Dealt { has_files: !self.files.is_empty(), folder: self.folder, last })
    }
}

/// Rows that are dealt out together.
struct Deal {
    batches: Vec<RecordBatch>,
    /// Batch and row of each, by bucket.
    places: Vec<(usize, usize)>,
    /// Where the places of each bucket begin, and end.
    begin: Vec<usize>,
}

impl Deal {
    fn new(batches: Vec<RecordBatch>) -> Self {
        let of_batch: Vec<Vec<u8>> = batches.iter().map(buckets).collect();
        let mut begin = vec![0; N + 1];
        of_batch.iter().flatten().for_each(|&bucket| begin[bucket as usize + 1] += 1);
        (0..N).for_each(|bucket| begin[bucket + 1] += begin[bucket]);
        let (mut next, mut places) = (begin.clone(), vec![(0, 0); begin[N]]);
        for (batch, of_row) in of_batch.iter().enumerate() {
            for (row, &bucket) in of_row.iter().enumerate() {
                places[next[bucket as usize]] = (batch, row);
                next[bucket as usize] += 1;
            }
        }
        Self { batches, places, begin }
    }

    /// The rows of these buckets, one bucket after the other.
    fn rows(&self, buckets: Range<usize>) -> Result<RecordBatch, Error> {
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let places = &self.places[self.begin[buckets.start]..self.begin[buckets.end]];
        Ok(interleave_record_batch(&batches, places)?)
    }
}

impl Dealt {
    /// [`each`] of the rows of every bucket that has any.
    pub(crate) fn each<R: Send>(
        &self,
        work: impl Fn(&[RecordBatch]) -> Result<R, Error> + Sync,
        mut take: impl FnMut(R) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let made = |bucket| {
            let rows = self.bucket(bucket)?;
            if rows.is_empty() { Ok(None) } else { work(&rows).map(Some) }
        };
        each(made, |made| made.map_or(Ok(()), &mut take))
    }

    /// The rows of a bucket, as they were dealt out.
    fn bucket(&self, bucket: usize) -> Result<Vec<RecordBatch>, Error> {
        let mut batches = Vec::new();
        if self.has_files {
            let path = file(&self.folder, bucket);
            for batch in StreamReader::try_new_buffered(fs::File::open(&path)?.into_file(), None)? {
                batches.push(batch?);
            }
            fs::remove_file(path)?;
        }
        if let Some((rows, begin)) = &self.last {
            batches.push(rows.slice(begin[bucket], begin[bucket + 1] - begin[bucket]));
        }
        batches.retain(|rows| rows.num_rows() > 0);
        Ok(batches)
    }
}

/// Hands on what `work` makes of every bucket, the buckets in order. `work` runs on as many threads as rayon has; a few buckets
/// are in memory.
pub(crate) fn each<R: Send>(
    work: impl Fn(usize) -> Result<R, Error> + Sync,
    mut take: impl FnMut(R) -> Result<(), Error>,
) -> Result<(), Error> {
    let (n_threads, work) = (rayon::current_num_threads(), &work);
    std::thread::scope(|scope| {
        let begin = |thread| {
            let (send, receive) = sync_channel(1);
            // It ends early when nobody takes what it makes.
            scope
                .spawn(move || (thread..N).step_by(n_threads).try_for_each(|bucket| send.send(work(bucket))));
            receive
        };
        let threads: Vec<_> = (0..n_threads).map(begin).collect();
        (0..N).try_for_each(|bucket| {
            take(threads[bucket % n_threads].recv().expect("a thread ends with its last bucket")?)
        })
    })
}

/// The rows sorted by these columns, nulls last.
pub(crate) fn sorted(rows: &[RecordBatch], by: &[&str]) -> Result<RecordBatch, Error> {
    let rows = concat_batches(rows[0].schema_ref(), rows)?;
    let options = Some(SortOptions { descending: false, nulls_first: false });
    let column = |name: &&str| {
        let values = rows.column_by_name(name).expect("rows are sorted by columns that they have").clone();
        SortColumn { values, options }
    };
    let by: Vec<SortColumn> = by.iter().map(column).collect();
    Ok(take_record_batch(&rows, &lexsort_to_indices(&by, None)?)?)
}

fn file(folder: &Path, bucket: usize) -> PathBuf {
    folder.join(format!("{bucket:02x}.arrow"))
}

/// Of every row its bucket.
fn buckets(rows: &RecordBatch) -> Vec<u8> {
    let ids = rows.column_by_name("protein_id").expect("rows are of proteins").as_string::<i64>();
    let bucket = |row| {
        let id = if ids.is_valid(row) { ids.value(row) } else { "" };
        id.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0)
    };
    (0..ids.len()).map(bucket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use arrow::array::{ArrayRef, LargeStringArray, UInt64Array};
    use datasets::rng;
    use rand::Rng;

    type Row = (Option<String>, u64);

    fn batch(rows: &[Row]) -> RecordBatch {
        let ids = LargeStringArray::from_iter(rows.iter().map(|row| row.0.as_deref()));
        let orders = UInt64Array::from_iter_values(rows.iter().map(|row| row.1));
        let columns: [(&str, ArrayRef, bool); 2] =
            [("protein_id", Arc::new(ids), true), ("order", Arc::new(orders), false)];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn rows(batch: &RecordBatch) -> Vec<Row> {
        let ids = batch.column(0).as_string::<i64>();
        let orders = batch.column(1).as_primitive::<arrow::datatypes::UInt64Type>();
        let id = |at| ids.is_valid(at).then(|| ids.value(at).to_owned());
        (0..batch.num_rows()).map(|at| (id(at), orders.value(at))).collect()
    }

    /// Against a sort of the whole, with files and without, on any number of threads.
    #[test]
    fn buckets_one_after_the_other_are_the_whole_sorted() {
        let mut rng = rng(3, "buckets", 0);
        for n_rows in [0, 3, 2_000] {
            let row = |order| {
                let id = format!("{:032x}", u128::from(rng.next_u32() % 900) << 118 | 7);
                ((!rng.next_u32().is_multiple_of(50)).then_some(id), order)
            };
            let given: Vec<Row> = (0..n_rows).map(row).collect();
            let mut want = given.clone();
            // Rows of no protein stand in the first bucket, behind those that do.
            want.sort_by_key(|(id, order)| (id.clone().unwrap_or("00zz".into()), *order));
            for n_threads in [1, 3] {
                let place = tempfile::tempdir().unwrap();
                let folder = place.path().join("buckets");
                let mut buckets = Buckets::new(folder.clone());
                given.rchunks(70).for_each(|chunk| buckets.add(batch(chunk)).unwrap());
                assert_eq!(folder.exists(), n_rows > 1_000);
                let dealt = buckets.close().unwrap();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
                let mut found = Vec::new();
                let work = |bucket: &[RecordBatch]| sorted(bucket, &["protein_id", "order"]);
                let take = |bucket: RecordBatch| {
                    found.extend(rows(&bucket));
                    Ok(())
                };
                pool.install(|| dealt.each(work, take)).unwrap();
                assert_eq!(found, want);
                assert!(!folder.exists() || fs::read_dir(folder).unwrap().count() == 0);
            }
        }
    }
}
