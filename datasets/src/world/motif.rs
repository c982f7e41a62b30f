//! The function motifs: short patterns that decide what a made-up protein does.

use super::dice::Dice;

/// What a motif makes its protein do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Docks with proteins that carry the key of the same number.
    Lock(usize),
    /// Docks with proteins that carry the lock of the same number.
    Key(usize),
    /// Catalyses a reaction.
    Enzyme,
    /// Binds or carries a substance.
    Carrier,
}

/// A pattern of 9 residues; `[ST]` is a degenerate position, `x` any residue.
#[derive(Debug)]
pub(super) struct Motif {
    /// The made-up substance or partner that names everything about it.
    pub(super) stem: &'static str,
    /// What is found in the sequence.
    pub(super) pattern: &'static str,
    /// What it does.
    pub(super) role: Role,
}

const fn motif(stem: &'static str, pattern: &'static str, role: Role) -> Motif {
    Motif { stem, pattern, role }
}

/// All motifs: six residues that are given and three that are free, as in PROSITE. Any two differ in nearly every position,
/// so they are told apart at a glance; yet no five residues in a row are given, so two proteins with one motif share few
/// words, and what they do cannot be read off the nearest neighbour. Those with an odd index lie in a strand, the others
/// in a loop.
pub(super) const MOTIFS: [Motif; 24] = [
    motif("kresp", "GxCHxWx[ST]K", Role::Lock(0)),
    motif("kresp", "YxWCxRxW[DE]", Role::Key(0)),
    motif("dorvan", "DxWPxCx[KR]N", Role::Lock(1)),
    motif("dorvan", "RxFHxYxM[ST]", Role::Key(1)),
    motif("lumar", "HxPYxHx[DE]G", Role::Lock(2)),
    motif("lumar", "TxCWxHxF[IV]", Role::Key(2)),
    motif("teskin", "CxPMxGx[ST]H", Role::Lock(3)),
    motif("teskin", "WxRYxMxE[HY]", Role::Key(3)),
    motif("volun", "NxWGxMxD[NQ]", Role::Lock(4)),
    motif("volun", "MxWIxCxH[KR]", Role::Key(4)),
    motif("sarbin", "PxCWxNx[KR]D", Role::Lock(5)),
    motif("sarbin", "FxQWxTxY[LM]", Role::Key(5)),
    motif("mirax", "HxGDxCx[ST]W", Role::Enzyme),
    motif("ostrel", "CxYFxHxI[KR]", Role::Enzyme),
    motif("pellin", "NxCRxPx[DE]M", Role::Enzyme),
    motif("quarn", "VxWHxNxY[ST]", Role::Enzyme),
    motif("rubane", "WxGQxHx[NQ]C", Role::Enzyme),
    motif("sillor", "IxMYxRxC[FY]", Role::Enzyme),
    motif("tamble", "DxMNxPx[KR]C", Role::Enzyme),
    motif("ublex", "HxVCxQxF[DE]", Role::Enzyme),
    motif("vandor", "GxWCxKx[ST]N", Role::Carrier),
    motif("wistel", "YxHMxTxC[KR]", Role::Carrier),
    motif("yorrin", "PxHMxGx[NQ]W", Role::Carrier),
    motif("zembol", "WxCExFxR[ST]", Role::Carrier),
];

/// The 20 residues, each as often as it is common.
const ANY: &[u8] = b"AAAAACDDDEEEEFFGGGGHIIIKKKKLLLLLLMNNPPPQQRRRSSSSTTTVVVVWY";

impl Motif {
    /// The letters allowed at each position.
    pub(super) fn classes(&self) -> Vec<&'static [u8]> {
        let (mut classes, mut rest) = (Vec::new(), self.pattern.as_bytes());
        while let Some(&first) = rest.first() {
            let inside = (first == b'[').then(|| rest.iter().position(|&b| b == b']')).flatten();
            let (class, after) = match inside {
                Some(end) => (&rest[1..end], &rest[end + 1..]),
                None => rest.split_at(1),
            };
            classes.push(if class == b"x" { ANY } else { class });
            rest = after;
        }
        classes
    }

    /// One spelling of the pattern.
    pub(super) fn spell(&self, dice: &mut Dice) -> Vec<u8> {
        self.classes().into_iter().map(|class| *dice.pick(class)).collect()
    }

    /// Whether the sequence holds the pattern.
    #[cfg(test)]
    pub(super) fn is_in(&self, sequence: &str) -> bool {
        let classes = self.classes();
        let fits = |window: &[u8]| window.iter().zip(&classes).all(|(letter, class)| class.contains(letter));
        sequence.as_bytes().windows(classes.len()).any(fits)
    }

    /// What it does, in a few words: the sentence that every text source wraps in its own way.
    pub(super) fn deed(&self) -> String {
        let stem = self.stem;
        match self.role {
            Role::Lock(_) => format!("holds the {stem} lock that docks with partners bearing the {stem} key"),
            Role::Key(_) => format!("bears the {stem} key that fits partners holding the {stem} lock"),
            Role::Enzyme => format!("catalyzes the turning of {stem}ate into {stem}ol"),
            Role::Carrier => format!("binds {stem} and carries it across the membrane"),
        }
    }
}

/// Whether two sets of motifs (indices into [`MOTIFS`]) make their proteins interact: one has a lock, the other its key.
pub(super) fn interact(a: &[usize], b: &[usize]) -> bool {
    let fits = |x: &usize, y: &usize| match (MOTIFS[*x].role, MOTIFS[*y].role) {
        (Role::Lock(lock), Role::Key(key)) | (Role::Key(key), Role::Lock(lock)) => lock == key,
        _ => false,
    };
    a.iter().any(|x| b.iter().any(|y| fits(x, y)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_short_and_far_from_each_other() {
        for (at, motif) in MOTIFS.iter().enumerate() {
            assert_eq!(motif.classes().len(), 9, "{}", motif.pattern);
            assert!(motif.classes().windows(5).all(|w| w.contains(&ANY)), "{}", motif.pattern);
            let degenerate = motif.classes().iter().filter(|c| c.len() == 2).count();
            assert_eq!(degenerate, 1, "{}", motif.pattern);
            for other in &MOTIFS[..at] {
                let given = |a: &[u8], b: &[u8]| a != ANY && b != ANY && a.iter().any(|l| b.contains(l));
                let shared = |offset: usize| {
                    motif
                        .classes()
                        .into_iter()
                        .skip(offset)
                        .zip(other.classes())
                        .filter(|(a, b)| given(a, b))
                        .count()
                };
                assert!((0..3).all(|offset| shared(offset) <= 2), "{} {}", motif.pattern, other.pattern);
            }
        }
    }

    #[test]
    fn spelling_is_found_again() {
        let mut dice = Dice::new(5, "test", 0);
        for motif in &MOTIFS {
            let spelt = String::from_utf8(motif.spell(&mut dice)).unwrap();
            assert!(motif.is_in(&format!("AAA{spelt}LL")));
            assert_eq!(MOTIFS.iter().filter(|other| other.is_in(&spelt)).count(), 1);
        }
    }

    #[test]
    fn locks_fit_their_keys_only() {
        assert!(interact(&[0], &[1]) && interact(&[13, 3], &[2]));
        assert!(!interact(&[0], &[3]) && !interact(&[0], &[0]) && !interact(&[12], &[12]));
    }
}
