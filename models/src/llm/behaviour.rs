//! What the language model promises beyond its numbers.

use candle_core::{Device, IndexOp, Result, Tensor};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::llm::qwen3::Config;
use crate::llm::{LoraConfig, Modules, Prompts, Qwen3, Sampling, generate, score_completions};
use crate::ops;
use crate::tape::{Gradients, Tape, Var};
use crate::weights::Weights;

/// A generator for a weight's name.
pub(crate) fn named(name: &str) -> ChaCha8Rng {
    let hash = name.bytes().fold(7u64, |h, b| h.wrapping_mul(1_000_003) ^ u64::from(b));
    ChaCha8Rng::seed_from_u64(hash)
}

pub(crate) fn tiny_config(tied: bool) -> Config {
    Config {
        vocab_size: 61,
        hidden_size: 26,
        intermediate_size: 37,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        head_dim: 10,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        tie_word_embeddings: tied,
        eos_token_ids: vec![3],
    }
}

/// Fresh weights, spread out: at their natural 0.02 all answers would look alike.
pub(crate) fn tiny(tied: bool) -> Qwen3 {
    let model = Qwen3::new(tiny_config(tied), Weights::random(named)).unwrap();
    for param in model.params().iter().filter(|p| !p.name().contains("norm")) {
        param.update(|x| x.iter_mut().for_each(|x| *x *= 8.0)).unwrap();
    }
    model
}

pub(crate) fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(97)) % 61).collect()
}

fn padded(rows: &[Vec<u32>], width: usize) -> Result<Tensor> {
    let fill =
        |row: &Vec<u32>| row.iter().copied().chain(std::iter::repeat(0)).take(width).collect::<Vec<_>>();
    Tensor::new(rows.iter().map(fill).collect::<Vec<_>>(), &Device::Cpu)
}

fn lora(model: &Qwen3, targets: &[&str]) -> Qwen3 {
    let config = LoraConfig {
        target_modules: Modules::Named(targets.iter().map(|t| t.to_string()).collect()),
        r: 3,
        lora_alpha: 6.0,
        ..LoraConfig::default()
    };
    let model = model.with_lora(&config, Weights::random(named)).unwrap();
    for param in model.params().iter().filter(|p| p.name().contains("lora_B")) {
        param
            .update(|x| x.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32 * 0.7).sin() * 0.2))
            .unwrap();
    }
    model
}

/// Log-probabilities of each row's tokens after its first, in one padded batch.
fn trained_logprobs(model: &Qwen3, rows: &[Vec<u32>], padding: usize) -> Vec<Vec<f32>> {
    let width = rows.iter().map(Vec::len).max().unwrap() + padding;
    let tape = Tape::on();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    let embeds = model.embed(&tape, &padded(rows, width).unwrap()).unwrap();
    let hidden = model.hidden(&tape, &embeds, &lengths).unwrap();
    let places: Vec<usize> =
        (0..rows.len()).flat_map(|b| (0..lengths[b] - 1).map(move |t| b * width + t)).collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].iter().copied()).collect();
    let scores = model.token_logprobs(&tape, &hidden, &places, &targets, 0.8).unwrap();
    let mut scores = scores.logprobs.value().to_vec1::<f32>().unwrap().into_iter();
    rows.iter().map(|row| scores.by_ref().take(row.len() - 1).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    /// The law on which an importance ratio of exactly 1 rests.
    #[test]
    fn sampler_and_trainer_give_the_same_bits(
        samples in 1usize..4, max_new in 2usize..12, lengths in prop::collection::vec(1usize..40, 1..4), seed: u32, padding in 0usize..3
    ) {
        let model = lora(&tiny(seed % 2 == 0), &["k_proj", "down_proj"]);
        let prompts: Vec<Vec<u32>> = lengths.iter().map(|&n| tokens(seed, n)).collect();
        let width = lengths.iter().max().unwrap() + padding;
        let embeds = model.embed(&Tape::off(), &padded(&prompts, width).unwrap()).unwrap().value().clone();
        let sampling = Sampling::Random { temperature: 0.8, top_k: None, top_p: None };
        let rng = |i: usize| ChaCha8Rng::seed_from_u64(i as u64 ^ u64::from(seed));
        let batch = Prompts { embeds, lengths: lengths.clone(), media: None };
        let out = generate(&model, &batch, samples, max_new, sampling, &[3], rng).unwrap();
        let rows: Vec<Vec<u32>> =
            out.iter().enumerate().map(|(i, c)| [&prompts[i / samples][..], &c.tokens].concat()).collect();
        for (i, scored) in trained_logprobs(&model, &rows, padding).iter().enumerate() {
            let prompt = lengths[i / samples];
            prop_assert_eq!(&scored[prompt - 1..], &out[i].logprobs[..]);
        }
        // a batch gives what its members give alone
        for (i, row) in rows.iter().enumerate() {
            let alone = trained_logprobs(&model, std::slice::from_ref(row), 5);
            prop_assert_eq!(&alone[0], &trained_logprobs(&model, &rows, 0)[i]);
        }
        let alone = Prompts { embeds: batch.embeds.i(0..1).unwrap(), lengths: lengths[..1].to_vec(), media: None };
        let first = generate(&model, &alone, 1, max_new, sampling, &[3], rng).unwrap();
        prop_assert_eq!(&first[0], &out[0]);
    }
}

#[test]
fn a_completion_scores_the_sum_of_its_tokens() -> Result<()> {
    let model = tiny(true);
    let prompts = [tokens(1, 5), tokens(2, 9)];
    let embeds = model.embed(&Tape::off(), &padded(&prompts, 9)?)?.value().clone();
    let batch = Prompts { embeds, lengths: vec![5, 9], media: None };
    let completions = [(1, vec![4, 7, 9]), (0, vec![11]), (1, vec![]), (0, vec![2, 60])];
    let scores = score_completions(&model, &batch, &completions)?;
    for ((prompt, tokens), score) in completions.iter().zip(scores) {
        let row = [&prompts[*prompt][..], tokens].concat();
        let off = Tape::off();
        let hidden = model.hidden(
            &off,
            &model.embed(&off, &padded(std::slice::from_ref(&row), row.len())?)?,
            &[row.len()],
        )?;
        let places: Vec<usize> = (row.len() - tokens.len() - 1..row.len() - 1).collect();
        let alone =
            model.token_logprobs(&off, &hidden, &places, tokens, 1.0)?.logprobs.value().to_vec1::<f32>()?;
        assert_eq!(score, alone.iter().map(|&x| f64::from(x)).sum::<f64>());
    }
    Ok(())
}

fn loss(model: &Qwen3, rows: &[Vec<u32>]) -> Result<(f32, Gradients)> {
    let tape = Tape::on();
    let width = rows[0].len();
    let lengths = vec![width; rows.len()];
    let hidden = model.hidden(&tape, &model.embed(&tape, &padded(rows, width)?)?, &lengths)?;
    let places: Vec<usize> =
        (0..rows.len()).flat_map(|b| (0..width - 1).map(move |t| b * width + t)).collect();
    let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].iter().copied()).collect();
    let scores = model.token_logprobs(&tape, &hidden, &places, &targets, 1.0)?;
    let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
    let value = loss.value().to_scalar::<f32>()?;
    Ok((value, tape.backward(&loss)?))
}

pub(crate) fn assert_all_trained(model: &crate::param::Params, grads: &Gradients) {
    for param in model.trainable() {
        let Some(grad) = grads.params.get(&**param.name()) else {
            panic!("{} has no gradient", param.name())
        };
        let size = grad.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(size > 0.0 && size.is_finite(), "{}: gradient {size}", param.name());
    }
    assert_eq!(grads.params.len(), model.trainable().count());
}

#[test]
fn every_weight_learns() -> Result<()> {
    let rows = [tokens(1, 11), tokens(2, 11)];
    for tied in [true, false] {
        let model = tiny(tied);
        assert_all_trained(model.params(), &loss(&model, &rows)?.1);
        let adapted =
            lora(&model, &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
        assert_eq!(adapted.params().trainable().count(), 2 * 7 * 2);
        assert_all_trained(adapted.params(), &loss(&adapted, &rows)?.1);
    }
    Ok(())
}

#[test]
fn three_sequences_are_learnt_by_heart() -> Result<()> {
    let model = Qwen3::new(tiny_config(true), Weights::random(named))?;
    let rows = [tokens(1, 7), tokens(5, 7), tokens(9, 7)];
    let mut moments = std::collections::BTreeMap::new();
    let first = loss(&model, &rows)?.0;
    for step in 1..=60 {
        let (_, grads) = loss(&model, &rows)?;
        for param in model.params().trainable() {
            adam(param, &grads.params[&**param.name()], step, &mut moments)?;
        }
    }
    let last = loss(&model, &rows)?.0;
    assert!(first > 3.5 && last < 0.1, "{first} {last}");
    Ok(())
}

pub(crate) type Moments = std::collections::BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// Adam as written down (arXiv 1412.6980), lr 0.01.
pub(crate) fn adam(
    param: &crate::param::Param,
    grad: &Tensor,
    step: i32,
    moments: &mut Moments,
) -> Result<()> {
    let grad = grad.flatten_all()?.to_vec1::<f32>()?;
    let zero = || (vec![0.0; grad.len()], vec![0.0; grad.len()]);
    let (m, v) = moments.entry(param.name().to_string()).or_insert_with(zero);
    for (i, g) in grad.iter().enumerate() {
        m[i] = 0.9 * m[i] + 0.1 * g;
        v[i] = 0.999 * v[i] + 0.001 * g * g;
    }
    let (c1, c2) = (1.0 - 0.9_f32.powi(step), 1.0 - 0.999_f32.powi(step));
    let (m, v) = (&*m, &*v);
    param.update(|x| {
        for (i, x) in x.iter_mut().enumerate() {
            *x -= 0.01 * (m[i] / c1) / ((v[i] / c2).sqrt() + 1e-8);
        }
    })
}

#[test]
fn a_saved_model_is_the_same_model() -> Result<()> {
    let model = tiny(false);
    let folder = tempfile::tempdir()?;
    model.save(folder.path())?;
    let copy = Qwen3::load(folder.path())?;
    assert_eq!(copy.config(), model.config());
    let rows = [tokens(1, 7)];
    assert_eq!(trained_logprobs(&copy, &rows, 0), trained_logprobs(&model, &rows, 0));
    // sharded, as large checkpoints come
    let all = crate::weights::read_safetensors(&folder.path().join("model.safetensors"))?;
    fs_err::remove_file(folder.path().join("model.safetensors"))?;
    let half = all.values().map(|tensor| 4 * tensor.elem_count()).sum::<usize>() / 2;
    crate::llm::files::write_shards(folder.path(), all, half)?;
    let files = fs_err::read_dir(folder.path())?.map(|file| file.map(|file| file.path()));
    let files = files.collect::<std::io::Result<Vec<_>>>()?;
    let shard =
        files.iter().find(|file| file.to_string_lossy().contains("model-00002-of-")).expect("a second file");
    assert_eq!(trained_logprobs(&Qwen3::load(folder.path())?, &rows, 0), trained_logprobs(&model, &rows, 0));
    fs_err::remove_file(shard)?;
    let error = Qwen3::load(folder.path()).err().unwrap().to_string();
    assert!(error.contains("model-00002"), "{error}");
    Ok(())
}

#[test]
fn both_spellings_of_the_config_are_read() -> Result<()> {
    let four = tiny_config(true).to_json();
    assert_eq!(Config::from_json(&four)?, tiny_config(true));
    let mut five = four.clone();
    five["rope_theta"] = json!(null);
    five["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10000.0});
    five["layer_types"] = json!(["full_attention"]);
    assert_eq!(Config::from_json(&five)?, tiny_config(true));
    five["rope_parameters"]["rope_type"] = json!("yarn");
    assert!(Config::from_json(&five).unwrap_err().to_string().contains("yarn"));
    five["rope_parameters"] = json!(null);
    assert!(Config::from_json(&five).unwrap_err().to_string().contains("rope_theta"));
    Ok(())
}

#[test]
fn a_config_knows_how_many_weights_it_has() {
    for tied in [true, false] {
        let model = tiny(tied);
        assert_eq!(model.config().n_weights(), model.params().counts().0 as u64);
    }
    let sizes =
        |hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, tie_word_embeddings| {
            Config {
                vocab_size: 151_936,
                hidden_size,
                intermediate_size,
                num_hidden_layers,
                num_attention_heads,
                num_key_value_heads: 8,
                head_dim: 128,
                tie_word_embeddings,
                ..tiny_config(true)
            }
        };
    for (config, published) in [
        (sizes(1024, 3072, 28, 16, true), 596_049_920),
        (sizes(2560, 9728, 36, 32, true), 4_022_468_096),
        (sizes(4096, 12_288, 36, 32, false), 8_190_735_360),
        (sizes(5120, 17_408, 40, 40, false), 14_768_307_200),
    ] {
        assert_eq!(config.n_weights(), published);
    }
}

#[test]
fn an_adapter_must_fit() {
    let model = tiny(true);
    let config = |target: &str| LoraConfig {
        target_modules: [target].into(),
        r: 2,
        lora_alpha: 2.0,
        ..LoraConfig::default()
    };
    let error = model.with_lora(&config("kproj"), Weights::random(named)).err().unwrap().to_string();
    assert!(error.contains("kproj") && error.contains("self_attn.k_proj"), "{error}");
    let error = model.with_lora(&config("k_proj"), Weights::loaded([].into())).err().unwrap().to_string();
    assert!(error.contains("layers.1.self_attn.k_proj.lora_B.weight"), "{error}");
    let fresh = model.with_lora(&config("k_proj"), Weights::random(named)).unwrap();
    let rows = [tokens(3, 9)];
    assert_eq!(trained_logprobs(&fresh, &rows, 0), trained_logprobs(&model, &rows, 0));
    let off = Var::constant(Tensor::zeros((1, 2, 26), candle_core::DType::F32, &Device::Cpu).unwrap());
    assert!(model.hidden(&Tape::off(), &off, &[3]).is_err());
}

#[test]
fn dropout_hides_inputs_of_the_adapter_in_training_steps_only() -> Result<()> {
    for use_dora in [false, true] {
        let config = |lora_dropout| LoraConfig {
            target_modules: ["v_proj", "down_proj"].into(),
            r: 3,
            lora_alpha: 6.0,
            lora_dropout,
            use_dora,
            ..LoraConfig::default()
        };
        let plain = tiny(true).with_lora(&config(0.0), Weights::random(named))?;
        for param in plain.params().iter().filter(|p| p.name().contains("lora_B")) {
            param
                .update(|x| x.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32 * 0.7).sin() * 0.2))?;
        }
        let adapter = plain.params().snapshot()?.into_iter().filter(|(name, _)| name.contains("lora_"));
        let model = plain.with_lora(&config(0.3), Weights::loaded(adapter.collect()))?;
        let rows = [tokens(3, 9), tokens(4, 7)];
        let ids = padded(&rows, 9)?;
        let hidden = |model: &Qwen3, tape: &Tape| -> Result<Vec<f32>> {
            model
                .hidden(tape, &model.embed(tape, &ids)?, &[9, 7])?
                .value()
                .i((0, ..))?
                .flatten_all()?
                .to_vec1()
        };
        let step = |seed: u64| {
            let name = move |name: &str| ChaCha8Rng::seed_from_u64(seed ^ u64::from(named(name).next_u32()));
            hidden(&model, &Tape::on().with_draws(name))
        };
        assert_eq!(hidden(&model, &Tape::on())?, hidden(&plain, &Tape::off())?, "no draws, no dropout");
        assert_eq!(step(1)?, step(1)?);
        assert_ne!(step(1)?, step(2)?);
        // E[dropout(x)] = x: the mean over many steps is near the output without
        let want = hidden(&plain, &Tape::off())?;
        let mut mean = vec![0.0; want.len()];
        for seed in 0..400 {
            mean.iter_mut().zip(step(seed)?).for_each(|(sum, x)| *sum += x / 400.0);
        }
        let apart =
            |a: &[f32]| a.iter().zip(&want).map(|(a, b)| (a - b).abs()).sum::<f32>() / want.len() as f32;
        assert!(apart(&mean) < 0.3 * apart(&step(1)?), "{} {}", apart(&mean), apart(&step(1)?));
    }
    Ok(())
}
