//! Texts as sets of shingles: what of two texts is compared.

use homology::mix;
use rayon::prelude::*;
use twox_hash::XxHash3_128;

/// Fewest texts that are worth another thread.
const CHUNK: usize = 1024;

/// Words of a shingle. Of a text with fewer all words are one.
const WIDTH: usize = 3;

/// What stands around a word and belongs to the sentence.
const PUNCTUATION: &[char] = &['.', ',', ';', ':', '!', '?', '"', '\'', '(', ')', '[', ']', '{', '}'];

/// Words of a text in lower case, without the punctuation around them. What stands inside of a word or is no punctuation
/// stays: `1.1.1.1`, `1.1.1.-`, `ca(2+`, `+`.
fn words(lower: &str) -> impl Iterator<Item = &str> {
    lower.split_whitespace().map(|word| word.trim_matches(PUNCTUATION)).filter(|word| !word.is_empty())
}

fn hash(word: &str) -> u64 {
    XxHash3_128::oneshot(word.as_bytes()) as u64
}

/// The words of a text that hold a digit or are one letter, by their hashes, sorted: positions, EC numbers, charges, isoforms,
/// chains. Texts that differ in one of these may say different things, however alike they are.
pub(super) fn labels(text: &str) -> Vec<u64> {
    let lower = text.to_lowercase();
    let is_label = |word: &&str| word.bytes().any(|b| b.is_ascii_digit()) || word.chars().count() == 1;
    let mut labels: Vec<u64> = words(&lower).filter(is_label).map(hash).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}

/// Whether a text has the words of a shingle. In a shorter one all may hang on case: `ARF3` is a gene of man, `arf3` one of
/// a fish.
pub(super) fn is_sentence(text: &str) -> bool {
    words(text).nth(WIDTH - 1).is_some()
}

/// Texts, each as its set of shingles (three words in a row), by 32 bits of hash, sorted: 4 bytes a word is all that is kept
/// of them. Two different shingles are taken for one with a chance of 2⁻³².
#[derive(Debug, Default)]
pub(crate) struct Texts(Vec<Box<[u32]>>);

impl Texts {
    /// Adds texts; their numbers are their order.
    pub(crate) fn extend(&mut self, texts: &[impl AsRef<str> + Sync]) {
        self.0.par_extend(texts.par_iter().with_min_len(CHUNK).map(|text| shingles(text.as_ref())));
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The shingles of a text, sorted, each once.
    pub(super) fn of(&self, number: usize) -> &[u32] {
        &self.0[number]
    }

    /// A number that texts with the same shingles have in common.
    pub(crate) fn whole(&self, number: usize) -> u64 {
        self.of(number).iter().fold(self.of(number).len() as u64, |hash, &s| mix(hash ^ u64::from(s)))
    }

    /// Shingles that both texts have, of those that one of them has; 1 for two texts without a word.
    pub(crate) fn jaccard(&self, one: usize, other: usize) -> f64 {
        let (a, b) = (self.of(one), self.of(other));
        let both = in_both(a, b);
        match a.len() + b.len() - both {
            0 => 1.0,
            either => both as f64 / either as f64,
        }
    }

    /// Whether the Jaccard similarity of two texts is this or more.
    pub(super) fn alike(&self, one: usize, other: usize, threshold: f64) -> bool {
        let (n, m) = (self.of(one).len(), self.of(other).len());
        // However many are in both, it is at most this; rounding must not decide.
        n.min(m) as f64 >= threshold * n.max(m) as f64 - 1e-6 && self.jaccard(one, other) >= threshold
    }
}

fn shingles(text: &str) -> Box<[u32]> {
    let lower = text.to_lowercase();
    let words: Vec<u64> = words(&lower).map(hash).collect();
    let mut shingles: Vec<u32> = match words.len() {
        0 => vec![],
        1..WIDTH => vec![shingle(&words)],
        _ => words.windows(WIDTH).map(shingle).collect(),
    };
    shingles.sort_unstable();
    shingles.dedup();
    shingles.into()
}

fn shingle(words: &[u64]) -> u32 {
    (words.iter().fold(words.len() as u64, |hash, &word| mix(hash ^ word)) >> 32) as u32
}

/// How many numbers two sorted lists have in common.
fn in_both(a: &[u32], b: &[u32]) -> usize {
    let (mut i, mut j, mut n) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        n += usize::from(a[i] == b[j]);
        let (x, y) = (a[i], b[j]);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn texts(of: &[&str]) -> Texts {
        let mut texts = Texts::default();
        texts.extend(of);
        texts
    }

    /// The definition, on words instead of hashes.
    fn brute(one: &str, other: &str) -> f64 {
        let set = |text: &str| -> BTreeSet<Vec<String>> {
            let lower = text.to_lowercase();
            let words: Vec<String> = words(&lower).map(str::to_owned).collect();
            match words.len() {
                0 => BTreeSet::new(),
                1 | 2 => [words].into(),
                _ => words.windows(3).map(<[String]>::to_vec).collect(),
            }
        };
        let (a, b) = (set(one), set(other));
        let either = a.union(&b).count();
        if either == 0 { 1.0 } else { a.intersection(&b).count() as f64 / either as f64 }
    }

    #[test]
    fn punctuation_and_case_are_no_difference_but_numbers_are() {
        let same = texts(&["Binds ATP; found in the nucleus.", "binds ATP, (found in the nucleus)"]);
        assert_eq!(same.jaccard(0, 1), 1.0);
        for (one, other) in
            [("1.1.1.1", "1.1.1.-"), ("Binds Ca(2+)", "Binds Ca(+)"), ("Zinc", "Zinc-finger"), ("A B", "B A")]
        {
            assert_eq!(texts(&[one, other]).jaccard(0, 1), 0.0, "{one} {other}");
        }
        assert_eq!(texts(&["", " . "]).jaccard(0, 1), 1.0);
        assert_eq!(texts(&["", "Binds."]).jaccard(0, 1), 0.0);
        assert_eq!(labels("At Ser-15 and Ser-15, EC 1.1.1.1; binds zinc. [Isoform f].").len(), 3);
        assert!(is_sentence("Binds much zinc.") && !is_sentence("Binds . zinc."));
    }

    proptest! {
        #[test]
        fn similarity_is_that_of_sets_of_words(
            one in "([abcAB]{1,2}[.,]? ){0,12}", other in "([abcAB]{1,2}[.,]? ){0,12}", threshold in 0.1f64..1.0
        ) {
            let both = texts(&[&one, &other]);
            let want = brute(&one, &other);
            prop_assert_eq!(both.jaccard(0, 1), want);
            prop_assert_eq!(both.jaccard(1, 0), want);
            prop_assert_eq!(both.alike(0, 1, threshold), want >= threshold);
            prop_assert!(both.whole(0) == both.whole(1) || want < 1.0);
        }
    }
}
