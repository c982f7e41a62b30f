//! Local alignments of one protein with many at once (Smith and Waterman 1981, affine gaps after Gotoh 1982).
//!
//! The lanes of a vector are proteins, so a cell costs a few vector instructions whatever the letters are (Rognes
//! 2011). One kernel serves both questions: scores alone in 8 bits, 64 proteins at a time, and again in 16 bits where those are
//! too few; and score, equal residues and aligned residues, packed into one number of 64 bits, eight proteins at a time.

/// Letters that scores are known for: the 20 standard residues, then anything else.
const N_LETTERS: usize = 21;
/// What is not one of the 20 standard residues.
pub(crate) const OTHER: u8 = 20;
/// Behind the end of a protein: nothing aligns with it.
pub(crate) const END: u8 = 21;

/// The first residue of a gap costs this, in units of the matrix.
pub(crate) const GAP_OPEN: i16 = 12;
/// Every further residue costs this.
pub(crate) const GAP_EXTEND: i16 = 1;

/// BLOSUM62 (Henikoff and Henikoff 1992), in the order of [`datasets::residue::LETTERS`].
#[rustfmt::skip]
pub(crate) const BLOSUM62: [[i8; N_LETTERS]; N_LETTERS] = [
    [4, 0, -2, -1, -2, 0, -2, -1, -1, -1, -1, -2, -1, -1, -1, 1, 0, 0, -3, -2, 0],
    [0, 9, -3, -4, -2, -3, -3, -1, -3, -1, -1, -3, -3, -3, -3, -1, -1, -1, -2, -2, -2],
    [-2, -3, 6, 2, -3, -1, -1, -3, -1, -4, -3, 1, -1, 0, -2, 0, -1, -3, -4, -3, -1],
    [-1, -4, 2, 5, -3, -2, 0, -3, 1, -3, -2, 0, -1, 2, 0, 0, -1, -2, -3, -2, -1],
    [-2, -2, -3, -3, 6, -3, -1, 0, -3, 0, 0, -3, -4, -3, -3, -2, -2, -1, 1, 3, -1],
    [0, -3, -1, -2, -3, 6, -2, -4, -2, -4, -3, 0, -2, -2, -2, 0, -2, -3, -2, -3, -1],
    [-2, -3, -1, 0, -1, -2, 8, -3, -1, -3, -2, 1, -2, 0, 0, -1, -2, -3, -2, 2, -1],
    [-1, -1, -3, -3, 0, -4, -3, 4, -3, 2, 1, -3, -3, -3, -3, -2, -1, 3, -3, -1, -1],
    [-1, -3, -1, 1, -3, -2, -1, -3, 5, -2, -1, 0, -1, 1, 2, 0, -1, -2, -3, -2, -1],
    [-1, -1, -4, -3, 0, -4, -3, 2, -2, 4, 2, -3, -3, -2, -2, -2, -1, 1, -2, -1, -1],
    [-1, -1, -3, -2, 0, -3, -2, 1, -1, 2, 5, -2, -2, 0, -1, -1, -1, 1, -1, -1, -1],
    [-2, -3, 1, 0, -3, 0, 1, -3, 0, -3, -2, 6, -2, 0, 0, 1, 0, -3, -4, -2, -1],
    [-1, -3, -1, -1, -4, -2, -2, -3, -1, -3, -2, -2, 7, -1, -2, -1, -1, -2, -4, -3, -2],
    [-1, -3, 0, 2, -3, -2, 0, -3, 1, -2, 0, 0, -1, 5, 1, 0, -1, -2, -2, -1, -1],
    [-1, -3, -2, 0, -3, -2, 0, -3, 2, -2, -1, 0, -2, 1, 5, -1, -1, -3, -3, -2, -1],
    [1, -1, 0, 0, -2, 0, -1, -2, 0, -2, -1, 1, -1, 0, -1, 4, 1, -2, -3, -2, 0],
    [0, -1, -1, -1, -2, -2, -2, -1, -1, -1, -1, 0, -1, -1, -1, 1, 5, 0, -2, -2, 0],
    [0, -1, -3, -2, -1, -3, -3, 3, -2, 1, 1, -3, -2, -2, -3, -2, 0, 4, -3, -1, -1],
    [-3, -2, -4, -3, 1, -2, -2, -3, -3, -2, -1, -4, -4, -2, -3, -3, -2, -3, 11, 2, -2],
    [-2, -2, -3, -2, 3, -3, 2, -1, -2, -1, -1, -2, -3, -1, -2, -2, -2, -1, 2, 7, -1],
    [0, -2, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -2, -1, -1, 0, 0, -1, -2, -1, -1],
];

/// Letters of a normalised sequence as rows of [`BLOSUM62`].
pub fn encode(sequence: &str) -> Vec<u8> {
    let code = |letter: u8| datasets::residue::LETTERS[..20].iter().position(|&l| l == letter);
    sequence.bytes().map(|letter| code(letter).map_or(OTHER, |at| at as u8)).collect()
}

/// A best local alignment. Of several with the best score, one with most equal residues and of these one with most
/// aligned residues counts, so that nothing depends on which of the two comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// In units of [`BLOSUM62`].
    pub(crate) score: usize,
    /// Pairs of equal standard residues.
    pub(crate) n_equal: usize,
    /// Pairs of residues; gaps do not count.
    pub(crate) n_pairs: usize,
}

/// What a cell of the matrix holds.
pub(crate) trait Cell: Copy {
    const ZERO: Self;
    const LOWEST: Self;
    fn of(a: u8, b: u8) -> Self;
    fn gap(cost: i16) -> Self;
    fn plus(self, other: Self) -> Self;
    fn minus(self, other: Self) -> Self;
    fn larger(self, other: Self) -> Self;
}

/// A score; at the highest number it stays.
macro_rules! score_cell {
    ($score:ty) => {
        impl Cell for $score {
            const ZERO: Self = 0;
            const LOWEST: Self = <$score>::MIN;

            fn of(a: u8, b: u8) -> Self {
                if b == END { <$score>::MIN } else { BLOSUM62[a as usize][b as usize].into() }
            }
            fn gap(cost: i16) -> Self {
                cost as $score
            }
            #[inline(always)]
            fn plus(self, other: Self) -> Self {
                self.saturating_add(other)
            }
            #[inline(always)]
            fn minus(self, other: Self) -> Self {
                self.saturating_sub(other)
            }
            #[inline(always)]
            fn larger(self, other: Self) -> Self {
                self.max(other)
            }
        }
    };
}
score_cell!(i8);
score_cell!(i16);

/// Score · 2³² + equal residues · 2¹⁶ + aligned residues: sums and comparisons of whole numbers are those of the three in
/// turn, as long as neither count passes 65,535.
impl Cell for i64 {
    const ZERO: Self = 0;
    const LOWEST: Self = i64::MIN / 4;

    fn of(a: u8, b: u8) -> Self {
        if b == END {
            return i64::MIN / 4;
        }
        (i64::from(BLOSUM62[a as usize][b as usize]) << 32) + (i64::from(a == b && a != OTHER) << 16) + 1
    }
    fn gap(cost: i16) -> Self {
        i64::from(cost) << 32
    }
    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        self + other
    }
    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self - other
    }
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

/// Best local scores of `query` with each of `targets`, in their order; above 32,767 a score stays there, which is as
/// significant. Quickest when neighbours are of one length.
pub(crate) fn scores(query: &[u8], targets: &[&[u8]]) -> Vec<usize> {
    let mut scores: Vec<usize> = Vec::with_capacity(targets.len());
    for some in targets.chunks(64) {
        let best = if some.len() > 32 {
            dispatch::<i8, 64>(query, some).to_vec()
        } else {
            dispatch::<i8, 32>(query, some).to_vec()
        };
        scores.extend(best.into_iter().take(some.len()).map(|score| score as usize));
    }
    let high: Vec<usize> = (0..targets.len()).filter(|&at| scores[at] == i8::MAX as usize).collect();
    for some in high.chunks(32) {
        let of: Vec<&[u8]> = some.iter().map(|&at| targets[at]).collect();
        let best = dispatch::<i16, 32>(query, &of);
        some.iter().zip(best).for_each(|(&at, score)| scores[at] = score as usize);
    }
    scores
}

/// Best local alignments of `query` with each of `targets`, in their order.
pub(crate) fn alignments(query: &[u8], targets: &[&[u8]]) -> Vec<Alignment> {
    let best =
        targets.chunks(8).flat_map(|some| dispatch::<i64, 8>(query, some).into_iter().take(some.len()));
    best.map(unpack).collect()
}

/// The three numbers that a cell of 64 bits holds.
pub(crate) fn unpack(best: i64) -> Alignment {
    Alignment {
        score: (best >> 32) as usize,
        n_equal: (best >> 16 & 0xffff) as usize,
        n_pairs: (best & 0xffff) as usize,
    }
}

/// Whether the processor has the AVX-512 that alignments are compiled for.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
}

/// [`local`], compiled for what the processor has.
fn dispatch<T: Cell, const LANES: usize>(query: &[u8], targets: &[&[u8]]) -> [T; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
        fn avx512<T: Cell, const LANES: usize>(query: &[u8], targets: &[&[u8]]) -> [T; LANES] {
            local(query, targets)
        }
        #[target_feature(enable = "avx2")]
        fn avx2<T: Cell, const LANES: usize>(query: &[u8], targets: &[&[u8]]) -> [T; LANES] {
            local(query, targets)
        }
        if has_avx512() {
            // SAFETY: the features that it is compiled for have just been found.
            return unsafe { avx512(query, targets) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2(query, targets) };
        }
    }
    local(query, targets)
}

/// Best cell of the matrix of `query` and each of up to `LANES` targets.
#[inline(always)]
fn local<T: Cell, const LANES: usize>(query: &[u8], targets: &[&[u8]]) -> [T; LANES] {
    let (open, extend) = (T::gap(GAP_OPEN), T::gap(GAP_EXTEND));
    let columns = targets.iter().map(|t| t.len()).max().unwrap_or(0);
    let mut best = [T::ZERO; LANES];
    let residues: [u8; N_LETTERS + 1] = std::array::from_fn(|residue| residue as u8);
    let table =
        residues.map(|residue| std::array::from_fn::<T, N_LETTERS, _>(|letter| T::of(letter as u8, residue)));
    // Column by column: of the column before, the best score that ends in each cell, and the best that ends in a gap.
    let mut before = vec![([T::ZERO; LANES], [T::LOWEST; LANES]); query.len()];
    for column in 0..columns {
        // Scores of every letter against this column's residue of each target.
        let mut profile = [[T::ZERO; LANES]; N_LETTERS];
        for lane in 0..LANES {
            let residue = targets.get(lane).and_then(|t| t.get(column)).copied().unwrap_or(END);
            for (row, score) in profile.iter_mut().zip(table[residue as usize]) {
                row[lane] = score;
            }
        }
        let mut diagonal = [T::ZERO; LANES];
        let mut down = [T::LOWEST; LANES];
        for (&letter, (score, across)) in query.iter().zip(&mut before) {
            let matched = &profile[letter as usize];
            for lane in 0..LANES {
                let left = score[lane];
                let gap = across[lane].minus(extend).larger(left.minus(open));
                let here = diagonal[lane].plus(matched[lane]).larger(gap.larger(down[lane])).larger(T::ZERO);
                best[lane] = best[lane].larger(here);
                diagonal[lane] = left;
                score[lane] = here;
                across[lane] = gap;
                down[lane] = down[lane].minus(extend).larger(here.minus(open));
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::rng;
    use rand::Rng;

    /// The same by the book: one pair, a matrix for each of the three ways to end.
    fn by_the_book(a: &[u8], b: &[u8]) -> (i32, i32, i32) {
        type Best = (i32, i32, i32);
        let none: Best = (-1_000_000, 0, 0);
        let less = |x: Best, cost: i32| (x.0 - cost, x.1, x.2);
        let size = (a.len() + 1, b.len() + 1);
        let mut h = vec![vec![(0, 0, 0); size.1]; size.0];
        let (mut e, mut f) = (vec![vec![none; size.1]; size.0], vec![vec![none; size.1]; size.0]);
        let mut best = (0, 0, 0);
        for i in 1..size.0 {
            for j in 1..size.1 {
                e[i][j] = less(e[i][j - 1], 1).max(less(h[i][j - 1], 12));
                f[i][j] = less(f[i - 1][j], 1).max(less(h[i - 1][j], 12));
                let (x, y) = (a[i - 1], b[j - 1]);
                let from = h[i - 1][j - 1];
                let score = i32::from(BLOSUM62[x as usize][y as usize]);
                let matched = (from.0 + score, from.1 + i32::from(x == y && x < 20), from.2 + 1);
                h[i][j] = matched.max(e[i][j]).max(f[i][j]);
                if h[i][j].0 < 0 {
                    h[i][j] = (0, 0, 0);
                }
                best = best.max(h[i][j]);
            }
        }
        best
    }

    /// Random proteins, some of them pieces of others with changes and gaps.
    fn proteins(n: usize) -> Vec<Vec<u8>> {
        let mut rng = rng(3, "test", 0);
        let mut all: Vec<Vec<u8>> = Vec::new();
        for at in 0..n {
            let mut below = |n: usize| rng.next_u32() as usize % n;
            let mut protein: Vec<u8> = (0..1 + below(97)).map(|_| below(21) as u8).collect();
            if at % 3 > 0 {
                protein.extend(&all[below(at)]);
                for _ in 0..below(1 + protein.len() / 3) {
                    let place = below(protein.len());
                    match below(8) {
                        0 if protein.len() > 1 => _ = protein.remove(place),
                        1 => protein.insert(place, below(20) as u8),
                        _ => protein[place] = below(20) as u8,
                    }
                }
            }
            all.push(protein);
        }
        all
    }

    #[test]
    fn lanes_give_what_the_book_gives() {
        let proteins = proteins(83);
        let targets: Vec<&[u8]> = proteins.iter().map(Vec::as_slice).collect();
        let mut significant = 0;
        for query in &targets[..41] {
            let scores = scores(query, &targets);
            for (at, found) in alignments(query, &targets).into_iter().enumerate() {
                let (score, n_equal, n_pairs) = by_the_book(query, targets[at]);
                let want =
                    Alignment { score: score as usize, n_equal: n_equal as usize, n_pairs: n_pairs as usize };
                assert_eq!((found, scores[at]), (want, want.score));
                assert_eq!(alignments(targets[at], &[query])[0], want, "turned round");
                significant += usize::from(score > 60);
            }
        }
        assert!(significant > 200, "{significant}");
    }

    /// Scores of Biopython's aligner: `tests/golden/make_alignments.py`.
    #[test]
    fn scores_are_those_of_biopython() {
        for line in include_str!("../../tests/golden/alignments.tsv").lines() {
            let [a, b, score] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            assert_eq!(scores(&encode(a), &[&encode(b)]), [score.parse::<usize>().unwrap()], "{a} {b}");
        }
    }

    #[test]
    fn a_score_beyond_sixteen_bits_stays_at_the_top() {
        let protein = vec![18; 4_000];
        assert_eq!(scores(&protein, &[&protein]), [i16::MAX as usize]);
        assert_eq!(
            alignments(&protein, &[&protein])[0],
            Alignment { score: 44_000, n_equal: 4_000, n_pairs: 4_000 }
        );
    }
}
