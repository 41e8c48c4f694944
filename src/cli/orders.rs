//! `standin maintenance` and `standin reload`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};

use super::{Places, client};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct MaintenanceArgs {
    switch: Switch,
    /// With `on`: end it by itself after this time: 30m, 2h
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    lasting: Option<Duration>,
    /// With `on`: give the VIPs up at once instead of moving them first; open connections are lost
    #[arg(long)]
    now: bool,
    /// What became of each VIP that this node held, as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// For programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    places: Places,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    standin_config::duration::parse(text)
        .ok_or_else(|| "a time has a unit: 500ms, 90s, 30m, 2h".to_owned())
}

/// What the daemon takes.
fn lasting(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(1)..=Duration::from_hours(365 * 24);
    let time = duration(text)?;
    if range.contains(&time) {
        Ok(time)
    } else {
        Err("more than nothing, and at most a year (8760h)".to_owned())
    }
}

pub(super) fn maintenance(args: &MaintenanceArgs) -> Result<()> {
    let on = args.switch == Switch::On;
    if !on && (args.lasting.is_some() || args.now) {
        let words = "--for and --now go with `on`: nothing was done".to_owned();
        return Err(client::Unanswered { exit: Exit::Usage, words }.into());
    }
    let for_s = args.lasting.map(|time| time.as_secs_f64());
    let body = json!({ "on": on, "for_s": for_s, "now": args.now });
    let socket = args.places.socket();
    let answer =
        client::block_on(client::call(&socket, Method::POST, "/v1/maintenance", Some(&body)))?;
    let answer: Value = serde_json::from_slice(&answer)?;
    let vips = answer.get("vips").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |vip: &Value| vip.get("text").and_then(Value::as_str).unwrap_or("?").to_owned();
    let (stay, gone): (Vec<&Value>, Vec<&Value>) =
        vips.iter().partition(|vip| vip.get("stays") == Some(&Value::Bool(true)));
    if args.json {
        println!("{}", json!({ "on": on, "for_s": for_s, "vips": vips }));
    } else {
        gone.into_iter().for_each(|vip| println!("{}", text(vip)));
        is_on(on, args.lasting);
    }
    if stay.is_empty() {
        return Ok(());
    }
    // Whoever waits for it, to reboot say, must not take this node for one without VIPs.
    let words = stay.into_iter().map(text).collect::<Vec<_>>().join("\n");
    Err(client::Unanswered { exit: Exit::Failed, words }.into())
}

fn is_on(on: bool, lasting: Option<Duration>) {
    match (on, lasting) {
        (true, Some(time)) => {
            println!(
                "maintenance is on for {}; `standin maintenance off` ends it",
                super::ago(time)
            );
        }
        (true, None) => println!("maintenance is on until `standin maintenance off`"),
        (false, _) => println!("maintenance is off"),
    }
}

pub(super) fn reload(args: &ReloadArgs) -> Result<()> {
    let socket = args.places.socket();
    let answer = client::block_on(client::call(&socket, Method::POST, "/v1/reload", None))?;
    let answer: Value = serde_json::from_slice(&answer)?;
    super::say(args.json, &answer, answer.get("text").and_then(Value::as_str).unwrap_or("taken"))
}
