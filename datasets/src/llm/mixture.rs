//! How often each task is met.

use std::collections::BTreeMap;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::record::{Fact, Record};

/// With which probability each task of so many records is drawn: ∝ n^α.
pub fn shares(n_records: &[usize], alpha: f64) -> Vec<f64> {
    let weight = |&n: &usize| (n as f64).powf(alpha);
    let total: f64 = n_records.iter().map(weight).sum();
    n_records.iter().map(|n| weight(n) / total).collect()
}

/// Draws records: first a task, with probability ∝ n^α (n records; α = 1 as they come, 0 all tasks alike), then one of
/// its records. Interactions are drawn balanced: first the label. The draw depends on its generator alone, so the
/// position in the mixture is the step that addressed it.
#[derive(Debug, Clone)]
pub struct Mixture {
    /// Task, its probability, and its records' indices in pools that are drawn with equal chances.
    tasks: Vec<(String, f64, Vec<Vec<usize>>)>,
}

impl Mixture {
    /// The mixture of these records; indices that it draws are into them.
    pub fn new(records: &[impl std::borrow::Borrow<Record>], alpha: f64) -> Self {
        let mut pools: BTreeMap<&str, BTreeMap<bool, Vec<usize>>> = BTreeMap::new();
        for (at, record) in records.iter().map(std::borrow::Borrow::borrow).enumerate() {
            let pool = matches!(record.fact, Fact::Ppi(true));
            pools.entry(&record.task).or_default().entry(pool).or_default().push(at);
        }
        let sizes: Vec<usize> = pools.values().map(|pools| pools.values().map(Vec::len).sum()).collect();
        let tasks = pools.into_iter().zip(shares(&sizes, alpha));
        let task = |((task, pools), share): ((&str, BTreeMap<bool, Vec<usize>>), f64)| {
            (task.to_owned(), share, pools.into_values().collect())
        };
        Self { tasks: tasks.map(task).collect() }
    }

    /// Index of a record.
    ///
    /// # Panics
    /// On a mixture of no records.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        let mut left: f64 = rng.random();
        let chosen = self.tasks.iter().find(|(_, share, _)| {
            left -= share;
            left < 0.0
        });
        let (_, _, pools) = chosen.or(self.tasks.last()).expect("a mixture of at least one record");
        let pool = &pools[rng.random_range(0..pools.len())];
        pool[rng.random_range(0..pool.len())]
    }

    /// Task, number of records, probability.
    pub fn shares(&self) -> impl Iterator<Item = (&str, usize, f64)> {
        self.tasks
            .iter()
            .map(|(task, share, pools)| (task.as_str(), pools.iter().map(Vec::len).sum(), *share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn record(task: &str, fact: Fact) -> Record {
        Record { task: task.into(), cluster: String::new(), proteins: vec![], fact }
    }

    #[test]
    fn shares_are_tempered_and_interactions_balanced() {
        let mut records = vec![record("plddt", Fact::Plddt(1.0)); 90];
        records.extend(vec![record("ppi", Fact::Ppi(true)); 1]);
        records.extend(vec![record("ppi", Fact::Ppi(false)); 9]);
        let mixture = Mixture::new(&records, 0.5);
        let shares: Vec<_> = mixture.shares().collect();
        assert_eq!((shares[0].0, shares[0].1, shares[1].1), ("plddt", 90, 10));
        assert!((shares[0].2 - 0.75).abs() < 1e-9, "√90 : √10 = 3 : 1");
        let drawn: Vec<usize> = (0..4000).map(|step| mixture.draw(&mut rng(3, "mixture", step))).collect();
        let count = |range: std::ops::Range<usize>| drawn.iter().filter(|at| range.contains(at)).count();
        assert!((count(0..90) as f64 - 3000.0).abs() < 120.0, "{}", count(0..90));
        assert!((count(90..91) as f64 - 500.0).abs() < 90.0, "{}", count(90..91));
        assert_eq!(drawn[17], mixture.draw(&mut rng(3, "mixture", 17)));
    }
}
