//! Swiss-Prot as FASTA (what the header says) and as the table that uniprot.org exports (columns by name, of any
//! release).

use crate::Error;
use crate::clean;
use crate::fasta::{Entries, Entry};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::swissprot::Statements;
use crate::source::{Context, Header, Parsed, Row, Sink};

/// Reads FASTA: `>sp|P12345|NAME_SPECIES Full name OS=Organism OX=taxon GN=gene PE=1 SV=2`
/// (<https://www.uniprot.org/help/fasta-headers>).
pub(crate) fn read_fasta(context: &Context, lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    sink.entries(Entries::open(lines)?, |entry| fasta(context, entry))
}

fn fasta(context: &Context, entry: &Entry) -> Result<Parsed, Fault> {
    let mut ids = entry.id().split('|');
    let (Some("sp" | "tr"), Some(accession), Some(_)) = (ids.next(), ids.next(), ids.next()) else {
        let detail = format!("{:?} is no `sp|accession|name`", entry.id());
        return Err(Fault::new(Reason::Malformed, detail));
    };
    let mut says = Statements::new(context, context.protein(&entry.text)?, [accession]);
    let words = entry.header.split_once(char::is_whitespace).map_or("", |(_, words)| words.trim());
    let mut fields: Vec<(&str, String)> = vec![("", String::new())];
    for word in words.split_whitespace() {
        let key = ["OS=", "OX=", "GN=", "PE=", "SV="].into_iter().find(|key| word.starts_with(key));
        if let Some(key) = key {
            fields.push((key, word[key.len()..].to_owned()));
        } else if let Some((_, text)) = fields.last_mut() {
            text.push_str(if text.is_empty() { "" } else { " " });
            text.push_str(word);
        }
    }
    for (task, key) in [("name", ""), ("organism", "OS="), ("gene", "GN=")] {
        let text = fields.iter().find(|(k, _)| *k == key).map_or("", |(_, text)| text);
        // A gene without a name is written `GN=-`.
        if text != "-" {
            says.word(task, text, clean::fold(text).into());
        }
    }
    Ok(says.parsed)
}

/// What the columns become: their names in the releases before and after 2022, the topic of the flat file.
const COMMENTS: [(&[&str], &str); 10] = [
    (&["Function [CC]"], "FUNCTION"),
    (&["Subunit structure", "Subunit structure [CC]"], "SUBUNIT"),
    (&["Subcellular location [CC]"], "SUBCELLULAR LOCATION"),
    (&["Post-translational modification"], "PTM"),
    (&["Involvement in disease"], "DISEASE"),
    (&["Induction"], "INDUCTION"),
    (&["Tissue specificity"], "TISSUE SPECIFICITY"),
    (&["Sequence similarities"], "SIMILARITY"),
    (&["Domain [CC]"], "DOMAIN"),
    (&["Catalytic activity"], "CATALYTIC ACTIVITY"),
];

/// Reads the table. `Entry` and `Sequence` must be there; STRING's ids are names of the protein, too.
pub(crate) fn read_tsv(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const HINT: &str =
        "a tab-separated export of uniprot.org was expected, with the columns Entry and Sequence";
    let header = Header::read(&mut lines, '\t', &["Entry", "Sequence"], HINT)?;
    sink.rows(lines, &header, |text| {
        table_row(context, &Row::new(&header, text.split('\t').map(str::to_owned).collect())?)
    })
}

fn table_row(context: &Context, row: &Row<'_>) -> Result<Parsed, Fault> {
    let any = |names: &[&str]| names.iter().map(|n| row.get(n).trim()).find(|t| !t.is_empty()).unwrap_or("");
    let list = |text: &'static [&'static str]| any(text).split(';').map(str::trim).filter(|t| !t.is_empty());
    let accession = row.get("Entry").trim();
    if accession.is_empty() {
        return Err(Fault::new(Reason::Malformed, "the entry has no accession"));
    }
    let names = list(&["Cross-reference (STRING)", "STRING"]);
    let mut says = Statements::new(
        context,
        context.protein(row.get("Sequence"))?,
        std::iter::once(accession).chain(names),
    );
    let name = any(&["Protein names"]);
    // "Full name (EC 1.1.1.1) (Other name)": the first is the recommended one.
    says.word("name", name, clean::fold(name.split(" (").next().unwrap_or(name)).into());
    let ec: Vec<&str> = list(&["EC number"]).collect();
    says.word("ec", any(&["EC number"]), ec.join("; "));
    let organism = any(&["Organism"]);
    says.word("organism", organism, clean::fold(organism).into());
    let gene = any(&["Gene names  (primary )", "Gene Names (primary)", "Gene names", "Gene Names"]);
    says.word("gene", gene, gene.split([' ', ';']).next().unwrap_or(gene).to_owned());
    for (columns, topic) in COMMENTS {
        let text = any(columns);
        if !text.is_empty() {
            says.comment(topic, text.strip_prefix(topic).and_then(|t| t.strip_prefix(": ")).unwrap_or(text));
        }
    }
    let keywords: Vec<&str> = list(&["Keywords"]).collect();
    says.word("keyword", any(&["Keywords"]), keywords.join("; "));
    for term in list(&["Gene ontology IDs", "Gene Ontology IDs"]) {
        says.annotate(term, "", "", term);
    }
    Ok(says.parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::{facts, test_context};

    fn entry(header: &str) -> Entry {
        Entry { line: 1, header: header.into(), text: "MKTAYIA".into(), fault: None }
    }

    #[test]
    fn headers_say_name_organism_and_gene() {
        let context = test_context(Kind::SwissprotFasta);
        let header = ">sp|X0X0X0|ABC_TESTO Imaginary kinase 3 (fragment) OS=Testus organismus (strain A / B) OX=9 GN=abc D PE=1 SV=2";
        let parsed = fasta(&context, &entry(header)).unwrap();
        let want = [
            ("name", "Imaginary kinase 3 (fragment)"),
            ("organism", "Testus organismus (strain A / B)"),
            ("gene", "abc D"),
        ];
        assert_eq!(facts(&parsed), want);
        assert_eq!(parsed.claims[0].accession, "X0X0X0");
        let bare = fasta(&context, &entry(">tr|X1|Y Name GN=- OS=T")).unwrap();
        assert_eq!(facts(&bare), [("name", "Name"), ("organism", "T")]);
        assert_eq!(fasta(&context, &entry(">X0X0X0 name")).unwrap_err().reason, Reason::Malformed);
    }

    #[test]
    fn columns_of_either_release() {
        let context = test_context(Kind::SwissprotTsv);
        let header = Header::of(
            "Entry\tSequence\tProtein names\tFunction [CC]\tSubunit structure [CC]\tGene Ontology IDs\tKeywords\tSTRING",
            '\t',
        );
        let row = "X0\tMKTAYIA\tImaginary kinase (EC 2.7.1.1) (Other)\tFUNCTION: Binds nothing {ECO:0000269|PubMed:1}.\tSUBUNIT: Monomer.\tGO:0000001; GO:0000002\tA; B c;\t4932.Y1;4932.Y2;";
        let row = Row::new(&header, row.split('\t').map(str::to_owned).collect()).unwrap();
        let parsed = table_row(&context, &row).unwrap();
        assert_eq!(
            facts(&parsed),
            [("name", "Imaginary kinase"), ("function", "Binds nothing."), ("keyword", "A; B c")]
        );
        let reasons: Vec<Reason> = parsed.dropped.iter().map(|(f, _)| f.reason).collect();
        // Without an ontology the column cannot tell the aspect.
        assert_eq!(reasons, [Reason::SingleWord, Reason::Malformed, Reason::Malformed]);
        let names: Vec<&str> =
            parsed.claims.iter().filter(|c| c.member.is_some()).map(|c| c.accession.as_str()).collect();
        assert_eq!(names, ["X0", "4932.Y1", "4932.Y2"]);
    }
}
