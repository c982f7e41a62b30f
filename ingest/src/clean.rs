//! Cleaning of texts: what is removed from `raw_text` to make `text`.

use std::borrow::Cow;
use std::sync::LazyLock;

use memchr::memmem::Finder;
use regex::Regex;

use crate::reason::{Fault, Reason};

/// A constant pattern.
pub(crate) fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant that a test compiles")
}

static EVIDENCE_BLOCK: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s*\{ECO:[^}]*\}"));
static EVIDENCE_CODE: LazyLock<Regex> = LazyLock::new(|| pattern(r"ECO:\d{7}"));
static CITATION: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\s*\((?:Ref\.\d+|PubMed:\d+)(?:,\s*(?:Ref\.\d+|PubMed:\d+))*\)|\s*\[(?:MIM|PubMed):\d+(?:,\s*(?:MIM|PubMed):\d+)*\]|,?\s*(?:PubMed|MIM):\d+",
    )
});
/// Stock openings, each with what it cannot be without, which is quick to look for.
static OPENERS: LazyLock<[(Finder<'_>, Regex); 3]> = LazyLock::new(|| {
    [
        // "An analysis of the protein sequence reveals that ...: ": a sentence about the question, up to the colon.
        (Finder::new("sequence"), pattern(r"^[A-Z][^:.;]{0,160}\bsequence\b[^:.;]{0,160}:\s+")),
        // "Based on the given amino acid sequence, ": a phrase without content, up to the comma.
        (
            Finder::new(","),
            pattern(
                r"^(?:Based on|Judging by|According to|From|(?:By|Upon|After)(?: an?| the)? \w+)\s[^:.,]{0,120}\b(?:sequence|analysis|protein|input)s?\b[^:.,]{0,40},\s+",
            ),
        ),
        // "An analysis of the sequence suggests that ".
        (
            Finder::new("sequence"),
            pattern(
                r"^(?:An? |The )?(?:[Aa]nalysis|[Ee]valuation|[Ee]xamination|[Rr]eview|[Aa]ssessment) of [^:.,]{0,80}\bsequence (?:suggests|reveals|indicates|shows|demonstrates) that\s+",
            ),
        ),
    ]
});

/// A folded text without any of these is one that [`without_codes`] leaves as it is; most are, and one look tells.
static CODES: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\{ECO:|Ref\.|PubMed:|MIM:|\(\)|\[\]| \.| ,| ;|\.\."));

/// Folds every run of white space to one blank and trims.
pub(crate) fn fold(text: &str) -> Cow<'_, str> {
    if is_folded(text.as_bytes()) {
        return text.into();
    }
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.push_str(word);
    }
    folded.into()
}

/// Whether a text is ASCII with single blanks between words, as most texts are: quick to see, a vector at a time.
fn is_folded(text: &[u8]) -> bool {
    let is_plain = text.iter().fold(true, |is, &b| is & (b >= b' ') & b.is_ascii());
    let pairs = text.iter().zip(text.iter().skip(1));
    let is_single = pairs.fold(true, |is, (&a, &b)| is & ((a != b' ') | (b != b' ')));
    is_plain && is_single && text.first() != Some(&b' ') && text.last() != Some(&b' ')
}

/// The evidence codes of a text, sorted, each once.
pub(crate) fn evidence(text: &str) -> Vec<String> {
    static CODE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("ECO:"));
    if CODE.find(text.as_bytes()).is_none() {
        return vec![];
    }
    let mut codes: Vec<String> = EVIDENCE_CODE.find_iter(text).map(|m| m.as_str().to_owned()).collect();
    codes.sort();
    codes.dedup();
    codes
}

/// Removes evidence blocks, PubMed and MIM references, folds white space and closes the gaps that are left.
pub(crate) fn without_codes(text: &str) -> String {
    let mut text = fold(text);
    if CODES.is_match(&text) {
        let bare = EVIDENCE_BLOCK.replace_all(&text, "");
        let bare = CITATION.replace_all(&bare, "").replace("()", "").replace("[]", "");
        let marks = [(" .", "."), (" ,", ","), (" ;", ";"), ("..", ".")];
        text = marks.iter().fold(fold(&bare).into_owned(), |text, (from, to)| text.replace(from, to)).into();
    }
    text.trim_matches(|c: char| c == ';' || c.is_whitespace()).to_owned()
}

/// Removes the stock opening of a Mol-Instructions answer; the rest begins with a capital.
pub(crate) fn without_opener(text: &str) -> Cow<'_, str> {
    for (word, opener) in OPENERS.iter() {
        if word.find(text.as_bytes()).is_some()
            && let Some(found) = opener.find(text)
        {
            let rest = &text[found.end()..];
            if found.as_str().ends_with(": ") || found.as_str().ends_with(":\n") {
                return rest.into();
            }
            let mut letters = rest.chars();
            let capital = letters.next().map(|first| first.to_uppercase().chain(letters));
            return capital.map_or(String::new(), Iterator::collect).into();
        }
    }
    text.into()
}

/// Refuses a text that states nothing that can be learnt.
///
/// # Errors
/// `empty_text`, or `single_word` when nothing but one word is left.
pub(crate) fn worth_keeping(text: &str) -> Result<(), Fault> {
    let bare = text.trim_matches(|c: char| !c.is_alphanumeric());
    if bare.is_empty() {
        return Err(Fault::new(Reason::EmptyText, "no text is left after cleaning"));
    }
    if !bare.contains(char::is_whitespace) {
        return Err(Fault::new(Reason::SingleWord, format!("the whole answer is {bare:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_go_and_sentences_stay_whole() {
        let raw = "Binds ATP\n (PubMed:11932238, PubMed:2) and  zinc [MIM:601665]. {ECO:0000269|PubMed:1, ECO:0000250}. Slow.";
        assert_eq!(without_codes(raw), "Binds ATP and zinc. Slow.");
        assert_eq!(evidence(raw), ["ECO:0000250", "ECO:0000269"]);
        assert_eq!(without_codes("Cytoplasm {ECO:0000250|UniProtKB:P11558}."), "Cytoplasm.");
        assert_eq!(
            without_codes("Secreted {ECO:1}; Golgi (By similarity)"),
            "Secreted; Golgi (By similarity)"
        );
    }

    #[test]
    fn openers_go_and_statements_stay() {
        let cases = [
            (
                "An analysis of the protein sequence reveals that the enzyme's catalytic function corresponds to the chemical reaction: citrate = D-threo-isocitrate",
                "citrate = D-threo-isocitrate",
            ),
            (
                "Based on the given amino acid sequence, the protein appears to bind ATP.",
                "The protein appears to bind ATP.",
            ),
            ("Judging by the sequence, it cuts sugar.", "It cuts sugar."),
            (
                "Upon evaluating your submitted sequence, our algorithms suggest that it cuts sugar.",
                "Our algorithms suggest that it cuts sugar.",
            ),
            ("An analysis of the sequence suggests that the protein cuts sugar.", "The protein cuts sugar."),
            ("Catalyzes the reaction: A + B = C.", "Catalyzes the reaction: A + B = C."),
            ("Binds zinc.", "Binds zinc."),
        ];
        for (raw, want) in cases {
            assert_eq!(without_opener(raw), want);
        }
    }

    #[test]
    fn a_folded_text_has_single_blanks() {
        for text in ["", "a", " a", "a ", "a  b", "a b", "a\tb", "a\u{a0}b", "ü b", "a\u{85}", "a\u{1c}b"] {
            assert_eq!(fold(text), text.split_whitespace().collect::<Vec<_>>().join(" "), "{text:?}");
        }
    }

    #[test]
    fn one_word_is_no_answer() {
        let reason = |text| worth_keeping(text).map_err(|f| f.reason);
        assert_eq!(reason("Monomer."), Err(Reason::SingleWord));
        assert_eq!(reason(" . "), Err(Reason::EmptyText));
        assert_eq!(reason("Binds zinc"), Ok(()));
    }
}
