//! The planned move of a VIP: both nodes live, and no client notices.
//!
//! ```text
//!   this node, which has it (giving.rs)              the other one (taking.rs)
//!   Prepare ────────────────────────────────────────▶ eligible? nginx listens? hands unknown packets back
//!           ◀──────────────────────────────────────── Ready, or Refused with the reason
//!   the engine gives it up, the VIP stays on lo
//!   Released (the engine's own word) ───────────────▶ the engine claims it and announces it
//!           ◀──────────────────────────────────────── Taken
//!   waits for its connections to end, then nginx
//!   ends the rest, then the kernel: Serving ───────▶ goes on handing back
//!   Done ───────────────────────────────────────────▶ hands nothing back any more
//!   the VIP leaves lo ◀────────────────────────────── Ended
//! ```
//! What an operator asks of another node goes to the one that has the VIP (ordered.rs): Order, and
//! Story after Story back. Called off after the move, the old node says GiveBack, and the other one
//! makes a switchover of its own.
//!
//! Either side may vanish at any step: the election decides who has the VIP, as ever, and what was put on a
//! host goes with the process that put it there.

pub(crate) mod giving;
mod idle;
pub(crate) mod ordered;
pub(crate) mod taking;
pub(crate) mod words;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use standin_core::view::VipView;
use standin_linux::netlink::Rtnl;
use standin_linux::process;

use crate::control::Status;
use crate::link::plain;

/// How long nginx gets to end what it has once the drain is over.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Everything but the drain and the grace takes less than this.
pub(crate) const OVERHEAD: Duration = Duration::from_secs(10);

/// The longest `drain_timeout` that a file may have, and the rest.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600 + 20);

/// More listeners than any nginx has on one VIP.
const LISTENERS: usize = 4096;

/// Words to one side of one switchover that may wait.
pub(crate) const WORDS: usize = 16;

/// This node's link-local address on the interface that has one of these addresses.
fn link_local(addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    let mut rtnl = Rtnl::open().ok()?;
    let all = rtnl.addresses().ok()?;
    let index = all.iter().find(|one| addresses.contains(&one.prefix.address()))?.index;
    let links = rtnl.links().ok()?;
    let own = links.iter().find(|link| link.index == index && link.is_of_vip());
    // A link of ours stands on it.
    let index = own.and_then(|link| link.base).unwrap_or(index);
    all.iter().filter(|one| one.index == index && !one.tentative && !one.dad_failed).find_map(
        |one| match one.prefix.address() {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
            _ => None,
        },
    )
}

/// What one node says to the other about a switchover.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Chosen by the node that gives the VIP away.
    pub(crate) id: u64,
    pub(crate) vip: String,
    pub(crate) word: Word,
}

impl Said {
    /// As it came, within the bounds of what is shown and kept.
    pub(crate) fn plain(mut self) -> Self {
        self.vip = plain(&self.vip);
        match &mut self.word {
            Word::Refused { why } => *why = plain(why),
            Word::Order { to, by, .. } => {
                *to = to.as_deref().map(plain);
                *by = plain(by);
            }
            Word::Story(story) => {
                for text in [&mut story.step, &mut story.vip, &mut story.to, &mut story.text] {
                    *text = plain(text);
                }
            }
            Word::Prepare { serves, quic_ports, .. } => {
                serves.truncate(LISTENERS);
                quic_ports.truncate(LISTENERS);
            }
            _ => {}
        }
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(crate) enum Word {
    Prepare {
        /// The longest time for which packets are to be handed back.
        lasting_ms: u64,
        /// Where the VIP's clients are served now; the other node must listen there as well.
        serves: Vec<SocketAddr>,
        /// UDP ports of QUIC.
        quic_ports: Vec<u16>,
        /// The sender's on the VIP's interface, for a cluster file without IPv6 addresses of nodes.
        #[serde(default)]
        link_local: Option<Ipv6Addr>,
    },
    Ready,
    Refused {
        why: String,
    },
    Taken,
    /// Said again and again by the old node for as long as it serves anybody.
    Serving {
        connections: u64,
    },
    Done,
    /// The answer to it: nothing is handed back any more.
    Ended,
    /// It doesn't happen.
    Cancel,
    /// The VIP is to come back: whoever asked for the move has called it off.
    GiveBack {
        drain_ms: u64,
    },
    /// Somebody on the sender asks the node that has the VIP to move it.
    Order {
        to: Option<String>,
        drain_ms: Option<u64>,
        stale_ok: bool,
        by: String,
    },
    /// How it goes, for the node that ordered it.
    Story(Progress),
    /// It goes on, and there is nothing new to tell.
    Still,
    /// The node that ordered it, or that takes the VIP, calls it off.
    CallOff {
        by: String,
    },
    #[serde(other)]
    Unknown,
}

/// One line of a switchover's story.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// `preparing`, `moved`, `draining`, `finishing`, `returning`; the last one is `done`, `called_off`
    /// or `failed`.
    pub(crate) step: String,
    pub(crate) vip: String,
    pub(crate) to: String,
    /// For a person.
    pub(crate) text: String,
    /// Connections that are still at the old node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connections: Option<usize>,
    /// Since the VIP moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after_ms: Option<u64>,
    /// At the end: connections that nginx ended, and those that had to be cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cut: Option<usize>,
}

impl Progress {
    pub(crate) fn new(step: &str, vip: &str, to: &str, text: String) -> Self {
        Self {
            step: step.to_owned(),
            vip: vip.to_owned(),
            to: to.to_owned(),
            text,
            connections: None,
            after_ms: None,
            ended: None,
            cut: None,
        }
    }
}

/// A time as it is said to another node.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn vip<'a>(status: &'a Status, name: &str) -> Option<&'a VipView> {
    status.view.vips.iter().find(|vip| vip.name == name)
}

/// Where nginx serves clients of these addresses on this host, by what its master has bound.
///
/// # Errors
/// What reading `/proc` of the master says.
pub(crate) fn serves(master: u32, addresses: &[IpAddr]) -> io::Result<Vec<SocketAddr>> {
    let mut serves: Vec<SocketAddr> = Vec::new();
    for listener in process::listening_tcp(master)? {
        let served = addresses.iter().filter(|address| covers(listener.ip(), **address));
        serves.extend(served.map(|address| SocketAddr::new(*address, listener.port())));
    }
    serves.sort_unstable();
    serves.dedup();
    Ok(serves)
}

/// Whether a listener on `bound` may get the connections to `address`; `[::]` may get both families'.
fn covers(bound: IpAddr, address: IpAddr) -> bool {
    bound == address || (bound.is_unspecified() && (bound.is_ipv6() || address.is_ipv4()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_serves_every_address_of_its_family() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(covers(address("0.0.0.0"), address("192.168.1.41")));
        assert!(covers(address("::"), address("fd00::41")));
        assert!(covers(address("::"), address("192.168.1.41")), "with ipv6only=off it does");
        assert!(covers(address("192.168.1.41"), address("192.168.1.41")));
        assert!(!covers(address("0.0.0.0"), address("fd00::41")));
        assert!(!covers(address("192.168.1.189"), address("192.168.1.41")));
    }

    #[test]
    fn a_word_of_a_later_version_is_passed_over() {
        let text = r#"{"id": 7, "vip": "web", "word": {"word": "sing"}}"#;
        let said: Said = serde_json::from_str(text).unwrap();
        assert_eq!(said.word, Word::Unknown);
        let words = [Word::Ready, Word::Refused { why: "x".into() }];
        for word in words {
            let said = Said { id: 1, vip: "web".into(), word: word.clone() };
            let text = serde_json::to_string(&said).unwrap();
            assert_eq!(serde_json::from_str::<Said>(&text).unwrap().word, word);
        }
    }
}
