//! Interaction: the yes or no is right, or it is not.
//!
//! An answer that is neither is unreadable and earns 0. (The first reward for this task paid 0.5 for abstaining,
//! which is what the majority answer earns on a balanced set, so a policy could learn to say nothing.)
//!
//! Floor: the share of the larger class, for the constant answer.

/// 1 if the answer agrees with the truth, else 0.
pub fn right(says: bool, truth: bool) -> f32 {
    f32::from(u8::from(says == truth))
}
