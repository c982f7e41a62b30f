//! Structures as PDB or mmCIF files, one or many chains each. Experimental ones give backbones (kind `structure`),
//! predicted ones the confidence of their residues (kind `predicted`), which stands in the column of the B factors.
//!
//! Of a file the first model is read, of alternative places the one with the highest occupancy (of equals the first),
//! and the residues that were observed: a residue without coordinates is not in the sequence. Nucleic acids are
//! quarantined; ligands and water belong to no chain.

use std::path::Path;

use crate::Error;
use crate::claim::{Chain, Claim, Plddt};
use crate::config::Kind;
use crate::reader::{Input, Lines};
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink, chain_of, mmcif, pdb};

/// One atom, as either format gives it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Atom {
    /// 1-based line of the file.
    pub(crate) line: u64,
    /// Whether it stands among the hetero groups.
    pub(crate) is_hetero: bool,
    /// `CA`.
    pub(crate) name: String,
    /// `ALA`.
    pub(crate) residue: String,
    /// Name of the chain, empty if it has none.
    pub(crate) chain: String,
    /// Number and insertion code.
    pub(crate) number: String,
    /// Å.
    pub(crate) at_ang: [f64; 3],
    pub(crate) occupancy: f64,
    pub(crate) b_factor: Option<f64>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Structure {
    /// PDB id the file states, if it does.
    pub(crate) id: Option<String>,
    /// Chains in the order of their first atom.
    chains: Vec<Polymer>,
    /// The first line that could not be read, with what is wrong with it.
    pub(crate) fault: Option<(u64, Fault)>,
}

#[derive(Debug)]
struct Polymer {
    name: String,
    line: u64,
    residues: Vec<Residue>,
    is_nucleic: bool,
}

#[derive(Debug)]
struct Residue {
    number: String,
    name: String,
    letter: char,
    /// N, CA, C, O: place, occupancy.
    atoms: [Option<([f64; 3], f64)>; 4],
    /// B factor of CA.
    b_factor: Option<f64>,
}

impl Structure {
    /// Adds an atom of the first model.
    pub(crate) fn add(&mut self, atom: &Atom) {
        let letter = letter(&atom.residue);
        let is_nucleic = !atom.is_hetero && is_nucleotide(&atom.residue);
        // A hetero group in a chain is a modified residue if its letter is known, else a ligand or water.
        if atom.is_hetero && letter.is_none_or(|l| l == 'X') {
            return;
        }
        let at = self.chains.iter().position(|chain| chain.name == atom.chain).unwrap_or(self.chains.len());
        if at == self.chains.len() {
            let (name, line) = (atom.chain.clone(), atom.line);
            self.chains.push(Polymer { name, line, residues: vec![], is_nucleic });
        }
        let chain = &mut self.chains[at];
        if is_nucleic {
            chain.is_nucleic |= chain.residues.is_empty();
            return;
        }
        let letter = letter.unwrap_or('X');
        // Atoms of a residue follow each other; one whose number came before is looked up.
        let known = chain.residues.iter().rposition(|r| r.number == atom.number);
        let at = known.unwrap_or(chain.residues.len());
        if at == chain.residues.len() {
            let (number, name) = (atom.number.clone(), atom.residue.clone());
            chain.residues.push(Residue { number, name, letter, atoms: [None; 4], b_factor: None });
        }
        let residue = &mut chain.residues[at];
        // Where two kinds of residues share a place the first stays.
        if residue.name != atom.residue {
            return;
        }
        let Some(slot) = ["N", "CA", "C", "O"].iter().position(|name| *name == atom.name) else { return };
        let better = residue.atoms[slot].is_none_or(|(_, occupancy)| atom.occupancy > occupancy);
        if better {
            residue.atoms[slot] = Some((atom.at_ang, atom.occupancy));
            if slot == 1 {
                residue.b_factor = atom.b_factor;
            }
        }
    }
}

/// Letter of an amino acid, standard, modified or in the spelling of a simulation package; `None` for what is none.
fn letter(name: &str) -> Option<char> {
    const LETTERS: [(&str, char); 62] = [
        ("ALA", 'A'),
        ("ARG", 'R'),
        ("ASN", 'N'),
        ("ASP", 'D'),
        ("CYS", 'C'),
        ("GLN", 'Q'),
        ("GLU", 'E'),
        ("GLY", 'G'),
        ("HIS", 'H'),
        ("ILE", 'I'),
        ("LEU", 'L'),
        ("LYS", 'K'),
        ("MET", 'M'),
        ("PHE", 'F'),
        ("PRO", 'P'),
        ("SER", 'S'),
        ("THR", 'T'),
        ("TRP", 'W'),
        ("TYR", 'Y'),
        ("VAL", 'V'),
        ("SEC", 'U'),
        ("PYL", 'O'),
        ("ASX", 'B'),
        ("GLX", 'Z'),
        ("UNK", 'X'),
        ("MSE", 'M'),
        ("FME", 'M'),
        ("SEP", 'S'),
        ("TPO", 'T'),
        ("PTR", 'Y'),
        ("TYS", 'Y'),
        ("CSO", 'C'),
        ("CSD", 'C'),
        ("CME", 'C'),
        ("OCS", 'C'),
        ("CAS", 'C'),
        ("CSX", 'C'),
        ("SCY", 'C'),
        ("CYX", 'C'),
        ("CYM", 'C'),
        ("MLY", 'K'),
        ("MLZ", 'K'),
        ("M3L", 'K'),
        ("ALY", 'K'),
        ("KCX", 'K'),
        ("LLP", 'K'),
        ("LYN", 'K'),
        ("HYP", 'P'),
        ("PCA", 'Q'),
        ("CGU", 'E'),
        ("GLH", 'E'),
        ("ASH", 'D'),
        ("HIC", 'H'),
        ("NEP", 'H'),
        ("HSD", 'H'),
        ("HSE", 'H'),
        ("HSP", 'H'),
        ("HID", 'H'),
        ("HIE", 'H'),
        ("HIP", 'H'),
        ("AGM", 'R'),
        ("NLE", 'L'),
    ];
    LETTERS.iter().find(|(known, _)| *known == name).map(|(_, letter)| *letter)
}

fn is_nucleotide(name: &str) -> bool {
    matches!(
        name,
        "A" | "C"
            | "G"
            | "U"
            | "I"
            | "N"
            | "DA"
            | "DC"
            | "DG"
            | "DT"
            | "DU"
            | "DI"
            | "DN"
            | "RA"
            | "RC"
            | "RG"
            | "RU"
            | "ADE"
            | "CYT"
            | "GUA"
            | "THY"
            | "URA"
    )
}

/// Reads one file: every chain is a record.
pub(crate) fn read(context: &Context, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    let path = input.path().to_owned();
    let is_mmcif = input.begins_with(b"data_");
    let mut lines = Lines::new(input);
    let structure = if is_mmcif { mmcif::read(&mut lines)? } else { pdb::read(&mut lines)? };
    if let Some((line, fault)) = structure.fault {
        // One atom that cannot be read makes the chain a guess, so the file is refused as one record.
        return sink.put(line, &fault.detail.clone(), Err(fault));
    }
    if structure.chains.is_empty() {
        return Err(Error::Format {
            path,
            place: format!("line {}", lines.number().max(1)),
            detail: "no atom of an amino acid or nucleotide".into(),
            hint: "a PDB or mmCIF file was expected; check `kind` and `files` of the source".into(),
        });
    }
    let n = structure.chains.iter().filter(|chain| !chain.is_nucleic).count();
    for chain in &structure.chains {
        let parsed = if context.source.kind == Kind::Predicted {
            confidence(context, &accession(&path, chain, n), chain)
        } else {
            backbone(context, &name(&path, structure.id.as_deref(), chain), chain)
        };
        sink.put(chain.line, &format!("chain {:?}", chain.name), parsed)?;
    }
    Ok(())
}

/// File name without the endings of structure files.
fn base(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let ends = [".pdb", ".ent", ".cif"].iter().find_map(|end| name.strip_suffix(end));
    ends.unwrap_or(name).to_owned()
}

/// `1abc.A` where the file states an id or is named by one (`1ABC`, `pdb1abc`, `1ABC_A`, `1abc.A`); else file name and chain.
fn name(path: &Path, stated: Option<&str>, chain: &Polymer) -> String {
    let base = base(path);
    let ends = [format!("_{}", chain.name), format!(".{}", chain.name)];
    let plain = ends.iter().find_map(|end| base.strip_suffix(end)).unwrap_or(&base);
    let plain = plain.strip_prefix("pdb").unwrap_or(plain);
    chain_of(stated.unwrap_or(plain), &chain.name)
}

/// UniProt accession of an AlphaFold DB file (`AF-P12345-F1-model_v4`), else the file name; with the chain if there
/// are several.
fn accession(path: &Path, chain: &Polymer, n: usize) -> String {
    let base = base(path);
    let mut parts = base.split('-');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some("AF"), Some(accession), Some("F1")) => accession.to_owned(),
        _ => base,
    };
    if n > 1 { format!("{name}.{}", chain.name) } else { name }
}

fn residues(context: &Context, chain: &Polymer) -> Result<crate::claim::Residues, Fault> {
    if chain.is_nucleic {
        return Err(Fault::new(Reason::NotProtein, format!("chain {:?} is a nucleic acid", chain.name)));
    }
    context.protein(&chain.residues.iter().map(|r| r.letter).collect::<String>())
}

fn backbone(context: &Context, name: &str, chain: &Polymer) -> Result<Parsed, Fault> {
    let protein = residues(context, chain)?;
    let mut backbone_ang = Vec::with_capacity(12 * chain.residues.len());
    for residue in &chain.residues {
        for atom in residue.atoms {
            let place = atom.map_or([f32::NAN; 3], |(at, _)| at.map(|x| x as f32));
            backbone_ang.extend(place);
        }
    }
    if !chain.residues.iter().any(|r| r.atoms[1].is_some()) {
        return Err(Fault::new(Reason::BadCoordinates, "no residue has a CA"));
    }
    let split = context.chain_split.as_deref();
    let (published_split, cath) = split.map_or((String::new(), vec![]), |s| s.of(name));
    let test = published_split == "test";
    let chain = Chain { backbone_ang, cath, published_split };
    Ok(Claim { chain: Some(chain.into()), test, ..Claim::of(protein, name) }.into())
}

/// pLDDT of every residue: 0–100, or 0–1 as ESMFold's API writes it.
fn confidence(context: &Context, accession: &str, chain: &Polymer) -> Result<Parsed, Fault> {
    let protein = residues(context, chain)?;
    let mut plddt = Vec::with_capacity(chain.residues.len());
    for residue in &chain.residues {
        let missing = || {
            Fault::new(Reason::MissingValue, format!("residue {} has no CA or no B factor", residue.number))
        };
        plddt.push(residue.b_factor.ok_or_else(missing)?);
    }
    let largest = plddt.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = if largest <= 1.0 { 100.0 } else { 1.0 };
    plddt.iter_mut().for_each(|value| *value *= scale);
    if let Some((at, value)) = plddt.iter().enumerate().find(|(_, v)| !(0.0..=100.0).contains(*v)) {
        return Err(Fault::new(Reason::OutOfRange, format!("pLDDT {value} of residue {}", at + 1)));
    }
    let mean = plddt.iter().sum::<f64>() / plddt.len() as f64;
    let plddt = plddt.into_iter().map(|x| x as f32).collect();
    Ok(Claim {
        plddt: Some(Plddt { mean_plddt: mean as f32, plddt }.into()),
        ..Claim::of(protein, accession)
    }
    .into())
}

#[cfg(test)]
#[path = "structure_tests.rs"]
mod tests;
