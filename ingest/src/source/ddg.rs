//! Stability changes. Every source becomes `ΔG_mutant − ΔG_wild-type of folding` in kcal/mol, positive = destabilising,
//! at a 1-based position of the stored sequence:
//!
//! | source | its sign | its position |
//! |---|---|---|
//! | PROSTATA (S2648, S3421, Ssym, mega-scale) | negative = destabilising | 0-based in `wt_seq` |
//! | FireProtDB (ThermoMPNN's CSV) | positive = destabilising | `pdb_position`, 0-based in `pdb_sequence` |

use crate::Error;
use crate::claim::{Claim, Ddg};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Header, Parsed, Row, Sink, csv_fields, residue_columns};

/// Largest change that is believed, kcal/mol.
pub(crate) const LARGEST_KCAL: f64 = 25.0;
/// The twenty residues that a mutation may take out or put in.
pub(crate) const STANDARD: &str = "ACDEFGHIKLMNPQRSTVWY";

/// Reads `wt_seq,mut_seq,ddg,pdb_id[,reverse],mut_info,pos`. Rows with `reverse` = True are the same measurement written
/// backwards by the publisher: they are turned forward again, so that they merge with it.
pub(crate) fn read_prostata(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const NEEDED: [&str; 5] = ["wt_seq", "mut_seq", "ddg", "pdb_id", "pos"];
    let header =
        Header::read(&mut lines, ',', &NEEDED, "PROSTATA's CSV was expected; FireProtDB is kind `fireprot`")?;
    sink.rows(lines, &header, |text| prostata(context, &Row::new(&header, csv_fields(text)?)?))
}

fn prostata(context: &Context, row: &Row<'_>) -> Result<Parsed, Fault> {
    let is_reverse = row.get("reverse").eq_ignore_ascii_case("true");
    let (wild, mutant) = if is_reverse { ("mut_seq", "wt_seq") } else { ("wt_seq", "mut_seq") };
    let (wild, mutant) = (row.get(wild).to_ascii_uppercase(), row.get(mutant).to_ascii_uppercase());
    let ddg_kcal = if is_reverse { row.number("ddg")? } else { -row.number("ddg")? };
    let position = whole(row, "pos")?;
    let (wild_letters, mutant_letters): (Vec<char>, Vec<char>) =
        (wild.chars().collect(), mutant.chars().collect());
    let (Some(&from), Some(&to)) = (wild_letters.get(position), mutant_letters.get(position)) else {
        // An empty sequence is told apart from a position outside it.
        context.protein(&wild)?;
        return Err(Fault::new(
            Reason::MutationMismatch,
            format!("position {} is outside the sequence", position + 1),
        ));
    };
    if wild_letters.len() != mutant_letters.len() {
        return Err(Fault::new(
            Reason::MutationMismatch,
            format!("{} and {} residues", wild_letters.len(), mutant_letters.len()),
        ));
    }
    let other =
        wild_letters.iter().zip(&mutant_letters).enumerate().find(|(at, (a, b))| a != b && *at != position);
    if let Some((at, _)) = other {
        return Err(Fault::new(
            Reason::MutationMismatch,
            format!("the sequences differ at position {} too", at + 1),
        ));
    }
    // `A13V` in the numbering of the structure: its letters are those of the columns as they stand in the file.
    let named = row.get("mut_info");
    let (first, last) = if is_reverse { (to, from) } else { (from, to) };
    let agrees = named.is_empty() || named.starts_with(first) && named.ends_with(last);
    if !agrees {
        let detail = format!(
            "mut_info is {named:?}, the sequences have {first} and {last} at position {}",
            position + 1
        );
        return Err(Fault::new(Reason::MutationMismatch, detail));
    }
    let change = Change { wild, position, from, to, ddg_kcal };
    change.claim(context, row.get("pdb_id"))
}

/// Reads FireProtDB's columns as ThermoMPNN wrote them.
pub(crate) fn read_fireprot(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const NEEDED: [&str; 6] = ["wild_type", "mutation", "ddG", "pdb_id", "pdb_position", "pdb_sequence"];
    let header = Header::read(
        &mut lines,
        ',',
        &NEEDED,
        "ThermoMPNN's FireProtDB CSV was expected; PROSTATA's is kind `ddg_csv`",
    )?;
    sink.rows(lines, &header, |text| fireprot(context, &Row::new(&header, csv_fields(text)?)?))
}

fn fireprot(context: &Context, row: &Row<'_>) -> Result<Parsed, Fault> {
    let ddg_kcal = row.number("ddG")?;
    let position = whole(row, "pdb_position")?;
    let letter = |name: &str| {
        let text = row.get(name).to_ascii_uppercase();
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => Ok(letter),
            _ => Err(Fault::new(Reason::BadMutation, format!("{name} is {text:?}"))),
        }
    };
    let (from, to) = (letter("wild_type")?, letter("mutation")?);
    let change = Change { wild: row.get("pdb_sequence").to_ascii_uppercase(), position, from, to, ddg_kcal };
    change.claim(context, row.get("pdb_id"))
}

/// A 0-based position.
fn whole(row: &Row<'_>, name: &str) -> Result<usize, Fault> {
    let value = row.number(name)?;
    if value < 0.0 || value.fract() != 0.0 || value > 1e6 {
        return Err(Fault::new(Reason::Malformed, format!("{name} {value} is no position")));
    }
    Ok(value as usize)
}

/// One point mutation in the conventions of the table, but for the position.
pub(crate) struct Change {
    pub(crate) wild: String,
    /// 0-based in `wild` as given.
    pub(crate) position: usize,
    pub(crate) from: char,
    pub(crate) to: char,
    pub(crate) ddg_kcal: f64,
}

impl Change {
    /// The claim of this change.
    pub(crate) fn claim(self, context: &Context, structure: &str) -> Result<Parsed, Fault> {
        let Self { wild, position, from, to, ddg_kcal } = self;
        let (sequence, kept) = residue_columns(&wild)?;
        let protein = context.bounded(sequence)?;
        let found = wild.chars().nth(position);
        let stored = kept.iter().position(|&at| at == position);
        let (Some(stored), true) = (stored, found == Some(from)) else {
            let detail =
                format!("{from} expected at position {}, found {}", position + 1, found.unwrap_or('-'));
            return Err(Fault::new(Reason::MutationMismatch, detail));
        };
        if from == to || !STANDARD.contains(to) || !STANDARD.contains(from) {
            return Err(Fault::new(Reason::BadMutation, format!("{from}{}{to}", stored + 1)));
        }
        if ddg_kcal.abs() > LARGEST_KCAL {
            return Err(Fault::new(
                Reason::OutOfRange,
                format!("{ddg_kcal} kcal/mol, at most {LARGEST_KCAL}"),
            ));
        }
        let ddg = Ddg {
            wild_type: from.into(),
            position: u32::try_from(stored + 1).expect("a sequence is at most max_length long"),
            mutant: to.into(),
            // + 0.0 makes the 0.0 of −0.0.
            ddg_kcal: ddg_kcal as f32 + 0.0,
            structure: structure.into(),
        };
        Ok(Claim { ddg: Some(ddg.into()), ..Claim::of(protein, "") }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    fn change(
        read: fn(&Context, &Row<'_>) -> Result<Parsed, Fault>,
        header: &str,
        line: &str,
    ) -> Result<(String, Ddg), Reason> {
        let header = Header::of(header, ',');
        let row = Row::new(&header, csv_fields(line).unwrap()).map_err(|f| f.reason)?;
        let claim = read(&test_context(Kind::DdgCsv), &row).map_err(|f| f.reason)?.claims.remove(0);
        Ok((claim.sequence.unwrap(), *claim.ddg.unwrap()))
    }

    #[test]
    fn prostata_turns_sign_and_position() {
        let header = "wt_seq,mut_seq,ddg,pdb_id,reverse,mut_info,pos";
        let (sequence, forward) = change(prostata, header, "MKTAY,MKGAY,-2.4,1ABC,False,T9G,2").unwrap();
        assert_eq!((sequence.as_str(), forward.position, forward.ddg_kcal), ("MKTAY", 3, 2.4));
        assert_eq!((forward.wild_type.as_str(), forward.mutant.as_str()), ("T", "G"));
        // The publisher's backward copy is the same measurement.
        assert_eq!(change(prostata, header, "MKGAY,MKTAY,2.4,1ABC,True,G9T,2").unwrap(), (sequence, forward));
        let reason = |line: &str| change(prostata, header, line).unwrap_err();
        assert_eq!(reason("MKTAY,MKGAV,-2.4,1ABC,False,T9G,2"), Reason::MutationMismatch);
        assert_eq!(reason("MKTAY,MKGA,-2.4,1ABC,False,T9G,2"), Reason::MutationMismatch);
        assert_eq!(reason("MKTAY,MKGAY,-2.4,1ABC,False,S9G,2"), Reason::MutationMismatch);
        assert_eq!(reason("MKTAY,MKGAY,-2.4,1ABC,False,T9G,7"), Reason::MutationMismatch);
        assert_eq!(reason("MKTAY,MKGAY,-2.4,1ABC,False,T9G,3"), Reason::MutationMismatch);
        assert_eq!(reason("MKTAY,MKTAY,-2.4,1ABC,False,T9T,2"), Reason::BadMutation);
        assert_eq!(reason("MKTAY,MKXAY,-2.4,1ABC,False,T9X,2"), Reason::BadMutation);
        assert_eq!(reason("MKTAY,MKGAY,,1ABC,False,T9G,2"), Reason::MissingValue);
        assert_eq!(reason("MKTAY,MKGAY,nan,1ABC,False,T9G,2"), Reason::MissingValue);
        assert_eq!(reason("MKTAY,MKGAY,inf,1ABC,False,T9G,2"), Reason::OutOfRange);
        assert_eq!(reason("MKTAY,MKGAY,-26,1ABC,False,T9G,2"), Reason::OutOfRange);
        assert_eq!(reason("MKTAY,MKGAY,x,1ABC,False,T9G,2"), Reason::Malformed);
        assert_eq!(reason(",,-2.4,1ABC,False,T9G,2"), Reason::EmptySequence);
        assert_eq!(reason("MKTAY,MKGAY,-2.4"), Reason::Malformed);
    }

    #[test]
    fn fireprot_keeps_the_sign() {
        let header = "wild_type,mutation,ddG,pdb_id,pdb_position,pdb_sequence";
        let (sequence, read) = change(fireprot, header, "T,G,1.5,\"1ABC|2ABC\",3,mk-tay").unwrap();
        assert_eq!((sequence.as_str(), read.position, read.ddg_kcal), ("MKTAY", 3, 1.5));
        assert_eq!(read.structure, "1ABC|2ABC");
        let reason = |line: &str| change(fireprot, header, line).unwrap_err();
        assert_eq!(reason("A,G,1.5,1ABC,2,MKTAY"), Reason::MutationMismatch);
        assert_eq!(reason("T,,1.5,1ABC,2,MKTAY"), Reason::BadMutation);
        assert_eq!(reason("T,G,1.5,1ABC,-2,MKTAY"), Reason::Malformed);
        assert_eq!(reason("T,G,1.5,1ABC,2.5,MKTAY"), Reason::Malformed);
    }
}
