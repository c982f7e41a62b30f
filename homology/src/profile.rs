//! Profiles: what residues the relatives of a protein have at each of its places, as position-specific scores.

use std::sync::LazyLock;

use rayon::prelude::*;

use crate::Proteins;
use crate::align::{BLOSUM62, OTHER};
use crate::places::{self, NEVER, Place, places};

/// Standard residues.
const N: usize = 20;
/// Numbers of a place: a score for each of the standard residues in the order of [`datasets::residue::LETTERS`], the share of
/// relatives with a gap there, how many kinds of residues there are around, and how many relatives.
pub const WIDTH: usize = N + 3;

/// How common residues are (Robinson and Robinson 1991).
#[rustfmt::skip]
const BACKGROUND: [f64; N] = [
    0.07805, 0.01925, 0.05364, 0.06295, 0.03856, 0.07377, 0.02199, 0.05142, 0.05744, 0.09019,
    0.02243, 0.04487, 0.05203, 0.04264, 0.05129, 0.07120, 0.05841, 0.06441, 0.01330, 0.03216,
];
/// Karlin and Altschul's λ of BLOSUM62 without gaps.
const LAMBDA: f64 = 0.3176;
/// How many kinds of residues the substitutions of the matrix count for (Altschul et al. 1997).
const PSEUDOCOUNT: f64 = 10.0;
/// Places over which kinds of residues are averaged.
const AROUND: usize = 31;

/// Of every residue how probable each is in its place.
static SUBSTITUTES: LazyLock<[[f64; N]; N]> = LazyLock::new(|| {
    std::array::from_fn(|a| {
        let joint: [f64; N] =
            std::array::from_fn(|b| BACKGROUND[b] * (LAMBDA * f64::from(BLOSUM62[a][b])).exp());
        let sum: f64 = joint.iter().sum();
        joint.map(|p| p / sum)
    })
});

/// A gap, and what lies beyond the ends of an alignment.
const GAP: u8 = 21;
const BEYOND: u8 = 22;

impl Proteins<'_> {
    /// The profiles of the proteins that `of` speaks of, `[L, WIDTH]` flat each, in their order and made as they are asked for.
    /// Their relatives are looked for in the library: first by the letters of the protein, then, among the relatives of those, by
    /// what the first ones made of its places (after PSI-BLAST: Altschul et al. 1997).
    pub fn profiles(&self, of: impl Fn(usize) -> bool + Sync) -> impl Iterator<Item = (usize, Vec<f32>)> {
        let in_library = |i: usize| i < self.n_library;
        let mut pairs = self.relatives(&of, in_library);
        // Relatives of relatives are asked for, and of no others.
        let mut is_near = vec![false; self.letters.len()];
        pairs.iter().for_each(|&(_, j)| is_near[j] = !of(j));
        pairs.extend(self.relatives(|j| is_near[j], in_library));
        let mut relatives = vec![Vec::new(); self.letters.len()];
        for (i, j) in pairs {
            relatives[i].push(j);
            if in_library(i) {
                relatives[j].push(i);
            }
        }
        for of_one in &mut relatives {
            of_one.sort_unstable();
            of_one.dedup();
        }
        let all: Vec<usize> = (0..self.letters.len()).filter(|&i| of(i)).collect();
        let chunks: Vec<Vec<usize>> = all.chunks(256).map(<[usize]>::to_vec).collect();
        chunks.into_iter().flat_map(move |some| {
            some.par_iter().map(|&i| (i, self.profile(i, &relatives))).collect::<Vec<_>>()
        })
    }

    fn profile(&self, i: usize, relatives: &[Vec<usize>]) -> Vec<f32> {
        let protein = &self.letters[i];
        let mut rows = Rows::new(protein);
        rows.add(&places(protein), self.letters_of(&relatives[i]));
        let profile = rows.profile();
        let mut further: Vec<usize> = relatives[i].iter().flat_map(|&j| &relatives[j]).copied().collect();
        further.sort_unstable();
        further.dedup();
        further.retain(|&j| j != i && relatives[i].binary_search(&j).is_err());
        if further.is_empty() {
            return profile;
        }
        let places = places_of(&profile);
        let found = self.homologs_of_places(i, &places, further);
        if found.is_empty() {
            return profile;
        }
        rows.add(&places, self.letters_of(&found));
        rows.profile()
    }

    /// As [`Proteins::homologs`], by the scores of the protein's places.
    fn homologs_of_places(&self, i: usize, places: &[Place], candidates: Vec<usize>) -> Vec<usize> {
        let backward: Vec<Place> = places.iter().rev().copied().collect();
        let scores = |places: &[Place], of: &[usize]| places::scores(places, &self.letters_of(of));
        self.corrected(i, candidates, |of| scores(places, of), |of| scores(&backward, of))
    }
}

/// What stands beside each place of a protein in it and in its relatives.
struct Rows<'a> {
    protein: &'a [u8],
    rows: Vec<Vec<u8>>,
}

impl<'a> Rows<'a> {
    fn new(protein: &'a [u8]) -> Self {
        Self { protein, rows: vec![protein.to_vec()] }
    }

    /// Adds relatives as they are aligned with the protein's places. Those that say nothing new are left out.
    fn add(&mut self, places: &[Place], mut relatives: Vec<&[u8]>) {
        relatives.sort_unstable_by_key(|relative| relative.len());
        for (relative, pairs) in relatives.iter().zip(places::paths(places, &relatives)) {
            let mut row = vec![BEYOND; self.protein.len()];
            if let (Some(first), Some(last)) = (pairs.first(), pairs.last()) {
                row[first.0 as usize..=last.0 as usize].fill(GAP);
            }
            pairs.iter().for_each(|&(i, j)| row[i as usize] = relative[j as usize]);
            if row != self.protein {
                self.rows.push(row);
            }
        }
    }

    /// `[L, WIDTH]` flat.
    fn profile(&self) -> Vec<f32> {
        let (rows, length) = (&self.rows, self.protein.len());
        // Of every place how many rows have each residue there.
        let mut n_of = vec![[0; N]; length];
        for row in rows {
            for (n_of, &letter) in n_of.iter_mut().zip(row).filter(|(_, letter)| **letter < OTHER) {
                n_of[letter as usize] += 1;
            }
        }
        let weights: Vec<f64> = rows.iter().map(|row| weight(row, &n_of)).collect();
        let kinds: Vec<f64> = n_of.iter().map(|n_of| n_kinds(n_of).max(1) as f64).collect();
        let place = |at: usize| {
            let (mut shares, mut gaps, mut n_there) = ([0.0; N], 0.0, 0);
            for (row, weight) in rows.iter().zip(&weights) {
                match row[at] {
                    GAP => gaps += weight,
                    letter => _ = shares.get_mut(letter as usize).map(|share| *share += weight),
                }
                n_there += usize::from(row[at] != BEYOND);
            }
            let sum: f64 = shares.iter().sum();
            shares = if sum > 0.0 { shares.map(|share| share / sum) } else { BACKGROUND };
            let around = &kinds[at.saturating_sub(AROUND / 2)..(at + AROUND / 2 + 1).min(length)];
            let kinds = around.iter().sum::<f64>() / around.len() as f64;
            let score = |b: usize| {
                let expected: f64 = (0..N).map(|a| shares[a] * SUBSTITUTES[a][b]).sum();
                let seen = (kinds - 1.0) * shares[b] + PSEUDOCOUNT * expected;
                (seen / (kinds - 1.0 + PSEUDOCOUNT) / BACKGROUND[b]).ln() as f32
            };
            let gaps = if gaps > 0.0 { gaps / (gaps + sum) } else { 0.0 };
            let [gaps, kinds, depth] = [gaps, kinds.ln(), f64::from(n_there as u32).ln()].map(|x| x as f32);
            (0..N).map(score).chain([gaps, kinds, depth]).collect::<Vec<f32>>()
        };
        (0..length).flat_map(place).collect()
    }
}

/// The places of a protein as its profile scores them.
fn places_of(profile: &[f32]) -> Vec<Place> {
    let place = |numbers: &[f32]| {
        std::array::from_fn(|letter| match letter {
            0..N => (f64::from(numbers[letter]) / LAMBDA).round() as i32,
            N => -1,
            _ => NEVER,
        })
    };
    profile.chunks(WIDTH).map(place).collect()
}

/// How much a row counts: the less, the more others have its residues (Henikoff and Henikoff 1994).
fn weight(row: &[u8], n_of: &[[usize; N]]) -> f64 {
    let (mut sum, mut n) = (0.0, 0);
    for (&letter, n_of) in row.iter().zip(n_of).filter(|(letter, _)| **letter < OTHER) {
        sum += 1.0 / (n_kinds(n_of) * n_of[letter as usize]) as f64;
        n += 1;
    }
    sum / f64::from(n.max(1))
}

fn n_kinds(n_of: &[usize; N]) -> usize {
    n_of.iter().filter(|n| **n > 0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{Kinship, encode};

    #[derive(serde::Deserialize)]
    struct Golden {
        proteins: Vec<String>,
        profile: Vec<Vec<f32>>,
    }

    /// Against NumPy on Biopython's alignments: `tests/golden/make_profile.py`.
    #[test]
    fn a_profile_is_that_of_numpy() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/profile.json")).unwrap();
        let letters: Vec<Vec<u8>> = golden.proteins.iter().map(|p| encode(p)).collect();
        let mut rows = Rows::new(&letters[0]);
        rows.add(&places(&letters[0]), letters[1..].iter().map(Vec::as_slice).collect());
        let found = rows.profile();
        for (at, (found, want)) in found.chunks(WIDTH).zip(&golden.profile).enumerate() {
            let difference = found.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(difference < 1e-4, "place {at}: {found:?} for {want:?}");
        }
    }

    #[test]
    fn relatives_are_found_and_who_has_none_has_what_the_matrix_expects() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/profile.json")).unwrap();
        let mut sequences = golden.proteins.clone();
        sequences.push("GSHMASMTGGQQMGRGSEFELKLWWCCHHPPNN".into());
        let rule = Kinship { identity: 0.0, coverage: 0.0, containment: 1.0, ..Kinship::default() };
        let proteins = Proteins::new(&rule, &sequences);
        let found: Vec<(usize, Vec<f32>)> = proteins.profiles(|at| at % 7 == 0).collect();
        assert_eq!(found.iter().map(|of| of.0).collect::<Vec<_>>(), [0, 7]);
        let whole = golden.profile.iter().flatten();
        assert!(found[0].1.iter().zip(whole).all(|(a, b)| (a - b).abs() < 1e-4), "a relative is missed");
        for (place, &letter) in found[1].1.chunks(WIDTH).zip(&proteins.letters[7]) {
            let want = |b: usize| (SUBSTITUTES[letter as usize][b] / BACKGROUND[b]).ln() as f32;
            assert!((0..N).all(|b| (place[b] - want(b)).abs() < 1e-6));
            assert_eq!(place[N..], [0.0, 0.0, 0.0]);
        }
        let all: Vec<(usize, Vec<f32>)> = proteins.profiles(|_| true).collect();
        assert!(all.len() == 8 && all[0] == found[0] && all[7] == found[1]);
        // Whoever else is asked about changes nothing.
        let last = sequences[2].replace("WVYQ", "WIYQ");
        let beside = |others: &[&String]| {
            let sequences = [&sequences.iter().collect::<Vec<_>>()[..5], &[&last], others].concat();
            Proteins::with_library(&rule, &sequences, 5).profiles(|at| at > 4).next()
        };
        let alone = beside(&[]).unwrap();
        assert!(alone.0 == 5 && alone.1.chunks(WIDTH).any(|place| place[WIDTH - 1] > 0.0));
        assert_eq!(beside(&[&sequences[5], &sequences[6], &sequences[2]]).unwrap(), alone);
    }
}
