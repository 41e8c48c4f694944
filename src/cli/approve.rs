//! `standin approve`: root of this node agrees to what files of others could do here.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Places, STATE_DIR, say, sync};
use crate::link::file::power::Approved;

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// What a cluster file wants to do, as `apply cluster` named it; without any, what waits of the
    /// shared files is let in
    #[arg(value_name = "DIGITS")]
    which: Vec<String>,
    /// Show what cluster files want to do here
    #[arg(long, conflicts_with = "which")]
    list: bool,
    /// For programs
    #[arg(long)]
    json: bool,
    /// The directory of what outlives the daemon: what was agreed to
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &ApproveArgs) -> Result<()> {
    let approved = Approved::of(&args.state_dir);
    let waiting = approved.waiting();
    if args.list && args.json {
        let all =
            waiting.iter().map(|(id, power)| json!({ "digits": id, "what": power.to_string() }));
        println!("{}", Value::Array(all.collect()));
        return Ok(());
    }
    if args.list {
        if waiting.is_empty() {
            println!("nothing waits to be approved on this node");
        }
        for (id, power) in waiting {
            println!("{id}  {power}");
        }
        return Ok(());
    }
    if args.which.is_empty() {
        return sync::approve(args.json, &args.places);
    }
    for which in &args.which {
        let Some((id, power)) = waiting.iter().find(|(id, _)| id == which) else {
            bail!(
                "{which} doesn't wait to be approved here; `standin approve --list` shows what does"
            );
        };
        approved.approve(id).with_context(|| {
            format!("can't write to {}", args.state_dir.join("cluster").display())
        })?;
        let approved = json!({ "digits": id, "what": power.to_string() });
        say(args.json, &approved, &format!("approved on this node: {power}"))?;
    }
    Ok(())
}
