//! Bytes of a source file: gzip by its magic bytes, lines of bounded length, faults told apart from text.

use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use fs_err as fs;
use indicatif::ProgressBar;

use crate::Error;
use crate::reason::{Fault, Reason};

/// Longest line or JSON record that is read, bytes.
pub(crate) const LONGEST: usize = 8 << 20;

/// Unpacked bytes that one packed byte may stand for: gzip and zip reach 1,032 on zeros, text stays below 100.
const LARGEST_RATIO: u64 = 200;
/// Unpacked bytes that are read before the ratio counts (a few in unit tests, whose bombs are small).
const SMALL: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Bytes at the beginning of a file that tell its format.
const HEAD: usize = 4 << 10;

/// An opened source file or member of an archive, unpacked.
pub(crate) struct Input<'a> {
    origin: Origin,
    inner: BufReader<Box<dyn Read + 'a>>,
    head: Vec<u8>,
}

/// Where the bytes of an input come from, and how many did so far.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    path: PathBuf,
    /// Bytes read of the file on disk, which has `length`.
    packed: Arc<AtomicU64>,
    length: u64,
    is_packed: bool,
    unpacked: Arc<AtomicU64>,
}

/// Bytes of a file on disk, counted.
pub(crate) struct Counted {
    file: fs::File,
    packed: Arc<AtomicU64>,
    bar: ProgressBar,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.packed.fetch_add(n as u64, Ordering::Relaxed);
        self.bar.inc(n as u64);
        Ok(n)
    }
}

impl Seek for Counted {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.file.seek(to)
    }
}

impl Counted {
    /// The first four bytes (zeros beyond the end), not counted; the next read begins with them again.
    ///
    /// # Errors
    /// I/O.
    pub(crate) fn magic(&mut self) -> Result<[u8; 4], Error> {
        let (mut magic, mut n) = ([0; 4], 1);
        let mut rest = &mut magic[..];
        while n > 0 && !rest.is_empty() {
            n = self.file.read(rest)?;
            rest = &mut rest[n..];
        }
        self.file.rewind()?;
        Ok(magic)
    }
}

impl Origin {
    /// A file on disk.
    ///
    /// # Errors
    /// I/O.
    pub(crate) fn open(path: &Path, bar: ProgressBar) -> Result<(Self, Counted), Error> {
        let file = fs::File::open(path)?;
        let (packed, length) = (Arc::default(), file.metadata()?.len());
        let counted = Counted { file, packed: Arc::clone(&packed), bar };
        Ok((Self { path: path.into(), packed, length, is_packed: false, unpacked: Arc::default() }, counted))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A member of this archive. `is_new`: its bytes are not counted by the archive's own input.
    pub(crate) fn member(&self, name: &str, is_new: bool) -> Self {
        let unpacked = if is_new { Arc::clone(&self.unpacked) } else { Arc::default() };
        Self { path: self.path.join(name), is_packed: true, unpacked, ..self.clone() }
    }

    fn fault(&self, source: std::io::Error) -> Error {
        match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) if !self.is_packed => Error::Io(source),
            Err(source) => {
                let offset = self.packed.load(Ordering::Relaxed);
                Error::Gzip { path: self.path.clone(), offset, length: self.length, source }
            }
        }
    }
}

impl Input<'static> {
    /// Opens a file, unpacks gzip by its magic bytes and skips a byte-order mark.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NotGzip`] when the name promises gzip that is not there, [`Error::Gzip`].
    pub(crate) fn open(path: &Path, bar: ProgressBar) -> Result<Self, Error> {
        let (origin, counted) = Origin::open(path, bar)?;
        Self::begin(origin, Box::new(counted))
    }
}

impl<'a> Input<'a> {
    /// Begins to read bytes of any origin.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub(crate) fn begin(mut origin: Origin, mut bytes: Box<dyn Read + 'a>) -> Result<Self, Error> {
        let mut magic = Vec::new();
        (&mut bytes).take(2).read_to_end(&mut magic).map_err(|e| origin.fault(e))?;
        if magic.is_empty() {
            return Err(Error::Empty { path: origin.path });
        }
        let is_gzip = magic == [0x1f, 0x8b];
        let named_gzip = origin.path.extension().is_some_and(|e| e == "gz");
        if named_gzip && !is_gzip {
            return Err(Error::NotGzip { path: origin.path });
        }
        if is_gzip && !named_gzip && origin.path.extension().is_none_or(|e| e != "tgz") {
            tracing::warn!(path = %origin.path.display(), "gzip content under another name; unpacked all the same");
        }
        origin.is_packed |= is_gzip;
        let whole = Cursor::new(magic).chain(bytes);
        let mut plain: Box<dyn Read + 'a> = if is_gzip {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, whole)))
        } else {
            Box::new(whole)
        };
        let mut head = Vec::new();
        (&mut plain).take(HEAD as u64).read_to_end(&mut head).map_err(|e| origin.fault(e))?;
        if head.is_empty() {
            return Err(Error::Empty { path: origin.path });
        }
        if head.starts_with(b"\xef\xbb\xbf") {
            head.drain(..3);
        }
        let inner: Box<dyn Read + 'a> = Box::new(Cursor::new(head.clone()).chain(plain));
        Ok(Self { origin, inner: BufReader::with_capacity(1 << 17, inner), head })
    }

    /// Where the bytes come from.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The file; for a member of an archive that of the archive and the name in it.
    pub(crate) fn path(&self) -> &Path {
        &self.origin.path
    }

    /// The first bytes, unpacked, whatever has been read since.
    pub(crate) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether it begins so, white space aside.
    pub(crate) fn begins_with(&self, mark: &[u8]) -> bool {
        self.head.trim_ascii_start().starts_with(mark)
    }

    /// The next unpacked bytes, empty at the end.
    ///
    /// # Errors
    /// I/O, damaged gzip, [`Error::Bomb`] when a little of the file gives far more than any text would.
    pub(crate) fn fill(&mut self) -> Result<&[u8], Error> {
        // The borrow of a filled buffer cannot leave a `match` with an error arm, so it is filled twice.
        if let Err(source) = self.inner.fill_buf() {
            return Err(self.origin.fault(source));
        }
        let unpacked = self.origin.unpacked.load(Ordering::Relaxed);
        let packed = self.origin.packed.load(Ordering::Relaxed);
        if self.origin.is_packed && unpacked > SMALL && unpacked / LARGEST_RATIO > packed {
            return Err(Error::Bomb { path: self.origin.path.clone(), packed, unpacked });
        }
        Ok(self.inner.buffer())
    }

    /// Marks bytes of [`Input::fill`] as read.
    pub(crate) fn consume(&mut self, n: usize) {
        self.origin.unpacked.fetch_add(n as u64, Ordering::Relaxed);
        self.inner.consume(n);
    }

    /// All that is left, as text (small companions).
    ///
    /// # Errors
    /// I/O, damaged gzip, or text that is not UTF-8.
    pub(crate) fn text(mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                break;
            }
            let n = chunk.len();
            bytes.extend_from_slice(chunk);
            self.consume(n);
        }
        String::from_utf8(bytes).map_err(|e| Error::Format {
            path: self.origin.path,
            place: format!("byte {}", e.utf8_error().valid_up_to()),
            detail: "not UTF-8".into(),
            hint: "this companion file must be text; fetch it again".into(),
        })
    }

    /// Reads on to the next line end, whose bytes go into `line` up to [`LONGEST`]. Returns the length of the line
    /// as it is in the file, `None` at the end of the file.
    fn raw_line(&mut self, line: &mut Vec<u8>) -> Result<Option<usize>, Error> {
        line.clear();
        let mut length = 0;
        let mut ended = false;
        while !ended {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|&b| b == b'\n');
            let text = &chunk[..end.unwrap_or(chunk.len())];
            let room = LONGEST.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            length += text.len();
            let used = text.len() + usize::from(end.is_some());
            ended = end.is_some();
            self.consume(used);
        }
        Ok(if length == 0 && !ended { None } else { Some(length) })
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.fill().map_err(std::io::Error::other)?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}

/// Lines of a file, one at a time.
pub(crate) struct Lines<'a> {
    input: Input<'a>,
    number: u64,
    buffer: Vec<u8>,
}

/// One line: its 1-based number, and its text or what is wrong with it.
pub(crate) struct Line {
    /// 1-based.
    pub(crate) number: u64,
    /// Without line end; lossily decoded where it is faulty.
    pub(crate) text: String,
    /// What is wrong with it.
    pub(crate) fault: Option<Fault>,
}

impl<'a> Lines<'a> {
    /// Lines of an opened file.
    pub(crate) fn new(input: Input<'a>) -> Self {
        Self { input, number: 0, buffer: Vec::new() }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        self.input.path()
    }

    /// Number of the line read last.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            match self.any()? {
                Some(line) if line.fault.is_none() && line.text.trim_ascii().is_empty() => {}
                line => return Ok(line),
            }
        }
    }

    /// The next line that is not blank, sound lines that are comments left out.
    pub(crate) fn next_but(&mut self, is_comment: impl Fn(&str) -> bool) -> Result<Option<Line>, Error> {
        loop {
            match self.next()? {
                Some(line) if line.fault.is_none() && is_comment(&line.text) => {}
                line => return Ok(line),
            }
        }
    }

    /// The next line, blank or not, `None` at the end.
    pub(crate) fn any(&mut self) -> Result<Option<Line>, Error> {
        let Some(length) = self.input.raw_line(&mut self.buffer)? else { return Ok(None) };
        self.number += 1;
        while self.buffer.last() == Some(&b'\r') {
            self.buffer.pop();
        }
        let (text, fault) = decode(self.buffer.clone(), length);
        Ok(Some(Line { number: self.number, text, fault }))
    }
}

/// Text of a line or record of `length` bytes (of which `bytes` may be the beginning), and what is wrong with it.
pub(crate) fn decode(bytes: Vec<u8>, length: usize) -> (String, Option<Fault>) {
    if length > LONGEST {
        let detail = format!("{length} bytes, at most {LONGEST}");
        let start = &bytes[..bytes.len().min(2_000)];
        return (String::from_utf8_lossy(start).into_owned(), Some(Fault::new(Reason::LineTooLong, detail)));
    }
    match String::from_utf8(bytes) {
        Ok(text) => {
            let nul = |at| Fault::new(Reason::NulByte, format!("NUL at byte {} of the record", at + 1));
            let fault = memchr::memchr(0, text.as_bytes()).map(nul);
            (text, fault)
        }
        Err(error) => {
            let at = error.utf8_error().valid_up_to() + 1;
            let fault = Fault::new(Reason::NotUtf8, format!("byte {at} of the record is not UTF-8"));
            (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(fault))
        }
    }
}
