//! Resident memory: the sum of Pss of all processes of a daemon.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::configs::{self, Node, Setup};
use crate::report::Figure;
use crate::{Options, usage};

const ONE: Setup = Setup { vips: 1, interval_ms: 100, realtime: true };

/// What keepalived took here when the promise was made.
const PROMISED_MB: f64 = 7.6;

const STARTS: Duration = Duration::from_secs(10);

pub(crate) fn measure(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let after = Duration::from_secs(if options.quick { 10 } else { 60 });
    let (one, two) = configs::pair(dir, 1)?;
    // Both wait for their turn at the same time: they are on two hosts.
    let standin = configs::standin(&one, Node(1), ONE)?;
    one.wait_for_vips(1, STARTS).context("standin")?;
    let other = configs::pair(&dir.join("keepalived"), 1)?;
    let keepalived = configs::keepalived(&other.0, Node(1), Setup { realtime: false, ..ONE })?;
    other.0.wait_for_vips(1, STARTS).context("keepalived")?;
    thread::sleep(after);
    let (own_kb, own_processes) = usage::memory_kb(&standin)?;
    let (kb, processes) = usage::memory_kb(&keepalived)?;
    drop(two);
    let mb = |kb: u64| f64::from(u32::try_from(kb).unwrap_or(u32::MAX)) / 1024.0;
    let title = format!("memory, one VIP, no checks, after {} s", after.as_secs());
    let met = mb(own_kb) <= PROMISED_MB;
    let mut figure = Figure::new(title, "MB").aim(format!("≤ {PROMISED_MB}"), met);
    (figure.standin, figure.keepalived) = (Some(mb(own_kb)), Some(mb(kb)));
    figure
        .notes
        .push(format!("sum of Pss; standin has {own_processes} processes, keepalived {processes}"));
    Ok(vec![figure])
}
