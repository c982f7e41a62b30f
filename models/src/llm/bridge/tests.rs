//! Numbers of torch and of flamingo-pytorch (`tests/golden/make_bridges.py`).

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::llm::parity::difference;
use crate::ops::{KeyMask, Sees};
use crate::tape::Gradients;

/// What the script wrote of one kind.
struct Golden(BTreeMap<String, Tensor>);

impl Golden {
    fn load(kind: &str) -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/bridges.safetensors");
        let all = read_safetensors(&path)?.into_iter();
        Ok(Self(
            all.filter_map(|(name, t)| Some((name.strip_prefix(&format!("{kind}."))?.to_owned(), t)))
                .collect(),
        ))
    }

    fn weights(&self) -> BTreeMap<String, Tensor> {
        let weights = self.0.iter().filter_map(|(name, t)| Some((name.strip_prefix("weight.")?, t)));
        weights.map(|(name, t)| (name.to_owned(), t.clone())).collect()
    }

    /// Compares the output, then every gradient of Σ output · cos(0, 1, 2, …).
    fn check(&self, tape: Tape, output: &Var) -> Result<()> {
        let apart = difference(output.value(), &self.0["output"]);
        assert!(apart < 1e-5, "{apart}");
        let cosines: Vec<f32> = (0..output.value().elem_count()).map(|i| (i as f32).cos()).collect();
        let seed = Tensor::from_vec(cosines, output.value().shape(), &Device::Cpu)?;
        let Gradients { params, .. } = tape.backward_from(&[(output, seed)])?;
        let wanted = self.0.iter().filter_map(|(name, t)| Some((name.strip_prefix("grad.")?, t)));
        let wanted: BTreeMap<&str, &Tensor> = wanted.collect();
        assert_eq!(
            params.keys().map(String::as_str).collect::<Vec<_>>(),
            wanted.keys().copied().collect::<Vec<_>>()
        );
        for (name, grad) in &params {
            let apart = difference(grad, wanted[name.as_str()]);
            assert!(apart < 1e-4, "{name}: {apart}");
        }
        Ok(())
    }
}

const ENDS: Ends = Ends { encoder_size: 10, llm_size: 7, boundary_ids: [0, 1], placeholder_id: 2 };

fn flamingo(n_latents: usize) -> FlamingoConfig {
    FlamingoConfig {
        n_latents,
        n_layers: 2,
        n_heads: 3,
        head_dim: 4,
        every: 1,
        n_blocks: 1,
        max_residues: 8,
        site: false,
    }
}

#[test]
fn a_perceiver_is_torchs_decoder_layers() -> Result<()> {
    let golden = Golden::load("perceiver")?;
    let weights = Weights::loaded(golden.weights());
    let config =
        PerceiverConfig { n_latents: 4, n_layers: 2, width: 12, n_heads: 3, ffn_size: 20, site: false };
    let perceiver = perceiver::Perceiver::new(config, &ENDS, &weights)?;
    weights.finish()?;
    let tape = Tape::on();
    let residues = Var::constant(golden.0["residues"].clone());
    let output = perceiver.forward(&tape, &residues, &[9, 5, 1], &[None; 3])?;
    golden.check(tape, &output)
}

#[test]
fn a_flamingo_resampler_is_that_of_flamingo_pytorch() -> Result<()> {
    let golden = Golden::load("resampler")?;
    // the reading layers are no part of it
    let weights = Weights::random(crate::llm::behaviour::named);
    let token = weights.get((1, 7), "token", Init::Const(0.0))?;
    let model = flamingo::Flamingo::new(flamingo(5), &ENDS, &weights, token)?;
    let params = weights.finish()?;
    for (name, tensor) in golden.weights() {
        params.get(&name).unwrap_or_else(|| panic!("no weight {name}")).assign(&tensor)?;
    }
    let vectors = golden.0["residues"].clone();
    let residues = Residues { vectors, lengths: vec![7, 7], sites: vec![None; 2], rows: vec![0, 1] };
    let tape = Tape::on();
    let output = model.resample(&tape, &residues)?;
    golden.check(tape, &output)?;
    let vectors = Tensor::zeros((1, 9, 10), candle_core::DType::F32, &Device::Cpu)?;
    let long = Residues { vectors, lengths: vec![9], sites: vec![None], rows: vec![0] };
    let error = model.resample(&Tape::off(), &long).unwrap_err().to_string();
    assert!(error.contains("a protein of 9 residues; it was made for 8"), "{error}");
    Ok(())
}

#[test]
fn a_gated_block_is_that_of_flamingo_pytorch() -> Result<()> {
    let golden = Golden::load("gated")?;
    let weights = Weights::loaded(golden.weights());
    let block = flamingo::GatedBlock::new(&weights, 10, 10, &flamingo(4))?;
    weights.finish()?;
    let tape = Tape::on();
    let (x, media) = (Var::constant(golden.0["x"].clone()), Var::constant(golden.0["media"].clone()));
    let kv = block.keys_and_values(&tape, &media)?;
    let first = (0..9).map(|t| if t < 5 { 4 } else { 8 }).collect();
    let output = block.forward(&tape, &x, &kv, &KeyMask { lengths: vec![8], sees: Sees::First(first) })?;
    golden.check(tape, &output)
}

#[test]
fn a_bridge_file_from_before_there_were_readers_is_pooling() -> Result<()> {
    let old = json!({
        "n_queries": 3, "mean": true, "n_heads": 2, "encoder_size": 10, "hidden_size": 5, "llm_size": 7,
        "boundary_ids": [0, 1], "placeholder_id": 2
    });
    let pool = PoolConfig { n_queries: 3, mean: true, site: false, n_heads: 2, hidden_size: 5 };
    let config = Config { ends: ENDS, reader: Reader::Pool(pool) };
    assert_eq!(Config::from_json(old)?, config);
    let new = serde_json::to_value(&config).map_err(candle_core::Error::wrap)?;
    assert_eq!(Config::from_json(new)?, config);
    assert!(Config::from_json(json!({"reader": {"kind": "mlp"}})).is_err());
    Ok(())
}
