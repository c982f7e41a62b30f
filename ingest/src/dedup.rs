//! The relational work: which claims conflict, which repeat, which find their proteins. All of it runs as DataFusion
//! plans over the staged claims, but for facts, which are merged bucket by bucket; every choice is for the lowest `order`, so
//! the result does not depend on threads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::UInt64Type;
use datafusion::dataframe::DataFrame;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::{Expr, JoinType, col, lit, when};
use datasets::table::{ChainRow, DomainRow, GoRow, PlddtRow, Rows, SsRow, WeightRow, Writer};
use futures::StreamExt;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};

mod contradictions;
mod facts;
mod mutations;
mod pairs;

use crate::Error;
use crate::buckets::{Buckets, Dealt, sorted};
use crate::claim;
use crate::config::{Config, Source};
use crate::engine::Engine;
use crate::ledger::{Ledger, Notes};
use crate::parse::Parsed;
use crate::reason::{Fault, Reason};

pub(crate) use pairs::Pair;

/// What is left of the claims and waits for the split, sorted. The tables that do not are written.
#[derive(Serialize, Deserialize)]
pub(crate) struct Relations {
    /// Distinct sequences with the names under which the sources hold them.
    pub(crate) proteins: Vec<ProteinClaim>,
    pub(crate) pairs: Vec<Pair>,
    /// Rows of the tables that are written.
    pub(crate) rows: BTreeMap<String, u64>,
    /// What became of the records.
    pub(crate) notes: Notes,
}

/// A distinct sequence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProteinClaim {
    pub(crate) protein_id: String,
    pub(crate) sequence: String,
    pub(crate) accessions: Vec<String>,
    pub(crate) sources: Vec<String>,
    /// Of a published test set.
    pub(crate) test: bool,
}

/// A record to be quarantined, as a plan finds it.
#[derive(Deserialize)]
struct Refused {
    record: u64,
    detail: String,
}

/// Plans over one set of claims.
struct Plans<'a> {
    engine: &'a Engine,
    config: &'a Config,
    parsed: &'a Parsed,
    ledger: &'a Ledger,
    /// Where tables are written.
    tables: &'a Path,
    /// Rows of those that are.
    rows: BTreeMap<String, u64>,
    /// Where rows wait to be sorted.
    buckets: PathBuf,
    /// Claims without those of conflicting records.
    sound: DataFrame,
    /// Places of claims that are kept, but for facts.
    kept: HashSet<u64>,
    /// Places of the facts that are kept, and of those that were merged into others of other words.
    facts: Vec<u64>,
    near: Vec<u64>,
    /// Records that a plan found unusable, and why.
    refused: BTreeMap<u64, Fault>,
}

/// Runs all plans, and writes into `tables` what they end in. A table is never in memory whole.
///
/// # Errors
/// What DataFusion says; I/O.
pub(crate) async fn relate(
    engine: &Engine,
    config: &Config,
    parsed: &Parsed,
    tables: &Path,
    buckets: PathBuf,
) -> Result<Relations, Error> {
    let ledger = &Ledger::default();
    let conflict = |Refused { record, detail: id }| {
        (record, Fault::new(Reason::IdConflict, format!("{id:?} was given another sequence before")))
    };
    let refused: BTreeMap<u64, Fault> =
        id_conflicts(engine, &parsed.claims).await?.into_iter().map(conflict).collect();
    tracing::info!(records = refused.len(), "conflicts of ids found");
    let mut sound = parsed.claims.clone();
    if !refused.is_empty() {
        sound = engine.by_number(sound, "record", JoinType::RightAnti, refused.keys().copied())?;
    }
    let kept = HashSet::new();
    let (facts, near) = (Vec::new(), Vec::new());
    let rows = BTreeMap::new();
    let mut plans =
        Plans { engine, config, parsed, ledger, tables, rows, buckets, sound, kept, facts, near, refused };

    let go_tests = plans.annotations().await?;
    let pairs = plans.pairs().await?;
    tracing::info!(pairs = pairs.len(), "pairs found");
    let keyed = plans.sound.clone().filter(col("key").is_not_null())?;
    let first = keyed.aggregate(vec![col("key")], vec![min(col("order")).alias("first")])?;
    plans.kept.extend(engine.numbers(first.select(vec![col("first")])?).await?);
    tracing::info!("repeats found");

    let ddg_tests = plans.mutations().await?;
    let mut proteins = plans.proteins().await?;
    for protein in &mut proteins {
        protein.test |= go_tests.contains(&protein.protein_id) || ddg_tests.contains(&protein.protein_id);
    }
    tracing::info!(proteins = proteins.len(), "proteins found");
    plans.facts()?;
    let mut nodes = Nodes::new();
    plans.table("domain", &["domain_id", "node"], "domain_id", |domain| note(&mut nodes, domain)).await?;
    plans.table("weight", &["term", "information_bits"], "term", |_: &mut WeightRow| {}).await?;
    let columns = ["backbone_ang", "cath", "published_split"];
    plans.table("chain", &columns, "chain_id", |chain| name_fold(chain, &nodes)).await?;
    plans.table("ss", &["q8", "q3", "mask"], "id", |_: &mut SsRow| {}).await?;
    plans.table("plddt", &["mean_plddt", "plddt"], "accession", |_: &mut PlddtRow| {}).await?;
    plans.account().await?;
    let rows = std::mem::take(&mut plans.rows);
    plans.quarantine()?;
    Ok(Relations { proteins, pairs, rows, notes: ledger.take() })
}

/// Records that give an id of their source another sequence than the first record with that id did.
async fn id_conflicts(engine: &Engine, claims: &DataFrame) -> Result<Vec<Refused>, Error> {
    let is_named = col("protein_id").is_not_null().and(col("accession").not_eq(lit("")));
    let named = claims
        .clone()
        // Only the first claim of a record names it: a secondary accession may belong to several entries.
        .filter(col("order").eq(col("record")).and(is_named))?
        .with_column("source", col("order") >> lit(claim::SOURCE_BIT))?
        .select(["source", "accession", "protein_id", "order", "record"].map(col).to_vec())?;
    let first = named
        .clone()
        .aggregate(vec![col("source"), col("accession")], vec![min(col("order")).alias("first_order")])?
        .select(vec![col("first_order")])?
        .join(named.clone(), JoinType::Inner, &["first_order"], &["order"], None)?
        .select(vec![
            col("source").alias("s"),
            col("accession").alias("a"),
            col("protein_id").alias("first_protein"),
        ])?;
    let others = named
        .join(first, JoinType::Inner, &["source", "accession"], &["s", "a"], None)?
        .filter(col("protein_id").not_eq(col("first_protein")))?
        .select(vec![col("record"), col("accession").alias("detail")])?;
    engine.collect(others).await
}

impl Plans<'_> {
    /// GO annotations with their proteins. Those of a flat-file entry bring their protein; those of annotation files
    /// find it by accession, in flat files before other sources. Returns proteins annotated by test sources.
    async fn annotations(&mut self) -> Result<BTreeSet<String>, Error> {
        let reference = get_field(col("member"), "is_reference");
        // Bit 63 puts every other source after the flat files; configurations have at most 127 sources.
        let rank = when(reference, col("order")).otherwise(col("order") + lit(1_u64 << 63))?;
        let members = self.claims_for("member")?.select(vec![
            col("accession").alias("known_as"),
            col("protein_id").alias("found"),
            rank.alias("rank"),
        ])?;
        let best = members.clone().aggregate(vec![col("known_as")], vec![min(col("rank")).alias("best")])?;
        let lookup = best
            .select(vec![col("best")])?
            .join(members, JoinType::Inner, &["best"], &["rank"], None)?
            .select(vec![col("known_as"), col("found")])?;
        let go = self.claims_for("go")?;
        let unnamed = go
            .clone()
            .filter(col("protein_id").is_null())?
            .with_column("locus", get_field(col("go"), "locus"))?
            .drop_columns(&["protein_id"])?;
        // Annotations whose accession nobody knows may still give a locus that somebody does.
        let strangers =
            unnamed.clone().join(lookup.clone(), JoinType::LeftAnti, &["accession"], &["known_as"], None)?;
        let lost =
            strangers.clone().join(lookup.clone(), JoinType::LeftAnti, &["locus"], &["known_as"], None)?;
        let lost = lost.select(vec![col("record"), col("accession").alias("detail")])?;
        let lost = self.engine.collect(lost).await?;
        self.refuse(lost, Reason::NoSequence, |id| format!("no source gives a sequence for {id:?}"));
        let columns = |protein: &str| {
            let mut columns: Vec<Expr> = ["order", "accession", "source", "scope", "test"].map(col).to_vec();
            columns.push(col(protein).alias("protein_id"));
            columns.extend(["term", "aspect", "evidence"].map(|f| get_field(col("go"), f).alias(f)));
            columns
        };
        let named = go.filter(col("protein_id").is_not_null())?.select(columns("protein_id"))?;
        let by_name = unnamed.join(lookup.clone(), JoinType::Inner, &["accession"], &["known_as"], None)?;
        let by_locus = strangers.join(lookup, JoinType::Inner, &["locus"], &["known_as"], None)?;
        let found =
            by_name.select(columns("found"))?.union(by_locus.select(columns("found"))?)?.union(named)?;
        let tests = found.clone().filter(col("test"))?.select(vec![col("protein_id")])?.distinct()?;
        let first = self.first(&found, &["scope", "protein_id", "term", "evidence"]).await?;
        let rows = first.sort_by(["protein_id", "term", "evidence", "source"].map(col).to_vec())?;
        self.write(rows, |_: &mut GoRow| {}).await?;
        #[derive(Deserialize)]
        struct Test {
            protein_id: String,
        }
        let tests = self.engine.collect::<Test>(tests).await?;
        Ok(tests.into_iter().map(|test| test.protein_id).collect())
    }

    /// Distinct sequences, by id.
    async fn proteins(&self) -> Result<Vec<ProteinClaim>, Error> {
        // A record that was refused may be the only one that holds the sequence of a protein that others name.
        let held = self.parsed.claims.clone().filter(col("sequence").is_not_null())?;
        let held = held.select(["protein_id", "sequence"].map(col).to_vec())?;
        let (mut proteins, mut place_of) = (Vec::new(), HashMap::new());
        let mut batches = self.engine.stream(held).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let [ids, letters] = [0, 1].map(|at| batch.column(at).as_string::<i64>());
            for (id, letters) in ids.iter().zip(letters).filter_map(|(id, letters)| id.zip(letters)) {
                place_of.entry(claim::number(id)).or_insert_with(|| {
                    let [protein_id, sequence] = [id, letters].map(str::to_owned);
                    proteins.push(ProteinClaim { protein_id, sequence, ..ProteinClaim::default() });
                    proteins.len() - 1
                });
            }
        }
        // Of every protein a bit for each source that names it.
        let mut sources = vec![0_u128; proteins.len()];
        let names = self.sound.clone().filter(col("protein_id").is_not_null())?;
        let names = names.select(["protein_id", "accession", "order", "test"].map(col).to_vec())?;
        let mut batches = self.engine.stream(names).await?;
        while let Some(batch) = batches.next().await {
            let batch = batch?;
            let [ids, accessions] = [0, 1].map(|at| batch.column(at).as_string::<i64>());
            let orders = batch.column(2).as_primitive::<UInt64Type>();
            let tests = batch.column(3).as_boolean();
            for row in 0..batch.num_rows() {
                let place = place_of.get(&claim::number(ids.value(row)));
                let &place = place.expect("a protein with a name has a sequence");
                if !accessions.value(row).is_empty() {
                    name(&mut proteins[place].accessions, accessions.value(row));
                }
                proteins[place].test |= tests.value(row);
                sources[place] |= 1 << claim::place(orders.value(row)).0;
            }
        }
        for (protein, sources) in proteins.iter_mut().zip(sources) {
            let of = self.config.source.iter().enumerate().filter(|(at, _)| sources >> at & 1 == 1);
            protein.sources = of.map(|(_, source)| source.name.clone()).collect();
        }
        proteins.retain(|protein| !protein.sources.is_empty());
        proteins.sort_unstable_by(|a, b| a.protein_id.cmp(&b.protein_id));
        for protein in &mut proteins {
            protein.sources.sort();
            protein.accessions.sort();
            protein.accessions.dedup();
            protein.accessions.shrink_to_fit();
        }
        Ok(proteins)
    }

    /// The source of a claim.
    fn source(&self, order: u64) -> &Source {
        &self.config.source[claim::place(order).0]
    }

    /// And within what it repeats.
    fn scope(&self, order: u64) -> &str {
        self.source(order).scope()
    }

    /// All sound claims for one table. Where there are none the plan is empty, and no file is read for it.
    fn claims_for(&self, table: &str) -> Result<DataFrame, Error> {
        let is_one = if self.parsed.tables.contains(table) { col(table).is_not_null() } else { lit(false) };
        Ok(self.sound.clone().filter(is_one)?)
    }

    /// The same with what the claim itself tells.
    fn claims(&self, table: &str, columns: &[&str]) -> Result<DataFrame, Error> {
        let claims = self.claims_for(table)?;
        let mut select: Vec<Expr> = ["order", "protein_id", "source", "accession"].map(col).to_vec();
        select.extend(columns.iter().map(|f| get_field(col(table), *f).alias(*f)));
        Ok(claims.select(select)?)
    }

    /// Writes the kept claims for one table, by protein and `then`, each row as `edit` leaves it.
    async fn table<T: Rows + Send>(
        &mut self,
        table: &str,
        columns: &[&str],
        then: &str,
        mut edit: impl FnMut(&mut T),
    ) -> Result<(), Error> {
        let mut claims = self.claims(table, columns)?;
        // What some tables call the accession.
        for name in ["id", "chain_id"] {
            claims = claims.with_column(name, col("accession"))?;
        }
        let dealt = self.dealt(claims).await?;
        let mut writer = self.begin::<T>()?;
        let rows = |claims: &[RecordBatch]| -> Result<Vec<T>, Error> {
            let kept = claims.iter().map(|claims| those_of(claims, &self.kept));
            let kept: Vec<RecordBatch> = kept.collect::<Result<_, _>>()?;
            let rows = sorted(&kept, &["protein_id", then, "source", "order"])?;
            Ok(serde_arrow::from_record_batch(&rows)?)
        };
        dealt.each(rows, |rows| {
            rows.into_iter().try_for_each(|mut row| {
                edit(&mut row);
                Ok(writer.push(row)?)
            })
        })?;
        self.end(writer)
    }

    /// The rows of a frame in buckets.
    async fn dealt(&self, frame: DataFrame) -> Result<Dealt, Error> {
        let mut buckets = Buckets::new(self.buckets.clone());
        let mut batches = self.engine.stream(frame).await?;
        while let Some(batch) = batches.next().await {
            buckets.add(batch?)?;
        }
        buckets.close()
    }

    /// Writes the rows of a plan as a table.
    async fn write<T: Rows + Send>(
        &mut self,
        rows: DataFrame,
        mut edit: impl FnMut(&mut T),
    ) -> Result<(), Error> {
        let mut writer = self.begin::<T>()?;
        let write = |mut row| {
            edit(&mut row);
            Ok(writer.push(row)?)
        };
        self.engine.each(rows, write).await?;
        self.end(writer)
    }

    fn begin<T: Rows>(&self) -> Result<Writer<T, File>, Error> {
        Ok(Writer::new(fs_err::File::create(T::path(self.tables))?.into_file())?)
    }

    fn end<T: Rows>(&mut self, writer: Writer<T, File>) -> Result<(), Error> {
        let (file, n) = writer.close()?;
        file.sync_all()?;
        tracing::info!(table = T::TABLE, rows = n, "written");
        self.rows.insert(T::TABLE.into(), n);
        Ok(())
    }

    /// Of rows with equal key the one with the lowest order; notes them as kept.
    async fn first(&mut self, rows: &DataFrame, key: &[&str]) -> Result<DataFrame, Error> {
        let key = key.iter().map(|k| col(*k)).collect();
        let first = rows
            .clone()
            .aggregate(key, vec![min(col("order")).alias("first")])?
            .select(vec![col("first")])?;
        let first = self.engine.numbers(first).await?;
        let kept =
            self.engine.by_number(rows.clone(), "order", JoinType::RightSemi, first.iter().copied())?;
        self.kept.extend(first);
        Ok(kept)
    }

    /// Notes records as unusable.
    fn refuse(&mut self, refused: Vec<Refused>, reason: Reason, detail: impl Fn(&str) -> String) {
        let fault = |Refused { record, detail: of }| (record, Fault::new(reason, detail(&of)));
        self.refused.extend(refused.into_iter().map(fault));
    }

    /// Quarantines the unusable records with their texts, which stand in their files only.
    fn quarantine(self) -> Result<(), Error> {
        let texts = self.parsed.parser.texts(self.refused.keys().copied())?;
        for (record, fault) in self.refused {
            self.ledger.quarantine(record, fault, &texts[&record], false);
        }
        Ok(())
    }

    /// Counts what became of every sound record that was not refused.
    async fn account(&self) -> Result<(), Error> {
        let first = self.sound.clone().filter(col("order").eq(col("record")))?;
        let records = self.engine.numbers(first.select(vec![col("record")])?).await?;
        let kept = records_of(self.kept.iter().chain(&self.facts));
        let mut near = records_of(&self.near);
        near.retain(|record| kept.binary_search(record).is_err());
        let [n_kept, n_near] = [kept, near].map(|records| self.by_file(records));
        for (of, n) in self.by_file(records) {
            let [n_kept, n_near] = [&n_kept, &n_near].map(|counts| counts.get(&of).copied().unwrap_or(0));
            self.ledger.keep(of.0, of.1, n_kept);
            self.ledger.merge(of.0, of.1, n - n_kept, n_near);
        }
        Ok(())
    }

    /// Of these records, how many were not refused, by source and file.
    fn by_file(&self, records: Vec<u64>) -> BTreeMap<(usize, usize), u64> {
        let mut counts = BTreeMap::new();
        for record in records.into_iter().filter(|record| !self.refused.contains_key(record)) {
            let (source, file, _) = claim::place(record);
            *counts.entry((source, file)).or_default() += 1;
        }
        counts
    }
}

/// Adds a name that may be there.
fn name(names: &mut Vec<String>, name: &str) {
    // One that comes once more mostly does so soon.
    if !names.iter().rev().take(8).any(|known| known == name) {
        names.push(name.to_owned());
    }
}

/// The records of claims at these places, sorted, each once.
fn records_of<'a>(orders: impl IntoIterator<Item = &'a u64>) -> Vec<u64> {
    let mut records: Vec<u64> = orders.into_iter().map(|&order| claim::record_of(order)).collect();
    records.sort_unstable();
    records.dedup();
    records
}

/// Of some claims those with these orders.
fn those_of(claims: &RecordBatch, orders: &HashSet<u64>) -> Result<RecordBatch, Error> {
    let column = claims.column_by_name("order").expect("claims have a place");
    let values = column.as_primitive::<UInt64Type>().values().iter();
    let is_one: BooleanArray = values.map(|order| Some(orders.contains(order))).collect();
    Ok(filter_record_batch(claims, &is_one)?)
}

/// Class, architecture and topology of the domains of every chain, or as much of it as the lists say.
type Nodes = BTreeMap<String, BTreeSet<String>>;

/// Notes the node of a domain.
fn note(nodes: &mut Nodes, domain: &mut DomainRow) {
    if !domain.node.is_empty() {
        let node = domain.node.split('.').take(3).collect::<Vec<_>>().join(".");
        nodes.entry(domain.chain_id.clone()).or_default().insert(node);
    }
}

/// Gives a chain without CATH nodes those of its domains.
fn name_fold(chain: &mut ChainRow, nodes: &Nodes) {
    let Some(of) = nodes.get(&chain.chain_id).filter(|_| chain.cath.is_empty()) else { return };
    let is_said_better = |node: &String| of.iter().any(|other| other.starts_with(&format!("{node}.")));
    chain.cath = of.iter().filter(|node| !is_said_better(node)).cloned().collect();
}
