//! Losses of the language model: token-mean cross-entropy (SFT) and the clipped policy gradient (GRPO, DAPO).

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use models::{Tape, Var, ops, view};
use serde::{Deserialize, Serialize};

/// What is minimised in supervised fine-tuning; names as in TRL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenLoss {
    /// `−Σ log p / N`.
    #[default]
    Nll,
    /// `−Σ p log p / N`, p without gradient: dynamic fine-tuning (arXiv 2508.05629), in which improbable tokens pull less.
    Dft,
}

impl TokenLoss {
    /// The loss of the labelled tokens of one micro-batch, N counted over the whole accumulation window, so that a window's
    /// loss does not depend on how it is cut into micro-batches.
    ///
    /// # Shapes
    /// logprobs `[n]` → scalar
    ///
    /// # Errors
    /// When the window has no token.
    pub fn mean(self, tape: &Tape, logprobs: &Var, n_window: usize) -> Result<Var> {
        ensure!(n_window > 0, "no token of the accumulation window carries loss");
        let terms = self.terms(tape, logprobs)?;
        Ok(ops::scale(tape, &ops::sum(tape, &terms)?, -1.0 / n_window as f64)?)
    }

    /// The same as the mean over answers of the mean over the tokens of each; `lengths`: tokens of the answers of this
    /// micro-batch, whose window has `n_window` answers.
    ///
    /// # Shapes
    /// logprobs `[Σ lengths]`, answer by answer → scalar
    ///
    /// # Errors
    /// When an answer has no token, or the lengths do not fit.
    pub fn mean_of_answers(
        self,
        tape: &Tape,
        logprobs: &Var,
        lengths: &[usize],
        n_window: usize,
    ) -> Result<Var> {
        ensure!(n_window > 0 && !lengths.contains(&0), "an answer without a token");
        let weight = |&n: &usize| std::iter::repeat_n(1.0 / (n_window * n) as f32, n);
        let weights: Vec<f32> = lengths.iter().flat_map(weight).collect();
        let weights = Tensor::from_vec(weights, logprobs.value().shape(), logprobs.value().device())?;
        let weighted = ops::mul(tape, &self.terms(tape, logprobs)?, &Var::constant(weights))?;
        Ok(ops::scale(tape, &ops::sum(tape, &weighted)?, -1.0)?)
    }

    /// What is averaged, without its sign.
    fn terms(self, tape: &Tape, logprobs: &Var) -> Result<Var> {
        Ok(match self {
            Self::Nll => logprobs.clone(),
            Self::Dft => {
                let now = logprobs.value().to_device(&Device::Cpu)?;
                let p: Vec<f32> = view::<f32>(&now)?.iter().map(|l| l.exp()).collect();
                let p = Tensor::from_vec(p, logprobs.value().shape(), logprobs.value().device())?;
                ops::mul(tape, logprobs, &Var::constant(p))?
            }
        })
    }
}

/// Over what the loss of supervised fine-tuning is averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Average {
    /// Over all tokens, as TRL: long answers weigh more.
    #[default]
    Token,
    /// Over the tokens of an answer, then over answers: a task whose answers are one word counts as much as one of lists.
    Answer,
}

/// Over what the policy loss is averaged; names as in TRL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossType {
    /// Over the tokens of a completion, then over completions (arXiv 2402.03300).
    Grpo,
    /// Over all tokens (arXiv 2503.14476): long completions weigh more.
    Dapo,
}

/// The `loss` section of a GRPO recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLoss {
    /// `grpo` or `dapo`.
    pub loss_type: LossType,
    /// The ratio is clipped below at `1 − epsilon_low`.
    pub epsilon_low: f64,
    /// The ratio is clipped above at `1 + epsilon_high`.
    pub epsilon_high: f64,
    /// Weight of the KL divergence to the reference policy.
    pub beta: f64,
    /// Whether the KL term is multiplied by the ratio, which makes its gradient that of the reverse KL (TRL's default).
    pub kl_bias_correction: bool,
}

/// The completions of one micro-batch; tokens lie row by row, as the log-probabilities do.
#[derive(Debug, Clone, Copy)]
pub struct Completions<'a> {
    /// Completion tokens of each row.
    pub lengths: &'a [usize],
    /// Advantage of each row.
    pub advantages: &'a [f32],
    /// Log-probability of each token under the policy that sampled it.
    pub old: &'a [f32],
    /// Log-probability of each token under the reference policy.
    pub reference: &'a [f32],
}

/// Rows and tokens of the whole optimiser step, of which a micro-batch is a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Completions.
    pub rows: usize,
    /// Their tokens.
    pub tokens: usize,
}

/// What is logged of a micro-batch: sums over tokens, so that they can be added up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PolicyStats {
    /// Tokens.
    pub tokens: usize,
    /// Σ of the KL estimate, nats.
    pub kl: f64,
    /// Tokens whose gradient the lower clip cut (negative advantage).
    pub clipped_low: usize,
    /// Tokens whose gradient the upper clip cut (positive advantage).
    pub clipped_high: usize,
    /// Largest |log ratio|.
    pub largest_log_ratio: f64,
}

impl PolicyStats {
    /// Adds another micro-batch.
    pub fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.kl += other.kl;
        self.clipped_low += other.clipped_low;
        self.clipped_high += other.clipped_high;
        self.largest_log_ratio = self.largest_log_ratio.max(other.largest_log_ratio);
    }
}

impl PolicyLoss {
    /// The loss of a micro-batch, its share of the window's. With ratio ρ = exp(l − l_old) and d = l_ref − l, a token's
    /// loss is `−min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A) + β (e^d − d − 1) [· ρ]`.
    ///
    /// # Shapes
    /// logprobs `[Σ lengths]` → scalar
    ///
    /// # Errors
    /// When the parts disagree in their sizes.
    pub fn apply(
        &self,
        tape: &Tape,
        logprobs: &Var,
        completions: Completions<'_>,
        window: Window,
    ) -> Result<(Var, PolicyStats)> {
        let Completions { lengths, advantages, old, reference } = completions;
        let tokens: usize = lengths.iter().sum();
        let sizes = [logprobs.value().elem_count(), old.len(), reference.len()];
        ensure!(
            sizes == [tokens; 3] && advantages.len() == lengths.len(),
            "{tokens} completion tokens of {} rows, but {sizes:?} log-probabilities and {} advantages",
            lengths.len(),
            advantages.len()
        );
        let now = view::<f32>(&logprobs.value().to_device(&Device::Cpu)?)?.to_vec();
        let (mut total, mut at) = (0.0, 0);
        let (mut slopes, mut stats) = (vec![0.0_f32; tokens], PolicyStats { tokens, ..Default::default() });
        for (&length, &advantage) in lengths.iter().zip(advantages) {
            let weight = match self.loss_type {
                LossType::Grpo => 1.0 / (window.rows * length.max(1)) as f64,
                LossType::Dapo => 1.0 / window.tokens as f64,
            };
            for i in at..at + length {
                let log_ratio = f64::from(now[i]) - f64::from(old[i]);
                let away = f64::from(reference[i]) - f64::from(now[i]);
                let (loss, slope) = self.token(log_ratio, away, f64::from(advantage), &mut stats);
                total += weight * loss;
                slopes[i] = (weight * slope) as f32;
            }
            at += length;
        }
        let value = Tensor::new(total as f32, logprobs.value().device())?;
        let slopes = Tensor::new(slopes, logprobs.value().device())?.reshape(logprobs.value().shape())?;
        let parent = logprobs.clone();
        let loss = tape
            .record(value, &[logprobs], move |grad, grads| grads.add(&parent, slopes.broadcast_mul(&grad)?));
        Ok((loss, stats))
    }

    /// Loss of one token and its derivative by the token's log-probability.
    fn token(&self, log_ratio: f64, away: f64, advantage: f64, stats: &mut PolicyStats) -> (f64, f64) {
        let ratio = log_ratio.exp();
        let clipped = ratio.clamp(1.0 - self.epsilon_low, 1.0 + self.epsilon_high);
        let cut = clipped * advantage < ratio * advantage;
        let (mut loss, mut slope) = match cut {
            true => (-clipped * advantage, 0.0),
            false => (-ratio * advantage, -ratio * advantage),
        };
        stats.clipped_low += usize::from(ratio < 1.0 - self.epsilon_low && advantage < 0.0);
        stats.clipped_high += usize::from(ratio > 1.0 + self.epsilon_high && advantage > 0.0);
        stats.largest_log_ratio = stats.largest_log_ratio.max(log_ratio.abs());
        // k3, never negative: http://joschu.net/blog/kl-approx.html
        let (kl, kl_slope) = (away.exp() - away - 1.0, 1.0 - away.exp());
        stats.kl += kl;
        match self.kl_bias_correction {
            true => {
                loss += self.beta * kl * ratio;
                slope += self.beta * (kl_slope + kl) * ratio;
            }
            false => {
                loss += self.beta * kl;
                slope += self.beta * kl_slope;
            }
        }
        (loss, slope)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A path beside the checkout; `None`, said on stderr, where it is absent.
    pub(crate) fn shared(path: &str) -> Option<PathBuf> {
        let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
        let root = std::env::var_os("PEPTALK_SHARED").map_or_else(|| beside.into(), PathBuf::from);
        let found = root.join(path);
        if !found.exists() {
            eprintln!("skipped: needs ../shared/{path}");
            return None;
        }
        Some(found)
    }

    /// All token-level cases of `grpo` and `dapo` without the two-sided cap: loss to 1e-6, gradient to 1e-6.
    #[test]
    fn the_policy_loss_is_that_of_trl() {
        let Some(path) = shared("fixtures/grpo/pure_loss.json") else { return };
        let fixture: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        let tensors = models::read_safetensors(&path.with_extension("safetensors")).unwrap();
        let lengths: Vec<usize> = serde_json::from_value(fixture["inputs"]["lengths"].clone()).unwrap();
        let advantages: Vec<f32> = serde_json::from_value(fixture["inputs"]["advantages"].clone()).unwrap();
        let real = |name: &str| -> Vec<f32> {
            let rows = tensors[name].to_vec2::<f32>().unwrap();
            rows.iter().zip(&lengths).flat_map(|(row, &n)| row[..n].to_vec()).collect()
        };
        let (now, old, reference) = (real("logps"), real("old"), real("ref"));
        let mut seen = 0;
        for case in fixture["cases"].as_array().unwrap() {
            let wanted = ["grpo", "dapo"].iter().any(|t| case["loss_type"] == *t) && case["level"] == "token";
            let plain = ["top_entropy_quantile", "off_policy_mask_threshold", "entropy_coef"];
            if !wanted || !case["delta"].is_null() || plain.iter().any(|key| !case[*key].is_null()) {
                continue;
            }
            let loss = PolicyLoss {
                loss_type: serde_json::from_value(case["loss_type"].clone()).unwrap(),
                epsilon_low: case["eps_low"].as_f64().unwrap(),
                epsilon_high: case["eps_high"].as_f64().unwrap(),
                beta: case["beta"].as_f64().unwrap(),
                kl_bias_correction: case["kl_bias_correction"].as_bool().unwrap(),
            };
            let old = if case["use_old"] == true { &old } else { &now };
            let completions =
                Completions { lengths: &lengths, advantages: &advantages, old, reference: &reference };
            // two micro-batches a step; 60 tokens in the generation batch
            let window = Window { rows: 2 * lengths.len(), tokens: 60 };
            let tape = Tape::on();
            let logprobs = tape.input(Tensor::new(now.as_slice(), &Device::Cpu).unwrap());
            let (value, _) = loss.apply(&tape, &logprobs, completions, window).unwrap();
            let got = f64::from(value.value().to_scalar::<f32>().unwrap());
            assert!((got - case["loss"].as_f64().unwrap()).abs() < 1e-6, "{case}: {got}");
            let gradients = tape.backward(&value).unwrap();
            let slopes: Vec<f32> = gradients.input(&logprobs).unwrap().to_vec1().unwrap();
            let want = real(&format!("case{}.grad_logps", case["id"]));
            assert!(slopes.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-6), "{case}");
            seen += 1;
        }
        assert_eq!(seen, 24);
    }

    #[test]
    fn a_window_is_the_sum_of_its_micro_batches() {
        let logprobs: Vec<f32> = (0..7).map(|i| -0.3 - 0.1 * i as f32).collect();
        let var = |n: &[f32]| Var::constant(Tensor::new(n, &Device::Cpu).unwrap());
        let (tape, value) = (Tape::off(), |v: Var| v.value().to_scalar::<f32>().unwrap());
        let whole = value(TokenLoss::Nll.mean(&tape, &var(&logprobs), 7).unwrap());
        let parts = [&logprobs[..3], &logprobs[3..]]
            .map(|part| value(TokenLoss::Nll.mean(&tape, &var(part), 7).unwrap()));
        assert!((whole - parts.iter().sum::<f32>()).abs() < 1e-6);
        assert!((whole - 0.6).abs() < 1e-6);
        assert!(TokenLoss::Nll.mean(&tape, &var(&logprobs), 0).is_err());
        // Answers of 2 and 5 tokens, half of a window of 4: the mean of their means, halved.
        let mean = |part: &[f32]| -part.iter().sum::<f32>() / part.len() as f32;
        let want = (mean(&logprobs[..2]) + mean(&logprobs[2..])) / 4.0;
        let got = value(TokenLoss::Nll.mean_of_answers(&tape, &var(&logprobs), &[2, 5], 4).unwrap());
        assert!((got - want).abs() < 1e-6, "{got} {want}");
        assert!(TokenLoss::Dft.mean_of_answers(&tape, &var(&logprobs), &[3, 3], 4).is_err());
    }
}
