//! The four stages of the language model, one after the other, on tables of 24 proteins.

use std::path::Path;
use std::sync::LazyLock;

use datasets::llm::ProteinPath;
use datasets::table::{PlddtRow, Rows};
use eval::embeddings::Numbers;
use eval::llm::{About, Policy, ProteinConfig, Saying};
use models::llm::LoraConfig;
use models::{Tape, view};

use crate::llm::tests::{data, tables};
use crate::llm::{Corpus, truth};
use crate::loss::llm::{Average, LossType, PolicyLoss, TokenLoss};
use crate::optim::{GroupConfig, OptimConfig};
use crate::schedule::{ScheduleConfig, ScheduleKind};
use crate::{align, encoder, grpo, sft, ssl};

const TASKS: [&str; 3] = ["go", "ppi", "plddt"];

fn optim(lr: f64, patterns: &[&str]) -> OptimConfig {
    let group = |pattern: &&str| GroupConfig {
        pattern: pattern.to_string(),
        lr_factor: 1.0,
        weight_decay: 0.0,
        clip_norm: 1.0,
    };
    OptimConfig {
        lr,
        betas: (0.9, 0.99),
        eps: 1e-8,
        schedule: ScheduleConfig { kind: ScheduleKind::Constant, warmup_steps: 0 },
        group: patterns.iter().map(group).collect(),
    }
}

fn encoder_config(steps: u64) -> encoder::Config {
    encoder::Config {
        seed: 3,
        steps,
        batch_residues: 180,
        max_residues: 60,
        eval_proteins: 5,
        eval_every: 2,
        save_every: 2,
        max_bad_steps: 2,
        model: encoder::ModelConfig {
            hidden_size: 16,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            intermediate_size: 24,
        },
        optim: optim(3e-3, &["*"]),
    }
}

fn ssl_config(steps: u64) -> ssl::Config {
    ssl::Config {
        seed: 3,
        steps,
        batch_size: 6,
        letters_fraction: 0.3,
        vocab_size: 420,
        tokenizer_texts: 60,
        eval_per_task: 2,
        eval_every: 2,
        save_every: 2,
        max_bad_steps: 2,
        data: data(&TASKS),
        model: ssl::ModelConfig {
            hidden_size: 24,
            intermediate_size: 40,
            num_hidden_layers: 2,
            num_attention_heads: 3,
            num_key_value_heads: 1,
            head_dim: 8,
            max_position_embeddings: 256,
        },
        optim: optim(1e-2, &["*"]),
    }
}

fn sft_config(steps: u64) -> sft::Config {
    sft::Config {
        seed: 3,
        base: "../ssl/model".into(),
        allow_base: false,
        steps,
        batch_size: 3,
        accumulation: 2,
        pack_tokens: None,
        loss: TokenLoss::Nll,
        average: Average::Token,
        eval_per_task: 2,
        eval_answers: 0,
        eval_every: 2,
        save_every: 2,
        max_bad_steps: 2,
        embeddings: None,
        data: data(&TASKS),
        protein: ProteinConfig::Encoder {
            folder: "../encoder/model".into(),
            n_queries: 2,
            mean: true,
            site: true,
            n_heads: 2,
            hidden_size: 20,
        },
        lora: LoraConfig {
            target_modules: ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj"].into(),
            r: 8,
            lora_alpha: 16.0,
            ..LoraConfig::default()
        },
        bridge: None,
        first: Some(sft::First { steps: 1, tasks: vec!["go".to_owned()], share: 0.7 }),
        optim: optim(1e-2, &["base_model.*", "pool.*|proj.*|boundary.*"]),
    }
}

fn align_config(steps: u64) -> align::Config {
    align::Config {
        seed: 3,
        base: "../ssl/model".into(),
        steps,
        batch_size: 12,
        eval_per_task: 4,
        eval_every: steps,
        save_every: 1,
        max_bad_steps: 3,
        data: data(&["go"]),
        protein: sft_config(1).protein,
        optim: optim(1e-2, &["*"]),
    }
}

fn grpo_config(steps: u64) -> grpo::Config {
    grpo::Config {
        seed: 3,
        policy: "../sft/model".into(),
        steps,
        questions: 4,
        group: 3,
        mini_batches: 2,
        iterations: 1,
        micro_batch: 4,
        max_new_tokens: 48,
        temperature: 1.0,
        valid_per_task: 2,
        test_per_task: 2,
        eval_samples: 2,
        eval_every: 1,
        save_every: 1,
        max_bad_steps: 2,
        embeddings: None,
        data: data(&TASKS),
        loss: PolicyLoss {
            loss_type: LossType::Dapo,
            epsilon_low: 0.2,
            epsilon_high: 0.28,
            beta: 0.01,
            kl_bias_correction: true,
        },
        optim: optim(5e-3, &["base_model.*", "pool.*|proj.*|boundary.*"]),
    }
}

/// A run folder with encoder, base model and SFT policy, made once.
static RUN: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    tables(&dir.path().join("tables"));
    let stage = |name: &str| dir.path().join(name);
    encoder::run(&encoder_config(4), &stage("tables"), &stage("encoder"), false).unwrap();
    ssl::run(&ssl_config(200), &stage("tables"), &stage("ssl"), false).unwrap();
    sft::run(&sft_config(40), &stage("tables"), &stage("sft"), false).unwrap();
    dir
});

/// The files of a stage that must be the same however the run went.
fn results(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = vec![];
    for name in ["log.jsonl", "test.json"] {
        out.extend(fs_err::read(folder.join(name)).ok().map(|bytes| (name.to_owned(), bytes)));
    }
    for inside in ["model", "completions"].map(|name| folder.join(name)) {
        let files = fs_err::read_dir(inside).into_iter().flatten().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.collect();
        files.sort();
        out.extend(files.iter().map(|file| {
            (file.file_name().unwrap().to_string_lossy().into_owned(), fs_err::read(file).unwrap())
        }));
    }
    assert!(out.len() > 2, "{folder:?} is finished");
    out
}

fn same(a: &Path, b: &Path) {
    for ((name, a), (other, b)) in results(a).iter().zip(&results(b)) {
        assert!(name == other && a == b, "{name} and {other} differ");
    }
    assert_eq!(results(a).len(), results(b).len());
}

#[test]
fn resumed_stages_end_in_the_same_bytes() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let stage = |name: &str| dir.join(name);
    let (whole, parts) = (stage("encoder-whole"), stage("encoder-parts"));
    encoder::run(&encoder_config(6), &tables, &whole, false).unwrap();
    encoder::run(&encoder_config(4), &tables, &parts, false).unwrap();
    encoder::run(&encoder_config(6), &tables, &parts, true).unwrap();
    same(&whole, &parts);
    let (whole, parts) = (stage("ssl-whole"), stage("ssl-parts"));
    ssl::run(&ssl_config(4), &tables, &whole, false).unwrap();
    ssl::run(&ssl_config(2), &tables, &parts, false).unwrap();
    ssl::run(&ssl_config(4), &tables, &parts, true).unwrap();
    same(&whole, &parts);
    let (whole, parts) = (stage("sft-whole"), stage("sft-parts"));
    sft::run(&sft_config(4), &tables, &whole, false).unwrap();
    sft::run(&sft_config(2), &tables, &parts, false).unwrap();
    sft::run(&sft_config(4), &tables, &parts, true).unwrap();
    same(&whole, &parts);
    // step 3 lies inside a buffer of two updates, step 2 between buffers
    let (whole, inside, between) = (stage("grpo-whole"), stage("grpo-inside"), stage("grpo-between"));
    grpo::run(&grpo_config(4), &tables, &whole, false).unwrap();
    for (parts, stop) in [(&inside, 3), (&between, 2)] {
        grpo::run(&grpo_config(stop), &tables, parts, false).unwrap();
        grpo::run(&grpo_config(4), &tables, parts, true).unwrap();
        same(&whole, parts);
    }
}

#[test]
fn the_number_of_threads_changes_no_byte() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let run = |n: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
        let stage = |name: &str| dir.join(format!("{name}-threads-{n}"));
        pool.install(|| {
            encoder::run(&encoder_config(2), &tables, &stage("encoder"), false).unwrap();
            ssl::run(&ssl_config(2), &tables, &stage("ssl"), false).unwrap();
            sft::run(&sft_config(2), &tables, &stage("sft"), false).unwrap();
            grpo::run(&grpo_config(2), &tables, &stage("grpo"), false).unwrap();
        });
    };
    run(1);
    run(2);
    for name in ["encoder", "ssl", "sft", "grpo"] {
        same(&dir.join(format!("{name}-threads-1")), &dir.join(format!("{name}-threads-2")));
    }
}

/// Losses of a log by step.
fn logged(folder: &Path, name: &str) -> Vec<f64> {
    let text = fs_err::read_to_string(folder.join("log.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter_map(|line| line[name].as_f64()).collect()
}

fn plddt_only(steps: u64) -> sft::Config {
    let mut config = sft_config(steps);
    config.first = None;
    (config.data.tasks, config.eval_every, config.save_every) = (vec!["plddt".to_owned()], steps, steps);
    config
}

#[test]
fn a_model_that_does_not_end_turns_is_refused_unless_allowed() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let base = dir.join("base");
    fs_err::create_dir_all(&base).unwrap();
    for file in fs_err::read_dir(dir.join("ssl/model")).unwrap() {
        let file = file.unwrap().path();
        fs_err::copy(&file, base.join(file.file_name().unwrap())).unwrap();
    }
    for name in ["config.json", "generation_config.json"] {
        let mut json: serde_json::Value =
            serde_json::from_slice(&fs_err::read(base.join(name)).unwrap()).unwrap();
        json["eos_token_id"] = 0.into();
        fs_err::write(base.join(name), json.to_string()).unwrap();
    }
    let mut config = sft::Config { base: "../base".into(), ..sft_config(1) };
    let error = format!("{:#}", sft::run(&config, &tables, &dir.join("sft-base"), false).unwrap_err());
    assert!(error.contains("has not learnt to end a turn") && error.contains("hint: "), "{error}");
    config.allow_base = true;
    sft::run(&config, &tables, &dir.join("sft-base"), false).unwrap();
}

#[test]
fn a_bridge_learns_the_words_of_the_answers_and_sft_begins_with_it() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let run =
        |name: &str, config: &align::Config, resume| align::run(config, &tables, &dir.join(name), resume);
    run("aligned", &align_config(60), false).unwrap();
    let losses = logged(&dir.join("aligned"), "loss");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (early, late) = (mean(&losses[..5]), mean(&losses[55..]));
    assert!(late < 0.3 * early, "{early} → {late}");
    let valid = logged(&dir.join("aligned"), "valid/loss");
    assert!(valid[1] < 0.3 * valid[0], "proteins that it has not seen: {valid:?}");

    let with = sft::Config { bridge: Some("../aligned/model".into()), ..sft_config(1) };
    let first_loss = |name: &str, config: &sft::Config| {
        sft::run(config, &tables, &dir.join(name), false).unwrap();
        logged(&dir.join(name), "loss")[0]
    };
    assert_ne!(first_loss("sft-bridge", &with), first_loss("sft-fresh", &sft_config(1)));
    let ProteinConfig::Encoder { ref folder, mean, site, n_heads, hidden_size, .. } = with.protein else {
        unreachable!("the tests' bridge pools")
    };
    let protein =
        ProteinConfig::Encoder { folder: folder.clone(), n_queries: 3, mean, site, n_heads, hidden_size };
    let other = sft::Config { protein, ..with.clone() };
    let error = format!("{:#}", sft::run(&other, &tables, &dir.join("sft-other"), false).unwrap_err());
    assert!(error.contains("n_queries: 2") && error.contains("hint: the same `protein`"), "{error}");

    for (task, batch_size, cure) in [
        ("disease", 8, "hint: take it out of `tasks`"),
        ("ppi", 8, "hint: leave other tasks out of align.data.tasks"),
        ("go", 1, "batch_size 2 or more"),
    ] {
        let config = align::Config { data: data(&[task]), batch_size, ..align_config(1) };
        let error = format!("{:#}", run("misaligned", &config, false).unwrap_err());
        assert!(error.contains(cure), "{error}");
    }
}

#[test]
fn the_first_steps_ask_the_first_tasks() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let first = |task: &str| Some(sft::First { steps: 1, tasks: vec![task.to_owned()], share: 1.0 });
    let losses = |name: &str, first: Option<sft::First>| {
        let config = sft::Config { first, ..sft_config(2) };
        sft::run(&config, &tables, &dir.join(name), false).unwrap();
        logged(&dir.join(name), "loss")
    };
    let [mixed, go, ppi] =
        [losses("mixed", None), losses("go-first", first("go")), losses("ppi-first", first("ppi"))];
    assert!(mixed[0] != go[0] && go[0] != ppi[0] && mixed[0] != ppi[0], "{mixed:?} {go:?} {ppi:?}");
    let config = sft::Config { first: first("disease"), ..sft_config(2) };
    let error = sft::run(&config, &tables, &dir.join("unknown-first"), false).unwrap_err().to_string();
    assert!(error.contains("hint: name tasks of sft.data"), "{error}");
}

#[test]
fn embeddings_on_disk_change_no_byte_and_serve_the_next_stage() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let cached = |numbers| eval::embeddings::Config { folder: "../embeddings".into(), numbers };
    let sft = |name: &str, embeddings| {
        sft::run(&sft::Config { embeddings, ..sft_config(2) }, &tables, &dir.join(name), false).unwrap();
    };
    let files = || {
        let mut files: Vec<_> = walk(&dir.join("embeddings"));
        files.sort();
        files
    };
    sft("sft-plain", None);
    sft("sft-cached", Some(cached(Numbers::F32)));
    same(&dir.join("sft-plain"), &dir.join("sft-cached"));
    let first = files();
    assert!(!first.is_empty());
    sft("sft-cached-again", Some(cached(Numbers::F32)));
    same(&dir.join("sft-plain"), &dir.join("sft-cached-again"));
    assert_eq!(files(), first, "nothing was encoded anew");
    let grpo = |name: &str, embeddings| {
        let policy = "../sft-cached/model".into();
        grpo::run(&grpo::Config { embeddings, policy, ..grpo_config(1) }, &tables, &dir.join(name), false)
            .unwrap();
    };
    grpo("grpo-plain", None);
    grpo("grpo-cached", Some(cached(Numbers::F32)));
    same(&dir.join("grpo-plain"), &dir.join("grpo-cached"));
    // rounded vectors: other numbers, the same ones in every run
    sft("sft-f16", Some(cached(Numbers::F16)));
    sft("sft-f16-again", Some(cached(Numbers::F16)));
    same(&dir.join("sft-f16"), &dir.join("sft-f16-again"));
    assert_ne!(logged(&dir.join("sft-f16"), "loss"), logged(&dir.join("sft-plain"), "loss"));
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn packing_changes_the_order_of_sums_alone() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let losses = |name: &str, pack_tokens| {
        let config = sft::Config { pack_tokens, ..sft_config(3) };
        sft::run(&config, &tables, &dir.join(name), false).unwrap();
        (logged(&dir.join(name), "loss"), logged(&dir.join(name), "valid/loss"))
    };
    let (plain, valid) = losses("unpacked", None);
    for (name, tokens) in [("packed", 150), ("packed-alone", 1)] {
        let (packed, packed_valid) = losses(name, Some(tokens));
        for (a, b) in plain.iter().chain(&valid).zip(packed.iter().chain(&packed_valid)) {
            assert!((a - b).abs() < 1e-3 * a, "{name}: {plain:?} {packed:?}");
        }
    }
}

#[test]
fn dropout_and_dft_change_a_step() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let losses = |name: &str, change: &dyn Fn(&mut sft::Config)| {
        let mut config = sft_config(3);
        change(&mut config);
        sft::run(&config, &tables, &dir.join(name), false).unwrap();
        (logged(&dir.join(name), "loss"), logged(&dir.join(name), "valid/loss"))
    };
    let (plain, valid) = losses("plain-loss", &|_| {});
    let (dropout, with_dropout) = losses("dropout", &|config| config.lora.lora_dropout = 0.3);
    // a fresh adapter adds nothing, so the first loss is the same; evaluation has no dropout
    assert_eq!((plain[0], valid[0]), (dropout[0], with_dropout[0]));
    assert_ne!(plain[2], dropout[2]);
    let (dft, _) = losses("dft", &|config| config.loss = TokenLoss::Dft);
    assert!(dft[0] < plain[0] && dft[0] > 0.0, "{dft:?} {plain:?}");
}

#[test]
fn one_batch_is_learnt_by_heart() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    // one task, eight proteins: little but the wording changes
    let out = dir.join("sft-overfit");
    let mut config = plddt_only(200);
    config.data.max_residues = 33;
    config.eval_answers = 4;
    config.optim.lr = 2e-2;
    sft::run(&config, &tables, &out, false).unwrap();
    let losses = logged(&out, "loss");
    let last = losses[190..].iter().sum::<f64>() / 10.0;
    assert!(last < 0.5 * losses[0], "{} → {last}", losses[0]);
    let (loss, perplexity) = (logged(&out, "valid/loss"), logged(&out, "valid/perplexity"));
    assert!(loss.iter().zip(&perplexity).all(|(l, p)| (l.exp() - p).abs() < 1e-9 * p));
    let exact = logged(&out, "valid/exact/plddt");
    assert!(exact[0] == 0.0 && exact[1] > 0.0 && exact[1] <= 1.0, "{exact:?}");
}

#[test]
fn answers_in_words_are_compared_with_the_true_ones() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let out = dir.join("sft-words");
    let mut config = plddt_only(2);
    config.data.tasks = vec!["function".to_owned()];
    config.eval_answers = 4;
    sft::run(&config, &tables, &out, false).unwrap();
    let [rouge, bleu, exact] =
        ["rouge_l", "bleu", "exact"].map(|what| logged(&out, &format!("valid/{what}/function")));
    assert_eq!([rouge.len(), bleu.len(), exact.len()], [2; 3]);
    assert!(rouge.iter().zip(&exact).all(|(rouge, exact)| exact <= rouge && *rouge <= 1.0), "{rouge:?}");
    assert!(bleu.iter().all(|bleu| (0.0..=100.0).contains(bleu)), "{bleu:?}");
    // Answers that are no words have no such measures.
    assert!(logged(&dir.join("sft"), "valid/bleu/go").is_empty());
}

#[test]
fn grpo_raises_the_reward() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    // the policy has learnt that proteins are of one class or the other; now all are of one
    sft::run(&plddt_only(60), &tables, &dir.join("sft-plddt"), false).unwrap();
    let easy = dir.join("tables-easy");
    crate::llm::tests::tables(&easy);
    let mut rows = PlddtRow::read(&easy).unwrap();
    rows.iter_mut().for_each(|row| row.mean_plddt = 91.0);
    PlddtRow::write(&easy, &rows).unwrap();
    let out = dir.join("grpo-raises");
    let mut config = grpo_config(16);
    config.policy = "../sft-plddt/model".into();
    (config.data.tasks, config.eval_every, config.save_every) = (vec!["plddt".to_owned()], 16, 16);
    (config.questions, config.group, config.valid_per_task, config.test_per_task) = (4, 6, 8, 8);
    config.eval_samples = 4;
    grpo::run(&config, &easy, &out, false).unwrap();
    let rewards = logged(&out, "valid/reward");
    assert!(rewards[1] > rewards[0] + 0.2, "{rewards:?}");
    let report: serde_json::Value =
        serde_json::from_slice(&fs_err::read(out.join("test.json")).unwrap()).unwrap();
    let mean = |policy: &str| report["tasks"]["plddt"][policy]["mean"].as_f64().unwrap();
    assert!(mean("grpo") > mean("sft") + 0.2, "{report}");
}

#[test]
fn any_encoder_serves_and_one_that_is_too_short_is_refused() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let esmc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/esmc");
    let copy = dir.join("esmc");
    fs_err::create_dir_all(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        let bytes = fs_err::read(esmc.join(name)).unwrap();
        fs_err::write(copy.join(name), bytes).unwrap();
    }
    let mut config = sft_config(2);
    if let ProteinConfig::Encoder { folder, .. } = &mut config.protein {
        *folder = copy.clone();
    }
    // its config.json says 16 tokens
    let error = format!("{:#}", sft::run(&config, &tables, &dir.join("sft-short"), false).unwrap_err());
    assert!(error.contains("made for 14 residues") && error.contains("hint: "), "{error}");
    let text = fs_err::read_to_string(copy.join("config.json")).unwrap();
    let text = text.replace("\"max_position_embeddings\": 16", "\"max_position_embeddings\": 64");
    fs_err::write(copy.join("config.json"), text).unwrap();
    let out = dir.join("sft-esmc");
    sft::run(&config, &tables, &out, false).unwrap();
    assert_ne!(logged(&out, "loss"), logged(&dir.join("sft"), "loss")[..2]);
    Policy::load(&out.join("model")).unwrap();
}

/// Resampler and gated cross-attention: SFT, then GRPO, which asserts that sampler and trainer agree to the bit.
#[test]
fn every_bridge_is_trained_and_sampled_from() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let folder = || "../encoder/model".into();
    let perceiver = ProteinConfig::Perceiver {
        folder: folder(),
        n_latents: 3,
        n_layers: 1,
        width: 12,
        n_heads: 2,
        ffn_size: 16,
        site: true,
    };
    let flamingo = ProteinConfig::Flamingo {
        folder: folder(),
        n_latents: 3,
        n_layers: 1,
        n_heads: 2,
        head_dim: 6,
        every: 2,
        max_residues: 64,
        site: true,
    };
    for (name, protein, groups) in [
        ("perceiver", perceiver, "resampler.*|boundary.*"),
        ("flamingo", flamingo, "resampler.*|cross.*|boundary.*|media_token.*"),
    ] {
        let (out, more) = (dir.join(format!("sft-{name}")), dir.join(format!("grpo-{name}")));
        let groups = ["base_model.*", groups];
        let config = sft::Config { protein, optim: optim(1e-2, &groups), ..sft_config(4) };
        sft::run(&config, &tables, &out, false).unwrap();
        let losses = logged(&out, "valid/loss");
        assert!(losses.last() < losses.first(), "{name}: {losses:?}");
        let policy = format!("../sft-{name}/model").into();
        let config = grpo::Config { policy, optim: optim(5e-3, &groups), ..grpo_config(2) };
        grpo::run(&config, &tables, &more, false).unwrap();
    }
    let mut config = sft_config(1);
    config.data.max_residues = 60;
    config.protein = ProteinConfig::Flamingo {
        folder: folder(),
        n_latents: 3,
        n_layers: 1,
        n_heads: 2,
        head_dim: 6,
        every: 2,
        max_residues: 50,
        site: false,
    };
    let error = format!("{:#}", sft::run(&config, &tables, &dir.join("sft-narrow"), false).unwrap_err());
    assert!(error.contains("made for 50 residues"), "{error}");
}

#[test]
fn every_protein_of_a_prompt_changes_the_answer() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let corpus = Corpus::read(&tables, &data(&["ppi", "ddg"])).unwrap();
    let policy = Policy::load(&dir.join("sft/model")).unwrap();
    let logprobs = |row: &datasets::llm::Row| {
        let scores = policy.score(&Tape::off(), std::slice::from_ref(row), 1.0).unwrap();
        view::<f32>(scores.logprobs.value()).unwrap().to_vec()
    };
    for example in corpus.test(1, 2, ProteinPath::Encoder).unwrap() {
        assert!(truth(&example, &corpus.ontology).is_some());
        let row = policy.encode(&example).unwrap();
        let plain = logprobs(&row);
        for at in 0..2 {
            let mut other = row.clone();
            other.proteins[at].sequence = "MKTAYIAKQRQISFVK".into();
            assert_ne!(plain, logprobs(&other), "protein {at} of {}", example.task);
            let mut other = row.clone();
            if let Some(site) = &mut other.proteins[at].site {
                *site += 3;
                assert_ne!(plain, logprobs(&other), "the site of protein {at}");
            }
        }
    }
}

#[test]
fn an_exported_policy_answers_as_before() {
    let dir = RUN.path();
    let policy = Policy::load(&dir.join("sft/model")).unwrap();
    let (tables, results, out) =
        (dir.join("exported-tables"), dir.join("results.json"), dir.join("exported"));
    fs_err::create_dir_all(&tables).unwrap();
    let manifest = serde_json::json!({
        "config": {"source": [{"name": "s", "licence": "CC BY 4.0"}]},
        "files": [{"source": "s", "file": "s.dat", "sha256": "0123456789abcdef", "rows_in": 24, "kept": 23}],
        "proteins_by_split": {"train": 16, "test": 4}, "n_clusters": 20
    });
    fs_err::write(tables.join("manifest.json"), manifest.to_string()).unwrap();
    let scores = serde_json::json!({"results": {"go_held-out": {"f1,none": 0.25, "f1_stderr,none": 0.01}}});
    fs_err::write(&results, scores.to_string()).unwrap();
    let about = About {
        name: "Tiny".into(),
        settings: Some("steps = 40\n".into()),
        tables: Some(tables),
        results: Some(results),
    };
    fs_err::create_dir_all(&out).unwrap();
    let change = eval::llm::export(&policy, &about, &out).unwrap();
    assert!(change.largest > 0.0 && change.largest < 1e-3, "{change:?}");
    let card = fs_err::read_to_string(out.join("README.md")).unwrap();
    for say in [
        "# Tiny",
        "CC BY 4.0",
        "| go_held-out | f1 | 0.250 | 0.010 |",
        "steps = 40",
        "0123456789ab",
        "16 train",
    ] {
        assert!(card.contains(say), "{say}: {card}");
    }
    assert!(card.contains("by attention pooling"), "{card}");
    // the folder is a model of its own: no adapter, no base
    assert!(!out.join("adapter_config.json").exists());
    let whole = Policy::load(&out).unwrap();
    models::llm::Qwen3::load(&out).unwrap();
    let saying = Saying { max_new_tokens: 24, temperature: 0.0, seed: 0, site: None };
    let proteins = ["MKTAYIAKQRWHWCHWQISFVK".to_owned(), "MAGSTKELV".to_owned()];
    for question in ["Do they interact?", "What is this?"] {
        let said = policy.ask(question, &proteins, saying).unwrap();
        assert_eq!(said, whole.ask(question, &proteins, saying).unwrap());
        assert_eq!(said, policy.ask(question, &proteins, saying).unwrap());
        assert!(!said.contains("<|"), "{said}");
    }
    let warm = Saying { temperature: 1.0, ..saying };
    let seeds: std::collections::BTreeSet<String> =
        (0..5).map(|seed| policy.ask("What?", &proteins, Saying { seed, ..warm }).unwrap()).collect();
    assert!(seeds.len() > 1);
    let beyond = policy.ask("What?", &proteins, Saying { site: Some(9), ..saying }).unwrap_err().to_string();
    assert!(beyond.contains("no residue 10 in a protein of 9"), "{beyond}");
    let placeholder = policy.ask("What is <|protein_embed|>?", &proteins, saying).unwrap_err().to_string();
    assert!(placeholder.contains("places for protein vectors"), "{placeholder}");
    assert!(whole.trained_copy().is_err());
}
