//! CPU per advert: standin, keepalived and the bare loop, one after the other on the same two hosts.
//!
//! Each sends alone, on one end of a cable; at the other end the same standin listens as backup for
//! all VIPs, so that each sender pays for the same delivery. Softirq work is charged to whoever
//! sends, so figures of different runs or machines don't compare.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::configs::{self, Node, Setup};
use crate::host::Host;
use crate::report::Figure;
use crate::{Options, count, median, usage};

/// After the last VIP is there, announcements go on for a while.
const SETTLES: Duration = Duration::from_secs(4);

/// keepalived announces again five seconds after a takeover, and with hundreds of instances sends
/// no advert for so long meanwhile that a backup takes over: it is given time to get done.
const KEEPALIVED_SETTLES: Duration = Duration::from_secs(12);

/// All VIPs must be up by then.
const STARTS: Duration = Duration::from_secs(20);

/// A load and what it may cost.
pub(crate) struct Load {
    pub(crate) vips: usize,
    pub(crate) interval_ms: u32,
    pub(crate) to_bare: f64,
    pub(crate) to_keepalived: Option<f64>,
}

/// What one sender did in one span.
#[derive(Clone, Copy)]
struct Span {
    us_per_advert: f64,
    share_percent: f64,
    /// Takeovers of the backup that nobody asked for.
    false_transitions: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sender {
    Standin,
    Keepalived,
    Bare,
}

pub(crate) fn measure(dir: &Path, load: &Load, options: &Options) -> Result<Vec<Figure>> {
    let (one, two) = configs::pair(dir, load.vips)?;
    let mut spans: [Vec<Span>; 3] = Default::default();
    let senders = [Sender::Standin, Sender::Bare, Sender::Keepalived];
    let mut troubles = Vec::new();
    for round in 0..options.rounds() {
        for (sender, spans) in senders.into_iter().zip(&mut spans) {
            // Once is enough for keepalived, which is far from the others.
            if sender == Sender::Keepalived && round > 0 {
                continue;
            }
            match once(&one, &two, sender, load, options.span()) {
                Ok(span) => spans.push(span),
                // At 10 ms it may lose its VIPs again and again, and nothing is steady then.
                Err(error) if sender == Sender::Keepalived => {
                    troubles.push(format!("keepalived couldn't be measured: {error:#}"));
                }
                Err(error) => return Err(error.context(format!("{sender:?}"))),
            }
        }
    }
    let title = format!("{} VIPs, adverts every {} ms", load.vips, load.interval_ms);
    let middle = |place: usize, of: fn(&Span) -> f64| {
        Some(spans[place].iter().map(of).collect::<Vec<_>>())
            .filter(|all| !all.is_empty())
            .map(median)
    };
    let cost = |place| middle(place, |span| span.us_per_advert);
    let (own, bare, keepalived) = (cost(0), cost(1), cost(2));
    let mut target = format!("≤ {} × bare", load.to_bare);
    let within = |other: Option<f64>, limit: f64| match (own, other) {
        (Some(own), Some(other)) => own <= limit * other,
        _ => false,
    };
    let mut met = within(bare, load.to_bare);
    if let Some(limit) = load.to_keepalived {
        target += &format!(", ≤ {limit} × keepalived");
        met &= within(keepalived, limit);
    }
    let mut per_advert = Figure::new(format!("{title}: CPU per advert"), "µs").aim(target, met);
    (per_advert.standin, per_advert.bare, per_advert.keepalived) = (own, bare, keepalived);
    per_advert.notes.extend(troubles);
    for (sender, spans) in senders.iter().zip(&spans) {
        let all: Vec<_> = spans.iter().map(|span| format!("{:.2}", span.us_per_advert)).collect();
        per_advert.notes.push(format!("{sender:?} {} µs, in the order measured", all.join(" ")));
    }
    let mut share = Figure::new(format!("{title}: share of one core"), "%");
    (share.standin, share.bare, share.keepalived) = (
        middle(0, |span| span.share_percent),
        middle(1, |span| span.share_percent),
        middle(2, |span| span.share_percent),
    );
    let sum = |place: usize| spans[place].iter().map(|span| span.false_transitions).sum::<u64>();
    let mut false_ones =
        Figure::new(format!("{title}: false transitions"), "").aim("0 with standin", sum(0) == 0);
    (false_ones.standin, false_ones.bare, false_ones.keepalived) =
        (Some(count(sum(0))), Some(count(sum(1))), Some(count(sum(2))));
    Ok(vec![per_advert, share, false_ones])
}

fn once(one: &Host, two: &Host, sender: Sender, load: &Load, span: Duration) -> Result<Span> {
    let setup = Setup { vips: load.vips, interval_ms: load.interval_ms, realtime: true };
    let program = match sender {
        Sender::Standin => configs::standin(one, Node(1), setup)?,
        // As it is by default.
        Sender::Keepalived => {
            configs::keepalived(one, Node(1), Setup { realtime: false, ..setup })?
        }
        Sender::Bare => {
            let own = std::env::current_exe()?;
            let line = format!("{} --bare {} {}", own.display(), load.vips, load.interval_ms);
            // Realtime as the others, where that is to be had.
            let realtime = one.run("chrt --fifo 40 true").is_ok();
            let wrap = if realtime { "chrt --fifo 40 " } else { "" };
            one.start(&format!("{wrap}{line}"), "bare.log")?
        }
    };
    if sender != Sender::Bare {
        one.wait_for_vips(load.vips, STARTS)?;
    }
    if sender == Sender::Keepalived {
        thread::sleep(KEEPALIVED_SETTLES);
    }
    let backup = configs::standin(two, Node(2), setup)?;
    thread::sleep(SETTLES);
    let taken = takeovers(two)?;
    let (cpu, began) = (usage::cpu_time(&program)?, Instant::now());
    let heard = adverts_heard(two)?;
    thread::sleep(span);
    let heard = adverts_heard(two)?.saturating_sub(heard);
    let (used, took) = (usage::cpu_time(&program)?.saturating_sub(cpu), began.elapsed());
    let false_transitions = takeovers(two)?.saturating_sub(taken);
    if sender != Sender::Bare && one.vips()? != load.vips {
        bail!("it holds {} of {} VIPs", one.vips()?, load.vips);
    }
    program.stop()?;
    backup.stop()?;
    one.wait_for_vips(0, STARTS)?;
    if heard == 0 {
        bail!("no advert was heard");
    }
    let us_per_advert = used.as_secs_f64() * 1e6 / count(heard);
    let share_percent = used.as_secs_f64() / took.as_secs_f64() * 100.0;
    Ok(Span { us_per_advert, share_percent, false_transitions })
}

fn adverts_heard(host: &Host) -> Result<u64> {
    counters(host, "adverts_heard")
}

pub(crate) fn takeovers(host: &Host) -> Result<u64> {
    counters(host, "takeovers")
}

/// The sum of a counter over all VIPs.
fn counters(host: &Host, name: &str) -> Result<u64> {
    let line = format!("{} status --json --run-dir /run/standin", configs::standin_binary());
    let status: serde_json::Value = serde_json::from_str(&host.run(&line)?)?;
    let vips = status["vips"].as_array().context("status lists no VIPs")?;
    Ok(vips.iter().filter_map(|vip| vip["counters"][name].as_u64()).sum())
}
