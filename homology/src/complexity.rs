//! Stretches of few letters, which are alike without kinship.

use crate::align::OTHER;

/// Low complexity as SEG tells it (Wootton and Federhen 1993): a window of 12 with an entropy below 2.2 bits.
const WINDOW: usize = 12;
const LEAST_BITS: f64 = 2.2;
/// Entropies are summed as whole numbers of this part of a bit, so that a window can be moved without an error.
const UNIT: f64 = 1.0 / (1_u64 << 40) as f64;

/// The protein with [`OTHER`] for every residue that lies in a window of few letters.
pub(crate) fn mask(protein: &[u8]) -> Vec<u8> {
    let mut masked = protein.to_vec();
    let share = |n: usize| n as f64 / WINDOW as f64;
    let bits: [i64; WINDOW + 1] =
        std::array::from_fn(|n| if n == 0 { 0 } else { (-share(n) * share(n).log2() / UNIT) as i64 });
    let mut count = [0_usize; OTHER as usize + 1];
    let (mut entropy, mut is_masked_to) = (0, 0);
    for (at, &letter) in protein.iter().enumerate() {
        let mut step = |letter: u8, by: isize| {
            let n = &mut count[letter as usize];
            entropy -= bits[*n];
            *n = n.wrapping_add_signed(by);
            entropy += bits[*n];
        };
        if at >= WINDOW {
            step(protein[at - WINDOW], -1);
        }
        step(letter, 1);
        if at + 1 >= WINDOW && entropy < (LEAST_BITS / UNIT) as i64 {
            masked[is_masked_to.max(at + 1 - WINDOW)..=at].fill(OTHER);
            is_masked_to = at + 1;
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::encode;

    use datasets::rng;
    use rand::Rng;

    #[test]
    fn few_letters_are_masked_and_what_touches_them_is_not() {
        let protein = encode("MKTAYIAKQRQISFVKDDDDDEDDDEDDMKTAYIAKQRQISFVK");
        let masked = mask(&protein);
        assert!(masked[16..28].iter().all(|&l| l == OTHER));
        assert_eq!((&masked[..12], &masked[32..]), (&protein[..12], &protein[32..]));
        assert_eq!(mask(&encode("SSSS")), encode("SSSS"));
    }

    #[test]
    fn a_moving_window_sees_what_counting_each_window_sees() {
        let mut rng = rng(5, "test", 0);
        let mut n_masked = 0;
        for n_letters in 2..17 {
            let protein: Vec<u8> = (0..307).map(|_| (rng.next_u32() % n_letters) as u8).collect();
            let mut want = protein.clone();
            for (at, window) in protein.windows(WINDOW).enumerate() {
                let share = |l: u8| window.iter().filter(|&&w| w == l).count() as f64 / WINDOW as f64;
                let bits = |p: f64| if p > 0.0 { -p * p.log2() } else { 0.0 };
                if (0..20).map(|l| bits(share(l))).sum::<f64>() < LEAST_BITS {
                    want[at..at + WINDOW].fill(OTHER);
                }
            }
            n_masked += want.iter().filter(|&&l| l == OTHER).count();
            assert_eq!(mask(&protein), want);
        }
        assert!((307..307 * 14).contains(&n_masked), "{n_masked}");
    }
}
