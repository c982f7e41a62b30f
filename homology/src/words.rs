//! Proteins that share words of `k` residues: a piece in common shows, however little of the rest does.
//!
//! Words in stretches of few letters, and words that very many proteins share, say nothing about kinship. Work is one
//! pass over an inverted index, in parallel.

use rayon::prelude::*;

use crate::align::OTHER;
use crate::is_new;

/// Pairs must share at least this many words, however short the proteins: fewer are chance.
const LEAST_SHARED: u32 = 4;
/// A word in more proteins than this, and in more than one of [`MOST_COMMON_FRACTION`], is ignored.
const MOST_COMMON: usize = 256;
const MOST_COMMON_FRACTION: usize = 50;

/// The informative words of a set of proteins. They are counted once and made again when they are asked for: with all of
/// them in memory a protein would take five bytes a residue.
#[derive(Debug)]
pub(crate) struct Words {
    k: usize,
    /// Whether a word says nothing.
    is_common: Vec<bool>,
    /// Of every protein how many informative words it has.
    n_of: Vec<u32>,
}

impl Words {
    /// Words of `k` standard residues (4 to 6) of every protein, given masked; common is what the first `n_library` have in common.
    pub(crate) fn new(masked: &[Vec<u8>], n_library: usize, k: usize) -> Self {
        let n_words = 20_usize.pow(k as u32);
        let mut count = vec![0_u32; n_words];
        for word in masked[..n_library].iter().flat_map(|protein| words(protein, k)) {
            count[word as usize] += 1;
        }
        let most = MOST_COMMON.max(n_library / MOST_COMMON_FRACTION);
        let is_common = count.into_iter().map(|n| n as usize > most).collect();
        let mut informative = Self { k, is_common, n_of: vec![] };
        informative.n_of = masked.par_iter().map(|protein| informative.of(protein).len() as u32).collect();
        informative
    }

    /// Of one protein, sorted, each word once.
    fn of(&self, masked: &[u8]) -> Vec<u32> {
        let mut words = words(masked, self.k);
        words.retain(|&word| !self.is_common[word as usize]);
        words
    }

    /// Pairs `(i, j)` that share this fraction of the words of the one with fewer, as [`super::Proteins::relatives`]
    /// gives them.
    pub(crate) fn pairs(
        &self,
        masked: &[Vec<u8>],
        left: impl Fn(usize) -> bool + Sync,
        right: impl Fn(usize) -> bool + Sync,
        containment: f64,
    ) -> Vec<(usize, usize)> {
        let n = masked.len();
        let (begin, proteins) = self.index(masked, &right);
        let of_protein = |shared: &mut Vec<u32>, i: usize| {
            let mut touched = Vec::new();
            for word in self.of(&masked[i]) {
                let [from, to] = [begin[word as usize], begin[word as usize + 1]].map(|at| at as usize);
                for &j in &proteins[from..to] {
                    if shared[j as usize] == 0 {
                        touched.push(j as usize);
                    }
                    shared[j as usize] += 1;
                }
            }
            touched.retain(|&j| {
                let n_shared = std::mem::take(&mut shared[j]);
                is_new(i, j, &left, &right)
                    && n_shared >= LEAST_SHARED
                    && self.contains(i, j, n_shared, containment)
            });
            touched.sort_unstable();
            touched.into_iter().map(|j| (i, j)).collect::<Vec<_>>()
        };
        let of_left = (0..n).into_par_iter().filter(|&i| left(i)).map_init(|| vec![0_u32; n], of_protein);
        of_left.collect::<Vec<_>>().concat()
    }

    /// The inverted index: proteins of every word in one array, and where those of each word begin.
    fn index(&self, masked: &[Vec<u8>], right: impl Fn(usize) -> bool) -> (Vec<u32>, Vec<u32>) {
        let n_words = self.is_common.len();
        let mut begin = vec![0_u32; n_words + 1];
        let indexed = || (0..masked.len()).filter(|&i| right(i));
        for word in indexed().flat_map(|i| self.of(&masked[i])) {
            begin[word as usize + 1] += 1;
        }
        for word in 0..n_words {
            begin[word + 1] += begin[word];
        }
        let mut next = begin.clone();
        let mut proteins = vec![0_u32; begin[n_words] as usize];
        for i in indexed() {
            for word in self.of(&masked[i]) {
                proteins[next[word as usize] as usize] = i as u32;
                next[word as usize] += 1;
            }
        }
        (begin, proteins)
    }

    fn contains(&self, i: usize, j: usize, n_shared: u32, containment: f64) -> bool {
        f64::from(n_shared) >= containment * f64::from(self.n_of[i].min(self.n_of[j]))
    }
}

/// The words of one protein, sorted.
fn words(masked: &[u8], k: usize) -> Vec<u32> {
    let plain = masked.windows(k).filter(|letters| !letters.contains(&OTHER));
    let mut words: Vec<u32> =
        plain.map(|letters| letters.iter().fold(0, |word, &l| word * 20 + u32::from(l))).collect();
    words.sort_unstable();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use crate::align::encode;
    use crate::complexity::mask;
    use crate::tests::{mutated, random};
    use datasets::rng;

    #[test]
    fn pairs_are_those_of_brute_force() {
        let mut rng = rng(7, "test", 0);
        let base = random(&mut rng, 83);
        let mut sequences: Vec<String> =
            (0..17).map(|i| mutated(&mut rng, &base[i..], 0.4 + 0.033 * i as f64)).collect();
        sequences.push(random(&mut rng, 41) + &base[..41]);
        let set = |s: &String| -> BTreeSet<Vec<u8>> { s.as_bytes().windows(4).map(<[u8]>::to_vec).collect() };
        let mut want = Vec::new();
        for i in 0..18 {
            for j in i + 1..18 {
                let (a, b) = (set(&sequences[i]), set(&sequences[j]));
                let n_shared = a.intersection(&b).count();
                if n_shared >= 4 && n_shared as f64 >= 0.3 * a.len().min(b.len()) as f64 {
                    want.push((i, j));
                }
            }
        }
        assert!(!want.is_empty() && want.len() < 153, "{}", want.len());
        let masked: Vec<Vec<u8>> = sequences.iter().map(|s| mask(&encode(s))).collect();
        let words = Words::new(&masked, masked.len(), 4);
        assert_eq!(words.pairs(&masked, |_| true, |_| true, 0.3), want);
        let (left, right) = (|i: usize| i < 5, |i: usize| i >= 5);
        let across: Vec<_> = want.iter().copied().filter(|&(i, j)| left(i) && right(j)).collect();
        assert_eq!(words.pairs(&masked, left, right, 0.3), across);
    }
}
