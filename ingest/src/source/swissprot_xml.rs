//! UniProtKB XML (<https://www.uniprot.org/docs/uniprot.xsd>): the same statements as in the flat file.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::Error;
use crate::clean;
use crate::reader::{Input, LONGEST, Line, decode};
use crate::reason::{Fault, Reason};
use crate::source::swissprot::Statements;
use crate::source::{Context, Parsed, Sink};

/// Deepest nesting of an entry.
const DEEPEST: usize = 32;

/// Reads entries, each a record that begins at its tag.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    if !String::from_utf8_lossy(input.head()).contains("<uniprot") {
        return Err(Error::Format {
            path: input.path().into(),
            place: "line 1".into(),
            detail: "no <uniprot> element at the beginning".into(),
            hint: "UniProtKB XML was expected; the flat file is kind `swissprot_dat`".into(),
        });
    }
    let mut entries = Entries { input, line: 1 };
    let next = || {
        let entry = entries.next()?.map(|(number, bytes, length)| {
            let (text, fault) = decode(bytes, length);
            Line { number, text, fault }
        });
        Ok(entry)
    };
    sink.records(next, |entry| parse(context, &entry.text))
}

/// The text from `<entry` to `</entry>`, one at a time.
struct Entries<'a> {
    input: Input<'a>,
    line: u64,
}

impl Entries<'_> {
    /// Line at which the entry begins, its bytes (up to [`LONGEST`]) and its length.
    fn next(&mut self) -> Result<Option<(u64, Vec<u8>, usize)>, Error> {
        const BEGIN: &[u8] = b"<entry";
        const END: &[u8] = b"</entry>";
        let (mut bytes, mut tail, mut length, mut begin) = (Vec::new(), Vec::new(), 0, None);
        loop {
            let chunk = self.input.fill()?;
            if chunk.is_empty() {
                // What follows the last entry is no entry; one that is cut is read as far as it goes.
                return Ok(begin.map(|line| (line, bytes, length)));
            }
            let end = chunk.iter().position(|&b| b == b'>').map_or(chunk.len(), |at| at + 1);
            let piece = &chunk[..end];
            let closed = piece.ends_with(b">");
            self.line += piece.iter().filter(|&&b| b == b'\n').count() as u64;
            tail.extend_from_slice(piece);
            if begin.is_some() {
                bytes.extend_from_slice(&piece[..end.min(LONGEST.saturating_sub(bytes.len()))]);
                length += end;
            }
            self.input.consume(end);
            if closed {
                let tag = tail.iter().rposition(|&b| b == b'<').map_or(&[][..], |at| &tail[at..]);
                let is_begin = tag.starts_with(BEGIN)
                    && tag.get(6).is_some_and(|b| b.is_ascii_whitespace() || *b == b'>');
                if is_begin && begin.is_none() {
                    begin = Some(self.line);
                    bytes = tag.to_vec();
                    length = tag.len();
                } else if tag == END
                    && let Some(line) = begin
                {
                    return Ok(Some((line, bytes, length)));
                }
                tail.clear();
            }
            // A tag without end must not grow: only its last bytes can be those of an end tag.
            if tail.len() > LONGEST {
                tail.drain(..tail.len() - END.len());
            }
        }
    }
}

/// An element with what is in it.
#[derive(Debug, Default)]
struct Node {
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
    children: Vec<Node>,
}

impl Node {
    fn of(tag: &BytesStart<'_>) -> Result<Self, Fault> {
        let name = tag.name().as_ref().to_owned();
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|e| malformed(&e))?;
            let value =
                quick_xml::escape::unescape(&attribute.value).map_err(|e| malformed(&e))?.into_owned();
            attributes.push((attribute.key.as_ref().to_owned(), value));
        }
        Ok(Self { name, attributes, ..Self::default() })
    }

    /// The tree of an entry.
    fn read(text: &str) -> Result<Self, Fault> {
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Self> = vec![Self::default()];
        loop {
            let event = reader.read_event().map_err(|e| malformed(&e))?;
            let done = match event {
                Event::Start(tag) => {
                    open.push(Self::of(&tag)?);
                    if open.len() > DEEPEST {
                        return Err(malformed(&format!("elements nest deeper than {DEEPEST}")));
                    }
                    None
                }
                Event::Empty(tag) => Some(Self::of(&tag)?),
                Event::End(_) => open.pop(),
                Event::Text(words) => {
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&words);
                    }
                    None
                }
                Event::GeneralRef(name) => {
                    let text = format!("&{};", &*name);
                    let letter = quick_xml::escape::unescape(&text).map_err(|e| malformed(&e))?;
                    if let Some(node) = open.last_mut() {
                        node.text.push_str(&letter);
                    }
                    None
                }
                Event::Eof => break,
                _ => None,
            };
            if let (Some(node), Some(parent)) = (done, open.last_mut()) {
                parent.children.push(node);
            }
        }
        let whole = open.len() == 1;
        let entry = open.into_iter().next().and_then(|root| root.children.into_iter().next());
        entry.filter(|_| whole).ok_or_else(|| malformed(&"the file ends inside the entry"))
    }

    fn all<'n>(&'n self, name: &'n str) -> impl Iterator<Item = &'n Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    fn first(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, name| node.children.iter().find(|child| child.name == *name))
    }

    fn attribute(&self, name: &str) -> &str {
        self.attributes.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn property(&self, name: &str) -> &str {
        self.all("property").find(|p| p.attribute("type") == name).map_or("", |p| p.attribute("value"))
    }
}

fn malformed(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(Reason::Malformed, error.to_string())
}

/// Statements of one entry.
fn parse(context: &Context, text: &str) -> Result<Parsed, Fault> {
    let entry = Node::read(text)?;
    let accessions: Vec<&str> = entry.all("accession").map(|a| a.text.trim()).collect();
    if accessions.is_empty() {
        return Err(malformed(&"the entry has no accession"));
    }
    let sequence = entry.first(&["sequence"]).ok_or_else(|| malformed(&"the entry has no sequence"))?;
    let mut says = Statements::new(context, context.protein(&sequence.text)?, accessions);
    let codes = |node: &Node| evidence(&entry, node);
    let names = ["recommendedName", "submittedName"];
    if let Some(name) = names.iter().find_map(|kind| entry.first(&["protein", kind, "fullName"])) {
        says.word("name", &format!("{}{}", name.text, codes(name)), clean::fold(&name.text).into());
    }
    let numbers: Vec<&Node> = names
        .iter()
        .filter_map(|kind| entry.first(&["protein", kind]))
        .flat_map(|name| name.all("ecNumber"))
        .collect();
    let raw: Vec<String> = numbers.iter().map(|n| format!("{}{}", n.text, codes(n))).collect();
    let mut numbers: Vec<&str> = numbers.iter().map(|n| n.text.trim()).collect();
    if numbers.is_empty() {
        // Releases before 2012 hold them among the cross-references.
        let enzymes = entry.all("dbReference").filter(|d| d.attribute("type") == "EC");
        numbers.extend(enzymes.map(|d| d.attribute("id")));
    }
    let raw = if raw.is_empty() { numbers.join(" ") } else { raw.join(" ") };
    says.word("ec", &raw, numbers.join("; "));
    let organism = organism(&entry);
    says.word("organism", &organism, organism.clone());
    let gene = entry.first(&["gene"]).and_then(|g| g.all("name").find(|n| n.attribute("type") == "primary"));
    if let Some(gene) = gene {
        says.word("gene", &format!("{}{}", gene.text, codes(gene)), clean::fold(&gene.text).into());
    }
    for comment in entry.all("comment") {
        let topic = comment.attribute("type").to_uppercase();
        let text = comment_text(&entry, comment);
        if !text.is_empty() {
            says.comment(&topic, &text);
        }
    }
    let keywords: Vec<String> =
        entry.all("keyword").map(|k| format!("{}{}", k.text.trim(), codes(k))).collect();
    let keywords = keywords.join("; ");
    says.word("keyword", &keywords, clean::without_codes(&keywords));
    for go in entry.all("dbReference").filter(|d| d.attribute("type") == "GO") {
        let (term, aspect) = (go.attribute("id"), go.property("term").get(..1).unwrap_or(""));
        let written = go.property("evidence");
        let raw = format!("GO; {term}; {}; {written}", go.property("term"));
        says.annotate(term, aspect, go_code(written), &raw);
    }
    Ok(says.parsed)
}

/// Evidence of an element as the flat file writes it: ` {ECO:0000269|PubMed:1}`.
fn evidence(entry: &Node, node: &Node) -> String {
    let code = |key: &str| -> Option<String> {
        let evidence = entry.all("evidence").find(|e| e.attribute("key") == key)?;
        // Releases before 2014 say in words where it is from.
        evidence.attribute("type").strip_prefix("ECO:")?;
        let place = evidence.first(&["source", "dbReference"]);
        let place = place.map(|p| format!("|{}:{}", p.attribute("type"), p.attribute("id")));
        Some(format!("{}{}", evidence.attribute("type"), place.unwrap_or_default()))
    };
    let codes: Vec<String> = node.attribute("evidence").split_whitespace().filter_map(code).collect();
    if codes.is_empty() { String::new() } else { format!(" {{{}}}", codes.join(", ")) }
}

/// `Homo sapiens (Human)`.
fn organism(entry: &Node) -> String {
    let Some(organism) = entry.first(&["organism"]) else { return String::new() };
    let name = |kind| {
        organism.all("name").find(|n| n.attribute("type") == kind).map(|n| clean::fold(&n.text).into_owned())
    };
    let mut text = name("scientific").unwrap_or_default();
    for kind in ["common", "synonym"] {
        if let Some(other) = name(kind) {
            text.push_str(&format!(" ({other})"));
        }
    }
    text
}

/// A comment in the words of the flat file: its text; reactions, locations and diseases have elements of their own.
fn comment_text(entry: &Node, comment: &Node) -> String {
    let said = |node: &Node| format!("{}{}", node.text.trim(), evidence(entry, node));
    let mut parts: Vec<String> = Vec::new();
    if let Some(reaction) = comment.first(&["reaction", "text"]) {
        parts.push(format!("Reaction={}", reaction.text.trim()));
    }
    if let Some(disease) = comment.first(&["disease"]) {
        let of = |name: &str| disease.first(&[name]).map_or("", |n| n.text.trim());
        let number = disease
            .first(&["dbReference"])
            .map_or(String::new(), |d| format!(" [MIM:{}]", d.attribute("id")));
        let codes = evidence(entry, comment);
        parts.push(format!("{} ({}){number}: {}{codes}", of("name"), of("acronym"), of("description")));
    }
    for place in comment.all("subcellularLocation") {
        let names = place
            .children
            .iter()
            .filter(|c| matches!(c.name.as_str(), "location" | "topology" | "orientation"));
        let names: Vec<String> = names.map(said).collect();
        parts.push(format!("{}.", names.join("; ")));
    }
    let has_places = !parts.is_empty();
    for text in comment.all("text") {
        parts.push(if has_places { format!("Note={}", said(text)) } else { said(text) });
    }
    let mut text = parts.join(" ");
    if let (Some(molecule), false) = (comment.first(&["molecule"]), text.is_empty()) {
        text = format!("[{}]: {text}", molecule.text.trim());
    }
    text
}

/// GO's code of an evidence, `IDA`: releases before 2014 write it, later ones its ECO class
/// (<https://github.com/evidenceontology/evidenceontology/blob/master/gaf-eco-mapping.txt>).
fn go_code(evidence: &str) -> &str {
    const CODES: [(&str, &str); 27] = [
        ("0000269", "EXP"),
        ("0000314", "IDA"),
        ("0000353", "IPI"),
        ("0000315", "IMP"),
        ("0000316", "IGI"),
        ("0000270", "IEP"),
        ("0006056", "HTP"),
        ("0007005", "HDA"),
        ("0007001", "HMP"),
        ("0007003", "HGI"),
        ("0007007", "HEP"),
        ("0000318", "IBA"),
        ("0000319", "IBD"),
        ("0000320", "IKR"),
        ("0000321", "IRD"),
        ("0000250", "ISS"),
        ("0000266", "ISO"),
        ("0000247", "ISA"),
        ("0000255", "ISM"),
        ("0000317", "IGC"),
        ("0000245", "RCA"),
        ("0000304", "TAS"),
        ("0000303", "NAS"),
        ("0000305", "IC"),
        ("0000307", "ND"),
        ("0000501", "IEA"),
        ("0007669", "IEA"),
    ];
    match evidence.strip_prefix("ECO:") {
        None => evidence.split(':').next().unwrap_or(""),
        Some(class) => CODES.iter().find(|(eco, _)| *eco == class).map_or(evidence, |(_, code)| code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::{facts, test_context};

    /// The entry of the flat file's test, in the elements of the schema.
    const ENTRY: &str = r#"<entry dataset="Swiss-Prot"><accession>X0X0X0</accession><accession>X1X1X1</accession>
<protein><recommendedName><fullName evidence="1">Imaginary &amp; kinase</fullName><ecNumber evidence="2">2.7.1.1</ecNumber></recommendedName>
<component><recommendedName><fullName>Piece</fullName><ecNumber>9.9.9.9</ecNumber></recommendedName></component></protein>
<gene><name type="primary">abcD</name><name type="ordered locus">MA_1</name></gene>
<organism><name type="scientific">Testus organismus</name><name type="common">Beast</name></organism>
<comment type="function"><text evidence="2">Binds nothing (PubMed:1). Slow.</text></comment>
<comment type="subunit"><text>Monomer.</text></comment>
<comment type="catalytic activity"><reaction evidence="2"><text>ATP + H2O = ADP + phosphate</text><dbReference type="EC" id="1.1.1.1"/></reaction></comment>
<comment type="subcellular location"><subcellularLocation><location evidence="2">Cell membrane</location><topology>Single-pass</topology></subcellularLocation><text>Here and there.</text></comment>
<dbReference type="GO" id="GO:0005737"><property type="term" value="C:cytoplasm"/><property type="evidence" value="ECO:0007669"/></dbReference>
<keyword id="1" evidence="1">ATP-binding</keyword><keyword id="2">Kinase</keyword>
<evidence type="ECO:0000250" key="1"/><evidence type="ECO:0000269" key="2"><source><dbReference type="PubMed" id="1"/></source></evidence>
<sequence length="7">MKTAY
IA</sequence></entry>"#;

    #[test]
    fn an_entry_says_what_the_flat_file_says() {
        let parsed = parse(&test_context(Kind::SwissprotXml), ENTRY).unwrap();
        let facts = facts(&parsed);
        let want = [
            ("name", "Imaginary & kinase"),
            ("ec", "2.7.1.1"),
            ("organism", "Testus organismus (Beast)"),
            ("gene", "abcD"),
            ("function", "Binds nothing. Slow."),
            ("catalytic_activity", "ATP + H2O = ADP + phosphate"),
            ("location", "Cell membrane; Single-pass. Note=Here and there."),
            ("keyword", "ATP-binding; Kinase"),
        ];
        assert_eq!(facts, want);
        let function =
            parsed.claims.iter().filter_map(|c| c.fact.as_ref()).find(|f| f.task == "function").unwrap();
        assert_eq!(function.evidence, ["ECO:0000269"]);
        let go = parsed.claims.iter().find_map(|c| c.go.as_ref()).unwrap();
        assert_eq!((go.term.as_str(), go.aspect.as_str(), go.evidence.as_str()), ("GO:0005737", "C", "IEA"));
        assert_eq!(parsed.claims[0].sequence.as_deref(), Some("MKTAYIA"));
        assert_eq!(parsed.dropped[0].0.reason, Reason::SingleWord);
    }

    #[test]
    fn faults_are_malformed() {
        let reason = |text: &str| parse(&test_context(Kind::SwissprotXml), text).unwrap_err().reason;
        assert_eq!(reason("<entry></entry>"), Reason::Malformed);
        assert_eq!(reason("<entry><accession>X</accession></entry>"), Reason::Malformed);
        assert_eq!(reason("<entry><a></entry>"), Reason::Malformed);
        assert_eq!(reason("<entry><accession>X"), Reason::Malformed);
        assert_eq!(reason(&format!("<entry>{}", "<a>".repeat(40))), Reason::Malformed);
        assert_eq!(reason("<entry><accession>X&nope;</accession></entry>"), Reason::Malformed);
    }
}
