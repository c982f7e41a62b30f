//! Tests of the ontology: a toy graph by hand, CAFA-evaluator's and goatools' numbers from the fixtures, real files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;

const TOY: &str = "format-version: 1.2\ndefault-namespace: molecular_function\n\n\
[Term]\nid: GO:0000001\nname: root\n\n\
[Term]\nid: GO:0000002\nname: middle\nalt_id: GO:0000022\nis_a: GO:0000001 {x=\"y\"} ! root\n\n\
[Term]\nid: GO:0000003\nname: leaf\nis_a: GO:0000002 ! middle\nrelationship: part_of GO:0000005 ! other namespace\n\
relationship: regulates GO:0000004\n\n\
[Term]\nid: GO:0000004\nname: second leaf\nrelationship: part_of GO:0000002\n\n\
[Term]\nid: GO:0000005\nname: process\nnamespace: biological_process\n\n\
[Term]\nid: GO:0000006\nname: gone\nis_obsolete: true\nconsider: GO:0000003\n\n\
[Typedef]\nid: part_of\nnamespace: external\n";

pub(crate) fn toy() -> Ontology {
    build(stanzas(TOY).unwrap()).unwrap()
}

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

#[test]
fn propagation_stops_at_roots_and_namespaces() {
    let ontology = toy();
    let ids = |terms: &[u32]| terms.iter().map(|&t| ontology.id(t)[9..].to_owned()).collect::<Vec<_>>();
    let leaf = ontology.propagate(&["GO:0000003"]);
    assert_eq!(ids(&leaf.indices), ["2", "3"]);
    assert_eq!(ontology.propagate(&["GO:0000022", "GO:0000001", "GO:0000006"]).indices, [1]);
    assert_eq!(ontology.propagate(&["GO:9999999", "GO:9999999"]), Terms { indices: vec![], n_unknown: 1 });
    assert_eq!(ids(&ontology.most_specific(&ontology.propagate(&["GO:0000003", "GO:0000004"]))), ["3", "4"]);
    assert_eq!(ids(&ontology.ancestors(2)), ["1", "2"]);
    assert_eq!(ontology.resolve("GO:0000006"), Resolved::Obsolete { instead: vec!["GO:0000003".into()] });
    assert_eq!(ontology.only(&leaf, Aspect::P), Terms::default());
    assert_eq!((ontology.len(), ontology.name(1)), (5, "middle"));
}

#[test]
fn agreement_by_hand() {
    let ontology = toy();
    let truth = ontology.propagate(&["GO:0000003"]);
    let found = agreement(&ontology.propagate(&["GO:0000004", "GO:7777777"]), &truth);
    assert_eq!((found.n_both, found.n_predicted, found.n_true), (1, 3, 2));
    assert!((found.f1 - 0.4).abs() < 1e-12 && (found.precision - 1.0 / 3.0).abs() < 1e-12);
    assert_eq!(agreement(&Terms::default(), &truth).f1, 0.0);
    assert_eq!(agreement(&Terms::default(), &Terms::default()).f1, 1.0);
    assert_eq!(agreement(&ontology.propagate(&["GO:0000001"]), &truth).f1, 0.0, "a root says nothing");
}

#[test]
fn faults_name_their_line() {
    let fault = |text: &str| stanzas(text).and_then(build).unwrap_err();
    let term = "[Term]\nid: GO:0000001\nnamespace: molecular_function\n";
    assert_eq!(fault("").1, "no term of a GO namespace in the whole file");
    assert_eq!(fault("[Term]\nname: x\n").0, 1);
    assert_eq!(fault(&format!("{term}\n{term}")).0, 5);
    assert_eq!(fault(&format!("{term}is_a: GO:0000009\n")).0, 4);
    assert_eq!(fault(&format!("{term}is_a: GO:0000001\n")), (1, "this term is its own ancestor".into()));
    assert_eq!(fault(&format!("{term}what is this\n")).0, 4);
    let missing = Ontology::read(Path::new("no/such.obo")).unwrap_err().to_string();
    assert!(missing.contains("no/such.obo"), "{missing}");
}

#[test]
fn a_cut_gzip_file_is_an_error_and_a_whole_one_is_read() {
    use std::io::Write;
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(format!("\u{feff}{}", TOY.replace('\n', "\r\n")).as_bytes()).unwrap();
    let bytes = zip.finish().unwrap();
    let path = std::env::temp_dir().join(format!("peptalk-rewards-{}.obo.gz", std::process::id()));
    fs_err::write(&path, &bytes).unwrap();
    assert_eq!(Ontology::read(&path).unwrap().len(), 5);
    fs_err::write(&path, &bytes[..bytes.len() - 11]).unwrap();
    let error = Ontology::read(&path).unwrap_err();
    fs_err::remove_file(&path).unwrap();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

fn pairs(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in fs_err::read_to_string(path).unwrap().lines() {
        let mut columns = line.split('\t').map(str::to_owned);
        let protein = columns.next().unwrap();
        sets.entry(protein).or_default().push(columns.next().unwrap());
    }
    sets
}

#[test]
fn set_f1_equals_cafa_evaluators() {
    let Some(folder) = shared("fixtures/eval/cafa") else { return };
    let ontology = Ontology::read(&folder.join("mini.obo")).unwrap();
    let want: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(folder.join("set_f1.json")).unwrap()).unwrap();
    let want = &want["propagate=True,root=False"];
    let predictions = pairs(&folder.join("pred/llm_set.tsv"));
    let (mut both, mut predicted, mut truths, mut f1) = (0, 0, 0, 0.0);
    let ground_truth = pairs(&folder.join("gt.tsv"));
    for (protein, ids) in &ground_truth {
        // There unknown ids are dropped from predictions, too.
        let said = ontology.propagate(predictions.get(protein).map_or(&[][..], |ids| ids));
        let found = agreement(&Terms { n_unknown: 0, ..said }, &ontology.propagate(ids));
        both += found.n_both as u64;
        predicted += found.n_predicted as u64;
        truths += found.n_true as u64;
        f1 += found.f1;
    }
    assert_eq!(want["tp"], both);
    assert_eq!(want["fp"], predicted - both);
    assert_eq!(want["fn"], truths - both);
    let mean = f1 / ground_truth.len() as f64;
    assert!((want["sample_mean_f1"].as_f64().unwrap() - mean).abs() < 1e-9, "{mean}");
}

#[test]
fn ancestors_hold_those_of_goatools() {
    let Some(folder) = shared("fixtures/eval/cafa") else { return };
    let ontology = Ontology::read(&folder.join("mini.obo")).unwrap();
    let want: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(folder.join("goatools.json")).unwrap()).unwrap();
    let mut n_checked = 0;
    for (id, term) in want["terms"].as_object().unwrap() {
        // goatools follows every relationship across namespaces, and its is_a parents are a subset of ours.
        let Resolved::Term(at) = ontology.resolve(id) else { continue };
        let ours: Vec<&str> = ontology.ancestors(at).into_iter().map(|a| ontology.id(a)).collect();
        let list =
            |key: &str| term[key].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>();
        assert!(list("parents_is_a").iter().all(|p| ours.contains(p)), "{id}");
        assert!(ours.iter().all(|p| list("upper_all_rel").contains(p)), "{id}");
        n_checked += 1;
    }
    assert!(n_checked > 70, "{n_checked}");
}

#[test]
fn real_files_are_read() {
    for (path, n_roots) in [("data/go/gene_ontology.1_2.obo.gz", 3), ("data/go/goslim_generic.obo", 3)] {
        let Some(path) = shared(path) else { continue };
        let ontology = Ontology::read(&path).unwrap();
        let roots = (0..ontology.len() as u32).filter(|&at| ontology.is_root(at));
        let names: Vec<&str> = roots.map(|at| ontology.id(at)).collect();
        assert!(names.len() >= n_roots, "{}: {names:?}", path.display());
        for root in ["GO:0003674", "GO:0005575", "GO:0008150"] {
            assert!(names.contains(&root), "{}: {names:?}", path.display());
        }
        eprintln!("{}: {} terms, {} roots", path.display(), ontology.len(), names.len());
    }
}
