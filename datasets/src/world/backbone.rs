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

/// Foldings that are tried; the most compact one without clashes is kept.
const TRIES: usize = 12;
/// Two CA atoms that are not neighbours may not come nearer, Å.
const CLASH: f64 = 3.6;

/// Builds a backbone for a chain of DSSP letters.
///
/// # Shapes
/// `L` letters → `L` residues of 4 atoms
pub(super) fn fold(q8: &[u8], dice: &mut Dice) -> Vec<Residue> {
    let mut best: Option<(bool, f64, Vec<Residue>)> = None;
    for _ in 0..TRIES {
        let torsions: Vec<(f64, f64)> = q8.iter().map(|&state| draw_torsions(state, dice)).collect();
        let chain = build(&torsions);
        let (clashes, radius) = (clashes(&chain), radius_of_gyration(&chain));
        let better = best.as_ref().is_none_or(|(c, r, _)| (clashes, radius) < (*c, *r));
        if better {
            best = Some((clashes, radius, chain));
        }
    }
    best.expect("there is at least one try").2
}

/// φ and ψ in degrees.
fn draw_torsions(state: u8, dice: &mut Dice) -> (f64, f64) {
    let (phi, psi, spread) = match state {
        b'H' => (-63.0, -42.0, 3.0),
        b'G' => (-60.0, -28.0, 5.0),
        b'I' => (-70.0, -50.0, 5.0),
        b'E' | b'B' => (-120.0, 135.0, 8.0),
        // loops visit the helical, the extended, the polyproline and (seldom) the left-handed region
        _ => match dice.weighted(&[0.4, 0.2, 0.3, 0.1]) {
            0 => (-70.0, -35.0, 20.0),
            1 => (-110.0, 130.0, 20.0),
            2 => (-68.0, 145.0, 15.0),
            _ => (57.0, 40.0, 12.0),
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

fn clashes(chain: &[Residue]) -> bool {
    let ca = |r: &Residue| r[1];
    chain
        .iter()
        .enumerate()
        .any(|(j, b)| chain[..j.saturating_sub(2)].iter().any(|a| distance(ca(a), ca(b)) < CLASH))
}

fn radius_of_gyration(chain: &[Residue]) -> f64 {
    let n = chain.len() as f64;
    let centre: Point = std::array::from_fn(|i| chain.iter().map(|r| r[1][i]).sum::<f64>() / n);
    (chain.iter().map(|r| distance(r[1], centre).powi(2)).sum::<f64>() / n).sqrt()
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
        let chain = fold(b"CCHHHHHHHHHHTTEEEEEECSBTGGGCC", &mut Dice::new(2, "fold", 0));
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
    fn helices_and_strands_have_their_rise_and_hand() {
        let helix = build(&[(-63.0, -42.0); 19]);
        let rise = distance(helix[0][1], helix[18][1]) / 18.0;
        assert!((rise - 1.5).abs() < 0.1, "rise {rise}");
        let turn = torsion(helix[4][1], helix[5][1], helix[6][1], helix[7][1]);
        assert!((turn - 50.0).abs() < 6.0, "CA torsion {turn}");
        let strand = build(&[(-120.0, 135.0); 19]);
        let rise = distance(strand[0][1], strand[18][1]) / 18.0;
        assert!((3.1..3.5).contains(&rise), "rise {rise}");
    }
}
