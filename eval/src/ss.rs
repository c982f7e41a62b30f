//! Secondary structure: a model folder on every labelled test set of a tables folder.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::IndexOp;
use datasets::collate::Padding;
use datasets::ss::SsRecord;
use datasets::table::{ProteinRow, Rows, Split, SsRow};
use datasets::{label, residue};
use models::Tape;
use models::ss::BiLstmCrf;
use serde_json::{Map, Value, json};

use crate::baseline::ss::Majority;
use crate::dataset::hashed;
use crate::metric::classification::{Confusion, harmonic_mean};
use crate::report::{Chart, Dataset, Results, Row, Sample};
use crate::{Comparison, Kind};

/// Residues that are predicted together, padding included; no prediction depends on it.
const BATCH_RESIDUES: usize = 1 << 14;

/// What the model says of one chain, N to C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Index in [`label::Q8`] per residue: the best legal path of the CRF.
    pub q8: Vec<u8>,
    /// Index in [`label::Q3`] per residue: the Q3 head's best class.
    pub q3: Vec<u8>,
}

/// Predicts sequences of any length, in their order. They are read in the direction that the model was trained in.
///
/// # Errors
/// On an empty sequence.
pub fn predict(model: &BiLstmCrf, sequences: &[&str]) -> Result<Vec<Prediction>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&at| sequences[at].len());
    let mut found: Vec<Option<Prediction>> = vec![None; sequences.len()];
    let mut rest = &order[..];
    while !rest.is_empty() {
        let fits = |n: &usize| n * sequences[rest[n - 1]].len() <= BATCH_RESIDUES;
        let n = (1..=rest.len()).take_while(fits).last().unwrap_or(1);
        let batch: Vec<&str> = rest[..n].iter().map(|&at| sequences[at]).collect();
        for (&at, prediction) in rest.iter().zip(predict_batch(model, &batch)?) {
            found[at] = Some(prediction);
        }
        rest = &rest[n..];
    }
    Ok(found.into_iter().flatten().collect())
}

fn predict_batch(model: &BiLstmCrf, sequences: &[&str]) -> Result<Vec<Prediction>> {
    let reversed = model.config().reversed;
    let padding = Padding::new(sequences.iter().map(|s| s.len()).collect())?;
    let mut tokens: Vec<Vec<u32>> = sequences.iter().map(|s| residue::encode(s)).collect();
    if reversed {
        tokens.iter_mut().for_each(|row| row.reverse());
    }
    let tokens = padding.pad(tokens.iter().map(Vec::as_slice), 1, residue::PAD)?;
    let lengths = padding.lengths();
    let output = model.forward(&Tape::off(), &tokens, lengths, None)?;
    let paths = model.viterbi(output.q8.value(), lengths)?;
    let mut predictions = Vec::with_capacity(sequences.len());
    for (row, mut q8) in paths.into_iter().enumerate() {
        let logits = output.q3.value().i((row, ..lengths[row]))?.to_vec2::<f32>()?;
        let mut q3: Vec<u8> = logits.iter().map(|logits| best(logits)).collect();
        if reversed {
            q8.reverse();
            q3.reverse();
        }
        predictions.push(Prediction { q8, q3 });
    }
    Ok(predictions)
}

/// Index of the largest number, the first of equal ones.
fn best(logits: &[f32]) -> u8 {
    let larger = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, larger) as u8
}

/// Counts of true and predicted states, of one chain or many. Residues without a label count nowhere.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Over [`label::Q8`].
    pub q8: Confusion,
    /// Over [`label::Q3`].
    pub q3: Confusion,
}

impl Scores {
    fn new() -> Self {
        Self { q8: Confusion::new(label::Q8.len()), q3: Confusion::new(label::Q3.len()) }
    }

    fn of(record: &SsRecord, prediction: &Prediction) -> Self {
        let pairs = |truth: &[u8], predicted: &[u8], n: usize| {
            Confusion::of(n, truth.iter().copied().zip(predicted.iter().copied()))
        };
        Self {
            q8: pairs(&record.q8, &prediction.q8, label::Q8.len()),
            q3: pairs(&record.q3, &prediction.q3, label::Q3.len()),
        }
    }

    fn sum<'a>(all: impl IntoIterator<Item = &'a Scores>) -> Self {
        all.into_iter().fold(Self::new(), |mut sum, scores| {
            sum.q8.merge(&scores.q8);
            sum.q3.merge(&scores.q3);
            sum
        })
    }

    /// Harmonic mean of the macro-F1 of Q8 and of Q3, the score of the NPPE-2 competition; 0 where nothing is labelled.
    pub fn harmonic_mean(&self) -> f64 {
        harmonic_mean(self.q8.macro_f1().unwrap_or(0.0), self.q3.macro_f1().unwrap_or(0.0))
    }

    /// The numbers of a log line, under `prefix/`.
    pub fn log_items(&self, prefix: &str) -> Vec<(String, f64)> {
        METRICS.iter().filter_map(|(name, value)| Some((format!("{prefix}/{name}"), value(self)?))).collect()
    }
}

/// Name and value of a metric.
type Metric = (&'static str, fn(&Scores) -> Option<f64>);

/// The metrics, by name; the first is the headline.
const METRICS: [Metric; 5] = [
    ("q3_acc", |s| s.q3.accuracy()),
    ("q8_acc", |s| s.q8.accuracy()),
    ("q3_f1_macro", |s| s.q3.macro_f1()),
    ("q8_f1_macro", |s| s.q8.macro_f1()),
    ("score", |s| s.q3.total().gt(&0).then(|| s.harmonic_mean())),
];

/// Scores of chains together.
pub fn score(records: &[SsRecord], predictions: &[Prediction]) -> Scores {
    let each: Vec<Scores> = records.iter().zip(predictions).map(|(r, p)| Scores::of(r, p)).collect();
    Scores::sum(&each)
}

/// Evaluates the model in `model` on the test part of every source with labels: held-out clusters, and the published
/// test sets with their masks.
///
/// # Errors
/// When the model or a table cannot be read, or nothing is held out.
pub fn run(model: &Path, tables: &Path) -> Result<Vec<Results>> {
    let loaded = BiLstmCrf::load(model).with_context(|| format!("loading the model {}", model.display()))?;
    let records = SsRecord::read(tables)?;
    let train: Vec<&SsRecord> = records.iter().filter(|r| r.split == Split::Train).collect();
    let of = |q: fn(&SsRecord) -> &[u8], n: usize| {
        Majority::fit(n as u8, train.iter().map(|r| (r.sequence.as_str(), q(r))))
    };
    let floors = (of(|r| &r.q8, label::Q8.len()), of(|r| &r.q3, label::Q3.len()));
    let files = hashed(tables, &[ProteinRow::TABLE, SsRow::TABLE])?;
    let mut by_source: BTreeMap<&str, Vec<&SsRecord>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.split == Split::Test) {
        by_source.entry(&record.source).or_default().push(record);
    }
    ensure!(!by_source.is_empty(), "no labelled chain lies in the test part\nhint: ingest more data");
    let mut results = vec![];
    for (source, records) in by_source {
        let dataset = Dataset {
            name: source.to_owned(),
            split: "test".to_owned(),
            n: records.len(),
            n_used: records.len(),
            files: files.clone(),
        };
        let config =
            json!({ "model": model.file_name().map(|n| n.to_string_lossy()), "sizes": loaded.config() });
        results.push(evaluate(&loaded, &records, &floors, dataset, config)?);
    }
    Ok(results)
}

fn evaluate(
    model: &BiLstmCrf,
    records: &[&SsRecord],
    floors: &(Majority, Majority),
    dataset: Dataset,
    config: Value,
) -> Result<Results> {
    let sequences: Vec<&str> = records.iter().map(|r| r.sequence.as_str()).collect();
    let predictions = predict(model, &sequences)?;
    let scores = |predictions: &[Prediction]| -> Vec<Scores> {
        records.iter().zip(predictions).map(|(r, p)| Scores::of(r, p)).collect()
    };
    let floor = |of: &dyn Fn(&Majority, &str) -> Vec<u8>| -> Vec<Scores> {
        let predict = |s: &&str| Prediction { q8: of(&floors.0, s), q3: of(&floors.1, s) };
        scores(&sequences.iter().map(predict).collect::<Vec<_>>())
    };
    let own = scores(&predictions);
    let constant = floor(&|majority, sequence| majority.constant(sequence.len()));
    let by_letter = floor(&|majority, sequence| majority.by_letter(sequence));
    let (truths, clusters) =
        (vec![(); records.len()], records.iter().map(|r| r.cluster.as_str()).collect::<Vec<_>>());
    let comparison = Comparison::new(&truths, &clusters, &own)?
        .against("majority", Kind::Floor, &constant)?
        .against("majority by residue", Kind::Floor, &by_letter)?;
    let rows: Vec<Row> = METRICS
        .iter()
        .map(|(name, value)| {
            comparison.row(name, true, |chains| value(&Scores::sum(chains.iter().map(|c| c.0))))
        })
        .collect();

    let total = Scores::sum(&own);
    let chart = |title: &str, letters: &[u8], matrix: &Confusion| Chart::Confusion {
        title: title.to_owned(),
        classes: letters.iter().map(|&l| (l as char).to_string()).collect(),
        matrix: matrix.clone(),
    };
    let samples = records.iter().zip(predictions.iter().zip(&own)).enumerate();
    Ok(Results {
        task: "ss".to_owned(),
        model: "bilstm-crf".to_owned(),
        dataset,
        config,
        rows,
        charts: vec![chart("Q8", label::Q8, &total.q8), chart("Q3", label::Q3, &total.q3)],
        samples: samples.map(|(at, (record, (p, s)))| sample(at, record, p, s)).collect(),
    })
}

fn sample(at: usize, record: &SsRecord, prediction: &Prediction, scores: &Scores) -> Sample {
    let letters = |states: &[u8], alphabet: &[u8]| -> String {
        states.iter().map(|&s| alphabet.get(s as usize).copied().unwrap_or(b'?') as char).collect()
    };
    let said = json!({ "q8": letters(&prediction.q8, label::Q8), "q3": letters(&prediction.q3, label::Q3) });
    let mut metrics = Map::new();
    metrics.insert("q3_acc".into(), json!(scores.q3.accuracy()));
    metrics.insert("q8_acc".into(), json!(scores.q8.accuracy()));
    Sample {
        doc_id: at,
        doc: json!({ "id": record.id, "protein_id": record.protein_id, "cluster": record.cluster }),
        target: json!({ "q8": letters(&record.q8, label::Q8), "q3": letters(&record.q3, label::Q3) }),
        arguments: json!(record.sequence),
        resps: said.clone(),
        filtered_resps: said,
        metrics,
    }
}

#[cfg(test)]
mod tests;
