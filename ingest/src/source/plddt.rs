//! Mean pLDDT of AlphaFold DB models, JSON lines with the field names of its API
//! (`uniprotAccession`, `uniprotEnd`, `uniprotSequence`, `globalMetricValue`).

use serde::Deserialize;

use crate::Error;
use crate::claim::{Claim, Member, Plddt};
use crate::json::{Number, standard};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uniprot_accession: String,
    uniprot_sequence: String,
    uniprot_end: Option<Number>,
    global_metric_value: Option<Number>,
}

/// Reads one file.
pub(crate) fn read(context: &Context, lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    sink.lines(lines, |text| parse(context, text))
}

fn parse(context: &Context, text: &str) -> Result<Parsed, Fault> {
    let record: Record =
        serde_json::from_str(&standard(text)).map_err(|e| Fault::new(Reason::Malformed, e.to_string()))?;
    let protein = context.protein(&record.uniprot_sequence)?;
    let length = protein.sequence.len() as f64;
    if let Some(end) = record.uniprot_end.filter(|end| end.0 != length) {
        // The value would be that of a fragment.
        return Err(Fault::new(
            Reason::LabelLength,
            format!("the model ends at {}, the sequence has {length} residues", end.0),
        ));
    }
    let value = record.global_metric_value.map_or(f64::NAN, |v| v.0);
    if value.is_nan() {
        return Err(Fault::new(Reason::MissingValue, "no globalMetricValue"));
    }
    if !(0.0..=100.0).contains(&value) {
        return Err(Fault::new(Reason::OutOfRange, format!("mean pLDDT {value} is not in 0-100")));
    }
    let claim = Claim::of(protein, record.uniprot_accession.trim());
    // The accession is known to annotations too, but a flat file goes before it.
    let member = Claim { member: Some(Member { is_reference: false }), ..claim.clone() };
    let plddt = Claim { plddt: Some(Plddt { mean_plddt: value as f32, plddt: vec![] }.into()), ..claim };
    Ok(Parsed { claims: vec![plddt, member], dropped: vec![] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    #[test]
    fn values_and_faults() {
        let read = |end: &str, value: &str| {
            let text = format!(
                r#"{{"uniprotAccession":"X0","uniprotEnd":{end},"uniprotSequence":"MKTAY","globalMetricValue":{value}}}"#
            );
            parse(&test_context(Kind::AfdbPlddt), &text)
                .map(|p| p.claims[0].plddt.as_ref().unwrap().mean_plddt)
                .map_err(|f| f.reason)
        };
        assert_eq!(read("\"5\"", "73.5"), Ok(73.5));
        assert_eq!(read("5", "100"), Ok(100.0));
        assert_eq!(read("4", "73.5"), Err(Reason::LabelLength));
        assert_eq!(read("5", "NaN"), Err(Reason::MissingValue));
        assert_eq!(read("5", "100.1"), Err(Reason::OutOfRange));
        assert_eq!(read("5", "-1"), Err(Reason::OutOfRange));
        assert_eq!(read("5", "{}"), Err(Reason::Malformed));
    }
}
