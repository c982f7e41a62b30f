use candle_core::{DType, Device, IndexOp};
use rand::SeedableRng;

use super::*;

const LENGTHS: [usize; 4] = [17, 11, 13, 5];

fn config() -> BiLstmCrfConfig {
    BiLstmCrfConfig {
        n_tokens: 27,
        embed: 12,
        conv_layers: 1,
        kernel: 3,
        features: 0,
        hidden: 10,
        projection: 14,
        dropout: 0.3,
        gelu: true,
        min_runs: [2, 1, 1, 1, 1, 1, 1, 1],
        forbidden: vec![(0, 1)],
        reversed: false,
    }
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn weights() -> Weights {
    Weights::random(|name| rng(name.bytes().map(u64::from).sum()))
}

fn model(config: BiLstmCrfConfig) -> BiLstmCrf {
    BiLstmCrf::new(config, weights()).unwrap()
}

fn tokens() -> Tensor {
    let ids: Vec<u32> = (0..4 * 17u32).map(|i| 2 + (i * i * 31 + 7 * i) % 20).collect();
    Tensor::from_vec(ids, (4, 17), &Device::Cpu).unwrap()
}

fn labels() -> Tensor {
    // Rows of their own; every fifth residue unknown; no forbidden step.
    let set = |i: usize| if i % 5 == 4 { ops::ANY } else { 1 << [0, 0, 2, 3, 7, 5, 6][(i / 2) % 7] };
    let mut sets: Vec<u32> = (0..4 * 17).map(set).collect();
    for (row, n) in sets.chunks_exact_mut(17).zip(LENGTHS) {
        model(config()).lattice().relax(&mut row[..n]);
    }
    Tensor::from_vec(sets, (4, 17), &Device::Cpu).unwrap()
}

fn bits(t: Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_chain_gives_the_same_bits_alone_and_in_a_padded_batch() {
    let model = model(config());
    let all = model.forward(&Tape::off(), &tokens(), None, &LENGTHS, None).unwrap();
    let paths = model.viterbi(all.q8.value(), &LENGTHS).unwrap();
    for (row, &n) in LENGTHS.iter().enumerate() {
        let alone = tokens().i((row..row + 1, ..n)).unwrap();
        let alone = model.forward(&Tape::off(), &alone, None, &[n], None).unwrap();
        for (alone, all) in [(&alone.q8, &all.q8), (&alone.q3, &all.q3)] {
            let all = all.value().i((row, ..n, ..)).unwrap();
            assert_eq!(bits(alone.value().clone()), bits(all), "row {row}");
        }
        assert_eq!(model.viterbi(alone.q8.value(), &[n]).unwrap()[0], paths[row]);
        assert_eq!(paths[row].len(), n);
        assert!(paths[row].windows(2).all(|w| (w[0], w[1]) != (0, 1)));
    }
}

#[test]
fn every_residue_changes_the_output_and_every_weight_has_a_gradient() {
    let model = model(config());
    let tape = Tape::on();
    let out = model.forward(&tape, &tokens(), None, &LENGTHS, Some(&mut rng(3))).unwrap();
    let loss = model.crf_loss(&tape, &out.q8, &labels(), &LENGTHS).unwrap();
    let loss =
        ops::add(&tape, &loss, &ops::mean(&tape, &ops::mul(&tape, &out.q3, &out.q3).unwrap()).unwrap());
    let grads = tape.backward(&loss.unwrap()).unwrap();
    for param in model.params().iter() {
        let grad =
            grads.params.get(&**param.name()).unwrap_or_else(|| panic!("{} has no gradient", param.name()));
        let norm = grad.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(norm > 0.0 && norm.is_finite(), "{}: {norm}", param.name());
    }

    let base = model.forward(&Tape::off(), &tokens(), None, &LENGTHS, None).unwrap();
    let mut ids = tokens().to_vec2::<u32>().unwrap();
    ids[1][10] = 2 + (ids[1][10] + 1) % 20;
    let moved =
        model.forward(&Tape::off(), &Tensor::new(ids, &Device::Cpu).unwrap(), None, &LENGTHS, None).unwrap();
    let difference = (base.q8.value() - moved.q8.value()).unwrap().abs().unwrap().max(2).unwrap();
    let difference = difference.to_vec2::<f32>().unwrap();
    assert!(difference[1][..11].iter().all(|&d| d > 0.0), "{difference:?}");
    assert!(difference[0].iter().chain(&difference[2]).all(|&d| d == 0.0));
}

#[test]
fn four_chains_are_learnt_by_heart() {
    let model = model(BiLstmCrfConfig { dropout: 0.0, ..config() });
    let mut losses = vec![];
    let mut velocity = std::collections::BTreeMap::<String, Tensor>::new();
    for _ in 0..250 {
        let tape = Tape::on();
        let out = model.forward(&tape, &tokens(), None, &LENGTHS, None).unwrap();
        let loss = model.crf_loss(&tape, &out.q8, &labels(), &LENGTHS).unwrap();
        losses.push(loss.value().to_scalar::<f32>().unwrap());
        // Gradient descent with momentum.
        for (name, grad) in tape.backward(&loss).unwrap().params {
            let v = match velocity.remove(&name) {
                Some(v) => (grad + (v * 0.9).unwrap()).unwrap(),
                None => grad,
            };
            let param = model.params().get(&name).unwrap();
            param.assign(&(param.value() - (&v * 0.05).unwrap()).unwrap()).unwrap();
            velocity.insert(name, v);
        }
    }
    assert!(losses[0] > 1.5 && losses[249] < 0.05, "{} … {}", losses[0], losses[249]);
    let out = model.forward(&Tape::off(), &tokens(), None, &LENGTHS, None).unwrap();
    let paths = model.viterbi(out.q8.value(), &LENGTHS).unwrap();
    let sets = labels().to_vec2::<u32>().unwrap();
    for (path, sets) in paths.iter().zip(&sets) {
        assert!(path.iter().zip(sets).all(|(label, set)| set >> label & 1 == 1));
    }
    let marginals = model.marginals(out.q8.value(), &LENGTHS).unwrap();
    let sums = marginals.i((0, ..LENGTHS[0])).unwrap().sum(1).unwrap().to_dtype(DType::F64).unwrap();
    assert!(sums.to_vec1::<f64>().unwrap().iter().all(|s| (s - 1.0).abs() < 1e-5));
}

#[test]
fn configurations_that_no_model_has_are_refused() {
    for bad in [
        BiLstmCrfConfig { kernel: 4, ..config() },
        BiLstmCrfConfig { hidden: 0, ..config() },
        BiLstmCrfConfig { gelu: true, min_runs: [0; 8], ..config() },
        BiLstmCrfConfig { forbidden: vec![(8, 0)], ..config() },
    ] {
        assert!(BiLstmCrf::new(bad, weights()).is_err());
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(config());
    model.save(dir.path()).unwrap();
    let loaded = BiLstmCrf::load(dir.path()).unwrap();
    assert_eq!(loaded.config(), model.config());
    let output = |m: &BiLstmCrf| {
        bits(m.forward(&Tape::off(), &tokens(), None, &LENGTHS, None).unwrap().q8.value().clone())
    };
    assert_eq!(output(&loaded), output(&model));
    let names: Vec<&str> = model.params().iter().map(|p| &**p.name()).collect();
    assert!(
        names.contains(&"lstm.weight_hh_l0_reverse") && names.contains(&"crf.start_transitions"),
        "{names:?}"
    );
    let error = BiLstmCrf::load(&dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}
