//! What live drills measured: one JSON object a line, the last ones of this node.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::HistoryArgs;
use crate::authority::files;
use crate::control::time;

/// A drill a week for four years.
const KEPT: usize = 200;

/// Far more than [`KEPT`] lines; what is longer isn't ours.
const FILE_BYTES: u64 = 1024 * 1024;

/// One drill.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Drill {
    /// RFC 3339, UTC.
    pub(super) at: String,
    pub(super) cluster: String,
    pub(super) vip: String,
    /// The node that asked.
    pub(super) measured_from: String,
    /// How often it asked.
    pub(super) every_ms: f64,
    pub(super) good: bool,
    pub(super) moves: Vec<Move>,
}

/// One move of the VIP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Move {
    /// `switchover` or `takeover`.
    pub(super) kind: String,
    pub(super) from: String,
    pub(super) to: String,
    /// `None`: no answer came any more.
    pub(super) without_answer_ms: Option<f64>,
    pub(super) requests: usize,
    pub(super) requests_failed: usize,
    /// How far the client itself was held up.
    pub(super) client_stall_ms: f64,
    pub(super) good: bool,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("drills.jsonl")
}

/// The drills that were kept, oldest first; a line that can't be read is passed over.
fn read(state_dir: &Path) -> Result<Vec<Drill>> {
    let path = file(state_dir);
    let mut text = Vec::new();
    match File::open(&path) {
        Ok(file) => file.take(FILE_BYTES).read_to_end(&mut text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    }
    .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

/// Adds one.
///
/// # Errors
/// The history can't be read or written; the drill itself is over by then.
pub(super) fn keep(state_dir: &Path, drill: &Drill) -> Result<()> {
    let mut kept = read(state_dir)?;
    kept.push(drill.clone());
    let mut text = String::new();
    for one in kept.iter().skip(kept.len().saturating_sub(KEPT)) {
        text += &serde_json::to_string(one)?;
        text.push('\n');
    }
    fs::create_dir_all(state_dir).with_context(|| format!("{}", state_dir.display()))?;
    let path = file(state_dir);
    files::write_atomically(&path, text.as_bytes(), 0o644)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// `standin drill history`.
pub(super) fn show(args: &HistoryArgs) -> Result<()> {
    let drills = read(&args.kept.state_dir)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        for drill in &drills {
            writeln!(out, "{}", serde_json::to_string(drill)?)?;
        }
        return Ok(());
    }
    if drills.is_empty() {
        writeln!(out, "no live drill was done from this node yet: `standin drill live VIP`")?;
    }
    for drill in &drills {
        let Drill { at, vip, measured_from, .. } = drill;
        let at = at.parse::<jiff::Timestamp>().map(std::time::SystemTime::from);
        let at = at.map_or_else(|_| drill.at.clone(), time::for_people);
        writeln!(out, "{at}  {vip}, measured from {measured_from}")?;
        for one in &drill.moves {
            writeln!(out, "  {}", line(one))?;
        }
    }
    Ok(())
}

/// What to think of a failure that the VIP's own node met.
pub(super) fn remark(drill: &Drill) -> Option<String> {
    let Drill { measured_from: here, .. } = drill;
    let own = |one: &Move| !one.good && (one.from == *here || one.to == *here);
    drill.moves.iter().any(own).then(|| {
        format!(
            "{here} had the VIP itself before or after: its own requests then don't cross the network. \
             Where there is a third node, measure there"
        )
    })
}

/// One move as a person reads it.
pub(super) fn line(one: &Move) -> String {
    let without = one.without_answer_ms.map_or_else(
        || "no answer until the end".to_owned(),
        |ms| match one.requests_failed {
            0 => "answered throughout".to_owned(),
            _ => format!("{ms:.0} ms without an answer"),
        },
    );
    format!(
        "{:<10}  {} → {}  {without}, {} of {} requests failed: {}",
        one.kind,
        one.from,
        one.to,
        one.requests_failed,
        one.requests,
        if one.good { "good" } else { "BAD" },
    )
}
