//! Boundaries between segments: are they found, and how far off?

/// The largest distance, in residues: a boundary missed by more, or not predicted at all, counts as missed by this.
pub const CAP: usize = 10;

/// Distances from observed boundaries to the nearest predicted ones of the same kind, added up over chains.
///
/// A boundary lies between two neighbours of different classes; its kind is the class before it and the class after
/// it, so that the start of a helix is no end of one. Several observed boundaries may have one nearest; predicted
/// boundaries beyond those observed cost nothing here, which is why this is read beside [`Sov`](super::sov::Sov).
///
/// Residues whose truth is no class (255, unknown) bound nothing, and no distance is measured across them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Boundaries {
    within_one: usize,
    distance: usize,
    n: usize,
}

impl Boundaries {
    /// Of one chain.
    ///
    /// # Shapes
    /// `truth`, `predicted`: a class index per residue
    pub fn of(truth: &[u8], predicted: &[u8], n_classes: u8) -> Self {
        debug_assert_eq!(truth.len(), predicted.len());
        let mut found = Self::default();
        let mut begin = 0;
        for stretch in truth.chunk_by(|&a, &b| (a < n_classes) == (b < n_classes)) {
            let end = begin + stretch.len();
            if stretch[0] < n_classes {
                found.merge(Self::of_known(stretch, &predicted[begin..end]));
            }
            begin = end;
        }
        found
    }

    /// Of residues that are all known.
    fn of_known(truth: &[u8], predicted: &[u8]) -> Self {
        let said: Vec<(usize, Kind)> = boundaries(predicted).collect();
        let mut found = Self::default();
        for (at, kind) in boundaries(truth) {
            let alike = said.iter().filter(|other| other.1 == kind);
            let distance = alike.map(|other| other.0.abs_diff(at)).min().map_or(CAP, |d| d.min(CAP));
            found.within_one += usize::from(distance <= 1);
            found.distance += distance;
            found.n += 1;
        }
        found
    }

    /// Adds another chain, or many.
    pub fn merge(&mut self, other: Self) {
        self.within_one += other.within_one;
        self.distance += other.distance;
        self.n += other.n;
    }

    /// Share of the observed boundaries that are missed by at most one residue; `None` without one.
    pub fn within_one(self) -> Option<f64> {
        (self.n > 0).then(|| self.within_one as f64 / self.n as f64)
    }

    /// Mean distance in residues, each at most [`CAP`]; `None` without an observed boundary.
    pub fn distance(self) -> Option<f64> {
        (self.n > 0).then(|| self.distance as f64 / self.n as f64)
    }
}

/// Class before, class after.
type Kind = (u8, u8);

/// Boundaries in order, each by the residue before it.
fn boundaries(states: &[u8]) -> impl Iterator<Item = (usize, Kind)> {
    let neighbours = states.iter().copied().zip(states.iter().copied().skip(1));
    neighbours.enumerate().filter(|(_, (before, after))| before != after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::label::UNKNOWN;
    use serde_json::Value;

    const GOLDEN: &str = include_str!("../../../tests/golden/segments.json");

    /// Indices in `letters`; any other letter is unknown.
    fn states(letters: &str, text: &str) -> Vec<u8> {
        text.chars().map(|letter| letters.find(letter).map_or(UNKNOWN, |at| at as u8)).collect()
    }

    fn of(truth: &str, predicted: &str) -> Boundaries {
        Boundaries::of(&states("HEC", truth), &states("HEC", predicted), 3)
    }

    fn close(got: Option<f64>, want: &Value) -> bool {
        match (got, want.as_f64()) {
            (Some(got), Some(want)) => (got - want).abs() < 1e-9,
            (got, want) => got == want,
        }
    }

    #[test]
    fn an_exhaustive_program_agrees() {
        let rows: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
        assert!(rows.len() >= 40);
        for row in rows {
            let letters = row["states"].as_str().unwrap();
            let chain = |key: &str| states(letters, row[key].as_str().unwrap());
            let got = Boundaries::of(&chain("truth"), &chain("predicted"), letters.len() as u8);
            assert!(close(got.within_one(), &row["within_one"]), "{got:?} {row}");
            assert!(close(got.distance(), &row["distance"]), "{got:?} {row}");
        }
    }

    #[test]
    fn by_hand() {
        let sums = |within_one, distance, n| Boundaries { within_one, distance, n };
        assert_eq!(of("CCCHHHHCCC", "CCCHHHHCCC"), sums(2, 0, 2));
        // The helix one longer at both ends.
        assert_eq!(of("CCCHHHHCCC", "CCHHHHHHCC"), sums(2, 2, 2));
        // Its start two late, its end not there.
        assert_eq!(of("CCCHHHHCCC", "CCCCCHHHHH"), sums(0, 2 + CAP, 2));
        // An end is no start, and a strand no helix.
        assert_eq!(of("CCHH", "HHCC"), sums(0, CAP, 1));
        assert_eq!(of("CCHH", "CCEE"), sums(0, CAP, 1));
        // Twelve late counts as ten; two starts may share the nearest.
        assert_eq!(of("CHHHHHHHHHHHHHH", "CCCCCCCCCCCCCHH"), sums(0, CAP, 1));
        assert_eq!(of("CHCH", "CCCH"), sums(1, 2 + CAP, 3));
        let half = of("CHHHC", "HHHHC");
        assert_eq!((half.within_one(), half.distance()), (Some(0.5), Some(5.0)));
        assert_eq!((of("CC", "CH").within_one(), of("", "").distance()), (None, None));
    }

    #[test]
    fn unknown_residues_bound_nothing() {
        let sums = |within_one, distance, n| Boundaries { within_one, distance, n };
        assert_eq!(of("CHHH?C", "CHHHHC"), sums(1, 0, 1));
        // The predicted start lies beyond the unknown residue, or at it.
        assert_eq!(of("CCH?HHHH", "CCCCCHHH"), sums(0, CAP, 1));
        assert_eq!(of("CCH?HHHH", "CCCHHHHH"), sums(0, CAP, 1));
        assert_eq!(of("????", "CHEC").distance(), None);
    }

    #[test]
    fn chains_add_up_and_have_no_direction() {
        let (one, two) = (("CCHHHHCC", "CCCHHHHC"), ("EEEECCHH", "EECCCHHH"));
        let mut merged = of(one.0, one.1);
        merged.merge(of(two.0, two.1));
        for between in ["?", "H", "C", "E"] {
            let whole = of(&format!("{}?{}", one.0, two.0), &format!("{}{between}{}", one.1, two.1));
            assert_eq!(whole, merged, "{between}");
        }
        let reversed = |text: &str| text.chars().rev().collect::<String>();
        assert_eq!(of(&reversed(two.0), &reversed(two.1)), of(two.0, two.1));
        assert_eq!(of(two.1, two.0), of(two.0, two.1));
    }
}
