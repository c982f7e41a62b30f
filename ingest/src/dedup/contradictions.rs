//! Facts that do not agree: one question, or one task, about one protein, and several answers that share nothing.

use std::collections::{BTreeMap, BTreeSet};

use datasets::table::ContradictionRow;

use super::facts::Claimed;

/// Every protein and task (and question, where there is one) that these facts answer in several ways, in their order.
///
/// To a question each fact is an answer. Without one, an answer is all that one entry of one source says: an entry has
/// several keywords, and two entries contradict each other only if they have none in common. Case, and a full stop at the
/// end, make no other answer.
pub(super) fn contradictions<'a>(facts: impl IntoIterator<Item = &'a Claimed<'a>>) -> Vec<ContradictionRow> {
    let mut subjects: BTreeMap<(&str, &str, &str), Vec<&Claimed<'a>>> = BTreeMap::new();
    for fact in facts {
        subjects.entry((fact.protein_id, fact.task, fact.question)).or_default().push(fact);
    }
    let listed = subjects.into_iter().filter(|(_, facts)| differ(facts));
    let distinct = |names: BTreeSet<&str>| names.into_iter().map(str::to_owned).collect();
    let row =
        |((protein_id, task, question), facts): ((&str, &str, &str), Vec<&Claimed<'a>>)| ContradictionRow {
            protein_id: protein_id.to_owned(),
            task: task.to_owned(),
            question: question.to_owned(),
            fact_ids: distinct(facts.iter().map(|fact| fact.fact_id).collect()),
            sources: distinct(facts.iter().map(|fact| fact.source).collect()),
        };
    listed.map(row).collect()
}

/// Whether two of the answers have nothing in common.
fn differ(facts: &[&Claimed<'_>]) -> bool {
    let mut texts: BTreeMap<(&str, &str, usize), Vec<&str>> = BTreeMap::new();
    for (at, fact) in facts.iter().enumerate() {
        let own = if fact.question.is_empty() { 0 } else { at };
        texts.entry((fact.source, fact.accession, own)).or_default().push(fact.text);
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

    fn fact<'a>(entry: &'a str, task: &'a str, question: &'a str, text: &'a str) -> Claimed<'a> {
        let (source, accession) = entry.split_once('/').unwrap();
        // The id follows from protein, task, question and text.
        Claimed {
            order: 0,
            scope: "",
            protein_id: "p",
            source,
            accession,
            fact_id: text,
            task,
            question,
            text,
        }
    }

    fn listed(facts: &[Claimed<'_>]) -> Vec<(String, String, usize)> {
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
        assert_eq!(listed(&other), [("ec".into(), String::new(), 3)]);
        let written = [fact("a/1", "function", "", "Binds RNA."), fact("b/1", "function", "", "binds RNA")];
        assert_eq!(listed(&written), []);
    }

    #[test]
    fn a_question_has_one_answer() {
        let asked = |text| fact("a/1", "qa", "Is it an enzyme?", text);
        assert_eq!(listed(&[asked("Yes."), asked("yes")]), []);
        let both = [asked("yes"), asked("no"), fact("a/1", "qa", "Where is it?", "In the nucleus")];
        assert_eq!(listed(&both), [("qa".into(), "Is it an enzyme?".into(), 2)]);
        assert_eq!(contradictions(&both)[0].sources, ["a"]);
    }
}
