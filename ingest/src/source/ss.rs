//! Secondary structure as CSV. Four layouts, told apart by their header:
//! PISCES (`pdb_id,chain_code,seq,sst8,sst3,…`), NPPE-2 (`id,seq[,sst8,sst3]`, written C to N),
//! Princeton's CB513 and CB6133 (`id,len,input,expected`), NetSurfP's CB513 (`input, dssp3, dssp8, disorder, cb513_mask`,
//! columns of blank-separated values).

use datasets::label::{self, Q3, Q8, UNKNOWN};

use crate::Error;
use crate::claim::{Claim, Ss};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Header, Parsed, Row, Sink, csv_fields, number, residue_columns};

/// What a record of any layout holds: one character per residue in each column.
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) sequence: String,
    pub(crate) q8: Option<String>,
    pub(crate) q3: Option<String>,
    pub(crate) mask: Option<String>,
}

/// Reads one file.
pub(crate) fn read(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const HINT: &str = "layouts: pdb_id,chain_code,seq,sst8,sst3 · id,seq,sst8,sst3 · id,len,input,expected · input,dssp3,dssp8,disorder,cb513_mask";
    let header = Header::read(&mut lines, ',', &[], HINT)?;
    let has = |names: &[&str]| names.iter().all(|n| header.find(n).is_some());
    let layout = if has(&["pdb_id", "chain_code", "seq", "sst8", "sst3"]) {
        pisces
    } else if has(&["id", "seq"]) {
        nppe2
    } else if has(&["id", "len", "input", "expected"]) {
        princeton
    } else if has(&["input", "dssp3", "dssp8", "disorder", "cb513_mask"]) {
        netsurfp
    } else {
        let missing = "the columns of any of its four layouts".into();
        let got = header.names.join(",");
        return Err(Error::Header { path: lines.path().into(), line: 1, missing, got, hint: HINT.into() });
    };
    let mut n = 0;
    while let Some(line) = lines.next()? {
        sink.record(line, |line| {
            n += 1;
            claim(context, layout(&Row::new(&header, csv_fields(&line.text)?)?, n)?)
        })?;
    }
    sink.unread(&header);
    Ok(())
}

fn pisces(row: &Row<'_>, _: u64) -> Result<Record, Fault> {
    let id = format!("{}.{}", row.get("pdb_id").to_ascii_lowercase(), row.get("chain_code"));
    Ok(Record { id, ..nppe2(row, 0)? })
}

fn nppe2(row: &Row<'_>, _: u64) -> Result<Record, Fault> {
    let labels = |name| Some(row.get(name).to_owned()).filter(|_| row.header.find(name).is_some());
    Ok(Record {
        id: row.get("id").into(),
        sequence: row.get("seq").into(),
        q8: labels("sst8"),
        q3: labels("sst3"),
        mask: None,
    })
}

fn princeton(row: &Row<'_>, _: u64) -> Result<Record, Fault> {
    let length = number("len", row.get("len"))?;
    let sequence = row.get("input").to_owned();
    if length != sequence.chars().count() as f64 {
        let detail = format!("len is {length}, the sequence has {} residues", sequence.chars().count());
        return Err(Fault::new(Reason::LabelLength, detail));
    }
    Ok(Record {
        id: row.get("id").into(),
        sequence,
        q8: Some(row.get("expected").into()),
        q3: None,
        mask: None,
    })
}

fn netsurfp(row: &Row<'_>, n: u64) -> Result<Record, Fault> {
    let letters = |name: &str| row.get(name).split_whitespace().collect::<String>();
    let counts = |name: &str| -> Result<Vec<bool>, Fault> {
        row.get(name).split_whitespace().map(|v| Ok(number(name, v)? > 0.5)).collect()
    };
    let (resolved, mask) = (counts("disorder")?, counts("cb513_mask")?);
    if resolved.len() != mask.len() {
        return Err(Fault::new(
            Reason::LabelLength,
            format!("disorder {} values, mask {}", resolved.len(), mask.len()),
        ));
    }
    let mask = resolved.iter().zip(&mask).map(|(r, m)| if *r && *m { '1' } else { '0' }).collect();
    Ok(Record {
        id: n.to_string(),
        sequence: letters("input"),
        q8: Some(letters("dssp8")),
        q3: Some(letters("dssp3")),
        mask: Some(mask),
    })
}

/// Checks lengths on the text as given, takes gaps out of all columns, turns reversed files round.
pub(crate) fn claim(context: &Context, record: Record) -> Result<Parsed, Fault> {
    let turn =
        |text: &str| if context.source.reversed { text.chars().rev().collect() } else { text.to_owned() };
    let sequence = turn(&record.sequence);
    let (residues, kept) = residue_columns(&sequence)?;
    let length = sequence.chars().count();
    let column = |name: &str, text: &Option<String>, missing: char| -> Result<String, Fault> {
        let Some(text) = text else { return Ok(missing.to_string().repeat(kept.len())) };
        let letters: Vec<char> = turn(text).chars().collect();
        if letters.len() != length {
            return Err(Fault::new(
                Reason::LabelLength,
                format!("{name} has {} labels, the sequence {length} residues", letters.len()),
            ));
        }
        Ok(kept.iter().map(|&at| letters[at]).collect())
    };
    let states = |name: &str, text: &str, index: fn(u8) -> Option<u8>| -> Result<Vec<u8>, Fault> {
        let state = |(at, c): (usize, char)| {
            let known = u8::try_from(c).ok().and_then(index);
            known.ok_or_else(|| Fault::new(Reason::BadLabel, format!("{name}: {c:?} at position {}", at + 1)))
        };
        text.chars().enumerate().map(state).collect()
    };
    let q8 = states("q8", &column("q8", &record.q8, '?')?, label::q8_index)?;
    let q3 = match &record.q3 {
        Some(_) => states("q3", &column("q3", &record.q3, '?')?, label::q3_index)?,
        None => q8.iter().map(|&q| label::q8_to_q3(q)).collect(),
    };
    let mask = column("mask", &record.mask, '1')?;
    // A residue without any label cannot count, whatever the source's mask says.
    let is_unknown = |at: usize| q8[at] == UNKNOWN && q3[at] == UNKNOWN;
    let mask = mask.chars().enumerate().map(|(at, m)| if is_unknown(at) { '0' } else { m }).collect();
    let protein = context.bounded(residues)?;
    let letter = |alphabet: &[u8], index: u8| alphabet.get(usize::from(index)).map_or('?', |&l| l as char);
    let ss = Ss {
        q8: q8.iter().map(|&q| letter(Q8, q)).collect(),
        q3: q3.iter().map(|&q| letter(Q3, q)).collect(),
        mask,
    };
    Ok(Claim { ss: Some(ss.into()), ..Claim::of(protein, &record.id) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    fn record(sequence: &str, q8: &str, q3: Option<&str>) -> Record {
        Record {
            id: "1".into(),
            sequence: sequence.into(),
            q8: Some(q8.into()),
            q3: q3.map(Into::into),
            mask: None,
        }
    }

    fn ss(context: &Context, record: Record) -> Result<(String, Ss), Fault> {
        let claim = claim(context, record)?.claims.remove(0);
        Ok((claim.sequence.unwrap(), *claim.ss.unwrap()))
    }

    #[test]
    fn direction_coil_gaps_and_stars() {
        let mut context = test_context(Kind::SsCsv);
        let (sequence, read) = ss(&context, record("mk-A*", "HLTX_", None)).unwrap();
        assert_eq!(
            (sequence.as_str(), read.q8.as_str(), read.q3.as_str(), read.mask.as_str()),
            ("MKAX", "HC?C", "HC?C", "1101")
        );
        context.source.reversed = true;
        let (sequence, read) = ss(&context, record("MKAY", "HHEC", Some("HHEC"))).unwrap();
        assert_eq!(
            (sequence.as_str(), read.q8.as_str(), read.q3.as_str(), read.mask.as_str()),
            ("YAKM", "CEHH", "CEHH", "1111")
        );
    }

    #[test]
    fn faults_have_reasons() {
        let context = test_context(Kind::SsCsv);
        let reason = |sequence, q8, q3| ss(&context, record(sequence, q8, q3)).unwrap_err().reason;
        assert_eq!(reason("MKAY", "HHE", None), Reason::LabelLength);
        assert_eq!(reason("MKAY", "HHEC", Some("HHECC")), Reason::LabelLength);
        assert_eq!(reason("MKAY", "HHZC", None), Reason::BadLabel);
        assert_eq!(reason("MKAY", "HHEC", Some("HHSC")), Reason::BadLabel);
        assert_eq!(reason("MK3Y", "HHEC", None), Reason::BadSequence);
        assert_eq!(reason("----", "HHEC", None), Reason::EmptySequence);
        assert_eq!(reason("MK", "HH", None), Reason::TooShort);
    }
}
