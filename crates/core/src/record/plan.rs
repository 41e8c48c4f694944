//! A plan on one line of a record: words in a fixed order, lists with their length before them.

use std::fmt::Write as _;
use std::time::Duration;

use super::words::{Words, hex, word};
use crate::plan::{
    AllIneligible, Announce, CheckPlan, ChecksumStyle, Failback, MAX_VIPS, Member, Mode, NodePlan,
    Plan, Version, VipPlan,
};
use crate::types::{CheckId, InterfaceId, IntervalCs, NodeId, Priority, Vrid};

/// Longer lists than any plan has; a damaged record must not ask for memory.
const MAX_LIST: usize = MAX_VIPS;

pub(super) fn write(plan: &Plan, out: &mut String) {
    // Writing to a String can't fail; the same below.
    let _ = write!(out, " {} {} {}", word(&plan.cluster), plan.me.0, plan.nodes.len());
    for node in &plan.nodes {
        let only = u8::from(node.vrrp_only);
        let _ = write!(out, " {} {only} {}", word(&node.name), node.addresses.len());
        for address in &node.addresses {
            let _ = write!(out, " {address}");
        }
    }
    let _ = write!(out, " {}", plan.interfaces.len());
    for interface in &plan.interfaces {
        let _ = write!(out, " {}", word(interface));
    }
    let _ = write!(out, " {}", plan.checks.len());
    for check in &plan.checks {
        let _ = write!(out, " {} {} {}", word(&check.name), check.rise, check.fall);
    }
    let _ = write!(out, " {}", plan.vips.len());
    for vip in &plan.vips {
        write_vip(vip, out);
    }
}

fn write_vip(vip: &VipPlan, out: &mut String) {
    let version = match vip.version {
        Version::V2 => 2,
        Version::V3 => 3,
    };
    let checksum = match vip.checksum {
        ChecksumStyle::WithPseudoHeader => "keepalived",
        ChecksumStyle::WithoutPseudoHeader => "rfc9568",
    };
    let mode = match vip.mode {
        Mode::Multicast => "multicast",
        Mode::Unicast => "unicast",
    };
    let failback = match vip.failback {
        Failback::Never => "-".to_owned(),
        Failback::After(wait) => wait.as_nanos().to_string(),
    };
    let all_ineligible = match vip.all_ineligible {
        AllIneligible::Keep => "keep",
        AllIneligible::Drop => "drop",
    };
    let _ = write!(
        out,
        " {} {} {} {} {version} {checksum} {mode} {} {failback} {} {all_ineligible} {} {} {}",
        word(&vip.name),
        vip.vrid,
        vip.interface.0,
        vip.advert_interval.get(),
        vip.password.map_or_else(|| "-".to_owned(), |password| hex(&password)),
        vip.hold_down.as_nanos(),
        u8::from(vip.accept_unknown),
        vip.announce.repeat,
        vip.announce.refresh.as_nanos(),
    );
    let _ = write!(out, " {}", vip.addresses.len());
    for prefix in &vip.addresses {
        let _ = write!(out, " {prefix}");
    }
    let _ = write!(out, " {}", vip.members.len());
    for member in &vip.members {
        let _ = write!(out, " {} {}", member.node.0, member.priority);
    }
    let _ = write!(out, " {}", vip.checks.len());
    for check in &vip.checks {
        let _ = write!(out, " {}", check.0);
    }
    let _ = write!(out, " {}", vip.witness.len());
    for check in &vip.witness {
        let _ = write!(out, " {}", check.0);
    }
    let _ = write!(out, " {}", vip.heartbeat.len());
    for interface in &vip.heartbeat {
        let _ = write!(out, " {}", interface.0);
    }
    let _ = write!(out, " {}", u8::from(vip.virtual_mac));
}

/// Reads `length` and as many things.
fn list<'a, T>(
    words: &mut Words<'a>,
    one: impl Fn(&mut Words<'a>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let length: usize = words.number("a length")?;
    if length > MAX_LIST {
        return Err(format!("a list of {length} is longer than any plan has"));
    }
    (0..length).map(|_| one(words)).collect()
}

pub(super) fn read(words: &mut Words<'_>) -> Result<Plan, String> {
    Ok(Plan {
        cluster: words.text("a cluster")?,
        me: NodeId(words.number("a node")?),
        nodes: list(words, |words| {
            Ok(NodePlan {
                name: words.text("a node")?,
                vrrp_only: words.flag()?,
                addresses: list(words, |words| words.number("an address"))?,
            })
        })?,
        interfaces: list(words, |words| words.text("an interface"))?,
        checks: list(words, |words| {
            Ok(CheckPlan {
                name: words.text("a check")?,
                rise: words.number("rise")?,
                fall: words.number("fall")?,
            })
        })?,
        vips: list(words, read_vip)?,
    })
}

fn read_vip(words: &mut Words<'_>) -> Result<VipPlan, String> {
    Ok(VipPlan {
        name: words.text("a VIP")?,
        vrid: Vrid::new(words.number("a router id")?).ok_or("0 is no router id")?,
        interface: InterfaceId(words.number("an interface")?),
        advert_interval: IntervalCs::new(words.number("an interval")?).ok_or("no such interval")?,
        version: match words.next("a version")? {
            "2" => Version::V2,
            "3" => Version::V3,
            other => return Err(format!("{other} is no version")),
        },
        checksum: match words.next("a checksum")? {
            "keepalived" => ChecksumStyle::WithPseudoHeader,
            "rfc9568" => ChecksumStyle::WithoutPseudoHeader,
            other => return Err(format!("{other} is no checksum")),
        },
        mode: match words.next("a mode")? {
            "multicast" => Mode::Multicast,
            "unicast" => Mode::Unicast,
            other => return Err(format!("{other} is no mode")),
        },
        password: {
            let bytes = words.bytes()?;
            if bytes.is_empty() {
                None
            } else {
                Some(bytes.try_into().map_err(|_| "a password has 8 bytes")?)
            }
        },
        failback: words
            .optional("a failback")?
            .map_or(Failback::Never, |wait| Failback::After(Duration::from_nanos(wait))),
        hold_down: Duration::from_nanos(words.number("a hold_down")?),
        all_ineligible: match words.next("keep or drop")? {
            "keep" => AllIneligible::Keep,
            "drop" => AllIneligible::Drop,
            other => return Err(format!("{other} is neither keep nor drop")),
        },
        accept_unknown: words.flag()?,
        announce: Announce {
            repeat: words.number("a repeat")?,
            refresh: Duration::from_nanos(words.number("a refresh")?),
        },
        addresses: list(words, |words| words.number("a prefix"))?,
        members: list(words, |words| {
            let node = NodeId(words.number("a node")?);
            Ok(Member { node, priority: Priority(words.number("a priority")?) })
        })?,
        checks: list(words, |words| Ok(CheckId(words.number("a check")?)))?,
        witness: list(words, |words| Ok(CheckId(words.number("a witness")?)))?,
        heartbeat: list(words, |words| Ok(InterfaceId(words.number("a heartbeat")?)))?,
        virtual_mac: words.flag()?,
    })
}
