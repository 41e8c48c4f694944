//! False transitions: adverts every 10 ms while the machine has other things to do.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::configs::{self, Node, Setup};
use crate::cpu::takeovers;
use crate::host::{Host, Program};
use crate::report::Figure;
use crate::{Options, count};

/// Busy loops per core.
const OVERCOMMIT: usize = 4;

const STARTS: Duration = Duration::from_secs(10);

/// Pairs of links of other namespaces that are deleted meanwhile.
const LINKS: usize = 1_500;

const MASTER: &str = "Entering MASTER STATE";

#[derive(Clone, Copy)]
struct Case {
    keepalived: bool,
    realtime: bool,
}

/// 4 busy loops on each core.
pub(crate) fn busy(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let span = Duration::from_secs(if options.quick { 5 } else { 20 });
    let mut figures = Vec::new();
    for realtime in [true, false] {
        let title = format!(
            "false transitions, adverts every 10 ms, {OVERCOMMIT} busy loops on each core, {} s{}",
            span.as_secs(),
            if realtime { "" } else { ", without realtime" }
        );
        let mut figure = Figure::new(title, "");
        for keepalived in [false, true] {
            let case = Case { keepalived, realtime };
            let found = watch(dir, case, || {
                let loops = Loops::start(OVERCOMMIT * thread::available_parallelism()?.get())?;
                thread::sleep(span);
                drop(loops);
                Ok(())
            })?;
            *(if keepalived { &mut figure.keepalived } else { &mut figure.standin }) = Some(found);
        }
        let met = figure.standin == Some(0.0);
        figures.push(if realtime { figure.aim("0 with standin", met) } else { figure });
    }
    Ok(figures)
}

/// The kernel's rtnl lock is held by others for long.
pub(crate) fn links(dir: &Path, _: &Options) -> Result<Vec<Figure>> {
    let title = format!(
        "false transitions, adverts every 10 ms, while {LINKS} veth pairs of others are deleted"
    );
    let mut figure = Figure::new(title, "");
    for keepalived in [false, true] {
        let case = Case { keepalived, realtime: true };
        let found = watch(dir, case, || {
            let other = Host::new(dir, "other")?;
            let batch = other.dir.join("links");
            let lines: String =
                (0..LINKS).map(|n| format!("link add a{n} type veth peer name b{n}\n")).collect();
            std::fs::write(&batch, lines)?;
            other.run(&format!("ip -batch {}", batch.display()))?;
            let began = Instant::now();
            // The end of a namespace deletes all its links.
            drop(other);
            thread::sleep(Duration::from_secs(3).max(began.elapsed()));
            Ok(())
        })?;
        *(if keepalived { &mut figure.keepalived } else { &mut figure.standin }) = Some(found);
    }
    let met = figure.standin == Some(0.0);
    Ok(vec![figure.aim("0 with standin", met)])
}

/// How often a VIP moved during `trouble`, although both nodes were well.
fn watch(dir: &Path, case: Case, trouble: impl FnOnce() -> Result<()>) -> Result<f64> {
    let setup = Setup { vips: 1, interval_ms: 10, realtime: case.realtime };
    let (one, two) = configs::pair(dir, 1)?;
    let start = if case.keepalived { configs::keepalived } else { configs::standin };
    let first = start(&one, Node(1), setup)?;
    one.wait_for_vips(1, STARTS)?;
    let second = start(&two, Node(2), setup)?;
    thread::sleep(Duration::from_secs(2));
    if !case.keepalived && case.realtime && second.words().contains("without realtime") {
        bail!("realtime priority is refused here: run it in the root cpu cgroup");
    }
    let before = moves(case, [&one, &two], [&first, &second])?;
    trouble()?;
    // What is late must have come.
    thread::sleep(Duration::from_millis(500));
    let after = moves(case, [&one, &two], [&first, &second])?;
    second.stop()?;
    first.stop().context("it didn't survive")?;
    Ok(count(after.saturating_sub(before)))
}

fn moves(case: Case, hosts: [&Host; 2], programs: [&Program; 2]) -> Result<u64> {
    if case.keepalived {
        let entered = |program: &Program| program.words().matches(MASTER).count() as u64;
        return Ok(programs.into_iter().map(entered).sum());
    }
    Ok(takeovers(hosts[0])? + takeovers(hosts[1])?)
}

/// Programs that only burn CPU.
struct Loops(Vec<Child>);

impl Loops {
    fn start(count: usize) -> Result<Self> {
        let one =
            || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Ok(Self((0..count).map(|_| one()).collect::<Result<_, _>>()?))
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
