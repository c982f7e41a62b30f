//! Kinship: which proteins are relatives, by alignment or by words in common, found among all pairs.
//!
//! Kinship is symmetric: clustering asks of every pair (i, j), the audit of (held out, train), and both hear the same.
//! Where all pairs are too many, a [`Cascade`] leads to those that are asked.

mod align;
mod cascade;
mod complexity;
mod component;
mod diagonal;
mod places;
mod profile;
mod seed;
mod sketch;
mod words;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use align::encode;
use align::{Alignment, alignments, scores};
use cascade::RUN;
pub use cascade::{Cascade, Level};
use complexity::mask;
use component::Components;
pub use component::components;
pub use profile::WIDTH as PROFILE_WIDTH;
pub use sketch::mix;
use words::Words;

/// Karlin and Altschul's λ and K of BLOSUM62 with gaps of 11 + 1 a residue.
const LAMBDA: f64 = 0.267;
const K: f64 = 0.041;

/// Levels before relatives are looked for among the centres: identity of a member and its centre.
const LEVELS: [f64; 2] = [0.9, 0.5];
/// Least fraction of the longer of the two that is aligned.
pub const LEVEL_COVERAGE: f64 = 0.8;

/// Proteins that are aligned with their candidates before clusters are joined: at first few, since the first of a family
/// joins most of it.
const ROUND: usize = 64;
const MOST_IN_ROUND: usize = 4_096;

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
    /// Residues among which an alignment is significant.
    n_residues: f64,
    /// The first so many are the library.
    n_library: usize,
    words: Words,
}

impl<'a> Proteins<'a> {
    /// Prepares normalised sequences.
    pub fn new(rule: &'a Kinship, sequences: &[impl AsRef<str> + Sync]) -> Self {
        Self::with_library(rule, sequences, sequences.len())
    }

    /// As [`Proteins::new`], but that only the first `n` are a library: for [`Proteins::profiles`] the others are strangers to
    /// each other, and what is significant or common is a matter of the library alone.
    pub fn with_library(rule: &'a Kinship, sequences: &[impl AsRef<str> + Sync], n: usize) -> Self {
        let letters: Vec<Vec<u8>> = sequences.par_iter().map(|s| encode(s.as_ref())).collect();
        let n_residues = letters[..n].iter().map(Vec::len).sum::<usize>() as f64;
        let masked: Vec<Vec<u8>> = letters.par_iter().map(|protein| mask(protein)).collect();
        let words = Words::new(&masked, n, rule.kmer);
        Self { rule, n_library: n, letters, masked, n_residues, words }
    }

    /// Pairs `(i, j)` of relatives, `i` of `left` and `j` of `right`, sorted; of a pair that is in both sets both ways
    /// only `i < j`. `left` and `right` say of every protein whether it belongs to them.
    pub fn relatives(
        &self,
        left: impl Fn(usize) -> bool + Sync,
        right: impl Fn(usize) -> bool + Sync,
    ) -> Vec<(usize, usize)> {
        let sides = [&left as &(dyn Fn(usize) -> bool + Sync), &right]
            .map(|side| (0..self.letters.len()).map(side).collect::<Vec<_>>());
        let n_of = |side: usize| sides[side].iter().filter(|is| **is).count();
        // The words of the smaller side are indexed.
        let (walked, indexed) =
            if n_of(0) >= n_of(1) { (&sides[0], &sides[1]) } else { (&sides[1], &sides[0]) };
        let mut pairs = self.words.pairs(&self.masked, |i| walked[i], |j| indexed[j], self.rule.containment);
        let candidates = self.candidates(&sides[0], &sides[1]);
        pairs.extend(self.kin_among(&candidates));
        let turn = |(i, j): &mut (usize, usize)| {
            if !(left(*i) && right(*j)) {
                std::mem::swap(i, j);
            }
        };
        pairs.iter_mut().for_each(turn);
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// Pairs of the two sides that are worth an alignment.
    fn candidates(&self, left: &[bool], right: &[bool]) -> Vec<(u32, u32)> {
        seed::pairs(&self.letters, &self.masked, left, right, self.n_library, self.least_run())
    }

    /// Score of a run without gaps that is worth an alignment: where all pairs are too many, as in the cascade so much of what
    /// the E-value asks of an alignment.
    fn least_run(&self) -> i32 {
        let length = self.n_residues / self.n_library.max(1) as f64;
        let chance = seed::least_run(length, self.n_residues);
        let needed = least_score(length, self.n_residues, self.rule.evalue);
        if self.is_exhaustive() { chance } else { chance.max((RUN * needed) as i32) }
    }

    /// Those of the pairs that an alignment shows to be relatives, each as `i < j`.
    fn kin_among(&self, pairs: &[(u32, u32)]) -> Vec<(usize, usize)> {
        // One protein is aligned with many at once: of a pair that which stands in more of them.
        let mut n_of = vec![0_u32; self.letters.len()];
        pairs.iter().for_each(|&(i, j)| [i, j].into_iter().for_each(|of| n_of[of as usize] += 1));
        let busy_first =
            |&(i, j): &(u32, u32)| if n_of[i as usize] >= n_of[j as usize] { (i, j) } else { (j, i) };
        let mut turned: Vec<(u32, u32)> = pairs.iter().map(busy_first).collect();
        turned.par_sort_unstable();
        let groups: Vec<&[(u32, u32)]> = turned.chunk_by(|a, b| a.0 == b.0).collect();
        let kin = |group: &&[(u32, u32)]| {
            let i = group[0].0 as usize;
            let kin = self.kin(i, group.iter().map(|pair| pair.1 as usize).collect());
            kin.into_iter().map(move |j| (i.min(j), i.max(j)))
        };
        groups.par_iter().flat_map_iter(kin).collect()
    }

    /// Whether all pairs may be looked at.
    pub fn is_exhaustive(&self) -> bool {
        self.n_residues <= self.rule.exhaustive_residues as f64
    }

    /// Clusters: of every protein the smallest number among those that relatives link it to.
    ///
    /// Relatives are all pairs of them where the rule allows to look for all. Of more residues they are all relatives of
    /// the proteins that `matters` speaks of, and for the others what a cascade of levels leads to: every protein and its
    /// centre, and all relatives among the centres. `known`: pairs that are relatives, whatever the rule says.
    pub fn clusters(&self, known: &[(usize, usize)], matters: impl Fn(usize) -> bool) -> Vec<usize> {
        let n = self.letters.len();
        let mut clusters = Components::new(n);
        known.iter().for_each(|&(i, j)| clusters.join(i, j));
        let all = vec![true; n];
        if self.is_exhaustive() {
            self.join(&all, &all, &mut clusters);
            return clusters.all();
        }
        let mut cascade = Cascade::new(&self.letters);
        for identity in LEVELS {
            cascade.descend(Level { identity, coverage: LEVEL_COVERAGE, evalue: self.rule.evalue });
        }
        let centres = cascade.centres();
        drop(cascade);
        centres.iter().enumerate().for_each(|(i, &centre)| clusters.join(i, centre));
        let is_centre: Vec<bool> = (0..n).map(|i| centres[i] == i).collect();
        self.join(&is_centre, &is_centre, &mut clusters);
        let matters: Vec<bool> = (0..n).map(matters).collect();
        self.join(&all, &matters, &mut clusters);
        clusters.all()
    }

    /// Joins all relatives between two sides. Pairs that are in one cluster already are not looked at: of a large family
    /// every member is aligned once or twice, not with every other.
    fn join(&self, left: &[bool], right: &[bool], clusters: &mut Components) {
        for (i, j) in self.words.pairs(&self.masked, |i| left[i], |j| right[j], self.rule.containment) {
            clusters.join(i, j);
        }
        let mut pairs = self.candidates(left, right);
        pairs.retain(|&(i, j)| clusters.of(i as usize) != clusters.of(j as usize));
        // Of a pair that protein asks which comes first in an order in which families lie scattered.
        let mut order: Vec<u32> = (0..self.letters.len() as u32).collect();
        order.par_sort_unstable_by_key(|&number| mix(number.into()));
        let mut place = vec![0; order.len()];
        (0_u32..).zip(&order).for_each(|(at, &number)| place[number as usize] = at);
        pairs.par_iter_mut().for_each(|pair| {
            let (a, b) = (place[pair.0 as usize], place[pair.1 as usize]);
            *pair = (a.min(b), a.max(b));
        });
        pairs.par_sort_unstable();
        let groups: Vec<&[(u32, u32)]> = pairs.chunk_by(|a, b| a.0 == b.0).collect();
        let (mut begin, mut round) = (0, ROUND);
        while begin < groups.len() {
            let end = (begin + round).min(groups.len());
            let asked = groups[begin..end].iter().copied().flatten();
            let numbers = asked.map(|&(a, b)| (order[a as usize], order[b as usize]));
            let is_open = |&(i, j): &(u32, u32)| clusters.of(i as usize) != clusters.of(j as usize);
            let open: Vec<(u32, u32)> = numbers.filter(is_open).collect();
            self.kin_among(&open).into_iter().for_each(|(i, j)| clusters.join(i, j));
            (begin, round) = (end, (2 * round).min(MOST_IN_ROUND));
        }
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
    pub fn kin(&self, i: usize, candidates: Vec<usize>) -> Vec<usize> {
        let significant = self.homologs(i, candidates);
        let alignments = alignments(&self.letters[i], &self.letters_of(&significant));
        let is_kin = |a: &Alignment, j: usize| {
            a.n_equal as f64 >= self.rule.identity * a.n_pairs as f64
                && a.n_pairs as f64 >= self.rule.coverage * self.shorter(i, j)
        };
        significant.into_iter().zip(alignments).filter(|(j, a)| is_kin(a, *j)).map(|(j, _)| j).collect()
    }

    /// Those of the candidates whose alignment with `i` is significant, by ascending length.
    fn homologs(&self, i: usize, candidates: Vec<usize>) -> Vec<usize> {
        let query = &self.letters[i];
        let backward: Vec<u8> = query.iter().rev().copied().collect();
        let scores = |query: &[u8], of: &[usize]| scores(query, &self.letters_of(of));
        self.corrected(i, candidates, |of| scores(query, of), |of| scores(&backward, of))
    }

    /// Those of the candidates whose score with `i` is significant, by ascending length.
    ///
    /// What one protein scores with the other read backwards, beyond what chance gives, comes from composition and
    /// periodicity, not from kinship, and is taken off (the reverse null model of Karplus et al. 2005).
    fn corrected(
        &self,
        i: usize,
        mut candidates: Vec<usize>,
        forward: impl Fn(&[usize]) -> Vec<usize>,
        backward: impl Fn(&[usize]) -> Vec<usize>,
    ) -> Vec<usize> {
        candidates.sort_unstable_by_key(|&j| (self.letters[j].len(), j));
        let length = self.letters[i].len() as f64;
        let is_good = |&(j, score): &(usize, f64)| self.evalue(i, j, score) <= self.rule.evalue;
        let scores = forward(&candidates).into_iter().map(|score| score as f64);
        let good: Vec<(usize, f64)> = candidates.into_iter().zip(scores).filter(is_good).collect();
        let numbers: Vec<usize> = good.iter().map(|g| g.0).collect();
        let corrected = |((j, score), backward): ((usize, f64), usize)| {
            let cells = length * self.letters[j].len() as f64;
            (j, score - (backward as f64 - (K * cells).ln() / LAMBDA).max(0.0))
        };
        good.into_iter().zip(backward(&numbers)).map(corrected).filter(is_good).map(|(j, _)| j).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    use datasets::rng;
    use rand::Rng;

    const RULE: Kinship = Kinship {
        evalue: 1e-3,
        identity: 0.3,
        coverage: 0.5,
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
        let rule = Kinship { containment: 1.0, ..RULE };
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
        assert_eq!(proteins.clusters(&[], |_| false), components(n, &found));
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
        assert!(all.is_exhaustive() && !few.is_exhaustive());
        let (want, found) = (all.clusters(&[], matters), few.clusters(&[], matters));
        assert!((0..115).all(|i| found[i] / 5 == i / 5));
        let n_alike = want.iter().zip(&found).filter(|(a, b)| a == b).count();
        assert!(n_alike >= 113, "{n_alike}");
        let of_those =
            all.relatives(|_| true, |_| true).into_iter().filter(|&(i, j)| matters(i) || matters(j));
        assert!(of_those.clone().count() > 40 && of_those.into_iter().all(|(i, j)| found[i] == found[j]));
    }
}
