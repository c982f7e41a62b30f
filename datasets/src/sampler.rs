//! Which records make which batch: deterministic, by length, nothing dropped.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::pack::best_fit_decreasing;
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
    /// This many residues one behind the other, without padding: a packed line.
    Packed(usize),
}

impl Budget {
    fn size(self) -> usize {
        match self {
            Budget::Residues(size) | Budget::Pairs(size) | Budget::Packed(size) => size,
        }
    }

    /// What a row of this length takes of it.
    fn cost(self, length: usize) -> usize {
        match self {
            Budget::Residues(_) | Budget::Packed(_) => length,
            Budget::Pairs(_) => length * length,
        }
    }

    fn holds(self, rows: usize, longest: usize) -> bool {
        rows * self.cost(longest) <= self.size()
    }

    /// # Errors
    /// When it is 0.
    pub(crate) fn check(self) -> Result<Self, Error> {
        match self.size() {
            0 => Err(Error::Batch("a batch must hold at least one residue".into())),
            _ => Ok(self),
        }
    }

    /// The batches of records of these lengths, by number: each record once, in random order. A record that fills the
    /// budget is a batch of its own, also when it is longer than the budget.
    pub(crate) fn batches(self, lengths: &[usize], rng: &mut ChaCha8Rng) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.shuffle(rng);
        let mut batches = match self {
            Budget::Packed(capacity) => {
                let shuffled: Vec<usize> = order.iter().map(|&record| lengths[record]).collect();
                let lines = best_fit_decreasing(&shuffled, capacity).into_iter();
                lines.map(|line| line.into_iter().map(|at| order[at]).collect()).collect()
            }
            Budget::Residues(_) | Budget::Pairs(_) => self.by_length(lengths, &mut order),
        };
        batches.shuffle(rng);
        batches
    }

    /// Sorts pools of records by length and cuts them into batches.
    fn by_length(self, lengths: &[usize], order: &mut [usize]) -> Vec<Vec<usize>> {
        let (mut batches, mut rest) = (vec![], order);
        while !rest.is_empty() {
            let (pool, later) = rest.split_at_mut(self.pool(lengths, rest));
            pool.sort_by_key(|&record| lengths[record]);
            batches.extend(self.cut(lengths, pool));
            rest = later;
        }
        batches
    }

    /// How many of the next records make about [`POOL`] batches.
    fn pool(self, lengths: &[usize], order: &[usize]) -> usize {
        let mut sum = 0;
        for (at, &record) in order.iter().enumerate() {
            sum += self.cost(lengths[record]);
            if sum > POOL * self.size() {
                return at + 1;
            }
        }
        order.len()
    }

    /// Cuts records sorted by length into batches within the budget.
    fn cut(self, lengths: &[usize], sorted: &[usize]) -> Vec<Vec<usize>> {
        let mut batches: Vec<Vec<usize>> = vec![];
        for &record in sorted {
            match batches.last_mut() {
                Some(batch) if self.holds(batch.len() + 1, lengths[record]) => batch.push(record),
                _ => batches.push(vec![record]),
            }
        }
        batches
    }
}

/// Where a run stands: the batch that comes next. Three integers are all that a resumed run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// 0-based epoch.
    pub epoch: u64,
    /// 0-based window of a [`Stream`](crate::stream::Stream) in the epoch; a [`Sampler`] has one.
    pub window: u64,
    /// 0-based batch in the window. Beyond its last one, batches are counted on in the windows that follow.
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
        Ok(Self { seed, lengths, budget: budget.check()? })
    }

    /// The batches of an epoch, as indices of records.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        self.budget.batches(&self.lengths, &mut rng(self.seed, "sampler", epoch))
    }

    /// Batches of epochs `0..epochs`: the number of steps of a run.
    pub fn total(&self, epochs: u64) -> u64 {
        (0..epochs).map(|epoch| self.epoch(epoch).len() as u64).sum()
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
            lengths in prop::collection::vec(1usize..90, 1..300), size in 20usize..200, kind in 0..3, seed: u64
        ) {
            let budget =
                [Budget::Residues(size), Budget::Pairs(size * 20), Budget::Packed(size)][kind as usize];
            let sampler = Sampler::new(seed, lengths.clone(), budget).unwrap();
            let batches = sampler.epoch(3);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let of = batch.iter().map(|&r| lengths[r]);
                let fits = match budget {
                    Budget::Packed(size) => of.sum::<usize>() <= size,
                    _ => budget.holds(batch.len(), of.max().unwrap()),
                };
                prop_assert!(batch.len() == 1 || fits);
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
