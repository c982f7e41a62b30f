//! What a folder holds: `downloads.json`, and made of it a recipe and a page of licences.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::registry::{Origin, recipe};
use crate::Error;
use crate::config::Config;
use crate::manifest::write_json;

const RECORDS: &str = "downloads.json";
/// The recipe that reads a folder.
pub const RECIPE: &str = "recipe.toml";
const LICENCES: &str = "LICENCES.md";

/// The files of a folder that are written here.
pub(super) const OWN: &[&str] = &[RECORDS, RECIPE, LICENCES];

/// What is known of a file that is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Where it came from; none if it was put there by hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    /// What the server calls this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) validator: Option<String>,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    /// What it was compared with when it came.
    pub(super) compared_with: String,
}

/// `downloads.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Records {
    #[serde(skip)]
    folder: PathBuf,
    sources: Vec<Origin>,
    pub(super) files: BTreeMap<String, Record>,
}

impl Records {
    /// Those of a folder.
    ///
    /// # Errors
    /// I/O, or JSON of another shape.
    pub(super) fn read(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(RECORDS);
        let records = match fs_err::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| Error::Format {
                path,
                place: format!("line {}", error.line()),
                detail: error.to_string(),
                hint: "remove it: the files stay, and are looked at again".into(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { folder: folder.to_owned(), ..records })
    }

    /// Takes sources in, under what is said of them now.
    pub(super) fn insert(&mut self, sources: &[&Origin]) {
        for source in sources {
            match self.sources.iter_mut().find(|known| known.name == source.name) {
                Some(known) => known.clone_from(source),
                None => self.sources.push((*source).clone()),
            }
        }
    }

    /// Writes all that is known.
    ///
    /// # Errors
    /// I/O.
    pub(super) fn write(&self) -> Result<(), Error> {
        write_json(&self.folder.join(RECORDS), self)?;
        let text = |name: &str, text: &str| {
            datasets::atomic_write(&self.folder.join(name), |file| {
                Ok::<(), Error>(std::io::Write::write_all(file, text.as_bytes())?)
            })
        };
        text(LICENCES, &self.licences())?;
        let whole = |source: &&Origin| source.file.iter().all(|file| self.files.contains_key(&file.path));
        let whole: Vec<Origin> = self.sources.iter().filter(whole).cloned().collect();
        if whole.is_empty() { Ok(()) } else { text(RECIPE, &as_recipe(recipe(&whole))?) }
    }

    fn licences(&self) -> String {
        let mut text = "# Whose data these are\n".to_owned();
        for source in &self.sources {
            let _ = write!(text, "\n## {}\n\n{}\n\n* {}\n", source.name, source.about, source.terms());
            let _ = write!(text, "* cite: {}\n* page: <{}>\n", source.citation, source.page);
            for file in &source.file {
                let from = self.files.get(&file.path).map(|record| match &record.address {
                    Some(address) => format!(", from <{address}>, SHA-256 {}", record.sha256),
                    None => format!(", put there by hand, SHA-256 {}", record.sha256),
                });
                let _ =
                    writeln!(text, "* file: {}{}", file.path, from.unwrap_or_else(|| ", not here".into()));
            }
        }
        text
    }
}

fn as_recipe(ingest: Config) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Recipe {
        name: &'static str,
        seed: u64,
        ingest: Config,
    }
    let text = toml::to_string(&Recipe { name: "downloaded", seed: 42, ingest });
    let text = text.map_err(|error| Error::Io(std::io::Error::other(error)))?;
    Ok(format!(
        "# The sources of this folder, for `peptalk ingest --config recipe.toml --data DIR --out TABLES`.\n\
         # `peptalk download` writes it anew: copy it before you change it.\n{text}"
    ))
}
