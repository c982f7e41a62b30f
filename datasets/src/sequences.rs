//! Named sequences to predict, one after the other: FASTA, or CSV with the columns `id` and `seq`, plain or gzip.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::Error;
use crate::residue;

/// One sequence of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The first word of the FASTA header, or the column `id`.
    pub id: String,
    /// Residue letters (see [`residue::normalise`]); empty where the file has none.
    pub sequence: String,
    /// Line of the header or row, from 1.
    pub line: usize,
}

impl Named {
    /// Whether it looks like nucleotides: 20 letters or more, and all of them A, C, G, T, U or N.
    pub fn is_nucleotides(&self) -> bool {
        self.sequence.len() >= 20 && self.sequence.bytes().all(|letter| b"ACGTUN".contains(&letter))
    }
}

/// The sequences of a file, read as they are asked for.
pub struct Sequences {
    path: PathBuf,
    lines: Box<dyn BufRead>,
    line: usize,
    format: Format,
    /// FASTA: the header that was read last.
    header: Option<(String, usize)>,
}

#[derive(Clone, Copy)]
enum Format {
    Fasta,
    /// Columns of `id` and `seq`.
    Csv(usize, usize),
}

impl Sequences {
    /// Opens a file; its content decides how it is read.
    ///
    /// # Errors
    /// When it cannot be read, is empty, or is neither of the two formats.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = BufReader::with_capacity(1 << 17, fs_err::File::open(path)?);
        let lines: Box<dyn BufRead> = match file.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
            true => Box::new(BufReader::with_capacity(1 << 17, MultiGzDecoder::new(file))),
            false => Box::new(file),
        };
        let (path, format) = (path.to_owned(), Format::Fasta);
        let mut sequences = Self { path, lines, line: 0, format, header: None };
        let first = loop {
            match sequences.next_line()? {
                Some(line) if line.is_empty() || line.starts_with(';') => {}
                Some(line) => break line,
                None => return Err(sequences.fault(0, "the file is empty")),
            }
        };
        if first.starts_with('>') {
            sequences.header = Some((identifier(&first), sequences.line));
            return Ok(sequences);
        }
        let columns: Vec<&str> = first.split(',').map(str::trim).collect();
        let place = |name: &str| columns.iter().position(|column| column.eq_ignore_ascii_case(name));
        match place("id").zip(place("seq")) {
            Some((id, seq)) => sequences.format = Format::Csv(id, seq),
            None => {
                let line = sequences.line;
                return Err(sequences.fault(
                    line,
                    "expected a FASTA header `>id`, or a CSV header with the columns id and seq",
                ));
            }
        }
        Ok(sequences)
    }

    /// The next line without its end, `None` at the end of the file. A byte-order mark goes.
    fn next_line(&mut self) -> Result<Option<String>, Error> {
        let mut bytes = Vec::new();
        self.lines
            .by_ref()
            .read_until(b'\n', &mut bytes)
            .map_err(|e| self.fault(self.line + 1, &e.to_string()))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        let text = String::from_utf8(bytes).map_err(|_| self.fault(self.line, "is not UTF-8 text"))?;
        Ok(Some(text.trim_start_matches('\u{feff}').trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn fault(&self, line: usize, what: &str) -> Error {
        Error::Sequences { path: self.path.clone(), line, what: what.to_owned() }
    }

    fn next_fasta(&mut self) -> Result<Option<Named>, Error> {
        let Some((id, line)) = self.header.take() else { return Ok(None) };
        let mut text = String::new();
        while let Some(next) = self.next_line()? {
            if next.starts_with('>') {
                self.header = Some((identifier(&next), self.line));
                break;
            }
            text.push_str(&next);
        }
        self.named(id, &text, line).map(Some)
    }

    fn next_csv(&mut self, id: usize, seq: usize) -> Result<Option<Named>, Error> {
        let row = loop {
            match self.next_line()? {
                Some(row) if row.trim().is_empty() => {}
                Some(row) => break row,
                None => return Ok(None),
            }
        };
        let fields = csv_fields(&row).map_err(|e| self.fault(self.line, &e.to_string()))?;
        match fields.get(id).zip(fields.get(seq)) {
            // Every letter of a table has a label: its last `*` is a residue, not a stop.
            Some((id, text)) => self.named(id.clone(), &text.replace('*', "X"), self.line).map(Some),
            None => Err(self.fault(self.line, "a row without the columns id and seq")),
        }
    }

    fn named(&self, id: String, text: &str, line: usize) -> Result<Named, Error> {
        match residue::normalise(text) {
            Ok(sequence) => Ok(Named { id, sequence, line }),
            Err(residue::SequenceError::Empty) => Ok(Named { id, sequence: String::new(), line }),
            Err(error) => Err(self.fault(line, &format!("sequence {id}: {error}"))),
        }
    }
}

impl Iterator for Sequences {
    type Item = Result<Named, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.format {
            Format::Fasta => self.next_fasta().transpose(),
            Format::Csv(id, seq) => self.next_csv(id, seq).transpose(),
        }
    }
}

/// The fields of one line of CSV, without blanks around them.
///
/// # Errors
/// When its quotes do not match.
pub fn csv_fields(line: &str) -> Result<Vec<String>, csv::Error> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(line.len().max(64))
        .from_reader(line.as_bytes());
    let mut record = csv::StringRecord::new();
    reader.read_record(&mut record)?;
    Ok(record.iter().map(|field| field.trim().to_owned()).collect())
}

fn identifier(header: &str) -> String {
    header[1..].split_whitespace().next().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<Named>, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Sequences::open(file.path())?.collect()
    }

    fn named(id: &str, sequence: &str, line: usize) -> Named {
        Named { id: id.into(), sequence: sequence.into(), line }
    }

    #[test]
    fn fasta_as_it_is_found() {
        let text = b"\xef\xbb\xbf>a first one\r\nMK\r\nt-y\r\n\r\n>b\n>a\nMK*TV*\n>c\n";
        let want = [named("a", "MKTY", 1), named("b", "", 5), named("a", "MKXTV", 6), named("c", "", 8)];
        assert_eq!(read(text).unwrap(), want);
        let mut packed = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        packed.write_all(text).unwrap();
        assert_eq!(read(&packed.finish().unwrap()).unwrap(), want);
    }

    #[test]
    fn csv_keeps_a_letter_for_every_label() {
        let text = b"id,seq\n0,FFKG*\n1,\"MK*T\"\n\n2,\n\"a,\"\"b\"\"\",MK\n";
        let quoted = named("a,\"b\"", "MK", 6);
        let want = [named("0", "FFKGX", 2), named("1", "MKXT", 3), named("2", "", 5), quoted];
        assert_eq!(read(text).unwrap(), want);
    }

    #[test]
    fn faults_name_file_and_line() {
        for (bytes, line, what) in [
            (&b""[..], 0, "empty"),
            (b"MKT\n", 1, "expected a FASTA header"),
            (b">a\nMK\n>b\nM1K\n", 3, "sequence b: character '1' at position 2"),
            (b"id,seq\n7\n", 2, "without the columns"),
            (b"id,seq\n1,MK\n2,M\xffK\n", 3, "UTF-8"),
            (b">a\nM\xffK\n", 2, "UTF-8"),
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(&format!("line {line}")), "{error}");
        }
    }

    #[test]
    fn nucleotides_are_noticed() {
        assert!(named("a", &"ACGT".repeat(5), 1).is_nucleotides());
        assert!(!named("a", "ACGT", 1).is_nucleotides());
        assert!(!named("a", "MKTAYIAKQRQISFVKSHFSRQ", 1).is_nucleotides());
    }
}
