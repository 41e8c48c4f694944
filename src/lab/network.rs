//! The lab's network: one bridge per segment in a namespace of its own, a cable to each host.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use standin_linux::spawn;

use super::hosts::Host;
use super::layout::{Layout, NodeLayout};

/// The namespace with the bridges; its ports are named `p<host>-<segment>`.
pub(super) struct Switch {
    network: OwnedFd,
    segments: usize,
}

impl Switch {
    pub(super) fn new(segments: usize) -> Result<Self> {
        let network = spawn::new_network().context(
            "cannot make a network namespace: root needs CAP_SYS_ADMIN for it (docker run \
             --privileged) and the sysctl user.max_net_namespaces above 0",
        )?;
        let switch = Self { network, segments };
        let mut batch = String::new();
        for segment in 0..segments {
            // Snooping would hold back VRRP's multicast until somebody asks for it.
            batch += &format!("link add br{segment} type bridge mcast_snooping 0\n");
            batch += &format!("link set br{segment} up\n");
        }
        switch.batch(&batch)?;
        Ok(switch)
    }

    /// Plugs host number `index` into every segment; its ends are named as the layout says, and down.
    pub(super) fn plug(&self, index: usize, host: &Host, interfaces: &[String]) -> Result<()> {
        let mut batch = String::new();
        for (segment, name) in interfaces.iter().enumerate() {
            let port = port(index, segment);
            let pid = host.pid();
            batch +=
                &format!("link add {port} type veth peer name {name} netns /proc/{pid}/ns/net\n");
            batch += &format!("link set {port} master br{segment} up\n");
        }
        self.batch(&batch)
    }

    /// Pulls the cables of a host, or plugs them in again: it sees its carrier come and go.
    pub(super) fn set_cable(&self, index: usize, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        self.each_port(index, |port, _| format!("link set {port} {state}\n"))
    }

    /// Takes the host's ports out of the bridges, or puts them back: its carrier stays.
    pub(super) fn set_port(&self, index: usize, bridged: bool) -> Result<()> {
        self.each_port(index, |port, segment| {
            if bridged {
                format!("link set {port} master br{segment}\n")
            } else {
                format!("link set {port} nomaster\n")
            }
        })
    }

    /// Whether the host's cables are plugged in and its ports bridged.
    pub(super) fn connects(&self, index: usize) -> Result<bool> {
        for segment in 0..self.segments {
            let shown = self.ip(&["-o", "link", "show", "dev", &port(index, segment)], "")?;
            if !shown.contains(" master ") || !shown.contains(",UP") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn each_port(&self, index: usize, line: impl Fn(&str, usize) -> String) -> Result<()> {
        let lines: String =
            (0..self.segments).map(|segment| line(&port(index, segment), segment)).collect();
        self.batch(&lines)
    }

    fn batch(&self, lines: &str) -> Result<()> {
        self.ip(&["-batch", "-"], lines).map(|_| ())
    }

    fn ip(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        spawn::in_network(&mut command, self.network.as_fd());
        let mut child = command.spawn().context("cannot run `ip` (package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("the lab's switch: `ip {}`: {}\n{input}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn port(index: usize, segment: usize) -> String {
    format!("p{index}-{segment}")
}

/// Every second node's default route names its own address as source, as installers write it.
fn names_source(index: usize) -> bool {
    index.is_multiple_of(2)
}

/// Gives a node its addresses and default routes.
pub(super) fn address_node(
    host: &mut Host,
    index: usize,
    node: &NodeLayout,
    interfaces: &[String],
    promote_secondaries: Option<bool>,
) -> Result<()> {
    // The kernel's default and systemd's, in turn, so that both are met.
    let promote = promote_secondaries.unwrap_or(index % 2 == 1);
    let promote = if promote { "1" } else { "0" };
    host.write("/proc/sys/net/ipv4/conf/all/promote_secondaries", promote)?;
    let mut batch = prepare(host, interfaces)?;
    let Some(device) = interfaces.first() else { bail!("a host without an interface") };
    for address in &node.addresses {
        // Detection is off, but a source address must not even be tentative.
        let now = if address.address().is_ipv6() { " nodad" } else { "" };
        batch += &format!("address add {address} dev {device}{now}\n");
    }
    for (own, gateway) in node.addresses.iter().zip(&node.gateways) {
        let source =
            if names_source(index) { format!(" src {}", own.address()) } else { String::new() };
        batch += &format!("route add default via {gateway} dev {device}{source}\n");
    }
    apply(host, &batch)
}

/// Gives the client its addresses and the routes to VIPs outside its networks.
pub(super) fn address_client(
    host: &mut Host,
    layout: &Layout,
    interfaces: &[String],
) -> Result<()> {
    let mut batch = prepare(host, interfaces)?;
    let device = |segment: usize| interfaces.get(segment).map_or("eth0", String::as_str);
    for (segment, address) in &layout.client {
        let now = if address.address().is_ipv6() { " nodad" } else { "" };
        batch += &format!("address add {address} dev {}{now}\n", device(*segment));
    }
    for (segment, address) in &layout.routes {
        batch += &format!("route add {address} dev {}\n", device(*segment));
    }
    apply(host, &batch)
}

/// Duplicate address detection would cost each link-local address a second or two at the start.
fn prepare(host: &mut Host, interfaces: &[String]) -> Result<String> {
    let mut batch = String::new();
    for name in interfaces {
        host.write(&format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0")?;
        batch += &format!("link set {name} up\n");
    }
    Ok(batch)
}

fn apply(host: &mut Host, batch: &str) -> Result<()> {
    let file = "/run/lab/network";
    host.write(file, batch)?;
    host.run(&["ip", "-batch", file]).map(|_| ())
}
