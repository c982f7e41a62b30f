//! cgdms: one text file a chain (usually in a tar archive): sequence, predicted secondary structure (not read: it is no
//! observation), then for every residue N, CA, C and the centre of the side chain, Å. There is no O.

use crate::Error;
use crate::claim::{Chain, Claim};
use crate::reader::{Input, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, chain_of, number, stem};

/// Reads one chain; it is named by the file, `1A2X_B.txt`.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    let name = stem(input.path());
    let mut lines = Lines::new(input);
    let (mut text, mut fault) = (String::new(), None);
    while let Some(line) = lines.next()? {
        text.push_str(&line.text);
        text.push('\n');
        fault = fault.or(line.fault);
    }
    let parsed = fault.map_or_else(|| parse(context, &name, &text), Err);
    // The next member's lines come after all of this one's.
    sink.put(lines.number(), &text, parsed)
}

fn parse(context: &Context, name: &str, text: &str) -> Result<Parsed, Fault> {
    let mut lines = text.lines();
    let sequence = lines.next().unwrap_or("").trim();
    let _predicted = lines.next();
    let rows: Vec<&str> = lines.collect();
    let protein = context.protein(sequence)?;
    let bad = |detail: String| Fault::new(Reason::BadCoordinates, detail);
    if rows.len() != protein.sequence.len() || protein.sequence.len() != sequence.len() {
        return Err(bad(format!("{} residues, {} lines of coordinates", sequence.len(), rows.len())));
    }
    let mut backbone_ang = Vec::with_capacity(12 * rows.len());
    for (at, row) in rows.iter().enumerate() {
        let numbers: Vec<f64> =
            row.split_whitespace().map(|x| number("coordinate", x)).collect::<Result<_, _>>()?;
        if numbers.len() != 12 || numbers.iter().any(|x| !x.is_finite()) {
            return Err(bad(format!(
                "residue {}: {} numbers, 12 finite ones expected",
                at + 1,
                numbers.len()
            )));
        }
        backbone_ang.extend(numbers[..9].iter().map(|&x| x as f32));
        backbone_ang.extend([f32::NAN; 3]);
    }
    let accession = match name.split_once('_') {
        Some((structure, chain)) => chain_of(structure, chain),
        None => name.to_owned(),
    };
    let split = context.chain_split.as_deref();
    let (published_split, cath) = split.map_or((String::new(), vec![]), |s| s.of(&accession));
    let test = published_split == "test";
    let chain = Chain { backbone_ang, cath, published_split };
    Ok(Claim { chain: Some(chain.into()), test, ..Claim::of(protein, &accession) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    #[test]
    fn a_chain_and_its_faults() {
        let row = "1 2 3 4 5 6 7 8 9 10 11 12\n";
        let read = |text: &str| parse(&test_context(Kind::Cgdms), "1A2X_B", text);
        let claim = read(&format!("MKT\nHHC\n{}", row.repeat(3))).unwrap().claims.remove(0);
        assert_eq!((claim.accession.as_str(), claim.sequence.as_deref()), ("1a2x.B", Some("MKT")));
        let backbone = claim.chain.unwrap().backbone_ang;
        assert_eq!(
            (backbone.len(), &backbone[..9]),
            (36, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0][..])
        );
        assert!(backbone[9..12].iter().all(|x| x.is_nan()));
        let reason = |text: &str| read(text).unwrap_err().reason;
        assert_eq!(reason(&format!("MKT\nHHC\n{}", row.repeat(2))), Reason::BadCoordinates);
        assert_eq!(reason(&format!("MKT\nHHC\n{}1 2\n", row.repeat(2))), Reason::BadCoordinates);
        assert_eq!(
            reason(&format!("MKT\nHHC\n{}{}", row.repeat(2), row.replace('5', "x"))),
            Reason::Malformed
        );
        assert_eq!(reason(&format!("MK1\nHHC\n{}", row.repeat(3))), Reason::BadSequence);
        assert_eq!(reason(""), Reason::EmptySequence);
    }
}
