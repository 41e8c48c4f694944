//! What happened and why: the one list from which log lines, `standin events` and hooks are made.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use crate::plan::Plan;
use crate::types::{CheckId, Family, InterfaceId, Mac, NodeId, Priority, VipId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `None` when it concerns the whole node.
    pub vip: Option<VipId>,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The VIP's role on this node changed.
    Transition {
        from: Role,
        to: Role,
        reason: Reason,
    },
    /// This node became eligible for the VIP, or stopped being so.
    Standing {
        standing: Standing,
        obstacle: Option<Obstacle>,
    },
    /// A check changed its mind.
    Check {
        check: CheckId,
        passing: bool,
        detail: String,
    },
    /// Another node advertises a VIP that this node holds.
    Rival {
        who: Party,
        priority: Priority,
        yields: bool,
    },
    /// After a takeover somebody other than the new active still answers for the VIP.
    StaleMac {
        who: Party,
        address: IpAddr,
        mac: Mac,
    },
    /// A node with a worse claim goes on advertising: it doesn't hear this one.
    OneWay {
        who: Party,
        family: Family,
    },
    /// Another node has the address as well, and its adverts aren't heard.
    RivalUnheard {
        who: Party,
        mac: Mac,
        yields: bool,
    },
    /// Over the peer link another node says that it is active as well, and adverts don't end that.
    RivalByLink {
        who: Party,
        yields: bool,
    },
    /// A node whose adverts don't come has the VIP, as a further path shows: it isn't claimed.
    SeenByHeartbeat {
        who: Party,
        mac: Mac,
        interface: InterfaceId,
    },
    /// Adverts from or to another node don't arrive, as the peer link tells; or they do again.
    AdvertsLost {
        who: Party,
        incoming: bool,
        lost: bool,
    },
    /// An advert from a sender that is no node of the cluster; it was not obeyed.
    Stranger {
        source: IpAddr,
        priority: Priority,
    },
    /// A message that couldn't be read or believed, and was ignored.
    Ignored {
        source: IpAddr,
        why: String,
    },
    /// A peer's adverts differ from this node's file; they are obeyed all the same.
    AddressListDiffers {
        who: Party,
        theirs: Vec<IpAddr>,
    },
    /// The active's adverts come over one family but not over the other.
    Deaf {
        family: Family,
        who: Party,
    },
    /// Both families are heard again.
    HeardAgain {
        family: Family,
    },
    /// Someone outside the cluster answers for an address of the VIP; it isn't taken.
    ForeignOwner {
        address: IpAddr,
        mac: Mac,
    },
    /// Nobody answers for it any more.
    ForeignOwnerGone,
    /// The addresses are waited for until nobody answers for them, or no longer.
    AwaitingVacancy {
        on: bool,
    },
    /// Someone else claims an address that this node holds; it was announced again.
    AddressConflict {
        address: IpAddr,
        mac: Mac,
    },
    /// Someone took an address away and it was put back.
    AddressRestored {
        address: IpAddr,
    },
    /// The kernel refused an address.
    AddressRefused {
        errno: i32,
    },
    /// The process or the machine stood still for this long.
    Stalled {
        lasted: Duration,
    },
    Maintenance {
        on: bool,
    },
    /// The cluster file was read again and taken.
    Reloaded,
}

/// RFC 9568 §6.4, by the field's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The interface or the source address isn't there, or the node is stopping.
    Idle,
    Backup,
    Active,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Backup => "backup",
            Self::Active => "active",
        })
    }
}

/// Whether this node may hold a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Eligible,
    /// A check has no result yet.
    Pending,
    /// Healthy again, but it failed too short a time ago.
    HeldDown,
    Ineligible,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eligible => "eligible",
            Self::Pending => "pending",
            Self::HeldDown => "held down",
            Self::Ineligible => "ineligible",
        })
    }
}

/// Why a node isn't eligible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    CheckPending(CheckId),
    CheckFailed {
        check: CheckId,
        detail: String,
    },
    Maintenance,
    HoldDown,
    AddressRefused {
        errno: i32,
    },
    /// No witness is seen, and that node isn't either: it may hold the VIP beyond a cut.
    NoWitness {
        missing: NodeId,
    },
}

/// Who is meant: a node of the cluster, or somebody known by address only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Node(NodeId),
    Unknown(IpAddr),
}

/// The one recorded reason of a transition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The interface and a source address are there.
    Usable,
    /// The program was replaced under a node that held the VIP.
    Resumed,
    /// Nobody was ever heard and nobody answered for the address.
    NobodyThere,
    /// Nobody answered three probes in a row; the one that had it before is named.
    Vacant {
        last: Option<Mac>,
    },
    /// The active was not heard any more.
    Silence {
        who: Party,
        lasted: Duration,
    },
    /// The active said that it leaves.
    Released {
        who: Party,
    },
    /// The active said over the peer link that it has released it and that it is this node's.
    HandedOver {
        who: Party,
    },
    /// The active held it as a last resort only, and this node is eligible.
    LastResortOver {
        who: Party,
    },
    /// This node has the higher priority and has been eligible long enough.
    Failback {
        from: Party,
    },
    /// No node is eligible; somebody has to hold it.
    NobodyEligible,
    /// An operator moved it.
    SwitchedTo {
        to: Party,
    },
    /// Another node with a better claim advertises it.
    Outranked {
        by: Party,
        priority: Priority,
    },
    /// Another node with a better claim has the address; its adverts aren't heard.
    RivalUnheard {
        by: Party,
    },
    /// Another node was active too, as it says over the peer link, and its adverts don't arrive.
    RivalByLink {
        by: Party,
    },
    /// Another node took it while this one stood still.
    TakenWhileStalled {
        by: Party,
        lasted: Duration,
    },
    /// The host that had the address before answers for it again.
    OwnerBack {
        mac: Mac,
    },
    /// This node isn't eligible any more.
    Obstacle(Obstacle),
    InterfaceDown,
    SourceAddressGone,
    AddressRefused {
        errno: i32,
    },
    /// The cluster file doesn't name the VIP any more, or not as the same virtual router.
    RemovedFromFile,
    Stopping,
}

impl Event {
    /// One line for a person, without time and VIP.
    #[must_use]
    pub fn words(&self, plan: &Plan) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.kind.write(plan, &mut out);
        out
    }
}

impl Reason {
    #[must_use]
    pub fn words(&self, plan: &Plan) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write(plan, &mut out);
        out
    }

    fn write(&self, plan: &Plan, out: &mut String) -> fmt::Result {
        match self {
            Self::Usable => out.write_str("the interface and its source address are there"),
            Self::Resumed => out.write_str("standin was replaced in place and goes on"),
            Self::NobodyThere => {
                out.write_str("no advert was heard and nobody answers for the address")
            }
            Self::Vacant { last: None } => {
                out.write_str("nobody answered for the address, three times in a row")
            }
            Self::Vacant { last: Some(mac) } => {
                write!(out, "{mac} doesn't answer for the address any more, three times in a row")
            }
            Self::Silence { who, lasted } => {
                write!(out, "{} has been silent for {}", who.words(plan), brief(*lasted))
            }
            Self::Released { who } => {
                write!(out, "{} gave it up (priority 0)", who.words(plan))
            }
            Self::HandedOver { who } => {
                write!(out, "{} gave it up and handed it over by the peer link", who.words(plan))
            }
            Self::LastResortOver { who } => write!(
                out,
                "{} held it without being healthy (priority 1), this node is eligible",
                who.words(plan)
            ),
            Self::Failback { from } => write!(
                out,
                "failback: this node is preferred to {} and has been eligible long enough",
                from.words(plan)
            ),
            Self::NobodyEligible => out
                .write_str("no node is eligible and nobody claimed it (all_ineligible = \"keep\")"),
            Self::SwitchedTo { to } => {
                write!(out, "switched over to {}, as planned", to.words(plan))
            }
            Self::Outranked { by, priority } => {
                write!(out, "{} advertises it with priority {priority}", by.words(plan))
            }
            Self::RivalUnheard { by } => write!(
                out,
                "{} answers for the address too and has the better claim; its adverts aren't heard",
                by.words(plan)
            ),
            Self::RivalByLink { by } => write!(
                out,
                "{} is active too, as it says over the peer link, and has the better claim; adverts \
                 are lost between the two",
                by.words(plan)
            ),
            Self::TakenWhileStalled { by, lasted } => write!(
                out,
                "{} took it while this node stood still for {}",
                by.words(plan),
                brief(*lasted)
            ),
            Self::OwnerBack { mac } => {
                write!(out, "{mac} answers for the address again; given back to it")
            }
            Self::Obstacle(obstacle) => obstacle.write(plan, out),
            Self::InterfaceDown => out.write_str("the interface is down or gone"),
            Self::SourceAddressGone => {
                out.write_str("the node's own address is gone from this host")
            }
            Self::AddressRefused { errno } => {
                write!(out, "the kernel refused the address (errno {errno})")
            }
            Self::RemovedFromFile => out.write_str("the cluster file doesn't name it any more"),
            Self::Stopping => out.write_str("standin is stopping"),
        }
    }
}

impl Obstacle {
    #[must_use]
    pub fn words(&self, plan: &Plan) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write(plan, &mut out);
        out
    }

    fn write(&self, plan: &Plan, out: &mut String) -> fmt::Result {
        match self {
            Self::CheckPending(check) => {
                write!(out, "check {} has no result yet", check_name(plan, *check))
            }
            Self::CheckFailed { check, detail } if detail.is_empty() => {
                write!(out, "check {} failed", check_name(plan, *check))
            }
            Self::CheckFailed { check, detail } => {
                write!(out, "check {} failed: {detail}", check_name(plan, *check))
            }
            Self::Maintenance => out.write_str("maintenance"),
            Self::HoldDown => out.write_str("it failed less than hold_down ago"),
            Self::AddressRefused { errno } => {
                write!(out, "the kernel refused the address (errno {errno})")
            }
            Self::NoWitness { missing } => write!(
                out,
                "no witness is seen and {} doesn't answer: in a cut it may be the other side that \
                 serves",
                Party::Node(*missing).words(plan)
            ),
        }
    }
}

impl Kind {
    fn write(&self, plan: &Plan, out: &mut String) -> fmt::Result {
        match self {
            Self::Transition { from, to, reason } => {
                write!(out, "{from} -> {to}: ")?;
                reason.write(plan, out)
            }
            Self::Standing { standing, obstacle: None } => write!(out, "this node is {standing}"),
            Self::Standing { standing, obstacle: Some(obstacle) } => {
                write!(out, "this node is {standing}: ")?;
                obstacle.write(plan, out)
            }
            Self::Check { check, passing, detail } => {
                let now = if *passing { "passes" } else { "fails" };
                write!(out, "check {} {now}", check_name(plan, *check))?;
                if detail.is_empty() { Ok(()) } else { write!(out, ": {detail}") }
            }
            Self::Rival { .. }
            | Self::OneWay { .. }
            | Self::StaleMac { .. }
            | Self::RivalUnheard { .. }
            | Self::RivalByLink { .. }
            | Self::AdvertsLost { .. }
            | Self::SeenByHeartbeat { .. }
            | Self::Stranger { .. } => self.write_rival(plan, out),
            Self::Ignored { source, why } => write!(out, "ignored a message of {source}: {why}"),
            Self::AddressListDiffers { who, theirs } => {
                write!(
                    out,
                    "{} advertises other addresses than this node's file:",
                    who.words(plan)
                )?;
                theirs.iter().try_for_each(|address| write!(out, " {address}"))
            }
            Self::Deaf { family, who } => write!(
                out,
                "{} is heard, but not over {family}: adverts of that family are lost on the way",
                who.words(plan)
            ),
            Self::HeardAgain { family } => write!(out, "adverts over {family} are heard again"),
            Self::ForeignOwner { address, mac } => write!(
                out,
                "{mac} answers for {address} and sends no adverts; the VIP isn't taken while it does"
            ),
            Self::ForeignOwnerGone => out.write_str("nobody else answers for the address any more"),
            Self::AwaitingVacancy { on: true } => {
                out.write_str("waiting for the address: it is taken once nobody answers for it")
            }
            Self::AwaitingVacancy { on: false } => {
                out.write_str("the address isn't waited for any more")
            }
            Self::AddressConflict { address, mac } => {
                write!(out, "{mac} claims {address}, which this node holds; announced it again")
            }
            Self::AddressRestored { address } => {
                write!(out, "someone took {address} away; it was put back")
            }
            Self::AddressRefused { errno } => {
                write!(out, "the kernel refused the address (errno {errno}); trying again later")
            }
            Self::Stalled { lasted } => write!(
                out,
                "this process stood still for {}; listening before asserting anything",
                brief(*lasted)
            ),
            Self::Maintenance { on: true } => out.write_str("maintenance began"),
            Self::Maintenance { on: false } => out.write_str("maintenance ended"),
            Self::Reloaded => out.write_str("the cluster file was read again and taken"),
        }
    }

    /// What concerns somebody else who has the VIP, or says so.
    fn write_rival(&self, plan: &Plan, out: &mut String) -> fmt::Result {
        match self {
            Self::Rival { who, priority, yields } => {
                write!(out, "{} advertises it too, with priority {priority}; ", who.words(plan))?;
                out.write_str(if *yields {
                    "this node yields"
                } else {
                    "this node has the better claim, keeps it and announces it again"
                })
            }
            Self::OneWay { who, family } => {
                let (me, who) = (Party::Node(plan.me).words(plan), who.words(plan));
                write!(
                    out,
                    "{me} hears {who}, {who} does not hear {me} (adverts, {family}): it goes on with \
                     the worse claim. Mend: look for a firewall on {who}, or a switch that drops \
                     VRRP (IP protocol 112) one way"
                )
            }
            Self::RivalUnheard { who, mac, yields } => {
                let who = who.words(plan);
                write!(
                    out,
                    "{who} ({mac}) answers for the address too, and its adverts don't come or don't \
                     end that; "
                )?;
                out.write_str(if *yields {
                    "this node yields. Mend: let VRRP (IP protocol 112) pass between the nodes"
                } else {
                    "this node has the better claim and announces it again. Mend: let VRRP (IP \
                     protocol 112) pass between the nodes"
                })
            }
            Self::Stranger { source, priority } => write!(
                out,
                "{source} is no node of this cluster but advertises this router id with priority \
                 {priority}; not obeyed (accept_unknown = false)"
            ),
            Self::RivalByLink { who, yields } => {
                let who = who.words(plan);
                write!(out, "{who} says over the peer link that it is active too; ")?;
                out.write_str(if *yields {
                    "this node yields. Mend: let VRRP (IP protocol 112) pass between the nodes"
                } else {
                    "this node has the better claim and stays"
                })
            }
            Self::SeenByHeartbeat { who, mac, interface } => {
                let who = who.words(plan);
                let path = plan.interfaces.get(interface.index()).map_or("?", String::as_str);
                write!(
                    out,
                    "adverts of {who} don't come, but it has the VIP: {mac} answers for it on {path} \
                     (heartbeat). Not taken. Mend: look at the network that carries the VIP"
                )
            }
            Self::AdvertsLost { who, incoming, lost } => {
                let (me, who) = (Party::Node(plan.me).words(plan), who.words(plan));
                let (from, to) = if *incoming { (&who, &me) } else { (&me, &who) };
                if !lost {
                    return write!(out, "adverts of {from} reach {to} again");
                }
                write!(
                    out,
                    "adverts of {from} don't reach {to}, as the peer link tells. Mend: look for a \
                     firewall on {to}, or a switch that drops VRRP (IP protocol 112) one way"
                )
            }
            Self::StaleMac { who, address, mac } => {
                let who = who.words(plan);
                write!(
                    out,
                    "{who} took over, and {mac}, which isn't {who}'s, still answers for {address}; \
                     told {who} to announce it again. Mend: look for a host or a switch that has it"
                )
            }
            _ => Ok(()),
        }
    }
}

impl Party {
    /// The node's name, or the stranger's address.
    #[must_use]
    pub fn words(self, plan: &Plan) -> String {
        match self {
            Self::Node(id) => plan
                .nodes
                .get(id.index())
                .map_or_else(|| format!("node {}", id.0), |node| node.name.clone()),
            Self::Unknown(address) => address.to_string(),
        }
    }
}

fn check_name(plan: &Plan, check: CheckId) -> &str {
    plan.checks.get(check.index()).map_or("?", |check| check.name.as_str())
}

/// A duration as a person says it: `340 ms`, `2.9 s`.
#[must_use]
pub fn brief(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}
