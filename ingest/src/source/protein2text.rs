//! Protein2Text-QA: a JSON array (or JSON lines) of conversations about one protein, `amino_seq` and
//! `conversations: [{from: human | gpt, value}]`; `<protein_sequence>` stands for the sequence.

use serde::Deserialize;

use crate::Error;
use crate::claim::{Claim, Fact};
use crate::clean;
use crate::reader::{Input, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    id: String,
    amino_seq: String,
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

/// Reads one file.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    if input.begins_with(b"{") {
        return sink.lines(Lines::new(input), |text| parse(context, text));
    }
    sink.elements(input, |text| parse(context, text))
}

fn parse(context: &Context, text: &str) -> Result<Parsed, Fault> {
    let malformed = |detail: String| Fault::new(Reason::Malformed, detail);
    let record: Record = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
    let protein = context.protein(&record.amino_seq)?;
    if record.conversations.is_empty() || record.conversations.len() % 2 == 1 {
        return Err(malformed(format!("{} turns are no questions with answers", record.conversations.len())));
    }
    let mut parsed = Parsed::default();
    let mut first_fault = None;
    for turns in record.conversations.chunks_exact(2) {
        let (asked, answered) = (&turns[0], &turns[1]);
        if (asked.from.as_str(), answered.from.as_str()) != ("human", "gpt") {
            return Err(malformed(format!("{:?} asks, {:?} answers", asked.from, answered.from)));
        }
        let question = clean::fold(&asked.value.replace("<protein_sequence>", " ")).into_owned();
        let text = clean::without_codes(&answered.value);
        let checked = match question.is_empty() {
            true => Err(Fault::new(Reason::EmptyText, "no question")),
            false => clean::worth_keeping(&text),
        };
        if let Err(fault) = checked {
            first_fault.get_or_insert(fault.clone());
            parsed.dropped.push((fault, answered.value.clone()));
            continue;
        }
        let fact = Fact::new(&protein.id, "qa", &question, &answered.value, text);
        parsed.claims.push(Claim { fact: Some(fact.into()), ..Claim::of(protein.clone(), record.id.trim()) });
    }
    match first_fault {
        Some(fault) if parsed.claims.is_empty() => Err(fault),
        _ => Ok(parsed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    fn read(conversations: &str) -> Result<Parsed, Fault> {
        let text = format!(r#"{{"id": "X0", "amino_seq": "MKTAY", "conversations": {conversations}}}"#);
        parse(&test_context(Kind::Protein2text), &text)
    }

    #[test]
    fn questions_have_answers() {
        let parsed = read(
            r#"[{"from":"human","value":"<protein_sequence>\nWhat binds?"},{"from":"gpt","value":"It binds  zinc."},
                {"from":"human","value":"Is it fast?"},{"from":"gpt","value":"No"}]"#,
        )
        .unwrap();
        let fact = parsed.claims[0].fact.as_ref().unwrap();
        assert_eq!((fact.question.as_str(), fact.text.as_str()), ("What binds?", "It binds zinc."));
        assert_eq!((parsed.claims.len(), parsed.dropped[0].0.reason), (1, Reason::SingleWord));
        let reason = |turns| read(turns).unwrap_err().reason;
        assert_eq!(reason("[]"), Reason::Malformed);
        assert_eq!(reason(r#"[{"from":"human","value":"What?"}]"#), Reason::Malformed);
        assert_eq!(
            reason(r#"[{"from":"gpt","value":"a b"},{"from":"human","value":"a b"}]"#),
            Reason::Malformed
        );
        let silent = r#"[{"from":"human","value":"<protein_sequence>"},{"from":"gpt","value":"a b"}]"#;
        assert_eq!(reason(silent), Reason::EmptyText);
        assert_eq!(
            reason(r#"[{"from":"human","value":"What?"},{"from":"gpt","value":"Yes."}]"#),
            Reason::SingleWord
        );
    }
}
