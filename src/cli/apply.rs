//! `standin apply`: a change goes to all nodes, or to none.

use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;
use standin_config::MAX_FILE_BYTES;

use super::client::{self, Unanswered};
use super::{Places, sync};
use crate::control;
use crate::exit::Exit;
use crate::link::file::apply::Step;

const FILE: &str = "/etc/standin/standin.toml";

/// Without a word of what: both, the cluster file first.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ApplyArgs {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    both: Both,
}

#[derive(Clone, Debug, Args)]
struct Both {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
pub(crate) struct ExpelArgs {
    /// Who is no member any more
    node: String,
    /// A node that needn't agree; it hears of it when it is back
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
    /// For programs: one step a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

pub(super) fn expel(args: &ExpelArgs) -> Result<()> {
    let order = json!({ "node": args.node, "without": args.without });
    client::block_on(follow(&args.places, "/v1/expel", &order, args.json))?;
    if !args.json {
        let node = &args.node;
        println!(
            "{node} is no member any more, and the authority is another one. Its section stays, so that \
             it still takes part in VRRP: if its machine is gone, remove [node.{node}] and apply that"
        );
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
enum What {
    /// The cluster file: every node looks whether it can take it, then all take it
    #[command(
        after_help = "Examples:\n  standin apply cluster\n  standin apply cluster new.toml\n  \
                            standin apply cluster --without n3"
    )]
    Cluster(ClusterArgs),
    /// The shared files: every node tests, the backups load them first, the active last
    #[command(after_help = "A failure anywhere stops it and undoes what was done.")]
    Nginx(sync::ApplyArgs),
}

#[derive(Debug, Args)]
struct ClusterArgs {
    /// The file as it shall be on all nodes
    #[arg(value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// A node that needn't agree; it takes the file when it is back
    #[arg(long, value_name = "NODE")]
    without: Vec<String>,
    /// For programs: one step a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &ApplyArgs) -> Result<()> {
    match &args.what {
        Some(What::Cluster(args)) => cluster(args).map(drop),
        Some(What::Nginx(args)) => sync::apply(args),
        None => {
            let Both { json, places } = args.both.clone();
            let (file, without) = (PathBuf::from(FILE), Vec::new());
            let text = cluster(&ClusterArgs { file, without, json, places: places.clone() })?;
            // The daemons have taken it, so that it is a good one.
            let loaded = standin_config::load(FILE, &text);
            if loaded.model.is_some_and(|cluster| cluster.sync.is_none()) {
                if !json {
                    println!("no files are shared: the cluster file has no [sync]");
                }
                return Ok(());
            }
            sync::apply(&sync::ApplyArgs { json, places })
        }
    }
}

/// Hands back the text that all nodes have then.
fn cluster(args: &ClusterArgs) -> Result<String> {
    let name = args.file.display().to_string();
    let bad = |words: String| Unanswered { exit: Exit::BadFile, words };
    let bytes = control::bytes_of(&args.file).map_err(|error| {
        bad(format!("can't read the cluster file {name}: {error}; nothing was changed"))
    })?;
    if bytes.len() > MAX_FILE_BYTES {
        let words = format!(
            "{name} has more than {MAX_FILE_BYTES} bytes: no cluster file; nothing was changed"
        );
        return Err(bad(words).into());
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| bad(format!("{name} is no UTF-8 text; nothing was changed")))?;
    let order = json!({ "text": text, "name": name, "without": args.without });
    client::block_on(follow(&args.places, "/v1/apply/cluster", &order, args.json))?;
    Ok(text)
}

/// Orders it, and says step by step what becomes of it.
pub(super) async fn follow(
    places: &Places,
    route: &str,
    order: &serde_json::Value,
    json: bool,
) -> Result<()> {
    let response = client::stream(&places.socket(), Method::POST, route, Some(order)).await?;
    let mut unfit = false;
    let told = client::lines(response, |line| {
        let step: Step = serde_json::from_slice(line).context("the daemon's answer")?;
        unfit |= step.state == "unfit";
        let mut out = std::io::stdout().lock();
        if json {
            out.write_all(line)?;
        } else {
            out.write_all(words(&step).as_bytes())?;
        }
        out.flush()?;
        drop(out);
        if step.node.is_none() { outcome(step, unfit).map(|()| true) } else { Ok(false) }
    });
    told.await
}

fn outcome(step: Step, unfit: bool) -> Result<()> {
    if step.state == "done" {
        return Ok(());
    }
    let exit = if unfit { Exit::BadFile } else { Exit::Failed };
    Err(Unanswered { exit, words: step.text.unwrap_or_default() }.into())
}

fn words(step: &Step) -> String {
    let Some(node) = &step.node else {
        let number = step.version.unwrap_or_default();
        return match (step.state.as_str(), &step.text) {
            ("done", None) => format!("version {number} of the cluster file is decided\n"),
            ("done", Some(text)) => {
                format!("{text}: all nodes have version {number} of the cluster file\n")
            }
            _ => String::new(),
        };
    };
    let state = match step.state.as_str() {
        // Who looks on sees that something goes on.
        "looking" if std::io::stdout().is_terminal() => "looks at it",
        "looking" => return String::new(),
        "fit" => "can take it",
        "unfit" => "can't take it",
        "left out" => "isn't asked; it takes the file when it is back",
        "not joined" => "isn't asked: it has not joined",
        "put out" => "is no member any more: the file has no fingerprint of it",
        "taken" => "has it",
        "missed" => "didn't answer; it takes the file when it is back",
        other => other,
    };
    let mut out = format!("  {node}  {state}");
    match step.text.as_deref() {
        None => {}
        Some(text) if text.contains('\n') => {
            for line in text.lines() {
                out.push_str("\n    ");
                out.push_str(line);
            }
        }
        Some(text) => {
            out.push_str(": ");
            out.push_str(text);
        }
    }
    out.push('\n');
    out
}
