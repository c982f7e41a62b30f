//! Contacts and CATH classes: a model folder on the held-out chains of a tables folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::IndexOp;
use datasets::collate::Padding;
use datasets::fold::{CATH_CLASSES, FoldRecord};
use datasets::residue;
use datasets::table::{ChainRow, ProteinRow, Rows, Split};
use models::Tape;
use models::fold::ContactClassifier;
use serde_json::{Map, Value, json};

use crate::baseline::contact::Separation;
use crate::batch::in_batches;
use crate::dataset::hashed;
use crate::metric::contact::precision_at;
use crate::report::{Dataset, Results, Row, Sample};
use crate::{Comparison, Kind};

/// Pairs of residues that are predicted together, padding included; no prediction depends on it.
const BATCH_PAIRS: usize = 1 << 16;

/// Which CATH classes a chain has.
pub type Classes = [bool; CATH_CLASSES.len()];

/// What the model says of one chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Score of a contact (a logit), `[L, L]` row-major, symmetric.
    pub contacts: Vec<f32>,
    /// Classes more likely than not; the likeliest one where none is.
    pub classes: Classes,
}

/// Predicts sequences of any length, in their order.
///
/// # Errors
/// On an empty sequence.
pub fn predict(model: &ContactClassifier, sequences: &[&str]) -> Result<Vec<Prediction>> {
    let fits = |n: usize, longest: usize| n * longest.pow(2) <= BATCH_PAIRS;
    in_batches(sequences, fits, |batch| predict_batch(model, batch))
}

fn predict_batch(model: &ContactClassifier, sequences: &[&str]) -> Result<Vec<Prediction>> {
    let padding = Padding::new(sequences.iter().map(|s| s.len()).collect())?;
    let tokens: Vec<Vec<u32>> = sequences.iter().map(|s| residue::encode(s)).collect();
    let tokens = padding.pad(tokens.iter().map(Vec::as_slice), 1, residue::PAD)?;
    let output = model.forward(&Tape::off(), &tokens, padding.lengths(), None)?;
    let classes = output.classes.value().to_vec2::<f32>()?;
    let one = |(row, (&n, logits)): (usize, (&usize, &Vec<f32>))| -> Result<Prediction> {
        let contacts = output.contacts.value().i((row, ..n, ..n))?.flatten_all()?.to_vec1::<f32>()?;
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let classes = std::array::from_fn(|class| logits[class] > 0.0 || logits[class] == top);
        Ok(Prediction { contacts, classes })
    };
    padding.lengths().iter().zip(&classes).enumerate().map(one).collect()
}

/// Which pairs: the least distance along the chain, with the name it has in reports.
const SEPARATIONS: [(usize, &str); 3] = [(6, "sep6"), (12, "sep12"), (24, "sep24")];
/// How many of the best-scored pairs: L divided by this, with the name of the metric.
const TOPS: [(usize, &str); 3] = [(1, "precision_l"), (2, "precision_l2"), (5, "precision_l5")];

/// What one chain contributes to the metrics.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Precision by separation and number of pairs; `None` where the chain has no such pair.
    precision: [[Option<f64>; TOPS.len()]; SEPARATIONS.len()],
    /// Predicted and true classes; `None` where CATH does not know the chain.
    classes: Option<(Classes, Classes)>,
}

impl Scores {
    fn of(record: &FoldRecord, contacts: &[u8], prediction: &Prediction) -> Self {
        let n = record.len();
        let at = |separation: usize, part: usize| {
            precision_at(&prediction.contacts, contacts, n, separation, n / part)
        };
        Self {
            precision: SEPARATIONS.map(|(separation, _)| TOPS.map(|(part, _)| at(separation, part))),
            classes: record.classes.contains(&true).then_some((prediction.classes, record.classes)),
        }
    }

    /// Mean precision over the chains that have such pairs.
    fn mean_precision<'a>(
        all: impl IntoIterator<Item = &'a Scores>,
        separation: usize,
        top: usize,
    ) -> Option<f64> {
        let (mut sum, mut n) = (0.0, 0);
        for precision in all.into_iter().filter_map(|s| s.precision[separation][top]) {
            sum += precision;
            n += 1;
        }
        (n > 0).then(|| sum / f64::from(n))
    }

    /// Share of chains whose classes are all right.
    fn class_accuracy<'a>(all: impl IntoIterator<Item = &'a Scores>) -> Option<f64> {
        let known: Vec<bool> =
            all.into_iter().filter_map(|s| s.classes.map(|(said, truth)| said == truth)).collect();
        let right = known.iter().filter(|&&right| right).count();
        (!known.is_empty()).then(|| right as f64 / known.len() as f64)
    }
}

/// Known contacts of a chain as the metrics take them: 1, 0, or 255 where unknown.
fn contacts(record: &FoldRecord) -> Vec<u8> {
    record.contacts().into_iter().map(|known| known.map_or(255, u8::from)).collect()
}

/// Scores of chains, each with its prediction.
pub fn score(records: &[FoldRecord], predictions: &[Prediction]) -> Vec<Scores> {
    records.iter().zip(predictions).map(|(r, p)| Scores::of(r, &contacts(r), p)).collect()
}

/// The numbers of a log line, under `prefix/`; the first is P@L at |i − j| ≥ 6.
pub fn log_items(scores: &[Scores], prefix: &str) -> Vec<(String, f64)> {
    let precision =
        (0..TOPS.len()).filter_map(|top| Some((TOPS[top].1, Scores::mean_precision(scores, 0, top)?)));
    let class = Scores::class_accuracy(scores).map(|value| ("class_acc", value));
    precision.chain(class).map(|(name, value)| (format!("{prefix}/{name}"), value)).collect()
}

/// Evaluates the model in `model` on the test chains.
///
/// # Errors
/// When the model or a table cannot be read, or nothing is held out.
pub fn run(model: &Path, tables: &Path) -> Result<Vec<Results>> {
    let loaded =
        ContactClassifier::load(model).with_context(|| format!("loading the model {}", model.display()))?;
    let records = FoldRecord::read(tables)?;
    let part = |split: Split| records.iter().filter(|r| r.split == split).cloned().collect::<Vec<_>>();
    let (train, test) = (part(Split::Train), part(Split::Test));
    ensure!(!test.is_empty(), "no chain with coordinates lies in the test part\nhint: ingest more data");
    let sequences: Vec<&str> = test.iter().map(|r| r.protein.sequence()).collect();
    let predictions = predict(&loaded, &sequences)?;

    let maps: Vec<(usize, Vec<u8>)> = train.iter().map(|r| (r.len(), contacts(r))).collect();
    let separation = Separation::fit(maps.iter().map(|(n, map)| (*n, map.as_slice())));
    let majority = majority(&train);
    let floor = |r: &FoldRecord| Prediction { contacts: separation.predict(r.len()), classes: majority };
    let floors: Vec<Prediction> = test.iter().map(floor).collect();
    let (own, floors) = (score(&test, &predictions), score(&test, &floors));

    let dataset = Dataset {
        name: "cath".to_owned(),
        split: "test".to_owned(),
        n: test.len(),
        n_used: test.len(),
        files: hashed(tables, &[ProteinRow::TABLE, ChainRow::TABLE])?,
    };
    let samples = test.iter().zip(predictions.iter().zip(&own)).enumerate();
    Ok(vec![Results {
        task: "contact".to_owned(),
        model: "contact".to_owned(),
        dataset,
        config: json!({ "model": model.file_name().map(|n| n.to_string_lossy()), "sizes": loaded.config() }),
        rows: rows(&test, &own, &floors)?,
        charts: vec![],
        samples: samples.map(|(at, (record, (p, s)))| sample(at, record, p, s)).collect(),
    }])
}

/// The most common set of classes; the first of equally common ones.
fn majority(train: &[FoldRecord]) -> Classes {
    let mut counts: BTreeMap<Classes, usize> = BTreeMap::new();
    for record in train.iter().filter(|r| r.classes.contains(&true)) {
        *counts.entry(record.classes).or_default() += 1;
    }
    counts
        .into_iter()
        .rev()
        .max_by_key(|&(_, n)| n)
        .map_or([false; CATH_CLASSES.len()], |(classes, _)| classes)
}

fn rows(test: &[FoldRecord], own: &[Scores], floors: &[Scores]) -> Result<Vec<Row>> {
    let truths = vec![(); test.len()];
    let clusters: Vec<&str> = test.iter().map(|r| r.cluster.as_str()).collect();
    let prior = Comparison::new(&truths, &clusters, own)?.against("separation", Kind::Floor, floors)?;
    let mut rows = vec![];
    for (separation, (_, filter)) in SEPARATIONS.iter().enumerate() {
        for (top, (_, name)) in TOPS.iter().enumerate() {
            let value = |chains: &[(&Scores, &())]| {
                Scores::mean_precision(chains.iter().map(|c| c.0), separation, top)
            };
            rows.push(prior.row(name, true, value).filtered(filter));
        }
    }
    let majority = Comparison::new(&truths, &clusters, own)?.against("majority", Kind::Floor, floors)?;
    rows.push(majority.row("class_acc", true, |chains| Scores::class_accuracy(chains.iter().map(|c| c.0))));
    Ok(rows)
}

fn sample(at: usize, record: &FoldRecord, prediction: &Prediction, scores: &Scores) -> Sample {
    let names = |classes: &Classes| -> Vec<&str> {
        CATH_CLASSES.iter().zip(classes).filter(|(_, has)| **has).map(|(&name, _)| name).collect()
    };
    let n = record.len();
    let mut pairs: Vec<(usize, usize)> =
        (0..n).flat_map(|i| (i + datasets::fold::MIN_SEPARATION..n).map(move |j| (i, j))).collect();
    let logit = |&(i, j): &(usize, usize)| prediction.contacts[i * n + j];
    pairs.sort_by(|a, b| logit(b).total_cmp(&logit(a)));
    pairs.truncate(n);
    // 1-based, as everywhere that people read.
    let top: Vec<Value> = pairs.iter().map(|p| json!([p.0 + 1, p.1 + 1, logit(p)])).collect();
    let mut metrics = Map::new();
    for (top, (_, name)) in TOPS.iter().enumerate() {
        metrics.insert((*name).to_owned(), json!(scores.precision[0][top]));
    }
    let said = names(&prediction.classes);
    Sample {
        doc_id: at,
        doc: json!({ "id": record.protein.id(), "protein_id": record.protein_id, "cluster": record.cluster }),
        target: json!({ "classes": names(&record.classes) }),
        arguments: json!(record.protein.sequence()),
        resps: json!({ "top_pairs": top, "classes": said }),
        filtered_resps: json!({ "classes": said }),
        metrics,
    }
}

#[cfg(test)]
mod tests;
