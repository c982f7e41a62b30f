//! Backbones: `chain_set.jsonl` (CATH 4.2, Ingraham et al.) with its split file, and lists like `ts50.json`.

use std::collections::BTreeMap;
use std::path::Path;

use indicatif::ProgressBar;
use serde::Deserialize;

use crate::Error;
use crate::claim::{Chain, Claim};
use crate::json::{Number, standard};
use crate::reader::{Input, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, residue_columns};

/// `chain_set_splits.json`.
#[derive(Debug, Default)]
pub(crate) struct PublishedSplit {
    /// Names in the file: its records.
    pub(crate) n_names: u64,
    part: BTreeMap<String, &'static str>,
    cath: BTreeMap<String, Vec<String>>,
}

impl PublishedSplit {
    /// Part and CATH nodes (sorted) of a chain; empty where the split does not name it.
    pub(crate) fn of(&self, chain: &str) -> (String, Vec<String>) {
        let mut nodes = self.cath.get(chain).cloned().unwrap_or_default();
        nodes.sort();
        nodes.dedup();
        (self.part.get(chain).copied().unwrap_or("").to_owned(), nodes)
    }

    /// Reads the split file.
    ///
    /// # Errors
    /// [`Error::Format`] when it is not `{train, validation, test: [names], cath_nodes: {name: [nodes]}}`.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct File {
            train: Vec<String>,
            validation: Vec<String>,
            test: Vec<String>,
            #[serde(default)]
            cath_nodes: BTreeMap<String, Vec<String>>,
        }
        let text = Input::open(path, ProgressBar::hidden())?.text()?;
        let file: File = serde_json::from_str(&text).map_err(|e| Error::Format {
            path: path.into(),
            place: format!("line {} column {}", e.line(), e.column()),
            detail: e.to_string(),
            hint: "chain_set_splits.json holds train, validation, test and cath_nodes".into(),
        })?;
        let n_names = (file.train.len() + file.validation.len() + file.test.len()) as u64;
        // A name in two parts goes to the one that is trained on least.
        let parts = [("train", file.train), ("validation", file.validation), ("test", file.test)];
        let part = parts
            .into_iter()
            .flat_map(|(part, names)| names.into_iter().map(move |name| (name, part)))
            .collect();
        Ok(Self { part, cath: file.cath_nodes, n_names })
    }
}

/// Reads chains, JSON lines or one array.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    if input.begins_with(b"[") {
        return sink.elements(input, |text| parse(context, text));
    }
    sink.lines(Lines::new(input), |text| parse(context, text))
}

#[derive(Deserialize)]
struct Record {
    name: String,
    seq: String,
    coords: Coords,
    #[serde(rename = "CATH", default)]
    cath: Vec<String>,
}

/// `coords`: an object of four lists `[L][3]`, or one list `[L][4][3]`; Å, NaN for a missing atom.
#[derive(Deserialize)]
#[serde(untagged)]
enum Coords {
    ByAtom {
        #[serde(rename = "N")]
        n: Vec<Vec<Number>>,
        #[serde(rename = "CA")]
        ca: Vec<Vec<Number>>,
        #[serde(rename = "C")]
        c: Vec<Vec<Number>>,
        #[serde(rename = "O")]
        o: Vec<Vec<Number>>,
    },
    ByResidue(Vec<Vec<Vec<Number>>>),
}

fn parse(context: &Context, text: &str) -> Result<Parsed, Fault> {
    let record: Record =
        serde_json::from_str(&standard(text)).map_err(|e| Fault::new(Reason::Malformed, e.to_string()))?;
    let (sequence, kept) = residue_columns(&record.seq)?;
    let protein = context.bounded(sequence)?;
    let length = record.seq.chars().count();
    let bad = |detail: String| Fault::new(Reason::BadCoordinates, detail);
    let atoms: Vec<[&[Number]; 4]> = match &record.coords {
        Coords::ByAtom { n, ca, c, o } => {
            if [n, ca, c, o].iter().any(|atom| atom.len() != length) {
                let detail = format!(
                    "{length} residues, N {}, CA {}, C {}, O {}",
                    n.len(),
                    ca.len(),
                    c.len(),
                    o.len()
                );
                return Err(bad(detail));
            }
            (0..length).map(|i| [&n[i][..], &ca[i], &c[i], &o[i]]).collect()
        }
        Coords::ByResidue(residues) => {
            if residues.len() != length || residues.iter().any(|r| r.len() != 4) {
                return Err(bad(format!(
                    "{length} residues, coordinates of {}, four atoms each",
                    residues.len()
                )));
            }
            residues.iter().map(|r| [&r[0][..], &r[1], &r[2], &r[3]]).collect()
        }
    };
    let mut backbone_ang = Vec::with_capacity(12 * kept.len());
    for &at in &kept {
        for atom in atoms[at] {
            if atom.len() != 3 {
                return Err(bad(format!("residue {}: an atom with {} coordinates", at + 1, atom.len())));
            }
            // The mantissa of a NaN would differ by where it came from.
            backbone_ang.extend(atom.iter().map(|x| if x.0.is_nan() { f32::NAN } else { x.0 as f32 }));
        }
    }
    if let Some(at) = backbone_ang.iter().position(|x| x.is_infinite()) {
        return Err(bad(format!("residue {} has an infinite coordinate", kept[at / 12] + 1)));
    }
    if !backbone_ang.chunks_exact(12).any(|r| r[3..6].iter().all(|x| x.is_finite())) {
        return Err(bad("no residue has a CA".into()));
    }
    Ok(claim(context, record, protein, backbone_ang).into())
}

fn claim(
    context: &Context,
    record: Record,
    protein: crate::claim::Residues,
    backbone_ang: Vec<f32>,
) -> Claim {
    let split = context.chain_split.as_deref();
    let (published_split, known) = split.map_or((String::new(), vec![]), |s| s.of(&record.name));
    let mut cath = record.cath;
    cath.sort();
    cath.dedup();
    if cath.is_empty() {
        cath = known;
    }
    let test = published_split == "test";
    let chain = Chain { backbone_ang, cath, published_split };
    Claim { chain: Some(chain.into()), test, ..Claim::of(protein, &record.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::source::test_context;

    fn chain(seq: &str, coords: &str) -> Result<(Claim, Chain), Fault> {
        let mut context = test_context(Kind::CathChains);
        let split = PublishedSplit {
            n_names: 1,
            part: [("1abc.A".to_owned(), "test")].into(),
            cath: [("1abc.A".to_owned(), vec!["3.40.50".to_owned(), "1.10.8".to_owned()])].into(),
        };
        context.chain_split = Some(split.into());
        let claim = parse(&context, &format!(r#"{{"name":"1abc.A","seq":"{seq}","coords":{coords}}}"#))?
            .claims
            .remove(0);
        let chain = *claim.chain.clone().unwrap();
        Ok((claim, chain))
    }

    fn by_atom(values: [&str; 4]) -> String {
        format!(r#"{{"N":{},"CA":{},"C":{},"O":{}}}"#, values[0], values[1], values[2], values[3])
    }

    #[test]
    fn atoms_interleave_and_gaps_go() {
        let atom = |x: u8| format!("[[{x},0,1],[NaN,NaN,NaN],[{x},9,9],[{x},2,3]]");
        let (claim, read) = chain("MK-A", &by_atom([&atom(1), &atom(2), &atom(3), &atom(4)])).unwrap();
        assert_eq!(claim.sequence.as_deref(), Some("MKA"));
        assert_eq!(read.backbone_ang.len(), 36);
        assert_eq!(read.backbone_ang[..6], [1.0, 0.0, 1.0, 2.0, 0.0, 1.0]);
        assert!(read.backbone_ang[12..24].iter().all(|x| x.is_nan()));
        assert_eq!(read.backbone_ang[33..], [4.0, 2.0, 3.0]);
        assert_eq!((read.published_split.as_str(), claim.test), ("test", true));
        assert_eq!(read.cath, ["1.10.8", "3.40.50"]);
        let residue = "[[1,0,1],[2,0,1],[3,0,1],[4,0,1]]";
        let (_, list) = chain("MKA", &format!("[{residue},{residue},{residue}]")).unwrap();
        assert_eq!(list.backbone_ang[12..18], [1.0, 0.0, 1.0, 2.0, 0.0, 1.0]);
    }

    #[test]
    fn faults_have_reasons() {
        let good = "[[1,2,3],[1,2,3],[1,2,3]]";
        let reason = |values: [&str; 4]| chain("MKA", &by_atom(values)).unwrap_err().reason;
        assert_eq!(reason([good, good, good, "[[1,2,3]]"]), Reason::BadCoordinates);
        assert_eq!(reason([good, good, good, "[[1,2,3],[1,2],[1,2,3]]"]), Reason::BadCoordinates);
        assert_eq!(reason([good, good, good, "[[1,2,3],[1,2,Infinity],[1,2,3]]"]), Reason::BadCoordinates);
        let none = "[[NaN,NaN,NaN],[NaN,2,3],[null,null,null]]";
        assert_eq!(reason([good, none, good, good]), Reason::BadCoordinates);
        assert_eq!(chain("MKA", "3").unwrap_err().reason, Reason::Malformed);
        assert_eq!(chain("M3A", &by_atom([good; 4])).unwrap_err().reason, Reason::BadSequence);
    }
}
