//! Clusters of the proteins of a FASTA file, by the cascade of [`homology`].

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use datasets::residue;
use homology::{Cascade, LEVEL_COVERAGE, Level, encode};
use indicatif::ProgressBar;

use crate::Error;
use crate::fasta::Entries;
use crate::reader::{Input, Lines};

/// Levels of a cascade, from the highest identity to the lowest.
pub const IDENTITIES: [f64; 3] = [0.9, 0.5, 0.3];
/// Least fraction of the longer protein that an alignment with the centre of its cluster covers.
pub const COVERAGE: f64 = LEVEL_COVERAGE;
/// Highest E-value of that alignment, in the space of all residues of the file.
const EVALUE: f64 = 1e-3;

/// How many clusters a level has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Count {
    /// Identity of the level.
    pub identity: f64,
    /// Its clusters.
    pub n_clusters: usize,
}

/// Clusters the proteins of a FASTA file (gzip or not) at every identity, each level among the centres of the one
/// before, and writes a table `id`, `cluster_90`, `cluster_50`, … with the ids of the centres, in the order of the file.
///
/// The same proteins give the same clusters in any order and on any number of threads (rayon's current number is used).
/// Memory: what the sequences take three times, and 16 bytes for each of at most 60 words of a protein, 512 MiB of
/// these at most.
///
/// # Errors
/// I/O; identities that do not fall, or lie with the coverage outside of 0 to 1; an entry that is no protein, or an id
/// that comes twice.
pub fn cluster(fasta: &Path, out: &Path, identities: &[f64], coverage: f64) -> Result<Vec<Count>, Error> {
    let is_fraction = |x: &f64| *x > 0.0 && *x <= 1.0;
    let falls = identities.is_sorted_by(|a, b| a > b) && !identities.is_empty();
    if !falls || !identities.iter().chain([&coverage]).all(is_fraction) {
        let got = identities.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        return Err(Error::Levels { got, coverage });
    }
    let (ids, proteins) = read(fasta)?;
    let mut cascade = Cascade::new(&proteins);
    drop(proteins);
    let (mut levels, mut counts) = (Vec::new(), Vec::new());
    for &identity in identities {
        cascade.descend(Level { identity, coverage, evalue: EVALUE });
        let centres = cascade.centres();
        let n_clusters = centres.iter().enumerate().filter(|(i, centre)| i == *centre).count();
        counts.push(Count { identity, n_clusters });
        levels.push(centres);
    }
    datasets::atomic_write::<Error>(out, |file| {
        let mut file = std::io::BufWriter::new(file);
        let names = identities.iter().map(|identity| format!("\tcluster_{}", percent(*identity)));
        writeln!(file, "id{}", names.collect::<String>())?;
        for (i, id) in ids.iter().enumerate() {
            let centres = levels.iter().map(|centres| format!("\t{}", ids[centres[i]]));
            writeln!(file, "{id}{}", centres.collect::<String>())?;
        }
        Ok(file.flush()?)
    })?;
    Ok(counts)
}

/// `90`, `62.5`.
fn percent(identity: f64) -> f64 {
    (1e4 * identity).round() / 1e2
}

/// Ids and letters of all entries.
fn read(fasta: &Path) -> Result<(Vec<String>, Vec<Vec<u8>>), Error> {
    let mut entries = Entries::open(Lines::new(Input::open(fasta, ProgressBar::hidden())?))?;
    let (mut ids, mut proteins) = (Vec::new(), Vec::new());
    let mut known = BTreeSet::new();
    while let Some(entry) = entries.next()? {
        let bad = |detail: String| Error::Format {
            path: fasta.into(),
            place: format!("line {}", entry.line),
            detail,
            hint: "every entry must be a protein with an id of its own; take this one out".into(),
        };
        if let Some(fault) = &entry.fault {
            return Err(bad(fault.detail.clone()));
        }
        let id = entry.id().to_owned();
        let sequence = residue::normalise(&entry.text).map_err(|error| bad(format!("{id:?}: {error}")))?;
        if !known.insert(id.clone()) {
            return Err(bad(format!("the id {id:?} came before")));
        }
        ids.push(id);
        proteins.push(encode(&sequence));
    }
    Ok((ids, proteins))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKRQ";

    #[test]
    fn levels_become_columns() {
        let folder = tempfile::tempdir().unwrap();
        let (fasta, out) = (folder.path().join("in.fasta"), folder.path().join("out.tsv"));
        let near = A.replace("KSHF", "RSHY").replace("GDGT", "");
        let far = "GGDWECLNPHVTRAMEIYKSFWDNCHQLPTTEMRYVAGHIKDSPWFLCNQRE";
        fs_err::write(&fasta, format!(">a one\n{A}\n>b\n{far}\n>c\n{near}\n>d\n{A}\n")).unwrap();
        let counts = cluster(&fasta, &out, &[0.99, 0.625], 0.8).unwrap();
        assert_eq!(counts.iter().map(|c| c.n_clusters).collect::<Vec<_>>(), [3, 2]);
        let want = "id\tcluster_99\tcluster_62.5\na\ta\ta\nb\tb\tb\nc\tc\ta\nd\ta\ta\n";
        assert_eq!(fs_err::read_to_string(&out).unwrap(), want);
    }

    #[test]
    fn what_cannot_be_clustered_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (fasta, out) = (folder.path().join("in.fasta"), folder.path().join("out.tsv"));
        let fails = |text: String, identities: &[f64]| {
            fs_err::write(&fasta, text).unwrap();
            cluster(&fasta, &out, identities, 0.8).unwrap_err().to_string()
        };
        let error = fails(format!(">a\n{A}\n>a\n{A}\n"), &[0.5]);
        assert!(error.contains("line 3") && error.contains("came before"), "{error}");
        let error = fails(format!(">a\n{A}\n>b\nMK7\n"), &[0.5]);
        assert!(error.contains("line 3") && error.contains("hint:"), "{error}");
        for identities in [&[][..], &[0.5, 0.9], &[1.5], &[0.0]] {
            assert!(fails(format!(">a\n{A}\n"), identities).contains("hint: "));
        }
        assert!(!out.exists());
    }
}
