//! Raw files from their publishers: servers that cut, change, lie or are not there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ingest::download::{self, Arrived, Mirror, Options, RECIPE, Registry};
use sha2::{Digest, Sha256};

use crate::kit::{peptalk, run};
use crate::server::{Reply, Request, Server};

/// What a server does with a request for a file.
#[derive(Clone, Default)]
enum Conduct {
    #[default]
    Good,
    /// says another status, so often
    Says(&'static str, usize),
    /// answers so many requests, and has no time for others
    Tires(usize),
    /// is a page for people
    Page,
    /// ends every answer after so many bytes
    Cuts(usize),
    /// falls silent in every answer after so many bytes
    Silent(usize),
    /// takes its time
    Slow,
    /// knows no ranges
    Plain,
    /// calls it another version at every request
    Fickle,
    Moved(String),
}

#[derive(Clone, Default)]
struct Page {
    bytes: Vec<u8>,
    etag: String,
    conduct: Conduct,
    /// `X-Linked-Etag`
    linked: Option<String>,
}

#[derive(Default)]
struct Site {
    pages: BTreeMap<String, Page>,
    n: usize,
}

impl Site {
    fn start() -> Server<Self> {
        Server::start(Self::default(), answer)
    }

    fn put(&mut self, path: &str, bytes: &[u8], conduct: Conduct) -> &mut Page {
        let page = Page { bytes: bytes.to_vec(), etag: "\"one\"".into(), conduct, linked: None };
        self.pages.insert(path.into(), page);
        self.pages.get_mut(path).unwrap()
    }
}

fn answer(request: &Request, site: &mut Site) -> Reply {
    site.n += 1;
    let Some(page) = site.pages.get_mut(&request.path) else { return Reply::new("404 Not Found", "") };
    let mut etag = page.etag.clone();
    match &mut page.conduct {
        Conduct::Says(status, left) if *left > 0 => {
            *left -= 1;
            return Reply::new(status, "").header("Retry-After", 0);
        }
        Conduct::Tires(0) => return Reply::new("503 Service Unavailable", ""),
        Conduct::Tires(left) => *left -= 1,
        Conduct::Moved(to) => return Reply::new("302 Found", "").header("Location", to),
        Conduct::Fickle => etag = format!("\"{}\"", site.n),
        _ => {}
    }
    let range = request.headers.get("range").filter(|_| !matches!(page.conduct, Conduct::Plain));
    let range = range.filter(|_| request.headers.get("if-range").is_none_or(|version| *version == etag));
    let total = page.bytes.len();
    let reply = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((begin, end)) => {
            let (begin, end): (usize, usize) = (begin.parse().unwrap(), end.parse().unwrap());
            let end = (end + 1).min(total);
            Reply::new("206 Partial Content", &page.bytes[begin..end])
                .header("Content-Range", format!("bytes {begin}-{}/{total}", end - 1))
        }
        None => Reply::new("200 OK", &page.bytes[..]),
    };
    let reply = reply.header("ETag", etag);
    let reply = match &page.linked {
        Some(linked) => reply.header("X-Linked-Etag", format!("\"{linked}\"")),
        None => reply,
    };
    match page.conduct {
        Conduct::Cuts(sent) => reply.cut(sent),
        Conduct::Silent(sent) => reply.silent(sent),
        Conduct::Page => reply.header("Content-Type", "text/html; charset=utf-8"),
        Conduct::Slow => reply.slow(Duration::from_millis(30)),
        _ => reply,
    }
}

const PIECE: u64 = 10_007;

/// Bytes that are all their own.
fn bytes(n: usize, seed: u32) -> Vec<u8> {
    (0..n as u32).map(|at| (at.wrapping_mul(2_654_435_761).rotate_left(seed) >> 24) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    datasets::hex(&Sha256::digest(bytes))
}

/// A source `made_up` of one file.
fn source(url: &str, more: &str) -> String {
    format!(
        "[[source]]\nname = \"made_up\"\nkind = \"protdescribe\"\nabout = \"Made up\"\nlicence = \"CC BY-NC 4.0\"\n\
         commercial = false\ncitation = \"Nobody\"\npage = \"https://example.org/\"\n\
         [[source.file]]\npath = \"deep/file.tsv\"\nurl = \"{url}\"\n{more}\n"
    )
}

fn quick() -> Options {
    Options {
        piece_bytes: PIECE,
        attempts: 3,
        pause: Duration::from_millis(1),
        silence: Duration::from_millis(700),
        ..Options::default()
    }
}

fn fetch_with(out: &Path, registry: &str, options: &Options) -> Result<Arrived, String> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("registry.toml");
    fs_err::write(&path, registry).unwrap();
    let registry = Registry::load(&path).map_err(|error| error.to_string())?;
    let sources = registry.choose(&["made_up".into()]).map_err(|error| error.to_string())?;
    let mut arrived = download::run(&registry, &sources, out, options).map_err(|error| error.to_string())?;
    assert_eq!(arrived.len(), 1);
    Ok(arrived.remove(0))
}

fn fetch(out: &Path, registry: &str) -> Result<Arrived, String> {
    fetch_with(out, registry, &quick())
}

/// The file is there, with these bytes, and nothing else but what belongs there.
#[track_caller]
fn has(out: &Path, want: &[u8]) {
    assert!(fs_err::read(out.join("deep/file.tsv")).unwrap() == want, "other bytes");
    assert_eq!(fs_err::read_dir(out.join("deep")).unwrap().count(), 1, "a part is left");
}

#[test]
fn a_large_file_comes_in_ranges_and_is_not_fetched_twice() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(97_003, 1));
    site.state().put("/a", &want, Conduct::Good);
    let registry = source(&format!("{}/a", site.address), "");
    let arrived = fetch(place.path(), &registry).unwrap();
    assert_eq!((arrived.bytes, arrived.from.as_str()), (97_003, &*format!("{}/a", site.address)));
    assert!(arrived.compared_with.contains("nothing"), "{arrived:?}");
    has(place.path(), &want);
    let mut asked = site.asked();
    asked.sort();
    let range =
        |piece: u64| format!("GET /a bytes={}-{}", piece * PIECE, ((piece + 1) * PIECE).min(97_003) - 1);
    // the first answer says how long the file is
    let mut ranges: Vec<String> =
        (1..10).map(range).chain([format!("GET /a bytes=0-{}", PIECE - 1)]).collect();
    ranges.sort();
    assert_eq!(asked, ranges);

    let again = fetch(place.path(), &registry).unwrap();
    assert_eq!(again.from, "was here");
    assert!(site.asked().is_empty());
    // a file that has been damaged is no longer what came
    fs_err::write(place.path().join("deep/file.tsv"), &want[1..]).unwrap();
    fetch(place.path(), &registry).unwrap();
    has(place.path(), &want);
}

#[test]
fn a_server_without_ranges_is_read_in_one_stream() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(97_003, 2));
    site.state().put("/a", &want, Conduct::Plain);
    fetch(place.path(), &source(&format!("{}/a", site.address), "")).unwrap();
    has(place.path(), &want);
    assert_eq!(site.asked().len(), 1);
}

#[test]
fn what_is_cut_goes_on_where_it_ended() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(31_013, 3));
    for (conduct, n) in [(Conduct::Cuts(4_001), 3 * 3 + 1), (Conduct::Silent(6_007), 2 * 3 + 1)] {
        let out = place.path().join(n.to_string());
        site.state().put("/a", &want, conduct);
        fetch(&out, &source(&format!("{}/a", site.address), "")).unwrap();
        has(&out, &want);
        let asked = site.asked();
        assert_eq!(asked.len(), n, "{asked:?}");
    }
    // nothing comes at all: three times, and enough
    site.state().put("/a", &want, Conduct::Cuts(0));
    let error = fetch(&place.path().join("none"), &source(&format!("{}/a", site.address), "")).unwrap_err();
    assert!(error.contains("the connection broke") && error.contains("3 times"), "{error}");
}

#[test]
fn a_stopped_download_goes_on_unless_the_file_has_changed() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(97_003, 4));
    let registry = source(&format!("{}/a", site.address), "");
    let one = Options { connections: 1, ..quick() };
    for (etag, goes_on) in [("\"one\"", true), ("\"two\"", false)] {
        let out = place.path().join(etag.trim_matches('"'));
        site.state().put("/a", &want, Conduct::Tires(3));
        let error = fetch_with(&out, &registry, &one).unwrap_err();
        assert!(
            error.contains("503 Service Unavailable, 3 times") && error.contains("its place: "),
            "{error}"
        );
        assert!(out.join("deep/file.tsv.part").exists());
        site.asked();

        let newer = bytes(97_003, 5);
        let want = if goes_on { &want } else { &newer };
        site.state().put("/a", want, Conduct::Good).etag = etag.into();
        fetch(&out, &registry).unwrap();
        has(&out, want);
        let asked = site.asked();
        assert_eq!(asked.iter().any(|request| request.contains("bytes=0-")), !goes_on, "{asked:?}");
    }
}

#[test]
fn a_killed_program_goes_on() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(9 << 20, 6));
    site.state().put("/a", &want, Conduct::Slow);
    let registry = place.path().join("registry.toml");
    fs_err::write(&registry, source(&format!("{}/a", site.address), "")).unwrap();
    let out = place.path().join("data");
    let mut program = peptalk();
    program.args(["download", "made_up", "--registry", registry.to_str().unwrap()]);
    program.args(["--out", out.to_str().unwrap()]).env("NO_PROXY", "127.0.0.1");
    let mut child = program.stdout(std::process::Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !out.join("deep/file.tsv.part.json").exists() && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("deep/file.tsv").exists(), "the program was killed too late");
    site.asked();
    site.state().put("/a", &want, Conduct::Good);
    assert!(program.status().unwrap().success());
    has(&out, &want);
    let asked = site.asked();
    assert!(asked.len() == 1 && !asked[0].contains("bytes=0-"), "{asked:?}");
}

#[test]
fn a_whole_part_needs_its_name_alone() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(1_009, 7));
    site.state().put("/a", &want, Conduct::Good);
    let address = format!("{}/a", site.address);
    fs_err::create_dir_all(place.path().join("deep")).unwrap();
    let part = place.path().join("deep/file.tsv.part");
    fs_err::write(&part, &want).unwrap();
    let note = |here: &str| {
        let state = format!(r#"{{"address":"{address}","validator":"\"one\"","total":1009,"here":{here}}}"#);
        fs_err::write(place.path().join("deep/file.tsv.part.json"), state).unwrap();
    };
    note("[[0,1009]]");
    fetch(place.path(), &source(&address, "")).unwrap();
    has(place.path(), &want);
    assert!(site.asked().is_empty());

    // a part that is not what it says is found out by the checksum, and begun anew
    fs_err::remove_file(place.path().join("deep/file.tsv")).unwrap();
    fs_err::write(&part, bytes(1_009, 8)).unwrap();
    note("[[0,1000]]");
    fetch(place.path(), &source(&address, &format!("sha256 = \"{}\"", sha256(&want)))).unwrap();
    has(place.path(), &want);
    // and one without its bytes is none
    fs_err::remove_file(place.path().join("deep/file.tsv")).unwrap();
    fs_err::write(&part, &want[..7]).unwrap();
    note("[[0,1009]]");
    fetch(place.path(), &source(&address, "")).unwrap();
    has(place.path(), &want);
}

#[test]
fn servers_that_cannot_agree_on_a_version_are_read_in_one_stream() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(97_003, 9));
    site.state().put("/a", &want, Conduct::Fickle);
    fetch(place.path(), &source(&format!("{}/a", site.address), "")).unwrap();
    has(place.path(), &want);
}

#[test]
fn a_passing_fault_passes_and_a_mirror_stands_in() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(10_009, 10));
    let address = &site.address;
    let registry = format!(
        "[[mirror]]\nof = \"{address}/pub/\"\nat = [\"{address}/mirror/\", \"{address}/other/\"]\n{}",
        source(&format!("{address}/pub/a"), "")
    );
    for (n, status) in
        ["500 Internal Server Error", "429 Too Many Requests", "408 Request Timeout"].iter().enumerate()
    {
        site.state().put("/pub/a", &want, Conduct::Says(status, 2));
        let arrived = fetch(&place.path().join(n.to_string()), &registry).unwrap();
        assert!(arrived.from.ends_with("/pub/a"));
    }
    // for good: the mirrors in their order
    site.state().put("/other/a", &want, Conduct::Good);
    for (n, conduct) in
        [Conduct::Says("404 Not Found", 9), Conduct::Says("502 Bad Gateway", 9)].iter().enumerate()
    {
        let out = place.path().join(format!("mirror-{n}"));
        site.state().put("/pub/a", &want, conduct.clone());
        assert!(fetch(&out, &registry).unwrap().from.ends_with("/other/a"));
        has(&out, &want);
    }
    // one's own before all others
    site.asked();
    site.state().put("/own/a", &want, Conduct::Good);
    let own = Mirror::parse(&format!("{address}/pub/={address}/own/")).unwrap();
    let arrived =
        fetch_with(&place.path().join("own"), &registry, &Options { mirrors: vec![own], ..quick() });
    assert!(arrived.unwrap().from.ends_with("/own/a"));
    assert!(site.asked().iter().all(|request| request.starts_with("GET /own/a")));
    // none has it: every address with its fault, and where to put it
    site.state().pages.clear();
    let error = fetch(&place.path().join("none"), &registry).unwrap_err();
    for tried in ["pub", "mirror", "other"] {
        assert!(error.contains(&format!("{address}/{tried}/a: 404 Not Found")), "{error}");
    }
    let file = place.path().join("none/deep/file.tsv");
    assert!(error.contains(&format!("its place: {}", file.display())) && error.contains("hint:"), "{error}");
}

#[test]
fn a_wrong_checksum_sends_the_file_away() {
    let (place, site) = (tempfile::tempdir().unwrap(), Site::start());
    let (want, other) = (bytes(20_011, 11), bytes(20_011, 12));
    let address = &site.address;
    let mirror = format!("[[mirror]]\nof = \"{address}/pub/\"\nat = [\"{address}/mirror/\"]\n");
    site.state().put("/pub/a", &other, Conduct::Good);
    let sha = format!("sha256 = \"{}\"", sha256(&want));
    let list = "checksums = \"sums.txt\"".to_owned();
    site.state().put("/pub/sums.txt", format!("{}  a\n", sha256(&want)).as_bytes(), Conduct::Good);
    site.state().put("/mirror/sums.txt", format!("{}  a\n", sha256(&want)).as_bytes(), Conduct::Good);
    for (n, more) in [&sha, &list].iter().enumerate() {
        let out = place.path().join(n.to_string());
        let registry = format!("{mirror}{}", source(&format!("{address}/pub/a"), more));
        site.state().pages.remove("/mirror/a");
        let error = fetch(&out, &registry).unwrap_err();
        assert!(
            error.contains("its SHA-256 is") && error.contains("should be") && error.contains("404"),
            "{error}"
        );
        assert_eq!(fs_err::read_dir(out.join("deep")).unwrap().count(), 0, "nothing wrong stays");
        site.state().put("/mirror/a", &want, Conduct::Good);
        let arrived = fetch(&out, &registry).unwrap();
        assert!(
            arrived.from.ends_with("/mirror/a") && arrived.compared_with.contains("SHA-256 in"),
            "{arrived:?}"
        );
        has(&out, &want);
    }
    // a publisher whose list cannot be had, or does not know the file
    site.state().pages.remove("/mirror/sums.txt");
    site.state().put("/pub/sums.txt", b"", Conduct::Good);
    let registry = format!("{mirror}{}", source(&format!("{address}/pub/a"), &list));
    let error = fetch(&place.path().join("list"), &registry).unwrap_err();
    assert!(error.contains("is not in the checksums") && error.contains("sums.txt: 404"), "{error}");
    // what the hub says of its file
    site.state().put("/hub/a", &other, Conduct::Good).linked = Some(sha256(&want));
    let registry = source(&format!("{address}/hub/a"), "");
    assert!(fetch(&place.path().join("hub"), &registry).unwrap_err().contains("SHA-256 of the server"));
    site.state().put("/hub/a", &want, Conduct::Good).linked = Some(sha256(&want));
    assert!(fetch(&place.path().join("hub"), &registry).unwrap().compared_with.contains("of the server"));
}

#[test]
fn redirects_are_followed_to_safe_places_only() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(30_011, 13));
    site.state().put("/kept", &want, Conduct::Good);
    let registry = source(&format!("{}/a", site.address), "");
    site.state().put("/a", b"", Conduct::Moved("/kept".into()));
    fetch(place.path(), &registry).unwrap();
    has(place.path(), &want);
    for (to, says) in [
        ("http://example.org/a", "leads to http://example.org/a, which is not https"),
        ("file:///etc/passwd", "which is not https"),
        ("/a", "redirects"),
    ] {
        site.state().put("/a", b"", Conduct::Moved(to.into()));
        let error = fetch(&place.path().join("other"), &registry).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
    // a page that says "sign in" is no file
    site.state().put("/a", b"<html>", Conduct::Page);
    let error = fetch(&place.path().join("other"), &registry).unwrap_err();
    assert!(error.contains("a page for people"), "{error}");
}

#[test]
fn the_first_download_is_remembered_and_a_newer_one_asked_for() {
    let (place, site) = (tempfile::tempdir().unwrap(), Site::start());
    let (old, new) = (bytes(20_011, 14), bytes(20_021, 15));
    let registry = source(&format!("{}/a", site.address), "");
    let update = Options { update: true, ..quick() };
    site.state().put("/a", &old, Conduct::Good);
    fetch(place.path(), &registry).unwrap();
    site.asked();
    assert_eq!(fetch_with(place.path(), &registry, &update).unwrap().from, "was here, and is the newest");
    assert_eq!(site.asked().len(), 1);

    site.state().put("/a", &new, Conduct::Good).etag = "\"two\"".into();
    assert_eq!(fetch(place.path(), &registry).unwrap().from, "was here");
    fs_err::remove_file(place.path().join("deep/file.tsv")).unwrap();
    let error = fetch(place.path(), &registry).unwrap_err();
    assert!(error.contains("the first download") && error.contains("--update"), "{error}");
    fetch_with(place.path(), &registry, &update).unwrap();
    has(place.path(), &new);
    assert_eq!(fetch(place.path(), &registry).unwrap().from, "was here");
}

#[test]
fn what_cannot_be_fetched_is_asked_of_a_person() {
    let place = tempfile::tempdir().unwrap();
    let out = place.path();
    // a server that is not there
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registry = source(&format!("http://{gone}/a"), "");
    let begin = Instant::now();
    let error = fetch_with(out, &registry, &Options::default()).unwrap_err();
    assert!(error.contains(&format!("http://{gone}/a: no connection")), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5), "no one waits for a server that is not there");
    // put there by hand
    let file = out.join("deep/file.tsv");
    assert!(error.contains(&format!("its place: {}", file.display())), "{error}");
    fs_err::create_dir_all(file.parent().unwrap()).unwrap();
    fs_err::write(&file, "made up").unwrap();
    assert_eq!(fetch(out, &registry).unwrap().from, "was here");
    let licences = fs_err::read_to_string(out.join("LICENCES.md")).unwrap();
    assert!(
        licences.contains("put there by hand") && licences.contains("NOT for commercial use"),
        "{licences}"
    );
    // and not the right one
    let registry = source(&format!("http://{gone}/a"), &format!("sha256 = \"{}\"", sha256(b"else")));
    let error = fetch(out, &registry).unwrap_err();
    assert!(error.contains("no connection") && error.contains("its SHA-256 is"), "{error}");
    assert!(file.exists(), "what a person put there is theirs");
    // a source that no program may fetch
    let registry = source("", "")
        .replace("url = \"\"", "")
        .replace("[[source.file]]", "by_hand = \"sign here\"\n[[source.file]]");
    let other = place.path().join("other");
    let error = fetch(&other, &registry).unwrap_err();
    assert!(error.contains("https://example.org/: sign here"), "{error}");
    fs_err::create_dir_all(other.join("deep")).unwrap();
    for (text, update, comes) in [("old", false, true), ("new", false, false), ("new", true, true)] {
        fs_err::write(other.join("deep/file.tsv"), text).unwrap();
        let got = fetch_with(&other, &registry, &Options { update, ..quick() });
        assert_eq!(got.is_ok(), comes, "{got:?}");
    }
}

#[test]
fn a_folder_is_for_one_download_and_faults_of_the_disk_are_named() {
    let (place, site, want) = (tempfile::tempdir().unwrap(), Site::start(), bytes(20_011, 16));
    let (out, registry) = (place.path().join("data"), source(&format!("{}/a", site.address), ""));
    site.state().put("/a", &want, Conduct::Good);
    fs_err::create_dir_all(out.join("deep")).unwrap();
    let lock = fs_err::File::create(out.join(".downloads.lock")).unwrap();
    lock.lock().unwrap();
    let error = fetch(&out, &registry).unwrap_err();
    assert!(error.contains("another peptalk works on") && error.contains("data"), "{error}");
    drop(lock);
    #[cfg(target_os = "linux")]
    {
        let part = out.join("deep/file.tsv.part");
        std::os::unix::fs::symlink("/dev/full", &part).unwrap();
        let error = fetch(&out, &registry).unwrap_err();
        assert!(error.contains("file.tsv.part") && error.contains("No space left"), "{error}");
        fs_err::remove_file(part).unwrap();
    }
    fs_err::remove_dir(out.join("deep")).unwrap();
    fs_err::write(out.join("deep"), "a file where a folder should be").unwrap();
    let error = fetch(&out, &registry).unwrap_err();
    assert!(error.contains("data/deep"), "{error}");
}

#[test]
fn from_the_publisher_to_tables() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(run(&["world", "--out", &at("world"), "--proteins", "97"]).0, 0);
    let site = Site::start();
    let section = crate::kit::section("quickstart.toml");
    let mut registry = String::new();
    for source in &section.source {
        let kind = toml::Value::try_from(source.kind).unwrap();
        let role = toml::Value::try_from(source.role).unwrap();
        registry += &format!(
            "[[source]]\nname = {:?}\nkind = {kind}\nrole = {role}\nreversed = {}\nabout = \"Made up\"\n\
             licence = {:?}\ncitation = \"Nobody\"\npage = \"https://example.org/\"\n",
            source.name, source.reversed, source.licence
        );
        for (files, companion) in [(&source.files, false), (&source.companion, true)] {
            for file in files {
                let bytes = fs_err::read(place.path().join("world").join(file)).unwrap();
                site.state().put(&format!("/{file}"), &bytes, Conduct::Good);
                registry += &format!(
                    "[[source.file]]\npath = {file:?}\ncompanion = {companion}\nurl = \"{}/{file}\"\nsha256 = \"{}\"\n",
                    site.address,
                    sha256(&bytes)
                );
            }
        }
    }
    fs_err::write(at("registry.toml"), registry).unwrap();
    let download = |args: &[&str]| {
        let mut program = peptalk();
        program.args(["download", "--registry", &at("registry.toml")]).args(args);
        let output = program.env("NO_PROXY", "127.0.0.1").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, list, _) = download(&[]);
    assert_eq!(code, 0);
    let names: Vec<&str> = section.source.iter().map(|source| source.name.as_str()).collect();
    assert!(names.iter().all(|name| list.contains(&format!("{name}: Made up"))), "{list}");
    let data = at("data");
    let (code, said, err) = download(&[&names[..], &["--out", &data]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(said.contains("licence: ") && said.contains("SHA-256 in the registry"), "{said}");
    let recipe = place.path().join("data").join(RECIPE);
    let (code, _, err) =
        run(&["ingest", "--config", recipe.to_str().unwrap(), "--data", &data, "--out", &at("tables")]);
    assert_eq!(code, 0, "{err}");
    let manifest = ingest::Manifest::read(Path::new(&at("tables"))).unwrap();
    assert_eq!(manifest.config.source, section.source);

    let (code, _, err) = download(&["no_such", "--out", &data]);
    assert!(code == 2 && err.contains("no_such") && err.contains(names[0]), "{err}");
    assert_eq!(download(&[names[0]]).0, 2, "files need a folder");
    let (code, _, err) = download(&[names[0], "--out", &data, "--mirror", "https://x/"]);
    assert!(code == 2 && err.contains("OF=AT"), "{err}");
}

#[test]
fn the_sources_that_there_are_are_listed() {
    let (code, list, _) = run(&["download"]);
    assert_eq!(code, 0);
    for says in ["swissprot: ", "nppe2: ", "by hand", "licence: CC BY 4.0", "ddg/S2648.csv", "0.8 MB"] {
        assert!(list.contains(says), "{says}: {list}");
    }
}
