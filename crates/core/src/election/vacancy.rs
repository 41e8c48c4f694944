//! Waiting for an address to fall vacant, and giving it back when its old owner shows again.
//!
//! ```text
//!   Backup: probe ── answered ──▶ wait, count from nought
//!                 └─ three in a row unanswered, eligible ──▶ Active: probes on
//!   Backup ◀── somebody answers, or this node isn't healthy any more ──┘
//! ```
//! For an old machine that speaks no VRRP and is switched off by hand. While it is on, an address that
//! a peer holds is as little vacant: its kernel answers probes as well.

use std::net::IpAddr;
use std::time::Duration;

use super::backup::Backup;
use super::{State, Step, VirtualRouter};
use crate::Effect;
use crate::event::{Kind, Reason, Standing};
use crate::types::{Instant, Mac};

/// Probes in a row that nobody answers: one or two may be lost on the way.
const UNANSWERED: u8 = 3;

/// The wait after the last of them: a LAN answers in a few milliseconds, and the address is to be
/// answered for within 50.
const LAST_WAIT: Duration = Duration::from_millis(30);

/// A node that was heard this recently is a rival, whose adverts decide, and no old owner.
const RIVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) struct Vacancy {
    gap: Duration,
    unanswered: u8,
    /// A probe is out; whether somebody has shown since.
    asked: bool,
    answered: bool,
    next_at: Instant,
    owner: Option<Mac>,
    rival_at: Option<Instant>,
}

/// What is known of an address that is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Who answered last.
    pub owner: Option<Mac>,
    /// Probes in a row, up to three, that nobody answered.
    pub unanswered: u8,
}

impl VirtualRouter {
    /// Begins to wait for the addresses to fall vacant, with a probe each `gap`; `None` ends that, and
    /// what is held by then is kept.
    pub fn await_vacancy(&mut self, step: &mut Step<'_>, gap: Option<Duration>) {
        let was = self.vacancy.take();
        self.vacancy = gap.map(|gap| Vacancy {
            gap: gap.max(LAST_WAIT),
            unanswered: 0,
            asked: false,
            answered: false,
            next_at: step.now,
            owner: was.and_then(|was| was.owner),
            rival_at: None,
        });
        if was.is_some() != self.vacancy.is_some() {
            step.event(Kind::AwaitingVacancy { on: self.vacancy.is_some() });
        }
        if was.is_some() && self.vacancy.is_none() && matches!(self.state, State::Backup(_)) {
            // Silence until now proves nothing: whoever is active is heard soon.
            self.introduced = false;
            self.state = State::Backup(Backup::alone(step.now));
            self.begin_probing(step.now);
        }
    }

    /// `None` when the addresses aren't waited for.
    #[must_use]
    pub fn awaited(&self) -> Option<Awaited> {
        let vacancy = self.vacancy.as_ref()?;
        Some(Awaited { owner: vacancy.owner, unanswered: vacancy.unanswered })
    }

    /// How often they are asked for; `None` when they aren't waited for.
    #[must_use]
    pub fn awaits(&self) -> Option<Duration> {
        self.vacancy.map(|vacancy| vacancy.gap)
    }

    pub(super) fn vacancy_deadline(&self) -> Option<Instant> {
        self.vacancy.map(|vacancy| vacancy.next_at)
    }

    pub(super) fn vacancy_tick(&mut self, step: &mut Step<'_>, late: Duration) {
        let waits = matches!(self.state, State::Backup(_));
        if matches!(self.state, State::Idle) {
            return;
        }
        let Some(vacancy) = self.vacancy.as_mut().filter(|it| it.next_at <= step.now) else {
            return;
        };
        if late >= vacancy.gap || vacancy.answered {
            // Who stood still may have missed the answer.
            vacancy.unanswered = 0;
        } else if vacancy.asked {
            vacancy.unanswered = (vacancy.unanswered + 1).min(UNANSWERED);
        }
        let vacant = vacancy.unanswered == UNANSWERED && self.standing == Standing::Eligible;
        if waits && vacant {
            let reason = Reason::Vacant { last: vacancy.owner };
            vacancy.begin_anew(step.now);
            self.claim(step, reason);
            return;
        }
        let last = waits && vacancy.unanswered == UNANSWERED - 1;
        vacancy.next_at = step.now + if last { LAST_WAIT } else { vacancy.gap };
        (vacancy.asked, vacancy.answered) = (true, false);
        step.effects.push(Effect::Probe { vip: step.vip });
    }

    /// Somebody has one of the addresses; true when there is nothing more to say about it.
    pub(super) fn vacancy_sighted(
        &mut self,
        step: &mut Step<'_>,
        address: IpAddr,
        mac: Mac,
    ) -> bool {
        let followed = self.followed().is_some();
        let Some(vacancy) = &mut self.vacancy else { return false };
        vacancy.answered = true;
        vacancy.unanswered = 0;
        match self.state {
            State::Idle => false,
            State::Backup(_) => {
                // The active of the cluster answers as well.
                if !followed && vacancy.owner.replace(mac) != Some(mac) {
                    step.event(Kind::ForeignOwner { address, mac });
                }
                true
            }
            State::Active(_) => {
                if vacancy.rival_at.is_some_and(|at| step.now.since(at) < RIVAL) {
                    return false;
                }
                vacancy.owner = Some(mac);
                self.give_back(step, Reason::OwnerBack { mac });
                true
            }
        }
    }

    /// A node advertises the VIP too.
    pub(super) fn vacancy_rival(&mut self, now: Instant) {
        if let Some(vacancy) = &mut self.vacancy {
            vacancy.rival_at = Some(now);
        }
    }

    /// Lets the addresses go and waits for them again. No peer is told to take them.
    pub(super) fn give_back(&mut self, step: &mut Step<'_>, reason: Reason) {
        if let Some(vacancy) = &mut self.vacancy {
            vacancy.begin_anew(step.now);
        }
        self.leave(step, State::Backup(Backup::alone(step.now)), reason);
        self.introduced = false;
        self.handovers.leaves(None);
    }
}

impl Vacancy {
    fn begin_anew(&mut self, now: Instant) {
        (self.unanswered, self.asked, self.answered) = (0, false, false);
        self.next_at = now + self.gap;
    }
}
