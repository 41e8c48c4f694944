//! `standin events`: what happened, when, why, on what evidence.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use clap::Args;
use hyper::Method;
use hyper::body::Bytes;

use super::client::Unanswered;
use super::{Places, STATE_DIR, client};
use crate::control::history::{self, Record};
use crate::control::time;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on as events happen
    #[arg(long, short)]
    follow: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Only the last N
    #[arg(short = 'n', value_name = "N")]
    last: Option<usize>,
    /// Where the events are kept; read where no daemon answers
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    state_dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &EventsArgs) -> Result<()> {
    let socket = args.places.socket();
    client::block_on(async {
        let (past, gone) = match client::call(&socket, Method::GET, "/v1/events", None).await {
            Ok(past) => (past, None),
            Err(error) => match of_past_daemons(args, &error) {
                Some(past) => (past, Some(error)),
                None => return Err(error),
            },
        };
        let lines: Vec<_> = past.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).collect();
        let skip = args.last.map_or(0, |last| lines.len().saturating_sub(last));
        lines.iter().skip(skip).try_for_each(|line| show(line, args.json))?;
        match gone {
            Some(error) if args.follow => Err(error),
            Some(error) => {
                let file = history::file_in(&args.state_dir);
                eprintln!("that is what is kept in {}: {error}", file.display());
                Ok(())
            }
            None if args.follow => {
                let read = |line: &&[u8]| serde_json::from_slice::<Record>(line).ok();
                let last = lines.iter().rev().find_map(read);
                follow(args, last.map_or(0, |record| record.seq)).await
            }
            None => Ok(()),
        }
    })
}

/// Why a daemon has ended is asked when there is none; `None` where nothing is kept, or one answered.
fn of_past_daemons(args: &EventsArgs, error: &anyhow::Error) -> Option<Bytes> {
    error.downcast_ref().filter(|error: &&Unanswered| error.exit == Exit::NoDaemon)?;
    let kept = history::kept(&history::file_in(&args.state_dir));
    let lines = kept.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>().ok()?;
    (!lines.is_empty()).then(|| lines.join("\n").into())
}

async fn follow(args: &EventsArgs, after: u64) -> Result<()> {
    let path = format!("/v1/events?follow=true&after={after}");
    let response = client::stream(&args.places.socket(), Method::GET, &path, None).await?;
    let shown = client::lines(response, |line| {
        // An empty one only finds out whether anybody is still here.
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if !line.is_empty() {
            show(line, args.json)?;
        }
        Ok(false)
    });
    shown.await
}

fn show(line: &[u8], json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match serde_json::from_slice::<Record>(line) {
        Ok(record) if !json => {
            let at = record.at.parse::<jiff::Timestamp>().map(SystemTime::from);
            let at = at.map_or(record.at, time::for_people);
            let vip = record.vip.unwrap_or_else(|| "-".to_owned());
            writeln!(out, "{at}  {vip:<10}  {}", record.text)?;
        }
        _ => {
            out.write_all(line)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()?;
    Ok(())
}
