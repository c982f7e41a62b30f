//! Numbers of the `esm` package and of transformers, on random tiny models.

use std::path::{Path, PathBuf};

use candle_core::IndexOp;
use serde_json::json;

use super::*;
use crate::llm::Encoder;
use crate::llm::parity::{difference, fixtures, ids};
use crate::weights::read_safetensors;

/// The encoder of a fixture. Its heads are narrower than in any released model, so a config must say so.
fn load(folder: &Path, file: &str) -> Result<Encoder> {
    let copy = tempfile::tempdir()?;
    fs_err::copy(folder.join(file), copy.path().join(file))?;
    fs_err::write(
        copy.path().join("config.json"),
        json!({"d_model": 32, "n_heads": 4, "n_layers": 3}).to_string(),
    )?;
    Encoder::load(copy.path())
}

fn folder(name: &str) -> Option<PathBuf> {
    Some(fixtures()?.join(name))
}

/// The reference's numbers; its booleans are left out, which candle does not read.
fn reference(folder: &Path) -> Result<BTreeMap<String, Tensor>> {
    let bytes = fs_err::read(folder.join("ref.safetensors"))?;
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(candle_core::Error::wrap)?;
    let tensors = candle_core::safetensors::BufferedSafetensors::new(bytes.clone())?;
    let numbers = file.tensors().into_iter().filter(|(_, view)| view.dtype() != safetensors::Dtype::BOOL);
    numbers.map(|(name, _)| Ok((name.clone(), tensors.load(&name, &Device::Cpu)?))).collect()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/esmc")
}

/// Compares the sequences alone and side by side.
fn check(encoder: &Encoder, want: &BTreeMap<String, Tensor>, batch: &str) -> Result<()> {
    let (off, mut worst) = (Tape::off(), 0.0_f32);
    for i in 0..5 {
        let tokens = ids(want, &format!("seq{i}.ids"));
        let n = tokens.dim(0)?;
        let got = encoder.embeddings(&off, &tokens.unsqueeze(0)?, &[n])?;
        worst = worst.max(difference(&got.value().i(0)?, &want[&format!("seq{i}.embeddings")]));
    }
    let got = encoder.embeddings(&off, &ids(want, "batch.ids"), &[12, 22])?;
    for (row, n) in [(0, 12), (1, 22)] {
        worst = worst.max(difference(&got.value().i((row, ..n))?, &want[batch].i((row, ..n))?));
        let alone = encoder.embeddings(&off, &ids(want, &format!("seq{row}.ids")).unsqueeze(0)?, &[n])?;
        assert_eq!(
            difference(&got.value().i((row, ..n))?, &alone.value().i(0)?),
            0.0,
            "a batch gives what its rows give"
        );
    }
    eprintln!("largest difference {worst:e}");
    assert!(worst < 1e-4, "{worst}");
    Ok(())
}

#[test]
fn esm3_gives_the_embeddings_of_the_esm_package() -> Result<()> {
    let Some(folder) = folder("esm3_tiny") else { return Ok(()) };
    let want = reference(&folder)?;
    let geometric = want["seq0.block0.geom_out"].abs()?.max_all()?.to_scalar::<f32>()?;
    assert_eq!(geometric, 0.0, "the geometric attention of a sequence alone");
    for file in ["esm3_sm_open_v1.pth", "model.safetensors"] {
        let encoder = load(&folder, file)?;
        check(&encoder, &want, "batch.embeddings_with_sequence_id")?;
        let Encoder::Esm3(esm3) = &encoder else { panic!("not recognised") };
        let tokens = ids(&want, "seq0.ids").unsqueeze(0)?;
        for (depth, name) in ["encoder_out", "block0.out", "block1.out", "block2.out"].iter().enumerate() {
            let got = esm3.trunk(&Tape::off(), &tokens, &[12], depth)?;
            let apart = difference(&got.value().i(0)?, &want[&format!("seq0.{name}")]);
            assert!(apart < 1e-4, "{name}: {apart}");
        }
        let normed = esm3.norm.forward(&Tape::off(), &esm3.trunk(&Tape::off(), &tokens, &[12], 3)?)?;
        assert!(difference(&normed.value().i(0)?, &want["seq0.norm_out"]) < 1e-4);
    }
    Ok(())
}

#[test]
fn esm_c_gives_the_embeddings_of_the_esm_package() -> Result<()> {
    let Some(folder) = folder("esmc_tiny") else { return Ok(()) };
    let want = reference(&folder)?;
    for file in ["esmc_300m_2024_12_v0.pth", "model.safetensors"] {
        check(&load(&folder, file)?, &want, "batch.embeddings")?;
    }
    Ok(())
}

#[test]
fn esm_c_of_transformers_gives_the_embeddings_of_transformers() -> Result<()> {
    let encoder = Encoder::load(&golden())?;
    let want = read_safetensors(&golden().join("ref.safetensors"))?;
    let got = encoder.embeddings(&Tape::off(), &ids(&want, "ids"), &[9, 6])?;
    for (row, n) in [(0, 9), (1, 6)] {
        let apart = difference(&got.value().i((row, ..n))?, &want["last_hidden_state"].i((row, ..n))?);
        assert!(apart < 1e-5, "{apart}");
    }
    // saved without its head, the encoder has no prefix
    let bare: BTreeMap<String, Tensor> = read_safetensors(&golden().join("model.safetensors"))?
        .into_iter()
        .filter_map(|(name, t)| Some((name.strip_prefix("esmc.")?.to_owned(), t)))
        .collect();
    let config = crate::llm::files::read_json(&golden().join("config.json"))?;
    let again = Encoder::of(bare, Some(&config))?.embeddings(&Tape::off(), &ids(&want, "ids"), &[9, 6])?;
    assert_eq!(difference(again.value(), got.value()), 0.0);
    Ok(())
}

#[test]
fn what_does_not_fit_is_said() -> Result<()> {
    let tensors = read_safetensors(&golden().join("model.safetensors"))?;
    let config = json!({"num_attention_heads": 2});
    let error = |tensors: &BTreeMap<String, Tensor>, config: &Value| {
        Encoder::of(tensors.clone(), Some(config)).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(error(&tensors, &config), "");
    assert!(error(&tensors, &json!({})).contains("n_heads"), "heads are not in the weights");
    let wider = json!({"num_attention_heads": 2, "hidden_size": 13});
    assert!(error(&tensors, &wider).contains("hidden_size is Some(13), the weights have 12"));
    let mut less = tensors.clone();
    less.remove("esmc.layers.1.self_attn.o_proj.weight");
    less.insert("esmc.layers.1.extra".into(), Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?);
    let said = error(&less, &config);
    assert!(said.contains("missing [\"transformer.blocks.1.attn.out_proj.weight\"]"), "{said}");
    assert!(said.contains("unexpected [\"esmc.layers.1.extra\"]"), "{said}");
    less.remove("esmc.layers.1.self_attn.k_proj.weight");
    assert!(error(&less, &config).contains("attn.layernorm_qkv.1.weight is [24, 12]"));
    let other = BTreeMap::from([(
        "bert.weight".to_owned(),
        Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?,
    )]);
    assert!(error(&other, &config).contains("no encoder known here"));
    Ok(())
}

#[test]
fn a_sequence_beyond_the_limit_is_refused_not_cropped() -> Result<()> {
    let encoder = Encoder::load(&golden())?;
    assert_eq!(encoder.max_tokens(), 16);
    let ids = Tensor::zeros((1, 17), candle_core::DType::U32, &Device::Cpu)?;
    let error = encoder.embeddings(&Tape::off(), &ids, &[17]).unwrap_err().to_string();
    assert!(error.contains("made for 16 tokens") && error.contains("hint:"), "{error}");
    Ok(())
}

#[test]
fn a_folder_says_which_file_it_means() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let error = |path: &Path| Encoder::load(path).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error(dir.path()).contains("holds no encoder"));
    fs_err::write(dir.path().join("a.pth"), "")?;
    assert!(error(dir.path()).contains("cannot read the PyTorch file"));
    fs_err::write(dir.path().join("b.pth"), "")?;
    assert!(error(dir.path()).contains("hint: name one"));
    Ok(())
}
