//! Raw files from, and tables to, an object store: a server on this machine that answers as S3 does, and a folder by `file://`.

use std::collections::BTreeMap;
use std::path::Path;

use crate::kit::{contents, peptalk, root};
use crate::server::{Reply, Request, Server};

/// A bucket: objects by key.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    /// Whether bodies end early.
    cuts: bool,
}

const DATE: &str = "Fri, 27 Nov 2026 12:00:00 GMT";

fn etag(bytes: &[u8]) -> String {
    format!("\"{:x}\"", bytes.iter().fold(bytes.len(), |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into())))
}

fn answer(request: &Request, bucket: &mut Bucket) -> Reply {
    let query: BTreeMap<&str, String> = request
        .query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (name, value.replace("%2F", "/")))
        .collect();
    let missing = || Reply::new("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>");
    let key = request.path.strip_prefix("/bucket/").unwrap_or("").to_owned();
    match (request.method.as_str(), key.as_str()) {
        ("GET", "") => list(bucket, &query["prefix"]),
        ("POST", "") => {
            let body = String::from_utf8(request.body.clone()).unwrap();
            let keys = body.split("<Key>").skip(1).map(|rest| rest.split('<').next().unwrap());
            let deleted = keys.inspect(|&key| _ = bucket.objects.remove(key));
            let said: String = deleted.map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
            Reply::new("200 OK", format!("<DeleteResult>{said}</DeleteResult>"))
        }
        ("PUT", _) => {
            let tag = etag(&request.body);
            bucket.objects.insert(key, request.body.clone());
            Reply::new("200 OK", "").header("ETag", tag)
        }
        ("DELETE", _) => {
            bucket.objects.remove(&key);
            Reply::new("204 No Content", "")
        }
        ("HEAD" | "GET", _) => {
            let Some(bytes) = bucket.objects.get(&key) else { return missing() };
            let from: usize = request
                .headers
                .get("range")
                .map_or(0, |range| range["bytes=".len()..].split('-').next().unwrap().parse().unwrap());
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            let sent = if bucket.cuts { (bytes.len() - from) / 2 } else { bytes.len() };
            Reply::new(status, &bytes[from..])
                .header("ETag", etag(bytes))
                .header("Last-Modified", DATE)
                .header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
                .cut(sent)
        }
        _ => Reply::new("400 Bad Request", ""),
    }
}

/// What lies in a folder, not below.
fn list(bucket: &Bucket, prefix: &str) -> Reply {
    let inside = bucket.objects.iter().filter(|(key, _)| {
        key.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
    });
    let entry = |(key, bytes): (&String, &Vec<u8>)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-27T12:00:00.000Z</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            etag(bytes).replace('"', "&quot;"),
            bytes.len()
        )
    };
    let entries: String = inside.map(entry).collect();
    Reply::new(
        "200 OK",
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"),
    )
    .header("Content-Type", "application/xml")
}

/// All files below a folder, by their names from there.
fn files(folder: &Path, below: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{below}{}", path.file_name().unwrap().to_string_lossy());
        if path.is_dir() {
            found.extend(files(&path, &format!("{name}/")));
        } else {
            found.insert(name, fs_err::read(path).unwrap());
        }
    }
    found
}

/// Ingests the quickstart's sources; gives exit code and standard error.
fn ingest(endpoint: &str, data: &Path, out: &Path, more: &[&str]) -> (i32, String) {
    let mut command = peptalk();
    command.arg("ingest").arg("--config").arg(root().join("recipes/quickstart.toml"));
    command.arg("--data").arg(data).arg("--out").arg(out).args(more).env("NO_PROXY", "127.0.0.1");
    let keys = [("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b"), ("AWS_REGION", "us-east-1")];
    let output =
        command.envs(keys).env("AWS_ENDPOINT", endpoint).env("AWS_ALLOW_HTTP", "true").output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn raw_files_come_from_a_store_and_tables_go_there() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    datasets::world::write(&datasets::world::Config { seed: 7, n_proteins: 97 }, &at("world")).unwrap();
    let (code, err) = ingest("", &at("world"), &at("plain"), &[]);
    assert_eq!(code, 0, "{err}");
    let want = contents(&at("plain"));

    let mut objects: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    objects.extend(files(&at("world"), "raw/").into_iter().filter(|(name, _)| !name.contains("/.")));
    objects.insert("out/tables/left.parquet".into(), vec![1]);
    let s3 = Server::start(Bucket { objects, cuts: true }, answer);
    let from = ["--data-from", "s3://bucket/raw", "--out-to", "s3://bucket/out/tables"];

    // Cut in the middle of each file: what came is gone on with.
    let (code, err) = ingest(&s3.address, &at("data"), &at("tables"), &from);
    assert!(code == 1 && err.contains("s3://bucket/raw") && err.contains("hint:"), "{err}");
    let parts: Vec<(String, usize)> =
        files(&at("data"), "").into_iter().map(|(name, bytes)| (name, bytes.len())).collect();
    assert!(parts.iter().any(|(name, bytes)| name.ends_with(".part") && *bytes > 0), "{parts:?}");
    s3.state().cuts = false;
    s3.asked();
    let (code, err) = ingest(&s3.address, &at("data"), &at("tables"), &from);
    assert_eq!(code, 0, "{err}");
    let asked = s3.asked();
    assert!(asked.iter().any(|a| a.starts_with("GET /bucket/raw/") && a.contains("bytes=")), "{asked:?}");
    assert!(contents(&at("tables")) == want);
    let put: BTreeMap<String, Vec<u8>> = {
        let bucket = s3.state();
        let of = bucket
            .objects
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix("out/tables/")?.into(), v.clone())));
        of.collect()
    };
    assert!(put == files(&at("tables"), ""), "{:?}", put.keys());
    let last = asked.iter().rfind(|a| a.starts_with("PUT")).unwrap();
    assert_eq!(last, "PUT /bucket/out/tables/manifest.json");

    // Nothing has changed: nothing is fetched. A new version is.
    let fetched = || s3.asked().into_iter().filter(|a| a.starts_with("GET /bucket/raw/")).collect::<Vec<_>>();
    assert_eq!(ingest(&s3.address, &at("data"), &at("tables"), &from[..2]).0, 0);
    assert_eq!(fetched(), [""; 0]);
    let changed = "raw/swissprot/uniprot_sprot.dat.gz";
    let key = s3.state().objects.keys().find(|key| key.starts_with("raw/swissprot/")).unwrap().clone();
    let key = if s3.state().objects.contains_key(changed) { changed.to_owned() } else { key };
    s3.state().objects.get_mut(&key).unwrap().push(b'\n');
    ingest(&s3.address, &at("data"), &at("tables"), &from[..2]);
    assert_eq!(fetched(), [format!("GET /bucket/{key}")]);

    let (code, err) =
        ingest(&s3.address, &at("none"), &at("tables"), &["--data-from", "s3://bucket/nothing"]);
    assert!(code == 1 && err.contains("there is no"), "{err}");
}

#[test]
fn a_folder_is_a_store_too() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    datasets::world::write(&datasets::world::Config { seed: 7, n_proteins: 97 }, &at("world")).unwrap();
    let address = |name: &str| format!("file://{}", at(name).display());
    let (from, to) = (address("world"), address("there"));
    let (code, err) = ingest("", &at("data"), &at("tables"), &["--data-from", &from, "--out-to", &to]);
    assert_eq!(code, 0, "{err}");
    assert!(contents(&at("there")) == contents(&at("tables")));
}
