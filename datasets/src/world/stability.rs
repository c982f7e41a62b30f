//! ΔΔG of the made-up proteins, and the files that report it.

use std::path::Path;

use super::Truth;
use super::dice::Dice;
use super::fault;
use super::sheet::Sheet;
use super::universe::{Member, Universe, accession, ghost_pdb};
use crate::Error;

pub(super) const S2648: &str = "ddg/madeup_S2648.csv.gz";
pub(super) const FIREPROT: &str = "ddg/madeup_fireprot.csv.gz";
/// Published test set: mutations, negative = destabilising.
pub(super) const SSYM_DIRECT: &str = "ddg/madeup_Ssym_direct.csv.gz";
/// The same mutations from mutant to wild type.
pub(super) const SSYM_REVERSE: &str = "ddg/madeup_Ssym_reverse.csv.gz";

const PROSTATA_HEADER: &str = ",wt_seq,mut_seq,ddg,pdb_id,mut_info,pos\n";
const FIREPROT_HEADER: &str = ",Unnamed: 0,experiment_id,protein_name,uniprot_id,pdb_id,chain,position,wild_type,\
    mutation,ddG,dTm,is_curated,type,derived_type,interpro_families,conservation,is_essential,correlated_positions,\
    is_back_to_consensus,secondary_structure,asa,is_in_catalytic_pocket,is_in_tunnel_bottleneck,b_factor,method,\
    method_details,technique,technique_details,pH,tm,notes,publication_doi,publication_pubmed,hsw_job_id,datasets,\
    sequence,pdb_id_corrected,dupe_detector,pdb_position,pdb_sequence,oligomeric_state,structure_method,resolution\n";

/// Hydrophobicity of Kyte and Doolittle (J. Mol. Biol. 157:105, 1982) and volume in Å³ (Zamyatnin 1972).
fn hydrophobicity_and_volume(residue: u8) -> (f64, f64) {
    match residue {
        b'A' => (1.8, 88.6),
        b'C' => (2.5, 108.5),
        b'D' => (-3.5, 111.1),
        b'E' => (-3.5, 138.4),
        b'F' => (2.8, 189.9),
        b'G' => (-0.4, 60.1),
        b'H' => (-3.2, 153.2),
        b'I' => (4.5, 166.7),
        b'K' => (-3.9, 168.6),
        b'L' => (3.8, 166.7),
        b'M' => (1.9, 162.9),
        b'N' => (-3.5, 114.1),
        b'P' => (-1.6, 112.7),
        b'Q' => (-3.5, 143.8),
        b'R' => (-4.5, 173.4),
        b'S' => (-0.8, 89.0),
        b'T' => (-0.7, 116.1),
        b'V' => (4.2, 140.0),
        b'W' => (-0.9, 227.8),
        _ => (-1.3, 193.6),
    }
}

/// A point mutation of a made-up protein.
#[derive(Debug, Clone)]
pub(super) struct Mutation<'a> {
    pub(super) member: &'a Member,
    /// 0-based.
    pub(super) at: usize,
    pub(super) wild_type: char,
    pub(super) mutant: char,
    /// Hundredths of kcal/mol of folding, positive = destabilising: whole numbers, so that signs flip exactly.
    pub(super) hundredths: i64,
}

/// What a residue costs in the middle of a helix, kcal/mol, alanine 0 (Pace and Scholtz, Biophys. J. 75:422, 1998).
fn helix_cost(residue: u8) -> f64 {
    match residue {
        b'A' => 0.0,
        b'L' | b'R' => 0.21,
        b'M' => 0.24,
        b'K' => 0.26,
        b'Q' => 0.39,
        b'E' => 0.40,
        b'I' => 0.41,
        b'W' => 0.49,
        b'S' => 0.50,
        b'Y' => 0.53,
        b'F' => 0.54,
        b'H' | b'V' => 0.61,
        b'N' => 0.65,
        b'T' => 0.66,
        b'C' => 0.68,
        b'D' => 0.69,
        b'G' => 1.0,
        _ => 3.16,
    }
}

/// What a residue costs in the middle of a strand, kcal/mol, alanine 0 (Minor and Kim, Nature 367:660, 1994; proline costs
/// more than 3).
fn strand_cost(residue: u8) -> f64 {
    match residue {
        b'T' => -1.1,
        b'I' => -1.0,
        b'Y' => -0.96,
        b'F' => -0.86,
        b'V' => -0.82,
        b'M' => -0.72,
        b'S' => -0.70,
        b'W' => -0.54,
        b'C' => -0.52,
        b'L' => -0.51,
        b'R' => -0.45,
        b'K' => -0.27,
        b'Q' => -0.23,
        b'E' => -0.01,
        b'A' => 0.0,
        b'H' => 0.02,
        b'N' => 0.08,
        b'D' => 0.94,
        b'G' => 1.2,
        _ => 3.0,
    }
}

/// The rule of the universe: helix and strand pay for what the mutant costs more in them, a buried residue for lost
/// hydrophobicity and changed volume; kcal/mol, positive = destabilising. What is good for a helix is bad for a strand, so
/// which residue becomes which decides less than where.
fn ddg_kcal(burial: f64, state: u8, wild_type: u8, mutant: u8) -> f64 {
    let ((hydro_w, volume_w), (hydro_m, volume_m)) =
        (hydrophobicity_and_volume(wild_type), hydrophobicity_and_volume(mutant));
    let lost = (hydro_w - hydro_m) / 9.0;
    let strain = (volume_w - volume_m).abs() / 100.0;
    let fit = match state {
        b'H' | b'G' | b'I' => helix_cost(mutant) - helix_cost(wild_type),
        b'E' | b'B' => strand_cost(mutant) - strand_cost(wild_type),
        _ => 0.0,
    };
    1.3 * fit + burial * (lost + 0.6 * strain)
}

impl<'a> Mutation<'a> {
    /// A mutation of an ordered residue, of helix or strand and buried ones preferred, as people choose them.
    fn draw(member: &'a Member, dice: &mut Dice) -> Self {
        let chain = &member.chain;
        let weight = |i: usize| match (chain.disordered[i], chain.q8[i]) {
            (true, _) => 0.0,
            (false, b'C' | b'T' | b'S') => 0.1,
            (false, _) => 0.3 + chain.burial[i],
        };
        let weights: Vec<f64> = (0..chain.len()).map(weight).collect();
        let at = dice.weighted(&weights);
        let wild_type = chain.sequence.as_bytes()[at];
        let others: Vec<u8> =
            b"ACDEFGHIKLMNPQRSTVWYAAAAG".iter().copied().filter(|&l| l != wild_type).collect();
        let mutant = *dice.pick(&others);
        let kcal = ddg_kcal(chain.burial[at], chain.q8[at], wild_type, mutant) + 0.25 * dice.normal();
        let hundredths = (100.0 * kcal).round() as i64;
        Self { member, at, wild_type: wild_type as char, mutant: mutant as char, hundredths }
    }

    pub(super) fn mutant_sequence(&self) -> String {
        let mut sequence = self.member.sequence().to_owned();
        sequence.replace_range(self.at..=self.at, &self.mutant.to_string());
        sequence
    }

    /// `A13V`, 1-based.
    pub(super) fn info(&self) -> String {
        format!("{}{}{}", self.wild_type, self.at + 1, self.mutant)
    }

    /// The row of the PROSTATA tables, which write negative = destabilising and positions from 0.
    fn prostata(&self, number: usize) -> String {
        let (wild, mutant) = (self.member.sequence(), self.mutant_sequence());
        prostata_row(number, wild, &mutant, &kcal(-self.hundredths), &self.member.pdb, &self.info(), self.at)
    }

    /// The same seen from the mutant.
    fn reversed(&self, number: usize) -> String {
        let (wild, mutant) = (self.member.sequence(), self.mutant_sequence());
        let info = format!("{}{}{}", self.mutant, self.at + 1, self.wild_type);
        prostata_row(number, &mutant, wild, &kcal(self.hundredths), &self.member.pdb, &info, self.at)
    }

    /// The row of FireProtDB: positive = destabilising, `position` from 1 in the full sequence (here with a signal
    /// peptide before it), `pdb_position` from 0 in the PDB one.
    fn fireprot(&self, number: usize) -> String {
        let Self { at, wild_type, mutant, .. } = self;
        fireprot_row(
            number,
            self.member,
            *at,
            &wild_type.to_string(),
            &mutant.to_string(),
            &kcal(self.hundredths),
        )
    }
}

/// Hundredths as a decimal number.
pub(super) fn kcal(hundredths: i64) -> String {
    let sign = if hundredths < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", hundredths.abs() / 100, hundredths.abs() % 100)
}

fn prostata_row(
    number: usize,
    wild: &str,
    mutant: &str,
    ddg: &str,
    pdb: &str,
    info: &str,
    pos: usize,
) -> String {
    format!("{number},{wild},{mutant},{ddg},{pdb}A,{info},{pos}")
}

fn fireprot_row(number: usize, member: &Member, at: usize, wild: &str, mutant: &str, ddg: &str) -> String {
    let signal = "MKKLLAAVALLSAASA";
    let (pdb, id, sequence) = (&member.pdb, &member.accession, member.sequence());
    let position = signal.len() + at + 1;
    let state = if member.chain.q8[at] == b'C' { 'L' } else { member.chain.q8[at] as char };
    format!(
        "{number},{number},MU{number:06},{},{id},{pdb},A,{position},{wild},{mutant},{ddg},,True,,,,5.0,False,,False,\
         {state},{:.1},False,False,20.0,Urea,,Fluorescence,,7.0,,,10.0000/made-up,99000000.0,madeup,MadeUp,\
         {signal}{sequence},{pdb},{pdb}-A-{at}-{mutant}-{id},{at},{sequence},monomer,X-ray,2.0",
        member.name(),
        100.0 * (1.0 - member.chain.burial[at]),
    )
}

/// Distinct mutations of each of the proteins.
fn mutations<'a>(universe: &'a Universe, chosen: &[usize], each: usize, stream: &str) -> Vec<Mutation<'a>> {
    let mut all = Vec::new();
    for &at in chosen {
        let mut dice = Dice::new(universe.seed, stream, at);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..each {
            let mutation = Mutation::draw(&universe.members[at], &mut dice);
            if seen.insert((mutation.at, mutation.mutant)) {
                all.push(mutation);
            }
        }
    }
    all
}

/// Proteins with measured mutations, in the order in which the files take their shares.
fn ordered(universe: &Universe) -> Vec<usize> {
    let mut ordered = universe.choose_solved("ddg", 0.5, |m| m.chain.disorder() < 0.2);
    universe.dice("ddg").shuffle(&mut ordered);
    ordered
}

fn share(universe: &Universe, ordered: &[usize], part: usize) -> usize {
    (universe.members.len() / part).clamp(3, ordered.len() / 4)
}

/// The mutations of S2648, for the other lists that hold them.
pub(super) fn of_s2648(universe: &Universe) -> Vec<Mutation<'_>> {
    let ordered = ordered(universe);
    mutations(universe, &ordered[..share(universe, &ordered, 8)], 12, S2648)
}

/// Writes the four files. Wild types of S2648 and FireProtDB are different; two of five of Ssym are in S2648 too.
pub(super) fn write(universe: &Universe, out: &Path, truth: &mut Truth) -> Result<(), Error> {
    let ordered = ordered(universe);
    let share = |part: usize| share(universe, &ordered, part);
    let (s2648, rest) = ordered.split_at(share(8));
    let (fireprot, rest) = rest.split_at(share(16));
    let ssym_n = share(64);
    let ssym: Vec<usize> =
        s2648[..ssym_n * 2 / 5].iter().chain(&rest[..ssym_n - ssym_n * 2 / 5]).copied().collect();
    write_s2648(universe, &mutations(universe, s2648, 12, S2648), out, truth)?;
    write_fireprot(universe, &mutations(universe, fireprot, 12, FIREPROT), out, truth)?;
    let mutations = mutations(universe, &ssym, 11, SSYM_DIRECT);
    let (mut direct, mut reverse) =
        (Sheet::new(SSYM_DIRECT, PROSTATA_HEADER), Sheet::new(SSYM_REVERSE, PROSTATA_HEADER));
    for (number, mutation) in mutations.iter().enumerate() {
        direct.keep(mutation.prostata(number));
        reverse.keep(mutation.reversed(number));
        truth.hold(SSYM_DIRECT, mutation.member.sequence());
        truth.hold(SSYM_REVERSE, &mutation.mutant_sequence());
    }
    direct.finish(out, truth)?;
    reverse.finish(out, truth)
}

fn write_s2648(
    universe: &Universe,
    all: &[Mutation<'_>],
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    let mut sheet = Sheet::new(S2648, PROSTATA_HEADER);
    for (number, mutation) in all.iter().enumerate() {
        sheet.keep(mutation.prostata(number));
        truth.hold(S2648, mutation.member.sequence());
    }
    for (nth, mutation) in all.iter().step_by(11).take(3).enumerate() {
        sheet.merge(mutation.prostata(all.len() + nth));
    }
    plant_s2648(&mut sheet, &mut universe.dice(S2648));
    sheet.finish(out, truth)
}

/// Bad mutations of a protein that no good row has.
fn plant_s2648(sheet: &mut Sheet, dice: &mut Dice) {
    let wild = fault::letters(61, dice);
    let pdb = ghost_pdb(100);
    let mutated = |at: usize, letter: char| {
        let mut sequence = wild.clone();
        sequence.replace_range(at..=at, &letter.to_string());
        sequence
    };
    let letter = |at: usize| wild.as_bytes()[at] as char;
    let other = |at: usize| if letter(at) == 'A' { 'V' } else { 'A' };
    let row = |at: usize, ddg: &str| {
        let info = format!("{}{}{}", letter(at), at + 1, other(at));
        prostata_row(9_000 + at, &wild, &mutated(at, other(at)), ddg, &pdb, &info, at)
    };
    for (at, reason, ddg) in [
        (3, "missing_value", ""),
        (5, "missing_value", "nan"),
        (7, "out_of_range", "99.0"),
        (11, "out_of_range", "-31.5"),
        (13, "malformed", "strong"),
    ] {
        sheet.fault(reason, row(at, ddg));
    }
    for (reason, bytes) in fault::bytes(&row(17, "-1.0")) {
        sheet.fault(reason, bytes);
    }
    sheet.fault("malformed", format!("9100,{wild},-1.0,{pdb}A"));
    // the mutation names another wild-type residue than the sequence has
    let wrong = if letter(19) == 'W' { 'F' } else { 'W' };
    let info = format!("{wrong}20{}", other(19));
    sheet.fault(
        "mutation_mismatch",
        prostata_row(9_019, &wild, &mutated(19, other(19)), "-1.0", &pdb, &info, 19),
    );
    // the mutant differs at a second position
    let mut twice = mutated(23, other(23));
    twice.replace_range(29..=29, &other(29).to_string());
    let info = format!("{}24{}", letter(23), other(23));
    sheet.fault("mutation_mismatch", prostata_row(9_023, &wild, &twice, "-1.0", &pdb, &info, 23));
    // the position lies behind the end
    let info = format!("{0}99{1}", letter(0), other(0));
    sheet.fault(
        "mutation_mismatch",
        prostata_row(9_098, &wild, &mutated(0, other(0)), "-1.0", &pdb, &info, 98),
    );
    // a synonymous mutation
    let info = format!("{0}31{0}", letter(30));
    sheet.fault("bad_mutation", prostata_row(9_030, &wild, &wild, "-1.0", &pdb, &info, 30));
}

fn write_fireprot(
    universe: &Universe,
    all: &[Mutation<'_>],
    out: &Path,
    truth: &mut Truth,
) -> Result<(), Error> {
    let mut sheet = Sheet::new(FIREPROT, FIREPROT_HEADER);
    for (number, mutation) in all.iter().enumerate() {
        sheet.keep(mutation.fireprot(number));
        truth.hold(FIREPROT, mutation.member.sequence());
    }
    sheet.merge(all[1].fireprot(all.len()));
    // of a protein that no file has a good mutation of
    let mut member = universe.members[0].clone();
    member.chain = member.chain.mutated(member.chain.len() / 3, &mut universe.dice(FIREPROT));
    member.accession = accession(9 * 12_960 + 4_000);
    member.pdb = ghost_pdb(200);
    let wild = |at: usize| member.sequence()[at..=at].to_owned();
    let other = |at: usize| if wild(at) == "A" { "V" } else { "A" };
    for (at, reason, ddg) in [(2, "missing_value", ""), (3, "out_of_range", "77.0"), (5, "malformed", "weak")]
    {
        sheet.fault(reason, fireprot_row(9_000 + at, &member, at, &wild(at), other(at), ddg));
    }
    let wrong = if wild(7) == "W" { "F" } else { "W" };
    sheet.fault("mutation_mismatch", fireprot_row(9_007, &member, 7, wrong, other(7), "1.0"));
    sheet.fault("bad_mutation", fireprot_row(9_011, &member, 11, &wild(11), "?", "1.0"));
    sheet.fault("bad_mutation", fireprot_row(9_013, &member, 13, &wild(13), &wild(13), "1.0"));
    sheet.fault("malformed", "9014,9014,too,few,columns");
    sheet.finish(out, truth)
}
