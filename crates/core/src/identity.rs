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

/// Addresses that are remembered: 16 nodes with two of their own and a link-local one each, on 20
/// interfaces.
const MAX_SENDERS: usize = 1024;

/// A question about a new sender isn't asked again before this; a lost answer costs no more.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A question that is no longer new isn't asked again before this: dead nodes never answer.
const ASK_AGAIN_LATER: Duration = Duration::from_secs(1);

/// An answer that came this long ago no longer says who sits at a link-local address.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// A sender isn't called a stranger before the network had this long to say who it is.
const UNDECIDED: Duration = Duration::from_secs(1);

/// After this the questions about a sender begin anew; longer than any interval, so that a
/// stranger is one from its second advert on.
const BEGIN_ANEW: Duration = Duration::from_secs(45);

#[derive(Clone, Debug, Default)]
pub struct Identity {
    seen: BTreeMap<(InterfaceId, IpAddr), Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// As last answered, and when.
    answer: Option<(Mac, Instant)>,
    first_at: Instant,
    asked_at: Option<Instant>,
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
        if let Some((node, fresh)) = self.known(now, nodes, interface, source)
            && fresh
        {
            return Some(node);
        }
        // All at once: the next advert, which may be long in coming, must not find half an answer.
        // Every address of a node: one family may be deaf.
        self.ask(now, interface, source, effects);
        for address in nodes.iter().flat_map(|node| &node.addresses) {
            self.ask(now, interface, *address, effects);
        }
        self.known(now, nodes, interface, source).map(|(node, _)| node)
    }

    /// The node behind a link-local sender, as far as the network has said, and whether that is
    /// recent enough not to be asked again.
    #[must_use]
    pub fn known(
        &self,
        now: Instant,
        nodes: &[NodePlan],
        interface: InterfaceId,
        source: IpAddr,
    ) -> Option<(NodeId, bool)> {
        let (mac, at) = self.seen.get(&(interface, source))?.answer?;
        let mut found = None;
        for (index, node) in nodes.iter().enumerate() {
            for address in &node.addresses {
                let seen = self.seen.get(&(interface, *address)).and_then(|seen| seen.answer);
                if let Some((theirs, answered_at)) = seen
                    && theirs == mac
                {
                    let fresh = now.since(at.min(answered_at)) <= FORGET_AFTER;
                    found = u8::try_from(index).ok().map(|index| (NodeId(index), fresh));
                }
            }
        }
        found
    }

    fn ask(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        address: IpAddr,
        effects: &mut Effects,
    ) {
        let full = self.seen.len() >= MAX_SENDERS;
        if full && !self.seen.contains_key(&(interface, address)) && !self.make_room(now) {
            return;
        }
        let new = Seen { answer: None, first_at: now, asked_at: None };
        let seen = self.seen.entry((interface, address)).or_insert(new);
        if seen.asked_at.is_some_and(|asked| now.since(asked) > BEGIN_ANEW) {
            seen.first_at = now;
        }
        let new = now.since(seen.first_at) < UNDECIDED;
        let gap = if new { ASK_AGAIN } else { ASK_AGAIN_LATER };
        if seen.asked_at.is_none_or(|asked| now.since(asked) >= gap) {
            seen.asked_at = Some(now);
            effects.push(Effect::Identify { interface, address });
        }
    }

    /// The node whose own address is at `mac`; asks the network when nobody's is, as far as is known.
    pub fn behind(
        &mut self,
        now: Instant,
        nodes: &[NodePlan],
        interface: InterfaceId,
        mac: Mac,
        effects: &mut Effects,
    ) -> Option<NodeId> {
        let at = |address: &IpAddr| self.seen.get(&(interface, *address))?.answer;
        let fresh = |(theirs, at): (Mac, Instant)| theirs == mac && now.since(at) <= FORGET_AFTER;
        let mut found = nodes.iter().map(|node| node.addresses.iter().filter_map(at).any(fresh));
        if let Some(place) = found.position(|is| is) {
            return u8::try_from(place).ok().map(NodeId);
        }
        for address in nodes.iter().flat_map(|node| &node.addresses) {
            self.ask(now, interface, *address, effects);
        }
        None
    }

    /// Whether the network has told behind which MAC a node is.
    #[must_use]
    pub fn locates(&self, nodes: &[NodePlan], interface: InterfaceId, node: NodeId) -> bool {
        let at = |address: &IpAddr| self.seen.get(&(interface, *address))?.answer;
        let known = nodes.get(node.index());
        known.is_some_and(|node| node.addresses.iter().any(|address| at(address).is_some()))
    }

    /// Somebody else asks for `address`: the answer is remembered as if it had been asked here.
    pub fn expect(&mut self, now: Instant, interface: InterfaceId, address: IpAddr) {
        let known = self.seen.contains_key(&(interface, address));
        if known || self.seen.len() < MAX_SENDERS || self.make_room(now) {
            let new = Seen { answer: None, first_at: now, asked_at: None };
            self.seen.entry((interface, address)).or_insert(new).asked_at = Some(now);
        }
    }

    /// Forgets who was asked for longest ago, first of all one that never answered: a flood of
    /// made-up senders must not lock the nodes out. False while the oldest question is still open.
    fn make_room(&mut self, now: Instant) -> bool {
        let age =
            |(_, seen): &(&(InterfaceId, IpAddr), &Seen)| (seen.answer.is_some(), seen.asked_at);
        let Some((place, seen)) = self.seen.iter().min_by_key(age) else { return true };
        if seen.asked_at.is_some_and(|asked| now.since(asked) < UNDECIDED) {
            return false;
        }
        let place = *place;
        self.seen.remove(&place);
        true
    }

    /// An ARP or neighbour advertisement came in; only answers to questions are remembered. Says
    /// whether it is one.
    pub fn sighted(
        &mut self,
        now: Instant,
        interface: InterfaceId,
        address: IpAddr,
        mac: Mac,
    ) -> bool {
        let seen = self.seen.get_mut(&(interface, address));
        let wanted = seen.is_some();
        if let Some(seen) = seen {
            seen.answer = Some((mac, now));
        }
        wanted
    }

    /// Whether it is too early to say that `source` is no node: a question that would tell was
    /// asked for the first time just now, and isn't answered yet.
    #[must_use]
    pub fn undecided(
        &self,
        now: Instant,
        nodes: &[NodePlan],
        interface: InterfaceId,
        source: IpAddr,
    ) -> bool {
        let open = |address: IpAddr| {
            let seen = self.seen.get(&(interface, address));
            seen.is_some_and(|seen| seen.answer.is_none() && now.since(seen.first_at) < UNDECIDED)
        };
        let known = nodes.iter().flat_map(|node| &node.addresses);
        is_link_local(source) && known.copied().chain([source]).any(open)
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
        assert_eq!(effects.len(), 3, "asks for the sender's MAC and the nodes': {effects:?}");
        identity.sighted(now, IF, source, mac);
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), None);
        identity.sighted(now, IF, "10.0.0.2".parse().unwrap(), mac);
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), Some(NodeId(1)));
    }

    #[test]
    fn a_new_sender_is_undecided_until_the_network_had_time_to_answer() {
        let nodes = [node("n1", "10.0.0.1")];
        let source: IpAddr = "fe80::9".parse().unwrap();
        let start = Instant::from_nanos(10_000_000_000);
        let mut identity = Identity::default();
        assert!(!identity.undecided(start, &nodes, IF, source), "never heard");
        for wait in [0, 500, 999, 1_100] {
            let now = start + Duration::from_millis(wait);
            identity.of(now, &nodes, IF, source, &mut Effects::new());
            assert_eq!(identity.undecided(now, &nodes, IF, source), wait < 1_000, "{wait} ms");
        }
        // Heard again after a long silence: the questions begin anew.
        let later = start + Duration::from_secs(60);
        identity.of(later, &nodes, IF, source, &mut Effects::new());
        assert!(identity.undecided(later, &nodes, IF, source));
        // All answers are there and it is none of them: a stranger at once.
        identity.sighted(later, IF, source, Mac([2; 6]));
        identity.sighted(later, IF, "10.0.0.1".parse().unwrap(), Mac([3; 6]));
        assert!(!identity.undecided(later, &nodes, IF, source));
    }

    #[test]
    fn unasked_answers_and_floods_are_not_remembered() {
        let nodes = [node("n1", "10.0.0.1")];
        let now = Instant::from_nanos(1_000_000_000);
        let mut identity = Identity::default();
        identity.sighted(now, IF, "fe80::9".parse().unwrap(), Mac::ZERO);
        assert!(identity.seen.is_empty());
        let mut effects = Effects::new();
        let flood = |identity: &mut Identity, now, effects: &mut Effects| {
            for low in 1..5000_u16 {
                let source = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, low]);
                identity.of(now, &nodes, IF, source, effects);
            }
        };
        flood(&mut identity, now, &mut effects);
        assert_eq!(identity.seen.len(), MAX_SENDERS);
        assert_eq!(effects.len(), MAX_SENDERS);
        // Who comes after it is asked for again.
        let (source, mac) = ("fe80::1:1".parse().unwrap(), Mac([2; 6]));
        let now = now + UNDECIDED;
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), None);
        identity.sighted(now, IF, source, mac);
        identity.sighted(now, IF, "10.0.0.1".parse().unwrap(), mac);
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), Some(NodeId(0)));
        flood(&mut identity, now + UNDECIDED, &mut effects);
        assert_eq!(identity.of(now, &nodes, IF, source, &mut effects), Some(NodeId(0)));
    }
}
