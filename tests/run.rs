//! A run that is killed ends in the bytes of one that is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::kit::peptalk;

/// The embedded recipe, made so small that it takes seconds.
const TINY: &[&str] = &["world.n_proteins=97"];

fn start(out: &Path) -> Child {
    let mut command = peptalk();
    command.arg("quickstart").arg("--out").arg(out).stdout(Stdio::null()).stderr(Stdio::piped());
    for setting in TINY {
        command.args(["--set", setting]);
    }
    command.spawn().expect("the program starts")
}

fn finish(out: &Path) {
    let done = start(out).wait_with_output().expect("the program ends");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Starts a run and kills it as soon as `moment` has come; false if the run was over before.
fn kill_when(out: &Path, moment: impl Fn(Duration) -> bool) -> bool {
    let (mut child, begin) = (start(out), Instant::now());
    loop {
        if child.try_wait().expect("the child is ours").is_some() {
            return false;
        }
        if moment(begin.elapsed()) {
            child.kill().expect("the child is ours"); // SIGKILL
            child.wait().expect("the child is ours");
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Contents of all files but those with wall times and the lock.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs_err::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name != ".lock" && name != "timing.jsonl" && !name.starts_with("events.out.") {
                let relative = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.insert(relative, fs_err::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let (whole, killed) = (place.path().join("whole"), place.path().join("killed"));
    let begin = Instant::now();
    finish(&whole);
    let took = begin.elapsed();

    // At fixed moments of the work, and at moments that fall anywhere.
    for seen in ["world/swissprot", "tables/proteins.parquet"] {
        kill_when(&killed, |_| killed.join(seen).exists());
    }
    for part in [3, 5, 7] {
        kill_when(&killed, |elapsed| elapsed > took / part);
    }
    finish(&killed);

    let (want, got) = (contents(&whole), contents(&killed));
    assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (name, bytes) in &want {
        assert!(got[name] == *bytes, "{name} has other bytes");
    }
    assert!(want.contains_key("tables/proteins.parquet"));
}

#[test]
fn a_second_run_does_nothing_and_a_changed_one_only_what_it_must() {
    let place = tempfile::tempdir().unwrap();
    let run = |set: &[&str]| {
        let out = place.path().join("run");
        let mut command = peptalk();
        command.args(["quickstart", "--out"]).arg(out);
        for setting in TINY.iter().chain(set) {
            command.args(["--set", setting]);
        }
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        let table = text.lines().skip_while(|line| !line.starts_with("stage ")).skip(1);
        table
            .map(|line| line.split("  ").next().unwrap().to_owned() + "|" + line[10..22].trim())
            .collect::<Vec<_>>()
    };
    let first = run(&[]);
    assert!(first.iter().all(|stage| stage.ends_with("|done")), "{first:?}");
    let second = run(&[]);
    assert!(second.iter().all(|stage| stage.ends_with("|up to date")), "{second:?}");
    let changed = run(&["ingest.valid_fraction=0.2"]);
    assert_eq!(changed[..2], ["world|up to date", "ingest|done"]);
}
