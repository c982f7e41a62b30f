use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_arrow::schema::{SchemaLike, TracingOptions};

use super::*;
use crate::sampler::Sampler;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: usize,
    sequence: String,
    /// Never read.
    other: f32,
}

/// What is read of it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Read {
    sequence: String,
    id: usize,
}

const LONGEST: usize = 60;

fn length(row: &Read) -> Result<usize, &'static str> {
    match row.sequence.len() {
        ..=2 => Err("too short"),
        n @ ..=LONGEST => Ok(n),
        _ => Err("too long"),
    }
}

/// Rows of these lengths, numbered on from `first`, so many to a row group.
fn write(path: &Path, first: usize, lengths: &[usize], group: usize) {
    let row = |(at, &n)| Row { id: first + at, sequence: "M".repeat(n), other: 0.5 };
    let rows: Vec<Row> = lengths.iter().enumerate().map(row).collect();
    let fields = Vec::<arrow::datatypes::FieldRef>::from_type::<Row>(TracingOptions::default()).unwrap();
    let batch = serde_arrow::to_record_batch(&fields, &rows).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer =
        ArrowWriter::try_new(fs_err::File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn varied(n: usize) -> Vec<usize> {
    (0..n).map(|at| 3 + at * 7919 % 57).collect()
}

/// A table of 500 rows in 3 files (one without a row) with row groups of 20, 500 and 30 rows.
struct Table {
    _folder: tempfile::TempDir,
    files: Vec<PathBuf>,
}

impl Table {
    fn new(lengths: &[usize]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..3).map(|n| folder.path().join(format!("{n}.parquet"))).collect();
        let half = lengths.len() / 2;
        write(&files[0], 0, &lengths[..half], 20);
        write(&files[1], 0, &[], 20);
        write(&files[2], half, &lengths[half..], 30);
        Self { _folder: folder, files }
    }

    fn stream(&self, budget: Budget, threads: usize) -> Stream<Read> {
        let mut stream = Stream::open(&self.files, 7, budget, threads, length).unwrap();
        stream.window_rows = 100;
        stream
    }
}

fn ids(batch: &Batch<Read>) -> Vec<usize> {
    batch.rows.iter().map(|row| row.id).collect()
}

/// The batches of some epochs.
fn batches(mut stream: Stream<Read>, epochs: u64) -> Vec<Batch<Read>> {
    let next = || Some(stream.next_batch().unwrap()).filter(|batch| batch.at.epoch < epochs);
    std::iter::from_fn(next).collect()
}

fn fault<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn an_epoch_holds_every_row_once_within_the_budget_on_any_number_of_threads(
        lengths in prop::collection::vec(1usize..66, 2..400), size in 40usize..300, packed: bool
    ) {
        prop_assume!(lengths.iter().any(|n| (3..=LONGEST).contains(n)));
        let table = Table::new(&lengths);
        let budget = if packed { Budget::Packed(size) } else { Budget::Residues(size) };
        let all = batches(table.stream(budget, 1), 2);
        let kept: Vec<usize> = (0..lengths.len()).filter(|&id| (3..=LONGEST).contains(&lengths[id])).collect();
        for epoch in 0..2 {
            let own = all.iter().filter(|batch| batch.at.epoch == epoch);
            let mut seen: Vec<usize> = own.flat_map(ids).collect();
            seen.sort_unstable();
            prop_assert_eq!(&seen, &kept);
        }
        for batch in &all {
            let of = batch.rows.iter().map(|row| row.sequence.len());
            prop_assert!(batch.rows.iter().all(|row| row.sequence.len() == lengths[row.id]));
            let n = if packed { of.sum() } else { batch.rows.len() * of.max().unwrap() };
            prop_assert!(n <= size || batch.rows.len() == 1);
        }
        for threads in [2, 4] {
            prop_assert_eq!(&batches(table.stream(budget, threads), 2), &all);
        }
    }
}

#[test]
fn every_row_is_accounted_for() {
    let lengths: Vec<usize> = (0..500).map(|at| 1 + at * 7919 % 70).collect();
    let table = Table::new(&lengths);
    let mut stream = table.stream(Budget::Residues(200), 2);
    let sum = |account: &Account| account.kept + account.left_out.values().sum::<u64>();
    let (mut rows, mut before) = (0, Account::default());
    loop {
        let batch = stream.next_batch().unwrap();
        if batch.at.epoch == 1 {
            break;
        }
        rows += batch.rows.len() as u64;
        before = stream.account().clone();
    }
    let n =
        |range: std::ops::RangeInclusive<usize>| lengths.iter().filter(|n| range.contains(n)).count() as u64;
    assert_eq!((stream.rows(), sum(&before), before.kept), (500, 500, rows));
    assert_eq!(before.left_out, BTreeMap::from([("too short", n(1..=2)), ("too long", n(61..=70))]));
    assert!(sum(stream.account()) > 500);
}

#[test]
fn a_table_of_one_window_has_the_batches_of_the_sampler() {
    let lengths = varied(490);
    let table = Table::new(&lengths);
    for budget in [Budget::Residues(230), Budget::Pairs(9_000), Budget::Packed(230)] {
        let sampler = Sampler::new(7, lengths.clone(), budget).unwrap();
        let want: Vec<Vec<usize>> = (0..3).flat_map(|epoch| sampler.epoch(epoch)).collect();
        let mut stream = table.stream(budget, 1);
        stream.window_rows = WINDOW;
        let got: Vec<Vec<usize>> = batches(stream, 3).iter().map(ids).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn windows_mix_row_groups_anew_in_every_epoch() {
    let table = Table::new(&varied(490));
    let stream = table.stream(Budget::Residues(230), 1);
    assert_ne!(stream.windows(0), stream.windows(1));
    for epoch in 0..3 {
        let windows = stream.windows(epoch);
        let rows = |window: &Vec<usize>| window.iter().map(|&g| stream.groups[g].rows).sum::<usize>();
        assert!(windows.iter().all(|window| rows(window) <= 100), "{windows:?}");
        assert_eq!(windows.iter().map(rows).sum::<usize>(), 490);
    }
}

#[test]
fn ranks_share_one_order_however_many_they_are() {
    let table = Table::new(&varied(490));
    let budget = Budget::Residues(230);
    let whole = batches(table.stream(budget, 1), 12);
    let (mut taken, mut position) = (0, Position::default());
    // The number of ranks changes at every stop, and another rank's position is what is kept.
    for (round, world) in [1, 2, 4, 3, 4, 2, 1, 40, 1, 2].into_iter().enumerate() {
        let steps = 3 + round * 2;
        let mut positions = vec![];
        for rank in 0..world {
            let stream = table.stream(budget, 1 + rank % 2);
            let mut stream = stream.shard(rank, world).unwrap().resume(position).unwrap();
            for step in 0..steps {
                let batch = stream.next_batch().unwrap();
                assert_eq!(batch, whole[taken + step * world + rank], "rank {rank} of {world}");
            }
            positions.push(stream.position());
        }
        taken += steps * world;
        position = positions[round % world];
    }
}

#[test]
fn a_resumed_stream_goes_on_and_reads_its_window_and_the_next() {
    let table = Table::new(&varied(490));
    let budget = Budget::Packed(230);
    let mut whole = table.stream(budget, 1);
    while whole.position().epoch < 2 {
        let position = whole.position();
        let seen = Arc::new(Mutex::new(vec![]));
        let note = seen.clone();
        let length = move |row: &Read| {
            note.lock().unwrap().push(row.id);
            length(row)
        };
        let mut stream = Stream::open(&table.files, 7, budget, 2, length).unwrap();
        stream.window_rows = 100;
        let saved = serde_json::to_string(&position).unwrap();
        let mut stream = stream.resume(serde_json::from_str(&saved).unwrap()).unwrap();
        assert!(seen.lock().unwrap().is_empty(), "nothing is read before the first batch");
        let batch = stream.next_batch().unwrap();
        assert_eq!(batch, whole.next_batch().unwrap());
        // Row groups of the window where the position stands, of that of the batch (another one, where the position stands
        // behind the last batch), and of the one that is read ahead.
        let at = (batch.at.epoch, batch.at.window);
        let windows = [(position.epoch, position.window), at, stream.after(at)];
        let may: BTreeMap<usize, usize> = windows
            .iter()
            .flat_map(|at| stream.windows(at.0).swap_remove(at.1 as usize))
            .map(|group| (stream.groups[..group].iter().map(|g| g.rows).sum(), stream.groups[group].rows))
            .collect();
        let read = |id: &usize| may.range(..=*id).next_back().is_some_and(|(start, n)| *id < start + n);
        assert!(seen.lock().unwrap().iter().all(read), "at {position:?}");
    }
}

/// Rows that are alive.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

#[derive(Deserialize)]
#[serde(from = "Read")]
struct Counted(Read);

impl From<Read> for Counted {
    fn from(row: Read) -> Self {
        ALIVE.fetch_add(1, SeqCst);
        Self(row)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, SeqCst);
    }
}

#[test]
fn two_windows_are_alive_at_most() {
    let table = Table::new(&varied(490));
    let mut stream =
        Stream::open(&table.files, 7, Budget::Residues(230), 4, |row: &Counted| length(&row.0)).unwrap();
    stream.window_rows = 100;
    let mut most = 0;
    while stream.position().epoch < 3 {
        let batch = stream.next_batch().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1)); // readers get as far as they may
        most = most.max(ALIVE.load(SeqCst));
        drop(batch);
    }
    assert!((101..=200).contains(&most), "{most} rows alive");
}

#[test]
fn a_large_row_group_is_a_window_and_a_long_record_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let files = [folder.path().join("a.parquet"), folder.path().join("b.parquet")];
    write(&files[0], 0, &varied(250), 250);
    write(&files[1], 250, &varied(80), 20);
    let mut stream = Stream::open(&files, 7, Budget::Residues(40), 2, length).unwrap();
    stream.window_rows = 100;
    let sizes: Vec<usize> = stream.windows(0).iter().map(Vec::len).collect();
    assert!(stream.windows(0).contains(&vec![0]), "{sizes:?}");
    let all = batches(stream, 1);
    assert_eq!(all.iter().map(|batch| batch.rows.len()).sum::<usize>(), 330);
    let long = all.iter().filter(|batch| batch.rows.iter().any(|row| row.sequence.len() > 40));
    assert!(long.clone().count() > 50 && long.into_iter().all(|batch| batch.rows.len() == 1));
}

#[test]
fn faults_name_the_file_and_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let open = |file: &Path| Stream::open(&[file.to_owned()], 7, Budget::Residues(230), 1, length);
    let all_in = |error: &str, parts: &[&str]| parts.iter().all(|part| error.contains(part));

    let error = fault(open(&path("none.parquet")));
    assert!(all_in(&error, &["none.parquet", "hint: `peptalk ingest`"]), "{error}");
    fs_err::write(path("text.parquet"), "not at all").unwrap();
    let error = fault(open(&path("text.parquet")));
    assert!(all_in(&error, &["text.parquet", "hint: it is damaged"]), "{error}");
    write(&path("empty.parquet"), 0, &[], 20);
    let error = fault(open(&path("empty.parquet")));
    assert!(all_in(&error, &["empty.parquet", "there is no row", "hint: "]), "{error}");

    #[derive(Debug, Deserialize)]
    struct Other {
        #[expect(dead_code, reason = "never read")]
        q8: String,
    }
    write(&path("whole.parquet"), 0, &varied(100), 20);
    let error = fault(Stream::open(&[path("whole.parquet")], 7, Budget::Residues(9), 1, |_: &Other| Ok(1)));
    assert!(all_in(&error, &["whole.parquet", "\"q8\"", "id, sequence, other", "hint: "]), "{error}");
    #[derive(Debug, Deserialize)]
    struct Typed {
        #[expect(dead_code, reason = "never read")]
        sequence: u32,
    }
    let mut typed =
        Stream::open(&[path("whole.parquet")], 7, Budget::Residues(9), 1, |_: &Typed| Ok(1)).unwrap();
    let error = fault(typed.next_batch());
    assert!(all_in(&error, &["whole.parquet", "hint: "]), "{error}");

    let bytes = fs_err::read(path("whole.parquet")).unwrap();
    fs_err::write(path("cut.parquet"), &bytes[..bytes.len() / 2]).unwrap();
    let error = fault(open(&path("cut.parquet")));
    assert!(all_in(&error, &["cut.parquet", "hint: it is damaged"]), "{error}");
    let mut broken = bytes.clone();
    broken[bytes.len() / 4..bytes.len() / 3].fill(0xff);
    fs_err::write(path("broken.parquet"), broken).unwrap();
    let mut stream = open(&path("broken.parquet")).unwrap();
    let error = (0..100).find_map(|_| stream.next_batch().err()).expect("an error").to_string();
    assert!(all_in(&error, &["broken.parquet", "hint: it is damaged"]), "{error}");
    assert!(stream.next_batch().is_err(), "it is over");
}

#[test]
fn impossible_streams_are_refused_and_nothing_waits_for_ever() {
    let table = Table::new(&varied(490));
    let open = |budget| Stream::open(&table.files, 7, budget, 2, length);
    assert!(fault(open(Budget::Packed(0))).contains("at least one residue"));
    assert!(fault(Stream::open(&[], 7, Budget::Packed(9), 1, length)).contains("hint: "));
    assert!(fault(table.stream(Budget::Packed(9), 1).shard(2, 2)).contains("rank 2"));
    let far = Position { epoch: 0, window: 99, batch: 0 };
    assert!(fault(table.stream(Budget::Packed(9), 1).resume(far)).contains("hint: resume"));

    for world in [1, 3] {
        let none = |_: &Read| Err("not of the train split");
        let stream = Stream::open(&table.files, 7, Budget::Packed(9), 2, none).unwrap();
        let error = fault(stream.shard(world - 1, world).unwrap().next_batch());
        assert!(error.contains("\"not of the train split\": 490") && error.contains("hint: "), "{error}");
    }
    let mut panics = Stream::open(&table.files, 7, Budget::Packed(9), 2, |row: &Read| {
        assert!(row.id != 123, "a test's own panic");
        length(row)
    })
    .unwrap();
    let error = fault(panics.next_batch());
    assert!(error.contains("0.parquet"), "{error}");
}
