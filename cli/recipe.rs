//! The recipe: one TOML file, one section per stage.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use train::config;

/// The recipe of `peptalk quickstart`.
const QUICKSTART: &str = include_str!("../recipes/quickstart.toml");
/// That of `peptalk quickstart --data DIR`.
const REAL_SMALL: &str = include_str!("../recipes/real-small.toml");

/// Sections whose work draws random numbers: they take the recipe's seed unless they name their own.
const SEEDED: &[&str] = &["world", "ss", "contact", "encoder", "ssl", "align", "sft", "grpo"];

/// A whole run. The sections stand in the order in which they are run; a section that is absent is not run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// Names the run folder.
    pub(crate) name: String,
    /// The seed of all sections that have none of their own.
    pub(crate) seed: u64,
    /// The made-up sample data; without it, `--data` says where the raw files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) world: Option<datasets::world::Config>,
    /// Raw files → tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ingest: Option<ingest::Config>,
    /// Secondary structure: BiLSTM + CRF.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ss: Option<train::ss::Config>,
    /// Contacts and CATH classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contact: Option<train::contact::Config>,
    /// Protein encoder by masked residues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoder: Option<train::encoder::Config>,
    /// Tokenizer and base language model by next tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ssl: Option<train::ssl::Config>,
    /// Bridge by the words of answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) align: Option<train::align::Config>,
    /// Adapter and bridge by questions and answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sft: Option<train::sft::Config>,
    /// The same by rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grpo: Option<train::grpo::Config>,
    /// What the models are judged on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eval: Option<eval::Config>,
}

impl Recipe {
    /// Reads and checks a recipe, with `--set` on top.
    ///
    /// # Errors
    /// Everything that can be known before any work: no such file, no TOML, unknown or missing keys, numbers out of range.
    pub(crate) fn load(path: &Path, settings: &[String]) -> Result<Self> {
        Self::new(config::read(path)?, settings).with_context(|| format!("recipe {}", path.display()))
    }

    /// The embedded recipe for the made-up sample data, or the one for real files, with `--set` on top.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub(crate) fn quickstart(real: bool, settings: &[String]) -> Result<Self> {
        let text = if real { REAL_SMALL } else { QUICKSTART };
        Self::new(text.parse()?, settings).context("the embedded recipe")
    }

    fn new(mut table: Table, settings: &[String]) -> Result<Self> {
        // The seed is set before it is handed to the sections, all else once the defaults are filled in.
        let (seeds, settings): (Vec<_>, Vec<_>) =
            settings.iter().partition(|s| s.split('=').next().is_some_and(|key| key.trim() == "seed"));
        seeds.into_iter().try_for_each(|setting| config::set(&mut table, setting))?;
        let seed = table.get("seed").cloned().context("the key `seed` is missing")?;
        for name in SEEDED {
            if let Some(Value::Table(section)) = table.get_mut(*name) {
                section.entry("seed").or_insert_with(|| seed.clone());
            }
        }
        let recipe: Self = config::typed(table)?;
        let mut table = Table::try_from(&recipe)?;
        settings.into_iter().try_for_each(|setting| config::set(&mut table, setting))?;
        let recipe: Self = config::typed(table)?;
        recipe.validate()?;
        Ok(recipe)
    }

    fn validate(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !self.name.is_empty() && self.name.chars().all(plain) && !self.name.starts_with('.'),
            "name {:?} is no name for a folder: letters, digits, - _ .",
            self.name
        );
        self.eval.as_ref().map_or(Ok(()), eval::Config::validate)?;
        self.ingest.as_ref().map_or(Ok(()), |ingest| Ok(ingest.validate()?))
    }

    /// Checks that what a section builds upon is made by another one, for a run of all of them.
    ///
    /// # Errors
    /// Names the section that is missing.
    pub(crate) fn is_whole(&self) -> Result<()> {
        for task in self.eval.iter().flat_map(|eval| &eval.tasks) {
            let (model, there) = match task.as_str() {
                "ss" => ("[ss]", self.ss.is_some()),
                "contact" => ("[contact]", self.contact.is_some()),
                _ => ("[sft] or [grpo]", self.sft.is_some() || self.grpo.is_some()),
            };
            ensure!(there, "eval.tasks names {task:?}, which needs the section {model}");
        }
        Ok(())
    }

    /// All settings, as TOML.
    ///
    /// # Errors
    /// When they have no TOML form.
    pub(crate) fn resolved(&self) -> Result<String> {
        config::resolved(self)
    }

    /// The settings of one stage: a recipe with that section alone.
    ///
    /// # Errors
    /// When they have no TOML form.
    pub(crate) fn only(&self, section: &str) -> Result<Table> {
        let mut table = Table::try_from(self)?;
        table.retain(|key, _| [section, "name", "seed"].contains(&key));
        Ok(table)
    }

    /// A section that a command needs.
    ///
    /// # Errors
    /// When the recipe has none.
    pub(crate) fn section<'a, T>(&self, section: Option<&'a T>, name: &str) -> Result<&'a T> {
        section.with_context(|| format!("recipe {:?} has no section [{name}]", self.name))
    }

    /// Where the raw files are: `--data`, or what [world] writes below `out`.
    ///
    /// # Errors
    /// When there is neither, or both.
    pub(crate) fn data(&self, data: Option<&Path>, out: &Path) -> Result<PathBuf> {
        match (data, &self.world) {
            (None, Some(_)) => Ok(out.join("world")),
            (Some(data), None) if data.is_dir() => Ok(data.to_owned()),
            (Some(data), None) => bail!("--data {}: there is no such folder", data.display()),
            (None, None) => bail!(
                "recipe {:?} has no section [world], so it needs raw files\nhint: give their folder with --data DIR",
                self.name
            ),
            (Some(_), Some(_)) => bail!(
                "recipe {:?} makes its own data in section [world], so --data would not be read\n\
                 hint: leave out --data, or take [world] out of the recipe",
                self.name
            ),
        }
    }
}
