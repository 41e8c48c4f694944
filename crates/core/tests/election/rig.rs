//! One node with its time and everything that it ever asked for.

use std::net::IpAddr;
use std::time::Duration;

use standin_core::event::{Kind, Reason, Role};
use standin_core::node::Node;
use standin_core::plan::{
    AllIneligible, Announce, CheckPlan, ChecksumStyle, Failback, Member, Mode, NodePlan, Plan,
    Version, VipPlan,
};
use standin_core::types::{
    CheckId, Instant, InterfaceId, IntervalCs, Mac, NodeId, Priority, VipId, Vrid,
};
use standin_core::wire::vrrp::{self, Envelope, MULTICAST_V4, Outgoing};
use standin_core::{Effect, Effects, Input, InterfaceState, Outcome, Verdict};

pub(crate) const VIP: VipId = VipId(0);
pub(crate) const NGINX: CheckId = CheckId(0);
pub(crate) const ETH0: InterfaceId = InterfaceId(0);
pub(crate) const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const FOREIGN_MAC: Mac = Mac([2, 0, 0, 0, 0, 99]);

/// Node n2 (10.0.0.2, priority 100) beside n1 (10.0.0.1, priority 150), adverts every 100 ms.
pub(crate) fn plan() -> Plan {
    let node = |name: &str, address: &str| NodePlan {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        vrrp_only: false,
    };
    Plan {
        cluster: "edge".into(),
        me: NodeId(1),
        nodes: vec![node("n1", "10.0.0.1"), node("n2", "10.0.0.2"), node("n3", "10.0.0.3")],
        interfaces: vec!["eth0".into()],
        checks: vec![CheckPlan { name: "nginx".into(), rise: 2, fall: 2 }],
        vips: vec![VipPlan {
            name: "web".into(),
            vrid: Vrid::new(41).unwrap(),
            interface: ETH0,
            addresses: vec!["10.0.0.41/24".parse().unwrap()],
            advert_interval: IntervalCs::new(10).unwrap(),
            version: Version::V3,
            checksum: ChecksumStyle::WithPseudoHeader,
            mode: Mode::Multicast,
            password: None,
            members: vec![
                Member { node: NodeId(0), priority: Priority(150) },
                Member { node: NodeId(1), priority: Priority(100) },
                Member { node: NodeId(2), priority: Priority(100) },
            ],
            failback: Failback::Never,
            hold_down: Duration::from_secs(10),
            checks: vec![NGINX],
            witness: Vec::new(),
            heartbeat: Vec::new(),
            all_ineligible: AllIneligible::Keep,
            accept_unknown: false,
            announce: Announce { repeat: 5, refresh: Duration::from_secs(60) },
            virtual_mac: false,
        }],
    }
}

pub(crate) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// One node, its time, and everything that it ever asked for.
pub(crate) struct Rig {
    pub(crate) node: Node,
    pub(crate) now: Instant,
    pub(crate) log: Vec<(Instant, Effect)>,
    pub(crate) seen: usize,
}

impl Rig {
    /// A healthy node that can use its interface.
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rig = Self::unchecked(plan);
        rig.check(Verdict::Pass);
        rig.seen = rig.log.len();
        rig
    }

    pub(crate) fn unchecked(plan: Plan) -> Self {
        let now = Instant::from_nanos(50_000_000_000);
        let node = Node::new(now, plan);
        let mut rig = Self { node, now, log: Vec::new(), seen: 0 };
        rig.own(&["10.0.0.2"]);
        rig.interface(true);
        rig
    }

    pub(crate) fn own(&mut self, addresses: &[&str]) {
        let own: Vec<IpAddr> = addresses.iter().map(|one| one.parse().unwrap()).collect();
        self.step(Input::OwnAddresses(&own));
    }

    pub(crate) fn interface(&mut self, up: bool) {
        let state = InterfaceState { up, mac: Some(OWN_MAC), ..InterfaceState::default() };
        self.step(Input::Interface { interface: ETH0, state });
    }

    pub(crate) fn check(&mut self, verdict: Verdict) {
        self.step(Input::Check { check: NGINX, verdict, detail: "" });
    }

    pub(crate) fn step(&mut self, input: Input<'_>) {
        let mut effects = Effects::new();
        self.node.step(self.now, input, &mut effects);
        for effect in effects {
            // The kernel does at once what it is asked.
            let settled = match &effect {
                Effect::Hold { .. } => Some(Outcome::Held),
                Effect::Release { .. } | Effect::Stay { .. } => Some(Outcome::Released),
                _ => None,
            };
            self.log.push((self.now, effect));
            if let Some(outcome) = settled {
                self.step(Input::Settled { vip: VIP, outcome });
            }
        }
    }

    /// Lets time pass, with a tick at each deadline.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.node.next_deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline >= self.now, "a deadline in the past that a tick didn't move");
            self.now = deadline;
            self.step(Input::Tick);
        }
        self.now = end;
    }

    pub(crate) fn hear(&mut self, source: &str, priority: u8) {
        self.hear_every(source, priority, 10);
    }

    pub(crate) fn hear_every(&mut self, source: &str, priority: u8, interval_cs: u16) {
        let source: IpAddr = source.parse().unwrap();
        let mut payload = Vec::new();
        let out = Outgoing {
            version: Version::V3,
            vrid: Vrid::new(41).unwrap(),
            priority: Priority(priority),
            interval: IntervalCs::new(interval_cs).unwrap(),
            addresses: &["10.0.0.41".parse().unwrap()],
            password: None,
            checksum: ChecksumStyle::WithoutPseudoHeader,
            source,
            destination: MULTICAST_V4.into(),
        };
        vrrp::emit(&out, &mut payload);
        let envelope = Envelope { source, destination: MULTICAST_V4.into(), hop_limit: 255 };
        self.step(Input::Advert { interface: ETH0, envelope, payload: &payload });
    }

    /// Adverts of n1 at their pace for a while.
    pub(crate) fn hear_for(&mut self, source: &str, priority: u8, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.hear(source, priority);
            self.run(ms(100));
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.node.router(VIP).unwrap().role()
    }

    /// What was asked for since the last look.
    pub(crate) fn news(&mut self) -> Vec<Effect> {
        let news = self.log[self.seen..].iter().map(|(_, effect)| effect.clone()).collect();
        self.seen = self.log.len();
        news
    }

    /// Priorities of the adverts since the last look.
    pub(crate) fn said(&mut self) -> Vec<u8> {
        let advert = |effect| match effect {
            Effect::Advert { priority, .. } => Some(priority.0),
            _ => None,
        };
        self.news().into_iter().filter_map(advert).collect()
    }

    pub(crate) fn last_reason(&self) -> Reason {
        let reason = |(_, effect): &(Instant, Effect)| match effect {
            Effect::Event(event) => match &event.kind {
                Kind::Transition { reason, .. } => Some(reason.clone()),
                _ => None,
            },
            _ => None,
        };
        self.log.iter().rev().find_map(reason).unwrap()
    }

    /// A backup that follows n1.
    pub(crate) fn following() -> Self {
        let mut rig = Self::new(plan());
        rig.hear_for("10.0.0.1", 150, ms(500));
        assert_eq!(rig.role(), Role::Backup);
        rig
    }

    /// An active that took over after n1 fell silent.
    pub(crate) fn holding() -> Self {
        let mut rig = Self::following();
        rig.run(ms(500));
        assert_eq!(rig.role(), Role::Active);
        rig.news();
        rig
    }
}
