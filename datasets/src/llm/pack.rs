//! Packing: examples one behind the other, so that a batch has no padding.

/// Puts examples of these lengths into lines of at most `capacity` tokens, by best fit in decreasing order of length: each
/// goes into the fullest line that still has room for it (TRL's `bfd`). Gives the examples of each line by number. An
/// example beyond the capacity is a line of its own: nothing is cut.
pub fn best_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(lengths[at])); // stable: equals keep their order
    let mut lines: Vec<(usize, Vec<usize>)> = vec![];
    for at in order {
        let n = lengths[at];
        let fits = lines.iter_mut().filter(|(used, _)| used + n <= capacity).max_by(|a, b| {
            // of equally full lines, the first
            a.0.cmp(&b.0).then(std::cmp::Ordering::Greater)
        });
        match fits {
            Some((used, line)) => {
                *used += n;
                line.push(at);
            }
            None => lines.push((n, vec![at])),
        }
    }
    lines.into_iter().map(|(_, line)| line).collect()
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
