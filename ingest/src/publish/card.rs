//! The card of a dataset: for people (Markdown under YAML, as the hub reads it) and for machines (Croissant).

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use datasets::table::describe;
use serde_json::{Value, json};

use super::{Part, Protein, Shard, Table};
use crate::FileCounts;
use crate::manifest::Manifest;

/// The parts, in the order in which they are shown.
const SPLITS: [&str; 4] = ["train", "validation", "test", "excluded"];

/// The hub's name for a number of rows.
fn size_category(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        _ => "10M<n<100M",
    }
}

/// How a reader would call a type, and whether a cell holds many.
fn type_of(data: &DataType) -> (&'static str, bool) {
    match data {
        DataType::List(field) | DataType::LargeList(field) => (type_of(field.data_type()).0, true),
        DataType::Boolean => ("Boolean", false),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => ("Float", false),
        data if data.is_integer() => ("Integer", false),
        _ => ("Text", false),
    }
}

/// `README.md`.
pub(super) fn markdown(
    name: &str,
    manifest: &Manifest,
    tables: &[Table],
    proteins: &BTreeMap<String, Protein>,
) -> String {
    let peptalk = &manifest.peptalk;
    let (head, rows, columns) = (front_matter(name, tables), rows(tables), columns(tables));
    let (lengths, sources) = (lengths(manifest, proteins), sources(manifest));
    let first = tables.first().map_or("proteins", |table| table.name);
    format!(
        "{head}
# {name}

Proteins and what is known of them, made by peptalk {peptalk} from the sources below. The parts of the data are whole homology
clusters: no protein of `train` has a relative in `validation` or `test` by the rules in `manifest.json`, and `audit.json` is
the check. `excluded` holds what may stand in no part, such as relatives of published test sets.

## Rows

{rows}
{lengths}

## Use

```python
from datasets import load_dataset

rows = load_dataset(\"DIR\", \"{first}\", split=\"train\", streaming=True)
```

## Columns
{columns}
## Sources

{sources}
Every record is accounted for by file and reason in `account.md`; what was not kept is in `extra/quarantine.parquet`. Each
source keeps its licence: a row's is that of the source it names.

## Citation

Cite the sources. This selection:

```bibtex
@misc{{peptalk,
  title = {{{name}}},
  note = {{made by peptalk {peptalk}; inputs and their SHA-256 in manifest.json}}
}}
```
"
    )
}

/// The YAML that the hub reads: where the parts are, and how large.
fn front_matter(name: &str, tables: &[Table]) -> String {
    let size = size_category(tables.iter().map(Table::rows).sum());
    let mut text = format!(
        "---\npretty_name: {}\nlicense: other\nlicense_name: licences-of-the-sources\ntags:\n- biology\n- proteins\n\
         size_categories:\n- {size}\nconfigs:\n",
        json!(name)
    );
    for Table { name, parts, .. } in tables {
        text += &format!("- config_name: {name}\n  data_files:\n");
        for Part { split, .. } in parts {
            text += &format!("  - split: {split}\n    path: data/{name}/{split}-*.parquet\n");
        }
    }
    text += "dataset_info:\n";
    for table in tables {
        text += &format!("- config_name: {}\n  splits:\n", table.name);
        for Part { split, rows, shards } in &table.parts {
            let size: u64 = shards.iter().map(|shard| shard.bytes).sum();
            text += &format!("  - name: {split}\n    num_bytes: {size}\n    num_examples: {rows}\n");
        }
        let size: u64 = table.shards().map(|shard| shard.bytes).sum();
        text += &format!("  download_size: {size}\n  dataset_size: {size}\n");
    }
    text + "---\n"
}

fn rows(tables: &[Table]) -> String {
    let mut text = format!("| table | {} |\n|---|{}\n", SPLITS.join(" | "), "---:|".repeat(SPLITS.len()));
    for table in tables {
        let rows = |split: &str| {
            table.parts.iter().find(|part| part.split == split).map_or(0, |part| part.rows).to_string()
        };
        text += &format!("| {} | {} |\n", table.name, SPLITS.map(rows).join(" | "));
    }
    text
}

fn lengths(manifest: &Manifest, proteins: &BTreeMap<String, Protein>) -> String {
    let mut lengths: Vec<usize> = proteins.values().map(|protein| protein.sequence.len()).collect();
    lengths.sort_unstable();
    let at = |share: usize| lengths.get(lengths.len() * share / 100).or(lengths.last()).copied().unwrap_or(0);
    let [shortest, quarter, half, most, longest] = [0, 25, 50, 75, 100].map(at);
    format!(
        "{} proteins of {} residues (shortest {shortest}, quartiles {quarter}, {half} and {most}, longest {longest}) in {} homology \
         clusters, the largest of {}.",
        lengths.len(),
        lengths.iter().sum::<usize>(),
        manifest.n_clusters,
        manifest.largest_clusters.first().copied().unwrap_or(0)
    )
}

fn columns(tables: &[Table]) -> String {
    let mut text = String::new();
    for table in tables {
        text += &format!("\n### {}\n\n| column | type | what |\n|---|---|---|\n", table.name);
        for field in table.schema.fields() {
            let (kind, many) = type_of(field.data_type());
            let (kind, what) = (kind.to_lowercase(), describe(field.name()).unwrap_or_default());
            let kind = if many { format!("list of {kind}") } else { kind };
            text += &format!("| {} | {kind} | {what} |\n", field.name());
        }
    }
    text
}

fn sources(manifest: &Manifest) -> String {
    let mut text =
        "| source | kind | role | licence | records | kept | merged into others | in quarantine |\n\
                    |---|---|---|---|---:|---:|---:|---:|\n"
            .to_owned();
    for source in &manifest.config.source {
        let files = || manifest.files.iter().filter(|file| file.source == source.name);
        let sum = |of: fn(&FileCounts) -> u64| files().map(of).sum::<u64>().to_string();
        let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
        let cells = [
            source.name.clone(),
            word(json!(source.kind)),
            word(json!(source.role)),
            source.licence.clone(),
            sum(|file| file.rows_in),
            sum(|file| file.kept),
            sum(|file| file.merged),
            sum(|file| file.quarantined.values().sum()),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

/// `croissant.json`, Croissant 1.0.
pub(super) fn croissant(name: &str, manifest: &Manifest, tables: &[Table]) -> Value {
    let file = |shard: &Shard| {
        json!({
            "@type": "cr:FileObject", "@id": shard.path, "name": shard.path, "contentUrl": shard.path,
            "encodingFormat": "application/x-parquet", "sha256": shard.sha256, "contentSize": format!("{} B", shard.bytes),
        })
    };
    let mut distribution: Vec<Value> = tables.iter().flat_map(Table::shards).map(file).collect();
    distribution.extend(tables.iter().map(|table| {
        json!({
            "@type": "cr:FileSet", "@id": format!("{}-files", table.name), "name": format!("{}-files", table.name),
            "includes": format!("data/{}/*.parquet", table.name), "encodingFormat": "application/x-parquet",
        })
    }));
    let record_set = |table: &Table| {
        let field = |field: &arrow::datatypes::FieldRef| {
            let (kind, many) = type_of(field.data_type());
            json!({
                "@type": "cr:Field", "@id": format!("{}/{}", table.name, field.name()), "name": field.name(),
                "description": describe(field.name()).unwrap_or_default(), "dataType": format!("sc:{kind}"),
                "repeated": many,
                "source": {"fileSet": {"@id": format!("{}-files", table.name)}, "extract": {"column": field.name()}},
            })
        };
        json!({
            "@type": "cr:RecordSet", "@id": table.name, "name": table.name,
            "description": format!("{} rows", table.rows()),
            "field": table.schema.fields().iter().map(field).collect::<Vec<_>>(),
        })
    };
    let sources: Vec<&str> = manifest.config.source.iter().map(|source| source.name.as_str()).collect();
    let mut licences: Vec<&str> = manifest
        .config
        .source
        .iter()
        .map(|source| source.licence.as_str())
        .filter(|l| !l.is_empty())
        .collect();
    licences.sort_unstable();
    licences.dedup();
    json!({
        "@context": {
            "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/", "dct": "http://purl.org/dc/terms/",
            "citeAs": "cr:citeAs", "column": "cr:column", "conformsTo": "dct:conformsTo",
            "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
            "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
            "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet", "format": "cr:format",
            "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key",
            "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
            "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
            "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField", "transform": "cr:transform",
        },
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": format!("Proteins and what is known of them, from: {}.", sources.join(", ")),
        "license": licences,
        "citeAs": format!("@misc{{peptalk, title = {{{name}}}, note = {{made by peptalk {}}}}}", manifest.peptalk),
        "version": "1.0.0",
        "distribution": distribution,
        "recordSet": tables.iter().map(record_set).collect::<Vec<_>>(),
    })
}
