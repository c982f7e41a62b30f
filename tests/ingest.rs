//! Raw files → tables: every record accounted for, identical bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use crate::kit::{balanced, contents, one, root, section, shared};
use datasets::llm;
use datasets::table::{
    ContradictionRow, DdgRow, FactRow, ProteinRow, QuarantineRow, RepeatRow, Rows, Split, SsRow,
};
use datasets::world::{self, Truth};
use ingest::{Config, Kind, Manifest, Role, Source};

/// A write that fails in the middle, as on a full disk: an error, no temporary folder, the last good tables.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_last_good_tables() {
    let folder = tempfile::tempdir().unwrap();
    world(folder.path(), 97);
    let (data, out) = (folder.path().display(), folder.path().join("out/tables"));
    let recipe = root().join("recipes/quickstart.toml");
    let ingest = format!(
        "{} --threads 1 ingest --config {} --data {data} --out {}",
        env!("CARGO_BIN_EXE_peptalk"),
        recipe.display(),
        out.display()
    );
    let shell = |command: &str| std::process::Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(shell(&ingest).status.success());
    let before = contents(&out);
    // No file may grow beyond 32 KiB; the signal is ignored, so that writing fails as it does without space.
    let full = shell(&format!("trap '' XFSZ; ulimit -f 64; exec {ingest}"));
    let error = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1), "{error}");
    assert!(error.contains("File too large"), "{error}");
    assert!(before == contents(&out), "the last good tables changed");
    assert_eq!(fs_err::read_dir(folder.path().join("out")).unwrap().count(), 1, "temporary files stay");
}

#[test]
fn real_files_are_accounted_for() {
    let Some(data) = shared("data") else { return };
    // The larger files are left to the smoke run over the whole recipe.
    let large = [
        "swissprot",
        "pisces",
        "cb6133",
        "quickgo",
        "sgd",
        "bernett",
        "bernett_test",
        "dscript_yeast",
        "megascale",
    ];
    let mut config = section("real-small.toml");
    config.source.retain(|s| !large.contains(&s.name.as_str()));
    config.kinship.exhaustive_residues = 0; // Rows are counted, not kin.
    let out = tempfile::tempdir().unwrap();
    let manifest = ingest::run(&config, &data, &out.path().join("tables")).unwrap();
    eprintln!("{}", manifest.account());
    balanced(&manifest);
    let rows = |name: &str| {
        let files: Vec<_> = manifest.files.iter().filter(|f| f.source == name).collect();
        files.iter().map(|f| (f.rows_in, f.kept)).collect::<Vec<_>>()
    };
    // Numbers of rows as the provenance of the files states them.
    assert_eq!(rows("mol_instructions").iter().map(|r| r.0).collect::<Vec<_>>(), [72, 88]);
    assert_eq!(rows("cb513"), [(514, 514)]);
    assert_eq!(rows("cb513_netsurfp"), [(511, 511)]);
    assert_eq!(rows("cath")[1], (179, 179));
    assert_eq!(rows("ts50"), [(34, 34)]);
    assert_eq!(rows("go"), [(35_520, 35_520)]);
    assert_eq!(rows("s2648"), [(2_648, 2_648)]);
    assert_eq!(rows("ssym_direct"), [(342, 342)]);
    assert_eq!(rows("afdb"), [(7_430, 7_428)]);
    // Mean ddG: destabilising mutations outnumber the others in every set but the reverse of Ssym.
    let ddg = DdgRow::read(&out.path().join("tables")).unwrap();
    let mean = |source: &str| {
        let values: Vec<f32> = ddg.iter().filter(|d| d.source == source).map(|d| d.ddg_kcal).collect();
        values.iter().sum::<f32>() / values.len() as f32
    };
    // S2648 is averaged with other measurements of the same changes, the benchmarks stay as published.
    for (source, want, tolerance) in
        [("s2648", 1.01, 0.05), ("ssym_direct", 1.02, 0.01), ("ssym_reverse", -1.02, 0.01)]
    {
        assert!((mean(source) - want).abs() < tolerance, "{source}: {}", mean(source));
    }
    assert!(mean("fireprot") > 0.5, "{}", mean("fireprot"));
}

#[test]
#[ignore = "slow: 150 s"]
fn the_whole_recipe_is_accounted_for() {
    let Some(data) = shared("data") else { return };
    let (out, started) = (tempfile::tempdir().unwrap(), std::time::Instant::now());
    let tables = out.path().join("tables");
    let manifest = ingest::run(&section("real-small.toml"), &data, &tables).unwrap();
    eprintln!("{}in {:.1?}", manifest.account(), started.elapsed());
    balanced(&manifest);
    assert!(manifest.largest_clusters[0] < 1_000, "a giant cluster: {:?}", manifest.largest_clusters);
    let mut parts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for protein in ProteinRow::read(&tables).unwrap() {
        for source in &protein.sources {
            *parts.entry((source.clone(), format!("{:?}", protein.split))).or_default() += 1;
        }
    }
    eprintln!("{parts:#?}");
}

/// RAPM's files repeat every answer without its stock opening as `metadata`: an independent check of the cleaning.
#[test]
fn cleaned_answers_are_the_bare_annotations() {
    let Some(data) = shared("data") else { return };
    let out = tempfile::tempdir().unwrap();
    let mut config = section("real-small.toml");
    config.source.retain(|s| s.name == "mol_instructions");
    let tables = out.path().join("tables");
    ingest::run(&config, &data, &tables).unwrap();
    // White space before a full stop goes, too.
    let fold = |text: &str| text.split_whitespace().collect::<String>().trim_end_matches('.').to_owned();
    let mut bare = BTreeMap::new();
    for file in &config.source[0].files {
        let records: Vec<serde_json::Value> =
            serde_json::from_str(&fs_err::read_to_string(data.join(file)).unwrap()).unwrap();
        for record in records {
            let text = |key: &str| record[key].as_str().unwrap().to_owned();
            bare.insert(text("description"), fold(&text("metadata")));
        }
    }
    let facts = FactRow::read(&tables).unwrap();
    assert!(facts.len() > 140, "{}", facts.len());
    for fact in &facts {
        assert_eq!(fold(&fact.text), bare[fact.raw_text.as_ref().unwrap_or(&fact.text)]);
    }
}

fn world(folder: &Path, n_proteins: usize) -> Truth {
    world::write(&world::Config { seed: 7, n_proteins }, folder).unwrap()
}

/// The account of every file is the planted one.
fn matches_truth(manifest: &Manifest, truth: &Truth) {
    for f in &manifest.files {
        let reasons: BTreeMap<String, u64> =
            f.quarantined.iter().map(|(r, n)| (r.name().to_owned(), *n)).collect();
        assert_eq!(f.rows_in, truth.rows[&f.file], "rows of {}", f.file);
        assert_eq!(reasons, truth.quarantine.get(&f.file).cloned().unwrap_or_default(), "{}", f.file);
        assert_eq!(f.merged, truth.merged.get(&f.file).copied().unwrap_or(0), "repeats of {}", f.file);
        assert_eq!(f.kept, truth.kept(&f.file), "rows kept of {}", f.file);
    }
}

fn contradictions_are_facts_of_one_subject(tables: &Path) {
    let facts: BTreeMap<String, FactRow> =
        FactRow::read(tables).unwrap().into_iter().map(|fact| (fact.fact_id.clone(), fact)).collect();
    let rows = ContradictionRow::read(tables).unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        assert!(row.fact_ids.len() > 1, "{row:?}");
        for fact in row.fact_ids.iter().map(|id| &facts[id]) {
            assert_eq!(
                (&fact.protein_id, &fact.task, &fact.question),
                (&row.protein_id, &row.task, &row.question)
            );
        }
    }
}

/// What a plan refuses is quarantined with the text that stands where the record begins.
fn refused_records_keep_their_texts(data: &Path, tables: &Path) {
    let by_plans = ["id_conflict", "no_sequence", "unknown_protein", "self_pair", "label_conflict"];
    let mut seen = BTreeSet::new();
    for row in QuarantineRow::read(tables).unwrap() {
        let Some(reason) = by_plans.iter().find(|reason| **reason == row.reason) else { continue };
        let mut bytes = fs_err::read(data.join(&row.file)).unwrap();
        if row.file.ends_with(".gz") {
            let packed = std::mem::take(&mut bytes);
            flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
        }
        let text = String::from_utf8_lossy(&bytes);
        let first = row.raw.lines().next().unwrap();
        match text.lines().nth(row.line as usize - 1) {
            // Records of JSON are numbered, not their lines.
            _ if row.file.ends_with(".json") => assert!(text.contains(first), "{row:?}"),
            // A long text is cut.
            line => assert!(line.is_some_and(|line| line.starts_with(first)), "{row:?}"),
        }
        seen.insert(*reason);
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[test]
fn the_world_is_counted_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let truth = world(folder.path(), 211);
    let out = folder.path().join("tables");
    let manifest = ingest::run(&section("quickstart.toml"), folder.path(), &out).unwrap();
    insta::assert_snapshot!(manifest.account());
    balanced(&manifest);
    matches_truth(&manifest, &truth);
    families_stay_together(&out, &truth);
    contradictions_are_facts_of_one_subject(&out);
    tasks_are_what_is_drawn_from(&manifest, &out);
    refused_records_keep_their_texts(folder.path(), &out);
    insta::assert_snapshot!("the_parts_of_the_world", manifest.parts());

    // The same bytes on two threads, into a folder that holds an older run.
    let before = contents(&out);
    let two = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    two.install(|| ingest::run(&section("quickstart.toml"), folder.path(), &out)).unwrap();
    assert!(before == contents(&out), "two runs differ");
    assert!(before.len() >= 12 && before.contains_key("go.obo"), "{:?}", before.keys());
    let beside: Vec<_> = fs_err::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().starts_with('.')), "{beside:?}");
}

/// The tasks of the manifest have as many records in every part as training reads from the tables, and are drawn as often.
fn tasks_are_what_is_drawn_from(manifest: &Manifest, tables: &Path) {
    let has_train =
        |task: &&str| manifest.tasks.get(*task).is_some_and(|t| t.parts.contains_key(&Split::Train));
    let tasks: Vec<String> = llm::TASKS.iter().filter(|t| has_train(t)).map(|t| (*t).to_owned()).collect();
    assert!(tasks.len() > 10, "{tasks:?}");
    let options = llm::Options { tasks, max_residues: usize::MAX, max_answer_chars: usize::MAX, go_terms: 3 };
    let records = llm::Records::read(tables, &options, &|terms| terms.to_vec()).unwrap();
    for (split, records) in
        [(Split::Train, &records.train), (Split::Valid, &records.valid), (Split::Test, &records.test)]
    {
        for task in &options.tasks {
            let n = records.iter().filter(|record| record.task == *task).count() as u64;
            let counted = manifest.tasks[task].parts.get(&split).map_or(0, |part| part.records);
            assert_eq!(n, counted, "{task} in {split:?}");
        }
    }
    let drawn = ingest::tasks::draws(&manifest.tasks, 0.25);
    let mixture = llm::Mixture::new(&records.train, 0.25);
    assert_eq!(mixture.shares().count(), drawn.len());
    for (task, _, share) in mixture.shares() {
        assert_eq!(share, drawn[task].share, "{task}");
    }
}

/// Answers that are written otherwise are merged, with the row that they would have been; others stay.
#[test]
fn near_repeats_are_counted_exactly() {
    let folder = tempfile::tempdir().unwrap();
    world(folder.path(), 211);
    let mut config = section("quickstart.toml");
    config.source.retain(|s| ["swissprot", "mol_instructions"].contains(&s.name.as_str()));
    let out = folder.path().join("tables");
    ingest::run(&config, folder.path(), &out).unwrap();
    let sequences: BTreeMap<String, String> =
        ProteinRow::read(&out).unwrap().into_iter().map(|p| (p.protein_id, p.sequence)).collect();
    let facts = FactRow::read(&out).unwrap();
    let chosen: Vec<&FactRow> =
        facts.iter().filter(|f| f.source == "mol_instructions" && f.task == "general").take(17).collect();
    assert_eq!(chosen.len(), 17);
    let mut records = vec![];
    for (nth, fact) in chosen.iter().enumerate() {
        let written = fact.text.trim_end_matches('.').to_lowercase().replace(',', ";");
        for answer in [written, format!("A thing of quite another kind, number {nth}.")] {
            records.push(serde_json::json!({
                "instruction": "Describe it.", "input": format!("```\n{}\n```", sequences[&fact.protein_id]),
                "output": answer, "metadata": { "protein_accession": "", "task": "general function", "split": "train" },
            }));
        }
    }
    records.push(records[1].clone()); // an equal repeat
    records.push(records[0].clone()); // an equal repeat of what is merged
    fs_err::write(folder.path().join("near.json"), serde_json::to_vec(&records).unwrap()).unwrap();
    config
        .source
        .push(Source { name: "near".into(), ..one(Kind::MolInstructions, "near.json").source.remove(0) });

    let counts = |manifest: &Manifest| {
        balanced(manifest);
        let file = manifest.files.iter().find(|f| f.source == "near").unwrap().clone();
        (file.rows_in, file.kept, file.merged, file.merged_near)
    };
    let plain = folder.path().join("plain");
    assert_eq!(counts(&ingest::run(&config, folder.path(), &plain).unwrap()), (36, 34, 2, 0));
    config.near_duplicates = Some(0.9);
    let manifest = ingest::run(&config, folder.path(), &out).unwrap();
    assert_eq!(counts(&manifest), (36, 17, 19, 17));
    assert!(manifest.account().contains("| 19 (17 near) |"), "{}", manifest.account());

    let kept: BTreeMap<String, FactRow> =
        FactRow::read(&out).unwrap().into_iter().map(|f| (f.fact_id.clone(), f)).collect();
    let repeats = RepeatRow::read(&out).unwrap();
    for repeat in &repeats {
        let by = &kept[&repeat.kept_id];
        assert_eq!(
            (&by.protein_id, &by.task, &by.question),
            (&repeat.protein_id, &repeat.task, &repeat.question)
        );
        assert!(
            repeat.similarity >= 0.9 && (repeat.fact_id != by.fact_id || repeat.text == by.text),
            "{repeat:?}"
        );
    }
    // Of the planted ones: 17 written otherwise, one of them twice, and an equal one.
    let planted: Vec<&RepeatRow> = repeats.iter().filter(|r| r.source == "near").collect();
    let near = planted.iter().filter(|r| r.fact_id != r.kept_id).count();
    assert_eq!((planted.len(), near), (19, 18));
    assert!(planted.iter().all(|r| r.similarity == 1.0 && r.licence == "none"));
    // With the near repeats put back, the facts are those without the option.
    let back: BTreeSet<String> =
        repeats.iter().map(|r| r.fact_id.clone()).chain(kept.keys().cloned()).collect();
    let all: BTreeSet<String> = FactRow::read(&plain).unwrap().into_iter().map(|f| f.fact_id).collect();
    assert_eq!(back, all);
    assert!(kept.len() <= all.len() - 17);
    let before = contents(&out);
    let two = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    two.install(|| ingest::run(&config, folder.path(), &out)).unwrap();
    assert!(before == contents(&out), "two runs differ");
}

/// Where all pairs are too many to look at, families stay together all the same, published test sets are held against
/// everything, and the bytes do not depend on the threads.
#[test]
fn a_cascade_splits_where_all_pairs_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let truth = world(folder.path(), 211);
    let mut config = section("quickstart.toml");
    config.kinship.exhaustive_residues = 1_000;
    let out = folder.path().join("tables");
    ingest::run(&config, folder.path(), &out).unwrap();
    families_stay_together(&out, &truth);
    let audit = fs_err::read_to_string(out.join("audit.json")).unwrap();
    let audit: serde_json::Value = serde_json::from_str(&audit).unwrap();
    let n = |key: &str| audit[key].as_u64().unwrap();
    assert!(n("n_searched") > 0 && n("n_searched") < n("n_held_out"), "{audit}");
    let before = contents(&out);
    let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    three.install(|| ingest::run(&config, folder.path(), &out)).unwrap();
    assert!(before == contents(&out), "two runs differ");
}

#[test]
fn the_other_formats_of_the_world_are_counted_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let truth = world(folder.path(), 211);
    let source = |kind: &str, file: &str, companion: &[&str], role: &str| {
        format!(
            "[[source]]\nname = \"{kind}\"\nkind = \"{kind}\"\nfiles = [\"{file}\"]\ncompanion = {companion:?}\n\
             role = \"{role}\"\nlicence = \"made up\"\n"
        )
    };
    let train = |kind: &str, file: &str| source(kind, file, &[], "train");
    let toml = [
        train("swissprot_xml", "swissprot/madeup_sprot.xml.gz"),
        train("swissprot_fasta", "swissprot/madeup_sprot.fasta.gz"),
        train("swissprot_tsv", "swissprot/madeup_sprot.tsv.gz"),
        train("protein_lm", "instruct/madeup_protein_lm.json"),
        source(
            "swissprot_clap",
            "instruct/madeup_clap_protein_sequence.txt",
            &["instruct/madeup_clap_text_sequence.txt"],
            "train",
        ),
        train("protdescribe", "instruct/madeup_prot_describe.tsv"),
        source("protein2text", "instruct/madeup_protein2text_qa.json", &[], "test"),
        train("cath_domains", "cath/madeup_domain_list.txt"),
        train("structure", "structures/madeup_pdb"),
        train("cgdms", "structures/madeup_cgdms"),
        train("predicted", "structures/madeup_models"),
        train("obo", "go/madeup_go.obo"),
        train("cafa_ia", "go/madeup_IA.txt.gz"),
        train("go_labels", "go/madeup_labels_mf.lm.jsonl.gz"),
        source("string_actions", "ppi/madeup_actions.txt.gz", &["ppi/madeup_dictionary.tsv.gz"], "train"),
        train("ddg_csv", "ddg/madeup_S2648.csv.gz"),
        train("strum", "ddg/madeup_Q.txt"),
        source("bioemu", "ddg/madeup_folding_free_energies.csv", &[], "test"),
    ];
    let config: Config = toml::from_str(&toml.concat()).unwrap();
    let out = folder.path().join("tables");
    let manifest = ingest::run(&config, folder.path(), &out).unwrap();
    eprintln!("{}", manifest.account());
    balanced(&manifest);
    matches_truth(&manifest, &truth);
    assert!(manifest.tables.values().filter(|&&n| n > 0).count() >= 10, "{:?}", manifest.tables);
}

#[test]
fn reversed_files_are_turned_round() {
    let folder = tempfile::tempdir().unwrap();
    let truth = world(folder.path(), 97);
    let source = |name: &str, file: &str, reversed: bool| Source {
        name: name.into(),
        kind: Kind::SsCsv,
        files: vec![file.into()],
        companion: vec![],
        role: Role::Train,
        exclude_homologs: false,
        reversed,
        licence: "made up".into(),
    };
    let mut config = section("quickstart.toml");
    config.source = vec![source("nppe2", "ss/madeup_nppe2_train.csv", true)];
    config.source.push(source("nppe2_test", "ss/madeup_nppe2_test.csv", true));
    let out = folder.path().join("tables");
    let manifest = ingest::run(&config, folder.path(), &out).unwrap();
    balanced(&manifest);
    matches_truth(&manifest, &truth);
    let rows = SsRow::read(&out).unwrap();
    let known = |ids: &[SsRow]| ids.iter().filter(|r| truth.motifs.contains_key(&r.protein_id)).count();
    assert!(rows.len() > 3 && known(&rows) == rows.len(), "{} of {} forward", known(&rows), rows.len());
    assert!(
        rows.iter()
            .filter(|r| r.source == "nppe2_test")
            .all(|r| r.q8.bytes().all(|b| b == b'?') && !r.mask.contains('1'))
    );
}

/// Planted families are in one cluster and one part each; strangers are not; leaks are out of training.
fn families_stay_together(tables: &Path, truth: &Truth) {
    let proteins = ProteinRow::read(tables).unwrap();
    let row: BTreeMap<&str, &ProteinRow> = proteins.iter().map(|p| (p.protein_id.as_str(), p)).collect();
    let family: BTreeMap<&str, usize> =
        truth.families.iter().flat_map(|(n, ids)| ids.iter().map(|id| (id.as_str(), *n))).collect();
    let known = |ids: &BTreeSet<String>| -> Vec<&ProteinRow> {
        ids.iter().filter_map(|id| row.get(id.as_str()).copied()).collect()
    };
    let (mut joined, mut all) = (0, 0);
    for members in truth.families.values().map(known) {
        for (i, a) in members.iter().enumerate() {
            for b in &members[..i] {
                all += 1;
                joined += usize::from(a.cluster == b.cluster);
            }
        }
    }
    // Mutants and planted rows belong to no family; a single protein is a stranger to everyone.
    let mut clusters: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for id in truth.motifs.keys().filter_map(|id| row.get(id.as_str())) {
        let kin = family.get(id.protein_id.as_str()).map_or(id.protein_id.clone(), ToString::to_string);
        clusters.entry(&id.cluster).or_default().insert(kin);
    }
    let mixed = clusters.values().filter(|of| of.len() > 1).count();
    eprintln!("{joined} of {all} pairs of a family joined; {mixed} of {} clusters mixed", clusters.len());
    assert!(all > 20 && joined as f64 >= 0.9 * all as f64, "{joined} of {all} pairs of families joined");
    assert!(mixed as f64 <= 0.05 * clusters.len() as f64, "{mixed} clusters hold strangers");
    for leak in &truth.leaks.exact {
        assert_eq!(row[leak.as_str()].split, Split::Test, "{leak} is in a test set");
    }
    let near = truth.near_duplicates.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
    for (a, b) in near.filter_map(|(a, b)| Some((row.get(a.as_str())?, row.get(b.as_str())?))) {
        assert!(a.split != Split::Train || matches!(b.split, Split::Train), "{a:?} {b:?}");
    }
}
