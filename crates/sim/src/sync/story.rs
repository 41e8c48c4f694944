//! What goes wrong, and what operators do.

use std::collections::BTreeSet;

use standin_core::sync::{Command, Input, Source, TreeHash, Trigger, Trouble};

use super::Sabotage;
use super::host::{Live, Loaded, Trap, Up};
use super::job::{Step, is_apply};
use super::net::Cut;
use super::shell::Cause;
use super::tree::Facts;
use super::world::{Due, World};
use crate::clock::{MILLISECOND, Nanos, SECOND};

/// How long it storms before all is healed.
const STORM: (Nanos, Nanos) = (120 * SECOND, 1_200 * SECOND);

/// Between two things that happen in a storm.
const GAPS: (Nanos, Nanos) = (20 * MILLISECOND, 60 * SECOND);

/// When operators look at what waits for them, after the storm.
const CARE: [Nanos; 5] = [20 * SECOND, 40 * SECOND, 80 * SECOND, 120 * SECOND, 160 * SECOND];

/// From the last care on: an order's step, a full scan, and the longest patience, and some.
const QUIET: Nanos = CARE[4] + 300 * SECOND;

/// Cares in which a tree that the writer's nginx can't have is mended.
const MENDS: usize = 2;

/// Trees of which the times are older than two full scans.
const OLD: Nanos = 120 * SECOND;

/// Everything that is done to a cluster; a long run has seen all of it.
pub(super) const KINDS: &[&str] = &[
    "edit on the writer",
    "edit elsewhere",
    "edits in a burst",
    "an old tree is put back",
    "mass deletion",
    "an event of inotify is lost",
    "nginx is reloaded by hand",
    "nginx dies",
    "a tree that some tests refuse",
    "a tree that some reloads refuse",
    "a tree that wants approval",
    "two are cut from each other",
    "one is cut off",
    "the cluster is cut in two",
    "a session is lost",
    "a daemon dies",
    "a machine dies",
    "the VIP is moved",
    "two holders meet",
    "hold",
    "resume",
    "rollback",
    "apply",
    "approve",
    "a disk is full",
    "the source is changed",
    "the trigger is changed",
    "a swap is undone at the start",
];

/// All kinds of events that must be seen.
pub(super) const EVENTS: &[&str] = &[
    "generation_taken",
    "generation_applied",
    "generation_proven",
    "generation_refused",
    "drift",
    "kept",
    "fork",
    "sync_held",
    "sync_resumed",
    "writer",
    "apply_done",
    "apply_failed",
    "generation_undone",
];

/// What an operator does at a host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operator {
    Edit,
}

/// The number of a care.
pub(super) type Care = usize;

#[derive(Debug, Default)]
pub(super) struct Story {
    calm: bool,
    /// Trees that operators can put back.
    written: Vec<TreeHash>,
    seen: BTreeSet<TreeHash>,
}

impl World {
    pub(super) fn begin(&mut self) {
        self.story.calm = false;
        self.later(GAPS, Due::Act);
        self.later(STORM, Due::Calm);
    }

    pub(super) fn act(&mut self) {
        if self.story.calm {
            return;
        }
        self.later(GAPS, Due::Act);
        let hosts = u64::try_from(self.hosts.len()).unwrap_or(1);
        let host = u8::try_from(self.random.below(hosts)).unwrap_or(0);
        let writer = self.rightful().unwrap_or(host);
        let often = if self.random.chance(600) { writer } else { host };
        match self.random.below(100) {
            0..25 => self.edited(writer, "edit on the writer"),
            25..31 => self.edited(host, "edit elsewhere"),
            31..34 => self.burst(often),
            34..37 => self.put_old(often),
            37..40 => self.deleted(often),
            40..50 => self.reload_by_hand(often),
            50..52 => self.nginx_dies(host),
            52..59 => self.cut_something(host),
            59..61 => self.lose_session(host),
            61..65 => self.kill(host),
            65..73 => self.set_trap(host),
            73..77 => {
                self.fault("the VIP is moved");
                self.switch_to(host);
            }
            77..79 => self.hold(host),
            79..83 => self.resume(host, true),
            83..87 => self.roll_back(writer),
            87..93 => self.order_apply(writer),
            93..95 => self.approve(host),
            95..97 => self.fill(host),
            97 => self.change_source(),
            98 => self.change_trigger(),
            _ => self.resume(host, false),
        }
    }

    /// A tree that somebody has made of what lies there.
    fn written(&mut self, host: u8, files: u64) -> TreeHash {
        let all = (1 << self.hosts.len()) - 1;
        let some = |per_mille: u64, kind: &'static str, faults: &mut Self| {
            if !faults.random.chance(per_mille) {
                return 0;
            }
            faults.fault(kind);
            u8::try_from(faults.random.below(256)).unwrap_or(0) & all
        };
        let refused = some(80, "a tree that some tests refuse", self);
        let unloadable = some(60, "a tree that some reloads refuse", self);
        let asks = some(25, "a tree that wants approval", self);
        let newest = self.now;
        let facts = Facts { files, newest, refused, unloadable, asks, half: false };
        let tree = self.trees.make(facts);
        // Who wrote it has it approved.
        self.host(host).approved.insert(tree);
        tree
    }

    fn files(&mut self, host: u8) -> u64 {
        let files = self.trees.facts(self.of(host).read()).files;
        files + self.random.below(4) + if files < 60 { 20 } else { 0 }
    }

    fn put(&mut self, host: u8, tree: TreeHash) {
        if self.of(host).whole().is_none() {
            return;
        }
        self.note(host, || format!("EDIT {tree}"));
        let now = self.now;
        self.host(host).put(Live::Whole(tree));
        self.host(host).changed = now;
        if self.story.seen.insert(tree) {
            self.story.written.push(tree);
        }
        if self.random.chance(30) {
            self.fault("an event of inotify is lost");
        } else if self.of(host).running() {
            self.host(host).hinted = true;
            self.look_at_disk(host, Cause::Hint);
        }
    }

    fn edited(&mut self, host: u8, kind: &'static str) {
        self.fault(kind);
        let files = self.files(host);
        let tree = self.written(host, files);
        self.put(host, tree);
    }

    fn burst(&mut self, host: u8) {
        self.fault("edits in a burst");
        let life = self.of(host).life;
        let mut at = self.now;
        for _ in 0..self.random.within(2, 8) {
            at += self.random.scaled(MILLISECOND, 3 * SECOND);
            self.queue.push(at, Due::Operator { host, life, what: Operator::Edit });
        }
    }

    fn put_old(&mut self, host: u8) {
        let written = self.story.written.len();
        if written == 0 {
            return;
        }
        let place = self.random.index(written);
        let tree = self.story.written[place];
        let lost = self.trees.lost(self.of(host).read(), tree);
        // What is put back with times of just now, or while nobody looks, can't be told from an edit.
        let old = self.trees.facts(tree).newest + OLD < self.now && self.of(host).running();
        if old && !lost {
            self.fault("an old tree is put back");
            self.host(host).approved.insert(tree);
            self.put(host, tree);
        }
    }

    fn deleted(&mut self, host: u8) {
        self.fault("mass deletion");
        let files = self.trees.facts(self.of(host).read()).files / 2;
        let tree = self.written(host, files.max(1));
        self.put(host, tree);
    }

    fn reload_by_hand(&mut self, host: u8) {
        let Some(tree) = self.of(host).whole() else { return };
        // In the middle of an apply it would be a proof of another's work.
        if self.of(host).nginx.is_none()
            || !self.trees.good(tree, host)
            || is_apply(self.of(host).underway.as_ref())
        {
            return;
        }
        self.fault("nginx is reloaded by hand");
        self.note(host, || format!("RELOAD {tree}"));
        let now = self.now;
        self.host(host).nginx = Some(Loaded { tree, at: now, by_hand: true, unknown: false });
        self.nudge(host);
    }

    fn nginx_dies(&mut self, host: u8) {
        self.fault("nginx dies");
        self.note(host, || "NGINX DIES".to_owned());
        self.host(host).nginx = None;
        self.nudge(host);
        self.later((SECOND, 60 * SECOND), Due::StartNginx { host });
    }

    fn cut_something(&mut self, host: u8) {
        let hosts = self.numbers().end;
        let link_only = self.random.chance(500);
        let (kind, cut) = match self.random.below(3) {
            0 => {
                let other = (host + 1) % hosts;
                let pair = Some((host.min(other), host.max(other)));
                ("two are cut from each other", Cut { mask: 0, pair, link_only })
            }
            1 => ("one is cut off", Cut { mask: 1 << host, pair: None, link_only }),
            _ => {
                let mask = u8::try_from(self.random.below(256)).unwrap_or(0);
                ("the cluster is cut in two", Cut { mask, pair: None, link_only })
            }
        };
        self.fault(kind);
        self.note(host, || format!("CUT {cut:?}"));
        let lasts = self.random.scaled(50 * MILLISECOND, 240 * SECOND);
        self.cut(cut, lasts);
    }

    fn lose_session(&mut self, host: u8) {
        self.fault("a session is lost");
        let other = (host + 1) % self.numbers().end;
        self.break_session(host, other);
    }

    fn kill(&mut self, host: u8) {
        if self.of(host).up == Up::Off {
            return;
        }
        let machine = self.random.chance(400);
        self.fault(if machine { "a machine dies" } else { "a daemon dies" });
        self.crash(host, machine);
    }

    fn set_trap(&mut self, host: u8) {
        let step = Step::TRAPS[self.random.index(Step::TRAPS.len())];
        let machine = self.random.chance(500);
        self.host(host).trap = Some(Trap { step, machine });
    }

    fn command(&mut self, host: u8, command: Command) {
        self.note(host, || format!("COMMAND {command:?}"));
        self.feed(host, Input::Command(command));
    }

    fn hold(&mut self, host: u8) {
        if !self.of(host).running() {
            return;
        }
        self.fault("hold");
        if self.sabotage != Sabotage::IgnoresHold {
            self.command(host, Command::Hold);
        }
        let held = self.of(host).saved.held || self.sabotage == Sabotage::IgnoresHold;
        self.check.holds[usize::from(host)] = held && self.of(host).running();
    }

    fn resume(&mut self, host: u8, accept_deletion: bool) {
        let Some(replica) = &self.of(host).replica else { return };
        let Some(held) = replica.view().state.held else { return };
        // As the command line does.
        if held.contains("--accept-deletion") && !accept_deletion {
            return;
        }
        self.fault("resume");
        if let Some(disk) = self.of(host).disk.filter(|_| accept_deletion) {
            self.check.accepted.insert(disk.tree);
        }
        self.check.holds[usize::from(host)] = false;
        self.command(host, Command::Resume { accept_deletion });
    }

    fn roll_back(&mut self, host: u8) {
        let Some(replica) = &self.of(host).replica else { return };
        // As the command line does.
        if replica.writer().is_some() && !replica.writes() {
            return;
        }
        let ids = replica.view().line.ids().to_vec();
        if ids.is_empty() {
            return;
        }
        let tree = ids[self.random.index(ids.len().min(5))].tree;
        self.fault("rollback");
        self.command(host, Command::Rollback(tree));
    }

    fn order_apply(&mut self, host: u8) {
        let Some(replica) = &self.of(host).replica else { return };
        let under_way = replica.view().ordered.is_some_and(|ordered| !ordered.over());
        if replica.writes() && !under_way {
            self.fault("apply");
            self.command(host, Command::Apply);
        }
    }

    fn approve(&mut self, host: u8) {
        let Some(replica) = &self.of(host).replica else { return };
        let problem = replica.view().state.problem;
        if let Some(problem) = problem.filter(|it| it.trouble == Trouble::Approval) {
            self.fault("approve");
            self.host(host).approved.insert(problem.id.tree);
            self.command(host, Command::Retry);
        }
    }

    fn fill(&mut self, host: u8) {
        self.fault("a disk is full");
        self.host(host).full = true;
        self.later((SECOND, 120 * SECOND), Due::Room { host });
    }

    fn change_source(&mut self) {
        self.fault("the source is changed");
        let named = self.random.index(self.hosts.len());
        self.source = if self.random.chance(650) {
            Source::Active
        } else {
            Source::Node(self.hosts[named].name.clone())
        };
        self.configure();
    }

    fn change_trigger(&mut self) {
        self.fault("the trigger is changed");
        self.trigger = if self.trigger == Trigger::Save { Trigger::Reload } else { Trigger::Save };
        self.configure();
    }

    /// Every node reads the file again; one that is off reads it when it starts.
    fn configure(&mut self) {
        for host in self.numbers() {
            self.later((MILLISECOND, 2 * SECOND), Due::Config { host });
        }
    }

    pub(super) fn operate(&mut self, host: u8, what: Operator) {
        match what {
            Operator::Edit if self.story.calm => {}
            Operator::Edit => {
                let files = self.files(host);
                let tree = self.written(host, files);
                self.put(host, tree);
            }
        }
    }

    pub(super) fn calm(&mut self) {
        self.story.calm = true;
        self.note(0, || "ALL IS HEALED".to_owned());
        self.mend_all();
        self.configure();
        for host in self.numbers() {
            let it = self.host(host);
            it.trap = None;
            it.full = false;
            if it.up == Up::Off {
                self.later((MILLISECOND, 5 * SECOND), Due::Start { host });
            }
        }
        for (care, after) in CARE.into_iter().enumerate() {
            self.queue.push(self.now + after, Due::Care(care));
        }
        self.queue.push(self.now + QUIET, Due::Judge);
    }

    /// Operators see to what waits for them.
    pub(super) fn care(&mut self, care: Care) {
        for host in self.numbers() {
            if self.of(host).nginx.is_none() && self.of(host).whole().is_some() {
                self.start_nginx(host);
            }
            self.resume(host, true);
            self.approve(host);
        }
        let Some(writer) = self.rightful() else { return };
        let Some(tree) = self.of(writer).whole() else { return };
        if !self.trees.good(tree, writer) && care < MENDS {
            let files = self.files(writer);
            let newest = self.now;
            let tree = self.trees.make(Facts { files, newest, ..Facts::default() });
            self.put(writer, tree);
        }
        let proven = self.of(writer).replica.as_ref().is_some_and(|replica| {
            let state = replica.view().state;
            state.proven.is_some() && state.proven == state.applied
        });
        let serves = self.of(writer).nginx.map(|nginx| nginx.tree) == self.of(writer).whole();
        if !proven || !serves {
            self.reload_by_hand(writer);
        }
    }

    pub(super) fn judge(&mut self) {
        self.in_order();
        self.begin();
    }
}
