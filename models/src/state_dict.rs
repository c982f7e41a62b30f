//! Weights that `torch.save` wrote: a zip with a pickle in it.
//!
//! A pickle is a program; here it is read as data by candle's reader, which calls nothing, and a file that holds anything
//! but tensors is refused rather than read around.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use candle_core::pickle::{Object, Stack};
use candle_core::{DType, Device, Result, Tensor, bail};
use zip::ZipArchive;

/// Bytes of the largest pickle that is read: it holds names and shapes alone, some 150 bytes of a tensor.
const LARGEST_PICKLE: u64 = 1 << 26;

/// Reads the tensors of a `.pth` or `.pt` file that holds a state dict, by name.
///
/// # Errors
/// When the file is no such zip, is cut short, or holds anything but tensors; names what it holds instead.
pub fn read_state_dict(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let read = || -> Result<BTreeMap<String, Tensor>> {
        let mut zip = ZipArchive::new(BufReader::new(fs_err::File::open(path)?)).map_err(not_a_zip)?;
        let names: Vec<String> =
            (0..zip.len()).filter_map(|at| Some(zip.by_index(at).ok()?.name().ok()?.into_owned())).collect();
        let Some(prefix) = names.iter().find_map(|name| name.strip_suffix("data.pkl")) else {
            bail!("the zip holds no data.pkl")
        };
        let entries = match pickle(&mut zip, &format!("{prefix}data.pkl"))? {
            Object::Dict(entries) => entries,
            other => bail!("not a dictionary of tensors but {}", named(&other)),
        };
        let mut tensors = BTreeMap::new();
        for (key, value) in entries {
            let Object::Unicode(name) = key else { bail!("an entry is named by {}", named(&key)) };
            if name == "_metadata" && is_plain(&value) {
                continue; // torch's versions of its modules
            }
            let stored = match Stored::of(value) {
                Ok(stored) => stored,
                Err(found) => bail!("{name} is no tensor but {}", named(&found)),
            };
            match stored.read(&mut zip, prefix) {
                Ok(tensor) => tensors.insert(name, tensor),
                Err(error) => bail!("{name}: {error}"),
            };
        }
        Ok(tensors)
    };
    match read() {
        Ok(tensors) => Ok(tensors),
        Err(error) => bail!("cannot read the PyTorch file {}: {error}", path.display()),
    }
}

fn not_a_zip(error: zip::result::ZipError) -> candle_core::Error {
    candle_core::Error::Msg(format!("{error}\nhint: files from before PyTorch 1.6 must be saved again"))
}

fn pickle<R: Read + Seek>(zip: &mut ZipArchive<R>, name: &str) -> Result<Object> {
    let file = zip.by_name(name).map_err(candle_core::Error::wrap)?;
    if file.size() > LARGEST_PICKLE {
        bail!("{name} has {} bytes; names and shapes need no more than {LARGEST_PICKLE}", file.size());
    }
    let mut stack = Stack::empty();
    stack.read_loop(&mut BufReader::new(file.take(LARGEST_PICKLE)))?;
    stack.finalize()
}

/// What an object is, for a message.
fn named(object: &Object) -> String {
    match object {
        Object::Class { module_name, class_name } => format!("{module_name}.{class_name}"),
        Object::Build { callable, .. } => named(callable),
        Object::Reduce { callable, .. } => format!("what {} makes", named(callable)),
        Object::Dict(entries) => {
            let keys: Vec<String> = entries.iter().take(5).map(|(key, _)| named(key)).collect();
            format!("a dictionary of {}", keys.join(", "))
        }
        Object::Unicode(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        Object::Tuple(_) => "a tuple".into(),
        Object::List(_) => "a list".into(),
        Object::PersistentLoad(_) => "a storage".into(),
        other => format!("{other:?}"),
    }
}

/// Whether an object consists of names and numbers.
fn is_plain(object: &Object) -> bool {
    match object {
        Object::Dict(entries) => entries.iter().all(|(key, value)| is_plain(key) && is_plain(value)),
        Object::Tuple(items) | Object::List(items) => items.iter().all(is_plain),
        Object::Class { .. } | Object::Reduce { .. } | Object::Build { .. } => false,
        Object::PersistentLoad(_) | Object::Mark => false,
        Object::Int(_) | Object::Long(_) | Object::Float(_) => true,
        Object::Unicode(_) | Object::Bool(_) | Object::None => true,
    }
}

/// Where a tensor lies in the zip.
#[derive(Debug)]
struct Stored {
    dtype: DType,
    /// name of the storage
    key: String,
    /// numbers of the storage
    n_stored: usize,
    offset: usize,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

impl Stored {
    /// Reads `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)`, or the `_rebuild_parameter` of one.
    ///
    /// # Errors
    /// Gives back what is neither.
    fn of(object: Object) -> std::result::Result<Self, Object> {
        let copy = object.clone();
        let (class, args) = object.reduce()?;
        let (module, class) = class.class()?;
        let mut args = args.tuple()?.into_iter();
        match (module.as_str(), class.as_str(), args.next()) {
            ("torch._utils", "_rebuild_parameter", Some(tensor)) => Self::of(tensor),
            ("torch._utils", "_rebuild_tensor_v2", Some(storage)) => {
                let mut storage = storage.persistent_load()?.tuple()?.into_iter().skip(1);
                let mut next = || storage.next().ok_or_else(|| copy.clone());
                let (_, class) = next()?.class()?;
                let (key, _device, n_stored) = (next()?.unicode()?, next()?, next()?.int_or_long()?);
                let mut next = || args.next().ok_or_else(|| copy.clone());
                let size = |n: i64| usize::try_from(n).map_err(|_| copy.clone());
                let (offset, dims, strides) = (next()?.int_or_long()?, next()?.tuple()?, next()?.tuple()?);
                let sizes = |items: Vec<Object>| -> std::result::Result<Vec<usize>, Object> {
                    items.into_iter().map(|n| size(n.int_or_long()?)).collect()
                };
                let dtype = match class.as_str() {
                    "FloatStorage" => DType::F32,
                    "DoubleStorage" => DType::F64,
                    "HalfStorage" => DType::F16,
                    "BFloat16Storage" => DType::BF16,
                    "LongStorage" => DType::I64,
                    "ByteStorage" => DType::U8,
                    _ => return Err(copy),
                };
                let (dims, strides) = (sizes(dims)?, sizes(strides)?);
                match dims.len() == strides.len() {
                    true => Ok(Self {
                        dtype,
                        key,
                        n_stored: size(n_stored)?,
                        offset: size(offset)?,
                        dims,
                        strides,
                    }),
                    false => Err(copy),
                }
            }
            _ => Err(copy),
        }
    }

    fn read<R: Read + Seek>(&self, zip: &mut ZipArchive<R>, prefix: &str) -> Result<Tensor> {
        let name = format!("{prefix}data/{}", self.key);
        let width = self.dtype.size_in_bytes();
        let mut file = zip.by_name(&name).map_err(candle_core::Error::wrap)?;
        // the last number that the strides reach, in checked steps: all of them come from the file
        let last = self.dims.iter().zip(&self.strides).try_fold(self.offset, |at, (&n, &stride)| {
            at.checked_add(n.checked_sub(1)?.checked_mul(stride)?)
        });
        let n = self.dims.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        let (Some(last), Some(n), true) = (last, n, Some(file.size()) == self.bytes()) else {
            bail!(
                "{name} has {} bytes, expected {} of {:?}; shape {:?}",
                file.size(),
                self.n_stored,
                self.dtype,
                self.dims
            )
        };
        if last >= self.n_stored || n > self.n_stored {
            bail!(
                "shape {:?} and strides {:?} reach behind {} numbers",
                self.dims,
                self.strides,
                self.n_stored
            );
        }
        let mut bytes = Vec::with_capacity(self.n_stored * width);
        file.read_to_end(&mut bytes)?;
        if bytes.len() != self.n_stored * width {
            bail!("{name} is cut short");
        }
        let contiguous = candle_core::Shape::from(self.dims.clone()).is_contiguous(&self.strides);
        let numbers = match contiguous {
            true => bytes[self.offset * width..(self.offset + n) * width].to_vec(),
            false => self.gather(&bytes, n, width),
        };
        Tensor::from_raw_buffer(&numbers, self.dtype, &self.dims, &Device::Cpu)
    }

    fn bytes(&self) -> Option<u64> {
        u64::try_from(self.n_stored.checked_mul(self.dtype.size_in_bytes())?).ok()
    }

    /// The numbers of a view in the order of its indices.
    fn gather(&self, bytes: &[u8], n: usize, width: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(n * width);
        let mut index = vec![0; self.dims.len()];
        for _ in 0..n {
            let at =
                self.offset + index.iter().zip(&self.strides).map(|(i, stride)| i * stride).sum::<usize>();
            out.extend_from_slice(&bytes[at * width..(at + 1) * width]);
            for (i, &dim) in index.iter_mut().zip(&self.dims).rev() {
                *i = (*i + 1) % dim;
                if *i > 0 {
                    break;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::parity::difference;
    use crate::weights::read_safetensors;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/torch").join(name)
    }

    #[test]
    fn torch_files_hold_tensors_or_are_refused() -> Result<()> {
        let want = read_safetensors(&golden("views.safetensors"))?;
        let got = read_state_dict(&golden("views.pth"))?;
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
        for (name, tensor) in &got {
            assert_eq!(
                (tensor.dtype(), difference(tensor, &want[name])),
                (want[name].dtype(), 0.0),
                "{name}"
            );
        }
        let error = |file: &str| read_state_dict(&golden(file)).unwrap_err().to_string();
        for (file, say) in [
            ("code.pth", "state is no tensor but what posix.system makes"),
            ("module.pth", "not a dictionary of tensors but what torch.nn.modules.linear.Linear makes"),
            ("training.pth", "epoch is no tensor but Int(3)"),
            ("int32.pth", "index is no tensor but what torch._utils._rebuild_tensor_v2 makes"),
            ("views.safetensors", "hint: files from before PyTorch 1.6"),
        ] {
            assert!(error(file).contains(say), "{file}: {}", error(file));
        }
        // cut short
        let bytes = fs_err::read(golden("views.pth"))?;
        let dir = tempfile::tempdir()?;
        for n in (0..bytes.len()).step_by(97) {
            let path = dir.path().join("cut.pth");
            fs_err::write(&path, &bytes[..n])?;
            assert!(read_state_dict(&path).is_err(), "{n} of {} bytes", bytes.len());
        }
        Ok(())
    }
}
