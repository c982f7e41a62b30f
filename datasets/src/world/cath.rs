//! CATH chains: backbones as JSON lines with bare `NaN`, and the split file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::json;

use super::backbone::{Folder, Residue};
use super::dice::Dice;
use super::fault;
use super::sheet::{self, Sheet};
use super::universe::{Member, Universe, ghost_pdb};
use super::{Truth, chain::Chain};
use crate::Error;

/// One chain a line.
pub(super) const CHAINS: &str = "cath/madeup_chain_set.jsonl.gz";
const SPLITS: &str = "cath/madeup_chain_set_splits.json";

/// Its turns are the same in every world, so they are searched once.
pub(super) static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

/// A number as Python writes it: `NaN` where there is no atom.
fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        _ if value.is_infinite() => "Infinity".to_owned(),
        _ => ((value * 1e3).round() / 1e3).to_string(),
    }
}

fn row(name: &str, sequence: &str, residues: &[Residue], nodes: &str) -> String {
    let atoms = |atom: usize| {
        let point = |r: &Residue| format!("[{}]", r[atom].map(number).join(", "));
        residues.iter().map(point).collect::<Vec<_>>().join(", ")
    };
    let [n, ca, c, o] = [0, 1, 2, 3].map(atoms);
    format!(
        "{{\"seq\": \"{sequence}\", \"coords\": {{\"N\": [{n}], \"CA\": [{ca}], \"C\": [{c}], \"O\": [{o}]}}, \
         \"num_chains\": 1, \"name\": \"{name}\", \"CATH\": [{nodes}]}}"
    )
}

/// Class by secondary-structure content (1 mainly α, 2 mainly β, 3 both, 4 little of either); the topology is the
/// family, so published parts share no topology.
pub(super) fn node(member: &Member) -> String {
    let (helix, strand) = (member.chain.fraction(b"HGI"), member.chain.fraction(b"EB"));
    let class = match (helix >= 0.15, strand >= 0.15) {
        (true, false) => 1,
        (false, true) => 2,
        (true, true) => 3,
        (false, false) => 4,
    };
    format!("{class}.{}.{}", 900 + 10 * (member.family % 7), member.family)
}

pub(super) fn name(pdb: &str) -> String {
    format!("{}.A", pdb.to_lowercase())
}

/// The backbone of a chain; ends and one loop of some chains are not resolved.
fn resolve(chain: &Chain, folder: &Folder, dice: &mut Dice) -> Vec<Residue> {
    let mut residues = folder.fold(&chain.q8, dice);
    let hidden = [f64::NAN; 3];
    if dice.chance(0.4) {
        let n = dice.range(1, 3);
        residues[..n].fill([hidden; 4]);
    }
    if dice.chance(0.2) {
        // a side of the chain that is seen only in part: no O
        let last = residues.len() - 1;
        residues[last][3] = hidden;
    }
    residues
}

/// Writes both files.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let chosen = universe.choose_solved("cath", 0.5, |m| m.chain.disorder() < 0.1);
    let mut sheet = Sheet::new(CHAINS, "");
    let folder = &*FOLDER;
    let (mut splits, mut nodes) = (BTreeMap::<&str, Vec<String>>::new(), BTreeMap::new());
    let mut rows = Vec::new();
    for &at in &chosen {
        let member = &universe.members[at];
        let residues = resolve(&member.chain, folder, &mut Dice::new(universe.seed, "cath/backbone", at));
        if residues.iter().flatten().flatten().any(|x| x.is_nan()) {
            truth.note_odd(CHAINS, "missing_atoms");
        }
        let (name, node) = (name(&member.pdb), node(member));
        rows.push(row(&name, member.sequence(), &residues, &format!("\"{node}\"")));
        let part = match Dice::new(universe.seed, "cath/split", member.family).below(20) {
            0..17 => "train",
            17 => "validation",
            _ => "test",
        };
        if part == "test" {
            truth.note_odd(CHAINS, "test_in_train");
        }
        splits.entry(part).or_default().push(name.clone());
        nodes.insert(name, vec![node]);
        truth.hold(CHAINS, member.sequence());
    }
    rows.iter().for_each(|row| sheet.keep(row.as_str()));
    rows.iter().take(2).for_each(|row| sheet.merge(row.as_str()));
    plant(&mut sheet, universe, folder, &name(&universe.members[chosen[0]].pdb));
    sheet.finish(out, truth)?;
    let part = |name: &str| splits.get(name).cloned().unwrap_or_default();
    let file = json!({
        "test": part("test"), "train": part("train"), "validation": part("validation"), "cath_nodes": nodes,
    });
    truth.rows.insert(SPLITS.to_owned(), chosen.len() as u64);
    sheet::write_file(&out.join(SPLITS), file.to_string().as_bytes(), 1)
}

fn plant(sheet: &mut Sheet, universe: &Universe, folder: &Folder, known: &str) {
    let mut dice = universe.dice(CHAINS);
    let coil = |n: usize, dice: &mut Dice| folder.fold(&vec![b'C'; n], dice);
    let other = fault::letters(43, &mut dice);
    sheet.late_fault("id_conflict", row(known, &other, &coil(43, &mut dice), ""));
    let mut names = (300..).map(|n| name(&ghost_pdb(n)));
    let mut next = || names.next().expect("ghosts never end");
    for (reason, sequence) in fault::sequences(&mut dice) {
        let residues = vec![[[1.0; 3]; 4]; sequence.len()];
        sheet.fault(reason, row(&next(), &sequence, &residues, ""));
    }
    let sequence = fault::letters(37, &mut dice);
    let mut infinite = coil(37, &mut dice);
    infinite[11][2][1] = f64::INFINITY;
    let unseen = vec![[[f64::NAN; 3]; 4]; 37];
    for residues in [infinite, unseen, coil(36, &mut dice), Vec::new()] {
        sheet.fault("bad_coordinates", row(&next(), &sequence, &residues, ""));
    }
    let good = row(&next(), &sequence, &coil(37, &mut dice), "");
    for (reason, bytes) in fault::bytes(&good) {
        sheet.fault(reason, bytes);
    }
    sheet.fault("malformed", &good[..good.len() / 2]);
    sheet.fault("malformed", good.replace("\"seq\"", "\"sequence\""));
}
