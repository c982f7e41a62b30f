//! Packing: examples one behind the other, so that a batch has no padding.

use std::collections::BTreeSet;

/// Puts examples of these lengths into lines of at most `capacity` tokens, by best fit in decreasing order of length: each
/// goes into the fullest line that still has room for it (TRL's `bfd`). Gives the examples of each line by number. An
/// example beyond the capacity is a line of its own: nothing is cut. n examples take n log n steps.
pub fn best_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(lengths[at])); // stable: equals keep their order
    let mut lines: Vec<Vec<usize>> = vec![];
    let mut room = BTreeSet::new(); // (tokens that a line still takes, line): of equally full lines, the first
    for at in order {
        let n = lengths[at];
        let (left, line) = room.range((n, 0)..).next().copied().unwrap_or_else(|| {
            lines.push(vec![]);
            (capacity.max(n), lines.len() - 1)
        });
        room.remove(&(left, line));
        room.insert((left - n, line));
        lines[line].push(at);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared;
    use proptest::prelude::*;

    #[test]
    fn lines_are_those_of_trl() {
        let Some(path) = shared("fixtures/sft/packing.json") else { return };
        let fixture: serde_json::Value = serde_json::from_slice(&fs_err::read(path).unwrap()).unwrap();
        let lengths: Vec<usize> = serde_json::from_value(fixture["input_lengths"].clone()).unwrap();
        let capacity = fixture["seq_length"].as_u64().unwrap() as usize;
        // TRL cuts what is too long before it packs: `bfd` drops the rest, `bfd_split` keeps it as a piece of its own. In the
        // fixture every token of example i is i + 1.
        let cut = |split: bool| -> Vec<(usize, usize)> {
            let piece = |(at, &n): (usize, &usize)| {
                let rest = n.saturating_sub(capacity);
                let more = (split && rest > 0).then_some((at + 1, rest));
                [Some((at + 1, n.min(capacity))), more].into_iter().flatten().collect::<Vec<_>>()
            };
            lengths.iter().enumerate().flat_map(piece).collect()
        };
        for (name, split) in [("bfd", false), ("bfd_split", true)] {
            let pieces = cut(split);
            let lines = best_fit_decreasing(&pieces.iter().map(|p| p.1).collect::<Vec<_>>(), capacity);
            let tokens = |line: &Vec<usize>| -> Vec<usize> {
                line.iter().flat_map(|&at| vec![pieces[at].0; pieces[at].1]).collect()
            };
            let got: Vec<Vec<usize>> = lines.iter().map(tokens).collect();
            let want = fixture["packed"][name].as_array().unwrap();
            let want: Vec<Vec<usize>> =
                want.iter().map(|line| serde_json::from_value(line["input_ids"].clone()).unwrap()).collect();
            assert_eq!(got, want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn lines_are_those_of_a_search_of_all(
            lengths in prop::collection::vec(1usize..30, 0..60), capacity in 1usize..40,
        ) {
            let mut order: Vec<usize> = (0..lengths.len()).collect();
            order.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
            let mut lines: Vec<(usize, Vec<usize>)> = vec![];
            for at in order {
                let fits = (0..lines.len()).filter(|&line| lines[line].0 + lengths[at] <= capacity);
                match fits.min_by_key(|&line| (capacity - lines[line].0, line)) {
                    Some(line) => {
                        lines[line].0 += lengths[at];
                        lines[line].1.push(at);
                    }
                    None => lines.push((lengths[at], vec![at])),
                }
            }
            let want: Vec<Vec<usize>> = lines.into_iter().map(|line| line.1).collect();
            prop_assert_eq!(best_fit_decreasing(&lengths, capacity), want);
        }

        #[test]
        fn every_example_is_in_one_line_and_no_line_overflows(
            lengths in prop::collection::vec(1usize..30, 0..40), capacity in 1usize..40,
        ) {
            let lines = best_fit_decreasing(&lengths, capacity);
            let mut seen: Vec<usize> = lines.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for line in &lines {
                let n: usize = line.iter().map(|&at| lengths[at]).sum();
                prop_assert!(n <= capacity || line.len() == 1);
            }
            // no two lines would fit into one
            for (i, a) in lines.iter().enumerate() {
                for b in &lines[i + 1..] {
                    let n: usize = a.iter().chain(b).map(|&at| lengths[at]).sum();
                    prop_assert!(n > capacity);
                }
            }
        }
    }
}
