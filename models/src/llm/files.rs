//! JSON and safetensors files as the Hugging Face libraries write them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::{Error, Result, Tensor, bail};
use serde_json::Value;

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
    let mut tensors = BTreeMap::new();
    for file in files {
        tensors.extend(read_safetensors(&folder.join(file))?);
    }
    Ok(tensors)
}

/// With the metadata `format: pt`, without which transformers and PEFT refuse a file.
pub(crate) fn write_safetensors(path: &Path, tensors: BTreeMap<String, Tensor>) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    Ok(safetensors::serialize_to_file(tensors, Some(metadata), path)?)
}
