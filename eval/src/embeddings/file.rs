//! Vectors that were made elsewhere: profiles (PSSM) and embeddings of models that are not run here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

use super::{Files, Known, Numbers, key, parquet_in, write};

/// A file of vectors, one a residue, found by protein.
///
/// It is a safetensors file, in which a protein's tensor `[L, E]` (f32, f16 or bf16) is named by the SHA-256 of its residue
/// letters in lower-case hexadecimal digits, or Parquet (a file or a folder of them) with the columns of this module's parent,
/// as `peptalk embed` writes it. Safetensors are held in memory; of Parquet what was asked for lately.
pub struct VectorFile {
    path: PathBuf,
    width: usize,
    held: Held,
    known: Mutex<Known>,
}

enum Held {
    Parquet(Files),
    Tensors(HashMap<String, Tensor>),
}

impl VectorFile {
    /// Reads which proteins it has.
    ///
    /// # Errors
    /// Names the file that is missing, of another format, empty, or of vectors of several widths.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).with_context(|| format!("the vectors {}", path.display()))
    }

    fn read(path: &Path) -> Result<Self> {
        let held = if path.extension().is_some_and(|e| e == "safetensors") {
            Held::Tensors(candle_core::safetensors::load(path, &Device::Cpu)?)
        } else {
            let mut files = Files::default();
            let paths = if path.is_dir() { parquet_in(path)? } else { vec![path.to_owned()] };
            for path in paths {
                files.add(&path).with_context(|| format!("reading {}", path.display()))?;
            }
            Held::Parquet(files)
        };
        let width = match &held {
            Held::Parquet(files) => files.kind.context("it holds no protein")?.0,
            Held::Tensors(tensors) => {
                let mut widths = tensors.iter().map(|(name, tensor)| match *tensor.dims() {
                    [_, width] => Ok(width),
                    ref dims => bail!("tensor {name} has the shape {dims:?}, expected [L, E]"),
                });
                let width = widths.next().context("it holds no protein")??;
                for other in widths {
                    let other = other?;
                    ensure!(other == width, "it holds vectors of {other} and of {width} numbers");
                }
                width
            }
        };
        Ok(Self { path: path.to_owned(), width, held, known: Mutex::default() })
    }

    /// Writes a file of vectors in Parquet, `[L, width]` flat of each protein, as they come.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub fn write<'a>(
        path: &Path,
        width: usize,
        numbers: Numbers,
        proteins: impl Iterator<Item = (&'a str, Vec<f32>)>,
    ) -> Result<()> {
        write(path, width, numbers, proteins.map(|(protein, of)| (key(protein), numbers.encode(&of))))
    }

    /// What the tensor of a protein is called in a safetensors file.
    pub fn name(protein: &str) -> String {
        datasets::hex(&key(protein))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Numbers a residue.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The vectors of each of some proteins, `[L, E]` flat.
    ///
    /// # Errors
    /// Names a protein of which it has none, or not one a residue.
    pub fn vectors(&self, proteins: &[&str]) -> Result<Vec<Arc<[f32]>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let all = known.vectors(proteins, |missing| missing.iter().map(|protein| self.of(protein)).collect());
        all.with_context(|| format!("the vectors {}", self.path.display()))
    }

    fn of(&self, protein: &str) -> Result<Vec<f32>> {
        let found = match &self.held {
            Held::Parquet(files) => files.get(protein)?,
            Held::Tensors(tensors) => match tensors.get(&Self::name(protein)) {
                Some(tensor) => {
                    let n = tensor.dim(0)?;
                    ensure!(
                        n == protein.len(),
                        "{n} vectors for the {} residues of {protein}",
                        protein.len()
                    );
                    Some(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
                }
                None => None,
            },
        };
        found.with_context(|| {
            format!(
                "none of the protein {protein} (SHA-256 {})\nhint: add it to the file, or predict with --vectors FILE; where these are profiles, predict with --tables DIR",
                Self::name(protein)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embeddings::Cache;

    /// Python: `hashlib.sha256(b"MKTAY").hexdigest()`.
    const MKTAY: &str = "bc7b36f275e07968c69b6007d7196157c1df7070c8e89b10ea9c642b337a9d04";

    fn tensors(place: &Path, all: &[(&str, Tensor)]) -> Result<VectorFile> {
        let path = place.join("vectors.safetensors");
        let all: HashMap<String, Tensor> =
            all.iter().map(|(p, t)| (VectorFile::name(p), t.clone())).collect();
        candle_core::safetensors::save(&all, &path)?;
        VectorFile::open(&path)
    }

    #[test]
    fn a_protein_is_named_by_the_hash_of_its_letters() {
        assert_eq!(VectorFile::name("MKTAY"), MKTAY);
    }

    #[test]
    fn vectors_are_those_of_the_file() -> Result<()> {
        let place = tempfile::tempdir()?;
        let numbers = [[1f32, 2.0], [3.0, 4.0], [5.0, 6.5]];
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let tensor = Tensor::new(&numbers, &Device::Cpu)?.to_dtype(dtype)?;
            let file =
                tensors(place.path(), &[("MKT", tensor), ("A", Tensor::new(&[[7f32, 8.0]], &Device::Cpu)?)])?;
            assert_eq!(file.width(), 2);
            let said = file.vectors(&["A", "MKT", "A"])?;
            assert_eq!(
                said.iter().map(|v| v.to_vec()).collect::<Vec<_>>(),
                [vec![7.0, 8.0], numbers.as_flattened().to_vec(), vec![7.0, 8.0]]
            );
        }
        Ok(())
    }

    /// What `peptalk embed` leaves is such a file.
    #[test]
    fn embeddings_are_vectors() -> Result<()> {
        let place = tempfile::tempdir()?;
        let encoder = crate::embeddings::tests::encoder();
        let mut cache = Cache::open(place.path(), &encoder, Numbers::F32)?;
        crate::embeddings::fill(&mut cache, &encoder, &["MKTAY", "AL"])?;
        let file = VectorFile::open(cache.folder())?;
        assert_eq!(file.width(), 12);
        let said = crate::embeddings::encode(&encoder, &["AL", "MKTAY"])?;
        assert_eq!(file.vectors(&["AL", "MKTAY"])?.iter().map(|v| v.to_vec()).collect::<Vec<_>>(), said);
        Ok(())
    }

    #[test]
    fn what_was_written_is_read() -> Result<()> {
        let place = tempfile::tempdir()?;
        let path = place.path().join("vectors.parquet");
        let of = |protein: &str| protein.bytes().flat_map(|b| [f32::from(b), 0.5]).collect::<Vec<f32>>();
        let long = "MKTAY".repeat(200_000);
        let proteins = ["AL", &long, "MKT", &long[1..]];
        VectorFile::write(&path, 2, Numbers::F16, proteins.iter().map(|protein| (*protein, of(protein))))?;
        let file = VectorFile::open(&path)?;
        let said = file.vectors(&proteins)?;
        assert!(proteins.iter().zip(said).all(|(protein, said)| *said == of(protein)[..]));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() -> Result<()> {
        let place = tempfile::tempdir()?;
        let of = |dims: (usize, usize)| Tensor::zeros(dims, DType::F32, &Device::Cpu).unwrap();
        let file = tensors(place.path(), &[("MKT", of((3, 2))), ("AL", of((3, 2)))])?;
        let said = |protein: &str| format!("{:#}", file.vectors(&[protein]).unwrap_err());
        assert!(
            said("GG").contains("vectors.safetensors: none of the protein GG (SHA-256 "),
            "{}",
            said("GG")
        );
        assert!(said("AL").contains("3 vectors for the 2 residues of AL"), "{}", said("AL"));
        let refused = |all: &[(&str, Tensor)]| format!("{:#}", tensors(place.path(), all).err().unwrap());
        let other = refused(&[("MKT", of((3, 2))), ("AL", of((2, 4)))]);
        assert!(
            other.contains("of 4 and of 2 numbers") || other.contains("of 2 and of 4 numbers"),
            "{other}"
        );
        assert!(refused(&[]).contains("it holds no protein"));
        assert!(refused(&[("A", of((1, 2)).flatten_all()?)]).contains("expected [L, E]"));
        let missing = format!("{:#}", VectorFile::open(&place.path().join("a.parquet")).err().unwrap());
        assert!(missing.contains("a.parquet"), "{missing}");
        Ok(())
    }
}
