//! Bytes of a source file: gzip by its magic bytes, lines of bounded length, faults told apart from text.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;
use fs_err as fs;
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::reason::{Fault, Reason};

/// Longest line or JSON record that is read, bytes.
pub(crate) const LONGEST: usize = 8 << 20;

/// An opened source file, unpacked.
pub(crate) struct Input {
    path: PathBuf,
    inner: BufReader<Box<dyn Read + Send>>,
    packed: Arc<AtomicU64>,
    length: u64,
    is_gzip: bool,
}

struct Counted {
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

impl Input {
    /// Opens a file, unpacks gzip by its magic bytes and skips a byte-order mark.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NotGzip`] when the name promises gzip that is not there, [`Error::Gzip`].
    pub(crate) fn open(path: &Path, bar: ProgressBar) -> Result<Self, Error> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        let mut magic = Vec::new();
        file.by_ref().take(2).read_to_end(&mut magic)?;
        let is_gzip = magic == [0x1f, 0x8b];
        let named_gzip = path.extension().is_some_and(|e| e == "gz");
        if length == 0 {
            return Err(Error::Empty { path: path.into() });
        }
        if named_gzip && !is_gzip {
            return Err(Error::NotGzip { path: path.into() });
        }
        if is_gzip && !named_gzip {
            tracing::warn!(path = %path.display(), "gzip content under another name; unpacked all the same");
        }
        let packed = Arc::new(AtomicU64::new(0));
        let counted = Counted { file: fs::File::open(path)?, packed: packed.clone(), bar };
        let plain: Box<dyn Read + Send> = if is_gzip {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, counted)))
        } else {
            Box::new(counted)
        };
        let inner = BufReader::with_capacity(1 << 17, plain);
        let mut input = Self { path: path.into(), inner, packed, length, is_gzip };
        let start = input.fill()?;
        if start.is_empty() {
            return Err(Error::Empty { path: path.into() });
        }
        if start.starts_with(b"\xef\xbb\xbf") {
            input.consume(3);
        }
        Ok(input)
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next unpacked bytes, empty at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8], Error> {
        // The borrow of a filled buffer cannot leave a `match` with an error arm, so it is filled twice.
        if let Err(source) = self.inner.fill_buf() {
            let offset = self.packed.load(Ordering::Relaxed);
            return Err(if self.is_gzip {
                Error::Gzip { path: self.path.clone(), offset, length: self.length, source }
            } else {
                Error::Io(source)
            });
        }
        Ok(self.inner.buffer())
    }

    /// Marks bytes of [`Input::fill`] as read.
    pub(crate) fn consume(&mut self, n: usize) {
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
            path: self.path,
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

/// Lines of a file, one at a time.
pub(crate) struct Lines {
    input: Input,
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

impl Lines {
    /// Lines of an opened file.
    pub(crate) fn new(input: Input) -> Self {
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
            let Some(length) = self.input.raw_line(&mut self.buffer)? else { return Ok(None) };
            self.number += 1;
            while self.buffer.last() == Some(&b'\r') {
                self.buffer.pop();
            }
            if self.buffer.iter().all(u8::is_ascii_whitespace) && length <= LONGEST {
                continue;
            }
            let (text, fault) = decode(&self.buffer, length);
            return Ok(Some(Line { number: self.number, text, fault }));
        }
    }
}

/// Entries of a FASTA file, one at a time.
pub(crate) struct Entries {
    lines: Lines,
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

impl Entries {
    /// Entries of an opened file.
    ///
    /// # Errors
    /// [`Error::Format`] when it does not begin with a header.
    pub(crate) fn open(mut lines: Lines) -> Result<Self, Error> {
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
    pub(crate) fn after(header: Line, lines: Lines) -> Self {
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

/// Text of a line or record of `length` bytes (of which `bytes` may be the beginning), and what is wrong with it.
pub(crate) fn decode(bytes: &[u8], length: usize) -> (String, Option<Fault>) {
    if length > LONGEST {
        let detail = format!("{length} bytes, at most {LONGEST}");
        let start = &bytes[..bytes.len().min(2_000)];
        return (String::from_utf8_lossy(start).into_owned(), Some(Fault::new(Reason::LineTooLong, detail)));
    }
    let fault = match std::str::from_utf8(bytes) {
        Ok(text) => match text.find('\0') {
            None => return (text.to_owned(), None),
            Some(at) => Fault::new(Reason::NulByte, format!("NUL at byte {} of the record", at + 1)),
        },
        Err(e) => {
            Fault::new(Reason::NotUtf8, format!("byte {} of the record is not UTF-8", e.valid_up_to() + 1))
        }
    };
    (String::from_utf8_lossy(bytes).into_owned(), Some(fault))
}

/// SHA-256 of a file as it lies there, hexadecimal, and its size.
pub(crate) fn fingerprint(path: &Path) -> Result<(String, u64), Error> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        bytes += n as u64;
    }
    Ok((hash.finalize().iter().map(|b| format!("{b:02x}")).collect(), bytes))
}
