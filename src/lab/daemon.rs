//! The standin daemon of a lab host: started as an operator would, asked through its own commands.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::agent::BINARY;
use super::hosts::Host;

pub(super) const CLUSTER_FILE: &str = "/etc/standin/standin.toml";
pub(super) const LOG: &str = "/var/log/standin/daemon.log";

pub(super) fn start(host: &mut Host, text: &str) -> Result<()> {
    host.write(CLUSTER_FILE, text)?;
    let name = host.name.clone();
    host.launch(&[BINARY, "run", "-f", CLUSTER_FILE, "--node", &name], LOG).map(|_| ())
}

/// What `standin status --json` says.
pub(super) fn status(host: &mut Host) -> Result<Value> {
    json(host, "status")
}

/// What keeps the node from taking any VIP over at once; `None` when nothing does.
pub(super) fn readiness(host: &mut Host) -> Result<Option<String>> {
    let status = status(host)?;
    let vips = status.get("vips").and_then(Value::as_array).context("status without vips")?;
    for vip in vips {
        if vip.get("eligible").and_then(Value::as_bool) != Some(true) {
            let name = vip.get("name").and_then(Value::as_str).unwrap_or("?");
            return Ok(Some(format!("not eligible for VIP {name}")));
        }
    }
    let peers = status.get("peers").and_then(Value::as_array).into_iter().flatten();
    for peer in peers.filter(|peer| peer.get("link").is_some_and(Value::is_object)) {
        if peer.pointer("/link/state").and_then(Value::as_str) != Some("connected") {
            let name = peer.get("name").and_then(Value::as_str).unwrap_or("?");
            return Ok(Some(format!("no peer link with {name}")));
        }
    }
    Ok(None)
}

/// Moves a VIP to the best other node, and waits until nobody uses this one any more.
pub(super) fn switch_over(host: &mut Host, vip: &str) -> Result<()> {
    host.run(&[BINARY, "switchover", vip, "--drain", "3s"]).map(drop)
}

/// How often the daemon has put back an address that somebody took away.
pub(super) fn restored(host: &mut Host) -> Result<u64> {
    let status = status(host)?;
    let vips = status.get("vips").and_then(Value::as_array).context("status without vips")?;
    let counts = vips.iter().filter_map(|vip| vip.pointer("/counters/restored")?.as_u64());
    Ok(counts.sum())
}

/// What `standin events --json` says, one object a line.
pub(super) fn events(host: &mut Host) -> Result<String> {
    host.run(&[BINARY, "events", "--json"])
}

/// How many changes of role the daemon has recorded.
pub(super) fn transitions(host: &mut Host) -> Result<usize> {
    let events = events(host)?;
    let records = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let kinds = records.filter(|record| record.get("kind").is_some_and(|it| it == "transition"));
    Ok(kinds.count())
}

fn json(host: &mut Host, command: &str) -> Result<Value> {
    let ran = host.try_run(&[BINARY, command, "--json"])?;
    if ran.code != Some(0) {
        bail!("{}: `standin {command}`: {}", host.name, ran.stderr.trim());
    }
    serde_json::from_str(&ran.stdout)
        .with_context(|| format!("{}: `standin {command} --json` is no JSON", host.name))
}
