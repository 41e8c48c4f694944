//! What the RFCs demand of a receiver before an advert is obeyed, and who wins at equal priority.

use std::net::IpAddr;

use crate::InterfaceState;
use crate::event::Party;
use crate::plan::{Mode, NodePlan, Plan, Version, VipPlan};
use crate::types::{Family, NodeId};
use crate::wire::vrrp::{self, Envelope, Malformed};

/// Why an advert isn't obeyed although its sender may be.
#[derive(Debug)]
pub(crate) enum Unfit {
    Malformed(Malformed),
    Version { ours: Version },
    Interval { theirs: u16, ours: u8 },
    Password,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(why) => why.fmt(f),
            Self::Version { ours: Version::V2 } => {
                f.write_str("it speaks VRRP version 3, this VIP has version = 2")
            }
            Self::Version { ours: Version::V3 } => {
                f.write_str("it speaks VRRP version 2, this VIP has version = 3")
            }
            Self::Interval { theirs, ours } => write!(
                f,
                "it advertises every {} s, this VIP every {ours} s; VRRP version 2 wants them equal",
                theirs / 100
            ),
            Self::Password => f.write_str("its password isn't the one of the cluster file"),
        }
    }
}

/// Reads an advert and applies what the RFCs demand of a receiver (RFC 9568 §7.1, RFC 3768 §7.1).
pub(crate) fn read<'a>(
    plan: &VipPlan,
    envelope: &Envelope,
    payload: &'a [u8],
) -> Result<vrrp::Advert<'a>, Unfit> {
    if plan.mode == Mode::Multicast {
        // A unicast peer may be a router away.
        vrrp::check_hop_limit(envelope).map_err(Unfit::Malformed)?;
    }
    let advert = vrrp::parse(envelope, payload).map_err(Unfit::Malformed)?;
    if advert.version != plan.version {
        return Err(Unfit::Version { ours: plan.version });
    }
    if plan.version == Version::V2 {
        let ours = plan.advert_interval.whole_seconds();
        if advert.interval.get() != u16::from(ours) * 100 {
            return Err(Unfit::Interval { theirs: advert.interval.get(), ours });
        }
        let same = match (advert.password, plan.password) {
            (None, None) => true,
            (Some(theirs), Some(ours)) => same_secret(&theirs, &ours),
            _ => false,
        };
        if !same {
            return Err(Unfit::Password);
        }
    }
    Ok(advert)
}

/// Compares in a time that doesn't tell how many bytes were right.
fn same_secret(a: &[u8; 8], b: &[u8; 8]) -> bool {
    a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

/// Whether the sender wins at equal priority: the higher address does (RFC 9568 §6.4.3 (725)).
///
/// Among standins the nodes' own addresses decide, the same way for both families. Others compare
/// what they see, the source addresses of adverts.
pub(crate) fn ties_to(
    plan: &Plan,
    interfaces: &[(String, InterfaceState)],
    vip: &VipPlan,
    who: Party,
    source: IpAddr,
) -> bool {
    let node = |id: NodeId| plan.nodes.get(id.index());
    let me = node(plan.me);
    if let Party::Node(id) = who
        && let (Some(them), Some(me)) = (node(id), me)
        && !them.vrrp_only
    {
        return higher(them, me).unwrap_or(id > plan.me);
    }
    let family = Family::of(source);
    let link_local = interfaces.get(vip.interface.index()).and_then(|(_, state)| state.link_local);
    let ours = match (family, vip.mode) {
        (Family::V6, Mode::Multicast) => link_local.map(IpAddr::V6),
        _ => me.and_then(|me| me.address(family)),
    };
    ours.is_some_and(|ours| source > ours)
}

/// Whether node `a` wins against node `b` at equal priority, both being standins.
pub(crate) fn outranks(plan: &Plan, a: NodeId, b: NodeId) -> bool {
    let node = |id: NodeId| plan.nodes.get(id.index());
    node(a).zip(node(b)).and_then(|(one, other)| higher(one, other)).unwrap_or(a > b)
}

/// Whether the first node's address is the higher one, in the first family that both have.
fn higher(one: &NodePlan, other: &NodePlan) -> Option<bool> {
    Family::BOTH.into_iter().find_map(|family| Some(one.address(family)? > other.address(family)?))
}
