//! Clusters in a time that grows with the number of proteins: a cascade of levels, each among the centres of the one
//! before.
//!
//! At a level pairs are those that a word in common has led to ([`super::sketch`]) and that an alignment near the word's
//! diagonal shows to be as alike as the level asks; as few proteins as it takes become centres, and the others join them.
//! Neither the order of the input nor the number of threads changes a cluster.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::align::Alignment;
use crate::diagonal::{banded, ungapped};
use crate::sketch::{Ranked, Seed, Words, seeds};
use crate::{evalue, least_score};

/// Diagonals of a pair that are looked at.
const MOST_DIAGONALS: usize = 4;
/// A run without gaps is worth an alignment when it scores so much of what the E-value asks of one.
pub(crate) const RUN: f64 = 0.7;
/// What is so much less alike without gaps than a level asks is not aligned with them.
const FAR: f64 = 0.15;

/// What a protein and the centre of its cluster have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Least fraction of equal residues among the aligned.
    pub identity: f64,
    /// Least fraction of the longer protein that is aligned.
    pub coverage: f64,
    /// Highest E-value, in the space of all residues.
    pub evalue: f64,
}

impl Level {
    fn accepts(self, proteins: &Ranked, (longer, shorter): (u32, u32), found: Alignment) -> bool {
        let lengths = (proteins.of(longer).len() as f64, proteins.of(shorter).len() as f64);
        found.n_equal as f64 >= self.identity * found.n_pairs as f64
            && found.n_pairs as f64 >= self.coverage * lengths.0
            && evalue(lengths.1, proteins.n_residues() as f64, found.score as f64) <= self.evalue
    }
}

/// The words that relatives of this identity share (measured: docs/benchmarks.md), and what is worth an alignment.
fn words(proteins: &Ranked, identity: f64, evalue: f64) -> Words {
    let n_residues = proteins.n_residues() as f64;
    let needed = least_score(n_residues / proteins.len().max(1) as f64, n_residues, evalue);
    let run = (RUN * needed) as i32;
    match identity {
        i if i >= 0.8 => Words { places: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], n: 20, run },
        i if i >= 0.5 => Words { places: &[0, 1, 2, 3, 4, 5, 6, 7, 8], n: 40, run },
        _ => Words { places: &[0, 1, 2, 4, 5, 7, 9, 10], n: 60, run },
    }
}

/// Proteins on their way down the cascade.
pub struct Cascade {
    proteins: Ranked,
    /// Of every number that of its centre.
    centre: Vec<u32>,
}

impl Cascade {
    /// Every protein is a centre. Proteins are given as letters of [`super::encode`].
    pub fn new<T: AsRef<[u8]> + Sync>(proteins: &[T]) -> Self {
        let proteins = Ranked::new(proteins);
        Self { centre: (0..proteins.len() as u32).collect(), proteins }
    }

    /// One level further down: centres join others.
    pub fn descend(&mut self, level: Level) {
        let Self { proteins, centre } = self;
        let words = words(proteins, level.identity, level.evalue);
        let seeds = seeds(proteins, &open(centre), &words);
        let pairs: Vec<&[Seed]> = seeds.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).collect();
        let found: Vec<(u32, u32)> = pairs
            .par_iter()
            .filter(|seeds| alike(proteins, seeds, level))
            .map(|s| (s[0].0, s[0].1))
            .collect();
        let joined = cover(proteins.len(), &found);
        centre.iter_mut().for_each(|of| *of = joined[*of as usize]);
    }

    /// Of every protein the one at the centre of its cluster, both by their places in the input.
    pub fn centres(&self) -> Vec<usize> {
        let places = &self.proteins.places;
        let mut centres = vec![0; places.len()];
        for (&place, &of) in places.iter().zip(&self.centre) {
            centres[place as usize] = places[of as usize] as usize;
        }
        centres
    }
}

/// The centres, ascending.
fn open(centre: &[u32]) -> Vec<u32> {
    (0..centre.len() as u32).filter(|&i| centre[i as usize] == i).collect()
}

/// Whether a pair is as alike as the level asks, on the best of its diagonals or near it.
fn alike(proteins: &Ranked, seeds: &[Seed], level: Level) -> bool {
    let (longer, shorter, _) = seeds[0];
    let (a, b) = (proteins.of(longer), proteins.of(shorter));
    if (b.len() as f64) < level.coverage * a.len() as f64 {
        return false;
    }
    let on = seeds.iter().take(MOST_DIAGONALS).map(|&(_, _, diagonal)| (ungapped(a, b, diagonal), diagonal));
    let Some((found, diagonal)) = on.max_by_key(|(found, diagonal)| (found.score, Reverse(*diagonal))) else {
        return false;
    };
    let is_far = (found.n_equal as f64) < (level.identity - FAR) * found.n_pairs as f64;
    level.accepts(proteins, (longer, shorter), found)
        || (!is_far && level.accepts(proteins, (longer, shorter), banded(a, b, diagonal)))
}

/// Of `n` proteins the centre that each joins: the protein with most relatives that have no centre yet is the next one,
/// of equals that with the lowest number.
fn cover(n: usize, pairs: &[(u32, u32)]) -> Vec<u32> {
    let mut begin = vec![0_usize; n + 1];
    for &(a, b) in pairs {
        begin[a as usize + 1] += 1;
        begin[b as usize + 1] += 1;
    }
    for i in 0..n {
        begin[i + 1] += begin[i];
    }
    let mut next = begin.clone();
    let mut relatives = vec![0_u32; 2 * pairs.len()];
    for (i, j) in pairs.iter().flat_map(|&(a, b)| [(a, b), (b, a)]) {
        relatives[next[i as usize]] = j;
        next[i as usize] += 1;
    }
    let of = |i: u32| &relatives[begin[i as usize]..begin[i as usize + 1]];
    let mut centre: Vec<Option<u32>> = vec![None; n];
    let mut heap: BinaryHeap<(usize, Reverse<u32>)> =
        (0..n as u32).map(|i| (of(i).len(), Reverse(i))).collect();
    while let Some((n_open, Reverse(i))) = heap.pop() {
        if centre[i as usize].is_some() {
            continue;
        }
        let still_open = of(i).iter().filter(|&&j| centre[j as usize].is_none()).count();
        if still_open < n_open {
            heap.push((still_open, Reverse(i)));
            continue;
        }
        centre[i as usize] = Some(i);
        of(i).iter().for_each(|&j| _ = centre[j as usize].get_or_insert(i));
    }
    (0..).zip(centre).map(|(i, of)| of.unwrap_or(i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;
    use crate::tests::{mutated, random};

    use datasets::rng;
    use rand::Rng;

    const LEVELS: [Level; 3] = [
        Level { identity: 0.9, coverage: 0.8, evalue: 1e-3 },
        Level { identity: 0.5, coverage: 0.8, evalue: 1e-3 },
        Level { identity: 0.3, coverage: 0.8, evalue: 1e-3 },
    ];

    /// 31 families of a founder and relatives of falling identity, each with a piece that is missing.
    fn families() -> Vec<Vec<u8>> {
        let mut rng = rng(17, "test", 0);
        let mut proteins = Vec::new();
        for family in 0..31 {
            let founder = random(&mut rng, 110 + 7 * family);
            proteins.push(encode(&founder));
            for identity in [0.97, 0.95, 0.75, 0.7] {
                let mut member = mutated(&mut rng, &founder, identity);
                let at = 20 + rng.next_u32() as usize % 70;
                member.replace_range(at..at + 3, "");
                proteins.push(encode(&member));
            }
        }
        proteins
    }

    fn clusters(proteins: &[Vec<u8>]) -> Vec<Vec<usize>> {
        let mut cascade = Cascade::new(proteins);
        let level = |level: &Level| {
            cascade.descend(*level);
            cascade.centres()
        };
        LEVELS.iter().map(level).collect()
    }

    #[test]
    fn families_are_found_level_by_level() {
        let proteins = families();
        let levels = clusters(&proteins);
        for (level, centres) in levels.iter().enumerate() {
            assert!(
                (0..proteins.len()).all(|i| centres[i] / 5 == i / 5 && centres[centres[i]] == centres[i])
            );
            let with_founder =
                |nth: usize| (0..31).filter(|f| centres[5 * f + nth] == centres[5 * f]).count();
            let counts: [usize; 4] = std::array::from_fn(|nth| with_founder(nth + 1));
            match level {
                0 => assert!(counts[0] >= 30 && counts[2] + counts[3] == 0, "{counts:?}"),
                _ => assert!(counts[..2] == [31, 31] && counts[2..].iter().all(|&n| n >= 24), "{counts:?}"),
            }
        }
    }

    #[test]
    fn neither_order_nor_threads_change_a_cluster() {
        let proteins = families();
        let n = proteins.len();
        let want = clusters(&proteins);
        let turned: Vec<Vec<u8>> = proteins.iter().rev().cloned().collect();
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| clusters(&turned));
            for (found, want) in found.iter().zip(&want) {
                assert!((0..n).all(|i| n - 1 - found[n - 1 - i] == want[i]));
            }
        }
    }

    #[test]
    fn the_one_with_most_relatives_is_the_centre() {
        assert_eq!(cover(7, &[(0, 1), (1, 2), (1, 3), (4, 5)]), [1, 1, 1, 1, 4, 4, 6]);
        assert_eq!(cover(4, &[(0, 1), (1, 2), (2, 3)]), [1, 1, 1, 3]);
    }
}
