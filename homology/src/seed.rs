//! Which pairs of proteins are worth an alignment: a spaced word in common (Ma et al. 2002), many equal residues around it, then a
//! good run without gaps (after DIAMOND: Buchfink et al. 2021).
//!
//! A word is what six places of a window hold, in classes of residues; which places is said by a shape, and with more shapes
//! fewer relatives are missed. The words of all proteins are sorted, so that equal ones stand together, and what stands
//! together is compared by the letters around, copied side by side: all pairs of all proteins, without a table to jump in.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;

use rayon::prelude::*;

use crate::align::OTHER;
use crate::diagonal::run;
use crate::sketch::{CLASS, N_CLASSES, mix};

/// Places of a window that a word takes, the first at the lowest bit. They were chosen one after the other among three thousand
/// random ones, each as that which finds most of the relatives that those before had missed (docs/lab-log.md).
const SHAPES: [u16; 12] = [
    0b101100111,
    0b1000111101,
    0b11011000101,
    0b11000100111,
    0b11011011,
    0b10000011111,
    0b111010100001,
    0b1111000011,
    0b110100011001,
    0b1001010111,
    0b11010100011,
    0b101000101011,
];
/// Places of a word.
const WEIGHT: u32 = 6;
const N_WORDS: usize = (N_CLASSES as usize).pow(WEIGHT);

/// Residues that are compared around the beginning of a word, and how many of them lie before it.
const WINDOW: usize = 32;
const BEFORE: usize = 10;
/// So many of them must be equal. Of two strangers with a word in common one in twenty has them.
const LEAST_EQUAL: u32 = 8;
/// What a run scores within the window is so much of what is asked of it: a look that costs little.
const IN_WINDOW: f64 = 0.75;

/// A run is worth an alignment if chance gives a protein at most so many as good, however many proteins there are.
const CHANCE: f64 = 10.0;
/// Karlin and Altschul's λ and K of BLOSUM62 without gaps.
const LAMBDA: f64 = 0.3176;
const K: f64 = 0.134;

/// A word that there are more often says little, and costs the square: what many families have in common, as the loops that bind
/// nucleotides. In large tables the limit is this many times what there would be if all words were equally frequent.
const MOST: usize = 1_000;
const MOST_TIMES: usize = 64;

/// Words that are sorted together, at most about so many, 8 bytes each.
const TOGETHER: usize = 1 << 23;
/// Stands between proteins; no two of them are equal.
const BETWEEN: u8 = 0xff;

/// Proteins in one piece, with what lies outside of them.
struct Text {
    /// Letters, and between two proteins so many of [`BETWEEN`] that no window holds letters of both.
    letters: Vec<u8>,
    /// Of each letter its class, [`BETWEEN`] for what is masked or no standard residue.
    classes: Vec<u8>,
    /// Where each protein begins and ends.
    bounds: Vec<(usize, usize)>,
    /// Of every block of [`WINDOW`] places the protein that holds the first, or the next one.
    owners: Vec<u32>,
}

impl Text {
    fn new(letters: &[Vec<u8>], masked: &[Vec<u8>]) -> Self {
        let length = letters.iter().map(|protein| protein.len() + WINDOW).sum::<usize>() + WINDOW;
        let mut text = Self {
            letters: Vec::with_capacity(length),
            classes: Vec::with_capacity(length),
            bounds: Vec::with_capacity(letters.len()),
            owners: Vec::with_capacity(length / WINDOW + 1),
        };
        let class = |letter: &u8| CLASS.get(*letter as usize).copied().unwrap_or(BETWEEN);
        for (number, (protein, masked)) in letters.iter().zip(masked).enumerate() {
            text.letters.resize(text.letters.len() + WINDOW, BETWEEN);
            text.bounds.push((text.letters.len(), text.letters.len() + protein.len()));
            text.letters.extend_from_slice(protein);
            text.classes.resize(text.classes.len() + WINDOW, BETWEEN);
            text.classes.extend(masked.iter().map(class));
            text.owners.resize(text.letters.len().div_ceil(WINDOW), number as u32);
        }
        text.letters.resize(text.letters.len() + WINDOW, BETWEEN);
        text.classes.resize(text.letters.len(), BETWEEN);
        text
    }

    /// The protein that holds a place.
    fn owner(&self, place: usize) -> usize {
        let mut owner = self.owners[place / WINDOW] as usize;
        while self.bounds[owner].1 <= place {
            owner += 1;
        }
        owner
    }

    fn of(&self, protein: usize) -> &[u8] {
        let (begin, end) = self.bounds[protein];
        &self.letters[begin..end]
    }

    /// Letters around the word at a place.
    fn window(&self, place: usize) -> [u8; WINDOW] {
        let window = &self.letters[place - BEFORE..place - BEFORE + WINDOW];
        window.try_into().expect("it is as long as it is")
    }

    /// The words of a protein: place and number.
    fn words(
        &self,
        protein: usize,
        places: [usize; WEIGHT as usize],
    ) -> impl Iterator<Item = (usize, usize)> {
        let (begin, end) = self.bounds[protein];
        (begin..end).filter_map(move |at| {
            let mut word = 0;
            for place in places {
                // What lies beyond the end has no class.
                let class = self.classes[at + place];
                if class == BETWEEN {
                    return None;
                }
                word = word * N_CLASSES as usize + class as usize;
            }
            Some((at, word))
        })
    }
}

/// Where the word of a shape has its residues.
fn places(shape: u16) -> [usize; WEIGHT as usize] {
    let mut at = (0..16).filter(|at| shape >> at & 1 == 1);
    std::array::from_fn(|_| at.next().expect("a shape has as many places as a word"))
}

/// A side of the pairs that are looked for: of every protein whether it belongs to it.
type Side<'a> = &'a [bool];

/// The score of a run of which chance gives a protein of this length [`CHANCE`] as good.
pub(crate) fn least_run(length: f64, n_residues: f64) -> i32 {
    ((K * length * n_residues / CHANCE).ln() / LAMBDA) as i32
}

/// Pairs `i < j` of proteins worth an alignment, one of `left` and the other of `right`, sorted. `least`: score of a run that
/// is.
pub(crate) fn pairs(
    letters: &[Vec<u8>],
    masked: &[Vec<u8>],
    left: Side<'_>,
    right: Side<'_>,
    n_library: usize,
    least: i32,
) -> Vec<(u32, u32)> {
    let text = Text::new(letters, masked);
    let n_of = |side: Side<'_>| side.iter().filter(|is| **is).count();
    let (few, many) = if n_of(left) <= n_of(right) { (left, right) } else { (right, left) };
    let search = Search { text: &text, few, many, n_library, least };
    let mut found = Vec::new();
    for shape in SHAPES {
        let mut more = search.shape(places(shape));
        more.par_sort_unstable();
        found = merged(&found, &more);
    }
    found
}

/// What one or both of two sorted lists hold, sorted, each once.
fn merged<T: Ord + Copy>(a: &[T], b: &[T]) -> Vec<T> {
    let mut all: Vec<T> = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let takes_a = j == b.len() || i < a.len() && a[i] <= b[j];
        let next = if takes_a { a[i] } else { b[j] };
        (i, j) = if takes_a { (i + 1, j) } else { (i, j + 1) };
        if all.last() != Some(&next) {
            all.push(next);
        }
    }
    all
}

/// Ranges of words of which there are some [`TOGETHER`], and one for each thread at least.
fn parts(n_of: &[u32]) -> Vec<Range<usize>> {
    let total: usize = n_of.iter().map(|&n| n as usize).sum();
    let n_parts = total.div_ceil(TOGETHER).max(rayon::current_num_threads());
    let (mut parts, mut begin, mut n) = (Vec::new(), 0, 0);
    for (word, &of) in n_of.iter().enumerate() {
        n += of as usize;
        if n * n_parts > total * (parts.len() + 1) {
            parts.push(begin..word + 1);
            begin = word + 1;
        }
    }
    parts.push(begin..n_of.len());
    parts
}

/// What is looked for.
struct Search<'a> {
    text: &'a Text,
    /// The side with fewer proteins: its words lead.
    few: Side<'a>,
    many: Side<'a>,
    /// The first so many say which words are too frequent.
    n_library: usize,
    /// Score of a run that is worth an alignment.
    least: i32,
}

impl Search<'_> {
    /// Pairs that the words of one shape lead to, some more than once.
    fn shape(&self, places: [usize; WEIGHT as usize]) -> Vec<(u32, u32)> {
        let words_of = |of: &[usize]| {
            let mut n_of = vec![0_u32; N_WORDS];
            let words = of.iter().flat_map(|&protein| self.text.words(protein, places));
            words.for_each(|(_, word)| n_of[word] += 1);
            n_of
        };
        let all = 0..self.few.len();
        let leading: Vec<usize> = all.clone().filter(|&protein| self.few[protein]).collect();
        let following = all.filter(|&protein| self.many[protein] && !self.few[protein]);
        let some: Vec<usize> = leading.iter().copied().chain(following).collect();
        // Which words are too frequent is a matter of the whole library, so that every question about a pair has one answer.
        let library: Vec<usize> = (0..self.n_library).collect();
        let mut n_of = words_of(&library);
        let most = MOST.max(MOST_TIMES * n_of.iter().map(|&n| n as usize).sum::<usize>() / N_WORDS);
        let is_too_frequent: Vec<bool> = n_of.iter().map(|&n| n as usize > most).collect();
        if some.len().min(self.n_library) < self.few.len() {
            n_of = words_of(&some);
        }
        let n_leading = if leading.len() < some.len() { words_of(&leading) } else { n_of.clone() };
        for ((n, n_leading), is_too_frequent) in n_of.iter_mut().zip(n_leading).zip(is_too_frequent) {
            if *n == 1 || n_leading == 0 || is_too_frequent {
                *n = 0;
            }
        }
        let part = |of: &Range<usize>| {
            let mut words = Vec::with_capacity(n_of[of.clone()].iter().map(|&n| n as usize).sum());
            for &protein in &some {
                let is_shared = |word: usize| of.contains(&word) && n_of[word] > 0;
                let shared = self.text.words(protein, places).filter(|(_, word)| is_shared(*word));
                words.extend(shared.map(|(at, word)| Word::new(word, !self.few[protein], at)));
            }
            words.sort_unstable();
            self.compare(&words)
        };
        parts(&n_of).par_iter().map(part).collect::<Vec<_>>().concat()
    }

    /// Pairs of proteins among equal words, sorted ones, that have enough in common around them.
    fn compare(&self, words: &[Word]) -> Vec<(u32, u32)> {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,popcnt")]
            fn avx2(search: &Search<'_>, words: &[Word]) -> Vec<(u32, u32)> {
                search.compared(words)
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt") {
                // SAFETY: the features that it is compiled for have just been found.
                return unsafe { avx2(self, words) };
            }
        }
        self.compared(words)
    }

    #[inline(always)]
    fn compared(&self, words: &[Word]) -> Vec<(u32, u32)> {
        let in_window = (IN_WINDOW * f64::from(self.least)) as i32;
        let mut windows: Vec<[u8; WINDOW]> = Vec::new();
        let mut found = Pairs::default();
        for group in words.chunk_by(|a, b| a.number() == b.number()).filter(|group| group.len() > 1) {
            windows.clear();
            windows.extend(group.iter().map(|word| self.text.window(word.place())));
            for (at, one) in group.iter().enumerate().take_while(|(_, word)| word.leads()) {
                // What is no residue is equal to nothing.
                let letters = windows[at].map(|letter| if letter < OTHER { letter } else { BETWEEN - 1 });
                for (other, window) in group.iter().zip(&windows).skip(at + 1) {
                    let is_alike = n_equal(&letters, window) >= LEAST_EQUAL;
                    if is_alike && run(&letters, BEFORE, window, BEFORE) >= in_window {
                        self.look(one.place(), other.place(), &mut found);
                    }
                }
            }
        }
        found.into_iter().map(|pair| ((pair >> 32) as u32, pair as u32)).collect()
    }

    /// Takes a pair, known by the places of a word in common, if the run through it is good.
    #[inline(never)]
    fn look(&self, a: usize, b: usize, found: &mut Pairs) {
        let text = self.text;
        let (i, j) = (text.owner(a), text.owner(b));
        let is_wanted = i != j && (self.few[i] && self.many[j] || self.few[j] && self.many[i]);
        let pair = (i.min(j) as u64) << 32 | i.max(j) as u64;
        if !is_wanted || found.contains(&pair) {
            return;
        }
        let (x, y) = (a - text.bounds[i].0, b - text.bounds[j].0);
        if run(text.of(i), x, text.of(j), y) >= self.least {
            found.insert(pair);
        }
    }
}

/// Two proteins as one number.
type Pairs = HashSet<u64, BuildHasherDefault<Mix>>;

/// Hashes one number.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers of 64 bits are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = mix(number);
    }
}

/// A word as a number that sorts by what the word is, then by whether it leads, then by its place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Word(u64);

impl Word {
    fn new(number: usize, follows: bool, place: usize) -> Self {
        Self((number as u64) << 40 | u64::from(follows) << 39 | place as u64)
    }

    fn number(self) -> u64 {
        self.0 >> 40
    }

    /// Whether it is of the smaller side: pairs of two others are not looked at.
    fn leads(self) -> bool {
        self.0 >> 39 & 1 == 0
    }

    fn place(self) -> usize {
        (self.0 & ((1 << 39) - 1)) as usize
    }
}

#[inline(always)]
fn n_equal(a: &[u8; WINDOW], b: &[u8; WINDOW]) -> u32 {
    let mut n = 0_u8;
    for (x, y) in a.iter().zip(b) {
        n += u8::from(x == y);
    }
    n.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complexity::mask;
    use crate::encode;
    use crate::tests::{mutated, random};

    use datasets::rng;
    use proptest::prelude::*;
    use rand::Rng;

    proptest! {
        #[test]
        fn a_merged_list_is_a_set(mut a in prop::collection::vec(0..40_u32, 0..30), mut b in prop::collection::vec(0..40_u32, 0..30)) {
            a.sort_unstable();
            b.sort_unstable();
            let set: std::collections::BTreeSet<u32> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(merged(&a, &b), set.into_iter().collect::<Vec<_>>());
        }
    }

    /// The same by comparing every place of a protein with every place of another.
    fn by_the_book(letters: &[Vec<u8>], masked: &[Vec<u8>], least: i32) -> Vec<(u32, u32)> {
        let class = |i: usize, at: usize| masked[i].get(at).and_then(|&l| CLASS.get(l as usize));
        let letter = |i: usize, at: isize| {
            usize::try_from(at).ok().and_then(|at| letters[i].get(at)).filter(|l| **l < OTHER)
        };
        let is_found = |i: usize, x: usize, j: usize, y: usize| {
            let shares = |shape: u16| {
                places(shape)
                    .into_iter()
                    .all(|at| class(i, x + at).is_some() && class(i, x + at) == class(j, y + at))
            };
            let around = || (0..WINDOW as isize).map(|at| at - BEFORE as isize);
            let equal = |at: &isize| {
                let (a, b) = (letter(i, x as isize + at), letter(j, y as isize + at));
                a.is_some() && a == b
            };
            SHAPES.into_iter().any(shares)
                && around().filter(equal).count() >= LEAST_EQUAL as usize
                && run(&letters[i], x, &letters[j], y) >= least
        };
        let mut found = Vec::new();
        for i in 0..letters.len() {
            for j in i + 1..letters.len() {
                let places = (0..letters[i].len()).flat_map(|x| (0..letters[j].len()).map(move |y| (x, y)));
                if places.into_iter().any(|(x, y)| is_found(i, x, j, y)) {
                    found.push((i as u32, j as u32));
                }
            }
        }
        found
    }

    #[test]
    fn pairs_are_those_of_the_book_but_for_runs_that_leave_the_window() {
        let mut rng = rng(31, "test", 0);
        let mut sequences = Vec::new();
        for family in 0..9 {
            let founder = random(&mut rng, 50 + 9 * family);
            sequences
                .extend([0.9, 0.6, 0.45, 0.4].map(|identity| mutated(&mut rng, &founder, identity) + "X"));
        }
        let letters: Vec<Vec<u8>> = sequences.iter().map(|s| encode(s)).collect();
        let masked: Vec<Vec<u8>> = letters.iter().map(|l| mask(l)).collect();
        let n = letters.len();
        let all = vec![true; n];
        let want = by_the_book(&letters, &masked, 29);
        let found = pairs(&letters, &masked, &all, &all, n, 29);
        assert!(found.iter().all(|pair| want.contains(pair)));
        assert!(found.len() * 10 >= want.len() * 9 && want.len() > 30, "{} of {}", found.len(), want.len());
        // Asked of two sides, it is the same pairs.
        let left: Vec<bool> = (0..n).map(|_| rng.next_u32().is_multiple_of(3)).collect();
        let right: Vec<bool> = left.iter().map(|is| !is).collect();
        let across: Vec<(u32, u32)> =
            found.iter().copied().filter(|&(i, j)| left[i as usize] != left[j as usize]).collect();
        assert_eq!(pairs(&letters, &masked, &left, &right, n, 29), across);
        assert_eq!(pairs(&letters, &masked, &right, &left, n, 29), across);
    }
}
