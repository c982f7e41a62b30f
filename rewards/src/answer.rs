//! The one grammar of answers.
//!
//! The completion's last `<answer>…</answer>` block is read, and nothing else. Inside it stands, with blanks and line
//! breaks around it:
//!
//! | task | content |
//! |---|---|
//! | `go` | `GO:0003824, GO:0005515` (separated by commas or blanks), or `none` |
//! | `ppi` | `yes` or `no` |
//! | `ddg` | a plain decimal number in kcal/mol; `-`, `+` and U+2212 are signs |
//! | `plddt` | `high`, `medium` or `low`, then optionally a comma and a number 0–100 |
//!
//! Letters may be of either case. Any other word, unit or sign makes the answer unreadable: what is read is right, or
//! nothing is read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a prompt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Gene Ontology terms of a protein.
    Go,
    /// Whether two proteins interact.
    Ppi,
    /// Change of stability on mutation.
    Ddg,
    /// Confidence of the predicted structure.
    Plddt,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Task::Go => "go",
            Task::Ppi => "ppi",
            Task::Ddg => "ddg",
            Task::Plddt => "plddt",
        })
    }
}

/// Class of a mean pLDDT: above 80, above 50, the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// ≤ 50.
    Low,
    /// Above 50, ≤ 80.
    Medium,
    /// Above 80.
    High,
}

impl Confidence {
    /// The class of a mean pLDDT (0–100).
    pub fn of(mean_plddt: f32) -> Self {
        match mean_plddt {
            p if p > 80.0 => Confidence::High,
            p if p > 50.0 => Confidence::Medium,
            _ => Confidence::Low,
        }
    }
}

/// A completion that was read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Distinct ids in upper case, sorted; empty for `none`.
    Go(Vec<String>),
    /// `true` for yes.
    Ppi(bool),
    /// kcal/mol.
    Ddg(f32),
    /// Class, and the number if one was given.
    Plddt(Confidence, Option<f32>),
}

/// The content of an answer block that [`parse`] reads back as this answer; ddG and pLDDT are printed with two and one
/// decimals.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Go(ids) if ids.is_empty() => f.write_str("none"),
            Answer::Go(ids) => f.write_str(&ids.join(", ")),
            Answer::Ppi(true) => f.write_str("yes"),
            Answer::Ppi(false) => f.write_str("no"),
            Answer::Ddg(kcal) => write!(f, "{kcal:.2}"),
            Answer::Plddt(class, number) => {
                f.write_str(match class {
                    Confidence::Low => "low",
                    Confidence::Medium => "medium",
                    Confidence::High => "high",
                })?;
                number.map_or(Ok(()), |n| write!(f, ", {n:.1}"))
            }
        }
    }
}

impl Answer {
    /// The answer with its tags, as a completion ends.
    pub fn block(&self) -> String {
        format!("<answer>{self}</answer>")
    }
}

/// Why a completion could not be read. The names are counted in logs and reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no `<answer>`.
    #[error("no_answer")]
    NoAnswer,
    /// The last `<answer>` is not closed, as when the completion was cut.
    #[error("unclosed")]
    Unclosed,
    /// The block holds only blanks.
    #[error("empty")]
    Empty,
    /// Something in a `go` answer is not `GO:` and seven digits.
    #[error("not_a_term")]
    NotATerm,
    /// A `ppi` answer is neither `yes` nor `no`.
    #[error("not_yes_or_no")]
    NotYesOrNo,
    /// A `ddg` answer, or the second part of a `plddt` answer, is not one plain number in range.
    #[error("not_a_number")]
    NotANumber,
    /// A `plddt` answer does not begin with `high`, `medium` or `low`.
    #[error("not_a_category")]
    NotACategory,
}

/// Reads a completion as an answer to `task`.
///
/// # Errors
/// The [`Reason`] why it cannot be read.
pub fn parse(task: Task, completion: &str) -> Result<Answer, Reason> {
    let content = block(completion)?;
    match task {
        Task::Go => go(content),
        Task::Ppi => ppi(content),
        Task::Ddg => number(content).map(Answer::Ddg),
        Task::Plddt => plddt(content),
    }
}

/// Content of the last answer block, trimmed.
fn block(completion: &str) -> Result<&str, Reason> {
    let (_, tail) = completion.rsplit_once("<answer>").ok_or(Reason::NoAnswer)?;
    let (content, _) = tail.split_once("</answer>").ok_or(Reason::Unclosed)?;
    match content.trim() {
        "" => Err(Reason::Empty),
        content => Ok(content),
    }
}

fn go(content: &str) -> Result<Answer, Reason> {
    if content.eq_ignore_ascii_case("none") {
        return Ok(Answer::Go(vec![]));
    }
    let words = content.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    let mut ids = words.map(term).collect::<Option<Vec<_>>>().ok_or(Reason::NotATerm)?;
    if ids.is_empty() {
        return Err(Reason::NotATerm);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(Answer::Go(ids))
}

/// `GO:` and exactly seven digits, in upper case.
fn term(word: &str) -> Option<String> {
    let (prefix, digits) = word.split_once(':')?;
    let seven = digits.len() == 7 && digits.bytes().all(|b| b.is_ascii_digit());
    (prefix.eq_ignore_ascii_case("GO") && seven).then(|| word.to_ascii_uppercase())
}

fn ppi(content: &str) -> Result<Answer, Reason> {
    match content.to_ascii_lowercase().as_str() {
        "yes" => Ok(Answer::Ppi(true)),
        "no" => Ok(Answer::Ppi(false)),
        _ => Err(Reason::NotYesOrNo),
    }
}

/// A plain decimal number: sign, digits, point, digits. `inf`, `nan` and exponents, which Rust's own parser takes,
/// are no answers.
fn number(content: &str) -> Result<f32, Reason> {
    let (sign, digits) = match content.strip_prefix(['-', '\u{2212}']) {
        Some(rest) => (-1.0, rest),
        None => (1.0, content.strip_prefix('+').unwrap_or(content)),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = digits.parse::<f32>().ok().filter(|v| plain && v.is_finite()).ok_or(Reason::NotANumber)?;
    Ok(sign * value)
}

fn plddt(content: &str) -> Result<Answer, Reason> {
    let (word, rest) = match content.find([',', ' ']) {
        Some(at) => (&content[..at], content[at + 1..].trim()),
        None => (content, ""),
    };
    let class = match word.to_ascii_lowercase().as_str() {
        "low" => Confidence::Low,
        "medium" => Confidence::Medium,
        "high" => Confidence::High,
        _ => return Err(Reason::NotACategory),
    };
    if rest.is_empty() && word.len() == content.len() {
        return Ok(Answer::Plddt(class, None));
    }
    match number(rest)? {
        mean if (0.0..=100.0).contains(&mean) => Ok(Answer::Plddt(class, Some(mean))),
        _ => Err(Reason::NotANumber),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(task: Task, content: &str) -> Result<Answer, Reason> {
        parse(task, &format!("<answer>{content}</answer>"))
    }

    #[test]
    fn the_last_block_counts_and_must_be_closed() {
        let twice = "<answer>yes</answer> no, rather: <answer>no</answer> (or <b>yes</b>?)";
        assert_eq!(parse(Task::Ppi, twice), Ok(Answer::Ppi(false)));
        assert_eq!(parse(Task::Ppi, "<answer>yes <answer>no</answer>"), Ok(Answer::Ppi(false)));
        assert_eq!(parse(Task::Ppi, "<answer>yes</answer> or <answer>n"), Err(Reason::Unclosed));
        assert_eq!(parse(Task::Ppi, "yes"), Err(Reason::NoAnswer));
        assert_eq!(parse(Task::Ppi, "<answer> \n</answer>"), Err(Reason::Empty));
        assert_eq!(parse(Task::Ppi, "</answer>yes<answer>"), Err(Reason::Unclosed));
    }

    #[test]
    fn go_needs_both_boundaries() {
        let two = Ok(Answer::Go(vec!["GO:0003824".into(), "GO:0005515".into()]));
        assert_eq!(read(Task::Go, "GO:0005515, go:0003824\nGO:0005515"), two);
        assert_eq!(read(Task::Go, "None"), Ok(Answer::Go(vec![])));
        for bad in [
            "GO:00055150",
            "XGO:0005515",
            "GO: 0005515",
            "0005515",
            "GO:000551",
            "GO:0005515.",
            ",",
            "GO:０005515",
        ] {
            assert_eq!(read(Task::Go, bad), Err(Reason::NotATerm), "{bad}");
        }
    }

    #[test]
    fn numbers_are_plain() {
        assert_eq!(read(Task::Ddg, "\u{2212}0.4"), Ok(Answer::Ddg(-0.4)));
        assert_eq!(read(Task::Ddg, "+.5"), Ok(Answer::Ddg(0.5)));
        for bad in ["--1", "-\u{2212}1", "1,5", "1e3", "inf", "-", ".", "1 2", "1.2.3", "\u{2013}1", "0x1"] {
            assert_eq!(read(Task::Ddg, bad), Err(Reason::NotANumber), "{bad}");
        }
        let huge = "9".repeat(97);
        assert_eq!(read(Task::Ddg, &huge), Err(Reason::NotANumber));
    }

    #[test]
    fn plddt_needs_its_category() {
        assert_eq!(read(Task::Plddt, "High, 84"), Ok(Answer::Plddt(Confidence::High, Some(84.0))));
        assert_eq!(read(Task::Plddt, "low 31.5"), Ok(Answer::Plddt(Confidence::Low, Some(31.5))));
        assert_eq!(read(Task::Plddt, "medium"), Ok(Answer::Plddt(Confidence::Medium, None)));
        assert_eq!(read(Task::Plddt, "high, 101"), Err(Reason::NotANumber));
        assert_eq!(read(Task::Plddt, "high,"), Err(Reason::NotANumber));
        assert_eq!(read(Task::Plddt, "higher, 84"), Err(Reason::NotACategory));
        assert_eq!(read(Task::Plddt, "84"), Err(Reason::NotACategory));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ids in proptest::collection::btree_set(0u32..10_000_000, 0..5), kcal in -900i32..900, plddt in 0u32..=1000) {
            let ids: Vec<String> = ids.iter().map(|n| format!("GO:{n:07}")).collect();
            let answers = [
                (Task::Go, Answer::Go(ids)),
                (Task::Ddg, Answer::Ddg(kcal as f32 / 100.0)),
                (Task::Plddt, Answer::Plddt(Confidence::Low, Some(plddt as f32 / 10.0))),
                (Task::Ppi, Answer::Ppi(kcal > 0)),
            ];
            for (task, answer) in answers {
                prop_assert_eq!(parse(task, &answer.block()), Ok(answer));
            }
        }
    }
}
