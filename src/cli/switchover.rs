//! `standin switchover`: moves a VIP while both nodes live, and shows how it goes.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use http_body_util::BodyExt;
use hyper::Method;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::{Places, client, orders};
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
    #[arg(long, conflicts_with_all = ["node", "drain", "now", "stale_ok", "json"])]
    abort: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &SwitchoverArgs) -> Result<()> {
    if args.abort {
        println!("{}", client::block_on(call_off(args))?);
        return Ok(());
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
async fn call_off(args: &SwitchoverArgs) -> Result<String> {
    let path = "/v1/switchover/abort";
    let order = json!({ "vip": args.vip });
    let answer = client::call(&args.places.socket(), Method::POST, path, Some(&order)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(text(&answer).to_owned())
}

async fn follow(args: &SwitchoverArgs, order: &Value) -> Result<()> {
    let socket = args.places.socket();
    let path = "/v1/switchover";
    let response = client::stream(&socket, Method::POST, path, Some(order)).await?;
    let mut body = response.into_body();
    let mut pending = Vec::new();
    let mut shown = Shown::default();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut called_off = false;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = interrupts.recv() => {
                if std::mem::replace(&mut called_off, true) {
                    let words = "it goes on without you; `standin status` shows how it ends";
                    return Err(failed(words.to_owned()));
                }
                eprintln!("\ncalling it off (Ctrl-C once more leaves it to itself)");
                if let Err(error) = call_off(args).await {
                    eprintln!("{error}");
                }
                continue;
            }
        };
        let Some(Ok(frame)) = frame else { break };
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = pending.drain(..=end).collect();
            let step: Value = serde_json::from_slice(&line)?;
            shown.line(&step, &line, args.json)?;
            match step.get("step").and_then(Value::as_str) {
                Some("done") => return Ok(()),
                Some("failed" | "called_off") => return Err(failed(text(&step).to_owned())),
                _ => {}
            }
        }
    }
    Err(anyhow!(client::gone()))
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
