//! Whether the packet filter lets adverts in and out, and what a switchover hands to another node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use standin_config::Diagnostic;
use standin_config::model::{Mode, Vip};
use standin_core::types::Family;
use standin_core::wire::vrrp::{MULTICAST_V4, MULTICAST_V6};

use super::{Subject, codes, families};
use crate::preflight::facts::Facts;
use crate::preflight::firewall::{Chain, Dropped, Packet, Ruleset, What};

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let mut told = BTreeSet::new();
    for vip in subject.vips() {
        let Some(interface) = subject.interface(vip, facts) else { continue };
        for family in families(vip) {
            copies(subject, vip, (interface, family), facts, found);
            for advert in adverts(subject, vip, interface, family) {
                let Some(dropped) = facts.firewall.drops(&advert) else { continue };
                // One rule for both families may be dropped in one place, and mended by one.
                let table = (dropped.base.family.as_str(), dropped.base.name.as_str());
                if told.insert((interface, advert.incoming, table)) {
                    let help = mend(&advert, family, &facts.firewall, dropped.base);
                    let finding = say(vip, &advert);
                    found.push(subject.at_interface(finding, vip, &place(dropped)).help(help));
                }
            }
        }
    }
    link(subject, facts, found);
}

/// The peer link of each two nodes: either may begin it.
fn link(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let Some(interface) = subject.default_port(facts).map(|port| port.name.as_str()) else {
        return;
    };
    if !facts.own.keys {
        return;
    }
    let port = subject.cluster.link.port;
    let mut told = BTreeSet::new();
    let peers = subject.cluster.nodes.iter();
    for peer in peers.filter(|node| node.name != subject.me.name && !node.vrrp_only) {
        for (own, theirs) in Family::BOTH
            .into_iter()
            .filter_map(|family| Some((subject.me.address(family)?, peer.address(family)?)))
        {
            for (incoming, source, destination) in [(true, theirs, own), (false, own, theirs)] {
                let packet =
                    Packet { what: What::Link(port), incoming, interface, source, destination };
                let Some(dropped) = facts.firewall.drops(&packet) else { continue };
                let table = (dropped.base.family.as_str(), dropped.base.name.as_str());
                if !told.insert((incoming, table)) {
                    continue;
                }
                let way = if incoming { "from" } else { "to" };
                let message = format!(
                    "the firewall drops the peer link (TCP port {port}) {way} {} ({theirs}): without it a takeover \
                     waits for adverts to stop, and neither a switchover nor the shared files reach the peer",
                    peer.name
                );
                let severity = super::own::link_severity(subject);
                let finding = Diagnostic::new(severity, codes::LINK_DROPPED, message);
                let help = mend(&packet, Family::of(own), &facts.firewall, dropped.base);
                let range = subject.me.span.clone();
                found.push(finding.at(&subject.cluster.file, range, place(dropped)).help(help));
            }
        }
    }
}

/// They leave through the chains for the host's own packets.
fn copies(
    subject: &Subject<'_>,
    vip: &Vip,
    (interface, family): (&str, Family),
    facts: &Facts,
    found: &mut Vec<Diagnostic>,
) {
    if !super::switchover::drains(subject, vip) {
        return;
    }
    let address = vip.addresses.iter().find(|prefix| prefix.family() == family);
    let Some(address) = address.map(|prefix| prefix.address()) else { return };
    let (source, destination) = (address, address);
    let copy = Packet { what: What::Copy, incoming: false, interface, source, destination };
    let Some(dropped) = facts.firewall.drops(&copy) else { return };
    let message = format!(
        "the firewall drops what a switchover to this node hands back to the old one for [vip.{}] \
         (TCP to {address}, not tracked, out on {interface}): connections that were open would hang",
        vip.name
    );
    let help = mend(&copy, family, &facts.firewall, dropped.base);
    let finding = Diagnostic::warning(codes::COPIES_DROPPED, message);
    found.push(subject.at_interface(finding, vip, &place(dropped)).help(help));
}

/// One from each peer, and one to the network or to each peer.
fn adverts<'a>(
    subject: &Subject<'a>,
    vip: &'a Vip,
    interface: &'a str,
    family: Family,
) -> Vec<Packet<'a>> {
    let Some(own) = subject.me.address(family) else { return Vec::new() };
    let group: IpAddr = match family {
        Family::V4 => MULTICAST_V4.into(),
        Family::V6 => MULTICAST_V6.into(),
    };
    let multicast = vip.mode == Mode::Multicast;
    subject
        .peers(vip)
        .filter_map(|peer| peer.address(family))
        .flat_map(|peer| {
            let (to_us, to_peer) = if multicast { (group, group) } else { (own, peer) };
            [
                Packet {
                    what: What::Advert,
                    incoming: true,
                    interface,
                    source: peer,
                    destination: to_us,
                },
                Packet {
                    what: What::Advert,
                    incoming: false,
                    interface,
                    source: own,
                    destination: to_peer,
                },
            ]
        })
        .collect()
}

fn say(vip: &Vip, advert: &Packet<'_>) -> Diagnostic {
    let (way, effect) = if advert.incoming {
        (format!("from {}", advert.source), "this node would take that one for dead")
    } else {
        ("to the peers".to_owned(), "they would take this node for dead")
    };
    let message = format!(
        "the firewall drops the adverts of [vip.{}] (protocol 112) {way} on {}: {effect}, and both would hold the VIP",
        vip.name, advert.interface
    );
    Diagnostic::error(codes::FIREWALL, message)
}

/// The rule or policy that drops it.
fn place(dropped: Dropped<'_>) -> String {
    let Dropped { base, chain, rule } = dropped;
    let tool = if base.legacy { "iptables" } else { "nftables" };
    let which = match rule {
        Some(rule) => format!("{} in chain {}", rule.name, chain.name),
        None => format!("chain {} has policy drop", chain.name),
    };
    format!("{tool}, table {} {}: {which}", base.family, base.table)
}

/// The rule to add, in the words of whoever owns the firewall.
fn mend(packet: &Packet<'_>, family: Family, ruleset: &Ruleset, base: &Chain) -> String {
    let interface = packet.interface;
    let firewalld = match packet.what {
        What::Advert => Some("protocol=vrrp".to_owned()),
        What::Link(port) => Some(format!("port={port}/tcp")),
        What::Copy => None,
    };
    if let Some(add) = firewalld.filter(|_| base.table == "firewalld") {
        return format!(
            "firewall-cmd --permanent --zone=$(firewall-cmd --get-zone-of-interface={interface}) \
             --add-{add} && firewall-cmd --reload"
        );
    }
    let six = if family == Family::V6 { "6" } else { "" };
    let direction = if packet.incoming { "input" } else { "output" };
    let to = packet.destination;
    let iptables = match packet.what {
        What::Advert => "-p vrrp".to_owned(),
        What::Copy => format!("-d {to} -p tcp"),
        What::Link(port) => format!("-p tcp --dport {port}"),
    };
    if ruleset.chains.iter().any(|chain| chain.name.starts_with("ufw")) {
        return format!(
            "in /etc/ufw/before{six}.rules, above COMMIT: -A ufw{six}-before-{direction} {iptables} -j ACCEPT\n\
             then: ufw reload"
        );
    }
    let (long, short) = if packet.incoming { ("iifname", "-i") } else { ("oifname", "-o") };
    if base.legacy {
        return format!(
            "ip{six}tables -I {} {short} {interface} {iptables} -j ACCEPT, and keep it: \
             netfilter-persistent save",
            base.name
        );
    }
    let nft = match (packet.what, family) {
        (What::Advert, _) => "meta l4proto vrrp".to_owned(),
        (What::Link(port), _) => format!("tcp dport {port}"),
        (What::Copy, Family::V4) => format!("ip daddr {to} meta l4proto tcp"),
        (What::Copy, Family::V6) => format!("ip6 daddr {to} meta l4proto tcp"),
    };
    format!(
        "nft insert rule {} {} {} {long} \"{interface}\" {nft} accept, and the same in \
         /etc/nftables.conf",
        base.family, base.table, base.name
    )
}
