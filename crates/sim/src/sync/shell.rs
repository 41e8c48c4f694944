//! The rules of `src/sync/driver.rs`, around a real replica.

use standin_core::sync::{
    Command, Effect, Id, Input, Job, Message, Outcome, Replica, Saved, TreeHash,
};
use standin_core::types::Instant;

use super::Sabotage;
use super::host::{Disk, Up};
use super::job::{Step, Underway, is_apply};
use super::world::{Due, World};
use crate::clock::{MILLISECOND, Nanos, SECOND};

/// Between two readings of all files without a reason.
const FULL_SCAN: Nanos = 60 * SECOND;

/// Quiet time before a change is read.
pub(super) const SETTLE: Nanos = 200 * MILLISECOND;

/// Steps of one replica at one time; the busiest step of a healthy one has a few.
const STEPS_AT_ONCE: u32 = 500;

/// What a reading has found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    tree: TreeHash,
    newest: Nanos,
    cause: Cause,
    /// Something was changed since the reading before.
    hinted: bool,
    began: Nanos,
}

/// Why the files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Start,
    Hint,
    FullScan,
    Asked,
}

impl World {
    pub(super) fn ready(&mut self, host: u8) {
        let config = self.config(host);
        self.restarted(host);
        let it = self.host(host);
        it.up = Up::Running;
        let saved_at = it.saved_at;
        let Saved { strayed, disk, .. } = it.saved;
        let known = |tip: Id| if strayed { disk } else { Some(tip.tree) };
        it.had = it.saved.line.tip().map(|tip| (known(tip), saved_at));
        it.replica = Some(Replica::new(config, it.saved.clone()));
        let (life, holder) = (it.life, it.holder);
        let sessions: Vec<_> = it.sessions.iter().map(|(k, v)| (*k, v.clone())).collect();
        self.look_at_disk(host, Cause::Start);
        self.look_at_disk(host, Cause::Asked);
        let first = self.random.below(FULL_SCAN);
        self.queue.push(self.now + first, Due::FullScan { host, life });
        for (peer, session) in sessions {
            let from = self.of(peer).name.clone();
            self.feed(host, Input::Link { peer: from.clone(), up: true });
            for message in session.state.into_iter().chain(session.offer) {
                self.feed(host, Input::Heard { from: from.clone(), message });
            }
        }
        let holder = holder.map(|holder| self.of(holder).name.clone());
        self.feed(host, Input::Holder(holder));
        self.nudge(host);
    }

    /// One step of the replica, and all that follows from it.
    pub(super) fn feed(&mut self, host: u8, input: Input) {
        let now = self.of(host).instant(self.now);
        let Some(mut replica) = self.host(host).replica.take() else { return };
        let mut effects = Vec::new();
        replica.step(now, input, &mut effects);
        self.host(host).replica = Some(replica);
        if self.check.steps(host, self.now) > STEPS_AT_ONCE {
            let name = &self.of(host).name;
            let what = format!("P6: {name} takes step after step, and no time passes");
            return self.fail(what);
        }
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    if let Some(to) = self.number(&to) {
                        self.say(host, to, message);
                    }
                }
                Effect::Save(saved) => {
                    if self.trapped(host, Step::Saving) {
                        return;
                    }
                    if self.sabotage != Sabotage::SavesNothing {
                        let now = self.now;
                        let it = self.host(host);
                        (it.saved, it.saved_at) = (saved, now);
                    }
                    if self.trapped(host, Step::Saved) {
                        return;
                    }
                }
                Effect::Event(event) => self.told(host, &event),
                Effect::Scan => self.look_at_disk(host, Cause::Asked),
                Effect::Start(job) => self.begin_job(host, job),
            }
        }
        self.stepped(host);
        self.arm(host);
    }

    fn arm(&mut self, host: u8) {
        let now = self.now;
        let spins = self.sabotage == Sabotage::Spins;
        let it = self.host(host);
        let deadline = it.replica.as_ref().and_then(Replica::next_deadline);
        let at = deadline.filter(|at| *at != Instant::FAR);
        let at = at.map_or(Nanos::MAX, |at| it.clock.when(at).max(now));
        let at = if spins { now } else { at };
        if at == it.ticks_at {
            return;
        }
        it.ticks_at = at;
        it.token += 1;
        let token = it.token;
        if at != Nanos::MAX {
            self.queue.push(at, Due::Tick { host, token });
        }
    }

    pub(super) fn tick(&mut self, host: u8) {
        self.host(host).ticks_at = Nanos::MAX;
        self.feed(host, Input::Tick);
    }

    /// What the shell finds each second, where something may have changed.
    pub(super) fn saw(&mut self, host: u8) {
        let it = self.host(host);
        it.looking = false;
        let appeared = !it.nginx_seen && it.nginx.is_some();
        it.nginx_seen = it.nginx.is_some();
        it.holder = it.belief;
        let holder = it.belief.map(|holder| self.of(holder).name.clone());
        if appeared {
            self.feed(host, Input::Command(Command::Retry));
        }
        self.feed(host, Input::Holder(holder));
        self.served(host);
    }

    /// Whether this node's nginx runs with what lies on disk.
    fn served(&mut self, host: u8) {
        let it = self.of(host);
        let (Some(replica), Some(disk), Some(nginx)) = (&it.replica, it.disk, it.nginx) else {
            return;
        };
        let state = replica.view().state;
        let tip = state.applied.filter(|id| id.tree == disk.tree);
        if tip.is_none() || !it.nginx_seen {
            return;
        }
        // What was changed since the last reading may be what nginx has loaded.
        if nginx.at > disk.read.max(it.placed) {
            self.look_at_disk(host, Cause::Asked);
        } else if replica.writes() && state.proven != tip && nginx.at > disk.since {
            self.feed(host, Input::Loaded(disk.tree));
        }
    }

    pub(super) fn full_scan(&mut self, host: u8) {
        let life = self.of(host).life;
        self.queue.push(self.now + FULL_SCAN, Due::FullScan { host, life });
        self.look_at_disk(host, Cause::FullScan);
    }

    pub(super) fn read(&mut self, host: u8, cause: Cause) {
        let quiet = self.now.saturating_sub(self.of(host).changed);
        if cause == Cause::Hint && quiet < SETTLE {
            return self.look_at_disk(host, cause);
        }
        let it = self.host(host);
        let (tree, hinted) = (it.read(), std::mem::take(&mut it.hinted));
        let newest = self.trees.facts(tree).newest;
        let life = self.of(host).life;
        let read = Reading { tree, newest, cause, hinted, began: self.now };
        // One thread reads and tells: in this order.
        let told_at = self.now + self.random.scaled(MILLISECOND / 10, 20 * MILLISECOND);
        let it = self.host(host);
        it.told_at = told_at.max(it.told_at + 1);
        let at = it.told_at;
        self.queue.push(at, Due::Report { host, life, read });
    }

    /// Something was changed, and is as it was: what nginx has loaded meanwhile may be either.
    fn touched(&mut self, host: u8) {
        let now = self.now;
        let it = self.host(host);
        let (Some(nginx), Some(disk)) = (it.nginx, &mut it.disk) else { return };
        if nginx.at > disk.read.max(it.placed) {
            disk.since = now;
            self.feed(host, Input::Made);
        }
    }

    pub(super) fn reported(&mut self, host: u8, reading: Reading) {
        let Reading { tree, newest, cause, hinted, began } = reading;
        if hinted && self.of(host).disk.is_some_and(|disk| disk.tree == tree) {
            self.touched(host);
        }
        let now = self.now;
        let it = self.of(host);
        let Some(replica) = &it.replica else { return };
        if is_apply(it.underway.as_ref()) {
            return;
        }
        let tip = replica.view().state.applied;
        // It may have been read before the swap; another look follows.
        if it.unsure && tip.is_none_or(|id| id.tree != tree) && began <= it.placed {
            return;
        }
        let since = if cause == Cause::Hint { now.saturating_sub(SETTLE) } else { newest };
        let before = it.disk.map(|disk| (Some(disk.tree), disk.read)).or(it.had);
        // Times of a tree that was known before don't say when it was put here.
        let known_tree = it.disk.is_none() && it.history.contains(&tree);
        let since = since.max(newest).max(it.placed).max(match before {
            Some((known, _)) if known != Some(tree) && known_tree => now,
            // Another one than before, and no younger: an old tree was put back, some time.
            Some((known, read))
                if known != Some(tree) && newest <= read && cause != Cause::Hint =>
            {
                now
            }
            Some((known, read)) if known == Some(tree) => read,
            _ => 0,
        });
        // Another tree may have lain there in between, and nginx have loaded that.
        let same = it.disk.filter(|disk| disk.tree == tree && disk.read > it.placed);
        let since = same.map_or(since, |disk| disk.since);
        let lost = tip.is_some_and(|tip| self.trees.lost(tip.tree, tree));
        let loss = (lost && self.sabotage != Sabotage::HidesLosses)
            .then(|| "too many files are gone".to_owned());
        let it = self.host(host);
        it.unsure &= began <= it.placed;
        it.disk = Some(Disk { tree, since, read: now });
        self.feed(host, Input::Disk { tree, loss });
        self.served(host);
    }

    pub(super) fn finished(&mut self, host: u8, outcome: Outcome) {
        if self.trapped(host, Step::Told) {
            return;
        }
        let now = self.now;
        let it = self.host(host);
        it.job += 1;
        let underway = it.underway.take();
        let applied = is_apply(underway.as_ref());
        let loaded = matches!(underway, Some(Underway { job: Job::Load(_), .. }));
        it.unsure |= applied;
        if applied || loaded && outcome == Outcome::Done {
            it.placed = now;
        }
        let moved = outcome == Outcome::Moved;
        self.note(host, || format!("{:?}: {outcome:?}", underway.map(|it| it.job)));
        self.feed(host, Input::Done(outcome));
        if applied || moved {
            self.look_at_disk(host, Cause::Asked);
        }
    }

    pub(super) fn configured(&mut self, host: u8) {
        let config = self.config(host);
        self.feed(host, Input::Config(config));
    }

    pub(super) fn said(&mut self, host: u8, message: &Message) {
        if let Message::Offer { line, .. } = message {
            self.check.offered(host, line.tip());
            let falls = line.ids().windows(2).all(|pair| pair[0].number > pair[1].number);
            if !falls {
                let name = &self.of(host).name;
                let what = format!("P6: {name} offers a line that nobody can read: {line:?}");
                self.fail(what);
            }
        }
    }
}
