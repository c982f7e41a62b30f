//! What the questions are about: records and the ontology that judges them.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use datasets::llm::{Options, Records};
use rewards::go::Ontology;

/// The records of a tables folder, by part of the data, and the ontology.
pub struct Corpus {
    /// By part of the data.
    pub records: Records,
    /// Empty when no task asks for terms.
    pub ontology: Arc<Ontology>,
}

impl Corpus {
    /// Reads the tables; what was left out is said in the log.
    ///
    /// # Errors
    /// As [`Records::read`], and when `go.obo` is missing or broken.
    pub fn read(tables: &Path, options: &Options) -> Result<Self> {
        let ontology = match options.tasks.iter().any(|task| task == "go") {
            true => Ontology::read(&tables.join("go.obo")).context("reading the ontology of the tables")?,
            false => Ontology::default(),
        };
        let most_specific = |terms: &[String]| {
            let specific = ontology.specific_ids(&ontology.propagate(terms));
            terms.iter().filter(|term| specific.contains(term)).cloned().collect()
        };
        let records = Records::read(tables, options, &most_specific)?;
        for (reason, n) in &records.left_out {
            tracing::info!("left out: {n} × {reason}");
        }
        Ok(Self { records, ontology: Arc::new(ontology) })
    }
}
