//! The cluster of a file, built: its hosts, their cables, what runs in them, what can be done to it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use standin_config::model::Cluster;
use standin_core::types::Prefix;

use super::holders::Holders;
use super::hosts::Host;
use super::layout::{CLIENT, Layout};
use super::membership::Membership;
use super::network::{self, Switch};
use super::nginx::{self, Nginx};
use super::{daemon, keepalived};
use crate::control::STOP_DRAINS_FOR;
use crate::switchover::{GRACE, OVERHEAD};

const TERM: i32 = 15;
const KILL: i32 = 9;
const STOP: i32 = 19;
const CONT: i32 = 18;

/// A daemon that stops hands over first, and drains where a connection is left whose client is gone; longer
/// than that, and what nginx gets then, it has not done what it was told.
const STOPS_WITHIN: Duration = STOP_DRAINS_FOR.saturating_add(GRACE).saturating_add(OVERHEAD);

/// With `listen VIP:80` nginx can't start before its node has prepared for that.
const NGINX_STARTS_WITHIN: Duration = Duration::from_secs(5);

/// What can be killed in a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Victim {
    Nginx,
    Daemon,
    /// Everything at once, as a power cut would.
    Host,
}

/// How the nodes are run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manner {
    /// keepalived on every node.
    pub(super) keepalived: bool,
    /// nginx listens on the VIPs alone.
    pub(super) bind_vip: bool,
    /// The sysctl of that name; `None`: every second node has it on.
    pub(super) promote_secondaries: Option<bool>,
}

/// One line of `standin lab status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeState {
    pub(super) node: String,
    /// `up` or `down`.
    pub(super) host: String,
    /// `plugged` or `cut`.
    pub(super) cable: String,
    /// `up`, `hung` or `down`.
    pub(super) nginx: String,
    /// `standin` or `keepalived`, and whether it runs.
    pub(super) daemon: String,
    pub(super) holds: Vec<String>,
}

pub(super) struct Lab {
    pub(super) cluster: Cluster,
    membership: Membership,
    manner: Manner,
    layout: Layout,
    nginx: Nginx,
    switch: Switch,
    /// In the order of the file; `None` while a host is dead.
    nodes: Vec<Option<Host>>,
    client: Host,
    pub(super) holders: Holders,
}

impl Lab {
    /// Builds everything; `tell` hears what is being done.
    pub(super) fn build(
        cluster: Cluster,
        text: String,
        manner: Manner,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let layout = Layout::of(&cluster)?;
        let nginx = Nginx::find(&cluster, manner.bind_vip)?;
        let membership = if manner.keepalived {
            Membership::none(&cluster, text)
        } else {
            Membership::found(&cluster, text.clone()).unwrap_or_else(|why| {
                tell(&format!("no peer link, VRRP decides alone: {why:#}"));
                Membership::none(&cluster, text)
            })
        };
        tell("switch and client");
        let switch = Switch::new(layout.interfaces.len())?;
        let mut client = Host::start(CLIENT)?;
        let names: Vec<String> =
            (0..layout.interfaces.len()).map(|it| format!("eth{it}")).collect();
        switch.plug(layout.nodes.len(), &client, &names)?;
        network::address_client(&mut client, &layout, &names)?;
        let addresses = cluster.vips.iter().flat_map(|vip| &vip.addresses);
        let holders =
            Holders::watch(layout.nodes.len(), addresses.map(|prefix| prefix.address()).collect());
        let count = layout.nodes.len();
        let mut lab = Self {
            cluster,
            membership,
            manner,
            layout,
            nginx,
            switch,
            nodes: (0..count).map(|_| None).collect(),
            client,
            holders,
        };
        for node in 0..count {
            tell(&format!("node {}", lab.name(node)));
            lab.start_host(node)?;
        }
        Ok(lab)
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn name(&self, node: usize) -> &str {
        self.layout.nodes.get(node).map_or("?", |it| it.name.as_str())
    }

    /// The index of the node called `name`.
    pub(super) fn find(&self, name: &str) -> Result<usize> {
        let found = self.layout.nodes.iter().position(|node| node.name == name);
        found.with_context(|| {
            let known: Vec<&str> = self.layout.nodes.iter().map(|it| it.name.as_str()).collect();
            format!("no node is called `{name}`; there are {}", known.join(", "))
        })
    }

    pub(super) fn client(&mut self) -> &mut Host {
        &mut self.client
    }

    pub(super) fn host(&mut self, node: usize) -> Result<&mut Host> {
        let name = self.name(node).to_owned();
        self.nodes
            .get_mut(node)
            .and_then(Option::as_mut)
            .with_context(|| format!("{name} is down: `standin lab start {name}`"))
    }

    /// The process id, seen from outside, of pid 1 of a host.
    pub(super) fn pid_of(&mut self, name: &str) -> Result<u32> {
        if name == CLIENT {
            return Ok(self.client.pid());
        }
        let node = self.find(name)?;
        Ok(self.host(node)?.pid())
    }

    pub(super) fn vip_addresses(&self) -> Vec<IpAddr> {
        let vips = self.cluster.vips.iter();
        vips.flat_map(|vip| &vip.addresses).map(|prefix| prefix.address()).collect()
    }

    /// Whether the node runs keepalived instead of standin.
    pub(super) fn is_keepalived(&self, node: usize) -> bool {
        let section = self.cluster.nodes.get(node);
        self.manner.keepalived || section.is_some_and(|section| section.vrrp_only)
    }

    // What runs.

    fn start_host(&mut self, node: usize) -> Result<()> {
        let layout = self.layout.nodes.get(node).context("no such node")?;
        let mut host = Host::start(&layout.name)?;
        self.switch.plug(node, &host, &self.layout.interfaces)?;
        let promote = self.manner.promote_secondaries;
        network::address_node(&mut host, node, layout, &self.layout.interfaces, promote)?;
        self.nginx.configure(&mut host)?;
        self.membership.furnish(&mut host, node)?;
        if self.manner.bind_vip && self.is_keepalived(node) {
            for family in ["ipv4", "ipv6"] {
                host.write(&format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1")?;
            }
        }
        self.holders.set_pid(node, Some(host.pid()));
        if let Some(slot) = self.nodes.get_mut(node) {
            *slot = Some(host);
        }
        if self.manner.bind_vip {
            self.start_daemon(node)?;
            self.start_nginx(node)
        } else {
            self.start_nginx(node)?;
            self.start_daemon(node)
        }
    }

    /// Tries again for a while: on VIPs alone nginx can't listen before the daemon is ready for it.
    fn start_nginx(&mut self, node: usize) -> Result<()> {
        let deadline = Instant::now() + NGINX_STARTS_WITHIN;
        let nodes = &mut self.nodes;
        let Some(host) = nodes.get_mut(node).and_then(Option::as_mut) else {
            bail!("no such host")
        };
        loop {
            match self.nginx.start(host) {
                Err(_) if self.manner.bind_vip && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                result => return result,
            }
        }
    }

    pub(super) fn start_daemon(&mut self, node: usize) -> Result<()> {
        let (keepalived, text) = (self.is_keepalived(node), self.membership.text.clone());
        let bind_vip = self.manner.bind_vip;
        let cluster = self.cluster.clone();
        let interface = self.layout.interfaces.first().cloned().unwrap_or_default();
        let host = self.host(node)?;
        if keepalived {
            keepalived::start(host, &cluster, &interface, bind_vip)
        } else {
            daemon::start(host, &text)
        }
    }

    fn daemon_pids(&mut self, node: usize) -> Result<Vec<u32>> {
        let keepalived = self.is_keepalived(node);
        let processes = self.host(node)?.processes()?;
        // `standin status` and the like are the same binary.
        let daemons = processes.iter().filter(|it| match keepalived {
            true => it.command == "keepalived",
            false => it.arguments.first().is_some_and(|word| word == "run"),
        });
        Ok(daemons.map(|it| it.pid).collect())
    }

    /// Sends SIGTERM to the daemon; hands back at once.
    pub(super) fn terminate_daemon(&mut self, node: usize) -> Result<()> {
        let pids = self.daemon_pids(node)?;
        let Some(parent) = pids.first() else { bail!("{}: no daemon runs", self.name(node)) };
        let parent = *parent;
        self.host(node)?.signal(&[parent], TERM)
    }

    /// Waits until no process of the daemon is left.
    pub(super) fn await_daemon_end(&mut self, node: usize) -> Result<()> {
        let deadline = Instant::now() + STOPS_WITHIN;
        while !self.daemon_pids(node)?.is_empty() {
            if Instant::now() > deadline {
                bail!(
                    "{}: the daemon still runs {STOPS_WITHIN:?} after it was told to end",
                    self.name(node)
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    // What is done to it.

    pub(super) fn kill(&mut self, node: usize, victim: Victim) -> Result<()> {
        match victim {
            Victim::Nginx => {
                let host = self.host(node)?;
                let pids = nginx::pids(host)?;
                if pids.is_empty() {
                    bail!("{}: no nginx runs", self.name(node));
                }
                self.host(node)?.signal(&pids, KILL)
            }
            Victim::Daemon => {
                let pids = self.daemon_pids(node)?;
                if pids.is_empty() {
                    bail!("{}: no daemon runs", self.name(node));
                }
                // Stopped, none of them starts another one while the others are killed.
                self.host(node)?.signal(&pids, STOP)?;
                let pids = self.daemon_pids(node)?;
                self.host(node)?.signal(&pids, KILL)?;
                // One that is still dying would be taken for one that runs.
                self.await_daemon_end(node)
            }
            Victim::Host => {
                let host = self.nodes.get_mut(node).and_then(Option::take);
                let mut host =
                    host.ok_or_else(|| anyhow!("{} is down already", self.name(node)))?;
                host.kill()?;
                self.holders.set_pid(node, None);
                Ok(())
            }
        }
    }

    /// Stops every process of nginx as SIGSTOP does: connections are still taken by the kernel.
    pub(super) fn hang(&mut self, node: usize) -> Result<()> {
        let host = self.host(node)?;
        let pids = nginx::pids(host)?;
        host.signal(&pids, STOP)
    }

    pub(super) fn cut(&mut self, node: usize) -> Result<()> {
        self.switch.set_cable(node, false)
    }

    /// As [`Self::cut`], but the host keeps its carrier: a fault further away.
    pub(super) fn sever(&mut self, node: usize) -> Result<()> {
        self.switch.set_port(node, false)
    }

    /// Undoes `cut`, `sever` and `hang`.
    pub(super) fn heal(&mut self, node: usize) -> Result<()> {
        if self.host(node).is_ok() {
            self.switch.set_cable(node, true)?;
            self.switch.set_port(node, true)?;
            let host = self.host(node)?;
            let pids = nginx::pids(host)?;
            host.signal(&pids, CONT)?;
        }
        Ok(())
    }

    /// Starts again whatever is not running: the host, nginx, the daemon.
    pub(super) fn start(&mut self, node: usize) -> Result<()> {
        if self.host(node).is_err() {
            return self.start_host(node);
        }
        if nginx::pids(self.host(node)?)?.is_empty() {
            self.start_nginx(node)?;
        }
        if self.daemon_pids(node)?.is_empty() {
            if self.is_keepalived(node) {
                self.remove_leftovers(node)?;
            }
            self.start_daemon(node)?;
        }
        Ok(())
    }

    /// A killed keepalived leaves its addresses, and the next one doesn't know them.
    fn remove_leftovers(&mut self, node: usize) -> Result<()> {
        let device = self.layout.interfaces.first().cloned().unwrap_or_default();
        let leftovers: Vec<String> =
            keepalived::leftovers(&self.cluster).map(|it| it.to_string()).collect();
        let host = self.host(node)?;
        for address in leftovers {
            // Not every address is there.
            let _absent = host.try_run(&["ip", "address", "del", &address, "dev", &device])?;
        }
        Ok(())
    }

    /// Takes the VIPs that a node holds off it by hand, as somebody else's tool would.
    pub(super) fn delete_vips(&mut self, node: usize) -> Result<()> {
        let vips = self.cluster.vips.iter().flat_map(|vip| vip.addresses.clone());
        let held = |prefix: &Prefix| self.holders.of(prefix.address()).contains(&node);
        let vips: Vec<Prefix> = vips.filter(held).collect();
        let host = self.host(node)?;
        for prefix in vips {
            let address = prefix.address().to_string();
            // With a MAC of its own it is on a link of its own.
            let shown = host.run(&["ip", "-o", "address", "show", "to", &address])?;
            let device = shown.split_whitespace().nth(1);
            let device = device.with_context(|| format!("{}: {prefix} isn't here", host.name))?;
            host.run(&["ip", "address", "del", &prefix.to_string(), "dev", device])?;
        }
        Ok(())
    }

    // What can be seen of it.

    /// The nodes that hold the first address of each VIP, VIP by VIP.
    pub(super) fn active(&self) -> Vec<Vec<usize>> {
        let first = |vip: &standin_config::model::Vip| {
            vip.addresses.first().map_or_else(Vec::new, |prefix| self.holders.of(prefix.address()))
        };
        self.cluster.vips.iter().map(first).collect()
    }

    /// The routes and addresses that must survive everything: the node's own, without VIPs.
    pub(super) fn own_network(&mut self, node: usize) -> Result<String> {
        let own: Vec<String> = self
            .layout
            .nodes
            .get(node)
            .map(|it| it.addresses.iter().map(ToString::to_string).collect())
            .unwrap_or_default();
        let host = self.host(node)?;
        let mut seen = String::new();
        for line in host.run(&["ip", "-o", "address", "show"])?.lines() {
            if let Some(address) = own.iter().find(|own| line.contains(&format!(" {own} "))) {
                seen += &format!("address {address}\n");
            }
        }
        for family in ["-4", "-6"] {
            for line in host.run(&["ip", family, "route", "show", "default"])?.lines() {
                // A cable that was out leaves marks that go again.
                let route = line.replace(" linkdown", "").replace(" dead", "");
                seen += &format!("{}\n", route.trim());
            }
        }
        Ok(seen)
    }

    pub(super) fn states(&mut self) -> Result<Vec<NodeState>> {
        let mut states = Vec::new();
        for node in 0..self.count() {
            let name = self.name(node).to_owned();
            let command = if self.is_keepalived(node) { "keepalived" } else { "standin" };
            if self.host(node).is_err() {
                states.push(NodeState {
                    node: name,
                    host: "down".to_owned(),
                    cable: "-".to_owned(),
                    nginx: "-".to_owned(),
                    daemon: "-".to_owned(),
                    holds: Vec::new(),
                });
                continue;
            }
            let runs = if self.daemon_pids(node)?.is_empty() { "down" } else { "up" };
            let cable = if self.switch.connects(node)? { "plugged" } else { "cut" };
            let holds = self.vip_addresses().into_iter();
            let holds = holds.filter(|address| self.holders.of(*address).contains(&node));
            states.push(NodeState {
                holds: holds.map(|address| address.to_string()).collect(),
                node: name,
                host: "up".to_owned(),
                cable: cable.to_owned(),
                nginx: nginx::state(self.host(node)?)?.to_owned(),
                daemon: format!("{command} {runs}"),
            });
        }
        Ok(states)
    }
}
