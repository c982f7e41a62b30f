//! Every op on the GPU against the CPU in f64: values and all gradients, relative to their norm. One test, so that a
//! single run on a rare machine says everything: `cargo test --release -p models --features cuda gpu -- --nocapture`.

use candle_core::{DType, Device, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::device;
use crate::llm::behaviour::{named, tiny_config, tokens};
use crate::llm::{LoraConfig, Prompts, Qwen3, Sampling, generate};
use crate::ops::{self, AdamWRule, AdamWUpdate, KeyMask, RopeTable, Sees};
use crate::param::Params;
use crate::tape::{Gradients, Tape, Var};
use crate::weights::Weights;

/// Largest ‖GPU − CPU‖ / ‖CPU‖ with exact products.
const EXACT: f64 = 5e-6;
/// The same with factors rounded to TF32.
const ROUNDED: f64 = 3e-3;

/// What was compared, and whether it was near enough.
struct Report {
    gpu: Device,
    failed: Vec<String>,
}

impl Report {
    fn say(&mut self, what: &str, errors: Result<Vec<f64>>, limit: f64) {
        let (text, fine) = match errors {
            Ok(errors) => {
                let text = errors.iter().map(|e| format!("{e:.1e}")).collect::<Vec<_>>().join(" ");
                (text, errors.iter().all(|&e| e <= limit))
            }
            Err(error) => (error.to_string(), false),
        };
        println!("{} {what}: {text}", if fine { "ok  " } else { "FAIL" });
        if !fine {
            self.failed.push(what.to_owned());
        }
    }

    /// Compares the value of `f` and its gradient with respect to every input.
    fn op(&mut self, what: &str, shapes: &[&[usize]], f: impl Fn(&Tape, &[Var]) -> Result<Var>) {
        let inputs: Vec<Tensor> = shapes.iter().zip(0..).map(|(shape, seed)| normal(shape, seed)).collect();
        let run = |device: &Device, dtype: DType| -> Result<Vec<Option<Tensor>>> {
            let tape = Tape::on();
            let place = |x: &Tensor| Ok(tape.input(x.to_dtype(dtype)?.to_device(device)?));
            let vars = inputs.iter().map(place).collect::<Result<Vec<Var>>>()?;
            let out = f(&tape, &vars)?;
            let seed = normal(out.value().dims(), 99).to_dtype(dtype)?.to_device(device)?;
            let value = out.value().clone();
            let gradients = tape.backward_from(&[(&out, seed)])?;
            let found = vars.iter().map(|var| gradients.input(var).cloned());
            Ok(std::iter::once(Some(value)).chain(found).collect())
        };
        let errors = || {
            let (cpu, gpu) = (run(&Device::Cpu, DType::F64)?, run(&self.gpu.clone(), DType::F32)?);
            cpu.iter().zip(&gpu).map(|(want, got)| distance(want.as_ref(), got.as_ref())).collect()
        };
        let errors = errors();
        let limit = if candle_core::cuda::gemm_reduced_precision_f32() { ROUNDED } else { EXACT };
        self.say(what, errors, limit);
    }

    fn end(self) {
        assert!(self.failed.is_empty(), "{} differ: {:?}", self.failed.len(), self.failed);
    }
}

/// ‖got − want‖ / ‖want‖; infinite when only one is there.
fn distance(want: Option<&Tensor>, got: Option<&Tensor>) -> Result<f64> {
    let numbers =
        |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    match (want, got) {
        (None, None) => Ok(0.0),
        (Some(want), Some(got)) if want.dims() == got.dims() => {
            let (want, got) = (numbers(want)?, numbers(got)?);
            let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
            let apart = norm(&mut want.iter().zip(&got).map(|(w, g)| w - g));
            Ok(apart / norm(&mut want.iter().copied()).max(1e-30))
        }
        _ => Ok(f64::INFINITY),
    }
}

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let n = shape.iter().product();
    let numbers: Vec<f32> = StandardNormal.sample_iter(rng).take(n).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

/// The GPU, or a line that says what is missing.
fn gpu() -> Option<Device> {
    device::cuda().map_err(|error| eprintln!("skipped: {error}")).ok()
}

fn ids(numbers: &[u32], shape: &[usize]) -> Tensor {
    Tensor::from_vec(numbers.to_vec(), shape, &Device::Cpu).unwrap()
}

#[test]
fn gpu_ops_are_those_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let mut report = Report { gpu, failed: vec![] };
    products(&mut report);
    elementwise(&mut report);
    rows(&mut report);
    attention(&mut report);
    logprobs(&mut report);
    tape(&mut report);
    optimiser(&mut report);
    device::allow_tf32(true);
    println!("--- TF32");
    products(&mut report);
    attention(&mut report);
    device::allow_tf32(false);
    models(&mut report);
    generation(&mut report);
    protein(&mut report);
    other(&mut report);
    report.end();
}

fn products(r: &mut Report) {
    for [rows, n_in, n_out] in [[1, 1, 1], [37, 70, 51], [129, 128, 256]] {
        let name = |op: &str| format!("{op} {rows} {n_in} {n_out}");
        let (x, w) = ([3, rows, n_in], [n_out, n_in]);
        r.op(&name("linear"), &[&x, &w], |t, v| ops::linear(t, &v[0], &v[1], None));
        r.op(&name("linear + bias"), &[&x, &w, &[n_out]], |t, v| ops::linear(t, &v[0], &v[1], Some(&v[2])));
        r.op(&name("lora_linear"), &[&x, &w, &[8, n_in], &[n_out, 8]], |t, v| {
            ops::lora_linear(t, &v[0], v[1].value(), &v[2], &v[3], 0.3)
        });
    }
}

fn elementwise(r: &mut Report) {
    let shape: &[usize] = &[3, 41, 7];
    for (name, f) in [
        ("gelu", ops::gelu as fn(&Tape, &Var) -> Result<Var>),
        ("silu", ops::silu),
        ("relu", ops::relu),
        ("tanh", ops::tanh),
        ("sigmoid", ops::sigmoid),
        ("sum", ops::sum),
        ("mean", ops::mean),
    ] {
        r.op(name, &[shape], |t, v| f(t, &v[0]));
    }
    let two = &[shape, shape];
    r.op("swiglu", two, |t, v| ops::swiglu(t, &v[0], &v[1]));
    r.op("add", two, |t, v| ops::add(t, &v[0], &v[1]));
    r.op("sub", two, |t, v| ops::sub(t, &v[0], &v[1]));
    r.op("mul", two, |t, v| ops::mul(t, &v[0], &v[1]));
    r.op("scale", &[shape], |t, v| ops::scale(t, &v[0], -0.3));
    r.op("scale_by", &[shape, &[1]], |t, v| ops::scale_by(t, &v[0], &v[1]));
    r.op("reshape", &[shape], |t, v| ops::reshape(t, &v[0], (7, 123)));
    r.op("permute", &[shape], |t, v| ops::permute(t, &v[0], &[2, 0, 1]));
    r.op("narrow", &[shape], |t, v| ops::narrow(t, &v[0], 1, 5, 30));
    r.op("cat", two, |t, v| ops::cat(t, &[&v[0], &v[1], &v[0]], 1));
    r.op("dropout", &[shape], |t, v| ops::dropout(t, &v[0], 0.4, Some(&mut named("mask"))));
    for width in [37, 128, 1000] {
        let x = [3, 17, width];
        let w = [width];
        r.op(&format!("rms_norm {width}"), &[&x, &w], |t, v| ops::rms_norm(t, &v[0], &v[1], 1e-6));
        r.op(&format!("layer_norm {width}"), &[&x, &w], |t, v| ops::layer_norm(t, &v[0], &v[1], None, 1e-5));
        r.op(&format!("layer_norm + bias {width}"), &[&x, &w, &w], |t, v| {
            ops::layer_norm(t, &v[0], &v[1], Some(&v[2]), 1e-5)
        });
    }
    r.op("chain_mean", &[&[3, 41, 7]], |t, v| ops::chain_mean(t, &v[0], &[41, 0, 5]));
    let many = [1, 3001, 40];
    r.op("layer_norm, many rows", &[&many, &[40], &[40]], |t, v| {
        ops::layer_norm(t, &v[0], &v[1], Some(&v[2]), 1e-5)
    });
    for dim in [10, 128] {
        let positions: Vec<u32> = (0..2 * 19).map(|i| i * 5 % 31).collect();
        let table = RopeTable::new(&positions, dim, 1e6).unwrap();
        r.op(&format!("rope {dim}"), &[&[2, 19, 3, dim]], |t, v| ops::rope(t, &v[0], &table));
    }
}

fn rows(r: &mut Report) {
    let some: Vec<u32> = (0..600).map(|i| i * i % 97 % 53).collect();
    r.op("embedding", &[&[61, 33]], |t, v| ops::embedding(t, &v[0], &ids(&some, &[3, 200])));
    r.op("replace_rows", &[&[29, 33], &[3, 33]], |t, v| ops::replace_rows(t, &v[0], &[5, 28, 0], &v[1]));
}

fn attention(r: &mut Report) {
    let first: Vec<usize> = (0..2 * 13).map(|i| i * 7 % 72).collect();
    let trees = |n: usize| vec![vec![11, 3, 1, n - 15], vec![2, 30, 9]];
    for (name, [t, s, groups, share, dim], sees, lengths) in [
        ("all", [3, 71, 3, 2, 5], Sees::All, [71, 0]),
        ("causal", [67, 67, 3, 2, 5], Sees::Causal, [67, 41]),
        ("causal, one head", [33, 33, 1, 1, 64], Sees::Causal, [33, 1]),
        ("first", [13, 71, 3, 3, 16], Sees::First(first), [71, 37]),
        ("documents", [67, 67, 2, 2, 64], Sees::Documents(vec![vec![7, 1, 59], vec![20, 21]]), [67, 41]),
        ("trees", [67, 67, 2, 2, 64], Sees::Trees(trees(67)), [67, 41]),
        ("causal, blocks", [1100, 1100, 4, 2, 32], Sees::Causal, [1100, 777]),
        (
            "documents, blocks",
            [1100, 1100, 4, 2, 32],
            Sees::Documents(vec![vec![300, 10, 790], vec![777]]),
            [1100, 777],
        ),
        (
            "trees, blocks",
            [1100, 1100, 4, 2, 32],
            Sees::Trees(vec![vec![300, 10, 790], vec![700, 77]]),
            [1100, 777],
        ),
    ] {
        let mask = KeyMask { lengths: lengths.to_vec(), sees };
        let kv = [2, s, groups, dim];
        r.op(&format!("attention, {name}"), &[&[2, t, groups * share, dim], &kv, &kv], |tape, v| {
            ops::attention(tape, &v[0], &v[1], &v[2], &mask, 1.0 / (dim as f64).sqrt())
        });
    }
}

fn logprobs(r: &mut Report) {
    for (rows, vocab, width) in [(19, 37, 5), (300, 4001, 24), (500, 151_936, 8)] {
        let targets: Vec<u32> = (0..rows as u32).map(|i| i * 7919 % vocab as u32).collect();
        let (x, w) = ([rows, width], [vocab, width]);
        r.op(&format!("token_logprobs {rows} {vocab}"), &[&x, &w], |t, v| {
            Ok(ops::token_logprobs(t, &v[0], &v[1], &targets, 0.7)?.logprobs)
        });
        r.op(&format!("token_logprobs, frozen head {rows} {vocab}"), &[&x, &w], |t, v| {
            Ok(ops::token_logprobs(t, &v[0], &v[1].detach(), &targets, 0.7)?.logprobs)
        });
        r.op(&format!("entropy {rows} {vocab}"), &[&x, &w], |t, v| {
            let scores = ops::token_logprobs(t, &v[0], &v[1], &targets, 0.7)?;
            ops::add(t, &scores.logprobs, &Var::constant(scores.entropy))
        });
    }
}

fn tape(r: &mut Report) {
    r.op("gradients that meet", &[&[5, 77]], |t, v| {
        let square = ops::mul(t, &v[0], &v[0])?;
        ops::mul(t, &ops::mul(t, &square, &v[0])?, &v[0])
    });
    r.op("checkpoint", &[&[5, 77]], |t, v| {
        t.checkpoint(&[&v[0]], |t, v| ops::mul(t, &ops::gelu(t, &v[0])?, &v[0]))
    });
    r.op("candle", &[&[5, 77], &[5, 77]], |t, v| t.candle(&[&v[0], &v[1]], |x| x[0].exp()? * &x[1]));
}

fn optimiser(r: &mut Report) {
    let sizes = [1, 255, 40_001, 3_000_000];
    let tensors: Vec<Tensor> = sizes.iter().zip(0..).map(|(&n, seed)| normal(&[n], seed)).collect();
    let moved: Vec<Tensor> = tensors.iter().map(|x| x.to_device(&r.gpu).unwrap()).collect();
    let errors = ops::squares(&tensors).and_then(|want| {
        let got = ops::squares(&moved)?;
        Ok(want.iter().zip(&got).map(|(w, g)| (w - g).abs() / w).collect())
    });
    r.say("squares", errors, 1e-12);

    let rule = AdamWRule { mean_weight: 0.1, square_keep: 0.99, square_weight: 0.01, eps: 1e-8 };
    let run = |device: &Device| -> Result<Vec<Tensor>> {
        let place = |seed: u64| -> Result<Vec<Tensor>> {
            sizes.iter().map(|&n| normal(&[n], seed + n as u64).to_device(device)).collect()
        };
        let (weights, gradients) = (place(1)?, place(2)?);
        let means = place(3)?;
        let squares = place(4)?.iter().map(Tensor::abs).collect::<Result<Vec<_>>>()?;
        let update = |i: usize| AdamWUpdate {
            weight: &weights[i],
            mean: &means[i],
            square: &squares[i],
            gradient: &gradients[i],
            clip: 0.7,
            decay: 0.99,
            step_size: 1e-2 * (i + 1) as f32,
            root: 0.5,
        };
        let updates: Vec<AdamWUpdate<'_>> = (0..sizes.len()).map(update).collect();
        (0..3).try_for_each(|_| ops::adamw(&rule, &updates))?;
        Ok([weights, means, squares].concat())
    };
    let errors = run(&Device::Cpu).and_then(|want| {
        let got = run(&r.gpu)?;
        want.iter().zip(&got).map(|(w, g)| distance(Some(w), Some(g))).collect()
    });
    r.say("adamw", errors, 1e-6);
}

/// A tiny Qwen3 with its weights spread out, on a device, with an adapter or without.
fn llm(device: &Device, targets: &[&str]) -> Result<Qwen3> {
    let base = Qwen3::new(tiny_config(true), Weights::random(named))?;
    let spread = |(name, x): (String, Tensor)| {
        let factor = if name.contains("norm") { 1.0 } else { 8.0 };
        Ok((name, (x * factor)?))
    };
    let tensors = base.params().snapshot()?.into_iter().map(spread).collect::<Result<_>>()?;
    let model = Qwen3::new(tiny_config(true), Weights::loaded(tensors).on(device))?;
    if targets.is_empty() {
        return Ok(model);
    }
    let target_modules = crate::llm::Modules::Named(targets.iter().map(|t| t.to_string()).collect());
    let config = LoraConfig { target_modules, r: 3, lora_alpha: 6.0, ..LoraConfig::default() };
    let model = model.with_lora(&config, Weights::random(named))?;
    for param in model.params().iter().filter(|p| p.name().contains("lora_B")) {
        param.assign(&(normal(param.value().dims(), param.name().len() as u64) * 0.2)?)?;
    }
    Ok(model)
}

/// Loss and gradients of a step on rows of 23 and 14 tokens, or with these documents in them.
fn step(model: &Qwen3, documents: Option<Vec<Vec<usize>>>) -> Result<(Tensor, Gradients)> {
    let (lengths, width) = ([23, 14], 23);
    let rows = [tokens(1, 23), tokens(2, 23)].concat();
    let tape = Tape::on();
    let embeds = model.embed(&tape, &ids(&rows, &[2, width]))?;
    let mask = match documents {
        Some(rows) => KeyMask { lengths: lengths.to_vec(), sees: Sees::Documents(rows) },
        None => KeyMask { lengths: lengths.to_vec(), sees: Sees::Causal },
    };
    let positions: Vec<u32> = (0..2).flat_map(|_| 0..width as u32).collect();
    let hidden = model.hidden_at(&tape, &embeds, &mask, &positions, None)?;
    let places: Vec<usize> = (0..22).chain(23..36).collect();
    let targets: Vec<u32> = places.iter().map(|&at| rows[at + 1]).collect();
    let scores = model.token_logprobs(&tape, &hidden, &places, &targets, 1.0)?;
    let loss = ops::scale(&tape, &ops::mean(&tape, &scores.logprobs)?, -1.0)?;
    let value = loss.value().clone();
    Ok((value, tape.backward(&loss)?))
}

/// Loss, gradients by name, and the weights after three steps of AdamW.
fn trained(params: &Params, step: impl Fn() -> Result<(Tensor, Gradients)>) -> Result<Vec<(String, Tensor)>> {
    let rule = AdamWRule { mean_weight: 0.1, square_keep: 0.99, square_weight: 0.01, eps: 1e-4 };
    let mut out = vec![];
    let zeros = || params.trainable().map(|p| p.value().zeros_like()).collect::<Result<Vec<_>>>();
    let (means, squares) = (zeros()?, zeros()?);
    for t in 1..=3 {
        let (loss, gradients) = step()?;
        if t == 1 {
            out.push(("loss".to_owned(), loss));
            let named = |(name, grad): (&String, &Tensor)| (format!("gradient of {name}"), grad.clone());
            out.extend(gradients.params.iter().map(named));
        }
        let found: Vec<Tensor> = params
            .trainable()
            .map(|p| match gradients.params.get(&**p.name()) {
                Some(gradient) => gradient.contiguous(),
                None => candle_core::bail!("no gradient of {}", p.name()),
            })
            .collect::<Result<_>>()?;
        let norm = ops::squares(&found)?.iter().sum::<f64>().sqrt();
        let update = |(i, param)| AdamWUpdate {
            weight: crate::param::Param::value(param),
            mean: &means[i],
            square: &squares[i],
            gradient: &found[i],
            clip: (1.0 / (norm + 1e-6)).min(1.0) as f32,
            decay: 1.0,
            step_size: 1e-3 / (1.0 - 0.9_f32.powi(t)),
            root: (1.0 - 0.99_f32.powi(t)).sqrt(),
        };
        ops::adamw(&rule, &params.trainable().enumerate().map(update).collect::<Vec<_>>())?;
    }
    out.extend(params.snapshot()?.into_iter().map(|(name, x)| (format!("weight {name}"), x)));
    Ok(out)
}

/// The largest distance between two runs, and where it is.
fn worst(r: &mut Report, what: &str, cpu: Result<Vec<(String, Tensor)>>, gpu: Result<Vec<(String, Tensor)>>) {
    let compared = cpu.and_then(|cpu| {
        let gpu = gpu?;
        let names = |x: &[(String, Tensor)]| x.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        if names(&cpu) != names(&gpu) {
            candle_core::bail!("other gradients: {:?} and {:?}", names(&cpu), names(&gpu));
        }
        let mut worst = (0.0, String::new());
        for ((name, want), (_, got)) in cpu.iter().zip(&gpu) {
            let error = distance(Some(want), Some(got))?;
            if error.is_nan() || error > worst.0 {
                worst = (error, name.clone());
            }
        }
        Ok((worst, cpu.len()))
    });
    match compared {
        Ok(((error, name), n)) => {
            r.say(&format!("{what} ({n} tensors, worst: {name})"), Ok(vec![error]), 2e-4);
        }
        Err(error) => r.say(what, Err(error), 0.0),
    }
}

fn models(r: &mut Report) {
    let all = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"][..];
    for (what, targets, documents) in [
        ("all weights", &[][..], None),
        ("LoRA of k, v", &["k_proj", "v_proj"], None),
        ("LoRA of all", all, None),
        ("LoRA of all, documents", all, Some(vec![vec![7, 1, 15], vec![4, 10]])),
    ] {
        let run = |device: &Device| {
            let model = llm(device, targets)?;
            trained(model.params(), || step(&model, documents.clone()))
        };
        let (cpu, gpu) = (run(&Device::Cpu), run(&r.gpu));
        worst(r, &format!("three steps of Qwen3, {what}"), cpu, gpu);
    }
}

/// Tokens drawn from the same random numbers, and their log-probabilities.
fn generation(r: &mut Report) {
    let run = |device: &Device| -> Result<(Vec<u32>, Tensor)> {
        let model = llm(device, &["k_proj", "v_proj"])?;
        let rows = [tokens(1, 9), tokens(2, 9)].concat();
        let embeds = model.embed(&Tape::off(), &ids(&rows, &[2, 9]))?.value().clone();
        let prompts = Prompts { embeds, lengths: vec![9, 4], media: None };
        let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
        let said = generate(&model, &prompts, 3, 20, sampling, &[3], |i| named(&i.to_string()))?;
        let logprobs: Vec<f32> = said.iter().flat_map(|said| said.logprobs.clone()).collect();
        let n = logprobs.len();
        let tokens = said.into_iter().flat_map(|said| said.tokens).collect();
        Ok((tokens, Tensor::from_vec(logprobs, n, &Device::Cpu)?))
    };
    let errors = run(&Device::Cpu).and_then(|(want, wanted)| {
        let (got, found) = run(&r.gpu)?;
        println!("     {} tokens, the same: {}", want.len(), want == got);
        Ok(vec![distance(Some(&wanted), Some(&found))?])
    });
    r.say("generated tokens", errors, 1e-5);
}

fn protein(r: &mut Report) {
    for reader in crate::llm::behaviour_protein::readers() {
        let name = format!("{reader:?}");
        let name = name.split('(').next().unwrap_or_default();
        let run = |device: &Device| {
            let model = crate::llm::behaviour_protein::model_on(reader.clone(), device)?;
            trained(&model.params()?, || crate::llm::behaviour_protein::step(&model))
        };
        let (cpu, gpu) = (run(&Device::Cpu), run(&r.gpu));
        worst(r, &format!("three steps of encoder, bridge and Qwen3, {name}"), cpu, gpu);
    }
}

/// Moving there and back, and what has no path on the GPU.
fn other(r: &mut Report) {
    let there_and_back = || {
        let cpu = llm(&Device::Cpu, &["k_proj"])?;
        let gpu = llm(&r.gpu, &["v_proj", "k_proj"])?;
        let base = gpu.without_lora()?;
        base.params().assign(&cpu.without_lora()?.params().snapshot()?)?;
        let (want, got) = (cpu.without_lora()?.params().snapshot()?, base.params().snapshot()?);
        let apart = |name: &String| distance(want.get(name), got.get(name));
        want.keys().map(apart).collect::<Result<Vec<_>>>().map(|e| vec![e.into_iter().fold(0.0, f64::max)])
    };
    let errors = there_and_back();
    r.say("weights there and back", errors, 0.0);
    let x = normal(&[1, 2, 2], 1).to_device(&r.gpu).unwrap();
    let labels = Tensor::zeros((1, 2), DType::U8, &Device::Cpu).unwrap();
    let error = ops::cross_entropy(&Tape::off(), &Var::constant(x), &labels).err().map(|e| e.to_string());
    let fine = error.as_deref().is_some_and(|e| e.starts_with("cross_entropy runs on the CPU alone"));
    r.say("an op without a path names itself", Ok(vec![f64::from(u8::from(!fine))]), 0.5);
}
