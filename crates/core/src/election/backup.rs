//! Backup: waits for the active to fall silent, to leave, or to be outranked by health.

use std::net::IpAddr;
use std::time::Duration;

use super::active::Active;
use super::{Heard, State, Step, VirtualRouter, timers};
use crate::Effect;
use crate::event::{Kind, Party, Reason, Standing};
use crate::plan::{Failback, Version};
use crate::types::{Family, Instant, Mac, NodeId, Priority};

/// Probes before a first claim, as RFC 5227 §2.1.1 has it.
const PROBES: u8 = 3;

/// The wait between probes when they don't fit into a wait that runs anyway: several times the
/// round trip of any LAN.
const PROBE_GAP: Duration = Duration::from_millis(50);

/// Silence after probes says nothing about the address any more after this.
const PROBES_GO_STALE: Duration = Duration::from_secs(2);

/// A foreign owner is asked again after this.
const FOREIGN_RETRY: Duration = Duration::from_secs(5);

/// A claim that waits for the peers' answers is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Adverts of one family may be missing this many intervals before the family is called deaf.
const DEAF_INTERVALS: u32 = 10;

#[derive(Clone, Debug)]
pub(super) struct Backup {
    /// From when the wait for a claim counts: the last advert, or the beginning.
    base: Instant,
    /// A claim that was due then is looked at again at this time.
    not_before: Instant,
    cause: Cause,
    probing: Probing,
    foreign: Option<Foreign>,
    /// When each family was last heard, and whether it was called deaf.
    families: [Hearing; 2],
    following_since: Instant,
}

/// What the last advert said, and so why the next claim would be made.
#[derive(Clone, Copy, Debug)]
enum Cause {
    /// No advert since this node became a backup.
    Nobody,
    /// With priority 0 it left, long ago, and nobody was heard since.
    Following {
        who: Party,
        priority: Priority,
    },
    Released {
        who: Party,
    },
    /// The active holds the VIP at priority 1.
    LastResort {
        who: Party,
    },
}

#[derive(Clone, Copy, Debug)]
struct Probing {
    sent: u8,
    next_at: Instant,
    gap: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Foreign {
    mac: Mac,
    retry_at: Instant,
    /// Whether it was said that it keeps this node from its claim.
    said: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hearing {
    last: Option<Instant>,
    deaf: bool,
}

impl Backup {
    /// A backup that knows of no active.
    pub(super) fn alone(now: Instant) -> Self {
        Self {
            base: now,
            not_before: now,
            cause: Cause::Nobody,
            probing: Probing { sent: 0, next_at: now, gap: PROBE_GAP },
            foreign: None,
            families: [Hearing::default(); 2],
            following_since: now,
        }
    }

    pub(super) fn following(now: Instant, who: Party, priority: Priority) -> Self {
        let cause = if priority == Priority::LAST_RESORT {
            Cause::LastResort { who }
        } else {
            Cause::Following { who, priority }
        };
        Self { cause, ..Self::alone(now) }
    }

    pub(super) const fn followed(&self) -> Option<(Party, Priority)> {
        match self.cause {
            Cause::Nobody | Cause::Released { .. } => None,
            Cause::Following { priority: Priority::RELEASE, .. } => None,
            Cause::Following { who, priority } => Some((who, priority)),
            Cause::LastResort { who } => Some((who, Priority::LAST_RESORT)),
        }
    }

    /// Not before it had time to be heard: until then it is an active peer, most often.
    pub(super) const fn foreign_owner(&self) -> Option<Mac> {
        match self.foreign {
            Some(Foreign { mac, said: true, .. }) => Some(mac),
            Some(_) | None => None,
        }
    }

    /// Whether `who` is the one whose leaving moves the VIP here, and has not been heard to be
    /// active since it `released` the VIP.
    pub(super) fn awaits(&self, who: Party, released: Instant) -> bool {
        match self.cause {
            Cause::Released { who: known } => known == who,
            Cause::Following { who: known, .. } => known == who && self.base < released,
            Cause::Nobody | Cause::LastResort { .. } => false,
        }
    }

    /// Of an active that left the file it isn't known any more who it is: its next advert says.
    pub(super) fn renumber(&mut self, moved: impl Fn(NodeId) -> Option<NodeId>) {
        let who = match &mut self.cause {
            Cause::Nobody => return,
            Cause::Following { who, .. } | Cause::Released { who } | Cause::LastResort { who } => {
                who
            }
        };
        let Party::Node(node) = *who else { return };
        match moved(node) {
            Some(node) => *who = Party::Node(node),
            None => self.cause = Cause::Nobody,
        }
    }

    /// Since when a silence lasts that may end in a claim.
    pub(super) const fn silent_since(&self) -> Option<Instant> {
        match self.cause {
            Cause::Nobody | Cause::Following { .. } => Some(self.base),
            Cause::Released { .. } | Cause::LastResort { .. } => None,
        }
    }

    /// The active is known otherwise than by its adverts.
    pub(super) fn follow(&mut self, who: Party, priority: Priority) {
        if self.followed().is_none() {
            self.cause = Cause::Following { who, priority };
        }
        self.foreign = None;
    }

    /// A sign of the active, other than an advert.
    pub(super) const fn heard_at(&mut self, now: Instant) {
        self.base = now;
    }

    pub(super) fn heard_after(&self, at: Instant) -> bool {
        self.base > at
    }

    /// `who` has left, as is known otherwise than by its advert.
    pub(super) const fn released(&mut self, who: Party, at: Instant) {
        self.cause = Cause::Released { who };
        self.base = at;
    }

    const fn hurry(&self) -> bool {
        matches!(self.cause, Cause::Released { .. } | Cause::LastResort { .. })
    }
}

impl VirtualRouter {
    pub(super) fn backup_deadline(&self, backup: &Backup) -> Instant {
        self.claim_deadline(backup).min(self.heartbeat_deadline())
    }

    fn claim_deadline(&self, backup: &Backup) -> Instant {
        if self.introduced {
            let due = |wait| (backup.base + wait).max(backup.not_before);
            let due = self.backup_wait(backup).map_or(Instant::FAR, due);
            return due.min(self.rival_deadline()).min(self.lookout_deadline());
        }
        if let Some(foreign) = backup.foreign {
            return foreign.retry_at;
        }
        let probing = &backup.probing;
        if probing.sent < PROBES {
            return probing.next_at;
        }
        self.wait(backup.hurry())
            .map_or(Instant::FAR, |wait| (backup.base + wait).max(probing.next_at))
            .max(backup.not_before)
    }

    fn backup_wait(&self, backup: &Backup) -> Option<Duration> {
        self.wait(backup.hurry())
            .map(|wait| wait.max(self.shadow_patience()).max(self.link_patience()))
    }

    /// A claim is due that can't be made yet.
    fn look_again(&mut self, now: Instant) {
        if let State::Backup(backup) = &mut self.state {
            backup.not_before = now + LOOK_AGAIN;
        }
    }

    /// Spreads the probes over the wait that precedes a claim anyway.
    pub(super) fn begin_probing(&mut self, now: Instant) {
        let gap = timers::active_down(self.plan.version, self.interval, self.priority) / 4;
        if let State::Backup(backup) = &mut self.state {
            backup.probing = Probing { sent: 0, next_at: now, gap };
        }
    }

    pub(super) fn backup_tick(&mut self, step: &mut Step<'_>, late: Duration) {
        self.shadow_tick(step);
        self.lookout_tick(step);
        if late >= self.interval {
            // Adverts may have come and gone while nobody listened: their absence proves nothing.
            return self.wait_anew(step.now);
        }
        if !self.introduced && !self.probed(step) {
            return;
        }
        let State::Backup(backup) = &self.state else { return };
        let Some(wait) = self.backup_wait(backup) else { return };
        if backup.base + wait > step.now {
            return;
        }
        let silence = !matches!(backup.cause, Cause::Released { .. } | Cause::LastResort { .. });
        if silence && !self.may_end_silence(backup.base + wait) {
            return self.look_again(step.now);
        }
        let reason = match (self.standing, backup.cause) {
            (Standing::Ineligible | Standing::Pending, _) => Reason::NobodyEligible,
            (_, Cause::Nobody) => Reason::NobodyThere,
            (_, Cause::Following { who, .. }) => {
                Reason::Silence { who, lasted: step.now.since(backup.base) }
            }
            (_, Cause::Released { who }) => Reason::Released { who },
            (_, Cause::LastResort { who }) => Reason::LastResortOver { who },
        };
        self.claim(step, reason);
    }

    /// Drives the probes; true once they are through and fresh, and nobody answered.
    fn probed(&mut self, step: &mut Step<'_>) -> bool {
        let State::Backup(backup) = &mut self.state else { return false };
        if backup.foreign.is_some_and(|foreign| foreign.retry_at > step.now) {
            return false;
        }
        let had_foreign = backup.foreign;
        let probing = &mut backup.probing;
        if probing.sent == PROBES && step.now.since(probing.next_at) > PROBES_GO_STALE {
            *probing = Probing { sent: 0, next_at: step.now, gap: PROBE_GAP };
        }
        if probing.next_at > step.now {
            return false;
        }
        if probing.sent < PROBES {
            probing.sent += 1;
            probing.next_at = step.now + probing.gap;
            if let Some(foreign) = &mut backup.foreign {
                foreign.retry_at = probing.next_at;
            }
            step.effects.push(Effect::Probe { vip: step.vip });
            return false;
        }
        if let Some(foreign) = had_foreign {
            backup.foreign = None;
            if foreign.said {
                backup.base = step.now;
                step.event(Kind::ForeignOwnerGone);
                return false;
            }
        }
        true
    }

    pub(super) fn backup_sighted(&mut self, step: &mut Step<'_>, address: IpAddr, mac: Mac) {
        if self.shadows(mac)
            && let State::Backup(backup) = &mut self.state
        {
            backup.base = step.now;
        }
        if self.introduced {
            return;
        }
        // An active peer answers as well, and its advert may just not have come yet. One that dies
        // before it does must not be waited for longer than any other.
        let patience = self.patience();
        let State::Backup(backup) = &mut self.state else { return };
        let patient_until = backup.base + patience;
        let over = patient_until <= step.now;
        let known = backup.foreign.filter(|foreign| foreign.mac == mac);
        let retry_at = if over { step.now + FOREIGN_RETRY } else { patient_until };
        if over && !known.is_some_and(|foreign| foreign.said) {
            step.event(Kind::ForeignOwner { address, mac });
        }
        backup.foreign = Some(Foreign { mac, retry_at, said: over });
        backup.probing = Probing { sent: 0, next_at: retry_at, gap: PROBE_GAP };
    }

    /// How long an active peer that answers for the address may take to be heard.
    fn patience(&self) -> Duration {
        timers::active_down(self.plan.version, self.interval, self.priority)
    }

    /// RFC 9568 §6.4.2 (450) to (490).
    pub(super) fn backup_heard(&mut self, step: &mut Step<'_>, heard: &Heard<'_>) {
        let priority = heard.advert.priority;
        if self.follows_better(step.now, heard.who, priority) {
            return;
        }
        if priority == Priority::RELEASE && self.doubts(heard.who, step.now) {
            return;
        }
        let eligible = self.standing == Standing::Eligible;
        if priority > Priority::LAST_RESORT
            && eligible
            && priority < self.priority
            && self.may_fail_back(step.now)
        {
            self.claim(step, Reason::Failback { from: heard.who });
            return;
        }
        if self.plan.version == Version::V3 && priority != Priority::RELEASE {
            self.interval = heard.advert.interval.as_duration();
        }
        let able = matches!(self.standing, Standing::Eligible | Standing::HeldDown);
        // Adverts come: they tell more than answers.
        self.rival = None;
        self.by_link = None;
        // A priority 0 that came before this one is refuted, or repeated.
        self.doubted = None;
        let State::Backup(backup) = &mut self.state else { return };
        let who = heard.who;
        let waits_already = able && matches!(backup.cause, Cause::LastResort { .. });
        let heard_nobody = backup.followed().is_none();
        let another = backup.followed().is_none_or(|(known, _)| known != who);
        backup.foreign = None;
        backup.cause = match priority {
            Priority::RELEASE => Cause::Released { who },
            Priority::LAST_RESORT => Cause::LastResort { who },
            priority => Cause::Following { who, priority },
        };
        if !(waits_already && priority == Priority::LAST_RESORT) {
            backup.base = step.now;
        }
        if heard_nobody {
            backup.following_since = step.now;
        }
        self.hear_family(step, heard);
        if another && priority != Priority::RELEASE {
            self.look_out(step.now, who);
        }
    }

    /// Whether this node still hears an active with no worse a claim than the sender's.
    ///
    /// In a partial cut two nodes are active and this one hears both: the better one counts. The
    /// worse one's adverts are no reason to claim, and its leaving says nothing about the other.
    fn follows_better(&self, now: Instant, sender: Party, priority: Priority) -> bool {
        let State::Backup(backup) = &self.state else { return false };
        let Cause::Following { who, priority: followed } = backup.cause else { return false };
        let fresh = now.since(backup.base) < self.interval * timers::MISSED_ADVERTS;
        // It said goodbye since, which the link just hasn't confirmed yet: the sender follows it.
        let leaves = self
            .doubted
            .is_some_and(|(node, at)| Party::Node(node) == who && !backup.heard_after(at));
        who != sender && followed >= priority && fresh && !leaves
    }

    fn may_fail_back(&self, now: Instant) -> bool {
        match self.plan.failback {
            // RFC 9568 §6.1: the owner always preempts.
            _ if self.priority == Priority::OWNER => true,
            Failback::Never => false,
            Failback::After(wait) => {
                // Who took it a moment ago, perhaps because an operator said so, keeps it as long.
                let State::Backup(backup) = &self.state else { return false };
                now.since(self.eligible_since.max(backup.following_since)) >= wait
            }
        }
    }

    /// Names a family over which nothing comes although the other one is heard.
    fn hear_family(&mut self, step: &mut Step<'_>, heard: &Heard<'_>) {
        let patience = self.interval * DEAF_INTERVALS;
        let both = Family::BOTH.iter().all(|family| self.usable.families[family.index()]);
        let State::Backup(backup) = &mut self.state else { return };
        let this = &mut backup.families[heard.family.index()];
        this.last = Some(step.now);
        if std::mem::take(&mut this.deaf) {
            step.event(Kind::HeardAgain { family: heard.family });
        }
        if !both {
            return;
        }
        let other = match heard.family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        let that = &mut backup.families[other.index()];
        let quiet_since = that.last.unwrap_or(backup.following_since).max(backup.following_since);
        if !that.deaf && step.now.since(quiet_since) > patience {
            that.deaf = true;
            step.event(Kind::Deaf { family: other, who: heard.who });
        }
    }

    /// This node became eligible, or stopped being so, while backup.
    pub(super) fn backup_judged(&mut self, step: &mut Step<'_>, was: Standing) {
        let able = |standing| matches!(standing, Standing::Eligible | Standing::HeldDown);
        let newly_able = able(self.standing) && !able(was);
        let State::Backup(backup) = &mut self.state else { return };
        match backup.cause {
            // Several may become eligible together: the skew orders them, from now on.
            Cause::LastResort { .. } if newly_able => backup.base = step.now,
            // Nobody was ever followed: this is still the wait of the start.
            Cause::Nobody if was == Standing::Pending && self.standing == Standing::Ineligible => {
                backup.base = step.now;
            }
            _ => {}
        }
    }

    /// What was not heard until now proves nothing.
    fn wait_anew(&mut self, now: Instant) {
        if let State::Backup(backup) = &mut self.state {
            backup.base = now;
            if !matches!(backup.cause, Cause::Following { .. }) {
                backup.cause = Cause::Nobody;
            }
        }
        self.probe_anew(now);
    }

    /// A cut may have healed: who left before it did may have been followed by another one.
    pub(super) fn wait_for_the_other_side(&mut self, now: Instant) {
        if let State::Backup(backup) = &mut self.state {
            backup.base = now;
            if let Cause::Released { who } | Cause::LastResort { who } = backup.cause {
                backup.cause = Cause::Following { who, priority: Priority::RELEASE };
            }
        }
        self.probe_anew(now);
    }

    /// Probes of before may have been lost with everything else.
    fn probe_anew(&mut self, now: Instant) {
        let foreign_known =
            matches!(&self.state, State::Backup(backup) if backup.foreign.is_some());
        if !self.introduced && !foreign_known {
            self.begin_probing(now);
        }
    }

    /// RFC 9568 §6.4.2 (400) to (435): becomes active.
    pub(super) fn claim(&mut self, step: &mut Step<'_>, reason: Reason) {
        if self.standing == Standing::HeldDown {
            // Nobody who is better wants it: damping must not keep the VIP from the healthy.
            self.standing = Standing::Eligible;
            self.obstacle = None;
            self.hold_until = None;
            self.eligible_since = step.now;
        }
        self.introduced = true;
        self.holding = true;
        self.handovers.leaves(None);
        self.counters.takeovers += 1;
        self.interval = timers::spoken(self.plan.version, self.plan.advert_interval);
        self.enter(step, State::Active(Active::new(step.now)), reason);
        self.advertise(step);
        step.effects.push(Effect::Hold { vip: step.vip });
    }
}
