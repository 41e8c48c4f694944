//! The cluster file that all machines share, and the drawing of random ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use standin_core::plan::{
    AllIneligible, Announce, CheckPlan, ChecksumStyle, Failback, Member, Mode, NodePlan, Plan,
    Version, VipPlan,
};
use standin_core::types::{Family, InterfaceId, IntervalCs, NodeId, Prefix, Priority, Vrid};

use crate::clock::Nanos;
use crate::fault::Edit;
use crate::random::Random;
use crate::witness;

/// The drawn intervals, in centiseconds: 10 ms to 1 s.
const INTERVALS: (u64, u64) = (1, 100);

/// What the file says now. VIPs keep their place when they are removed.
#[derive(Clone, Debug)]
pub struct ClusterFile {
    pub plan: Plan,
    pub names: Vec<String>,
    removed: Vec<bool>,
    /// The longest interval that any machine may still follow, by VIP.
    pub longest: Vec<Duration>,
}

impl ClusterFile {
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let names = plan.vips.iter().map(|vip| vip.name.clone()).collect();
        let longest = plan.vips.iter().map(spoken).collect();
        let removed = vec![false; plan.vips.len()];
        Self { plan, names, removed, longest }
    }

    #[must_use]
    pub fn vip(&self, vip: u8) -> Option<&VipPlan> {
        self.plan.vips.get(usize::from(vip))
    }

    #[must_use]
    pub fn stands(&self, vip: u8) -> bool {
        self.removed.get(usize::from(vip)) == Some(&false)
    }

    /// The file, resolved for one machine.
    #[must_use]
    pub fn plan_of(&self, machine: u8) -> Plan {
        let me = NodeId(machine);
        let mut plan = Plan { me, ..self.plan.clone() };
        let mut place = 0;
        plan.vips.retain(|vip| {
            let stands = !self.removed[place];
            place += 1;
            stands && vip.priority_of(me).is_some()
        });
        plan
    }

    pub fn edit(&mut self, edit: Edit) {
        let (Edit::Priority { vip, .. }
        | Edit::Interval { vip, .. }
        | Edit::Remove { vip }
        | Edit::Add { vip }
        | Edit::Failback { vip, .. }) = edit;
        let place = usize::from(vip);
        let Some(plan) = self.plan.vips.get_mut(place) else { return };
        match edit {
            Edit::Priority { machine, priority, .. } => {
                let member = plan.members.iter_mut().find(|member| member.node == NodeId(machine));
                if let Some(member) = member {
                    member.priority = Priority(priority);
                }
            }
            Edit::Interval { centiseconds, .. } => {
                plan.advert_interval =
                    IntervalCs::new(centiseconds).unwrap_or(plan.advert_interval);
                self.longest[place] = self.longest[place].max(spoken(plan));
            }
            Edit::Remove { .. } => self.removed[place] = true,
            Edit::Add { .. } => self.removed[place] = false,
            Edit::Failback { never, wait, .. } => {
                plan.failback = if never {
                    Failback::Never
                } else {
                    Failback::After(Duration::from_nanos(wait))
                };
            }
        }
    }
}

/// The interval as the VIP's version can say it.
#[must_use]
pub fn spoken(plan: &VipPlan) -> Duration {
    match plan.version {
        Version::V2 => Duration::from_secs(u64::from(plan.advert_interval.whole_seconds())),
        Version::V3 => plan.advert_interval.as_duration(),
    }
}

fn own(machine: usize, family: Family) -> IpAddr {
    let low = u8::try_from(machine + 1).unwrap_or(u8::MAX);
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, low)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(low))),
    }
}

/// Draws a file for `machines` machines, with a witness or without.
pub fn draw(random: &mut Random, machines: usize, witnessed: bool) -> ClusterFile {
    let nodes = (0..machines).map(|machine| NodePlan {
        name: format!("n{}", machine + 1),
        addresses: vec![own(machine, Family::V4), own(machine, Family::V6)],
        vrrp_only: false,
    });
    let checks = ["nginx", "gw"].into_iter().take(1 + random.index(2)).map(|name| CheckPlan {
        name: name.to_owned(),
        rise: u8::try_from(random.within(1, 3)).unwrap_or(1),
        fall: u8::try_from(random.within(1, 3)).unwrap_or(1),
    });
    let mut plan = Plan {
        cluster: "drawn".to_owned(),
        me: NodeId(0),
        nodes: nodes.collect(),
        interfaces: vec!["eth0".to_owned()],
        checks: checks.collect(),
        vips: Vec::new(),
    };
    // One VIP is the plan's case; a second one finds what the two do to each other.
    for place in 0..if random.chance(250) { 2 } else { 1 } {
        plan.vips.extend(draw_vip(random, machines, place, plan.checks.len()));
    }
    if witnessed {
        witness::appoint(&mut plan);
    }
    ClusterFile::new(plan)
}

fn draw_vip(random: &mut Random, machines: usize, place: u8, checks: usize) -> Option<VipPlan> {
    let families: &[Family] = match random.below(10) {
        0..=5 => &[Family::V4],
        6 => &[Family::V6],
        _ => &Family::BOTH,
    };
    let version =
        if families == [Family::V4] && random.chance(120) { Version::V2 } else { Version::V3 };
    let addresses = families.iter().filter_map(|family| match family {
        Family::V4 => Prefix::new(IpAddr::from([10, 0, 0, 100 + place]), 24),
        Family::V6 => {
            let low = 0x100 + u16::from(place);
            Prefix::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low]), 64)
        }
    });
    let centiseconds = match version {
        Version::V2 => 100,
        Version::V3 => u64::from(draw_interval(random)),
    };
    Some(VipPlan {
        name: format!("v{place}"),
        vrid: Vrid::new(41 + place)?,
        interface: InterfaceId(0),
        addresses: addresses.collect(),
        advert_interval: u16::try_from(centiseconds)
            .ok()
            .and_then(IntervalCs::new)
            .unwrap_or(IntervalCs::MAX),
        version,
        checksum: if random.chance(500) {
            ChecksumStyle::WithPseudoHeader
        } else {
            ChecksumStyle::WithoutPseudoHeader
        },
        mode: if random.chance(300) { Mode::Unicast } else { Mode::Multicast },
        password: (version == Version::V2 && random.chance(500)).then_some(*b"secret\0\0"),
        members: draw_members(random, machines),
        failback: if random.chance(500) { Failback::Never } else { draw_failback(random) },
        hold_down: Duration::from_millis(random.below(10_000)),
        checks: (0..checks)
            .filter_map(|check| u16::try_from(check).ok())
            .map(standin_core::types::CheckId)
            .collect(),
        witness: Vec::new(),
        heartbeat: Vec::new(),
        all_ineligible: if random.chance(700) { AllIneligible::Keep } else { AllIneligible::Drop },
        accept_unknown: false,
        announce: Announce {
            repeat: u8::try_from(random.within(1, 5)).unwrap_or(5),
            refresh: Duration::from_secs(if random.chance(300) { 0 } else { 60 }),
        },
        virtual_mac: false,
    })
}

/// An interval, in centiseconds: the longer of two draws in which each doubling is as likely as
/// the next one. An hour at 10 ms costs as much as a hundred at 1 s.
pub fn draw_interval(random: &mut Random) -> u16 {
    let [one, other] = [(); 2].map(|()| random.scaled(INTERVALS.0, INTERVALS.1));
    u16::try_from(one.max(other)).unwrap_or(IntervalCs::MAX.get())
}

/// The wait of a drawn failback, in nanoseconds.
pub fn draw_wait(random: &mut Random) -> Nanos {
    random.below(20_000) * crate::clock::MILLISECOND
}

fn draw_failback(random: &mut Random) -> Failback {
    Failback::After(Duration::from_nanos(draw_wait(random)))
}

/// Priorities that differ, mostly; sometimes two are equal, sometimes one is the owner's.
fn draw_members(random: &mut Random, machines: usize) -> Vec<Member> {
    (0..machines)
        .filter_map(|machine| u8::try_from(machine).ok())
        .map(|machine| {
            let owner = machine == 0 && random.chance(50);
            let priority = if owner { 255 } else { draw_priority(random) };
            Member { node: NodeId(machine), priority: Priority(priority) }
        })
        .collect()
}

/// 2 to 254, often one of few, so that ties happen.
pub fn draw_priority(random: &mut Random) -> u8 {
    let drawn = if random.chance(300) { 100 } else { random.within(2, 254) };
    u8::try_from(drawn).unwrap_or(100)
}
