//! What CATH says of its domains: `CathDomainList` (CLF 2.0), domain and code (`1pugC00,3.30.1310.10`), identifier and
//! class (`cath|4_2_0|1oaiA00/561-619,Mainly Alpha`), or a bare list of domain ids (S40).

use crate::Error;
use crate::claim::{Claim, Domain};
use crate::reader::Lines;
use crate::reason::{Fault, Reason};
use crate::source::{Context, Parsed, Sink};

/// Reads one file; every line tells its own layout.
pub(crate) fn read(_: &Context, mut lines: Lines<'_>, sink: &mut Sink) -> Result<(), Error> {
    let is_comment = |text: &str| text.starts_with('#') || text.trim() == "identifier,label";
    sink.records(|| lines.next_but(is_comment), |line| parse(&line.text))
}

fn parse(text: &str) -> Result<Parsed, Fault> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (id, node) = match (&words[..], text.split_once(',')) {
        (&[id, c, a, t, h, ..], None) if words.len() == 12 => (id.to_owned(), format!("{c}.{a}.{t}.{h}")),
        (_, Some((id, label))) => {
            // `cath|4_2_0|1oaiA00/561-619`: the release before, the residues after.
            let id = id.rsplit('|').next().unwrap_or(id).split('/').next().unwrap_or(id);
            (id.trim().to_owned(), node(label.trim())?)
        }
        (&[id], None) => (id.to_owned(), String::new()),
        _ => return Err(Fault::new(Reason::Malformed, format!("{} columns fit no CATH list", words.len()))),
    };
    if !node.is_empty() && !node.split('.').all(|part| part.parse::<u32>().is_ok()) {
        return Err(Fault::new(Reason::BadLabel, format!("{node:?} is no CATH node")));
    }
    let chain = chain(&id).ok_or_else(|| Fault::new(Reason::Malformed, format!("{id:?} is no domain id")))?;
    let domain = Domain { domain_id: id, node };
    Ok(Claim { accession: chain, domain: Some(domain.into()), ..Claim::default() }.into())
}

/// A class by its name or a code.
fn node(label: &str) -> Result<String, Fault> {
    const CLASSES: [(&str, &str); 4] =
        [("mainly alpha", "1"), ("mainly beta", "2"), ("alpha beta", "3"), ("few secondary structures", "4")];
    if label.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(label.to_owned());
    }
    let name = label.to_ascii_lowercase().replace('-', " ");
    let class = CLASSES.iter().find(|(class, _)| *class == name);
    class
        .map(|(_, node)| (*node).to_owned())
        .ok_or_else(|| Fault::new(Reason::BadLabel, format!("{label:?} is no CATH class")))
}

/// `1oai.A` of `1oaiA00`. Chain 0 is CATH's way to write a chain without a name.
fn chain(domain: &str) -> Option<String> {
    let (structure, rest) = (domain.get(..4)?, domain.get(4..)?);
    let is_domain = domain.len() == 7
        && structure.starts_with(|c: char| c.is_ascii_digit())
        && structure.bytes().all(|b| b.is_ascii_alphanumeric())
        && rest.is_ascii()
        && rest[1..].bytes().all(|b| b.is_ascii_digit());
    is_domain.then(|| format!("{}.{}", structure.to_ascii_lowercase(), &rest[..1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_names_chain_and_node() {
        let read = |text: &str| {
            let claim = parse(text).map_err(|f| f.reason)?.claims.remove(0);
            let domain = claim.domain.unwrap();
            Ok((domain.domain_id, claim.accession, domain.node))
        };
        let want = |id: &str, chain: &str, node: &str| Ok((id.to_owned(), chain.to_owned(), node.to_owned()));
        let clf = "1oaiA00     1    10     8    10     1     1     1     1     1    59 1.000";
        assert_eq!(read(clf), want("1oaiA00", "1oai.A", "1.10.8.10"));
        assert_eq!(read("3tnlA02,3.40.50.720"), want("3tnlA02", "3tnl.A", "3.40.50.720"));
        assert_eq!(read("cath|4_2_0|3frhA01/-1-56,Mainly Alpha"), want("3frhA01", "3frh.A", "1"));
        assert_eq!(read("132lA00"), want("132lA00", "132l.A", ""));
        assert_eq!(read("1oaiA00,3.x.1"), Err(Reason::BadLabel));
        assert_eq!(read("1oaiA00,Mainly Gamma"), Err(Reason::BadLabel));
        assert_eq!(read("oaiA00"), Err(Reason::Malformed));
        assert_eq!(read("1oaiA00 1 10"), Err(Reason::Malformed));
        assert_eq!(read("1oaiÄ0"), Err(Reason::Malformed));
    }
}
