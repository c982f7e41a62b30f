//! Real files of every format, against what others say of them: every record accounted for, sequences, names and
//! confidences as in the indices beside the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::kit::{balanced, root, section, shared};
use datasets::table::{ChainRow, DdgRow, DomainRow, GoRow, PlddtRow, PpiRow, ProteinRow, Rows, Split};
use ingest::{Config, Manifest};

/// The sources of the recipe that names all, or the named ones. Which proteins are kin is not asked here: sketches are
/// enough.
fn all_sources(only: &[&str]) -> Config {
    let mut config = section("all-sources.toml");
    config.kinship.exhaustive_residues = 0;
    config.source.retain(|s| only.is_empty() || only.contains(&s.name.as_str()));
    config
}

fn ingest(config: &Config, data: &Path, tables: &Path) -> Manifest {
    let manifest = ingest::run(config, data, tables).unwrap();
    balanced(&manifest);
    manifest
}

/// Records read, kept, merged of all files of a source.
fn counts(manifest: &Manifest, source: &str) -> (u64, u64, u64) {
    let files = manifest.files.iter().filter(|f| f.source == source);
    files.fold((0, 0, 0), |n, f| (n.0 + f.rows_in, n.1 + f.kept, n.2 + f.merged))
}

/// Rows of a TSV with a header, as columns by name.
fn table(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs_err::read_to_string(path).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let row = |line: &str| names.iter().zip(line.split('\t')).map(|(n, v)| ((*n).into(), v.into())).collect();
    lines.map(row).collect()
}

fn sequences(tables: &Path) -> BTreeMap<String, String> {
    ProteinRow::read(tables).unwrap().into_iter().map(|p| (p.protein_id, p.sequence)).collect()
}

#[test]
fn structures_are_those_of_their_index() {
    let Some(data) = shared("data") else { return };
    let out = tempfile::tempdir().unwrap();
    let tables = out.path().join("tables");
    let manifest = ingest(&all_sources(&["pdb", "cgdms", "cath_list"]), &data, &tables);
    // 502 small chains are in the index; the files hold larger ones and nucleic acids, too.
    assert_eq!(counts(&manifest, "pdb").0, 628 + 19_752, "chains and names of the split");
    assert_eq!(counts(&manifest, "cgdms").0, 1_670 + 19_752);
    let (sequences, chains) = (sequences(&tables), ChainRow::read(&tables).unwrap());
    let known: BTreeSet<&str> = chains.iter().map(|c| sequences[&c.protein_id].as_str()).collect();
    let index = table(&data.join("struct_pdb/index.tsv"));
    // The index leaves out modified residues other than selenomethionine: three chains have some.
    let missing: Vec<&str> = index
        .iter()
        .filter(|row| !known.contains(row["sequence_observed"].as_str()))
        .map(|row| row["file"].as_str())
        .collect();
    assert_eq!(missing, ["1KDX_B.pdb.gz", "1ONC.pdb.gz", "2HPR.pdb.gz"]);
    let by_id: BTreeMap<&str, &ChainRow> = chains.iter().map(|c| (c.chain_id.as_str(), c)).collect();
    let mut named = 0;
    for row in index.iter().filter(|row| !row["cath42_name"].is_empty()) {
        // Processed complexes (`1AZS_r_b-matched`) and variants keep their own names.
        let Some(chain) = by_id.get(row["cath42_name"].as_str()) else { continue };
        assert_eq!(chain.published_split, row["cath42_split"], "{row:?}");
        named += 1;
    }
    assert!(named > 35, "{named}");
    let of_cgdms = chains.iter().filter(|c| c.source == "cgdms");
    let by_id: BTreeMap<&str, &ChainRow> = of_cgdms.map(|c| (c.chain_id.as_str(), c)).collect();
    let index = table(&data.join("struct_cgdms/index.tsv"));
    for row in &index {
        let (structure, name) = row["chain"].split_once('_').unwrap();
        let chain = by_id[format!("{}.{name}", structure.to_lowercase()).as_str()];
        assert_eq!(sequences[&chain.protein_id].len().to_string(), row["length"], "{row:?}");
        assert_eq!(chain.published_split, row["cath42_split"], "{row:?}");
        // The nodes of the split (CATH 4.2) if it has some, else those of the lists: `1a92A00=4.10.220.40`.
        let listed = row["cath43_domains"].split([',', ';', ' ']).filter_map(|d| d.split_once('='));
        let listed = listed.filter_map(|(_, node)| Some(node.rsplit_once('.')?.0));
        let of_split = row["cath42_nodes"].split([',', ';', ' ']).filter(|n| !n.is_empty());
        let mut want: BTreeSet<&str> = of_split.collect();
        if want.is_empty() {
            want = listed.collect();
        }
        assert!(want.iter().all(|node| chain.cath.iter().any(|c| c == node)), "{row:?}: {:?}", chain.cath);
    }
}

#[test]
fn confidences_are_those_of_their_index() {
    let Some(data) = shared("data") else { return };
    let out = tempfile::tempdir().unwrap();
    let tables = out.path().join("tables");
    let manifest = ingest(&all_sources(&["models", "afdb"]), &data, &tables);
    // Five models are there as PDB and as mmCIF; one is relaxed and unrelaxed: the same confidences.
    assert_eq!(counts(&manifest, "models"), (399, 393, 6));
    let rows = PlddtRow::read(&tables).unwrap();
    let models: BTreeMap<&str, &PlddtRow> =
        rows.iter().filter(|r| r.source == "models").map(|r| (r.accession.as_str(), r)).collect();
    for row in table(&data.join("plddt/af_cluster_index.tsv")) {
        let name = row["file"].strip_prefix("af_cluster/").unwrap().strip_suffix(".pdb.gz").unwrap();
        let model = models[name];
        assert_eq!(model.plddt.len().to_string(), row["residues"], "{name}");
        let least = model.plddt.iter().copied().fold(f32::INFINITY, f32::min);
        for (got, want) in [(model.mean_plddt, "mean_plddt_ca"), (least, "min")] {
            let want: f32 = row[want].parse().unwrap();
            assert!((got - want).abs() < 2e-3, "{name}: {got} {want}");
        }
    }
    assert!(models.contains_key("A9JQL9"), "the accession of an AlphaFold DB file");
}

#[test]
fn mutations_find_their_sequence_by_structure() {
    let Some(data) = shared("data") else { return };
    let out = tempfile::tempdir().unwrap();
    let tables = out.path().join("tables");
    let manifest = ingest(&all_sources(&["s3421", "q3421", "bioemu", "megascale"]), &data, &tables);
    // S3421 was made of Q3421: but for structures that the subset lacks and those whose positions the table gives
    // otherwise, every value is there already.
    assert_eq!(counts(&manifest, "q3421"), (3_421, 0, 3_222));
    // Half of mega-scale's rows are the others written backwards.
    assert_eq!(counts(&manifest, "megascale"), (13_592, 6_796, 6_796));
    let bioemu = manifest.files.iter().find(|f| f.source == "bioemu").unwrap();
    let reasons: BTreeMap<&str, u64> = bioemu.quarantined.iter().map(|(r, n)| (r.name(), *n)).collect();
    // Nineteen mutants have two changes.
    assert_eq!((bioemu.kept, reasons), (263, [("bad_mutation", 19)].into()));
    let rows = DdgRow::read(&tables).unwrap();
    assert_eq!(rows.iter().filter(|r| r.source == "bioemu").count(), 189);
}

#[test]
fn yeast_annotations_join_by_locus() {
    let Some(data) = shared("data") else { return };
    let out = tempfile::tempdir().unwrap();
    let tables = out.path().join("tables");
    let mut config = all_sources(&["swissprot_yeast_table", "sgd"]);
    config.max_length = 6_000; // Dynein heavy chain and midasin, too.
    let manifest = ingest(&config, &data, &tables);
    // 83,616 of 87,711 annotations have a locus that the table names; some of these have the qualifier NOT.
    let sgd = manifest.files.iter().find(|f| f.source == "sgd").unwrap();
    let reasons: BTreeMap<&str, u64> = sgd.quarantined.iter().map(|(r, n)| (r.name(), *n)).collect();
    assert_eq!(sgd.rows_in, 87_711);
    assert!((83_616 - 112..=83_616).contains(&(sgd.kept + sgd.merged)), "{sgd:?}");
    assert_eq!(reasons["negated"], 112);
    assert!(GoRow::read(&tables).unwrap().len() > 60_000);
}

/// The table of docs/data.md; numbers of records as the provenance of the files states them.
#[test]
#[ignore = "slow: minutes in a test build"]
fn every_real_file_is_accounted_for() {
    let Some(data) = shared("data") else { return };
    let out = tempfile::tempdir().unwrap();
    let tables = out.path().join("tables");
    let manifest = ingest(&all_sources(&[]), &data, &tables);
    let read: BTreeMap<&str, u64> = manifest.files.iter().map(|f| (f.file.as_str(), f.rows_in)).collect();
    let stated = [
        ("swissprot/uniprot_entries.dat.gz", 918),
        ("swissprot/emboss_seq.dat.gz", 100),
        ("swissprot/yeast_swissprot.fasta.gz", 6_721),
        ("swissprot/yeast_swissprot.tab.gz", 6_721),
        ("instruct/protein2text_sample_input.json", 3),
        ("ss/nppe2/train.reconstructed.csv.gz", 7_262),
        ("ss/nppe2/test.csv", 1_816),
        ("ss/flip/sequences.fasta.gz", 8_603),
        ("cath/cath-domain-list.subset.txt", 2_643),
        ("cath/cath_v430_dom_seqs_S100_labels.csv.gz", 122_727),
        ("cath/cath_classes_S35.csv.gz", 31_289),
        ("cath/cath-dataset-nonredundant-S40.list", 31_885),
        ("struct_cgdms/cgdms_train_val.tar.gz", 1_670),
        ("go/gene_ontology.1_2.obo.gz", 35_520),
        ("go/goslim_generic.obo", 149),
        ("go/cafa5_IA.txt.gz", 43_248),
        ("go/goa_quickgo.tsv.gz", 52_441),
        ("go/gene_association.sgd.gz", 87_711),
        ("go/pdb_go_mf.lm.jsonl.gz", 2_499),
        ("go/pdb_go_bp.lm.jsonl.gz", 2_499),
        ("go/pdb_go_cc.lm.jsonl.gz", 2_497),
        ("ppi/dscript_yeast_test.tsv.gz", 55_000),
        ("ppi/dscript_yeast.fasta.gz", 5_664),
        ("ppi/protein.actions.SHS27k.STRING.txt.gz", 33_532),
        ("ppi/protein.SHS27k.sequences.dictionary.tsv.gz", 1_260),
        ("ddg/Q3421.txt", 3_421),
        ("ddg/fireprot_train.csv.gz", 2_632),
        ("ddg/fireprot_val.csv.gz", 387),
        ("ddg/bioemu_folding_free_energies.csv", 282),
        ("plddt/afdb_mean_plddt.jsonl.gz", 7_430),
    ];
    for (file, rows) in stated {
        assert_eq!(read[file], rows, "{file}");
    }
    let account = manifest.account();
    let written = fs_err::read_to_string(root().join("docs/data.md")).unwrap();
    assert!(written.contains(&account), "docs/data.md has another table than\n{account}");
    // NPPE-2 is PISCES written backwards: turned round, every chain that is short enough merges with it.
    assert_eq!(counts(&manifest, "nppe2"), (7_262, 0, 7_241));
    // Every pair of SHS27k that is kept says how its proteins interact.
    let ppi = PpiRow::read(&tables).unwrap();
    let shs: Vec<&PpiRow> = ppi.iter().filter(|p| p.source == "shs27k").collect();
    assert!(shs.len() > 2_500 && shs.iter().all(|p| p.label && !p.modes.is_empty()), "{}", shs.len());
    assert!(DomainRow::read(&tables).unwrap().len() > 180_000);
    // What is published for testing is nowhere in training.
    let proteins = ProteinRow::read(&tables).unwrap();
    let published = ["protein2text", "nppe2_test", "pdb_go", "bernett_test", "ts50", "bioemu", "cb513"];
    for protein in proteins.iter().filter(|p| p.sources.iter().any(|s| published.contains(&s.as_str()))) {
        assert_eq!(protein.split, Split::Test, "{protein:?}");
    }
}
