//! A node's inputs as text, one a line: what happened in the field can be replayed at a desk.
//!
//! ```text
//! standin record 1
//! 81230000000 plan edge 0 2 n1 0 1 10.0.0.1 n2 0 1 10.0.0.2 1 eth0 ...
//! 81230000000 interface 0 up 02:00:00:00:00:01 - 0 0
//! 81230000000 own 10.0.0.1
//! 81230050123 advert 0 10.0.0.2 224.0.0.18 255 3129640101640af1c0a80129
//! 81230100000 tick
//! ```
//!
//! The first column is the shell's clock in nanoseconds. The first line after the header is a plan:
//! the replay begins with a new [`crate::node::Node`] at that time. Words are separated by blanks;
//! what is free text has its blanks and percent signs as `%20` and `%25`, and `%` alone is empty.
//! A plan is written in the order of its fields, each list with its length before it.

mod plan;
mod words;

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use crate::election::handover::Handover;
use crate::election::told::Says;
use crate::event::Standing;
use crate::plan::Plan;
use crate::types::{CheckId, Instant, InterfaceId, Mac, NodeId, VipId};
use crate::wire::vrrp::Envelope;
use crate::{Command, Input, InterfaceState, Outcome, Verdict};

use words::{Words, hex, word};

/// The first line of every record.
pub const HEADER: &str = "standin record 1";

/// One input that owns what it says, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub at: Instant,
    pub input: Recorded,
}

/// [`Input`], owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    Tick,
    Advert { interface: InterfaceId, envelope: Envelope, payload: Vec<u8> },
    Sighting { interface: InterfaceId, address: IpAddr, mac: Mac },
    Interface { interface: InterfaceId, state: InterfaceState },
    OwnAddresses(Vec<IpAddr>),
    Check { check: CheckId, verdict: Verdict, detail: String },
    Settled { vip: VipId, outcome: Outcome },
    Restored { vip: VipId, address: IpAddr },
    Peer { vip: VipId, node: NodeId, says: Option<Says> },
    TakeOver { vip: VipId, handover: Handover },
    Command(Command),
    Plan(Box<Plan>),
}

impl Recorded {
    #[must_use]
    pub fn of(input: &Input<'_>) -> Self {
        match input {
            Input::Tick => Self::Tick,
            Input::Advert { interface, envelope, payload } => Self::Advert {
                interface: *interface,
                envelope: *envelope,
                payload: payload.to_vec(),
            },
            Input::Sighting { interface, address, mac } => {
                Self::Sighting { interface: *interface, address: *address, mac: *mac }
            }
            Input::Interface { interface, state } => {
                Self::Interface { interface: *interface, state: *state }
            }
            Input::OwnAddresses(addresses) => Self::OwnAddresses(addresses.to_vec()),
            Input::Check { check, verdict, detail } => {
                Self::Check { check: *check, verdict: *verdict, detail: (*detail).to_owned() }
            }
            Input::Settled { vip, outcome } => Self::Settled { vip: *vip, outcome: *outcome },
            Input::Restored { vip, address } => Self::Restored { vip: *vip, address: *address },
            Input::Peer { vip, node, says } => Self::Peer { vip: *vip, node: *node, says: *says },
            Input::TakeOver { vip, handover } => Self::TakeOver { vip: *vip, handover: *handover },
            Input::Command(command) => Self::Command(*command),
            Input::Plan(plan) => Self::Plan(plan.clone()),
        }
    }

    /// The input to step again.
    #[must_use]
    pub fn input(&self) -> Input<'_> {
        match self {
            Self::Tick => Input::Tick,
            Self::Advert { interface, envelope, payload } => {
                Input::Advert { interface: *interface, envelope: *envelope, payload }
            }
            Self::Sighting { interface, address, mac } => {
                Input::Sighting { interface: *interface, address: *address, mac: *mac }
            }
            Self::Interface { interface, state } => {
                Input::Interface { interface: *interface, state: *state }
            }
            Self::OwnAddresses(addresses) => Input::OwnAddresses(addresses),
            Self::Check { check, verdict, detail } => {
                Input::Check { check: *check, verdict: *verdict, detail }
            }
            Self::Settled { vip, outcome } => Input::Settled { vip: *vip, outcome: *outcome },
            Self::Restored { vip, address } => Input::Restored { vip: *vip, address: *address },
            Self::Peer { vip, node, says } => Input::Peer { vip: *vip, node: *node, says: *says },
            Self::TakeOver { vip, handover } => Input::TakeOver { vip: *vip, handover: *handover },
            Self::Command(command) => Input::Command(*command),
            Self::Plan(plan) => Input::Plan(plan.clone()),
        }
    }
}

/// A line of a record that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Counted from 1.
    pub line: usize,
    pub why: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for Unreadable {}

/// Appends one line for `entry`.
pub fn write(entry: &Entry, out: &mut String) {
    // Writing to a String can't fail; the same in the functions below.
    let _ = write!(out, "{} ", entry.at.as_nanos());
    write_input(&entry.input, out);
    out.push('\n');
}

fn write_input(input: &Recorded, out: &mut String) {
    let _ = match input {
        Recorded::Tick => write!(out, "tick"),
        Recorded::Advert { interface, envelope, payload } => {
            let Envelope { source, destination, hop_limit } = envelope;
            let bytes = hex(payload);
            write!(out, "advert {} {source} {destination} {hop_limit} {bytes}", interface.0)
        }
        Recorded::Sighting { interface, address, mac } => {
            write!(out, "sighting {} {address} {mac}", interface.0)
        }
        Recorded::Interface { interface, state } => write_interface(*interface, state, out),
        Recorded::OwnAddresses(addresses) => {
            out.push_str("own");
            addresses.iter().try_for_each(|address| write!(out, " {address}"))
        }
        Recorded::Check { check, verdict, detail } => {
            let said = match verdict {
                Verdict::Pass => "pass",
                Verdict::Fail => "fail",
                Verdict::Dead => "dead",
            };
            write!(out, "check {} {said} {}", check.0, word(detail))
        }
        Recorded::Settled { vip, outcome } => match outcome {
            Outcome::Held => write!(out, "settled {} held", vip.0),
            Outcome::Released => write!(out, "settled {} released", vip.0),
            Outcome::Refused { errno } => write!(out, "settled {} refused {errno}", vip.0),
        },
        Recorded::Restored { vip, address } => write!(out, "restored {} {address}", vip.0),
        Recorded::Peer { vip, node, says } => {
            write!(out, "peer {} {} {}", vip.0, node.0, says_word(*says))
        }
        Recorded::TakeOver { vip, handover: Handover { from, epoch, released } } => {
            write!(out, "takeover {} {} {epoch} {}", vip.0, from.0, released.as_nanos())
        }
        Recorded::Command(Command::MaintenanceOn { lasting: None }) => {
            write!(out, "maintenance on")
        }
        Recorded::Command(Command::MaintenanceOn { lasting: Some(lasting) }) => {
            write!(out, "maintenance on {}", lasting.as_nanos())
        }
        Recorded::Command(Command::MaintenanceOff) => write!(out, "maintenance off"),
        Recorded::Command(Command::AwaitVacancy { vip, gap: None }) => {
            write!(out, "vacancy {} off", vip.0)
        }
        Recorded::Command(Command::AwaitVacancy { vip, gap: Some(gap) }) => {
            write!(out, "vacancy {} {}", vip.0, gap.as_nanos())
        }
        Recorded::Command(Command::SwitchTo { vip, to }) => {
            write!(out, "switch {} {}", vip.0, to.0)
        }
        Recorded::Command(Command::Stop) => write!(out, "stop"),
        Recorded::Plan(plan) => {
            out.push_str("plan");
            plan::write(plan, out);
            Ok(())
        }
    };
}

/// One word each, unlike what people are shown.
const STANDINGS: [(&str, Standing); 4] = [
    ("eligible", Standing::Eligible),
    ("pending", Standing::Pending),
    ("held_down", Standing::HeldDown),
    ("ineligible", Standing::Ineligible),
];

/// `eligible`, `eligible+active+deaf`; what isn't said is left out.
fn says_word(says: Option<Says>) -> String {
    let Some(Says { standing, active, hears_me }) = says else { return "-".to_owned() };
    let known = STANDINGS.iter().find(|(_, known)| *known == standing);
    let mut word = known.map_or("-", |(word, _)| word).to_owned();
    word.push_str(if active { "+active" } else { "" });
    word.push_str(match hears_me {
        Some(true) => "+hears",
        Some(false) => "+deaf",
        None => "",
    });
    word
}

fn says(word: &str) -> Result<Option<Says>, String> {
    if word == "-" {
        return Ok(None);
    }
    let mut parts = word.split('+');
    let first = parts.next().unwrap_or_default();
    let known = STANDINGS.iter().find(|(known, _)| *known == first);
    let (_, standing) = known.ok_or_else(|| format!("{word} is no standing"))?;
    let mut says = Says::standing(*standing);
    for part in parts {
        match part {
            "active" => says.active = true,
            "hears" => says.hears_me = Some(true),
            "deaf" => says.hears_me = Some(false),
            _ => return Err(format!("{word} is nothing that a peer says")),
        }
    }
    Ok(Some(says))
}

fn write_interface(id: InterfaceId, state: &InterfaceState, out: &mut String) -> fmt::Result {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mac = or_none(state.mac.map(|mac| mac.to_string()));
    let link_local = or_none(state.link_local.map(|address| address.to_string()));
    let up = if state.up { "up" } else { "down" };
    let [v4, v6] = state.deaf.map(u8::from);
    write!(out, "interface {} {up} {mac} {link_local} {v4} {v6}", id.0)
}

/// Reads a record with its header.
///
/// # Errors
/// The first line that can't be read.
pub fn parse(text: &str) -> Result<Vec<Entry>, Unreadable> {
    let mut lines = (1..).zip(text.lines());
    if lines.next().is_none_or(|(_, first)| first != HEADER) {
        return Err(Unreadable { line: 1, why: format!("it isn't `{HEADER}`") });
    }
    let whole = lines.filter(|(_, line)| !line.is_empty());
    whole.map(|(line, text)| entry(text).map_err(|why| Unreadable { line, why })).collect()
}

fn entry(line: &str) -> Result<Entry, String> {
    let mut words = Words::of(line);
    let at = Instant::from_nanos(words.number("the time")?);
    let input = match words.next("an input")? {
        "tick" => Recorded::Tick,
        "advert" => Recorded::Advert {
            interface: InterfaceId(words.number("an interface")?),
            envelope: Envelope {
                source: words.number("a source")?,
                destination: words.number("a destination")?,
                hop_limit: words.number("a hop limit")?,
            },
            payload: words.bytes()?,
        },
        "sighting" => Recorded::Sighting {
            interface: InterfaceId(words.number("an interface")?),
            address: words.number("an address")?,
            mac: words.mac()?.ok_or("a MAC is missing")?,
        },
        "interface" => Recorded::Interface {
            interface: InterfaceId(words.number("an interface")?),
            state: InterfaceState {
                up: words.next("up or down")? == "up",
                mac: words.mac()?,
                link_local: words.optional("a link-local address")?,
                deaf: [words.flag()?, words.flag()?],
            },
        },
        "own" => Recorded::OwnAddresses(words.rest("an address")?),
        "check" => check(&mut words)?,
        "settled" => settled(&mut words)?,
        "restored" => Recorded::Restored {
            vip: VipId(words.number("a VIP")?),
            address: words.number("an address")?,
        },
        "peer" => Recorded::Peer {
            vip: VipId(words.number("a VIP")?),
            node: NodeId(words.number("a node")?),
            says: says(words.next("a standing")?)?,
        },
        "takeover" => Recorded::TakeOver {
            vip: VipId(words.number("a VIP")?),
            handover: Handover {
                from: NodeId(words.number("a node")?),
                epoch: words.number("an epoch")?,
                released: Instant::from_nanos(words.number("a time")?),
            },
        },
        "maintenance" => Recorded::Command(match words.next("on or off")? {
            "on" => {
                Command::MaintenanceOn { lasting: words.maybe("a time")?.map(Duration::from_nanos) }
            }
            _ => Command::MaintenanceOff,
        }),
        "vacancy" => Recorded::Command(Command::AwaitVacancy {
            vip: VipId(words.number("a VIP")?),
            gap: match words.next("a time or off")? {
                "off" => None,
                gap => {
                    let nanos = gap.parse().map_err(|_| format!("{gap} is no time"))?;
                    Some(Duration::from_nanos(nanos))
                }
            },
        }),
        "switch" => Recorded::Command(Command::SwitchTo {
            vip: VipId(words.number("a VIP")?),
            to: NodeId(words.number("a node")?),
        }),
        "stop" => Recorded::Command(Command::Stop),
        "plan" => Recorded::Plan(Box::new(plan::read(&mut words)?)),
        other => return Err(format!("{other} is no input")),
    };
    words.end()?;
    Ok(Entry { at, input })
}

fn check(words: &mut Words<'_>) -> Result<Recorded, String> {
    let check = CheckId(words.number("a check")?);
    let verdict = match words.next("a verdict")? {
        "pass" => Verdict::Pass,
        "fail" => Verdict::Fail,
        "dead" => Verdict::Dead,
        other => return Err(format!("{other} is no verdict")),
    };
    Ok(Recorded::Check { check, verdict, detail: words.text("a detail")? })
}

fn settled(words: &mut Words<'_>) -> Result<Recorded, String> {
    let vip = VipId(words.number("a VIP")?);
    let outcome = match words.next("an outcome")? {
        "held" => Outcome::Held,
        "released" => Outcome::Released,
        "refused" => Outcome::Refused { errno: words.number("an errno")? },
        other => return Err(format!("{other} is no outcome")),
    };
    Ok(Recorded::Settled { vip, outcome })
}
