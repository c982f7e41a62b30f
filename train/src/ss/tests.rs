use datasets::table::{ProteinRow, Rows, SsRow};
use tempfile::TempDir;

use super::*;

const CONFIG: &str = r#"
seed = 7
sources = ["a"]
epochs = 8
warmup_epochs = 2
curriculum = 1
batch_residues = 110
hidden_residues = 0.05
q3_weight = 1.0
ema_decay = 0.9
keep = "score"
patience = 8
save_every = 3
max_bad_steps = 3
[model]
embed = 10
conv_layers = 1
kernel = 3
hidden = 8
projection = 12
dropout = 0.1
gelu = true
min_runs = [2, 1, 1, 2, 1, 1, 1, 1]
forbidden = ["GI"]
reversed = true
[optim]
lr = 0.02
betas = [0.9, 0.99]
eps = 1e-8
schedule = { kind = "cosine", warmup_steps = 2 }
[[optim.group]]
pattern = "crf.*"
lr_factor = 0.5
weight_decay = 0.0
clip_norm = 1.0
[[optim.group]]
pattern = "embedding.*|convs.*|lstm.*|projection.*|norm.*|q8.*|q3.*"
lr_factor = 1.0
weight_decay = 0.01
clip_norm = 1.0
"#;

fn config() -> Config {
    toml::from_str(CONFIG).unwrap()
}

/// Chains in which the letters decide the state: runs of A and L are helix, V and I strand, G and P coil.
fn tables(leak: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut proteins, mut rows) = (vec![], vec![]);
    for i in 0..31usize {
        let runs: Vec<usize> = (0..4 + i % 3).map(|j| (i * 7 + j * j * 5 + j) % 3).collect();
        let text = |letters: [&str; 3]| runs.iter().map(|&run| letters[run]).collect::<String>();
        let sequence = text(["ALALA", "VIVI", "GPG"]);
        let split = match i {
            0..22 => Split::Train,
            22..27 => Split::Valid,
            _ => Split::Test,
        };
        proteins.push(ProteinRow {
            protein_id: format!("p{i:02}"),
            accessions: vec![],
            sources: vec![],
            cluster: format!("c{i:02}"),
            split,
            sequence,
        });
        let mut row = SsRow {
            id: format!("{i}_A"),
            protein_id: format!("p{i:02}"),
            source: "a".into(),
            q8: text(["HHHH?", "EEEE", "CCS"]),
            q3: text(["HHHH?", "EEEE", "CCC"]),
            mask: text(["11111", "1111", "111"]),
        };
        rows.push(row.clone());
        // The same chain in another source, whose labels must not count twice.
        row.source = "b".into();
        rows.push(row);
    }
    ProteinRow::write(dir.path(), &proteins).unwrap();
    SsRow::write(dir.path(), &rows).unwrap();
    let audit = format!(
        r#"{{"kinship":{{}},"n_train":22,"n_held_out":9,"exact":[{leak}],"cluster":[],"alike":[],"homologs":[]}}"#
    );
    fs_err::write(dir.path().join("audit.json"), audit).unwrap();
    dir
}

/// All files of a finished run that must not depend on how it came there.
fn bytes(run: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![];
    let mut folders = vec![run.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(run).unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => folders.push(path),
                false if name.contains("tfevents") || name == "timing.jsonl" => {}
                false => files.push((name, fs_err::read(path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

fn on_threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(work)
}

#[test]
fn a_curriculum_begins_with_short_chains() {
    let tables = tables("");
    let [train, _] = records(&config(), tables.path()).unwrap();
    let lengths: Vec<usize> = train.iter().map(SsRecord::len).collect();
    let sampler = Sampler::new(7, lengths.clone(), Budget::Residues(60)).unwrap();
    let longest = |number| -> Vec<usize> {
        let batches = epoch(&config(), &sampler, &train, number);
        batches.iter().map(|batch| batch.iter().map(|&record| lengths[record]).max().unwrap()).collect()
    };
    assert!(longest(0).is_sorted() && longest(0).first() < longest(0).last());
    assert!(!longest(1).is_sorted() && epoch(&config(), &sampler, &train, 1) == sampler.epoch(1));
}

#[test]
fn it_learns_and_a_killed_run_ends_in_the_same_bytes_on_any_number_of_threads() {
    let tables = tables("");
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    on_threads(1, || run(&config(), tables.path(), whole.path(), false)).unwrap();
    let log = eval::report::RunLog::read("ss", &whole.path().join("log.jsonl")).unwrap();
    let of = |name: &str| {
        log.series.iter().find(|(n, _)| n == name).unwrap().1.values().copied().collect::<Vec<_>>()
    };
    let accuracy = of("valid/q3_acc");
    assert_eq!(accuracy.len(), 8);
    assert!(accuracy[7] > 0.9, "{accuracy:?}");
    assert!(of("loss").first() > of("loss").last());

    // A file where the model folder is to be written ends the run at the first validation, after some checkpoints.
    fs_err::write(killed.path().join(".model.tmp"), "").unwrap();
    on_threads(2, || run(&config(), tables.path(), killed.path(), false)).unwrap_err();
    fs_err::remove_file(killed.path().join(".model.tmp")).unwrap();
    let before = Checkpoint::latest(killed.path()).unwrap().unwrap().step;
    assert!(before > 0 && before.is_multiple_of(3), "{before}");
    on_threads(2, || run(&config(), tables.path(), killed.path(), true)).unwrap();
    for (whole, killed) in bytes(whole.path()).iter().zip(&bytes(killed.path())) {
        assert_eq!(whole.0, killed.0);
        assert!(whole.1 == killed.1, "{} differs", whole.0);
    }
    // A resumed run that was finished changes nothing.
    let finished = bytes(whole.path());
    run(&config(), tables.path(), whole.path(), true).unwrap();
    assert!(finished == bytes(whole.path()));
}

#[test]
fn a_student_learns_what_its_teacher_knows() {
    let tables = tables("");
    let place = tempfile::tempdir().unwrap();
    run(&config(), tables.path(), &place.path().join("teacher"), false).unwrap();
    let teachers = vec![PathBuf::from("../teacher/model")];
    let student = Config { seed: 9, distil: Some(Distil { teachers, share: 1.0 }), ..config() };
    run(&student, tables.path(), &place.path().join("student"), false).unwrap();
    let log = eval::report::RunLog::read("ss", &place.path().join("student/log.jsonl")).unwrap();
    let accuracy = &log.series.iter().find(|(name, _)| name == "valid/q3_acc").unwrap().1;
    assert!(*accuracy.values().last().unwrap() > 0.9, "{accuracy:?}");
    let mut turned = student.clone();
    turned.model.reversed = false;
    let error = run(&turned, tables.path(), &place.path().join("turned"), false).unwrap_err().to_string();
    assert!(error.contains("reads the other way"), "{error}");
    let alone = Config { distil: Some(Distil { teachers: vec![], share: 1.0 }), ..config() };
    assert!(run(&alone, tables.path(), &place.path().join("alone"), false).is_err());
}

#[test]
fn an_encoder_is_read_and_stays_as_it_was() {
    let tables = tables("");
    let place = tempfile::tempdir().unwrap();
    let esm = models::llm::encoder::Config {
        hidden_size: 12,
        num_hidden_layers: 1,
        num_attention_heads: 3,
        intermediate_size: 10,
        max_position_embeddings: 100,
        layer_norm_eps: 1e-5,
        token_dropout: false,
    };
    let esm = models::llm::encoder::Esm2::new(esm, Weights::random(|name| rng(5, name, 0))).unwrap();
    esm.save(&place.path().join("esm")).unwrap();
    let weights = || fs_err::read(place.path().join("esm/model.safetensors")).unwrap();
    let before = weights();
    let mut with = Config { epochs: 1, encoder: Some("../esm".into()), ..config() };
    with.optim.group[0].pattern += "|features.*";
    run(&with, tables.path(), &place.path().join("with"), false).unwrap();
    let kept = eval::embeddings::Config { folder: "../kept".into(), numbers: Default::default() };
    let kept = Config { embeddings: Some(kept), ..with.clone() };
    run(&kept, tables.path(), &place.path().join("from-disk"), false).unwrap();
    let cut = Config { encoder: None, ..kept };
    let error = run(&cut, tables.path(), &place.path().join("cut"), false).unwrap_err().to_string();
    assert!(error.contains("hint: set ss.encoder"), "{error}");
    run(&Config { epochs: 1, ..config() }, tables.path(), &place.path().join("without"), false).unwrap();
    let said = |name: &str| {
        let model = SsModel::load(&place.path().join(name).join("model")).unwrap();
        eval::ss::predict(&[&model], &["ALALAVIVIGPG"]).unwrap()
    };
    assert_ne!(said("with"), said("without"));
    assert_eq!(said("with"), said("from-disk"));
    assert!(fs_err::read_dir(place.path().join("kept")).unwrap().count() > 0);
    assert_eq!(weights(), before);
}

/// Vectors that say what the state is are believed.
#[test]
fn vectors_are_read_from_a_file() {
    let tables = tables("");
    let place = tempfile::tempdir().unwrap();
    let records = datasets::ss::SsRecord::read(tables.path()).unwrap();
    let one_hot = |states: &[u8]| -> Vec<f32> {
        states.iter().flat_map(|&state| (0..8).map(move |q8| f32::from(u8::from(q8 == state)))).collect()
    };
    let save = |name: &str, tell: &dyn Fn(&[u8]) -> Vec<f32>| {
        let of = |r: &datasets::ss::SsRecord| {
            (
                VectorFile::name(&r.sequence),
                Tensor::from_vec(tell(&r.q8), (r.len(), 8), &candle_core::Device::Cpu).unwrap(),
            )
        };
        let all: std::collections::HashMap<String, Tensor> = records.iter().map(of).collect();
        candle_core::safetensors::save(&all, place.path().join(name)).unwrap();
    };
    save("truth.safetensors", &one_hot);
    save("nothing.safetensors", &|states| vec![0.5; states.len() * 8]);
    let accuracy = |name: &str| {
        let mut with =
            Config { epochs: 1, vectors: Some(format!("../{name}.safetensors").into()), ..config() };
        with.optim.group[0].pattern += "|features.*";
        let out = place.path().join(name);
        run(&with, tables.path(), &out, false).unwrap();
        let log = eval::report::RunLog::read("ss", &out.join("log.jsonl")).unwrap();
        let series = &log.series.iter().find(|(name, _)| name == "valid/q3_acc").unwrap().1;
        *series.values().last().unwrap()
    };
    let (told, untold) = (accuracy("truth"), accuracy("nothing"));
    assert!(told > untold, "{told} {untold}");
    let both = Config { encoder: Some("../esm".into()), vectors: Some("../truth".into()), ..config() };
    let error = run(&both, tables.path(), &place.path().join("both"), false).unwrap_err().to_string();
    assert!(error.contains("an encoder and vectors are two"), "{error}");
}

#[test]
fn leaks_unknown_sources_and_impossible_steps_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let refused = |config: Config, leak: &str| {
        format!("{:#}", run(&config, tables(leak).path(), out.path(), false).unwrap_err())
    };
    assert!(refused(config(), r#"["p00","p30"]"#).contains("p30"));
    assert!(refused(Config { sources: vec!["x".into()], ..config() }, "").contains("{\"a\", \"b\"}"));
    let mut bad = config();
    bad.model.forbidden = vec!["GX".into()];
    assert!(refused(bad, "").contains("GX"));
}

#[test]
fn a_protein_is_trained_on_once() {
    let tables = tables("");
    let all = Config { sources: vec![], ..config() };
    let [train, valid] = records(&all, tables.path()).unwrap();
    assert_eq!((train.len(), valid.len()), (22, 5));
    assert!(train.iter().all(|r| r.source == "a"));
    let [train, _] =
        records(&Config { sources: vec!["b".into(), "a".into()], ..config() }, tables.path()).unwrap();
    assert!(train.len() == 22 && train.iter().all(|r| r.source == "b"));
}
