//! ProteinLMDataset (`swissProt2Text.json`): a JSON array of `{"conversation": [{"output": text}]}`. The text has headed
//! sections, each begun by a stock sentence; the sequence stands between `<seq>` and `</seq>`, letters apart.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use crate::Error;
use crate::claim::{Claim, Fact};
use crate::clean;
use crate::reader::Input;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

static SEQUENCE: LazyLock<Regex> = LazyLock::new(|| clean::pattern(r"<seq>([^<]*)</seq>"));
static ACCESSION: LazyLock<Regex> =
    LazyLock::new(|| clean::pattern(r"UniProt accession (?:number )?([A-Z0-9]{6,10})\b"));
/// A line that begins a section; the text may follow on the same line.
static HEADING: LazyLock<Regex> = LazyLock::new(|| {
    clean::pattern(
        r"(?m)^[ \t]*(Introduction|Function|Subunit Structure|Domain|Tissue Specificity|Post-translational Modifications \(PTM\)|Induction|Disease Association):",
    )
});
/// The sentence before the statement: "The functions of X are as follows:".
static STOCK: LazyLock<Regex> = LazyLock::new(|| {
    clean::pattern(
        r"(?i)^\s*(?:The functions of|Regarding the|In terms of tissue specificity,|The post-translational modifications \(PTMs\) of|Concerning the induction of|In relation to disease association,)[^\n]{0,400}?(?:as follows|following characteristics|following conditions|observed that)[:,]?\s*",
    )
});

#[derive(Deserialize)]
struct Record {
    conversation: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    output: String,
}

/// Reads the records of one file.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    sink.elements(input, |text| parse(context, text))
}

fn task(heading: &str) -> Option<&'static str> {
    let tasks = [
        ("Function", "function"),
        ("Subunit Structure", "subunit"),
        ("Domain", "domain"),
        ("Tissue Specificity", "tissue"),
        ("Post-translational Modifications (PTM)", "ptm"),
        ("Induction", "induction"),
        ("Disease Association", "disease"),
    ];
    tasks.iter().find(|(name, _)| *name == heading).map(|(_, task)| *task)
}

fn parse(context: &Context, text: &str) -> Result<Parsed, Fault> {
    let malformed = |detail: String| Fault::new(Reason::Malformed, detail);
    let record: Record = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
    let turn = record.conversation.first().ok_or_else(|| malformed("the conversation is empty".into()))?;
    let whole = &turn.output;
    let sequence = SEQUENCE.captures(whole).ok_or_else(|| malformed("no <seq> … </seq>".into()))?;
    let protein = context.protein(&sequence[1].split_whitespace().collect::<String>())?;
    let accession = ACCESSION.captures(whole).map_or(String::new(), |found| found[1].to_owned());

    let headings: Vec<(usize, usize, String)> = HEADING
        .captures_iter(whole)
        .filter_map(|found| Some((found.get(0)?.start(), found.get(0)?.end(), found[1].to_owned())))
        .collect();
    let mut parsed = Parsed::default();
    let mut first_fault = None;
    for (at, (_, begin, heading)) in headings.iter().enumerate() {
        let Some(task) = task(heading) else { continue };
        let end = headings.get(at + 1).map_or(whole.len(), |(next, ..)| *next);
        let raw = whole[*begin..end].trim();
        let clean = clean::without_codes(&STOCK.replace(raw, ""));
        if let Err(fault) = clean::worth_keeping(&clean) {
            let fault = Fault::new(fault.reason, format!("{task}: {}", fault.detail));
            first_fault.get_or_insert(fault.clone());
            parsed.dropped.push((fault, raw.to_owned()));
            continue;
        }
        let fact = Fact::new(&protein.id, task, "", raw, clean);
        parsed.claims.push(Claim { fact: Some(fact.into()), ..Claim::of(protein.clone(), &accession) });
    }
    if parsed.claims.is_empty() {
        return Err(
            first_fault.unwrap_or_else(|| Fault::new(Reason::EmptyText, "no section with a statement"))
        );
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::{facts, test_context};

    fn read(output: &str) -> Result<Parsed, Fault> {
        let text = serde_json::json!({ "conversation": [{ "output": output }] }).to_string();
        parse(&test_context(Kind::ProteinLm), &text)
    }

    #[test]
    fn sections_lose_their_stock_sentence() {
        let parsed = read(
            "Introduction:\nThe protein with UniProt accession number X0X0X0, named ABC, has the sequence <seq> M K T A Y </seq>\n\n\
             Function:\nThe functions of ABC are as follows:\nBinds zinc. {ECO:0000255}\nSlowly.\n\n\
             Subunit Structure:\nRegarding the subunit composition of ABC, the details are as follows:\nMonomer.\n\
             Induction: By stress in the morning.\nDomain:\n  The finger binds DNA.",
        )
        .unwrap();
        let facts = facts(&parsed);
        let want = [
            ("function", "Binds zinc. Slowly."),
            ("induction", "By stress in the morning."),
            ("domain", "The finger binds DNA."),
        ];
        assert_eq!(facts, want);
        let first = &parsed.claims[0];
        assert_eq!((first.accession.as_str(), first.sequence.as_deref()), ("X0X0X0", Some("MKTAY")));
        assert_eq!(first.fact.as_ref().unwrap().evidence, ["ECO:0000255"]);
        assert_eq!(parsed.dropped[0].0.reason, Reason::SingleWord);
    }

    #[test]
    fn faults_have_reasons() {
        let reason = |output: &str| read(output).unwrap_err().reason;
        assert_eq!(reason("Function: Binds zinc."), Reason::Malformed);
        assert_eq!(reason("<seq> M K T 1 </seq>\nFunction: Binds zinc."), Reason::BadSequence);
        assert_eq!(reason("<seq> M K T A </seq>\nFunction: Kinase."), Reason::SingleWord);
        assert_eq!(reason("<seq> M K T A </seq>\nNothing else."), Reason::EmptyText);
        let context = test_context(Kind::ProteinLm);
        for text in ["{\"conversation\": []}", "[]", "{\"conversation\": [{\"output\": 3}]}"] {
            assert_eq!(parse(&context, text).unwrap_err().reason, Reason::Malformed);
        }
    }
}
