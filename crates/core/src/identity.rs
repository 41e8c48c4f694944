//! Who sent an advert: maps source addresses to nodes of the cluster.
//!
//! IPv4 adverts come from the node's own address, which the cluster file names. IPv6 adverts come
//! from a link-local address (RFC 9568 §5.1.2.1), which nobody wants to write into a file: such a
//! sender is the node whose own address answers from the same MAC on the same interface.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::plan::NodePlan;
use crate::types::{Instant, InterfaceId, Mac, NodeId};
use crate::{Effect, Effects};

/// Senders that are remembered; far more than a LAN has VRRP speakers.
const MAX_SENDERS: usize = 64;

/// The same question isn't asked again before this.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// An answer that came this long ago no longer says who sits at a link-local address.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A sender isn't called a stranger before the network had this long to say who it is.
const UNDECIDED: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default)]
pub struct Identity {
    seen: BTreeMap<(InterfaceId, IpAddr), Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    mac: Option<Mac>,
    first_at: Instant,
    asked_at: Instant,
    answered_at: Instant,
}

impl Identity {
    /// The node that sent from `source`; asks the network when that isn't known yet.
    pub fn of(
        &mut self,
        now: Instant,
        nodes: &[NodePlan],
        interface: InterfaceId,
        source: IpAddr,
        effects: &mut Effects,
    ) -> Option<NodeId> {
        if let Some(node) = named(nodes, source) {
            return Some(node);
        }
        if !is_link_local(source) {
            return None;
        }
        let mac = self.mac(now, interface, source, effects)?;
        let mut found = None;
        for (index, node) in nodes.iter().enumerate() {
            // Every address is asked for: one family may be deaf, and the answer has to come by
            // the other one.
            for address in &node.addresses {
                if self.mac(now, interface, *address, effects) == Some(mac) {
                    found = u8::try_from(index).ok().map(NodeId);
                }
            }
        }
        found
    }

    /// The MAC behind `address`, as last answered; asks when there is no fresh answer.
    fn mac(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        address: IpAddr,
        effects: &mut Effects,
    ) -> Option<Mac> {
        let full = self.seen.len() >= MAX_SENDERS;
        let seen = match self.seen.get_mut(&(interface, address)) {
            Some(seen) => seen,
            None if full => return None,
            None => self.seen.entry((interface, address)).or_insert_with(|| Seen {
                mac: None,
                first_at: now,
                asked_at: Instant::default(),
                answered_at: now,
            }),
        };
        let stale = seen.mac.is_none() || now.since(seen.answered_at) > FORGET_AFTER;
        let unasked = seen.asked_at == Instant::default();
        if stale && (unasked || now.since(seen.asked_at) >= ASK_AGAIN) {
            seen.asked_at = now;
            effects.push(Effect::Identify { interface, address });
        }
        seen.mac
    }

    /// An ARP or neighbour advertisement came in; only answers to questions are remembered.
    pub fn sighted(&mut self, now: Instant, interface: InterfaceId, address: IpAddr, mac: Mac) {
        if let Some(seen) = self.seen.get_mut(&(interface, address)) {
            seen.mac = Some(mac);
            seen.answered_at = now;
        }
    }

    /// Whether it is too early to say that `source` is no node: it was first heard just now.
    #[must_use]
    pub fn undecided(&self, now: Instant, interface: InterfaceId, source: IpAddr) -> bool {
        let seen = self.seen.get(&(interface, source));
        seen.is_some_and(|seen| now.since(seen.first_at) < UNDECIDED)
    }

    /// Forgets everything; the nodes have changed.
    pub fn clear(&mut self) {
        self.seen.clear();
    }
}

/// The node to which the cluster file gives `address`.
#[must_use]
pub fn named(nodes: &[NodePlan], address: IpAddr) -> Option<NodeId> {
    let index = nodes.iter().position(|node| node.addresses.contains(&address))?;
    u8::try_from(index).ok().map(NodeId)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IF: InterfaceId = InterfaceId(0);

    fn node(name: &str, address: &str) -> NodePlan {
        NodePlan { name: name.into(), addresses: vec![address.parse().unwrap()], vrrp_only: false }
    }

    #[test]
    fn a_link_local_sender_is_the_node_behind_the_same_mac() {
        let nodes = [node("n1", "10.0.0.1"), node("n2", "10.0.0.2")];
        let source: IpAddr = "fe80::2".parse().unwrap();
        let (now, mac) = (Instant::from_nanos(1_000_000_000), Mac([2, 0, 0, 0, 0, 2]));
        let mut identity = Identity::default();
        let mut effects = Effects::new();
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), None);
        assert_eq!(effects.len(), 1, "asks for the sender's MAC: {effects:?}");
        identity.sighted(now, IF, source, mac);
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), None);
        identity.sighted(now, IF, "10.0.0.2".parse().unwrap(), mac);
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), Some(NodeId(1)));
    }

    #[test]
    fn a_new_sender_is_undecided_until_the_network_had_time_to_answer() {
        let nodes = [node("n1", "10.0.0.1")];
        let source: IpAddr = "fe80::9".parse().unwrap();
        let now = Instant::from_nanos(1_000_000_000);
        let mut identity = Identity::default();
        assert!(!identity.undecided(now, IF, source), "never heard");
        identity.of(now, &nodes, IF, source, &mut Effects::new());
        assert!(identity.undecided(now + UNDECIDED / 2, IF, source));
        assert!(!identity.undecided(now + UNDECIDED, IF, source));
    }

    #[test]
    fn unasked_answers_and_floods_are_not_remembered() {
        let nodes = [node("n1", "10.0.0.1")];
        let now = Instant::from_nanos(1_000_000_000);
        let mut identity = Identity::default();
        identity.sighted(now, IF, "fe80::9".parse().unwrap(), Mac::ZERO);
        assert!(identity.seen.is_empty());
        let mut effects = Effects::new();
        for low in 1..1000_u16 {
            let source = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, low]);
            identity.of(now, &nodes, IF, source, &mut effects);
        }
        assert!(identity.seen.len() <= MAX_SENDERS);
        assert!(effects.len() <= MAX_SENDERS);
    }
}
