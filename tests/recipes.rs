//! Every recipe in `recipes/` is whole.

use std::path::PathBuf;

use eval::llm::ProteinConfig;
use models::llm::bridge;
use models::llm::qwen3::Config;
use train::memory::Memory;

use crate::kit::{root, run};

fn recipes() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join("recipes")];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "toml") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_recipe_loads_and_its_resolved_form_is_complete() {
    let place = tempfile::tempdir().unwrap();
    let all = recipes();
    assert!(!all.is_empty());
    for path in all {
        let text = fs_err::read_to_string(&path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["name"].as_str(), path.file_stem().unwrap().to_str(), "{}", path.display());
        let dry_run = |path: &std::path::Path| {
            let folder = place.path().to_str().unwrap();
            let mut args = vec!["run", path.to_str().unwrap(), "--dry-run", "--out", folder];
            if !table.contains_key("world") {
                args.extend(["--data", folder]);
            }
            let (code, out, err) = run(&args);
            assert_eq!(code, 0, "{}: {err}", path.display());
            out
        };
        let resolved = dry_run(&path);
        let again = place.path().join("resolved.toml");
        fs_err::write(&again, &resolved).unwrap();
        assert_eq!(dry_run(&again), resolved, "{}", path.display());
    }
}

/// Sizes of the released Qwen3 chat models, from their `config.json`.
fn qwen3(name: &str) -> Config {
    let (hidden_size, intermediate_size, num_hidden_layers, num_attention_heads) = match name {
        "Qwen/Qwen3-4B-Instruct-2507" => (2560, 9728, 36, 32),
        "Qwen/Qwen3-8B" => (4096, 12_288, 36, 32),
        "Qwen/Qwen3-14B" => (5120, 17_408, 40, 40),
        other => panic!("no sizes of {other}"),
    };
    Config {
        vocab_size: 151_936,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: 8,
        head_dim: 128,
        max_position_embeddings: 40_960,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tie_word_embeddings: name.contains("4B-"),
        eos_token_ids: vec![151_645, 151_643],
    }
}

/// Weights of ESM3's transformer without geometric attention, and its table of tokens.
const ESM3_WEIGHTS: u64 = 1_366_478_336 - 7_079_936 + 64 * 1536;

#[test]
fn recipes_of_large_models_say_what_memory_they_take() {
    let folder = root().join("recipes/llm");
    let mut n = 0;
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs_err::read_to_string(&path).unwrap();
        let recipe: toml::Table = text.parse().unwrap();
        let mut sft = recipe["sft"].as_table().unwrap().clone();
        sft.insert("seed".into(), 1.into());
        let sft: train::sft::Config = train::config::typed(sft).unwrap();
        let model = qwen3(sft.base.to_str().unwrap());
        let (width, ffn) = (model.hidden_size as u64, model.intermediate_size as u64);
        let (heads, groups) = (model.num_attention_heads as u64 * 128, 1024);
        let ends = [
            (width, heads),
            (width, groups),
            (width, groups),
            (heads, width),
            (width, ffn),
            (width, ffn),
            (ffn, width),
        ];
        let lora: u64 = ends.iter().map(|(n_in, n_out)| sft.lora.r as u64 * (n_in + n_out)).sum();
        let mut trained = model.num_hidden_layers as u64 * lora;
        let mut frozen = model.n_weights();
        let mut kept = 0;
        if let Some(reader) = ProteinConfig::reader(&sft.protein, model.num_hidden_layers) {
            let ends = bridge::Ends {
                encoder_size: 1536,
                llm_size: model.hidden_size,
                boundary_ids: [151_669, 151_671],
                placeholder_id: 151_670,
            };
            let bridge = bridge::Config { ends, reader };
            trained += bridge.n_weights();
            kept = 4 * 1024 * bridge.n_kept(); // four proteins of the greatest length
            frozen += ESM3_WEIGHTS;
        }
        let tokens = sft.pack_tokens.unwrap_or(1024) as u64;
        let memory = Memory::estimate(&model, frozen, trained, tokens, kept);
        let gib = (memory.total() as f64 / f64::from(1 << 30)).round();
        assert!(text.contains(&format!("# Memory: about {gib} GiB")), "{}: {memory}", path.display());
        n += 1;
    }
    assert_eq!(n, 6);
}
