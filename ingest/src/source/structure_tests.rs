use super::*;
use crate::config::Kind;
use crate::source::test_context;

/// A PDB line: `A` marks what the column holds.
fn pdb_line(
    record: &str,
    atom: &str,
    alt: &str,
    residue: &str,
    chain: &str,
    number: &str,
    x: f64,
    b: f64,
) -> String {
    format!(
        "{record:<6}{:>5} {atom:^4}{alt:1}{residue:>3} {chain:1}{number:>5}   {x:8.3}{:8.3}{:8.3}{:6.2}{b:6.2}\n",
        1,
        2.0,
        3.0,
        if alt == "B" { 0.6 } else { 0.4 }
    )
}

fn structure(text: &str, mmcif: bool) -> Structure {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    fs_err::write(&path, text).unwrap();
    let input = Input::open(&path, indicatif::ProgressBar::hidden()).unwrap();
    let mut lines = Lines::new(input);
    if mmcif { self::mmcif::read(&mut lines).unwrap() } else { self::pdb::read(&mut lines).unwrap() }
}

fn sequence(chain: &Polymer) -> String {
    chain.residues.iter().map(|r| r.letter).collect()
}

#[test]
fn first_model_best_place_modified_residues() {
    let mut text =
        String::from("HEADER    MADE UP                                 01-JAN-00   9XYZ              \n");
    for (at, (residue, number)) in [("ALA", "1 "), ("GLY", "1A"), ("LYS", "-2 ")].iter().enumerate() {
        text += &pdb_line("ATOM", "N", " ", residue, "B", number, at as f64, 5.0);
        text += &pdb_line("ATOM", "CA", "A", residue, "B", number, 10.0 + at as f64, 6.0);
        text += &pdb_line("ATOM", "CA", "B", residue, "B", number, 20.0 + at as f64, 7.0);
    }
    text += &pdb_line("HETATM", "CA", " ", "MSE", "B", "7 ", 1.0, 5.0);
    text += &pdb_line("HETATM", "CA", " ", "CA", "B", "90 ", 1.0, 5.0);
    text += &pdb_line("HETATM", "O", " ", "HOH", "W", "91 ", 1.0, 5.0);
    text += &pdb_line("ATOM", "P", " ", "DA", "C", "1 ", 1.0, 5.0);
    text += "ENDMDL\nMODEL        2\n";
    text += &pdb_line("ATOM", "CA", " ", "TRP", "B", "8 ", 1.0, 5.0);
    let read = structure(&text, false);
    assert_eq!((read.id.as_deref(), read.fault.is_none(), read.chains.len()), (Some("9xyz"), true, 2));
    assert_eq!(sequence(&read.chains[0]), "AGKM");
    let ca: Vec<f64> = read.chains[0].residues.iter().map(|r| r.atoms[1].unwrap().0[0]).collect();
    assert_eq!(ca, [20.0, 21.0, 22.0, 1.0]);
    assert!(read.chains[0].residues[0].atoms[2].is_none());
    assert!(read.chains[1].is_nucleic);
    let context = test_context(Kind::Structure);
    let claim = backbone(&context, "9xyz.B", &read.chains[0]).unwrap().claims.remove(0);
    assert_eq!(claim.chain.unwrap().backbone_ang.len(), 4 * 12);
    assert_eq!(backbone(&context, "9xyz.C", &read.chains[1]).unwrap_err().reason, Reason::NotProtein);
    let bad = text.replace("  20.000", "  nan.00");
    assert_eq!(structure(&bad, false).fault.unwrap().1.reason, Reason::BadCoordinates);
}

const CIF: &str = "data_9XYZ\n_entry.id 9XYZ\n_struct.title 'it''s \"made\" up'\n_x.long\n;loop_\n_atom_site.id\n;\n\
    loop_\n_y.a\n_y.b\n1 '2 3'\n# comment\nloop_\n_atom_site.group_PDB\n_atom_site.label_atom_id\n_atom_site.label_comp_id\n\
    _atom_site.label_asym_id\n_atom_site.auth_asym_id\n_atom_site.auth_seq_id\n_atom_site.pdbx_PDB_ins_code\n_atom_site.Cartn_x\n\
    _atom_site.Cartn_y\n_atom_site.Cartn_z\n_atom_site.B_iso_or_equiv\n_atom_site.pdbx_PDB_model_num\n\
    ATOM CA ALA A Q 1 ? 1.0 2.0 3.0 0.5 1\nATOM CA GLY A Q 1 A\n4.0 2.0 3.0 0.75 1\nATOM \"CA\" LYS A Q -2 . 7.0 2.0 3.0 1.0 1\n\
    ATOM \"O5'\" DA B R 1 ? 1.0 2.0 3.0 0.5 1\nATOM CA TRP A Q 8 ? 7.0 2.0 3.0 1.0 2\n#\nloop_\n_z.a\n1\n";

#[test]
fn mmcif_tells_the_same() {
    let read = structure(CIF, true);
    assert!(read.fault.is_none(), "{:?}", read.fault);
    assert_eq!((read.id.as_deref(), read.chains.len()), (Some("9xyz"), 2));
    assert_eq!((read.chains[0].name.as_str(), sequence(&read.chains[0]).as_str()), ("Q", "AGK"));
    assert!(read.chains[1].is_nucleic);
    let context = test_context(Kind::Predicted);
    let claim = confidence(&context, "x", &read.chains[0]).unwrap().claims.remove(0);
    assert_eq!(claim.plddt.unwrap().plddt, [50.0, 75.0, 100.0], "the scale 0-1 of ESMFold");
    let unknown = structure(&CIF.replace("0.75", "?"), true);
    let fault = confidence(&context, "x", &unknown.chains[0]).unwrap_err();
    assert_eq!(fault.reason, Reason::MissingValue, "an unknown confidence is not 0");
    let bad = structure(&CIF.replace("4.0 2.0", "x 2.0"), true);
    assert_eq!(bad.fault.unwrap().1.reason, Reason::BadCoordinates);
    let cut = structure(&CIF[..CIF.find("3.0 0.75").unwrap()], true);
    assert_eq!(cut.fault.unwrap().1.reason, Reason::Malformed);
}

#[test]
fn chains_are_named_as_in_the_chain_set() {
    let chain = Polymer { name: "A".into(), line: 1, residues: vec![], is_nucleic: false };
    let named = |file: &str, id: Option<&str>| name(Path::new(file), id, &chain);
    assert_eq!(named("d/1ABC.pdb.gz", None), "1abc.A");
    assert_eq!(named("d/1ABC_A.cif", None), "1abc.A");
    assert_eq!(named("d/1abc.A.pdb.gz", None), "1abc.A");
    assert_eq!(named("d/pdb1abc.ent.gz", None), "1abc.A");
    assert_eq!(named("d/x.pdb", Some("9xyz")), "9xyz.A");
    assert_eq!(named("d/1A2K_r_u.pdb", None), "1A2K_r_u.A");
    assert_eq!(accession(Path::new("AF-P12345-F1-model_v4.pdb.gz"), &chain, 1), "P12345");
    assert_eq!(accession(Path::new("AF-P12345-F2-model_v4.cif"), &chain, 1), "AF-P12345-F2-model_v4");
    assert_eq!(accession(Path::new("ranked_0.pdb"), &chain, 2), "ranked_0.A");
}
