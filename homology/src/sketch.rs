//! Pairs of proteins with a word in common, in a time that grows with the number of proteins, not with that of pairs
//! (Linclust: Steinegger and Söding 2018).
//!
//! Of every protein only the words with the lowest hashes count, so relatives tend to keep the same ones. Proteins that
//! share a word form a group, and within a group each is held against few others.

use rayon::prelude::*;

use crate::align::OTHER;
use crate::complexity::mask;
use crate::diagonal::run;

/// Residues that stand for each other, in the order of [`datasets::residue::LETTERS`]: AST, C, DN, EQ, FY, G, H, IV, KR,
/// LM, P, W.
pub(crate) const CLASS: [u8; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 2, 10, 3, 8, 0, 0, 7, 11, 4];
pub(crate) const N_CLASSES: u64 = 12;

/// Proteins whose words are sorted together.
const CHUNK: usize = 4096;
/// Words are grouped in so many parts, by their highest bits.
const N_PARTS: u64 = 64;
/// Most words that are held at once, 16 bytes each; with more the proteins are read again.
const MOST_WORDS: usize = 1 << 25;

/// Which words of a protein count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    /// Places of a word that count, from 0 on.
    pub(crate) places: &'static [usize],
    /// Words of a protein.
    pub(crate) n: usize,
    /// Least score of the run without gaps through a word in common.
    pub(crate) run: i32,
}

/// Two proteins, the longer first, and the diagonal of a word in common: its place in the second less that in the
/// first.
pub(crate) type Seed = (u32, u32, i32);

/// Proteins in one piece, numbered from the longest to the shortest, of equal length by their letters: neither the order
/// of the input nor the number of threads decides who stands for whom.
pub(crate) struct Ranked {
    letters: Vec<u8>,
    begin: Vec<usize>,
    /// Of every number the place in the input.
    pub(crate) places: Vec<u32>,
}

impl Ranked {
    /// Ranks proteins, given as letters of [`super::align::encode`].
    pub(crate) fn new<T: AsRef<[u8]> + Sync>(proteins: &[T]) -> Self {
        let mut places: Vec<u32> = (0..proteins.len() as u32).collect();
        let of = |place: u32| proteins[place as usize].as_ref();
        places.par_sort_unstable_by(|&i, &j| {
            of(j).len().cmp(&of(i).len()).then_with(|| of(i).cmp(of(j))).then(i.cmp(&j))
        });
        let mut letters = Vec::with_capacity(proteins.iter().map(|p| p.as_ref().len()).sum());
        let mut begin = vec![0];
        for &place in &places {
            letters.extend_from_slice(of(place));
            begin.push(letters.len());
        }
        Self { letters, begin, places }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn n_residues(&self) -> usize {
        self.letters.len()
    }

    pub(crate) fn of(&self, number: u32) -> &[u8] {
        &self.letters[self.begin[number as usize]..self.begin[number as usize + 1]]
    }
}

/// Pairs of some proteins (ascending numbers) that share a word and a run without gaps through it, sorted.
pub(crate) fn seeds(proteins: &Ranked, some: &[u32], words: &Words) -> Vec<Seed> {
    let n_passes = (some.len() * words.n).div_ceil(MOST_WORDS).max(1) as u64;
    let mut seeds = Vec::new();
    for pass in 0..n_passes {
        let of_chunk = |chunk: &[u32]| {
            let mut found = Vec::with_capacity(chunk.len() * words.n / n_passes as usize);
            let mut hashes = Vec::new();
            for &number in chunk {
                lowest(proteins.of(number), words, &mut hashes);
                let mine = hashes.iter().filter(|(hash, _)| n_passes == 1 || hash % n_passes == pass);
                found.extend(mine.map(|&(hash, at)| word(hash, number, at)));
            }
            found.sort_unstable();
            found
        };
        let chunks: Vec<Vec<u128>> = some.par_chunks(CHUNK).map(of_chunk).collect();
        let of_part = |part: u64| {
            let mut found: Vec<u128> = Vec::new();
            for chunk in &chunks {
                let place = |part: u64| chunk.partition_point(|w| ((w >> 64) as u64 >> 58) < part);
                found.extend(&chunk[place(part)..place(part + 1)]);
            }
            // Stable, because that is quick where long stretches are sorted already.
            found.sort();
            let mut seeds = Vec::new();
            found
                .chunk_by(|a, b| a >> 64 == b >> 64)
                .for_each(|group| compare(proteins, group, words.run, &mut seeds));
            seeds
        };
        let parts: Vec<Vec<Seed>> = (0..N_PARTS).into_par_iter().map(of_part).collect();
        drop(chunks);
        parts.into_iter().for_each(|part| seeds.extend(part));
    }
    seeds.par_sort_unstable();
    seeds.dedup();
    seeds
}

/// Hash, protein and place in one number, so that sorting brings groups together, the longest protein first. The hash is
/// turned round, for its highest bytes are low in all.
fn word(hash: u64, number: u32, at: u32) -> u128 {
    u128::from(hash.swap_bytes()) << 64 | u128::from(number) << 32 | u128::from(at)
}

/// Holds every protein of a group against the longest and the two before it.
fn compare(proteins: &Ranked, group: &[u128], least: i32, seeds: &mut Vec<Seed>) {
    let unpack = |word: u128| ((word >> 32) as u32, word as u32);
    for (nth, &word) in group.iter().enumerate().skip(1) {
        let (shorter, y) = unpack(word);
        let others = (nth.saturating_sub(2)..nth).chain((nth > 2).then_some(0));
        for other in others {
            let (longer, x) = unpack(group[other]);
            if run(proteins.of(longer), x as usize, proteins.of(shorter), y as usize) >= least {
                seeds.push((longer, shorter, y as i32 - x as i32));
            }
        }
    }
}

/// Hash and place of the words of a protein with the lowest hashes, sorted; of a word that repeats the first place.
fn lowest(protein: &[u8], words: &Words, found: &mut Vec<(u64, u32)>) {
    found.clear();
    let masked = mask(protein);
    let Some(&last) = words.places.last() else { return };
    'words: for (at, window) in masked.windows(last + 1).enumerate() {
        let mut code = 0;
        for &place in words.places {
            if window[place] == OTHER {
                continue 'words;
            }
            code = code * N_CLASSES + u64::from(CLASS[window[place] as usize]);
        }
        found.push((mix(code), at as u32));
    }
    if found.len() > words.n {
        found.select_nth_unstable(words.n);
        found.truncate(words.n);
    }
    found.sort_unstable();
    found.dedup_by_key(|(hash, _)| *hash);
}

/// A number that looks random, another for every word (the finaliser of Steele et al.'s SplitMix).
pub fn mix(code: u64) -> u64 {
    let mut x = code.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode;
    use crate::tests::{mutated, random};

    use std::collections::{BTreeMap, BTreeSet};

    use datasets::rng;

    /// Every group of proteins with a word in common, by brute force over all words.
    #[test]
    fn pairs_are_those_that_the_words_in_common_say() {
        let mut rng = rng(23, "test", 0);
        let founder = random(&mut rng, 97);
        let proteins: Vec<Vec<u8>> =
            (0..29).map(|i| encode(&mutated(&mut rng, &founder[..97 - i], 0.4 + 0.02 * i as f64))).collect();
        let ranked = Ranked::new(&proteins);
        let all: Vec<u32> = (0..29).collect();
        let words = Words { places: &[0, 1, 3, 4], n: 93, run: 0 };
        let mut groups: BTreeMap<Vec<u8>, BTreeMap<u32, usize>> = BTreeMap::new();
        for &number in &all {
            let masked = mask(ranked.of(number));
            for at in 0..masked.len() - 4 {
                let letters: Vec<u8> = words.places.iter().map(|p| masked[at + p]).collect();
                if !letters.contains(&OTHER) {
                    let classes = letters.iter().map(|&l| CLASS[l as usize]).collect();
                    groups.entry(classes).or_default().entry(number).or_insert(at);
                }
            }
        }
        let mut want = BTreeSet::new();
        for group in groups.values() {
            let of: Vec<(u32, i32)> = group.iter().map(|(&number, &at)| (number, at as i32)).collect();
            for j in 1..of.len() {
                for i in [0, j.saturating_sub(2), j - 1] {
                    want.insert((of[i].0, of[j].0, of[j].1 - of[i].1));
                }
            }
        }
        assert!(want.len() > 100, "{}", want.len());
        let found = seeds(&ranked, &all, &words);
        assert_eq!(found, want.into_iter().collect::<Vec<_>>());
        // Fewer words lead to some of these pairs, and a run that is asked for leaves the better ones.
        let some = seeds(&ranked, &all, &Words { n: 20, ..words });
        assert!(some.len() < found.len() && some.len() > 20, "{}", some.len());
        let good = seeds(&ranked, &all, &Words { run: 60, ..words });
        assert!(!good.is_empty() && good.iter().all(|seed| found.binary_search(seed).is_ok()));
    }

    #[test]
    fn numbers_fall_with_length_and_letters_decide_between_equals() {
        let ranked = Ranked::new(&[vec![3, 1], vec![1, 2, 3], vec![2, 1], vec![3, 1]]);
        assert_eq!(ranked.places, [1, 2, 0, 3]);
        assert_eq!((ranked.of(0), ranked.of(3), ranked.n_residues()), (&[1, 2, 3][..], &[3, 1][..], 9));
    }
}
