//! `standin drill`: how long nobody answers, in a lab or, with `live`, on the cluster that runs.

mod live;
mod past;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cli::{Places, STATE_DIR, exit_of, orders};
use crate::lab;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DrillLine {
    #[command(subcommand)]
    command: Option<DrillCommand>,
    #[command(flatten)]
    lab: lab::DrillArgs,
}

#[derive(Debug, Subcommand)]
enum DrillCommand {
    /// Move a VIP of the cluster that runs to another node and back, and measure from this node
    #[command(after_help = "Examples:\n  standin drill live web\n  standin drill live web \
                            --to n2 --takeover --path /health")]
    Live(LiveArgs),
    /// Show what earlier live drills on this node measured
    #[command(after_help = "Example: standin drill history --json | jq .good")]
    History(HistoryArgs),
}

#[derive(Debug, Args)]
struct LiveArgs {
    /// The VIP, by its name in the cluster file
    vip: String,
    /// Where it goes before it comes back; else to the best node that is ready
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Also give it up at once, as though this node's nginx had died; open connections to it are
    /// lost. Only on the node that has it
    #[arg(long)]
    takeover: bool,
    /// How long clients may keep their connections to the old node; else the file's
    /// `drain_timeout`
    #[arg(long, value_name = "TIME", value_parser = orders::duration)]
    drain: Option<Duration>,
    /// The port that is asked, over HTTP
    #[arg(long, value_name = "PORT", default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// What is asked for; any answer but a 5xx is a good one
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = path)]
    path: String,
    /// The server name that is asked for; else the VIP's address
    #[arg(long, value_name = "NAME", value_parser = host)]
    host: Option<String>,
    /// How often it is asked: the resolution of what is measured
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = pace)]
    every: Duration,
    /// A request without an answer by then has failed
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    deadline_ms: u64,
    /// The result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kept: Kept,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    kept: Kept,
}

/// Where the history is.
#[derive(Debug, Args)]
struct Kept {
    /// The directory of what outlives the daemon
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

/// `standin drill`, under the same conditions as [`lab::main`].
#[must_use]
pub(crate) fn main(args: DrillLine) -> ExitCode {
    let done: Result<bool> = match args.command {
        None => return lab::drill(args.lab),
        Some(DrillCommand::Live(args)) => live::main(&args),
        Some(DrillCommand::History(args)) => past::show(&args).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => exit_of(&error),
    }
}

fn path(text: &str) -> Result<String, String> {
    let fits = text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a path begins with / and has no spaces".to_owned())
    }
}

fn host(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err("a name has no spaces".to_owned()) }
}

/// More often would be a load of its own on a cluster that serves.
fn pace(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(2)..=Duration::from_secs(1);
    orders::duration(text)?;
    standin_config::duration::parse(text)
        .filter(|time| range.contains(time))
        .ok_or_else(|| "2ms to 1s".to_owned())
}
