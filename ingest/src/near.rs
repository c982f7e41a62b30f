//! Texts that say nearly the same: alike as sets of shingles (three words in a row; case and punctuation put aside).
//!
//! Of one protein they are repeats, which `merge` finds pair by pair. Of different proteins they are natural (a family
//! has one sentence for all its members) and stay; how many they are, and what a held-out part has in common with train, is
//! counted by groups, which [`Lsh`] finds among millions.

mod lsh;
mod shingles;

use std::cmp::Reverse;
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use parquet::arrow::ProjectionMask;

use crate::Error;
use crate::distinct::{broken, format_error, reader};
pub use lsh::Lsh;
pub(crate) use shingles::Texts;
use shingles::{is_sentence, labels};

/// Jaccard similarity from which on two texts are said to be nearly the same.
pub const THRESHOLD: f64 = 0.8;
/// Share of the pairs of just this similarity that are found.
pub const RECALL: f64 = 0.95;

/// Rows read, and groups of texts among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Rows of all files.
    pub rows: u64,
    /// Groups; a text that is alone is one.
    pub groups: u64,
}

/// Groups the texts of a column of Parquet files and writes a table `row`, `group` (tab-separated): rows count from 0
/// through all files, a group is named by its first row.
///
/// The same groups on any number of threads (rayon's current number is used). Memory: 4 bytes a word and some 100 a row.
///
/// # Errors
/// I/O; a file without the column, or one without text in it.
pub fn near(files: &[PathBuf], column: &str, lsh: &Lsh, out: &Path) -> Result<Counts, Error> {
    let mut texts = Texts::default();
    for path in files {
        read(path, column, &mut texts)?;
    }
    let groups = lsh.groups(&texts);
    datasets::atomic_write::<Error>(out, |file| {
        let mut file = std::io::BufWriter::new(file);
        writeln!(file, "row\tgroup")?;
        for (row, group) in groups.iter().enumerate() {
            writeln!(file, "{row}\t{group}")?;
        }
        Ok(file.flush()?)
    })?;
    let n_groups = groups.iter().enumerate().filter(|(row, group)| row == *group).count();
    Ok(Counts { rows: groups.len() as u64, groups: n_groups as u64 })
}

/// Adds the texts of a column; one that is null has no word.
fn read(path: &Path, column: &str, texts: &mut Texts) -> Result<(), Error> {
    let reader = reader(path)?;
    let schema = reader.schema().clone();
    let Some((at, field)) = schema.column_with_name(column) else {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let has = format!("it has {}", names.join(", "));
        return Err(format_error(path, "columns", format!("there is no {column:?}"), &has));
    };
    if !matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        let detail = format!("{column:?} is of type {}", field.data_type());
        return Err(format_error(path, "columns", detail, "name a column of text"));
    }
    let mask = ProjectionMask::roots(reader.parquet_schema(), [at]);
    for batch in reader.with_projection(mask).build()? {
        let batch = batch.map_err(|error| broken(path, &error))?;
        let column = cast(batch.column(0), &DataType::Utf8View)?;
        let rows: Vec<&str> = column.as_string_view().iter().map(Option::unwrap_or_default).collect();
        texts.extend(&rows);
    }
    Ok(())
}

/// Of texts about one subject which another stands for: its number, and how similar the two are.
///
/// The text with most shingles stands for those that are alike to it by `threshold` or more and hold no number and no
/// single letter that it does not; of texts with as many the first. Each of the others is held against all that stay, so
/// that no chain of small changes leads from one text to quite another. Texts of one or two words stay.
pub(crate) fn merge(of: &[&str], threshold: f64) -> Vec<Option<(usize, f64)>> {
    let mut texts = Texts::default();
    texts.extend(of);
    let labels: Vec<Vec<u64>> = of.iter().map(|text| labels(text)).collect();
    let mut order: Vec<usize> = (0..of.len()).collect();
    order.sort_by_key(|&at| (Reverse(texts.of(at).len()), at));
    let (mut stay, mut merged) = (Vec::new(), vec![None; of.len()]);
    for at in order {
        let keeps_labels = |by: usize| labels[at].iter().all(|n| labels[by].binary_search(n).is_ok());
        let stands = |by: usize| texts.alike(by, at, threshold) && keeps_labels(by);
        let candidates = stay.iter().filter(|&&by| is_sentence(of[at]) && stands(by));
        let similar = candidates.map(|&by| (by, texts.jaccard(by, at)));
        // The most similar; of several the one that came first.
        merged[at] = similar.reduce(|best, other| if other.1 > best.1 { other } else { best });
        if merged[at].is_none() {
            stay.push(at);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, RecordBatch, StringArray};
    use proptest::prelude::*;
    use std::sync::Arc;

    const LONG: &str = "Catalyzes the transfer of a made-up group from one molecule to another, which is the first step \
                        of a way that leads nowhere in particular.";

    fn standing(texts: &[&str], threshold: f64) -> Vec<Option<usize>> {
        merge(texts, threshold).into_iter().map(|m| m.map(|(by, _)| by)).collect()
    }

    #[test]
    fn the_longer_text_stands_for_the_shorter() {
        let more = format!("{LONG} It is found in yeast.");
        let same = LONG.to_uppercase().replace(',', "");
        assert_eq!(standing(&[LONG, &more, &same], 0.8), [Some(1), None, Some(1)]);
        assert_eq!(standing(&[LONG, &more, &same], 0.9), [None, None, Some(0)]);
        assert_eq!(merge(&[LONG, &same], 1.0), [None, Some((0, 1.0))]);
        assert_eq!(
            standing(&["Binds much zinc.", "Binds iron.", "binds much zinc"], 0.8),
            [None, None, Some(0)]
        );
        assert_eq!(standing(&["arf3", "ARF3", "Zinc-finger", "Zinc finger"], 0.8), [None; 4]);
    }

    #[test]
    fn no_number_and_no_isoform_is_lost() {
        let (one, two) = (format!("{LONG} See domain 1."), format!("{LONG} See domain 2."));
        assert_eq!(standing(&[&one, &two, LONG], 0.8), [None, None, Some(0)]);
        let (d, f) = (format!("[Isoform d]: {LONG}"), format!("[Isoform f]: {LONG}"));
        assert_eq!(standing(&[&d, &f, LONG], 0.8), [None, None, Some(0)]);
    }

    #[test]
    fn there_are_no_chains() {
        let word = |at: usize| format!("w{}", char::from(b'a' + at as u8));
        // Three texts, each shifted by a word: neighbours are alike, the first and the last are not.
        let text = |from: usize| (from..from + 18).map(word).collect::<Vec<_>>().join(" ");
        let [a, b, c] = [text(0), text(1), text(2)];
        assert_eq!(standing(&[&a, &b, &c], 0.85), [None, Some(0), None]);
    }

    proptest! {
        #[test]
        fn what_is_merged_is_alike_and_what_stays_is_not(
            texts in prop::collection::vec("(x[a-c] ){3,9}", 1..12), threshold in 0.3f64..1.0
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut read = Texts::default();
            read.extend(&texts);
            let merged = merge(&texts, threshold);
            for (at, by) in merged.iter().enumerate() {
                match by {
                    Some((by, similarity)) => {
                        prop_assert!(merged[*by].is_none() && *similarity >= threshold);
                        prop_assert_eq!(*similarity, read.jaccard(at, *by));
                    }
                    None => {
                        let mut others = (0..at).filter(|&other| merged[other].is_none());
                        prop_assert!(others.all(|other| read.jaccard(at, other) < threshold));
                    }
                }
            }
        }
    }

    #[test]
    fn groups_of_a_column_are_named_by_their_first_row() {
        let folder = tempfile::tempdir().unwrap();
        let (file, out) = (folder.path().join("a.parquet"), folder.path().join("out.tsv"));
        let more = format!("{LONG} It is found in yeast.");
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![Some("alone here"), Some(LONG), None, Some(&more)]));
        let batch = RecordBatch::try_from_iter([("text", texts)]).unwrap();
        let writer = fs_err::File::create(&file).unwrap().into_file();
        let mut writer = parquet::arrow::ArrowWriter::try_new(writer, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let lsh = Lsh::new(THRESHOLD, RECALL).unwrap();
        let both = [file.clone(), file.clone()];
        assert_eq!(near(&both, "text", &lsh, &out).unwrap(), Counts { rows: 8, groups: 3 });
        let want = "row\tgroup\n0\t0\n1\t1\n2\t2\n3\t1\n4\t0\n5\t1\n6\t2\n7\t1\n";
        assert_eq!(fs_err::read_to_string(&out).unwrap(), want);
        let error = near(&[file], "words", &lsh, &out).unwrap_err().to_string();
        assert!(error.contains("there is no \"words\"") && error.contains("it has text"), "{error}");
    }
}
