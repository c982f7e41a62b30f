//! `results.json` in the shape of lm-evaluation-harness.

use serde_json::{Map, Value, json};

use super::{CODE_VERSION, Data, Results};

/// The results of one model. Keys and nesting are those of lm-evaluation-harness 0.4; `peptalk` is ours: floors and
/// intervals, and the inputs and the leakage audit of the data that all of it rests on.
pub(super) fn results(model: &str, all: &[&Results], data: Option<&Data>) -> Value {
    let by_task = |value: &dyn Fn(&Results) -> Value| -> Map<String, Value> {
        all.iter().map(|result| (result.key(), value(result))).collect()
    };
    json!({
        "results": by_task(&scores),
        "group_subtasks": by_task(&|_| json!([])),
        "configs": by_task(&|r| json!({
            "task": r.key(),
            "dataset_path": r.dataset.name,
            "test_split": r.dataset.split,
            "metadata": { "config": r.config, "files": r.dataset.files },
        })),
        "versions": by_task(&|_| json!(CODE_VERSION)),
        "n-shot": by_task(&|_| json!(0)),
        "higher_is_better": by_task(&|r| {
            Value::Object(r.rows.iter().map(|row| (row.metric.clone(), json!(row.higher_is_better))).collect())
        }),
        "n-samples": by_task(&|r| json!({ "original": r.dataset.n, "effective": r.dataset.n_used })),
        "config": {
            "model": model,
            "bootstrap_iters": crate::compare::N_RESAMPLES,
            "random_seed": crate::compare::SEED,
        },
        "model_name": model,
        "peptalk": { "code_version": CODE_VERSION, "tasks": by_task(&|r| json!(r)), "data": data.map(account) },
    })
}

fn account(data: &Data) -> Value {
    let audit = data.audit.as_ref().map(|audit| {
        json!({
            "n_train": audit.n_train,
            "n_held_out": audit.n_held_out,
            "kinship": audit.kinship,
            "leaks": { "exact": audit.exact, "cluster": audit.cluster, "alike": audit.alike, "homologs": audit.homologs },
        })
    });
    let hashes: Map<String, Value> = data.files.iter().map(|f| (f.file.clone(), json!(f.sha256))).collect();
    json!({ "made_up": data.is_made_up(), "inputs_sha256": hashes, "audit": audit })
}

fn scores(result: &Results) -> Value {
    let mut scores = Map::new();
    scores.insert("alias".into(), json!(result.key()));
    for row in &result.rows {
        let stderr = row.interval.map_or(json!("N/A"), |interval| json!(interval.stderr));
        scores.insert(format!("{},{}", row.metric, row.filter), json!(row.value));
        scores.insert(format!("{}_stderr,{}", row.metric, row.filter), stderr);
    }
    Value::Object(scores)
}
