//! Raw files from their publishers: resumed, compared with checksums, from mirrors where the publisher fails.
//!
//! [`Registry`] says what there is: [`Registry::built_in`] is `sources.toml`, beside this file. [`run`] brings sources into a
//! folder, laid out as the recipe in it says: `recipe.toml` there is what [`crate::run`] reads.

mod checksum;
mod http;
mod part;
mod record;
mod registry;
mod transfer;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use checksum::{Checksum, Fingerprint};
use fs_err as fs;
use http::{Client, Fault};
use indicatif::{ProgressBar, ProgressStyle};
use part::Part;
pub use record::RECIPE;
use record::{Record, Records};
pub use registry::{File, Mirror, Origin, Registry};
use reqwest::Url;
use transfer::Transfer;

use crate::Error;

/// How files are fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// Asked before all other places.
    pub mirrors: Vec<Mirror>,
    /// Whether a file that is here may be replaced by a newer one of its publisher.
    pub update: bool,
    /// Ranges of a file that are fetched at once.
    pub connections: usize,
    /// Bytes that one request asks for.
    pub piece_bytes: u64,
    /// How often in a row an address may fail in a way that may pass.
    pub attempts: u32,
    /// How long to wait after the first time; twice as long after every other.
    pub pause: Duration,
    /// How long a server may be silent.
    pub silence: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mirrors: vec![],
            update: false,
            connections: 4,
            piece_bytes: 16 << 20,
            attempts: 5,
            pause: Duration::from_secs(1),
            silence: Duration::from_secs(30),
        }
    }
}

/// A file that is in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrived {
    /// Below the folder.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Where it came from just now, or that it was here.
    pub from: String,
    /// What it was compared with.
    pub compared_with: String,
}

/// What stands in [`Record::compared_with`] of a file that no one gives a checksum of.
const NOTHING: &str = "nothing: no checksum is published, later ones are compared with this one";

/// Brings sources into the folder `out`; what is there already and right is not fetched. A run that is killed is gone on with
/// by the next. Beside the files: `downloads.json` (where they came from, their SHA-256), `LICENCES.md`, `recipe.toml`.
///
/// # Errors
/// [`Error::NotFetched`] with every file that did not come, why, and what to do; [`Error::Busy`]; I/O.
pub fn run(
    registry: &Registry,
    sources: &[&Origin],
    out: &Path,
    options: &Options,
) -> Result<Vec<Arrived>, Error> {
    fs::create_dir_all(out)?;
    let _lock = lock(out)?;
    let mut records = Records::read(out)?;
    records.insert(sources);
    records.write()?;
    let mut folder = Folder {
        registry,
        out,
        options,
        client: Client::new(options.attempts, options.pause, options.silence)?,
        records,
        unreachable: BTreeSet::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut arrived, mut missing) = (Vec::<Arrived>::new(), Vec::new());
    for source in sources {
        for file in &source.file {
            if arrived.iter().any(|there| there.path == file.path) {
                continue;
            }
            match runtime.block_on(folder.bring(source, file))? {
                Ok(there) => arrived.push(there),
                Err(why) => missing.push(why),
            }
        }
    }
    if missing.is_empty() { Ok(arrived) } else { Err(Error::NotFetched(missing)) }
}

/// One download at a time in a folder.
fn lock(out: &Path) -> Result<fs::File, Error> {
    let file = fs::OpenOptions::new().create(true).append(true).open(out.join(".downloads.lock"))?;
    crate::work::hold(file.file(), out)?;
    Ok(file)
}

/// The folder that files are brought into.
struct Folder<'a> {
    registry: &'a Registry,
    out: &'a Path,
    options: &'a Options,
    client: Client,
    records: Records,
    /// Servers that could not be reached, which are not asked again.
    unreachable: BTreeSet<String>,
}

impl Folder<'_> {
    /// Brings one file; the inner error says why it did not come.
    async fn bring(&mut self, source: &Origin, file: &File) -> Result<Result<Arrived, String>, Error> {
        let place = self.out.join(&file.path);
        let fault = if place.exists() { self.look(file, &place)? } else { Some("is not here".into()) };
        // What the registry has the checksum of does not get newer.
        let may_be_newer = self.options.update && file.url.is_some() && file.checksum().is_none();
        if fault.is_none() && !may_be_newer {
            return Ok(Ok(self.arrived(file, "was here".into())));
        }
        let is_here = fault.is_none();
        let mut why = format!("{} ({}): {}", file.path, source.name, fault.unwrap_or_default());
        let addresses = file.url.iter().flat_map(|url| self.registry.addresses(url, &self.options.mirrors));
        for address in addresses.collect::<Vec<_>>() {
            match self.fetch(file, &place, &address, is_here).await {
                Ok(from) => return Ok(Ok(self.arrived(file, from))),
                Err(Fault::Local(error)) => return Err(error),
                Err(fault) => {
                    let fault = self.remember(&address, fault);
                    tracing::info!("{}: {address}: {fault}", file.path);
                    let _ = write!(why, "\n  {address}: {fault}");
                }
            }
        }
        let hand = source.by_hand.as_ref().map(|what| format!("\n  {}: {what}", source.page));
        let _ = write!(why, "{}\n  its place: {}", hand.unwrap_or_default(), place.display());
        Ok(Err(why))
    }

    /// What a fault says; a server without connection is not asked again.
    fn remember(&mut self, address: &str, fault: Fault) -> String {
        match fault {
            Fault::Unreachable(why) => {
                self.unreachable.extend(server(address));
                why
            }
            Fault::Changed => "has another version at every request".into(),
            Fault::Refused(why) | Fault::Passing(why, _) => why,
            Fault::Local(error) => error.to_string(),
        }
    }

    /// What is wrong with a file that is there: it is not what its publisher gives, or not what it was.
    fn look(&mut self, file: &File, place: &Path) -> Result<Option<String>, Error> {
        let got = Fingerprint::of(place)?;
        let known = self.records.files.get(&file.path);
        // What a person put there is replaced by a person.
        let first = known.filter(|_| !self.options.update || file.url.is_some());
        let fault = match (file.checksum(), first) {
            (Some(published), _) => got.fault(&published),
            (None, Some(first)) => unlike(&got, first),
            (None, None) => None,
        };
        if let Some(fault) = &fault {
            tracing::warn!("{}: {fault}", place.display());
        } else if known.is_none_or(|known| known.sha256 != got.sha256) {
            let compared_with = file.checksum().map_or_else(|| NOTHING.into(), |sum| in_registry(&sum));
            let (address, validator) = (None, None);
            let record = Record { address, validator, bytes: got.bytes, sha256: got.sha256, compared_with };
            self.enter(file, record)?;
        }
        Ok(fault)
    }

    /// Writes down what came.
    fn enter(&mut self, file: &File, record: Record) -> Result<(), Error> {
        self.records.files.insert(file.path.clone(), record);
        self.records.write()
    }

    /// What is written down of a file.
    fn arrived(&self, file: &File, from: String) -> Arrived {
        let Record { bytes, compared_with, .. } = self.records.files[&file.path].clone();
        Arrived { path: file.path.clone(), bytes, from, compared_with }
    }

    /// Fetches a file from one address and compares it; gives where it is from. `is_here`: an older one is in its place.
    async fn fetch(
        &mut self,
        file: &File,
        place: &Path,
        address: &str,
        is_here: bool,
    ) -> Result<String, Fault> {
        if server(address).is_some_and(|server| self.unreachable.contains(&server)) {
            return Err(Fault::Unreachable("no connection".into()));
        }
        let published = self.published(file, address).await?;
        let known = self.records.files.get(&file.path).filter(|_| is_here).cloned();
        let bar = bar(&file.path);
        let transfer = Transfer::new(&self.client, self.options, address, place, &bar);
        loop {
            let Some(part) = transfer.run(known.as_ref()).await? else {
                return Ok("was here, and is the newest".into());
            };
            match self.compare(file, &part, published.as_ref()) {
                Ok(record) => {
                    part.publish(place)?;
                    bar.finish_and_clear();
                    tracing::info!("{}: {} bytes from {address}", file.path, record.bytes);
                    self.enter(file, record)?;
                    return Ok(address.to_owned());
                }
                Err(Fault::Refused(why)) => {
                    part::remove(place)?;
                    if !part.resumed {
                        return Err(Fault::Refused(why));
                    }
                    // What an earlier run left may be the fault.
                    tracing::warn!("{}: {why}; beginning anew", file.path);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// The checksum that the publisher gives, and what to call it.
    async fn published(&self, file: &File, address: &str) -> Result<Option<(Checksum, String)>, Fault> {
        if let Some(sum) = file.checksum() {
            let name = in_registry(&sum);
            return Ok(Some((sum, name)));
        }
        let Some(list) = &file.checksums else { return Ok(None) };
        let bad = |error| Fault::Refused(format!("no address ({error})"));
        let address = Url::parse(address).map_err(bad)?;
        let list = address.join(list).map_err(bad)?;
        let text = self.client.text(list.as_str()).await.map_err(|fault| match fault {
            Fault::Refused(why) => Fault::Refused(format!("its checksums {list}: {why}")),
            fault => fault,
        })?;
        let name = address.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
        let sum = Checksum::in_list(&text, name);
        let sum = sum.ok_or_else(|| Fault::Refused(format!("is not in the checksums {list}")))?;
        let named = format!("{} in {list}", sum.parts().0);
        Ok(Some((sum, named)))
    }

    /// Compares what came with what it should be.
    fn compare(
        &self,
        file: &File,
        part: &Part,
        published: Option<&(Checksum, String)>,
    ) -> Result<Record, Fault> {
        let got = Fingerprint::of(&part.path)?;
        let served = part.state.checksum().map(|sum| (sum, "SHA-256 of the server".to_owned()));
        for (sum, of) in published.into_iter().chain(&served) {
            if let Some(fault) = got.fault(sum) {
                return Err(Fault::Refused(format!("{fault} ({of}); removed")));
            }
        }
        let first = self.records.files.get(&file.path).filter(|_| !self.options.update);
        let compared_with = match (published.or(served.as_ref()), first) {
            (Some((_, of)), _) => of.clone(),
            (None, Some(first)) => {
                if let Some(fault) = unlike(&got, first) {
                    return Err(Fault::Refused(format!("{fault}; removed")));
                }
                "SHA-256 of the first download".into()
            }
            (None, None) => NOTHING.into(),
        };
        let state = &part.state;
        let (address, validator) = (Some(state.address.clone()), state.validator.clone());
        Ok(Record { address, validator, bytes: got.bytes, sha256: got.sha256, compared_with })
    }
}

/// How a file differs from what it was.
fn unlike(got: &Fingerprint, first: &Record) -> Option<String> {
    let fault = got.fault(&Checksum::Sha256(first.sha256.clone()))?;
    Some(format!("{fault}, as at the first download (a newer file? --update takes it)"))
}

fn in_registry(sum: &Checksum) -> String {
    format!("{} in the registry", sum.parts().0)
}

/// The server of an address.
fn server(address: &str) -> Option<String> {
    let url = Url::parse(address).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

fn bar(path: &str) -> ProgressBar {
    let template = "{msg:32!} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let name = PathBuf::from(path).file_name().map(|name| name.to_string_lossy().into_owned());
    ProgressBar::new(0).with_style(style).with_message(name.unwrap_or_default())
}
