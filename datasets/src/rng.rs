//! The one source of randomness: a counter-based generator addressed by (seed, stream, step).
//!
//! Nothing in the project draws from a generator that lives longer than one step, so a resumed run needs no generator
//! state: the address is enough, and the order in which threads work changes nothing.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The generator at `(seed, stream, step)`. Streams are named by what they feed: `"init/lm_head"`, `"dropout"`,
/// `"sampler"`; two names never share numbers.
pub fn rng(seed: u64, stream: &str, step: u64) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(step.to_le_bytes());
    hash.update(stream.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn the_address_is_the_state() {
        let draw = |seed, stream: &str, step| rng(seed, stream, step).next_u64();
        assert_eq!(draw(42, "init", 3), draw(42, "init", 3));
        assert_ne!(draw(42, "init", 3), draw(42, "init", 4));
        assert_ne!(draw(42, "init", 3), draw(43, "init", 3));
        assert_ne!(draw(42, "init", 3), draw(42, "dropout", 3));
    }
}
