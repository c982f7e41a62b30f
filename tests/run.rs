//! A run that is killed ends in the bytes of one that is not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::kit::{contents, peptalk, root, run, shared};

/// The embedded recipe, made so small that it takes seconds.
const TINY: &[&str] = &[
    // Few proteins: not every seed gives each task a training record.
    "seed=42",
    "world.n_proteins=97",
    "ingest.valid_fraction=0.2",
    "ss.epochs=2",
    "ss.batch_residues=512",
    "ss.save_every=1",
    "ss.optim.schedule.warmup_steps=1",
    "contact.epochs=2",
    "contact.max_length=120",
    "contact.batch_pairs=8192",
    "contact.save_every=1",
    "contact.optim.schedule.warmup_steps=1",
    "encoder.steps=3",
    "encoder.batch_residues=512",
    "encoder.eval_proteins=3",
    "encoder.save_every=1",
    "encoder.optim.schedule.warmup_steps=1",
    "ssl.steps=3",
    "ssl.batch_size=3",
    "ssl.vocab_size=400",
    "ssl.tokenizer_texts=50",
    "ssl.eval_per_task=1",
    "ssl.save_every=1",
    "ssl.optim.schedule.warmup_steps=1",
    "align.steps=3",
    "align.batch_size=3",
    "align.eval_per_task=1",
    "align.save_every=1",
    "align.optim.schedule.warmup_steps=1",
    "sft.steps=3",
    "sft.first.steps=1",
    "sft.batch_size=2",
    "sft.eval_per_task=1",
    "sft.save_every=1",
    "sft.optim.schedule.warmup_steps=1",
    "grpo.steps=4",
    "grpo.questions=2",
    "grpo.group=2",
    "grpo.max_new_tokens=11",
    "grpo.valid_per_task=1",
    "grpo.test_per_task=1",
    "grpo.eval_samples=2",
    "grpo.save_every=1",
    "eval.asking.per_task=2",
    "eval.asking.max_new_tokens=11",
    "eval.asking.samples=2",
];

/// The command line of a recipe without its settings and its place.
type Recipe = Vec<std::ffi::OsString>;

fn start(recipe: &Recipe, out: &Path, settings: &[&str]) -> Child {
    let mut command = peptalk();
    command.args(recipe).arg("--out").arg(out).stdout(Stdio::piped()).stderr(Stdio::piped());
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.spawn().expect("the program starts")
}

/// Starts a run and kills it as soon as `moment` has come; false if the run was over before.
fn kill_when(recipe: &Recipe, out: &Path, moment: impl Fn(Duration) -> bool) -> bool {
    let (mut child, begin) = (start(recipe, out, &[]), Instant::now());
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

/// Runs the recipe to its end; gives the stages and what was done with each.
fn finish(recipe: &Recipe, out: &Path, settings: &[&str]) -> Vec<String> {
    let done = start(recipe, out, settings).wait_with_output().expect("the program ends");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).expect("the program writes UTF-8");
    let table = text.lines().skip_while(|line| !line.starts_with("stage ")).skip(1);
    table
        .take_while(|line| !line.is_empty())
        .map(|line| line[..22].split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn a_killed_run_ends_in_the_same_bytes_and_a_second_one_does_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (whole, killed) = (place.path().join("whole"), place.path().join("killed"));
    let settings = TINY.iter().flat_map(|setting| ["--set", setting]);
    let tiny: Recipe = ["quickstart"].into_iter().chain(settings).map(Into::into).collect();
    let moments = [
        "world/swissprot",
        "tables/proteins.parquet",
        "ss/begun.json",
        "ss/checkpoint-2",
        "contact/checkpoint-1",
        "encoder/checkpoint-2",
        "ssl/checkpoint-2",
        "sft/checkpoint-2",
        "grpo/checkpoint-1",
        "grpo/checkpoint-3",
        "grpo/done.json",
    ];
    let want = killed_or_not(&tiny, &whole, &killed, &moments);
    for name in
        ["tables/proteins.parquet", "ss/model/model.safetensors", "grpo/log.jsonl", "eval/report.html"]
    {
        assert!(want.contains_key(name), "{name} is missing: {:?}", want.keys());
    }

    let second = finish(&tiny, &whole, &[]);
    assert!(second.iter().all(|stage| stage.ends_with(" up to date")), "{second:?}");
    a_stage_on_its_own_is_the_stage_of_the_run(&whole, &place.path().join("alone"));

    let changed = finish(&tiny, &whole, &["eval.asking.per_task=1"]);
    let (last, before) = changed.split_last().expect("there are stages");
    assert!(before.iter().all(|stage| stage.ends_with(" up to date")) && last == "eval done", "{changed:?}");
}

#[test]
fn a_killed_run_on_real_files_ends_in_the_same_bytes() {
    let Some(data) = shared("data") else { return };
    let place = tempfile::tempdir().unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/smoke.toml");
    let smoke: Recipe = vec!["run".into(), recipe.into(), "--data".into(), data.into()];
    let moments = ["contact/begun.json", "ssl/checkpoint-10", "grpo/begun.json", "grpo/done.json"];
    killed_or_not(&smoke, &place.path().join("whole"), &place.path().join("killed"), &moments);
}

/// Runs a recipe in peace, and again with a kill whenever one of the files appears and at a moment that falls anywhere;
/// both must end in the same bytes, which it gives back.
fn killed_or_not(
    recipe: &Recipe,
    whole: &Path,
    killed: &Path,
    moments: &[&str],
) -> BTreeMap<String, Vec<u8>> {
    let begin = Instant::now();
    let first = finish(recipe, whole, &[]);
    let took = begin.elapsed();
    assert!(first.iter().all(|stage| stage.ends_with(" done")), "{first:?}");
    kill_when(recipe, killed, |elapsed| elapsed > took / 20);
    for seen in moments {
        kill_when(recipe, killed, |_| killed.join(seen).exists());
    }
    kill_when(recipe, killed, |elapsed| elapsed > took / 5);
    finish(recipe, killed, &[]);
    let (want, got) = (contents(whole), contents(killed));
    assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (name, bytes) in &want {
        assert!(got[name] == *bytes, "{name} has other bytes");
    }
    want
}

/// `peptalk train` and `peptalk eval`, on the tables of a run: the same bytes, after a kill too.
fn a_stage_on_its_own_is_the_stage_of_the_run(whole: &Path, out: &Path) {
    let text = |path: &Path| path.to_str().expect("temporary paths are UTF-8").to_owned();
    let (config, tables, alone) =
        (text(&whole.join("ss/config.toml")), text(&whole.join("tables")), text(out));
    let begin = ["train", "ss", "--config", &config, "--tables", &tables, "--out", &alone];
    let mut child = peptalk().args(begin).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !out.join("checkpoint-2").exists() {
        assert!(child.try_wait().unwrap().is_none_or(|status| status.success()));
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let resume = ["train", "ss", "--out", &alone, "--resume"];
    let refused = |args: &[&str], say: &str| {
        let (code, _, err) = run(args);
        assert!(code == 1 && err.contains(say), "{args:?}: {code} {err}");
    };
    refused(&begin, "hint: --resume goes on with it");
    refused(&[&resume[..], &["--set", "ss.q3_weight=0.25"]].concat(), "ss.q3_weight: 0.5 there, 0.25 now");
    let (code, _, err) = run(&resume);
    assert_eq!(code, 0, "{err}");
    for name in ["model/model.safetensors", "log.jsonl"] {
        let read = |run: &Path| fs_err::read(run.join(name)).unwrap();
        assert!(read(out) == read(&whole.join("ss")), "{name} has other bytes");
    }
    refused(&resume, "is finished");

    let (config, report) = (text(&whole.join("eval/config.toml")), text(&out.join("report")));
    let args = ["eval", "ss", "--config", &config, "--tables", &tables, "--model", &alone, "--out", &report];
    let (code, page, err) = run(&args);
    assert!(code == 0 && page.contains("report.html"), "{err}");
}

/// An ingest that is killed after each of its stages: the next one uses what was made, and ends in the same bytes.
#[test]
fn a_killed_ingest_goes_on_where_it_was() {
    let place = tempfile::tempdir().unwrap();
    datasets::world::write(&datasets::world::Config { seed: 7, n_proteins: 97 }, place.path()).unwrap();
    let quickstart = root().join("recipes/quickstart.toml");
    let ingest: Recipe =
        vec!["ingest".into(), "--config".into(), quickstart.into(), "--data".into(), place.path().into()];
    let finish = |out: &Path| {
        let done = peptalk().env("PEPTALK_LOG", "info").args(&ingest).arg("--out").arg(out).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{said}");
        (said, contents(out))
    };
    let (said, want) = finish(&place.path().join("whole"));
    assert!(!said.contains("before"), "{said}");

    for (made, word) in [
        ("staging/swissprot", "parsed before"),
        ("kept/relations", "made before"),
        ("kept/kin", "made before"),
    ] {
        let (stage, name) = made.split_once('/').unwrap();
        let out = place.path().join(made);
        let begun = out.with_file_name(format!(".{name}.ingest"));
        let is_made = |_: Duration| {
            let files = fs_err::read_dir(begun.join(stage)).into_iter().flatten().flatten();
            files
                .map(|file| file.file_name().to_string_lossy().into_owned())
                .any(|file| file.starts_with(name) && file.ends_with(".json"))
        };
        assert!(kill_when(&ingest, &out, is_made), "{made}: the program was over before");
        assert!(!out.exists(), "{made}: the program was killed too late");
        let (said, got) = finish(&out);
        assert!(said.contains(word) && said.contains(name), "{made}: {said}");
        assert!(got == want, "{made}: other bytes");
        assert!(!begun.exists());
    }
}
