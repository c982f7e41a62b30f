//! Stretches of few letters, which are alike without kinship.

use super::align::OTHER;

/// Low complexity as SEG tells it (Wootton and Federhen 1993): a window of 12 with an entropy below 2.2 bits.
const WINDOW: usize = 12;
const LEAST_BITS: f64 = 2.2;

/// The protein with [`OTHER`] for every residue that lies in a window of few letters.
pub(super) fn mask(protein: &[u8]) -> Vec<u8> {
    let mut masked = protein.to_vec();
    let share = |n: usize| n as f64 / WINDOW as f64;
    let bits: [f64; WINDOW + 1] =
        std::array::from_fn(|n| if n == 0 { 0.0 } else { -share(n) * share(n).log2() });
    for (at, window) in protein.windows(WINDOW).enumerate() {
        let mut count = [0_u8; OTHER as usize + 1];
        window.iter().for_each(|&l| count[l as usize] += 1);
        if count.iter().map(|&n| bits[n as usize]).sum::<f64>() < LEAST_BITS {
            masked[at..at + WINDOW].fill(OTHER);
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::super::align::encode;
    use super::*;

    #[test]
    fn few_letters_are_masked_and_what_touches_them_is_not() {
        let protein = encode("MKTAYIAKQRQISFVKDDDDDEDDDEDDMKTAYIAKQRQISFVK");
        let masked = mask(&protein);
        assert!(masked[16..28].iter().all(|&l| l == OTHER));
        assert_eq!((&masked[..12], &masked[32..]), (&protein[..12], &protein[32..]));
        assert_eq!(mask(&encode("SSSS")), encode("SSSS"));
    }
}
