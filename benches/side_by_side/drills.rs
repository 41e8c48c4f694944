//! Faults: the drill of `standin lab`, once with standin and once with keepalived on the nodes.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::configs::standin_binary;
use crate::report::Figure;
use crate::{Options, median};

/// A row of the table: what happens to whom, at which interval.
struct Drill {
    fault: &'static str,
    what: &'static str,
    interval: &'static str,
}

const DRILLS: [Drill; 6] = [
    Drill { fault: "daemon-stopped", what: "planned stop of the active's daemon", interval: "1s" },
    Drill { fault: "nginx-killed", what: "nginx killed", interval: "1s" },
    Drill { fault: "nginx-hung", what: "nginx hung", interval: "1s" },
    Drill { fault: "host-cut", what: "host cut off", interval: "1s" },
    Drill { fault: "host-cut", what: "host cut off", interval: "100ms" },
    Drill { fault: "host-cut", what: "host cut off", interval: "10ms" },
];

/// Two runs of the same wait differ by this much.
const NOISE_MS: f64 = 10.0;

pub(crate) fn measure(_: &Path, options: &Options) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut rest = &DRILLS[..];
    while let Some(first) = rest.first() {
        // One lab for all faults of one interval.
        let same = rest.iter().take_while(|drill| drill.interval == first.interval).count();
        let (now, later) = rest.split_at(same);
        rest = later;
        let standin = drill(now, false, options)?;
        let keepalived = drill(now, true, options)?;
        for (drill, (own, theirs)) in now.iter().zip(standin.into_iter().zip(keepalived)) {
            let what =
                format!("{}, adverts every {}: without an answer", drill.what, drill.interval);
            let mut figure = Figure::new(what, "ms").aim("≤ keepalived", own <= theirs + NOISE_MS);
            (figure.standin, figure.keepalived) = (Some(own), Some(theirs));
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// Medians of the time without an answer, in milliseconds, in the order of `drills`.
fn drill(drills: &[Drill], keepalived: bool, options: &Options) -> Result<Vec<f64>> {
    let faults: Vec<_> = drills.iter().map(|drill| drill.fault).collect();
    let interval = drills.first().map_or("", |drill| drill.interval);
    let repeat = options.rounds().to_string();
    let mut command = Command::new(standin_binary());
    command.args(["lab", "--drill", "--json", "--repeat", &repeat]);
    command.args(["--advert-interval", interval, "--only", &faults.join(",")]);
    if keepalived {
        command.arg("--keepalived");
    }
    let output = command.stdin(Stdio::null()).output()?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let runs = report["runs"].as_array().context("the drill lists no runs")?;
    let mut medians = Vec::new();
    for fault in faults {
        let of_it = runs.iter().filter(|run| run["fault"] == fault);
        // No answer until the repair: longer than any time.
        let times: Vec<_> =
            of_it.map(|run| run["without_answer_ms"].as_f64().unwrap_or(f64::INFINITY)).collect();
        if times.is_empty() {
            bail!("{command:?} did not measure {fault}");
        }
        medians.push(median(times));
    }
    Ok(medians)
}
