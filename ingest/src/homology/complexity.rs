//! Stretches of few letters, which are alike without kinship.

use super::align::OTHER;

/// Low complexity as SEG tells it (Wootton and Federhen 1993): a window of 12 with an entropy below 2.2 bits.
const WINDOW: usize = 12;
const LEAST_BITS: f64 = 2.2;

/// Whether each residue lies in a window of few letters.
pub(super) fn low_complexity(protein: &[u8]) -> Vec<bool> {
    let mut masked = vec![false; protein.len()];
    let share = |n: usize| n as f64 / WINDOW as f64;
    let bits: [f64; WINDOW + 1] =
        std::array::from_fn(|n| if n == 0 { 0.0 } else { -share(n) * share(n).log2() });
    for (at, window) in protein.windows(WINDOW).enumerate() {
        let mut count = [0_u8; OTHER as usize + 1];
        window.iter().for_each(|&l| count[l as usize] += 1);
        if count.iter().map(|&n| bits[n as usize]).sum::<f64>() < LEAST_BITS {
            masked[at..at + WINDOW].fill(true);
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
        let masked = low_complexity(&encode("MKTAYIAKQRQISFVKDDDDDEDDDEDDMKTAYIAKQRQISFVK"));
        assert!(masked[16..28].iter().all(|&m| m));
        assert!(masked[..12].iter().chain(&masked[32..]).all(|&m| !m));
        assert_eq!(low_complexity(&encode("SSSS")), [false; 4]);
    }
}
