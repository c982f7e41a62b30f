//! ddG without a model: the mean, the mean per substitution, and the change of hydrophobicity.

use std::collections::BTreeMap;

/// Strength of the overall mean in the mean of a substitution, in measurements.
const N_PRIOR: f64 = 3.0;

/// One mutation: wild-type residue, mutant residue, ddG in kcal/mol (positive = destabilising).
pub type Mutation = (u8, u8, f64);

/// Predictors that see only which residue becomes which.
#[derive(Debug, Clone)]
pub struct Substitutions {
    mean: f64,
    sums: BTreeMap<(u8, u8), (f64, f64)>,
    /// Intercept and slope on the loss of hydrophobicity.
    line: (f64, f64),
}

impl Substitutions {
    /// Fits all three on training mutations; everything predicts 0 if there are none.
    pub fn fit(train: &[Mutation]) -> Self {
        let n = train.len().max(1) as f64;
        let mean = train.iter().map(|m| m.2).sum::<f64>() / n;
        let mut sums: BTreeMap<(u8, u8), (f64, f64)> = BTreeMap::new();
        for &(wild_type, mutant, ddg) in train {
            let sum = sums.entry((wild_type, mutant)).or_default();
            sum.0 += ddg;
            sum.1 += 1.0;
        }
        let loss = |m: &Mutation| hydropathy(m.0) - hydropathy(m.1);
        let mean_loss = train.iter().map(loss).sum::<f64>() / n;
        let covariance: f64 = train.iter().map(|m| (loss(m) - mean_loss) * (m.2 - mean)).sum();
        let variance: f64 = train.iter().map(|m| (loss(m) - mean_loss).powi(2)).sum();
        let slope = if variance > 0.0 { covariance / variance } else { 0.0 };
        Substitutions { mean, sums, line: (mean - slope * mean_loss, slope) }
    }

    /// The mean of all training mutations.
    pub fn constant(&self) -> f64 {
        self.mean
    }

    /// The mean of training mutations with the same two residues, drawn to the overall mean by three pseudo-counts.
    pub fn matrix(&self, wild_type: u8, mutant: u8) -> f64 {
        let (sum, n) = self.sums.get(&(wild_type, mutant)).copied().unwrap_or_default();
        (sum + N_PRIOR * self.mean) / (n + N_PRIOR)
    }

    /// Least-squares line on the loss of Kyte–Doolittle hydropathy.
    pub fn hydrophobicity(&self, wild_type: u8, mutant: u8) -> f64 {
        self.line.0 + self.line.1 * (hydropathy(wild_type) - hydropathy(mutant))
    }
}

/// Kyte & Doolittle 1982, table 2; 0 for letters that are no standard residue.
fn hydropathy(residue: u8) -> f64 {
    match residue {
        b'I' => 4.5,
        b'V' => 4.2,
        b'L' => 3.8,
        b'F' => 2.8,
        b'C' => 2.5,
        b'M' => 1.9,
        b'A' => 1.8,
        b'G' => -0.4,
        b'T' => -0.7,
        b'S' => -0.8,
        b'W' => -0.9,
        b'Y' => -1.3,
        b'P' => -1.6,
        b'H' => -3.2,
        b'E' | b'Q' | b'D' | b'N' => -3.5,
        b'K' => -3.9,
        b'R' => -4.5,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_are_drawn_to_the_overall_mean() {
        let fitted = Substitutions::fit(&[(b'L', b'A', 3.0), (b'L', b'A', 2.0), (b'A', b'G', 1.0)]);
        assert!((fitted.constant() - 2.0).abs() < 1e-12);
        assert!((fitted.matrix(b'L', b'A') - (5.0 + 3.0 * 2.0) / 5.0).abs() < 1e-12);
        assert!((fitted.matrix(b'W', b'A') - 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_line_is_found_exactly() {
        let on_line = |a: u8, b: u8| (a, b, 0.5 + 0.25 * (hydropathy(a) - hydropathy(b)));
        let fitted = Substitutions::fit(&[on_line(b'I', b'A'), on_line(b'A', b'K'), on_line(b'D', b'V')]);
        assert!((fitted.hydrophobicity(b'L', b'S') - on_line(b'L', b'S').2).abs() < 1e-12);
        assert_eq!(Substitutions::fit(&[]).hydrophobicity(b'L', b'S'), 0.0);
    }
}
