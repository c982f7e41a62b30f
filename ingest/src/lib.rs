//! Raw sources → Parquet tables.
//!
//! [`run`] reads the files of every [`Source`] into claims ([`source`](crate::source) parses, DataFusion streams),
//! chooses among them with relational plans (conflicts, exact repeats, joins), clusters and splits the proteins,
//! audits the split, and writes the tables of [`datasets::table`], a [`Manifest`] and `audit.json`. Every record is
//! accounted for: kept, merged, or in the quarantine table with a [`Reason`].

mod account;
mod archive;
mod audit;
mod claim;
mod clean;
pub mod cluster;
mod config;
mod contradiction;
mod dedup;
pub mod diff;
pub mod distinct;
pub mod download;
mod error;
mod fasta;
mod json;
mod ledger;
mod manifest;
pub mod near;
pub mod publish;
mod reader;
mod reason;
mod source;
mod split;
mod stage;
pub mod tasks;
mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

pub use audit::Audit;
pub use config::{Config, Kind, Role, Source};
use datasets::table::{
    ChainRow, ContradictionRow, DdgRow, DomainRow, FactRow, GoRow, PlddtRow, PpiRow, ProteinRow,
    QuarantineRow, RepeatRow, Rows, Split, SsRow, WeightRow,
};
pub use error::Error;
pub use homology::Kinship;
pub use ledger::FileCounts;
pub use manifest::Manifest;
pub use reason::Reason;
use work::Work;

/// Reads the sources under `data` and writes the tables into the folder `out`, which is replaced whole: work goes on in
/// a temporary folder beside it, so a run that is killed or runs out of disk leaves the last good state. Two runs into
/// the same folder at once: the second is refused.
///
/// The same inputs and configuration give identical bytes, on any number of threads (rayon's current number is used).
///
/// # Errors
/// Faults of the configuration, of whole files, or a leak found by the audit; nothing is written then.
pub fn run(config: &Config, data: &Path, out: &Path) -> Result<Manifest, Error> {
    config.validate()?;
    let recipe = config;
    let config = &recipe.expanded(data)?;
    config.validate()?;
    for (source, file) in config.source.iter().flat_map(|s| source::files(s).map(move |f| (s, f))) {
        let path = data.join(file);
        if !path.is_file() {
            return Err(Error::Missing { source_name: source.name.clone(), path });
        }
    }
    let work = Work::begin(out)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(rayon::current_num_threads()).build()?;
    let manifest = runtime.block_on(ingest(recipe, config, data, &work))?;
    work.publish(out)?;
    Ok(manifest)
}

/// `recipe`: the configuration as written; `config`: with folders expanded.
async fn ingest(recipe: &Config, config: &Config, data: &Path, work: &Work) -> Result<Manifest, Error> {
    let session = stage::session(config)?;
    let ledger = Arc::new(ledger::Ledger::default());
    let (claims, ontology) = stage::stage(&session, config, data, &work.staging(), &ledger).await?;
    let mut relations = dedup::relate(&session, config, claims, &ledger).await?;
    tracing::info!(proteins = relations.proteins.len(), "deduplicated");

    let published: Vec<bool> = relations.proteins.iter().map(|protein| protein.test).collect();
    let proteins = split::split(config, std::mem::take(&mut relations.proteins));
    let audit = Audit::new(&proteins, &published, config);
    tracing::info!(train = audit.n_train, held_out = audit.n_held_out, "split and audited");

    let (mut files, quarantine) = ledger.close(config, &relations.claimed);
    manifest::fingerprint(&mut files, data)?;
    let tables = work.tables();
    let manifest = write(recipe, &tables, relations, &proteins, &quarantine, files)?;
    if let Some(text) = ontology {
        datasets::atomic_write(&tables.join("go.obo"), |f| std::io::Write::write_all(f, text.as_bytes()))?;
    }
    manifest::write_json(&tables.join("audit.json"), &audit)?;
    manifest::write_json(&tables.join("manifest.json"), &manifest)?;
    for warning in &manifest.warnings {
        tracing::warn!("{warning}");
    }
    let account = format!("{}\n{}", manifest.account(), manifest.parts());
    datasets::atomic_write(&tables.join("account.md"), |f| std::io::Write::write_all(f, account.as_bytes()))?;
    audit.pass()?;
    Ok(manifest)
}

/// Writes all tables and draws up the manifest.
fn write(
    config: &Config,
    tables: &Path,
    relations: dedup::Relations,
    proteins: &[ProteinRow],
    quarantine: &[QuarantineRow],
    files: Vec<FileCounts>,
) -> Result<Manifest, Error> {
    let dedup::Relations {
        mut facts, mut repeats, chains, ss, go, pairs, ddg, plddt, domains, weights, ..
    } = relations;
    let licences: BTreeMap<&str, &str> =
        config.source.iter().map(|s| (s.name.as_str(), s.licence.as_str())).collect();
    let licence = |source: &str| licences.get(source).copied().unwrap_or_default().to_owned();
    facts.iter_mut().for_each(|fact| fact.licence = licence(&fact.source));
    repeats.iter_mut().for_each(|repeat| repeat.licence = licence(&repeat.source));
    let parts: BTreeMap<&str, Split> = proteins.iter().map(|p| (p.protein_id.as_str(), p.split)).collect();
    let part = |id: &str| parts.get(id).copied();
    let ppi: Vec<PpiRow> = pairs
        .into_iter()
        .map(|pair| {
            let split = split::of_pair(part(&pair.protein_id_a), part(&pair.protein_id_b));
            let dedup::PairRow { protein_id_a, protein_id_b, label, source, modes } = pair;
            PpiRow { protein_id_a, protein_id_b, label, modes, source, split }
        })
        .collect();

    let mut rows = BTreeMap::new();
    let mut note = |table: &str, n: usize| rows.insert(table.to_owned(), n as u64);
    macro_rules! write_tables {
        ($($row:ty: $rows:expr),* $(,)?) => {
            $(<$row>::write(tables, $rows)?; note(<$row>::TABLE, $rows.len());)*
        };
    }
    write_tables! {
        ProteinRow: proteins, FactRow: &facts, ChainRow: &chains, SsRow: &ss, GoRow: &go,
        PpiRow: &ppi, DdgRow: &ddg, PlddtRow: &plddt, DomainRow: &domains, WeightRow: &weights, RepeatRow: &repeats,
        ContradictionRow: &contradiction::contradictions(&facts), QuarantineRow: quarantine,
    }
    drop(repeats);
    let tasks = tasks::count(&tasks::Tables {
        proteins,
        facts: &facts,
        chains: &chains,
        ss: &ss,
        go: &go,
        ppi: &ppi,
        ddg: &ddg,
        plddt: &plddt,
    })?;
    let warnings = tasks::warnings(&tasks).into_iter().map(|(task, warning)| format!("{task}: {warning}"));
    let warnings = warnings.collect();
    let mut proteins_by_split = BTreeMap::new();
    let mut clusters: BTreeMap<&str, u64> = BTreeMap::new();
    for protein in proteins {
        *proteins_by_split.entry(format!("{:?}", protein.split).to_lowercase()).or_default() += 1;
        *clusters.entry(&protein.cluster).or_default() += 1;
    }
    let mut sizes: Vec<u64> = clusters.values().copied().collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Manifest {
        peptalk: env!("CARGO_PKG_VERSION").into(),
        config: config.clone(),
        files,
        tables: rows,
        proteins_by_split,
        n_clusters: sizes.len() as u64,
        largest_clusters: sizes.into_iter().take(10).collect(),
        tasks,
        warnings,
    })
}
