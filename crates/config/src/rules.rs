//! What must hold between VIPs, nodes and checks: nothing collides, nothing is idle.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use standin_core::types::Family;

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::model::{CheckKind, Cluster, NGINX_CHECK, Vip};

/// All collisions and idle sections of a cluster whose parts are fine by themselves.
pub(crate) fn check(cluster: &Cluster) -> Vec<Diagnostic> {
    let mut found = router_ids(&cluster.file, &cluster.vips, None);
    addresses(cluster, &mut found);
    node_addresses(cluster, &mut found);
    unused_checks(cluster, &mut found);
    witnesses(cluster, &mut found);
    heartbeats(cluster, &mut found);
    shared_commands(cluster, &mut found);
    found
}

/// Whoever may write a shared file on one node would run programs on all, and nobody would have agreed.
fn shared_commands(cluster: &Cluster, found: &mut Vec<Diagnostic>) {
    let Some(sync) = &cluster.sync else { return };
    let conf = cluster.nginx.as_ref().and_then(|nginx| nginx.conf.as_deref()?.parent());
    // Where it isn't said nginx's directory is found out on the host.
    let by_default = conf.filter(|_| sync.paths.is_empty());
    let roots = || sync.paths.iter().chain(&sync.also).map(PathBuf::as_path).chain(by_default);
    let scripts = cluster.notify.scripts().map(|path| (path, None));
    let checks = cluster.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Script { command, .. } => {
            Some((Path::new(command.first()?), Some(check.span.clone())))
        }
        _ => None,
    });
    let binary = cluster.nginx.as_ref();
    let binary = binary.and_then(|it| Some((it.binary.as_deref()?, Some(it.span.clone()))));
    let mut told: Vec<&Path> = Vec::new();
    for (program, span) in scripts.chain(checks).chain(binary) {
        let Some(root) = roots().find(|root| program.starts_with(root)) else { continue };
        if told.contains(&program) {
            continue;
        }
        told.push(program);
        let message =
            format!("{} lies in {}, which the nodes share", program.display(), root.display());
        let fault = Diagnostic::error(codes::COMMAND_SHARED, message);
        let fault = match span {
            Some(span) => fault.at(&cluster.file, span, "runs it"),
            None => fault,
        };
        found.push(fault.at(&cluster.file, sync.span.clone(), "shares it").help(
            "put it elsewhere on each node, or share less: else whoever may write there on one node runs \
             programs on all",
        ));
    }
}

/// Two VIPs of one id, family and interface would take each other's adverts for their own.
///
/// Without `default_interface` (the file is read on a machine that is none of its nodes) a VIP
/// without an interface is compared with others of that kind only.
pub(crate) fn router_ids(
    file: &Arc<str>,
    vips: &[Vip],
    default_interface: Option<&str>,
) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut seen: BTreeMap<(u8, Option<&str>, usize), &Vip> = BTreeMap::new();
    for vip in vips {
        let interface = vip.interface.as_deref().or(default_interface);
        let mut told = false;
        for family in Family::BOTH.into_iter().filter(|family| vip.has(*family)) {
            let key = (vip.vrid.get(), interface, family.index());
            let Some(first) = seen.get(&key) else {
                seen.insert(key, vip);
                continue;
            };
            if told {
                continue;
            }
            told = true;
            let place = interface.map(|name| format!(" on {name}")).unwrap_or_default();
            found.push(
                Diagnostic::error(
                    codes::VRID_COLLIDES,
                    format!(
                        "[vip.{}] and [vip.{}] have the same virtual_router_id {}{place}",
                        first.name, vip.name, vip.vrid
                    ),
                )
                .at(file, vip.vrid_span.clone(), "given again")
                .at(file, first.vrid_span.clone(), "first given here")
                .help("give one of them another number, or put all the addresses into one VIP: they then move together"),
            );
        }
    }
    found
}

fn addresses(cluster: &Cluster, found: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<IpAddr, (&Vip, Range<usize>)> = BTreeMap::new();
    for vip in &cluster.vips {
        for (prefix, span) in vip.addresses.iter().zip(&vip.address_spans) {
            let address = prefix.address();
            let Some((first, first_span)) = seen.get(&address) else {
                seen.insert(address, (vip, span.clone()));
                continue;
            };
            let message = if first.name == vip.name {
                format!("{address} stands twice in [vip.{}]", vip.name)
            } else {
                format!("{address} is in [vip.{}] and in [vip.{}]", first.name, vip.name)
            };
            found.push(
                Diagnostic::error(codes::ADDRESS_TWICE, message)
                    .at(&cluster.file, span.clone(), "given again")
                    .at(&cluster.file, first_span.clone(), "first given here")
                    .help("an address belongs to one VIP, once: remove the other one"),
            );
        }
    }
}

/// A node's own address must stay when the VIP goes, and two nodes can't have the same.
fn node_addresses(cluster: &Cluster, found: &mut Vec<Diagnostic>) {
    let mut seen: BTreeMap<IpAddr, (&str, Range<usize>)> = BTreeMap::new();
    for node in &cluster.nodes {
        for (address, span) in node.addresses.iter().zip(&node.address_spans) {
            let Some((first, first_span)) = seen.get(address) else {
                seen.insert(*address, (&node.name, span.clone()));
                continue;
            };
            found.push(
                Diagnostic::error(
                    codes::ADDRESS_TWICE,
                    format!("the nodes {first} and {} have the same address {address}", node.name),
                )
                .at(&cluster.file, span.clone(), "given again")
                .at(&cluster.file, first_span.clone(), "first given here")
                .help("give each machine its own address; `ip address` on the machine shows it"),
            );
        }
    }
    for vip in &cluster.vips {
        for (prefix, span) in vip.addresses.iter().zip(&vip.address_spans) {
            let Some((node, node_span)) = seen.get(&prefix.address()) else { continue };
            found.push(
                Diagnostic::error(
                    codes::ADDRESS_OF_NODE,
                    format!("{} of [vip.{}] is node {node}'s own address", prefix.address(), vip.name),
                )
                .at(&cluster.file, span.clone(), "would move between the machines")
                .at(&cluster.file, node_span.clone(), "must stay on its machine")
                .help("give the machine an address of its own, so that it stays reachable when the VIP leaves"),
            );
        }
    }
}

fn unused_checks(cluster: &Cluster, found: &mut Vec<Diagnostic>) {
    let by_nginx = |vip: &Vip| vip.checks.iter().any(|name| name == NGINX_CHECK);
    if let Some(nginx) = cluster.nginx.as_ref()
        // An empty list says that this is meant.
        && cluster.vips.iter().any(|vip| !vip.checks.is_empty())
        && !cluster.vips.iter().any(by_nginx)
    {
        found.push(
            Diagnostic::warning(
                codes::UNUSED_CHECK,
                "no VIP uses the check \"nginx\": each stays with a node whose nginx is dead",
            )
            .at(&cluster.file, nginx.span.clone(), "")
            .help("name it in a VIP beside the others: checks = [\"nginx\", \"gw\"]"),
        );
    }
    for check in &cluster.checks {
        let used = cluster
            .vips
            .iter()
            .any(|vip| vip.checks.contains(&check.name) || vip.witness.contains(&check.name));
        if !used && !cluster.vips.is_empty() {
            found.push(
                Diagnostic::warning(
                    codes::UNUSED_CHECK,
                    format!("no VIP uses [check.{}], so it is never run", check.name),
                )
                .at(&cluster.file, check.span.clone(), "")
                .help(format!(
                    "name it in a VIP: checks = [{}\"{}\"]",
                    if cluster.nginx.is_some() { "\"nginx\", " } else { "" },
                    check.name
                )),
            );
        }
    }
}

/// A witness has to be seen from both sides of a cut, and to be neither of them.
fn witnesses(cluster: &Cluster, found: &mut Vec<Diagnostic>) {
    for vip in &cluster.vips {
        let Some(span) = vip.witness_span.clone().filter(|_| !vip.witness.is_empty()) else {
            continue;
        };
        if vip.members.len() < 2 {
            found.push(
                Diagnostic::warning(codes::NO_EFFECT, "witness has no effect here")
                    .at(&cluster.file, span, format!("[vip.{}] has one node only", vip.name))
                    .help("remove the line, or let another node hold the VIP too"),
            );
            continue;
        }
        for name in &vip.witness {
            let Some(why) = says_nothing(cluster, name) else { continue };
            found.push(
                Diagnostic::warning(
                    codes::WITNESS,
                    format!("the witness \"{name}\" of [vip.{}] says nothing of a cut", vip.name),
                )
                .at(&cluster.file, span.clone(), why)
                .help(
                    "ask somebody whom every node reaches and who is no node, the gateway say: \
                     [check.gw] with type = \"ping\"",
                ),
            );
        }
    }
}

/// A heartbeat has to be another path, on which somebody can answer; and a witness has to end it.
fn heartbeats(cluster: &Cluster, found: &mut Vec<Diagnostic>) {
    for vip in &cluster.vips {
        let Some(span) = vip.heartbeat_span.clone().filter(|_| !vip.heartbeat.is_empty()) else {
            continue;
        };
        let name = &vip.name;
        let own = vip.heartbeat.iter().find(|path| vip.interface.as_ref() == Some(path));
        let v4 = vip.addresses.iter().any(|prefix| prefix.family() == Family::V4);
        let (what, label, help) = if !v4 {
            (
                format!("the heartbeat of [vip.{name}] shows nothing"),
                "no kernel answers for an IPv6 address on another interface",
                "give the VIP an IPv4 address as well, or remove the line",
            )
        } else if let Some(own) = own {
            (
                format!("the heartbeat of [vip.{name}] on {own} is no further path"),
                "the VIP itself is on this interface",
                "name another interface, with a cable of its own between the nodes",
            )
        } else if vip.members.len() < 2 {
            (
                format!("the heartbeat of [vip.{name}] has no effect"),
                "the VIP has one node only",
                "remove the line, or let another node hold the VIP too",
            )
        } else if vip.witness.is_empty() {
            (
                format!(
                    "with a heartbeat and no witness, a node that nobody reaches keeps [vip.{name}]"
                ),
                "the peers see it here, and leave it alone",
                "let it see for itself that it is cut off: witness = [\"gw\"], and [check.gw] with type \
                 = \"ping\"",
            )
        } else {
            continue;
        };
        found.push(
            Diagnostic::warning(codes::HEARTBEAT, what).at(&cluster.file, span, label).help(help),
        );
    }
}

/// Why a check passes on both sides of a cut, or has an end on one of them.
fn says_nothing(cluster: &Cluster, name: &str) -> Option<&'static str> {
    let local = Some("it looks at the node itself, and passes on both sides");
    if name == NGINX_CHECK {
        return local;
    }
    let asked = match &cluster.check(name)?.kind {
        CheckKind::Process(_) | CheckKind::File { .. } | CheckKind::Interface { .. } => {
            return local;
        }
        CheckKind::Script { .. } | CheckKind::Route { .. } => return None,
        CheckKind::Http { url, .. } => url.address.ip(),
        CheckKind::Tcp { address } => address.ip(),
        CheckKind::Ping { to } => *to,
    };
    let node = cluster.nodes.iter().any(|node| node.addresses.contains(&asked));
    let vip = || cluster.vips.iter().flat_map(|vip| &vip.addresses).any(|it| it.address() == asked);
    match (asked.is_loopback(), node || vip()) {
        (true, _) => local,
        (false, true) => Some("it asks one of the nodes, which are the sides of a cut"),
        (false, false) => None,
    }
}
