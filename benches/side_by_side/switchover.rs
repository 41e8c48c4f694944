//! A planned move there and back under all kinds of clients: standin's switchover, and keepalived stopped
//! or made the lesser one.

#[allow(clippy::unwrap_used, reason = "a bench that can't be set up has failed")]
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/switchover/cluster.rs"]
mod cluster;
#[path = "../../tests/switchover/http2.rs"]
mod http2;
#[allow(clippy::unwrap_used, reason = "a bench that can't be set up has failed")]
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/switchover/load.rs"]
mod load;

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster::{Cluster, SOON, VIP, VIP_V6};
use load::{CROWD, Habit, Load, Seen};

use crate::hosts::{self, Host, STANDIN};
use crate::report::Figure;
use crate::{Options, median};

/// Steady work before and after each step.
const STEADY: Duration = Duration::from_secs(1);

/// How long clients may keep their connections.
const DRAIN: &str = "3s";

/// What the clients saw of one run, there and back together.
#[derive(Default)]
struct Run {
    /// Before anything moved: the machine's own share of every gap.
    steady_gap: Duration,
    gap: Duration,
    until_drained: Seen,
    after: Seen,
}

pub(crate) fn measure(_: &Path, options: &Options) -> Result<Vec<Figure>> {
    let runs = if options.quick { 3 } else { 20 };
    let standin = with_standin(runs)?;
    let keepalived = with_keepalived(runs)?;
    let sum = |runs: &[Run], of: fn(&Run) -> usize| {
        let sum: usize = runs.iter().map(of).sum();
        Some(f64::from(u32::try_from(sum).unwrap_or(u32::MAX)))
    };
    let counted = |what: &str, target: Option<&str>, of: fn(&Run) -> usize| {
        let own = sum(&standin, of);
        let mut figure = Figure::new(format!("{what}, {runs} times there and back"), "");
        if let Some(target) = target {
            figure = figure.aim(target, own == Some(0.0));
        }
        (figure.standin, figure.keepalived) = (own, sum(&keepalived, of));
        figure
    };
    let gaps = |runs: &[Run], of: fn(&Run) -> Duration| -> Vec<f64> {
        runs.iter().map(|run| of(run).as_secs_f64() * 1000.0).collect()
    };
    let gap = gaps(&standin, |run| run.gap);
    let middle = median(gap.clone());
    let mut longest = Figure::new("longest gap of a keep-alive client, median of the runs", "ms")
        .aim("≤ 25", middle <= 25.0);
    longest.standin = Some(middle);
    longest.keepalived = Some(median(gaps(&keepalived, |run| run.gap)));
    let worst = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    let steady = gaps(&standin, |run| run.steady_gap);
    longest.notes.push(format!(
        "worst {:.1} ms; in the same runs with nothing moving: median {:.1} ms, worst {:.1} ms; counted \
         from when the next request is due: these clients pause {} ms on the average, the others {} ms",
        worst(&gap),
        median(steady.clone()),
        worst(&steady),
        load::THINK.as_millis(),
        load::LONG_THINK.as_millis()
    ));
    let all: Vec<_> = gap.iter().map(|ms| format!("{ms:.1}")).collect();
    longest.notes.push(format!("{} ms, in the order measured", all.join(" ")));
    Ok(vec![
        counted("requests", None, |run| run.until_drained.requests + run.after.requests),
        counted("failed requests until drain_timeout", Some("0"), |run| {
            run.until_drained.failures.len()
        }),
        counted("connections cut in use until drain_timeout", Some("0"), |run| {
            run.until_drained.closed
        }),
        counted("resets until drain_timeout", Some("0"), |run| run.until_drained.resets),
        longest,
        counted("failed requests after it, with one more try", None, |run| {
            run.after.failures.len()
        }),
        counted("connections closed after it", None, |run| run.after.closed),
        counted("of these reset", None, |run| run.after.resets),
    ])
}

fn crowd(cluster: &Cluster) -> Result<Vec<(Habit, Load)>> {
    let mut loads = Vec::new();
    for vip in [VIP, VIP_V6] {
        let vip: IpAddr = vip.parse()?;
        for (habit, count) in CROWD {
            loads.push((habit, Load::begin(&cluster.client, vip, habit, count)));
        }
    }
    Ok(loads)
}

/// Phase 0 is steady, odd ones last until `drain_timeout`, even ones come after it.
fn summed(loads: Vec<(Habit, Load)>) -> Run {
    let mut run = Run::default();
    for (habit, load) in loads {
        for (phase, mut seen) in load.end_by_phase().into_iter().enumerate() {
            let whose = |what: &String| format!("{habit:?}, phase {phase}: {what}");
            seen.failures = seen.failures.iter().map(whose).collect();
            if habit == Habit::KeepAlive {
                let gap = if phase == 0 { &mut run.steady_gap } else { &mut run.gap };
                if phase % 2 == 1 || phase == 0 {
                    *gap = seen.gap.max(*gap);
                }
            }
            if phase > 0 && phase % 2 == 0 {
                run.after.add(seen);
            } else {
                run.until_drained.add(seen);
            }
        }
    }
    run
}

fn with_standin(runs: usize) -> Result<Vec<Run>> {
    let cluster = Cluster::new(2, 1, DRAIN);
    let [n1, n2] = &cluster.nodes[..] else { bail!("two nodes") };
    let _daemons = cluster.start();
    let before = cluster.states();
    let mut all = Vec::new();
    for _ in 0..runs {
        let loads = crowd(&cluster)?;
        sleep(STEADY);
        for from in [n1, n2] {
            switch(from, &loads)?;
            sleep(STEADY);
            cluster.wait_ready();
        }
        let run = summed(loads);
        tell("standin", all.len() + 1, runs, &run);
        all.push(run);
        cluster.wait_states(&before);
    }
    Ok(all)
}

/// From the beginning to the end of a switchover.
fn switch(from: &Host, loads: &[(Habit, Load)]) -> Result<()> {
    let next_phase = || loads.iter().for_each(|(_, load)| load.next_phase());
    next_phase();
    let mut command = from.command(STANDIN);
    let mut child = command.args(["switchover", "web", "--json"]).stdout(Stdio::piped()).spawn()?;
    let story = child.stdout.take().context("a pipe")?;
    for line in BufReader::new(story).lines() {
        let line: serde_json::Value = serde_json::from_str(&line?)?;
        if line["step"] == "finishing" {
            next_phase();
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the switchover from {}: {status}", from.name);
    }
    Ok(())
}

/// Without anything that waits: what is open is cut at once. Each second run the daemon isn't stopped but
/// made the lesser one.
fn with_keepalived(runs: usize) -> Result<Vec<Run>> {
    let cluster = Cluster::new(2, 1, DRAIN);
    let [n1, n2] = &cluster.nodes[..] else { bail!("two nodes") };
    let _second = n2.keepalived(&keepalived_text("n2", 100));
    let mut first = n1.keepalived(&keepalived_text("n1", 150));
    n1.wait_has(VIP, true, SOON);
    n1.wait_has(VIP_V6, true, SOON);
    sleep(STEADY);
    let mut all = Vec::new();
    for run in 0..runs {
        let loads = crowd(&cluster)?;
        sleep(STEADY);
        let stops = run % 2 == 0;
        loads.iter().for_each(|(_, load)| load.next_phase());
        if stops {
            first.stop();
            n2.wait_has(VIP, true, SOON);
            sleep(STEADY);
            first = n1.keepalived(&keepalived_text("n1", 150));
        } else {
            n1.write("/etc/keepalived/keepalived.conf", &keepalived_text("n1", 50));
            first.signal(1);
            n2.wait_has(VIP, true, SOON);
            sleep(STEADY);
            n1.write("/etc/keepalived/keepalived.conf", &keepalived_text("n1", 150));
            first.signal(1);
        }
        n1.wait_has(VIP, true, SOON);
        sleep(STEADY);
        let seen = summed(loads);
        tell("keepalived", run + 1, runs, &seen);
        all.push(seen);
    }
    Ok(all)
}

/// Failures of a run that are shown one by one.
const SHOWN: usize = 3;

/// Twenty runs take minutes.
fn tell(whose: &str, number: usize, of: usize, run: &Run) {
    let ms = |gap: Duration| gap.as_secs_f64() * 1000.0;
    eprintln!(
        "  {whose}, run {number} of {of}: longest gap {:.1} ms ({:.1} with nothing moving), {} failed, {} cut",
        ms(run.gap),
        ms(run.steady_gap),
        run.until_drained.failures.len(),
        run.until_drained.closed
    );
    for failure in run.after.failures.iter().chain(&run.until_drained.failures).take(SHOWN) {
        eprintln!("    {failure}");
    }
}

fn keepalived_text(name: &str, priority: u8) -> String {
    let instance = |family: &str, vip: &str| {
        format!(
            "vrrp_instance {family} {{\n  state BACKUP\n  interface eth0\n  virtual_router_id 41\n  \
             priority {priority}\n  version 3\n  advert_int 1\n  virtual_ipaddress {{\n    {vip}\n  }}\n}}\n"
        )
    };
    format!(
        "global_defs {{\n  router_id {name}\n}}\nvrrp_sync_group web {{\n  group {{\n    v4\n    v6\n  \
         }}\n}}\n{}{}",
        instance("v4", &format!("{VIP}/24")),
        instance("v6", &format!("{VIP_V6}/64"))
    )
}
