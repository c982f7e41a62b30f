//! Texts that are nearly the same, among millions: MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman
//! and Ullman, Mining of Massive Datasets, chapter 3).
//!
//! The least hash of a set's shingles is that of another set with a probability of their Jaccard similarity s. A band is
//! `rows` such hashes: two texts agree in one of `bands` bands with a probability of 1 − (1 − s^rows)^bands. Those that
//! do are compared shingle by shingle, so that chance decides what is missed, never what is found.

use homology::{components, mix};
use rayon::prelude::*;

use super::shingles::Texts;
use crate::Error;

/// Hashes that are computed at once, and most that a band has.
const LANES: usize = 8;
/// Most hashes of a text.
const MOST_HASHES: usize = 128;
/// Of the texts with one key, so many that are not alike are held against the next. More share a form to be filled in, such as a
/// name and a number, and would be compared all with all.
const MOST_UNLIKE: usize = 512;
/// Texts whose bands are computed together.
const CHUNK: usize = 4096;

/// How similar texts are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lsh {
    /// Least Jaccard similarity.
    pub threshold: f64,
    /// Hashes that must agree.
    pub rows: usize,
    /// How often two texts have a chance to agree.
    pub bands: usize,
}

impl Lsh {
    /// As many bands as find a pair of just this similarity with a probability of at least `recall`, and bands as long as
    /// 128 hashes and 8 lanes of a vector allow, for long bands bring together fewer texts that are not alike.
    ///
    /// # Errors
    /// [`Error::Similarity`] when `threshold` is not in (0, 1] or `recall` not in (0, 1).
    pub fn new(threshold: f64, recall: f64) -> Result<Self, Error> {
        if !(threshold > 0.0 && threshold <= 1.0 && recall > 0.0 && recall < 1.0) {
            return Err(Error::Similarity { threshold, recall });
        }
        let bands = |rows: usize| {
            let agree = threshold.powi(rows as i32);
            ((1.0 - recall).ln() / (-agree).ln_1p()).ceil().max(1.0) as usize
        };
        let rows = (1..=LANES).rev().find(|&rows| rows * bands(rows) <= MOST_HASHES).unwrap_or(1);
        Ok(Self { threshold, rows, bands: bands(rows) })
    }

    /// The probability that a pair of this similarity is found.
    pub fn recall(&self, similarity: f64) -> f64 {
        1.0 - (1.0 - similarity.powi(self.rows as i32)).powi(self.bands as i32)
    }

    /// Groups of texts: those that pairs of the least similarity or more link, directly or by others. Of every text the
    /// smallest number of its group. The same groups for any number of threads and, but for forms ([`MOST_UNLIKE`]), for any
    /// order of the texts.
    pub(crate) fn groups(&self, texts: &Texts) -> Vec<usize> {
        let all: Vec<u32> = (0..texts.len() as u32).collect();
        // The same shingles first: they would meet in every band.
        let mut links = self.links(texts, &all, &vec![u32::MAX; all.len()], |chunk| {
            chunk.iter().map(|&number| (texts.whole(number as usize), number)).collect()
        });
        let mut groups = components(texts.len(), &links);
        let distinct: Vec<u32> = all.into_iter().filter(|&i| groups[i as usize] == i as usize).collect();
        for band in 0..self.bands {
            let known: Vec<u32> = groups.iter().map(|&group| group as u32).collect();
            links.extend(self.links(texts, &distinct, &known, |chunk| self.keys(texts, chunk, band)));
            groups = components(texts.len(), &links);
        }
        groups
    }

    /// Links between texts with one key; none between texts that `known` groups hold together.
    fn links(
        &self,
        texts: &Texts,
        some: &[u32],
        known: &[u32],
        keys: impl Fn(&[u32]) -> Vec<(u64, u32)> + Sync + Send,
    ) -> Vec<(usize, usize)> {
        let mut keys: Vec<(u64, u32)> = some.par_chunks(CHUNK).flat_map_iter(keys).collect();
        keys.par_sort_unstable();
        let groups = keys.par_chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1);
        let links = |group: &[(u64, u32)]| {
            // Texts that are linked so far: of each such set one link is enough.
            let (mut sets, mut links) = (Vec::<Vec<u32>>::new(), Vec::new());
            for &(_, number) in group {
                let own = known[number as usize];
                let is_known = |other: &u32| own != u32::MAX && known[*other as usize] == own;
                let alike = |&&other: &&u32| texts.alike(other as usize, number as usize, self.threshold);
                let mut joins = Vec::new();
                for (at, set) in sets.iter().enumerate().take(MOST_UNLIKE) {
                    if set.iter().any(is_known) {
                        joins.push(at);
                    } else if let Some(&other) = set.iter().find(alike) {
                        joins.push(at);
                        links.push((other as usize, number as usize));
                    }
                }
                let Some((&first, others)) = joins.split_first() else {
                    sets.push(vec![number]);
                    continue;
                };
                for &at in others.iter().rev() {
                    let set = sets.swap_remove(at);
                    sets[first].extend(set);
                }
                sets[first].push(number);
            }
            links
        };
        groups.flat_map_iter(links).collect()
    }

    /// The band of every text, as one number, compiled for what the processor has.
    fn keys(&self, texts: &Texts, some: &[u32], band: usize) -> Vec<(u64, u32)> {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2")]
            fn avx2(texts: &Texts, some: &[u32], band: usize, rows: usize) -> Vec<(u64, u32)> {
                keys(texts, some, band, rows)
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the feature that it is compiled for has just been found.
                return unsafe { avx2(texts, some, band, self.rows) };
            }
        }
        keys(texts, some, band, self.rows)
    }
}

#[inline(always)]
fn keys(texts: &Texts, some: &[u32], band: usize, rows: usize) -> Vec<(u64, u32)> {
    let random = |lane: usize| mix((band * LANES + lane) as u64);
    // Odd, so that no two shingles have one hash.
    let factor: [u32; LANES] = std::array::from_fn(|lane| random(lane) as u32 | 1);
    let offset: [u32; LANES] = std::array::from_fn(|lane| (random(lane) >> 32) as u32);
    let key = |&number: &u32| {
        let mut least = [u32::MAX; LANES];
        for &shingle in texts.of(number as usize) {
            for lane in 0..LANES {
                let hash = shingle.wrapping_mul(factor[lane]).wrapping_add(offset[lane]);
                least[lane] = least[lane].min(hash);
            }
        }
        let key = least[..rows].iter().fold(0, |key, &hash| mix(key ^ u64::from(hash)));
        (key, number)
    };
    some.iter().map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::RngExt;
    use rand::seq::SliceRandom;
    use std::collections::BTreeMap;

    /// Texts of made-up words; most are an earlier one with some words changed, some repeat one.
    fn made_up(n: usize, seed: u64) -> Vec<String> {
        let mut rng = datasets::rng(seed, "texts", 0);
        let mut texts: Vec<Vec<u32>> = vec![];
        for at in 0..n {
            let text = match at % 4 {
                0 => (0..rng.random_range(1..70)).map(|_| rng.random_range(0..3_000)).collect(),
                _ => {
                    let mut text = texts[rng.random_range(at.saturating_sub(40)..at)].clone();
                    for _ in 0..rng.random_range(0..4) {
                        let place = rng.random_range(0..text.len());
                        text[place] = rng.random_range(0..3_000);
                    }
                    text
                }
            };
            texts.push(text);
        }
        texts.iter().map(|t| t.iter().map(|w| format!("w{w} ")).collect()).collect()
    }

    fn read(of: &[String]) -> Texts {
        let mut texts = Texts::default();
        texts.extend(of);
        texts
    }

    #[test]
    fn bands_are_the_fewest_that_reach_the_recall() {
        for (threshold, recall) in
            [(0.8, 0.95), (0.9, 0.99), (0.7, 0.95), (0.5, 0.9), (1.0, 0.99), (0.02, 0.9)]
        {
            let lsh = Lsh::new(threshold, recall).unwrap();
            assert!(lsh.recall(threshold) >= recall, "{lsh:?}");
            let fewer = Lsh { bands: lsh.bands - 1, ..lsh };
            assert!(lsh.bands == 1 || fewer.recall(threshold) < recall, "{lsh:?}");
            assert!(lsh.rows == 1 || lsh.rows * lsh.bands <= MOST_HASHES, "{lsh:?}");
        }
        let lsh = Lsh::new(0.8, 0.95).unwrap();
        assert_eq!((lsh.rows, lsh.bands), (7, 13));
        for (threshold, recall) in [(0.0, 0.9), (1.1, 0.9), (0.8, 1.0), (0.8, 0.0), (f64::NAN, 0.9)] {
            assert!(Lsh::new(threshold, recall).unwrap_err().to_string().contains("hint:"));
        }
    }

    /// Of all pairs that brute force finds, the share whose texts meet in a band is what the formula says, and groups have no
    /// pair too many.
    #[test]
    fn pairs_are_found_as_often_as_stated() {
        let texts = read(&made_up(3_000, 5));
        for (threshold, recall) in [(0.8, 0.95), (0.6, 0.9), (0.9, 0.99)] {
            let lsh = Lsh::new(threshold, recall).unwrap();
            let (mut pairs, mut expected) = (vec![], 0.0);
            for i in 0..texts.len() {
                for j in (0..i).filter(|&j| texts.alike(i, j, threshold)) {
                    pairs.push((j, i));
                    expected += lsh.recall(texts.jaccard(i, j));
                }
            }
            let all: Vec<u32> = (0..texts.len() as u32).collect();
            let bands: Vec<Vec<(u64, u32)>> = (0..lsh.bands).map(|b| lsh.keys(&texts, &all, b)).collect();
            let meet = |&(i, j): &(usize, usize)| bands.iter().any(|keys| keys[i].0 == keys[j].0);
            let n_met = pairs.iter().filter(|pair| meet(pair)).count();
            let (n, expected) = (pairs.len() as f64, expected / pairs.len() as f64);
            println!("{lsh:?}: {n_met} of {n} pairs, expected {expected:.4}");
            assert!(n > 500.0 && n_met as f64 >= recall * n, "{n_met} of {n}");
            assert!((n_met as f64 / n - expected).abs() < 0.02, "{n_met} of {n}, expected {expected}");

            let (found, want) = (lsh.groups(&texts), components(texts.len(), &pairs));
            let together = pairs.iter().filter(|&&(i, j)| found[i] == found[j]).count();
            assert!(together >= n_met, "{together} {n_met}");
            assert!((0..texts.len()).all(|i| want[i] == want[found[i]]), "a group without links");
        }
    }

    /// Groups as sets of texts, whatever their numbers are.
    fn parts(of: &[String], groups: &[usize]) -> Vec<Vec<String>> {
        let mut parts: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for (text, &group) in of.iter().zip(groups) {
            parts.entry(group).or_default().push(text.clone());
        }
        let mut parts: Vec<Vec<String>> = parts.into_values().collect();
        parts.iter_mut().for_each(|part| part.sort());
        parts.sort();
        parts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn neither_order_nor_threads_change_a_group(seed: u64, n in 1usize..400, threshold in 0.3f64..1.0) {
            let mut texts = made_up(n, seed);
            let lsh = Lsh::new(threshold, 0.9).unwrap();
            let groups = lsh.groups(&read(&texts));
            let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            prop_assert_eq!(&groups, &three.install(|| lsh.groups(&read(&texts))));
            prop_assert!(groups.iter().enumerate().all(|(i, &group)| group <= i && groups[group] == group));
            let before = parts(&texts, &groups);
            texts.shuffle(&mut datasets::rng(seed, "order", 0));
            let groups = lsh.groups(&read(&texts));
            prop_assert_eq!(before, parts(&texts, &groups));
        }
    }

    #[test]
    fn one_text_a_thousand_times_is_one_group() {
        let mut texts = vec!["Belongs to the made-up family of things that are no thing.".to_owned(); 5_000];
        texts.push("Another one, which is alone.".into());
        let groups = Lsh::new(0.8, 0.95).unwrap().groups(&read(&texts));
        assert!(groups[..5_000].iter().all(|&group| group == 0) && groups[5_000] == 5_000);
    }
}
