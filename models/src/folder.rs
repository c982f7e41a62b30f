//! A model on disk: a folder with `config.json` and `model.safetensors`.

use std::path::Path;

use candle_core::{Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::param::Params;
use crate::weights::{Weights, read_safetensors};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// Writes both files.
pub(crate) fn save(folder: &Path, config: &impl Serialize, params: &Params) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    let text = serde_json::to_string_pretty(config).map_err(candle_core::Error::wrap)?;
    fs_err::write(folder.join(CONFIG), text + "\n")?;
    params.save(&folder.join(WEIGHTS))
}

/// Reads both files.
///
/// # Errors
/// Names the file that is missing or is not that of such a model.
pub(crate) fn load<T: DeserializeOwned>(folder: &Path) -> Result<(T, Weights)> {
    let path = folder.join(CONFIG);
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => bail!("{} holds no model: {error}", folder.display()),
    };
    match serde_json::from_str(&text) {
        Ok(config) => Ok((config, Weights::loaded(read_safetensors(&folder.join(WEIGHTS))?))),
        Err(error) => bail!("{} is not the configuration of this kind of model: {error}", path.display()),
    }
}
