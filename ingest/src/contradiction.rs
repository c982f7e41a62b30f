//! Facts that do not agree: one question, or one task, about one protein, and several answers that share nothing.

use std::collections::{BTreeMap, BTreeSet};

use datasets::table::{ContradictionRow, FactRow};

/// Every protein and task (and question, where there is one) that these facts answer in several ways, in their order.
///
/// To a question each fact is an answer. Without one, an answer is all that one entry of one source says: an entry has
/// several keywords, and two entries contradict each other only if they have none in common. Case, and a full stop at the
/// end, make no other answer.
pub(crate) fn contradictions(facts: &[FactRow]) -> Vec<ContradictionRow> {
    let mut subjects: BTreeMap<(&str, &str, &str), Vec<&FactRow>> = BTreeMap::new();
    for fact in facts {
        subjects.entry((&fact.protein_id, &fact.task, &fact.question)).or_default().push(fact);
    }
    let listed = subjects.into_iter().filter(|(_, facts)| differ(facts));
    let row = |((protein_id, task, question), facts): ((&str, &str, &str), Vec<&FactRow>)| {
        let distinct = |of: fn(&FactRow) -> &String| -> Vec<String> {
            facts.iter().map(|fact| of(fact).clone()).collect::<BTreeSet<_>>().into_iter().collect()
        };
        ContradictionRow {
            protein_id: protein_id.to_owned(),
            task: task.to_owned(),
            question: question.to_owned(),
            fact_ids: distinct(|fact| &fact.fact_id),
            sources: distinct(|fact| &fact.source),
        }
    };
    listed.map(row).collect()
}

/// Whether two of the answers have nothing in common.
fn differ(facts: &[&FactRow]) -> bool {
    let mut answers: BTreeMap<(&str, &str, usize), BTreeSet<String>> = BTreeMap::new();
    for (at, fact) in facts.iter().enumerate() {
        let own = if fact.question.is_empty() { 0 } else { at };
        let text = fact.text.trim().trim_end_matches('.').to_lowercase();
        answers.entry((&fact.source, &fact.accession, own)).or_default().insert(text);
    }
    let answers: Vec<BTreeSet<String>> = answers.into_values().collect::<BTreeSet<_>>().into_iter().collect();
    answers.iter().enumerate().any(|(at, one)| answers[at + 1..].iter().any(|other| one.is_disjoint(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(entry: &str, task: &str, question: &str, text: &str) -> FactRow {
        let (source, accession) = entry.split_once('/').unwrap();
        FactRow {
            fact_id: format!("{entry} {task} {text}"),
            protein_id: "p".into(),
            source: source.into(),
            accession: accession.into(),
            task: task.into(),
            question: question.into(),
            raw_text: text.into(),
            text: text.into(),
            evidence: vec![],
            licence: String::new(),
        }
    }

    fn listed(facts: &[FactRow]) -> Vec<(String, String, usize)> {
        let rows = contradictions(facts).into_iter();
        rows.map(|row| (row.task, row.question, row.fact_ids.len())).collect()
    }

    #[test]
    fn entries_contradict_each_other_when_they_have_nothing_in_common() {
        let one = [fact("a/1", "ec", "", "3.1.1.1"), fact("a/1", "ec", "", "2.7.1.1")];
        assert_eq!(listed(&one), []);
        let agreeing = [&one[..], &[fact("b/9", "ec", "", "2.7.1.1")]].concat();
        assert_eq!(listed(&agreeing), []);
        let other = [&agreeing[..], &[fact("b/7", "ec", "", "4.2.1.1")]].concat();
        assert_eq!(listed(&other), [("ec".into(), String::new(), 4)]);
        let written = [fact("a/1", "function", "", "Binds RNA."), fact("b/1", "function", "", "binds RNA")];
        assert_eq!(listed(&written), []);
    }

    #[test]
    fn a_question_has_one_answer() {
        let asked = |text: &str| fact("a/1", "qa", "Is it an enzyme?", text);
        assert_eq!(listed(&[asked("Yes."), asked("yes")]), []);
        let both = [asked("yes"), asked("no"), fact("a/1", "qa", "Where is it?", "In the nucleus")];
        assert_eq!(listed(&both), [("qa".into(), "Is it an enzyme?".into(), 2)]);
        assert_eq!(contradictions(&both)[0].sources, ["a"]);
    }
}
