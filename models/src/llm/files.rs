//! JSON and safetensors files as the Hugging Face libraries write them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::{Error, Result, Tensor, bail};
use serde_json::{Value, json};

use crate::weights::read_safetensors;

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let text = fs_err::read_to_string(path)?;
    match serde_json::from_str(&text) {
        Ok(value) => Ok(value),
        Err(error) => bail!("{} is not JSON: {error}", path.display()),
    }
}

pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(Error::wrap)?;
    Ok(fs_err::write(path, text + "\n")?)
}

/// The tensors of a model folder: of `model.safetensors`, or of all shards in `model.safetensors.index.json`.
pub(crate) fn read_model(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let index = folder.join("model.safetensors.index.json");
    if !index.exists() {
        return read_safetensors(&folder.join("model.safetensors"));
    }
    let index = read_json(&index)?;
    let Some(map) = index["weight_map"].as_object() else { bail!("{}: no weight_map", folder.display()) };
    let files: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    if let Some(file) = files.iter().find(|file| file.contains(['/', '\\'])) {
        bail!("{}: the index names {file:?}, which does not lie in the folder", folder.display());
    }
    let absent: Vec<&&str> = files.iter().filter(|file| !folder.join(file).exists()).collect();
    if !absent.is_empty() {
        bail!("{} lacks {absent:?}, which its index names\nhint: download the model again", folder.display());
    }
    let mut tensors = BTreeMap::new();
    for file in files {
        for (name, tensor) in read_safetensors(&folder.join(file))? {
            if tensors.insert(name.clone(), tensor).is_some() {
                bail!("{}: {name} is in two files", folder.display());
            }
        }
    }
    let lost: Vec<&String> = map.keys().filter(|name| !tensors.contains_key(*name)).collect();
    if !lost.is_empty() {
        bail!("{}: the index names {lost:?}, which no file holds", folder.display());
    }
    Ok(tensors)
}

/// Bytes of one file of a model at most, unless a single tensor has more: as much as transformers 4 puts into one.
const SHARD: usize = 5_000_000_000;

/// Writes `model.safetensors`, or, where that would be too large, numbered files and `model.safetensors.index.json`.
pub(crate) fn write_model(folder: &Path, tensors: BTreeMap<String, Tensor>) -> Result<()> {
    write_shards(folder, tensors, SHARD)
}

pub(super) fn write_shards(folder: &Path, tensors: BTreeMap<String, Tensor>, most: usize) -> Result<()> {
    let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
    let total: usize = tensors.values().map(bytes).sum();
    let index = folder.join("model.safetensors.index.json");
    if total <= most {
        if index.exists() {
            fs_err::remove_file(&index)?;
        }
        return write_safetensors(&folder.join("model.safetensors"), tensors);
    }
    let mut shards = vec![BTreeMap::new()];
    let mut taken = 0;
    for (name, tensor) in tensors {
        if taken > 0 && taken + bytes(&tensor) > most {
            shards.push(BTreeMap::new());
            taken = 0;
        }
        taken += bytes(&tensor);
        shards.last_mut().expect("never empty").insert(name, tensor);
    }
    let n = shards.len();
    let mut map = serde_json::Map::new();
    for (at, shard) in shards.into_iter().enumerate() {
        let file = format!("model-{:05}-of-{n:05}.safetensors", at + 1);
        map.extend(shard.keys().map(|name| (name.clone(), json!(file))));
        write_safetensors(&folder.join(file), shard)?;
    }
    write_json(&index, &json!({ "metadata": { "total_size": total }, "weight_map": map }))
}

/// With the metadata `format: pt`, without which transformers and PEFT refuse a file.
pub(crate) fn write_safetensors(path: &Path, tensors: BTreeMap<String, Tensor>) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    Ok(safetensors::serialize_to_file(tensors, Some(metadata), path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn tensors(names: &[&str]) -> BTreeMap<String, Tensor> {
        names.iter().map(|n| (n.to_string(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap())).collect()
    }

    #[test]
    fn shards_are_whole_or_refused() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        write_safetensors(&path("a.safetensors"), tensors(&["x", "y"]))?;
        write_safetensors(&path("b.safetensors"), tensors(&["z"]))?;
        let read = |map: Value| {
            write_json(&path("model.safetensors.index.json"), &json!({"weight_map": map}))?;
            read_model(dir.path())
        };
        let whole = json!({"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"});
        assert_eq!(read(whole.clone())?.keys().collect::<Vec<_>>(), ["x", "y", "z"]);
        let changed = |key: &str, value: &str| {
            let mut map = whole.clone();
            map[key] = json!(value);
            read(map).unwrap_err().to_string()
        };
        assert!(changed("w", "c.safetensors").contains("lacks [\"c.safetensors\"]"));
        assert!(changed("w", "b.safetensors").contains("names [\"w\"], which no file holds"));
        assert!(changed("w", "../b.safetensors").contains("does not lie in the folder"));
        write_safetensors(&path("b.safetensors"), tensors(&["y", "z"]))?;
        assert!(read(whole).unwrap_err().to_string().contains("y is in two files"));
        Ok(())
    }

    #[test]
    fn a_header_that_lies_is_refused_before_memory_is_taken() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("bomb.safetensors");
        let file = |length: u64, header: &str, data: usize| {
            [&length.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
        };
        let tensor = |shape: &str, end: u64| {
            let header = format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#);
            file(header.len() as u64, &header, 8)
        };
        fs_err::write(&path, tensor("[2]", 8))?;
        assert_eq!(read_safetensors(&path)?["x"].dims(), [2]);
        for (what, bytes) in [
            ("a header of 16 EiB", file(u64::MAX, "{}", 0)),
            ("a header behind the end", file(1 << 40, "{}", 0)),
            ("a tensor of 4 EiB", tensor("[1152921504606846976]", 8)),
            ("a shape that overflows", tensor("[4294967296,4294967296,4294967296]", 8)),
            ("data behind the end", tensor("[1000000]", 4_000_000)),
            ("offsets that do not fit the shape", tensor("[1]", 8)),
            ("no JSON", file(4, "{{{{", 0)),
            ("nothing", vec![]),
        ] {
            fs_err::write(&path, bytes)?;
            let error = read_safetensors(&path).expect_err(what).to_string();
            assert!(
                error.contains("cannot read weights") && error.contains("bomb.safetensors"),
                "{what}: {error}"
            );
        }
        Ok(())
    }
}
