//! FASTA: entries of a header and the lines below it.

use crate::Error;
use crate::reader::{LONGEST, Line, Lines};
use crate::reason::{Fault, Reason};

/// Entries of a FASTA file, one at a time.
pub(crate) struct Entries<'a> {
    lines: Lines<'a>,
    header: Option<Line>,
}

/// One entry, or what is wrong with it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Line of its header, 1-based.
    pub(crate) line: u64,
    /// With the `>`.
    pub(crate) header: String,
    /// Its lines in one.
    pub(crate) text: String,
    /// What is wrong with it.
    pub(crate) fault: Option<Fault>,
}

impl<'a> Entries<'a> {
    /// Entries of an opened file.
    ///
    /// # Errors
    /// [`Error::Format`] when it does not begin with a header.
    pub(crate) fn open(mut lines: Lines<'a>) -> Result<Self, Error> {
        match lines.next()? {
            Some(line) if line.text.starts_with('>') => Ok(Self::after(line, lines)),
            _ => Err(Error::Format {
                path: lines.path().into(),
                place: format!("line {}", lines.number().max(1)),
                detail: "no FASTA header `>id`".into(),
                hint: "a FASTA file was expected; check `kind`, `files` and `companion` of the source".into(),
            }),
        }
    }

    /// Entries from a header on that has been read already.
    pub(crate) fn after(header: Line, lines: Lines<'a>) -> Self {
        Self { lines, header: Some(header) }
    }

    /// The next entry, `None` at the end. An entry longer than [`LONGEST`] is cut and faulty.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let Some(header) = self.header.take() else { return Ok(None) };
        let (mut text, mut fault) = (String::new(), header.fault);
        while let Some(line) = self.lines.next()? {
            if line.text.starts_with('>') {
                self.header = Some(line);
                break;
            }
            fault = fault.or(line.fault);
            if text.len() < LONGEST {
                text.push_str(line.text.trim());
            } else {
                fault.get_or_insert(Fault::new(
                    Reason::LineTooLong,
                    format!("the entry is longer than {LONGEST} bytes"),
                ));
            }
        }
        Ok(Some(Entry { line: header.number, header: header.text, text, fault }))
    }
}

impl Entry {
    /// First word of the header, empty if it has none.
    pub(crate) fn id(&self) -> &str {
        self.header[1..].split_whitespace().next().unwrap_or("")
    }

    /// The entry as text.
    pub(crate) fn raw(&self) -> String {
        format!("{}\n{}", self.header, self.text)
    }
}
