//! What the API says, apart from the core's types, so that either may change without the other.

pub(crate) mod link;
pub(crate) mod sync;

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use standin_core::Verdict;
use standin_core::event::{Role, Standing};
use standin_core::health;
use standin_core::view::{CheckView, LostView, VipView};

use crate::checks::Live;
use crate::control;
use crate::control::time::rfc3339;
use crate::nginx::NginxView;
use link::{Link, PeerLink};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) version: String,
    /// When the answer was made, RFC 3339.
    pub(crate) at: String,
    pub(crate) file: String,
    /// Why the file on disk isn't the one in force.
    pub(crate) file_error: Option<String>,
    pub(crate) stopping: bool,
    pub(crate) maintenance: Option<Maintenance>,
    pub(crate) vips: Vec<Vip>,
    pub(crate) checks: Vec<Check>,
    pub(crate) nginx: Option<Nginx>,
    pub(crate) peers: Vec<Peer>,
    /// How long ago the engine last went round.
    pub(crate) engine_beat_ms: u64,
    /// Logs, and the record of events, that don't take what they are to, and sockets that can't be
    /// opened: one line each.
    #[serde(default)]
    pub(crate) stuck: Vec<String>,
    pub(crate) link: Option<Link>,
    /// The shared files; absent where nothing is shared.
    pub(crate) sync: Option<sync::Sync>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Maintenance {
    /// Absent: until it is switched off.
    pub(crate) remaining_s: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Vip {
    pub(crate) name: String,
    pub(crate) virtual_router_id: u8,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<String>,
    /// The MACs that serve the addresses, if they aren't the interface's (`virtual_mac`).
    #[serde(default)]
    pub(crate) virtual_macs: Vec<String>,
    /// `idle`, `backup` or `active`.
    pub(crate) role: String,
    pub(crate) since_ms: u64,
    /// Why the role is what it is.
    pub(crate) reason: Option<String>,
    pub(crate) eligible: bool,
    /// `eligible`, `pending`, `held down` or `ineligible`.
    pub(crate) standing: String,
    pub(crate) obstacle: Option<String>,
    pub(crate) priority: u8,
    /// What adverts say.
    pub(crate) effective_priority: u8,
    /// Who holds it, as far as this node knows.
    pub(crate) holder: Option<String>,
    pub(crate) holder_priority: Option<u8>,
    /// The MAC of a host outside the cluster that answers for the address.
    pub(crate) foreign_owner: Option<String>,
    /// The node, or the MAC of a host outside the cluster, that has the address as well.
    #[serde(default)]
    pub(crate) rival: Option<String>,
    /// No witness is seen: the loss of a peer would end the VIP here.
    #[serde(default)]
    pub(crate) unwitnessed: bool,
    /// This node holds it, and none of the others is connected and eligible, as the peer link tells.
    #[serde(default)]
    pub(crate) alone: bool,
    /// Adverts that don't arrive, as the peer link tells.
    #[serde(default)]
    pub(crate) lost: Vec<Lost>,
    /// The addresses are waited for until nobody answers for them (`adopt --await-vacant`).
    pub(crate) awaited: Option<Awaited>,
    pub(crate) counters: Counters,
}

/// Adverts of one node that don't reach another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lost {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) since_ms: u64,
}

impl Lost {
    fn of(lost: LostView, node: &str) -> Self {
        let since_ms = millis(lost.lasting);
        let (here, there) = (node.to_owned(), lost.peer);
        let (from, to) = if lost.incoming { (there, here) } else { (here, there) };
        Self { from, to, since_ms }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Awaited {
    /// The MAC of who answered last.
    pub(crate) owner: Option<String>,
    /// Probes in a row that nobody answered, up to three.
    pub(crate) unanswered: u8,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) adverts_sent: u64,
    pub(crate) adverts_heard: u64,
    pub(crate) adverts_ignored: u64,
    pub(crate) takeovers: u64,
    pub(crate) restored: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) target: String,
    /// `unknown`, `passing` or `failing`, after rise and fall.
    pub(crate) state: String,
    /// `pass`, `fail` or `dead`: the last result.
    pub(crate) last: Option<String>,
    pub(crate) detail: String,
    pub(crate) took_ms: f64,
    pub(crate) at: Option<String>,
    pub(crate) runs: u64,
    pub(crate) failures: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Nginx {
    pub(crate) flavour: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) binary: Option<String>,
    pub(crate) conf: Option<String>,
    pub(crate) master: Option<u32>,
    pub(crate) workers: Vec<u32>,
    pub(crate) orphans: Vec<u32>,
    pub(crate) probe: Option<String>,
    /// Why there is no probe over HTTP.
    pub(crate) no_probe: Option<String>,
    pub(crate) notes: Vec<String>,
}

impl From<NginxView> for Nginx {
    fn from(view: NginxView) -> Self {
        let path = |path: Option<std::path::PathBuf>| path.map(|path| path.display().to_string());
        Self {
            flavour: view.flavour.map(|flavour| flavour.to_string()),
            version: view.version,
            binary: path(view.binary),
            conf: path(view.conf),
            master: view.master,
            workers: view.workers,
            orphans: view.orphans,
            probe: view.probe,
            no_probe: view.no_probe,
            notes: view.nonlocal.into_iter().chain(view.notes).collect(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) vrrp_only: bool,
    /// Backups send no adverts.
    pub(crate) last_advert_ms: Option<u64>,
    pub(crate) link: Option<PeerLink>,
}

impl From<control::Status> for Status {
    fn from(status: control::Status) -> Self {
        let control::Status {
            view,
            checks,
            nginx,
            file,
            file_error,
            engine_beat,
            stuck,
            link,
            sync,
        } = status;
        let live = |name: &str| checks.iter().find(|live| live.name == name);
        let peers = view.peers.into_iter().map(|peer| Peer {
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            vrrp_only: peer.vrrp_only,
            last_advert_ms: peer.last_advert.map(millis),
            link: link.as_ref().and_then(|link| {
                link.peers.get(&peer.name).map(|view| PeerLink::of(view, &link.file))
            }),
            name: peer.name,
        });
        let peers: Vec<Peer> = peers.collect();
        Self {
            cluster: view.cluster,
            node: view.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: rfc3339(SystemTime::now()),
            file: file.display().to_string(),
            file_error,
            stopping: view.stopping,
            maintenance: view.maintenance.map(|maintenance| Maintenance {
                remaining_s: maintenance.remaining.map(|left| left.as_secs()),
            }),
            vips: view.vips.into_iter().map(|vip| Vip::of(vip, &view.node, &peers)).collect(),
            checks: view
                .checks
                .into_iter()
                .map(|check| {
                    let live = live(&check.name);
                    Check::of(check, live)
                })
                .collect(),
            nginx: nginx.map(Nginx::from),
            peers,
            engine_beat_ms: millis(engine_beat),
            stuck,
            link: link.as_ref().map(Link::from),
            sync,
        }
    }
}

/// Whether none of these nodes is connected and eligible for the VIP. Of a node without a link nobody
/// knows; nor of one that has just been connected and has said nothing yet.
fn nobody_stands_in(vip: &str, others: &[String], peers: &[Peer]) -> bool {
    let is_out = |name: &String| {
        let link = peers.iter().find(|peer| peer.name == *name).and_then(|peer| peer.link.as_ref());
        link.is_some_and(|link| match link.state.as_str() {
            "down" => true,
            "connected" if link.maintenance => true,
            "connected" => {
                let eligible = Standing::Eligible.to_string();
                link.vips.iter().any(|it| it.name == vip && it.standing != eligible)
            }
            _ => false,
        })
    };
    !others.is_empty() && others.iter().all(is_out)
}

impl Vip {
    fn of(vip: VipView, node: &str, peers: &[Peer]) -> Self {
        let holds = vip.role == Role::Active;
        Self {
            alone: holds && nobody_stands_in(&vip.name, &vip.others, peers),
            name: vip.name,
            virtual_router_id: vip.vrid.get(),
            interface: vip.interface,
            addresses: vip.addresses.iter().map(ToString::to_string).collect(),
            virtual_macs: vip.virtual_macs.iter().map(ToString::to_string).collect(),
            role: vip.role.to_string(),
            since_ms: millis(vip.since),
            reason: vip.reason,
            eligible: vip.standing == Standing::Eligible,
            standing: vip.standing.to_string(),
            obstacle: vip.obstacle,
            priority: vip.priority.0,
            effective_priority: vip.effective_priority.0,
            holder: vip.holder,
            holder_priority: vip.holder_priority.map(|priority| priority.0),
            lost: vip.lost.into_iter().map(|lost| Lost::of(lost, node)).collect(),
            foreign_owner: vip.foreign_owner.map(|mac| mac.to_string()),
            rival: vip.rival,
            unwitnessed: vip.unwitnessed,
            awaited: vip.awaited.map(|awaited| Awaited {
                owner: awaited.owner.map(|mac| mac.to_string()),
                unanswered: awaited.unanswered,
            }),
            counters: Counters {
                adverts_sent: vip.counters.adverts_sent,
                adverts_heard: vip.counters.adverts_heard,
                adverts_ignored: vip.counters.adverts_ignored,
                takeovers: vip.counters.takeovers,
                restored: vip.counters.restored,
            },
        }
    }
}

impl Check {
    fn of(check: CheckView, live: Option<&Live>) -> Self {
        let last = live.and_then(|live| live.verdict).map(|verdict| match verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Dead => "dead",
        });
        Self {
            kind: live.map_or_else(String::new, |live| live.kind.to_owned()),
            target: live.map_or_else(String::new, |live| live.target.clone()),
            state: match check.state {
                health::State::Unknown => "unknown",
                health::State::Passing => "passing",
                health::State::Failing => "failing",
            }
            .to_owned(),
            last: last.map(str::to_owned),
            detail: live.map_or(check.detail, |live| live.detail.clone()),
            took_ms: live.map_or(0.0, |live| fractional_ms(live.took)),
            at: live.and_then(|live| live.when).map(rfc3339),
            runs: live.map_or(0, |live| live.runs),
            failures: live.map_or(0, |live| live.failures),
            name: check.name,
        }
    }
}

/// Milliseconds to three places: nothing that is shown is measured more exactly.
fn fractional_ms(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::link::{PeerLink, PeerVip};
    use super::{Peer, fractional_ms, nobody_stands_in};

    fn peer(name: &str, state: &str, standing: &str) -> Peer {
        let vip = PeerVip {
            name: "web".to_owned(),
            role: "backup".to_owned(),
            standing: standing.to_owned(),
            obstacle: None,
            priority: 100,
        };
        let link = PeerLink {
            state: state.to_owned(),
            since_ms: None,
            problem: None,
            version: None,
            round_trip_ms: None,
            clock_difference_ms: None,
            same_file: None,
            file_version: None,
            maintenance: false,
            vips: vec![vip],
        };
        let (name, addresses) = (name.to_owned(), Vec::new());
        Peer { name, addresses, vrrp_only: false, last_advert_ms: None, link: Some(link) }
    }

    #[test]
    fn a_holder_is_alone_only_where_the_link_to_every_other_says_so() {
        let others = ["n2".to_owned(), "n3".to_owned()];
        let alone = |n2: Peer, n3: Peer| nobody_stands_in("web", &others, &[n2, n3]);
        let down = || peer("n2", "down", "eligible");
        assert!(alone(down(), peer("n3", "down", "eligible")));
        assert!(alone(down(), peer("n3", "connected", "ineligible")));
        assert!(!alone(down(), peer("n3", "connected", "eligible")));
        assert!(!alone(down(), peer("n3", "no certificate", "")));
        assert!(!alone(down(), Peer { link: None, ..peer("n3", "", "") }), "a keepalived, say");
        assert!(!nobody_stands_in("web", &[], &[]), "the file says that already");
    }

    #[test]
    fn a_time_in_json_has_no_more_places_than_were_measured() {
        let said = |ns| serde_json::to_string(&fractional_ms(Duration::from_nanos(ns))).unwrap();
        assert_eq!(said(1_234_567), "1.235");
        assert_eq!(said(299_792), "0.3");
        assert_eq!(said(0), "0.0");
    }
}
