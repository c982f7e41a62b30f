//! Local alignments of the places of one protein, each with scores of its own, with many proteins at once.

#[cfg(target_arch = "x86_64")]
use crate::align::has_avx512;
use crate::align::{BLOSUM62, END, GAP_EXTEND, GAP_OPEN};

/// Proteins that are aligned at once: the lanes of a vector.
const LANES: usize = 16;

/// What each letter scores in a place, in units of [`BLOSUM62`]; as many entries as need no check.
pub(crate) type Place = [i32; 32];

/// What no alignment can have.
pub(crate) const NEVER: i32 = i32::MIN / 4;

/// Pairs of places of two proteins, ascending.
pub(crate) type Path = Vec<(u32, u32)>;

/// The places of a protein that score as its letters do.
pub(crate) fn places(protein: &[u8]) -> Vec<Place> {
    let score = |a: u8, b: usize| BLOSUM62[a as usize].get(b).map_or(NEVER, |&score| score.into());
    protein.iter().map(|&letter| std::array::from_fn(|other| score(letter, other))).collect()
}

/// Best local scores of places with each of `targets`, in their order. Quickest when neighbours are of one length.
pub(crate) fn scores(places: &[Place], targets: &[&[u8]]) -> Vec<usize> {
    let best = |some: &[&[u8]]| dispatch::<false>(places, some).0.into_iter().take(some.len());
    targets.chunks(LANES).flat_map(best).map(|end| end.score as usize).collect()
}

/// A best local alignment of places with each of `targets`, in their order; of several with the best score one that ends first in
/// the target.
pub(crate) fn paths(places: &[Place], targets: &[&[u8]]) -> Vec<Path> {
    let mut paths = Vec::with_capacity(targets.len());
    for some in targets.chunks(LANES) {
        let (ends, steps) = dispatch::<true>(places, some);
        paths.extend((0..some.len()).map(|lane| back(&ends[lane], |i, j| steps[j * places.len() + i][lane])));
    }
    paths
}

/// Where a best alignment ends, if its score is not 0.
#[derive(Clone, Copy, Default)]
struct End {
    score: i32,
    place: i32,
    column: i32,
}

/// How a best score that ends in a cell came about: from a pair of residues, or from a gap in either protein.
const PAIR: u8 = 1;
const ACROSS: u8 = 2;
const DOWN: u8 = 3;
const KIND: u8 = 3;
/// That the gap that ends there is longer than one residue.
const LONGER_ACROSS: u8 = 4;
const LONGER_DOWN: u8 = 8;

/// [`local`], compiled for what the processor has.
fn dispatch<const STEPS: bool>(places: &[Place], targets: &[&[u8]]) -> ([End; LANES], Vec<[u8; LANES]>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2")]
        fn avx512<const STEPS: bool>(
            places: &[Place],
            targets: &[&[u8]],
        ) -> ([End; LANES], Vec<[u8; LANES]>) {
            local::<STEPS>(places, targets)
        }
        #[target_feature(enable = "avx2")]
        fn avx2<const STEPS: bool>(places: &[Place], targets: &[&[u8]]) -> ([End; LANES], Vec<[u8; LANES]>) {
            local::<STEPS>(places, targets)
        }
        if has_avx512() {
            // SAFETY: the features that it is compiled for have just been found.
            return unsafe { avx512::<STEPS>(places, targets) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { avx2::<STEPS>(places, targets) };
        }
    }
    local::<STEPS>(places, targets)
}

/// Where best alignments with up to [`LANES`] targets end; with `STEPS`, how every cell came about, column by column.
#[inline(always)]
fn local<const STEPS: bool>(places: &[Place], targets: &[&[u8]]) -> ([End; LANES], Vec<[u8; LANES]>) {
    let (open, extend) = (i32::from(GAP_OPEN), i32::from(GAP_EXTEND));
    let columns = targets.iter().map(|t| t.len()).max().unwrap_or(0);
    let (mut best, mut best_place, mut best_column) = ([0; LANES], [0; LANES], [0; LANES]);
    let mut steps = Vec::with_capacity(if STEPS { columns * places.len() } else { 0 });
    // Of the column before: the best score that ends in each cell, and the best that ends in a gap.
    let mut before = vec![([0; LANES], [NEVER; LANES]); places.len()];
    for column in 0..columns {
        let residues: [u32; LANES] = std::array::from_fn(|lane| {
            targets.get(lane).and_then(|t| t.get(column)).copied().unwrap_or(END).into()
        });
        let (mut diagonal, mut above, mut down) = ([0; LANES], [0; LANES], [NEVER; LANES]);
        for (at, (place, (score, across))) in places.iter().zip(&mut before).enumerate() {
            let mut step = [0; LANES];
            for lane in 0..LANES {
                let left = score[lane];
                let (longer_across, new_across) = (across[lane] - extend, left - open);
                let (longer_down, new_down) = (down[lane] - extend, above[lane] - open);
                across[lane] = longer_across.max(new_across);
                down[lane] = longer_down.max(new_down);
                let paired = diagonal[lane] + place[(residues[lane] & 31) as usize];
                let here = paired.max(across[lane]).max(down[lane]).max(0);
                if STEPS {
                    let kind = if here == across[lane] { ACROSS } else { DOWN };
                    let kind = if here == paired { PAIR } else { kind };
                    let kind = if here == 0 { 0 } else { kind };
                    let is_longer_across = if longer_across > new_across { LONGER_ACROSS } else { 0 };
                    let is_longer_down = if longer_down > new_down { LONGER_DOWN } else { 0 };
                    step[lane] = kind | is_longer_across | is_longer_down;
                    let is_best = here > best[lane];
                    best_place[lane] = if is_best { at as i32 } else { best_place[lane] };
                    best_column[lane] = if is_best { column as i32 } else { best_column[lane] };
                }
                best[lane] = best[lane].max(here);
                diagonal[lane] = left;
                above[lane] = here;
                score[lane] = here;
            }
            if STEPS {
                steps.push(step);
            }
        }
    }
    let end = |lane| End { score: best[lane], place: best_place[lane], column: best_column[lane] };
    (std::array::from_fn(end), steps)
}

/// The way back from the end of an alignment; `step`: how a cell came about, by place and column.
fn back(end: &End, step: impl Fn(usize, usize) -> u8) -> Path {
    let mut pairs = Path::new();
    if end.score == 0 {
        return pairs;
    }
    let (mut i, mut j) = (end.place as usize, end.column as usize);
    loop {
        // Beyond the first place or column there is nothing.
        let next = match step(i, j) & KIND {
            PAIR => {
                pairs.push((i as u32, j as u32));
                i.checked_sub(1).zip(j.checked_sub(1))
            }
            ACROSS => {
                while step(i, j) & LONGER_ACROSS > 0 {
                    j -= 1;
                }
                Some(i).zip(j.checked_sub(1))
            }
            DOWN => {
                while step(i, j) & LONGER_DOWN > 0 {
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

    use crate::align;
    use crate::encode;
    use crate::tests::{mutated, random};

    use datasets::rng;
    use rand::Rng;

    /// What a path is worth.
    fn worth(pairs: &[(u32, u32)], query: &[u8], target: &[u8]) -> i32 {
        let score = |&(i, j): &(u32, u32)| {
            i32::from(BLOSUM62[query[i as usize] as usize][target[j as usize] as usize])
        };
        let gap = |n: u32| match n {
            0 => 0,
            n => i32::from(GAP_OPEN) + (n as i32 - 1) * i32::from(GAP_EXTEND),
        };
        let gaps = pairs.windows(2).map(|of| gap(of[1].0 - of[0].0 - 1) + gap(of[1].1 - of[0].1 - 1));
        pairs.iter().map(score).sum::<i32>() - gaps.sum::<i32>()
    }

    /// Against the scores of letters, which are checked against the book and Biopython.
    #[test]
    fn a_path_is_worth_the_best_score() {
        let mut rng = rng(17, "test", 0);
        let founder = random(&mut rng, 90);
        let mut targets = Vec::new();
        for at in 0..150 {
            let mut member = mutated(&mut rng, &founder[at % 30..], [0.9, 0.6, 0.3][at % 3]);
            for _ in 0..rng.next_u32() % 4 {
                let place = rng.next_u32() as usize % member.len();
                let piece = random(&mut rng, at % 7);
                member.replace_range(place..(place + at % 5).min(member.len()), &piece);
            }
            targets.push(encode(&(random(&mut rng, at % 40) + &member + "X")));
        }
        targets.extend([encode("P"), vec![]]);
        let targets: Vec<&[u8]> = targets.iter().map(Vec::as_slice).collect();
        let mut n_gapped = 0;
        for query in [encode(&founder), encode(&random(&mut rng, 70)), targets[7].to_vec(), vec![]] {
            let want = align::scores(&query, &targets);
            assert_eq!(scores(&places(&query), &targets), want);
            for ((pairs, target), want) in paths(&places(&query), &targets).iter().zip(&targets).zip(want) {
                assert!(pairs.windows(2).all(|of| of[0].0 < of[1].0 && of[0].1 < of[1].1));
                assert_eq!(worth(pairs, &query, target), want as i32);
                n_gapped += usize::from(pairs.windows(2).any(|of| of[1].0 - of[0].0 != of[1].1 - of[0].1));
            }
        }
        assert!(n_gapped > 100, "{n_gapped}");
    }
}
