//! Structures as files: PDB and mmCIF of experiments, cgdms text, and predicted models with pLDDT for B factors.

use std::fmt::Write as _;
use std::path::Path;

use super::Truth;
use super::backbone::Residue;
use super::cath::FOLDER;
use super::dice::Dice;
use super::sheet;
use super::universe::{Member, Universe};
use crate::Error;

/// Folders: experimental structures, cgdms chains, predicted models.
const STRUCTURES: &str = "structures/madeup_pdb";
const CGDMS: &str = "structures/madeup_cgdms";
const MODELS: &str = "structures/madeup_models";
const ATOMS: [&str; 4] = ["N", "CA", "C", "O"];

/// Three-letter name of a residue.
fn long(letter: u8) -> &'static str {
    const NAMES: [&str; 20] = [
        "ALA", "CYS", "ASP", "GLU", "PHE", "GLY", "HIS", "ILE", "LYS", "LEU", "MET", "ASN", "PRO", "GLN",
        "ARG", "SER", "THR", "VAL", "TRP", "TYR",
    ];
    b"ACDEFGHIKLMNPQRSTVWY".iter().position(|&l| l == letter).map_or("UNK", |at| NAMES[at])
}

fn pdb_line(
    record: &str,
    atom: &str,
    residue: &str,
    chain: char,
    number: usize,
    place: [f64; 3],
    b: f64,
) -> String {
    let [x, y, z] = place;
    format!(
        "{record:<6}{number:>5} {atom:^4} {residue:>3} {chain}{number:>4}    {x:8.3}{y:8.3}{z:8.3}{:6.2}{b:6.2}\n",
        1.0
    )
}

/// A chain in PDB lines; `b` gives the B factor of every residue.
fn pdb_chain(sequence: &str, residues: &[Residue], b: impl Fn(usize) -> f64) -> String {
    let mut text = String::new();
    for (at, (letter, residue)) in sequence.bytes().zip(residues).enumerate() {
        for (name, place) in ATOMS.iter().zip(residue) {
            text += &pdb_line("ATOM", name, long(letter), 'A', at + 1, *place, b(at));
        }
    }
    text + "TER\n"
}

fn mmcif(id: &str, sequence: &str, residues: &[Residue]) -> String {
    let mut text = format!("data_{id}\n_entry.id {id}\nloop_\n");
    for tag in [
        "group_PDB",
        "id",
        "label_atom_id",
        "label_comp_id",
        "label_asym_id",
        "auth_asym_id",
        "auth_seq_id",
        "Cartn_x",
        "Cartn_y",
        "Cartn_z",
        "occupancy",
        "B_iso_or_equiv",
        "pdbx_PDB_model_num",
    ] {
        writeln!(text, "_atom_site.{tag}").expect("a string takes all text");
    }
    for (at, (letter, residue)) in sequence.bytes().zip(residues).enumerate() {
        for (name, [x, y, z]) in ATOMS.iter().zip(residue) {
            let n = at + 1;
            writeln!(text, "ATOM {n} {name} {} A A {n} {x:.3} {y:.3} {z:.3} 1.00 20.00 1", long(letter))
                .expect("a string takes all text");
        }
    }
    text + "#\n"
}

/// Writes one file and what is in it: records, and the reason of every bad one.
fn put(out: &Path, truth: &mut Truth, file: &str, text: &str, rows: u64, bad: &[&str]) -> Result<(), Error> {
    truth.rows.insert(file.to_owned(), rows);
    truth.merged.insert(file.to_owned(), 0);
    let reasons = truth.quarantine.entry(file.to_owned()).or_default();
    for reason in bad {
        *reasons.entry((*reason).to_owned()).or_default() += 1;
    }
    sheet::write_file(&out.join(file), text.as_bytes(), 1)
}

/// Writes the three folders.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let chosen = universe.choose_solved("structures", 0.5, |m| m.chain.disorder() < 0.1);
    let mut members = chosen.iter().map(|&at| &universe.members[at]);
    let mut next = || members.next().expect("half of a world of 97 proteins are more than are written");
    let fold = |member: &Member| {
        FOLDER.fold(&member.chain.q8, &mut Dice::new(universe.seed, "structures", member.family))
    };
    for nth in 0..6 {
        let member = next();
        let (id, residues) = (member.pdb.as_str(), fold(member));
        let mut text = pdb_chain(member.sequence(), &residues, |_| 20.0);
        let file = format!("{STRUCTURES}/{id}.pdb{}", if nth == 4 { ".gz" } else { "" });
        let good = text.clone();
        let (rows, bad): (u64, &[&str]) = match nth {
            0 => {
                // A strand of DNA, water, and a second model.
                text += &pdb_line("ATOM", "P", " DA", 'B', 1, [0.0; 3], 20.0);
                text += &pdb_line("HETATM", "O", "HOH", 'W', 9, [0.0; 3], 20.0);
                text = format!("{text}ENDMDL\nMODEL        2\n{good}ENDMDL\n");
                (2, &["not_protein"])
            }
            1 => {
                text.replace_range(30..54, "     nan     nan     nan");
                (1, &["bad_coordinates"])
            }
            2 => {
                text = good.lines().take(4 * 5).fold(String::new(), |all, line| all + line + "\n");
                (1, &["too_short"])
            }
            _ => (1, &[]),
        };
        put(out, truth, &file, &text, rows, bad)?;
    }
    let member = next();
    let file = format!("{STRUCTURES}/{}.cif", member.pdb);
    put(out, truth, &file, &mmcif(&member.pdb, member.sequence(), &fold(member)), 1, &[])?;

    for nth in 0..3 {
        let member = next();
        let mut text = format!("{}\n{}\n", member.sequence(), member.q8());
        for residue in &fold(member)[usize::from(nth == 1)..] {
            let numbers = residue[..3].iter().chain([&residue[1]]).flatten().map(|x| format!("{x:.3}"));
            text += &(numbers.collect::<Vec<_>>().join(" ") + "\n");
        }
        let file = format!("{CGDMS}/{}_A.txt", member.pdb);
        let bad: &[&str] = if nth == 1 { &["bad_coordinates"] } else { &[] };
        put(out, truth, &file, &text, 1, bad)?;
    }
    for nth in 0..4 {
        let member = next();
        let sure = |at: usize| if member.chain.disordered[at] { 42.0 } else { 91.5 };
        let value = |at: usize| if nth == 2 && at == 5 { 250.0 } else { sure(at) };
        let file = format!("{MODELS}/AF-{}-F1-model_v4.pdb", member.accession);
        let bad: &[&str] = if nth == 2 { &["out_of_range"] } else { &[] };
        put(out, truth, &file, &pdb_chain(member.sequence(), &fold(member), value), 1, bad)?;
    }
    Ok(())
}
