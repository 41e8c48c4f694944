//! What nodes say to each other. Unknown fields and unknown messages are passed over, so that two
//! versions of standin understand each other while one is upgraded after the other.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::file::shelf::Version;
use super::file::{Answer, Ask};
use crate::switchover;
use crate::sync::wire::Said;

/// The protocol that this version speaks.
pub(crate) const PROTOCOL: u32 = 1;

/// The oldest that it understands.
pub(crate) const OLDEST: u32 = 1;

/// Longer than any reason is.
const WORDS: usize = 300;

/// What another machine says, fit for a log line and a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().take(WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message {
    Hello(Hello),
    Ping {
        id: u64,
    },
    Pong {
        id: u64,
        /// The answering node's clock.
        unix_us: i64,
        /// Its CLOCK_BOOTTIME, by which a [`Message::Released`] is dated.
        #[serde(default)]
        boot_ns: Option<u64>,
    },
    /// The sending node has released a VIP, and the receiving one is to take it.
    Released {
        vip: String,
        epoch: u64,
        /// When, by the sender's CLOCK_BOOTTIME.
        boot_ns: u64,
    },
    Summary(Summary),
    Switchover(switchover::Said),
    /// Another MAC than the addressee's answers for a VIP that it has taken.
    StillSeen {
        vip: String,
        address: IpAddr,
        mac: [u8; 6],
    },
    /// Why the connection ends.
    Refused {
        why: String,
    },
    /// About the shared files.
    Sync(Said),
    /// Instead of a greeting, on a connection of its own.
    Ask(Ask),
    Answer(Answer),
    Join(Join),
    Joined(Joined),
    #[serde(other)]
    Unknown,
}

/// The first message of either side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) oldest: u32,
    pub(crate) version: String,
    pub(crate) cluster: String,
    pub(crate) node: String,
}

impl Hello {
    /// Whether this version and the other understand each other.
    pub(crate) const fn understood(&self) -> bool {
        self.oldest <= PROTOCOL && OLDEST <= self.protocol
    }
}

/// What a node tells the others of itself, once a second and after a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    /// SHA-256 of the cluster file that is in force, hexadecimal.
    pub(crate) file: String,
    /// The version of the cluster file that it has agreed to; 0: none.
    pub(crate) number: u64,
    pub(crate) maintenance: bool,
    pub(crate) vips: Vec<VipSummary>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct VipSummary {
    pub(crate) name: String,
    /// As `standin status` says it: `idle`, `backup`, `active`.
    pub(crate) role: String,
    /// `eligible`, `pending`, `held down` or `ineligible`.
    pub(crate) standing: String,
    pub(crate) obstacle: Option<String>,
    pub(crate) priority: u8,
    /// The nodes whose adverts reach it; absent in what an older version says.
    pub(crate) hears: Option<Vec<String>>,
}

impl Summary {
    /// As it came, within the bounds of what is shown.
    pub(crate) fn plain(mut self) -> Self {
        self.file = plain(&self.file);
        self.vips.truncate(standin_core::plan::MAX_VIPS);
        for vip in &mut self.vips {
            for text in [&mut vip.name, &mut vip.role, &mut vip.standing] {
                *text = plain(text);
            }
            vip.obstacle = vip.obstacle.as_deref().map(plain);
            if let Some(hears) = &mut vip.hears {
                hears.truncate(standin_core::plan::MAX_NODES);
                hears.iter_mut().for_each(|name| *name = plain(name));
            }
        }
        self
    }
}

/// A machine asks to become a node.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Join {
    pub(crate) protocol: u32,
    pub(crate) token_id: [u8; 4],
    pub(crate) token_secret: [u8; 16],
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) priority: u8,
    pub(crate) public_key: [u8; 32],
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Join({} {:?})", self.node, self.addresses)
    }
}

/// It is one.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub(crate) cluster: String,
    /// PEM; the same below.
    pub(crate) certificate: String,
    pub(crate) authority_certificate: String,
    pub(crate) authority_key: String,
    /// The cluster file, with the new node in it.
    pub(crate) file: String,
    /// Which version of it that is.
    #[serde(default)]
    pub(crate) version: Version,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Joined({})", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        let text = r#"{"type":"hello","protocol":3,"oldest":1,"version":"9","cluster":"edge",
                       "node":"n1","colour":"blue"}"#;
        let Ok(Message::Hello(hello)) = serde_json::from_str(text) else { panic!("no hello") };
        assert!(hello.understood());
        let later = r#"{"type":"sing","song":["a"]}"#;
        assert!(matches!(serde_json::from_str(later), Ok(Message::Unknown)));
        let less = r#"{"type":"summary","vips":[{"name":"web"}]}"#;
        assert!(matches!(serde_json::from_str(less), Ok(Message::Summary(_))));
    }

    #[test]
    fn what_others_say_is_bounded_and_has_no_control_characters() {
        let vip = VipSummary { name: "\u{1b}[2J".to_owned(), ..VipSummary::default() };
        let summary = Summary { vips: vec![vip; 5_000], ..Summary::default() }.plain();
        assert_eq!(summary.vips.len(), standin_core::plan::MAX_VIPS);
        assert_eq!(summary.vips[0].name, " [2J");
        assert_eq!(plain(&"x".repeat(1_000)).len(), WORDS);
    }

    #[test]
    fn versions_that_share_no_protocol_say_so() {
        let hello = |protocol, oldest| Hello {
            protocol,
            oldest,
            version: String::new(),
            cluster: String::new(),
            node: String::new(),
        };
        assert!(hello(1, 1).understood() && hello(5, 1).understood());
        assert!(!hello(0, 0).understood() && !hello(5, 2).understood());
    }
}
