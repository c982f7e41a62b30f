//! How much of a text a generated one repeats: BLEU and ROUGE-L.
//!
//! Both count words, so a fluent wrong answer may score well: they stand beside task metrics, never in place of them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;

/// Longest run of words that BLEU counts.
const ORDER: usize = 4;

/// Corpus BLEU, 0–100, of generated texts and one reference each: geometric mean of the clipped precisions of runs of one
/// to four words, times the brevity penalty (Papineni et al., ACL 2002). Tokens, smoothing and case as sacrebleu's
/// defaults (`13a`, exponential, case kept). 0 for no texts.
pub fn bleu(generated: &[&str], references: &[&str]) -> f64 {
    let (mut right, mut all) = ([0usize; ORDER], [0usize; ORDER]);
    let (mut n_generated, mut n_reference) = (0, 0);
    for (generated, reference) in generated.iter().zip(references) {
        let (generated, reference) = (tokens_13a(generated), tokens_13a(reference));
        n_generated += generated.len();
        n_reference += reference.len();
        for order in 1..=ORDER {
            let known = counts(&reference, order);
            for (run, n) in counts(&generated, order) {
                right[order - 1] += n.min(known.get(run).copied().unwrap_or(0));
                all[order - 1] += n;
            }
        }
    }
    if right[0] == 0 || all.contains(&0) {
        return 0.0;
    }
    let mut smooth = 1.0;
    let log_precision = |(&right, &all): (&usize, &usize)| match right {
        0 => {
            smooth *= 2.0;
            (1.0 / (smooth * all as f64)).ln()
        }
        _ => (right as f64 / all as f64).ln(),
    };
    let mean = right.iter().zip(&all).map(log_precision).sum::<f64>() / ORDER as f64;
    let brevity = (1.0 - n_reference as f64 / n_generated as f64).min(0.0);
    100.0 * (mean + brevity).exp()
}

/// ROUGE-L, 0–1: F1 of the longest common subsequence of words (Lin, ACL 2004), the words as in Google's rouge-score
/// without stemming. 0 when either text has no word.
pub fn rouge_l(generated: &str, reference: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (generated, reference) = (words(generated), words(reference));
    // lengths[j]: of the longest common subsequence of what was read of `generated` and the first j words of `reference`
    let mut lengths = vec![0usize; reference.len() + 1];
    for word in &generated {
        let mut diagonal = 0;
        for (at, other) in reference.iter().enumerate() {
            let longest = if word == other { diagonal + 1 } else { lengths[at].max(lengths[at + 1]) };
            diagonal = std::mem::replace(&mut lengths[at + 1], longest);
        }
    }
    2.0 * lengths[reference.len()] as f64 / (generated.len() + reference.len()).max(1) as f64
}

fn counts(tokens: &[String], order: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    tokens.windows(order).for_each(|run| *counts.entry(run).or_default() += 1);
    counts
}

/// The tokens of mteval-v13a: punctuation stands alone, except points and commas in numbers.
fn tokens_13a(text: &str) -> Vec<String> {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern, by| (Regex::new(pattern).expect("a valid pattern"), by);
        [
            rule(r"([{-~\[-` -&(-+:-@/])", " $1 "),
            rule(r"([^0-9])([.,])", "$1 $2 "),
            rule(r"([.,])([^0-9])", " $1 $2"),
            rule(r"([0-9])(-)", "$1 $2 "),
        ]
    });
    let plain = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let plain = match plain.contains('&') {
        true => plain.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"),
        false => plain,
    };
    let mut text = format!(" {plain} ");
    for (pattern, by) in RULES.iter() {
        text = pattern.replace_all(&text, *by).into_owned();
    }
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        generated: Vec<String>,
        references: Vec<String>,
        bleu: f64,
        bleu_of_each: Vec<f64>,
        rouge_l: Vec<f64>,
    }

    #[test]
    fn values_are_those_of_sacrebleu_and_rouge_score() {
        let golden: Golden =
            serde_json::from_str(include_str!("../../../tests/golden/overlap.json")).unwrap();
        let generated: Vec<&str> = golden.generated.iter().map(String::as_str).collect();
        let references: Vec<&str> = golden.references.iter().map(String::as_str).collect();
        assert!((bleu(&generated, &references) - golden.bleu).abs() < 1e-9);
        for (at, (one, other)) in generated.iter().zip(&references).enumerate() {
            let got = bleu(&[one], &[other]);
            assert!((got - golden.bleu_of_each[at]).abs() < 1e-9, "{one:?} {other:?}: {got}");
            let got = rouge_l(one, other);
            assert!((got - golden.rouge_l[at]).abs() < 1e-12, "{one:?} {other:?}: {got}");
        }
        assert_eq!((bleu(&[], &[]), rouge_l("", "")), (0.0, 0.0));
    }
}
