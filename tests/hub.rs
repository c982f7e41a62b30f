//! Models by name: a server on this machine that answers as the Hugging Face hub does, and the cache that Python shares.

use std::collections::BTreeMap;
use std::path::Path;

use datasets::chat::CHATML;
use datasets::tokenizer::Tokenizer;
use models::Weights;
use models::llm::Qwen3;
use models::llm::qwen3::Config;
use sha2::{Digest, Sha256};

use crate::kit::peptalk;
use crate::server::{Reply, Request, Server};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPOSITORY: &str = "made-up/tiny-chat";

/// How the server misbehaves.
#[derive(Clone, Copy, Default, PartialEq)]
enum Fault {
    #[default]
    None,
    /// 401 unless the right token is sent
    Gated,
    /// the weights end early, and the connection with them
    CutShort,
    /// the weights are other bytes than the hash says
    Spoilt,
}

/// A hub with one repository.
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    fault: Fault,
}

impl Hub {
    fn start(files: BTreeMap<String, Vec<u8>>) -> Server<Self> {
        Server::start(Self { files, fault: Fault::None }, answer)
    }
}

fn sha256(bytes: &[u8]) -> String {
    datasets::hex(&Sha256::digest(bytes))
}

fn answer(request: &Request, hub: &mut Hub) -> Reply {
    let path = request.path.as_str();
    let reply = |status: &'static str, body: &[u8]| Reply::new(status, body).header("X-Repo-Commit", COMMIT);
    let authorised = request.headers.get("authorization").is_some_and(|value| value == "Bearer hf_right");
    if hub.fault == Fault::Gated && !authorised {
        return reply("401 Unauthorized", b"").header("X-Error-Code", "GatedRepo");
    }
    let json = |body: String| reply("200 OK", body.as_bytes()).header("Content-Type", "application/json");
    let api = format!("/api/models/{REPOSITORY}");
    if path == format!("{api}/revision/main") {
        return json(format!(r#"{{"id":"{REPOSITORY}","sha":"{COMMIT}"}}"#));
    }
    if path == format!("{api}/tree/{COMMIT}") {
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            format!(
                r#"{{"type":"file","oid":"{}","size":{},"path":"{name}"}}"#,
                &sha256(bytes)[..40],
                bytes.len()
            )
        };
        return json(format!("[{}]", hub.files.iter().map(entry).collect::<Vec<_>>().join(",")));
    }
    // A file is asked for under its name and redirected, relatively, to where it is kept.
    let place = format!("/{REPOSITORY}/resolve/{COMMIT}/");
    if let Some(name) = path.strip_prefix(&place) {
        return match hub.files.contains_key(name) {
            true => reply("307 Temporary Redirect", b"").header("Location", format!("/kept/{name}")),
            false => reply("404 Not Found", b"").header("X-Error-Code", "EntryNotFound"),
        };
    }
    let Some((name, bytes)) = path.strip_prefix("/kept/").and_then(|name| hub.files.get_key_value(name))
    else {
        return reply("404 Not Found", b"").header("X-Error-Code", "RepoNotFound");
    };
    let large = name.ends_with(".safetensors");
    let etag = if large { sha256(bytes) } else { sha256(bytes)[..40].to_owned() };
    let mut bytes = bytes.clone();
    let mut sent = bytes.len();
    match hub.fault {
        Fault::CutShort if large => sent /= 2,
        Fault::Spoilt if large => bytes[sent - 1] ^= 1,
        _ => {}
    }
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let (status, from) = match range {
        Some((from, _)) => ("206 Partial Content", from.parse().unwrap()),
        None => ("200 OK", 0),
    };
    reply(status, &bytes[from..]).header("ETag", format!("\"{etag}\"")).cut(sent - from)
}

/// A language model of a few thousand random weights.
fn model(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let words = ["What is this protein?", "binds water", "<protein>MKT</protein>"];
    let tokenizer = Tokenizer::train(words.iter().cycle().take(60), 300).unwrap();
    let config = Config {
        vocab_size: 304,
        hidden_size: 8,
        intermediate_size: 8,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        tie_word_embeddings: true,
        eos_token_ids: vec![tokenizer.special().turn_end],
    };
    Qwen3::new(config, Weights::random(|name| datasets::rng(1, name, 0))).unwrap().save(folder).unwrap();
    tokenizer.save(folder, CHATML).unwrap();
    let files = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs_err::read(p).unwrap())).collect()
}

/// Asks the model; gives exit code, standard output and standard error.
fn ask(name: &str, hub: &str, home: &Path, more: &[(&str, &str)]) -> (i32, String, String) {
    let mut command = peptalk();
    command.args(["chat", "What is this?", "--protein", "MKT", "--max-new-tokens", "3", "--model", name]);
    command.env("HF_ENDPOINT", hub).env("HF_HOME", home).env_remove("HF_TOKEN").env_remove("HF_HUB_CACHE");
    command.env_remove("HF_HUB_OFFLINE").env("NO_PROXY", "127.0.0.1").envs(more.iter().copied());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_model_comes_from_the_hub_once_and_lies_where_python_looks() {
    let place = tempfile::tempdir().unwrap();
    let mut files = model(&place.path().join("folder"));
    files.insert("pytorch_model.bin".into(), vec![1; 999]); // not wanted
    let hub = Hub::start(files.clone());
    let home = place.path().join("home");
    let (code, said, err) = ask(REPOSITORY, &hub.address, &home, &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(said, ask(place.path().join("folder").to_str().unwrap(), "http://127.0.0.1:9", &home, &[]).1);
    let asked = hub.asked();
    assert!(asked.iter().any(|a| a == "GET /kept/model.safetensors"), "{asked:?}");
    assert!(!asked.iter().any(|a| a.contains("pytorch_model")), "{asked:?}");

    let cache = home.join("hub/models--made-up--tiny-chat");
    assert_eq!(fs_err::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);
    let weights = cache.join("snapshots").join(COMMIT).join("model.safetensors");
    assert!(fs_err::symlink_metadata(&weights).unwrap().is_symlink());
    assert_eq!(
        fs_err::canonicalize(weights).unwrap().file_name().unwrap().to_str(),
        Some(&*sha256(&files["model.safetensors"]))
    );

    // once more: nothing is fetched; offline: nobody is asked
    assert_eq!(ask(REPOSITORY, &hub.address, &home, &[]).0, 0);
    let asked = hub.asked();
    assert!(!asked.is_empty() && asked.iter().all(|a| !a.starts_with("GET /kept")), "{asked:?}");
    assert_eq!(ask(REPOSITORY, "http://127.0.0.1:9", &home, &[("HF_HUB_OFFLINE", "1")]).1, said);
    assert!(hub.asked().is_empty());
}

#[test]
fn what_an_interrupted_download_left_is_gone_on_with() {
    let place = tempfile::tempdir().unwrap();
    let files = model(&place.path().join("folder"));
    let hub = Hub::start(files.clone());
    let weights = &files["model.safetensors"];
    let blobs = "hub/models--made-up--tiny-chat/blobs";
    let part = |home: &Path, bytes: &[u8]| {
        let path = home.join(blobs).join(format!("{}.incomplete", sha256(weights)));
        fs_err::create_dir_all(home.join(blobs)).unwrap();
        fs_err::write(path, bytes).unwrap();
    };
    let fetched = || -> Vec<String> {
        hub.asked().into_iter().filter(|asked| asked.starts_with("GET /kept/model.safetensors")).collect()
    };
    let home = place.path().join("half");
    let half = weights.len() / 2;
    part(&home, &weights[..half]);
    let (code, _, err) = ask(REPOSITORY, &hub.address, &home, &[]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(fetched(), [format!("GET /kept/model.safetensors bytes={half}-{}", weights.len() - 1)]);

    // What is not the beginning of it is found out by the hash, and fetched again by the next run.
    let home = place.path().join("other");
    part(&home, &vec![7; half]);
    let (code, _, err) = ask(REPOSITORY, &hub.address, &home, &[]);
    assert!(code == 1 && err.contains("did not arrive as the hub has it"), "{err}");
    fetched();
    assert_eq!(ask(REPOSITORY, &hub.address, &home, &[]).0, 0);
    assert_eq!(fetched(), ["GET /kept/model.safetensors"]);
}

#[test]
fn a_gated_missing_or_broken_model_is_explained() {
    let place = tempfile::tempdir().unwrap();
    let hub = Hub::start(model(&place.path().join("folder")));
    let home = |name: &str| place.path().join(name);
    let failed = |name: &str, home: &Path, more: &[(&str, &str)]| {
        let (code, _, err) = ask(name, &hub.address, home, more);
        assert!(code == 1 && !err.contains("panicked"), "{name}: {err}");
        err
    };
    hub.state().fault = Fault::Gated;
    let error = failed(REPOSITORY, &home("gated"), &[]);
    assert!(error.contains("accept its licence") && error.contains("HF_TOKEN"), "{error}");
    let right = [("HF_TOKEN", "hf_right")];
    assert_eq!(ask(REPOSITORY, &hub.address, &home("gated"), &right).0, 0);
    failed(REPOSITORY, &home("wrong"), &[("HF_TOKEN", "hf_wrong")]);

    hub.state().fault = Fault::None;
    let error = failed("made-up/no-such-model", &home("missing"), &[]);
    assert!(error.contains("fetching model made-up/no-such-model"), "{error}");
    failed(REPOSITORY, &home("empty"), &[("HF_HUB_OFFLINE", "1")]);

    // what is broken is not kept, what came whole is not fetched again
    for (fault, name) in [(Fault::CutShort, "cut"), (Fault::Spoilt, "spoilt")] {
        hub.state().fault = fault;
        failed(REPOSITORY, &home(name), &[]);
        hub.asked();
        hub.state().fault = Fault::None;
        let (code, _, err) = ask(REPOSITORY, &hub.address, &home(name), &[]);
        assert_eq!(code, 0, "{name}: {err}");
        let fetched = hub.asked().iter().filter(|a| a.starts_with("GET /kept/model.safetensors")).count();
        assert_eq!(fetched, 1, "{name}");
    }
}
