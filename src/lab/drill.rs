//! A drill: each fault in turn, measured by a client, judged, and repaired before the next.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::client::{self, Client, Measured, Question, milliseconds};
use super::cluster::Lab;
use super::faults::{Ends, Expected, Fault};
use super::progress::Progress;
use super::{daemon, keepalived, table};

/// How often the client asks: the resolution of every outage.
const INTERVAL: Duration = Duration::from_millis(2);

/// After a repair all must be well again; the flap damping of a whole file may be in the way.
const STEADY_WITHIN: Duration = Duration::from_secs(30);

/// One holder for this long is no coincidence.
const STEADY_FOR: Duration = Duration::from_millis(300);

/// Answers come again and go on coming.
const ANSWERED_FOR: Duration = Duration::from_millis(300);

/// A cluster that hasn't answered by then won't.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);

/// A VIP that nobody can serve comes to rest all the same.
const SETTLED_FOR: Duration = Duration::from_secs(1);

/// Once a cut is healed, the two that were active at once must settle it.
const HEALED_OVERLAP_ADVERTS: u32 = 4;

/// A client that is held up for longer measures itself.
const STALL: Duration = Duration::from_millis(10);

/// What a drill is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) faults: Vec<Fault>,
    pub(super) rounds: u32,
    /// One request's deadline.
    pub(super) deadline: Duration,
    /// Measure only, as a comparison: nothing is good or bad.
    pub(super) comparison: bool,
}

/// One fault, once.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) fault: &'static str,
    pub(super) round: u32,
    /// The active node before; after the fault.
    pub(super) before: String,
    pub(super) after: String,
    /// `None`: no answer until the repair.
    pub(super) without_answer_ms: Option<f64>,
    pub(super) requests: usize,
    pub(super) requests_failed: usize,
    /// The longest time with two holders among connected nodes.
    pub(super) overlap_ms: f64,
    /// How far the client itself was held up.
    pub(super) client_stall_ms: f64,
    /// Requests that failed between repair and steadiness.
    pub(super) requests_failed_in_repair: usize,
    /// Whether standin is answerable for it; a keepalived was hit otherwise.
    pub(super) judged: bool,
    pub(super) good: bool,
    /// Why it isn't.
    pub(super) reasons: Vec<String>,
}

impl Run {
    /// A fault that could not be injected.
    fn impossible(fault: Fault, round: u32, reason: String) -> Self {
        Self {
            fault: fault.name(),
            round,
            before: "?".to_owned(),
            after: "?".to_owned(),
            without_answer_ms: None,
            requests: 0,
            requests_failed: 0,
            overlap_ms: 0.0,
            client_stall_ms: 0.0,
            requests_failed_in_repair: 0,
            judged: true,
            good: false,
            reasons: vec![reason],
        }
    }
}

/// The whole drill.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) cluster: String,
    pub(super) nodes: usize,
    pub(super) comparison: bool,
    pub(super) took_s: f64,
    pub(super) good: bool,
    pub(super) bounds_ms: Vec<(&'static str, Option<f64>)>,
    pub(super) runs: Vec<Run>,
    pub(super) evidence: Option<PathBuf>,
}

/// Runs the drill and says how it goes on standard error.
pub(super) fn run(lab: &mut Lab, wish: &Wish) -> Result<Report> {
    let began = Instant::now();
    let faults: Vec<Fault> =
        wish.faults.iter().copied().filter(|fault| fault.suits(lab.count())).collect();
    // It takes two standins; a keepalived is stopped instead, which is a fault of its own.
    let mixed = (0..lab.count()).any(|node| lab.is_keepalived(node));
    let faults: Vec<Fault> =
        faults.into_iter().filter(|fault| *fault != Fault::SwitchedOver || !mixed).collect();
    if faults.is_empty() {
        bail!("none of these faults suits a cluster of {} nodes", lab.count());
    }
    let mut progress = Progress::new(faults.len() * wish.rounds as usize);
    progress.say("waiting until every node is ready");
    let mut drill = Drill { lab, wish, evidence: None, own: Vec::new() };
    drill.steady().context("the cluster was not ready for a drill")?;
    for node in 0..drill.lab.count() {
        let own = drill.lab.own_network(node)?;
        drill.own.push(own);
    }
    let mut runs = Vec::new();
    for round in 1..=wish.rounds {
        for fault in &faults {
            progress.begin(fault.title());
            let run = drill
                .once(*fault, round)
                .unwrap_or_else(|error| Run::impossible(*fault, round, format!("{error:#}")));
            if !run.good {
                drill.restore();
            }
            progress.end(&table::line(&run));
            runs.push(run);
        }
    }
    let bound = |fault: &Fault| {
        let expected = fault.expected(&drill.lab.cluster);
        (fault.name(), expected.outage.map(milliseconds))
    };
    Ok(Report {
        cluster: drill.lab.cluster.name.clone(),
        nodes: drill.lab.count(),
        comparison: wish.comparison,
        took_s: (began.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        good: runs.iter().all(|run| run.good || !run.judged),
        bounds_ms: faults.iter().map(bound).collect(),
        runs,
        evidence: drill.evidence,
    })
}

struct Drill<'a> {
    lab: &'a mut Lab,
    wish: &'a Wish,
    evidence: Option<PathBuf>,
    /// Each node's own addresses and default routes before the first fault.
    own: Vec<String>,
}

/// A fault that was injected, and how things were before.
struct Scene {
    fault: Fault,
    expected: Expected,
    active: usize,
    /// VIP by VIP: who had it.
    before: Vec<Vec<usize>>,
    start: Instant,
    /// Node by node: whether it still shares the network with the others.
    connected: Vec<bool>,
    transitions: Vec<Option<usize>>,
    restored: Option<u64>,
}

impl Drill<'_> {
    fn once(&mut self, fault: Fault, round: u32) -> Result<Run> {
        let before = self.lab.active();
        let Some(&[active]) = before.first().map(Vec::as_slice) else {
            bail!("the first VIP has not exactly one holder");
        };
        let judged = !self.wish.comparison && !self.lab.is_keepalived(active);
        let network = self.lab.client().network()?;
        let vips = self.lab.vip_addresses();
        let question = Question {
            targets: vips.into_iter().map(|vip| SocketAddr::new(vip, 80)).collect(),
            every: INTERVAL,
            deadline: self.wish.deadline,
            request: "GET / HTTP/1.1\r\nHost: vip\r\n\r\n".to_owned(),
            judge: client::whole,
        };
        let client = Client::start(Some(network), question);
        let mut reasons = Vec::new();
        if !wait_for(ANSWERED_FOR * 10, || client.steady_for() >= ANSWERED_FOR) {
            reasons.push("no steady answers before the fault".to_owned());
        }

        let (scene, hurt) = self.inject(fault, active, &before, &mut reasons);
        wait_for(scene.expected.watch_for, || false);
        if scene.expected.outage.is_some() {
            wait_for(GIVE_UP_AFTER, || client.steady_for() >= ANSWERED_FOR);
        }
        let measured = client.so_far(scene.start);
        let after = except(&self.lab.active(), &scene.connected);
        let overlap = self.judge(&scene, &after, &measured, &mut reasons);
        if judged && !reasons.is_empty() {
            self.keep_evidence(fault, round)?;
        }

        let repaired = Instant::now();
        let healed = self.repair(&scene, &hurt, repaired, &mut reasons);
        let in_repair = client.so_far(repaired);
        client.finish()?;
        if judged && !reasons.is_empty() {
            self.keep_evidence(fault, round)?;
        }
        Ok(Run {
            fault: fault.name(),
            round,
            before: self.names(&before),
            after: self.names(&after),
            without_answer_ms: measured.outage.map(milliseconds),
            requests: measured.attempts,
            requests_failed: measured.failed,
            overlap_ms: milliseconds(overlap.max(healed)),
            client_stall_ms: milliseconds(measured.stall),
            requests_failed_in_repair: in_repair.failed,
            judged,
            good: reasons.is_empty(),
            reasons,
        })
    }

    /// Does it; also says which nodes need repair.
    fn inject(
        &mut self,
        fault: Fault,
        active: usize,
        before: &[Vec<usize>],
        reasons: &mut Vec<String>,
    ) -> (Scene, Vec<usize>) {
        let (transitions, restored) = (self.transitions(), self.restored(active));
        let start = Instant::now();
        let hurt = fault.inject(self.lab, active).unwrap_or_else(|error| {
            reasons.push(format!("{error:#}"));
            (0..self.lab.count()).collect()
        });
        let cut_off = |node: usize| !fault.leaves_connected() && hurt.contains(&node);
        let connected = (0..self.lab.count()).map(|node| !cut_off(node)).collect();
        let expected = fault.expected(&self.lab.cluster);
        let before = before.to_vec();
        (Scene { fault, expected, active, before, start, connected, transitions, restored }, hurt)
    }

    /// Says what is wrong with what was seen; hands back for how long there were two holders.
    fn judge(
        &mut self,
        scene: &Scene,
        after: &[Vec<usize>],
        measured: &Measured,
        reasons: &mut Vec<String>,
    ) -> Duration {
        let Scene { fault, expected, active, start, .. } = *scene;
        let overlap = self.lab.holders.overlap(start, &scene.connected);
        match (expected.outage, measured.outage) {
            (Some(_), None) => reasons.push("no answer came back".to_owned()),
            (Some(bound), Some(outage)) if outage > bound => {
                reasons.push(too_long(outage, bound, measured.stall));
            }
            _ => {}
        }
        for ((vip, holders), before) in self.lab.cluster.vips.iter().zip(after).zip(&scene.before) {
            let stays = |holder: &usize| *holder == active && before.contains(holder);
            match holders.as_slice() {
                [holder] if expected.ends == Ends::Elsewhere && stays(holder) => {
                    reasons.push(format!("VIP {} did not move", vip.name));
                }
                [_] => {}
                many => reasons.push(format!("VIP {} is held by {} nodes", vip.name, many.len())),
            }
        }
        if overlap > expected.overlap {
            reasons.push(two_holders(overlap, expected.overlap));
        }
        match expected.ends {
            Ends::Unmoved => {
                let moved = self.lab.holders.changes(start);
                if let Some(change) = moved.iter().find(|it| it.holds && it.node != active) {
                    let (address, name) = (change.address, self.lab.name(change.node));
                    reasons
                        .push(format!("VIP {address} moved to {name}, although nothing was wrong"));
                }
                if self.transitions() != scene.transitions {
                    reasons.push("a node changed its role, although nothing was wrong".to_owned());
                }
            }
            Ends::OnOne => {
                if !self.lab.holders.changes(Instant::now() - SETTLED_FOR).is_empty() {
                    reasons.push("the VIP has not come to rest".to_owned());
                }
            }
            Ends::Elsewhere => {}
        }
        if fault == Fault::DaemonKilled
            && self.lab.active().iter().flatten().any(|it| *it == active)
        {
            reasons.push("the VIP outlived its daemon".to_owned());
        }
        if fault == Fault::VipDeleted
            && scene.restored.is_some()
            && self.restored(active) <= scene.restored
        {
            reasons.push("the daemon doesn't know that it put the VIP back".to_owned());
        }
        overlap
    }

    /// Undoes the fault, waits until all is well; hands back for how long there were two holders.
    fn repair(
        &mut self,
        scene: &Scene,
        hurt: &[usize],
        repaired: Instant,
        reasons: &mut Vec<String>,
    ) -> Duration {
        if let Err(error) = scene.fault.repair(self.lab, hurt) {
            reasons.push(format!("repair: {error:#}"));
        }
        if let Err(error) = self.steady() {
            reasons.push(format!("after the repair: {error:#}"));
        }
        let healed = self.lab.holders.overlap(repaired, &vec![true; self.lab.count()]);
        let adverts = self.lab.cluster.vips.iter().map(|vip| vip.advert_interval.as_duration());
        let settles = adverts.max().unwrap_or_default() * HEALED_OVERLAP_ADVERTS;
        if healed > settles.max(scene.expected.overlap) {
            reasons.push(format!("after the repair, {}", two_holders(healed, settles)));
        }
        self.check_own(reasons);
        healed
    }

    /// After a fault that went badly: whatever is still broken must not spoil the next one.
    fn restore(&mut self) {
        for node in 0..self.lab.count() {
            // What can't be mended makes the next fault impossible, which is said then.
            let _unmended = self.lab.heal(node).and_then(|()| self.lab.start(node));
        }
        let _unsteady = self.steady();
    }

    /// How many changes of role each node's daemon has recorded; `None` where it doesn't say.
    fn transitions(&mut self) -> Vec<Option<usize>> {
        let mut counts = Vec::new();
        for node in 0..self.lab.count() {
            let asked = !self.lab.is_keepalived(node);
            let host = self.lab.host(node).ok().filter(|_| asked);
            counts.push(host.and_then(|host| daemon::transitions(host).ok()));
        }
        counts
    }

    fn restored(&mut self, node: usize) -> Option<u64> {
        if self.lab.is_keepalived(node) {
            return None;
        }
        self.lab.host(node).ok().and_then(|host| daemon::restored(host).ok())
    }

    /// Waits until every VIP has one holder and every node could take over.
    fn steady(&mut self) -> Result<()> {
        let deadline = Instant::now() + STEADY_WITHIN;
        if (0..self.lab.count()).any(|node| self.lab.is_keepalived(node)) {
            // It doesn't tell whether its script passes again.
            std::thread::sleep(keepalived::BACK_AFTER);
        }
        let mut since: Option<(Instant, Vec<Vec<usize>>)> = None;
        loop {
            let now = self.lab.active();
            let why = self.unsteady(&now);
            match (&since, &why) {
                (Some((start, holders)), None) if *holders == now => {
                    if start.elapsed() >= STEADY_FOR {
                        return Ok(());
                    }
                }
                (_, None) => since = Some((Instant::now(), now)),
                (_, Some(_)) => since = None,
            }
            if Instant::now() > deadline {
                let why = why.unwrap_or_else(|| "the VIP keeps moving".to_owned());
                bail!("not steady within {} s: {why}", STEADY_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What is still missing; `None` when nothing is.
    fn unsteady(&mut self, active: &[Vec<usize>]) -> Option<String> {
        for (vip, holders) in self.lab.cluster.vips.iter().zip(active) {
            if holders.len() != 1 {
                return Some(format!("VIP {} has {} holders", vip.name, holders.len()));
            }
        }
        for node in 0..self.lab.count() {
            if self.lab.is_keepalived(node) {
                continue;
            }
            let name = self.lab.name(node).to_owned();
            let said = self.lab.host(node).and_then(daemon::readiness);
            match said {
                Ok(None) => {}
                Ok(Some(why)) => return Some(format!("{name}: {why}")),
                Err(error) => return Some(format!("{error:#}")),
            }
        }
        None
    }

    /// The node's own addresses and default routes survive whatever happens to VIPs.
    fn check_own(&mut self, reasons: &mut Vec<String>) {
        for (node, own) in self.own.iter().enumerate() {
            let name = self.lab.name(node).to_owned();
            match self.lab.own_network(node) {
                Ok(now) if now == *own => {}
                Ok(now) => reasons.push(format!(
                    "{name} lost some of its own network: it had [{}], it has [{}]",
                    own.trim().replace('\n', "; "),
                    now.trim().replace('\n', "; ")
                )),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
    }

    fn names(&self, holders: &[Vec<usize>]) -> String {
        let mut all: Vec<&str> = Vec::new();
        for name in holders.iter().flatten().map(|node| self.lab.name(*node)) {
            if !all.contains(&name) {
                all.push(name);
            }
        }
        if all.is_empty() { "nobody".to_owned() } else { all.join("+") }
    }

    /// Saves what the nodes know of it while they are still there.
    fn keep_evidence(&mut self, fault: Fault, round: u32) -> Result<()> {
        let directory = match &self.evidence {
            Some(directory) => directory.clone(),
            None => {
                let name = format!("standin-drill-{}", std::process::id());
                let directory = std::env::temp_dir().join(name);
                // What is there already is somebody else's, and may lead elsewhere.
                fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&directory)
                    .with_context(|| directory.display().to_string())?;
                self.evidence = Some(directory.clone());
                directory
            }
        };
        for node in 0..self.lab.count() {
            let prefix = format!("{round}-{}-{}", fault.name(), self.lab.name(node));
            let keepalived = self.lab.is_keepalived(node);
            let Ok(host) = self.lab.host(node) else { continue };
            let write = |name: &str, text: &str| {
                fs::write(directory.join(format!("{prefix}.{name}")), text)
            };
            let log = if keepalived { keepalived::LOG } else { daemon::LOG };
            write("log", &host.read(log).unwrap_or_default())?;
            if !keepalived {
                let events = daemon::events(host).unwrap_or_else(|error| format!("{error:#}\n"));
                write("events", &events)?;
            }
            let mut network = host.run(&["ip", "address"])?;
            network += &host.run(&["ip", "route"])?;
            write("network", &network)?;
        }
        Ok(())
    }
}

fn too_long(outage: Duration, bound: Duration, stall: Duration) -> String {
    let (outage, bound) = (milliseconds(outage), milliseconds(bound));
    let mut text = format!("{outage} ms without an answer, at most {bound} ms expected");
    if stall > STALL {
        let stall = milliseconds(stall);
        text += &format!(" (this machine is busy: the client itself was held up for {stall} ms)");
    }
    text
}

fn two_holders(overlap: Duration, bound: Duration) -> String {
    format!(
        "two nodes held a VIP for {} ms, at most {} ms expected",
        milliseconds(overlap),
        milliseconds(bound)
    )
}

/// `holders` without the nodes that are cut off.
fn except(holders: &[Vec<usize>], connected: &[bool]) -> Vec<Vec<usize>> {
    let counts = |node: &usize| connected.get(*node).copied().unwrap_or(false);
    holders.iter().map(|nodes| nodes.iter().copied().filter(counts).collect()).collect()
}

/// Whether `done` became true within `limit`.
fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    done()
}

/// Where the evidence of a bad drill is.
pub(super) fn point_to(evidence: &Path) -> String {
    format!("what the nodes said about it: {}", evidence.display())
}
