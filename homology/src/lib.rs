//! Kinship: which proteins are relatives, by alignment or by words in common, found among all pairs.
//!
//! Kinship is symmetric: clustering asks of every pair (i, j), the audit of (held out, train), and both hear the same.
//! Where all pairs are too many, a [`Cascade`] leads to those that are asked.

mod align;
mod cascade;
mod complexity;
mod diagonal;
mod seed;
mod sketch;
mod words;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use align::encode;
use align::{Alignment, alignments, scores};
pub use cascade::{Cascade, Level};
use complexity::mask;
use seed::{Index, Slate, Text};
pub use sketch::mix;
use words::Words;

/// Karlin and Altschul's λ and K of BLOSUM62 with gaps of 11 + 1 a residue.
const LAMBDA: f64 = 0.267;
const K: f64 = 0.041;

/// Levels before relatives are looked for among the centres: identity of a member and its centre.
const LEVELS: [f64; 2] = [0.9, 0.5];
/// Least fraction of the longer of the two that is aligned.
pub const LEVEL_COVERAGE: f64 = 0.8;

/// Queries that walk through the index together.
const TOGETHER: usize = 64;

/// What makes two proteins relatives: an alignment that is significant, alike and long enough, or words in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kinship {
    /// Highest E-value of the local alignment, in the space of all residues of the tables.
    pub evalue: f64,
    /// Least fraction of equal residues among the aligned.
    pub identity: f64,
    /// Least fraction of the shorter protein that is aligned.
    pub coverage: f64,
    /// How thoroughly alignments are looked for: two words of four residues are similar from this BLOSUM62 score on.
    /// 13 misses one pair in thirty with E < 1e-3, 16 three in ten, in a quarter of the time (docs/lab-log.md).
    pub seed_score: i32,
    /// Residues of a word, 4 to 6.
    pub kmer: usize,
    /// Fraction of the words of the protein with fewer that the other has, too: enough by itself.
    pub containment: f64,
    /// Up to so many residues in all, every pair of proteins is looked at. Above, only published test proteins are held
    /// against everything, and a cascade leads to the relatives of the others (docs/data.md).
    pub exhaustive_residues: u64,
}

impl Default for Kinship {
    fn default() -> Self {
        Self {
            evalue: 1e-3,
            identity: 0.3,
            coverage: 0.5,
            seed_score: 16,
            kmer: 5,
            containment: 0.2,
            exhaustive_residues: 20_000_000,
        }
    }
}

/// Proteins among which relatives are looked for.
pub struct Proteins<'a> {
    rule: &'a Kinship,
    letters: Vec<Vec<u8>>,
    masked: Vec<Vec<u8>>,
    n_residues: f64,
    words: Words,
}

impl<'a> Proteins<'a> {
    /// Prepares normalised sequences.
    pub fn new(rule: &'a Kinship, sequences: &[impl AsRef<str> + Sync]) -> Self {
        let letters: Vec<Vec<u8>> = sequences.par_iter().map(|s| encode(s.as_ref())).collect();
        let n_residues = letters.iter().map(Vec::len).sum::<usize>() as f64;
        let masked: Vec<Vec<u8>> = letters.par_iter().map(|protein| mask(protein)).collect();
        let words = Words::new(&masked, rule.kmer);
        Self { rule, letters, masked, n_residues, words }
    }

    /// Pairs `(i, j)` of relatives, `i` of `left` and `j` of `right`, sorted; of a pair that is in both sets both ways
    /// only `i < j`. `left` and `right` say of every protein whether it belongs to them.
    pub fn relatives(
        &self,
        left: impl Fn(usize) -> bool + Sync,
        right: impl Fn(usize) -> bool + Sync,
    ) -> Vec<(usize, usize)> {
        let n_of = |side: &dyn Fn(usize) -> bool| (0..self.letters.len()).filter(|&i| side(i)).count();
        if n_of(&left) >= n_of(&right) {
            return self.found(&left, &right);
        }
        // The smaller side is indexed, and the pairs are turned round.
        let turn = |(j, i)| if left(j) && right(i) { (j, i) } else { (i, j) };
        let mut pairs: Vec<_> = self.found(&right, &left).into_iter().map(turn).collect();
        pairs.sort_unstable();
        pairs
    }

    /// As [`Proteins::relatives`], with an index of `right`.
    fn found(
        &self,
        left: &(impl Fn(usize) -> bool + Sync),
        right: &(impl Fn(usize) -> bool + Sync),
    ) -> Vec<(usize, usize)> {
        let all = 0..self.letters.len();
        let indexed = all.clone().filter(|&j| right(j)).map(|j| (j, self.text(j)));
        let index = Index::new(self.rule.seed_score, indexed);
        let queries: Vec<usize> = all.filter(|&i| left(i)).collect();
        let of_some = |slate: &mut Slate, some: &[usize]| {
            let texts: Vec<Text<'_>> = some.iter().map(|&i| self.text(i)).collect();
            let mut pairs = Vec::new();
            for (&i, mut candidates) in some.iter().zip(index.candidates(&texts, slate)) {
                candidates.retain(|&j| is_new(i, j, left, right));
                pairs.extend(self.kin(i, candidates).into_iter().map(|j| (i, j)));
            }
            pairs
        };
        let mut pairs = self.words.pairs(&self.masked, left, right, self.rule.containment);
        let aligned: Vec<_> = queries.par_chunks(TOGETHER).map_init(Slate::default, of_some).collect();
        pairs.extend(aligned.into_iter().flatten());
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Whether all pairs may be looked at.
    pub fn is_exhaustive(&self) -> bool {
        self.n_residues <= self.rule.exhaustive_residues as f64
    }

    /// Pairs of relatives that link proteins to clusters, sorted.
    ///
    /// They are all pairs of relatives where the rule allows to look for them. Of more residues they are all relatives
    /// of the proteins that `matters` speaks of, and for the others what a cascade of levels leads to: every protein and
    /// its centre, and relatives among the centres that share a word.
    pub fn links(&self, matters: impl Fn(usize) -> bool + Sync) -> Vec<(usize, usize)> {
        if self.is_exhaustive() {
            return self.relatives(|_| true, |_| true);
        }
        let mut cascade = Cascade::new(&self.letters);
        let mut pairs = Vec::new();
        for identity in LEVELS {
            cascade.descend(Level { identity, coverage: LEVEL_COVERAGE, evalue: self.rule.evalue });
            pairs.extend(cascade.centres().into_iter().enumerate().filter(|(i, centre)| i != centre));
        }
        let candidates = cascade.candidates(self.rule.identity, self.rule.evalue);
        let kin = |(i, others): (usize, Vec<usize>)| self.kin(i, others).into_iter().map(move |j| (i, j));
        pairs.extend(candidates.into_par_iter().flat_map_iter(kin).collect::<Vec<_>>());
        pairs.extend(self.relatives(|_| true, matters));
        pairs.iter_mut().for_each(|pair| *pair = (pair.0.min(pair.1), pair.0.max(pair.1)));
        pairs.par_sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Pairs `(i, j)`, `i` of `left` and `j` of `right`, sorted, whose alignment is significant, however far they have
    /// diverged. Everything is aligned with everything: 1,000 proteins with 10,000 of 250 residues take a minute of a core.
    pub fn significant(
        &self,
        left: impl Fn(usize) -> bool + Sync,
        right: impl Fn(usize) -> bool + Sync,
    ) -> Vec<(usize, usize)> {
        let all = 0..self.letters.len();
        let targets: Vec<usize> = all.clone().filter(|&j| right(j)).collect();
        let queries: Vec<usize> = all.filter(|&i| left(i)).collect();
        let of_one = |&i: &usize| {
            let mut found = self.homologs(i, targets.iter().copied().filter(|&j| j != i).collect());
            found.sort_unstable();
            found.into_iter().map(|j| (i, j)).collect::<Vec<_>>()
        };
        queries.par_iter().map(of_one).collect::<Vec<_>>().concat()
    }

    /// Those of the candidates that an alignment shows to be relatives of `i`.
    fn kin(&self, i: usize, candidates: Vec<usize>) -> Vec<usize> {
        let significant = self.homologs(i, candidates);
        let alignments = alignments(&self.letters[i], &self.letters_of(&significant));
        let is_kin = |a: &Alignment, j: usize| {
            a.n_equal as f64 >= self.rule.identity * a.n_pairs as f64
                && a.n_pairs as f64 >= self.rule.coverage * self.shorter(i, j)
        };
        significant.into_iter().zip(alignments).filter(|(j, a)| is_kin(a, *j)).map(|(j, _)| j).collect()
    }

    /// Those of the candidates whose alignment with `i` is significant, by ascending length.
    ///
    /// What one protein scores with the other read backwards, beyond what chance gives, comes from composition and
    /// periodicity, not from kinship, and is taken off (the reverse null model of Karplus et al. 2005).
    fn homologs(&self, i: usize, mut candidates: Vec<usize>) -> Vec<usize> {
        let query = &self.letters[i];
        candidates.sort_unstable_by_key(|&j| (self.letters[j].len(), j));
        let forward = scores(query, &self.letters_of(&candidates));
        let is_good = |&(j, score): &(usize, f64)| self.evalue(i, j, score) <= self.rule.evalue;
        let good: Vec<(usize, f64)> =
            candidates.into_iter().zip(forward.into_iter().map(|s| s as f64)).filter(is_good).collect();
        let backward: Vec<u8> = query.iter().rev().copied().collect();
        let numbers: Vec<usize> = good.iter().map(|g| g.0).collect();
        let backward = scores(&backward, &self.letters_of(&numbers));
        let corrected = |((j, score), backward): ((usize, f64), usize)| {
            let cells = query.len() as f64 * self.letters[j].len() as f64;
            (j, score - (backward as f64 - (K * cells).ln() / LAMBDA).max(0.0))
        };
        good.into_iter().zip(backward).map(corrected).filter(is_good).map(|(j, _)| j).collect()
    }

    fn text(&self, i: usize) -> Text<'_> {
        Text { letters: &self.letters[i], masked: &self.masked[i] }
    }

    fn letters_of(&self, numbers: &[usize]) -> Vec<&[u8]> {
        numbers.iter().map(|&j| self.letters[j].as_slice()).collect()
    }

    fn shorter(&self, i: usize, j: usize) -> f64 {
        self.letters[i].len().min(self.letters[j].len()) as f64
    }

    /// Alignments so good that chance gives between the shorter protein and all proteins together.
    fn evalue(&self, i: usize, j: usize, score: f64) -> f64 {
        evalue(self.shorter(i, j), self.n_residues, score)
    }
}

/// Alignments so good that chance gives between a protein of this length and so many residues.
fn evalue(length: f64, n_residues: f64, score: f64) -> f64 {
    K * length * n_residues * (-LAMBDA * score).exp()
}

/// The score that an alignment needs for this E-value.
fn least_score(length: f64, n_residues: f64, evalue: f64) -> f64 {
    (K * length * n_residues / evalue).ln() / LAMBDA
}

/// Whether the pair is to be looked at from `i`: of a pair that is in both sets both ways, only from the smaller number.
fn is_new(i: usize, j: usize, left: impl Fn(usize) -> bool, right: impl Fn(usize) -> bool) -> bool {
    i < j || (i != j && !(left(j) && right(i)))
}

/// Connected components of `n` proteins under pairs: per protein the smallest index of its component.
pub fn components(n: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
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

    use datasets::rng;
    use rand::Rng;

    const RULE: Kinship = Kinship {
        evalue: 1e-3,
        identity: 0.3,
        coverage: 0.5,
        seed_score: 14,
        kmer: 5,
        containment: 0.2,
        exhaustive_residues: u64::MAX,
    };

    pub(crate) fn random(rng: &mut impl Rng, length: usize) -> String {
        (0..length).map(|_| datasets::residue::LETTERS[(rng.next_u32() % 20) as usize] as char).collect()
    }

    pub(crate) fn mutated(rng: &mut impl Rng, sequence: &str, identity: f64) -> String {
        let keep = (identity * f64::from(u32::MAX)) as u32;
        let mut letter = |l| if rng.next_u32() < keep { String::from(l) } else { random(rng, 1) };
        sequence.chars().map(&mut letter).collect()
    }

    /// Families at about 60, 45 and 35 % identity with a gap in each member, and what an alignment of every pair says.
    #[test]
    fn pairs_are_those_that_aligning_everything_finds() {
        let mut rng = rng(7, "test", 0);
        let mut sequences = Vec::new();
        for family in 0..13 {
            let ancestor = random(&mut rng, 90 + 17 * family);
            for identity in [0.9, 0.75, 0.68, 0.6] {
                let mut member = mutated(&mut rng, &ancestor, identity);
                let at = 20 + rng.next_u32() as usize % 50;
                member.replace_range(at..at + 5, "");
                sequences.push(member);
            }
        }
        let rule = Kinship { containment: 1.0, seed_score: 13, ..RULE };
        let proteins = Proteins::new(&rule, &sequences);
        let n = sequences.len();
        let brute = |i: usize| {
            let mut relatives = proteins.kin(i, (i + 1..n).collect());
            relatives.sort_unstable();
            relatives.into_iter().map(move |j| (i, j))
        };
        let want: Vec<(usize, usize)> = (0..n).flat_map(brute).collect();
        assert!(want.len() > 60 && want.iter().all(|(i, j)| i / 4 == j / 4), "{}", want.len());
        let found = proteins.relatives(|_| true, |_| true);
        assert!(found.iter().all(|pair| want.contains(pair)));
        assert!(found.len() * 100 >= want.len() * 97, "{} of {}", found.len(), want.len());
        let (left, right) = (|i: usize| i % 4 == 1, |i: usize| i % 4 != 1);
        let is_across = |&(i, j): &(usize, usize)| left(i) != left(j);
        let turn = |(i, j): (usize, usize)| if left(i) { (i, j) } else { (j, i) };
        let mut across: Vec<_> = found.iter().copied().filter(is_across).map(turn).collect();
        across.sort_unstable();
        assert_eq!(proteins.relatives(left, right), across);
        // Backwards, every protein is asked about in another order.
        let backward: Vec<&String> = sequences.iter().rev().collect();
        let turn = |(i, j): (usize, usize)| (n - 1 - j, n - 1 - i);
        let mut turned: Vec<_> =
            Proteins::new(&rule, &backward).relatives(|_| true, |_| true).into_iter().map(turn).collect();
        turned.sort_unstable();
        assert_eq!(turned, found);
    }

    #[test]
    fn strangers_are_no_relatives_however_poor_their_letters() {
        let mut rng = rng(11, "test", 0);
        let mut poor = |letters: &[u8]| -> String {
            (0..150).map(|_| letters[rng.next_u32() as usize % letters.len()] as char).collect()
        };
        let sequences: Vec<String> = (0..40).map(|at| poor([&b"EK"[..], b"SGPQ", b"GN"][at % 3])).collect();
        assert_eq!(Proteins::new(&RULE, &sequences).relatives(|_| true, |_| true), []);
    }

    #[test]
    fn a_piece_in_common_is_kinship_by_words() {
        let mut rng = rng(13, "test", 0);
        let piece = random(&mut rng, 41);
        let sequences = [random(&mut rng, 120) + &piece, piece + &random(&mut rng, 130)];
        let is_kin =
            |rule: Kinship| !Proteins::new(&rule, &sequences).relatives(|_| true, |_| true).is_empty();
        assert!(is_kin(RULE));
        assert!(!is_kin(Kinship { containment: 0.5, ..RULE }));
        assert!(is_kin(Kinship { containment: 0.5, coverage: 0.2, ..RULE }));
    }

    /// Families, and what the cascade says where it may not look at all pairs: most links of all pairs, and every one of
    /// the proteins that matter.
    #[test]
    fn a_cascade_links_what_all_pairs_link() {
        let mut rng = rng(29, "test", 0);
        let mut sequences = Vec::new();
        for family in 0..23 {
            let founder = random(&mut rng, 90 + 13 * family);
            sequences.push(founder.clone());
            sequences.extend([0.95, 0.8, 0.6, 0.5].map(|identity| mutated(&mut rng, &founder, identity)));
        }
        let all = Proteins::new(&RULE, &sequences);
        let rule = Kinship { exhaustive_residues: 1_000, ..RULE };
        let few = Proteins::new(&rule, &sequences);
        let matters = |i: usize| i % 5 == 4;
        let links = few.links(matters);
        assert!(all.is_exhaustive() && !few.is_exhaustive());
        let (want, found) = (components(115, &all.links(matters)), components(115, &links));
        assert!((0..115).all(|i| found[i] / 5 == i / 5));
        let n_alike = want.iter().zip(&found).filter(|(a, b)| a == b).count();
        assert!(n_alike >= 113, "{n_alike}");
        let of_those =
            all.relatives(|_| true, |_| true).into_iter().filter(|&(i, j)| matters(i) || matters(j));
        assert!(of_those.clone().count() > 40 && of_those.into_iter().all(|pair| links.contains(&pair)));
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
