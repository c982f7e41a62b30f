//! Atoms of a PDB file (format 3.3): fixed columns (<https://www.wwpdb.org/documentation/file-format-content/format33>).

use crate::Error;
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::structure::{Atom, Structure};

/// Reads the first model.
pub(crate) fn read(lines: &mut Lines<'_>) -> Result<Structure, Error> {
    let mut structure = Structure::default();
    while let Some(line) = lines.next()? {
        let text = line.text.as_str();
        if let Some(fault) = line.fault {
            structure.fault = Some((line.number, fault));
            break;
        }
        match text.get(..6).unwrap_or(text).trim_end() {
            "HEADER" => {
                let id = columns(text, 63, 66).to_ascii_lowercase();
                let is_id = id.len() == 4 && id.starts_with(|c: char| c.is_ascii_digit());
                structure.id = Some(id).filter(|_| is_id);
            }
            "ENDMDL" | "END" => break,
            record @ ("ATOM" | "HETATM") => match atom(text, line.number, record == "HETATM") {
                Ok(atom) => structure.add(&atom),
                Err(fault) => {
                    structure.fault = Some((line.number, fault));
                    break;
                }
            },
            _ => {}
        }
    }
    Ok(structure)
}

/// Columns as the format counts them, from 1, both ends included.
fn columns(text: &str, first: usize, last: usize) -> &str {
    let end = last.min(text.len());
    text.get(first - 1..end).unwrap_or("").trim()
}

fn atom(text: &str, line: u64, is_hetero: bool) -> Result<Atom, Fault> {
    let number = |what: &str, first, last| -> Result<f64, Fault> {
        let text = columns(text, first, last);
        text.parse().ok().filter(|x: &f64| x.is_finite()).ok_or_else(|| {
            Fault::new(Reason::BadCoordinates, format!("line {line}: {what} {text:?} is no number"))
        })
    };
    // Occupancy and B factor are missing in some files of simulation packages.
    Ok(Atom {
        line,
        is_hetero,
        name: columns(text, 13, 16).into(),
        residue: columns(text, 18, 20).into(),
        chain: columns(text, 22, 22).into(),
        number: columns(text, 23, 27).into(),
        at_ang: [number("x", 31, 38)?, number("y", 39, 46)?, number("z", 47, 54)?],
        occupancy: columns(text, 55, 60).parse().unwrap_or(1.0),
        b_factor: columns(text, 61, 66).parse().ok(),
    })
}
