//! Predictions as text: the formats that others read.

use std::io::{Result, Write};

use datasets::label;
use datasets::sequences::Named;
use serde_json::json;

use super::{Posterior, Prediction, Q3};

/// Columns of a HORIZ block.
const WIDTH: usize = 60;

/// The letters of states.
fn letters(states: &[u8], alphabet: &[u8]) -> String {
    states.iter().map(|&state| alphabet[usize::from(state)] as char).collect()
}

/// The header of a CSV.
///
/// # Errors
/// What the writer says.
pub fn csv_header(out: &mut impl Write) -> Result<()> {
    writeln!(out, "id,sst8,sst3")
}

/// A row of the NPPE-2 submission: `id,sst8,sst3`, coil as C.
///
/// # Errors
/// What the writer says.
pub fn csv(out: &mut impl Write, named: &Named, prediction: &Prediction) -> Result<()> {
    let quoted = match named.id.contains([',', '"']) {
        true => format!("\"{}\"", named.id.replace('"', "\"\"")),
        false => named.id.clone(),
    };
    writeln!(out, "{quoted},{},{}", letters(&prediction.q8, label::Q8), letters(&prediction.q3, label::Q3))
}

/// A line of JSON: id, sequence, states, the probability of the chosen class, and all probabilities `[L, 8]` in the order
/// HGIEBSTC and `[L, 3]` in the order HEC.
///
/// # Errors
/// What the writer says.
pub fn jsonl(
    out: &mut impl Write,
    named: &Named,
    prediction: &Prediction,
    posterior: &Posterior,
    q3: Q3,
) -> Result<()> {
    let short = |p: f64| (p * 1e4).round() / 1e4;
    let classes = posterior.classes(q3);
    let confidence: Vec<f64> =
        classes.iter().zip(&prediction.q3).map(|(p, &state)| short(p[usize::from(state)])).collect();
    let q8: Vec<[f64; 8]> = posterior.q8.iter().map(|p| p.map(|p| short(f64::from(p)))).collect();
    let q3: Vec<[f64; 3]> = classes.iter().map(|p| p.map(short)).collect();
    let line = json!({
        "id": named.id,
        "sequence": named.sequence,
        "sst8": letters(&prediction.q8, label::Q8),
        "sst3": letters(&prediction.q3, label::Q3),
        "confidence": confidence,
        "p8": q8,
        "p3": q3,
    });
    writeln!(out, "{line}")
}

/// PSIPRED's vertical format: number, residue, state, and the probabilities of coil, helix and strand.
///
/// # Errors
/// What the writer says.
pub fn ss2(out: &mut impl Write, named: &Named, prediction: &Prediction, classes: &[[f64; 3]]) -> Result<()> {
    writeln!(out, "# PSIPRED VFORMAT (peptalk {})\n", named.id)?;
    for (at, (residue, ([helix, strand, coil], &state))) in
        named.sequence.chars().zip(classes.iter().zip(&prediction.q3)).enumerate()
    {
        let state = label::Q3[usize::from(state)] as char;
        writeln!(out, "{:4} {residue} {state}  {coil:6.3} {helix:6.3} {strand:6.3}", at + 1)?;
    }
    Ok(())
}

/// PSIPRED's horizontal format: confidence (0–9, ten times the lead of the best class), states and residues, 60 a line.
///
/// # Errors
/// What the writer says.
pub fn horiz(
    out: &mut impl Write,
    named: &Named,
    prediction: &Prediction,
    classes: &[[f64; 3]],
) -> Result<()> {
    writeln!(out, "# PSIPRED HFORMAT (peptalk {})", named.id)?;
    let confidence = |p: &[f64; 3]| {
        let mut sorted = *p;
        sorted.sort_by(|a, b| b.total_cmp(a));
        char::from(b'0' + ((sorted[0] - sorted[1]) * 10.0).clamp(0.0, 9.0) as u8)
    };
    let confidence: String = classes.iter().map(confidence).collect();
    let states = letters(&prediction.q3, label::Q3);
    for begin in (0..named.sequence.len()).step_by(WIDTH) {
        let end = named.sequence.len().min(begin + WIDTH);
        let part = |text: &str| text[begin..end].to_owned();
        let (confidence, states, residues) = (part(&confidence), part(&states), part(&named.sequence));
        let ruler: String = (begin + 10..=end).step_by(10).map(|n| format!("{n:>10}")).collect();
        writeln!(out, "\nConf: {confidence}\nPred: {states}\n  AA: {residues}\n      {ruler}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(n: usize) -> (Named, Prediction, Posterior) {
        let named =
            Named { id: "a,b".into(), sequence: "MKTAYIAKQR".repeat(n)[..10 * n - 7].into(), line: 1 };
        let l = named.sequence.len();
        let q3: Vec<u8> = (0..l).map(|at| (at / 4 % 3) as u8).collect();
        let one = |at: usize, state: u8| {
            let (rest, own) = if at.is_multiple_of(2) { (0.1, 0.8) } else { (0.05, 1.0) };
            let mut p = [rest; 3];
            p[usize::from(state)] = own;
            p
        };
        let classes = q3.iter().enumerate().map(|(at, &state)| one(at, state)).collect();
        let q8 = vec![[0.125; 8]; l];
        let prediction = Prediction { q8: q3.iter().map(|&s| [0, 3, 7][usize::from(s)]).collect(), q3 };
        (named, prediction, Posterior { q8, q3: classes, path: vec![7; l], legal: vec![7; l] })
    }

    fn text(write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> String {
        let mut out = vec![];
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn csv_and_json_hold_what_was_predicted() {
        let (named, prediction, posterior) = example(1);
        let row = text(|out| csv(out, &named, &prediction));
        assert_eq!(row, "\"a,b\",HHH,HHH\n");
        let line = text(|out| jsonl(out, &named, &prediction, &posterior, Q3::Head));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((line["sst8"].as_str(), line["p3"][0][0].as_f64()), (Some("HHH"), Some(0.8)));
        assert_eq!(line["p8"][2].as_array().unwrap().len(), 8);
    }

    #[test]
    fn psipred_formats_have_their_columns() {
        let (named, prediction, posterior) = example(7);
        let classes = posterior.classes(Q3::Head);
        let vertical = text(|out| ss2(out, &named, &prediction, &classes));
        let lines: Vec<&str> = vertical.lines().collect();
        assert_eq!((lines.len(), lines[2]), (2 + 63, "   1 M H   0.100  0.800  0.100"));
        let horizontal = text(|out| horiz(out, &named, &prediction, &classes));
        let lines: Vec<&str> = horizontal.lines().collect();
        assert_eq!(lines[2], format!("Conf: {}", "79".repeat(30)));
        assert_eq!((lines[4].len(), lines[5].trim_end().len()), (66, 66));
        assert!(lines[5].ends_with("        60"), "{:?}", lines[5]);
        assert_eq!((lines[7], lines[9]), ("Conf: 797", "  AA: MKT"));
    }
}
