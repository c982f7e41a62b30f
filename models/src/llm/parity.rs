//! Numbers of the reference implementations (transformers, PEFT) on random tiny models; see `../shared/fixtures`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, IndexOp, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::llm::behaviour::named;
use crate::llm::{
    Layers, LogitDifference, LoraConfig, Modules, Prompts, Qwen3, Sampling, distribution, generate,
};
use crate::ops::{KeyMask, Sees};
use crate::tape::{Tape, Var};
use crate::weights::{Weights, read_safetensors};

/// The fixtures' folder, where this machine has it.
pub(crate) fn fixtures() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("PEPTALK_SHARED").map_or_else(beside, PathBuf::from).join("fixtures");
    if !folder.exists() {
        eprintln!("skipped: needs ../shared/fixtures");
        return None;
    }
    Some(folder)
}

pub(crate) fn difference(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let apart = (got.to_dtype(DType::F32).unwrap() - want.to_dtype(DType::F32).unwrap()).unwrap();
    apart.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn logits(model: &Qwen3, ids: &Tensor) -> Result<Tensor> {
    let off = Tape::off();
    let (b, t) = ids.dims2()?;
    let hidden = model.hidden(&off, &model.embed(&off, ids)?, &vec![t; b])?;
    Ok(model.logits(&off, &hidden)?.value().clone())
}

/// Moves each row's real tokens (mask 1) to the front.
pub(crate) fn to_the_front(ids: &Tensor, mask: &Tensor) -> Result<(Tensor, Vec<usize>, Vec<usize>)> {
    let (ids, mask) = (ids.to_vec2::<u32>()?, mask.to_dtype(DType::U32)?.to_vec2::<u32>()?);
    let (mut starts, mut lengths, mut rows) = (vec![], vec![], vec![]);
    for (ids, mask) in ids.iter().zip(&mask) {
        let start = mask.iter().position(|&m| m == 1).unwrap();
        let length = mask.iter().sum::<u32>() as usize;
        let mut row = vec![0; ids.len()];
        row[..length].copy_from_slice(&ids[start..start + length]);
        starts.push(start);
        lengths.push(length);
        rows.push(row);
    }
    Ok((Tensor::new(rows, &candle_core::Device::Cpu)?, starts, lengths))
}

pub(crate) fn ids(tensors: &BTreeMap<String, Tensor>, name: &str) -> Tensor {
    tensors[name].to_dtype(DType::U32).unwrap()
}

fn check_batch(model: &Qwen3, want: &BTreeMap<String, Tensor>, side: &str, positions: &str) -> Result<f32> {
    let (ids, starts, lengths) =
        to_the_front(&ids(want, &format!("{side}.input_ids")), &want[&format!("{side}.attention_mask")])?;
    let (b, t) = ids.dims2()?;
    // transformers counts positions either from the first real token or from the start of the padding
    let first = |row: usize| if positions == "arangepos" { starts[row] } else { 0 };
    let places: Vec<u32> = (0..b)
        .flat_map(|row| (0..t).map(move |i| (row, i)))
        .map(|(row, i)| (first(row) + i) as u32)
        .collect();
    let off = Tape::off();
    let mask = KeyMask { lengths: lengths.clone(), sees: Sees::Causal };
    let hidden = model.hidden_at(&off, &model.embed(&off, &ids)?, &mask, &places, None)?;
    let got = model.logits(&off, &hidden)?;
    let mut worst = 0.0_f32;
    for row in 0..b {
        let want =
            want[&format!("{side}.logits_{positions}")].i((row, starts[row]..starts[row] + lengths[row]))?;
        worst = worst.max(difference(&got.value().i((row, ..lengths[row]))?, &want));
    }
    Ok(worst)
}

#[test]
fn qwen3_gives_the_logits_of_transformers() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    for name in ["qwen3_tiny_tied", "qwen3_tiny_untied"] {
        let model = Qwen3::load(&fixtures.join(name))?;
        let want = read_safetensors(&fixtures.join(format!("{name}.ref.safetensors")))?;
        let single = ids(&want, "single.input_ids");
        let mut worst = difference(&logits(&model, &single)?, &want["single.logits"]);
        for side in ["left", "right"] {
            for positions in ["maskpos", "arangepos"] {
                worst = worst.max(check_batch(&model, &want, side, positions)?);
            }
        }
        // protein vectors in place of the placeholders
        let with_proteins = ids(&want, "embeds.input_ids");
        let off = Tape::off();
        let embeds = model.embed(&off, &with_proteins)?.value().squeeze(0)?;
        let row = with_proteins.i(0)?.to_vec1::<u32>()?;
        let places: Vec<usize> = (0..row.len()).filter(|&i| row[i] == 494).collect();
        let new = Var::constant(want["embeds.protein"].squeeze(0)?);
        let embeds = crate::ops::replace_rows(&off, &Var::constant(embeds), &places, &new)?;
        let hidden = model.hidden(&off, &Var::constant(embeds.value().unsqueeze(0)?), &[row.len()])?;
        worst = worst.max(difference(model.logits(&off, &hidden)?.value(), &want["embeds.logits"]));
        // log-probabilities of the next tokens, without logits of the whole
        let hidden = model.hidden(&off, &model.embed(&off, &single)?, &[17])?;
        let targets = single.i(0)?.to_vec1::<u32>()?;
        let rows: Vec<usize> = (0..16).collect();
        let scores = model.token_logprobs(&off, &hidden, &rows, &targets[1..], 1.0)?;
        worst = worst.max(difference(scores.logprobs.value(), &want["single.token_logprobs"].i(0)?));
        println!("{name}: largest difference {worst:e}");
        assert!(worst < 1e-4, "{name}: {worst}");
    }
    Ok(())
}

#[test]
fn greedy_tokens_are_those_of_transformers() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    for name in ["qwen3_tiny_tied", "qwen3_tiny_untied"] {
        let model = Qwen3::load(&fixtures.join(name))?;
        let want = read_safetensors(&fixtures.join(format!("{name}.ref.safetensors")))?;
        let (ids_front, _, lengths) =
            to_the_front(&ids(&want, "left.input_ids"), &want["left.attention_mask"])?;
        let embeds = model.embed(&Tape::off(), &ids_front)?.value().clone();
        let prompts = Prompts { embeds, lengths, media: None };
        let rng = |i: usize| ChaCha8Rng::seed_from_u64(i as u64);
        let out = generate(&model, &prompts, 1, 24, Sampling::Greedy, &[], rng)?;
        let sequences = ids(&want, "greedy.sequences").to_vec2::<u32>()?;
        for (got, want) in out.iter().zip(&sequences) {
            assert_eq!(got.tokens, want[17..], "{name}");
        }
        let stop = ids(&want, "greedy_eos.eos_id").to_vec1::<u32>()?;
        let out = generate(&model, &prompts, 1, 24, Sampling::Greedy, &stop, rng)?;
        let sequences = ids(&want, "greedy_eos.sequences").to_vec2::<u32>()?;
        for (got, want) in out.iter().zip(&sequences) {
            assert_eq!(got.tokens, want[17..17 + got.tokens.len()], "{name}");
            assert_eq!(got.stopped, got.tokens.len() < 24 || got.tokens.ends_with(&stop));
            assert!(want[17 + got.tokens.len()..].iter().all(|&id| id == 467), "padding after the stop");
        }
    }
    Ok(())
}

#[test]
fn sampling_probabilities_are_those_of_transformers() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    let want = read_safetensors(&fixtures.join("qwen3_tiny_tied.ref.safetensors"))?;
    let sampling = Sampling::Random { temperature: 0.6, top_k: Some(20), top_p: Some(0.95) };
    for row in 0..3 {
        let got = distribution(&want["warp.logits"].i(row)?.to_vec1::<f32>()?, sampling);
        let want = want["warp.t0.6_k20_p0.95_probs"].i(row)?.to_vec1::<f32>()?;
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
            assert_eq!(*got == 0.0, *want == 0.0);
        }
    }
    Ok(())
}

#[test]
fn adapters_give_the_logits_of_peft() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    let base = Qwen3::load(&fixtures.join("qwen3_tiny_tied"))?;
    let want = read_safetensors(&fixtures.join("adapters.ref.safetensors"))?;
    let input = ids(&want, "input_ids");
    for name in ["lora_kv_r4", "lora_all_r8_rs_pat", "dora_kv_r4"] {
        let folder = fixtures.join("adapters").join(name);
        let (model, config) = base.load_lora(&folder)?;
        let apart = [
            difference(&logits(&model, &input)?, &want[&format!("{name}.logits")]),
            difference(&logits(&model.merged()?, &input)?, &want[&format!("{name}.logits_merged")]),
            difference(&logits(&base.without_lora()?, &input)?, &want[&format!("{name}.logits_disabled")]),
        ];
        println!("{name}: with {:e}, merged {:e}, without {:e}", apart[0], apart[1], apart[2]);
        assert!(apart.iter().all(|&d| d < 1e-4), "{name}: {apart:?}");

        // out again: the same tensors under the same names
        let copy = tempfile::tempdir()?;
        model.save_lora(copy.path(), &config, "qwen3_tiny_tied")?;
        let file = "adapter_model.safetensors";
        let (wrote, read) =
            (read_safetensors(&copy.path().join(file))?, read_safetensors(&folder.join(file))?);
        for (key, tensor) in &wrote {
            assert_eq!(difference(tensor, &read[key]), 0.0, "{key}");
        }
        assert_eq!(wrote.len(), read.len());
        assert_eq!(base.load_lora(copy.path())?.1, config);
    }
    let adapted = base.load_lora(&fixtures.join("adapters/lora_kv_r4"))?.0;
    let merged = adapted.merged()?;
    let probes = [vec![37, 5, 493, 84], vec![3; 9]];
    let change = adapted.logit_difference(&merged, &probes)?;
    println!("merged: logits differ by {change:?}");
    assert!(change.largest > 0.0 && change.largest < 1e-4 && change.mean < change.largest);
    assert_eq!(adapted.logit_difference(&adapted, &probes)?, LogitDifference::default());
    assert!(adapted.logit_difference(&base, &probes)?.largest > 0.1);
    let key = "model.layers.0.self_attn.k_proj.weight";
    let apart =
        difference(merged.params().get(key).unwrap().value(), &want[&format!("lora_kv_r4.merged.{key}")]);
    assert!(apart < 1e-6, "{apart}");
    Ok(())
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// Regular expressions for modules, excluded ones, patterns of ranks, DoRA with rsLoRA and dropout; and the fixture's rows
/// of the embedding, whose own reference logits were made on a table that its script had disturbed and did not save.
#[test]
fn patterns_and_token_rows_give_the_logits_of_peft() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    let base = Qwen3::load(&fixtures.join("qwen3_tiny_tied"))?;
    let want = read_safetensors(&golden("adapters/ref.safetensors"))?;
    let input = ids(&want, "ids");
    for (name, folder) in
        [("patterns", golden("adapters/patterns")), ("tokens", fixtures.join("adapters/lora_kv_r4_tokens"))]
    {
        let (model, config) = base.load_lora(&folder)?;
        for model in [model.merged()?, model.clone()] {
            let got = logits(&model, &input)?.i((0, 5..8))?;
            let apart = difference(&got, &want[name]);
            println!("{name}: {apart:e}");
            assert!(apart < 1e-4, "{name}: {apart}");
        }
        let copy = tempfile::tempdir()?;
        model.save_lora(copy.path(), &config, "qwen3_tiny_tied")?;
        assert_eq!(base.load_lora(copy.path())?.1, config);
    }
    Ok(())
}

/// PEFT itself reads what is written here.
#[test]
#[ignore = "slow: 20 s; needs ../shared/fixtures and a python3 (or PEPTALK_PYTHON) with peft"]
fn peft_reads_our_adapters() -> Result<()> {
    let fixtures = fixtures().expect("../shared/fixtures");
    let base = Qwen3::load(&fixtures.join("qwen3_tiny_tied"))?;
    let config = LoraConfig {
        target_modules: Modules::Matching(r".*\.(q|v|up)_proj".into()),
        r: 3,
        lora_alpha: 5.0,
        lora_dropout: 0.1,
        use_rslora: true,
        use_dora: true,
        rank_pattern: [("up_proj".to_owned(), 2)].into(),
        alpha_pattern: [("(q|k)_proj".to_owned(), 3.0)].into(),
        layers_to_transform: Layers::All,
        exclude_modules: Modules::Matching(r".*\.1\..*q_proj".into()),
    };
    let model = base.with_lora(&config, Weights::random(named))?;
    for param in model.params().iter().filter(|p| p.name().contains("lora_")) {
        param.update(|x| x.iter_mut().enumerate().for_each(|(i, x)| *x += (i as f32 * 0.7).sin() * 0.2))?;
    }
    let folder = tempfile::tempdir()?;
    model.save_lora(folder.path(), &config, "qwen3_tiny_tied")?;
    let python = std::env::var_os("PEPTALK_PYTHON").unwrap_or_else(|| "python3".into());
    let status = std::process::Command::new(python)
        .arg(golden("read_adapter.py"))
        .args([fixtures.join("qwen3_tiny_tied"), folder.path().to_owned()])
        .status()?;
    assert!(status.success());
    let want = read_safetensors(&folder.path().join("logits.safetensors"))?;
    let apart = difference(&logits(&model, &ids(&want, "ids"))?, &want["logits"]);
    println!("PEFT on our adapter: {apart:e}");
    assert!(apart < 1e-4, "{apart}");
    Ok(())
}

#[test]
fn token_rows_of_an_adapter_replace_those_of_the_embedding() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    let base = Qwen3::load(&fixtures.join("qwen3_tiny_tied"))?;
    let folder = fixtures.join("adapters/lora_kv_r4_tokens");
    let rows = read_safetensors(&folder.join("adapter_model.safetensors"))?;
    let rows = &rows["base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"];
    let model = base.load_lora(&folder)?.0;
    let (old, new) = (base.embedding().value(), model.embedding().value());
    for id in 0..512 {
        let want = match id {
            493 => rows.i(0)?,
            495 => rows.i(1)?,
            _ => old.i(id)?,
        };
        assert_eq!(difference(&new.i(id)?, &want), 0.0);
    }
    let input = Tensor::new(&[[37u32, 493, 84, 495, 3]], new.device())?;
    assert!(difference(&logits(&model, &input)?, &logits(&base, &input)?) > 0.1);
    Ok(())
}
