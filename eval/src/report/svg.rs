//! Pictures as inline SVG. Colours come from the page's style sheet by class, so they follow light and dark.

use std::fmt::Write;

use crate::metric::bootstrap::Interval;
use crate::metric::calibration::Bin;
use crate::metric::classification::Confusion;

/// Points that a curve keeps; more would not be seen.
const N_POINTS: usize = 240;

/// A linear scale from data to pixels.
#[derive(Debug, Clone, Copy)]
struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        let width = self.from.1 - self.from.0;
        let share = if width > 0.0 { (value - self.from.0) / width } else { 0.5 };
        self.to.0 + share * (self.to.1 - self.to.0)
    }
}

/// Three to six round numbers inside a range.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 4.0;
    if !(rough > 0.0 && rough.is_finite()) {
        return vec![low];
    }
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|&s| s >= rough).unwrap_or(rough);
    let first = (low / step).ceil();
    (0..8).map(|i| (first + f64::from(i)) * step).take_while(|&tick| tick <= high + step * 1e-9).collect()
}

/// A number as short as its tick distance allows.
fn label(value: f64) -> String {
    let magnitude = value.abs();
    let text = match magnitude {
        0.0 => "0".to_owned(),
        m if !(1e-3..1e5).contains(&m) => format!("{value:.0e}"),
        m if m >= 1e3 => format!("{}k", trim(&format!("{:.1}", value / 1e3))),
        m if m >= 10.0 => trim(&format!("{value:.1}")).to_owned(),
        _ => trim(&format!("{value:.4}")).to_owned(),
    };
    text.replace('-', "\u{2212}")
}

fn trim(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().filter(|v| v.is_finite()).fold(None, |range, v| match range {
        None => Some((v, v)),
        Some((low, high)) => Some((low.min(v), high.max(v))),
    })
}

/// A range with a margin on both sides, never empty.
fn padded((low, high): (f64, f64), share: f64) -> (f64, f64) {
    let margin = if high > low { (high - low) * share } else { high.abs().max(1.0) * 0.05 };
    (low - margin, high + margin)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Opens a picture that scales with its column.
fn open(width: u32, height: u32, name: &str) -> String {
    let name = escape(name);
    format!("<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{name}\">")
}

fn axes(svg: &mut String, x: Scale, y: Scale) {
    for tick in ticks(y.from) {
        let (at, left, right) = (y.at(tick), x.to.0, x.to.1);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
        );
        let _ = write!(
            svg,
            "<text class=\"tick end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left - 6.0,
            at + 3.5,
            label(tick)
        );
    }
    for tick in ticks(x.from) {
        let (at, bottom) = (x.at(tick), y.to.0);
        let _ = write!(
            svg,
            "<text class=\"tick mid\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 15.0,
            label(tick)
        );
    }
    let (left, right, bottom) = (x.to.0, x.to.1, y.to.0);
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>"
    );
}

fn path(points: &[(f64, f64)], x: Scale, y: Scale, class: &str) -> String {
    let at = |(i, p): (usize, &(f64, f64))| {
        format!("{}{:.1} {:.1}", if i == 0 { "M" } else { "L" }, x.at(p.0), y.at(p.1))
    };
    let line: String = points.iter().enumerate().map(at).collect();
    format!("<path class=\"{class}\" d=\"{line}\"/>")
}

/// At most [`N_POINTS`] points: the means of equal runs of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(N_POINTS).max(1);
    let mean = |run: &[(f64, f64)]| {
        let n = run.len() as f64;
        (run.iter().map(|p| p.0).sum::<f64>() / n, run.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(size).map(mean).collect()
}

/// Exponential moving average over about a twentieth of the points, without the start's bias.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 20.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let step = |&(x, y): &(f64, f64)| {
        sum = keep * sum + y;
        weight = keep * weight + 1.0;
        (x, sum / weight)
    };
    points.iter().map(step).collect()
}

/// A quantity over training steps: faint as logged, strong smoothed; floors dashed with their names.
pub(super) fn curve(name: &str, points: &[(f64, f64)], floors: &[(&str, f64)]) -> String {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|p| p.1.is_finite()).collect();
    let points = thinned(&finite);
    let (Some(x), Some(y)) = (
        range(points.iter().map(|p| p.0)),
        range(points.iter().map(|p| p.1).chain(floors.iter().map(|f| f.1))),
    ) else {
        return String::new();
    };
    let x = Scale { from: x, to: (46.0, 348.0) };
    let y = Scale { from: padded(y, 0.08), to: (162.0, 10.0) };
    let mut svg = open(360, 184, name);
    axes(&mut svg, x, y);
    for (floor, value) in floors {
        let (at, floor) = (y.at(*value), escape(floor));
        let _ = write!(svg, "<line class=\"floor\" x1=\"46\" x2=\"348\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let text = at - 4.0;
        let _ = write!(
            svg,
            "<text class=\"tick end\" x=\"348\" y=\"{text:.1}\">{floor} {}</text>",
            label(round3(*value))
        );
    }
    if points.len() > 30 {
        svg += &path(&points, x, y, "raw");
        svg += &path(&smoothed(&points), x, y, "line");
    } else {
        svg += &path(&points, x, y, "line");
    }
    if let Some(last) = points.last().filter(|_| points.len() <= 30) {
        let _ = write!(
            svg,
            "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>",
            x.at(last.0),
            y.at(last.1)
        );
    }
    svg + "</svg>"
}

fn round3(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// One system on a metric's common axis: whisker and dot; floors hollow.
pub(super) fn whisker(
    axis: (f64, f64),
    value: Option<f64>,
    interval: Option<Interval>,
    class: &str,
) -> String {
    let x = Scale { from: padded(axis, 0.04), to: (6.0, 214.0) };
    let mut svg = "<svg class=\"whisker\" viewBox=\"0 0 220 18\" aria-hidden=\"true\">".to_owned();
    svg += "<line class=\"grid\" x1=\"2\" x2=\"218\" y1=\"9\" y2=\"9\"/>";
    if let Some(interval) = interval {
        let (low, high) = (x.at(interval.low), x.at(interval.high));
        let _ =
            write!(svg, "<line class=\"range {class}\" x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"9\" y2=\"9\"/>");
    }
    if let Some(value) = value {
        let _ = write!(svg, "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"9\" r=\"4\"/>", x.at(value));
    }
    svg + "</svg>"
}

/// Truth by prediction, each row as shares of the truth.
pub(super) fn confusion(name: &str, classes: &[String], matrix: &Confusion) -> String {
    let n = matrix.n_classes();
    let cell = (276.0 / n.max(1) as f64).min(72.0);
    let side = cell * n as f64;
    let mut svg = open(340, (side + 62.0) as u32, name);
    for truth in 0..n {
        let total = matrix.n_true(truth);
        let (y, name) = (26.0 + cell * truth as f64, escape(classes.get(truth).map_or("", |c| c)));
        let middle = y + cell / 2.0 + 4.0;
        let _ = write!(svg, "<text class=\"tick end\" x=\"50\" y=\"{middle:.1}\">{name}</text>");
        let column = 56.0 + cell * (truth as f64 + 0.5);
        let _ = write!(svg, "<text class=\"tick mid\" x=\"{column:.1}\" y=\"18\">{name}</text>");
        for predicted in 0..n {
            let count = matrix.count(truth, predicted);
            let share = if total > 0 { count as f64 / total as f64 } else { 0.0 };
            let x = 56.0 + cell * predicted as f64;
            let size = cell - 1.5;
            let _ = write!(
                svg,
                "<g><title>{count} of {total}</title><rect class=\"empty\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{size:.1}\" height=\"{size:.1}\" rx=\"2\"/>\
                 <rect class=\"heat\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{size:.1}\" height=\"{size:.1}\" rx=\"2\" fill-opacity=\"{share:.3}\"/>"
            );
            let class = if share > 0.55 { "cell over" } else { "cell" };
            let _ = write!(
                svg,
                "<text class=\"{class}\" x=\"{:.1}\" y=\"{middle:.1}\">{:.0}</text></g>",
                x + cell / 2.0,
                share * 100.0
            );
        }
    }
    let foot = side + 44.0;
    let _ = write!(
        svg,
        "<text class=\"tick\" x=\"56\" y=\"{foot:.1}\">rows: truth, columns: prediction, % of the truth</text>"
    );
    svg + "</svg>"
}

/// Confidence against frequency, with the diagonal of a perfect forecast; area of a dot: examples.
pub(super) fn reliability(name: &str, bins: &[Bin]) -> String {
    let x = Scale { from: (0.0, 1.0), to: (46.0, 328.0) };
    let y = Scale { from: (0.0, 1.0), to: (292.0, 10.0) };
    let mut svg = open(340, 330, name);
    axes(&mut svg, x, y);
    svg += &path(&[(0.0, 0.0), (1.0, 1.0)], x, y, "floor");
    let line: Vec<(f64, f64)> = bins.iter().map(|bin| (bin.confidence, bin.frequency)).collect();
    svg += &path(&line, x, y, "line");
    let most = bins.iter().map(|bin| bin.n).max().unwrap_or(1) as f64;
    for bin in bins {
        let radius = 2.5 + 6.5 * (bin.n as f64 / most).sqrt();
        let (cx, cy, n) = (x.at(bin.confidence), y.at(bin.frequency), bin.n);
        let _ = write!(
            svg,
            "<circle class=\"dot soft\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius:.1}\"><title>{n} examples</title></circle>"
        );
    }
    svg += "<text class=\"tick mid\" x=\"187\" y=\"324\">predicted probability</text>";
    svg + "</svg>"
}

/// Truth against prediction on equal axes, with the identity.
pub(super) fn scatter(name: &str, unit: &str, points: &[(f64, f64)]) -> String {
    let Some(both) = range(points.iter().flat_map(|p| [p.0, p.1])) else { return String::new() };
    let both = padded(both, 0.04);
    let x = Scale { from: both, to: (46.0, 328.0) };
    let y = Scale { from: both, to: (292.0, 10.0) };
    let mut svg = open(340, 330, name);
    axes(&mut svg, x, y);
    svg += &path(&[(both.0, both.0), (both.1, both.1)], x, y, "floor");
    let every = points.len().div_ceil(3_000).max(1);
    for (truth, prediction) in points.iter().step_by(every).filter(|p| p.0.is_finite() && p.1.is_finite()) {
        let _ = write!(
            svg,
            "<circle class=\"point\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>",
            x.at(*truth),
            y.at(*prediction)
        );
    }
    let unit = escape(unit);
    let _ =
        write!(svg, "<text class=\"tick mid\" x=\"187\" y=\"324\">truth, {unit} (prediction upwards)</text>");
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks((0.0, 1.0)), [0.0, 0.5, 1.0]);
        assert_eq!(ticks((-3.0, 4.1)), [-2.0, 0.0, 2.0, 4.0]);
        assert_eq!(ticks((5.0, 5.0)), [5.0]);
        assert_eq!(
            [label(1500.0), label(0.25), label(-2.0), label(3e-5)],
            ["1.5k", "0.25", "\u{2212}2", "3e\u{2212}5"]
        );
    }

    #[test]
    fn curves_survive_odd_numbers() {
        assert_eq!(curve("x", &[(1.0, f64::NAN)], &[]), "");
        let one = curve("<loss>", &[(3.0, 0.0)], &[("constant", 0.0)]);
        assert!(one.contains("&lt;loss&gt;") && !one.contains("NaN") && one.contains("constant 0<"), "{one}");
        let many: Vec<(f64, f64)> = (0..997).map(|i| (f64::from(i), f64::from(i % 7))).collect();
        assert_eq!(thinned(&many).len(), 997_usize.div_ceil(5));
        assert!((smoothed(&[(0.0, 2.0); 40]).iter().all(|p| (p.1 - 2.0).abs() < 1e-12)));
        assert_eq!(scatter("s", "kcal/mol", &[]), "");
    }
}
