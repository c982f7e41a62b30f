//! The four stages of the language model, one after the other, on tables of 24 proteins.

mod policy;
mod tuning;

use std::path::Path;
use std::sync::LazyLock;

use datasets::llm::ProteinPath;
use datasets::table::{PlddtRow, Rows};
use eval::embeddings::Numbers;
use eval::llm::{About, Policy, ProteinConfig, Saying};
use models::device::Device;
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
        patience: None,
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
    sft::run(&sft_config(40), &stage("tables"), &stage("sft"), false, &Device::Cpu).unwrap();
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
    sft::run(&sft_config(4), &tables, &whole, false, &Device::Cpu).unwrap();
    sft::run(&sft_config(2), &tables, &parts, false, &Device::Cpu).unwrap();
    sft::run(&sft_config(4), &tables, &parts, true, &Device::Cpu).unwrap();
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
            sft::run(&sft_config(2), &tables, &stage("sft"), false, &Device::Cpu).unwrap();
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

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
