//! Which addresses and interfaces the lab's hosts get: worked out from the cluster file, pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, bail};
use standin_config::model::{Check, CheckKind, Cluster, Node};
use standin_core::types::{Family, Prefix};

/// The interface of a host where the file names none.
const INTERFACE: &str = "eth0";

/// It is there already.
const LOOPBACK: &str = "lo";

/// What nodes get where no VIP shares their network.
const DEFAULT_LEN: [u8; 2] = [24, 64];

/// The client's place in a network, if it is free: the plan's clients begin here.
const CLIENT_HOST_NUMBER: u8 = 10;

/// The host from which everything is measured.
pub(super) const CLIENT: &str = "client";

/// Everything that is plugged together.
#[derive(Debug)]
pub(super) struct Layout {
    /// Of each node; the first one carries its own addresses. Each is a segment of its own.
    pub(super) interfaces: Vec<String>,
    /// In the order of the file.
    pub(super) nodes: Vec<NodeLayout>,
    /// The client's addresses, each with the index of its segment.
    pub(super) client: Vec<(usize, Prefix)>,
    /// Addresses that lie in no network of the client, each with the index of its segment.
    pub(super) routes: Vec<(usize, IpAddr)>,
}

#[derive(Debug)]
pub(super) struct NodeLayout {
    pub(super) name: String,
    pub(super) addresses: Vec<Prefix>,
    /// The client's addresses in the node's networks: its default gateways.
    pub(super) gateways: Vec<IpAddr>,
}

impl Layout {
    /// # Errors
    /// When a node has the client's name, or a network has no place left for the client.
    pub(super) fn of(cluster: &Cluster) -> Result<Self> {
        if cluster.node(CLIENT).is_some() {
            bail!(
                "a node is called `{CLIENT}`, which is the lab's own host: rename it in {}",
                cluster.file
            );
        }
        let mut interfaces = Vec::new();
        if cluster.vips.is_empty() || cluster.vips.iter().any(|vip| vip.interface.is_none()) {
            interfaces.push(INTERFACE.to_owned());
        }
        let of_vips =
            cluster.vips.iter().flat_map(|vip| vip.interface.iter().chain(&vip.heartbeat));
        let of_checks = cluster.checks.iter().filter_map(|check| match &check.kind {
            CheckKind::Interface { name } => Some(name),
            _ => None,
        });
        for name in of_vips.chain(of_checks) {
            if name != LOOPBACK && !interfaces.contains(name) {
                interfaces.push(name.clone());
            }
        }
        let vips: Vec<(usize, Prefix)> = cluster
            .vips
            .iter()
            .flat_map(|vip| {
                let named = vip.interface.as_ref();
                let segment = named.and_then(|it| interfaces.iter().position(|have| have == it));
                vip.addresses.iter().map(move |address| (segment.unwrap_or(0), *address))
            })
            .collect();

        let mut taken: BTreeSet<IpAddr> = vips.iter().map(|(_, vip)| vip.address()).collect();
        taken.extend(cluster.nodes.iter().flat_map(|node| &node.addresses));
        let mut layout =
            Self { interfaces, nodes: Vec::new(), client: Vec::new(), routes: Vec::new() };
        layout.client_plays(&cluster.checks, &cluster.nodes, &vips, &mut taken);
        for node in &cluster.nodes {
            let mut node_layout =
                NodeLayout { name: node.name.clone(), addresses: Vec::new(), gateways: Vec::new() };
            for address in &node.addresses {
                let own = own_prefix(*address, &vips);
                node_layout.addresses.push(own);
                node_layout.gateways.push(layout.client_in(0, own, &mut taken)?);
            }
            layout.nodes.push(node_layout);
        }
        for (segment, vip) in vips {
            if vip.prefix_len() < Prefix::host(vip.address()).prefix_len() {
                layout.client_in(segment, vip, &mut taken)?;
            } else if !layout.client.iter().any(|(_, client)| client.contains(vip.address())) {
                layout.routes.push((segment, vip.address()));
            }
        }
        Ok(layout)
    }

    /// Whom checks ask, and gateways that they look for: nobody else would be there.
    fn client_plays(
        &mut self,
        checks: &[Check],
        nodes: &[Node],
        vips: &[(usize, Prefix)],
        taken: &mut BTreeSet<IpAddr>,
    ) {
        let near = nodes.iter().flat_map(|node| &node.addresses);
        let near = near.map(|own| (0, own_prefix(*own, vips))).chain(vips.iter().copied());
        let near: Vec<(usize, Prefix)> = near.collect();
        for check in checks {
            let wanted = match &check.kind {
                CheckKind::Ping { to } => *to,
                CheckKind::Route { via: Some(via), .. } => *via,
                _ => continue,
            };
            if wanted.is_loopback() || !taken.insert(wanted) {
                continue;
            }
            let network = near.iter().find(|(_, it)| it.contains(wanted));
            // Far away ones are reached by the default route, which leads to the client.
            let (segment, len) = network.map_or_else(
                || (0, Prefix::host(wanted).prefix_len()),
                |(segment, it)| (*segment, it.prefix_len()),
            );
            self.client.extend(Prefix::new(wanted, len).map(|it| (segment, it)));
        }
    }

    /// The client's address in the network of `neighbour`, chosen now if it has none there.
    fn client_in(
        &mut self,
        segment: usize,
        neighbour: Prefix,
        taken: &mut BTreeSet<IpAddr>,
    ) -> Result<IpAddr> {
        let has = self
            .client
            .iter()
            .find(|(at, client)| *at == segment && client.contains(neighbour.address()));
        if let Some((_, client)) = has {
            return Ok(client.address());
        }
        let chosen = (CLIENT_HOST_NUMBER..=254)
            .chain(1..CLIENT_HOST_NUMBER)
            .map(|number| host_in(neighbour, number))
            .find(|address| neighbour.contains(*address) && !taken.contains(address));
        let chosen = chosen.and_then(|address| Prefix::new(address, neighbour.prefix_len()));
        let Some(chosen) = chosen else {
            bail!("no address is left for the client in the network of {neighbour}")
        };
        taken.insert(chosen.address());
        self.client.push((segment, chosen));
        Ok(chosen.address())
    }
}

/// A node's address with the length of the network that it shares with a VIP, else the usual one.
fn own_prefix(address: IpAddr, vips: &[(usize, Prefix)]) -> Prefix {
    let host = Prefix::host(address);
    let shared = vips.iter().map(|(_, vip)| *vip).find(|vip| vip.contains(address));
    let default = DEFAULT_LEN[Family::of(address).index()];
    let len = shared.map_or(default, Prefix::prefix_len);
    Prefix::new(address, len).unwrap_or(host)
}

/// The address number `number` of the network of `prefix`, for networks up to /24 and /120; in
/// smaller ones the result may lie outside, which the caller sees.
fn host_in(prefix: Prefix, number: u8) -> IpAddr {
    match prefix.address() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.prefix_len())).unwrap_or(0);
            IpAddr::V4(((address.to_bits() & mask) | u32::from(number)).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.prefix_len())).unwrap_or(0);
            IpAddr::V6(((address.to_bits() & mask) | u128::from(number)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(text: &str) -> Layout {
        let loaded = standin_config::load("standin.toml", text);
        let rendered = loaded.render(false);
        Layout::of(&loaded.model.unwrap_or_else(|| panic!("{rendered}"))).unwrap()
    }

    const PAIR: &str = r#"
cluster = "edge"
[node.n1]
address = "192.168.1.189"
[node.n2]
address = "192.168.1.190"
[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24"]
checks = []
"#;

    #[test]
    fn the_client_is_whoever_is_asked_and_the_gateway_that_is_named() {
        let plain = layout(PAIR);
        assert_eq!(plain.nodes[0].gateways, ["192.168.1.10".parse::<IpAddr>().unwrap()]);
        let witness = |to: &str| {
            let witness = "witness = [\"far\"]\nheartbeat = [\"eth1\"]\n";
            layout(&format!("{PAIR}{witness}[check.far]\ntype = \"ping\"\nto = \"{to}\"\n"))
        };
        let near = witness("192.168.1.254");
        let gateway: IpAddr = "192.168.1.254".parse().unwrap();
        assert_eq!(near.client, [(0, Prefix::new(gateway, 24).unwrap())]);
        assert_eq!(near.nodes[1].gateways, [gateway]);
        assert_eq!(near.interfaces, ["eth0", "eth1"]);
        let far = witness("203.0.113.9");
        assert!(far.client.contains(&(0, Prefix::host("203.0.113.9".parse().unwrap()))));
        assert_eq!(far.nodes[0].gateways, plain.nodes[0].gateways);
        // Who is there already stays who it is.
        assert_eq!(witness("192.168.1.190").client, plain.client);
    }
}
