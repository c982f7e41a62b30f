use datasets::residue;
use models::Weights;
use models::ss::{BiLstmCrf, BiLstmCrfConfig};

use super::*;

pub(super) fn config(reversed: bool) -> BiLstmCrfConfig {
    BiLstmCrfConfig {
        n_tokens: residue::N_TOKENS,
        embed: 7,
        conv_layers: 1,
        kernel: 3,
        features: 0,
        hidden: 5,
        projection: 11,
        dropout: 0.3,
        gelu: true,
        min_runs: [4, 3, 5, 2, 1, 1, 1, 1],
        forbidden: vec![],
        reversed,
    }
}

fn drawn(config: BiLstmCrfConfig, seed: u64) -> SsModel {
    let weights = Weights::random(move |name| datasets::rng(seed, name, 0));
    SsModel::new(BiLstmCrf::new(config, weights).unwrap(), None).unwrap()
}

fn model(reversed: bool) -> SsModel {
    drawn(config(reversed), 3)
}

fn sequence(i: usize) -> String {
    (0..5 + i * 13 % 17).map(|j| residue::LETTERS[(i * 7 + j * (i + 3)) % 20] as char).collect()
}

#[test]
fn a_prediction_depends_on_neither_its_neighbours_nor_the_direction_of_the_text() {
    let sequences: Vec<String> = (0..23).map(sequence).collect();
    let texts: Vec<&str> = sequences.iter().map(String::as_str).collect();
    let alone = |reversed: bool, texts: &[&str]| predict(&[&model(reversed)], texts);
    let all = alone(false, &texts).unwrap();
    for (text, found) in texts.iter().zip(&all) {
        assert_eq!([found.q8.len(), found.q3.len(), found.path.len(), found.legal.len()], [text.len(); 4]);
        assert_eq!(&alone(false, &[text]).unwrap()[0], found);
        let backwards: String = text.chars().rev().collect();
        let turned = alone(true, &[&backwards]).unwrap().remove(0);
        assert!(turned.q8.iter().rev().eq(&found.q8) && turned.q3.iter().rev().eq(&found.q3));
        assert!(turned.path.iter().rev().eq(&found.path) && turned.legal.iter().rev().eq(&found.legal));
    }
    assert!(alone(false, &[]).unwrap().is_empty());
    assert!(alone(false, &[""]).is_err());
}

#[test]
fn several_models_predict_their_mean_and_a_legal_path() {
    let (one, other) = (model(false), drawn(config(false), 4));
    let text = sequence(11);
    let both = predict(&[&one, &other], &[&text]).unwrap().remove(0);
    let each = [&one, &other].map(|m| predict(&[m], &[&text]).unwrap().remove(0));
    for (at, mean) in both.q8.as_flattened().iter().enumerate() {
        let [a, b] = [0, 1].map(|m| each[m].q8.as_flattened()[at]);
        assert!((mean - (a + b) / 2.0).abs() < 1e-6);
    }
    for path in [&both.path, &both.legal] {
        let sets: Vec<u32> = path.iter().map(|&state| 1 << state).collect();
        assert!(one.head.lattice().admits(&sets), "{path:?}");
    }
    assert!(Predictor::new(vec![one, model(true)]).is_err());
    assert!(Predictor::new(vec![]).is_err());
}

#[test]
fn every_test_source_is_reported_beside_its_floors() {
    let dir = tempfile::tempdir().unwrap();
    let (mut proteins, mut rows) = (vec![], vec![]);
    for i in 0..19usize {
        let sequence = sequence(i);
        let n = sequence.len();
        let states =
            |alphabet: &[u8]| (0..n).map(|j| alphabet[(i + j / 3) % alphabet.len()] as char).collect();
        rows.push(SsRow {
            id: format!("{i}"),
            protein_id: format!("p{i}"),
            source: if i < 13 { "pisces" } else { "cb513" }.into(),
            q8: states(label::Q8),
            q3: states(label::Q3),
            mask: (0..n).map(|j| if j == 2 { '0' } else { '1' }).collect(),
        });
        proteins.push(ProteinRow {
            protein_id: format!("p{i}"),
            sequence,
            accessions: vec![],
            sources: vec![],
            cluster: format!("c{}", i / 2),
            split: if i < 9 { Split::Train } else { Split::Test },
        });
    }
    ProteinRow::write(dir.path(), &proteins).unwrap();
    SsRow::write(dir.path(), &rows).unwrap();
    model(false).save(&dir.path().join("model")).unwrap();
    Gains::equal().save(&dir.path().join("model")).unwrap();

    let results = run(&[dir.path().join("model")], dir.path()).unwrap();
    let names: Vec<&str> = results.iter().map(|r| r.dataset.name.as_str()).collect();
    assert_eq!(names, ["cb513", "pisces"]);
    for result in &results {
        // Accuracy counted again from the letters of the samples.
        let (mut right, mut total) = (0, 0);
        for sample in &result.samples {
            let text = |v: &serde_json::Value| v["q3"].as_str().unwrap().to_owned();
            for (truth, said) in text(&sample.target).chars().zip(text(&sample.resps).chars()) {
                total += u32::from(truth != '?');
                right += u32::from(truth == said);
            }
            assert_eq!(text(&sample.target).chars().nth(2), Some('?'));
        }
        let row = &result.rows[0];
        assert_eq!((row.metric.as_str(), row.value), ("q3_acc", Some(f64::from(right) / f64::from(total))));
        assert_eq!(row.baselines.len(), 9);
        assert!(row.baselines.iter().all(|b| b.value.is_some() && b.gain.is_some()));
        assert_eq!(result.dataset.files.len(), 2);
    }
    let error = format!("{:#}", run(&[dir.path().join("none")], dir.path()).unwrap_err());
    assert!(error.contains("none"), "{error}");
}
