//! Which records make which batch: deterministic, by length, nothing dropped.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{Error, rng};

/// Batches' worth of records that are sorted by length together: more means less padding, fewer means more mixing.
const POOL: usize = 32;

/// What a batch may hold, padding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Budget {
    /// This many residues: rows × longest row.
    Residues(usize),
    /// This many pairs of residues: rows × longest row².
    Pairs(usize),
}

impl Budget {
    fn size(self) -> usize {
        match self {
            Budget::Residues(size) | Budget::Pairs(size) => size,
        }
    }

    /// What a row of this length takes of it.
    fn cost(self, length: usize) -> usize {
        match self {
            Budget::Residues(_) => length,
            Budget::Pairs(_) => length * length,
        }
    }

    fn holds(self, rows: usize, longest: usize) -> bool {
        rows * self.cost(longest) <= self.size()
    }
}

/// Where a run stands: the batch that comes next. Two integers are all that a resumed run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// 0-based epoch.
    pub epoch: u64,
    /// 0-based batch in the epoch.
    pub batch: u64,
}

/// The batches of every epoch. Each epoch holds every record exactly once; the order depends on (seed, epoch) alone.
#[derive(Debug)]
pub struct Sampler {
    seed: u64,
    lengths: Vec<usize>,
    budget: Budget,
}

impl Sampler {
    /// A sampler over records of the given lengths. A record that fills the budget alone is a batch of its own, also
    /// when it is longer than the budget.
    ///
    /// # Errors
    /// When there is no record or the budget is 0.
    pub fn new(seed: u64, lengths: Vec<usize>, budget: Budget) -> Result<Self, Error> {
        if lengths.is_empty() {
            return Err(Error::Batch("there is no record to sample from".into()));
        }
        if budget.size() == 0 {
            return Err(Error::Batch("a batch must hold at least one residue".into()));
        }
        Ok(Self { seed, lengths, budget })
    }

    /// The batches of an epoch, as indices of records.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut rng = rng(self.seed, "sampler", epoch);
        let mut order: Vec<usize> = (0..self.lengths.len()).collect();
        order.shuffle(&mut rng);
        let mut batches = vec![];
        let mut rest = &mut order[..];
        while !rest.is_empty() {
            let (pool, later) = rest.split_at_mut(self.pool(rest));
            pool.sort_by_key(|&record| self.lengths[record]);
            batches.extend(self.cut(pool));
            rest = later;
        }
        batches.shuffle(&mut rng);
        batches
    }

    /// Batches of epochs `0..epochs`: the number of steps of a run.
    pub fn total(&self, epochs: u64) -> u64 {
        (0..epochs).map(|epoch| self.epoch(epoch).len() as u64).sum()
    }

    /// How many of the next records make about [`POOL`] batches.
    fn pool(&self, order: &[usize]) -> usize {
        let mut sum = 0;
        for (at, &record) in order.iter().enumerate() {
            sum += self.budget.cost(self.lengths[record]);
            if sum > POOL * self.budget.size() {
                return at + 1;
            }
        }
        order.len()
    }

    /// Cuts records sorted by length into batches within the budget.
    fn cut(&self, sorted: &[usize]) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> = vec![];
        for &record in sorted {
            match batches.last_mut() {
                Some(batch) if self.budget.holds(batch.len() + 1, self.lengths[record]) => batch.push(record),
                _ => batches.push(vec![record]),
            }
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn an_epoch_holds_every_record_once_within_the_budget(
            lengths in prop::collection::vec(1usize..90, 1..300), size in 20usize..200, pairs: bool, seed: u64
        ) {
            let budget = if pairs { Budget::Pairs(size * 20) } else { Budget::Residues(size) };
            let sampler = Sampler::new(seed, lengths.clone(), budget).unwrap();
            let batches = sampler.epoch(3);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.iter().map(|&r| lengths[r]).max().unwrap();
                prop_assert!(batch.len() == 1 || budget.holds(batch.len(), longest));
            }
            prop_assert_eq!(&batches, &sampler.epoch(3));
            prop_assert_eq!(sampler.total(2), (sampler.epoch(0).len() + sampler.epoch(1).len()) as u64);
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_padding_is_small() {
        let lengths: Vec<usize> = (0..997).map(|i| 30 + i * 7919 % 271).collect();
        let sampler = |seed| Sampler::new(seed, lengths.clone(), Budget::Residues(4_000)).unwrap();
        assert_ne!(sampler(1).epoch(0), sampler(1).epoch(1));
        assert_ne!(sampler(1).epoch(0), sampler(2).epoch(0));
        let padded: usize =
            sampler(1).epoch(0).iter().map(|b| b.len() * b.iter().map(|&r| lengths[r]).max().unwrap()).sum();
        let real: usize = lengths.iter().sum();
        assert!((padded as f64) < 1.1 * real as f64, "{padded} residues with padding, {real} without");
        assert!(Sampler::new(1, vec![], Budget::Residues(5)).is_err());
        assert!(Sampler::new(1, vec![3], Budget::Pairs(0)).is_err());
    }
}
