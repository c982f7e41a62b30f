//! Stability changes whose wild type stands elsewhere: STRUM's Q3421 (no sequences at all) and the folding free energies
//! of bioemu-benchmarks (the mutant's sequence only). Conventions as in [`super::ddg`].

use crate::Error;
use crate::claim::{Claim, Ddg, Member};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::ddg::{Change, LARGEST_KCAL, STANDARD};
use crate::source::{Context, Header, Parsed, Row, Sink, csv_fields, number};

/// Reads Q3421: `PDB_ID Chain Pos(PDB) Wildtype mutant ddG T pH Position(I-TASSER)`, blanks between, two lines of
/// header; negative = destabilising, the last column is the 1-based position. The sequence is that of a source of
/// kind `ddg_csv` which names the same structure.
pub(crate) fn read_strum(mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let first = lines.next()?.map(|l| l.text).unwrap_or_default();
    if !first.trim_start().starts_with("PDB_ID") {
        return Err(Error::Header {
            path: lines.path().into(),
            line: 1,
            missing: "PDB_ID".into(),
            got: first.chars().take(200).collect(),
            hint: "STRUM's table Q3421.txt was expected".into(),
        });
    }
    sink.records(|| lines.next_but(|text| text.starts_with("---")), |line| strum(&line.text))
}

fn strum(text: &str) -> Result<Parsed, Fault> {
    let fields: Vec<&str> = text.split_whitespace().collect();
    let &[structure, chain, _, from, to, value, _, _, position] = &fields[..] else {
        return Err(Fault::new(Reason::Malformed, format!("{} columns, the table has 9", fields.len())));
    };
    let ddg_kcal = -number("ddG", value)?;
    let position: u32 = position
        .parse()
        .ok()
        .filter(|&p| p > 0)
        .ok_or_else(|| Fault::new(Reason::Malformed, format!("{position:?} is no position")))?;
    let is_residue = |text: &str| text.len() == 1 && STANDARD.contains(text);
    if from == to || !is_residue(from) || !is_residue(to) {
        return Err(Fault::new(Reason::BadMutation, format!("{from}{position}{to}")));
    }
    if ddg_kcal.abs() > LARGEST_KCAL {
        return Err(Fault::new(Reason::OutOfRange, format!("{ddg_kcal} kcal/mol, at most {LARGEST_KCAL}")));
    }
    let structure = format!("{structure}{chain}");
    let ddg = Ddg {
        wild_type: from.into(),
        position,
        mutant: to.into(),
        // No negative zero: it would pass for another value.
        ddg_kcal: ddg_kcal as f32 + 0.0,
        structure: structure.clone(),
    };
    Ok(Claim { accession: structure, ddg: Some(ddg.into()), ..Claim::default() }.into())
}

/// Reads `name,name_wt,mutant,dg_exp,ddg_exp,…,sequence`: `ddg_exp` = ΔG(mutant) − ΔG(wild type), positive =
/// destabilising; a mutant is named `<wild type>__I23L`, its sequence is the mutant's, positions are 1-based. Rows of
/// wild types give their protein.
pub(crate) fn read_bioemu(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const NEEDED: [&str; 5] = ["name", "name_wt", "mutant", "ddg_exp", "sequence"];
    let header = Header::read(&mut lines, ',', &NEEDED, "system_info.csv of bioemu-benchmarks was expected")?;
    sink.rows(lines, &header, |text| bioemu(context, &Row::new(&header, csv_fields(text)?)?))
}

fn bioemu(context: &Context, row: &Row<'_>) -> Result<Parsed, Fault> {
    let (name, wild_name) = (row.get("name"), row.get("name_wt"));
    let sequence = row.get("sequence").trim().to_ascii_uppercase();
    match row.get("mutant").to_ascii_lowercase().as_str() {
        "false" => {
            let protein = context.protein(&sequence)?;
            let member = Some(Member { is_reference: false });
            return Ok(Claim { member, ..Claim::of(protein, wild_name) }.into());
        }
        "true" => {}
        other => return Err(Fault::new(Reason::BadLabel, format!("mutant is {other:?}"))),
    }
    let ddg_kcal = row.number("ddg_exp")?;
    let named = name.strip_prefix(wild_name).and_then(|rest| rest.strip_prefix("__")).unwrap_or("");
    let bad = || Fault::new(Reason::BadMutation, format!("{name:?} names no single change of {wild_name:?}"));
    let (first, rest) = named.split_at_checked(1).ok_or_else(bad)?;
    let (position, last) = rest.split_at_checked(rest.len().saturating_sub(1)).ok_or_else(bad)?;
    let position: usize = position.parse().ok().filter(|&p| p > 0).ok_or_else(bad)?;
    let (Some(from), Some(to)) = (first.chars().next(), last.chars().next()) else { return Err(bad()) };
    let mut wild: Vec<char> = sequence.chars().collect();
    match wild.get_mut(position - 1) {
        Some(found) if *found == to => *found = from,
        found => {
            let detail = format!("{to} expected at position {position}, found {:?}", found.map(|c| *c));
            return Err(Fault::new(Reason::MutationMismatch, detail));
        }
    }
    let change = Change { wild: wild.into_iter().collect(), position: position - 1, from, to, ddg_kcal };
    change.claim(context, wild_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    #[test]
    fn strum_turns_the_sign() {
        let read = |text: &str| strum(text).map(|p| p.claims[0].ddg.clone().unwrap()).map_err(|f| f.reason);
        let ddg = read("1A23\tA\t33\tC\tS\t-1.1\t25\t7.5\t33\t\t").unwrap();
        assert_eq!((ddg.structure.as_str(), ddg.position, ddg.ddg_kcal), ("1A23A", 33, 1.1));
        assert_eq!(read("1A23 A 33 C C -1.1 25 7.5 33"), Err(Reason::BadMutation));
        assert_eq!(read("1A23 A 33 C X -1.1 25 7.5 33"), Err(Reason::BadMutation));
        assert_eq!(read("1A23 A 33 C S -99 25 7.5 33"), Err(Reason::OutOfRange));
        assert_eq!(read("1A23 A 33 C S -1.1 25 7.5 0"), Err(Reason::Malformed));
        assert_eq!(read("1A23 A 33 C S"), Err(Reason::Malformed));
        assert_eq!(read("1A23 A 33 C S nan 25 7.5 33"), Err(Reason::MissingValue));
    }

    #[test]
    fn bioemu_restores_the_wild_type() {
        let header = Header::of("name,name_wt,mutant,dg_exp,ddg_exp,sequence", ',');
        let read = |text: &str| {
            let row = Row::new(&header, csv_fields(text)?)?;
            bioemu(&test_context(Kind::Bioemu), &row).map(|mut p| p.claims.remove(0))
        };
        let claim = read("1EM7_L7A__I3L,1EM7_L7A,True,-1,1.5,MKLTAY").unwrap();
        let ddg = claim.ddg.unwrap();
        assert_eq!(claim.sequence.as_deref(), Some("MKITAY"));
        assert_eq!(
            (ddg.wild_type.as_str(), ddg.position, ddg.mutant.as_str(), ddg.ddg_kcal),
            ("I", 3, "L", 1.5)
        );
        assert!(read("1AOY,1AOY,False,-1,0,MKITAY").unwrap().member.is_some());
        let reason = |text| read(text).unwrap_err().reason;
        assert_eq!(reason("1AOY__I3L_A1C,1AOY,True,-1,1.5,MKLTAY"), Reason::BadMutation);
        assert_eq!(reason("1AOY__,1AOY,True,-1,1.5,MKLTAY"), Reason::BadMutation);
        assert_eq!(reason("1AOY__I0L,1AOY,True,-1,1.5,MKLTAY"), Reason::BadMutation);
        assert_eq!(reason("1AOY__I3Ä,1AOY,True,-1,1.5,MKLTAY"), Reason::BadMutation);
        assert_eq!(reason("1AOY__I2L,1AOY,True,-1,1.5,MKLTAY"), Reason::MutationMismatch);
        assert_eq!(reason("1AOY__F3F,1AOY,True,-1,1.5,MKFTAY"), Reason::BadMutation);
        assert_eq!(reason("1AOY__I3L,1AOY,maybe,-1,1.5,MKLTAY"), Reason::BadLabel);
        assert_eq!(reason("1AOY__I3L,1AOY,True,-1,,MKLTAY"), Reason::MissingValue);
    }
}
