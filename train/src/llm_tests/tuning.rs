//! What supervised fine-tuning and the alignment before it promise.

use super::*;

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
    let error =
        format!("{:#}", sft::run(&config, &tables, &dir.join("sft-base"), false, &Device::Cpu).unwrap_err());
    assert!(error.contains("has not learnt to end a turn") && error.contains("hint: "), "{error}");
    config.allow_base = true;
    sft::run(&config, &tables, &dir.join("sft-base"), false, &Device::Cpu).unwrap();
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
        sft::run(config, &tables, &dir.join(name), false, &Device::Cpu).unwrap();
        logged(&dir.join(name), "loss")[0]
    };
    assert_ne!(first_loss("sft-bridge", &with), first_loss("sft-fresh", &sft_config(1)));
    let ProteinConfig::Encoder { ref folder, mean, site, n_heads, hidden_size, .. } = with.protein else {
        unreachable!("the tests' bridge pools")
    };
    let protein =
        ProteinConfig::Encoder { folder: folder.clone(), n_queries: 3, mean, site, n_heads, hidden_size };
    let other = sft::Config { protein, ..with.clone() };
    let error =
        format!("{:#}", sft::run(&other, &tables, &dir.join("sft-other"), false, &Device::Cpu).unwrap_err());
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
        sft::run(&config, &tables, &dir.join(name), false, &Device::Cpu).unwrap();
        logged(&dir.join(name), "loss")
    };
    let [mixed, go, ppi] =
        [losses("mixed", None), losses("go-first", first("go")), losses("ppi-first", first("ppi"))];
    assert!(mixed[0] != go[0] && go[0] != ppi[0] && mixed[0] != ppi[0], "{mixed:?} {go:?} {ppi:?}");
    let config = sft::Config { first: first("disease"), ..sft_config(2) };
    let error =
        sft::run(&config, &tables, &dir.join("unknown-first"), false, &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("hint: name tasks of sft.data"), "{error}");
}

#[test]
fn with_patience_a_run_ends_early_and_keeps_its_best_model() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let run = |name: &str, steps: u64, patience, resume| {
        let config = sft::Config {
            patience,
            eval_every: 3,
            optim: optim(3e-2, &["base_model.*", "pool.*|proj.*|boundary.*"]),
            ..sft_config(steps)
        };
        sft::run(&config, &tables, &dir.join(name), resume, &Device::Cpu).unwrap();
        logged(&dir.join(name), "valid/loss")
    };
    let losses = run("patient", 60, Some(2), false);
    let least = losses.iter().position(|loss| losses.iter().all(|other| loss <= other)).unwrap();
    assert!(0 < least && least + 3 == losses.len() && losses.len() < 20, "{losses:?}");
    run("as-many-steps", 3 * least as u64, None, false);
    let model = |name: &str| {
        let files = walk(&dir.join(name).join("model"));
        files.iter().map(|file| fs_err::read(file).unwrap()).collect::<Vec<_>>()
    };
    assert!(model("patient") == model("as-many-steps"));
    // stopped on its way, and after its end
    run("patient-parts", 3 * (least as u64 + 1), Some(2), false);
    assert_eq!(run("patient-parts", 60, Some(2), true), losses);
    assert_eq!(run("patient-parts", 60, Some(2), true), losses);
    same(&dir.join("patient"), &dir.join("patient-parts"));
}

#[test]
fn embeddings_on_disk_change_no_byte_and_serve_the_next_stage() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let cached = |numbers| eval::embeddings::Config { folder: "../embeddings".into(), numbers };
    let sft = |name: &str, embeddings| {
        sft::run(&sft::Config { embeddings, ..sft_config(2) }, &tables, &dir.join(name), false, &Device::Cpu)
            .unwrap();
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

#[test]
fn packing_changes_the_order_of_sums_alone() {
    let (dir, tables) = (RUN.path(), RUN.path().join("tables"));
    let losses = |name: &str, pack_tokens| {
        let config = sft::Config { pack_tokens, ..sft_config(3) };
        sft::run(&config, &tables, &dir.join(name), false, &Device::Cpu).unwrap();
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
        sft::run(&config, &tables, &dir.join(name), false, &Device::Cpu).unwrap();
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
    let mut config = plddt_only(120);
    config.data.max_residues = 33;
    config.eval_answers = 4;
    config.optim.lr = 2e-2;
    sft::run(&config, &tables, &out, false, &Device::Cpu).unwrap();
    let losses = logged(&out, "loss");
    let last = losses[110..].iter().sum::<f64>() / 10.0;
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
    sft::run(&config, &tables, &out, false, &Device::Cpu).unwrap();
    let [rouge, bleu, exact] =
        ["rouge_l", "bleu", "exact"].map(|what| logged(&out, &format!("valid/{what}/function")));
    assert_eq!([rouge.len(), bleu.len(), exact.len()], [2; 3]);
    assert!(rouge.iter().zip(&exact).all(|(rouge, exact)| exact <= rouge && *rouge <= 1.0), "{rouge:?}");
    assert!(bleu.iter().all(|bleu| (0.0..=100.0).contains(bleu)), "{bleu:?}");
    // Answers that are no words have no such measures.
    assert!(logged(&dir.join("sft"), "valid/bleu/go").is_empty());
}
