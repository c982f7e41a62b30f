//! Metrics of scores that rank: ties are treated as ties.

/// Area under the ROC curve: the probability that a positive scores above a negative, ties counting half
/// (Mann–Whitney U by midranks). `None` without both classes or with a score that is NaN.
///
/// # Shapes
/// `labels`, `scores`: `n`
pub fn auroc(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let n_positive = labels.iter().filter(|&&l| l).count();
    let n_negative = labels.len() - n_positive;
    if n_positive == 0 || n_negative == 0 || scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let ranks = midranks(scores);
    let sum: f64 = ranks.iter().zip(labels).filter(|&(_, &label)| label).map(|(rank, _)| rank).sum();
    let smallest = n_positive as f64 * (n_positive as f64 + 1.0) / 2.0;
    Some((sum - smallest) / (n_positive as f64 * n_negative as f64))
}

/// Average precision `Σ (R_n − R_{n−1}) P_n` over distinct thresholds, as scikit-learn; not the trapezoid, which is
/// optimistic. `None` without positives or with a score that is NaN.
///
/// # Shapes
/// `labels`, `scores`: `n`
pub fn average_precision(labels: &[bool], scores: &[f64]) -> Option<f64> {
    let n_positive = labels.iter().filter(|&&l| l).count();
    if n_positive == 0 || scores.iter().any(|s| s.is_nan()) {
        return None;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut seen, mut right, mut area) = (0_usize, 0_usize, 0.0);
    for tied in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let n_new = tied.iter().filter(|&&at| labels[at]).count();
        seen += tied.len();
        right += n_new;
        area += n_new as f64 / n_positive as f64 * (right as f64 / seen as f64);
    }
    Some(area)
}

/// Ranks from 1; tied values share the mean of their ranks.
pub fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&at| ranks[at] = rank);
        before += tied.len();
    }
    ranks
}
