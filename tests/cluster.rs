//! Ingest on a scheduler and two executors of this machine: the bytes of one process, also when an executor is killed.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::kit::{contents, root};

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the program; what it says goes to `said`.
fn start(arguments: &[&str], said: Stdio) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_peptalk"));
    command.args(["--threads", "2"]).args(arguments).stdout(Stdio::null()).stderr(said);
    Process(command.spawn().unwrap())
}

fn address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn executor(scheduler: &str, work: &Path) -> Process {
    let (work, bind) = (work.display().to_string(), address());
    start(&["cluster", "executor", "--scheduler", scheduler, "--bind", &bind, "--work", &work], Stdio::null())
}

fn ingest(data: &Path, out: &Path, more: &[&str]) -> Process {
    let (data, out) = (data.display().to_string(), out.display().to_string());
    let recipe = root().join("recipes/quickstart.toml").display().to_string();
    start(&[&["ingest", "--config", &recipe, "--data", &data, "--out", &out], more].concat(), Stdio::piped())
}

/// What an ingest said, and whether it ended well.
fn end(mut ingest: Process) -> (bool, String) {
    let mut said = String::new();
    std::io::Read::read_to_string(&mut ingest.0.stderr.take().unwrap(), &mut said).unwrap();
    (ingest.0.wait().unwrap().success(), said)
}

#[test]
fn executors_make_the_bytes_of_one_process() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    datasets::world::write(&datasets::world::Config { seed: 7, n_proteins: 97 }, &at("data")).unwrap();
    let (well, said) = end(ingest(&at("data"), &at("here"), &[]));
    assert!(well, "{said}");
    let want = contents(&at("here"));

    let scheduler = address();
    let on_cluster = ["--cluster", scheduler.as_str()];
    let (well, said) = end(ingest(&at("data"), &at("nobody"), &on_cluster));
    assert!(!well && said.contains("hint:"), "{said}");

    let _scheduler = start(&["cluster", "scheduler", "--bind", &scheduler], Stdio::null());
    while TcpStream::connect(&scheduler).is_err() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _one = executor(&scheduler, &at("one"));
    let mut other = executor(&scheduler, &at("other"));
    let (well, said) = end(ingest(&at("data"), &at("there"), &on_cluster));
    assert!(well, "{said}");
    assert!(contents(&at("there")) == want, "other bytes");

    // Killed as soon as something is parsed: what it had is made again.
    let run = ingest(&at("data"), &at("killed"), &on_cluster);
    let staging = at(".killed.ingest").join("staging");
    let is_parsed = || fs_err::read_dir(&staging).is_ok_and(|mut files| files.next().is_some());
    while !is_parsed() {
        std::thread::sleep(Duration::from_millis(1));
    }
    other.0.kill().unwrap();
    let (well, said) = end(run);
    assert!(well, "{said}");
    assert!(contents(&at("killed")) == want, "other bytes");
}
