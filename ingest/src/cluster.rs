//! Homology clusters: proteins that share words of `k` residues, joined transitively.
//!
//! Two proteins join when one of two things holds.
//! * Containment: the shared words are a large fraction of the words of the protein that has fewer. It sees relatives
//!   with gaps, down to about 70 % identity at `k` = 5 (a word survives with probability identity⁵).
//! * Identity: on the diagonal where most shared words lie, at least [`LEAST_IDENTITY`] of the shorter protein's
//!   residues are equal. It sees distant relatives, and tells them from strangers that only share a motif or a repeat.
//!
//! Words of fewer than three different letters, and words that very many proteins share, say nothing about kinship and
//! count for neither. Work is one pass over an inverted index, in parallel; pairs come out in the order of the
//! proteins, so the clusters are the same for every thread count.

use rayon::prelude::*;

/// Pairs must share at least this many words, however short the proteins: fewer are chance.
const LEAST_SHARED: u32 = 3;
/// Equal residues on the best diagonal, of the shorter protein; strangers have 0.06, short strangers with a motif in
/// common up to 0.3.
const LEAST_IDENTITY: f64 = 0.35;
/// A word in more proteins than this, and in more than one of [`MOST_COMMON_FRACTION`], is ignored.
const MOST_COMMON: usize = 256;
const MOST_COMMON_FRACTION: usize = 50;

/// The informative words of a set of proteins.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    sequences: Vec<&'a [u8]>,
    /// Per protein: (word, where it is first), sorted by word, each word once.
    of: Vec<Vec<(u32, u32)>>,
    n_words: usize,
}

impl<'a> Words<'a> {
    /// Words of `k` standard residues (4 to 6) of every sequence.
    pub(crate) fn new(sequences: &'a [impl AsRef<str> + Sync], k: usize) -> Self {
        let n_words = 20_usize.pow(k as u32);
        let sequences: Vec<&[u8]> = sequences.iter().map(|s| s.as_ref().as_bytes()).collect();
        let mut of: Vec<Vec<(u32, u32)>> = sequences.par_iter().map(|s| words(s, k)).collect();
        let mut count = vec![0_u32; n_words];
        for &(word, _) in of.iter().flatten() {
            count[word as usize] += 1;
        }
        let most = MOST_COMMON.max(sequences.len() / MOST_COMMON_FRACTION);
        of.par_iter_mut().for_each(|words| words.retain(|&(w, _)| count[w as usize] as usize <= most));
        Self { sequences, of, n_words }
    }

    /// Pairs `(i, j)` of relatives, `i` of `left` and `j` of `right`, sorted; of a pair that is in both sets both ways
    /// only `i < j`. `left` and `right` say of every protein whether it belongs to them.
    pub(crate) fn pairs(
        &self,
        left: impl Fn(usize) -> bool + Sync,
        right: impl Fn(usize) -> bool + Sync,
        containment: f64,
    ) -> Vec<(usize, usize)> {
        let n = self.of.len();
        let (begin, proteins) = self.index(&right);
        let of_protein = |shared: &mut Vec<u32>, i: usize| {
            let mut touched = Vec::new();
            for &(word, _) in &self.of[i] {
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
                let is_new = i < j || (i != j && !(left(j) && right(i)));
                is_new && n_shared >= LEAST_SHARED && self.are_related(i, j, n_shared, containment)
            });
            touched.sort_unstable();
            touched.into_iter().map(|j| (i, j)).collect::<Vec<_>>()
        };
        let of_left = (0..n).into_par_iter().filter(|&i| left(i)).map_init(|| vec![0_u32; n], of_protein);
        of_left.collect::<Vec<_>>().concat()
    }

    /// The inverted index: proteins of every word in one array, and where those of each word begin.
    fn index(&self, right: impl Fn(usize) -> bool) -> (Vec<u32>, Vec<u32>) {
        let mut begin = vec![0_u32; self.n_words + 1];
        let indexed = || (0..self.of.len()).filter(|&i| right(i));
        for &(word, _) in indexed().flat_map(|i| &self.of[i]) {
            begin[word as usize + 1] += 1;
        }
        for word in 0..self.n_words {
            begin[word + 1] += begin[word];
        }
        let mut next = begin.clone();
        let mut proteins = vec![0_u32; begin[self.n_words] as usize];
        for i in indexed() {
            for &(word, _) in &self.of[i] {
                proteins[next[word as usize] as usize] = i as u32;
                next[word as usize] += 1;
            }
        }
        (begin, proteins)
    }

    fn are_related(&self, i: usize, j: usize, n_shared: u32, containment: f64) -> bool {
        let fewer = self.of[i].len().min(self.of[j].len());
        f64::from(n_shared) >= containment * fewer as f64 && n_shared > LEAST_SHARED
            || self.identity(i, j) >= LEAST_IDENTITY
    }

    /// Equal residues on the diagonal with most shared words (of equals, the best), as a fraction of the shorter protein.
    fn identity(&self, i: usize, j: usize) -> f64 {
        let (a, b) = (self.sequences[i], self.sequences[j]);
        // Diagonal d holds a[x], b[x + d − |a|].
        let mut votes: Vec<usize> = Vec::new();
        let (mut left, mut right) = (self.of[i].iter().peekable(), self.of[j].iter().peekable());
        while let (Some(&&(v, x)), Some(&&(w, y))) = (left.peek(), right.peek()) {
            if v <= w {
                left.next();
            }
            if w <= v {
                right.next();
            }
            if v == w {
                votes.push(y as usize + a.len() - x as usize);
            }
        }
        votes.sort_unstable();
        // Every diagonal with most words is tried: a choice among equals would depend on which protein comes first.
        let most = votes.chunk_by(|x, y| x == y).map(<[usize]>::len).max().unwrap_or(0);
        let best = votes.chunk_by(|x, y| x == y).filter(|run| run.len() == most);
        let equal = |diagonal: usize| {
            let (skip_a, skip_b) = (a.len().saturating_sub(diagonal), diagonal.saturating_sub(a.len()));
            a[skip_a..].iter().zip(&b[skip_b..]).filter(|(x, y)| x == y).count()
        };
        let equal = best.map(|run| equal(run[0])).max().unwrap_or(0);
        equal as f64 / a.len().min(b.len()) as f64
    }
}

/// The words of one sequence and where each is first, sorted by word.
fn words(sequence: &[u8], k: usize) -> Vec<(u32, u32)> {
    let code = |letter: &u8| datasets::residue::LETTERS[..20].iter().position(|l| l == letter);
    let codes: Vec<Option<usize>> = sequence.iter().map(code).collect();
    let word = |(at, window): (usize, &[Option<usize>])| {
        let letters = window.iter().try_fold(0_u32, |seen, c| c.map(|c| seen | 1 << c))?;
        let word = window.iter().flatten().fold(0, |word, &c| word * 20 + c as u32);
        (letters.count_ones() >= 3).then_some((word, at as u32))
    };
    let mut words: Vec<(u32, u32)> = codes.windows(k).enumerate().filter_map(word).collect();
    words.sort_unstable();
    words.dedup_by_key(|w| w.0);
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
        // Another start each, so that most pairs lie off the main diagonal; two that share only half.
        let mut sequences: Vec<String> =
            (0..17).map(|i| mutated(&mut rng, &base[i..], 0.4 + 0.033 * i as f64)).collect();
        sequences.push(String::from_utf8([random(&mut rng, 41), base[..41].to_vec()].concat()).unwrap());
        let set = |s: &String| -> BTreeSet<Vec<u8>> {
            let is_plain = |w: &&[u8]| w.iter().collect::<BTreeSet<_>>().len() >= 3;
            s.as_bytes().windows(4).filter(is_plain).map(<[u8]>::to_vec).collect()
        };
        let identity = |a: &str, b: &str, d: isize| {
            let at = |x: usize| usize::try_from(x as isize + d).ok().and_then(|y| b.as_bytes().get(y));
            a.bytes().enumerate().filter(|&(x, l)| at(x) == Some(&l)).count()
        };
        let mut want = Vec::new();
        for i in 0..18 {
            for j in i + 1..18 {
                let (a, b) = (set(&sequences[i]), set(&sequences[j]));
                let shared: Vec<&Vec<u8>> = a.intersection(&b).collect();
                let find = |s: &str, w: &[u8]| s.as_bytes().windows(4).position(|v| v == w).unwrap() as isize;
                let mut votes: Vec<isize> =
                    shared.iter().map(|w| find(&sequences[j], w) - find(&sequences[i], w)).collect();
                votes.sort_unstable();
                let count = |d: &isize| votes.iter().filter(|e| *e == d).count();
                let most = votes.iter().map(count).max();
                let best = votes.iter().filter(|d| Some(count(d)) == most);
                let equal = best.map(|d| identity(&sequences[i], &sequences[j], *d)).max().unwrap_or(0);
                let alike = equal as f64 / sequences[i].len().min(sequences[j].len()) as f64 >= 0.35;
                let contained = shared.len() > 3 && shared.len() as f64 >= 0.3 * a.len().min(b.len()) as f64;
                if shared.len() >= 3 && (contained || alike) {
                    want.push((i, j));
                }
            }
        }
        assert!(!want.is_empty() && want.len() < 153, "{}", want.len());
        let words = Words::new(&sequences, 4);
        assert_eq!(words.pairs(|_| true, |_| true, 0.3), want);
        let (left, right) = (|i: usize| i < 5, |i: usize| i >= 5);
        let across: Vec<_> = want.iter().copied().filter(|&(i, j)| left(i) && right(j)).collect();
        assert_eq!(words.pairs(left, right, 0.3), across);
    }

    /// Clusters ask of every pair (i, j), i < j; the audit asks of (held out, train). Both must hear the same.
    #[test]
    fn kinship_does_not_depend_on_who_comes_first() {
        let mut rng = rng(5, "test", 0);
        // Two proteins with the same two blocks in another order: two diagonals with equally many words, of which only
        // one has further residues in common.
        let blocks: Vec<Vec<u8>> = (0..3).map(|_| random(&mut rng, 17)).collect();
        let join = |order: &[usize]| -> String {
            order.iter().map(|&b| String::from_utf8(blocks[b].clone()).unwrap()).collect()
        };
        let mut sequences = vec![join(&[0, 1, 2]), join(&[1, 0, 0]), join(&[2, 1, 0])];
        for identity in [0.3, 0.4, 0.5] {
            sequences.push(mutated(&mut rng, join(&[0, 1, 2]).as_bytes(), identity));
        }
        let n = sequences.len();
        let backward: Vec<String> = sequences.iter().rev().cloned().collect();
        let turn = |(i, j): (usize, usize)| (n - 1 - j, n - 1 - i);
        let mut turned: Vec<_> =
            Words::new(&backward, 4).pairs(|_| true, |_| true, 0.3).into_iter().map(turn).collect();
        turned.sort_unstable();
        assert_eq!(Words::new(&sequences, 4).pairs(|_| true, |_| true, 0.3), turned);
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
        let pairs = Words::new(&sequences, 5).pairs(|_| true, |_| true, 0.2);
        let family = |i: usize| i / n_members;
        assert!(pairs.iter().all(|&(i, j)| family(i) == family(j)), "strangers joined");
        let component = components(sequences.len(), &pairs);
        let joined = (0..sequences.len()).filter(|&i| component[i] == family(i) * n_members).count();
        assert_eq!(joined, sequences.len());
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
