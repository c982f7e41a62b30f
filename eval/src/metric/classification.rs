//! Metrics of hard class decisions, all from one confusion matrix.

use serde::Serialize;

/// Counts of (truth, prediction).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confusion {
    n_classes: usize,
    /// Row-major, `[truth, prediction]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// No counts yet.
    pub fn new(n_classes: usize) -> Self {
        Confusion { n_classes, counts: vec![0; n_classes * n_classes] }
    }

    /// Counts of pairs of class indices. Pairs whose truth is no class (255, unknown) are left out; a prediction that
    /// is no class counts as wrong, in the class after the true one.
    pub fn of(n_classes: usize, pairs: impl IntoIterator<Item = (u8, u8)>) -> Self {
        let mut confusion = Confusion::new(n_classes);
        for (truth, prediction) in pairs {
            confusion.add(truth, prediction);
        }
        confusion
    }

    /// Counts one pair, as in [`Confusion::of`].
    pub fn add(&mut self, truth: u8, prediction: u8) {
        let (truth, mut prediction) = (truth as usize, prediction as usize);
        if truth < self.n_classes {
            if prediction >= self.n_classes {
                prediction = (truth + 1) % self.n_classes;
            }
            self.counts[truth * self.n_classes + prediction] += 1;
        }
    }

    /// Adds the counts of another matrix of the same classes.
    pub fn merge(&mut self, other: &Confusion) {
        debug_assert_eq!(self.n_classes, other.n_classes);
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// Number of classes.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// How often `truth` was called `prediction`.
    pub fn count(&self, truth: usize, prediction: usize) -> u64 {
        self.counts[truth * self.n_classes + prediction]
    }

    /// Number of pairs.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Pairs whose truth is `class`.
    pub fn n_true(&self, class: usize) -> u64 {
        (0..self.n_classes).map(|p| self.count(class, p)).sum()
    }

    /// Pairs whose prediction is `class`.
    pub fn n_predicted(&self, class: usize) -> u64 {
        (0..self.n_classes).map(|t| self.count(t, class)).sum()
    }

    fn n_right(&self) -> u64 {
        (0..self.n_classes).map(|c| self.count(c, c)).sum()
    }

    /// Share of right decisions.
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.n_right(), self.total())
    }

    /// Mean recall of the classes that occur.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        mean((0..self.n_classes).filter_map(|c| ratio(self.count(c, c), self.n_true(c))))
    }

    /// `2 TP / (2 TP + FP + FN)` of a class; `None` if it is neither true nor predicted anywhere.
    pub fn f1(&self, class: usize) -> Option<f64> {
        ratio(2 * self.count(class, class), self.n_true(class) + self.n_predicted(class))
    }

    /// Mean F1 of the classes that occur in truths or predictions, as scikit-learn averages.
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.n_classes).filter_map(|c| self.f1(c)))
    }

    /// Matthews correlation; for more than two classes Gorodkin's R_K. `None` when truth or prediction is constant.
    pub fn mcc(&self) -> Option<f64> {
        let (total, right) = (self.total() as f64, self.n_right() as f64);
        let sum = |f: &dyn Fn(usize) -> f64| (0..self.n_classes).map(f).sum::<f64>();
        let cross = sum(&|c| self.n_true(c) as f64 * self.n_predicted(c) as f64);
        let predicted = total * total - sum(&|c| (self.n_predicted(c) as f64).powi(2));
        let truth = total * total - sum(&|c| (self.n_true(c) as f64).powi(2));
        (predicted > 0.0 && truth > 0.0).then(|| (right * total - cross) / (predicted * truth).sqrt())
    }
}

/// `2ab / (a + b)`: the competition score of secondary structure is that of the macro F1 of Q8 and Q3.
pub fn harmonic_mean(a: f64, b: f64) -> f64 {
    if a + b > 0.0 { 2.0 * a * b / (a + b) } else { 0.0 }
}

fn ratio(of: u64, to: u64) -> Option<f64> {
    (to > 0).then(|| of as f64 / to as f64)
}

pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.fold((0_usize, 0.0), |(n, sum), value| (n + 1, sum + value));
    (n > 0).then(|| sum / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_classes_by_hand() {
        let confusion = Confusion::of(3, [(0, 0), (0, 1), (1, 1), (1, 1), (255, 0), (1, 0)]);
        assert_eq!((confusion.total(), confusion.accuracy()), (5, Some(0.6)));
        assert_eq!(confusion.f1(2), None);
        // F1 of 0: 2/(2+2) = ½; of 1: 4/(3+3).
        assert!((confusion.macro_f1().unwrap() - (0.5 + 4.0 / 6.0) / 2.0).abs() < 1e-12);
        assert_eq!(Confusion::of(2, [(0, 0), (0, 0)]).mcc(), None);
        assert_eq!(Confusion::of(3, [(0, 255), (2, 9)]).accuracy(), Some(0.0));
        assert!((harmonic_mean(0.34, 0.69) - 0.4555).abs() < 1e-4);
        // R_K of a perfect prediction is 1, of three classes shifted by one −½.
        assert!((Confusion::of(3, [(0, 0), (1, 1), (2, 2)]).mcc().unwrap() - 1.0).abs() < 1e-12);
        assert!((Confusion::of(3, [(0, 1), (1, 2), (2, 0)]).mcc().unwrap() + 0.5).abs() < 1e-12);
    }
}
