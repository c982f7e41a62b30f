//! What a policy of any make promises: GRPO raises its reward, every bridge is heard, an export answers alike.

use super::*;

#[test]
fn grpo_raises_the_reward() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    // the policy has learnt that proteins are of one class or the other; now all are of one
    sft::run(&plddt_only(60), &tables, &dir.join("sft-plddt"), false, &Device::Cpu).unwrap();
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
    let error =
        format!("{:#}", sft::run(&config, &tables, &dir.join("sft-short"), false, &Device::Cpu).unwrap_err());
    assert!(error.contains("made for 14 residues") && error.contains("hint: "), "{error}");
    let text = fs_err::read_to_string(copy.join("config.json")).unwrap();
    let text = text.replace("\"max_position_embeddings\": 16", "\"max_position_embeddings\": 64");
    fs_err::write(copy.join("config.json"), text).unwrap();
    let out = dir.join("sft-esmc");
    sft::run(&config, &tables, &out, false, &Device::Cpu).unwrap();
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
    let flamingo = |max_residues, site| ProteinConfig::Flamingo {
        folder: folder(),
        n_latents: 3,
        n_layers: 1,
        n_heads: 2,
        head_dim: 6,
        every: 2,
        max_residues,
        site,
    };
    for (name, protein, groups) in [
        ("perceiver", perceiver, "resampler.*|boundary.*"),
        ("flamingo", flamingo(64, true), "resampler.*|cross.*|boundary.*|media_token.*"),
    ] {
        let (out, more) = (dir.join(format!("sft-{name}")), dir.join(format!("grpo-{name}")));
        let groups = ["base_model.*", groups];
        let config = sft::Config { protein, optim: optim(1e-2, &groups), ..sft_config(4) };
        sft::run(&config, &tables, &out, false, &Device::Cpu).unwrap();
        let losses = logged(&out, "valid/loss");
        assert!(losses.last() < losses.first(), "{name}: {losses:?}");
        let policy = format!("../sft-{name}/model").into();
        let config = grpo::Config { policy, optim: optim(5e-3, &groups), ..grpo_config(2) };
        grpo::run(&config, &tables, &more, false).unwrap();
    }
    let mut config = sft_config(1);
    config.data.max_residues = 60;
    config.protein = flamingo(50, false);
    let error = format!(
        "{:#}",
        sft::run(&config, &tables, &dir.join("sft-narrow"), false, &Device::Cpu).unwrap_err()
    );
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
