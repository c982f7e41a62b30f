//! Advantages: how much better a completion is than its siblings.

use anyhow::{Result, ensure};

/// Added to the standard deviation, as in TRL.
const EPS: f64 = 1e-4;

/// What the rewards of whole groups come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// `(r − mean) / (std + 1e-4)` over the completion's group, the variance divided by `G − 1` (GRPO,
    /// arXiv 2402.03300).
    pub values: Vec<f32>,
    /// Groups whose rewards are all the same number: they teach nothing. Decided by equality of the rewards, since a
    /// standard deviation of equal numbers need not be exactly zero.
    pub n_constant_groups: usize,
}

/// Advantages of rewards that lie group by group.
///
/// # Shapes
/// N·G rewards → N·G advantages
///
/// # Errors
/// When a group has fewer than two members or the rewards are no whole groups.
pub fn advantages(rewards: &[f32], group: usize) -> Result<Advantages> {
    ensure!(group >= 2, "a group needs at least two completions, got {group}");
    ensure!(rewards.len().is_multiple_of(group), "{} rewards are no groups of {group}", rewards.len());
    let mut out = Advantages { values: Vec::with_capacity(rewards.len()), n_constant_groups: 0 };
    for rewards in rewards.chunks(group) {
        if rewards.iter().all(|r| *r == rewards[0]) {
            out.n_constant_groups += 1;
            out.values.extend(rewards.iter().map(|_| 0.0));
            continue;
        }
        let mean = rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / group as f64;
        let squares = rewards.iter().map(|&r| (f64::from(r) - mean).powi(2)).sum::<f64>();
        let std = (squares / (group - 1) as f64).sqrt();
        out.values.extend(rewards.iter().map(|&r| ((f64::from(r) - mean) / (std + EPS)) as f32));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::llm::tests::shared;

    #[test]
    fn groups_are_scored_as_trl_scores_them() {
        let Some(path) = shared("fixtures/grpo/advantages.json") else { return };
        let cases: serde_json::Value = serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap();
        let fits = |c: &&serde_json::Value| {
            c["scale_rewards"] == "group" && c["aggregation"] == "sum_then_normalize"
        };
        let mut seen = 0;
        for case in cases.as_array().unwrap().iter().filter(fits) {
            let weights: Vec<f64> = serde_json::from_value(case["weights"].clone()).unwrap();
            let per_function: Vec<Vec<Option<f64>>> =
                serde_json::from_value(case["rewards_per_func"].clone()).unwrap();
            let total = |row: &Vec<Option<f64>>| {
                row.iter().zip(&weights).map(|(r, w)| r.unwrap_or(0.0) * w).sum::<f64>() as f32
            };
            let rewards: Vec<f32> = per_function.iter().map(total).collect();
            let got = advantages(&rewards, case["num_generations"].as_u64().unwrap() as usize).unwrap();
            let want: Vec<f32> = serde_json::from_value(case["advantages"].clone()).unwrap();
            for (g, w) in got.values.iter().zip(&want) {
                assert!((g - w).abs() < 1e-5, "{g} {w}");
            }
            let constant = got.n_constant_groups as f64 / (rewards.len() / 4) as f64;
            assert_eq!(constant, case["logged"]["frac_reward_zero_std"].as_f64().unwrap());
            seen += 1;
        }
        assert_eq!(seen, 2);
    }

    #[test]
    fn a_constant_group_is_exactly_silent() {
        let got = advantages(&[0.1, 0.1, 0.1, 0.0, 1.0, 0.0], 3).unwrap();
        assert_eq!((got.n_constant_groups, &got.values[..3]), (1, &[0.0; 3][..]));
        assert!(got.values[4] > 1.1 && (got.values[3] + 0.577).abs() < 1e-3);
        assert!(advantages(&[1.0; 5], 3).is_err() && advantages(&[1.0], 1).is_err());
    }
}
