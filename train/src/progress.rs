//! Where a run by epochs stands, and whether its tables may be trained on.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use datasets::sampler::Position;
use serde::{Deserialize, Serialize};

/// The best of the measurements so far, and how many came since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Best {
    #[serde(with = "exact")]
    score: Option<f64>,
    /// Measurements since then.
    pub stale: u64,
}

impl Best {
    /// Takes the score of a measurement (higher is better); true when it is the best so far.
    pub fn takes(&mut self, score: f64) -> bool {
        let better = self.score.is_none_or(|best| score > best);
        *self = if better {
            Self { score: Some(score), stale: 0 }
        } else {
            Self { stale: self.stale + 1, ..*self }
        };
        better
    }
}

/// A number in a checkpoint's state, as text: `serde_json` may read a number back with another last bit, and a resumed run
/// would compare with that.
mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// # Errors
    /// Those of the format.
    pub(super) fn serialize<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        number.map(|number| number.to_string()).serialize(serializer)
    }

    /// # Errors
    /// Those of the format, and when the text is no number.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// The counters in a checkpoint of a run by epochs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The batch that comes next.
    pub position: Position,
    /// Epochs that were validated.
    pub validated: u64,
    /// The best validation; the model that had it lies in `RUN/model`.
    pub best: Best,
    /// Steps that the guard skipped.
    pub skipped: u64,
    /// Updates of the moving average.
    pub ema_updates: u64,
}

impl Progress {
    /// Whether an epoch has just ended that was not validated yet.
    pub fn wants_validation(&self) -> bool {
        self.position.batch == 0 && self.validated < self.position.epoch
    }

    /// Takes the score of a validation (higher is better); true when it is the best so far.
    pub fn validated(&mut self, score: f64) -> bool {
        self.validated = self.position.epoch;
        self.best.takes(score)
    }

    /// Moves on by one of an epoch's `n` batches.
    pub fn advance(&mut self, n: usize) {
        self.position.batch += 1;
        if self.position.batch == n as u64 {
            self.position = Position { epoch: self.position.epoch + 1, ..Position::default() };
        }
    }
}

/// Pairs (held out, trained on) in `audit.json`, by how they are alike.
#[derive(Deserialize)]
struct Audit {
    exact: Vec<(String, String)>,
    cluster: Vec<(String, String)>,
    alike: Vec<(String, String)>,
    homologs: Vec<(String, String)>,
}

/// Refuses tables in which a held-out protein has a relative in train, by the audit that `ingest` wrote.
///
/// # Errors
/// When there is no audit, or it names leaks; the first are listed.
pub fn refuse_leaks(tables: &Path) -> Result<()> {
    let path = tables.join("audit.json");
    let text = fs_err::read_to_string(&path)
        .context("tables without a leakage audit are not trained on\nhint: `peptalk ingest` writes it")?;
    let audit: Audit =
        serde_json::from_str(&text).with_context(|| format!("{} is no audit", path.display()))?;
    let leaks: Vec<&(String, String)> =
        audit.exact.iter().chain(&audit.cluster).chain(&audit.alike).chain(&audit.homologs).collect();
    ensure!(
        leaks.is_empty(),
        "{} pairs of held-out and training proteins are alike, so no result would count; the first: {:?}",
        leaks.len(),
        &leaks[..leaks.len().min(5)]
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_end_once_and_the_best_is_kept() {
        let mut progress = Progress::default();
        assert!(!progress.wants_validation());
        progress.advance(2);
        assert!(!progress.wants_validation());
        progress.advance(2);
        assert_eq!(progress.position, Position { epoch: 1, ..Position::default() });
        assert!(progress.wants_validation() && progress.validated(0.5) && !progress.wants_validation());
        assert!(!progress.validated(0.5));
        assert_eq!((progress.best.stale, progress.best.score), (1, Some(0.5)));
        assert!(progress.validated(0.6));
        assert_eq!(progress.best.stale, 0);
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct State(#[serde(with = "exact")] Option<f64>);
        for n in 0..9973 {
            let state = State(Some((f64::from(n) + 0.1).sqrt().exp()));
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
        assert_eq!(serde_json::from_str::<State>("null").unwrap(), State(None));
        assert!(serde_json::from_str::<State>("\"x\"").is_err());
    }

    #[test]
    fn leaks_are_refused_with_their_ids() {
        let dir = tempfile::tempdir().unwrap();
        assert!(format!("{:#}", refuse_leaks(dir.path()).unwrap_err()).contains("peptalk ingest"));
        let audit = |cluster: &str| {
            format!(
                r#"{{"kinship":{{}},"n_train":3,"n_held_out":2,"exact":[],"cluster":[{cluster}],"alike":[],"homologs":[]}}"#
            )
        };
        fs_err::write(dir.path().join("audit.json"), audit("")).unwrap();
        refuse_leaks(dir.path()).unwrap();
        fs_err::write(dir.path().join("audit.json"), audit(r#"["held","trained"]"#)).unwrap();
        let error = refuse_leaks(dir.path()).unwrap_err().to_string();
        assert!(error.contains("1 pairs") && error.contains("trained"), "{error}");
    }
}
