//! STRING's actions (`protein.actions.*.txt`, as in SHS27k and SHS148k): tab-separated with a header, one line for each
//! direction and mode of an interaction. All are interactions, so negatives must be drawn elsewhere.

use crate::Error;
use crate::claim::{Claim, Pair};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Header, Parsed, Row, Sink};

/// What STRING calls the modes of an action.
const MODES: [&str; 7] =
    ["activation", "binding", "catalysis", "expression", "inhibition", "ptmod", "reaction"];

/// Reads actions. Their proteins are looked up later, by a join with the dictionary.
pub(crate) fn read_actions(_: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const HINT: &str = "STRING's actions file was expected; pairs with labels are kind `ppi_pairs`";
    let header = Header::read(&mut lines, '\t', &["item_id_a", "item_id_b", "mode", "score"], HINT)?;
    sink.rows(lines, &header, |text| {
        parse(&Row::new(&header, text.split('\t').map(|f| f.trim().to_owned()).collect())?)
    })
}

fn parse(row: &Row<'_>) -> Result<Parsed, Fault> {
    let (id_a, id_b, mode) = (row.get("item_id_a"), row.get("item_id_b"), row.get("mode"));
    if id_a.is_empty() || id_b.is_empty() {
        return Err(Fault::new(Reason::Malformed, "an id is empty"));
    }
    if id_a == id_b {
        return Err(Fault::new(Reason::SelfPair, format!("{id_a} with itself")));
    }
    if !MODES.contains(&mode) {
        return Err(Fault::new(Reason::BadLabel, format!("mode {mode:?}; STRING has {}", MODES.join(", "))));
    }
    let score = row.number("score")?;
    if !(0.0..=1000.0).contains(&score) {
        return Err(Fault::new(Reason::OutOfRange, format!("score {score} is not in 0-1000")));
    }
    let pair = Pair { id_a: id_a.into(), id_b: id_b.into(), label: true, mode: mode.into() };
    Ok(Claim { ppi: Some(pair.into()), ..Claim::default() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_interactions() {
        let header =
            Header::of("item_id_a\titem_id_b\tmode\taction\tis_directional\ta_is_acting\tscore", '\t');
        let read = |row: &str| {
            let row = Row::new(&header, row.split('\t').map(str::to_owned).collect())?;
            parse(&row).map(|p| p.claims[0].ppi.clone().unwrap())
        };
        let pair = read("9606.A\t9606.B\tptmod\t\tt\tf\t900").unwrap();
        assert_eq!((pair.id_a.as_str(), pair.label, pair.mode.as_str()), ("9606.A", true, "ptmod"));
        let reason = |row| read(row).unwrap_err().reason;
        assert_eq!(reason("9606.A\t9606.A\tptmod\t\tt\tf\t900"), Reason::SelfPair);
        assert_eq!(reason("9606.A\t9606.B\tfriends\t\tt\tf\t900"), Reason::BadLabel);
        assert_eq!(reason("9606.A\t9606.B\tptmod\t\tt\tf\t1001"), Reason::OutOfRange);
        assert_eq!(reason("9606.A\t9606.B\tptmod\t\tt\tf\t"), Reason::MissingValue);
        assert_eq!(reason("9606.A\t\tptmod\t\tt\tf\t1"), Reason::Malformed);
        assert_eq!(reason("9606.A\t9606.B"), Reason::Malformed);
    }
}
