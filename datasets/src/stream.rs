//! Parquet files of any size → batches of rows: shuffled, by length or packed, in bounded memory.
//!
//! An epoch permutes the row groups of all files and cuts them into windows of about [`WINDOW`] rows. Threads read the
//! next window while the rows of the last are handed out, so two windows are in memory at most. Inside a window rows are
//! shuffled and made into batches as [`Sampler`](crate::sampler::Sampler) does it; of a table that is one window, the
//! batches are the sampler's.
//!
//! What comes next depends on (seed, epoch, window) and the files alone: not on threads, and not on how many ranks
//! share the batches. So a [`Position`] is all the state there is, and a resumed run reads the window it stood in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};

use rand::seq::SliceRandom;
use serde::de::DeserializeOwned;

use crate::sampler::{Budget, Position};
use crate::table::{Columns, ROW_GROUP};
use crate::{Error, rng};

/// Rows that are shuffled together. A row group that has more is a window of its own.
pub const WINDOW: usize = 16 * ROW_GROUP;

/// Rows of one batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch<T> {
    /// Which batch of which window it is, counted over all ranks.
    pub at: Position,
    /// Its rows.
    pub rows: Vec<T>,
}

/// What became of the rows of the windows that were reached since the stream was opened. At the end of an epoch the sum
/// has grown by [`Stream::rows`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Rows that are in batches.
    pub kept: u64,
    /// Rows that are not, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// Batches of rows, epoch after epoch without an end. Each epoch holds every row that is kept exactly once.
///
/// `T` is a struct whose fields are columns of the files; other columns are not read.
pub struct Stream<T> {
    files: Arc<Vec<Columns>>,
    groups: Vec<RowGroup>,
    seed: u64,
    budget: Budget,
    window_rows: usize,
    rank: u64,
    world: u64,
    position: Position,
    account: Account,
    jobs: Sender<Job<T>>,
    window: Option<Window<T>>,
    coming: Option<Coming<T>>,
}

/// A row group of one of the files.
#[derive(Clone, Copy)]
struct RowGroup {
    file: usize,
    group: usize,
    rows: usize,
}

/// Epoch and window.
type Address = (u64, u64);

/// A window that is read.
struct Coming<T> {
    at: Address,
    parts: Vec<(RowGroup, Receiver<Part<T>>)>,
}

/// A window that is handed out.
struct Window<T> {
    at: Address,
    batches: Vec<Vec<usize>>,
    rows: Vec<Option<T>>,
}

/// What a reader makes of a row group: the rows that are kept with their lengths, and why others are not.
type Part<T> = Result<(Vec<(T, usize)>, BTreeMap<&'static str, u64>), Error>;

/// A row group that is to be read.
struct Job<T> {
    of: RowGroup,
    done: SyncSender<Part<T>>,
}

impl<T: DeserializeOwned + Send + 'static> Stream<T> {
    /// A stream over Parquet files (their order counts), read by `threads` threads beside the caller's. `length` gives the
    /// length of a row in residues, which `budget` speaks of, or why the row is left out.
    ///
    /// # Errors
    /// When a file is missing, no Parquet or without a column that `T` has; when there is no row, or no budget.
    pub fn open(
        files: &[PathBuf],
        seed: u64,
        budget: Budget,
        threads: usize,
        length: impl Fn(&T) -> Result<usize, &'static str> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let files = files.iter().map(|path| Columns::open::<T>(path)).collect::<Result<Vec<_>, _>>()?;
        let groups = files.iter().enumerate().flat_map(|(file, columns)| {
            let rows = columns.groups().into_iter().enumerate();
            rows.map(move |(group, rows)| RowGroup { file, group, rows })
        });
        let groups: Vec<RowGroup> = groups.filter(|group| group.rows > 0).collect();
        if groups.is_empty() {
            let names: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
            return Err(Error::Batch(format!(
                "there is no row to train on in {names:?}\nhint: name Parquet files that have rows"
            )));
        }
        let (files, length) = (Arc::new(files), Arc::new(length));
        let (jobs, waiting) = channel::<Job<T>>();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads.max(1) {
            let (files, length, waiting) = (files.clone(), length.clone(), waiting.clone());
            std::thread::Builder::new()
                .name("stream".into())
                .spawn(move || read_all(&files, &*length, &waiting))?;
        }
        Ok(Self {
            files,
            groups,
            seed,
            budget: budget.check()?,
            window_rows: WINDOW,
            rank: 0,
            world: 1,
            position: Position::default(),
            account: Account::default(),
            jobs,
            window: None,
            coming: None,
        })
    }

    /// The part of one of `world` ranks: every `world`-th batch of the order that all share, which runs on from epoch to
    /// epoch, so that all ranks make as many steps. Every rank reads all windows.
    ///
    /// # Errors
    /// When there is no such rank.
    pub fn shard(mut self, rank: usize, world: usize) -> Result<Self, Error> {
        if rank >= world {
            return Err(Error::Batch(format!("there is no rank {rank} among {world}: they count from 0")));
        }
        (self.rank, self.world) = (rank as u64, world as u64);
        Ok(self)
    }

    /// Goes on at a position that [`Stream::position`] gave, whichever rank of however many it was.
    ///
    /// # Errors
    /// When the files have no such window, or batches were taken already.
    pub fn resume(mut self, position: Position) -> Result<Self, Error> {
        if position.window >= self.windows(position.epoch).len() as u64 || self.window.is_some() {
            return Err(Error::Batch(format!(
                "the stream cannot go on at {position:?}\nhint: resume with the files that the run began with"
            )));
        }
        self.position = position;
        Ok(self)
    }

    /// The batch that comes next when all ranks have taken theirs.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Rows of all files: those of an epoch, left out or not.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(|group| group.rows as u64).sum()
    }

    /// What became of the rows so far.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The next batch of this rank.
    ///
    /// # Errors
    /// When a file cannot be read, or all rows of an epoch are left out. The stream is over then.
    pub fn next_batch(&mut self) -> Result<Batch<T>, Error> {
        let mut at = self.position;
        at.batch += self.rank;
        let mut n_empty = 0;
        let window = loop {
            let n = self.load((at.epoch, at.window))?.batches.len() as u64;
            if at.batch < n {
                break self.window.as_mut().expect("a window was loaded");
            }
            at.batch -= n;
            n_empty = if n == 0 { n_empty + 1 } else { 0 };
            let epoch = at.epoch;
            (at.epoch, at.window) = self.after((at.epoch, at.window));
            if at.epoch > epoch && n_empty >= self.windows(epoch).len() {
                return Err(Error::Batch(format!(
                    "every row is left out: {:?}\nhint: allow longer rows, or name other files",
                    self.account.left_out
                )));
            }
        };
        let rows = std::mem::take(&mut window.batches[at.batch as usize]);
        let rows = rows.into_iter().filter_map(|row| window.rows[row].take()).collect();
        self.position = Position { batch: at.batch + self.world - self.rank, ..at };
        Ok(Batch { at, rows })
    }

    /// Makes this window the one that is handed out, and has the one after it read.
    fn load(&mut self, at: Address) -> Result<&Window<T>, Error> {
        if self.window.as_ref().is_none_or(|window| window.at != at) {
            self.window = None; // before the next but one is read: there are never three
            let coming = match self.coming.take() {
                Some(coming) => coming,
                None => self.ask(at)?,
            };
            self.window = Some(self.receive(coming)?);
            self.coming = Some(self.ask(self.after(at))?);
        }
        Ok(self.window.as_ref().expect("a window was loaded"))
    }

    /// Has the row groups of a window read.
    fn ask(&self, at: Address) -> Result<Coming<T>, Error> {
        let groups = self.windows(at.0).swap_remove(at.1 as usize).into_iter();
        let parts = groups.map(|group| {
            let (of, (done, part)) = (self.groups[group], sync_channel(1));
            self.jobs.send(Job { of, done }).map_err(|_| self.broken(of))?;
            Ok((of, part))
        });
        Ok(Coming { at, parts: parts.collect::<Result<_, Error>>()? })
    }

    /// Waits for a window and makes its batches.
    fn receive(&mut self, coming: Coming<T>) -> Result<Window<T>, Error> {
        let (mut rows, mut lengths) = (vec![], vec![]);
        for (of, part) in coming.parts {
            let (kept, left_out) = part.recv().map_err(|_| self.broken(of))??;
            for (row, length) in kept {
                rows.push(Some(row));
                lengths.push(length);
            }
            for (why, n) in left_out {
                *self.account.left_out.entry(why).or_default() += n;
            }
        }
        self.account.kept += rows.len() as u64;
        let (epoch, window) = coming.at;
        // The first window has the sampler's own random numbers.
        let stream = if window == 0 { "sampler".to_owned() } else { format!("sampler/{window}") };
        let batches = self.budget.batches(&lengths, &mut rng(self.seed, &stream, epoch));
        Ok(Window { at: coming.at, batches, rows })
    }

    /// The row groups of each window of an epoch, in the order of the files.
    fn windows(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.shuffle(&mut rng(self.seed, "sampler/groups", epoch));
        let (mut windows, mut rows): (Vec<Vec<usize>>, _) = (vec![], 0);
        for group in order {
            let n = self.groups[group].rows;
            match windows.last_mut() {
                Some(window) if rows + n <= self.window_rows => {
                    window.push(group);
                    rows += n;
                }
                _ => {
                    windows.push(vec![group]);
                    rows = n;
                }
            }
        }
        windows.iter_mut().for_each(|window| window.sort_unstable());
        windows
    }

    fn after(&self, (epoch, window): Address) -> Address {
        if window + 1 < self.windows(epoch).len() as u64 { (epoch, window + 1) } else { (epoch + 1, 0) }
    }

    /// A reader that went without an answer has panicked, or has told of another fault before.
    fn broken(&self, of: RowGroup) -> Error {
        let source = format!("nobody reads its row group {} any more", of.group).into();
        Error::Table { path: self.files[of.file].path.clone(), source }
    }
}

/// Reads row groups until nobody asks or listens. It starts no parallel loop, so whoever waits for it may be the only
/// thread of rayon's pool.
fn read_all<T: DeserializeOwned>(
    files: &[Columns],
    length: &impl Fn(&T) -> Result<usize, &'static str>,
    waiting: &Mutex<Receiver<Job<T>>>,
) {
    loop {
        let job = waiting.lock().expect("no reader panics while it waits").recv();
        let Ok(Job { of, done }) = job else { return };
        if done.send(read(&files[of.file], of, length)).is_err() {
            return;
        }
    }
}

fn read<T: DeserializeOwned>(
    file: &Columns,
    of: RowGroup,
    length: &impl Fn(&T) -> Result<usize, &'static str>,
) -> Part<T> {
    let (mut kept, mut left_out) = (vec![], BTreeMap::new());
    for rows in file.read(vec![of.group])? {
        for row in rows? {
            match length(&row) {
                Ok(length) => kept.push((row, length)),
                Err(why) => *left_out.entry(why).or_default() += 1,
            }
        }
    }
    Ok((kept, left_out))
}

#[cfg(test)]
mod tests;
