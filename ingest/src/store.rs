//! Raw files and tables in an object store: `s3://`, `gs://` or `file://`.
//!
//! An ingest reads raw files more than once and moves its tables to their place by a rename, neither of which object stores
//! are good at. So the files that a recipe names are fetched first, those that are there in the same version are not fetched
//! again, and tables are put where they belong when they are whole. Credentials are those of the vendors' own programs, from
//! the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`, …).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use fs_err as fs;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;
use twox_hash::XxHash3_128;
use url::Url;

use crate::config::Config;
use crate::{Error, source};

/// Files that are fetched, or put, at once.
const AT_ONCE: usize = 4;
/// Bytes of a file that are read at once to be put.
const PIECE: usize = 1 << 20;
/// What says that tables are whole: the last to be put, and the first to go.
const LAST: &str = "manifest.json";

/// A folder of an object store.
struct Store {
    address: String,
    store: Arc<dyn ObjectStore>,
    prefix: Key,
}

impl Store {
    fn open(address: &str) -> Result<Self, Error> {
        let url = Url::parse(address).map_err(|error| fault(address, error))?;
        let environment = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let opened = object_store::parse_url_opts(&url, environment);
        let (store, prefix) = opened.map_err(|error| fault(address, error))?;
        Ok(Self { address: address.to_owned(), store: store.into(), prefix })
    }

    /// The key of a name, which may lead down.
    fn key(&self, name: &str) -> Key {
        name.split('/').filter(|part| !part.is_empty()).fold(self.prefix.clone(), |key, part| key.join(part))
    }

    /// What a key is called here.
    fn name(&self, key: &Key) -> String {
        let rest = key
            .prefix_match(&self.prefix)
            .map(|parts| parts.map(|p| p.as_ref().to_owned()).collect::<Vec<_>>());
        rest.unwrap_or_default().join("/")
    }

    fn fault(&self, error: impl std::fmt::Display) -> Error {
        fault(&self.address, error)
    }

    /// Objects of this name: the file, or what lies in the folder, not in folders below.
    async fn named(&self, name: &str) -> Result<Vec<ObjectMeta>, Error> {
        let key = self.key(name);
        match self.store.head(&key).await {
            Ok(object) => return Ok(vec![object]),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(self.fault(error)),
        }
        let inside =
            self.store.list_with_delimiter(Some(&key)).await.map_err(|error| self.fault(error))?.objects;
        if inside.is_empty() {
            return Err(self.fault(format!("there is no {name}")));
        }
        Ok(inside)
    }

    /// Fetches an object into the folder, unless this version of it is there. What an interrupted run had is gone on with.
    async fn fetch(&self, object: &ObjectMeta, folder: &Path) -> Result<(), Error> {
        let name = self.name(&object.location);
        let path = folder.join(&name);
        let version = format!("{:?} {} {}", object.e_tag, object.size, object.last_modified);
        let beside = |end: &str| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.with_file_name(format!(".{file}.{end}"))
        };
        let is_there = fs::metadata(&path).is_ok_and(|file| file.len() == object.size);
        if is_there && fs::read_to_string(beside("version")).is_ok_and(|has| has == version) {
            return Ok(());
        }
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        let part = beside(&format!("{:032x}.part", XxHash3_128::oneshot(version.as_bytes())));
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&part)?.into_file();
        let length = file.metadata()?.len();
        if length < object.size {
            tracing::info!("{name}: fetching {} MiB", (object.size - length) >> 20);
            let range = (length > 0).then_some(GetRange::Offset(length));
            let options = GetOptions { range, if_match: object.e_tag.clone(), ..GetOptions::default() };
            let got =
                self.store.get_opts(&object.location, options).await.map_err(|error| self.fault(error))?;
            let mut bytes = got.into_stream();
            while let Some(bytes) = bytes.try_next().await.map_err(|error| self.fault(error))? {
                file.write_all(&bytes)?;
            }
        }
        file.sync_all()?;
        fs::rename(part, &path)?;
        Ok(fs::write(beside("version"), version)?)
    }

    async fn put(&self, path: &Path, name: &str) -> Result<(), Error> {
        let mut file = fs::File::open(path)?;
        let mut out = BufWriter::new(self.store.clone(), self.key(name));
        let mut piece = vec![0; PIECE];
        loop {
            let n = file.read(&mut piece)?;
            if n == 0 {
                break;
            }
            out.write_all(&piece[..n]).await.map_err(|error| self.fault(error))?;
        }
        out.shutdown().await.map_err(|error| self.fault(error))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&self.key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.fault(error)),
        }
    }
}

fn fault(address: &str, error: impl std::fmt::Display) -> Error {
    Error::Store { address: address.to_owned(), detail: error.to_string() }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Fetches the raw files that a recipe names from the folder of an object store into one of this machine.
///
/// # Errors
/// [`Error::Store`]: the store is not reached, refuses, or has no such file; I/O.
pub fn fetch(address: &str, config: &Config, folder: &Path) -> Result<(), Error> {
    let store = Store::open(address)?;
    let names: BTreeSet<&str> = config.source.iter().flat_map(source::files).collect();
    runtime()?.block_on(async {
        for name in names {
            let objects = store.named(name).await?;
            let files = objects.iter().map(|object| Ok(store.fetch(object, folder)));
            futures::stream::iter(files).try_buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        }
        Ok(())
    })
}

/// Puts the files of a folder of tables into one of an object store, in place of what is there. The manifest goes first and
/// comes last: tables without it are not whole.
///
/// # Errors
/// [`Error::Store`]: the store is not reached, or refuses; I/O.
pub fn put(folder: &Path, address: &str) -> Result<(), Error> {
    let store = Store::open(address)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    runtime()?.block_on(async {
        store.delete(LAST).await?;
        let files = names.iter().filter(|name| *name != LAST).map(|name| Ok((folder.join(name), name)));
        let put = async |(path, name): (std::path::PathBuf, &String)| store.put(&path, name).await;
        futures::stream::iter(files).try_for_each_concurrent(AT_ONCE, put).await?;
        let there = store.store.list_with_delimiter(Some(&store.prefix)).await;
        for object in there.map_err(|error| store.fault(error))?.objects {
            let name = store.name(&object.location);
            if !names.contains(&name) {
                store.delete(&name).await?;
            }
        }
        store.put(&folder.join(LAST), LAST).await
    })
}
