//! The formats: one file per origin, each a function from text to claims.
//!
//! A parser never sees files, threads or tables: it gets the text of one record and returns what the record says, or
//! the fault that it has. [`Sink`] counts the records, places and writes the claims.

pub(crate) mod cafa;
pub(crate) mod cath;
pub(crate) mod cath_domains;
pub(crate) mod cgdms;
pub(crate) mod ddg;
pub(crate) mod ddg_lists;
pub(crate) mod detect;
pub(crate) mod go;
pub(crate) mod go_labels;
pub(crate) mod mmcif;
pub(crate) mod mol_instructions;
pub(crate) mod pdb;
pub(crate) mod plddt;
pub(crate) mod ppi;
pub(crate) mod protdescribe;
pub(crate) mod protein2text;
pub(crate) mod protein_lm;
mod sink;
pub(crate) mod ss;
pub(crate) mod ss_fasta;
pub(crate) mod string_db;
pub(crate) mod structure;
pub(crate) mod swissprot;
pub(crate) mod swissprot_clap;
pub(crate) mod swissprot_lists;
pub(crate) mod swissprot_xml;
pub(crate) mod table;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datasets::residue::{self, SequenceError};
use indicatif::ProgressBar;

use crate::Error;
use crate::archive;
use crate::claim::{Claim, Residues};
use crate::config::{Kind, Source};
use crate::reader::{Input, Lines};
use crate::reason::{Fault, Reason};
use go::Ontology;
pub(crate) use sink::Sink;
pub(crate) use table::{Header, Row, csv_fields, number};

/// What parsers need to know besides the text.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The source.
    pub(crate) source: Source,
    /// Its place in the configuration.
    pub(crate) index: usize,
    /// Bounds of the sequence length.
    pub(crate) lengths: (usize, usize),
    /// The ontology, when a source gives one.
    pub(crate) ontology: Option<Arc<Ontology>>,
    /// The published split of chains, when the source has one.
    pub(crate) chain_split: Option<Arc<cath::PublishedSplit>>,
    /// Where the companions lie.
    pub(crate) companions: Vec<PathBuf>,
}

/// What a record says.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Its claims.
    pub(crate) claims: Vec<Claim>,
    /// Parts that say nothing, with their text.
    pub(crate) dropped: Vec<(Fault, String)>,
}

impl From<Claim> for Parsed {
    fn from(claim: Claim) -> Self {
        Self { claims: vec![claim], dropped: vec![] }
    }
}

/// The files of a source in reading order: companions first, so that they are `files(..).position()`.
pub(crate) fn files(source: &Source) -> impl Iterator<Item = &str> {
    source.companion.iter().chain(&source.files).map(String::as_str)
}

/// Reads one file of a source into the sink, an archive member after member.
///
/// # Errors
/// Faults of the whole file: damaged gzip, missing columns, another format.
pub(crate) fn read(context: &Context, path: &Path, bar: ProgressBar, sink: &mut Sink) -> Result<(), Error> {
    let sink = RefCell::new(sink);
    let file = sink.borrow().file();
    let whole = |input: Input<'_>| parse(context, file, input, &mut sink.borrow_mut());
    let mut member = |name: &str, input: Input<'_>| {
        let mut sink = sink.borrow_mut();
        sink.begin_member(name);
        parse(context, file, input, &mut sink)
    };
    archive::read(path, bar, context.source.kind.members(), whole, &mut member)
}

fn parse(context: &Context, file: usize, input: Input<'_>, sink: &mut Sink) -> Result<(), Error> {
    let is_companion = file < context.source.companion.len();
    if !is_companion {
        detect::check(context.source.kind, &input)?;
    }
    match context.source.kind {
        Kind::SwissprotDat => swissprot::read(context, Lines::new(input), sink),
        Kind::SwissprotXml => swissprot_xml::read(context, input, sink),
        Kind::SwissprotFasta => swissprot_lists::read_fasta(context, Lines::new(input), sink),
        Kind::SwissprotTsv => swissprot_lists::read_tsv(context, Lines::new(input), sink),
        Kind::MolInstructions => mol_instructions::read(context, input, sink),
        Kind::ProteinLm => protein_lm::read(context, input, sink),
        Kind::Protdescribe => protdescribe::read(context, Lines::new(input), sink),
        Kind::Protein2text => protein2text::read(context, input, sink),
        Kind::SsCsv => ss::read(context, Lines::new(input), sink),
        // The split is known (`Context`), its names are counted here.
        Kind::CathChains | Kind::Structure | Kind::Cgdms if is_companion => {
            let n_names = context.chain_split.as_ref().map_or(0, |split| split.n_names);
            sink.ledger.read(context.index, file, n_names);
            sink.ledger.keep(context.index, file, n_names);
            Ok(())
        }
        // Labels and texts are read, and counted, with the sequences.
        Kind::SsFasta | Kind::SwissprotClap if is_companion => Ok(()),
        Kind::SwissprotClap => swissprot_clap::read(context, Lines::new(input), sink),
        Kind::SsFasta => ss_fasta::read(context, Lines::new(input), sink),
        Kind::CathChains => cath::read(context, input, sink),
        Kind::CathDomains => cath_domains::read(context, Lines::new(input), sink),
        Kind::Cgdms => cgdms::read(context, input, sink),
        Kind::Structure | Kind::Predicted => structure::read(context, input, sink),
        // The ontology is read before everything else.
        Kind::Obo => Ok(()),
        Kind::CafaIa => cafa::read(context, Lines::new(input), sink),
        Kind::Gaf => go::read_gaf(context, Lines::new(input), sink),
        Kind::Quickgo => go::read_quickgo(context, Lines::new(input), sink),
        Kind::GoLabels => go_labels::read(context, Lines::new(input), sink),
        Kind::PpiPairs | Kind::StringActions if is_companion => {
            ppi::read_dictionary(context, Lines::new(input), sink)
        }
        Kind::PpiPairs => ppi::read_pairs(Lines::new(input), sink),
        Kind::StringActions => string_db::read_actions(context, Lines::new(input), sink),
        Kind::DdgCsv => ddg::read_prostata(context, Lines::new(input), sink),
        Kind::Fireprot => ddg::read_fireprot(context, Lines::new(input), sink),
        Kind::Strum => ddg_lists::read_strum(Lines::new(input), sink),
        Kind::Bioemu => ddg_lists::read_bioemu(context, Lines::new(input), sink),
        Kind::AfdbPlddt => plddt::read(context, Lines::new(input), sink),
    }
}

impl Context {
    /// A normalised sequence within the bounds of length.
    pub(crate) fn protein(&self, text: &str) -> Result<Residues, Fault> {
        self.bounded(residue::normalise(text).map_err(sequence_fault)?)
    }

    /// Refuses sequences out of bounds.
    pub(crate) fn bounded(&self, sequence: String) -> Result<Residues, Fault> {
        let (least, most) = self.lengths;
        match sequence.len() {
            n if n < least => Err(Fault::new(Reason::TooShort, format!("{n} residues, at least {least}"))),
            n if n > most => Err(Fault::new(Reason::TooLong, format!("{n} residues, at most {most}"))),
            _ => Ok(Residues::new(sequence)),
        }
    }
}

/// Sequence with per-residue data: gaps are taken out together with their columns, and nothing else changes length.
/// Returns the residues and the indices of the columns that stay.
pub(crate) fn residue_columns(text: &str) -> Result<(String, Vec<usize>), Fault> {
    let mut kept = Vec::new();
    let mut residues = String::new();
    for (at, c) in text.chars().enumerate() {
        if c == '-' || c == '.' {
            continue;
        }
        // A `*` in such files is a non-standard residue, at the end too.
        residues.push(if c == '*' { 'X' } else { c });
        kept.push(at);
    }
    let sequence = residue::normalise(&residues).map_err(sequence_fault)?;
    if sequence.len() != kept.len() {
        return Err(Fault::new(Reason::BadSequence, "blanks inside the sequence"));
    }
    Ok((sequence, kept))
}

fn sequence_fault(error: SequenceError) -> Fault {
    let reason = if error == SequenceError::Empty { Reason::EmptySequence } else { Reason::BadSequence };
    Fault::new(reason, error.to_string())
}

/// Name of a chain as CATH's chain set writes it, `1abc.A`; the structure alone where the chain has no name.
pub(crate) fn chain_of(structure: &str, chain: &str) -> String {
    let is_id = structure.len() == 4 && structure.starts_with(|c: char| c.is_ascii_digit());
    let structure = if is_id { structure.to_ascii_lowercase() } else { structure.to_owned() };
    if chain.is_empty() { structure } else { format!("{structure}.{chain}") }
}

/// File stem without `.gz` and the like, for messages and for sources whose file name says what is in them.
pub(crate) fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Tasks and texts of what was parsed, for tests of single parsers.
#[cfg(test)]
pub(crate) fn facts(parsed: &Parsed) -> Vec<(&str, &str)> {
    let facts = parsed.claims.iter().filter_map(|c| c.fact.as_ref());
    facts.map(|f| (f.task, f.text.as_str())).collect()
}

/// A context without source, for tests of single parsers.
#[cfg(test)]
pub(crate) fn test_context(kind: Kind) -> Context {
    let source = Source {
        name: "test".into(),
        kind,
        files: vec!["file".into()],
        companion: vec![],
        role: crate::config::Role::Train,
        exclude_homologs: false,
        reversed: false,
        licence: "none".into(),
    };
    Context { source, index: 0, lengths: (3, 1000), ontology: None, chain_split: None, companions: vec![] }
}
