//! `standin sync` and `standin apply`: the shared files as an operator sees them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Places, client, say};
use crate::api::types::sync::{Diff, Generation, Kept, Node, Outside, Sync, Target, Tickets};

/// How often `apply` looks how far it has come.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show what each node should have, has, and serves
    Status(Asked),
    /// Show which files are different: on disk here and in the last generation, or on another node
    Diff {
        /// The other node
        node: Option<String>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Show what is kept: generations, and what was overwritten
    History(Asked),
    /// Put an earlier generation in the place of this one, on all nodes
    Rollback {
        /// Its number, or the first digits of its tree; else the one before
        generation: Option<String>,
        #[command(flatten)]
        asked: Asked,
    },
    /// Make new keys of TLS session tickets, on all nodes; run it on the writer
    Rotate {
        /// All of them: somebody may know them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Take nothing from others and ship nothing, until `resume`
    Hold(Asked),
    /// Go on after `hold`, or after a question that was asked
    Resume {
        /// It is meant that so many files are gone
        #[arg(long)]
        accept_deletion: bool,
        #[command(flatten)]
        asked: Asked,
    },
}

#[derive(Debug, Args)]
struct Asked {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Print the outcome for programs
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) places: Places,
}

pub(super) fn approve(json: bool, places: &Places) -> Result<()> {
    order(&Asked { json, places: places.clone() }, "approve", &json!({}))
}

pub(super) fn main(args: &SyncArgs) -> Result<()> {
    match &args.what {
        What::Status(asked) => show(asked, "/v1/sync", |sync: &Sync| page(sync)),
        What::Diff { node, asked } => {
            let path = match node {
                Some(node) if !plain(node) => bail!("{node:?} is no name of a node"),
                Some(node) => format!("/v1/sync/diff?node={node}"),
                None => "/v1/sync/diff".to_owned(),
            };
            show(asked, &path, differences)
        }
        What::History(asked) => show(asked, "/v1/sync/history", |kept: &Vec<Kept>| history(kept)),
        What::Rollback { generation, asked } => {
            order(asked, "rollback", &json!({ "generation": generation }))
        }
        What::Rotate { all, asked } => order(asked, "rotate", &json!({ "all": all })),
        What::Hold(asked) => order(asked, "hold", &json!({})),
        What::Resume { accept_deletion, asked } => {
            order(asked, "resume", &json!({ "accept_deletion": accept_deletion }))
        }
    }
}

/// Fit for a query without being escaped.
fn plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn get<T: DeserializeOwned>(places: &Places, path: &str) -> Result<T> {
    let answer = client::block_on(client::call(&places.socket(), Method::GET, path, None))?;
    Ok(serde_json::from_slice(&answer)?)
}

fn show<T: DeserializeOwned>(
    asked: &Asked,
    path: &str,
    page: impl FnOnce(&T) -> String,
) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if asked.json {
        let value: Value = get(&asked.places, path)?;
        writeln!(out, "{value}")?;
    } else {
        write!(out, "{}", page(&get(&asked.places, path)?))?;
    }
    Ok(())
}

fn order(asked: &Asked, what: &str, body: &Value) -> Result<()> {
    let path = format!("/v1/sync/{what}");
    let socket = asked.places.socket();
    let call = client::call(&socket, Method::POST, &path, Some(body));
    let answer: Value = serde_json::from_slice(&client::block_on(call)?)?;
    let said = answer.as_str().unwrap_or("done");
    say(asked.json, &json!({ "text": said }), said)
}

fn page(sync: &Sync) -> String {
    let mut out = String::new();
    // Writing to a String can't fail, here and below.
    let _ = writeln!(out, "files    {}", sync.roots.join(" "));
    let writer = sync.writer.as_deref().unwrap_or("nobody: no node is known to hold the VIP");
    let _ = writeln!(out, "from     {writer}");
    if let Some(doing) = &sync.doing {
        let _ = writeln!(out, "doing    {doing}");
    }
    if let Some(tickets) = sync.tickets.as_ref().filter(|it| it.used) {
        let _ = writeln!(out, "tickets  {}", keys(tickets));
    }
    let head = ["node", "desired", "staged", "applied", "proven"];
    let mut rows = vec![head.map(str::to_owned)];
    for node in &sync.nodes {
        let number = |id: &Option<Generation>| {
            id.as_ref().map_or_else(|| "-".to_owned(), |it| it.number.to_string())
        };
        rows.push([
            node.name.clone(),
            number(&node.desired),
            number(&node.staged),
            number(&node.applied),
            number(&node.proven),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    out.push('\n');
    for (at, row) in rows.iter().enumerate() {
        for (text, width) in row.iter().zip(widths) {
            let _ = write!(out, "{text:<width$}  ");
        }
        let node = at.checked_sub(1).and_then(|at| sync.nodes.get(at));
        out.push_str(node.map_or("", |node| word(node)));
        out.truncate(out.trim_end().len());
        out.push('\n');
        if let Some(node) = node {
            out.push_str(&obstacles(node));
        }
    }
    for target in &sync.targets {
        let _ = write!(out, "\nrsync    {}  {}", target.to, state(target));
        if let Some(why) = &target.why {
            let _ = write!(out, "\n    {why}");
        }
        out.push('\n');
    }
    if let Some(apply) = &sync.apply
        && !apply.over
    {
        let _ = writeln!(out, "\napply    {}", apply.step);
    }
    if !sync.outside.is_empty() {
        let _ = write!(out, "\n{}", strays(sync));
    }
    if !sync.notes.is_empty() {
        out.push('\n');
    }
    for note in &sync.notes {
        let _ = writeln!(out, "note     {note}");
    }
    out
}

/// A file that isn't the same on all nodes and isn't shared.
pub(super) fn stray(one: &Outside) -> String {
    let mut words = Vec::new();
    if one.missing_here {
        words.push(format!("isn't here, but on {}", one.differs_on.join(", ")));
    } else if !one.differs_on.is_empty() {
        words.push(format!("is another one on {}", one.differs_on.join(", ")));
    }
    if !one.missing_on.is_empty() {
        words.push(format!("isn't on {}", one.missing_on.join(", ")));
    }
    format!("{} {}; {}", one.path, words.join(" and "), one.named)
}

fn strays(sync: &Sync) -> String {
    let mut out = String::new();
    for one in &sync.outside {
        // As above; the same below.
        let _ = writeln!(out, "outside  {}", stray(one));
    }
    if let Some(line) = &sync.also_line {
        let _ = writeln!(out, "         to share it, in [sync]: {line}");
    }
    out
}

/// The keys of TLS session tickets, on one line.
fn keys(tickets: &Tickets) -> String {
    let at = tickets.since.parse::<jiff::Timestamp>().map(std::time::SystemTime::from);
    let at = at.map_or_else(|_| tickets.since.clone(), crate::control::time::for_people);
    let state = match (&tickets.problem, tickets.loaded, tickets.number) {
        (Some(problem), ..) => problem.as_str(),
        (None, _, 0) => "this node's own, until it hears the writer's",
        (None, true, _) => "loaded",
        (None, false, _) => "not loaded yet",
    };
    format!("keys {} since {at}: {state}", tickets.number)
}

/// How a node stands, in a word or two.
pub(super) fn word(node: &Node) -> &'static str {
    if node.held.is_some() {
        return "held";
    }
    match (&node.problem, node.connected, node.current) {
        (Some(_), ..) => "behind",
        (None, false, _) => "no link",
        (None, true, Some(true)) => "current",
        (None, true, Some(false)) if node.writes => "saved, not loaded",
        (None, true, Some(false)) => "catching up",
        (None, true, None) => "",
    }
}

/// What a host with only an rsync daemon has.
pub(super) fn state(target: &Target) -> String {
    match &target.generation {
        Some(it) => format!("has {}  {}", it.number, target.state),
        None => target.state.clone(),
    }
}

fn obstacles(node: &Node) -> String {
    let mut out = String::new();
    if let Some(problem) = &node.problem {
        let Generation { number, .. } = problem.generation;
        let _ = writeln!(out, "    generation {number} {}:", problem.kind);
        for line in problem.why.lines() {
            let _ = writeln!(out, "      {line}");
        }
    }
    if let Some(held) = &node.held {
        let _ = writeln!(out, "    held: {held}");
    }
    if let Some(drift) = &node.drift {
        let what = if node.writes { "a change that isn't taken yet" } else { "drift" };
        let short = drift.get(..12).unwrap_or(drift);
        let _ = writeln!(out, "    on disk lies another tree, {short}: {what}");
    }
    out
}

fn history(kept: &Vec<Kept>) -> String {
    let mut out = String::new();
    for one in kept {
        let number = one.generation.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let at = one.at.parse::<jiff::Timestamp>().map(std::time::SystemTime::from);
        let at = at.map_or_else(|_| one.at.clone(), crate::control::time::for_people);
        let here = if one.on_disk { " (on disk)" } else { "" };
        let tree = one.tree.get(..12).unwrap_or(&one.tree);
        let _ =
            writeln!(out, "{number:>5}  {tree}  {at}  {:>6} files  {}{here}", one.files, one.why);
    }
    if out.is_empty() {
        out.push_str("nothing is kept yet\n");
    }
    out
}

fn differences(diff: &Diff) -> String {
    let mut out = format!("from {} to {}\n", diff.from, diff.to);
    for change in &diff.changes {
        let _ = writeln!(out, "  {:<9} {}", change.what, change.path);
    }
    if diff.left_out > 0 {
        let _ = writeln!(out, "  and {} more", diff.left_out);
    }
    if diff.changes.is_empty() {
        out.push_str("  nothing\n");
    }
    out
}

/// Orders it, and tells how it goes until it is over.
pub(super) fn apply(args: &ApplyArgs) -> Result<()> {
    let socket = args.places.socket();
    client::block_on(async {
        client::call(&socket, Method::POST, "/v1/sync/apply", Some(&json!({}))).await?;
        let (mut said, mut told) = (String::new(), Vec::new());
        loop {
            let answer = client::call(&socket, Method::GET, "/v1/sync", None).await?;
            let sync: Sync = serde_json::from_slice(&answer)?;
            let Some(apply) = &sync.apply else {
                bail!("it isn't known any more what became of it")
            };
            if !args.json {
                if apply.step != said && !apply.over {
                    println!("{}", apply.step);
                    said.clone_from(&apply.step);
                }
                let proven = sync
                    .nodes
                    .iter()
                    .filter(|node| node.proven == apply.generation && apply.generation.is_some());
                for node in proven {
                    if !told.contains(&node.name) && !said.is_empty() && apply.failed.is_none() {
                        println!("  {} serves it", node.name);
                        told.push(node.name.clone());
                    }
                }
            }
            if apply.over {
                if args.json {
                    println!("{}", serde_json::to_string(apply)?);
                }
                if let Some(why) = &apply.failed {
                    bail!("it was stopped, and what was done was undone: {why}");
                }
                if !args.json {
                    let number = apply.generation.as_ref().map_or(0, |it| it.number);
                    println!("generation {number} is served by every node that is connected");
                    if !apply.skipped.is_empty() {
                        println!("without a link, will catch up: {}", apply.skipped.join(", "));
                    }
                }
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}
