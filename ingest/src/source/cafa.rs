//! CAFA's information accretion (`IA.txt`): a GO term and how much it tells given its parents, bits; no header.

use crate::Error;
use crate::claim::{Claim, Weight};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, number};

/// Reads one file.
pub(crate) fn read(context: &Context, lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    sink.lines(lines, |text| parse(context, text))
}

fn parse(context: &Context, text: &str) -> Result<Parsed, Fault> {
    let fields: Vec<&str> = text.split('\t').map(str::trim).collect();
    let &[term, value] = &fields[..] else {
        return Err(Fault::new(Reason::Malformed, format!("{} columns, a weight has 2", fields.len())));
    };
    let bits = number("information accretion", value)?;
    if !(0.0..=64.0).contains(&bits) {
        return Err(Fault::new(Reason::OutOfRange, format!("{bits} bits are not in 0-64")));
    }
    // The aspect plays no part: without an ontology any would do.
    let go = context.annotation(term, "F", "")?;
    let weight = Weight { term: go.term, information_bits: bits };
    Ok(Claim { accession: term.into(), weight: Some(weight.into()), ..Claim::default() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    #[test]
    fn weights_and_faults() {
        let read = |text: &str| {
            parse(&test_context(Kind::CafaIa), text)
                .map(|p| p.claims[0].weight.clone().unwrap().information_bits)
                .map_err(|f| f.reason)
        };
        assert_eq!(read("GO:0000002\t3.25"), Ok(3.25));
        assert_eq!(read("GO:0000002\t-1"), Err(Reason::OutOfRange));
        assert_eq!(read("GO:0000002\tnan"), Err(Reason::MissingValue));
        assert_eq!(read("GO:2\t1"), Err(Reason::Malformed));
        assert_eq!(read("GO:0000002 1"), Err(Reason::Malformed));
    }
}
