//! How much memory a fine-tuning step takes, before it takes it.

use std::fmt;

use models::llm::qwen3;

/// Bytes of one f32.
const NUMBER: u64 = 4;

/// Bytes that a step holds at once. What is small beside these is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights of language model and encoder.
    pub frozen: u64,
    /// Adapter and bridge: weights, gradients and two moments.
    pub trained: u64,
    /// What the tape keeps of one micro-batch.
    pub activations: u64,
}

impl Memory {
    /// Of micro-batches of `tokens` tokens, padding included, whose proteins make the bridge keep `residues` numbers, with
    /// `frozen` and `trained` weights.
    pub fn estimate(model: &qwen3::Config, frozen: u64, trained: u64, tokens: u64, residues: u64) -> Self {
        let (width, ffn) = (model.hidden_size as u64, model.intermediate_size as u64);
        let heads = (model.num_attention_heads * model.head_dim) as u64;
        let groups = (model.num_key_value_heads * model.head_dim) as u64;
        // Of each block: what its two norms, its projections and the attention are given (queries and keys before and after
        // their norm and turn, values), what attention gives, and the feed-forward layer's gate, up and product.
        let block = 4 * width + 3 * heads + 3 * groups + 3 * ffn;
        Self {
            frozen: frozen * NUMBER,
            trained: 4 * trained * NUMBER,
            activations: (tokens * model.num_hidden_layers as u64 * block + residues) * NUMBER,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.frozen + self.trained + self.activations
    }

    /// What the process takes, with what passes: gradients on their way, a chunk of logits, the encoder at work, and what the
    /// allocator keeps from one step to the next. Measured: 0.7 of what a step holds (docs/lab-log.md).
    pub fn with_passing(&self) -> u64 {
        self.frozen + (self.trained + self.activations) * 17 / 10
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (frozen weights {}, trained ones with gradients and moments {}, activations {}), with what passes about {}",
            Size(self.total()),
            Size(self.frozen),
            Size(self.trained),
            Size(self.activations),
            Size(self.with_passing())
        )
    }
}

/// Bytes for a reader.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.0 as f64 / f64::from(1 << 30);
        match gib >= 1.0 {
            true => write!(f, "{gib:.1} GiB"),
            false => write!(f, "{:.1} MiB", gib * 1024.0),
        }
    }
}

/// Bytes that the system could give now, where it says so.
pub fn available() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_grow_with_the_batch() {
        let model = qwen3::Config {
            vocab_size: 151_936,
            hidden_size: 2560,
            intermediate_size: 9728,
            num_hidden_layers: 36,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            max_position_embeddings: 262_144,
            rms_norm_eps: 1e-6,
            rope_theta: 5e6,
            tie_word_embeddings: true,
            eos_token_ids: vec![151_645],
        };
        assert_eq!(model.n_weights(), 4_022_468_096, "Qwen3-4B");
        let small = Memory::estimate(&model, model.n_weights(), 1 << 20, 512, 0);
        let large = Memory::estimate(&model, model.n_weights(), 1 << 20, 1024, 0);
        assert_eq!((small.frozen, small.trained), (16_089_872_384, 16 << 20));
        assert_eq!(large.activations, 2 * small.activations);
        assert_eq!(large.total(), large.frozen + large.trained + large.activations);
        assert!(small.to_string().starts_with("18.8 GiB (frozen weights 15.0 GiB, "), "{small}");
        let with_proteins = Memory::estimate(&model, model.n_weights(), 1 << 20, 512, 1000);
        assert_eq!(with_proteins.total(), small.total() + 4000);
        assert!(small.to_string().contains("moments 16.0 MiB"), "{small}");
        assert!(small.to_string().ends_with("with what passes about 21.4 GiB"), "{small}");
    }
}
