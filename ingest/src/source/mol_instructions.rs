//! Mol-Instructions, protein part: a JSON array of `{instruction, input, output, metadata}` with the sequence between
//! fences, or of `{instruction, sequence, description, split}` as RAPM reshapes it.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde::Deserialize;

use crate::Error;
use crate::claim::{Claim, Fact};
use crate::clean;
use crate::json::{Perhaps, Text};
use crate::reader::Input;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, stem};

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    instruction: Text<'a>,
    input: Option<Text<'a>>,
    output: Option<Text<'a>>,
    sequence: Option<Text<'a>>,
    description: Option<Text<'a>>,
    split: Option<Text<'a>>,
    /// RAPM has a text in their place.
    metadata: Option<Perhaps<Metadata<'a>>>,
}

#[derive(Default, Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    task: Option<Perhaps<Text<'a>>>,
    split: Option<Perhaps<Text<'a>>>,
    protein_accession: Option<Perhaps<Text<'a>>>,
}

/// Reads the records of one task; the task is that of the metadata, else that of the file name.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    let task_of_file = task(&stem(input.path()));
    sink.elements(input, |text| parse(context, task_of_file, text))
}

/// Tasks of the facts, by what the sources call them.
static TASKS: LazyLock<[(Finder<'_>, &str); 6]> = LazyLock::new(|| {
    let tasks = [
        ("catalytic", "catalytic_activity"),
        ("domain", "domain"),
        ("motif", "domain"),
        ("design", "design"),
        ("general", "general"),
        ("function", "function"),
    ];
    tasks.map(|(part, task)| (Finder::new(part), task))
});

fn task(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    TASKS.iter().find(|(part, _)| part.find(name.as_bytes()).is_some()).map(|(_, task)| *task)
}

fn parse(context: &Context, task_of_file: Option<&'static str>, text: &str) -> Result<Parsed, Fault> {
    let malformed = |detail: String| Fault::new(Reason::Malformed, detail);
    let record: Record<'_> = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
    let known = record.metadata.and_then(Perhaps::get).unwrap_or_default();
    let [named, split, accession] =
        [known.task, known.split, known.protein_accession].map(|text| text.and_then(Perhaps::get));
    let task = named.as_deref().and_then(task).or(task_of_file);
    let task = task.ok_or_else(|| {
        malformed(format!("neither metadata.task nor the file name names a task ({:?})", record.instruction))
    })?;
    let (sequence, raw_text) = match (&record.sequence, &record.description, &record.input, &record.output) {
        (Some(sequence), Some(description), _, _) => (&**sequence, &**description),
        (_, _, Some(input), Some(output)) if task == "design" => (fenced(output), &**input),
        (_, _, Some(input), Some(output)) => (fenced(input), &**output),
        _ => return Err(malformed("neither input and output nor sequence and description".into())),
    };
    let protein = context.protein(sequence)?;
    let text = clean::without_codes(&clean::without_opener(&clean::fold(raw_text)));
    clean::worth_keeping(&text)?;
    let fact = Fact::new(&protein.id, task, "", raw_text, text);
    let test = record.split.or(split).as_deref() == Some("test");
    let claim = Claim::of(protein, accession.as_deref().unwrap_or_default());
    Ok(Claim { fact: Some(fact.into()), test, ..claim }.into())
}

/// What stands between ``` fences; the whole text if there are none.
fn fenced(text: &str) -> &str {
    static FENCE: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new("```"));
    let fence = |text: &str| FENCE.find(text.as_bytes());
    let inside = fence(text).map_or(text, |at| &text[at + 3..]);
    inside[..fence(inside).unwrap_or(inside.len())].trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    fn fact(text: &str) -> Result<(Claim, Fact), Fault> {
        let claim = parse(&test_context(Kind::MolInstructions), None, text)?.claims.remove(0);
        let fact = *claim.fact.clone().unwrap();
        Ok((claim, fact))
    }

    #[test]
    fn both_spellings_and_designs() {
        let (claim, read) = fact(
            r#"{"instruction":"Say.","input":"```\nMKLA\n```","output":"Judging by the sequence, it binds\n zinc.","metadata":{"protein_accession":"X0","seq_len":"4","task":"general function","split":"test"}}"#,
        )
        .unwrap();
        assert_eq!((read.task, read.text.as_str()), ("general", "It binds zinc."));
        assert_eq!(
            (claim.sequence.as_deref(), claim.accession.as_str(), claim.test),
            (Some("MKLA"), "X0", true)
        );
        let (claim, read) = fact(
            r#"{"instruction":"Design.","input":"1. It must bind zinc.","output":"Here it is: ```\nMKLA\n```","metadata":{"task":"protein design","split":"train"}}"#,
        )
        .unwrap();
        assert_eq!((read.task, claim.sequence.as_deref(), claim.test), ("design", Some("MKLA"), false));
        let reshaped = r#"{"instruction":"Say.","sequence":"MKLA","description":"Binds zinc.","split":"train","metadata":"Binds zinc."}"#;
        assert_eq!(fact(reshaped).unwrap_err().reason, Reason::Malformed, "no task is named");
        let parsed = parse(&test_context(Kind::MolInstructions), Some("function"), reshaped).unwrap();
        assert_eq!(parsed.claims[0].fact.as_ref().unwrap().text, "Binds zinc.");
    }

    #[test]
    fn what_is_no_text_hides_nothing_else() {
        let metadata = r#"{"protein_accession":7,"task":"protein function","annots":[1],"split":"test"}"#;
        let record =
            format!(r#"{{"instruction":"","input":"MKLA","output":"Binds zinc.","metadata":{metadata}}}"#);
        let (claim, read) = fact(&record).unwrap();
        assert_eq!((read.task, claim.accession.as_str(), claim.test), ("function", "", true));
    }

    #[test]
    fn faults_have_reasons() {
        let record = |input: &str, output: &str| {
            fact(&format!(r#"{{"instruction":"","input":"{input}","output":"{output}","metadata":{{"task":"function"}}}}"#)).unwrap_err().reason
        };
        assert_eq!(record("MKLA", "Monomer."), Reason::SingleWord);
        assert_eq!(record("MKLA", ""), Reason::EmptyText);
        assert_eq!(record("``` ```", "Binds zinc."), Reason::EmptySequence);
        assert_eq!(record("MK1A", "Binds zinc."), Reason::BadSequence);
        assert_eq!(record("MK", "Binds zinc."), Reason::TooShort);
        assert_eq!(fact("{").unwrap_err().reason, Reason::Malformed);
        assert_eq!(fact(r#"{"instruction": 3}"#).unwrap_err().reason, Reason::Malformed);
    }
}
