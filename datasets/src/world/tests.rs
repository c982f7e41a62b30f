//! The files are read back with other code than wrote them, and counted again.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::*;

const CONFIG: Config = Config { seed: 7, n_proteins: 149 };

/// Every file of the folder, decompressed.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            let mut file = fs_err::File::open(&path).unwrap();
            if name.ends_with(".gz") {
                flate2::read::MultiGzDecoder::new(file).read_to_end(&mut bytes).unwrap();
            } else {
                file.read_to_end(&mut bytes).unwrap();
            }
            all.insert(name, bytes);
        }
    }
    all
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let (a, b, c) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let truth = write(&CONFIG, a.path()).unwrap();
    assert_eq!(write(&CONFIG, b.path()).unwrap(), truth);
    write(&Config { seed: 8, ..CONFIG }, c.path()).unwrap();
    for name in files(a.path()).keys() {
        let read = |folder: &tempfile::TempDir| fs_err::read(folder.path().join(name)).unwrap();
        assert_eq!(read(&a), read(&b), "{name}");
        assert!(read(&a) != read(&c) || name.ends_with(".obo"), "{name} does not depend on the seed");
    }
    let json = fs_err::read_to_string(a.path().join("truth.json")).unwrap();
    assert_eq!(serde_json::from_str::<Truth>(&json).unwrap(), truth);
}

#[test]
fn dump() {
    let Ok(out) = std::env::var("DUMP") else { return };
    let start = std::time::Instant::now();
    write(&Config::default(), Path::new(&out)).unwrap();
    eprintln!("{:?}", start.elapsed());
}
