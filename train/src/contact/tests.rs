use datasets::table::{ChainRow, ProteinRow, Rows};
use tempfile::TempDir;

use super::*;

const CONFIG: &str = r#"
seed = 7
epochs = 6
max_length = 30
batch_pairs = 1500
positive_weight = 2.0
class_weight = 0.5
ema_decay = 0.5
patience = 6
save_every = 2
max_bad_steps = 3
[model]
single = 12
conv_layers = 1
kernel = 3
pair = 9
outer = 3
triangle = 5
blocks = 1
relpos = 8
dropout = 0.1
[optim]
lr = 0.02
betas = [0.9, 0.99]
eps = 1e-8
schedule = { kind = "cosine", warmup_steps = 2 }
[[optim.group]]
pattern = "*"
lr_factor = 1.0
weight_decay = 0.01
clip_norm = 1.0
"#;

fn config() -> Config {
    toml::from_str(CONFIG).unwrap()
}

/// Hairpins: two strands around a turn of G, so that i touches its mirror image; and rods, which touch nothing.
fn tables() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut proteins, mut chains) = (vec![], vec![]);
    for i in 0..23usize {
        let (arm, hairpin) = (7 + i % 4, i % 2 == 0);
        let letter = |at: usize| b"VITSKE"[(at * 5 + i * (at + 1)) % 6] as char;
        let strand: String = (0..arm).map(letter).collect();
        let sequence = format!("{strand}{}{strand}", if hairpin { "GG" } else { "AA" });
        let n = sequence.len();
        let place = |at: usize| {
            let along = if hairpin && at >= n / 2 { n - 1 - at } else { at };
            [3.5 * along as f32, if hairpin && at >= n / 2 { 5.0 } else { 0.0 }, 0.1 * i as f32]
        };
        proteins.push(ProteinRow {
            protein_id: format!("p{i:02}"),
            sequence,
            accessions: vec![],
            sources: vec![],
            cluster: format!("c{i:02}"),
            split: if i < 17 { Split::Train } else { Split::Valid },
        });
        chains.push(ChainRow {
            chain_id: format!("{i}.A"),
            protein_id: format!("p{i:02}"),
            source: "cath".into(),
            backbone_ang: (0..n).flat_map(|at| place(at).repeat(4)).collect(),
            cath: vec![if hairpin { "2.10.20" } else { "1.10.20" }.into()],
            published_split: String::new(),
        });
    }
    ProteinRow::write(dir.path(), &proteins).unwrap();
    ChainRow::write(dir.path(), &chains).unwrap();
    let audit =
        r#"{"kinship":{},"n_train":17,"n_held_out":6,"exact":[],"cluster":[],"alike":[],"homologs":[]}"#;
    fs_err::write(dir.path().join("audit.json"), audit).unwrap();
    dir
}

fn on_threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap().install(work)
}

#[test]
fn it_learns_and_a_killed_run_ends_in_the_same_bytes_on_any_number_of_threads() {
    let tables = tables();
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    on_threads(1, || run(&config(), tables.path(), whole.path(), false)).unwrap();
    let log = eval::report::RunLog::read("contact", &whole.path().join("log.jsonl")).unwrap();
    let of = |name: &str| {
        log.series.iter().find(|(n, _)| n == name).unwrap().1.values().copied().collect::<Vec<_>>()
    };
    assert_eq!(of("valid/precision_l").len(), 6);
    // whole epochs: batches differ more than they improve
    let loss = of("loss");
    let epoch = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let n = loss.len() / 6;
    assert!(epoch(&loss[5 * n..]) < 0.8 * epoch(&loss[..n]), "{loss:?}");

    // A file where the model folder is to be written ends the run at the first validation, after some checkpoints.
    fs_err::write(killed.path().join(".model.tmp"), "").unwrap();
    on_threads(2, || run(&config(), tables.path(), killed.path(), false)).unwrap_err();
    fs_err::remove_file(killed.path().join(".model.tmp")).unwrap();
    assert!(Checkpoint::latest(killed.path()).unwrap().is_some());
    on_threads(2, || run(&config(), tables.path(), killed.path(), true)).unwrap();
    let model = |run: &TempDir| fs_err::read(run.path().join("model/model.safetensors")).unwrap();
    assert!(model(&whole) == model(&killed));
    let log = |run: &TempDir| fs_err::read(run.path().join("log.jsonl")).unwrap();
    assert!(log(&whole) == log(&killed));
    let last = |run: &TempDir| {
        let step = Checkpoint::latest(run.path()).unwrap().unwrap().step;
        fs_err::read(run.path().join(format!("checkpoint-{step}/optimiser.safetensors"))).unwrap()
    };
    assert!(last(&whole) == last(&killed));
}

#[test]
fn chains_beyond_the_length_are_left_out_not_cut() {
    let tables = tables();
    let [train, valid] = records(&Config { max_length: 18, ..config() }, tables.path()).unwrap();
    assert!(train.iter().chain(&valid).all(|r| r.len() <= 18));
    assert!(train.len() < 17 && !train.is_empty());
    let error = records(&Config { max_length: 5, ..config() }, tables.path()).unwrap_err().to_string();
    assert!(error.contains("max_length"), "{error}");
}
