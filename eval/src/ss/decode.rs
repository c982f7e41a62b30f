//! From probabilities to states. Which decoder is best depends on the metric: the most probable state of each residue for
//! accuracy, the legal path for segments, what F1 gains by each state for macro-F1.

use std::path::Path;

use anyhow::{Context, Result};
use datasets::label;
use datasets::ss::SsRecord;
use serde::{Deserialize, Serialize};

use super::{Posterior, Prediction};

/// How Q8 is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Q8 {
    /// The path that is most probable as a whole (Viterbi).
    Path,
    /// The legal path with the most residues right on average.
    Legal,
    /// The most probable state of each residue.
    Marginal,
    /// The state by which macro-F1 gains most.
    F1,
}

/// How Q3 is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Q3 {
    /// The Q3 head's most probable class.
    Head,
    /// The class whose Q8 states are most probable together.
    Sums,
    /// The class of the chosen Q8 state.
    Map,
    /// The class with the largest product of the head's probability and the sum; its probability is their geometric mean.
    Both,
    /// The class by which macro-F1 gains most, with the probabilities of `Both`.
    F1,
}

/// A decoder of each, and what they have to know.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    /// Of Q8.
    pub q8: Q8,
    /// Of Q3.
    pub q3: Q3,
    /// What macro-F1 gains by each.
    pub gains: Gains,
}

/// What the F1 of one state gains by one more residue.
///
/// F1 is `2t / (n + m)`: t right ones of n true and m predicted. A residue that has the state with probability p adds p to t
/// and 1 to m, so F1 grows by `(2p − F1) / (n + m)`. Macro-F1 is a sum over states, so its best answer is the state that gains
/// most; at p = F1 / 2 nothing is gained (Lipton, Elkan and Naryanaswamy 2014).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gain {
    /// F1 on the validation chains.
    pub f1: f64,
    /// n + m there, each as a share of all residues.
    pub mass: f64,
}

/// What grows with the probability alone.
const EQUAL: Gain = Gain { f1: 0.0, mass: 1.0 };

impl Gain {
    fn of(self, p: f64) -> f64 {
        (2.0 * p - self.f1) / self.mass
    }
}

/// The gains of all states: the `decoder.json` beside a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gains {
    /// Of Q8 states.
    pub q8: [Gain; 8],
    /// Of Q3 classes.
    pub q3: [Gain; 3],
}

const FILE: &str = "decoder.json";

/// Rounds of [`fit`]; after some ten, gains stand or swing between two near sets.
const ROUNDS: usize = 30;

impl Gains {
    /// Gains with which the most probable state is chosen.
    pub fn equal() -> Self {
        Self { q8: [EQUAL; 8], q3: [EQUAL; 3] }
    }

    /// The gains whose predictions of the validation chains have the best macro-F1.
    pub fn fit(valid: &[SsRecord], posteriors: &[Posterior]) -> Self {
        let of_states = |(record, said): (&SsRecord, &Posterior)| {
            let p = said.q8.iter().map(|p| p.map(f64::from));
            p.zip(record.q8.clone()).collect::<Vec<_>>()
        };
        let of_classes = |(record, said): (&SsRecord, &Posterior)| {
            said.classes(Q3::Both).into_iter().zip(record.q3.clone()).collect::<Vec<_>>()
        };
        let q8 = valid.iter().zip(posteriors).flat_map(of_states);
        let q3 = valid.iter().zip(posteriors).flat_map(of_classes);
        Self { q8: fit(q8), q3: fit(q3) }
    }

    /// # Errors
    /// Names the file.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(fs_err::write(folder.join(FILE), text)?)
    }

    /// # Errors
    /// Names the file.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let hint = "hint: another version of peptalk wrote it; train the model again";
        let text = fs_err::read_to_string(&path)?;
        serde_json::from_str(&text).with_context(|| format!("{} is not understood\n{hint}", path.display()))
    }
}

/// F1 and mass decide what is predicted, and what is predicted decides them: the best set on the way to where they agree, from
/// probabilities and states of residues (those beyond K are unknown).
fn fit<const K: usize>(residues: impl Iterator<Item = ([f64; K], u8)>) -> [Gain; K] {
    let residues: Vec<([f64; K], usize)> =
        residues.map(|(p, state)| (p, usize::from(state))).filter(|(_, state)| *state < K).collect();
    let all = residues.len().max(1) as f64;
    let mut n = [0.0; K];
    residues.iter().for_each(|(_, state)| n[*state] += 1.0);
    let known = |s: usize| n[s] > 0.0 || residues.is_empty();
    // What validation never has is never predicted.
    let never = Gain { f1: 3.0, mass: f64::EPSILON };
    let mut gains = std::array::from_fn(|s| if known(s) { EQUAL } else { never });
    let mut best = (gains, f64::NEG_INFINITY);
    for _ in 0..ROUNDS {
        let (mut m, mut right) = ([0.0; K], [0.0; K]);
        for (p, state) in &residues {
            let said = usize::from(self::best((0..K).map(|s| gains[s].of(p[s]))));
            m[said] += 1.0;
            right[said] += f64::from(u8::from(said == *state));
        }
        let f1: Vec<f64> = (0..K).map(|s| 2.0 * right[s] / (n[s] + m[s])).collect();
        let known: Vec<usize> = (0..K).filter(|&s| n[s] > 0.0).collect();
        let macro_f1 = known.iter().map(|&s| f1[s]).sum::<f64>() / known.len() as f64;
        if macro_f1 > best.1 {
            best = (gains, macro_f1);
        }
        for s in known {
            let mass = (n[s] + m[s]) / all;
            gains[s] = Gain { f1: (gains[s].f1 + f1[s]) / 2.0, mass: (gains[s].mass + mass) / 2.0 };
        }
    }
    best.0
}

impl Decoder {
    /// The most probable state and class of each residue.
    pub fn accurate() -> Self {
        Self { q8: Q8::Marginal, q3: Q3::Both, gains: Gains::equal() }
    }

    /// States and classes of one chain.
    pub fn decode(&self, posterior: &Posterior) -> Prediction {
        let Gains { q8: of_state, q3: of_class } = &self.gains;
        let gainful = |p: &[f32; 8]| best((0..8).map(|s| of_state[s].of(f64::from(p[s]))));
        let q8: Vec<u8> = match self.q8 {
            Q8::Path => posterior.path.clone(),
            Q8::Legal => posterior.legal.clone(),
            Q8::Marginal => posterior.q8.iter().map(|p| best(p.iter().map(|&p| f64::from(p)))).collect(),
            Q8::F1 => posterior.q8.iter().map(gainful).collect(),
        };
        let q3 = match self.q3 {
            Q3::Map => q8.iter().map(|&state| label::q8_to_q3(state)).collect(),
            Q3::F1 => {
                let gainful = |p: [f64; 3]| best((0..3).map(|c| of_class[c].of(p[c])));
                posterior.classes(Q3::Both).into_iter().map(gainful).collect()
            }
            _ => posterior.classes(self.q3).into_iter().map(|p| best(p.into_iter())).collect(),
        };
        Prediction { q8, q3 }
    }

    /// States and classes of many.
    pub fn all(&self, posteriors: &[Posterior]) -> Vec<Prediction> {
        posteriors.iter().map(|posterior| self.decode(posterior)).collect()
    }
}

impl Posterior {
    /// Weight of each Q3 class at every residue; of [`Q3::Map`], which has none of its own, that of the sums.
    pub fn classes(&self, q3: Q3) -> Vec<[f64; 3]> {
        let sums = |p: &[f32; 8]| {
            let mut sums = [0.0; 3];
            (0..8u8).for_each(|s| sums[usize::from(label::q8_to_q3(s))] += f64::from(p[usize::from(s)]));
            sums
        };
        let residue = |(q8, q3_head): (&[f32; 8], &[f32; 3])| match q3 {
            Q3::Head => q3_head.map(f64::from),
            Q3::Sums | Q3::Map => sums(q8),
            Q3::Both | Q3::F1 => {
                let sums = sums(q8);
                // Not the product: both have seen the same chain, and it would be twice as sure as either.
                let means = [0, 1, 2].map(|c| (sums[c] * f64::from(q3_head[c])).sqrt());
                let total: f64 = means.iter().sum();
                means.map(|p| p / total)
            }
        };
        self.q8.iter().zip(&self.q3).map(residue).collect()
    }
}

/// The rule of the published recipe, from left to right: a residue between two of one state that is not its own takes
/// theirs.
pub fn smooth(states: &[u8]) -> Vec<u8> {
    let mut out = states.to_vec();
    for at in 1..states.len().saturating_sub(1) {
        if out[at - 1] == out[at + 1] {
            out[at] = out[at - 1];
        }
    }
    out
}

/// Index of the largest number, the first of equal ones.
fn best(values: impl Iterator<Item = f64>) -> u8 {
    values.enumerate().fold((0, f64::NEG_INFINITY), |a, (i, v)| if v > a.1 { (i as u8, v) } else { a }).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::classification::Confusion;
    use rand::RngExt;

    fn posterior() -> Posterior {
        let certain = |state: usize| {
            let mut p = [0.0; 8];
            p[state] = 0.55;
            p[7] += 0.45;
            p
        };
        Posterior {
            q8: vec![certain(0), [0.3, 0.2, 0.0, 0.0, 0.0, 0.1, 0.0, 0.4], certain(7)],
            q3: vec![[0.2, 0.0, 0.8], [0.5, 0.1, 0.4], [0.1, 0.2, 0.7]],
            path: vec![0, 0, 0],
            legal: vec![7, 7, 7],
        }
    }

    #[test]
    fn each_decoder_says_what_it_promises() {
        let mut gains = Gains::equal();
        gains.q8[1] = Gain { f1: 0.1, mass: 0.02 }; // rare
        gains.q3[0] = Gain { f1: 0.9, mass: 1.0 };
        let decode = |q8, q3| Decoder { q8, q3, gains }.decode(&posterior());
        assert_eq!(decode(Q8::Path, Q3::Map), Prediction { q8: vec![0, 0, 0], q3: vec![0, 0, 0] });
        assert_eq!(decode(Q8::Legal, Q3::Map), Prediction { q8: vec![7, 7, 7], q3: vec![2, 2, 2] });
        assert_eq!(decode(Q8::Marginal, Q3::Head), Prediction { q8: vec![0, 7, 7], q3: vec![2, 0, 2] });
        assert_eq!(decode(Q8::F1, Q3::Sums).q8, [0, 1, 7]);
        assert_eq!(decode(Q8::Marginal, Q3::Sums).q3, [0, 0, 2]);
        assert_eq!(decode(Q8::Marginal, Q3::Both).q3, [2, 0, 2]);
        assert_eq!(decode(Q8::Marginal, Q3::F1).q3, [2, 2, 2]);
        let sums: Vec<f64> = posterior().classes(Q3::Both).iter().map(|p| p.iter().sum()).collect();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-9));
    }

    /// No weights of a grid find a better macro-F1 of three states.
    #[test]
    fn gains_find_the_best_macro_f1() {
        let mut rng = datasets::rng(1, "gains", 0);
        let residues: Vec<([f64; 3], u8)> = (0..20_011)
            .map(|_| {
                let weights: [f64; 3] = [1.0, 0.3, 0.05].map(|w| w * rng.random::<f64>().powi(2));
                let sum: f64 = weights.iter().sum();
                let draw = rng.random::<f64>() * sum;
                let state = u8::from(draw > weights[0]) + u8::from(draw > weights[0] + weights[1]);
                (weights.map(|w| w / sum), state)
            })
            .collect();
        let macro_f1 = |gains: [Gain; 3]| {
            let said = residues.iter().map(|(p, state)| (*state, best((0..3).map(|s| gains[s].of(p[s])))));
            Confusion::of(3, said).macro_f1().unwrap()
        };
        let fitted = macro_f1(fit(residues.iter().copied()));
        let plain = macro_f1([EQUAL; 3]);
        let mut found = 0.0f64;
        for (a, b) in (0..20).flat_map(|a| (0..20).map(move |b| (f64::from(a), f64::from(b)))) {
            let weigh = |weight: f64| Gain { f1: 0.0, mass: (-weight / 5.0).exp() };
            found = found.max(macro_f1([weigh(0.0), weigh(a), weigh(b)]));
        }
        assert!(fitted > plain + 0.02 && fitted > found - 0.003, "{plain} {fitted} {found}");
        // a state that validation never has is never predicted
        let without = fit(residues.iter().copied().filter(|(_, state)| *state != 2));
        assert!(
            (0..100).all(|i| best(
                [0.0, 0.0, 0.01 * f64::from(i)].iter().zip(without).map(|(p, g)| g.of(*p))
            ) != 2)
        );
        assert_eq!(fit::<3>(std::iter::empty()), [EQUAL; 3]);
    }

    #[test]
    fn smoothing_takes_lonely_states_away() {
        assert_eq!(smooth(&[0, 7, 0, 0, 3, 3, 7]), [0, 0, 0, 0, 3, 3, 7]);
        assert_eq!(smooth(&[0, 7, 0, 7, 7]), [0, 0, 0, 7, 7]);
        assert_eq!(smooth(&[1, 2]), [1, 2]);
    }
}
