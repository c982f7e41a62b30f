//! The report end to end on made-up results.

use super::*;
use crate::Comparison;
use crate::metric::calibration::reliability;
use crate::metric::classification::mean;
use serde_json::json;

fn stability(model: &str) -> Results {
    let truths: Vec<f64> = (0..89).map(|i| 1.0 + 1.5 * f64::from(i).sin()).collect();
    let said: Vec<f64> =
        truths.iter().enumerate().map(|(i, t)| 0.4 + 0.6 * t + 0.5 * (i as f64 * 7.7).cos()).collect();
    let clusters: Vec<String> = (0..89).map(|i| (i / 3).to_string()).collect();
    let (constant, shuffled) = (vec![1.0; 89], truths.iter().rev().copied().collect::<Vec<f64>>());
    let comparison = Comparison::new(&truths, &clusters, &said)
        .and_then(|c| c.against("constant", Kind::Floor, &constant))
        .and_then(|c| c.against("shuffled", Kind::Floor, &shuffled))
        .and_then(|c| c.against("sft", Kind::Reference, &truths))
        .unwrap();
    let rmse = |pairs: &[(&f64, &f64)]| mean(pairs.iter().map(|(p, t)| (**p - **t).powi(2))).map(f64::sqrt);
    let sample = |(at, value): (usize, &f64)| Sample {
        doc_id: at,
        doc: json!({ "mutation": "A13G" }),
        target: json!(truths[at]),
        arguments: json!("What is the ddG?"),
        resps: json!([["<answer>1</answer>"]]),
        filtered_resps: json!([value]),
        metrics: Map::from_iter([("error".to_owned(), json!(value - truths[at]))]),
    };
    Results {
        task: "stability".into(),
        model: model.into(),
        dataset: Dataset {
            name: "ssym".into(),
            split: "test".into(),
            n: 97,
            n_used: 89,
            files: vec![("ddg.parquet".into(), "00ff".into())],
        },
        config: json!({ "limit": 89, "checkpoint": "<run>" }),
        rows: vec![
            comparison.row("rmse", false, rmse),
            comparison.row("rmse", false, |_| None).filtered("undefined"),
        ],
        charts: vec![
            Chart::Scatter {
                title: "predicted against measured".into(),
                unit: "kcal/mol".into(),
                points: truths.iter().copied().zip(said.iter().copied()).collect(),
            },
            Chart::Confusion {
                title: "three states".into(),
                classes: ["H", "E", "C"].map(String::from).to_vec(),
                matrix: Confusion::of(3, (0..97).map(|i| ((i % 3), if i % 5 == 0 { 2 } else { i % 3 }))),
            },
            Chart::Reliability {
                title: "is 70% right 70% of the time?".into(),
                bins: reliability(
                    &(0..97).map(|i| i % 4 > 1).collect::<Vec<_>>(),
                    &(0..97).map(|i| f64::from(i) / 97.0).collect::<Vec<_>>(),
                    10,
                ),
            },
        ],
        samples: said.iter().enumerate().map(sample).collect(),
    }
}

fn run_log(folder: &Path) -> RunLog {
    let path = folder.join("log.jsonl");
    let mut text = String::new();
    for step in 1..=211 {
        let (loss, lr) = (2.0 / f64::from(step).sqrt() + 0.1 * f64::from(step).sin(), 1e-3);
        let reward = 0.7 - 0.4 / f64::from(step).sqrt() + 0.03 * (f64::from(step) * 1.7).cos();
        text += &json!({ "step": step, "loss": loss, "reward": reward, "lr": lr, "grad_norm": { "lora": loss }, "stage": "x" }).to_string();
        text += "\n";
    }
    fs_err::write(&path, text + "{\"step\": 212, \"lo").unwrap();
    RunLog::read("grpo", &path)
        .unwrap()
        .with_floor("reward", "constant", 0.578)
        .with_floor("reward", "sft", 0.42)
}

fn data(folder: &Path) -> Data {
    let manifest = json!({
        "peptalk": "0.1.0",
        "files": [
            { "source": "swissprot", "file": "swissprot/madeup_sprot.dat.gz", "sha256": "ab", "bytes": 5, "rows_in": 1009, "kept": 900, "merged": 83,
              "quarantined": { "bad_sequence": 19, "too_short": 7 }, "parts_quarantined": {} },
            { "source": "ssym", "file": "ddg/madeup_Ssym_direct.csv.gz", "sha256": "cd", "bytes": 5, "rows_in": 89, "kept": 89, "merged": 0, "quarantined": {} },
        ],
        "tables": { "proteins": 983, "ddg": 89, "facts": 5011 },
        "proteins_by_split": { "excluded": 31, "test": 103, "train": 800, "valid": 49 },
        "n_clusters": 311, "largest_clusters": [17, 13],
    });
    let audit = json!({ "kinship": { "evalue": 1e-3, "identity": 0.3, "coverage": 0.5, "kmer": 5, "containment": 0.2 }, "n_train": 800, "n_held_out": 152, "exact": [], "cluster": [], "alike": [], "homologs": [] });
    fs_err::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    fs_err::write(folder.join("audit.json"), audit.to_string()).unwrap();
    Data::read(folder).unwrap()
}

#[test]
fn a_report_has_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, data) = ([run_log(dir.path())], data(dir.path()));
    let all = [stability("grpo"), stability("sft/step 3")];
    // PEPTALK_REPORT keeps the page for a look at it.
    let out = std::env::var_os("PEPTALK_REPORT").map_or_else(|| dir.path().join("eval"), PathBuf::from);
    let page = fs_err::read_to_string(write(&out, &all, &runs, Some(&data)).unwrap()).unwrap();
    let parts = [
        "MADE-UP DATA",
        "constant 0.578",
        "No held-out protein",
        "bad_sequence 19",
        "verdict above",
        "211 steps",
    ];
    for part in parts {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("&lt;run&gt;") && !page.contains("NaN"));

    let text = fs_err::read_to_string(out.join("grpo/results.json")).unwrap();
    let results: Value = serde_json::from_str(&text).unwrap();
    let task = &results["results"]["stability_ssym"];
    assert!(task["rmse,none"].is_f64() && task["rmse_stderr,none"].is_f64());
    assert!(task["rmse,undefined"].is_null() && task["rmse_stderr,undefined"] == "N/A");
    assert_eq!(results["n-samples"]["stability_ssym"], json!({ "original": 97, "effective": 89 }));
    assert_eq!(results["higher_is_better"]["stability_ssym"]["rmse"], json!(false));
    assert_eq!(results["peptalk"]["tasks"]["stability_ssym"]["rows"][0]["baselines"][0]["name"], "constant");
    assert_eq!(results["peptalk"]["data"]["audit"]["leaks"]["exact"], json!([]));
    let samples = fs_err::read_to_string(out.join("sft_step_3/samples_stability_ssym.jsonl")).unwrap();
    assert_eq!(samples.lines().count(), 89);
    let first: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
    assert!(first["error"].is_f64() && first["doc_id"] == 0);

    let again = dir.path().join("again");
    assert_eq!(fs_err::read_to_string(write(&again, &all, &runs, Some(&data)).unwrap()).unwrap(), page);
}

#[test]
fn an_empty_report_is_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let page = write(dir.path(), &[], &[], None).unwrap();
    assert!(fs_err::read_to_string(page).unwrap().contains("peptalk report"));
}

#[test]
fn two_results_of_one_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = write(dir.path(), &[stability("a"), stability("a")], &[], None).unwrap_err().to_string();
    assert!(error.contains("stability_ssym"), "{error}");
}

#[test]
fn a_broken_log_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.jsonl");
    fs_err::write(&path, "{\"step\": 1, \"loss\": 2.0}\nnot json\n{\"step\": 2}\n").unwrap();
    assert!(RunLog::read("ss", &path).unwrap_err().to_string().contains("line 2"));
    fs_err::write(&path, "{\"step\": 1, \"loss\": 2.0}\n{\"step\": 1, \"loss\": 3.0}\n").unwrap();
    assert_eq!(RunLog::read("ss", &path).unwrap().series[0].1[&1], 3.0);
}
