//! Relatives by MMseqs2, where a recipe names the program: whoever it links is in one cluster, too.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use homology::Kinship;

use crate::Error;
use crate::dedup::ProteinClaim;

/// The columns that are asked for.
const COLUMNS: &str = "query,target,fident,qcov,tcov";

/// Pairs of proteins, `i < j`, sorted, that the program aligns as `rule` asks: significant among all proteins, alike, and over enough
/// of the shorter one. It searches at its highest sensitivity, all with all. `place`: a folder for its files.
///
/// # Errors
/// [`Error::Mmseqs`]; I/O.
pub(crate) fn relatives(
    program: &str,
    rule: &Kinship,
    proteins: &[ProteinClaim],
    place: &Path,
) -> Result<Vec<(usize, usize)>, Error> {
    let fault = |detail: String| Error::Mmseqs { program: program.into(), detail };
    fs::create_dir_all(place)?;
    let mut fasta = BufWriter::new(fs::File::create(place.join("proteins.fasta"))?);
    for (i, protein) in proteins.iter().enumerate() {
        writeln!(fasta, ">{i}\n{}", protein.sequence)?;
    }
    fasta.flush()?;
    let threads = rayon::current_num_threads().to_string();
    let evalue = rule.evalue.to_string();
    let done = Command::new(program)
        .current_dir(place)
        .args(["easy-search", "proteins.fasta", "proteins.fasta", "pairs.tsv", "work"])
        .args(["-s", "7.5", "-e", &evalue, "--max-seqs", "100000", "--threads", &threads, "-v", "1"])
        .args(["--format-output", COLUMNS])
        .output()
        .map_err(|error| fault(error.to_string()))?;
    if !done.status.success() {
        let said = [done.stdout, done.stderr].concat();
        let last = String::from_utf8_lossy(&said).trim().lines().last().unwrap_or_default().to_owned();
        return Err(fault(format!("{}: {last}", done.status)));
    }
    let mut pairs = Vec::new();
    for line in BufReader::new(fs::File::open(place.join("pairs.tsv"))?).lines() {
        let line = line?;
        let (pair, is_kin) =
            read(&line, rule, proteins.len()).ok_or_else(|| fault(format!("it wrote {line:?}")))?;
        if is_kin && pair.0 != pair.1 {
            pairs.push((pair.0.min(pair.1), pair.0.max(pair.1)));
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    Ok(pairs)
}

/// A pair, and whether its alignment is alike and long enough.
fn read(line: &str, rule: &Kinship, n: usize) -> Option<((usize, usize), bool)> {
    let fields: Vec<&str> = line.split('\t').collect();
    let &[query, target, identity, of_query, of_target] = fields.as_slice() else { return None };
    let pair: (usize, usize) = (query.parse().ok()?, target.parse().ok()?);
    let [identity, of_query, of_target]: [f64; 3] =
        [identity.parse().ok()?, of_query.parse().ok()?, of_target.parse().ok()?];
    // Of the shorter one the alignment covers the larger share.
    let is_kin = identity >= rule.identity && of_query.max(of_target) >= rule.coverage;
    (pair.0 < n && pair.1 < n).then_some((pair, is_kin))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_the_program_writes_is_read_and_its_faults_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("mmseqs");
        let protein = |id: &str| ProteinClaim {
            protein_id: id.into(),
            sequence: "MKTAYIAKQR".into(),
            accessions: vec![],
            sources: vec![],
            test: false,
        };
        let proteins = ["a", "b", "c"].map(protein);
        let ask = |script: &str| {
            fs::write(&program, format!("#!/bin/sh\nset -e\ntest $1 = easy-search\n{script}\n")).unwrap();
            fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            relatives(program.to_str().unwrap(), &Kinship::default(), &proteins, &folder.path().join("place"))
        };
        let columns = r"printf '0\t0\t1\t1\t1\n2\t0\t.31\t.2\t.6\n0\t2\t.31\t.6\t.2\n1\t0\t.29\t1\t1\n1\t2\t.9\t.4\t.4\n' > $4";
        assert_eq!(ask(&format!("grep -c '>' $2 | grep -qx 3\n{columns}")).unwrap(), [(0, 2)]);
        for (script, words) in [
            ("echo no memory >&2; exit 3", ["exit status: 3", "no memory"]),
            ("echo 0 1 > $4", ["it wrote \"0 1\"", "hint:"]),
            (r"printf '0\t3\t1\t1\t1\n' > $4", ["it wrote", "hint:"]),
        ] {
            let error = ask(script).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        fs::remove_file(&program).unwrap();
        let gone = relatives(program.to_str().unwrap(), &Kinship::default(), &proteins, folder.path());
        assert!(gone.unwrap_err().to_string().contains("hint:"));
    }
}
