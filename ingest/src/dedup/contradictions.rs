//! Facts that do not agree: one question, or one task, about one protein, and several answers that share nothing.

use std::collections::{BTreeMap, BTreeSet};

use datasets::table::ContradictionRow;

use super::facts::Claimed;
use crate::claim;
use crate::parse::facts::Row;

/// Every protein and task (and question, where there is one) that these facts answer in several ways, in their order.
///
/// To a question each fact is an answer. Without one, an answer is all that one entry of one source says: an entry has
/// several keywords, and two entries contradict each other only if they have none in common. Case, and a full stop at the
/// end, make no other answer.
pub(super) fn contradictions(facts: &[&Claimed<'_>]) -> Vec<ContradictionRow> {
    // Most proteins are spoken of by one entry, which does not contradict itself.
    let is_one_entry = |a: &Claimed<'_>, b: &Claimed<'_>| {
        a.source.name == b.source.name && a.row.accession == b.row.accession && b.row.question.is_empty()
    };
    if facts.first().is_none_or(|first| facts.iter().all(|of| is_one_entry(first, of))) {
        return vec![];
    }
    let mut subjects: BTreeMap<(u128, &str, &str), Vec<&Claimed<'_>>> = BTreeMap::new();
    for fact in facts {
        subjects.entry((fact.row.protein, fact.row.task, fact.row.question)).or_default().push(fact);
    }
    let listed = subjects.into_iter().filter(|(_, facts)| differ(facts));
    let row = |((protein, task, question), facts): ((u128, &str, &str), Vec<&Claimed<'_>>)| {
        let ids: BTreeSet<u128> = facts.iter().map(|fact| fact.row.id).collect();
        let sources: BTreeSet<&str> = facts.iter().map(|fact| fact.source.name.as_str()).collect();
        ContradictionRow {
            protein_id: claim::id(protein),
            task: task.to_owned(),
            question: question.to_owned(),
            fact_ids: ids.into_iter().map(claim::id).collect(),
            sources: sources.into_iter().map(str::to_owned).collect(),
        }
    };
    listed.map(row).collect()
}

/// Whether two of the answers have nothing in common.
fn differ(facts: &[&Claimed<'_>]) -> bool {
    let mut texts: BTreeMap<(&str, &str, usize), Vec<&str>> = BTreeMap::new();
    for (at, fact) in facts.iter().enumerate() {
        let Row { accession, question, text, .. } = fact.row;
        let own = if question.is_empty() { 0 } else { at };
        texts.entry((&fact.source.name, accession, own)).or_default().push(text);
    }
    if texts.len() == 1 {
        return false;
    }
    let said = |text: &str| text.trim().trim_end_matches('.').to_lowercase();
    let answers = texts.into_values().map(|texts| texts.into_iter().map(said).collect());
    let answers: Vec<BTreeSet<String>> = answers.collect::<BTreeSet<_>>().into_iter().collect();
    answers.iter().enumerate().any(|(at, one)| answers[at + 1..].iter().any(|other| one.is_disjoint(other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    /// Facts of one protein, each of a source and entry, `a/1`, with task, question and text.
    fn listed(facts: &[[&'static str; 4]]) -> Vec<(String, String, usize, Vec<String>)> {
        let source = |entry: &str| {
            let source = crate::source::test_context(crate::Kind::Protein2text).source;
            Source { name: entry[..1].into(), ..source }
        };
        let sources: Vec<Source> = facts.iter().map(|of| source(of[0])).collect();
        let claimed = |(source, &[entry, task, question, text]): (_, &[&'static str; 4])| {
            // The id follows from protein, task, question and text.
            let id = text.bytes().fold(0, |id, byte| id << 8 | u128::from(byte));
            Claimed {
                source,
                row: Row { id, accession: &entry[2..], task, question, text, ..Row::default() },
            }
        };
        let claimed: Vec<Claimed<'_>> = sources.iter().zip(facts).map(claimed).collect();
        let rows = contradictions(&claimed.iter().collect::<Vec<_>>()).into_iter();
        rows.map(|row| (row.task, row.question, row.fact_ids.len(), row.sources)).collect()
    }

    #[test]
    fn entries_contradict_each_other_when_they_have_nothing_in_common() {
        let one = [["a/1", "ec", "", "3.1.1.1"], ["a/1", "ec", "", "2.7.1.1"]];
        assert_eq!(listed(&one), []);
        let agreeing = [&one[..], &[["b/9", "ec", "", "2.7.1.1"]]].concat();
        assert_eq!(listed(&agreeing), []);
        let other = [&agreeing[..], &[["b/7", "ec", "", "4.2.1.1"]]].concat();
        assert_eq!(listed(&other), [("ec".into(), String::new(), 3, vec!["a".into(), "b".into()])]);
        let written = [["a/1", "function", "", "Binds RNA."], ["b/1", "function", "", "binds RNA"]];
        assert_eq!(listed(&written), []);
    }

    #[test]
    fn a_question_has_one_answer() {
        let asked = |text| ["a/1", "qa", "Is it an enzyme?", text];
        assert_eq!(listed(&[asked("Yes."), asked("yes")]), []);
        let both = [asked("yes"), asked("no"), ["a/1", "qa", "Where is it?", "In the nucleus"]];
        assert_eq!(listed(&both), [("qa".into(), "Is it an enzyme?".into(), 2, vec!["a".into()])]);
    }
}
