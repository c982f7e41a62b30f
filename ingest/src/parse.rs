//! Raw files → claims in Parquet and facts in buckets, by a plan that has a partition for every [`Unit`] of work.
//!
//! The name of a unit says what went into it, so files of it that lie there are those that would be written: a run
//! that was killed is gone on with, and a unit that is parsed twice, on two machines too, leaves what it left before, but for which
//! of the facts about a protein holds its sequence.

mod claims;
pub(crate) mod facts;
mod operator;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use datafusion::dataframe::DataFrame;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{Expr, case, col, lit};
use datafusion::prelude::ParquetReadOptions;
use datafusion::scalar::ScalarValue;
use fs_err as fs;
use futures::TryStreamExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use crate::Error;
use crate::claim;
use crate::config::{Config, Kind, Source};
use crate::engine::Engine;
use crate::ledger::{Ledger, Notes};
use crate::manifest::Fingerprint;
use crate::source::{self, Context, Sink, cath::PublishedSplit, go::Ontology};
use claims::fields;
pub(crate) use claims::{Claims, Group, text_column};
use facts::Facts;
pub(crate) use operator::Parse;

/// Small files of a source are parsed together until they have so many bytes.
const UNIT_BYTES: u64 = 32 << 20;

/// Some files of a source that are parsed one after the other, into one file of claims and one of facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unit {
    source: usize,
    files: Range<usize>,
    bytes: u64,
    /// Name of the source and a hash of all that its claims depend on.
    name: String,
}

/// The units of a recipe, the largest first. `inputs`: of every source its files in reading order.
fn units(config: &Config, inputs: &[Vec<Fingerprint>]) -> Result<Vec<Unit>, Error> {
    // Another build may read the same file otherwise.
    let program = fs::metadata(std::env::current_exe()?)?;
    let mut common = Sha256::new();
    common.update(format!("{:?} {} ", program.modified()?, program.len()));
    common.update(format!("{} {}", config.min_length, config.max_length));
    let ontology = ontology_source(config).map_or(&[][..], |at| &inputs[at]);
    ontology.iter().for_each(|file| common.update(&file.sha256));
    let mut units = Vec::new();
    for (index, (source, files)) in config.source.iter().zip(inputs).enumerate() {
        let mut of_source = common.clone();
        of_source.update(serde_json::to_vec(&(index, source))?);
        files[..source.companion.len()].iter().for_each(|file| of_source.update(&file.sha256));
        let mut begin = 0;
        while begin < files.len() {
            let mut bytes = files[begin].bytes;
            let mut end = begin + 1;
            while end < files.len() && bytes + files[end].bytes <= UNIT_BYTES {
                bytes += files[end].bytes;
                end += 1;
            }
            let mut hash = of_source.clone();
            hash.update(begin.to_le_bytes());
            files[begin..end].iter().for_each(|file| hash.update(&file.sha256));
            // Names of sources are free, names of files are not.
            let free = source.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' });
            let name = format!("{}-{}", free.collect::<String>(), datasets::hex(&hash.finalize()[..16]));
            units.push(Unit { source: index, files: begin..end, bytes, name });
            begin = end;
        }
    }
    units.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    Ok(units)
}

/// A recipe, the folder in which its files lie, and the one into which its claims go.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    config: Config,
    data: PathBuf,
    staging: PathBuf,
}

/// Parses units of a job.
pub(crate) struct Parser {
    job: Job,
    /// Read when it is first asked for.
    ontology: Mutex<Option<Arc<Ontology>>>,
    /// What is known of the sources that are being parsed.
    contexts: Mutex<BTreeMap<usize, Weak<Context>>>,
    bars: MultiProgress,
    /// A permit for every thread that may parse a unit.
    slots: Arc<Semaphore>,
    /// And for every thread that may help with one.
    helpers: Arc<Semaphore>,
    /// The error of the first unit that failed.
    failure: Mutex<Option<Error>>,
    /// That nobody waits for the claims any more.
    is_over: Arc<AtomicBool>,
}

impl Parser {
    /// A parser of as many units at once as there are slots. Threads that have no unit any more help with those of others.
    fn new(job: Job, ontology: Option<Arc<Ontology>>, slots: usize) -> Self {
        let slots = Arc::new(Semaphore::new(slots));
        Self {
            contexts: Mutex::default(),
            job,
            ontology: Mutex::new(ontology),
            bars: MultiProgress::new(),
            helpers: slots.clone(),
            slots,
            failure: Mutex::default(),
            is_over: Arc::default(),
        }
    }

    /// A parser of another process's job, which that process bounds.
    #[cfg(feature = "ballista")]
    pub(crate) fn elsewhere(job: Job) -> Self {
        Self { helpers: Arc::new(Semaphore::new(0)), ..Self::new(job, None, Semaphore::MAX_PERMITS) }
    }

    fn ontology(&self) -> Result<Option<Arc<Ontology>>, Error> {
        let Job { config, data, .. } = &self.job;
        let Some(at) = ontology_source(config) else { return Ok(None) };
        let mut known = self.ontology.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            // The process that has made the plan counts its records.
            let (ontology, _) = Ontology::read(data, &config.source[at].files, at, &Ledger::default())?;
            *known = Some(Arc::new(ontology));
        }
        Ok(known.clone())
    }

    fn claims(&self, unit: &Unit) -> PathBuf {
        self.job.staging.join(&unit.name).with_added_extension("parquet")
    }

    fn facts(&self, unit: &Unit) -> PathBuf {
        self.job.staging.join(&unit.name).with_added_extension("facts")
    }

    fn notes(&self, unit: &Unit) -> PathBuf {
        self.job.staging.join(&unit.name).with_added_extension("json")
    }

    /// What is known of a source; let go of when none of its units is parsed.
    fn context(&self, index: usize) -> Result<Arc<Context>, Error> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&index).and_then(Weak::upgrade) {
            return Ok(context);
        }
        let Job { config, data, .. } = &self.job;
        let source = &config.source[index];
        let chain_split = match (source.kind, source.companion.first()) {
            (Kind::CathChains | Kind::Structure | Kind::Cgdms, Some(split)) => {
                Some(Arc::new(PublishedSplit::read(&data.join(split))?))
            }
            _ => None,
        };
        let context = Arc::new(Context {
            source: source.clone(),
            index,
            lengths: (config.min_length, config.max_length),
            ontology: self.ontology()?,
            chain_split,
            companions: source.companion.iter().map(|name| data.join(name)).collect(),
        });
        contexts.insert(index, Arc::downgrade(&context));
        Ok(context)
    }

    /// Parses a unit, unless its claims are there.
    fn parse(&self, unit: &Unit) -> Result<(), Error> {
        if self.notes(unit).exists() {
            tracing::info!(unit = unit.name, "parsed before");
            return Ok(());
        }
        let started = Instant::now();
        let context = self.context(unit.source)?;
        let ledger = Arc::new(Ledger::default());
        datasets::atomic_write::<Error>(&self.facts(unit), |facts| {
            datasets::atomic_write(&self.claims(unit), |claims| {
                let claims = Claims::new(claims.try_clone()?, facts.try_clone()?, self.is_over.clone())?;
                self.stage(unit, &context, &ledger, claims)
            })
        })?;
        // Last: who finds the notes finds the claims and facts.
        crate::work::keep(&self.notes(unit), &ledger.take())?;
        tracing::info!(unit = unit.name, seconds = started.elapsed().as_secs_f32(), "parsed");
        Ok(())
    }

    /// Parses the files of a unit, one after the other.
    fn stage(
        &self,
        unit: &Unit,
        context: &Arc<Context>,
        ledger: &Arc<Ledger>,
        mut claims: Claims,
    ) -> Result<(), Error> {
        let files = source::files(&context.source).enumerate();
        for (file, name) in files.skip(unit.files.start).take(unit.files.len()) {
            let path = self.job.data.join(name);
            let bar = self.bars.add(bar(&path));
            let mut sink =
                Sink::new(context.clone(), file, ledger.clone(), &mut claims, self.helpers.clone());
            source::read(context, &path, bar.clone(), &mut sink)?;
            sink.close();
            bar.finish_and_clear();
        }
        claims.close()
    }

    /// Looks up the texts of records, as much of each as the quarantine keeps. Their files are read once more: to keep the text
    /// of every record for the few that are asked for would cost as much as to parse it.
    ///
    /// # Errors
    /// Those of parsing, and [`Error::Changed`] where a record is not there any more.
    pub(crate) fn texts(
        &self,
        records: impl IntoIterator<Item = u64>,
    ) -> Result<BTreeMap<u64, String>, Error> {
        let mut files: BTreeMap<(usize, usize), BTreeMap<u64, Option<String>>> = BTreeMap::new();
        for record in records {
            let (source, file, _) = claim::place(record);
            files.entry((source, file)).or_default().insert(record, None);
        }
        let sources: BTreeSet<usize> = files.keys().map(|&(source, _)| source).collect();
        // Held, so that what is known of a source is read once.
        let contexts: BTreeMap<usize, Arc<Context>> = sources
            .into_iter()
            .map(|source| Ok((source, self.context(source)?)))
            .collect::<Result<_, Error>>()?;
        let read = |((source, file), mut texts): ((usize, usize), BTreeMap<u64, Option<String>>)| {
            let context = &contexts[&source];
            let name = source::files(&context.source).nth(file).expect("a record is of a file of its source");
            let path = self.job.data.join(name);
            let bar = self.bars.add(bar(&path));
            source::read(
                context,
                &path,
                bar.clone(),
                &mut Sink::of_texts(context.clone(), file, &mut texts),
            )?;
            bar.finish_and_clear();
            let text = |(record, text): (u64, Option<String>)| {
                Ok((record, text.ok_or_else(|| Error::Changed { path: path.clone() })?))
            };
            texts.into_iter().map(text).collect::<Result<Vec<_>, Error>>()
        };
        let texts: Vec<_> = files.into_par_iter().map(read).collect::<Result<_, Error>>()?;
        Ok(texts.into_iter().flatten().collect())
    }

    /// [`Parser::parse`], for a plan: it gives the unit as JSON and sees the text of an error; the first is kept.
    fn run(&self, unit: &str) -> PlanResult<()> {
        let parsed = serde_json::from_str(unit).map_err(Error::from).and_then(|unit| self.parse(&unit));
        parsed.map_err(|error| {
            let text = error.to_string();
            self.failure().get_or_insert(error);
            DataFusionError::Execution(text)
        })
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The source of the ontology; there is one at most.
fn ontology_source(config: &Config) -> Option<usize> {
    config.source.iter().position(|source| source.kind == Kind::Obo)
}

fn bar(path: &Path) -> ProgressBar {
    let length = fs::metadata(path).map_or(0, |m| m.len());
    let style = ProgressStyle::with_template("{msg:32!} {wide_bar} {bytes}/{total_bytes} {elapsed}");
    let bar = ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.with_message(source::stem(path))
}

/// What the sources say.
pub(crate) struct Parsed {
    /// Every claim.
    pub(crate) claims: DataFrame,
    /// The facts among them.
    pub(crate) facts: Facts,
    /// The tables that there are claims for.
    pub(crate) tables: BTreeSet<String>,
    /// Who looks up what a record says.
    pub(crate) parser: Arc<Parser>,
    /// The text of the ontology, if a source gives one.
    pub(crate) ontology: Option<String>,
    /// Names what all of it was made from: the same name, the same claims.
    pub(crate) name: String,
}

/// Parses every source into claims under `staging`.
///
/// # Errors
/// The first fault of a whole file.
pub(crate) async fn parse(
    engine: &Engine,
    config: &Config,
    data: &Path,
    staging: &Path,
    inputs: &[Vec<Fingerprint>],
    ledger: &Ledger,
) -> Result<Parsed, Error> {
    let (ontology, text) = match ontology_source(config) {
        None => (None, None),
        Some(at) => {
            let (ontology, text) = Ontology::read(data, &config.source[at].files, at, ledger)?;
            (Some(Arc::new(ontology)), Some(text))
        }
    };
    let units = units(config, inputs)?;
    let job = Job { config: config.clone(), data: fs::canonicalize(data)?, staging: staging.to_owned() };
    let parser = Arc::new(Parser::new(job, ontology, rayon::current_num_threads()));
    remove_strangers(staging, &units)?;

    let plan = Arc::new(Parse::all(parser.clone(), &units)?);
    let parsed: Result<Vec<RecordBatch>, Error> =
        async { Ok(engine.run(plan).await?.try_collect().await?) }.await;
    if parsed.is_err() {
        parser.is_over.store(true, Ordering::Relaxed);
    }
    if let Some(error) = parser.failure().take() {
        return Err(error);
    }
    parsed?;
    for unit in &units {
        ledger.add(serde_json::from_slice::<Notes>(&fs::read(parser.notes(unit))?)?);
    }
    let schema = Schema::new(fields()?);
    let options = ParquetReadOptions::default().schema(&schema);
    let claims = engine.session.read_parquet(format!("{}/", staging.display()), options).await?;
    let claims = claims.with_column("source", of_source(config, |source| &source.name)?)?;
    let claims = claims.with_column("scope", of_source(config, Source::scope)?)?;
    let mut name = Sha256::new();
    units.iter().for_each(|unit| name.update(&unit.name));
    Ok(Parsed {
        claims,
        facts: Facts::open(units.iter().map(|unit| parser.facts(unit)))?,
        tables: ledger.tables(),
        parser,
        ontology: text,
        name: datasets::hex(&name.finalize()[..16]),
    })
}

/// What the source of a claim, which its place tells, has of this.
fn of_source(config: &Config, what: impl Fn(&Source) -> &str) -> Result<Expr, Error> {
    let mut cases = case(col("order") >> lit(claim::SOURCE_BIT));
    for (at, source) in config.source.iter().enumerate() {
        let what = ScalarValue::LargeUtf8(Some(what(source).to_owned()));
        cases = cases.when(lit(at as u64), lit(what));
    }
    Ok(cases.end()?)
}

/// Removes from the folder what a killed run has left and this one has no use for.
fn remove_strangers(staging: &Path, units: &[Unit]) -> Result<(), Error> {
    let of_unit = |unit: &Unit| ["parquet", "facts", "json"].map(|end| format!("{}.{end}", unit.name));
    let known: BTreeSet<String> = units.iter().flat_map(of_unit).collect();
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        if !path.file_name().is_some_and(|name| known.contains(&*name.to_string_lossy())) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::manifest;

    /// Records of each file of the recipe, and names and times of the files of claims and facts, after the folder was parsed.
    fn parsed(data: &Path, staging: &Path) -> Result<(Vec<u64>, BTreeMap<String, SystemTime>), Error> {
        let source = |name: &str, files: &[&str]| serde_json::json!({ "name": name, "kind": "swissprot_fasta", "files": files, "licence": "none" });
        let sources = [source("one", &["a.fasta", "b.fasta"]), source("or/two", &["c.fasta"])];
        let config: Config = serde_json::from_value(serde_json::json!({ "source": sources })).unwrap();
        let (engine, ledger) = (Engine::here(&config)?, Ledger::default());
        let inputs = manifest::fingerprints(&config, data)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
        runtime.block_on(parse(&engine, &config, data, staging, &inputs, &ledger))?;
        let (files, _) = ledger.close(&config, &inputs);
        let rows = files.iter().map(|file| file.rows_in).collect();
        let files = fs::read_dir(staging)?.map(|file| file.unwrap().path());
        let made = files.filter(|path| path.extension().is_some_and(|end| end != "json"));
        let timed = made.map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::metadata(path).unwrap().modified().unwrap())
        });
        Ok((rows, timed.collect()))
    }

    fn entry(id: &str) -> String {
        let own: String = id.bytes().map(|b| char::from(b"ACDEFGHIKL"[b as usize % 10])).collect();
        format!(">sp|{id}|X_Y Thing OS=Beast OX=1\nMKTAYIAKQRQISFVKSHFSRQLEERLGLIE{own}\n")
    }

    #[test]
    fn a_unit_is_parsed_once_and_again_when_its_files_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.fasta"), entry("P00001")).unwrap();
        fs::write(at("b.fasta"), entry("P00002") + &entry("P00003")).unwrap();
        fs::write(at("c.fasta"), entry("P00004")).unwrap();
        let staging = at("staging");
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join(".left.parquet.1.tmp"), "half").unwrap();

        let (rows, first) = parsed(folder.path(), &staging).unwrap();
        assert_eq!(rows, [1, 2, 1]);
        let sources: Vec<&str> = first.keys().map(|name| name.split('-').next().unwrap()).collect();
        assert_eq!(
            sources,
            ["one", "one", "or_two", "or_two"],
            "small files of a source are a unit, names of sources are free"
        );
        assert_eq!(fs::read_dir(&staging).unwrap().count(), 6, "what a killed run left is removed");
        assert_eq!(parsed(folder.path(), &staging).unwrap().1, first, "nothing is parsed again");

        fs::write(at("c.fasta"), entry("P00005")).unwrap();
        let changed = parsed(folder.path(), &staging).unwrap().1;
        let same: Vec<&String> =
            changed.keys().filter(|name| changed.get(*name) == first.get(*name)).collect();
        assert_eq!((changed.len(), same.len()), (4, 2), "{first:?} {changed:?}");
        assert!(same[0].starts_with("one-"));

        fs::write(at("c.fasta"), "").unwrap();
        assert!(parsed(folder.path(), &staging).is_err());
    }

    #[test]
    fn where_a_chunk_is_parsed_changes_no_byte() {
        let folder = tempfile::tempdir().unwrap();
        let many: String = (0..500).map(|n| entry(&format!("P{n:05}"))).collect();
        fs::write(folder.path().join("a.fasta"), &many).unwrap();
        fs::write(folder.path().join("b.fasta"), entry("Q00001") + ">none\nMKT\n" + &many).unwrap();
        fs::write(folder.path().join("c.fasta"), entry("R00001")).unwrap();
        let bytes = [1, 4].map(|n_threads| {
            let staging = folder.path().join(format!("staging{n_threads}"));
            fs::create_dir(&staging).unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            let (rows, files) = pool.install(|| parsed(folder.path(), &staging)).unwrap();
            assert_eq!(rows, [500, 502, 1]);
            let claims = files.keys().map(|name| fs::read(staging.join(name)).unwrap());
            claims.collect::<Vec<_>>()
        });
        assert!(bytes[0] == bytes[1], "claims depend on the number of threads");
    }

    #[test]
    fn texts_are_looked_up_where_they_stand() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut gz, text.as_bytes()).unwrap();
            fs::write(folder.path().join(name), gz.finish().unwrap()).unwrap();
        };
        write("a.fasta.gz", &(entry("P00001") + ">none\nMKT\n" + &entry("P00003")));
        write("b.csv.gz", "seq,ddg\nMKL,1\nMKV,2\n");
        let config: Config = serde_json::from_value(serde_json::json!({ "source": [
            { "name": "fasta", "kind": "swissprot_fasta", "files": ["a.fasta.gz"], "licence": "none" },
            { "name": "csv", "kind": "ss_csv", "files": ["b.csv.gz"], "licence": "none" },
        ] }))
        .unwrap();
        let job = Job { config, data: folder.path().into(), staging: folder.path().into() };
        let parser = Parser::new(job, None, 1);
        let places = [claim::record(0, 0, 3), claim::record(0, 0, 5)];
        let texts = parser.texts(places).unwrap();
        assert_eq!(texts[&places[0]], ">none\nMKT");
        assert_eq!(texts[&places[1]], entry("P00003").trim_end());
        assert_eq!(parser.texts([]).unwrap(), BTreeMap::new());
        assert!(matches!(parser.texts([claim::record(0, 0, 4)]), Err(Error::Changed { .. })));
        assert!(parser.texts([claim::record(1, 0, 2)]).is_err(), "the columns are of another kind");
    }
}
