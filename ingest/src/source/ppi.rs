//! Protein pairs `id, id, 0/1` (tabs, no header; D-SCRIPT writes `1.0` and `0.0`) and their dictionaries
//! (`id, sequence`, or FASTA).

use crate::Error;
use crate::claim::{Claim, Member, Pair};
use crate::fasta::{Entries, Entry};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, number};

/// Reads pairs. Their proteins are looked up later, by a join with the dictionary.
pub(crate) fn read_pairs(lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    sink.lines(lines, parse_pair)
}

fn parse_pair(text: &str) -> Result<Parsed, Fault> {
    let fields: Vec<&str> = text.split('\t').map(str::trim).collect();
    let &[id_a, id_b, label] = &fields[..] else {
        return Err(Fault::new(Reason::Malformed, format!("{} columns, a pair has 3", fields.len())));
    };
    if id_a.is_empty() || id_b.is_empty() {
        return Err(Fault::new(Reason::Malformed, "an id is empty"));
    }
    let value = number("label", label)?;
    if value != 0.0 && value != 1.0 {
        return Err(Fault::new(Reason::BadLabel, format!("label {label:?} is neither 0 nor 1")));
    }
    if id_a == id_b {
        return Err(Fault::new(Reason::SelfPair, format!("{id_a} with itself")));
    }
    let pair = Pair { id_a: id_a.into(), id_b: id_b.into(), label: value == 1.0, mode: String::new() };
    Ok(Claim { ppi: Some(pair.into()), ..Claim::default() }.into())
}

/// Reads a dictionary of either form.
pub(crate) fn read_dictionary(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let Some(first) = lines.next()? else { return Ok(()) };
    if first.text.starts_with('>') {
        let parse = |entry: &Entry| member(context, entry.id(), &entry.text);
        return sink.entries(Entries::after(first, lines), parse);
    }
    let parse = |text: &str| {
        let fields: Vec<&str> = text.split('\t').collect();
        let &[id, sequence] = &fields[..] else {
            return Err(Fault::new(
                Reason::Malformed,
                format!("{} columns, a dictionary has 2", fields.len()),
            ));
        };
        member(context, id, sequence)
    };
    sink.record(first, |line| parse(&line.text))?;
    sink.lines(lines, parse)
}

fn member(context: &Context, id: &str, sequence: &str) -> Result<Parsed, Fault> {
    let id = id.trim();
    if id.is_empty() {
        return Err(Fault::new(Reason::Malformed, "the id is empty"));
    }
    let protein = context.protein(sequence)?;
    Ok(Claim { member: Some(Member { is_reference: false }), ..Claim::of(protein, id) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_both_spellings() {
        let label = |text: &str| {
            parse_pair(text).map(|p| p.claims[0].ppi.as_ref().unwrap().label).map_err(|f| f.reason)
        };
        assert_eq!(label("a\tb\t1"), Ok(true));
        assert_eq!(label("a\tb\t0.0"), Ok(false));
        assert_eq!(label("a\tb\t2"), Err(Reason::BadLabel));
        assert_eq!(label("a\tb\tyes"), Err(Reason::Malformed));
        assert_eq!(label("a\tb\t"), Err(Reason::MissingValue));
        assert_eq!(label("a\tb"), Err(Reason::Malformed));
        assert_eq!(label("a\ta\t1"), Err(Reason::SelfPair));
    }
}
