//! The checkers: each holds the machines to one of the promises of the design.

pub(crate) mod clients;
mod history;
mod host;
mod overlap;
mod rivals;
mod takeover;
mod timeline;
mod witness;

use standin_core::event::Reason;
use standin_core::plan::Failback;
use standin_core::types::Priority;

use crate::clock::{Nanos, SECOND};
use crate::network::MAX_MACHINES;
use crate::scene::{Observation, Scene, Transition};

pub use clients::Clients;
pub use history::History;
pub use host::Hosts;
pub use overlap::Overlap;
pub use rivals::Rivals;
pub use takeover::Takeover;
pub use timeline::Timeline;
pub use witness::Witness;

/// After a foreign owner or a refusal the core tries again in 5 s; probes and bad clocks add some.
const RETRY: Nanos = 6 * SECOND;

/// How long nothing has gone wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet {
    pub fault_at: Nanos,
    pub drop_at: Nanos,
}

#[derive(Debug)]
pub struct Checks {
    pub overlap: Overlap,
    pub takeover: Takeover,
    pub history: History,
    pub clients: Clients,
    pub timeline: Timeline,
    pub witness: Witness,
    pub rivals: Rivals,
    pub hosts: Hosts,
    quiet: Quiet,
    due: Nanos,
    /// What was broken first.
    pub broken: Option<String>,
}

impl Checks {
    #[must_use]
    pub fn new(scene: &Scene) -> Self {
        Self {
            overlap: Overlap::default(),
            takeover: Takeover::new(scene),
            history: History::new(scene),
            clients: Clients::new(scene),
            timeline: Timeline::new(scene),
            witness: Witness::new(scene),
            rivals: Rivals::default(),
            hosts: Hosts::default(),
            quiet: Quiet::default(),
            due: 0,
            broken: None,
        }
    }

    /// When [`Checks::look`] is to be called, even if nothing happens.
    #[must_use]
    pub const fn due(&self) -> Nanos {
        self.due
    }

    pub fn saw(&mut self, scene: &Scene, seen: &[Observation]) {
        let (mut worth_a_look, mut dropped) = (false, false);
        let mut stepped = [false; MAX_MACHINES];
        for observation in seen {
            match observation {
                Observation::Dropped { from, to } => {
                    self.quiet.drop_at = scene.now;
                    self.overlap.dropped(scene, *from, *to);
                    dropped = true;
                    continue;
                }
                Observation::Disturbed => self.disturbed(scene),
                Observation::Presence { machine, vip } => {
                    self.overlap.presence(scene, *machine, *vip);
                    self.clients.changed(scene.now, *vip);
                    self.timeline.presence(scene, *vip);
                }
                Observation::Transition(told) => {
                    self.clients.changed(scene.now, told.vip);
                    self.fail(self.stays_put(scene, told));
                    let fault = self.history.transition(scene, told);
                    self.fail(fault);
                    if matches!(told.reason, Reason::Failback { .. }) {
                        // What follows from it is no instability.
                        self.quiet.fault_at = scene.now;
                    }
                }
                Observation::Standing { .. } => {
                    self.quiet.fault_at = scene.now;
                    self.takeover.disturbed(scene.now);
                }
                Observation::Stepped { machine } => {
                    stepped[usize::from(*machine)] = true;
                    continue;
                }
                Observation::Gone { machine } => self.history.gone(*machine),
                Observation::Broken(what) => self.fail(Some(what.clone())),
            }
            worth_a_look = true;
        }
        // One thing that happens may be several steps; the events of all of them were seen now.
        for machine in scene.places().filter(|machine| stepped[usize::from(*machine)]) {
            let fault = self.history.stepped(scene, machine);
            self.fail(fault);
            self.fail(takeover::standings(scene, machine));
        }
        if worth_a_look {
            self.fail_all(scene);
        }
        if worth_a_look || dropped {
            self.due = self.next_due(scene);
        }
    }

    pub fn look(&mut self, scene: &Scene) {
        self.fail_all(scene);
        self.due = self.next_due(scene);
    }

    fn fail_all(&mut self, scene: &Scene) {
        let overlap = self.overlap.look(scene);
        self.fail(overlap);
        let takeover = self.takeover.look(scene, self.quiet);
        self.fail(takeover);
        let rivals = self.rivals.look(scene);
        self.fail(rivals);
        let witness = self.witness.look(scene);
        self.fail(witness);
        let clients = self.clients.look(scene);
        self.fail(clients);
        let hosts = self.hosts.look(scene);
        self.fail(hosts);
    }

    fn next_due(&self, scene: &Scene) -> Nanos {
        let first = self.overlap.due(scene).min(self.takeover.due(scene));
        let first =
            first.min(self.clients.due()).min(self.witness.due(scene)).min(self.rivals.due());
        first.min(self.hosts.due(scene))
    }

    fn disturbed(&mut self, scene: &Scene) {
        self.quiet.fault_at = scene.now;
        self.overlap.disturbed(scene.now);
        self.rivals.disturbed();
        self.takeover.disturbed(scene.now);
        self.clients.disturbed(scene.now);
    }

    fn fail(&mut self, what: Option<String>) {
        if self.broken.is_none() {
            self.broken = what;
        }
    }

    /// Nothing moves when nothing happens; nothing moves back when `failback = "never"`.
    fn stays_put(&self, scene: &Scene, told: &Transition) -> Option<String> {
        let Transition { machine, vip, to, ref reason, .. } = *told;
        let name = &scene.machines[usize::from(machine)].name;
        let router = scene.router(machine, vip)?;
        if matches!(reason, Reason::Failback { .. }) {
            let owner = router.priority() == Priority::OWNER;
            let file = scene.machines[usize::from(machine)].file.vips.iter();
            let never = file
                .filter(|plan| plan.name == router.plan().name)
                .any(|plan| plan.failback == Failback::Never);
            return (never && !owner).then(|| {
                format!("failback = \"never\", but {name} took {} back", scene.name(vip))
            });
        }
        let patience = takeover::patience(scene, vip) + RETRY;
        let since = self.quiet.fault_at.max(self.quiet.drop_at);
        let quiet = scene.now.saturating_sub(since);
        (quiet > patience && scene.network.whole() && scene.network.spike == 0).then(|| {
            format!(
                "stability: nothing happened for {} ms, but {name} became {to} for {} ({reason:?})",
                quiet / 1_000_000,
                scene.name(vip),
            )
        })
    }
}

fn nanos(duration: std::time::Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}
