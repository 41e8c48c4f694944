//! The same cluster for both daemons: a pair, any number of VIPs, no checks.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::host::{Host, Program};

/// Router ids per interface.
const VRIDS: usize = 250;

/// What is configured.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) vips: usize,
    pub(crate) interval_ms: u32,
    /// Adverts are sent by a thread of realtime priority where the kernel allows that.
    pub(crate) realtime: bool,
}

/// 1 is the preferred node, 2 the other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(pub(crate) u8);

impl Node {
    pub(crate) const fn priority(self) -> u8 {
        if self.0 == 1 { 150 } else { 100 }
    }
}

/// The interface of both hosts that carries a VIP; the hosts have one cable for each 250 VIPs.
pub(crate) fn interface(vip: usize) -> String {
    format!("v{}", vip / VRIDS)
}

pub(crate) const fn vrid(vip: usize) -> usize {
    vip % VRIDS + 1
}

/// 10.9.100.1 and up, in the subnet of the hosts' own addresses on that interface.
pub(crate) fn address(vip: usize) -> String {
    format!("10.{}.100.{}", 9 + vip / VRIDS, vrid(vip))
}

/// Two hosts with the cables for so many VIPs.
pub(crate) fn pair(dir: &std::path::Path, vips: usize) -> Result<(Host, Host)> {
    let (one, two) = (Host::new(dir, "n1")?, Host::new(dir, "n2")?);
    for first in (0..vips).step_by(VRIDS) {
        let link = interface(first);
        let at = |node| format!("10.{}.0.{node}/16", 9 + first / VRIDS);
        one.cable(&link, &at(1), &two, &link, &at(2))?;
    }
    Ok((one, two))
}

pub(crate) fn standin_text(setup: Setup) -> Result<String> {
    let mut text = "cluster = \"bench\"\n".to_owned();
    for node in [Node(1), Node(2)] {
        let (number, priority) = (node.0, node.priority());
        write!(text, "[node.n{number}]\naddress = \"10.9.0.{number}\"\npriority = {priority}\n")?;
    }
    for vip in 0..setup.vips {
        write!(
            text,
            "[vip.v{vip}]\nvirtual_router_id = {}\naddresses = [\"{}/16\"]\ninterface = \"{}\"\n\
             advert_interval = \"{}ms\"\nchecks = []\n",
            vrid(vip),
            address(vip),
            interface(vip),
            setup.interval_ms
        )?;
    }
    Ok(text)
}

pub(crate) fn keepalived_text(node: Node, setup: Setup) -> Result<String> {
    let seconds = f64::from(setup.interval_ms) / 1000.0;
    let mut text = format!("global_defs {{\n  router_id n{}\n", node.0);
    if setup.realtime {
        // Its default limit of 10 ms without a pause kills it at the start of many instances.
        text += "  vrrp_rt_priority 40\n  vrrp_rlimit_rttime 2000000\n  vrrp_no_swap\n";
    }
    text += "}\n";
    for vip in 0..setup.vips {
        write!(
            text,
            "vrrp_instance v{vip} {{\n  state BACKUP\n  nopreempt\n  interface {}\n  \
             virtual_router_id {}\n  priority {}\n  version 3\n  advert_int {seconds}\n  \
             virtual_ipaddress {{\n    {}/16\n  }}\n}}\n",
            interface(vip),
            vrid(vip),
            node.priority(),
            address(vip)
        )?;
    }
    Ok(text)
}

/// Starts the standin that is measured.
pub(crate) fn standin(host: &Host, node: Node, setup: Setup) -> Result<Program> {
    let file = write_file(host, "standin.toml", &standin_text(setup)?)?;
    // As in a cgroup without realtime budget: no SCHED_FIFO, but the priorities of ordinary threads.
    // Not everybody may raise the limit: there the threads stay as ordinary as others.
    let nice = host.run("prlimit --nice=40 true").is_ok();
    let wrap = match (setup.realtime, nice) {
        (true, _) => "",
        (false, true) => "prlimit --nice=40 setpriv --bounding-set -sys_nice --inh-caps -sys_nice ",
        (false, false) => "setpriv --bounding-set -sys_nice --inh-caps -sys_nice ",
    };
    let line = format!(
        "{wrap}{} run -f {} --node n{} --run-dir /run/standin --state-dir /run/standin-state",
        standin_binary(),
        file.display(),
        node.0
    );
    host.start(&line, "standin.log")
}

/// Starts Debian's keepalived.
pub(crate) fn keepalived(host: &Host, node: Node, setup: Setup) -> Result<Program> {
    let file = write_file(host, "keepalived.conf", &keepalived_text(node, setup)?)?;
    host.start(&format!("keepalived -n -l -f {}", file.display()), "keepalived.log")
}

/// The release build that belongs to this bench.
pub(crate) fn standin_binary() -> String {
    std::env::var("STANDIN_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_standin").to_owned())
}

fn write_file(host: &Host, name: &str, text: &str) -> Result<PathBuf> {
    let path = host.dir.join(name);
    fs::write(&path, text)?;
    Ok(path)
}
