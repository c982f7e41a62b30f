//! UniProtKB flat file: entries of two-letter line codes, ended by `//`
//! (<https://web.expasy.org/docs/userman.html>).

use crate::Error;
use crate::claim::{Claim, Fact, Member, Residues};
use crate::clean;
use crate::reader::{LONGEST, Line, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

/// Comment topics that become facts.
const TOPICS: [(&str, &str); 9] = [
    ("FUNCTION", "function"),
    ("SUBUNIT", "subunit"),
    ("SUBCELLULAR LOCATION", "location"),
    ("PTM", "ptm"),
    ("DISEASE", "disease"),
    ("INDUCTION", "induction"),
    ("TISSUE SPECIFICITY", "tissue"),
    ("SIMILARITY", "similarity"),
    ("DOMAIN", "domain"),
];

/// Reads entries, each a record that begins at its ID line.
pub(crate) fn read(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    sink.records(|| entry(&mut lines), |entry| parse(context, &entry.text))
}

/// The lines up to the next `//`.
fn entry(lines: &mut Lines<'_>) -> Result<Option<Line>, Error> {
    let mut entry = Line { number: 0, text: String::new(), fault: None };
    while let Some(line) = lines.next()? {
        if entry.text.is_empty() {
            entry.number = line.number;
        }
        entry.fault = entry.fault.or(line.fault);
        if line.text.trim_end() == "//" {
            return Ok(Some(entry));
        } else if entry.text.len() < LONGEST {
            entry.text.push_str(&line.text);
            entry.text.push('\n');
        } else {
            let detail = format!("the entry is longer than {LONGEST} bytes");
            entry.fault.get_or_insert(Fault::new(Reason::LineTooLong, detail));
        }
    }
    let cut = Fault::new(Reason::Malformed, "the file ends inside the entry: no // line");
    Ok((!entry.text.is_empty()).then(|| Line { fault: entry.fault.or(Some(cut)), ..entry }))
}

/// Statements of one entry.
fn parse(context: &Context, entry: &str) -> Result<Parsed, Fault> {
    let missing = |what: &str| Fault::new(Reason::Malformed, format!("the entry has no {what}"));
    let code = |code: &'static str| {
        entry
            .lines()
            .filter(move |l| l.split_once("   ").is_some_and(|(c, _)| c == code))
            .map(|l| l[5..].trim_end())
    };
    if code("ID").next().is_none() {
        return Err(missing("ID line"));
    }
    let accession_lines = code("AC").collect::<Vec<_>>().join(" ");
    let mut accessions = accession_lines.split(';').map(str::trim).filter(|a| !a.is_empty());
    let primary = accessions.next().ok_or_else(|| missing("AC line"))?;
    if !entry.lines().any(|l| l.starts_with("SQ   ")) {
        return Err(missing("SQ line"));
    }
    let residues: String = entry.lines().skip_while(|l| !l.starts_with("SQ   ")).skip(1).collect();
    let protein = context.protein(&residues.replace(' ', ""))?;

    let mut entry_says = Statements::new(context, protein, std::iter::once(primary).chain(accessions));
    names(&code("DE").collect::<Vec<_>>(), &mut entry_says);
    let organism = code("OS").collect::<Vec<_>>().join(" ");
    entry_says.word("organism", &organism, clean::fold(organism.trim_end_matches('.')).into());
    let gene = code("GN").collect::<Vec<_>>().join(" ");
    // A name may hold a semicolon (`PIP2;8`); what separates fields is followed by a blank.
    if let Some(name) = gene.split("; ").find_map(|part| part.trim().strip_prefix("Name=")) {
        entry_says.word("gene", &gene, clean::without_codes(name.trim_end_matches(';')));
    }
    for (topic, text) in comments(&code("CC").collect::<Vec<_>>()) {
        entry_says.comment(&topic, &text);
    }
    let keywords = code("KW").collect::<Vec<_>>().join(" ");
    entry_says.word("keyword", &keywords, clean::without_codes(keywords.trim_end_matches('.')));
    for line in code("DR") {
        entry_says.cross_reference(line);
    }
    Ok(entry_says.parsed)
}

/// What one entry says, gathered in the spelling of any of UniProt's formats.
pub(crate) struct Statements<'a> {
    context: &'a Context,
    protein: Residues,
    primary: String,
    pub(crate) parsed: Parsed,
}

impl<'a> Statements<'a> {
    /// An entry with its accessions (or other names), the primary one first.
    pub(crate) fn new<'n>(
        context: &'a Context,
        protein: Residues,
        accessions: impl IntoIterator<Item = &'n str>,
    ) -> Self {
        let mut entry = Self { context, protein, primary: String::new(), parsed: Parsed::default() };
        for (nth, accession) in accessions.into_iter().enumerate() {
            if nth == 0 {
                accession.clone_into(&mut entry.primary);
            }
            let member = Some(Member { is_reference: true });
            let claim = Claim { member, ..Claim::of(entry.protein.clone(), accession) };
            entry.parsed.claims.push(claim);
        }
        entry
    }

    /// A statement that may be one word (a name, keywords); nothing if there is no text.
    pub(crate) fn word(&mut self, task: &'static str, raw: &str, text: String) {
        if !raw.trim().is_empty() {
            self.state(task, raw, text, true);
        }
    }

    /// A sentence; one word alone is refused.
    pub(crate) fn sentence(&mut self, task: &'static str, raw: &str, text: String) {
        self.state(task, raw, text, false);
    }

    fn state(&mut self, task: &'static str, raw: &str, text: String, may_be_one_word: bool) {
        let checked = clean::worth_keeping(&text);
        if let Err(fault) = checked
            && !(may_be_one_word && fault.reason == Reason::SingleWord)
        {
            let fault = Fault::new(fault.reason, format!("{task}: {}", fault.detail));
            self.parsed.dropped.push((fault, raw.to_owned()));
            return;
        }
        let fact = Fact::new(&self.protein.id, task, "", raw, text);
        self.parsed
            .claims
            .push(Claim { fact: Some(fact.into()), ..Claim::of(self.protein.clone(), &self.primary) });
    }

    /// A comment under the topic of the flat file, `SUBUNIT`; other topics are passed over.
    pub(crate) fn comment(&mut self, topic: &str, text: &str) {
        if topic == "CATALYTIC ACTIVITY" {
            self.sentence("catalytic_activity", text, clean::without_codes(reaction(text)));
        } else if let Some((_, task)) = TOPICS.iter().find(|(name, _)| *name == topic) {
            self.sentence(task, text, clean::without_codes(text));
        }
    }

    /// `GO; GO:0005737; C:cytoplasm; IEA:UniProtKB-SubCell.`; other databases are passed over.
    fn cross_reference(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("GO; ") else { return };
        let mut fields = rest.trim_end_matches('.').split("; ");
        let (term, name, evidence) =
            (fields.next().unwrap_or(""), fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        self.annotate(term, name.get(..1).unwrap_or(""), evidence.split(':').next().unwrap_or(""), line);
    }

    /// One GO annotation; a bad one is a dropped part with its text.
    pub(crate) fn annotate(&mut self, term: &str, aspect: &str, evidence: &str, raw: &str) {
        match self.context.annotation(term, aspect, evidence) {
            Ok(go) => {
                let claim = Claim { go: Some(go.into()), ..Claim::of(self.protein.clone(), &self.primary) };
                self.parsed.claims.push(claim);
            }
            Err(fault) => self.parsed.dropped.push((fault, raw.to_owned())),
        }
    }
}

/// `DE` lines: the recommended (or first submitted) full name, and the EC numbers.
fn names(lines: &[&str], entry: &mut Statements<'_>) {
    let full =
        |line: &&&str| line.trim().starts_with("RecName: Full=") || line.trim().starts_with("SubName: Full=");
    if let Some(line) = lines.iter().find(full) {
        let raw = line.split_once("Full=").map_or("", |(_, name)| name);
        entry.word("name", raw, clean::without_codes(raw.trim_end_matches(';')));
    }
    // Numbers of fragments that are named separately (Contains, Includes) belong to parts of the chain.
    let whole = lines.iter().take_while(|l| !l.starts_with("Contains:") && !l.starts_with("Includes:"));
    let numbers: Vec<&str> = whole.filter_map(|l| l.trim().strip_prefix("EC=")).collect();
    if !numbers.is_empty() {
        let raw = numbers.join(" ");
        let clean: Vec<String> =
            numbers.iter().map(|n| clean::without_codes(n.trim_end_matches(';'))).collect();
        entry.word("ec", &raw, clean.join("; "));
    }
}

/// `CC` lines: (topic, text) of every comment, wrapped lines joined.
fn comments(lines: &[&str]) -> Vec<(String, String)> {
    let mut comments: Vec<(String, String)> = Vec::new();
    let mut is_open = false;
    for line in lines {
        if let Some(begin) = line.strip_prefix("-!- ") {
            let (topic, text) = begin.split_once(':').unwrap_or((begin, ""));
            comments.push((topic.to_owned(), text.trim().to_owned()));
            is_open = true;
        } else if line.starts_with("---") {
            is_open = false; // the copyright notice
        } else if let (true, Some((_, text))) = (is_open, comments.last_mut()) {
            join(text, line.trim());
        }
    }
    comments
}

/// Joins a wrapped line: words broken at a hyphen close up, but for "alpha- and beta-".
fn join(text: &mut String, line: &str) {
    let closes = text.ends_with('-')
        && !text.ends_with(" -")
        && !["and ", "or ", "to "].iter().any(|w| line.starts_with(w));
    if !text.is_empty() && !closes {
        text.push(' ');
    }
    text.push_str(line);
}

/// The reaction of a CATALYTIC ACTIVITY comment: after `Reaction=` up to the next field; the whole text in releases
/// before 2018, which have no fields.
fn reaction(text: &str) -> &str {
    let Some(begin) = text.find("Reaction=") else { return text };
    let rest = &text[begin + "Reaction=".len()..];
    let end =
        ["; Xref=", "; EC=", "; Evidence="].iter().filter_map(|f| rest.find(f)).min().unwrap_or(rest.len());
    rest[..end].trim_end_matches(';')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::{facts, test_context};

    const ENTRY: &str = "\
ID   MADE_UP                 Reviewed;           7 AA.
AC   X0X0X0; X1X1X1;
DE   RecName: Full=Imaginary kinase {ECO:0000250|UniProtKB:P11558};
DE            EC=2.7.1.1 {ECO:0000255};
DE   Contains:
DE     RecName: Full=Piece;
DE            EC=9.9.9.9;
GN   Name=abc2;8 {ECO:0000313}; OrderedLocusNames=MA_1;
OS   Testus organismus (strain one /
OS   two).
CC   -!- FUNCTION: Binds nothing (PubMed:1). Uses CoB or 7-
CC       mercapto. {ECO:0000269|PubMed:1}.
CC   -!- SUBUNIT: Monomer. {ECO:0000305}.
CC   -!- CATALYTIC ACTIVITY:
CC       Reaction=ATP + H2O = ADP + phosphate; Xref=Rhea:RHEA:1;
CC         EC=1.1.1.1; Evidence={ECO:0000269};
CC   ---------------------------------------------------------------------------
CC   Copyrighted by nobody
DR   GO; GO:0005737; C:cytoplasm; IEA:UniProtKB-SubCell.
KW   ATP-binding; Kinase.
SQ   SEQUENCE   7 AA;  1 MW;  1 CRC64;
     MKTAY IA
";

    #[test]
    fn an_entry_says_what_it_says() {
        let parsed = parse(&test_context(Kind::SwissprotDat), ENTRY).unwrap();
        let facts = facts(&parsed);
        let want = [
            ("name", "Imaginary kinase"),
            ("ec", "2.7.1.1"),
            ("organism", "Testus organismus (strain one / two)"),
            ("gene", "abc2;8"),
            ("function", "Binds nothing. Uses CoB or 7-mercapto."),
            ("catalytic_activity", "ATP + H2O = ADP + phosphate"),
            ("keyword", "ATP-binding; Kinase"),
        ];
        assert_eq!(facts, want);
        let function =
            parsed.claims.iter().filter_map(|c| c.fact.as_ref()).find(|f| f.task == "function").unwrap();
        assert_eq!(function.evidence, ["ECO:0000269"]);
        assert!(function.raw_text.as_ref().unwrap().contains("{ECO:0000269|PubMed:1}"));
        let go = parsed.claims.iter().find_map(|c| c.go.as_ref()).unwrap();
        assert_eq!((go.term.as_str(), go.aspect.as_str(), go.evidence.as_str()), ("GO:0005737", "C", "IEA"));
        let members: Vec<&str> =
            parsed.claims.iter().filter(|c| c.member.is_some()).map(|c| c.accession.as_str()).collect();
        assert_eq!(members, ["X0X0X0", "X1X1X1"]);
        assert_eq!(parsed.claims[0].sequence.as_deref(), Some("MKTAYIA"));
        assert_eq!(parsed.dropped.len(), 1);
        assert_eq!(parsed.dropped[0].0.reason, Reason::SingleWord);
    }

    #[test]
    fn an_entry_without_its_parts_is_malformed() {
        for part in ["ID", "AC", "SQ"] {
            let entry: String =
                ENTRY.lines().filter(|l| !l.starts_with(part)).map(|l| format!("{l}\n")).collect();
            let fault = parse(&test_context(Kind::SwissprotDat), &entry).unwrap_err();
            assert_eq!(fault.reason, Reason::Malformed);
            assert!(fault.detail.contains(part), "{}", fault.detail);
        }
    }
}
