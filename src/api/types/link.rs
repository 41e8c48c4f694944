//! What the API says of the peer link.

use serde::{Deserialize, Serialize};

use super::millis;
use crate::link::{LinkView, PeerLinkView};

/// Absent where this node has no keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) listening: Vec<Listening>,
    /// Connections that were refused since the daemon's start.
    pub(crate) refused: u64,
    /// SHA-256 of the cluster file in force, hexadecimal.
    pub(crate) file: String,
    /// Its version: what all nodes agreed on last. 0: nothing yet.
    #[serde(default)]
    pub(crate) file_version: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) address: String,
    pub(crate) problem: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerLink {
    /// `connected`, `down` or `no certificate`.
    pub(crate) state: String,
    pub(crate) since_ms: Option<u64>,
    /// Why it is down.
    pub(crate) problem: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) round_trip_ms: Option<f64>,
    /// The peer's clock minus this node's.
    pub(crate) clock_difference_ms: Option<f64>,
    /// Whether its cluster file is the one that is in force here; absent until it has said.
    pub(crate) same_file: Option<bool>,
    /// The version that it has; absent until it has said.
    #[serde(default)]
    pub(crate) file_version: Option<u64>,
    pub(crate) maintenance: bool,
    pub(crate) vips: Vec<PeerVip>,
}

/// A VIP as the peer itself sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerVip {
    pub(crate) name: String,
    /// `idle`, `backup` or `active`.
    pub(crate) role: String,
    pub(crate) standing: String,
    pub(crate) obstacle: Option<String>,
    pub(crate) priority: u8,
}

impl From<&LinkView> for Link {
    fn from(view: &LinkView) -> Self {
        let listening = view.listening.iter().map(|(address, problem)| Listening {
            address: address.to_string(),
            problem: problem.clone(),
        });
        Self {
            listening: listening.collect(),
            refused: view.refused,
            file: view.file.clone(),
            file_version: view.number,
        }
    }
}

impl PeerLink {
    pub(crate) fn of(view: &PeerLinkView, file: &str) -> Self {
        let summary = view.summary.as_ref();
        let vips = summary.map_or_else(Vec::new, |summary| {
            let vips = summary.vips.iter().map(|vip| PeerVip {
                name: vip.name.clone(),
                role: vip.role.clone(),
                standing: vip.standing.clone(),
                obstacle: vip.obstacle.clone(),
                priority: vip.priority,
            });
            vips.collect()
        });
        Self {
            state: view.state.to_owned(),
            since_ms: view.since.map(millis),
            problem: view.problem.clone(),
            version: view.version.clone(),
            round_trip_ms: view.measured.map(|it| super::fractional_ms(it.round_trip)),
            clock_difference_ms: view.measured.map(|it| thousandth(it.clock_us)),
            file_version: summary.map(|summary| summary.number),
            same_file: summary.map(|summary| summary.file == file),
            maintenance: summary.is_some_and(|summary| summary.maintenance),
            vips,
        }
    }
}

/// Clocks that are years apart still fit: a double has 53 bits.
#[expect(clippy::cast_precision_loss, reason = "see above")]
const fn thousandth(microseconds: i64) -> f64 {
    microseconds as f64 / 1e3
}
