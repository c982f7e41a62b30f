//! Which residue of one protein a best local alignment puts beside which of another.

use crate::align::{BLOSUM62, GAP_EXTEND, GAP_OPEN};

/// How a best score that ends in a cell came about: from a pair of residues, or from a gap in either protein.
const PAIR: u8 = 1;
const ACROSS: u8 = 2;
const DOWN: u8 = 3;
const KIND: u8 = 3;
/// That the gap that ends there is longer than one residue.
const LONGER_ACROSS: u8 = 4;
const LONGER_DOWN: u8 = 8;

/// The pairs of places of a best local alignment, ascending; of several with the best score one that ends first.
pub(crate) fn path(query: &[u8], target: &[u8]) -> Vec<(u32, u32)> {
    let (open, extend) = (i32::from(GAP_OPEN), i32::from(GAP_EXTEND));
    let n = target.len();
    let mut steps = vec![0_u8; query.len() * n];
    // Of the row before: the best score that ends in each cell, and the best that ends in a gap.
    let mut before = vec![(0_i32, i32::MIN / 2); n];
    let (mut best, mut end) = (0, None);
    for (i, &letter) in query.iter().enumerate() {
        let scores = &BLOSUM62[letter as usize];
        let (mut diagonal, mut left, mut across) = (0, 0, i32::MIN / 2);
        let steps = &mut steps[i * n..][..n];
        for (j, ((&other, (above, down)), step)) in target.iter().zip(&mut before).zip(steps).enumerate() {
            let (longer, new) = (across - extend, left - open);
            across = longer.max(new);
            *step |= if longer > new { LONGER_ACROSS } else { 0 };
            let (longer, new) = (*down - extend, *above - open);
            *down = longer.max(new);
            *step |= if longer > new { LONGER_DOWN } else { 0 };
            let paired = diagonal + i32::from(scores[other as usize]);
            let here = paired.max(across).max(*down).max(0);
            *step |= match here {
                0 => 0,
                _ if here == paired => PAIR,
                _ if here == across => ACROSS,
                _ => DOWN,
            };
            if here > best {
                (best, end) = (here, Some((i, j)));
            }
            (diagonal, left, *above) = (*above, here, here);
        }
    }
    let mut pairs = Vec::new();
    let Some((mut i, mut j)) = end else { return pairs };
    loop {
        let step = steps[i * n + j];
        // Where a step leads beyond the first row or column there is nothing any more.
        let next = match step & KIND {
            PAIR => {
                pairs.push((i as u32, j as u32));
                i.checked_sub(1).zip(j.checked_sub(1))
            }
            ACROSS => {
                while steps[i * n + j] & LONGER_ACROSS > 0 {
                    j -= 1;
                }
                Some(i).zip(j.checked_sub(1))
            }
            DOWN => {
                while steps[i * n + j] & LONGER_DOWN > 0 {
                    i -= 1;
                }
                i.checked_sub(1).zip(Some(j))
            }
            _ => None,
        };
        let Some(next) = next else { break };
        (i, j) = next;
    }
    pairs.reverse();
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::align::scores;
    use crate::encode;
    use crate::tests::{mutated, random};

    use datasets::rng;
    use rand::Rng;

    /// What a path is worth.
    fn worth(pairs: &[(u32, u32)], query: &[u8], target: &[u8]) -> i32 {
        let score = |&(i, j): &(u32, u32)| {
            i32::from(BLOSUM62[query[i as usize] as usize][target[j as usize] as usize])
        };
        let gap =
            |n: u32| if n == 0 { 0 } else { i32::from(GAP_OPEN) + (n as i32 - 1) * i32::from(GAP_EXTEND) };
        let gaps = pairs.windows(2).map(|of| gap(of[1].0 - of[0].0 - 1) + gap(of[1].1 - of[0].1 - 1));
        pairs.iter().map(score).sum::<i32>() - gaps.sum::<i32>()
    }

    /// Against the score, which is checked against the book and Biopython.
    #[test]
    fn a_path_is_worth_the_best_score() {
        let mut rng = rng(17, "test", 0);
        let mut n_gapped = 0;
        for at in 0..300 {
            let founder = random(&mut rng, 20 + at % 90);
            let mut member = mutated(&mut rng, &founder, [0.9, 0.6, 0.3][at % 3]);
            for _ in 0..rng.next_u32() % 4 {
                let place = rng.next_u32() as usize % member.len();
                let piece = random(&mut rng, at % 7);
                let end = (place + at % 5).min(member.len());
                member.replace_range(place..end, &piece);
            }
            let (query, target) = (encode(&founder), encode(&(random(&mut rng, at % 40) + &member + "X")));
            let pairs = path(&query, &target);
            assert!(pairs.windows(2).all(|of| of[0].0 < of[1].0 && of[0].1 < of[1].1));
            assert_eq!(worth(&pairs, &query, &target), scores(&query, &[&target])[0] as i32);
            n_gapped += usize::from(pairs.windows(2).any(|of| of[1].0 - of[0].0 != of[1].1 - of[0].1));
        }
        assert!(n_gapped > 60, "{n_gapped}");
        assert_eq!(path(&encode("WWWW"), &encode("PPP")), []);
        assert_eq!(path(&[], &encode("PPP")), []);
    }
}
