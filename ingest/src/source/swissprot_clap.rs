//! SwissProtCLAP (ProteinDT): two text files in the same order, each of alternating lines, accession and value; the
//! companion holds the texts. The accessions of both files are compared.

use indicatif::ProgressBar;

use crate::Error;
use crate::claim::{self, Claim, Fact};
use crate::clean;
use crate::reader::{Input, Line, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

/// Accession and value of one file: two lines.
struct Couple {
    line: u64,
    accession: String,
    value: String,
    fault: Option<Fault>,
}

impl Couple {
    fn next(lines: &mut Lines<'_>) -> Result<Option<Self>, Error> {
        let Some(Line { number: line, text, fault }) = lines.next()? else { return Ok(None) };
        let accession = text.trim().to_owned();
        let (value, second) = match lines.any()? {
            Some(value) => (value.text, value.fault),
            None => (String::new(), Some(Fault::new(Reason::Malformed, "the file ends after the accession"))),
        };
        Ok(Some(Self { line, accession, value, fault: fault.or(second) }))
    }

    fn raw(&self) -> String {
        format!("{}\n{}", self.accession, self.value)
    }
}

/// Reads both files in step. A record of the companion is kept when its sequence is sound; otherwise it shares the
/// fault.
pub(crate) fn read(context: &Context, mut sequences: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let texts = context.companions.first().expect("validated: the kind has one companion");
    let mut texts = Lines::new(Input::open(texts, ProgressBar::hidden())?);
    let ledger = sink.ledger.clone();
    let refuse = |couple: &Couple, fault: Fault| {
        ledger.quarantine(claim::record(context.index, 0, couple.line), fault, &couple.raw(), false);
    };
    let (mut n_texts, mut kept) = (0, 0);
    loop {
        let (sequence, text) = (Couple::next(&mut sequences)?, Couple::next(&mut texts)?);
        n_texts += u64::from(text.is_some());
        let missing =
            |what: &str| Fault::new(Reason::MissingValue, format!("the other file has no {what} here"));
        match (sequence, text) {
            (None, None) => break,
            (Some(sequence), None) => sink.put(sequence.line, &sequence.raw(), Err(missing("text")))?,
            (None, Some(text)) => refuse(&text, missing("sequence")),
            (Some(sequence), Some(text)) => {
                let parsed = parse(context, &sequence, &text);
                match &parsed {
                    Ok(_) => kept += 1,
                    Err(fault) => refuse(&text, fault.clone()),
                }
                sink.put(sequence.line, &sequence.raw(), parsed)?;
            }
        }
    }
    ledger.read(context.index, 0, n_texts);
    ledger.keep(context.index, 0, kept);
    Ok(())
}

fn parse(context: &Context, sequence: &Couple, text: &Couple) -> Result<Parsed, Fault> {
    if let Some(fault) = sequence.fault.clone().or_else(|| text.fault.clone()) {
        return Err(fault);
    }
    if sequence.accession != text.accession {
        let detail = format!("the sequence is of {:?}, the text of {:?}", sequence.accession, text.accession);
        return Err(Fault::new(Reason::IdMismatch, detail));
    }
    let protein = context.protein(&sequence.value)?;
    let clean = clean::without_codes(&text.value);
    clean::worth_keeping(&clean)?;
    let fact = Fact::new(&protein.id, "general", "", text.value.trim(), clean);
    Ok(Claim { fact: Some(fact.into()), ..Claim::of(protein, &sequence.accession) }.into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use datasets::table::{FactRow, Rows};

    use super::*;
    use crate::Config;

    #[test]
    fn accessions_must_agree() {
        let folder = tempfile::tempdir().unwrap();
        let sequences = "X1\nMKTAYIAK\nX2\nMKTAYW\nX3\nMK1\nX4\nMKTAYV\nX5\nMKTAYVV\nX6\nMKTAYVA\n";
        let texts =
            "X1\nBinds zinc.\nX9\nBinds iron.\nX3\nBinds gold.\nX4\nKinase.\nX5\nCuts sugar. {ECO:0000255}\n";
        fs_err::write(folder.path().join("s.txt"), sequences).unwrap();
        fs_err::write(folder.path().join("t.txt"), texts).unwrap();
        let source = serde_json::json!({
            "name": "clap", "kind": "swissprot_clap", "files": ["s.txt"], "companion": ["t.txt"], "licence": "none"
        });
        let config: Config =
            serde_json::from_value(serde_json::json!({ "min_length": 3, "source": [source] })).unwrap();
        let out = folder.path().join("tables");
        let manifest = crate::run(&config, folder.path(), &out).unwrap();
        let facts: Vec<String> = FactRow::read(&out).unwrap().into_iter().map(|f| f.text).collect();
        assert_eq!(facts.len(), 2);
        assert!(facts.iter().any(|t| t == "Binds zinc.") && facts.iter().any(|t| t == "Cuts sugar."));
        let both = [(Reason::BadSequence, 1), (Reason::IdMismatch, 1), (Reason::SingleWord, 1)];
        let mut want = BTreeMap::from(both);
        let account: Vec<_> =
            manifest.files.iter().map(|f| (f.rows_in, f.kept, f.quarantined.clone())).collect();
        assert_eq!(account[0], (5, 2, want.clone()));
        want.insert(Reason::MissingValue, 1);
        assert_eq!(account[1], (6, 2, want));
    }

    #[test]
    fn an_empty_value_does_not_shift_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("s.txt"), "X1\nMKTAYIAK\nX2\nMKTAYW\n").unwrap();
        fs_err::write(folder.path().join("t.txt"), "X1\n\nX2\nBinds iron.\n").unwrap();
        let lines =
            |name: &str| Lines::new(Input::open(&folder.path().join(name), ProgressBar::hidden()).unwrap());
        let mut texts = lines("t.txt");
        let first = Couple::next(&mut texts).unwrap().unwrap();
        assert_eq!((first.accession.as_str(), first.value.as_str()), ("X1", ""));
        let second = Couple::next(&mut texts).unwrap().unwrap();
        assert_eq!((second.accession.as_str(), second.value.as_str()), ("X2", "Binds iron."));
        assert_eq!(Couple::next(&mut lines("s.txt")).unwrap().unwrap().value, "MKTAYIAK");
    }
}
