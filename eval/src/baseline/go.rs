//! GO terms without a model: the floors of the reward as term sets, and the terms of the nearest training protein.

use rewards::go::Terms;
use rewards::{Answer, Reward, Task, Truth};

use super::neighbour::Neighbours;

/// The constant answers of [`rewards::floors`] as propagated sets, by name.
///
/// # Shapes
/// `train`, `test`: one propagated set without roots per protein
///
/// # Errors
/// None that these truths can cause; the error of [`rewards::floors`] is passed on.
pub fn constants(
    reward: &Reward,
    train: &[Terms],
    test: &[Terms],
) -> anyhow::Result<Vec<(&'static str, Terms)>> {
    let truths = |sets: &[Terms]| sets.iter().cloned().map(Truth::Go).collect::<Vec<_>>();
    let floors = rewards::floors(reward, &truths(train), &truths(test))?;
    let terms = |answer: &str| match rewards::answer::parse(Task::Go, &format!("<answer>{answer}</answer>")) {
        Ok(Answer::Go(ids)) => reward.ontology.propagate(&ids),
        _ => Terms::default(),
    };
    Ok(floors.into_iter().map(|floor| (floor.name, terms(&floor.answer))).collect())
}

/// For each query the terms of the training protein that shares most of its k-mers; `otherwise` where none does.
///
/// # Shapes
/// `terms`: one set per sequence that `neighbours` was made of, in the same order
pub fn transfer<'a>(
    neighbours: &Neighbours,
    terms: &[Terms],
    queries: impl IntoIterator<Item = &'a str>,
    otherwise: &Terms,
) -> Vec<Terms> {
    let nearest =
        |query: &str| neighbours.nearest(query, 1).first().map_or(otherwise, |&(at, _)| &terms[at]).clone();
    queries.into_iter().map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_protein_gives_its_terms() {
        let set = |index| Terms { indices: vec![index], n_unknown: 0 };
        let neighbours = Neighbours::new(4, ["MKTAYIAKQR", "GGGWWWHHHC"]).unwrap();
        let found = transfer(&neighbours, &[set(3), set(5)], ["AWWWHHH", "MKTAYGG", "PPPPPPP"], &set(7));
        assert_eq!(found, [set(5), set(3), set(7)]);
    }
}
