//! IPv6 senders: who speaks from a link-local address, and what its first words count.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use std::net::IpAddr;
use std::time::Duration;

use standin_core::event::{Kind, Party, Role};
use standin_core::node::Node;
use standin_core::plan::{
    AllIneligible, Announce, ChecksumStyle, Failback, Member, Mode, NodePlan, Plan, Version,
    VipPlan,
};
use standin_core::types::{Instant, InterfaceId, IntervalCs, Mac, NodeId, Priority, VipId, Vrid};
use standin_core::wire::vrrp::{self, Envelope, MULTICAST_V6, Outgoing};
use standin_core::{Effect, Effects, Input, InterfaceState, Outcome};

const VIP: VipId = VipId(0);
const ETH0: InterfaceId = InterfaceId(0);
const PEER: &str = "fe80::1";
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// n2 (fd00::2, priority 100) beside the keepalived n1 (fd00::1, priority 150), adverts every second.
struct Rig {
    node: Node,
    now: Instant,
    effects: Vec<Effect>,
}

impl Rig {
    fn new() -> Self {
        let node = |name: &str, address: &str| NodePlan {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            vrrp_only: name == "n1",
        };
        let plan = Plan {
            cluster: "edge".into(),
            me: NodeId(1),
            nodes: vec![node("n1", "fd00::1"), node("n2", "fd00::2")],
            interfaces: vec!["eth0".into()],
            checks: vec![],
            vips: vec![VipPlan {
                name: "web".into(),
                vrid: Vrid::new(41).unwrap(),
                interface: ETH0,
                addresses: vec!["fd00::41/64".parse().unwrap()],
                advert_interval: IntervalCs::new(100).unwrap(),
                version: Version::V3,
                checksum: ChecksumStyle::WithPseudoHeader,
                mode: Mode::Multicast,
                password: None,
                members: vec![
                    Member { node: NodeId(0), priority: Priority(150) },
                    Member { node: NodeId(1), priority: Priority(100) },
                ],
                failback: Failback::Never,
                hold_down: Duration::ZERO,
                checks: vec![],
                witness: Vec::new(),
                heartbeat: Vec::new(),
                all_ineligible: AllIneligible::Keep,
                accept_unknown: false,
                announce: Announce { repeat: 5, refresh: Duration::ZERO },
                virtual_mac: false,
            }],
        };
        let now = Instant::from_nanos(50_000_000_000);
        let mut rig = Self { node: Node::new(now, plan), now, effects: Vec::new() };
        rig.step(Input::OwnAddresses(&["fd00::2".parse().unwrap()]));
        let state = InterfaceState {
            up: true,
            mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            link_local: Some("fe80::2".parse().unwrap()),
            ..InterfaceState::default()
        };
        rig.step(Input::Interface { interface: ETH0, state });
        rig
    }

    fn step(&mut self, input: Input<'_>) {
        let mut effects = Effects::new();
        self.node.step(self.now, input, &mut effects);
        let holds = effects.iter().any(|effect| matches!(effect, Effect::Hold { .. }));
        self.effects.extend(effects);
        if holds {
            self.step(Input::Settled { vip: VIP, outcome: Outcome::Held });
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.node.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = deadline;
            self.step(Input::Tick);
        }
        self.now = end;
    }

    fn hear(&mut self, priority: u8) {
        self.hear_from(PEER, priority);
    }

    fn hear_from(&mut self, source: &str, priority: u8) {
        let source: IpAddr = source.parse().unwrap();
        let destination = MULTICAST_V6.into();
        let mut payload = Vec::new();
        let out = Outgoing {
            version: Version::V3,
            vrid: Vrid::new(41).unwrap(),
            priority: Priority(priority),
            interval: IntervalCs::new(100).unwrap(),
            addresses: &["fd00::41".parse().unwrap()],
            password: None,
            checksum: ChecksumStyle::WithPseudoHeader,
            source,
            destination,
        };
        vrrp::emit(&out, &mut payload);
        let envelope = Envelope { source, destination, hop_limit: 255 };
        self.step(Input::Advert { interface: ETH0, envelope, payload: &payload });
    }

    /// Whoever was asked for answers.
    fn answer(&mut self, asked: &[&str]) {
        for address in asked {
            let address: IpAddr = address.parse().unwrap();
            let question = Effect::Identify { interface: ETH0, address };
            assert!(self.effects.contains(&question), "{address} wasn't asked for");
            self.step(Input::Sighting { interface: ETH0, address, mac: PEER_MAC });
        }
    }

    fn role(&self) -> Role {
        self.node.router(VIP).unwrap().role()
    }

    fn called_a_stranger(&self) -> bool {
        self.effects.iter().any(|effect| {
            matches!(effect, Effect::Event(event) if matches!(event.kind, Kind::Stranger { .. }))
        })
    }
}

#[test]
fn the_first_advert_of_a_link_local_sender_counts_once_it_is_known_who_sent_it() {
    let mut rig = Rig::new();
    // Its claim is due at 3.6 s.
    rig.run(Duration::from_millis(3550));
    rig.hear(150);
    rig.run(Duration::from_millis(1));
    rig.answer(&[PEER, "fd00::1"]);
    rig.run(Duration::from_millis(900));
    assert_eq!(rig.role(), Role::Backup, "the peer has just said that it is active");
    let followed = rig.node.router(VIP).unwrap().followed();
    assert_eq!(followed, Some((Party::Node(NodeId(0)), Priority(150))));
}

#[test]
fn the_second_advert_of_a_node_is_no_stranger_s_however_long_the_interval_is() {
    let mut rig = Rig::new();
    rig.hear(150);
    rig.run(Duration::from_millis(1));
    rig.answer(&[PEER, "fd00::1"]);
    for _ in 0..4 {
        rig.run(Duration::from_secs(1));
        rig.hear(150);
        assert!(!rig.called_a_stranger());
        assert_eq!(rig.role(), Role::Backup);
    }
}

#[test]
fn a_late_answer_does_not_revive_an_old_advert() {
    let mut rig = Rig::new();
    rig.hear(0);
    rig.run(Duration::from_millis(500));
    rig.answer(&[PEER, "fd00::1"]);
    assert_eq!(rig.node.router(VIP).unwrap().counters().adverts_heard, 0);
    rig.hear(150);
    assert_eq!(rig.node.router(VIP).unwrap().counters().adverts_heard, 1);
}

#[test]
fn a_sender_that_is_known_is_not_asked_for_again_and_again() {
    let mut rig = Rig::new();
    rig.hear(150);
    rig.answer(&[PEER, "fd00::1"]);
    rig.effects.clear();
    for _ in 0..30 {
        rig.run(Duration::from_secs(1));
        rig.hear(150);
    }
    let peers = [PEER, "fd00::1"].map(|it| it.parse::<IpAddr>().unwrap());
    let asks = |effect: &&Effect| matches!(effect, Effect::Identify { address, .. } if peers.contains(address));
    assert_eq!(rig.effects.iter().filter(asks).count(), 0);
}

#[test]
fn its_own_adverts_that_a_loop_in_the_network_brings_back_are_nobody_s() {
    let mut rig = Rig::new();
    // The announcements after its claim are over.
    rig.run(Duration::from_secs(10));
    assert_eq!(rig.role(), Role::Active);
    rig.effects.clear();
    for _ in 0..5 {
        rig.hear_from("fe80::2", 100);
        rig.run(Duration::from_millis(400));
    }
    assert!(!rig.called_a_stranger());
    assert!(!rig.effects.contains(&Effect::Announce { vip: VIP }), "each would make more");
    let own: IpAddr = "fe80::2".parse().unwrap();
    assert!(!rig.effects.contains(&Effect::Identify { interface: ETH0, address: own }));
    assert_eq!(rig.node.router(VIP).unwrap().counters().adverts_ignored, 0);
}
