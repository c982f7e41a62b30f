//! Numbers of transformers' ESM-2 and of a torch bridge, on random tiny models; see `../shared/fixtures`.

use std::collections::BTreeMap;

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::llm::bridge::{self, Bridge};
use crate::llm::encoder::{self, Esm2};
use crate::llm::parity::{difference, fixtures, ids, to_the_front};
use crate::llm::protein_llm::{ProteinLlm, Residues, Rows};
use crate::llm::{LoraConfig, ProteinPath, Qwen3, Sampling, generate, score_completions};
use crate::ops;
use crate::tape::Tape;
use crate::weights::{Weights, read_safetensors};

#[test]
fn esm2_gives_the_numbers_of_transformers() -> Result<()> {
    let Some(fixtures) = fixtures() else { return Ok(()) };
    let folder = fixtures.join("esm2_tiny");
    let encoder = Esm2::load(&folder)?;
    let want = read_safetensors(&folder.join("ref.safetensors"))?;
    let off = Tape::off();
    let mut worst = 0.0_f32;
    for i in 0..4 {
        let tokens = ids(&want, &format!("seq{i}.ids"));
        let n = tokens.dim(0)?;
        let hidden = encoder.hidden(&off, &tokens.unsqueeze(0)?, &[n])?;
        worst = worst.max(difference(&hidden.value().i(0)?, &want[&format!("seq{i}.last_hidden_state")]));
        let logits = encoder.masked_logits(&off, &hidden, &(0..n).collect::<Vec<_>>())?;
        worst = worst.max(difference(logits.value(), &want[&format!("seq{i}.logits")]));
    }
    let hidden = encoder.hidden(&off, &ids(&want, "batch.ids"), &[12, 22])?;
    for (row, n) in [(0, 12), (1, 22)] {
        worst = worst
            .max(difference(&hidden.value().i((row, ..n))?, &want["batch.last_hidden_state"].i((row, ..n))?));
    }
    println!("esm2_tiny: largest difference {worst:e}");
    assert!(worst < 1e-4, "{worst}");
    assert_eq!(encoder::encode("MKTLLVAGRW"), ids(&want, "seq0.ids").to_vec1::<u32>()?);
    assert_eq!(encoder::encode("ACDEFGHIKLMNPQRSTVWY"), ids(&want, "seq1.ids").to_vec1::<u32>()?);
    assert_eq!(encoder::encode("MXBUZO"), ids(&want, "seq2.ids").to_vec1::<u32>()?);
    Ok(())
}

/// The weights from which the reference computed its loss. Its script saved them after the optimiser's step (`param.*` is
/// `after.*`), but the first step of AdamW can be taken back: after = (1 − lr · wd) · before − lr · g / (|g| + eps).
fn before_the_step(name: &str, want: &BTreeMap<String, Tensor>) -> Result<Tensor> {
    let (after, grad) = (&want[&format!("after.{name}")], &want[&format!("grad.{name}")]);
    assert_eq!(difference(after, &want[&format!("param.{name}")]), 0.0);
    let (lr, decay) = if name.contains("lora_") { (2e-3, 0.01) } else { (2e-2, 0.0) };
    let (after, grad) = (after.to_dtype(DType::F64)?, grad.to_dtype(DType::F64)?);
    let step = ((&grad / (grad.abs()? + 1e-8)?)? * lr)?;
    ((after + step)? / (1.0 - lr * decay))?.to_dtype(DType::F32)
}

/// Three prompts with one protein each; residue vectors are given, so the model has no use for its encoder.
struct Fixture {
    model: ProteinLlm,
    residues: Residues,
    want: BTreeMap<String, Tensor>,
}

impl Fixture {
    fn load() -> Result<Option<Self>> {
        let Some(fixtures) = fixtures() else { return Ok(None) };
        let want = read_safetensors(&fixtures.join("bridge.safetensors"))?;
        let base = Qwen3::load(&fixtures.join("qwen3_tiny_tied"))?;
        let trained = want.keys().filter_map(|name| name.strip_prefix("after."));
        let start: BTreeMap<String, Tensor> = trained
            .map(|name| Ok((name.to_string(), before_the_step(name, &want)?)))
            .collect::<Result<_>>()?;
        let part = |lora: bool| {
            let wanted = start.iter().filter(|(name, _)| name.contains("lora_") == lora);
            wanted.map(|(name, tensor)| (name.clone(), tensor.clone())).collect::<BTreeMap<_, _>>()
        };
        let lora = LoraConfig {
            target_modules: ["k_proj", "v_proj"].into(),
            r: 4,
            lora_alpha: 8.0,
            ..LoraConfig::default()
        };
        let llm = base.with_lora(&lora, Weights::loaded(part(true)))?;
        let table = base.embedding().value();
        let mut tensors = part(false);
        // the reference leaves the boundary tokens as they are
        tensors.insert("boundary.weight".into(), Tensor::stack(&[table.i(493)?, table.i(495)?], 0)?);
        let config = bridge::Config {
            ends: bridge::Ends {
                encoder_size: 32,
                llm_size: 64,
                boundary_ids: [493, 495],
                placeholder_id: 494,
            },
            reader: bridge::Reader::Pool(bridge::PoolConfig {
                n_queries: 5,
                mean: false,
                site: false,
                n_heads: 4,
                hidden_size: 48,
            }),
        };
        let bridge = Bridge::new(config, Weights::loaded(tensors), table)?;
        let encoder = encoder::Config {
            hidden_size: 32,
            num_hidden_layers: 1,
            num_attention_heads: 4,
            intermediate_size: 8,
            max_position_embeddings: 16,
            layer_norm_eps: 1e-5,
            token_dropout: false,
        };
        let encoder = Esm2::new(encoder, Weights::random(crate::llm::behaviour::named))?;
        let model = ProteinLlm::new(llm, Some(ProteinPath { encoder: encoder.into(), bridge }))?;
        let vectors = want["residues"].clone();
        Ok(Some(Self {
            model,
            residues: Residues {
                vectors,
                lengths: vec![14, 6, 1],
                sites: vec![None; 3],
                rows: vec![0, 1, 2],
            },
            want,
        }))
    }

    fn prompts(&self) -> Result<Rows> {
        let (ids, _, lengths) =
            to_the_front(&ids(&self.want, "gen.prompt_ids"), &self.want["gen.attention_mask"])?;
        Ok(Rows::new(ids, lengths))
    }
}

#[test]
fn a_bridge_gives_the_loss_and_every_gradient_of_torch() -> Result<()> {
    let Some(Fixture { model, residues, want }) = Fixture::load()? else { return Ok(()) };
    let path = model.protein.as_ref().unwrap();
    let vectors = path.bridge.forward(
        &Tape::off(),
        &residues.vectors.clone().into(),
        &residues.lengths,
        &residues.sites,
    )?;
    let mut worst = difference(vectors.value(), &want["pooled_projected"]);

    let lengths: Vec<usize> = want["right.attention_mask"]
        .to_dtype(DType::F32)?
        .sum(1)?
        .to_vec1::<f32>()?
        .iter()
        .map(|&n| n as usize)
        .collect();
    let rows = Rows::new(ids(&want, "right.input_ids"), lengths);
    let labelled: Vec<bool> =
        want["right.labels"].flatten_all()?.to_vec1::<i64>()?.iter().map(|&l| l != -100).collect();
    let tape = Tape::on();
    let (scores, places) = model.token_logprobs(&tape, &rows, Some(&residues), &labelled, 1.0)?;
    let logprobs = want["right.token_logprobs"].to_vec2::<f32>()?;
    for (&at, got) in places.iter().zip(scores.logprobs.value().to_vec1::<f32>()?) {
        worst = worst.max((got - logprobs[at / 44][at % 44 - 1]).abs());
    }
    let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
    worst = worst.max(difference(loss.value(), &want["right.loss"]));
    let grads = tape.backward(&loss)?;
    let mut worst_gradient = 0.0_f32;
    for (name, grad) in &grads.params {
        if name != "boundary.weight" {
            worst_gradient = worst_gradient.max(difference(grad, &want[&format!("grad.{name}")]));
        }
    }
    println!("bridge: largest difference {worst:e}, of a gradient {worst_gradient:e}");
    assert!(worst < 1e-4 && worst_gradient < 1e-4, "{worst} {worst_gradient}");
    assert_eq!(grads.params.len() - 1, want.keys().filter(|key| key.starts_with("grad.")).count());
    Ok(())
}

#[test]
fn proteins_generate_the_tokens_of_transformers() -> Result<()> {
    let Some(fixture) = Fixture::load()? else { return Ok(()) };
    let prompts = fixture.model.prompts(&fixture.prompts()?, Some(&fixture.residues))?;
    let rng = |i: usize| ChaCha8Rng::seed_from_u64(i as u64);
    let out = generate(&fixture.model.llm, &prompts, 1, 12, Sampling::Greedy, &[469], rng)?;
    let want = ids(&fixture.want, "gen.greedy_new_tokens").to_vec2::<u32>()?;
    for (got, want) in out.iter().zip(&want) {
        assert_eq!(got.tokens, want[..got.tokens.len()]);
        assert!(got.stopped || got.tokens.len() == want.len());
    }
    Ok(())
}

#[test]
fn yes_and_no_score_as_in_transformers() -> Result<()> {
    let Some(fixture) = Fixture::load()? else { return Ok(()) };
    let Some(folder) = fixtures() else { return Ok(()) };
    let forms = crate::llm::files::read_json(&folder.join("bridge.json"))?;
    let prompts = fixture.model.prompts(&fixture.prompts()?, Some(&fixture.residues))?;
    let (mut completions, mut want) = (vec![], vec![]);
    for form in forms["yes_no"].as_object().unwrap().values() {
        let tokens: Vec<u32> = serde_json::from_value(form["token_ids"].clone()).unwrap();
        let values: Vec<f64> = serde_json::from_value(form["loglik_per_prompt"].clone()).unwrap();
        for (prompt, value) in values.into_iter().enumerate() {
            completions.push((prompt, tokens.clone()));
            want.push(value);
        }
    }
    let got = score_completions(&fixture.model.llm, &prompts, &completions)?;
    let worst = got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max);
    println!("yes/no: largest difference {worst:e}");
    assert!(worst < 1e-4, "{worst}");
    Ok(())
}

#[test]
fn placeholders_and_proteins_must_agree() -> Result<()> {
    let Some(mut fixture) = Fixture::load()? else { return Ok(()) };
    let rows = fixture.prompts()?;
    let error = |fixture: &Fixture, residues: Option<&Residues>| {
        fixture.model.embed(&Tape::off(), &rows, residues).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(error(&fixture, None).contains("row 0: 5 placeholders, 0 proteins"));
    fixture.residues.rows = vec![0, 0, 1];
    assert!(error(&fixture, Some(&fixture.residues)).contains("row 0: 5 placeholders, 2 proteins"));
    fixture.residues.rows = vec![1, 0, 2];
    assert!(error(&fixture, Some(&fixture.residues)).contains("ascending"));
    let text = ProteinLlm::new(fixture.model.llm.clone(), None)?;
    assert!(text.embed(&Tape::off(), &rows, Some(&fixture.residues)).is_err());
    let ids = Tensor::zeros((1, 3), DType::U32, &Device::Cpu)?;
    let proteins = crate::llm::Proteins { ids, lengths: vec![2], rows: vec![0] };
    assert!(fixture.model.encode(&proteins).unwrap_err().to_string().contains("no residues"));
    assert!(text.encode(&proteins).unwrap_err().to_string().contains("hint"));
    Ok(())
}
