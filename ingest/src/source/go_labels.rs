//! Sequences with GO labels as JSON lines (`{"sequence", "label": [GO ids], "negative_labels"}`: the PDB-GO test sets
//! as InstructProtein writes them). Negative labels are drawn, not annotated, and are not read. The lines have no
//! evidence codes.

use serde::Deserialize;

use crate::Error;
use crate::claim::Claim;
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

#[derive(Deserialize)]
struct Record {
    sequence: String,
    label: Vec<String>,
}

/// Reads one file. The aspect of a term is that of the ontology, or of the file name (`mf`, `bp`, `cc`).
pub(crate) fn read(context: &Context, lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let name = lines.path().file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let aspects = [("mf", "F"), ("bp", "P"), ("cc", "C")];
    let aspect = aspects.iter().find(|(part, _)| name.contains(part)).map_or("", |(_, aspect)| *aspect);
    sink.lines(lines, |text| parse(context, aspect, text))
}

fn parse(context: &Context, aspect: &str, text: &str) -> Result<Parsed, Fault> {
    let record: Record =
        serde_json::from_str(text).map_err(|e| Fault::new(Reason::Malformed, e.to_string()))?;
    let protein = context.protein(&record.sequence)?;
    let (mut parsed, mut first_fault) = (Parsed::default(), None);
    for term in &record.label {
        match context.annotation(term, aspect, "") {
            Ok(go) => parsed.claims.push(Claim { go: Some(go.into()), ..Claim::of(protein.clone(), "") }),
            Err(fault) => {
                first_fault.get_or_insert(fault.clone());
                parsed.dropped.push((fault, term.clone()));
            }
        }
    }
    if parsed.claims.is_empty() {
        return Err(
            first_fault.unwrap_or_else(|| Fault::new(Reason::MissingValue, "the list of labels is empty"))
        );
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    #[test]
    fn labels_and_their_lack() {
        let read = |label: &str| {
            let text =
                format!(r#"{{"sequence": "MKTAY", "label": {label}, "negative_labels": ["GO:0000009"]}}"#);
            parse(&test_context(Kind::GoLabels), "F", &text)
        };
        let parsed = read(r#"["GO:0000001", "GO:1"]"#).unwrap();
        assert_eq!((parsed.claims.len(), parsed.dropped[0].0.reason), (1, Reason::Malformed));
        assert_eq!(read("[]").unwrap_err().reason, Reason::MissingValue);
        assert_eq!(read(r#"["GO:1"]"#).unwrap_err().reason, Reason::Malformed);
        assert_eq!(read("3").unwrap_err().reason, Reason::Malformed);
    }
}
