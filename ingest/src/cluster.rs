//! Homology clusters: proteins that share words of `k` residues, joined transitively.
//!
//! Containment of a pair is the number of shared words over the number of words of the protein that has fewer. Words
//! of fewer than three different letters and words that too many proteins share say nothing about kinship and count
//! for neither. Work is one pass over an inverted index, in parallel; pairs come out in the order of the proteins, so
//! the clusters are the same for every thread count.

use rayon::prelude::*;

/// Pairs must share at least this many words, however short the proteins: a single word is chance.
const LEAST_SHARED: u32 = 4;
/// A word in more proteins than this, and in more than one of `MOST_COMMON_FRACTION`, is ignored.
const MOST_COMMON: usize = 256;
const MOST_COMMON_FRACTION: usize = 50;

/// The informative words of a set of proteins.
#[derive(Debug)]
pub(crate) struct Words {
    /// Per protein, sorted, each once.
    of: Vec<Vec<u32>>,
    n_words: usize,
}

impl Words {
    /// Words of `k` standard residues (4 to 6) of every sequence.
    pub(crate) fn new<S: AsRef<str> + Sync>(sequences: &[S], k: usize) -> Self {
        let n_words = 20_usize.pow(k as u32);
        let mut of: Vec<Vec<u32>> = sequences.par_iter().map(|s| words(s.as_ref().as_bytes(), k)).collect();
        let mut count = vec![0_u32; n_words];
        for &word in of.iter().flatten() {
            count[word as usize] += 1;
        }
        let most = MOST_COMMON.max(sequences.len() / MOST_COMMON_FRACTION);
        of.par_iter_mut().for_each(|words| words.retain(|&w| count[w as usize] as usize <= most));
        Self { of, n_words }
    }

    /// Pairs `(i, j)`, one of `left` and the other of `right`, whose containment reaches the threshold; sorted.
    /// `left` and `right` say of every protein whether it belongs to them.
    pub(crate) fn pairs(
        &self,
        left: impl Fn(usize) -> bool + Sync,
        right: impl Fn(usize) -> bool + Sync,
        containment: f64,
    ) -> Vec<(usize, usize)> {
        let n = self.of.len();
        // The inverted index, word → proteins of `right`, as one array with offsets.
        let mut begin = vec![0_u32; self.n_words + 1];
        let indexed = || (0..n).filter(|&i| right(i));
        for &word in indexed().flat_map(|i| &self.of[i]) {
            begin[word as usize + 1] += 1;
        }
        for word in 0..self.n_words {
            begin[word + 1] += begin[word];
        }
        let mut next = begin.clone();
        let mut proteins = vec![0_u32; begin[self.n_words] as usize];
        for i in indexed() {
            for &word in &self.of[i] {
                proteins[next[word as usize] as usize] = i as u32;
                next[word as usize] += 1;
            }
        }
        let of_protein = |shared: &mut Vec<u32>, i: usize| {
            let mut touched = Vec::new();
            for &word in &self.of[i] {
                let [from, to] = [begin[word as usize], begin[word as usize + 1]].map(|at| at as usize);
                for &j in &proteins[from..to] {
                    if shared[j as usize] == 0 {
                        touched.push(j as usize);
                    }
                    shared[j as usize] += 1;
                }
            }
            let mut found = Vec::new();
            for &j in &touched {
                let fewer = self.of[i].len().min(self.of[j].len());
                let n_shared = std::mem::take(&mut shared[j]);
                // Of a pair that is in both sets both ways only one is reported.
                let is_new = i < j || (i != j && !(left(j) && right(i)));
                if is_new && n_shared >= LEAST_SHARED && f64::from(n_shared) >= containment * fewer as f64 {
                    found.push((i, j));
                }
            }
            found.sort_unstable();
            found
        };
        let of_left: Vec<Vec<(usize, usize)>> =
            (0..n).into_par_iter().filter(|&i| left(i)).map_init(|| vec![0_u32; n], of_protein).collect();
        of_left.concat()
    }
}

/// The words of one sequence, sorted, each once.
fn words(sequence: &[u8], k: usize) -> Vec<u32> {
    let code = |letter: &u8| datasets::residue::LETTERS[..20].iter().position(|l| l == letter);
    let codes: Vec<Option<usize>> = sequence.iter().map(code).collect();
    let mut words: Vec<u32> = codes
        .windows(k)
        .filter_map(|window| {
            let letters = window.iter().try_fold(0_u32, |seen, c| c.map(|c| seen | 1 << c))?;
            let word = window.iter().flatten().fold(0, |word, &c| word * 20 + c as u32);
            (letters.count_ones() >= 3).then_some(word)
        })
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Connected components of `n` proteins under pairs: per protein the smallest index of its component.
pub(crate) fn components(n: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
    let mut parent: Vec<usize> = (0..n).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    for &(i, j) in pairs {
        let (a, b) = (root(&mut parent, i), root(&mut parent, j));
        // The smaller index wins, whatever the order of the pairs.
        let (low, high) = (a.min(b), a.max(b));
        parent[high] = low;
    }
    (0..n).map(|i| root(&mut parent, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use datasets::rng;
    use rand::Rng;

    fn random(rng: &mut impl Rng, length: usize) -> Vec<u8> {
        (0..length).map(|_| datasets::residue::LETTERS[(rng.next_u32() % 20) as usize]).collect()
    }

    fn mutated(rng: &mut impl Rng, sequence: &[u8], identity: f64) -> String {
        let keep = (identity * f64::from(u32::MAX)) as u32;
        let letters =
            sequence.iter().map(|&l| if rng.next_u32() < keep { l } else { random(rng, 1)[0] }).collect();
        String::from_utf8(letters).unwrap()
    }

    #[test]
    fn pairs_are_those_of_brute_force() {
        let mut rng = rng(7, "test", 0);
        let base = random(&mut rng, 83);
        let sequences: Vec<String> =
            (0..17).map(|i| mutated(&mut rng, &base, 0.5 + 0.03 * f64::from(i))).collect();
        let found = Words::new(&sequences, 4).pairs(|_| true, |_| true, 0.3);
        let set = |s: &String| -> BTreeSet<Vec<u8>> {
            let is_plain = |w: &&[u8]| w.iter().collect::<BTreeSet<_>>().len() >= 3;
            s.as_bytes().windows(4).filter(is_plain).map(<[u8]>::to_vec).collect()
        };
        let mut want = Vec::new();
        for i in 0..17 {
            for j in i + 1..17 {
                let (a, b) = (set(&sequences[i]), set(&sequences[j]));
                let shared = a.intersection(&b).count();
                if shared >= 4 && shared as f64 >= 0.3 * a.len().min(b.len()) as f64 {
                    want.push((i, j));
                }
            }
        }
        assert!(!want.is_empty() && want.len() < 136, "{}", want.len());
        assert_eq!(found, want);
        let (left, right) = (|i: usize| i < 5, |i: usize| i >= 5);
        let across: Vec<_> = want.iter().copied().filter(|&(i, j)| left(i) && right(j)).collect();
        assert_eq!(Words::new(&sequences, 4).pairs(left, right, 0.3), across);
    }

    #[test]
    fn families_join_and_strangers_do_not() {
        let mut rng = rng(11, "test", 0);
        let (n_families, n_members) = (23, 7);
        let mut sequences = Vec::new();
        for family in 0..n_families {
            let base = random(&mut rng, 70 + 13 * family);
            for member in 0..n_members {
                // Identity to the ancestor from 0.95 down to 0.77: between members from 0.9 down to 0.6.
                sequences.push(mutated(&mut rng, &base, 0.95 - 0.03 * member as f64));
            }
        }
        let pairs = Words::new(&sequences, 5).pairs(|_| true, |_| true, 0.06);
        let family = |i: usize| i / n_members;
        assert!(pairs.iter().all(|&(i, j)| family(i) == family(j)), "strangers joined");
        let component = components(sequences.len(), &pairs);
        let joined = (0..sequences.len()).filter(|&i| component[i] == family(i) * n_members).count();
        assert!(joined as f64 >= 0.97 * sequences.len() as f64, "{joined} of {}", sequences.len());
    }

    #[test]
    fn components_do_not_depend_on_the_order_of_pairs() {
        let mut pairs = vec![(5, 6), (1, 2), (2, 6), (8, 9)];
        let want = components(11, &pairs);
        assert_eq!(want, [0, 1, 1, 3, 4, 1, 1, 7, 8, 8, 10]);
        pairs.reverse();
        assert_eq!(components(11, &pairs), want);
    }
}
