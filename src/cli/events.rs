//! `standin events`: what happened, when, why, on what evidence.

use std::io::Write;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use clap::Args;
use hyper::Method;

use super::client::Unanswered;
use super::{Places, client};
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
    #[arg(long, value_name = "DIR", default_value = "/var/lib/standin")]
    state_dir: PathBuf,
    #[command(flatten)]
    places: Places,
}

pub(super) fn main(args: &EventsArgs) -> Result<()> {
    let socket = args.places.socket();
    client::block_on(async {
        let past = client::call(&socket, Method::GET, "/v1/events", None).await;
        let past = match past {
            Err(error) => return past_daemons(args, error),
            Ok(past) => past,
        };
        let lines: Vec<_> = past.split(|byte| *byte == b'\n').filter(|l| !l.is_empty()).collect();
        let skip = args.last.map_or(0, |last| lines.len().saturating_sub(last));
        let mut after = 0;
        for line in lines {
            after = serde_json::from_slice::<Record>(line).map_or(after, |record| record.seq);
        }
        let shown = past.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).skip(skip);
        shown.into_iter().try_for_each(|line| show(line, args.json))?;
        if args.follow { follow(args, after).await } else { Ok(()) }
    })
}

/// Why a daemon has ended is asked when there is none.
fn past_daemons(args: &EventsArgs, error: anyhow::Error) -> Result<()> {
    let absent = |error: &Unanswered| error.exit == Exit::NoDaemon;
    let file = history::file_in(&args.state_dir);
    let kept = match error.downcast_ref() {
        Some(unanswered) if absent(unanswered) => history::kept(&file),
        _ => return Err(error),
    };
    if kept.is_empty() {
        return Err(error);
    }
    let skip = args.last.map_or(0, |last| kept.len().saturating_sub(last));
    kept.iter().skip(skip).try_for_each(|record| show(&serde_json::to_vec(record)?, args.json))?;
    if args.follow {
        return Err(error);
    }
    eprintln!("that is what is kept in {}: {error}", file.display());
    Ok(())
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
