//! Runs the operator's scripts: in order, one at a time for each VIP, with a deadline.
//!
//! They get keepalived's arguments, `INSTANCE name STATE priority` with its old words for the
//! states, so that the scripts that people have go on working; the environment says more.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use standin_config::model::Notify;
use standin_core::event::{Role, Standing};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::checks::script::{Script, Starts};

/// Changes that may wait behind a slow script; of more than these the oldest matter least.
const WAITING: usize = 64;

/// keepalived's words, which scripts compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Active,
    Backup,
    Fault,
    Stop,
}

impl State {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Active => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
        }
    }

    /// The state that a role and a standing mean; `None` while it isn't clear yet.
    pub(crate) const fn of(role: Role, standing: Standing, stopping: bool) -> Option<Self> {
        match (role, standing) {
            (Role::Idle, _) if stopping => Some(Self::Stop),
            (Role::Idle, _) | (Role::Backup, Standing::Ineligible) => Some(Self::Fault),
            (Role::Active, _) => Some(Self::Active),
            (Role::Backup, Standing::Eligible | Standing::HeldDown) => Some(Self::Backup),
            (Role::Backup, Standing::Pending) => None,
        }
    }
}

/// One call of the scripts.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) vip: String,
    pub(crate) state: State,
    pub(crate) before: Option<State>,
    pub(crate) priority: u8,
    pub(crate) reason: String,
    pub(crate) peer: Option<String>,
    pub(crate) node: String,
    pub(crate) cluster: String,
    pub(crate) addresses: String,
}

/// What became of a script, for the log.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) vip: String,
    pub(crate) text: String,
    pub(crate) ok: bool,
}

/// The queues of all VIPs.
#[derive(Debug)]
pub(crate) struct Notifier {
    section: Arc<Notify>,
    queues: BTreeMap<String, (Arc<Queue>, JoinHandle<()>)>,
    states: BTreeMap<String, State>,
    ran: mpsc::UnboundedSender<Ran>,
}

/// Calls of one VIP that wait, each with the scripts that were in force when it was made.
#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<VecDeque<(Call, Arc<Notify>)>>,
    changed: tokio::sync::Notify,
    ending: AtomicBool,
    /// Calls whose scripts haven't all run.
    open: AtomicUsize,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<(Call, Arc<Notify>)>> {
        // A panic elsewhere leaves a queue that is whole all the same.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when the oldest call had to make room.
    fn push(&self, call: Call, section: Arc<Notify>) -> bool {
        let mut waiting = self.waiting();
        let full = waiting.len() >= WAITING;
        if full {
            waiting.pop_front();
        } else {
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back((call, section));
        drop(waiting);
        self.changed.notify_one();
        !full
    }

    /// The next call; `None` once the queue is to end and nothing waits any more.
    async fn next(&self) -> Option<(Call, Arc<Notify>)> {
        loop {
            let changed = self.changed.notified();
            if let Some(next) = self.waiting().pop_front() {
                return Some(next);
            }
            if self.ending.load(Ordering::Acquire) {
                return None;
            }
            changed.await;
        }
    }
}

impl Notifier {
    pub(crate) fn new(section: Notify, ran: mpsc::UnboundedSender<Ran>) -> Self {
        Self { section: Arc::new(section), queues: BTreeMap::new(), states: BTreeMap::new(), ran }
    }

    /// Whether no script runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.queues.values().all(|(queue, _)| queue.open.load(Ordering::Relaxed) == 0)
    }

    /// Takes new scripts from the next call on; what waits runs with those of its time.
    pub(crate) fn replace(&mut self, section: Notify) {
        self.section = Arc::new(section);
    }

    /// The state that was last told for a VIP.
    pub(crate) fn state(&self, vip: &str) -> Option<State> {
        self.states.get(vip).copied()
    }

    /// The scripts know the state already.
    pub(crate) fn told(&mut self, vip: &str, state: State) {
        self.states.insert(vip.to_owned(), state);
    }

    /// Queues the scripts of `call`, if the state is a new one; false when an older call of the VIP
    /// was given up for it.
    pub(crate) fn call(&mut self, call: Call) -> bool {
        if self.states.insert(call.vip.clone(), call.state) == Some(call.state) {
            return true;
        }
        if scripts(&self.section, call.state).next().is_none() {
            return true;
        }
        let ran = &self.ran;
        let (queue, _) = self.queues.entry(call.vip.clone()).or_insert_with(|| {
            let queue = Arc::new(Queue::default());
            let task = tokio::spawn(run(Arc::clone(&queue), ran.clone()));
            (queue, task)
        });
        queue.push(call, Arc::clone(&self.section))
    }

    /// How long the scripts of a stop may take.
    pub(crate) fn patience(&self) -> Duration {
        let count = scripts(&self.section, State::Stop).count();
        self.section.timeout.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Waits until everything that was queued has run.
    pub(crate) async fn finish(&mut self) {
        let queues = std::mem::take(&mut self.queues);
        for (queue, _) in queues.values() {
            queue.ending.store(true, Ordering::Release);
            queue.changed.notify_one();
        }
        for (_, task) in queues.into_values() {
            // A panic in it has been printed.
            let _ = task.await;
        }
    }
}

fn scripts(section: &Notify, state: State) -> impl Iterator<Item = &PathBuf> {
    let own = match state {
        State::Active => &section.active,
        State::Backup => &section.backup,
        State::Fault => &section.fault,
        State::Stop => &section.stop,
    };
    own.iter().chain(&section.any)
}

async fn run(queue: Arc<Queue>, ran: mpsc::UnboundedSender<Ran>) {
    let starts = Starts::default();
    while let Some((call, section)) = queue.next().await {
        for path in scripts(&section, call.state) {
            let script = Script {
                command: arguments(path, &call),
                user: section.user.clone(),
                timeout: section.timeout,
                starts: starts.clone(),
            };
            let outcome = script.run_with(&environment(&call)).await;
            let ok = outcome.verdict == standin_core::Verdict::Pass;
            let text = format!(
                "notify {} {} {}: {}",
                path.display(),
                call.state.word(),
                if ok { "ran" } else { "failed" },
                outcome.detail
            );
            // The log has gone only when the daemon has.
            let _ = ran.send(Ran { vip: call.vip.clone(), text, ok });
        }
        queue.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn arguments(path: &std::path::Path, call: &Call) -> Vec<String> {
    vec![
        path.display().to_string(),
        "INSTANCE".into(),
        call.vip.clone(),
        call.state.word().into(),
        call.priority.to_string(),
    ]
}

fn environment(call: &Call) -> Vec<(&'static str, String)> {
    vec![
        ("STANDIN_VIP", call.vip.clone()),
        ("STANDIN_STATE", call.state.word().into()),
        ("STANDIN_OLD_STATE", call.before.map_or("", State::word).into()),
        ("STANDIN_REASON", call.reason.clone()),
        ("STANDIN_PEER", call.peer.clone().unwrap_or_default()),
        ("STANDIN_PRIORITY", call.priority.to_string()),
        ("STANDIN_NODE", call.node.clone()),
        ("STANDIN_CLUSTER", call.cluster.clone()),
        ("STANDIN_ADDRESSES", call.addresses.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_backup_a_sick_backup_and_a_holder_are_told_apart() {
        use Standing::{Eligible, Ineligible, Pending};
        assert_eq!(State::of(Role::Backup, Eligible, false), Some(State::Backup));
        assert_eq!(State::of(Role::Backup, Ineligible, false), Some(State::Fault));
        assert_eq!(State::of(Role::Active, Ineligible, false), Some(State::Active));
        assert_eq!(State::of(Role::Backup, Pending, false), None);
        assert_eq!(State::of(Role::Idle, Eligible, false), Some(State::Fault));
        assert_eq!(State::of(Role::Idle, Eligible, true), Some(State::Stop));
    }
}
