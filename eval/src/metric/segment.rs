//! Metrics of segments: runs of one state along a chain. Residues whose truth is unknown end a run, in the truth and in the
//! prediction, and count nowhere.

/// Segment overlap SOV'99 (Zemla, Venclovas, Fidelis & Rost, Proteins 34:220, 1999), added up over chains.
///
/// Over the pairs of overlapping segments of one state, true `s₁` and predicted `s₂`, the sum of
/// `(minov + δ) / maxov · len(s₁)`, with the overlap `minov`, the extent `maxov` of both together and
/// `δ = min(maxov − minov, minov, ⌊len(s₁)/2⌋, ⌊len(s₂)/2⌋)`, divided by the sum of `len(s₁)` over the pairs and over the
/// true segments without a partner.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sov {
    sum: f64,
    n: usize,
}

/// State, first residue and the one after the last.
type Segment = (u8, usize, usize);

fn segments(states: &[u8], truth: &[u8], n_states: u8) -> Vec<Segment> {
    let mut found: Vec<Segment> = vec![];
    for (at, &state) in states.iter().enumerate().filter(|(at, _)| truth[*at] < n_states) {
        match found.last_mut() {
            Some(last) if last.0 == state && last.2 == at => last.2 = at + 1,
            _ => found.push((state, at, at + 1)),
        }
    }
    found
}

impl Sov {
    /// Of one chain.
    ///
    /// # Shapes
    /// both: L state indices; truths of `n_states` or more are unknown
    pub fn of(truth: &[u8], predicted: &[u8], n_states: u8) -> Self {
        let said = segments(predicted, truth, n_states);
        let mut found = Self::default();
        for (state, begin, end) in segments(truth, truth, n_states) {
            let length = end - begin;
            let overlapping = said.iter().filter(|s| s.0 == state && s.1 < end && begin < s.2);
            let before = found.n;
            for &(_, other_begin, other_end) in overlapping {
                let minov = end.min(other_end) - begin.max(other_begin);
                let maxov = end.max(other_end) - begin.min(other_begin);
                let delta = (maxov - minov).min(minov).min(length / 2).min((other_end - other_begin) / 2);
                found.sum += (minov + delta) as f64 / maxov as f64 * length as f64;
                found.n += length;
            }
            if found.n == before {
                found.n += length;
            }
        }
        found
    }

    /// Adds another chain, or many.
    pub fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.n += other.n;
    }

    /// Between 0 and 1; `None` where nothing is known.
    pub fn value(self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }
}

/// Where segments begin, added up over chains: true borders between two known states, and how many of them have a predicted
/// border of the same two states at most one residue away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Borders {
    near: usize,
    n: usize,
}

impl Borders {
    /// Of one chain; shapes as in [`Sov::of`].
    pub fn of(truth: &[u8], predicted: &[u8], n_states: u8) -> Self {
        let known = |at: usize| truth[at - 1] < n_states && truth[at] < n_states;
        let border =
            |states: &[u8], at: usize| (states[at - 1] != states[at]).then(|| (states[at - 1], states[at]));
        let mut found = Self::default();
        for at in (1..truth.len()).filter(|&at| known(at)) {
            if let Some(kind) = border(truth, at) {
                let nearby = at.saturating_sub(1).max(1)..=(at + 1).min(truth.len() - 1);
                found.n += 1;
                found.near += usize::from(nearby.into_iter().any(|at| border(predicted, at) == Some(kind)));
            }
        }
        found
    }

    /// Adds another chain, or many.
    pub fn merge(&mut self, other: Self) {
        self.near += other.near;
        self.n += other.n;
    }

    /// Share of the true borders that are found; `None` without one.
    pub fn value(self) -> Option<f64> {
        (self.n > 0).then(|| self.near as f64 / self.n as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: u8 = 255;

    fn states(text: &str) -> Vec<u8> {
        text.bytes()
            .map(|letter| b"HEC".iter().position(|&l| l == letter).map_or(UNKNOWN, |at| at as u8))
            .collect()
    }

    fn sov(truth: &str, predicted: &str) -> Sov {
        Sov::of(&states(truth), &states(predicted), 3)
    }

    #[test]
    fn sov_is_that_of_an_independent_program() {
        let golden = include_str!("../../../tests/golden/sov.json");
        let golden: Vec<(String, String, f64)> = serde_json::from_str(golden).unwrap();
        assert!(golden.len() >= 40);
        for (truth, predicted, want) in golden {
            let got = sov(&truth, &predicted).value().unwrap();
            assert!((got - want).abs() < 1e-9, "{truth}\n{predicted}\n{got} {want}");
        }
    }

    #[test]
    fn sov_by_hand() {
        assert_eq!(sov("HHHHCCCC", "HHHHCCCC").value(), Some(1.0));
        assert_eq!(sov("HHHH", "CCCC").value(), Some(0.0));
        // Helix: overlap 3 of 4, δ = min(1, 3, 2, 1) = 1, so 4. Coil: overlap 4 of 5, δ = min(1, 4, 2, 2) = 1, so 4.
        assert_eq!(sov("HHHHCCCC", "HHHCCCCC").value(), Some(1.0));
        // Helix of six found as two: (1 + 0)/6 · 6 and (2 + 1)/6 · 6 over 12; the coil between has no truth.
        assert_eq!(sov("HHHHHH", "HCCCHH").value(), Some(4.0 / 12.0));
        assert_eq!(sov("??", "HH").value(), None);
    }

    #[test]
    fn unknown_residues_part_segments_and_chains_add_up() {
        let (mut both, whole) = (sov("HHHCC", "HHCCC"), sov("HHHCC?EEEC", "HHCCCCEECC"));
        both.merge(sov("EEEC", "EECC"));
        assert_eq!(both, whole);
    }

    #[test]
    fn borders_by_hand() {
        let of = |truth: &str, predicted: &str| Borders::of(&states(truth), &states(predicted), 3);
        assert_eq!(of("CHHHHC", "CCHHHC"), Borders { near: 2, n: 2 });
        assert_eq!(of("CCCHHHHC", "HHHHHCCC"), Borders { near: 0, n: 2 });
        assert_eq!(of("CHHH?C", "CHHHHC"), Borders { near: 1, n: 1 });
        assert_eq!(of("CC", "CC").value(), None);
    }
}
