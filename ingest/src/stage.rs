//! Raw files → claims in Parquet, through DataFusion: every file is a partition of a streaming table.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::dataframe::{DataFrame, DataFrameWriteOptions};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use fs_err as fs;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_arrow::schema::{SchemaLike, TracingOptions};

use crate::Error;
use crate::claim::Claim;
use crate::config::{Config, Kind};
use crate::ledger::Ledger;
use crate::source::{self, Context, Sink, cath::PublishedSplit, go::Ontology, ss_fasta::Labels};

/// The engine: as many partitions as rayon has threads, spilling above the configured memory.
pub(crate) fn session(config: &Config) -> Result<SessionContext, Error> {
    // Shared fairly: a sort that came first must spill before one that came later fails.
    let pool = Arc::new(FairSpillPool::new(config.memory_mib << 20));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
    let mut session = SessionConfig::new().with_target_partitions(rayon::current_num_threads());
    // serde_arrow reads plain strings; views would only be cast back.
    session.options_mut().execution.parquet.schema_force_view_types = false;
    // Staged claims live for minutes: quick to write counts more than small.
    session.options_mut().execution.parquet.compression = Some("snappy".into());
    // What is held of a row group until it is whole counts for every thread.
    session.options_mut().execution.parquet.max_row_group_size = 1 << 16;
    session.options_mut().execution.collect_statistics = false;
    Ok(SessionContext::new_with_config_rt(session, runtime))
}

/// Columns of a staged claim.
fn fields() -> Result<Vec<FieldRef>, Error> {
    Ok(Vec::<FieldRef>::from_type::<Claim>(TracingOptions::default())?)
}

/// Some files of a source as a partition: parsed one after the other on a thread of their own, a few batches ahead of
/// the plan.
struct SourceFiles {
    context: Arc<Context>,
    files: Vec<(usize, PathBuf)>,
    fields: Vec<FieldRef>,
    schema: SchemaRef,
    ledger: Arc<Ledger>,
    bars: MultiProgress,
}

impl fmt::Debug for SourceFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFiles({}, {})", self.context.source.name, self.files.len())
    }
}

impl PartitionStream for SourceFiles {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(self.schema.clone(), 2);
        let (context, files, fields) = (self.context.clone(), self.files.clone(), self.fields.clone());
        let (ledger, bars, sender) = (self.ledger.clone(), self.bars.clone(), stream.tx());
        stream.spawn_blocking(move || {
            for (file, path) in files {
                let bar = bars.add(bar(&path));
                let mut sink =
                    Sink::new(context.clone(), file, fields.clone(), ledger.clone(), sender.clone());
                let result =
                    source::read(&context, &path, bar.clone(), &mut sink).and_then(|()| sink.finish());
                bar.finish_and_clear();
                // The plan sees a plain error; the typed one waits in the ledger.
                result.map_err(|error| {
                    let text = error.to_string();
                    ledger.fail(error);
                    DataFusionError::Execution(text)
                })?;
            }
            Ok(())
        });
        stream.build()
    }
}

fn bar(path: &Path) -> ProgressBar {
    let length = fs::metadata(path).map_or(0, |m| m.len());
    let style = ProgressStyle::with_template("{msg:32!} {wide_bar} {bytes}/{total_bytes} {elapsed}");
    let bar = ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(source::stem(path))
}

/// Parses every source into claims under `staging`. The second value is the text of the ontology, if a source gives one.
///
/// # Errors
/// The first fault of a whole file.
pub(crate) async fn stage(
    session: &SessionContext,
    config: &Config,
    data: &Path,
    staging: &Path,
    ledger: &Arc<Ledger>,
) -> Result<(DataFrame, Option<String>), Error> {
    let (ontology, text) = match config.source.iter().position(|s| s.kind == Kind::Obo) {
        None => (None, None),
        Some(at) => {
            let (ontology, text) = Ontology::read(data, &config.source[at].files, at, ledger)?;
            (Some(Arc::new(ontology)), Some(text))
        }
    };
    let fields = fields()?;
    let schema: SchemaRef = Arc::new(Schema::new(fields.clone()));
    let bars = MultiProgress::new();
    let mut splits: BTreeMap<&str, Arc<PublishedSplit>> = BTreeMap::new();
    for (index, source) in config.source.iter().enumerate() {
        let started = std::time::Instant::now();
        let chain_split = match (source.kind, source.companion.first()) {
            (Kind::CathChains | Kind::Structure | Kind::Cgdms, Some(split)) => {
                if !splits.contains_key(split.as_str()) {
                    splits.insert(split, Arc::new(PublishedSplit::read(&data.join(split))?));
                }
                splits.get(split.as_str()).cloned()
            }
            _ => None,
        };
        if let Some(split) = &chain_split {
            ledger.read(index, 0, split.n_names);
            ledger.keep(index, 0, split.n_names);
        }
        let labels = match source.kind {
            Kind::SsFasta => Arc::new(Labels::read(data, source, index, ledger)?),
            _ => Arc::default(),
        };
        let lengths = (config.min_length, config.max_length);
        let context = Context {
            source: source.clone(),
            index,
            lengths,
            ontology: ontology.clone(),
            chain_split,
            labels,
            companions: source.companion.iter().map(|name| data.join(name)).collect(),
        };
        let context = Arc::new(context);
        // A few partitions, however many files: each holds a thread and a row group.
        let mut groups = vec![vec![]; rayon::current_num_threads().min(source::files(source).count())];
        let n = groups.len();
        for (file, name) in source::files(source).enumerate() {
            groups[file % n].push((file, data.join(name)));
        }
        let partition = |files| -> Arc<dyn PartitionStream> {
            Arc::new(SourceFiles {
                context: context.clone(),
                files,
                fields: fields.clone(),
                schema: schema.clone(),
                ledger: ledger.clone(),
                bars: bars.clone(),
            })
        };
        let files: Vec<_> = groups.into_iter().map(partition).collect();
        let table = StreamingTable::try_new(schema.clone(), files)?;
        let options = DataFrameWriteOptions::new().with_single_file_output(false);
        let written = session.read_table(Arc::new(table))?.write_parquet(&url(staging), options, None).await;
        if let Some(error) = ledger.failure() {
            return Err(error);
        }
        written?;
        tracing::info!(source = %source.name, seconds = started.elapsed().as_secs_f32(), "parsed");
    }
    Ok((staged(session, staging, schema).await?, text))
}

fn url(folder: &Path) -> String {
    format!("{}/", folder.display())
}

async fn staged(session: &SessionContext, staging: &Path, schema: SchemaRef) -> Result<DataFrame, Error> {
    let has_files = fs::read_dir(staging)?.next().is_some();
    if !has_files {
        return Ok(session.read_batch(RecordBatch::new_empty(schema))?);
    }
    Ok(session.read_parquet(url(staging), ParquetReadOptions::default().schema(&schema)).await?)
}
