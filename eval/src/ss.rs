//! Secondary structure: one model, or several together, on every labelled test set of a tables folder.

mod decode;
mod model;
mod predict;
pub mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use datasets::label;
use datasets::ss::SsRecord;
use datasets::table::{ProteinRow, Rows, Split, SsRow};
use serde_json::{Map, json};

use crate::baseline::ss::Majority;
use crate::dataset::hashed;
use crate::metric::boundary::Boundaries;
use crate::metric::calibration::{ece, reliability};
use crate::metric::classification::{Confusion, harmonic_mean};
use crate::metric::sov::Sov;
use crate::report::{Chart, Dataset, Results, Row, Sample};
use crate::{Comparison, Kind};

pub use decode::{Decoder, Gains, Q3, Q8, smooth};
pub use model::{Beside, FrozenEncoder, SsModel};
pub use predict::{Posterior, Predictor, predict};

/// Bins of the reliability plot.
const BINS: usize = 10;

/// What is said of one chain, N to C.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// Index in [`label::Q8`] per residue.
    pub q8: Vec<u8>,
    /// Index in [`label::Q3`] per residue.
    pub q3: Vec<u8>,
}

/// Counts of true and predicted states, of one chain or many. Residues without a label count nowhere.
#[derive(Debug, Clone)]
pub struct Scores {
    /// Over [`label::Q8`].
    pub q8: Confusion,
    /// Over [`label::Q3`].
    pub q3: Confusion,
    sov8: Sov,
    sov3: Sov,
    boundaries: Boundaries,
    /// Chains with a label, and the sums of their accuracies in Q8 and Q3.
    chains: (usize, f64, f64),
}

impl Scores {
    fn new() -> Self {
        Self {
            q8: Confusion::new(label::Q8.len()),
            q3: Confusion::new(label::Q3.len()),
            sov8: Sov::default(),
            sov3: Sov::default(),
            boundaries: Boundaries::default(),
            chains: (0, 0.0, 0.0),
        }
    }

    fn of(record: &SsRecord, prediction: &Prediction) -> Self {
        let pairs = |truth: &[u8], predicted: &[u8], n: usize| {
            Confusion::of(n, truth.iter().copied().zip(predicted.iter().copied()))
        };
        let q8 = pairs(&record.q8, &prediction.q8, label::Q8.len());
        let q3 = pairs(&record.q3, &prediction.q3, label::Q3.len());
        Self {
            chains: (
                usize::from(q3.total() > 0),
                q8.accuracy().unwrap_or_default(),
                q3.accuracy().unwrap_or_default(),
            ),
            q8,
            q3,
            sov8: Sov::of(&record.q8, &prediction.q8, label::Q8.len() as u8),
            sov3: Sov::of(&record.q3, &prediction.q3, label::Q3.len() as u8),
            boundaries: Boundaries::of(&record.q3, &prediction.q3, label::Q3.len() as u8),
        }
    }

    fn sum<'a>(all: impl IntoIterator<Item = &'a Scores>) -> Self {
        all.into_iter().fold(Self::new(), |mut sum, scores| {
            sum.q8.merge(&scores.q8);
            sum.q3.merge(&scores.q3);
            sum.sov8.merge(scores.sov8);
            sum.sov3.merge(scores.sov3);
            sum.boundaries.merge(scores.boundaries);
            let ((n, q8, q3), more) = (sum.chains, scores.chains);
            sum.chains = (n + more.0, q8 + more.1, q3 + more.2);
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

/// The metrics, by name; the first is the headline. Those of Q8 are undefined where only Q3 is known.
const METRICS: [Metric; 10] = [
    ("q3_acc", |s| s.q3.accuracy()),
    ("q8_acc", |s| s.q8.accuracy()),
    ("q3_f1_macro", |s| s.q3.macro_f1()),
    ("q8_f1_macro", |s| s.q8.macro_f1()),
    ("score", |s| s.q8.total().gt(&0).then(|| s.harmonic_mean())),
    ("q3_sov", |s| s.sov3.value()),
    ("q8_sov", |s| s.sov8.value()),
    ("q3_boundaries_near", |s| s.boundaries.within_one()),
    ("q3_acc_chains", |s| (s.chains.0 > 0).then(|| s.chains.2 / s.chains.0 as f64)),
    ("q8_acc_chains", |s| (s.q8.total() > 0).then(|| s.chains.1 / s.chains.0 as f64)),
];

/// Chains by their residues, from and below.
const LENGTHS: [(&str, usize, usize); 3] =
    [("below_100", 0, 100), ("100_to_249", 100, 250), ("from_250", 250, usize::MAX)];

/// Scores of chains together.
pub fn score(records: &[SsRecord], predictions: &[Prediction]) -> Scores {
    let each: Vec<Scores> = records.iter().zip(predictions).map(|(r, p)| Scores::of(r, p)).collect();
    Scores::sum(&each)
}

/// Evaluates the models in `folders`, together, on the test part of every source with labels: held-out clusters, and the
/// published test sets with their masks.
///
/// # Errors
/// When a model or a table cannot be read, or nothing is held out.
pub fn run(folders: &[PathBuf], tables: &Path) -> Result<Vec<Results>> {
    let predictor = Predictor::load(folders, None)?;
    let records = SsRecord::read(tables)?;
    let gains = gains(&predictor, folders, &records)?;
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
        results.push(evaluate(&predictor, gains, &records, &floors, dataset)?);
    }
    Ok(results)
}

/// What macro-F1 gains by each state: fitted for these models together on the validation part, or where the tables have none,
/// as the first model was saved.
fn gains(predictor: &Predictor, folders: &[PathBuf], records: &[SsRecord]) -> Result<Gains> {
    let valid: Vec<SsRecord> = records.iter().filter(|r| r.split == Split::Valid).cloned().collect();
    if valid.is_empty() {
        return Gains::load(folders.first().context("no model to evaluate")?);
    }
    let sequences: Vec<&str> = valid.iter().map(|r| r.sequence.as_str()).collect();
    Ok(Gains::fit(&valid, &predictor.predict(&sequences)?))
}

fn evaluate(
    predictor: &Predictor,
    gains: Gains,
    records: &[&SsRecord],
    floors: &(Majority, Majority),
    dataset: Dataset,
) -> Result<Results> {
    let sequences: Vec<&str> = records.iter().map(|r| r.sequence.as_str()).collect();
    let posteriors = predictor.predict(&sequences)?;
    let scores = |predictions: &[Prediction]| -> Vec<Scores> {
        records.iter().zip(predictions).map(|(r, p)| Scores::of(r, p)).collect()
    };
    let floor = |of: &dyn Fn(&Majority, &str) -> Vec<u8>| -> Vec<Scores> {
        let predict = |s: &&str| Prediction { q8: of(&floors.0, s), q3: of(&floors.1, s) };
        scores(&sequences.iter().map(predict).collect::<Vec<_>>())
    };
    let accurate = Decoder::accurate();
    let predictions = accurate.all(&posteriors);
    let own = scores(&predictions);
    let constant = floor(&|majority, sequence| majority.constant(sequence.len()));
    let by_letter = floor(&|majority, sequence| majority.by_letter(sequence));
    let with = |q8, q3| Decoder { q8, q3, gains }.all(&posteriors);
    let smoothed = |p: Prediction| Prediction { q8: smooth(&p.q8), q3: smooth(&p.q3) };
    let legal = with(Q8::Legal, Q3::Map);
    let decoders = [
        ("smoothed", scores(&predictions.iter().cloned().map(smoothed).collect::<Vec<_>>())),
        ("viterbi", scores(&with(Q8::Path, Q3::Map))),
        ("legal", scores(&legal)),
        ("legal, smoothed", scores(&legal.iter().cloned().map(smoothed).collect::<Vec<_>>())),
        ("for macro-F1", scores(&with(Q8::F1, Q3::F1))),
        ("q3 by its head", scores(&with(Q8::Marginal, Q3::Head))),
        ("q3 by sums", scores(&with(Q8::Marginal, Q3::Sums))),
    ];
    let (lengths, clusters) = (
        sequences.iter().map(|s| s.len()).collect::<Vec<_>>(),
        records.iter().map(|r| r.cluster.as_str()).collect::<Vec<_>>(),
    );
    let mut comparison = Comparison::new(&lengths, &clusters, &own)?
        .against("majority", Kind::Floor, &constant)?
        .against("majority by residue", Kind::Floor, &by_letter)?;
    for (name, predictions) in &decoders {
        comparison = comparison.against(name, Kind::Reference, predictions)?;
    }
    let row = |name: &str, value: &(dyn Fn(&Scores) -> Option<f64> + Sync)| {
        comparison.row(name, true, |chains| value(&Scores::sum(chains.iter().map(|c| c.0))))
    };
    let mut rows: Vec<Row> = METRICS.iter().map(|(name, value)| row(name, value)).collect();
    rows.extend(details(&Comparison::new(&lengths, &clusters, &own)?));
    let (right, confidence) = calibration_pairs(records, &posteriors, accurate.q3);
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
        config: json!({
            "models": predictor.configs(),
            "decoder": accurate,
            "q3_ece": ece(&right, &confidence, BINS),
        }),
        rows,
        charts: vec![
            chart("Q8", label::Q8, &total.q8),
            chart("Q3", label::Q3, &total.q3),
            Chart::Reliability { title: "Q3".to_owned(), bins: reliability(&right, &confidence, BINS) },
        ],
        samples: samples.map(|(at, (record, (p, s)))| sample(at, record, p, s)).collect(),
    })
}

/// F1 of each state, and accuracy by the length of the chain: of the model alone.
fn details(alone: &Comparison<'_, Scores, usize>) -> Vec<Row> {
    let f1 = |name: &str, letter: u8, value: &(dyn Fn(&Scores) -> Option<f64> + Sync)| {
        let row = alone.row(name, true, |chains| value(&Scores::sum(chains.iter().map(|c| c.0))));
        row.filtered(&(letter as char).to_string())
    };
    let q8 = label::Q8.iter().enumerate().map(|(at, &letter)| f1("q8_f1", letter, &|s| s.q8.f1(at)));
    let q3 = label::Q3.iter().enumerate().map(|(at, &letter)| f1("q3_f1", letter, &|s| s.q3.f1(at)));
    let lengths = LENGTHS.iter().map(|&(name, from, below)| {
        let value = |chains: &[(&Scores, &usize)]| {
            let inside = chains.iter().filter(|(_, n)| (from..below).contains(*n)).map(|(s, _)| *s);
            Scores::sum(inside).q3.accuracy()
        };
        alone.row("q3_acc", true, value).filtered(name)
    });
    q8.chain(q3).chain(lengths).collect()
}

/// Of every labelled residue, whether its most probable class is right, and that probability.
fn calibration_pairs(records: &[&SsRecord], posteriors: &[Posterior], q3: Q3) -> (Vec<bool>, Vec<f64>) {
    let residues = records.iter().zip(posteriors).flat_map(|(r, p)| r.q3.iter().copied().zip(p.classes(q3)));
    let known = residues.filter(|(truth, _)| usize::from(*truth) < label::Q3.len());
    let pair = |(truth, classes): (u8, [f64; 3])| {
        let top = classes.iter().copied().fold(0.0, f64::max);
        (classes[usize::from(truth)] == top, top)
    };
    known.map(pair).unzip()
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
