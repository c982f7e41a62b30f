//! Alignments of two proteins near a diagonal that a word in common has shown.

use crate::align::{Alignment, BLOSUM62, Cell, OTHER, unpack};

/// Gaps move an alignment at most so far from its diagonal, in residues.
const REACH: usize = 16;
const WIDTH: usize = 2 * REACH + 1;
/// A run without gaps ends where it has lost so much.
const DROP: i32 = 16;

/// What a pair of letters adds, packed as [`Cell`] packs it; rows of 32 so that no index needs a check.
static PAIRS: [[i64; 32]; 32] = pairs();

const fn pairs() -> [[i64; 32]; 32] {
    let mut table = [[0; 32]; 32];
    let (mut a, n) = (0, BLOSUM62.len());
    while a < n {
        let mut b = 0;
        while b < n {
            table[a][b] =
                ((BLOSUM62[a][b] as i64) << 32) + ((a == b && a != OTHER as usize) as i64 * (1 << 16)) + 1;
            b += 1;
        }
        a += 1;
    }
    table
}

fn pair(a: u8, b: u8) -> i64 {
    PAIRS[a as usize & 31][b as usize & 31]
}

/// Score of the best run without gaps through `a[x]` and `b[y]`.
pub(crate) fn run(a: &[u8], x: usize, b: &[u8], y: usize) -> i32 {
    let right = gain(a[x..].iter().zip(&b[y..]));
    let left = gain(a[..x].iter().rev().zip(b[..y].iter().rev()));
    left + right
}

/// The best sum of scores of the first pairs.
fn gain<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>) -> i32 {
    let (mut best, mut sum) = (0, 0);
    for (&a, &b) in pairs {
        sum += (pair(a, b) >> 32) as i32;
        best = best.max(sum);
        if sum <= best - DROP {
            break;
        }
    }
    best
}

/// The best alignment without gaps on a diagonal, that is of residues `x` of `a` and `x + diagonal` of `b`.
pub(crate) fn ungapped(a: &[u8], b: &[u8], diagonal: i32) -> Alignment {
    let a = &a[usize::try_from(-diagonal).unwrap_or(0).min(a.len())..];
    let b = &b[usize::try_from(diagonal).unwrap_or(0).min(b.len())..];
    let (mut best, mut here) = (0, 0);
    for (&x, &y) in a.iter().zip(b) {
        here = (here + pair(x, y)).larger(0);
        best = best.larger(here);
    }
    unpack(best)
}

/// The best alignment whose pairs of residues `x` of `a` and `y` of `b` have `y − x` within [`REACH`] of the diagonal.
pub(crate) fn banded(a: &[u8], b: &[u8], diagonal: i32) -> Alignment {
    let (open, extend) = (i64::gap(super::align::GAP_OPEN), i64::gap(super::align::GAP_EXTEND));
    // Of the row before, by the distance from the diagonal: the best score that ends there, and that ends in a gap.
    let mut scores = [0; WIDTH + 1];
    let mut downs = [i64::LOWEST; WIDTH + 1];
    scores[WIDTH] = i64::LOWEST;
    let mut best = 0;
    let first = (-(diagonal as isize) - REACH as isize).max(0) as usize;
    for (x, &letter) in a.iter().enumerate().skip(first) {
        // `y` of the leftmost cell of the band, which may lie before the beginning of `b`.
        let left = x as isize + diagonal as isize - REACH as isize;
        let from = (-left).max(0) as usize;
        let to = (b.len() as isize - left).clamp(0, WIDTH as isize) as usize;
        if from >= to {
            if left > 0 { break } else { continue }
        }
        let row = &PAIRS[letter as usize & 31];
        let mut across = i64::LOWEST;
        for (at, &other) in (from..to).zip(&b[(left + from as isize) as usize..]) {
            let down = (downs[at + 1] - extend).larger(scores[at + 1] - open);
            let matched = (scores[at] + row[other as usize & 31]).larger(down).larger(0);
            let here = matched.larger(across);
            best = best.larger(here);
            scores[at] = here;
            downs[at] = down;
            // A gap that follows a gap costs less when it goes on than when it opens.
            across = (across - extend).larger(matched - open);
        }
    }
    unpack(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::{alignments, encode};
    use crate::tests::{mutated, random};

    use datasets::rng;
    use rand::Rng;

    #[test]
    fn a_band_holds_the_best_alignment_when_its_gaps_are_short() {
        let mut rng = rng(19, "test", 0);
        let mut n_gapped = 0;
        for length in 40..140 {
            let founder = random(&mut rng, length);
            let mut member = mutated(&mut rng, &founder, 0.8);
            let at = 10 + rng.next_u32() as usize % (length - 20);
            member.insert_str(at, &random(&mut rng, 1 + length % 5));
            let other = random(&mut rng, length % 17) + &member;
            let (a, b) = (encode(&founder), encode(&other));
            let want = alignments(&a, &[&b])[0];
            let diagonal = (length % 17) as i32;
            assert_eq!(banded(&a, &b, diagonal), want);
            assert_eq!(banded(&b, &a, -diagonal), want, "turned round");
            let flat = ungapped(&a, &b, diagonal);
            assert_eq!(flat, ungapped(&b, &a, -diagonal));
            assert!(flat.score <= want.score);
            n_gapped += usize::from(flat.score < want.score);
            // A run through any pair of the diagonal is no better than the best one.
            let at = (length / 2, length / 2 + length % 17);
            assert!(run(&a, at.0, &b, at.1) <= flat.score as i32);
        }
        assert!(n_gapped > 50, "{n_gapped}");
    }

    #[test]
    fn a_diagonal_outside_of_the_proteins_holds_nothing() {
        let (a, b) = (encode("MKTAYIAKQRQISFVK"), encode("MKTAYIAKQ"));
        for far in [100, -100] {
            assert_eq!((banded(&a, &b, far).score, ungapped(&a, &b, far).score), (0, 0));
        }
        assert_eq!(ungapped(&a, &b, 0).n_equal, 9);
    }
}
