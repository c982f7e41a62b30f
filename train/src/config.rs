//! Settings: one TOML file, `--set` on top, and what came of both.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// The name of the resolved config in a run folder.
pub const CONFIG: &str = "config.toml";

/// Reads a TOML file.
///
/// # Errors
/// Names the file, and the line where it is no TOML.
pub fn read(path: &Path) -> Result<Table> {
    fs::read_to_string(path)?.parse().with_context(|| format!("reading {}", path.display()))
}

/// Applies `a.b.c=value` to `table` (`0`, `1`, … count the entries of a list); the value is TOML, or plain text where a string
/// stands. A key that its section lacks is added, since it may be one that can be left out: [`typed`] knows.
///
/// # Errors
/// When there is no such section (those there are, are listed) or the value is no TOML.
pub fn set(table: &mut Table, setting: &str) -> Result<()> {
    let (path, text) = setting
        .split_once('=')
        .with_context(|| format!("--set {setting}: expected KEY=VALUE, such as optim.lr=2e-5"))?;
    let (path, text) = (path.trim(), text.trim());
    let mut keys = path.split('.');
    let first = keys.next().unwrap_or_default();
    let names = |table: &Table| table.keys().cloned().collect::<Vec<_>>().join(", ");
    let valid = names(table);
    let mut place = table
        .get_mut(first)
        .with_context(|| format!("--set {path}: there is no {first:?}; there are {valid}"))?;
    let mut keys = keys.peekable();
    while let Some(key) = keys.next() {
        if let Value::Table(table) = &mut *place
            && keys.peek().is_none()
            && !table.contains_key(key)
        {
            let value = text.parse::<Value>().unwrap_or_else(|_| Value::String(text.to_owned()));
            table.insert(key.to_owned(), value);
            return Ok(());
        }
        let valid = match &*place {
            Value::Table(table) => names(table),
            Value::Array(list) => format!("the numbers below {}", list.len()),
            _ => "no keys: it is a value".to_owned(),
        };
        let next = match place {
            Value::Table(table) => table.get_mut(key),
            Value::Array(list) => key.parse().ok().and_then(|at: usize| list.get_mut(at)),
            _ => None,
        };
        place = next.with_context(|| format!("--set {path}: there is no {key:?}; there are {valid}"))?;
    }
    *place = match (text.parse::<Value>(), &*place) {
        (Ok(value), old) if value.same_type(old) => value,
        (Ok(Value::Integer(n)), Value::Float(_)) => Value::Float(n as f64),
        (_, Value::String(_)) => Value::String(text.to_owned()),
        (Ok(value), old) => {
            bail!("--set {path}={text}: this is {}, but the key holds {}", value.type_str(), old.type_str())
        }
        (Err(error), _) => bail!("--set {path}={text}: the value is no TOML: {}", error.message()),
    };
    Ok(())
}

/// Turns a table into typed settings.
///
/// # Errors
/// Names unknown, missing and mistyped keys.
pub fn typed<T: DeserializeOwned>(table: Table) -> Result<T> {
    Ok(T::deserialize(Value::Table(table))?)
}

/// Settings as TOML text, complete.
///
/// # Errors
/// When they have no TOML form.
pub fn resolved(config: &impl Serialize) -> Result<String> {
    Ok(toml::to_string_pretty(config)?)
}

/// Saves the resolved settings as `RUN/config.toml`; if the run folder has settings already, they must be the same.
///
/// # Errors
/// Lists every key that differs from the run's own settings.
pub fn save_or_compare(run: &Path, config: &impl Serialize) -> Result<()> {
    let path = run.join(CONFIG);
    let text = resolved(config)?;
    if path.exists() {
        let difference = diff(&read(&path)?, &text.parse()?);
        ensure!(
            difference.is_empty(),
            "{} was begun with other settings:\n  {}\nhint: resume with those, or give another --out",
            run.display(),
            difference.join("\n  ")
        );
        return Ok(());
    }
    datasets::atomic_write(&path, |file| std::io::Write::write_all(file, text.as_bytes()))?;
    Ok(())
}

/// `KEY: OLD there, NEW now` for every key in which two tables differ, sorted.
pub fn diff(old: &Table, new: &Table) -> Vec<String> {
    let (old, new) = (flat(old), flat(new));
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), ToString::to_string);
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| format!("{key}: {} there, {} now", shown(old.get(key)), shown(new.get(key))))
        .collect()
}

/// Values by dotted key.
fn flat(table: &Table) -> std::collections::BTreeMap<String, Value> {
    fn walk(prefix: &str, value: &Value, out: &mut std::collections::BTreeMap<String, Value>) {
        let mut inside = |key: &str, value: &Value| {
            let dot = if prefix.is_empty() { "" } else { "." };
            walk(&format!("{prefix}{dot}{key}"), value, out);
        };
        match value {
            Value::Table(table) => table.iter().for_each(|(key, value)| inside(key, value)),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(at, value)| inside(&at.to_string(), value))
            }
            _ => drop(out.insert(prefix.to_owned(), value.clone())),
        }
    }
    let mut out = std::collections::BTreeMap::new();
    walk("", &Value::Table(table.clone()), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        seed: u64,
        lr: f64,
        kind: String,
        group: Vec<Group>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Group {
        clip: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    }

    const TEXT: &str = "seed = 1\nlr = 0.5\nkind = \"linear\"\n[[group]]\nclip = inf\n";

    fn table() -> Table {
        TEXT.parse().unwrap()
    }

    #[test]
    fn a_setting_must_hit_a_key() {
        let mut table = table();
        for setting in ["seed=7", "lr = 2e-5", "kind=cosine", "group.0.clip=3", "group.0.name=all"] {
            set(&mut table, setting).unwrap();
        }
        let group = vec![Group { clip: 3.0, name: Some("all".into()) }];
        let want = Config { seed: 7, lr: 2e-5, kind: "cosine".into(), group };
        assert_eq!(typed::<Config>(table.clone()).unwrap(), want);
        for (setting, say) in [
            ("rate=1", "there are group, kind, lr, seed"),
            ("group.1.clip=1", "the numbers below 1"),
            ("groups.0.clip=1", "there are group, kind, lr, seed"),
            ("lr.x=1", "it is a value"),
            ("lr=fast", "no TOML"),
            ("seed=1.5", "this is float, but the key holds integer"),
            ("seed", "expected KEY=VALUE"),
        ] {
            let error = set(&mut table, setting).unwrap_err().to_string();
            assert!(error.contains(say), "{setting}: {error}");
        }
        set(&mut table, "group.0.clap=1").unwrap();
        assert!(typed::<Config>(table).unwrap_err().to_string().contains("unknown field `clap`"));
    }

    #[test]
    fn unknown_and_missing_keys_are_named() {
        let error = |text: &str| format!("{:#}", typed::<Config>(text.parse().unwrap()).unwrap_err());
        assert!(error(&TEXT.replace("seed", "sed")).contains("sed"));
        assert!(error(&TEXT.replace("lr = 0.5", "")).contains("lr"));
    }

    #[test]
    fn a_run_keeps_its_settings() {
        let run = tempfile::tempdir().unwrap();
        let mut config: Config = typed(table()).unwrap();
        save_or_compare(run.path(), &config).unwrap();
        save_or_compare(run.path(), &config).unwrap();
        let back: Config = typed(read(&run.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!(back, config);
        (config.lr, config.group[0].clip) = (0.25, 2.0);
        let error = save_or_compare(run.path(), &config).unwrap_err().to_string();
        assert!(
            error.contains("lr: 0.5 there, 0.25 now") && error.contains("group.0.clip: inf there"),
            "{error}"
        );
    }
}
