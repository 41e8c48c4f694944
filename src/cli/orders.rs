//! `standin maintenance` and `standin reload`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::json;

use super::{Places, client};

#[derive(Debug, Args)]
pub(crate) struct MaintenanceArgs {
    switch: Switch,
    /// End it by itself after this time: 30m, 2h
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasting: Option<Duration>,
    /// With `on`: give the VIPs up at once instead of moving them first; open connections are lost
    #[arg(long)]
    now: bool,
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
    #[command(flatten)]
    places: Places,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    standin_config::duration::parse(text)
        .ok_or_else(|| "a time has a unit: 500ms, 90s, 30m, 2h".to_owned())
}

pub(super) fn maintenance(args: &MaintenanceArgs) -> Result<()> {
    let on = args.switch == Switch::On;
    let for_s = args.lasting.map(|time| time.as_secs_f64());
    let body = json!({ "on": on, "for_s": for_s, "now": args.now });
    let socket = args.places.socket();
    client::block_on(client::call(&socket, Method::POST, "/v1/maintenance", Some(&body)))?;
    match (on, args.lasting) {
        (true, Some(time)) => {
            println!(
                "maintenance is on for {}; `standin maintenance off` ends it",
                super::ago(time)
            );
        }
        (true, None) => println!("maintenance is on until `standin maintenance off`"),
        (false, _) => println!("maintenance is off"),
    }
    Ok(())
}

pub(super) fn reload(args: &ReloadArgs) -> Result<()> {
    let socket = args.places.socket();
    let answer = client::block_on(client::call(&socket, Method::POST, "/v1/reload", None))?;
    let answer: serde_json::Value = serde_json::from_slice(&answer)?;
    println!("{}", answer.get("text").and_then(serde_json::Value::as_str).unwrap_or("taken"));
    Ok(())
}
