//! The file of facts that a unit becomes: rows of bytes in buckets by protein, so that the facts of some proteins are read
//! without those of others, and each is written once before it comes into its table.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use fs_err as fs;

use crate::Error;
use crate::buckets;
use crate::claim::{self, Claim, Fact};

/// Bytes of rows that are dealt out into buckets together. Every thread may fill a file; not so many bytes where there are more
/// threads, since a unit that is parsed twice must leave the same bytes.
const DEAL: usize = if cfg!(test) { 1 << 12 } else { 8 << 20 };
/// The length of a text that is not there.
const NONE: u32 = u32::MAX;

/// A fact as it stands in a file.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row<'a> {
    /// Its place ([`claim::place`]), which tells its source.
    pub(crate) order: u64,
    pub(crate) protein: u128,
    pub(crate) id: u128,
    pub(crate) accession: &'a str,
    pub(crate) task: &'a str,
    pub(crate) question: &'a str,
    pub(crate) raw_text: Option<&'a str>,
    pub(crate) text: &'a str,
    /// Codes with a blank between them.
    pub(crate) evidence: &'a str,
}

impl<'a> Row<'a> {
    /// The row at the beginning of these bytes, and what is behind it; `None` where it is damaged.
    fn read(mut bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let order = u64::from_le_bytes(*take(&mut bytes)?);
        let [protein, id] = [take(&mut bytes)?, take(&mut bytes)?].map(|id| u128::from_le_bytes(*id));
        let mut text = || {
            let length = u32::from_le_bytes(*take(&mut bytes)?);
            if length == NONE {
                return Some(None);
            }
            let text = bytes.split_off(..length as usize)?;
            Some(Some(std::str::from_utf8(text).ok()?))
        };
        let [accession, task, question, raw_text] = [text()?, text()?, text()?, text()?];
        let [text, evidence] = [text()??, text()??];
        let [accession, task, question] = [accession?, task?, question?];
        Some((Self { order, protein, id, accession, task, question, raw_text, text, evidence }, bytes))
    }
}

fn take<'a, const BYTES: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; BYTES]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}

/// Facts of some claims, sorted by bucket.
pub(crate) struct Block {
    bytes: Vec<u8>,
    /// Where each bucket begins in `bytes`, and the last ends.
    begin: [usize; buckets::N + 1],
}

impl Block {
    pub(super) fn new(claims: &[Claim]) -> Self {
        let mut facts: Vec<(u128, &Claim, &Fact)> = Vec::new();
        for claim in claims {
            if let Some(fact) = &claim.fact {
                let protein = claim.protein_id.as_deref().expect("a fact has a protein");
                facts.push((claim::number(protein), claim, fact));
            }
        }
        facts.sort_by_key(|&(protein, ..)| bucket(protein));
        let room = |(_, claim, fact): &(u128, &Claim, &Fact)| {
            let Fact { question, raw_text, text, evidence, .. } = fact;
            let texts = question.len() + raw_text.as_ref().map_or(0, String::len) + text.len();
            100 + claim.accession.len() + texts + 12 * evidence.len()
        };
        let mut bytes = Vec::with_capacity(facts.iter().map(room).sum());
        let mut begin = [0; buckets::N + 1];
        for (protein, claim, fact) in facts {
            bytes.extend(claim.order.to_le_bytes());
            bytes.extend(protein.to_le_bytes());
            bytes.extend(fact.id.to_le_bytes());
            let evidence = fact.evidence.join(" ");
            let texts = [&claim.accession, fact.task, &fact.question].map(Some);
            for text in texts.into_iter().chain([fact.raw_text.as_deref(), Some(&fact.text), Some(&evidence)])
            {
                bytes.extend(text.map_or(NONE, |text| text.len() as u32).to_le_bytes());
                bytes.extend(text.unwrap_or_default().as_bytes());
            }
            begin[bucket(protein) + 1] = bytes.len();
        }
        // A bucket without rows ends where the one before it does.
        (0..buckets::N).for_each(|at| begin[at + 1] = begin[at + 1].max(begin[at]));
        Self { bytes, begin }
    }
}

/// The bucket of a protein.
fn bucket(protein: u128) -> usize {
    (protein >> 120) as usize
}

/// Where each bucket of a deal begins in the file, and the last ends.
type Deal = [u64; buckets::N + 1];

/// A file of facts that grows.
pub(super) struct Writer {
    file: BufWriter<File>,
    waiting: Vec<Block>,
    n_waiting: usize,
    n_bytes: u64,
    deals: Vec<Deal>,
}

impl Writer {
    pub(super) fn new(file: File) -> Self {
        let file = BufWriter::with_capacity(1 << 17, file);
        Self { file, waiting: vec![], n_waiting: 0, n_bytes: 0, deals: vec![] }
    }

    pub(super) fn append(&mut self, block: Block) -> Result<(), Error> {
        if block.bytes.is_empty() {
            return Ok(());
        }
        self.n_waiting += block.bytes.len();
        self.waiting.push(block);
        if self.n_waiting < DEAL { Ok(()) } else { self.deal() }
    }

    fn deal(&mut self) -> Result<(), Error> {
        let blocks = std::mem::take(&mut self.waiting);
        self.n_waiting = 0;
        let mut begin = [self.n_bytes; buckets::N + 1];
        for bucket in 0..buckets::N {
            for block in &blocks {
                let rows = &block.bytes[block.begin[bucket]..block.begin[bucket + 1]];
                self.file.write_all(rows)?;
                self.n_bytes += rows.len() as u64;
            }
            begin[bucket + 1] = self.n_bytes;
        }
        self.deals.push(begin);
        Ok(())
    }

    /// Ends the file with what tells where its buckets are.
    pub(super) fn close(mut self) -> Result<(), Error> {
        if !self.waiting.is_empty() {
            self.deal()?;
        }
        for begin in self.deals.iter().flatten() {
            self.file.write_all(&begin.to_le_bytes())?;
        }
        self.file.write_all(&(self.deals.len() as u64).to_le_bytes())?;
        Ok(self.file.flush()?)
    }
}

/// The facts of all units. No file is held open: there may be thousands.
pub(crate) struct Facts {
    files: Vec<(PathBuf, Vec<Deal>)>,
}

impl Facts {
    /// # Errors
    /// I/O; a file that is damaged.
    pub(super) fn open(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let mut files = Vec::new();
        for path in paths {
            let deals = deals(&mut fs::File::open(&path)?)?;
            if !deals.is_empty() {
                files.push((path, deals));
            }
        }
        Ok(Self { files })
    }

    /// The rows of a bucket, for [`rows`].
    ///
    /// # Errors
    /// I/O; a file that was cut.
    pub(crate) fn bucket(&self, bucket: usize) -> Result<Vec<u8>, Error> {
        let length = |begin: &Deal| begin[bucket + 1] - begin[bucket];
        let deals = self.files.iter().flat_map(|(_, deals)| deals);
        let mut bytes = vec![0; deals.map(length).sum::<u64>() as usize];
        let mut rest = &mut bytes[..];
        for (path, deals) in &self.files {
            if deals.iter().all(|begin| length(begin) == 0) {
                continue;
            }
            let mut file = fs::File::open(path)?;
            for begin in deals {
                let rows = rest.split_off_mut(..length(begin) as usize);
                file.seek(SeekFrom::Start(begin[bucket]))?;
                file.read_exact(rows.expect("there is room for all of them"))?;
            }
        }
        Ok(bytes)
    }
}

/// Where the buckets of a file of facts are.
fn deals(file: &mut fs::File) -> Result<Vec<Deal>, Error> {
    let length = file.metadata()?.len();
    let mut words = |from_end: u64| -> std::io::Result<Vec<u64>> {
        file.seek(SeekFrom::Start(length.checked_sub(from_end).ok_or_else(damaged)?))?;
        let mut words = Vec::new();
        file.read_to_end(&mut words)?;
        Ok(words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    };
    let &n_deals = words(8)?.first().ok_or_else(damaged)?;
    let index = n_deals.checked_mul(size_of::<Deal>() as u64).and_then(|n| n.checked_add(8));
    let index = index.ok_or_else(damaged)?;
    let words = words(index)?;
    let deals: &[Deal] = words.as_chunks().0;
    // One bucket behind the other, and the index behind the last.
    let is_sound = deals.as_flattened().is_sorted() && words.len() as u64 * 8 == index;
    let end = deals.last().map_or(0, |begin| begin[buckets::N]);
    if is_sound && end == length - index { Ok(deals.to_vec()) } else { Err(damaged().into()) }
}

/// The rows of a bucket, in no order, until one is damaged.
pub(crate) fn rows(mut bytes: &[u8]) -> impl Iterator<Item = Result<Row<'_>, Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = Row::read(bytes);
        bytes = read.map_or(&[], |(_, rest)| rest);
        Some(read.map(|(row, _)| row).ok_or_else(|| damaged().into()))
    })
}

fn damaged() -> std::io::Error {
    std::io::Error::other("a file of facts in the temporary folder was damaged; run again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(order: u64, protein: u128, raw_text: Option<&str>, evidence: &[&str]) -> Claim {
        let fact = Fact {
            id: u128::MAX - u128::from(order),
            task: "function",
            question: "Why?".into(),
            raw_text: raw_text.map(str::to_owned),
            text: format!("Bindet Zink, {order} µM."),
            evidence: evidence.iter().map(|&code| code.to_owned()).collect(),
        };
        let protein_id = Some(format!("{protein:032x}"));
        Claim {
            order,
            accession: format!("P{order}"),
            protein_id,
            fact: Some(fact.into()),
            ..Claim::default()
        }
    }

    #[test]
    fn rows_come_back_by_bucket_from_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let evidence: [&[&str]; 3] = [&[], &["ECO:1"], &["ECO:1", "ECO:2"]];
        let protein = |n: u64| u128::from(n % 7) << 122 | u128::from(n);
        let claims: Vec<Claim> = (0..300)
            .map(|n| claim(n, protein(n), (n % 2 == 0).then_some("raw"), evidence[n as usize % 3]))
            .chain([Claim { order: 300, ..Claim::default() }])
            .collect();
        let paths = ["a", "b", "none"].map(|name| folder.path().join(name));
        for (path, claims) in paths.iter().zip([&claims[..250], &claims[250..], &[]]) {
            let mut file = Writer::new(fs::File::create(path).unwrap().into_file());
            claims.chunks(20).for_each(|claims| file.append(Block::new(claims)).unwrap());
            file.close().unwrap();
        }
        let facts = Facts::open(paths.clone()).unwrap();
        assert!(facts.files[0].1.len() > 2, "many deals");
        assert_eq!(facts.files.len(), 2, "a file without facts is not asked");
        let mut n_rows = 0;
        for bucket in 0..buckets::N {
            let bytes = facts.bucket(bucket).unwrap();
            for row in rows(&bytes) {
                let row = row.unwrap();
                let (n, claim) = (row.order, &claims[row.order as usize]);
                let fact = claim.fact.as_ref().unwrap();
                assert_eq!((row.protein, row.id), (protein(n), fact.id));
                assert_eq!(row.protein >> 120, bucket as u128);
                assert_eq!((row.accession, row.task, row.question), (&*claim.accession, "function", "Why?"));
                assert_eq!((row.raw_text, row.text), (fact.raw_text.as_deref(), &*fact.text));
                assert!(row.evidence.split_terminator(' ').eq(&fact.evidence));
                n_rows += 1;
            }
            assert!(bytes.is_empty() || rows(&bytes[..bytes.len() - 1]).any(|row| row.is_err()));
        }
        assert_eq!(n_rows, 300);

        let whole = fs::read(&paths[0]).unwrap();
        let mut turned = whole.clone();
        let at = whole.len() - 100 * 8;
        turned[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        for damaged in [&[][..], &whole[..100], &whole[1..], &[7; 100], &[255; 100], &turned] {
            fs::write(&paths[0], damaged).unwrap();
            assert!(Facts::open(paths.clone()).is_err());
        }
    }
}
