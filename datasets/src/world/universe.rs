//! The proteins: families of homologs, single proteins, and what each of them does.

use std::collections::{BTreeMap, HashSet};

use super::chain::{Chain, Plan};
use super::dice::Dice;
use super::motif::{self, MOTIFS};
use crate::residue;

/// One protein of the universe.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// `X0M…`: the form of a UniProt accession, in a range that holds none.
    pub(super) accession: String,
    /// `0A1B`: the form of a PDB id; real ones never begin with 0. Empty beyond the first 40,000 proteins, whose
    /// structure nobody has solved.
    pub(super) pdb: String,
    pub(super) chain: Chain,
    /// Indices into [`MOTIFS`], ascending.
    pub(super) motifs: Vec<usize>,
    /// Number of its family; single proteins have one of their own.
    pub(super) family: usize,
    /// Identity to the founder of the family, 1 for the founder.
    pub(super) identity: f64,
    pub(super) organism: usize,
}

/// Made-up organisms: name, mnemonic of entry names, taxon (beyond those in use).
pub(super) const ORGANISMS: [(&str, &str, u32); 5] = [
    ("Fictus albus", "FICAL", 99_000_001),
    ("Fictus ruber (strain made-up 7)", "FICRU", 99_000_002),
    ("Imaginaria magna", "IMAMA", 99_000_003),
    ("Nusquama parva", "NUSPA", 99_000_004),
    ("Utopiella lenta", "UTOLE", 99_000_005),
];

/// Proteins that have a PDB id; ids of ghosts begin at 45,000.
const N_SOLVED: usize = 40_000;
/// Proteins with an accession of six characters; the others have ten. Above are secondary accessions and ghosts.
const N_SHORT: usize = 8 * 12_960;

/// All proteins; those of a family follow each other.
pub(super) struct Universe {
    pub(super) seed: u64,
    pub(super) members: Vec<Member>,
}

impl Universe {
    /// `n` distinct proteins: half of them in families of 2–6 homologs.
    pub(super) fn new(seed: u64, n: usize) -> Self {
        let mut universe = Self { seed, members: Vec::new() };
        let mut known = HashSet::new();
        let mut family = 0;
        while universe.members.len() < n {
            let mut dice = Dice::new(seed, "family", family);
            let (motifs, founder) = draw_founder(&mut dice);
            let homologs = if family % 3 == 0 { dice.range(1, 5) } else { 0 };
            let mut chains = vec![(founder.clone(), 1.0)];
            for at in 0..homologs {
                // the last homolog of a family differs in one or two residues only: a near duplicate
                let identity = if at == 4 { 0.98 } else { dice.between(0.6, 0.95) };
                let changed = (((1.0 - identity) * founder.len() as f64).round() as usize).max(1);
                let identity = 1.0 - changed as f64 / founder.len() as f64;
                chains.push((founder.mutated(changed, &mut dice), identity));
            }
            for (chain, identity) in chains.into_iter().filter(|(c, _)| known.insert(c.sequence.clone())) {
                universe.add(chain, identity, &motifs, family, &mut dice);
            }
            family += 1;
        }
        universe.members.truncate(n);
        universe
    }

    fn add(&mut self, chain: Chain, identity: f64, motifs: &[usize], family: usize, dice: &mut Dice) {
        let number = self.members.len();
        let accession = match number.checked_sub(N_SHORT) {
            None => accession(number),
            Some(more) => format!("{}M{}0", accession(more % N_SHORT), base36(more / N_SHORT, 2)),
        };
        let pdb = if number < N_SOLVED { pdb_id(number) } else { String::new() };
        let (motifs, organism) = (motifs.to_vec(), dice.below(ORGANISMS.len()));
        self.members.push(Member { accession, pdb, chain, motifs, family, identity, organism });
    }

    /// Draws for one writer of files.
    pub(super) fn dice(&self, stream: &str) -> Dice {
        Dice::new(self.seed, stream, 0)
    }

    /// Indices of about `fraction` of the proteins that `fits`, in their order, decided protein by protein: another
    /// stream gives another choice.
    pub(super) fn choose(&self, stream: &str, fraction: f64, fits: impl Fn(&Member) -> bool) -> Vec<usize> {
        let chosen =
            |at: &usize| Dice::new(self.seed, stream, *at).chance(fraction) && fits(&self.members[*at]);
        (0..self.members.len()).filter(chosen).collect()
    }

    /// As [`Universe::choose`], of the proteins whose structure is solved.
    pub(super) fn choose_solved(
        &self,
        stream: &str,
        fraction: f64,
        fits: impl Fn(&Member) -> bool,
    ) -> Vec<usize> {
        self.choose(stream, fraction, |m| !m.pdb.is_empty() && fits(m))
    }

    /// Family of every protein, by [`residue::protein_id`].
    pub(super) fn families(&self) -> BTreeMap<String, usize> {
        self.members.iter().map(|m| (residue::protein_id(&m.chain.sequence), m.family)).collect()
    }
}

impl Member {
    /// Residues.
    pub(super) fn sequence(&self) -> &str {
        &self.chain.sequence
    }

    /// Secondary structure in DSSP letters.
    pub(super) fn q8(&self) -> String {
        super::chain::text(self.chain.q8.clone())
    }

    /// `kresp lock protein 17`: the name of the first motif and the family.
    pub(super) fn name(&self) -> String {
        let first = &MOTIFS[self.motifs[0]];
        let what = match first.role {
            motif::Role::Lock(_) => "lock protein",
            motif::Role::Key(_) => "key protein",
            motif::Role::Enzyme => "isomerase",
            motif::Role::Carrier => "carrier",
        };
        format!("Made-up {} {what} {}", first.stem, self.family)
    }

    /// `kreA17`.
    pub(super) fn gene(&self) -> String {
        let letter = (b'A' + (self.motifs[0] % 26) as u8) as char;
        format!("{}{letter}{}", &MOTIFS[self.motifs[0]].stem[..3], self.family)
    }

    /// `X0M001_FICAL`.
    pub(super) fn entry_name(&self) -> String {
        format!("{}_{}", self.accession, ORGANISMS[self.organism].1)
    }

    /// The sentence about what it does: the deeds of its motifs.
    pub(super) fn function(&self) -> String {
        let deeds: Vec<String> = self.motifs.iter().map(|&m| MOTIFS[m].deed()).collect();
        deeds.join(" and ")
    }
}

fn draw_founder(dice: &mut Dice) -> (Vec<usize>, Chain) {
    // short chains are more frequent, mean about 80
    let length = 40 + (121.0 * dice.unit().powf(1.8)) as usize;
    // a motif for every 30 residues at most, so that shared motifs do not make proteins look like homologs
    let count = dice.range(1, (length / 33).clamp(1, 3));
    let mut motifs: Vec<usize> = (0..MOTIFS.len()).collect();
    dice.shuffle(&mut motifs);
    motifs.truncate(count);
    motifs.sort_unstable();
    let helical = *dice.pick(&[0.95, 0.05, 0.5, 0.5]);
    let disorder = match dice.weighted(&[0.52, 0.22, 0.26]) {
        0 => dice.between(0.0, 0.12),
        1 => dice.between(0.4, 0.75),
        _ => dice.between(0.93, 1.0),
    };
    let chain = Chain::draw(&Plan { length, motifs: &motifs, helical, disorder }, dice);
    (motifs, chain)
}

fn base36(mut number: usize, digits: usize) -> String {
    const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut out = vec![b'0'; digits];
    for slot in out.iter_mut().rev() {
        *slot = DIGITS[number % 36];
        number /= 36;
    }
    super::chain::text(out)
}

/// The accession with a number; numbers beyond the proteins name proteins that no file holds.
pub(super) fn accession(number: usize) -> String {
    format!("X{}M{}{}", number / 12_960, base36(number / 10 % 1_296, 2), number % 10)
}

/// The PDB id with a number.
pub(super) fn pdb_id(number: usize) -> String {
    format!("0{}", base36(number, 3))
}

/// An accession that no protein of the universe has: bad rows carry it.
pub(super) fn ghost(number: usize) -> String {
    accession(9 * 12_960 + number)
}

/// A PDB id that no protein of the universe has.
pub(super) fn ghost_pdb(number: usize) -> String {
    pdb_id(45_000 + number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proteins_are_distinct_and_carry_their_motifs() {
        let universe = Universe::new(7, 211);
        let distinct: std::collections::BTreeSet<_> = universe.members.iter().map(|m| m.sequence()).collect();
        assert_eq!(distinct.len(), 211);
        for member in &universe.members {
            assert!((40..=160).contains(&member.chain.len()));
            let found: Vec<usize> =
                (0..MOTIFS.len()).filter(|&m| MOTIFS[m].is_in(member.sequence())).collect();
            assert_eq!(found, member.motifs);
            assert!(member.identity >= 0.59);
        }
        let in_families = universe.members.iter().filter(|m| m.identity < 1.0).count();
        assert!((60..140).contains(&in_families), "{in_families}");
    }

    #[test]
    fn ids_are_unique() {
        let ids: std::collections::BTreeSet<_> = (0..20_011).map(accession).collect();
        assert_eq!(ids.len(), 20_011);
        assert_eq!((accession(12_969).as_str(), pdb_id(47).as_str()), ("X1M009", "001B"));
    }
}
