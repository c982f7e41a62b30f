//! The scalar metrics against scikit-learn and SciPy, GO sets against CAFA-evaluator.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rewards::go::{Ontology, Terms};

use super::calibration::{brier, ece};
use super::classification::Confusion;
use super::correlation::{antisymmetry, mae, pearson, rmse, spearman};
use super::ranking::{auroc, average_precision};
use super::{go, ranking};

fn shared(path: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let root = std::env::var_os("PEPTALK_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let found = root.join(path);
    if !found.exists() {
        eprintln!("skipped: needs ../shared/{path}");
        return None;
    }
    Some(found)
}

fn json(path: PathBuf) -> serde_json::Value {
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn scalars_equal_scikit_learn_and_scipy() {
    let Some(path) = shared("fixtures/eval/scalar_metrics.json") else { return };
    let want = json(path);
    let list = |key: &str| -> Vec<f64> {
        want[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    let labels: Vec<bool> = list("y").iter().map(|&y| y == 1.0).collect();
    let (score, prob, a, b) = (list("score"), list("prob"), list("a"), list("b"));
    let (forward, reverse) = (list("ddg_forward"), list("ddg_reverse"));
    let decided = labels.iter().zip(&prob).map(|(&y, &p)| (u8::from(y), u8::from(p > 0.5)));
    let confusion = Confusion::of(2, decided);
    let destabilising: Vec<bool> = a.iter().map(|&ddg| ddg > 1.0).collect();
    let (r, bias) = antisymmetry(&forward, &reverse).unwrap();
    let got = [
        ("auroc", auroc(&labels, &score)),
        ("average_precision", average_precision(&labels, &score)),
        ("mcc", confusion.mcc()),
        ("f1", confusion.f1(1)),
        ("balanced_accuracy", confusion.balanced_accuracy()),
        ("brier", brier(&labels, &prob)),
        ("ece10", ece(&labels, &prob, 10)),
        ("pearson", pearson(&a, &b)),
        ("spearman", spearman(&a, &b)),
        ("rmse", rmse(&a, &b)),
        ("mae", mae(&a, &b)),
        ("antisymmetry_pearson", r),
        ("antisymmetry_bias", Some(bias)),
        ("stability_auroc_ddg_gt_1", auroc(&destabilising, &b)),
    ];
    for (name, got) in got {
        let want = want[name].as_f64().unwrap();
        assert!((got.unwrap() - want).abs() < 1e-9, "{name}: {got:?}, expected {want}");
    }
}

#[test]
fn term_sets_equal_cafa_evaluators() {
    let Some(folder) = shared("fixtures/eval/cafa") else { return };
    let ontology = Ontology::read(&folder.join("mini.obo")).unwrap();
    let sets = |file: &str| -> BTreeMap<String, Vec<String>> {
        let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in fs_err::read_to_string(folder.join(file)).unwrap().lines() {
            let columns: Vec<&str> = line.split('\t').collect();
            sets.entry(columns[0].into()).or_default().push(columns[1].into());
        }
        sets
    };
    let (truths, predictions) = (sets("gt.tsv"), sets("pred/llm_set.tsv"));
    let none = vec![];
    let propagated: Vec<(Terms, Terms)> = truths
        .iter()
        .map(|(protein, ids)| {
            let said = ontology.propagate(predictions.get(protein).unwrap_or(&none));
            // There unknown ids are dropped from predictions, too.
            (Terms { n_unknown: 0, ..said }, ontology.propagate(ids))
        })
        .collect();
    let want = &json(folder.join("set_f1.json"))["propagate=True,root=False"];
    let micro = go::micro(propagated.iter().map(|(p, t)| (p, t))).unwrap();
    let mean = go::macro_(propagated.iter().map(|(p, t)| (p, t))).unwrap();
    assert!((micro.f1 - want["micro_f1"].as_f64().unwrap()).abs() < 1e-9, "{micro:?}");
    assert!((mean.f1 - want["sample_mean_f1"].as_f64().unwrap()).abs() < 1e-9, "{mean:?}");
    assert!((micro.precision - 308.0 / 412.0).abs() < 1e-9 && (micro.recall - 308.0 / 577.0).abs() < 1e-9);
}

#[test]
fn what_is_undefined_is_none() {
    assert_eq!(auroc(&[true, true], &[0.1, 0.2]), None);
    assert_eq!(auroc(&[true, false], &[0.5, 0.5]), Some(0.5));
    assert_eq!(average_precision(&[false], &[1.0]), None);
    assert_eq!(pearson(&[0.1, 0.1, 0.1], &[1.0, 2.0, 3.0]), None);
    assert_eq!((rmse(&[], &[]), brier(&[], &[]), ece(&[], &[], 10)), (None, None, None));
    assert_eq!(go::micro([(&Terms::default(), &Terms::default())]), None);
    assert_eq!(ranking::midranks(&[3.0, 1.0, 3.0]), [2.5, 1.0, 2.5]);
}
