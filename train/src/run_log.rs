//! What a run says while it works: `log.jsonl`, TensorBoard events, `timing.jsonl` and a progress bar.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use indicatif::{ProgressBar, ProgressStyle};

/// The log of one run folder.
///
/// `log.jsonl` holds no wall times: a run that was killed and resumed ends with the bytes of one that was not. Speed goes
/// to `timing.jsonl`. `events.out.tfevents.*` holds the same numbers for TensorBoard.
pub struct RunLog {
    log: fs::File,
    timing: fs::File,
    events: Events,
    bar: ProgressBar,
    begun: Instant,
    from_step: u64,
}

impl RunLog {
    /// Opens the logs of `run` for a run of `total_steps` that goes on after `from_step` (0: a fresh run). Lines of later
    /// steps, which the checkpoint does not know of, are cut off.
    ///
    /// # Errors
    /// I/O errors, with the path.
    pub fn open(run: &Path, total_steps: u64, from_step: u64) -> Result<Self> {
        fs::create_dir_all(run)?;
        let (log, timing) = (run.join("log.jsonl"), run.join("timing.jsonl"));
        for path in [&log, &timing] {
            cut(path, from_step)?;
        }
        let append = |path: PathBuf| fs::OpenOptions::new().create(true).append(true).open(path);
        let title = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let style = ProgressStyle::with_template("{prefix:>8} {wide_bar} {pos}/{len} {eta} {msg}")
            .context("the template of the progress bar")?;
        let bar = ProgressBar::new(total_steps).with_style(style).with_prefix(title);
        bar.set_position(from_step);
        bar.enable_steady_tick(Duration::from_millis(500));
        let events = Events::create(run, from_step)?;
        Ok(Self { log: append(log)?, timing: append(timing)?, events, bar, begun: Instant::now(), from_step })
    }

    /// Writes one line for `step`. Names with a `/` are grouped by TensorBoard at the first one.
    ///
    /// # Errors
    /// I/O errors; a name that comes twice.
    pub fn write<S: AsRef<str>>(&mut self, step: u64, items: &[(S, f64)]) -> Result<()> {
        let mut line = serde_json::Map::new();
        line.insert("step".into(), step.into());
        for (name, value) in items {
            // JSON has no NaN; null says that there was a number that is none.
            let old = line.insert(name.as_ref().to_owned(), serde_json::json!(value));
            ensure!(old.is_none(), "the log line of step {step} has {} twice", name.as_ref());
        }
        writeln!(self.log, "{}", serde_json::Value::Object(line))?;
        self.events.scalars(step, items)?;
        let seconds = self.begun.elapsed().as_secs_f64();
        let speed = step.saturating_sub(self.from_step) as f64 / seconds.max(1e-9);
        let timing = serde_json::json!({ "step": step, "seconds": seconds, "steps_per_second": speed });
        writeln!(self.timing, "{timing}")?;
        let shown: Vec<String> =
            items.iter().map(|(name, value)| format!("{} {value:.4}", name.as_ref())).collect();
        match self.bar.is_hidden() {
            true => tracing::info!("{} step {step}: {}", self.bar.prefix(), shown.join(", ")),
            false => self.bar.set_message(shown.iter().take(2).cloned().collect::<Vec<_>>().join(" ")),
        }
        Ok(())
    }

    /// Moves the progress bar.
    pub fn advance(&self, step: u64) {
        self.bar.set_position(step);
    }

    /// Makes what was written so far safe. Call before a checkpoint is saved, so that a checkpoint never knows of a step
    /// that the log has lost.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&mut self) -> Result<()> {
        self.events.file.sync_all()?;
        self.timing.sync_all()?;
        Ok(self.log.sync_all()?)
    }

    /// Ends the log.
    ///
    /// # Errors
    /// I/O errors.
    pub fn finish(mut self) -> Result<()> {
        self.bar.finish_and_clear();
        self.sync()
    }
}

/// Keeps the whole lines of `path` whose step is at most `step`.
fn cut(path: &Path, step: u64) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let known = |line: &&str| {
        let parsed = serde_json::from_str::<serde_json::Value>(line).ok();
        line.ends_with('\n') && parsed.and_then(|l| l["step"].as_u64()).is_some_and(|s| s <= step)
    };
    let kept: String =
        if step == 0 { String::new() } else { text.split_inclusive('\n').filter(known).collect() };
    if kept != text {
        datasets::atomic_write(path, |file| file.write_all(kept.as_bytes()))?;
    }
    Ok(())
}

/// A TensorBoard event file: TFRecords of `Event` messages, encoded by hand.
struct Events {
    file: fs::File,
}

impl Events {
    /// A new file. TensorBoard reads all files of a folder in the order of their names; after a resume, the session-start
    /// mark makes it forget the steps after `from_step` that the killed run had written.
    fn create(run: &Path, from_step: u64) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        let name = format!("events.out.tfevents.{:010}.peptalk.{}", now.as_secs(), std::process::id());
        let mut events =
            Self { file: fs::OpenOptions::new().create(true).append(true).open(run.join(name))? };
        let mut version = event_head(0);
        bytes_field(&mut version, 3, b"brain.Event:2");
        events.record(&version)?;
        if from_step > 0 {
            let mut start = event_head(from_step + 1);
            bytes_field(&mut start, 7, &[0x08, 1]); // session_log { status: START }
            events.record(&start)?;
        }
        Ok(events)
    }

    fn scalars<S: AsRef<str>>(&mut self, step: u64, items: &[(S, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (name, value) in items {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, name.as_ref().as_bytes()); // tag
            entry.push(2 << 3 | 5); // simple_value, 32 bits
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry); // value
        }
        let mut event = event_head(step);
        bytes_field(&mut event, 5, &summary);
        self.record(&event)
    }

    /// One TFRecord: length, masked CRC-32C of the length, data, masked CRC-32C of the data; all little-endian.
    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        Ok(self.file.write_all(&record)?)
    }
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Fields 1 (wall_time, double) and 2 (step) of an `Event`.
fn event_head(step: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut event = vec![1 << 3 | 1];
    event.extend(now.to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    event
}

fn bytes_field(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        message.push(n as u8 | 0x80);
        n >>= 7;
    }
    message.push(n as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(run: &Path, from: u64, steps: impl IntoIterator<Item = u64>) {
        let mut log = RunLog::open(run, 9, from).unwrap();
        for step in steps {
            log.write(step, &[("loss", 1.0 / step as f64), ("lr", 0.5)]).unwrap();
        }
        log.finish().unwrap();
    }

    #[test]
    fn a_resumed_log_has_the_bytes_of_an_uninterrupted_one() {
        let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(whole.path(), 0, 1..=9);
        write(killed.path(), 0, 1..=6);
        let path = killed.path().join("log.jsonl");
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"step\":7,\"lo").unwrap();
        write(killed.path(), 4, 5..=9);
        let text = |run: &Path| fs::read_to_string(run.join("log.jsonl")).unwrap();
        assert_eq!(text(whole.path()), text(killed.path()));
        assert_eq!(text(whole.path()).lines().next().unwrap(), r#"{"step":1,"loss":1.0,"lr":0.5}"#);
        write(killed.path(), 0, 1..=1);
        assert_eq!(text(killed.path()).lines().count(), 1);
    }

    /// The CRC-32C of RFC 3720, bit by bit.
    fn crc_bitwise(data: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in data {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    /// Splits a protobuf message into (field, bytes or number).
    fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn read_varint(from: &mut &[u8]) -> u64 {
            let mut n = 0;
            for i in 0.. {
                let byte = from[0];
                *from = &from[1..];
                n |= u64::from(byte & 0x7f) << (7 * i);
                if byte < 0x80 {
                    break;
                }
            }
            n
        }
        let mut fields = vec![];
        while !message.is_empty() {
            let key = read_varint(&mut message);
            let length = match key & 7 {
                0 => {
                    fields.push((key >> 3, read_varint(&mut message).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => read_varint(&mut message) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, message[..length].to_vec()));
            message = &message[length..];
        }
        fields
    }

    #[test]
    fn event_files_read_back() {
        assert_eq!(crc_bitwise(b"123456789"), 0xe306_9283); // the check value of RFC 3720
        let run = tempfile::tempdir().unwrap();
        write(run.path(), 299, [300]);
        let path = fs::read_dir(run.path()).unwrap().map(|f| f.unwrap().path());
        let path = path.into_iter().find(|p| p.to_string_lossy().contains("tfevents")).unwrap();
        let bytes = fs::read(path).unwrap();
        let (mut rest, mut events) = (&bytes[..], vec![]);
        while !rest.is_empty() {
            let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let mask = |data: &[u8]| crc_bitwise(data).rotate_right(15).wrapping_add(0xa282_ead8);
            assert_eq!(number(8), mask(&rest[..8]));
            assert_eq!(number(12 + length), mask(&rest[12..12 + length]));
            events.push(fields(&rest[12..12 + length]));
            rest = &rest[16 + length..];
        }
        assert_eq!(events.len(), 3);
        assert_eq!(events[0][2], (3, b"brain.Event:2".to_vec()));
        assert_eq!(events[1][2], (7, vec![8, 1]));
        assert_eq!(events[2][1], (2, 300u64.to_le_bytes().to_vec()));
        let values: Vec<_> = fields(&events[2][2].1).into_iter().map(|(_, value)| fields(&value)).collect();
        assert_eq!(values[0], [(1, b"loss".to_vec()), (2, (1.0f32 / 300.0).to_le_bytes().to_vec())]);
        assert_eq!(values[1], [(1, b"lr".to_vec()), (2, 0.5f32.to_le_bytes().to_vec())]);
    }
}
