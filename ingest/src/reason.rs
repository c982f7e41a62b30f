//! Why a record was not kept. The names are the counters of the manifest and the `reason` of the quarantine table.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why a record was not kept.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Reason] = &[$(Reason::$variant),*];

            /// Name in manifest and quarantine table.
            pub fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// A line that is not UTF-8.
    NotUtf8 => "not_utf8",
    /// A line with a NUL byte.
    NulByte => "nul_byte",
    /// A line or record above 8 MiB.
    LineTooLong => "line_too_long",
    /// Bad JSON, wrong column count, a number that is none, an entry without its parts.
    Malformed => "malformed",
    /// No residues.
    EmptySequence => "empty_sequence",
    /// A letter that is no residue.
    BadSequence => "bad_sequence",
    /// Shorter than `min_length`.
    TooShort => "too_short",
    /// Longer than `max_length`.
    TooLong => "too_long",
    /// Labels or coordinates of another length than the sequence.
    LabelLength => "label_length",
    /// A label outside the alphabet of the source.
    BadLabel => "bad_label",
    /// Coordinates of the wrong shape, infinite, or no residue with a CA.
    BadCoordinates => "bad_coordinates",
    /// A GO id that the ontology does not know.
    UnknownTerm => "unknown_term",
    /// A GO id that the ontology has made obsolete.
    ObsoleteTerm => "obsolete_term",
    /// An annotation with the qualifier NOT.
    Negated => "negated",
    /// An annotation or labels of a protein that no source gives a sequence for.
    NoSequence => "no_sequence",
    /// A pair partner that the dictionary does not hold (or that was itself quarantined).
    UnknownProtein => "unknown_protein",
    /// The wild-type residue is not at that position, or the mutant differs elsewhere too.
    MutationMismatch => "mutation_mismatch",
    /// An unknown letter, or wild type and mutant alike.
    BadMutation => "bad_mutation",
    /// An empty or NaN value, a sequence without labels or mask in their files.
    MissingValue => "missing_value",
    /// pLDDT outside 0–100, |ddG| above 25 kcal/mol.
    OutOfRange => "out_of_range",
    /// An id seen before in the same source with another sequence, or twice in a file of labels.
    IdConflict => "id_conflict",
    /// Two files that must name the same protein in the same place name different ones.
    IdMismatch => "id_mismatch",
    /// A chain of nucleic acid.
    NotProtein => "not_protein",
    /// A pair of a protein with itself.
    SelfPair => "self_pair",
    /// The same pair with both labels: all its rows go.
    LabelConflict => "label_conflict",
    /// An answer of one word.
    SingleWord => "single_word",
    /// No text left after cleaning.
    EmptyText => "empty_text",
}

/// What is wrong with one record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Its class.
    pub(crate) reason: Reason,
    /// The particulars, for a person.
    pub(crate) detail: String,
}

impl Fault {
    /// A fault with its particulars.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("{:?}", reason.name()));
        }
    }
}
