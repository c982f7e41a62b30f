//! What a file is, by its first bytes, where that is beyond doubt: a wrong `kind` is told before thousands of rows are
//! found at fault.

use crate::Error;
use crate::config::Kind;
use crate::reader::Input;

/// Marks at the very beginning of a file, and the kinds that read it.
const BEGINS: [(&str, &[Kind]); 15] = [
    ("ID   ", &[Kind::SwissprotDat]),
    (">sp|", &[Kind::SwissprotFasta, Kind::SsFasta]),
    (">tr|", &[Kind::SwissprotFasta, Kind::SsFasta]),
    ("Entry\t", &[Kind::SwissprotTsv]),
    ("EntryName\tProteinName", &[Kind::Protdescribe]),
    ("PDB_ID Chain", &[Kind::Strum]),
    ("format-version:", &[Kind::Obo]),
    ("!gaf-version", &[Kind::Gaf]),
    ("GENE PRODUCT DB\t", &[Kind::Quickgo]),
    ("item_id_a\titem_id_b", &[Kind::StringActions]),
    ("HEADER    ", &[Kind::Structure, Kind::Predicted]),
    ("ATOM      ", &[Kind::Structure, Kind::Predicted]),
    ("MODEL     ", &[Kind::Structure, Kind::Predicted]),
    ("data_", &[Kind::Structure, Kind::Predicted]),
    ("cath|", &[Kind::CathDomains]),
];

/// Marks within the first line of a table or record.
const LINES: [(&str, &[Kind]); 13] = [
    ("wt_seq,mut_seq,", &[Kind::DdgCsv]),
    (",pdb_sequence", &[Kind::Fireprot]),
    ("name,name_wt,mutant,", &[Kind::Bioemu]),
    ("sst8", &[Kind::SsCsv]),
    ("id,len,input,expected", &[Kind::SsCsv]),
    ("dssp3", &[Kind::SsCsv]),
    ("\"uniprotAccession\"", &[Kind::AfdbPlddt]),
    ("\"negative_labels\"", &[Kind::GoLabels]),
    ("\"coords\"", &[Kind::CathChains]),
    ("\"conversation\"", &[Kind::ProteinLm]),
    ("\"amino_seq\"", &[Kind::Protein2text]),
    ("\"instruction\"", &[Kind::MolInstructions]),
    ("CathDomainList", &[Kind::CathDomains]),
];

/// The kinds that the file may be of, as far as its beginning tells.
fn kinds(head: &[u8]) -> Option<&'static [Kind]> {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches(['\u{feff}', '\r', '\n', ' ']);
    if text.starts_with('<') {
        return text.contains("<uniprot").then_some(&[Kind::SwissprotXml]);
    }
    if let Some((_, kinds)) = BEGINS.iter().find(|(mark, _)| text.starts_with(mark)) {
        return Some(kinds);
    }
    // Lists and records may be laid out over several lines; of tables only the header counts.
    let is_json = text.starts_with(['[', '{']);
    let first = if is_json || text.starts_with('#') { text } else { text.lines().next().unwrap_or("") };
    LINES.iter().find(|(mark, _)| first.contains(mark)).map(|(_, kinds)| *kinds)
}

/// Checks that a file is not plainly of another kind.
///
/// # Errors
/// [`Error::Format`] naming the kind that it is likely to be of.
pub(crate) fn check(kind: Kind, input: &Input<'_>) -> Result<(), Error> {
    let Some(kinds) = kinds(input.head()).filter(|kinds| !kinds.contains(&kind)) else { return Ok(()) };
    let likely: Vec<String> = kinds.iter().map(|kind| format!("`{}`", kind.name())).collect();
    let likely = likely.join(" or ");
    Err(Error::Format {
        path: input.path().into(),
        place: "line 1".into(),
        detail: format!("this is no file of kind `{}`", kind.name()),
        hint: format!("it looks like kind {likely}; check `kind` and `files` of the source"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_tell() {
        let one = |text: &str| kinds(text.as_bytes()).map(|kinds| kinds[0]);
        assert_eq!(one("ID   X_Y  Reviewed; 7 AA.\n"), Some(Kind::SwissprotDat));
        assert_eq!(one("<?xml version='1.0'?>\n<uniprot xmlns='x'>"), Some(Kind::SwissprotXml));
        assert_eq!(one("<html>"), None);
        assert_eq!(one("\u{feff}id,seq,sst8,sst3\n"), Some(Kind::SsCsv));
        assert_eq!(one("[\n  {\n \"instruction\": \"Say.\""), Some(Kind::MolInstructions));
        assert_eq!(one("{\"seq\": \"MK\", \"coords\": {"), Some(Kind::CathChains));
        // A pair file, a dictionary, a list of numbers: nothing that could not be another.
        assert_eq!(one("P1\tP2\t1\n"), None);
        assert_eq!(one(">P1\nMKTAY\n"), None);
    }
}
