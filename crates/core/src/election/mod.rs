//! One virtual router: RFC 9568's state machine, with eligibility in the place of weights.
//!
//! ```text
//!            usable                   nobody else has it
//!   Idle  ─────────────▶  Backup  ──────────────────────▶  Active
//!    ▲                      ▲  ▲                            │ │
//!    │  interface or source │  └──── outranked, or not ─────┘ │
//!    └────── address gone ──┴──────── eligible any more ──────┘
//! ```
//!
//! What follows from an input in one of the states stands in `backup.rs` and `active.rs`, what the peer link adds in
//! `handover.rs`; this file has what all states share: standing, usability, and the way in from [`crate::node::Node`].

mod active;
mod backup;
pub mod handover;
mod heartbeat;
mod lookout;
pub mod rivals;
pub mod timers;
pub mod told;
mod usable;
pub mod vacancy;
mod witness;

use std::net::IpAddr;
use std::time::Duration;

use crate::event::{Event, Kind, Obstacle, Party, Reason, Role, Standing};
use crate::health::{Health, State as CheckState};
use crate::plan::{AllIneligible, VipPlan};
use crate::types::{Family, Instant, Mac, NodeId, Priority, VipId};
use crate::wire::vrrp::Advert;
use crate::{Effect, Effects, Outcome};

use active::Active;
use backup::Backup;
use handover::{Handovers, Heir};
use lookout::Lookout;
use rivals::{Claimant, Rival};
pub use usable::{Usable, usable};
use vacancy::Vacancy;
use witness::Witnessing;

/// A VIP whose address the kernel refused is not claimed again before this.
const REFUSED_RETRY: Duration = Duration::from_secs(5);

/// A program that replaces another goes on with its VIPs if it gets to them within this: the
/// kernel ends addresses that nobody renewed for two seconds.
const RESUME_WITHIN: Duration = Duration::from_secs(2);

/// One line per subject in this time is enough for a person, and bounds what a flood can cause.
const QUIET: Duration = Duration::from_secs(10);

/// What is the same for all inputs of one step.
#[derive(Debug)]
pub struct Step<'a> {
    pub now: Instant,
    pub vip: VipId,
    pub effects: &'a mut Effects,
}

impl Step<'_> {
    fn event(&mut self, kind: Kind) {
        self.effects.push(Effect::Event(Event { vip: Some(self.vip), kind }));
    }
}

/// An advert that was read, and whose sender is known or may be obeyed.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    pub advert: Advert<'a>,
    pub family: Family,
    pub who: Party,
    /// Whether the sender wins against this node at equal priority.
    pub wins_ties: bool,
}

#[derive(Clone, Debug)]
enum State {
    Idle,
    Backup(Backup),
    Active(Active),
}

/// Messages counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub adverts_sent: u64,
    pub adverts_heard: u64,
    pub adverts_ignored: u64,
    pub takeovers: u64,
    pub restored: u64,
}

/// Lets one event through per [`QUIET`].
#[derive(Clone, Copy, Debug, Default)]
struct Rated(Option<Instant>);

impl Rated {
    fn allows(&mut self, now: Instant) -> bool {
        let allowed = self.0.is_none_or(|last| now.since(last) >= QUIET);
        if allowed {
            self.0 = Some(now);
        }
        allowed
    }
}

/// One VIP on one node.
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    plan: VipPlan,
    /// This node's configured priority.
    priority: Priority,
    state: State,
    since: Instant,
    last_reason: Option<Reason>,
    usable: Usable,
    standing: Standing,
    obstacle: Option<Obstacle>,
    eligible_since: Instant,
    hold_until: Option<Instant>,
    refused: Option<(Instant, i32)>,
    witnessing: Witnessing,
    /// Another host that has the address: as active, one to be settled with; as backup, the active
    /// whose adverts aren't heard.
    rival: Option<Rival>,
    /// While backup: which MAC answers since another node took the VIP.
    lookout: Option<Lookout>,
    /// While active: who goes on with a worse claim, since when, and when it was heard last.
    defiance: Option<(Party, Instant, Instant)>,
    /// Whose adverts came, and when the last one.
    hearing: Vec<(NodeId, Instant)>,
    /// As backup: the active whose adverts don't come, and which is followed by what it says over the
    /// peer link.
    by_link: Option<NodeId>,
    /// When the further paths are to be asked again.
    ask_paths_at: Instant,
    /// A priority 0 that the peer link contradicted, in whose name and when.
    doubted: Option<(NodeId, Instant)>,
    /// Active_Adver_Interval (RFC 9568 §6.1).
    interval: Duration,
    /// An advert was heard or the VIP was held: the address needs no probing before a claim.
    introduced: bool,
    stopping: bool,
    /// It held the VIP when the program was replaced, and goes on doing so once it can.
    resumes: bool,
    /// The shell may still have addresses of this VIP on the host.
    holding: bool,
    handovers: Handovers,
    counters: Counters,
    /// The addresses are waited for, or were taken so.
    vacancy: Option<Vacancy>,
    rival_said: Rated,
    one_way_said: Rated,
    conflict_said: Rated,
    path_said: Rated,
    ignored_said: Rated,
    stranger_said: Rated,
    differs_said: Rated,
}

impl VirtualRouter {
    #[must_use]
    pub fn new(plan: VipPlan, priority: Priority, now: Instant) -> Self {
        let interval = timers::spoken(plan.version, plan.advert_interval);
        Self {
            plan,
            priority,
            state: State::Idle,
            since: now,
            last_reason: None,
            usable: Usable::default(),
            standing: Standing::Pending,
            obstacle: None,
            eligible_since: now,
            hold_until: None,
            refused: None,
            witnessing: Witnessing::default(),
            rival: None,
            defiance: None,
            lookout: None,
            hearing: Vec::new(),
            by_link: None,
            doubted: None,
            ask_paths_at: now,
            interval,
            introduced: false,
            stopping: false,
            resumes: false,
            holding: false,
            handovers: Handovers::default(),
            counters: Counters::default(),
            vacancy: None,
            rival_said: Rated::default(),
            one_way_said: Rated::default(),
            conflict_said: Rated::default(),
            path_said: Rated::default(),
            ignored_said: Rated::default(),
            stranger_said: Rated::default(),
            differs_said: Rated::default(),
        }
    }

    /// Goes on as the holder of the VIP that an earlier program on this node was.
    pub fn resume(&mut self) {
        self.resumes = true;
        self.introduced = true;
        self.holding = true;
    }

    #[must_use]
    pub const fn plan(&self) -> &VipPlan {
        &self.plan
    }

    #[must_use]
    pub const fn role(&self) -> Role {
        match self.state {
            State::Idle => Role::Idle,
            State::Backup(_) => Role::Backup,
            State::Active(_) => Role::Active,
        }
    }

    /// Since when the role is what it is.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Why the role is what it is; `None` before the first transition.
    #[must_use]
    pub const fn last_reason(&self) -> Option<&Reason> {
        self.last_reason.as_ref()
    }

    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    #[must_use]
    pub const fn obstacle(&self) -> Option<&Obstacle> {
        self.obstacle.as_ref()
    }

    /// This node's configured priority.
    #[must_use]
    pub const fn priority(&self) -> Priority {
        self.priority
    }

    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether addresses of this VIP may be on the host.
    #[must_use]
    pub const fn holding(&self) -> bool {
        self.holding
    }

    /// The node that holds the VIP, as far as this node knows.
    #[must_use]
    pub const fn followed(&self) -> Option<(Party, Priority)> {
        match &self.state {
            State::Backup(backup) => backup.followed(),
            State::Idle | State::Active(_) => None,
        }
    }

    /// The foreign host that answers for the address.
    #[must_use]
    pub const fn foreign_owner(&self) -> Option<Mac> {
        match &self.state {
            State::Backup(backup) => backup.foreign_owner(),
            State::Idle | State::Active(_) => None,
        }
    }

    /// What an advert would say now.
    #[must_use]
    pub const fn effective_priority(&self) -> Priority {
        match self.standing {
            Standing::Eligible => self.priority,
            Standing::Pending | Standing::HeldDown | Standing::Ineligible => Priority::LAST_RESORT,
        }
    }

    /// The time at which the router wants a tick; [`Instant::FAR`] when nothing is due.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        let state = match &self.state {
            State::Idle => Instant::FAR,
            State::Backup(backup) => {
                self.vacancy_deadline().unwrap_or_else(|| self.backup_deadline(backup))
            }
            State::Active(active) => {
                let vacancy = self.vacancy_deadline().unwrap_or(Instant::FAR);
                let asks = self.rival_deadline().min(self.heartbeat_deadline());
                active.next_deadline(asks).min(vacancy)
            }
        };
        let hold = self.hold_until.unwrap_or(Instant::FAR);
        let refused = self.refused.map_or(Instant::FAR, |(until, _)| until);
        state.min(hold).min(refused)
    }

    /// The deadline has come; `late` says by how much the shell was late for it.
    pub fn tick(
        &mut self,
        step: &mut Step<'_>,
        health: &Health,
        maintenance: bool,
        late: Duration,
    ) {
        let over = |until: Instant| until <= step.now;
        if self.hold_until.is_some_and(over) || self.refused.is_some_and(|(until, _)| over(until)) {
            self.judge(step, health, maintenance);
        }
        self.heartbeat_tick(step);
        match self.state {
            State::Idle => {}
            State::Backup(_) if self.vacancy.is_some() => {}
            State::Backup(_) => self.backup_tick(step, late),
            State::Active(_) => self.active_tick(step),
        }
        self.vacancy_tick(step, late);
    }

    /// An advert of another node for this VIP.
    pub fn heard(&mut self, step: &mut Step<'_>, heard: &Heard<'_>) {
        self.counters.adverts_heard += 1;
        self.introduced = true;
        self.remember(heard.who, step.now);
        self.vacancy_rival(step.now);
        self.compare_addresses(step, heard);
        match self.state {
            State::Idle => {}
            State::Backup(_) => self.backup_heard(step, heard),
            State::Active(_) => self.active_heard(step, heard),
        }
    }

    /// Another host says that it has one of the VIP's addresses.
    pub fn sighted(
        &mut self,
        step: &mut Step<'_>,
        address: IpAddr,
        mac: Mac,
        who: Option<Claimant>,
    ) {
        if self.vacancy_sighted(step, address, mac) {
            return;
        }
        match self.state {
            State::Idle => {}
            State::Backup(_) => self.backup_sighted(step, address, mac),
            State::Active(_) => self.active_sighted(step, (address, mac), who),
        }
    }

    /// What became of a hold or a release.
    pub fn settled(&mut self, step: &mut Step<'_>, outcome: Outcome, health: &Health, maint: bool) {
        match outcome {
            Outcome::Held => {
                if let State::Active(active) = &mut self.state {
                    active.settled(step, self.plan.announce);
                }
            }
            Outcome::Released => {
                if !matches!(self.state, State::Active(_)) {
                    self.holding = false;
                }
            }
            Outcome::Refused { errno } => {
                self.refused = Some((step.now + REFUSED_RETRY, errno));
                step.event(Kind::AddressRefused { errno });
                self.judge(step, health, maint);
                if matches!(self.state, State::Active(_)) {
                    // It was ineligible for another reason before, and held it as a last resort.
                    let backup = Backup::alone(step.now);
                    self.leave(step, State::Backup(backup), Reason::AddressRefused { errno });
                }
            }
        }
    }

    /// The shell put an address back that somebody took away.
    pub fn restored(&mut self, step: &mut Step<'_>, address: IpAddr) {
        self.counters.restored += 1;
        step.event(Kind::AddressRestored { address });
        if let State::Active(active) = &mut self.state {
            active.announce_again(step, self.plan.announce);
        }
    }

    /// The interface or the node's own addresses changed.
    pub fn usability(&mut self, step: &mut Step<'_>, usable: Usable) {
        self.usable = usable;
        match (&self.state, usable.any()) {
            (State::Idle, true) if self.resumes && self.may_resume(step.now) => {
                self.resumes = false;
                self.claim(step, Reason::Resumed);
            }
            (State::Idle, true) if !self.stopping => {
                self.drop_resumed(step);
                let backup = Backup::alone(step.now);
                self.enter(step, State::Backup(backup), Reason::Usable);
                self.begin_probing(step.now);
            }
            (State::Backup(_) | State::Active(_), false) => {
                let reason = if usable.interface_up {
                    Reason::SourceAddressGone
                } else {
                    Reason::InterfaceDown
                };
                self.leave(step, State::Idle, reason);
            }
            _ => {}
        }
    }

    /// Whether its peers still take this node for the holder that its predecessor was, and it may be one.
    fn may_resume(&self, now: Instant) -> bool {
        if self.standing == Standing::Ineligible && self.wait(false).is_none() {
            return false;
        }
        let interval = timers::spoken(self.plan.version, self.plan.advert_interval);
        // With the least allowance that any backup makes.
        let silence = interval * timers::MISSED_ADVERTS;
        now.since(self.since) < silence.max(RESUME_WITHIN)
    }

    /// What a predecessor held, and this program didn't come to hold, is let go.
    fn drop_resumed(&mut self, step: &mut Step<'_>) {
        if std::mem::take(&mut self.resumes) {
            step.effects.push(Effect::Release { vip: step.vip });
        }
    }

    /// The numbers of the nodes have changed; a node without one has left the file.
    pub fn renumber(&mut self, moved: impl Fn(NodeId) -> Option<NodeId>) {
        self.handovers.renumber(&moved);
        self.renumber_rival(&moved);
        self.by_link = self.by_link.and_then(&moved);
        self.doubted = None;
        let hearing = std::mem::take(&mut self.hearing).into_iter();
        self.hearing = hearing.filter_map(|(node, at)| Some((moved(node)?, at))).collect();
        if let State::Backup(backup) = &mut self.state {
            backup.renumber(moved);
        }
    }

    /// Says goodbye and never comes back: the daemon stops, or the file names the VIP no more.
    pub fn stop(&mut self, step: &mut Step<'_>, reason: Reason) {
        self.stopping = true;
        self.drop_resumed(step);
        if !matches!(self.state, State::Idle) {
            self.leave(step, State::Idle, reason);
        }
    }

    /// It was stopped and holds nothing any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.stopping && !self.holding && matches!(self.state, State::Idle)
    }

    /// The file names the VIP again before its last addresses have gone.
    pub const fn revive(&mut self) {
        self.stopping = false;
    }

    /// Takes what may change without a transition; the node made sure that it is the same router.
    pub fn replan(&mut self, step: &mut Step<'_>, plan: VipPlan, priority: Priority) {
        let said = self.effective_priority();
        let same_addresses =
            self.plan.addresses == plan.addresses && self.plan.virtual_mac == plan.virtual_mac;
        let same_interval = self.plan.advert_interval == plan.advert_interval;
        if self.plan.witness != plan.witness {
            self.witnessing = Witnessing::default();
        }
        self.plan = plan;
        self.priority = priority;
        if !matches!(self.state, State::Backup(_)) || !same_interval {
            self.interval = timers::spoken(self.plan.version, self.plan.advert_interval);
        }
        if let State::Active(_) = self.state {
            if !same_addresses {
                step.effects.push(Effect::Hold { vip: step.vip });
            }
            if said != self.effective_priority() || !same_addresses || !same_interval {
                self.advertise(step);
            }
        }
    }

    /// Works out whether this node may hold the VIP, and what follows from a change.
    pub fn judge(&mut self, step: &mut Step<'_>, health: &Health, maintenance: bool) {
        let (standing, obstacle) = self.appraise(step.now, health, maintenance);
        let was = self.standing;
        if was == Standing::Eligible && matches!(obstacle, Some(Obstacle::CheckFailed { .. })) {
            self.hold_until = Some(step.now + self.plan.hold_down);
        }
        let changed = was != standing || differs(self.obstacle.as_ref(), obstacle.as_ref());
        self.standing = standing;
        self.obstacle = obstacle;
        if !changed {
            return;
        }
        step.event(Kind::Standing { standing, obstacle: self.obstacle.clone() });
        if standing == Standing::Eligible && was != Standing::Eligible {
            self.eligible_since = step.now;
        }
        match self.state {
            State::Idle => {}
            State::Backup(_) => self.backup_judged(step, was),
            State::Active(_) if self.vacancy.is_some() && standing == Standing::Ineligible => {
                let reason = self.obstacle.clone().map(Reason::Obstacle);
                self.give_back(step, reason.unwrap_or(Reason::NobodyEligible));
            }
            State::Active(_) => self.active_judged(step, was),
        }
    }

    fn appraise(
        &mut self,
        now: Instant,
        health: &Health,
        maintenance: bool,
    ) -> (Standing, Option<Obstacle>) {
        self.refused = self.refused.filter(|(until, _)| *until > now);
        self.hold_until = self.hold_until.filter(|until| *until > now);
        if let Some(missing) = self.barred_by() {
            return (Standing::Ineligible, Some(Obstacle::NoWitness { missing }));
        }
        if maintenance {
            return (Standing::Ineligible, Some(Obstacle::Maintenance));
        }
        if let Some((_, errno)) = self.refused {
            return (Standing::Ineligible, Some(Obstacle::AddressRefused { errno }));
        }
        let in_state =
            |wanted| self.plan.checks.iter().copied().find(|check| health.state(*check) == wanted);
        if let Some(check) = in_state(CheckState::Failing) {
            let detail = health.detail(check).to_owned();
            return (Standing::Ineligible, Some(Obstacle::CheckFailed { check, detail }));
        }
        // A holder that is healthy by all that is known goes on: a check that is new in the file
        // must not move the VIP before it has looked.
        let holds = self.standing == Standing::Eligible && matches!(self.state, State::Active(_));
        let unknown = in_state(CheckState::Unknown).or_else(|| self.witness_pending(health));
        if let Some(check) = unknown.filter(|_| !holds) {
            return (Standing::Pending, Some(Obstacle::CheckPending(check)));
        }
        match (self.hold_until, &self.state) {
            // Who holds it as a last resort and is healthy again is the best there is.
            (Some(_), State::Active(_)) | (None, _) => {
                self.hold_until = None;
                (Standing::Eligible, None)
            }
            (Some(_), _) => (Standing::HeldDown, Some(Obstacle::HoldDown)),
        }
    }

    /// The wait before a claim, counted from the last sign of the active; `None`: never.
    ///
    /// Nodes that aren't eligible wait longer than any eligible one (its wait stays under four
    /// intervals), and in the order of their priorities, so that they don't claim together.
    fn wait(&self, hurry: bool) -> Option<Duration> {
        let skew = |priority| timers::skew(self.plan.version, self.interval, priority);
        let down = |priority| timers::active_down(self.plan.version, self.interval, priority);
        match (self.standing, hurry) {
            (Standing::Eligible, true) => Some(skew(self.priority)),
            (Standing::Eligible, false) => Some(down(self.priority)),
            (Standing::HeldDown, true) => Some(skew(Priority::LAST_RESORT)),
            (Standing::HeldDown, false) => Some(down(Priority::LAST_RESORT)),
            (Standing::Pending, _) => None,
            (Standing::Ineligible, _) => (self.plan.all_ineligible == AllIneligible::Keep
                && self.refused.is_none()
                && self.barred_by().is_none())
            .then(|| down(Priority::LAST_RESORT) + skew(self.priority)),
        }
    }

    fn advertise(&mut self, step: &mut Step<'_>) {
        let priority = self.effective_priority();
        self.send(step, priority);
        if let State::Active(active) = &mut self.state {
            let interval = timers::spoken(self.plan.version, self.plan.advert_interval);
            active.advertised(step.now, interval);
        }
    }

    fn send(&mut self, step: &mut Step<'_>, priority: Priority) {
        for family in Family::BOTH {
            if self.usable.families[family.index()] {
                self.counters.adverts_sent += 1;
                step.effects.push(Effect::Advert { vip: step.vip, family, priority });
            }
        }
    }

    /// Leaves whatever the role is; an active says so first, then takes the addresses away.
    fn leave(&mut self, step: &mut Step<'_>, to: State, reason: Reason) {
        if matches!(self.state, State::Active(_)) {
            if !matches!(
                reason,
                Reason::Outranked { .. }
                    | Reason::TakenWhileStalled { .. }
                    | Reason::RivalUnheard { .. }
                    | Reason::RivalByLink { .. }
            ) {
                self.send(step, Priority::RELEASE);
                let to = match reason {
                    Reason::SwitchedTo { to: Party::Node(to) } => Heir::Chosen(to),
                    _ => Heir::Best,
                };
                self.handovers.leaves(Some(to));
            }
            let vip = step.vip;
            let planned = matches!(reason, Reason::SwitchedTo { .. });
            step.effects.push(if planned { Effect::Stay { vip } } else { Effect::Release { vip } });
        }
        self.enter(step, to, reason);
    }

    fn enter(&mut self, step: &mut Step<'_>, to: State, reason: Reason) {
        let from = self.role();
        self.state = to;
        self.rival = None;
        self.by_link = None;
        self.doubted = None;
        self.defiance = None;
        self.lookout = None;
        self.since = step.now;
        self.last_reason = Some(reason.clone());
        step.event(Kind::Transition { from, to: self.role(), reason });
    }

    fn compare_addresses(&mut self, step: &mut Step<'_>, heard: &Heard<'_>) {
        let theirs = heard.advert.addresses;
        let ours = || self.plan.addresses_of(heard.family).map(|prefix| prefix.address());
        if theirs.len() == ours().count() && theirs.iter().all(|one| ours().any(|own| own == one)) {
            return;
        }
        if self.differs_said.allows(step.now) {
            let theirs = theirs.iter().collect();
            step.event(Kind::AddressListDiffers { who: heard.who, theirs });
        }
    }

    /// A message for this router that can't be read or doesn't fit.
    pub fn ignored(&mut self, step: &mut Step<'_>, source: IpAddr, why: impl FnOnce() -> String) {
        self.counters.adverts_ignored += 1;
        if self.ignored_said.allows(step.now) {
            step.event(Kind::Ignored { source, why: why() });
        }
    }

    /// An advert from a sender that may turn out to be a node: it may have told clients to send
    /// there, and may never be heard again.
    pub fn unsure(&mut self, step: &mut Step<'_>) {
        self.counters.adverts_ignored += 1;
        if let State::Active(active) = &mut self.state {
            active.announce_again(step, self.plan.announce);
        }
    }

    /// An advert for this router from a sender that isn't obeyed.
    pub fn stranger(&mut self, step: &mut Step<'_>, source: IpAddr, advert: &Advert<'_>) {
        self.counters.adverts_ignored += 1;
        let ours = |address| self.plan.addresses.iter().any(|own| own.address() == address);
        if let State::Active(active) = &mut self.state
            && advert.addresses.iter().any(ours)
        {
            // It may tell clients to send there.
            active.announce_again(step, self.plan.announce);
        }
        if self.stranger_said.allows(step.now) {
            step.event(Kind::Stranger { source, priority: advert.priority });
        }
    }
}

/// Whether two obstacles are worth two events: another kind or another check, not another detail.
fn differs(before: Option<&Obstacle>, after: Option<&Obstacle>) -> bool {
    match (before, after) {
        (
            Some(Obstacle::CheckFailed { check: a, .. }),
            Some(Obstacle::CheckFailed { check: b, .. }),
        ) => a != b,
        (a, b) => a != b,
    }
}
