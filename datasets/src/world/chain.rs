//! One made-up chain: secondary structure first, then residues that fit it.

use super::dice::Dice;
use super::motif::MOTIFS;

/// A sequence with the per-residue truths it was drawn from; all vectors have its length.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    /// The 20 standard residues.
    pub(super) sequence: String,
    /// DSSP letters, legal runs, first and last residue coil.
    pub(super) q8: Vec<u8>,
    /// 0 (exposed) to 1 (buried).
    pub(super) burial: Vec<f64>,
    /// Disordered (coil, low complexity).
    pub(super) disordered: Vec<bool>,
    /// Belongs to a motif: never mutated inside a family.
    pub(super) fixed: Vec<bool>,
}

const RESIDUES: &[u8; 20] = b"ACDEFGHIKLMNPQRSTVWY";
const BACKGROUND: [f64; 20] = weights("AAAAACDDDEEEEFFGGGGHIIIKKKKLLLLLLMNNPPPQQRRRSSSSTTTVVVVWY");
const HELIX_BURIED: [f64; 20] = weights("AAAAAALLLLLLLLMMMIIIFFVVWYC");
const HELIX_EXPOSED: [f64; 20] = weights("EEEEEEEKKKKKRRRRQQQQAAAAADDSN");
const STRAND_BURIED: [f64; 20] = weights("VVVVVVVVIIIIIIFFFLLYYYWCA");
const STRAND_EXPOSED: [f64; 20] = weights("TTTTTTTKKRRRYYYVVVQESHW");
const TURN: [f64; 20] = weights("GGGGGGNNNNNDDDDPPPSSKE");
const COIL: [f64; 20] = weights("PPPPPPGGGSSSSSNNNDDDTTTKHA");
/// Low complexity, yet with letters enough that two runs seldom share five residues in a row.
const DISORDER: [[f64; 20]; 3] =
    [weights("EEEEKKKKSPDQRTANG"), weights("SSSSGGGGPNQTDKARE"), weights("PPPPEEEQQKSTADRGN")];

/// How often each letter of [`RESIDUES`] stands in the text, so that a table of preferences reads as a word.
const fn weights(text: &str) -> [f64; 20] {
    let (bytes, mut out) = (text.as_bytes(), [0.0; 20]);
    let mut at = 0;
    while at < bytes.len() {
        let mut letter = 0;
        while RESIDUES[letter] != bytes[at] {
            letter += 1;
        }
        out[letter] += 1.0 / bytes.len() as f64;
        at += 1;
    }
    out
}

/// What a chain is made of.
pub(super) struct Plan<'a> {
    /// Residues, at least 30.
    pub(super) length: usize,
    /// Motifs to place, indices into [`MOTIFS`].
    pub(super) motifs: &'a [usize],
    /// Chance that an element is a helix.
    pub(super) helical: f64,
    /// Fraction of the residues outside motifs that shall be disordered.
    pub(super) disorder: f64,
}

/// One stretch between loops.
enum Element {
    Motif(usize),
    Regular(u8, usize),
    Disorder(usize),
}

impl Element {
    fn len(&self) -> usize {
        match self {
            Self::Motif(motif) => MOTIFS[*motif].classes().len(),
            Self::Regular(_, len) | Self::Disorder(len) => *len,
        }
    }
}

impl Chain {
    /// Draws a chain of exactly `plan.length` residues.
    pub(super) fn draw(plan: &Plan<'_>, dice: &mut Dice) -> Self {
        let empty = Vec::new;
        let mut chain =
            Self { sequence: String::new(), q8: empty(), burial: vec![], disordered: vec![], fixed: vec![] };
        let elements = elements(plan, dice);
        let spare = plan.length - elements.iter().map(Element::len).sum::<usize>();
        for (at, loop_len) in share(spare, elements.len() + 1, dice).into_iter().enumerate() {
            chain.grow_loop(loop_len, dice);
            match elements.get(at) {
                Some(Element::Motif(motif)) => chain.grow_motif(*motif, dice),
                Some(Element::Regular(state, len)) => chain.grow_regular(*state, *len, dice),
                Some(Element::Disorder(len)) => chain.grow_disorder(*len, dice),
                None => {}
            }
        }
        for end in [0, plan.length - 1] {
            chain.q8[end] = b'C';
        }
        chain
    }

    /// Residues.
    pub(super) fn len(&self) -> usize {
        self.q8.len()
    }

    /// Fraction of residues in one of the states.
    pub(super) fn fraction(&self, states: &[u8]) -> f64 {
        self.q8.iter().filter(|s| states.contains(s)).count() as f64 / self.len() as f64
    }

    /// Fraction of disordered residues.
    pub(super) fn disorder(&self) -> f64 {
        self.disordered.iter().filter(|&&d| d).count() as f64 / self.len() as f64
    }

    /// A homolog: `n` residues outside motifs replaced by others that fit the same structure.
    pub(super) fn mutated(&self, n: usize, dice: &mut Dice) -> Self {
        let mut free: Vec<usize> = (0..self.len()).filter(|&i| !self.fixed[i]).collect();
        dice.shuffle(&mut free);
        let mut sequence = self.sequence.clone().into_bytes();
        for &at in free.iter().take(n) {
            let old = sequence[at];
            while sequence[at] == old {
                sequence[at] =
                    draw_residue(self.q8[at], self.burial[at], self.disordered[at].then_some(0), dice);
            }
        }
        Self { sequence: text(sequence), ..self.clone() }
    }

    fn push(&mut self, residue: u8, state: u8, burial: f64, disordered: bool, fixed: bool) {
        self.sequence.push(residue as char);
        self.q8.push(state);
        self.burial.push(burial);
        self.disordered.push(disordered);
        self.fixed.push(fixed);
    }

    fn grow_loop(&mut self, len: usize, dice: &mut Dice) {
        let mut left = len;
        while left > 0 {
            let state = *dice.pick(b"CCCTTS");
            // turns come in pairs
            let run = if state == b'T' && left > 1 { 2 } else { 1 };
            for _ in 0..run {
                let burial = dice.between(0.1, 0.4);
                self.push(draw_residue(state, burial, None, dice), state, burial, false, false);
            }
            left -= run;
        }
    }

    fn grow_motif(&mut self, motif: usize, dice: &mut Dice) {
        let spelt = MOTIFS[motif].spell(dice);
        let last = spelt.len() - 1;
        for (at, residue) in spelt.into_iter().enumerate() {
            let state = match (motif % 2, at) {
                (1, 1..) if at < last => b'E',
                (0, 2 | 3) => b'T',
                (0, 5) => b'S',
                _ => b'C',
            };
            self.push(residue, state, 0.6, false, true);
        }
    }

    fn grow_regular(&mut self, state: u8, len: usize, dice: &mut Dice) {
        let phase = dice.between(0.0, std::f64::consts::TAU);
        for at in 0..len {
            // one face of a helix (100° a residue) or of a strand (180°) looks inside
            let turn = if state == b'E' || state == b'B' { 180.0_f64 } else { 100.0 };
            let burial = 0.5 + 0.5 * (turn.to_radians() * at as f64 + phase).cos();
            self.push(draw_residue(state, burial, None, dice), state, burial, false, false);
        }
    }

    fn grow_disorder(&mut self, len: usize, dice: &mut Dice) {
        let flavour = dice.below(DISORDER.len());
        for _ in 0..len {
            self.push(draw_residue(b'C', 0.0, Some(flavour), dice), b'C', 0.0, true, false);
        }
    }
}

/// Elements in order, leaving at least two residues of loop between any two and one at either end.
fn elements(plan: &Plan<'_>, dice: &mut Dice) -> Vec<Element> {
    let mut elements: Vec<Element> = plan.motifs.iter().map(|&m| Element::Motif(m)).collect();
    let used: usize = elements.iter().map(|e| e.len() + 2).sum();
    let mut room = plan.length.saturating_sub(used + 2);
    let mut disorder = (plan.disorder * room as f64) as usize;
    while disorder >= 8 && room >= 10 {
        let len = if disorder >= 38 { dice.range(14, 30) } else { disorder }.min(room - 2);
        elements.push(Element::Disorder(len));
        disorder = disorder.saturating_sub(len + 2);
        room -= len + 2;
    }
    // about a third of what is left stays loop
    while room > 8 {
        let (state, len) = draw_regular(plan.helical, dice);
        if len + 2 > room {
            break;
        }
        elements.push(Element::Regular(state, len));
        room = room.saturating_sub(len + 2 + dice.range(0, 3));
    }
    dice.shuffle(&mut elements);
    elements
}

fn draw_regular(helical: f64, dice: &mut Dice) -> (u8, usize) {
    match dice.weighted(&[0.86 * helical, 0.86 * (1.0 - helical), 0.07, 0.055, 0.015]) {
        0 => (b'H', dice.range(6, 18)),
        1 => (b'E', dice.range(3, 9)),
        2 => (b'G', dice.range(3, 5)),
        3 => (b'B', 1),
        _ => (b'I', dice.range(5, 7)),
    }
}

/// `total` residues over `n` loops: 1 for the ends, 2 between elements, the rest at random.
fn share(total: usize, n: usize, dice: &mut Dice) -> Vec<usize> {
    let mut loops = vec![2; n];
    loops[0] = 1;
    loops[n - 1] = 1;
    for _ in loops.iter().sum()..total {
        *loops.get_mut(dice.below(n)).expect("drawn below the length") += 1;
    }
    loops
}

/// A residue for a state: its preferences, blurred by the background so that no model can be certain.
fn draw_residue(state: u8, burial: f64, disorder: Option<usize>, dice: &mut Dice) -> u8 {
    let (table, blur) = match (disorder, state) {
        (Some(flavour), _) => (&DISORDER[flavour], 0.0),
        (None, b'H' | b'G' | b'I') if burial > 0.5 => (&HELIX_BURIED, 0.25),
        (None, b'H' | b'G' | b'I') => (&HELIX_EXPOSED, 0.25),
        (None, b'E' | b'B') if burial > 0.5 => (&STRAND_BURIED, 0.25),
        (None, b'E' | b'B') => (&STRAND_EXPOSED, 0.25),
        (None, b'T') => (&TURN, 0.3),
        _ => (&COIL, 0.35),
    };
    let table = if dice.chance(blur) { &BACKGROUND } else { table };
    RESIDUES[dice.weighted(table)]
}

/// Bytes that are residue letters as text.
pub(super) fn text(letters: Vec<u8>) -> String {
    String::from_utf8(letters).expect("residue and state letters are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(step: usize) -> Chain {
        let mut dice = Dice::new(11, "chain", step);
        let plan = Plan {
            length: 41 + step % 101,
            motifs: &[step % 24],
            helical: (step % 3) as f64 / 2.0,
            disorder: (step % 5) as f64 / 5.0,
        };
        Chain::draw(&plan, &mut dice)
    }

    #[test]
    fn runs_are_those_of_dssp() {
        for step in 0..211 {
            let chain = draw(step);
            assert_eq!(chain.sequence.len(), 41 + step % 101);
            assert_eq!((chain.q8[0], chain.q8[chain.len() - 1]), (b'C', b'C'));
            for run in chain.q8.chunk_by(|a, b| a == b) {
                let least = match run[0] {
                    b'H' => 4,
                    b'G' => 3,
                    b'I' => 5,
                    b'E' => 2,
                    _ => 1,
                };
                assert!(run.len() >= least, "{} in step {step}", text(chain.q8.clone()));
                assert!(run[0] != b'B' || run.len() == 1);
            }
        }
    }

    #[test]
    fn homologs_keep_motifs_and_length() {
        for step in 0..53 {
            let (chain, mut dice) = (draw(step), Dice::new(12, "homolog", step));
            let homolog = chain.mutated(7, &mut dice);
            let changed =
                chain.sequence.bytes().zip(homolog.sequence.bytes()).filter(|(a, b)| a != b).count();
            assert_eq!(changed, 7);
            assert!(MOTIFS[step % 24].is_in(&homolog.sequence) && MOTIFS[step % 24].is_in(&chain.sequence));
        }
    }
}
