//! Takes the records of a file: parses them on the threads that are free, counts them, places and writes their claims.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::{Context, Header, Parsed, files};
use crate::Error;
use crate::claim::{self, Claim};
use crate::fasta::{Entries, Entry};
use crate::json::Elements;
use crate::ledger::{Ledger, cut};
use crate::parse::{Claims, Group};
use crate::reader::{Input, Line, Lines};
use crate::reason::{Fault, Reason};

/// Records that are parsed by one thread together, and bytes of text of these, at most.
const MOST_RECORDS: usize = 1 << 13;
const CHUNK_BYTES: usize = if cfg!(test) { 1 << 10 } else { 4 << 20 };
/// Chunks that are read for each thread that helps, before the one that reads parses one itself.
const CHUNKS_AHEAD: usize = 3;

/// The text of a record that waits to be parsed.
pub(crate) trait Record: Send {
    /// Line at which it begins.
    fn line(&self) -> u64;
    /// As it stands in the file.
    fn raw(&self) -> Cow<'_, str>;
    /// What is wrong with it already.
    fn fault(&mut self) -> Option<Fault>;
}

impl Record for Line {
    fn line(&self) -> u64 {
        self.number
    }

    fn raw(&self) -> Cow<'_, str> {
        self.text.as_str().into()
    }

    fn fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }
}

impl Record for Entry {
    fn line(&self) -> u64 {
        self.line
    }

    fn raw(&self) -> Cow<'_, str> {
        Entry::raw(self).into()
    }

    fn fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }
}

/// Records that are parsed by one thread together, and their places.
type Chunk<R> = Vec<(u64, R)>;

/// Takes records of one file and counts them: places and writes their claims, or looks up the texts of some.
pub(crate) struct Sink<'a> {
    places: Places,
    /// The account of all files.
    pub(super) ledger: Arc<Ledger>,
    goal: Goal<'a>,
}

/// What is done with the records of a file.
enum Goal<'a> {
    /// Their claims are placed, and written behind those that are there.
    Claims {
        claims: &'a mut Claims,
        /// A permit for every thread that is free to parse.
        free: Arc<Semaphore>,
    },
    /// The texts of those that stand at these places are looked up.
    Texts(&'a mut BTreeMap<u64, Option<String>>),
}

/// Where the records of a file stand.
struct Places {
    context: Arc<Context>,
    file: usize,
    rows_in: u64,
    /// Line of an archive after which the member being read begins, and the last line read; 0 in plain files.
    begin: u64,
    last: u64,
}

impl<'a> Sink<'a> {
    /// A sink of one file for its claims.
    pub(crate) fn new(
        context: Arc<Context>,
        file: usize,
        ledger: Arc<Ledger>,
        claims: &'a mut Claims,
        free: Arc<Semaphore>,
    ) -> Self {
        Self { places: Places::new(context, file), ledger, goal: Goal::Claims { claims, free } }
    }

    /// A sink of one file for the texts of some of its records, by their places.
    pub(crate) fn of_texts(
        context: Arc<Context>,
        file: usize,
        texts: &'a mut BTreeMap<u64, Option<String>>,
    ) -> Self {
        Self { places: Places::new(context, file), ledger: Arc::default(), goal: Goal::Texts(texts) }
    }

    /// Place of the file among those of its source.
    pub(super) fn file(&self) -> usize {
        self.places.file
    }

    /// Notes that what comes now is of another member of an archive.
    pub(super) fn begin_member(&mut self, name: &str) {
        let of = &mut self.places;
        of.begin = of.last;
        self.ledger.member(of.context.index, of.file, of.begin, name);
    }

    /// Takes one record that began at `line`.
    pub(crate) fn put(&mut self, line: u64, raw: &str, parsed: Result<Parsed, Fault>) -> Result<(), Error> {
        let at = self.places.next(line)?;
        match &mut self.goal {
            Goal::Claims { claims: written, .. } => {
                let claims = placed(&self.places.context, &self.ledger, at, raw, parsed);
                self.ledger.claimed(&claims);
                written.add(claims)
            }
            Goal::Texts(texts) => {
                texts.entry(at).and_modify(|text| *text = Some(cut(raw)));
                Ok(())
            }
        }
    }

    /// Takes a record, parsed unless it is faulty already.
    pub(crate) fn record<R: Record>(
        &mut self,
        mut record: R,
        parse: impl FnOnce(&R) -> Result<Parsed, Fault>,
    ) -> Result<(), Error> {
        let parsed = record.fault().map_or_else(|| parse(&record), Err);
        self.put(record.line(), &record.raw(), parsed)
    }

    /// Takes every record that `next` gives, parsed unless it is faulty already. Threads that are free parse chunks of them while
    /// this one reads on, and it parses, too, when many wait; where a chunk is parsed changes no byte of a table.
    pub(crate) fn records<R: Record>(
        &mut self,
        mut next: impl FnMut() -> Result<Option<R>, Error>,
        parse: impl Fn(&R) -> Result<Parsed, Fault> + Sync,
    ) -> Result<(), Error> {
        let Goal::Claims { claims: written, free } = &mut self.goal else {
            while let Some(record) = next()? {
                self.put(record.line(), &record.raw(), Ok(Parsed::default()))?;
            }
            return Ok(());
        };
        let (context, ledger) = (self.places.context.clone(), self.ledger.clone());
        let (places, encoder) = (&mut self.places, written.encoder());
        let parse = |chunk: Chunk<R>| -> Vec<Claim> {
            let mut claims = Vec::with_capacity(chunk.len());
            for (at, mut record) in chunk {
                let parsed = record.fault().map_or_else(|| parse(&record), Err);
                claims.extend(placed(&context, &ledger, at, &record.raw(), parsed));
            }
            ledger.claimed(&claims);
            claims
        };
        // Who gets the group may have gone, with an error of its own.
        let work = |(chunk, done): (Chunk<R>, Sender<_>)| _ = done.send(encoder.encode(parse(chunk)));
        let (wait, waiting) = channel();
        let waiting = Mutex::new(waiting);
        // Ends when the other end is dropped.
        let help = || {
            loop {
                let chunk = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(chunk) = chunk else { return };
                work(chunk);
            }
        };
        std::thread::scope(|scope| {
            let wait = wait;
            let (mut groups, mut n_helpers) = (VecDeque::<Receiver<Result<Group, Error>>>::new(), 0);
            loop {
                let (chunk, is_last) = places.chunk(&mut next)?;
                if is_last {
                    drop(wait);
                    // No helper holds the lock for long any more.
                    while let Ok(chunk) = waiting.lock().unwrap_or_else(PoisonError::into_inner).try_recv() {
                        work(chunk);
                    }
                    for group in groups {
                        written.append(group.recv().expect("every chunk is worked at")?)?;
                    }
                    // It may be little, and there may be many files: written with what other files have left.
                    return written.add(parse(chunk));
                }
                if let Ok(permit) = free.clone().try_acquire_owned() {
                    n_helpers += 1;
                    scope.spawn(move || {
                        let _permit = permit;
                        help();
                    });
                }
                let (done, group) = channel();
                groups.push_back(group);
                wait.send((chunk, done)).expect("the other end is here");
                // Who holds the lock waits for a chunk: then there is none.
                if groups.len() > CHUNKS_AHEAD * n_helpers
                    && let Ok(chunk) = waiting.try_lock().map_or(Err(TryRecvError::Empty), |of| of.try_recv())
                {
                    work(chunk);
                }
                while let Some(Ok(group)) = groups.front().map(Receiver::try_recv) {
                    written.append(group?)?;
                    groups.pop_front();
                }
            }
        })
    }

    /// Takes every line that is left.
    pub(crate) fn lines(
        &mut self,
        mut lines: Lines<'_>,
        parse: impl Fn(&str) -> Result<Parsed, Fault> + Sync,
    ) -> Result<(), Error> {
        self.records(|| lines.next(), |line| parse(&line.text))
    }

    /// Takes every row that is left of a table, and notes which of its columns nothing was read of.
    pub(crate) fn rows(
        &mut self,
        lines: Lines<'_>,
        header: &Header,
        parse: impl Fn(&str) -> Result<Parsed, Fault> + Sync,
    ) -> Result<(), Error> {
        self.lines(lines, parse)?;
        self.unread(header);
        Ok(())
    }

    /// Notes which columns nothing was read of.
    pub(crate) fn unread(&self, header: &Header) {
        self.ledger.unread(self.places.context.index, self.places.file, header.unread());
    }

    /// Takes every entry that is left of a FASTA file.
    pub(crate) fn entries(
        &mut self,
        mut entries: Entries<'_>,
        parse: impl Fn(&Entry) -> Result<Parsed, Fault> + Sync,
    ) -> Result<(), Error> {
        self.records(|| entries.next(), parse)
    }

    /// Takes every element of a JSON array.
    pub(crate) fn elements(
        &mut self,
        input: Input<'_>,
        parse: impl Fn(&str) -> Result<Parsed, Fault> + Sync,
    ) -> Result<(), Error> {
        let mut elements = Elements::new(input);
        self.records(|| elements.next(), |element| parse(&element.text))
    }

    /// Enters the count.
    pub(crate) fn close(self) {
        let Places { context, file, rows_in, .. } = self.places;
        self.ledger.read(context.index, file, rows_in);
    }
}

impl Places {
    fn new(context: Arc<Context>, file: usize) -> Self {
        Self { context, file, rows_in: 0, begin: 0, last: 0 }
    }

    /// Counts a record that begins at `line`, and says where its claims stand.
    fn next(&mut self, line: u64) -> Result<u64, Error> {
        self.rows_in += 1;
        // Two records may begin on one line; a place belongs to one.
        self.last = (self.begin + line).max(self.last + 1);
        if self.last >= claim::MAX_LINES {
            return Err(Error::Format {
                path: files(&self.context.source).nth(self.file).unwrap_or_default().into(),
                place: format!("line {}", self.last),
                detail: format!("a file (or archive) has at most {} lines", claim::MAX_LINES),
                hint: "cut it into several files and list them all in `files`".into(),
            });
        }
        Ok(claim::record(self.context.index, self.file, self.last))
    }

    /// The next records, and whether they are the last.
    fn chunk<R: Record>(
        &mut self,
        next: &mut impl FnMut() -> Result<Option<R>, Error>,
    ) -> Result<(Chunk<R>, bool), Error> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < MOST_RECORDS && bytes < CHUNK_BYTES {
            let Some(record) = next()? else { return Ok((chunk, true)) };
            bytes += record.raw().len();
            chunk.push((self.next(record.line())?, record));
        }
        Ok((chunk, false))
    }
}

/// The claims of a record, at their places; what says nothing goes into the ledger.
fn placed(
    context: &Context,
    ledger: &Ledger,
    record: u64,
    raw: &str,
    parsed: Result<Parsed, Fault>,
) -> Vec<Claim> {
    let Parsed { mut claims, dropped } = match parsed {
        Ok(parsed) if parsed.claims.len() > claim::MAX_PARTS => {
            let detail = format!("{} statements, at most {}", parsed.claims.len(), claim::MAX_PARTS);
            ledger.quarantine(record, Fault::new(Reason::Malformed, detail), raw, false);
            return vec![];
        }
        Ok(parsed) => parsed,
        Err(fault) => {
            ledger.quarantine(record, fault, raw, false);
            return vec![];
        }
    };
    for (fault, text) in dropped {
        ledger.quarantine(record, fault, &text, true);
    }
    for (part, claim) in claims.iter_mut().enumerate() {
        claim.place(&context.source, record, part as u64);
    }
    claims
}
