//! Tables with a header line: columns by name.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::Error;
use crate::ledger::cut;
use crate::reader::Lines;
use crate::reason::{Fault, Reason};

/// The fields of a CSV line.
pub(crate) fn csv_fields(line: &str) -> Result<Vec<String>, Fault> {
    datasets::sequences::csv_fields(line).map_err(|e| Fault::new(Reason::Malformed, e.to_string()))
}

/// The header line of a table, and the places of its columns.
pub(crate) struct Header {
    pub(crate) names: Vec<String>,
    /// Whether anything was read of the column.
    is_read: Vec<AtomicBool>,
}

impl Header {
    /// Reads the first line and checks that it has the columns.
    ///
    /// # Errors
    /// [`Error::Header`] naming what is missing and what is there.
    pub(crate) fn read(
        lines: &mut Lines<'_>,
        separator: char,
        needed: &[&str],
        hint: &str,
    ) -> Result<Self, Error> {
        let line = lines.next()?.map(|l| l.text).unwrap_or_default();
        let names: Vec<String> =
            line.split(separator).map(|n| n.trim().trim_matches('"').to_owned()).collect();
        let header = Self { is_read: unread(&names), names };
        let missing: Vec<&str> = needed.iter().copied().filter(|n| header.find(n).is_none()).collect();
        if missing.is_empty() {
            return Ok(header);
        }
        Err(Error::Header {
            path: lines.path().into(),
            line: lines.number().max(1),
            missing: missing.join(", "),
            got: cut(&line).chars().take(200).collect(),
            hint: hint.into(),
        })
    }

    /// A header by its text, for tests.
    #[cfg(test)]
    pub(crate) fn of(line: &str, separator: char) -> Self {
        let names: Vec<String> = line.split(separator).map(str::to_owned).collect();
        Self { is_read: unread(&names), names }
    }

    /// Place of a column.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// Columns that nothing was read of so far: what a newer release has added, or what no table holds.
    pub(crate) fn unread(&self) -> Vec<String> {
        let unread = self
            .names
            .iter()
            .zip(&self.is_read)
            .filter(|(name, is_read)| !is_read.load(Ordering::Relaxed) && !name.is_empty());
        unread.map(|(name, _)| name.clone()).collect()
    }

    /// Number of columns.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }
}

fn unread(names: &[String]) -> Vec<AtomicBool> {
    names.iter().map(|_| AtomicBool::new(false)).collect()
}

/// The columns of one record, by name.
pub(crate) struct Row<'a> {
    pub(crate) header: &'a Header,
    fields: Vec<String>,
}

impl<'a> Row<'a> {
    /// Fields under a header.
    ///
    /// # Errors
    /// `malformed` on another number of fields than the header has.
    pub(crate) fn new(header: &'a Header, fields: Vec<String>) -> Result<Self, Fault> {
        if fields.len() != header.len() {
            return Err(Fault::new(
                Reason::Malformed,
                format!("{} fields, the header has {}", fields.len(), header.len()),
            ));
        }
        Ok(Self { header, fields })
    }

    /// A column, empty if the file does not have it.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.header.find(name).map_or("", |at| {
            let is_read = &self.header.is_read[at];
            // Threads share it, and to look is cheaper than to write.
            if !is_read.load(Ordering::Relaxed) {
                is_read.store(true, Ordering::Relaxed);
            }
            &self.fields[at]
        })
    }

    /// A column as a number.
    ///
    /// # Errors
    /// `missing_value` when empty or NaN, `malformed` when it is no number.
    pub(crate) fn number(&self, name: &str) -> Result<f64, Fault> {
        number(name, self.get(name))
    }
}

/// A number as sources write it, U+2212 minus included.
///
/// # Errors
/// `missing_value` when empty or NaN, `malformed` when it is no number.
pub(crate) fn number(name: &str, text: &str) -> Result<f64, Fault> {
    if text.is_empty() || matches!(text.to_ascii_lowercase().as_str(), "nan" | "na" | "none" | "null" | "-") {
        return Err(Fault::new(Reason::MissingValue, format!("{name} is {text:?}")));
    }
    text.replace('\u{2212}', "-")
        .parse()
        .map_err(|_| Fault::new(Reason::Malformed, format!("{name} {text:?} is no number")))
}
