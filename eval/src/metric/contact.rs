//! Precision of predicted contacts.

/// Share of true contacts among the `top` best-scored pairs with `|i − j| ≥ min_separation`.
///
/// `top` is `L`, `L / 2` or `L / 5` by convention, at least 1; with fewer pairs than that, all of them count. Pairs
/// tied with the last one share its places, so a constant score gives the density of contacts and not an accident of
/// order. `None` when there is no pair.
///
/// # Shapes
/// `scores`, `contacts`: `[L, L]` row-major, read above the diagonal; contacts 1 or 0, any other value (255) where a
/// residue has no coordinates, which leaves the pair out
pub fn precision_at(
    scores: &[f32],
    contacts: &[u8],
    length: usize,
    min_separation: usize,
    top: usize,
) -> Option<f64> {
    debug_assert_eq!((scores.len(), contacts.len()), (length * length, length * length));
    let mut pairs: Vec<(f32, bool)> = (0..length)
        .flat_map(|i| (i + min_separation.max(1)..length).map(move |j| i * length + j))
        .filter(|&at| contacts[at] <= 1)
        .map(|at| (scores[at], contacts[at] == 1))
        .collect();
    let top = top.clamp(1, pairs.len().max(1));
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut n_taken, mut n_right) = (0, 0.0);
    for tied in pairs.chunk_by(|a, b| a.0 == b.0) {
        let places = tied.len().min(top - n_taken);
        let share = tied.iter().filter(|pair| pair.1).count() as f64 / tied.len() as f64;
        n_right += share * places as f64;
        n_taken += places;
        if n_taken == top {
            return Some(n_right / top as f64);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_share_and_unknown_is_left_out() {
        // Pairs with separation ≥ 2 of 4 residues: (0,2), (0,3), (1,3).
        let mut contacts = [0_u8; 16];
        contacts[2] = 1;
        assert_eq!(precision_at(&[0.5; 16], &contacts, 4, 2, 1), Some(1.0 / 3.0));
        contacts[3] = 255;
        assert_eq!(precision_at(&[0.5; 16], &contacts, 4, 2, 1), Some(0.5));
        assert_eq!(precision_at(&[0.5; 16], &contacts, 4, 2, 97), Some(0.5));
        assert_eq!(precision_at(&[0.5; 16], &contacts, 4, 4, 1), None);
    }

    proptest! {
        /// Without ties it is what sorting and counting by hand gives.
        #[test]
        fn brute_force_agrees(seed in 0u32..1000, top in 1usize..13) {
            let length = 11;
            let value = |at: usize| (at as u32 + seed).wrapping_mul(2_654_435_761);
            let scores: Vec<f32> = (0..length * length).map(|at| (value(at) >> 8) as f32).collect();
            let contacts: Vec<u8> = (0..length * length).map(|at| u8::from(value(at * 7 + 3) % 3 == 0)).collect();
            let mut pairs = vec![];
            for i in 0..length {
                for j in 0..length {
                    if j >= i + 6 {
                        pairs.push((scores[i * length + j], contacts[i * length + j]));
                    }
                }
            }
            pairs.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap());
            prop_assume!(pairs.windows(2).all(|w| w[0].0 != w[1].0));
            let best = &pairs[..top.min(pairs.len())];
            let want = best.iter().map(|p| f64::from(p.1)).sum::<f64>() / best.len() as f64;
            let got = precision_at(&scores, &contacts, length, 6, top).unwrap();
            prop_assert!((got - want).abs() < 1e-12);
        }
    }
}
