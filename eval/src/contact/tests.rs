use models::Weights;
use models::fold::ContactConfig;

use super::*;

fn model() -> ContactClassifier {
    let config = ContactConfig {
        n_tokens: residue::N_TOKENS,
        n_classes: CATH_CLASSES.len(),
        single: 6,
        conv_layers: 1,
        kernel: 3,
        pair: 5,
        outer: 2,
        triangle: 3,
        blocks: 1,
        relpos: 4,
        dropout: 0.1,
    };
    ContactClassifier::new(config, Weights::random(|name| datasets::rng(3, name, 0))).unwrap()
}

fn sequence(i: usize) -> String {
    (0..9 + i * 13 % 17).map(|j| residue::LETTERS[(i * 7 + j * (i + 3)) % 20] as char).collect()
}

#[test]
fn a_prediction_does_not_depend_on_its_neighbours() {
    let sequences: Vec<String> = (0..11).map(sequence).collect();
    let texts: Vec<&str> = sequences.iter().map(String::as_str).collect();
    for (text, found) in texts.iter().zip(predict(&model(), &texts).unwrap()) {
        assert_eq!(found.contacts.len(), text.len() * text.len());
        assert!(found.classes.contains(&true));
        assert_eq!(predict(&model(), &[text]).unwrap()[0], found);
    }
}

#[test]
fn every_row_stands_beside_its_floor() {
    let dir = tempfile::tempdir().unwrap();
    let (mut proteins, mut chains) = (vec![], vec![]);
    for i in 0..13usize {
        let sequence = sequence(i);
        // A coil of 4 residues a turn: i touches i + 8.
        let place = |at: usize| {
            let angle = at as f32 * 1.57;
            [5.0 * angle.cos(), 5.0 * angle.sin(), 0.9 * at as f32]
        };
        chains.push(ChainRow {
            chain_id: format!("{i}.A"),
            protein_id: format!("p{i}"),
            source: "cath".into(),
            backbone_ang: (0..sequence.len()).flat_map(|at| place(at).repeat(4)).collect(),
            cath: match i % 4 {
                0 => vec!["1.10.8".into(), "3.40.50".into()],
                3 => vec![],
                _ => vec!["3.40.50".into()],
            },
            published_split: String::new(),
        });
        proteins.push(ProteinRow {
            protein_id: format!("p{i}"),
            sequence,
            accessions: vec![],
            sources: vec![],
            cluster: format!("c{i}"),
            split: if i < 6 { Split::Train } else { Split::Test },
        });
    }
    ProteinRow::write(dir.path(), &proteins).unwrap();
    ChainRow::write(dir.path(), &chains).unwrap();
    model().save(&dir.path().join("model")).unwrap();
    let results = run(&dir.path().join("model"), dir.path()).unwrap();
    let rows = &results[0].rows;
    assert_eq!(rows.len(), 10);
    let first = &rows[0];
    assert_eq!((first.metric.as_str(), first.filter.as_str(), first.n), ("precision_l", "sep6", 7));
    let means: Vec<f64> =
        results[0].samples.iter().filter_map(|s| s.metrics["precision_l"].as_f64()).collect();
    assert!((first.value.unwrap() - means.iter().sum::<f64>() / means.len() as f64).abs() < 1e-12);
    // Which pairs touch depends on their distance along this chain alone, so the prior is better than random weights.
    assert!(first.baselines[0].value.unwrap() > first.value.unwrap());
    // The majority is `3` alone: right for i = 6, 9, 10, wrong for 8 and 12; 7 and 11 are unknown.
    let class = rows.last().unwrap();
    assert_eq!((class.metric.as_str(), class.baselines[0].value), ("class_acc", Some(3.0 / 5.0)));
    assert_eq!(results[0].samples[0].resps["top_pairs"].as_array().unwrap().len().min(1), 1);
}
