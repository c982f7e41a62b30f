//! A policy as a model of its own: the adapter merged into the weights, in the layout of the Hugging Face hub, with a card.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use datasets::chat::Message;
use models::llm::LogitDifference;
use serde_json::{Value, json};

use super::Policy;
use super::base::PROBES;

/// What a card says beyond the model itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// Title of the card.
    pub name: String,
    /// Settings of the training run, TOML.
    pub settings: Option<String>,
    /// Folder of the tables that it was trained on.
    pub tables: Option<PathBuf>,
    /// Its `results.json` of `peptalk eval`.
    pub results: Option<PathBuf>,
}

/// Writes the merged model, tokenizer, template, bridge and card to `out`, a folder that is made. The merge is done in f32;
/// what it changes in the logits of a few chats is measured, printed on the card, and given back.
///
/// # Errors
/// When the merge changes logits by more than rounding does, and on I/O, by file.
pub fn export(policy: &Policy, about: &About, out: &Path) -> Result<LogitDifference> {
    let probes = PROBES.iter().map(|(question, answer)| policy.chat_ids(&[Message::user(*question)], answer));
    let probes = probes.collect::<Result<Vec<_>>>()?;
    let (merged, change) = policy.merged(&probes)?;
    ensure!(
        change.largest < 1e-2 && change.mean.is_finite(),
        "merging changed a logit by {}: the adapter's numbers are too large for f32",
        change.largest
    );
    merged.save(out)?;
    let eos = &merged.model().config().eos_token_ids;
    let generation = json!({ "eos_token_id": eos, "pad_token_id": policy.tokenizer().special().end_of_text });
    fs_err::write(out.join("generation_config.json"), format!("{generation:#}\n"))?;
    fs_err::write(out.join("README.md"), card(policy, about, change)?)?;
    Ok(change)
}

fn card(policy: &Policy, about: &About, change: LogitDifference) -> Result<String> {
    let config = policy.model().config();
    let mut text = String::new();
    let folder = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let base = policy.base().and_then(|base| base.hub.clone().or_else(|| folder(&base.path)));
    let base = base.unwrap_or_else(|| "unknown".into());
    writeln!(
        text,
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- protein\n- peptalk\n---\n"
    )?;
    writeln!(text, "# {}\n", about.name)?;
    writeln!(
        text,
        "A Qwen3 decoder ({} layers of width {}, {} rows of vocabulary) that answers questions about proteins. Its adapter is \
         merged into the weights in f32; on {} chats that changed a logit by {:.1e} at most and {:.1e} on average.\n",
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
        PROBES.len(),
        change.largest,
        change.mean,
    )?;
    writeln!(
        text,
        "Base model: `{base}`. Licences of the base model and of the data hold for this model too.\n"
    )?;
    writeln!(text, "## Proteins\n\n{}\n", policy.how_proteins_enter())?;
    writeln!(text, "```\npeptalk chat --model . --protein MKTAYIAKQR \"What does this protein do?\"\n```\n")?;
    if let Some(tables) = &about.tables {
        data(&mut text, tables).with_context(|| format!("the tables {}", tables.display()))?;
    }
    if let Some(results) = &about.results {
        scores(&mut text, results).with_context(|| format!("the results {}", results.display()))?;
    }
    if let Some(settings) = &about.settings {
        writeln!(text, "## Training\n\n```toml\n{}\n```", settings.trim_end())?;
    }
    Ok(text)
}

fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&fs_err::read_to_string(path)?)?)
}

/// Sources, their licences and what was kept of them, from a tables folder's `manifest.json`.
fn data(text: &mut String, tables: &Path) -> Result<()> {
    let manifest = read(&tables.join("manifest.json"))?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    writeln!(
        text,
        "## Data\n\n| source | file | SHA-256 | rows | kept | licence |\n|---|---|---|---|---|---|"
    )?;
    for file in list(&manifest["files"]) {
        let sources = list(&manifest["config"]["source"]);
        let source = sources.iter().find(|source| source["name"] == file["source"]);
        writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            plain(&file["source"]),
            plain(&file["file"]),
            plain(&file["sha256"]).get(..12).unwrap_or_default(),
            file["rows_in"],
            file["kept"],
            source.map_or(String::new(), |source| plain(&source["licence"])),
        )?;
    }
    let parts = manifest["proteins_by_split"].as_object();
    let parts: Vec<String> = parts.into_iter().flatten().map(|(part, n)| format!("{n} {part}")).collect();
    writeln!(
        text,
        "\nProteins: {}, in {} homology clusters; no cluster lies in two parts.\n",
        parts.join(", "),
        manifest["n_clusters"]
    )?;
    Ok(())
}

/// Metrics with standard errors, from a `results.json`.
fn scores(text: &mut String, path: &Path) -> Result<()> {
    let results = read(path)?;
    let tasks = results["results"].as_object().context("there is no object \"results\"")?;
    writeln!(text, "## Results\n\n| task | metric | value | standard error |\n|---|---|---|---|")?;
    for (task, metrics) in tasks {
        for (name, value) in metrics.as_object().into_iter().flatten() {
            let (Some(metric), Some(value)) = (name.strip_suffix(",none"), value.as_f64()) else { continue };
            if metric.ends_with("_stderr") {
                continue;
            }
            let error = metrics[format!("{metric}_stderr,none")].as_f64();
            let error = error.map_or(String::new(), |e| format!("{e:.3}"));
            writeln!(text, "| {task} | {metric} | {value:.3} | {error} |")?;
        }
    }
    writeln!(text)?;
    Ok(())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
