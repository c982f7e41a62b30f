//! Backbones built from secondary structure: torsions drawn per state, atoms placed with ideal bond geometry.

use super::dice::Dice;

/// A point in Å.
pub(super) type Point = [f64; 3];

/// Bond lengths in Å and angles in degrees, as measured in the PDB (Engh and Huber 1991 to within their spread).
pub(super) const N_CA: f64 = 1.460;
pub(super) const CA_C: f64 = 1.525;
pub(super) const C_N: f64 = 1.332;
pub(super) const C_O: f64 = 1.231;
pub(super) const N_CA_C: f64 = 111.1;
pub(super) const CA_C_N: f64 = 116.7;
pub(super) const C_N_CA: f64 = 121.4;
pub(super) const CA_C_O: f64 = 120.1;

/// Atoms N, CA, C, O of one residue.
pub(super) type Residue = [Point; 4];

/// Two CA atoms that are not neighbours may not come nearer, Å.
const CLASH: f64 = 3.6;
/// Longest loop that has a turn of its own; longer ones are random coil.
const LONGEST_TURN: usize = 9;
/// Attempts to free a chain of clashes by moving one loop residue.
const REPAIRS: usize = 120;

/// φ and ψ in degrees.
type Torsion = (f64, f64);

/// The folding rule of the universe: a loop between two elements always turns in the same way, the one that brings
/// the elements into contact. So secondary structure, and with it the sequence, decides the contacts.
pub(super) struct Folder {
    /// By kind of the element before and after (helix or strand) and length of the loop − 1.
    turns: [[Vec<Vec<Torsion>>; 2]; 2],
}

impl Folder {
    /// Searches the turns; the same for every seed.
    pub(super) fn new() -> Self {
        let turn = |before: u8, after: u8, len: usize| {
            let mut dice = Dice::new(0, &format!("turn/{}{}", before as char, after as char), len);
            search_turn(before, after, len, &mut dice)
        };
        let turns = |before, after| (1..=LONGEST_TURN).map(|len| turn(before, after, len)).collect();
        Self { turns: [b'H', b'E'].map(|before| [b'H', b'E'].map(|after| turns(before, after))) }
    }

    /// Builds a backbone for a chain of DSSP letters.
    ///
    /// # Shapes
    /// `L` letters → `L` residues of 4 atoms
    pub(super) fn fold(&self, q8: &[u8], dice: &mut Dice) -> Vec<Residue> {
        let mut torsions = self.torsions(q8, dice);
        let loops: Vec<usize> = (0..q8.len()).filter(|&i| element(q8[i]).is_none()).collect();
        let mut chain = build(&torsions);
        let mut bumps = clashes(&chain);
        for _ in 0..REPAIRS {
            if bumps == 0 {
                break;
            }
            let at = *dice.pick(&loops);
            let old = std::mem::replace(&mut torsions[at], draw_torsion(b'C', dice));
            let moved = build(&torsions);
            let left = clashes(&moved);
            if left <= bumps {
                (chain, bumps) = (moved, left);
            } else {
                torsions[at] = old;
            }
        }
        chain
    }

    fn torsions(&self, q8: &[u8], dice: &mut Dice) -> Vec<Torsion> {
        let mut torsions: Vec<Torsion> = q8.iter().map(|&state| draw_torsion(state, dice)).collect();
        let mut at = 0;
        let mut before: Option<usize> = None;
        for run in q8.chunk_by(|&a, &b| element(a) == element(b)) {
            let end = at + run.len();
            let after = q8.get(end).and_then(|&state| element(state));
            if element(run[0]).is_none()
                && let (Some(before), Some(after)) = (before, after)
                && let Some(turn) = self.turns[before][after].get(run.len() - 1)
            {
                for (slot, (phi, psi)) in torsions[at..end].iter_mut().zip(turn) {
                    *slot = (phi + dice.normal(), psi + dice.normal());
                }
            }
            before = element(run[0]);
            at = end;
        }
        torsions
    }
}

/// 0 for helices, 1 for strands, none for loops.
fn element(state: u8) -> Option<usize> {
    match state {
        b'H' | b'G' | b'I' => Some(0),
        b'E' => Some(1),
        _ => None,
    }
}

/// The turn between two elements of ten residues that lays them best side by side: the best of many random ones,
/// then small changes to it.
fn search_turn(before: u8, after: u8, len: usize, dice: &mut Dice) -> Vec<Torsion> {
    const ELEMENT: usize = 10;
    const RANDOM: usize = 120;
    const REFINED: usize = 400;
    // neighbouring strands are 5 Å apart; packed helices 7 to 10 Å, and contacts are counted below 8 Å
    let wanted = if (before, after) == (b'E', b'E') { 5.2 } else { 7.5 };
    let states = [vec![before; ELEMENT], vec![b'C'; len], vec![after; ELEMENT]].concat();
    let mut torsions: Vec<Torsion> = states.iter().map(|&state| mean_torsion(state)).collect();
    let mut best = (usize::MAX, f64::MAX, Vec::new());
    for attempt in 0..RANDOM + REFINED {
        let turn: Vec<Torsion> = if attempt < RANDOM {
            (0..len).map(|_| draw_torsion(b'C', dice)).collect()
        } else {
            let step = 15.0 * (1.0 - (attempt - RANDOM) as f64 / REFINED as f64) + 1.0;
            best.2.iter().map(|(phi, psi)| (phi + step * dice.normal(), psi + step * dice.normal())).collect()
        };
        torsions[ELEMENT..ELEMENT + len].copy_from_slice(&turn);
        let chain = build(&torsions);
        // how far the residues that face each other across the turn are from where they should be
        let across = |i: usize| distance(chain[ELEMENT - 1 - i][1], chain[ELEMENT + len + i][1]);
        let gap = (0..ELEMENT).map(|i| (across(i) - wanted).powi(2)).sum::<f64>();
        let bumps = clashes(&chain);
        if (bumps, gap) < (best.0, best.1) {
            best = (bumps, gap, turn);
        }
    }
    best.2
}

/// The middle of the region of a regular state.
fn mean_torsion(state: u8) -> Torsion {
    match state {
        b'H' => (-63.0, -42.0),
        b'G' => (-60.0, -28.0),
        b'I' => (-70.0, -50.0),
        _ => (-128.0, 128.0),
    }
}

fn draw_torsion(state: u8, dice: &mut Dice) -> Torsion {
    let ((phi, psi), spread) = match state {
        b'H' | b'E' => (mean_torsion(state), 1.5),
        b'G' | b'I' | b'B' => (mean_torsion(state), 5.0),
        // loops visit the helical, the extended, the polyproline and (seldom) the left-handed region
        _ => match dice.weighted(&[0.35, 0.2, 0.25, 0.2]) {
            0 => ((-70.0, -35.0), 20.0),
            1 => ((-110.0, 130.0), 20.0),
            2 => ((-68.0, 145.0), 15.0),
            _ => ((60.0, 35.0), 15.0),
        },
    };
    (phi + spread * dice.normal(), psi + spread * dice.normal())
}

fn build(torsions: &[(f64, f64)]) -> Vec<Residue> {
    let angle = N_CA_C.to_radians();
    let mut n = [0.0, 0.0, 0.0];
    let mut ca = [N_CA, 0.0, 0.0];
    let mut c = [N_CA - CA_C * angle.cos(), CA_C * angle.sin(), 0.0];
    let mut chain = Vec::with_capacity(torsions.len());
    for (at, &(_, psi)) in torsions.iter().enumerate() {
        // O lies opposite to the next N in the peptide plane
        let o = place(n, ca, c, C_O, CA_C_O, psi + 180.0);
        chain.push([n, ca, c, o]);
        if let Some(&(next_phi, _)) = torsions.get(at + 1) {
            let next_n = place(n, ca, c, C_N, CA_C_N, psi);
            let next_ca = place(ca, c, next_n, N_CA, C_N_CA, 180.0);
            let next_c = place(c, next_n, next_ca, CA_C, N_CA_C, next_phi);
            (n, ca, c) = (next_n, next_ca, next_c);
        }
    }
    chain
}

/// NeRF (Parsons et al., J. Comput. Chem. 26:1063, 2005): the atom D with |CD| = `length` Å, angle BCD = `angle` and
/// torsion ABCD = `torsion` in degrees.
fn place(a: Point, b: Point, c: Point, length: f64, angle: f64, torsion: f64) -> Point {
    let (angle, torsion) = (angle.to_radians(), torsion.to_radians());
    let forward = unit(minus(c, b));
    let normal = unit(cross(minus(b, a), forward));
    let side = cross(normal, forward);
    let local =
        [-length * angle.cos(), length * angle.sin() * torsion.cos(), length * angle.sin() * torsion.sin()];
    std::array::from_fn(|i| c[i] + local[0] * forward[i] + local[1] * side[i] + local[2] * normal[i])
}

/// Pairs of CA atoms, at least three residues apart, that are too near.
fn clashes(chain: &[Residue]) -> usize {
    let near = |a: &Residue, b: &Residue| {
        let far = |i: usize| (a[1][i] - b[1][i]).abs() >= CLASH;
        !far(0) && !far(1) && !far(2) && distance(a[1], b[1]) < CLASH
    };
    let bumps =
        |(j, b): (usize, &Residue)| chain[..j.saturating_sub(2)].iter().filter(|a| near(a, b)).count();
    chain.iter().enumerate().map(bumps).sum()
}

fn minus(a: Point, b: Point) -> Point {
    std::array::from_fn(|i| a[i] - b[i])
}

fn cross(a: Point, b: Point) -> Point {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

/// Distance in Å.
pub(super) fn distance(a: Point, b: Point) -> f64 {
    minus(a, b).iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn unit(a: Point) -> Point {
    let length = distance(a, [0.0; 3]);
    a.map(|x| x / length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn angle(a: Point, b: Point, c: Point) -> f64 {
        let (x, y) = (unit(minus(a, b)), unit(minus(c, b)));
        x.iter().zip(y).map(|(p, q)| p * q).sum::<f64>().acos().to_degrees()
    }

    fn torsion(a: Point, b: Point, c: Point, d: Point) -> f64 {
        let (x, y, z) = (minus(b, a), minus(c, b), minus(d, c));
        let dot = |p: Point, q: Point| -> f64 { p.iter().zip(q).map(|(u, v)| u * v).sum() };
        let (left, right) = (cross(x, y), cross(y, z));
        (dot(y, y).sqrt() * dot(x, right)).atan2(dot(left, right)).to_degrees()
    }

    #[test]
    fn geometry_is_ideal_and_peptides_are_trans() {
        let chain = Folder::new().fold(b"CCHHHHHHHHHHTTEEEEEECSBTGGGCC", &mut Dice::new(2, "fold", 0));
        let near = |got: f64, want: f64, tol: f64| assert!((got - want).abs() < tol, "{got} is not {want}");
        for [n, ca, c, o] in &chain {
            near(distance(*n, *ca), N_CA, 1e-9);
            near(distance(*ca, *c), CA_C, 1e-9);
            near(distance(*c, *o), C_O, 1e-9);
            near(angle(*n, *ca, *c), N_CA_C, 1e-6);
            near(angle(*ca, *c, *o), CA_C_O, 1e-6);
        }
        for pair in chain.windows(2) {
            let ([_, ca, c, o], [n, next_ca, ..]) = (pair[0], pair[1]);
            near(distance(c, n), C_N, 1e-9);
            near(angle(ca, c, n), CA_C_N, 1e-6);
            near(angle(c, n, next_ca), C_N_CA, 1e-6);
            near(torsion(ca, c, n, next_ca).abs(), 180.0, 1e-6);
            // O and the next CA are on opposite sides of the peptide bond
            near(torsion(o, c, n, next_ca).abs(), 0.0, 1e-6);
            near(distance(ca, next_ca), 3.80, 0.03);
        }
    }

    #[test]
    fn hairpins_are_in_contact_along_their_strands_and_do_not_clash() {
        let folder = Folder::new();
        let (mut pairs, mut bumps) = (0, 0);
        for step in 0..11 {
            let chain = folder.fold(b"CCEEEEEEEETTEEEEEEEECC", &mut Dice::new(2, "hairpin", step));
            // rungs of an antiparallel ladder around residues 9 and 12
            pairs += (0..6).filter(|i| distance(chain[9 - i][1], chain[12 + i][1]) < 8.0).count();
            bumps += clashes(&chain);
        }
        assert!(pairs >= 11 * 4, "{pairs} of 66 rungs");
        assert_eq!(bumps, 0);
    }

    #[test]
    fn helices_and_strands_have_their_rise_and_hand() {
        let helix = build(&[(-63.0, -42.0); 19]);
        let rise = distance(helix[0][1], helix[18][1]) / 18.0;
        assert!((rise - 1.5).abs() < 0.1, "rise {rise}");
        let turn = torsion(helix[4][1], helix[5][1], helix[6][1], helix[7][1]);
        assert!((turn - 50.0).abs() < 6.0, "CA torsion {turn}");
        let strand = build(&[(-128.0, 128.0); 19]);
        let rise = distance(strand[0][1], strand[18][1]) / 18.0;
        assert!((3.1..3.5).contains(&rise), "rise {rise}");
    }
}
