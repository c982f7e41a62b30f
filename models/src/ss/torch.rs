//! Checkpoints of the same network that PyTorch or PyTorch Lightning wrote.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use candle_core::pickle::read_all_with_key;
use candle_core::{DType, Device, Result, Tensor, bail};

use super::{BiLstmCrf, BiLstmCrfConfig};
use crate::weights::{Weights, read_safetensors};

/// Beginnings of names, theirs and ours. Lightning's `model.` goes before; what is not listed keeps its name.
///
/// The network is `embedding` → `lstm` (one layer, both directions) → `proj` (linear, layer norm, dropout) → a linear Q8
/// head before a `crf` with the names of pytorch-crf, and a linear Q3 head.
pub const NAMES: [(&str, &str); 9] = [
    ("embed.", "embedding."),
    ("bilstm.", "lstm."),
    ("rnn.", "lstm."),
    ("proj.0.", "projection."),
    ("proj.1.", "norm."),
    ("q8_head.", "q8."),
    ("fc_q8.", "q8."),
    ("q3_head.", "q3."),
    ("fc_q3.", "q3."),
];

/// What a checkpoint does not say of itself.
#[derive(Debug, Clone)]
pub struct Import<'a> {
    /// The letter of each row of the embedding; `-` for rows that stand for no residue.
    pub alphabet: &'a str,
    /// Letters of our alphabet by token id.
    pub letters: &'a [u8],
    /// More renamings of beginnings of names, theirs and ours; they come before [`NAMES`].
    pub names: &'a [(String, String)],
    /// Whether it was trained on sequences from C to N.
    pub reversed: bool,
}

impl BiLstmCrf {
    /// Reads a `.ckpt`, `.pth` or `.pt` file, or a safetensors file, of the network that [`NAMES`] describes. Sizes are
    /// read off the weights.
    ///
    /// # Errors
    /// When the file cannot be read; when the alphabet lacks a residue or fits no embedding; lists every missing and
    /// unexpected name.
    pub fn import(path: &Path, import: &Import<'_>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (name, tensor) in read(path)? {
            let plain = name.strip_prefix("model.").unwrap_or(&name);
            let own = import.names.iter().map(|(theirs, ours)| (theirs.as_str(), ours.as_str()));
            let renamed = own
                .chain(NAMES)
                .find_map(|(theirs, ours)| Some(format!("{ours}{}", plain.strip_prefix(theirs)?)));
            tensors.insert(renamed.unwrap_or_else(|| plain.to_owned()), tensor.to_dtype(DType::F32)?);
        }
        let size = |name: &str, dim: usize| match tensors.get(name).map(|t| t.dim(dim)) {
            Some(Ok(size)) => Ok(size),
            _ => bail!(
                "{}: no weight {name} after renaming; there are {:?}\nhint: --rename THEIRS=OURS",
                path.display(),
                tensors.keys().collect::<Vec<_>>()
            ),
        };
        let config = BiLstmCrfConfig {
            n_tokens: 2 + import.letters.len(),
            embed: size("embedding.weight", 1)?,
            conv_layers: 0,
            kernel: 1,
            features: 0,
            hidden: size("lstm.weight_hh_l0", 1)?,
            projection: size("projection.weight", 0)?,
            dropout: 0.3,
            gelu: false,
            min_runs: [1; 8],
            forbidden: vec![],
            reversed: import.reversed,
        };
        let rows = embedding(&tensors["embedding.weight"], import)?;
        tensors.insert("embedding.weight".to_owned(), rows);
        Self::new(config, Weights::loaded(tensors))
    }
}

/// The tensors of a file by name. Lightning keeps them under `state_dict`.
fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut magic = vec![];
    fs_err::File::open(path)?.take(2).read_to_end(&mut magic)?;
    if magic != b"PK" {
        return read_safetensors(path);
    }
    let found = match read_all_with_key(path, Some("state_dict")) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => read_all_with_key(path, None),
    };
    match found {
        Ok(found) => Ok(found.into_iter().collect()),
        Err(error) => bail!("cannot read the PyTorch file {}: {error}", path.display()),
    }
}

/// Their embedding in the order of our tokens. Padding and masked residues are zeros; a rare letter that they lack takes
/// their X.
fn embedding(theirs: &Tensor, import: &Import<'_>) -> Result<Tensor> {
    let rows: Vec<Vec<f32>> = theirs.to_vec2()?;
    let alphabet: Vec<u8> = import.alphabet.bytes().collect();
    if alphabet.len() != rows.len() {
        bail!("the embedding has {} rows, --alphabet {} letters", rows.len(), alphabet.len());
    }
    let place = |letter: u8| alphabet.iter().position(|&l| l.eq_ignore_ascii_case(&letter));
    let mut ours = vec![vec![0.0; theirs.dim(1)?]; 2];
    for (at, &letter) in import.letters.iter().enumerate() {
        match place(letter).or_else(|| place(b'X').filter(|_| at >= 20)) {
            Some(row) => ours.push(rows[row].clone()),
            None if at >= 20 => ours.push(vec![0.0; theirs.dim(1)?]),
            None => bail!("--alphabet lacks the residue {}", letter as char),
        }
    }
    Tensor::new(ours, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;
    use candle_core::IndexOp;
    use serde_json::Value;

    const LETTERS: &[u8] = b"ACDEFGHIKLMNPQRSTVWYXBZUO";
    const ALPHABET: &str = "-ACDEFGHIKLMNPQRSTVWYX";

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
    }

    fn import(names: &[(String, String)]) -> Import<'_> {
        Import { alphabet: ALPHABET, letters: LETTERS, names, reversed: false }
    }

    #[test]
    fn a_lightning_checkpoint_says_what_it_says_in_pytorch() {
        let model = BiLstmCrf::import(&golden("lightning.ckpt"), &import(&[])).unwrap();
        let text = fs_err::read_to_string(golden("lightning.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let sequence = golden["sequence"].as_str().unwrap();
        let ids: Vec<u32> =
            sequence.bytes().map(|l| 2 + LETTERS.iter().position(|&x| x == l).unwrap() as u32).collect();
        let n = ids.len();
        let tokens = Tensor::from_vec(ids, (1, n), &Device::Cpu).unwrap();
        let said = model.forward(&Tape::off(), &tokens, None, &[n], None).unwrap();
        for (name, got) in [("q8", said.q8.value()), ("q3", said.q3.value())] {
            let want: Vec<Vec<f32>> = serde_json::from_value(golden[name].clone()).unwrap();
            let difference = (got.i(0).unwrap() - Tensor::new(want, &Device::Cpu).unwrap()).unwrap();
            let worst = difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-5, "{name}: {worst}");
        }
        let path: Vec<u8> = serde_json::from_value(golden["path"].clone()).unwrap();
        assert_eq!(model.viterbi(said.q8.value(), &[n]).unwrap(), [path]);
    }

    #[test]
    fn what_does_not_fit_is_listed() {
        let path = golden("lightning.ckpt");
        let wrong = [("fc_q3.".to_owned(), "other.".to_owned())];
        let error = BiLstmCrf::import(&path, &import(&wrong)).unwrap_err().to_string();
        assert!(error.contains("missing [\"q3.weight\", \"q3.bias\"]"), "{error}");
        assert!(error.contains("unexpected [\"other.bias\", \"other.weight\"]"), "{error}");
        let short = Import { alphabet: "-AC", ..import(&[]) };
        let error = BiLstmCrf::import(&path, &short).unwrap_err().to_string();
        assert!(error.contains("22 rows, --alphabet 3 letters"), "{error}");
        let lost = [("embedding.".to_owned(), "e.".to_owned())];
        let error = BiLstmCrf::import(&path, &import(&lost)).unwrap_err().to_string();
        assert!(error.contains("no weight embedding.weight") && error.contains("--rename"), "{error}");
    }
}
