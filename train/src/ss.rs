//! `train ss`: secondary structure by BiLSTM and CRF.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use datasets::residue::{MASK, N_TOKENS, PAD};
use datasets::sampler::{Budget, Sampler};
use datasets::ss::{SsBatch, SsRecord};
use datasets::table::Split;
use datasets::{label, rng};
use models::ss::{BiLstmCrf, BiLstmCrfConfig};
use models::{Tape, Weights};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use eval::embeddings::VectorFile;
use eval::ss::{Beside, Decoder, FrozenEncoder, Gains, Q3, Q8, SsModel, score};

use crate::checkpoint::Checkpoint;
use crate::ema::Ema;
use crate::guard::Guard;
use crate::loss;
use crate::optim::OptimConfig;
use crate::progress::{Progress, refuse_leaks};
use crate::run_log::RunLog;

/// The `ss` section of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Of initial weights, order and dropout.
    pub seed: u64,
    /// Sources to train and validate on; empty for all. Of a protein that several sources hold, the first one's labels
    /// are taken.
    pub sources: Vec<String>,
    /// Most epochs.
    pub epochs: u64,
    /// Of these, epochs at the start in which Q8 is learnt residue by residue, before the CRF.
    pub warmup_epochs: u64,
    /// Epochs at the start in which short chains come first: a curriculum.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub curriculum: u64,
    /// Residues in a batch, padding included.
    pub batch_residues: usize,
    /// Share of the residues that are hidden while training, so that a state is learnt from its surroundings, too.
    pub hidden_residues: f64,
    /// Weight of the Q3 loss; that of Q8 is 1.
    pub q3_weight: f64,
    /// Decay of the moving average of the weights that is validated and kept; 0 follows the weights.
    pub ema_decay: f64,
    /// By what the best model is chosen.
    pub keep: Keep,
    /// Validations in a row without a better one after which the run ends.
    pub patience: u64,
    /// Steps between checkpoints (each epoch ends with one, too).
    pub save_every: u64,
    /// Steps in a row without a finite loss after which the run ends.
    pub max_bad_steps: u64,
    /// A protein encoder whose vectors the model reads beside the residues: its folder, relative to the stage's, or
    /// `owner/name` of the Hugging Face hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// Where the encoder's vectors are kept on disk; without it they are computed anew in each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<eval::embeddings::Config>,
    /// In place of an encoder: a file of vectors, one a residue, such as a PSSM or the embeddings of a model that is not run
    /// here (`eval::embeddings::VectorFile` says how it is written), relative to the stage's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vectors: Option<PathBuf>,
    /// Teachers, whose knowledge one model takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distil: Option<Distil>,
    /// Sizes of the model.
    pub model: ModelConfig,
    /// How it is trained.
    pub optim: OptimConfig,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a validation is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Harmonic mean of the macro-F1 of Q8 and Q3, decoded for it: the score of the NPPE-2 competition.
    Score,
    /// Accuracy of Q3 plus that of Q8.
    Accuracy,
}

/// Batches whose labels are drawn from a teacher's own distribution over paths, another teacher each time: on average the
/// loss is the cross-entropy to the mean of the teachers, transitions included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distil {
    /// Model folders, relative to the stage's.
    pub teachers: Vec<PathBuf>,
    /// Share of the batches; the others have their true labels.
    pub share: f64,
}

/// The `ss.model` section: [`BiLstmCrfConfig`] without what the data decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Width of embedding and convolutions.
    pub embed: usize,
    /// Residual convolution blocks before the LSTM.
    pub conv_layers: usize,
    /// Residues that a convolution sees (odd).
    pub kernel: usize,
    /// Width of each LSTM direction.
    pub hidden: usize,
    /// Width of the projection.
    pub projection: usize,
    /// Dropout.
    pub dropout: f64,
    /// Whether a GELU follows the projection's norm.
    pub gelu: bool,
    /// Residues that a run of each state has at least, in the order HGIEBSTC; all 1 for a plain CRF. DSSP's are 4, 3, 5,
    /// 2, 1, 1, 1, 1.
    pub min_runs: [usize; 8],
    /// Steps that the CRF forbids, as pairs of Q8 letters: `"GI"` is G before I.
    pub forbidden: Vec<String>,
    /// Read sequences from C to N.
    pub reversed: bool,
}

impl ModelConfig {
    fn resolve(&self, features: usize) -> Result<BiLstmCrfConfig> {
        let state = |letter: u8| label::Q8.iter().position(|&l| l == letter);
        let step = |text: &String| match *text.as_bytes() {
            [from, to] => state(from).zip(state(to)),
            _ => None,
        };
        let forbidden = self.forbidden.iter().map(|text| {
            step(text).with_context(|| format!("forbidden step {text:?}: expected two letters of HGIEBSTC"))
        });
        Ok(BiLstmCrfConfig {
            n_tokens: N_TOKENS,
            embed: self.embed,
            conv_layers: self.conv_layers,
            kernel: self.kernel,
            features,
            hidden: self.hidden,
            projection: self.projection,
            dropout: self.dropout,
            gelu: self.gelu,
            min_runs: self.min_runs,
            forbidden: forbidden.collect::<Result<_>>()?,
            reversed: self.reversed,
        })
    }
}

/// Trains the model and leaves the best one on the validation part in `OUT/model`.
///
/// # Errors
/// On impossible settings, tables with a leak, a loss that stays without a finite value, I/O.
#[expect(clippy::too_many_lines, reason = "a training loop reads from top to bottom in one place")]
pub fn run(config: &Config, tables: &Path, out: &Path, resume: bool) -> Result<()> {
    ensure!(config.epochs > 0 && config.patience > 0 && config.save_every > 0, "ss: counts must be positive");
    refuse_leaks(tables)?;
    ensure!((0.0..1.0).contains(&config.hidden_residues), "ss: hidden_residues is a share below 1");
    let [mut train, valid] = records(config, tables)?;
    let lengths = train.iter().map(SsRecord::len).collect();
    let sampler = Sampler::new(config.seed, lengths, Budget::Residues(config.batch_residues))?;
    let total = sampler.total(config.epochs);
    let seed = config.seed;
    let weights = Weights::random(move |name| rng(seed, &format!("init/{name}"), 0));
    fs_err::create_dir_all(out)?; // the paths of the settings begin here
    let beside = beside(config, out)?;
    let features = beside.as_ref().map_or(0, Beside::width);
    let model = SsModel::new(BiLstmCrf::new(config.model.resolve(features)?, weights)?, beside)?;
    let params = model.params();
    let relaxed: usize = train.iter_mut().map(|record| model.head.lattice().relax(&mut record.sets)).sum();
    if relaxed > 0 {
        tracing::info!("ss: {relaxed} labels against the lattice's rules count as unknown");
    }
    tracing::info!(
        "ss: {} training and {} validation chains, {} weights, {total} steps",
        train.len(),
        valid.len(),
        params.counts().0
    );
    let teachers = teachers(config, &model, out)?;
    let (mut optimiser, schedule) = config.optim.build(params, total)?;
    let mut ema = Ema::new(params, config.ema_decay)?;
    let mut guard = Guard::new(config.max_bad_steps);
    let (mut at, mut step) = (Progress::default(), 0);
    if resume && let Some(mut checkpoint) = Checkpoint::latest(out)? {
        params.assign(&checkpoint.take("model")?)?;
        optimiser.load(&checkpoint.take("optimiser")?)?;
        at = checkpoint.state()?;
        ema.load(&checkpoint.take("ema")?, at.ema_updates)?;
        guard.resume(at.skipped);
        step = checkpoint.step;
    }
    let sequences: Vec<&str> = valid.iter().map(|r| r.sequence.as_str()).collect();
    let mut log = RunLog::open(out, total, step)?;
    let mut batches = epoch(config, &sampler, &train, at.position.epoch);
    loop {
        if at.wants_validation() {
            let scores = ema.in_place(params, || {
                let posteriors = eval::ss::predict(&[&model], &sequences)?;
                let gains = Gains::fit(&valid, &posteriors);
                let accurate = score(&valid, &Decoder::accurate().all(&posteriors));
                let for_f1 = Decoder { q8: Q8::F1, q3: Q3::F1, gains };
                let for_f1 = score(&valid, &for_f1.all(&posteriors));
                let better = at.validated(match config.keep {
                    Keep::Score => for_f1.harmonic_mean(),
                    Keep::Accuracy => {
                        accurate.q3.accuracy().unwrap_or(0.0) + accurate.q8.accuracy().unwrap_or(0.0)
                    }
                });
                if better {
                    datasets::atomic_folder(&out.join("model"), |folder| {
                        model.save(folder)?;
                        gains.save(folder)
                    })?;
                }
                Ok([accurate.log_items("valid"), for_f1.log_items("valid/for_f1")].concat())
            })?;
            log.write(step, &scores)?;
            batches = epoch(config, &sampler, &train, at.position.epoch);
        }
        let ends = at.position.epoch == config.epochs || at.best.stale >= config.patience;
        if step > 0 && (at.position.batch == 0 || step.is_multiple_of(config.save_every)) {
            log.sync()?;
            let (average, ema_updates) = ema.state()?;
            Checkpoint::new(step, &Progress { skipped: guard.skipped(), ema_updates, ..at.clone() })?
                .with("model", params.snapshot()?)
                .with("optimiser", optimiser.tensors()?)
                .with("ema", average)
                .save(out, 1)?;
        }
        if ends {
            break;
        }

        let rows: Vec<&SsRecord> =
            batches[at.position.batch as usize].iter().map(|&record| &train[record]).collect();
        let mut batch = SsBatch::new(&rows, config.model.reversed)?;
        let sequences: Vec<&str> = rows.iter().map(|r| r.sequence.as_str()).collect();
        if let Some(distil) = &config.distil {
            let rng = &mut rng(seed, "distil", step);
            if rng.random::<f64>() < distil.share {
                relabel(&mut batch, &sequences, &teachers[rng.random_range(..teachers.len())], seed, step)?;
            }
        }
        let tape = Tape::on();
        let tokens = hide(&batch.tokens, config.hidden_residues, &mut rng(seed, "hidden", step))?;
        let dropout = &mut rng(seed, "dropout", step);
        let output = model.forward(&tape, &tokens, &sequences, Some(dropout))?;
        let independent = at.position.epoch < config.warmup_epochs;
        let terms = loss::ss::terms(&tape, &model.head, &output, &batch, independent, config.q3_weight)?;
        let total_loss = terms.total(&tape)?;
        let mut items = terms.log_items()?;
        let gradients = tape.backward(&total_loss)?;
        let norms = optimiser.norms(&gradients)?;
        let lr = schedule.lr(step);
        if guard.admits(step, items[0].1, &norms)? {
            optimiser.step(&gradients, &norms, lr)?;
            ema.update(params)?;
        }
        at.advance(batches.len());
        step += 1;
        items.push(("lr".to_owned(), lr));
        items.extend(norms.log_items());
        log.write(step, &items)?;
        log.advance(step);
    }
    log.finish()
}

/// The batches of an epoch; in those of a curriculum the ones with the shortest chains come first.
fn epoch(config: &Config, sampler: &Sampler, train: &[SsRecord], number: u64) -> Vec<Vec<usize>> {
    let mut batches = sampler.epoch(number);
    if number < config.curriculum {
        batches.sort_by_key(|batch| batch.iter().map(|&record| train[record].len()).max());
    }
    batches
}

/// What the model reads beside the residues.
fn beside(config: &Config, out: &Path) -> Result<Option<Beside>> {
    ensure!(
        config.encoder.is_some() || config.embeddings.is_none(),
        "ss: embeddings are kept of an encoder, and there is none\nhint: set ss.encoder"
    );
    match (&config.encoder, &config.vectors) {
        (Some(_), Some(_)) => {
            bail!("ss: an encoder and vectors are two\nhint: leave out ss.encoder or ss.vectors")
        }
        (Some(encoder), None) => {
            let mut encoder = FrozenEncoder::load(out, encoder)?;
            encoder.remember(out, config.embeddings.as_ref())?;
            Ok(Some(Beside::Encoder(encoder.into())))
        }
        (None, Some(vectors)) => Ok(Some(Beside::Vectors(VectorFile::open(&out.join(vectors))?.into()))),
        (None, None) => Ok(None),
    }
}

/// The models that [`Distil`] names.
fn teachers(config: &Config, model: &SsModel, out: &Path) -> Result<Vec<SsModel>> {
    let Some(distil) = &config.distil else { return Ok(vec![]) };
    ensure!(!distil.teachers.is_empty(), "ss: distil names no teacher");
    let load = |folder: &PathBuf| -> Result<SsModel> {
        let folder = out.join(folder);
        let teacher = SsModel::load(&folder).with_context(|| format!("the teacher {}", folder.display()))?;
        ensure!(
            teacher.head.lattice() == model.head.lattice()
                && teacher.head.config().reversed == model.head.config().reversed,
            "the teacher {} reads the other way or has other paths",
            folder.display()
        );
        Ok(teacher)
    };
    distil.teachers.iter().map(load).collect()
}

/// Replaces all labels of a batch by paths that are drawn from a teacher.
fn relabel(batch: &mut SsBatch, sequences: &[&str], teacher: &SsModel, seed: u64, step: u64) -> Result<()> {
    let lengths = batch.padding.lengths().to_vec();
    let said = teacher.forward(&Tape::off(), &batch.tokens, sequences, None)?;
    let draw = |row: usize| rng(seed, &format!("distil/{row}"), step);
    let paths = teacher.head.sample(said.q8.value(), &lengths, draw)?;
    batch.relabel(&paths)?;
    Ok(())
}

/// Turns a share of the tokens to [`MASK`].
fn hide(tokens: &Tensor, share: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    if share == 0.0 {
        return Ok(tokens.clone());
    }
    let mut ids: Vec<u32> = tokens.flatten_all()?.to_vec1()?;
    ids.iter_mut().filter(|id| **id != PAD).filter(|_| rng.random::<f64>() < share).for_each(|id| *id = MASK);
    Ok(Tensor::from_vec(ids, tokens.shape(), tokens.device())?)
}

/// Chains to train on and to validate on, each protein once.
fn records(config: &Config, tables: &Path) -> Result<[Vec<SsRecord>; 2]> {
    let mut all = SsRecord::read(tables).context("reading the secondary structures")?;
    let known: std::collections::BTreeSet<&str> = all.iter().map(|r| r.source.as_str()).collect();
    for source in &config.sources {
        ensure!(known.contains(source.as_str()), "ss: there is no source {source:?}; there are {known:?}");
    }
    let rank = |r: &SsRecord| config.sources.iter().position(|s| *s == r.source);
    all.retain(|r| config.sources.is_empty() || rank(r).is_some());
    all.sort_by_key(|r| (rank(r), r.source.clone()));
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|r| seen.insert(r.protein_id.clone()));
    let part = |split: Split| all.iter().filter(|r| r.split == split).cloned().collect::<Vec<_>>();
    let parts = [part(Split::Train), part(Split::Valid)];
    for (part, name) in parts.iter().zip(["train", "valid"]) {
        ensure!(
            !part.is_empty(),
            "ss: no chain of the sources lies in the {name} part\nhint: ingest more data"
        );
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
