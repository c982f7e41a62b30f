//! The HTML page: results, logs and data as the values of `template.html`.

use anyhow::Result;
use minijinja::Environment;
use serde::Serialize;

use super::source::InputFile;
use super::{Chart, Data, Results, Row, RunLog, svg};
use crate::Kind;
use crate::metric::bootstrap::Interval;

/// Logged quantities whose curve is shown without a click.
const MAIN_QUANTITIES: [&str; 9] = ["loss", "reward", "acc", "q3", "q8", "f1", "precision", "valid", "kl"];

pub(super) fn render(results: &[Results], runs: &[RunLog], data: Option<&Data>) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("template.html"))?;
    let page = Page {
        code_version: super::CODE_VERSION,
        made_up: data.is_some_and(Data::is_made_up),
        n_resamples: crate::compare::N_RESAMPLES,
        headlines: results.iter().filter_map(headline).collect(),
        results: results.iter().map(section).collect(),
        runs: runs.iter().map(run).collect(),
        data: data.map(account),
    };
    Ok(environment.get_template("report.html")?.render(minijinja::value::Serde(page))?)
}

#[derive(Debug, Serialize)]
struct Page {
    code_version: &'static str,
    made_up: bool,
    n_resamples: usize,
    headlines: Vec<Headline>,
    results: Vec<Section>,
    runs: Vec<Run>,
    data: Option<Account>,
}

/// A number for people: three decimals, a true minus, a dash for what is not defined.
fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(v) if v.abs() >= 100.0 => format!("{v:.1}").replace('-', "\u{2212}"),
        Some(v) => format!("{v:.3}").replace('-', "\u{2212}"),
    }
}

fn signed(value: Option<f64>) -> String {
    let plus = if value.is_some_and(|v| v >= 0.0005) { "+" } else { "" };
    format!("{plus}{}", number(value))
}

fn bracket(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |i| format!("{} … {}", number(Some(i.low)), number(Some(i.high))))
}

/// Thousands apart by thin spaces.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|g| std::str::from_utf8(g).expect("digits are ASCII"))
        .collect();
    groups.join("\u{202f}")
}

/// Whether the gain over a floor is more than chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Above,
    Open,
    Below,
}

fn verdict(gain: Option<Interval>) -> Verdict {
    match gain {
        Some(i) if i.low > 0.0 => Verdict::Above,
        Some(i) if i.high < 0.0 => Verdict::Below,
        _ => Verdict::Open,
    }
}

#[derive(Debug, Serialize)]
struct Headline {
    key: String,
    task: String,
    dataset: String,
    model: String,
    metric: String,
    value: String,
    interval: String,
    floor: String,
    floor_value: String,
    gain: String,
    gain_interval: String,
    verdict: Option<Verdict>,
}

fn headline(result: &Results) -> Option<Headline> {
    let row = result.rows.first()?;
    let floor = row.best_floor();
    Some(Headline {
        key: anchor(result),
        task: result.task.clone(),
        dataset: result.dataset.name.clone(),
        model: result.model.clone(),
        metric: metric(row),
        value: number(row.value),
        interval: bracket(row.interval),
        floor: floor.map_or_else(|| "none".to_owned(), |f| f.name.clone()),
        floor_value: number(floor.and_then(|f| f.value)),
        gain: signed(floor.and_then(|f| f.gain)),
        gain_interval: bracket(floor.and_then(|f| f.gain_interval)),
        verdict: floor.map(|f| verdict(f.gain_interval)),
    })
}

fn anchor(result: &Results) -> String {
    super::file_name(&format!("{}-{}", result.key(), result.model))
}

fn metric(row: &Row) -> String {
    if row.filter == "none" { row.metric.clone() } else { format!("{} · {}", row.metric, row.filter) }
}

#[derive(Debug, Serialize)]
struct System {
    name: String,
    kind: &'static str,
    value: String,
    interval: String,
    gain: String,
    gain_interval: String,
    verdict: Option<Verdict>,
    plot: String,
}

#[derive(Debug, Serialize)]
struct Metric {
    name: String,
    direction: &'static str,
    n: String,
    n_clusters: String,
    systems: Vec<System>,
}

fn metric_rows(model: &str, row: &Row) -> Metric {
    let values =
        row.baselines.iter().flat_map(|b| [b.value, b.interval.map(|i| i.low), b.interval.map(|i| i.high)]);
    let own = [row.value, row.interval.map(|i| i.low), row.interval.map(|i| i.high)];
    let all: Vec<f64> = values.chain(own).flatten().filter(|v| v.is_finite()).collect();
    let axis = (
        all.iter().copied().fold(f64::INFINITY, f64::min),
        all.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    );
    let mut systems = vec![System {
        name: model.to_owned(),
        kind: "model",
        value: number(row.value),
        interval: bracket(row.interval),
        gain: String::new(),
        gain_interval: String::new(),
        verdict: None,
        plot: svg::whisker(axis, row.value, row.interval, "model"),
    }];
    systems.extend(row.baselines.iter().map(|baseline| {
        let kind = if baseline.kind == Kind::Floor { "floor" } else { "reference" };
        System {
            name: baseline.name.clone(),
            kind,
            value: number(baseline.value),
            interval: bracket(baseline.interval),
            gain: signed(baseline.gain),
            gain_interval: bracket(baseline.gain_interval),
            verdict: baseline.gain_interval.map(|i| verdict(Some(i))),
            plot: svg::whisker(axis, baseline.value, baseline.interval, kind),
        }
    }));
    Metric {
        name: metric(row),
        direction: if row.higher_is_better { "higher is better" } else { "lower is better" },
        n: count(row.n as u64),
        n_clusters: count(row.n_clusters as u64),
        systems,
    }
}

#[derive(Debug, Serialize)]
struct Figure {
    title: String,
    svg: String,
}

fn figure(chart: &Chart) -> Figure {
    let (title, svg) = match chart {
        Chart::Confusion { title, classes, matrix } => (title, svg::confusion(title, classes, matrix)),
        Chart::Reliability { title, bins } => (title, svg::reliability(title, bins)),
        Chart::Scatter { title, unit, points } => (title, svg::scatter(title, unit, points)),
    };
    Figure { title: title.clone(), svg }
}

#[derive(Debug, Serialize)]
struct Section {
    key: String,
    task: String,
    dataset: String,
    split: String,
    n: String,
    model: String,
    metrics: Vec<Metric>,
    figures: Vec<Figure>,
    config: String,
    files: Vec<(String, String)>,
}

fn section(result: &Results) -> Section {
    Section {
        key: anchor(result),
        task: result.task.clone(),
        dataset: result.dataset.name.clone(),
        split: result.dataset.split.clone(),
        n: count(result.dataset.n_used as u64),
        model: result.model.clone(),
        metrics: result.rows.iter().map(|row| metric_rows(&result.model, row)).collect(),
        figures: result.charts.iter().map(figure).collect(),
        config: serde_json::to_string_pretty(&result.config).unwrap_or_default(),
        files: result.dataset.files.clone(),
    }
}

#[derive(Debug, Serialize)]
struct Run {
    name: String,
    n_steps: String,
    main: Vec<Figure>,
    rest: Vec<Figure>,
}

fn run(log: &RunLog) -> Run {
    let (mut main, mut rest) = (vec![], vec![]);
    for (name, values) in log.series.iter().filter(|(_, values)| values.len() > 1) {
        let points: Vec<(f64, f64)> = values.iter().map(|(&step, &value)| (step as f64, value)).collect();
        let floors = log.floors.iter().filter(|(quantity, ..)| quantity == name);
        let floors: Vec<(&str, f64)> = floors.map(|(_, label, value)| (label.as_str(), *value)).collect();
        let title = format!("{name}  {}", number(values.values().last().copied()));
        let figure = Figure { title, svg: svg::curve(name, &points, &floors) };
        let is_main = !floors.is_empty() || MAIN_QUANTITIES.iter().any(|quantity| name.contains(quantity));
        if is_main { main.push(figure) } else { rest.push(figure) }
    }
    let last = log.series.iter().filter_map(|(_, values)| values.keys().last()).max();
    Run { name: log.name.clone(), n_steps: count(last.copied().unwrap_or(0)), main, rest }
}

#[derive(Debug, Serialize)]
struct FileLine {
    source: String,
    file: String,
    sha256: String,
    rows_in: String,
    kept: String,
    merged: String,
    quarantined: String,
    /// Widths in percent.
    bar: (f64, f64, f64),
    reasons: Vec<(String, String)>,
}

fn file_line(input: &InputFile) -> FileLine {
    let quarantined: u64 = input.quarantined.values().sum();
    let percent = |n: u64| if input.rows_in > 0 { 100.0 * n as f64 / input.rows_in as f64 } else { 0.0 };
    FileLine {
        source: input.source.clone(),
        file: input.file.clone(),
        sha256: input.sha256.clone(),
        rows_in: count(input.rows_in),
        kept: count(input.kept),
        merged: count(input.merged),
        quarantined: count(quarantined),
        bar: (percent(input.kept), percent(input.merged), percent(quarantined)),
        reasons: input.quarantined.iter().map(|(reason, &n)| (reason.clone(), count(n))).collect(),
    }
}

#[derive(Debug, Serialize)]
struct Account {
    files: Vec<FileLine>,
    tables: Vec<(String, String)>,
    splits: Vec<(String, String, f64)>,
    n_clusters: String,
    audit: Option<AuditLine>,
}

#[derive(Debug, Serialize)]
struct AuditLine {
    n_leaks: u64,
    exact: String,
    cluster: String,
    alike: String,
    homologs: String,
    n_train: String,
    n_held_out: String,
    kinship: String,
}

fn account(data: &Data) -> Account {
    let n_proteins = data.proteins_by_split.values().sum::<u64>().max(1) as f64;
    let share = |part: &str| {
        let n = *data.proteins_by_split.get(part)?;
        Some((part.to_owned(), count(n), 100.0 * n as f64 / n_proteins))
    };
    let audit = data.audit.as_ref().map(|audit| {
        let [exact, cluster, alike, homologs] =
            [&audit.exact, &audit.cluster, &audit.alike, &audit.homologs].map(|pairs| pairs.len() as u64);
        AuditLine {
            n_leaks: exact + cluster + alike + homologs,
            exact: count(exact),
            cluster: count(cluster),
            alike: count(alike),
            homologs: count(homologs),
            n_train: count(audit.n_train),
            n_held_out: count(audit.n_held_out),
            kinship: audit
                .kinship
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect::<Vec<_>>()
                .join(", "),
        }
    });
    Account {
        files: data.files.iter().map(file_line).collect(),
        tables: data.tables.iter().map(|(table, &n)| (table.clone(), count(n))).collect(),
        splits: ["train", "valid", "test", "excluded"].into_iter().filter_map(share).collect(),
        n_clusters: count(data.n_clusters),
        audit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            [number(Some(-0.25)), number(None), signed(Some(0.5)), signed(Some(0.0))],
            ["\u{2212}0.250", "–", "+0.500", "0.000"]
        );
        assert_eq!(
            [count(0), count(999), count(1000), count(1_234_567)],
            ["0", "999", "1\u{202f}000", "1\u{202f}234\u{202f}567"]
        );
    }

    #[test]
    fn a_gain_needs_its_whole_interval() {
        let interval = |low, high| Some(Interval { low, high, stderr: 0.1, n_resamples: 7 });
        assert_eq!(verdict(interval(0.01, 0.2)), Verdict::Above);
        assert_eq!(verdict(interval(-0.01, 0.2)), Verdict::Open);
        assert_eq!(verdict(interval(-0.2, -0.01)), Verdict::Below);
        assert_eq!(verdict(None), Verdict::Open);
    }
}
