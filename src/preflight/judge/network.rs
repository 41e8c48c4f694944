//! Addresses, interfaces, and the kernel's settings for them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use standin_config::Diagnostic;
use standin_config::model::{Mode, Vip};
use standin_core::types::Family;
use standin_linux::netlink::{ADOPTED, Address, PROTOCOL};

use super::{Subject, codes, listed};
use crate::preflight::facts::{Facts, Port, Promote};

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    node_addresses(subject, facts, found);
    let mut seen = BTreeSet::new();
    for vip in subject.vips() {
        let Some(name) = subject.interface(vip, facts) else { continue };
        if seen.insert(name) {
            interface(subject, vip, name, facts, found);
        }
        if let Some(port) = facts.port(name) {
            ipv6(subject, vip, port, found);
        }
        addresses_here(subject, vip, facts, found);
    }
}

fn node_addresses(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let me = subject.me;
    for (address, span) in me.addresses.iter().zip(&me.address_spans) {
        let at =
            |finding: Diagnostic, text: &str| finding.at(&subject.cluster.file, span.clone(), text);
        let Some(here) = facts.address(*address) else {
            let message =
                format!("no interface of this host has {address}, the address of node {}", me.name);
            let finding = at(Diagnostic::error(codes::NOT_HERE, message), "not on this host");
            found.push(finding.help(format!(
                "this host has {}\n{}, or correct the address in the file on every node",
                own_addresses(facts),
                add_address(subject, facts, *address)
            )));
            continue;
        };
        let twin = facts.wire.owners.iter().find(|owner| {
            owner.address == *address && !facts.ports.iter().any(|port| port.mac == Some(owner.mac))
        });
        let sends = facts.wire.heard.iter().any(|heard| heard.source == *address);
        let message = if let Some(twin) = twin {
            format!("{address}, this node's own address, is also answered by {}", twin.mac)
        } else if here.dad_failed {
            format!(
                "the kernel doesn't use {address}, this node's own address: another host has it"
            )
        } else if sends {
            format!("another host sends adverts from {address}, this node's own address")
        } else {
            continue;
        };
        found.push(
            at(Diagnostic::error(codes::DUPLICATE, message), "two hosts have it").help(
                "give one of the two hosts another address (a cloned machine?); with both, each of them is \
                 reachable at times only",
            ),
        );
    }
}

fn own_addresses(facts: &Facts) -> String {
    listed(facts.addresses.iter().filter(|here| is_own(here.prefix.address())).map(|here| {
        let port = facts.ports.iter().find(|port| port.index == here.index);
        let name = port.map_or("?", |port| port.name.as_str());
        format!("{} on {name}", here.prefix.address())
    }))
}

/// Loopback and link-local addresses are on every host.
const fn is_own(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// A command that gives the host the address, as far as it can be guessed.
fn add_address(subject: &Subject<'_>, facts: &Facts, address: IpAddr) -> String {
    let beside = subject.vips().find_map(|vip| {
        let prefix = vip.addresses.iter().find(|prefix| prefix.contains(address))?;
        Some((prefix.prefix_len(), vip.interface.as_deref()))
    });
    let real: Vec<&str> = facts
        .ports
        .iter()
        .filter(|port| port.mac.is_some() && port.name != "lo")
        .map(|port| port.name.as_str())
        .collect();
    let only = match real.as_slice() {
        [name] => Some(*name),
        _ => None,
    };
    let len = beside.map_or_else(|| "LENGTH".to_owned(), |(len, _)| len.to_string());
    let name = beside.and_then(|(_, name)| name).or(only).unwrap_or("INTERFACE");
    format!("ip address add {address}/{len} dev {name}")
}

fn interface(
    subject: &Subject<'_>,
    vip: &Vip,
    name: &str,
    facts: &Facts,
    found: &mut Vec<Diagnostic>,
) {
    let Some(port) = facts.port(name) else {
        let message =
            format!("[vip.{}] is on interface {name}, which this host doesn't have", vip.name);
        let finding = Diagnostic::error(codes::NO_INTERFACE, message);
        found.push(subject.at_interface(finding, vip, "no such interface").help(format!(
            "this host has {}\nwithout `interface` it is the one with the node's address; the daemon waits for \
             one that comes later",
            listed(facts.ports.iter().map(|port| &port.name))
        )));
        return;
    };
    if !port.works {
        let (what, mend) = match port.enabled {
            Some(false) => (
                "is switched off",
                format!("ip link set {name} up, and in the network configuration"),
            ),
            Some(true) => (
                "has no carrier",
                format!(
                    "look at the cable, the switch port, or the other end: ip link show {name}"
                ),
            ),
            None => ("is down, or has no carrier", format!("ip link show {name}")),
        };
        let message =
            format!("interface {name} of [vip.{}] {what}: the VIP can't be held here", vip.name);
        let finding = Diagnostic::error(codes::INTERFACE_DOWN, message);
        found.push(subject.at_interface(finding, vip, what).help(mend));
    }
    settings(subject, vip, port, facts, found);
}

fn settings(
    subject: &Subject<'_>,
    vip: &Vip,
    port: &Port,
    facts: &Facts,
    found: &mut Vec<Diagnostic>,
) {
    let name = &port.name;
    let own = subject.me.address(Family::V4).and_then(|address| facts.carrier(address));
    if let Some(own) =
        own.filter(|own| own.index != port.index && port.rp_filter == 1 && vip.has(Family::V4))
    {
        let message = format!(
            "the kernel will drop the peers' adverts on {name}: their addresses are reached by {}, and \
             rp_filter is strict",
            own.name
        );
        let finding = Diagnostic::warning(codes::STRICT_RP_FILTER, message);
        found.push(subject.at_interface(finding, vip, "").help(format!(
            "sysctl -w net.ipv4.conf.{name}.rp_filter=2 (loose), and if net.ipv4.conf.all.rp_filter is 1 set \
             that to 0 or 2 too; keep it in /etc/sysctl.d/"
        )));
    }
    if port.promote_secondaries == Promote::Fixed && vip.has(Family::V4) {
        let message = format!(
            "net.ipv4.conf.{name}.promote_secondaries is 0 and can't be set: when a VIP goes, the kernel may \
             take the node's own address with it"
        );
        let finding = Diagnostic::error(codes::PROMOTE_SECONDARIES, message);
        found.push(subject.at_interface(finding, vip, "").help(format!(
            "sysctl -w net.ipv4.conf.{name}.promote_secondaries=1 on the host, or let /proc/sys be writable here"
        )));
    }
    if port.snoops_without_querier && vip.has(Family::V6) && vip.mode == Mode::Multicast {
        let message = format!(
            "the bridge {name} looks into multicast and asks nobody who wants it: IPv6 adverts to ff02::12 may \
             stop at it"
        );
        let finding = Diagnostic::warning(codes::SNOOPING, message);
        found.push(subject.at_interface(finding, vip, "").help(format!(
            "ip link set {name} type bridge mcast_querier 1, or mcast_snooping 0, or mode = \"unicast\""
        )));
    }
}

fn ipv6(subject: &Subject<'_>, vip: &Vip, port: &Port, found: &mut Vec<Diagnostic>) {
    let first = vip.addresses.iter().find(|prefix| prefix.family() == Family::V6);
    let Some(first) = first.filter(|_| port.ipv6_disabled) else { return };
    let name = &port.name;
    let message = format!("IPv6 is switched off on {name}, and [vip.{}] has {first}", vip.name);
    let finding = Diagnostic::error(codes::NO_IPV6, message);
    found.push(subject.at_address(finding, vip, first.address()).help(format!(
        "sysctl -w net.ipv6.conf.{name}.disable_ipv6=0, and find out who set it: grep -r disable_ipv6 \
         /etc/sysctl* /proc/cmdline"
    )));
}

/// An address that standin added is renewed every half second, or carries its mark; so does one that
/// `standin adopt` made ready.
fn is_ours(address: &Address) -> bool {
    matches!(address.protocol, PROTOCOL | ADOPTED) || address.valid_lft.is_some()
}

fn addresses_here(subject: &Subject<'_>, vip: &Vip, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let of_keepalived = facts
        .keepaliveds
        .iter()
        .flat_map(|one| &one.instances)
        .any(|instance| instance.vrid == Some(vip.vrid.get()));
    for prefix in &vip.addresses {
        let address = prefix.address();
        let mention = facts.mentions.iter().find(|mention| mention.address == address);
        let place = mention.map(|mention| format!("{}:{}", mention.file.display(), mention.line));
        let here = facts.address(address).filter(|here| !is_ours(here) && !of_keepalived);
        let (finding, mend) = match (here, place) {
            (Some(here), place) => {
                let name = facts.carrier(address).map_or("?", |port| port.name.as_str());
                let message = format!(
                    "{address} of [vip.{}] is on {name} already, and standin didn't put it there",
                    vip.name
                );
                let from =
                    place.map_or_else(String::new, |place| format!(", and take it out of {place}"));
                let delete = format!("ip address del {} dev {name}{from}", here.prefix);
                let first = carries_others(here, name, facts);
                let vip = &vip.name;
                let adopt = format!(
                    "where it serves clients now: standin adopt {address} --vip {vip} --new-address \
                     ADDRESS/LENGTH\nwhere it is a leftover: "
                );
                (Diagnostic::error(codes::STATIC_VIP, message), format!("{adopt}{first}{delete}"))
            }
            (None, Some(place)) => {
                let message = format!(
                    "{place} gives this host {address} of [vip.{}] at its next boot",
                    vip.name
                );
                let mend = format!("take it out of {place}: the VIP would be on two nodes");
                (Diagnostic::warning(codes::STATIC_VIP, message), mend)
            }
            (None, None) => continue,
        };
        found.push(subject.at_address(finding, vip, address).help(mend));
    }
}

/// Deleting a primary address deletes its secondaries, unless the kernel is told otherwise first.
fn carries_others(here: &Address, name: &str, facts: &Facts) -> String {
    let behind = facts.addresses.iter().any(|other| {
        other.secondary && other.index == here.index && here.prefix.contains(other.prefix.address())
    });
    if here.secondary || !behind {
        return String::new();
    }
    format!(
        "first: sysctl -w net.ipv4.conf.{name}.promote_secondaries=1, else this host's other addresses of the \
         subnet go with it\nthen: "
    )
}
