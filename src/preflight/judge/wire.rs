//! What was heard and answered on the wire: strangers, and nodes that say something else than the file.

use std::collections::BTreeSet;
use std::net::IpAddr;

use standin_config::Diagnostic;
use standin_config::model::{Node, Version, Vip};
use standin_core::types::{Family, Mac};

use super::{Subject, codes, listed};
use crate::preflight::facts::{Facts, Heard, Owner};

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for vip in subject.vips() {
        let Some(interface) = subject.interface(vip, facts) else { continue };
        let same = |heard: &&Heard| {
            heard.interface == interface && heard.vrid == vip.vrid.get() && {
                vip.has(Family::of(heard.source))
                    && !subject.me.addresses.contains(&heard.source)
                    && !(is_link_local(heard.source) && facts.address(heard.source).is_some())
            }
        };
        for heard in facts.wire.heard.iter().filter(same) {
            match sender(subject, vip, heard.source, facts) {
                Sender::Node(node) if vip.members.iter().any(|it| it.node == node.name) => {
                    disagreements(subject, vip, node, heard, found);
                }
                Sender::Node(node) => {
                    found.extend(stranger(subject, vip, Some(node), heard, facts));
                }
                Sender::Stranger => found.extend(stranger(subject, vip, None, heard, facts)),
                Sender::Unclear(why) => found.extend(unclear(subject, vip, heard, why)),
            }
        }
        for prefix in &vip.addresses {
            owner(subject, vip, prefix.address(), facts, found);
        }
    }
}

/// Who sent an advert.
enum Sender<'a> {
    Node(&'a Node),
    Stranger,
    /// It may be a node, and why that can't be told.
    Unclear(String),
}

/// IPv6 adverts come from a link-local address (RFC 9568 §5.1.2.1), which the file doesn't name: the
/// sender is the node whose own address answers from the same MAC, as the daemon has it, too.
fn sender<'a>(subject: &Subject<'a>, vip: &Vip, source: IpAddr, facts: &Facts) -> Sender<'a> {
    let nodes = &subject.cluster.nodes;
    if let Some(node) = nodes.iter().find(|node| node.addresses.contains(&source)) {
        return Sender::Node(node);
    }
    if !is_link_local(source) {
        return Sender::Stranger;
    }
    let at = |address: IpAddr| {
        let owners = facts.wire.owners.iter().filter(move |owner| owner.address == address);
        owners.map(|owner| owner.mac)
    };
    let macs: Vec<Mac> = at(source).collect();
    let answers = |node: &Node| node.addresses.iter().any(|address| at(*address).next().is_some());
    let is_behind = |node: &&Node| {
        let mut of_node = node.addresses.iter().flat_map(|address| at(*address));
        of_node.any(|mac| macs.contains(&mac))
    };
    if let Some(node) = nodes.iter().find(is_behind) {
        return Sender::Node(node);
    }
    if macs.is_empty() {
        return Sender::Unclear(format!("nobody answers for {source}"));
    }
    let silent: Vec<&str> =
        subject.peers(vip).filter(|it| !answers(it)).map(|it| it.name.as_str()).collect();
    match silent.as_slice() {
        [] => Sender::Stranger,
        [one] => Sender::Unclear(format!("{one} doesn't answer for its own address")),
        several => {
            Sender::Unclear(format!("{} don't answer for their own addresses", listed(several)))
        }
    }
}

fn unclear(subject: &Subject<'_>, vip: &Vip, heard: &Heard, why: String) -> Option<Diagnostic> {
    if vip.accept_unknown {
        return None;
    }
    let message = format!(
        "{} sends adverts with the virtual_router_id {} of [vip.{}] on {}, and it can't be told whether it is a \
         node: {why}",
        heard.source, vip.vrid, vip.name, heard.interface
    );
    let finding = Diagnostic::warning(codes::SENDER_UNCLEAR, message).at(
        &subject.cluster.file,
        vip.vrid_span.clone(),
        format!("heard: priority {}, addresses {}", heard.priority, listed(&heard.addresses)),
    );
    Some(finding.help(format!(
        "look for {} on the nodes: ip -6 address show scope link; if it is on none, give the VIP another \
         virtual_router_id on every node",
        heard.source
    )))
}

fn stranger(
    subject: &Subject<'_>,
    vip: &Vip,
    node: Option<&Node>,
    heard: &Heard,
    facts: &Facts,
) -> Option<Diagnostic> {
    if node.is_none() && vip.accept_unknown {
        return None;
    }
    let who = match node {
        Some(node) => {
            format!("node {} ({}), which [vip.{}] doesn't name,", node.name, heard.source, vip.name)
        }
        None => format!("{}, which is no node of the file,", heard.source),
    };
    let what = format!(
        "version {}, priority {}, addresses {}",
        number(heard.version),
        heard.priority,
        listed(&heard.addresses)
    );
    let message = format!(
        "{who} sends adverts with the virtual_router_id {} of [vip.{}] on {}",
        vip.vrid, vip.name, heard.interface
    );
    let finding = Diagnostic::error(codes::SAME_ROUTER_ID, message).at(
        &subject.cluster.file,
        vip.vrid_span.clone(),
        format!("heard: {what}"),
    );
    let join = match node {
        Some(node) => format!("or add \"{}\" to the VIP's nodes", node.name),
        None => "or, if it is a peer, add it as [node.NAME] with vrrp_only = true".to_owned(),
    };
    let free = free_id(subject, facts);
    Some(
        finding.help(format!("give the VIP another virtual_router_id on every node{free}; {join}")),
    )
}

/// The nearest ids above the first VIP's that nobody uses here.
fn free_id(subject: &Subject<'_>, facts: &Facts) -> String {
    let used: BTreeSet<u8> = subject
        .cluster
        .vips
        .iter()
        .map(|vip| vip.vrid.get())
        .chain(facts.wire.heard.iter().map(|heard| heard.vrid))
        .collect();
    let first = used.first().copied().unwrap_or(1);
    let free = (first..=u8::MAX).chain(1..first).find(|id| !used.contains(id));
    free.map(|id| format!(" ({id} wasn't heard here)")).unwrap_or_default()
}

fn disagreements(
    subject: &Subject<'_>,
    vip: &Vip,
    node: &Node,
    heard: &Heard,
    found: &mut Vec<Diagnostic>,
) {
    let who = format!("node {} ({})", node.name, heard.source);
    let at = |finding: Diagnostic, text: String| {
        finding.at(&subject.cluster.file, vip.span.clone(), text)
    };
    const EVERYWHERE: &str = "the file must be the same on every node";
    if heard.version != vip.version {
        let (theirs, ours) = (number(heard.version), number(vip.version));
        let message = format!(
            "{who} sends adverts of VRRP version {theirs} for [vip.{}], which has version {ours} here: the two don't \
             obey each other",
            vip.name
        );
        found.push(at(Diagnostic::error(codes::OTHER_VERSION, message), format!("version {ours}")).help(
            format!("{EVERYWHERE}; beside a keepalived: version = {theirs}, or vrrp_version {ours} in its global_defs"),
        ));
        return;
    }
    if heard.interval != vip.advert_interval {
        let message = format!(
            "{who} sends adverts every {}, [vip.{}] says every {}",
            heard.interval, vip.name, vip.advert_interval
        );
        // RFC 3768 §7.1: version 2 discards them; RFC 9568 §6.4.2: version 3 learns the active's.
        let (finding, effect) = match vip.version {
            Version::V2 => (
                Diagnostic::error(codes::OTHER_INTERVAL, message),
                "version 2 ignores such adverts",
            ),
            Version::V3 => (
                Diagnostic::warning(codes::OTHER_INTERVAL, message),
                "a backup goes by the active's interval: a takeover takes longer or shorter than this file says",
            ),
        };
        found.push(at(finding, String::new()).help(format!("{effect}; {EVERYWHERE}")));
    }
    let family = Family::of(heard.source);
    let ours: BTreeSet<IpAddr> = vip
        .addresses
        .iter()
        .filter(|prefix| prefix.family() == family)
        .map(|prefix| prefix.address())
        .collect();
    let theirs: BTreeSet<IpAddr> =
        heard.addresses.iter().copied().filter(|address| !is_link_local(*address)).collect();
    if ours != theirs {
        let message = format!("{who} advertises {} for [vip.{}]", listed(&theirs), vip.name);
        found.push(
            at(
                Diagnostic::warning(codes::OTHER_ADDRESSES, message),
                format!("here: {}", listed(&ours)),
            )
            .help(format!(
                "after a takeover clients would find other addresses than before; {EVERYWHERE}"
            )),
        );
    }
    let password = vip.password.as_ref().map(|password| password.padded());
    if vip.version == Version::V2 && heard.password != password {
        let what = match (heard.password.is_some(), password.is_some()) {
            (true, true) => "another password than",
            (true, false) => "a password, and there is none in",
            _ => "no password, and there is one in",
        };
        let message =
            format!("{who} sends {what} [vip.{}]: the two don't obey each other", vip.name);
        found.push(
            at(Diagnostic::error(codes::OTHER_PASSWORD, message), String::new()).help(EVERYWHERE),
        );
    }
}

/// keepalived and RFC 9568 §5.2.9 put a link-local address first.
const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V6(address) => address.is_unicast_link_local(),
        IpAddr::V4(_) => false,
    }
}

const fn number(version: Version) -> u8 {
    match version {
        Version::V2 => 2,
        Version::V3 => 3,
    }
}

/// Whoever has the VIP's address must be a node, and say so.
fn owner(
    subject: &Subject<'_>,
    vip: &Vip,
    address: IpAddr,
    facts: &Facts,
    found: &mut Vec<Diagnostic>,
) {
    // An address that is here is another rule's.
    if facts.address(address).is_some() {
        return;
    }
    let owners = facts.wire.owners.iter();
    for Owner { mac, .. } in owners.filter(|owner| owner.address == address) {
        if facts.ports.iter().any(|port| port.mac == Some(*mac)) {
            continue;
        }
        let heard = facts.wire.heard.iter().any(|heard| {
            let by = || sender(subject, vip, heard.source, facts);
            heard.vrid == vip.vrid.get() && matches!(by(), Sender::Node(_))
        });
        let silence = vip.advert_interval.as_duration() * 3;
        let long_enough = facts.wire.listened.is_some_and(|listened| listened >= silence);
        let has_mac = |node: &&Node| {
            let owner =
                |owner: &Owner| owner.mac == *mac && node.addresses.contains(&owner.address);
            facts.wire.owners.iter().any(owner)
        };
        let node = subject.cluster.nodes.iter().find(has_mac);
        match node {
            _ if is_virtual(*mac, vip) => {}
            Some(_) if heard || !long_enough => {}
            Some(node) => {
                let message = format!(
                    "node {} has {address} of [vip.{}], and no advert of it is heard here",
                    node.name, vip.name
                );
                found.push(
                    subject.at_address(Diagnostic::error(codes::SILENT_OWNER, message), vip, address).help(format!(
                        "either {0} has the address by hand (ip address show on {0}), or its adverts don't arrive: \
                         its firewall, this one, the switch's multicast",
                        node.name
                    )),
                );
            }
            None => {
                let message = format!(
                    "{address} of [vip.{}] is used by {mac}, which is no node of the file",
                    vip.name
                );
                found.push(
                    subject.at_address(Diagnostic::error(codes::FOREIGN_OWNER, message), vip, address).help("take the address from that machine (its MAC is in the switch's table): standin doesn't take an \
                         address that is answered, and asks again later"),
                );
            }
        }
    }
}

/// 00-00-5E-00-01-{VRID}, for IPv6 00-00-5E-00-02-{VRID} (RFC 9568 §7.3).
const fn is_virtual(mac: Mac, vip: &Vip) -> bool {
    matches!(mac.0, [0, 0, 0x5e, 0, 1 | 2, id] if id == vip.vrid.get())
}
