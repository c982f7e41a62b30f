//! Is a model a chat model? What its files say, and where they disagree, what it says itself.
//!
//! Names do not tell: `Qwen3-8B` is a chat model and `Qwen3-8B-Base` is not, `Qwen2.5-7B` is none and ships a chat template.
//! An adapter on a model that was never taught to stop often never learns it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use datasets::chat::{Chat, Message};
use datasets::tokenizer::{TURN_END, Tokenizer};
use models::Tape;
use models::llm::Qwen3;
use serde_json::Value;

/// Mean probability of the end of the turn after a complete answer from which on a model counts as a chat model.
const STOPS: f64 = 0.1;

/// Questions with complete answers: the next token should end the turn.
pub(super) const PROBES: [(&str, &str); 3] = [
    ("What is the capital of France?", "The capital of France is Paris."),
    (
        "How many letters does the protein alphabet have?",
        "Twenty standard amino acids are written with twenty letters.",
    ),
    ("Is water wet? Answer with yes or no.", "Yes"),
];

/// What one file says of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    /// Whether it says that the model is a chat model.
    pub chat: bool,
    /// What it is, in words.
    pub text: String,
}

/// Refuses a base model, which has not learnt to end a turn, for tuning with chats.
///
/// # Errors
/// When the files say that it is one, or disagree and the model does not stop after complete answers; says what speaks for
/// it, and the way on. When a file is missing or broken.
pub fn refuse_base(folder: &Path) -> Result<()> {
    let judge = || -> Result<()> {
        let tokenizer = Tokenizer::load(folder)?;
        let mut signals = signals(folder, tokenizer.special().turn_end)?;
        let disagree = signals.iter().any(|s| s.chat) && signals.iter().any(|s| !s.chat);
        if disagree {
            let stops = stop_probability(&Qwen3::load(folder)?, &Chat::load(folder)?, &tokenizer)?;
            let text = format!("after a complete answer it ends the turn with probability {stops:.2}");
            signals.push(Signal { chat: stops >= STOPS, text });
        }
        let last = signals.last().context("no signal")?;
        tracing::info!("{} model: {}", if last.chat { "chat" } else { "base" }, said(&signals));
        ensure!(
            last.chat,
            "this is a base model that has not learnt to end a turn: {}\nhint: take the tuned model of the family (for Qwen3 \
             the one without -Base), or set allow_base = true and check that its answers end",
            said(&signals)
        );
        Ok(())
    };
    judge().with_context(|| format!("the model {}", folder.display()))
}

fn said(signals: &[Signal]) -> String {
    signals.iter().map(|s| s.text.as_str()).collect::<Vec<_>>().join("; ")
}

/// What the files of a model folder say.
///
/// # Errors
/// When `config.json` is missing or one of them is no JSON.
pub fn signals(folder: &Path, turn_end: u32) -> Result<Vec<Signal>> {
    let read = |name: &str| -> Result<Option<Value>> {
        let path = folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs_err::read_to_string(&path)?;
        Ok(Some(serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?))
    };
    let config = read("config.json")?.context("there is no config.json")?;
    let ends_turns = |value: &Value| match value {
        Value::Array(ids) => ids.contains(&turn_end.into()),
        one => one.as_u64() == Some(u64::from(turn_end)),
    };
    let mut out = vec![];
    if config["model_type"] == "qwen3" && config["vocab_size"] == 151_936 {
        let context = config["max_position_embeddings"].as_u64();
        if let Some(n @ (32_768 | 40_960 | 262_144)) = context {
            out.push(Signal {
                chat: n != 32_768,
                text: format!(
                    "its context of {n} tokens is that of a Qwen3 {} model",
                    if n == 32_768 { "base" } else { "chat" }
                ),
            });
        }
    }
    if let Some(generation) = read("generation_config.json")? {
        let eos = ends_turns(&generation["eos_token_id"]);
        let samples =
            ["do_sample", "temperature", "top_p", "top_k"].iter().any(|key| !generation[*key].is_null());
        out.push(Signal {
            chat: eos,
            text: format!(
                "generation_config.json {} {TURN_END} among its eos_token_id and has {} settings for sampling",
                if eos { "has" } else { "does not have" },
                if samples { "" } else { "no" },
            )
            .replace("  ", " "),
        });
    }
    let eos = &config["eos_token_id"];
    out.push(Signal {
        chat: ends_turns(eos),
        text: format!("config.json has eos_token_id {eos}, {TURN_END} is {turn_end}"),
    });
    Ok(out)
}

/// Mean probability of the end of the turn where it belongs.
fn stop_probability(model: &Qwen3, chat: &Chat, tokenizer: &Tokenizer) -> Result<f64> {
    let off = Tape::off();
    let mut sum = 0.0;
    for (question, answer) in PROBES {
        let encoded = chat.encode(tokenizer, &[Message::user(question)], answer, 1)?;
        let n = encoded.ids.len() - 1; // the last one is the end of the turn
        let ids = Tensor::new(&encoded.ids[..n], &candle_core::Device::Cpu)?.unsqueeze(0)?;
        let hidden = model.hidden(&off, &model.embed(&off, &ids)?, &[n])?;
        let scores = model.token_logprobs(&off, &hidden, &[n - 1], &encoded.ids[n..], 1.0)?;
        sum += f64::from(scores.logprobs.value().to_vec1::<f32>()?[0]).exp();
    }
    Ok(sum / PROBES.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use datasets::chat::CHATML;
    use models::Weights;
    use models::llm::qwen3::Config;
    use serde_json::json;

    /// A model folder; `stops` makes it say the end of the turn whatever stands before.
    fn model(folder: &Path, stops: bool) -> u32 {
        let words = ["What is the capital of France?", "Yes", "is water wet"];
        let tokenizer = Tokenizer::train(words.iter().cycle().take(60), 300).unwrap();
        let turn_end = tokenizer.special().turn_end;
        let config = Config {
            vocab_size: 304,
            hidden_size: 8,
            intermediate_size: 8,
            num_hidden_layers: 1,
            num_attention_heads: 1,
            num_key_value_heads: 1,
            head_dim: 8,
            max_position_embeddings: 128,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            tie_word_embeddings: false,
            eos_token_ids: vec![turn_end],
        };
        let model = Qwen3::new(config, Weights::random(|name| datasets::rng(1, name, 0))).unwrap();
        for param in model.params().iter().filter(|_| stops) {
            let fill = |x: &mut [f32]| match &**param.name() {
                "model.norm.weight" => x.fill(1.0),
                "lm_head.weight" => x[turn_end as usize * 8..][..8].fill(50.0),
                // the same positive vector for every token
                "model.embed_tokens.weight" => x.fill(1.0),
                _ => x.fill(0.0),
            };
            param.update(fill).unwrap();
        }
        model.save(folder).unwrap();
        tokenizer.save(folder, CHATML).unwrap();
        turn_end
    }

    fn change(folder: &Path, file: &str, key: &str, value: Value) {
        let path = folder.join(file);
        let mut json: Value = fs_err::read(&path).map_or(json!({}), |b| serde_json::from_slice(&b).unwrap());
        json[key] = value;
        fs_err::write(path, json.to_string()).unwrap();
    }

    fn refused(folder: &Path) -> String {
        refuse_base(folder).err().map(|e| format!("{e:#}")).unwrap_or_default()
    }

    #[test]
    fn files_that_agree_decide() {
        let dir = tempfile::tempdir().unwrap();
        let turn_end = model(dir.path(), false);
        assert_eq!(refused(dir.path()), "");
        change(dir.path(), "generation_config.json", "eos_token_id", json!([turn_end, 0]));
        assert_eq!(refused(dir.path()), "");
        change(dir.path(), "generation_config.json", "eos_token_id", json!(0));
        change(dir.path(), "config.json", "eos_token_id", json!(0));
        let error = refused(dir.path());
        assert!(
            error.contains("config.json has eos_token_id 0") && error.contains("without -Base"),
            "{error}"
        );
        assert!(error.contains("has no settings for sampling") && error.contains("allow_base"), "{error}");
    }

    #[test]
    fn where_files_disagree_the_model_is_asked() {
        for stops in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            model(dir.path(), stops);
            // a base model's files in which only config.json was edited
            change(dir.path(), "generation_config.json", "eos_token_id", json!(0));
            let error = refused(dir.path());
            assert_eq!(error.is_empty(), stops, "{error}");
            assert!(stops || error.contains("ends the turn with probability 0.0"), "{error}");
        }
    }

    #[test]
    fn qwen3_says_by_its_context_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        for (key, value) in [
            ("model_type", json!("qwen3")),
            ("vocab_size", json!(151_936)),
            ("eos_token_id", json!(151_643)),
            ("max_position_embeddings", json!(32_768)),
        ] {
            change(dir.path(), "config.json", key, value);
        }
        let chat =
            |folder: &Path| signals(folder, 151_645).unwrap().iter().map(|s| s.chat).collect::<Vec<_>>();
        assert_eq!(chat(dir.path()), [false, false], "Qwen3-8B-Base");
        change(dir.path(), "config.json", "max_position_embeddings", json!(40_960));
        change(dir.path(), "config.json", "eos_token_id", json!(151_645));
        change(dir.path(), "generation_config.json", "eos_token_id", json!([151_645, 151_643]));
        assert_eq!(chat(dir.path()), [true, true, true], "Qwen3-8B");
        change(dir.path(), "config.json", "max_position_embeddings", json!(262_144));
        assert_eq!(chat(dir.path()), [true, true, true], "Qwen3-4B-Instruct-2507");
    }
}
