//! From probabilities to states. Which decoder is best depends on the metric: the most probable state of each residue for
//! accuracy, the legal path for segments, probabilities over the commonness of the states for macro-F1.

use std::path::Path;

use anyhow::{Context, Result};
use datasets::label;
use datasets::ss::SsRecord;
use serde::{Deserialize, Serialize};

use super::{Posterior, Prediction, score};

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
    /// The state with the largest `ln p − τ ln prior`.
    Prior,
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
    /// As `Both`, each held against how common the class is: the largest `ln product − τ ln prior`.
    Prior,
}

/// A decoder of each, and what they have to know.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decoder {
    /// Of Q8.
    pub q8: Q8,
    /// Of Q3.
    pub q3: Q3,
    /// How common the states are.
    pub priors: Priors,
}

/// How common the states are in training, and how much that is held against them: the `decoder.json` beside a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Priors {
    /// Share of each Q8 state.
    pub shares: [f64; 8],
    /// τ of [`Q8::Prior`].
    pub tau: f64,
    /// τ of [`Q3::Prior`].
    pub q3_tau: f64,
}

const FILE: &str = "decoder.json";

impl Priors {
    /// Shares of the training labels, and the τ of a grid whose predictions of the validation chains have the best
    /// macro-F1.
    pub fn fit<'a>(
        train: impl IntoIterator<Item = &'a SsRecord>,
        valid: &[SsRecord],
        posteriors: &[Posterior],
    ) -> Self {
        let mut counts = [1.0; 8];
        for &state in train.into_iter().flat_map(|r| &r.q8) {
            if let Some(count) = counts.get_mut(usize::from(state)) {
                *count += 1.0;
            }
        }
        let total: f64 = counts.iter().sum();
        let shares = counts.map(|n| n / total);
        let mut best = [(0.0, f64::NEG_INFINITY); 2];
        for tau in (0..=12).map(|step| f64::from(step) / 10.0) {
            let decoder = Decoder { q8: Q8::Prior, q3: Q3::Prior, priors: Self { shares, tau, q3_tau: tau } };
            let scores = score(valid, &decoder.all(posteriors));
            let found = [scores.q8.macro_f1(), scores.q3.macro_f1()].map(Option::unwrap_or_default);
            for (best, f1) in best.iter_mut().zip(found) {
                if f1 > best.1 {
                    *best = (tau, f1);
                }
            }
        }
        Self { shares, tau: best[0].0, q3_tau: best[1].0 }
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
        serde_json::from_str(&fs_err::read_to_string(&path)?).with_context(|| format!("{}", path.display()))
    }
}

impl Decoder {
    /// The most probable state and class of each residue.
    pub fn accurate(priors: Priors) -> Self {
        Self { q8: Q8::Marginal, q3: Q3::Both, priors }
    }

    /// States and classes of one chain.
    pub fn decode(&self, posterior: &Posterior) -> Prediction {
        let Priors { shares, tau, q3_tau } = self.priors;
        let adjusted = |p: &[f32; 8]| -> u8 {
            best((0..8).map(|s| f64::from(p[s].max(f32::MIN_POSITIVE)).ln() - tau * shares[s].ln()))
        };
        let q8: Vec<u8> = match self.q8 {
            Q8::Path => posterior.path.clone(),
            Q8::Legal => posterior.legal.clone(),
            Q8::Marginal => posterior.q8.iter().map(|p| best(p.iter().map(|&p| f64::from(p)))).collect(),
            Q8::Prior => posterior.q8.iter().map(adjusted).collect(),
        };
        let q3 = match self.q3 {
            Q3::Map => q8.iter().map(|&state| label::q8_to_q3(state)).collect(),
            Q3::Prior => {
                let mut classes = [0.0; 3];
                (0..8u8).for_each(|s| classes[usize::from(label::q8_to_q3(s))] += shares[usize::from(s)]);
                let adjusted = |p: [f64; 3]| best((0..3).map(|c| 2.0 * p[c].ln() - q3_tau * classes[c].ln()));
                posterior.classes(Q3::Both).into_iter().map(adjusted).collect()
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
            Q3::Both | Q3::Prior => {
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
        let priors = Priors { shares: [0.3, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.19], tau: 1.0, q3_tau: 2.0 };
        let decode = |q8, q3| Decoder { q8, q3, priors }.decode(&posterior());
        assert_eq!(decode(Q8::Path, Q3::Map), Prediction { q8: vec![0, 0, 0], q3: vec![0, 0, 0] });
        assert_eq!(decode(Q8::Legal, Q3::Map), Prediction { q8: vec![7, 7, 7], q3: vec![2, 2, 2] });
        assert_eq!(decode(Q8::Marginal, Q3::Head), Prediction { q8: vec![0, 7, 7], q3: vec![2, 0, 2] });
        assert_eq!(decode(Q8::Prior, Q3::Sums).q8, [7, 1, 7]);
        assert_eq!(decode(Q8::Marginal, Q3::Sums).q3, [0, 0, 2]);
        assert_eq!(decode(Q8::Marginal, Q3::Both).q3, [2, 0, 2]);
        // Strand has the least share, but next to no probability here; helix and coil are as common.
        assert_eq!(decode(Q8::Marginal, Q3::Prior).q3, [2, 0, 2]);
        let sums: Vec<f64> = posterior().classes(Q3::Both).iter().map(|p| p.iter().sum()).collect();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-9));
    }

    #[test]
    fn smoothing_takes_lonely_states_away() {
        assert_eq!(smooth(&[0, 7, 0, 0, 3, 3, 7]), [0, 0, 0, 0, 3, 3, 7]);
        assert_eq!(smooth(&[0, 7, 0, 7, 7]), [0, 0, 0, 7, 7]);
        assert_eq!(smooth(&[1, 2]), [1, 2]);
    }
}
