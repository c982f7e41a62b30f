//! Archives as sources: zip and tar (packed or not) are read in place, member after member. Nothing is unpacked to
//! disk, so a name can lead nowhere; names that would lead out of a folder are refused all the same.

use std::io::{BufReader, Read};
use std::path::{Component, Path};

use flate2::read::DeflateDecoder;
use indicatif::ProgressBar;
use zip::{CompressionMethod, ZipArchive};

use crate::Error;
use crate::reader::{Counted, Input, Origin};

/// What becomes of a member: its name in the archive and its bytes.
type Visit<'v> = &'v mut dyn FnMut(&str, Input<'_>) -> Result<(), Error>;

/// Calls `whole` with a plain file, or `member` with every member of an archive whose name ends in one of `wanted`
/// (before a `.gz`; any name if there are none).
///
/// # Errors
/// What the callbacks say; [`Error::Archive`] for archives that are damaged, encrypted, nested or hold nothing that
/// was wanted.
pub(crate) fn read(
    path: &Path,
    bar: ProgressBar,
    wanted: &[&str],
    whole: impl FnOnce(Input<'_>) -> Result<(), Error>,
    member: Visit<'_>,
) -> Result<(), Error> {
    let (origin, mut counted) = Origin::open(path, bar)?;
    let found = if is_zip(&counted.magic()?) {
        zip_members(&origin, counted, wanted, member)?
    } else {
        let input = Input::begin(origin, Box::new(counted))?;
        if !is_tar(input.head()) {
            return whole(input);
        }
        tar_members(input, wanted, member)?
    };
    if found > 0 {
        return Ok(());
    }
    let detail = format!("the archive has no member that ends in {}", wanted.join(", "));
    Err(fault(path, detail, "check `files` and `kind` of the source"))
}

fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06")
}

fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

fn fault(path: &Path, detail: impl Into<String>, hint: &str) -> Error {
    Error::Archive { path: path.into(), detail: detail.into(), hint: hint.into() }
}

/// Whether a member is read. Folders, hidden files and what macOS adds are not.
///
/// # Errors
/// A name that leads out of the folder in which it would be unpacked.
fn is_wanted(path: &Path, name: &str, wanted: &[&str]) -> Result<bool, Error> {
    let parts: Vec<Component<'_>> = Path::new(name).components().collect();
    if name.contains('\0')
        || !parts.iter().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
    {
        let detail = format!("the member {name:?} would be unpacked outside of its folder");
        return Err(fault(path, detail, "an archive made to do harm; take it from where it is published"));
    }
    let is_hidden = |part: &Component<'_>| match part {
        Component::Normal(part) => part.to_string_lossy().starts_with(['.', '_']),
        _ => false,
    };
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let ends = wanted.is_empty() || wanted.iter().any(|end| plain.ends_with(&format!(".{end}")));
    Ok(ends && !name.ends_with('/') && !parts.iter().any(is_hidden))
}

/// A member is a file; an archive in an archive is not looked into.
fn plain<'a>(name: &str, input: Input<'a>) -> Result<Input<'a>, Error> {
    if is_zip(input.head()) || is_tar(input.head()) {
        let detail = format!("{name} is an archive in an archive");
        return Err(fault(input.path(), detail, "unpack the outer one and name the inner one in `files`"));
    }
    Ok(input)
}

fn zip_members(
    origin: &Origin,
    counted: Counted,
    wanted: &[&str],
    member: Visit<'_>,
) -> Result<usize, Error> {
    const CUT: &str = "the download was cut or damaged; fetch the file again";
    let path = origin.path();
    let broken = |e: zip::result::ZipError| fault(path, format!("no readable zip archive: {e}"), CUT);
    let mut archive = ZipArchive::new(BufReader::new(counted)).map_err(broken)?;
    let mut found = 0;
    for at in 0..archive.len() {
        let file = archive.by_index_raw(at).map_err(broken)?;
        let name = file.name().map_err(broken)?.into_owned();
        if !is_wanted(path, &name, wanted)? {
            continue;
        }
        if file.encrypted() {
            return Err(fault(path, format!("{name} is encrypted"), "unpack it by hand"));
        }
        found += 1;
        let (crc, method) = (file.crc32(), file.compression());
        let bytes: Box<dyn Read + '_> = match method {
            CompressionMethod::Stored => Box::new(file),
            CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(file)),
            _ => return Err(fault(path, format!("{name} is packed by {method}"), "unpack it by hand")),
        };
        let checked = Checked { bytes, sum: flate2::Crc::new(), want: crc };
        let input = Input::begin(origin.member(&name, true), Box::new(checked))?;
        member(&name, plain(&name, input)?)?;
    }
    Ok(found)
}

/// Bytes of a member that must have the checksum of the archive's directory.
struct Checked<'a> {
    bytes: Box<dyn Read + 'a>,
    sum: flate2::Crc,
    want: u32,
}

impl Read for Checked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.bytes.read(buffer)?;
        self.sum.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() && self.sum.sum() != self.want {
            return Err(std::io::Error::other("the checksum of the member is wrong"));
        }
        Ok(n)
    }
}

/// Bytes of a member that must be as many as its header says.
struct Whole<R> {
    bytes: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.bytes.read(buffer)?;
        self.left = self.left.saturating_sub(n as u64);
        if n == 0 && !buffer.is_empty() && self.left > 0 {
            let detail = format!("the archive ends {} bytes before the member does", self.left);
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, detail));
        }
        Ok(n)
    }
}

fn tar_members(input: Input<'_>, wanted: &[&str], member: Visit<'_>) -> Result<usize, Error> {
    let origin = input.origin().clone();
    let path = origin.path();
    let broken = |e: std::io::Error| match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) => {
            let detail = format!("the tar archive is cut or damaged: {e}");
            fault(path, detail, "the download was cut or damaged; fetch the file again")
        }
    };
    let mut archive = tar::Archive::new(input);
    let mut found = 0;
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        if !is_wanted(path, &name, wanted)? {
            continue;
        }
        found += 1;
        let left = entry.size();
        let input = Input::begin(origin.member(&name, false), Box::new(Whole { bytes: entry, left }))?;
        member(&name, plain(&name, input)?)?;
    }
    Ok(found)
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
