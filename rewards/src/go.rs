//! Gene Ontology: the OBO reader, propagation, and agreement of two term sets.
//!
//! Conventions of CAFA-evaluator: `is_a` and `part_of` inside one namespace only, alternative ids mapped to their
//! term, obsolete terms dropped. Roots are left out of every set, because naming only them would earn F1 0.24 on a set
//! where it says nothing. Unlike there, an id that the ontology does not know counts against precision: invented ids
//! are not free.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

/// What the OBO reader refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read (or its gzip stream is broken or cut); the text names it.
    #[error("cannot read ontology {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line that no OBO file has.
    #[error("{path}, line {line}: {what}\nhint: GO's own files are at geneontology.org, `go-basic.obo`")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// The three parts of GO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Aspect {
    /// Molecular function.
    F,
    /// Biological process.
    P,
    /// Cellular component.
    C,
}

impl Aspect {
    /// All three, in the order of every report.
    pub const ALL: [Aspect; 3] = [Aspect::F, Aspect::P, Aspect::C];

    fn of_namespace(name: &str) -> Option<Self> {
        match name {
            "molecular_function" => Some(Aspect::F),
            "biological_process" => Some(Aspect::P),
            "cellular_component" => Some(Aspect::C),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
struct Node {
    id: String,
    name: String,
    aspect: Aspect,
    parents: Vec<u32>,
}

/// What an id means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// A term, by its index; alternative ids give the term they were merged into.
    Term(u32),
    /// No longer used.
    Obsolete {
        /// `replaced_by`, else `consider` of the file; may be empty.
        instead: Vec<String>,
    },
    /// The ontology has no such id.
    Unknown,
}

/// The terms of one OBO file that are in use, as a directed acyclic graph.
#[derive(Debug, Clone, Default)]
pub struct Ontology {
    nodes: Vec<Node>,
    index: BTreeMap<String, u32>,
    obsolete: BTreeMap<String, Vec<String>>,
}

/// A propagated set of terms without roots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// Indices of the terms in their [`Ontology`], sorted.
    pub indices: Vec<u32>,
    /// Distinct ids that the ontology does not know.
    pub n_unknown: usize,
}

/// Agreement of a predicted with a true set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Predicted terms that are true.
    pub n_both: usize,
    /// Predicted terms, unknown ids among them.
    pub n_predicted: usize,
    /// True terms.
    pub n_true: usize,
    /// `n_both / n_predicted`, 0 if nothing is predicted.
    pub precision: f64,
    /// `n_both / n_true`, 0 if nothing is true.
    pub recall: f64,
    /// `2 n_both / (n_predicted + n_true)`; 1 if both are empty.
    pub f1: f64,
}

/// Compares two sets of one ontology. Unknown ids of `predicted` lower the precision; those of `truth` do not exist.
pub fn agreement(predicted: &Terms, truth: &Terms) -> Agreement {
    let n_both = predicted.indices.iter().filter(|i| truth.indices.binary_search(i).is_ok()).count();
    let n_predicted = predicted.indices.len() + predicted.n_unknown;
    let n_true = truth.indices.len();
    let ratio = |of: usize| if of == 0 { 0.0 } else { n_both as f64 / of as f64 };
    let f1 = match n_predicted + n_true {
        0 => 1.0,
        sum => 2.0 * n_both as f64 / sum as f64,
    };
    Agreement { n_both, n_predicted, n_true, precision: ratio(n_predicted), recall: ratio(n_true), f1 }
}

impl Ontology {
    /// Reads an OBO 1.2 or 1.4 file, plain or gzip (told by its first bytes). Namespaces other than the three of GO
    /// are skipped, as are typedefs.
    ///
    /// # Errors
    /// [`Error`] names file and line: unreadable or cut file, a term without id or namespace, two terms of one id, an
    /// `is_a` to nowhere, a cycle, a file without terms.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let syntax = |(line, what)| Error::Syntax { path: path.to_owned(), line, what };
        let mut file = BufReader::new(fs_err::File::open(path).map_err(io)?);
        let zipped = file.fill_buf().map_err(io)?.starts_with(&[0x1f, 0x8b]);
        let mut text = Vec::new();
        let read = if zipped {
            MultiGzDecoder::new(file).read_to_end(&mut text)
        } else {
            file.read_to_end(&mut text)
        };
        read.map_err(io)?;
        build(stanzas(&String::from_utf8_lossy(&text)).map_err(syntax)?).map_err(syntax)
    }

    /// Number of terms in use.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no terms, as in the default ontology.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Looks an id up.
    pub fn resolve(&self, id: &str) -> Resolved {
        match (self.index.get(id), self.obsolete.get(id)) {
            (Some(&at), _) => Resolved::Term(at),
            (None, Some(instead)) => Resolved::Obsolete { instead: instead.clone() },
            (None, None) => Resolved::Unknown,
        }
    }

    /// Primary id of a term.
    pub fn id(&self, index: u32) -> &str {
        &self.nodes[index as usize].id
    }

    /// Name of a term.
    pub fn name(&self, index: u32) -> &str {
        &self.nodes[index as usize].name
    }

    /// Aspect of a term.
    pub fn aspect(&self, index: u32) -> Aspect {
        self.nodes[index as usize].aspect
    }

    /// Whether a term has no parents.
    pub fn is_root(&self, index: u32) -> bool {
        self.nodes[index as usize].parents.is_empty()
    }

    /// The terms above a term, roots among them, without itself, sorted.
    pub fn ancestors(&self, index: u32) -> Vec<u32> {
        let mut found = BTreeSet::new();
        self.climb(index, &mut found);
        found.remove(&index);
        found.into_iter().collect()
    }

    fn climb(&self, from: u32, found: &mut BTreeSet<u32>) {
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if found.insert(at) {
                open.extend(&self.nodes[at as usize].parents);
            }
        }
    }

    /// The terms of `ids` and all their ancestors, without roots. Obsolete ids are dropped, unknown ones counted.
    pub fn propagate(&self, ids: &[impl AsRef<str>]) -> Terms {
        let (mut found, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for id in ids {
            match self.resolve(id.as_ref()) {
                Resolved::Term(at) => self.climb(at, &mut found),
                Resolved::Obsolete { .. } => {}
                Resolved::Unknown => {
                    unknown.insert(id.as_ref());
                }
            }
        }
        let indices = found.into_iter().filter(|&at| !self.is_root(at)).collect();
        Terms { indices, n_unknown: unknown.len() }
    }

    /// The part of a set that lies in one aspect. Unknown ids belong to none and are left out.
    pub fn only(&self, terms: &Terms, aspect: Aspect) -> Terms {
        let indices = terms.indices.iter().copied().filter(|&at| self.aspect(at) == aspect).collect();
        Terms { indices, n_unknown: 0 }
    }

    /// The terms of a set that are above no other of it: what a person would write down.
    pub fn most_specific(&self, terms: &Terms) -> Vec<u32> {
        let above: BTreeSet<u32> = terms.indices.iter().flat_map(|&at| self.ancestors(at)).collect();
        terms.indices.iter().copied().filter(|at| !above.contains(at)).collect()
    }

    /// The ids of the [most specific](Self::most_specific) terms of a set.
    pub fn specific_ids(&self, terms: &Terms) -> Vec<String> {
        self.most_specific(terms).into_iter().map(|at| self.id(at).to_owned()).collect()
    }
}

/// One `[Term]` as the file has it.
#[derive(Debug, Default)]
struct Stanza {
    line: usize,
    id: String,
    name: String,
    namespace: String,
    alt_ids: Vec<String>,
    is_a: Vec<(usize, String)>,
    part_of: Vec<String>,
    obsolete: bool,
    replaced_by: Vec<String>,
    consider: Vec<String>,
}

type Fault = (usize, String);

fn stanzas(text: &str) -> Result<Vec<Stanza>, Fault> {
    let mut terms: Vec<Stanza> = Vec::new();
    let mut default_namespace = String::new();
    // Header lines come before the first stanza; those of other stanzas than terms are skipped.
    let (mut in_header, mut in_term) = (true, false);
    for (at, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if line.starts_with('[') {
            (in_header, in_term) = (false, line == "[Term]");
            if in_term {
                terms.push(Stanza {
                    line: at + 1,
                    namespace: default_namespace.clone(),
                    ..Stanza::default()
                });
            }
            continue;
        }
        let (tag, value) = match line.split_once(':') {
            _ if line.is_empty() || line.starts_with('!') => continue,
            Some((tag, value)) => (tag, value.trim()),
            None => return Err((at + 1, format!("{:?} is no `tag: value`", excerpt(line)))),
        };
        if in_header && tag == "default-namespace" {
            default_namespace = value.to_owned();
        }
        if let (true, Some(term)) = (in_term, terms.last_mut()) {
            tag_value(term, at + 1, tag, value);
        }
    }
    Ok(terms)
}

fn tag_value(term: &mut Stanza, line: usize, tag: &str, value: &str) {
    // Trailing modifiers `{…}` and comments `! name` follow the id after a blank.
    let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    match tag {
        "id" => term.id = first(value),
        "name" => term.name = value.to_owned(),
        "namespace" => term.namespace = first(value),
        "alt_id" => term.alt_ids.push(first(value)),
        "is_a" => term.is_a.push((line, first(value))),
        "relationship" => term.part_of.extend(value.strip_prefix("part_of ").map(first)),
        "is_obsolete" => term.obsolete = first(value) == "true",
        "replaced_by" => term.replaced_by.push(first(value)),
        "consider" => term.consider.push(first(value)),
        _ => {}
    }
}

fn excerpt(line: &str) -> String {
    line.chars().take(60).collect()
}

fn build(stanzas: Vec<Stanza>) -> Result<Ontology, Fault> {
    let mut ontology = Ontology::default();
    let mut live: BTreeMap<String, Stanza> = BTreeMap::new();
    for term in stanzas {
        if term.id.is_empty() || term.namespace.is_empty() {
            return Err((term.line, "this term has no id or no namespace".into()));
        }
        if term.obsolete {
            let instead = if term.replaced_by.is_empty() { term.consider } else { term.replaced_by };
            ontology.obsolete.insert(term.id, instead);
        } else if Aspect::of_namespace(&term.namespace).is_some() {
            let (line, id) = (term.line, term.id.clone());
            if live.insert(id.clone(), term).is_some() {
                return Err((line, format!("{id} is defined a second time")));
            }
        }
    }
    if live.is_empty() {
        return Err((1, "no term of a GO namespace in the whole file".into()));
    }
    ontology.index = live.keys().cloned().zip(0..).collect();
    for term in live.values() {
        ontology.nodes.push(node(&ontology.index, &live, term)?);
    }
    for (at, term) in live.values().enumerate() {
        for alt in &term.alt_ids {
            ontology.index.entry(alt.clone()).or_insert(at as u32);
        }
    }
    match cycle(&ontology.nodes) {
        Some(at) => Err((live[&ontology.nodes[at].id].line, "this term is its own ancestor".into())),
        None => Ok(ontology),
    }
}

fn node(
    index: &BTreeMap<String, u32>,
    live: &BTreeMap<String, Stanza>,
    term: &Stanza,
) -> Result<Node, Fault> {
    let mut parents = BTreeSet::new();
    for (line, parent) in &term.is_a {
        match live.get(parent) {
            None => return Err((*line, format!("is_a {parent}, which is no term in use in this file"))),
            Some(p) if p.namespace == term.namespace => parents.insert(index[parent]),
            Some(_) => false,
        };
    }
    // A part_of may point into another namespace, or (in slims) out of the file: both carry no annotation upwards.
    for parent in &term.part_of {
        if live.get(parent).is_some_and(|p| p.namespace == term.namespace) {
            parents.insert(index[parent]);
        }
    }
    let aspect = Aspect::of_namespace(&term.namespace).expect("only terms of GO namespaces are kept");
    Ok(Node { id: term.id.clone(), name: term.name.clone(), aspect, parents: parents.into_iter().collect() })
}

/// A term on a cycle, if there is one: what is left when terms whose parents are all done are taken away (Kahn).
fn cycle(nodes: &[Node]) -> Option<usize> {
    let mut children = vec![Vec::new(); nodes.len()];
    let mut waiting: Vec<usize> = nodes.iter().map(|node| node.parents.len()).collect();
    for (at, node) in nodes.iter().enumerate() {
        for &parent in &node.parents {
            children[parent as usize].push(at);
        }
    }
    let mut ready: Vec<usize> = (0..nodes.len()).filter(|&at| waiting[at] == 0).collect();
    while let Some(at) = ready.pop() {
        for &child in &children[at] {
            waiting[child] -= 1;
            if waiting[child] == 0 {
                ready.push(child);
            }
        }
    }
    waiting.iter().position(|&n| n > 0)
}

#[cfg(test)]
#[path = "go_tests.rs"]
pub(crate) mod tests;
