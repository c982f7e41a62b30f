//! One file being written, and the count of everything planted in it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, GzBuilder};

use super::Truth;
use crate::Error;

/// How rows become a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One row a line, `\n`.
    Lines,
    /// One row a line, `\r\n`.
    CrLf,
    /// Rows are the items of one JSON array.
    JsonArray,
    /// Rows are the elements of one XML document, whose begin is the header.
    Xml(&'static str),
}

/// Rows of one file. A row is either kept, merged (a repeat) or quarantined for one reason: whoever writes a row says
/// which, and [`Sheet::finish`] adds it all to the [`Truth`].
pub(super) struct Sheet {
    path: &'static str,
    layout: Layout,
    header: Vec<u8>,
    rows: Vec<Vec<u8>>,
    faulty: Vec<Vec<u8>>,
    merged: u64,
    quarantined: BTreeMap<String, u64>,
    members: usize,
}

impl Sheet {
    /// A file of lines; `header` is written first as it is, with its line end.
    pub(super) fn new(path: &'static str, header: &str) -> Self {
        Self {
            path,
            layout: Layout::Lines,
            header: header.as_bytes().to_vec(),
            rows: vec![],
            faulty: vec![],
            merged: 0,
            quarantined: BTreeMap::new(),
            members: 1,
        }
    }

    /// Another layout than lines.
    pub(super) fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Compressed in this many gzip members, as `bgzip` and log rotation leave files.
    pub(super) fn gzip_members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// The name of the file, relative to the data folder.
    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    /// Kept rows so far, as a number for the next one.
    pub(super) fn next(&self) -> usize {
        self.rows.len()
    }

    /// A good row.
    pub(super) fn keep(&mut self, row: impl Into<Vec<u8>>) {
        self.rows.push(row.into());
    }

    /// A repeat of a row that was kept before.
    pub(super) fn merge(&mut self, row: impl Into<Vec<u8>>) {
        self.merged += 1;
        self.rows.push(row.into());
    }

    /// A bad row. It may stand anywhere: bad rows are spread over the file.
    pub(super) fn fault(&mut self, reason: &str, row: impl Into<Vec<u8>>) {
        self.count(reason);
        self.faulty.push(row.into());
    }

    /// A row that is bad because of a row before it.
    pub(super) fn late_fault(&mut self, reason: &str, row: impl Into<Vec<u8>>) {
        self.count(reason);
        self.rows.push(row.into());
    }

    fn count(&mut self, reason: &str) {
        *self.quarantined.entry(reason.to_owned()).or_default() += 1;
    }

    /// Writes the file into the data folder and its counts into the truth.
    pub(super) fn finish(self, out: &Path, truth: &mut Truth) -> Result<(), Error> {
        let (path, members) = (self.path, self.members);
        let total = (self.rows.len() + self.faulty.len()) as u64;
        truth.rows.insert(path.to_owned(), total);
        truth.merged.insert(path.to_owned(), self.merged);
        truth.quarantine.insert(path.to_owned(), self.quarantined.clone());
        write_file(&out.join(path), &self.into_bytes(), members)
    }

    fn into_bytes(self) -> Vec<u8> {
        let Self { layout, header, rows, faulty, .. } = self;
        let (start, between, end): (&[u8], &[u8], &[u8]) = match layout {
            Layout::Lines => (b"", b"\n", b"\n"),
            Layout::CrLf => (b"", b"\r\n", b"\r\n"),
            Layout::JsonArray => (b"[\n", b",\n", b"\n]\n"),
            Layout::Xml(end) => (b"", b"\n", end.as_bytes()),
        };
        let (n, step) = (rows.len(), rows.len() / (faulty.len() + 1));
        let mut bytes = [&header, start].concat();
        let mut faulty = faulty.into_iter();
        for (at, row) in rows.into_iter().enumerate() {
            if step > 0
                && at % step == step - 1
                && let Some(bad) = faulty.next()
            {
                bytes.extend([&bad, between].concat());
            }
            bytes.extend(row);
            bytes.extend(if at + 1 < n || faulty.len() > 0 { between } else { end });
        }
        while let Some(bad) = faulty.next() {
            bytes.extend(bad);
            bytes.extend(if faulty.len() > 0 { between } else { end });
        }
        bytes
    }
}

/// Writes bytes, gzipped (without a time, so that the bytes repeat) if the name ends in `.gz`.
pub(super) fn write_file(path: &Path, bytes: &[u8], gzip_members: usize) -> Result<(), Error> {
    crate::atomic_write(path, |file| {
        if path.extension().is_none_or(|ext| ext != "gz") {
            return Ok(file.write_all(bytes)?);
        }
        for part in bytes.chunks(bytes.len().div_ceil(gzip_members).max(1)) {
            let mut gzip = GzBuilder::new().mtime(0).write(&mut *file, Compression::new(6));
            gzip.write_all(part)?;
            gzip.finish()?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_spread_and_counted() {
        let mut sheet = Sheet::new("x.csv", "head\n");
        for row in 0..7 {
            sheet.keep(format!("{row}"));
        }
        sheet.merge("0");
        sheet.fault("malformed", "bad");
        sheet.fault("malformed", "worse");
        sheet.late_fault("id_conflict", "1b");
        let dir = tempfile::tempdir().unwrap();
        let mut truth = Truth::default();
        sheet.finish(dir.path(), &mut truth).unwrap();
        let text = fs_err::read_to_string(dir.path().join("x.csv")).unwrap();
        assert_eq!(text, "head\n0\n1\nbad\n2\n3\n4\nworse\n5\n6\n0\n1b\n");
        assert_eq!((truth.rows["x.csv"], truth.merged["x.csv"]), (11, 1));
        assert_eq!(truth.quarantine["x.csv"]["malformed"], 2);
        assert_eq!(truth.kept("x.csv"), 7);
    }

    #[test]
    fn few_rows_and_many_faults_still_end_in_a_line_end() {
        let mut sheet = Sheet::new("x.json", "").layout(Layout::JsonArray);
        sheet.keep("1");
        sheet.fault("malformed", "2");
        sheet.fault("malformed", "3");
        assert_eq!(sheet.into_bytes(), b"[\n1,\n2,\n3\n]\n");
    }
}
