//! The Gene Ontology: terms (OBO) and annotations (GAF, QuickGO).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use indicatif::ProgressBar;

use crate::Error;
use crate::claim::{self, Claim, Go};
use crate::config::Kind;
use crate::ledger::Ledger;
use crate::reader::{Input, Line, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Header, Parsed, Row, Sink, detect};

/// What annotations are checked against.
#[derive(Debug, Default)]
pub(crate) struct Ontology {
    /// Id that is used instead (its own for a current term, empty for an obsolete one without replacement) and aspect,
    /// of every id, alternative ones too.
    terms: BTreeMap<String, (String, String)>,
    /// Ids of the stanzas read.
    defined: BTreeSet<String>,
}

impl Ontology {
    /// Reads OBO files, the release first; records are `[Term]` stanzas. A term that a file before has defined is merged
    /// with that definition, so a slim of another release adds the terms that it alone has. Returns the terms, and the
    /// text of all that were kept as one file.
    ///
    /// # Errors
    /// Faults of a whole file; a file without any term.
    pub(crate) fn read(
        data: &Path,
        files: &[String],
        source: usize,
        ledger: &Ledger,
    ) -> Result<(Self, String), Error> {
        let (mut ontology, mut text) = (Self::default(), String::new());
        for (file, name) in files.iter().enumerate() {
            let input = Input::open(&data.join(name), ProgressBar::hidden())?;
            detect::check(Kind::Obo, &input)?;
            ontology.add_file(Lines::new(input), (source, file), ledger, &mut text)?;
        }
        Ok((ontology, text))
    }

    fn add_file(
        &mut self,
        mut lines: Lines<'_>,
        (source, file): (usize, usize),
        ledger: &Ledger,
        whole: &mut String,
    ) -> Result<(), Error> {
        let before = std::mem::take(&mut self.defined);
        let (mut read, mut kept, mut merged, mut stanza) = (0, 0, 0, None::<Stanza>);
        loop {
            let line = lines.next()?;
            let is_header = line.as_ref().is_none_or(|l| l.text.starts_with('['));
            if is_header && let Some(done) = stanza.take() {
                read += 1;
                let (begin, text) = (done.begin, done.text.clone());
                match self.add(done, &before) {
                    Ok(true) => {
                        kept += 1;
                        whole.push_str(&text);
                    }
                    Ok(false) => merged += 1,
                    Err(fault) => {
                        ledger.quarantine(claim::record(source, file, begin), fault, &text, false);
                    }
                }
            }
            let Some(line) = line else { break };
            // Of later files only the terms are wanted, not the header again.
            let is_wanted = file == 0 || line.text.trim() == "[Term]";
            if is_header && is_wanted {
                whole.push('\n');
            }
            if line.text.trim() == "[Term]" {
                stanza = Some(Stanza { begin: line.number, text: "[Term]\n".into(), fault: line.fault });
            } else if let Some(stanza) = &mut stanza {
                stanza.text.push_str(&line.text);
                stanza.text.push('\n');
                stanza.fault = stanza.fault.take().or(line.fault);
            } else if file == 0 {
                whole.push_str(&line.text);
                whole.push('\n');
            }
        }
        ledger.read(source, file, read);
        ledger.keep(source, file, kept);
        ledger.merge(source, file, merged, 0);
        if kept + merged == 0 {
            return Err(Error::Format {
                path: lines.path().into(),
                place: format!("line {}", lines.number()),
                detail: "no [Term] in the file".into(),
                hint: "an OBO file was expected; check `kind` of the source".into(),
            });
        }
        self.defined.extend(before);
        Ok(())
    }

    /// Current id and aspect of a term.
    fn current<'a>(&'a self, term: &'a str) -> Result<(&'a str, &'a str), Fault> {
        let mut at = term;
        // A replacement may have been replaced in turn; a chain longer than this goes round in a circle.
        for _ in 0..16 {
            match self.terms.get(at) {
                None => return Err(Fault::new(Reason::UnknownTerm, format!("{at} is not in the ontology"))),
                Some((current, _)) if current.is_empty() => break,
                Some((current, aspect)) if current == at => return Ok((at, aspect)),
                Some((current, _)) => at = current,
            }
        }
        Err(Fault::new(Reason::ObsoleteTerm, format!("{term} is obsolete and has no replacement")))
    }

    /// Takes a term; false when one of the files `before` has defined it.
    fn add(&mut self, stanza: Stanza, before: &BTreeSet<String>) -> Result<bool, Fault> {
        if let Some(fault) = stanza.fault {
            return Err(fault);
        }
        let values = |tag: &'static str| {
            let text = &stanza.text;
            text.lines()
                .filter_map(move |l| l.strip_prefix(tag)?.strip_prefix(": "))
                .map(|v| v.split(" ! ").next().unwrap_or(v).trim())
        };
        let id = values("id").next().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| Fault::new(Reason::Malformed, "the term has no id"))?;
        if !self.defined.insert(id.to_owned()) {
            return Err(Fault::new(Reason::IdConflict, format!("{id} is defined twice")));
        }
        if before.contains(id) {
            return Ok(false);
        }
        let aspect = aspect(values("namespace").next().unwrap_or(""));
        let is_obsolete = values("is_obsolete").next() == Some("true");
        // An obsolete term with one replacement lives on under its name.
        let replacements: Vec<&str> = values("replaced_by").collect();
        let current = match (&replacements[..], is_obsolete) {
            (_, false) => id,
            ([replacement], true) => replacement,
            (_, true) => "",
        };
        let current = current.to_owned();
        for alternative in values("alt_id") {
            self.terms.entry(alternative.to_owned()).or_insert((current.clone(), aspect.to_owned()));
        }
        // What an earlier file knows under this id, if only as another name of a term, stays.
        if before.is_empty() {
            self.terms.insert(id.to_owned(), (current, aspect.to_owned()));
        } else {
            self.terms.entry(id.to_owned()).or_insert((current, aspect.to_owned()));
        }
        Ok(true)
    }
}

struct Stanza {
    begin: u64,
    text: String,
    fault: Option<Fault>,
}

/// `F`, `P` or `C` of any spelling of an aspect; empty for another namespace.
fn aspect(text: &str) -> &'static str {
    match text {
        "F" | "molecular_function" => "F",
        "P" | "biological_process" => "P",
        "C" | "cellular_component" => "C",
        _ => "",
    }
}

impl Context {
    /// One annotation: the current id of the term, the aspect by the ontology (by the file where no ontology is given).
    ///
    /// # Errors
    /// `malformed` (no GO id), `unknown_term`, `obsolete_term`.
    pub(crate) fn annotation(&self, term: &str, aspect_of_file: &str, evidence: &str) -> Result<Go, Fault> {
        let digits = term.strip_prefix("GO:").unwrap_or("");
        if digits.len() != 7 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Fault::new(Reason::Malformed, format!("{term:?} is no GO id")));
        }
        let (current, aspect) = match &self.ontology {
            None => (term, aspect(aspect_of_file)),
            Some(ontology) => ontology.current(term)?,
        };
        if aspect.is_empty() {
            return Err(Fault::new(Reason::Malformed, format!("{term} has no aspect F, P or C")));
        }
        Ok(Go {
            term: current.into(),
            aspect: aspect.into(),
            evidence: evidence.trim().into(),
            locus: String::new(),
        })
    }

    fn claim(
        &self,
        id: &str,
        qualifier: &str,
        go: (&str, &str, &str),
        locus: String,
    ) -> Result<Parsed, Fault> {
        if id.is_empty() {
            return Err(Fault::new(Reason::Malformed, "no id of a gene product"));
        }
        if qualifier.split('|').any(|q| q.eq_ignore_ascii_case("NOT")) {
            return Err(Fault::new(Reason::Negated, format!("qualifier {qualifier:?}")));
        }
        let go = Go { locus, ..self.annotation(go.0, go.1, go.2)? };
        Ok(Claim { accession: id.into(), go: Some(go.into()), ..Claim::default() }.into())
    }
}

/// Reads GAF 1.0 to 2.2: tab-separated, comments begin with `!`
/// (<https://geneontology.org/docs/go-annotation-file-gaf-format-2.2/>).
pub(crate) fn read_gaf(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let parse = |line: &Line| {
        let fields: Vec<&str> = line.text.split('\t').map(str::trim).collect();
        if !(15..=17).contains(&fields.len()) {
            let detail = format!("{} columns, GAF has 15 to 17", fields.len());
            return Err(Fault::new(Reason::Malformed, detail));
        }
        let locus = locus(fields[10], fields[12]);
        context.claim(fields[1], fields[3], (fields[4], fields[8], fields[6]), locus)
    };
    sink.records(|| lines.next_but(|text| text.starts_with('!')), parse)
}

/// STRING's name of a gene product, `4932.YAL001C`: its taxon and the first of its synonyms, where model-organism
/// databases put the systematic name of the locus. Annotations whose id no source knows are looked up by it.
fn locus(synonyms: &str, taxa: &str) -> String {
    let synonym = synonyms.split('|').next().unwrap_or("").trim();
    let taxon = taxa.split('|').next().and_then(|t| t.trim().strip_prefix("taxon:")).unwrap_or("");
    if synonym.is_empty() || taxon.is_empty() { String::new() } else { format!("{taxon}.{synonym}") }
}

/// Reads the TSV that QuickGO downloads, columns by name.
pub(crate) fn read_quickgo(context: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    const NEEDED: [&str; 5] = ["GENE PRODUCT ID", "QUALIFIER", "GO TERM", "GO ASPECT", "GO EVIDENCE CODE"];
    let header = Header::read(
        &mut lines,
        '\t',
        &NEEDED,
        "QuickGO's TSV download was expected; use kind `gaf` for GAF",
    )?;
    sink.rows(lines, &header, |text| {
        let row = Row::new(&header, text.split('\t').map(|f| f.trim().to_owned()).collect())?;
        let go = (row.get("GO TERM"), row.get("GO ASPECT"), row.get("GO EVIDENCE CODE"));
        context.claim(row.get("GENE PRODUCT ID"), row.get("QUALIFIER"), go, String::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::test_context;

    #[test]
    fn ids_lead_to_the_current_term() {
        let mut context = test_context(Kind::Gaf);
        let mut ontology = Ontology::default();
        let terms = [
            "id: GO:0000001\nnamespace: molecular_function\nalt_id: GO:0000009",
            "id: GO:0000002\nnamespace: molecular_function\nis_obsolete: true",
            "id: GO:0000003\nnamespace: biological_process\nis_obsolete: true\nreplaced_by: GO:0000001 ! one",
        ];
        for text in terms {
            ontology.add(Stanza { begin: 1, text: text.into(), fault: None }, &BTreeSet::new()).unwrap();
        }
        let again = Stanza { begin: 1, text: terms[0].into(), fault: None };
        assert_eq!(ontology.add(again, &BTreeSet::new()).unwrap_err().reason, Reason::IdConflict);
        let nameless = Stanza { begin: 1, text: "name: x".into(), fault: None };
        assert_eq!(ontology.add(nameless, &BTreeSet::new()).unwrap_err().reason, Reason::Malformed);
        context.ontology = Some(ontology.into());
        let annotate = |context: &Context, term: &str| {
            context.annotation(term, "P", "IDA").map(|go| (go.term, go.aspect)).map_err(|f| f.reason)
        };
        let read = |term: &str| annotate(&context, term);
        let first = Ok(("GO:0000001".to_owned(), "F".to_owned()));
        assert_eq!(read("GO:0000001"), first);
        assert_eq!(read("GO:0000009"), first);
        assert_eq!(read("GO:0000003"), first);
        assert_eq!(read("GO:0000002"), Err(Reason::ObsoleteTerm));
        assert_eq!(read("GO:0000004"), Err(Reason::UnknownTerm));
        assert_eq!(read("GO:4"), Err(Reason::Malformed));
        context.ontology = None;
        assert_eq!(annotate(&context, "GO:0000004"), Ok(("GO:0000004".to_owned(), "P".to_owned())));
    }
}
