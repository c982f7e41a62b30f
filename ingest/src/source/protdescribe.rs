//! ProtDescribe (ProtST's `uniprot_sprot_filtered.tsv`): six columns by name, their cells with or without the prefixes
//! `PROTEIN NAME:`, `FUNCTION:`, `SUBCELLULAR LOCATION:`, `SIMILARITY:`.

use crate::Error;
use crate::claim::{Claim, Fact};
use crate::clean;
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Header, Parsed, Row, Sink};

/// Column, prefix, task, and whether one word is an answer.
const COLUMNS: [(&str, &str, &str, bool); 4] = [
    ("ProteinName", "PROTEIN NAME:", "name", true),
    ("Function", "FUNCTION:", "function", false),
    ("SubcellularLocation", "SUBCELLULAR LOCATION:", "location", false),
    ("Similarity", "SIMILARITY:", "similarity", false),
];

/// Reads one file.
pub(crate) fn read(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const NEEDED: [&str; 6] =
        ["EntryName", "ProteinName", "Function", "SubcellularLocation", "Similarity", "Sequence"];
    let header = Header::read(&mut lines, '\t', &NEEDED, "the TSV of ProtST's ProtDescribe was expected")?;
    sink.rows(lines, &header, |text| {
        parse(context, &Row::new(&header, text.split('\t').map(str::to_owned).collect())?)
    })
}

fn parse(context: &Context, row: &Row<'_>) -> Result<Parsed, Fault> {
    let protein = context.protein(row.get("Sequence"))?;
    let (mut parsed, mut first_fault) = (Parsed::default(), None);
    for (column, prefix, task, may_be_one_word) in COLUMNS {
        let cell = row.get(column).trim();
        let raw = cell.strip_prefix(prefix).unwrap_or(cell).trim();
        // Most entries lack one or the other: an empty cell is no fault.
        if raw.is_empty() {
            continue;
        }
        let text = clean::without_codes(raw);
        let checked = clean::worth_keeping(&text);
        if let Err(fault) = checked
            && !(may_be_one_word && fault.reason == Reason::SingleWord)
        {
            let fault = Fault::new(fault.reason, format!("{task}: {}", fault.detail));
            first_fault.get_or_insert(fault.clone());
            parsed.dropped.push((fault, cell.to_owned()));
            continue;
        }
        let fact = Fact::new(&protein.id, task, "", raw, text);
        parsed.claims.push(Claim {
            fact: Some(fact.into()),
            ..Claim::of(protein.clone(), row.get("EntryName").trim())
        });
    }
    if parsed.claims.is_empty() {
        return Err(first_fault.unwrap_or_else(|| Fault::new(Reason::EmptyText, "all cells are empty")));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::{facts, test_context};

    #[test]
    fn prefixes_and_codes_go() {
        let header =
            Header::of("EntryName\tProteinName\tFunction\tSubcellularLocation\tSimilarity\tSequence", '\t');
        let read = |row: &str| {
            let row = Row::new(&header, row.split('\t').map(str::to_owned).collect())?;
            parse(&test_context(Kind::Protdescribe), &row)
        };
        let parsed = read(
            "A_B\tPROTEIN NAME: Kinase\tFUNCTION: Binds zinc {ECO:0000255|HAMAP-Rule:MF_1}\tSUBCELLULAR LOCATION: Cytoplasm\t\tMKTAY",
        )
        .unwrap();
        let facts = facts(&parsed);
        assert_eq!(facts, [("name", "Kinase"), ("function", "Binds zinc")]);
        assert_eq!(parsed.dropped[0].0.reason, Reason::SingleWord);
        assert_eq!(read("A_B\t\t\t\t\tMKTAY").unwrap_err().reason, Reason::EmptyText);
        assert_eq!(read("A_B\t\t\tGolgi\t\tMKTAY").unwrap_err().reason, Reason::SingleWord);
        assert_eq!(read("A_B\tx\tMKTAY").unwrap_err().reason, Reason::Malformed);
    }
}
