//! Which addresses and interfaces the lab's hosts get: worked out from the cluster file, pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, bail};
use standin_config::model::Cluster;
use standin_core::types::{Family, Prefix};

/// The interface of a host where the file names none.
const INTERFACE: &str = "eth0";

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
        for name in cluster.vips.iter().filter_map(|vip| vip.interface.as_ref()) {
            if !interfaces.contains(name) {
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
