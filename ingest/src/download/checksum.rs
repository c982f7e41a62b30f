//! Checksums: what a file must have, where publishers write it, and what it has.

use std::io::Read;
use std::path::Path;

use md5::Md5;
use regex::Regex;
use sha2::{Digest, Sha256};

/// A checksum, hexadecimal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Checksum {
    Sha256(String),
    Md5(String),
}

impl Checksum {
    fn new(digits: &str) -> Option<Self> {
        match digits.len() {
            64 => Some(Self::Sha256(digits.to_owned())),
            32 => Some(Self::Md5(digits.to_owned())),
            _ => None,
        }
    }

    /// A SHA-256 of a header: the Hugging Face hub names large files so. Anything else is none.
    pub(super) fn of_header(value: &str) -> Option<Self> {
        let digits = value.trim_start_matches("W/").trim_matches('"');
        let is_hash = digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then(|| Self::Sha256(digits.to_owned()))
    }

    /// That of a file in the list of its publisher: metalink, or lines of `md5sum` and `sha256sum`.
    pub(super) fn in_list(list: &str, name: &str) -> Option<Self> {
        let name = regex::escape(name);
        let line =
            Regex::new(&format!(r"(?m)^\s*([0-9a-fA-F]{{32,64}})[ \t]+\*?(?:\S*/)?{name}\s*$")).ok()?;
        if let Some(found) = line.captures(list) {
            return Self::new(&found[1]);
        }
        let file = Regex::new(&format!(r#"(?s)<file\s+name="{name}"\s*>(.*?)</file>"#)).ok()?;
        let hash = Regex::new(r#"<hash\s+type="(?i:md5|sha-?256)"\s*>\s*([0-9a-fA-F]+)\s*</hash>"#).ok()?;
        let hashes = hash.captures_iter(file.captures(list)?.get(1)?.as_str());
        let found: Vec<Self> = hashes.filter_map(|found| Self::new(&found[1])).collect();
        found.iter().find(|hash| matches!(hash, Self::Sha256(_))).or(found.first()).cloned()
    }

    /// Its name and digits.
    pub(super) fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Sha256(digits) => ("SHA-256", digits),
            Self::Md5(digits) => ("MD5", digits),
        }
    }
}

/// What a file has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fingerprint {
    pub(super) sha256: String,
    md5: String,
    pub(super) bytes: u64,
}

impl Fingerprint {
    /// Reads the file once.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub(super) fn of(path: &Path) -> std::io::Result<Self> {
        let mut file = fs_err::File::open(path)?;
        let (mut sha256, mut md5, mut bytes) = (Sha256::new(), Md5::new(), 0);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            sha256.update(&buffer[..n]);
            md5.update(&buffer[..n]);
            bytes += n as u64;
        }
        let hex = |digest: &[u8]| datasets::hex(digest);
        Ok(Self { sha256: hex(&sha256.finalize()), md5: hex(&md5.finalize()), bytes })
    }

    /// What is wrong with it, if something is.
    pub(super) fn fault(&self, wanted: &Checksum) -> Option<String> {
        let (name, wanted) = wanted.parts();
        let got = if name == "MD5" { &self.md5 } else { &self.sha256 };
        let same = got.eq_ignore_ascii_case(wanted);
        (!same).then(|| format!("its {name} is {got}, but should be {wanted}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72"; // RFC 1321: of "abc"
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180: of "abc"

    #[test]
    fn a_file_has_the_published_digests() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("abc"), "abc").unwrap();
        let got = Fingerprint::of(&dir.path().join("abc")).unwrap();
        assert_eq!(got, Fingerprint { sha256: SHA256.into(), md5: MD5.into(), bytes: 3 });
        assert_eq!(got.fault(&Checksum::Md5(MD5.to_uppercase())), None);
        assert_eq!(got.fault(&Checksum::Sha256(SHA256.into())), None);
        assert!(got.fault(&Checksum::Md5("0".repeat(32))).unwrap().contains("its MD5 is 9001"));
    }

    #[test]
    fn lists_of_publishers_are_read() {
        let lines = format!("{SHA256}  other.gz\n{MD5}  a.dat.gz\n{SHA256} *./b.gz\n");
        assert_eq!(Checksum::in_list(&lines, "a.dat.gz"), Some(Checksum::Md5(MD5.into())));
        assert_eq!(Checksum::in_list(&lines, "b.gz"), Some(Checksum::Sha256(SHA256.into())));
        assert_eq!(Checksum::in_list(&lines, "a-dat.gz"), None);
        assert_eq!(Checksum::in_list(&lines, "dat.gz"), None);
        let metalink = format!(
            "<metalink><files><file name=\"b.gz\">\n<verification><hash type=\"md5\">{}</hash></verification></file>\n\
             <file name=\"a.dat.gz\">\n <size>3</size>\n <verification>\n  <hash type=\"md5\">{MD5}</hash>\n </verification>\n\
             <resources><url>https://x/a.dat.gz</url></resources></file></files></metalink>",
            "1".repeat(32)
        );
        assert_eq!(Checksum::in_list(&metalink, "a.dat.gz"), Some(Checksum::Md5(MD5.into())));
        assert_eq!(Checksum::in_list(&metalink, "c.gz"), None);
        assert_eq!(Checksum::of_header(&format!("\"{SHA256}\"")), Some(Checksum::Sha256(SHA256.into())));
        assert_eq!(Checksum::of_header("\"5f3a-61\""), None);
    }
}
