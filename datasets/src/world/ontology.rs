//! The made-up ontology: three namespaces, every leaf decided by a motif.

use std::collections::BTreeMap;

use super::motif::{MOTIFS, Role};

/// One term. Ids lie in `GO:99…`, a range that the Gene Ontology does not use.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) id: String,
    pub(super) name: String,
    /// `F`, `P` or `C`.
    pub(super) aspect: char,
    pub(super) is_a: Vec<String>,
    pub(super) part_of: Vec<String>,
    pub(super) alt_ids: Vec<String>,
    pub(super) obsolete: bool,
    pub(super) replaced_by: Option<String>,
}

/// The terms, and which of them each motif decides.
pub(super) struct Ontology {
    /// In the order of their ids.
    pub(super) terms: BTreeMap<String, Term>,
    /// For every motif its leaves: one function, one process, one component.
    pub(super) leaves: Vec<[String; 3]>,
}

/// Name of an aspect as OBO and QuickGO spell it.
pub(super) fn namespace(aspect: char) -> &'static str {
    match aspect {
        'F' => "molecular_function",
        'P' => "biological_process",
        _ => "cellular_component",
    }
}

const INNER: &[(u32, &str, char, &[u32])] = &[
    (1, "molecular_function", 'F', &[]),
    (2, "biological_process", 'P', &[]),
    (3, "cellular_component", 'C', &[]),
    (110, "docking activity", 'F', &[1]),
    (111, "lock activity", 'F', &[110]),
    (112, "key activity", 'F', &[110]),
    (113, "firm lock activity", 'F', &[111]),
    (114, "loose lock activity", 'F', &[111]),
    (115, "firm key activity", 'F', &[112]),
    (116, "loose key activity", 'F', &[112]),
    (120, "turning activity", 'F', &[1]),
    (121, "slow turning activity", 'F', &[120]),
    (122, "quick turning activity", 'F', &[120]),
    (130, "carriage activity", 'F', &[1]),
    (131, "small carriage activity", 'F', &[130]),
    (132, "large carriage activity", 'F', &[130]),
    (210, "assembly process", 'P', &[2]),
    (211, "inner assembly", 'P', &[210]),
    (212, "outer assembly", 'P', &[210]),
    (220, "turnover process", 'P', &[2]),
    (221, "morning turnover", 'P', &[220]),
    (222, "evening turnover", 'P', &[220]),
    (230, "passage process", 'P', &[2]),
    (231, "guarded passage", 'P', &[230, 210]),
    (310, "made-up body", 'C', &[3]),
    (311, "round body", 'C', &[310]),
    (312, "long body", 'C', &[310]),
    (320, "made-up envelope", 'C', &[3]),
];

const COMPONENTS: [(&str, u32); 6] = [
    ("amber granule", 311),
    ("opal granule", 311),
    ("copper filament", 312),
    ("silver filament", 312),
    ("outer veil", 320),
    ("inner veil", 320),
];

fn go(number: u32) -> String {
    format!("GO:99{number:05}")
}

fn function_leaf(motif: usize) -> (String, u32) {
    let stem = MOTIFS[motif].stem;
    match MOTIFS[motif].role {
        Role::Lock(n) => (format!("{stem} lock activity"), 113 + (n as u32) / 3),
        Role::Key(n) => (format!("{stem} key activity"), 115 + (n as u32) / 3),
        Role::Enzyme => (format!("{stem} turning activity"), 121 + (motif as u32) % 2),
        Role::Carrier => (format!("{stem} carriage activity"), 131 + (motif as u32) % 2),
    }
}

/// Two motifs share a process: a lock and its key, or two neighbours in the table.
fn process_leaf(motif: usize) -> (u32, String, u32) {
    let number = motif as u32 / 2;
    let stem = MOTIFS[motif - motif % 2].stem;
    let (what, parent) = match MOTIFS[motif].role {
        Role::Lock(n) | Role::Key(n) => ("assembly", 211 + (n as u32) % 2),
        Role::Enzyme => ("turnover", 221 + number % 2),
        Role::Carrier => ("passage", 231),
    };
    (250 + number, format!("{stem} {what}"), parent)
}

impl Ontology {
    /// The same for every seed.
    pub(super) fn new() -> Self {
        let mut ontology = Self { terms: BTreeMap::new(), leaves: Vec::new() };
        for &(number, name, aspect, parents) in INNER {
            ontology.add(number, name, aspect, parents);
        }
        for (number, (name, parent)) in (350..).zip(COMPONENTS) {
            ontology.add(number, name, 'C', &[parent]);
        }
        for (at, motif) in MOTIFS.iter().enumerate() {
            let (name, parent) = function_leaf(at);
            let function = ontology.add(150 + at as u32, &name, 'F', &[parent]);
            let (number, name, parent) = process_leaf(at);
            let process = ontology.add(number, &name, 'P', &[parent]);
            if motif.role == Role::Enzyme {
                ontology.term(&function).part_of.push(process.clone());
            }
            ontology.leaves.push([function, process, go(350 + at as u32 % 6)]);
        }
        ontology.term(&go(355)).part_of.push(go(311));
        ontology.term(&go(173)).is_a.push(go(120));
        for (number, of) in [(801, 150), (802, 151), (803, 255)] {
            ontology.term(&go(of)).alt_ids.push(go(number));
        }
        for (number, name, aspect, replaced_by) in [
            (901, "withdrawn lock activity", 'F', Some(152)),
            (902, "withdrawn turnover", 'P', Some(256)),
            (903, "withdrawn carriage activity", 'F', None),
            (904, "withdrawn granule", 'C', None),
        ] {
            let id = ontology.add(number, name, aspect, &[]);
            ontology.term(&id).obsolete = true;
            ontology.term(&id).replaced_by = replaced_by.map(go);
        }
        ontology
    }

    fn add(&mut self, number: u32, name: &str, aspect: char, parents: &[u32]) -> String {
        let id = go(number);
        let term = Term {
            id: id.clone(),
            name: name.to_owned(),
            aspect,
            is_a: parents.iter().map(|&p| go(p)).collect(),
            part_of: vec![],
            alt_ids: vec![],
            obsolete: false,
            replaced_by: None,
        };
        self.terms.entry(id.clone()).or_insert(term);
        id
    }

    fn term(&mut self, id: &str) -> &mut Term {
        self.terms.get_mut(id).expect("the term was added above")
    }

    /// The obsolete terms with (`true`) or without a replacement.
    pub(super) fn obsolete(&self, replaced: bool) -> Vec<&Term> {
        self.terms.values().filter(|t| t.obsolete && t.replaced_by.is_some() == replaced).collect()
    }

    /// The file in OBO 1.2, as the Gene Ontology ships it.
    pub(super) fn to_obo(&self) -> String {
        let mut obo = String::from(
            "format-version: 1.2\ndata-version: made-up\ndefault-namespace: gene_ontology\n\
             remark: every term of this file is made up\nontology: go\n",
        );
        for term in self.terms.values() {
            let Term { id, name, .. } = term;
            let said = if term.obsolete { "OBSOLETE. " } else { "" };
            obo += &format!("\n[Term]\nid: {id}\nname: {name}\nnamespace: {}\n", namespace(term.aspect));
            term.alt_ids.iter().for_each(|alt| obo += &format!("alt_id: {alt}\n"));
            obo += &format!("def: \"{said}The made-up {name}.\" [MADEUP:{}]\n", &id[3..]);
            obo += &format!("synonym: \"{name} (made up)\" EXACT []\n");
            for parent in &term.is_a {
                obo += &format!("is_a: {parent} ! {}\n", self.terms[parent].name);
            }
            for whole in &term.part_of {
                obo += &format!("relationship: part_of {whole} ! {}\n", self.terms[whole].name);
            }
            if term.obsolete {
                obo += "is_obsolete: true\n";
            }
            term.replaced_by.iter().for_each(|new| obo += &format!("replaced_by: {new}\n"));
        }
        obo + "\n[Typedef]\nid: part_of\nname: part_of\nxref: BFO:0000050\nis_transitive: true\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn depth(ontology: &Ontology, id: &str) -> usize {
        let parents = &ontology.terms[id].is_a;
        parents.iter().map(|p| 1 + depth(ontology, p)).max().unwrap_or(0)
    }

    #[test]
    fn every_leaf_reaches_its_root_and_every_reference_exists() {
        let ontology = Ontology::new();
        for term in ontology.terms.values() {
            for other in term.is_a.iter().chain(&term.part_of).chain(&term.replaced_by) {
                assert!(!ontology.terms[other].obsolete);
            }
            for parent in &term.is_a {
                assert_eq!(ontology.terms[parent].aspect, term.aspect);
            }
            assert!(term.alt_ids.iter().all(|alt| !ontology.terms.contains_key(alt)));
        }
        let depths: Vec<usize> =
            ontology.leaves.iter().flatten().map(|leaf| depth(&ontology, leaf)).collect();
        assert_eq!((depths.iter().min(), depths.iter().max()), (Some(&2), Some(&4)));
        assert_eq!(ontology.obsolete(true).len(), 2);
        assert_eq!(ontology.obsolete(false).len(), 2);
    }

    #[test]
    fn motifs_decide_distinct_functions() {
        let ontology = Ontology::new();
        let functions: std::collections::BTreeSet<_> = ontology.leaves.iter().map(|l| &l[0]).collect();
        assert_eq!(functions.len(), MOTIFS.len());
        assert_eq!(ontology.to_obo().matches("[Term]").count(), ontology.terms.len());
    }
}
