//! Raw sources → Parquet tables.
//!
//! [`run`] reads the files of every [`Source`] into claims ([`source`](crate::source) parses, DataFusion streams),
//! chooses among them with relational plans (conflicts, exact repeats, joins), clusters and splits the proteins,
//! audits the split, and writes the tables of [`datasets::table`], a [`Manifest`] and `audit.json`. Every record is
//! accounted for: kept, merged, or in the quarantine table with a [`Reason`].

mod account;
mod archive;
mod audit;
mod buckets;
mod claim;
mod clean;
pub mod cluster;
mod config;
mod dedup;
pub mod diff;
pub mod distinct;
#[cfg(feature = "ballista")]
pub mod distributed;
pub mod download;
mod engine;
mod error;
mod fasta;
mod json;
mod ledger;
mod manifest;
mod mmseqs;
pub mod near;
mod parse;
pub mod publish;
mod reader;
mod reason;
mod source;
mod split;
#[cfg(feature = "object-store")]
pub mod store;
pub mod tasks;
mod work;

use std::collections::BTreeMap;
use std::path::Path;

pub use audit::Audit;
pub use config::{Config, Kind, Role, Source};
use datasets::table::{PpiRow, ProteinRow, QuarantineRow, Rows, Split, Writer};
use engine::Engine;
pub use error::Error;
pub use homology::Kinship;
pub use ledger::FileCounts;
use ledger::Ledger;
pub use manifest::Manifest;
pub use reason::Reason;
use sha2::{Digest, Sha256};
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
    begin(config, data, out, Engine::here(config)?)
}

/// [`run`] with the plans on the executors of the scheduler at `HOST:PORT` ([`distributed`]); the bytes are the same.
///
/// # Errors
/// Those of [`run`], and of a cluster that is not there.
#[cfg(feature = "ballista")]
pub fn run_on(scheduler: &str, config: &Config, data: &Path, out: &Path) -> Result<Manifest, Error> {
    begin(config, data, out, Engine::on_cluster(scheduler))
}

fn begin(config: &Config, data: &Path, out: &Path, engine: Engine) -> Result<Manifest, Error> {
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(rayon::current_num_threads())
        .enable_all()
        .build()?;
    let manifest = runtime.block_on(ingest(&engine, recipe, config, data, &work))?;
    work.publish(out)?;
    Ok(manifest)
}

/// `recipe`: the configuration as written; `config`: with folders expanded.
async fn ingest(
    engine: &Engine,
    recipe: &Config,
    config: &Config,
    data: &Path,
    work: &Work,
) -> Result<Manifest, Error> {
    let ledger = Ledger::default();
    let inputs = manifest::fingerprints(config, data)?;
    let parsed = parse::parse(engine, config, data, &work.staging(), &inputs, &ledger).await?;
    tracing::info!("parsed");

    // What is made from the same claims by the same rules need not be made again after a run that was killed.
    let rules = Sha256::digest(serde_json::to_vec(config)?);
    let made_of = format!("{}-{}", parsed.name, datasets::hex(&rules[..8]));
    let tables = work.tables();
    let relate = async || {
        work.empty_tables()?;
        dedup::relate(engine, config, &parsed, &tables, work.buckets()).await
    };
    let dedup::Relations { proteins, pairs, rows, notes } =
        work.kept(&format!("relations-{made_of}"), relate).await?;
    ledger.add(notes);
    tracing::info!(proteins = proteins.len(), "deduplicated");

    let published: Vec<bool> = proteins.iter().map(|protein| protein.test).collect();
    let sequences = split::sequences(config, &proteins);
    let kin = async || split::Kin::new(config, &proteins, &sequences, &work.mmseqs());
    let kin = work.kept(&format!("kin-{made_of}"), kin).await?;
    let proteins = split::split(config, proteins, &kin);
    tracing::info!("split");
    let audit = Audit::new(config, &proteins, &sequences, &published, &kin);
    drop((sequences, kin));
    tracing::info!(train = audit.n_train, held_out = audit.n_held_out, "audited");

    let (files, quarantine) = ledger.close(config, &inputs);
    let manifest = write(recipe, &tables, proteins, pairs, &quarantine, files, rows)?;
    if let Some(text) = parsed.ontology {
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

/// Writes the tables that have parts, and draws up the manifest. `rows`: of the tables that are written.
fn write(
    config: &Config,
    tables: &Path,
    proteins: Vec<ProteinRow>,
    pairs: Vec<dedup::Pair>,
    quarantine: &[QuarantineRow],
    files: Vec<FileCounts>,
    mut rows: BTreeMap<String, u64>,
) -> Result<Manifest, Error> {
    let parts: BTreeMap<&str, Split> = proteins.iter().map(|p| (p.protein_id.as_str(), p.split)).collect();
    let part = |id: &str| parts.get(id).copied();
    let n_pairs = pairs.len();
    let mut ppi = Writer::new(fs_err::File::create(PpiRow::path(tables))?.into_file())?;
    for dedup::Pair { proteins, label, source, modes } in pairs {
        let [protein_id_a, protein_id_b] = proteins.map(claim::id);
        let split = split::of_pair(part(&protein_id_a), part(&protein_id_b));
        let source = config.source[source as usize].name.clone();
        ppi.push(PpiRow { protein_id_a, protein_id_b, label, modes, source, split })?;
    }
    ppi.close()?.0.sync_all()?;
    drop(parts);
    ProteinRow::write(tables, &proteins)?;
    QuarantineRow::write(tables, quarantine)?;
    let last = [
        (ProteinRow::TABLE, proteins.len()),
        (PpiRow::TABLE, n_pairs),
        (QuarantineRow::TABLE, quarantine.len()),
    ];
    rows.extend(last.map(|(table, n)| (table.to_owned(), n as u64)));
    let tasks = tasks::count(tables, &proteins)?;
    let warnings = tasks::warnings(&tasks).into_iter().map(|(task, warning)| format!("{task}: {warning}"));
    let warnings = warnings.collect();
    let mut proteins_by_split = BTreeMap::new();
    let mut clusters: BTreeMap<&str, u64> = BTreeMap::new();
    for protein in &proteins {
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
