//! The registry: what can be fetched, from where, under which licence.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Component, Path};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use super::record;
use crate::Error;
use crate::config::{Config, Kind, Role, Source};

/// The registry that the program brings along.
const BUILT_IN: &str = include_str!("sources.toml");

/// Sources that can be fetched, and other places of the same files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Other places, asked in this order when the publisher fails.
    #[serde(default)]
    pub mirror: Vec<Mirror>,
    /// The sources, in the order in which a recipe lists them.
    pub source: Vec<Origin>,
}

/// Places that hold what another one holds, under addresses of another beginning.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The beginning of the publisher's addresses.
    pub of: String,
    /// What stands for it.
    pub at: Vec<String>,
}

/// A source: what it is, whose it is, and its files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// As in a recipe, the `source` column of the tables.
    pub name: String,
    /// The format, as in a recipe.
    pub kind: Kind,
    /// Whether it may be trained on, as in a recipe.
    #[serde(default)]
    pub role: Role,
    /// As in a recipe.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reversed: bool,
    /// What it is, in a sentence.
    pub about: String,
    /// Licence of the content.
    pub licence: String,
    /// Whether the licence lets it be used in commerce.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub commercial: bool,
    /// Whom to cite.
    pub citation: String,
    /// The page that a person reads.
    pub page: String,
    /// What a person must do, where no program may fetch the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<String>,
    /// Its files.
    pub file: Vec<File>,
}

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Where it lies below the output folder, with `/`.
    pub path: String,
    /// Read beside the others (`companion` of a recipe).
    #[serde(default, skip_serializing_if = "is_default")]
    pub companion: bool,
    /// The publisher's address; none if it is fetched by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// SHA-256, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// MD5, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<String>,
    /// The publisher's list of checksums, seen from the file's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksums: Option<String>,
    /// Its size in bytes, where it is known beforehand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

fn yes() -> bool {
    true
}
fn is_true(value: &bool) -> bool {
    *value
}
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Registry {
    /// The registry that the program brings along.
    ///
    /// # Errors
    /// None that a test has not seen.
    pub fn built_in() -> Result<Self, Error> {
        Self::parse("the built-in registry", BUILT_IN)
    }

    /// A registry of one's own, TOML of the same form.
    ///
    /// # Errors
    /// I/O; [`Error::Registry`] with every fault found.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&path.display().to_string(), &fs_err::read_to_string(path)?)
    }

    fn parse(place: &str, text: &str) -> Result<Self, Error> {
        let fault = |faults: Vec<String>| Error::Registry { place: place.to_owned(), faults };
        let registry: Self = toml::from_str(text).map_err(|error| fault(vec![error.to_string()]))?;
        let faults = registry.faults();
        if faults.is_empty() { Ok(registry) } else { Err(fault(faults)) }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for place in self.mirror.iter().flat_map(|mirror| &mirror.at) {
            faults.extend(insecure(place).map(|fault| format!("mirror: {fault}")));
        }
        let mut files: BTreeMap<&str, &File> = BTreeMap::new();
        for source in &self.source {
            let mut fault = |text: String| faults.push(format!("source {:?}: {text}", source.name));
            for file in &source.file {
                let path = &file.path;
                if let Some(text) = misplaced(path) {
                    fault(format!("path {path:?} {text}"));
                }
                let other = files.entry(path).or_insert(file);
                if (&other.url, other.checksum(), &other.checksums)
                    != (&file.url, file.checksum(), &file.checksums)
                {
                    fault(format!("{path} comes from somewhere else in another source"));
                }
                match (&file.url, &source.by_hand) {
                    (None, None) => fault(format!("{path} has no url, and the source no by_hand")),
                    (Some(_), Some(_)) => fault(format!("{path} has a url, and the source says by_hand")),
                    (Some(url), None) => insecure(url).into_iter().for_each(&mut fault),
                    (None, Some(_)) => {}
                }
                let digits = |hash: &Option<String>, n| {
                    hash.as_ref().is_some_and(|h| h.len() != n || !h.bytes().all(|b| b.is_ascii_hexdigit()))
                };
                if digits(&file.sha256, 64) || digits(&file.md5, 32) {
                    fault(format!("{path}: a sha256 has 64 hexadecimal digits, an md5 32"));
                }
                if [&file.sha256, &file.md5, &file.checksums].iter().filter(|hash| hash.is_some()).count() > 1
                {
                    fault(format!("{path}: one of sha256, md5 and checksums is enough"));
                }
            }
        }
        if let Err(Error::Config(found)) = recipe(&self.source).validate() {
            faults.extend(found);
        }
        faults
    }

    /// The sources of these names, in the order of the registry.
    ///
    /// # Errors
    /// [`Error::UnknownSource`] with the names there are.
    pub fn choose(&self, names: &[String]) -> Result<Vec<&Origin>, Error> {
        let known = || self.source.iter().map(|source| source.name.as_str());
        if let Some(name) = names.iter().find(|name| !known().any(|known| known == **name)) {
            return Err(Error::UnknownSource {
                name: name.clone(),
                known: known().collect::<Vec<_>>().join(", "),
            });
        }
        Ok(self.source.iter().filter(|source| names.contains(&source.name)).collect())
    }

    /// All sources, for people: what they are, under which licence, how large, and where their files go.
    #[must_use]
    pub fn list(&self) -> String {
        let mut text = String::new();
        for source in &self.source {
            let paths: Vec<&str> = source.file.iter().map(|file| file.path.as_str()).collect();
            let bytes: Option<u64> = source.file.iter().map(|file| file.bytes).sum();
            let size = bytes.map_or_else(String::new, |bytes| format!(", {:.1} MB", bytes as f64 / 1e6));
            let hand = if source.by_hand.is_some() { ", by hand" } else { "" };
            let Origin { name, about, .. } = source;
            let _ =
                writeln!(text, "{name}: {about}\n  {}{size}{hand}\n  {}", source.terms(), paths.join(" "));
        }
        text
    }

    /// The addresses of a file: those that `first` makes of it, the publisher's, and the mirrors'.
    pub(super) fn addresses(&self, url: &str, first: &[Mirror]) -> Vec<String> {
        let moved = |mirrors: &[Mirror]| -> Vec<String> {
            let rest = |mirror: &Mirror| Some((mirror.at.clone(), url.strip_prefix(&mirror.of)?));
            let moved = mirrors.iter().filter_map(rest);
            moved.flat_map(|(at, rest)| at.into_iter().map(move |at| format!("{at}{rest}"))).collect()
        };
        let mut addresses = moved(first);
        for address in [url.to_owned()].into_iter().chain(moved(&self.mirror)) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }
}

impl Mirror {
    /// `OF=AT`, as on the command line.
    ///
    /// # Errors
    /// [`Error::Registry`] when it is not of that form, or AT is not to be trusted.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let fault =
            |fault: String| Error::Registry { place: format!("--mirror {text}"), faults: vec![fault] };
        let Some((of, at)) = text.split_once('=').filter(|(of, _)| !of.is_empty()) else {
            return Err(fault("expected OF=AT, the beginnings of addresses".into()));
        };
        insecure(at).map_or(Ok(Self { of: of.to_owned(), at: vec![at.to_owned()] }), |text| Err(fault(text)))
    }
}

impl Origin {
    /// Its licence in a line.
    #[must_use]
    pub fn terms(&self) -> String {
        let commerce = if self.commercial { "" } else { "; NOT for commercial use" };
        format!("licence: {}{commerce}", self.licence)
    }

    /// It as a source of a recipe.
    pub(super) fn source(&self) -> Source {
        let paths = |companion: bool| {
            let files = self.file.iter().filter(move |file| file.companion == companion);
            files.map(|file| file.path.clone()).collect()
        };
        Source {
            name: self.name.clone(),
            kind: self.kind,
            files: paths(false),
            companion: paths(true),
            role: self.role,
            exclude_homologs: false,
            reversed: self.reversed,
            licence: self.licence.clone(),
        }
    }
}

impl File {
    /// The checksum that the registry itself knows.
    pub(super) fn checksum(&self) -> Option<Checksum> {
        let sha256 = self.sha256.clone().map(Checksum::Sha256);
        sha256.or_else(|| self.md5.clone().map(Checksum::Md5))
    }
}

/// The ingest section that reads these sources.
pub(super) fn recipe(sources: &[Origin]) -> Config {
    Config::of(sources.iter().map(Origin::source).collect())
}

/// Whether bytes from this address could be changed on the way: only https, but for servers on this machine.
pub(super) fn is_secure(url: &Url) -> bool {
    let local = url.host_str().is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    });
    url.scheme() == "https" || (url.scheme() == "http" && local)
}

/// What is wrong with an address.
fn insecure(text: &str) -> Option<String> {
    match Url::parse(text) {
        Ok(url) if is_secure(&url) => None,
        Ok(_) => Some(format!("{text} is not https")),
        Err(error) => Some(format!("{text:?} is no address ({error})")),
    }
}

/// What is wrong with a path that should lead to a file below the output folder.
fn misplaced(path: &str) -> Option<&'static str> {
    let plain = |part: Component<'_>| match part {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
        _ => false,
    };
    let parts = path.split('/').all(|part| !part.is_empty());
    if !parts || path.contains(['\\', ':', '\0']) || !Path::new(path).components().all(plain) {
        return Some("is not a plain relative path");
    }
    record::OWN.contains(&path).then_some("is a file that the download writes itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Registry, String> {
        Registry::parse("here", text).map_err(|error| error.to_string())
    }

    const ONE: &str = "[[source]]\nname = \"a\"\nkind = \"obo\"\nabout = \"\"\nlicence = \"L\"\ncitation = \"\"\npage = \"\"\n";

    #[test]
    fn the_built_in_registry_is_whole() {
        let registry = Registry::built_in().unwrap();
        assert!(registry.source.len() > 30);
        for source in &registry.source {
            assert!(!source.about.is_empty() && !source.licence.is_empty() && !source.citation.is_empty());
            assert!(source.page.starts_with("https://"), "{}", source.page);
            // A branch of a repository moves on; a commit does not.
            for url in source.file.iter().filter_map(|file| file.url.as_deref()) {
                let commit = |part: &str| part.len() == 40 && part.bytes().all(|b| b.is_ascii_hexdigit());
                assert!(!url.contains("githubusercontent") || url.split('/').any(commit), "{url}");
            }
        }
    }

    #[test]
    fn what_could_do_harm_is_refused() {
        for (file, says) in [
            ("path = \"../a\"\nurl = \"https://x/a\"", "plain relative path"),
            ("path = \"/a\"\nurl = \"https://x/a\"", "plain relative path"),
            ("path = \"a/../../b\"\nurl = \"https://x/a\"", "plain relative path"),
            ("path = \"a\\\\b\"\nurl = \"https://x/a\"", "plain relative path"),
            ("path = \"a//b\"\nurl = \"https://x/a\"", "plain relative path"),
            ("path = \".ssh/b\"\nurl = \"https://x/a\"", "plain relative path"),
            ("path = \"downloads.json\"\nurl = \"https://x/a\"", "writes itself"),
            ("path = \"a\"\nurl = \"http://example.org/a\"", "http://example.org/a is not https"),
            ("path = \"a\"\nurl = \"file:///etc/passwd\"", "is not https"),
            ("path = \"a\"\nurl = \"a\"", "is no address"),
            ("path = \"a\"", "no url"),
            ("path = \"a\"\nurl = \"https://x/a\"\nmd5 = \"12\"", "an md5 32"),
            ("path = \"a\"\nurl = \"https://x/a\"\nsha1 = \"12\"", "unknown field `sha1`"),
        ] {
            let error = parse(&format!("{ONE}[[source.file]]\n{file}\n")).unwrap_err();
            assert!(error.contains(says) && error.contains("here"), "{file}: {error}");
        }
        for url in ["https://x/a", "http://localhost:1/a", "http://127.0.0.1/a", "http://[::1]/a"] {
            parse(&format!("{ONE}[[source.file]]\npath = \"a\"\nurl = \"{url}\"\n")).unwrap();
        }
        let two = format!("{ONE}[[source.file]]\npath = \"a\"\nurl = \"https://x/a\"\n");
        assert!(parse(&two.repeat(2)).unwrap_err().contains("two sources are named"));
        let mirror = "[[mirror]]\nof = \"https://x/\"\nat = [\"http://y/\"]\n";
        assert!(parse(&format!("{mirror}{two}")).unwrap_err().contains("http://y/ is not https"));
    }

    #[test]
    fn mirrors_stand_behind_the_publisher_and_ones_own_before_it() {
        let mirror = "[[mirror]]\nof = \"https://x/\"\nat = [\"https://y/pub/\", \"https://z/\"]\n";
        let registry =
            parse(&format!("{mirror}{ONE}[[source.file]]\npath = \"a\"\nurl = \"https://x/a\"\n")).unwrap();
        let own = [
            Mirror::parse("https://x/=https://own/").unwrap(),
            Mirror::parse("https://w/=https://v/").unwrap(),
        ];
        assert_eq!(
            registry.addresses("https://x/a", &own),
            ["https://own/a", "https://x/a", "https://y/pub/a", "https://z/a"]
        );
        assert_eq!(registry.addresses("https://w/a", &[]), ["https://w/a"]);
        for wrong in ["https://x/", "=https://x/", "https://x/=http://y/", "https://x/=y"] {
            assert!(Mirror::parse(wrong).is_err(), "{wrong}");
        }
    }
}
