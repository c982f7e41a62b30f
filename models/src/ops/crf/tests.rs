use super::*;
use crate::gradcheck::gradcheck;
use crate::ops::testing::numbers;
use candle_core::Device;
use rand::SeedableRng;

/// Three labels: the plain CRF, one with forbidden steps, and one whose first label has runs of two or more.
fn lattices() -> [Lattice; 3] {
    [(&[1, 1, 1], &[][..]), (&[1, 1, 1], &[(0, 1), (2, 0)]), (&[2, 1, 1], &[(1, 2)])]
        .map(|(shortest, forbidden)| Lattice::new(shortest, forbidden).unwrap())
}

const C: usize = 3;

fn weights(v: &[Var]) -> CrfWeights {
    CrfWeights { transitions: v[0].clone(), start: v[1].clone(), end: v[2].clone() }
}

fn model(lattice: &Lattice) -> Vec<Tensor> {
    let k = lattice.n_states();
    vec![numbers(&[k, k], 2.0), numbers(&[k], 3.0), numbers(&[k], 4.0)]
}

/// The labels and the score of every path of length `n`, from the definition.
fn paths(e: &[f64], lattice: &Lattice, n: usize) -> Vec<(Vec<u8>, f64)> {
    let k = lattice.n_states();
    let [t, a, b] = [0, 1, 2].map(|i| model(lattice)[i].flatten_all().unwrap().to_vec1::<f64>().unwrap());
    let mut all = vec![];
    for code in 0..k.pow(n as u32) {
        let y: Vec<usize> = (0..n).map(|at| code / k.pow(at as u32) % k).collect();
        let legal = lattice.may_start(y[0])
            && lattice.may_end(y[n - 1])
            && y.windows(2).all(|w| lattice.may_step(w[0], w[1]));
        if legal {
            let labels: Vec<u8> = y.iter().map(|&j| lattice.label(j) as u8).collect();
            let emitted: f64 = labels.iter().enumerate().map(|(at, &c)| e[at * C + c as usize]).sum();
            let stepped: f64 = y.windows(2).map(|w| t[w[0] * k + w[1]]).sum();
            all.push((labels, a[y[0]] + emitted + stepped + b[y[n - 1]]));
        }
    }
    all
}

fn log_sum(scores: impl Iterator<Item = f64>) -> f64 {
    scores.map(f64::exp).sum::<f64>().ln()
}

#[test]
fn loss_marginals_and_best_paths_are_those_of_all_paths() {
    let (lengths, l) = ([5, 2, 3], 5);
    // Sets: one label, two labels, any; 9 residues of which something is known.
    let sets: Vec<u32> = vec![2, ANY, 5, 1, 1, /**/ 4, 4, 0, 0, 0, /**/ 6, ANY, 4, 0, 0];
    let emissions = numbers(&[3, l, C], 0.5);
    let e = emissions.to_vec3::<f64>().unwrap();
    for lattice in lattices() {
        let vars: Vec<Var> = model(&lattice).into_iter().map(Var::constant).collect();
        let crf = weights(&vars);
        let marginals = crf_marginals(&emissions, &crf, &lattice, &lengths).unwrap();
        let marginals = marginals.to_vec3::<f64>().unwrap();
        let best = crf_viterbi(&emissions, &crf, &lattice, &lengths).unwrap();
        let listed = crf_best_paths(&emissions, &crf, &lattice, &lengths, 7).unwrap();
        let mut want = 0.0;
        for (row, &n) in lengths.iter().enumerate() {
            let e: Vec<f64> = e[row].concat();
            let mut all = paths(&e, &lattice, n);
            all.sort_by(|a, b| b.1.total_cmp(&a.1));
            let agrees = |y: &[u8]| y.iter().zip(&sets[row * l..]).all(|(y, &set)| set >> y & 1 == 1);
            let every = log_sum(all.iter().map(|p| p.1));
            want += every - log_sum(all.iter().filter(|p| agrees(&p.0)).map(|p| p.1));
            assert_eq!(best[row], all[0].0);
            assert_eq!(listed[row].len(), all.len().min(7));
            for (got, want) in listed[row].iter().zip(&all) {
                assert!(got.0 == want.0 && (got.1 - want.1).abs() < 1e-12, "{got:?} {want:?}");
            }
            for (t, got) in marginals[row].iter().enumerate() {
                for (c, got) in got.iter().enumerate() {
                    let through = all.iter().filter(|p| t < n && p.0[t] == c as u8);
                    let p: f64 = through.map(|p| (p.1 - every).exp()).sum();
                    assert!((got - p).abs() < 1e-12);
                }
            }
        }
        let sets = Tensor::from_slice(&sets, (3, l), &Device::Cpu).unwrap();
        let emissions = Var::constant(emissions.clone());
        let got = crf_loss(&Tape::off(), &emissions, &crf, &lattice, &sets, &lengths).unwrap();
        assert!((got.value().to_scalar::<f64>().unwrap() - want / 8.0).abs() < 1e-12);
    }
}

#[test]
fn sampled_paths_are_as_frequent_as_they_are_probable() {
    let n = 3;
    let emissions = numbers(&[1, n, C], 0.5);
    let e: Vec<f64> = emissions.flatten_all().unwrap().to_vec1().unwrap();
    for lattice in lattices() {
        let vars: Vec<Var> = model(&lattice).into_iter().map(Var::constant).collect();
        let all = paths(&e, &lattice, n);
        let every = log_sum(all.iter().map(|p| p.1));
        let mut counts = std::collections::BTreeMap::<Vec<u8>, f64>::new();
        let draws = 4_000;
        for draw in 0..draws {
            let rng = |_| rand_chacha::ChaCha8Rng::seed_from_u64(draw);
            let path = crf_sample(&emissions, &weights(&vars), &lattice, &[n], rng).unwrap().remove(0);
            *counts.entry(path).or_default() += 1.0 / draws as f64;
        }
        let found: f64 = all
            .iter()
            .map(|(path, score)| {
                let p = (score - every).exp();
                // Five standard deviations of a share of so many draws.
                let slack = 5.0 * (p * (1.0 - p) / draws as f64).sqrt() + 1e-3;
                let share = counts.get(path).copied().unwrap_or(0.0);
                assert!((share - p).abs() < slack, "{path:?}: {share} of the draws, probability {p}");
                share
            })
            .sum();
        assert!((found - 1.0).abs() < 1e-9, "a path that the lattice lacks was drawn");
    }
}

#[test]
fn gradients_match_finite_differences() {
    let (lengths, l) = ([5, 1, 0, 3], 5);
    let sets: Vec<u32> = (0..20u32).map(|i| if i % 4 == 1 { ANY } else { 4 | 1 << (i * 7 % 3) }).collect();
    let sets = Tensor::from_vec(sets, (4, l), &Device::Cpu).unwrap();
    for lattice in lattices() {
        let mut inputs = vec![numbers(&[4, l, C], 0.1)];
        inputs.extend(model(&lattice));
        gradcheck(&inputs, |tape, v| crf_loss(tape, &v[0], &weights(&v[1..]), &lattice, &sets, &lengths));
    }
}

#[test]
fn emissions_far_apart_and_labels_against_the_rules_are_handled() {
    let [plain, forbidding, _] = lattices();
    let single: Vec<Var> =
        model(&plain).iter().map(|v| Var::constant(v.to_dtype(candle_core::DType::F32).unwrap())).collect();
    let sets = Tensor::from_slice(&[1u32, 2], (1, 2), &Device::Cpu).unwrap();
    let far = Tensor::new(&[[[-600.0f32, 0.0, 600.0], [0.0, -600.0, 600.0]]], &Device::Cpu).unwrap();
    let loss = |lattice: &Lattice| {
        crf_loss(&Tape::off(), &Var::constant(far.clone()), &weights(&single), lattice, &sets, &[2])
    };
    let value = loss(&plain).unwrap().value().to_scalar::<f32>().unwrap();
    assert!((value - 1200.0).abs() < 5.0, "{value}");
    assert!(loss(&forbidding).unwrap_err().to_string().contains("row 0"));
    let every: Vec<(usize, usize)> = (0..9).map(|i| (i / 3, i % 3)).collect();
    let none = Lattice::new(&[1, 1, 1], &every).unwrap();
    assert!(crf_viterbi(&far, &weights(&single), &none, &[2]).is_err());
    assert!(crf_marginals(&far, &weights(&single), &none, &[2]).is_err());
    assert!(crf_best_paths(&far, &weights(&single), &none, &[2], 3).is_err());
}
