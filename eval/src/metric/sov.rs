//! Segment overlap: are segments found as wholes, not only residue by residue?

use std::ops::Range;

/// SOV'99 (Zemla, Venclovas, Fidelis & Rost, Proteins 34:220, 1999), added up over chains.
///
/// Of the pairs of overlapping segments of one class, `s₁` observed and `s₂` predicted, the sum of
/// `(minov + δ) / maxov · len(s₁)`, with the residues `minov` in both, those `maxov` in either, and
/// `δ = min(maxov − minov, minov, ⌊len(s₁)/2⌋, ⌊len(s₂)/2⌋)`; divided by the sum of `len(s₁)`, once per pair and once
/// for an observed segment without a partner. All classes together are the sums of these over the classes.
///
/// Residues whose truth is no class (255, unknown) end segments, observed and predicted, and count nowhere. A
/// prediction that is no class is a segment of no class.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sov {
    sum: f64,
    n: usize,
}

impl Sov {
    /// Of one chain, all classes together.
    ///
    /// # Shapes
    /// `truth`, `predicted`: a class index per residue
    pub fn of(truth: &[u8], predicted: &[u8], n_classes: u8) -> Self {
        let mut all = Self::default();
        for class in 0..n_classes {
            all.merge(Self::of_class(truth, predicted, n_classes, class));
        }
        all
    }

    /// Of one chain, the segments of `class` alone; shapes as in [`Sov::of`].
    pub fn of_class(truth: &[u8], predicted: &[u8], n_classes: u8, class: u8) -> Self {
        debug_assert_eq!(truth.len(), predicted.len());
        let said = segments(predicted, truth, n_classes, class);
        let mut found = Self::default();
        for observed in segments(truth, truth, n_classes, class) {
            let mut partners = 0_usize;
            for other in said.iter().filter(|s| s.start < observed.end && observed.start < s.end) {
                found.sum += credit(&observed, other);
                partners += 1;
            }
            found.n += observed.len() * partners.max(1);
        }
        found
    }

    /// Adds another chain, or many.
    pub fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.n += other.n;
    }

    /// Between 0 and 1; `None` where no segment was observed.
    pub fn value(self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }
}

/// The runs of `class` in `states` among the residues of known truth.
fn segments(states: &[u8], truth: &[u8], n_classes: u8, class: u8) -> Vec<Range<usize>> {
    let inside = |&at: &usize| truth[at] < n_classes && states[at] == class;
    let residues: Vec<usize> = (0..truth.len()).filter(inside).collect();
    residues.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len()).collect()
}

/// `(minov + δ) / maxov · len(s₁)` of two segments that overlap.
fn credit(observed: &Range<usize>, said: &Range<usize>) -> f64 {
    let minov = observed.end.min(said.end) - observed.start.max(said.start);
    let maxov = observed.end.max(said.end) - observed.start.min(said.start);
    let delta = (maxov - minov).min(minov).min(observed.len() / 2).min(said.len() / 2);
    (minov + delta) as f64 * observed.len() as f64 / maxov as f64
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

    fn close(got: Option<f64>, want: Option<f64>) -> bool {
        match (got, want) {
            (Some(got), Some(want)) => (got - want).abs() < 1e-9,
            (got, want) => got == want,
        }
    }

    fn sov(truth: &str, predicted: &str) -> Sov {
        Sov::of(&states("HEC", truth), &states("HEC", predicted), 3)
    }

    fn sov_of(class: u8, truth: &str, predicted: &str) -> Option<f64> {
        Sov::of_class(&states("HEC", truth), &states("HEC", predicted), 3, class).value()
    }

    /// Number of classes, truth and prediction of every golden chain, and what is known of it.
    fn golden() -> Vec<(u8, Vec<u8>, Vec<u8>, Value)> {
        let rows: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
        let read = |row: Value| {
            let letters = row["states"].as_str().unwrap();
            let chain = |key: &str| states(letters, row[key].as_str().unwrap());
            (letters.len() as u8, chain("truth"), chain("predicted"), row.clone())
        };
        rows.into_iter().map(read).collect()
    }

    #[test]
    fn an_exhaustive_program_agrees() {
        let chains = golden();
        assert!(chains.len() >= 40);
        for (n, truth, predicted, row) in chains {
            assert!(close(Sov::of(&truth, &predicted, n).value(), row["sov"].as_f64()), "{row}");
            let each = row["sov_of"].as_array().unwrap();
            assert_eq!(each.len(), usize::from(n));
            for (class, want) in (0..n).zip(each) {
                let got = Sov::of_class(&truth, &predicted, n, class).value();
                assert!(close(got, want.as_f64()), "class {class}: {got:?} {row}");
            }
        }
    }

    /// The strings of the paper's Figure 1.
    #[test]
    fn strands_by_hand() {
        let truth = "CCEEECCCCCCEEEEEECCC";
        // Strands at 2..5 and 11..17, found at 7..12 and 15..17: the first has no partner, the second two. (1 + 1)/10 · 6
        // with δ = min(9, 1, 3, 2), and (2 + 1)/6 · 6 with δ = min(4, 2, 3, 1); 4.2 of 3 + 6 + 6.
        let predicted = "CCCCCCCEEEEECCCEECCC";
        assert!(close(sov_of(1, truth, predicted), Some(0.28)));
        // Coil at 0..2, 5..11 and 17..20, found at 0..7, 12..15 and 17..20: (2 + 1)/7 · 2 with δ = min(5, 2, 1, 3),
        // (2 + 2)/11 · 6 with δ = min(9, 2, 3, 3), and 3; of 2 + 6 + 3.
        let coil = 6.0 / 7.0 + 24.0 / 11.0 + 3.0;
        assert!(close(sov_of(2, truth, predicted), Some(coil / 11.0)));
        assert!(close(sov(truth, predicted).value(), Some((4.2 + coil) / 26.0)));
        assert_eq!(sov_of(0, truth, predicted), None);
        // Coil found at 0..11 and 17..20, a strand at 11..17. Coil: (2 + 1)/11 · 2 with δ = min(9, 2, 1, 5), (6 + 3)/11 · 6
        // with δ = min(5, 6, 3, 5), and 3, of 11; strands: 6 of 9.
        let predicted = "CCCCCCCCCCCEEEEEECCC";
        assert!(close(sov_of(2, truth, predicted), Some((60.0 / 11.0 + 3.0) / 11.0)));
        assert!(close(sov_of(1, truth, predicted), Some(6.0 / 9.0)));
        assert!(close(sov(truth, predicted).value(), Some(159.0 / 220.0)));
    }

    /// The strings of the paper's Table 1: a helix of ten between two residues of coil.
    #[test]
    fn a_helix_by_hand() {
        let cases = [
            // Helix: five times (1 + 0)/10 · 10, of 50. Coil: 1 and 1/2, of 2.
            ("CHCHCHCHCHCC", 6.5 / 52.0),
            // (5 + 2)/10 · 10 with δ = min(5, 5, 5, 2), of 10. Coil: 1/3 and 1/4.
            ("CCCHHHHHCCCC", (7.0 + 1.0 / 3.0 + 1.0 / 4.0) / 12.0),
            // 3 + 1, 3 + 1 and 2 + 1 of ten, of 30. Coil: 1 and 1.
            ("CHHHCHHHCHHC", 13.0 / 32.0),
            // 2 + 1 and 5 + 2 of ten, of 20. Coil: 1 and 1/2.
            ("CHHCCHHHHHCC", 11.5 / 22.0),
            // 6 + 3 of ten with δ = min(4, 6, 5, 3), of 10. Coil: 1/3 and 1/3.
            ("CCCHHHHHHCCC", (9.0 + 2.0 / 3.0) / 12.0),
        ];
        for (predicted, want) in cases {
            let got = sov("CHHHHHHHHHHC", predicted).value();
            assert!(close(got, Some(want)), "{predicted}: {got:?} {want}");
        }
    }

    #[test]
    fn from_all_to_nothing() {
        for (n, truth, _, _) in golden() {
            assert_eq!(Sov::of(&truth, &truth, n).value(), Some(1.0));
            // Every class another one: no segment has a partner.
            let shifted: Vec<u8> = truth.iter().map(|t| (t % n + 1) % n).collect();
            assert_eq!(Sov::of(&truth, &shifted, n).value(), Some(0.0));
            assert_eq!(Sov::of(&truth, &vec![UNKNOWN; truth.len()], n).value(), Some(0.0));
        }
        assert_eq!((sov("", "").value(), sov("??", "HH").value()), (None, None));
    }

    #[test]
    fn chains_add_up_as_if_parted_by_an_unknown_residue() {
        let chains = golden();
        for pair in chains.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
            let n = pair[0].0;
            let mut merged = Sov::default();
            pair.iter().for_each(|(_, truth, predicted, _)| merged.merge(Sov::of(truth, predicted, n)));
            for between in [0, UNKNOWN] {
                let truth = [&pair[0].1[..], &[UNKNOWN][..], &pair[1].1[..]].concat();
                let predicted = [&pair[0].2[..], &[between][..], &pair[1].2[..]].concat();
                let whole = Sov::of(&truth, &predicted, n);
                assert_eq!(whole.n, merged.n);
                assert!((whole.sum - merged.sum).abs() < 1e-9);
            }
        }
        // With no residue between them the two helices would be one.
        assert_ne!(sov("HHH?HHH", "HHHHCCC"), sov("HHHHHH", "HHHCCC"));
    }

    /// Neither the direction of the chain nor the order of the classes matters; which string is the truth does, except
    /// where partners are of one length.
    #[test]
    fn symmetries() {
        for (n, truth, predicted, _) in golden() {
            let want = Sov::of(&truth, &predicted, n).value();
            let reversed = |states: &[u8]| states.iter().rev().copied().collect::<Vec<u8>>();
            assert!(close(Sov::of(&reversed(&truth), &reversed(&predicted), n).value(), want));
            let renamed = |states: &[u8]| -> Vec<u8> {
                states.iter().map(|&s| if s < n { n - 1 - s } else { s }).collect()
            };
            assert!(close(Sov::of(&renamed(&truth), &renamed(&predicted), n).value(), want));
        }
        let (a, b) = ("CCHHHHHHCCCC", "CCCCHHHHHHCC");
        assert!(close(sov_of(0, a, b), sov_of(0, b, a)));
        let (whole, parted) = ("HHHHHHHHHH", "HHHCCCHHHH");
        assert!(!close(sov(whole, parted).value(), sov(parted, whole).value()));
    }
}
