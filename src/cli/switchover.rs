//! `standin switchover`: moves a VIP while both nodes live, and shows how it goes.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{Places, client, orders, say};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct SwitchoverArgs {
    /// The VIP, by its name in the cluster file
    vip: String,
    /// Where it is to go; else the best node that is ready
    node: Option<String>,
    /// How long clients may keep connections to this node; else the file's `drain_timeout`
    #[arg(long, value_name = "TIME", value_parser = orders::duration, conflicts_with = "now")]
    drain: Option<Duration>,
    /// Wait for nobody: nginx closes idle connections at once and finishes what is under way
    #[arg(long)]
    now: bool,
    /// Also to a node whose nginx doesn't serve this one's generation of the shared files
    #[arg(long)]
    stale_ok: bool,
    /// Call off the one that is under way: the VIP comes back, also when it has moved already
    #[arg(long, conflicts_with_all = ["node", "drain", "now", "stale_ok"])]
    abort: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &SwitchoverArgs) -> Result<()> {
    if args.abort {
        let said = client::block_on(call_off(&args.places.socket(), &args.vip))?;
        return say(args.json, &json!({ "vip": args.vip, "text": said }), &said);
    }
    let drain = if args.now { Some(Duration::ZERO) } else { args.drain };
    let order = json!({
        "vip": args.vip,
        "to": args.node,
        "drain_s": drain.map(|time| time.as_secs_f64()),
        "stale_ok": args.stale_ok,
    });
    client::block_on(follow(args, &order))
}

/// Says who was told.
pub(crate) async fn call_off(socket: &Path, vip: &str) -> Result<String> {
    let path = "/v1/switchover/abort";
    let order = json!({ "vip": vip });
    let answer = client::call(socket, Method::POST, path, Some(&order)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(text(&answer).to_owned())
}

async fn follow(args: &SwitchoverArgs, order: &Value) -> Result<()> {
    let socket = args.places.socket();
    let path = "/v1/switchover";
    let response = client::stream(&socket, Method::POST, path, Some(order)).await?;
    let mut shown = Shown::default();
    let moved_to = RefCell::new(None);
    let told = client::lines(response, |line| {
        let step: Value = serde_json::from_slice(line)?;
        shown.line(&step, line, args.json)?;
        match step.get("step").and_then(Value::as_str) {
            Some("moved") => {
                let to = step.get("to").and_then(Value::as_str);
                moved_to.replace(to.map(str::to_owned));
                Ok(false)
            }
            // The VIP may be anywhere by the time that nothing more is heard.
            Some("returning") => {
                moved_to.take();
                Ok(false)
            }
            Some("done") => Ok(true),
            Some("called_off") => Err(failed(format!("called off: {}", text(&step)))),
            Some("failed") => Err(failed(text(&step).to_owned())),
            _ => Ok(false),
        }
    });
    tokio::pin!(told);
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut called_off = false;
    loop {
        tokio::select! {
            ended = &mut told => {
                return ended.map_err(|error| known(error, &args.vip, moved_to.take()));
            }
            _ = interrupts.recv() => {
                if std::mem::replace(&mut called_off, true) {
                    let words = "it goes on without you; `standin status` shows how it ends";
                    return Err(failed(words.to_owned()));
                }
                eprintln!("\ncalling it off (Ctrl-C once more leaves it to itself)");
                if let Err(error) = call_off(&args.places.socket(), &args.vip).await {
                    eprintln!("{error}");
                }
            }
        }
    }
}

/// A daemon that ends in the middle tells no end; what is known is where the VIP was.
fn known(error: anyhow::Error, vip: &str, moved_to: Option<String>) -> anyhow::Error {
    let Some(gone) = error.downcast_ref::<client::Unanswered>() else { return error };
    if gone.exit != Exit::NoDaemon {
        return error;
    }
    let known = moved_to.map_or_else(
        || format!("it isn't known who has {vip}; see `standin status` on the other nodes"),
        |to| format!("{to} had {vip} already; see `standin status` on {to}"),
    );
    let words = format!("{}, and {known}", gone.words);
    client::Unanswered { exit: gone.exit, words }.into()
}

fn failed(words: String) -> anyhow::Error {
    client::Unanswered { exit: Exit::Failed, words }.into()
}

fn text(step: &Value) -> &str {
    step.get("text").and_then(Value::as_str).unwrap_or("?")
}

/// A count overwrites the one before it where somebody watches.
#[derive(Default)]
struct Shown {
    counting: bool,
}

impl Shown {
    fn line(&mut self, step: &Value, line: &[u8], json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            out.write_all(line)?;
            out.flush()?;
            return Ok(());
        }
        let kind = step.get("step").and_then(Value::as_str).unwrap_or_default();
        if matches!(kind, "failed" | "called_off") {
            // The error says it.
            return Ok(());
        }
        if std::mem::take(&mut self.counting) {
            write!(out, "\r\x1b[K")?;
        }
        if kind == "draining" && out.is_terminal() {
            write!(out, "  {}", text(step))?;
            self.counting = true;
        } else {
            writeln!(out, "{}", text(step))?;
        }
        out.flush()?;
        Ok(())
    }
}
