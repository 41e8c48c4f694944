//! A drill's result as a person reads it.

use super::drill::{Report, Run};
use super::faults::Fault;

const HEAD: [&str; 6] =
    ["fault", "active before → after", "without an answer", "requests failed", "bound", "verdict"];

/// One run in one line, while the drill goes on.
pub(super) fn line(run: &Run) -> String {
    let verdict = match (run.judged, run.good) {
        (false, _) => "measured".to_owned(),
        (true, true) => "good".to_owned(),
        (true, false) => format!("BAD: {}", run.reasons.join("; ")),
    };
    format!(
        "{}: {} → {}, {} without an answer, {} of {} requests failed: {verdict}",
        title(run.fault),
        run.before,
        run.after,
        time(run.without_answer_ms),
        run.requests_failed,
        run.requests,
    )
}

/// The whole drill: one row per fault; with several rounds the worst, and the median beside it.
pub(super) fn render(report: &Report) -> String {
    let mut rows: Vec<[String; 6]> = Vec::new();
    for (fault, bound) in &report.bounds_ms {
        let runs: Vec<&Run> = report.runs.iter().filter(|run| run.fault == *fault).collect();
        let Some(worst) = runs.iter().copied().max_by(|a, b| worse(a, b)) else { continue };
        let mut times: Vec<Option<f64>> = runs.iter().map(|run| run.without_answer_ms).collect();
        times.sort_by(|a, b| order(*a, *b));
        let median = times.get(times.len() / 2).copied().flatten();
        let without = match worst.without_answer_ms {
            Some(_) if runs.len() > 1 => {
                format!("{} (median {})", time(worst.without_answer_ms), time(median))
            }
            longest => time(longest),
        };
        let most_failed = runs.iter().copied().max_by_key(|run| run.requests_failed);
        let (failed, of) = most_failed.map_or((0, 0), |run| (run.requests_failed, run.requests));
        let judged = runs.iter().filter(|run| run.judged).count();
        let bad = runs.iter().filter(|run| run.judged && !run.good).count();
        let verdict = match (judged, bad) {
            (0, _) => "—".to_owned(),
            (_, 0) => "good".to_owned(),
            (_, bad) if runs.len() > 1 => format!("BAD, {bad} of {}", runs.len()),
            _ => "BAD".to_owned(),
        };
        rows.push([
            title(fault).to_owned(),
            format!("{} → {}", worst.before, worst.after),
            without,
            format!("{failed} of {of}"),
            bound.map_or_else(|| "one holder".to_owned(), |bound| format!("{bound} ms")),
            verdict,
        ]);
    }
    let mut text = grid(&rows);
    for run in report.runs.iter().filter(|run| run.judged && !run.good) {
        text += &format!("\n{}, round {}:", title(run.fault), run.round);
        for reason in &run.reasons {
            text += &format!("\n  {reason}");
        }
        text += "\n";
    }
    text
}

fn grid(rows: &[[String; 6]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        let head = HEAD.get(column).map_or(0, |head| head.chars().count());
        cells.max().unwrap_or(0).max(head)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let print = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}", width = *width))
            .collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = print(&HEAD.map(str::to_owned));
    text += &print(&widths.iter().map(|width| "─".repeat(*width)).collect::<Vec<_>>());
    for row in rows {
        text += &print(row);
    }
    text
}

fn title(name: &str) -> &'static str {
    Fault::ALL.into_iter().find(|fault| fault.name() == name).map_or("", Fault::title)
}

fn time(ms: Option<f64>) -> String {
    match ms {
        None => "until repaired".to_owned(),
        Some(ms) if ms >= 10_000.0 => format!("{:.1} s", ms / 1000.0),
        Some(ms) => format!("{ms:.0} ms"),
    }
}

/// No answer at all is longer than any time.
fn order(a: Option<f64>, b: Option<f64>) -> std::cmp::Ordering {
    let number = |it: Option<f64>| it.unwrap_or(f64::INFINITY);
    number(a).total_cmp(&number(b))
}

fn worse(a: &Run, b: &Run) -> std::cmp::Ordering {
    b.good.cmp(&a.good).then(order(a.without_answer_ms, b.without_answer_ms))
}

/// The last line of a drill.
pub(super) fn summary(report: &Report) -> String {
    let bad = report.runs.iter().filter(|run| run.judged && !run.good).count();
    let count = report.runs.len();
    let took = report.took_s;
    if report.comparison {
        format!("{count} faults measured in {took} s")
    } else if bad == 0 {
        format!("all {count} faults survived as promised, in {took} s")
    } else {
        format!("{bad} of {count} faults were not survived as promised, in {took} s")
    }
}
