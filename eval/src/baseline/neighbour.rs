//! The nearest training protein by shared k-mers: what mere similarity knows.

use std::collections::BTreeMap;

/// k-mers of the training sequences, indexed.
#[derive(Debug, Clone)]
pub struct Neighbours {
    k: usize,
    /// (k-mer, sequence number), sorted; each pair once.
    postings: Vec<(u64, u32)>,
}

impl Neighbours {
    /// Indexes sequences by their distinct k-mers, `1 ≤ k ≤ 8`.
    ///
    /// # Errors
    /// Another `k`.
    pub fn new<'a>(k: usize, sequences: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        anyhow::ensure!((1..=8).contains(&k), "k-mers of {k} residues; 1 to 8 are possible");
        let mut postings = Vec::new();
        for (at, sequence) in (0..).zip(sequences) {
            postings.extend(kmers(sequence, k).into_iter().map(|kmer| (kmer, at)));
        }
        postings.sort_unstable();
        Ok(Neighbours { k, postings })
    }

    /// Up to `n` training sequences that share most of the query's k-mers, as (number, containment), best first;
    /// containment is the share of the query's distinct k-mers that the other has, above 0. Ties: the smaller number.
    pub fn nearest(&self, query: &str, n: usize) -> Vec<(usize, f64)> {
        let kmers = kmers(query, self.k);
        let mut shared: BTreeMap<u32, usize> = BTreeMap::new();
        for &kmer in &kmers {
            let from = self.postings.partition_point(|&(other, _)| other < kmer);
            for &(_, at) in self.postings[from..].iter().take_while(|&&(other, _)| other == kmer) {
                *shared.entry(at).or_insert(0) += 1;
            }
        }
        let mut found: Vec<(u32, usize)> = shared.into_iter().collect();
        found.sort_by_key(|&(at, count)| (std::cmp::Reverse(count), at));
        let containment = |(at, count): (u32, usize)| (at as usize, count as f64 / kmers.len() as f64);
        found.into_iter().take(n).map(containment).collect()
    }
}

/// Distinct k-mers, sorted, a byte per residue.
fn kmers(sequence: &str, k: usize) -> Vec<u64> {
    let code = |window: &[u8]| window.iter().fold(0_u64, |code, &letter| code << 8 | u64::from(letter));
    let mut kmers: Vec<u64> = sequence.as_bytes().windows(k).map(code).collect();
    kmers.sort_unstable();
    kmers.dedup();
    kmers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn containment_is_that_of_sets() {
        let train = ["MKTAYIAKQR", "AYIAKWWWWW", "GGGGGGGGGG", "MK"];
        let neighbours = Neighbours::new(3, train).unwrap();
        let query = "TAYIAKGGG";
        let set = |s: &str| s.as_bytes().windows(3).map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
        let share = |s: &str| set(s).intersection(&set(query)).count() as f64 / set(query).len() as f64;
        let mut want: Vec<(usize, f64)> =
            (0..4).map(|i| (i, share(train[i]))).filter(|w| w.1 > 0.0).collect();
        want.sort_by(|a, b| b.1.total_cmp(&a.1));
        assert_eq!(neighbours.nearest(query, 4), want);
        assert_eq!(neighbours.nearest(query, 1).len(), 1);
        assert_eq!(neighbours.nearest("AA", 1), []);
        assert!(Neighbours::new(9, train).is_err());
    }
}
