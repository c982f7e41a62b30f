//! Which projections an adapter changes, and how: the part of PEFT's `adapter_config.json` that changes numbers.

use std::collections::BTreeMap;

use candle_core::{Result, bail};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Which projections are adapted, and how. Names and meanings are PEFT's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// last parts of the projections' names (`q_proj`, `self_attn.v_proj`, …), or one regular expression for whole names,
    /// or `all-linear`
    pub target_modules: Modules,
    /// rank
    pub r: usize,
    /// the correction is multiplied by alpha / rank
    pub lora_alpha: f64,
    /// share of the input's numbers that the correction does not see in a training step
    #[serde(default)]
    pub lora_dropout: f64,
    /// by alpha / √rank instead
    #[serde(default)]
    pub use_rslora: bool,
    /// ranks of single projections, by regular expressions for the last parts of their names
    #[serde(default)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// alphas of single projections, likewise
    #[serde(default)]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// trains the length of each row of the weight apart from its direction
    #[serde(default)]
    pub use_dora: bool,
    /// projections that `target_modules` names and that stay as they are
    #[serde(default, skip_serializing_if = "Modules::is_empty")]
    pub exclude_modules: Modules,
    /// numbers of the layers that are adapted, with a list of `target_modules`; all when it is left out
    #[serde(default, skip_serializing_if = "Layers::is_all")]
    pub layers_to_transform: Layers,
}

/// A choice of modules by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Modules {
    /// Last parts of names.
    Named(Vec<String>),
    /// A regular expression for whole names, or `all-linear`.
    Matching(String),
}

/// A choice of layers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Layers {
    /// Each.
    #[default]
    All,
    /// One.
    One(usize),
    /// Some; none of them means all.
    Some(Vec<usize>),
}

impl Default for Modules {
    fn default() -> Self {
        Self::Named(vec![])
    }
}

impl<const N: usize> From<[&str; N]> for Modules {
    fn from(names: [&str; N]) -> Self {
        Self::Named(names.map(String::from).to_vec())
    }
}

impl Modules {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Named(names) if names.is_empty())
    }

    fn pattern(&self) -> Result<Option<Regex>> {
        match self {
            Self::Matching(pattern) if pattern != "all-linear" => {
                Ok(Some(regex(&format!("^(?:{pattern})$"))?))
            }
            _ => Ok(None),
        }
    }
}

impl Layers {
    fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    fn hold(&self, module: &str) -> bool {
        let number = || module.split('.').find_map(|part| part.parse::<usize>().ok());
        match self {
            Self::All => true,
            Self::One(layer) => number() == Some(*layer),
            Self::Some(layers) => layers.is_empty() || number().is_some_and(|n| layers.contains(&n)),
        }
    }
}

fn regex(pattern: &str) -> Result<Regex> {
    match Regex::new(pattern) {
        Ok(regex) => Ok(regex),
        Err(error) => bail!("LoRA: {error}"),
    }
}

fn ends_with_part(module: &str, part: &str) -> bool {
    module.strip_suffix(part).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// A config whose patterns are compiled.
pub(super) struct Choice<'a> {
    config: &'a LoraConfig,
    targets: Option<Regex>,
    excluded: Option<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

/// How one projection is adapted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) rank: usize,
    pub(super) scale: f64,
}

impl LoraConfig {
    /// Keys of PEFT that change the numbers of an adapter in ways that are not supported here.
    const REFUSED: [&str; 10] = [
        "alora_invocation_tokens",
        "fan_in_fan_out",
        "layer_replication",
        "layers_pattern",
        "lora_bias",
        "modules_to_save",
        "target_parameters",
        "use_bdlora",
        "use_qalora",
        "velora_config",
    ];
    const USED: [&str; 10] = [
        "target_modules",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "use_dora",
        "exclude_modules",
        "layers_to_transform",
    ];

    /// From an `adapter_config.json`. What PEFT writes beside and does not change the numbers of a trained adapter is
    /// passed over.
    ///
    /// # Errors
    /// On another kind of adapter, and on options that would change the numbers and are not supported.
    pub fn from_json(json: &Value) -> Result<Self> {
        if json["peft_type"] != "LORA" {
            bail!("peft_type is {}, only LORA is known", json["peft_type"]);
        }
        let means_nothing = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(entries) => entries.is_empty(),
            _ => false,
        };
        if let Some(key) = Self::REFUSED.iter().find(|&&key| json.get(key).is_some_and(|v| !means_nothing(v)))
        {
            bail!("{key} is {}, which is not supported", json[*key]);
        }
        if json.get("bias").is_some_and(|bias| bias != "none") {
            bail!("bias is {}, which is not supported", json["bias"]);
        }
        let used = |key: &&str| json.get(*key).is_some_and(|value| !value.is_null());
        let entries =
            Self::USED.iter().filter(|key| used(key)).map(|&key| (key.to_owned(), json[key].clone()));
        let entries: Map<String, Value> = entries.collect();
        serde_json::from_value(Value::Object(entries)).map_err(candle_core::Error::wrap)
    }

    pub(super) fn compile(&self) -> Result<Choice<'_>> {
        if !(0.0..1.0).contains(&self.lora_dropout) || self.r == 0 {
            bail!(
                "LoRA: r = {} and lora_dropout = {}, expected r > 0 and 0 ≤ dropout < 1",
                self.r,
                self.lora_dropout
            );
        }
        let last_parts = |pattern: &String| regex(&format!(r"^(?:.*\.)?(?:{pattern})$"));
        Ok(Choice {
            config: self,
            targets: self.target_modules.pattern()?,
            excluded: self.exclude_modules.pattern()?,
            ranks: self.rank_pattern.iter().map(|(p, &n)| Ok((last_parts(p)?, n))).collect::<Result<_>>()?,
            alphas: self
                .alpha_pattern
                .iter()
                .map(|(p, &x)| Ok((last_parts(p)?, x)))
                .collect::<Result<_>>()?,
        })
    }
}

impl Choice<'_> {
    /// How `module` is adapted; `None`: not at all.
    ///
    /// # Errors
    /// When two patterns say different things of it.
    pub(super) fn shape(&self, module: &str) -> Result<Option<Shape>> {
        let config = self.config;
        let named = |modules: &Modules, pattern: &Option<Regex>| match (modules, pattern) {
            (Modules::Named(names), _) => names.iter().any(|name| ends_with_part(module, name)),
            (Modules::Matching(_), Some(pattern)) => pattern.is_match(module),
            (Modules::Matching(_), None) => true, // all-linear
        };
        let layer =
            matches!(config.target_modules, Modules::Matching(_)) || config.layers_to_transform.hold(module);
        if !layer
            || !named(&config.target_modules, &self.targets)
            || named(&config.exclude_modules, &self.excluded)
        {
            return Ok(None);
        }
        let rank = one_of(&self.ranks, module)?.unwrap_or(config.r);
        let alpha = one_of(&self.alphas, module)?.unwrap_or(config.lora_alpha);
        let divisor = if config.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok(Some(Shape { rank, scale: alpha / divisor }))
    }

    /// The names of `target_modules` that no module in `modules` has.
    pub(super) fn unused(&self, modules: &[String]) -> Option<String> {
        match &self.config.target_modules {
            Modules::Named(names) => {
                names.iter().find(|name| !modules.iter().any(|module| ends_with_part(module, name))).cloned()
            }
            Modules::Matching(pattern) => {
                let matches = |regex: &Regex| modules.iter().any(|module| regex.is_match(module));
                self.targets.as_ref().is_some_and(|regex| !matches(regex)).then(|| pattern.clone())
            }
        }
    }
}

/// What the patterns say of a module. PEFT takes the first of several; here they must agree, because the order of keys is
/// not kept everywhere.
fn one_of<T: Copy + PartialEq + std::fmt::Debug>(patterns: &[(Regex, T)], module: &str) -> Result<Option<T>> {
    let mut found = patterns.iter().filter(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value);
    let first = found.next();
    match found.find(|other| Some(*other) != first) {
        Some(other) => bail!("LoRA: two patterns match {module}, one says {first:?}, one {other:?}"),
        None => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "model.layers.3.self_attn.k_proj";

    fn config() -> LoraConfig {
        LoraConfig { target_modules: ["k_proj"].into(), r: 4, lora_alpha: 8.0, ..LoraConfig::default() }
    }

    fn shape(config: &LoraConfig) -> Option<(usize, f64)> {
        config.compile().unwrap().shape(KEY).unwrap().map(|shape| (shape.rank, shape.scale))
    }

    #[test]
    fn modules_are_chosen_as_in_peft() {
        let with = |targets: Modules| shape(&LoraConfig { target_modules: targets, ..config() });
        let matching = |pattern: &str| with(Modules::Matching(pattern.into()));
        assert_eq!(with(["k_proj"].into()), Some((4, 2.0)));
        assert_eq!(with(["self_attn.k_proj", "q_proj"].into()), Some((4, 2.0)));
        assert_eq!(with(["proj", "attn.k_proj"].into()), None, "whole parts of a name");
        assert_eq!(matching("all-linear"), Some((4, 2.0)));
        assert_eq!(matching(r".*layers\.[0-3]\..*(q|k)_proj"), Some((4, 2.0)));
        assert_eq!(
            matching(r"layers\.3\.self_attn\.k_proj"),
            None,
            "a regular expression is for the whole name"
        );
        for (layers, chosen) in
            [(Layers::One(3), true), (Layers::Some(vec![1, 2]), false), (Layers::Some(vec![]), true)]
        {
            assert_eq!(shape(&LoraConfig { layers_to_transform: layers, ..config() }).is_some(), chosen);
        }
        let excluded = |modules: Modules| shape(&LoraConfig { exclude_modules: modules, ..config() });
        assert_eq!(excluded(["k_proj"].into()), None);
        assert_eq!(excluded(Modules::Matching(r".*\.3\..*".into())), None);
        assert_eq!(excluded(Modules::Matching(r".*\.2\..*".into())), Some((4, 2.0)));
    }

    #[test]
    fn ranks_and_alphas_follow_patterns() {
        let mut config = config();
        config.rank_pattern.insert("self_attn.(q|k)_proj".into(), 16);
        assert_eq!(shape(&config), Some((16, 0.5)));
        config.use_rslora = true;
        assert_eq!(shape(&config), Some((16, 2.0)));
        config.alpha_pattern.insert("k_proj".into(), 2.0);
        assert_eq!(shape(&config), Some((16, 0.5)));
        config.rank_pattern.insert("proj".into(), 1);
        assert_eq!(shape(&config), Some((16, 0.5)), "whole parts of a name");
        config.rank_pattern.insert("k_proj".into(), 1);
        let error = config.compile().unwrap().shape(KEY).unwrap_err().to_string();
        assert!(error.contains("two patterns"), "{error}");
    }

    #[test]
    fn what_would_change_the_numbers_is_read_or_refused() {
        let read = |change: Value| {
            let mut json = json!({
                "peft_type": "LORA", "target_modules": ["k_proj"], "r": 4, "lora_alpha": 8, "bias": "none",
                "lora_bias": false, "modules_to_save": null, "megatron_core": "megatron.core", "velora_config": null,
                "rank_pattern": {}, "layers_to_transform": null, "exclude_modules": null
            });
            json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            LoraConfig::from_json(&json).map_err(|e| e.to_string())
        };
        assert_eq!(read(json!({})), Ok(config()));
        assert_eq!(read(json!({"layers_to_transform": 2})).unwrap().layers_to_transform, Layers::One(2));
        assert_eq!(
            read(json!({"target_modules": ".*k_proj"})).unwrap().target_modules,
            Modules::Matching(".*k_proj".into())
        );
        for (change, say) in [
            (json!({"peft_type": "IA3"}), "only LORA"),
            (json!({"modules_to_save": ["embed_tokens"]}), "modules_to_save"),
            (json!({"bias": "all"}), "bias"),
            (json!({"lora_bias": true}), "lora_bias"),
            (json!({"r": -1}), "invalid value"),
        ] {
            let error = read(change).unwrap_err();
            assert!(error.contains(say), "{error}");
        }
        let refused = |config: LoraConfig| config.compile().err().unwrap().to_string();
        assert!(refused(LoraConfig { r: 0, ..config() }).contains("expected r > 0"));
        assert!(refused(LoraConfig { lora_dropout: 1.0, ..config() }).contains("dropout < 1"));
        let broken = LoraConfig { target_modules: Modules::Matching("(".into()), ..config() };
        assert!(refused(broken).contains("unclosed group"));
    }
}
