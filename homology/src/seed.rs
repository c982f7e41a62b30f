//! Which proteins are worth an alignment: two similar words on one diagonal, then a good run without gaps (Altschul et
//! al. 1997).

use crate::align::{BLOSUM62, OTHER};
use crate::diagonal::run;

/// Residues of a word.
const WORD: usize = 4;
const N_WORDS: usize = 20_usize.pow(WORD as u32);
/// Two hits on a diagonal may lie so far apart, in residues.
const APART: u32 = 40;
/// A run is worth an alignment from this score on (21 bits).
const RUN: i32 = 40;
/// Residues of a block of the index: what is written for a query stays in the processor's cache.
const BLOCK: usize = 1 << 18;

/// A word of a query: where it begins, and a word that is similar to it.
type Hit = (u32, u32);

/// The words of some proteins, found by what they are.
pub(crate) struct Index {
    /// Two words are similar from this score on.
    similar: i32,
    blocks: Vec<Block>,
}

/// Proteins in one piece.
struct Block {
    letters: Vec<u8>,
    /// Where each protein begins, ascending, and which it is.
    members: Vec<(u32, usize)>,
    /// Places of word `w`: `places[begin[w]..begin[w + 1]]`.
    begin: Vec<u32>,
    places: Vec<u32>,
}

/// A protein, and the same with its low complexity masked, where words begin nothing.
#[derive(Clone, Copy)]
pub(crate) struct Text<'a> {
    pub(crate) letters: &'a [u8],
    pub(crate) masked: &'a [u8],
}

/// What a search writes on, used again and again.
#[derive(Default)]
pub(crate) struct Slate {
    /// Per diagonal: where the last hit was, above the mark of the query.
    last: Vec<u32>,
    mark: u32,
    /// Per protein of the block: whether it was found.
    found: Vec<bool>,
}

impl Index {
    /// Indexes proteins, given with their numbers.
    pub(crate) fn new<'a>(similar: i32, proteins: impl Iterator<Item = (usize, Text<'a>)>) -> Self {
        let (mut blocks, mut some) = (Vec::new(), Vec::new());
        let mut length = 0;
        for protein in proteins {
            if length > 0 && length + protein.1.letters.len() > BLOCK {
                blocks.push(Block::new(&std::mem::take(&mut some)));
                length = 0;
            }
            length += protein.1.letters.len();
            some.push(protein);
        }
        if !some.is_empty() {
            blocks.push(Block::new(&some));
        }
        Self { similar, blocks }
    }

    /// Proteins worth an alignment, for each of some queries, in no special order.
    pub(crate) fn candidates(&self, queries: &[Text<'_>], slate: &mut Slate) -> Vec<Vec<usize>> {
        let hits: Vec<Vec<Hit>> = queries.iter().map(|q| similar_words(q.masked, self.similar)).collect();
        let mut candidates = vec![Vec::new(); queries.len()];
        for block in &self.blocks {
            for ((query, hits), candidates) in queries.iter().zip(&hits).zip(&mut candidates) {
                block.search(query.letters, hits, slate, candidates);
            }
        }
        candidates
    }
}

impl Block {
    fn new(proteins: &[(usize, Text<'_>)]) -> Self {
        let mut letters = Vec::new();
        let mut members = Vec::new();
        for &(number, text) in proteins {
            members.push((letters.len() as u32, number));
            letters.extend_from_slice(text.letters);
        }
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (&(start, _), (_, text)) in members.iter().zip(proteins) {
            found.extend(words(text.masked).map(|(x, word)| (start as usize + x, word)));
        }
        let mut begin = vec![0_u32; N_WORDS + 1];
        for &(_, word) in &found {
            begin[word + 1] += 1;
        }
        for word in 0..N_WORDS {
            begin[word + 1] += begin[word];
        }
        let mut next = begin.clone();
        let mut places = vec![0; begin[N_WORDS] as usize];
        for (place, word) in found {
            places[next[word] as usize] = place as u32;
            next[word] += 1;
        }
        Self { letters, members, begin, places }
    }

    fn search(&self, query: &[u8], hits: &[Hit], slate: &mut Slate, candidates: &mut Vec<usize>) {
        let n_diagonals = self.letters.len() + query.len() + 1;
        let reach = query.len() as u32 + APART + 1;
        if slate.last.len() < n_diagonals || slate.mark.checked_add(2 * reach).is_none() {
            let size = slate.last.len().max(n_diagonals);
            *slate = Slate { last: vec![0; size], mark: 0, found: vec![] };
        }
        // Hits of earlier queries lie more than APART below this mark.
        slate.mark += reach;
        let mark = slate.mark;
        slate.found.clear();
        slate.found.resize(self.members.len(), false);
        for &(x, word) in hits {
            let [from, to] = [self.begin[word as usize] as usize, self.begin[word as usize + 1] as usize];
            for &place in &self.places[from..to] {
                let last = &mut slate.last[place as usize + query.len() - x as usize];
                let apart = mark + x - *last;
                if apart < WORD as u32 {
                    continue;
                }
                *last = mark + x;
                if apart <= APART {
                    let at = self.members.partition_point(|m| m.0 <= place) - 1;
                    let is_same = place - apart >= self.members[at].0;
                    if is_same && !slate.found[at] && self.run(query, x as usize, place as usize, at) >= RUN {
                        slate.found[at] = true;
                        candidates.push(self.members[at].1);
                    }
                }
            }
        }
        slate.mark += query.len() as u32;
    }

    /// Score of the best run without gaps through the word at `x` of the query and `place` of the block.
    fn run(&self, query: &[u8], x: usize, place: usize, at: usize) -> i32 {
        let start = self.members[at].0 as usize;
        let end = self.members.get(at + 1).map_or(self.letters.len(), |m| m.0 as usize);
        run(query, x, &self.letters[start..end], place - start)
    }
}

/// Words of one protein, and where they begin.
fn words(masked: &[u8]) -> impl Iterator<Item = (usize, usize)> {
    let plain = masked.windows(WORD).enumerate().filter(|(_, letters)| !letters.contains(&OTHER));
    plain.map(|(at, letters)| (at, letters.iter().fold(0, |word, &l| word * 20 + l as usize)))
}

/// All words that score at least `similar` with one of a query, by ascending place in the query.
fn similar_words(masked: &[u8], similar: i32) -> Vec<Hit> {
    let mut hits = Vec::new();
    for (at, word) in words(masked) {
        let letters: [usize; WORD] = std::array::from_fn(|i| word / 20_usize.pow((WORD - 1 - i) as u32) % 20);
        extend(&letters, 0, similar, &mut |word| hits.push((at as u32, word as u32)));
    }
    hits
}

/// Calls `take` with every word that begins with `prefix` and whose other letters score at least `needed` with `letters`.
fn extend(letters: &[usize], prefix: usize, needed: i32, take: &mut impl FnMut(usize)) {
    let Some((&letter, rest)) = letters.split_first() else { return take(prefix) };
    // No letter scores more with another than with itself.
    let most: i32 = rest.iter().map(|&l| i32::from(BLOSUM62[l][l])).sum();
    for (other, &score) in BLOSUM62[letter][..20].iter().enumerate() {
        if i32::from(score) + most >= needed {
            extend(rest, prefix * 20 + other, needed - i32::from(score), take);
        }
    }
}
