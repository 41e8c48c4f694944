//! One node's part: who writes, what lies on disk, which job is next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ordered::Ordered;
use super::{
    Command, Config, Effect, Effects, Event, Id, Input, Job, Line, Message, Problem, Saved, Source,
    State, TreeHash, Trigger, Trouble,
};
use crate::types::Instant;

/// What wasn't the generation's fault is tried again after this, then twice as long, up to the last.
pub(super) const AGAIN: Duration = Duration::from_secs(2);
const AGAIN_AT_MOST: Duration = Duration::from_secs(120);

/// Between one holder of the VIP and the next there is a moment without one, at adverts each second up to
/// 4 s: only what lasts longer is told.
const LULL: Duration = Duration::from_secs(4);

/// Peers that are remembered; a cluster has a few dozen nodes.
const PEERS: usize = 256;

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub connected: bool,
    /// What it said last.
    pub state: Option<State>,
    /// Its last offer, while it is connected.
    pub(super) offer: Option<Line>,
    /// Whether it may be applied.
    pub(super) released: bool,
}

/// Why nothing is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Operator,
    /// Too much is gone of the tree that lies on the writer's disk.
    Deletion {
        tree: TreeHash,
        words: String,
    },
    /// The writer's line and ours have nothing in common.
    Unrelated {
        writer: String,
        theirs: Id,
    },
    /// This node writes, but has never had a generation, and a peer has.
    Newborn {
        peer: String,
    },
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operator => f.write_str("by `standin sync hold`, until `standin sync resume`"),
            Self::Deletion { words, .. } => write!(
                f,
                "{words}. Nothing was shipped; if that is meant: standin sync resume \
                 --accept-deletion"
            ),
            Self::Unrelated { writer, theirs } => write!(
                f,
                "generation {theirs} of {writer} has nothing in common with what is here. Nothing \
                 was changed; to take it (what is here is kept in the history): standin sync resume"
            ),
            Self::Newborn { peer } => write!(
                f,
                "this node writes, but has never had a generation, and {peer} has. Nothing was \
                 shipped; make {peer} active, or, to ship what is here: standin sync resume"
            ),
        }
    }
}

/// Everything that `standin sync status` shows of a node's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub node: String,
    pub writing: bool,
    pub state: State,
    pub line: Line,
    pub peers: BTreeMap<String, Peer>,
    pub ordered: Option<Ordered>,
    pub busy: Option<Job>,
}

/// One node's part in the synchronisation.
#[derive(Clone, Debug)]
pub struct Replica {
    pub(super) config: Config,
    pub(super) holder: Option<String>,
    pub(super) disk: Option<(TreeHash, Option<String>)>,
    pub(super) line: Line,
    pub(super) staged: Option<Id>,
    pub(super) tested: Option<Id>,
    pub(super) proven: Option<Id>,
    pub(super) loaded: Option<TreeHash>,
    /// Since that proof other files have lain here, and nginx may have loaded them.
    pub(super) strayed: bool,
    pub(super) highest: u64,
    pub(super) problem: Option<Problem>,
    told_problem: Option<Problem>,
    pub(super) again: Option<Instant>,
    pub(super) patience: Duration,
    pub(super) hold: bool,
    pub(super) held: Option<Held>,
    /// What an operator has said yes to: a tree with losses, an unrelated generation's tree.
    pub(super) accepted: Option<TreeHash>,
    /// Ship what is here although a peer has generations.
    pub(super) reborn: bool,
    /// A tree on disk that is in the history.
    pub(super) kept: Option<TreeHash>,
    /// The fork that was told.
    pub(super) told_fork: Option<Id>,
    pub(super) test_asked: Option<Id>,
    /// The tree that couldn't be kept; it is tried again with everything else.
    pub(super) unkept: Option<TreeHash>,
    pub(super) undo: Option<(Id, String)>,
    /// The generation that was to be undone and couldn't be.
    pub(super) stays: Option<Id>,
    /// The apply that is under way goes back.
    pub(super) undoing: bool,
    /// The line before the last apply: this node has had its end, and can go back to it.
    pub(super) before: Line,
    pub(super) rollback: Option<TreeHash>,
    /// The line that the generation being applied ends.
    pub(super) applying: Line,
    pub(super) ordered: Option<Ordered>,
    /// The generation at which an `apply` stopped, and why; it was undone.
    pub(super) stopped: Option<(Id, String)>,
    pub(super) busy: Option<Job>,
    pub(super) peers: BTreeMap<String, Peer>,
    said: State,
    saved: Saved,
    /// The writer that was told last.
    told_writer: Option<String>,
    /// When it is to be told that there is none.
    nobody_at: Option<Instant>,
}

impl Replica {
    #[must_use]
    pub fn new(config: Config, saved: Saved) -> Self {
        Self {
            config,
            holder: None,
            disk: None,
            staged: saved.line.tip(),
            tested: None,
            line: saved.line.clone(),
            proven: saved.proven,
            loaded: None,
            strayed: saved.strayed,
            highest: saved.highest,
            problem: saved.problem.clone().filter(|it| !still_there(it, &saved.line)),
            told_problem: saved.problem.clone(),
            again: None,
            patience: AGAIN,
            hold: saved.held,
            held: saved.held.then_some(Held::Operator),
            accepted: None,
            reborn: false,
            kept: None,
            told_fork: None,
            test_asked: None,
            unkept: None,
            undo: None,
            stays: None,
            undoing: false,
            before: Line::default(),
            rollback: None,
            applying: Line::default(),
            ordered: None,
            stopped: None,
            busy: None,
            peers: BTreeMap::new(),
            said: State::default(),
            saved,
            told_writer: None,
            nobody_at: None,
        }
    }

    /// Whom files are taken from; this node itself, where it writes.
    #[must_use]
    pub fn writer(&self) -> Option<&str> {
        match &self.config.source {
            Source::Active => self.holder.as_deref(),
            Source::Node(name) => Some(name),
        }
    }

    #[must_use]
    pub fn writes(&self) -> bool {
        self.writer() == Some(self.config.node.as_str())
    }

    /// What this node's nginx demonstrably runs with.
    #[must_use]
    pub const fn proven(&self) -> Option<Id> {
        self.proven
    }

    /// When a tick is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let ordered = self.ordered.as_ref().map(Ordered::deadline);
        self.again.into_iter().chain(ordered).chain(self.nobody_at).min()
    }

    #[must_use]
    pub fn view(&self) -> View {
        View {
            node: self.config.node.clone(),
            writing: self.writes(),
            state: self.state(),
            line: self.line.clone(),
            peers: self.peers.clone(),
            ordered: self.ordered.clone(),
            busy: self.busy.clone(),
        }
    }

    /// Whether a node has proven the writer's generation: a planned switchover waits for that.
    /// `None`: nothing is known of it.
    #[must_use]
    pub fn current(&self, node: &str) -> Option<bool> {
        let own = node == self.config.node;
        let desired = self.desired()?;
        let proven = if own {
            self.proven
        } else {
            self.peers.get(node).and_then(|peer| peer.state.as_ref())?.proven
        };
        Some(proven == Some(desired))
    }

    pub fn step(&mut self, now: Instant, input: Input, effects: &mut Effects) {
        match input {
            Input::Tick => {
                if self.again.is_some_and(|at| at <= now) {
                    // What is wrong is said until it is well again.
                    (self.again, self.unkept) = (None, None);
                }
                if self.nobody_at.take_if(|at| *at <= now).is_some() {
                    self.told_writer = None;
                    effects.push(Effect::Event(Event::Writer(None)));
                }
            }
            Input::Config(config) => {
                let before = self.writer().map(str::to_owned);
                self.config = config;
                if !self.written_by(now, before, effects) {
                    // Another trigger releases what was held back.
                    self.offer_all(effects);
                }
            }
            Input::Holder(holder) => self.held_by(now, holder, effects),
            Input::Disk { tree, loss } => self.looked(tree, loss),
            Input::Loaded(tree) => self.loaded = Some(tree),
            Input::Made => (self.loaded, self.proven) = (None, None),
            Input::Link { peer, up } => self.linked(peer, up, effects),
            Input::Heard { from, message } => self.heard(now, from, message, effects),
            Input::Done(outcome) => self.done(now, outcome, effects),
            Input::Command(command) => self.command(now, command, effects),
        }
        self.pursue(now, effects);
        self.tell(effects);
    }

    fn held_by(&mut self, now: Instant, holder: Option<String>, effects: &mut Effects) {
        if holder == self.holder {
            return;
        }
        let before = self.writer().map(str::to_owned);
        self.holder = holder;
        self.written_by(now, before, effects);
    }

    /// What follows from another writer than `before`. Whether there is one.
    fn written_by(&mut self, now: Instant, before: Option<String>, effects: &mut Effects) -> bool {
        let after = self.writer().map(str::to_owned);
        if before == after {
            return false;
        }
        self.nobody_at = after.is_none().then(|| now + LULL);
        if after.is_some() && after != self.told_writer {
            self.told_writer.clone_from(&after);
            effects.push(Effect::Event(Event::Writer(after)));
        }
        // What was held, held towards the writer of that time.
        if !self.hold {
            self.held = None;
        }
        self.reborn = false;
        // Both were ordered in the name of the writer of that time.
        (self.rollback, self.undo) = (None, None);
        // Who orders it again is told again that it can't be.
        self.stays = None;
        self.problem = self.problem.take().filter(|it| !still_there(it, &self.line));
        if self.writes() {
            self.offer_all(effects);
            // What a follower refused may be what the writer has to live with.
            self.problem = None;
        } else if self.ordered.take().is_some_and(|ordered| !ordered.over()) {
            let why = "this node doesn't hold the VIP any more".to_owned();
            effects.push(Effect::Event(Event::OrderFailed { why }));
        }
        true
    }

    fn looked(&mut self, tree: TreeHash, loss: Option<String>) {
        let moved = self.disk.as_ref().is_none_or(|(before, _)| *before != tree);
        if moved {
            // What nginx runs with is not what lies there now, or it has to be seen again.
            self.loaded = None;
        }
        match self.line.tip() {
            Some(tip) if tip.tree != tree => self.strayed = true,
            // It came back, and nobody knows with which of them nginx runs.
            Some(tip) if self.strayed => self.unproven(tip),
            _ => {}
        }
        if moved && matches!(self.held, Some(Held::Deletion { .. })) && !self.hold {
            self.held = None;
        }
        self.disk = Some((tree, loss));
        if let Some(ordered) = &mut self.ordered {
            ordered.scanned = true;
        }
    }

    /// Whatever was proven of it once.
    pub(super) fn unproven(&mut self, id: Id) {
        self.strayed = false;
        self.proven = self.proven.filter(|proven| *proven != id);
    }

    fn linked(&mut self, peer: String, up: bool, effects: &mut Effects) {
        if !up {
            if let Some(known) = self.peers.get_mut(&peer) {
                (known.connected, known.offer) = (false, None);
            }
            return;
        }
        if self.peers.len() >= PEERS && !self.peers.contains_key(&peer) {
            return;
        }
        self.peers.entry(peer.clone()).or_default().connected = true;
        let state = Message::State(Box::new(self.state()));
        effects.push(Effect::Send { to: peer.clone(), message: state });
        if let Some(message) = self.own_offer() {
            effects.push(Effect::Send { to: peer, message });
        }
        // A fetch that failed with the link may go well now.
        self.forget_problem(&[Trouble::Passing]);
        (self.again, self.unkept) = (None, None);
    }

    fn heard(&mut self, now: Instant, from: String, message: Message, effects: &mut Effects) {
        let undo = self.undo_order();
        let by_writer = self.writer() == Some(from.as_str());
        let Some(peer) = self.peers.get_mut(&from) else { return };
        match message {
            Message::State(state) => {
                let numbers = [state.desired, state.applied];
                let highest = numbers.into_iter().flatten().map(|id| id.number).max();
                self.highest = self.highest.max(highest.unwrap_or(0));
                if state.writer.as_deref() != Some(from.as_str()) {
                    // What it offered once is not what it has when it writes again.
                    (peer.offer, peer.released) = (None, false);
                }
                // It was away when that was undone, died meanwhile, or didn't know yet who writes.
                if let Some((_, order)) = undo.filter(|(id, _)| state.applied == Some(*id))
                    && state.writer.as_deref() == Some(self.config.node.as_str())
                {
                    effects.push(Effect::Send { to: from, message: Message::Order(order) });
                }
                peer.state = Some(*state);
            }
            Message::Offer { line, apply } => {
                self.highest = self.highest.max(line.tip().map_or(0, |id| id.number));
                peer.offer = Some(line);
                peer.released = apply;
            }
            // Orders of anybody else than the writer are nobody's.
            Message::Order(order) if by_writer => self.ordered_by(now, &from, order),
            Message::Order(_) => {}
        }
    }

    fn command(&mut self, now: Instant, command: Command, effects: &mut Effects) {
        match command {
            Command::Hold if self.hold => {}
            Command::Hold => {
                self.hold = true;
                self.hold_for(Held::Operator, effects);
            }
            Command::Resume { accept_deletion } => {
                match self.held.take() {
                    Some(Held::Deletion { tree, words }) if !accept_deletion => {
                        self.held = Some(Held::Deletion { tree, words });
                        return;
                    }
                    Some(Held::Deletion { tree, .. }) => self.accepted = Some(tree),
                    Some(Held::Unrelated { theirs, .. }) => self.accepted = Some(theirs.tree),
                    Some(Held::Newborn { .. }) => self.reborn = true,
                    Some(Held::Operator) | None => {}
                }
                self.hold = false;
                self.retry();
                effects.push(Effect::Event(Event::Resumed));
                effects.push(Effect::Scan);
            }
            // Elsewhere it would wait for a day on which nobody wants it any more.
            Command::Rollback(_) | Command::Apply if !self.writes() => {}
            Command::Rollback(tree) => self.rollback = Some(tree),
            Command::Retry => {
                // What was undone wasn't this node's fault: nothing here has mended it.
                let problem = self.problem.take();
                self.retry();
                self.problem = problem.filter(|it| it.trouble == Trouble::Undone);
            }
            Command::Apply => {
                self.ordered = Some(Ordered::new(now));
                self.problem = None;
                effects.push(Effect::Scan);
            }
        }
    }

    fn retry(&mut self) {
        self.problem = None;
        (self.again, self.unkept) = (None, None);
        self.patience = AGAIN;
        self.stays = None;
    }

    pub(super) fn hold_for(&mut self, why: Held, effects: &mut Effects) {
        if self.held.as_ref() != Some(&why) {
            effects.push(Effect::Event(Event::Held(why.to_string())));
            self.held = Some(why);
        }
    }

    pub(super) fn forget_problem(&mut self, kinds: &[Trouble]) {
        if self.problem.as_ref().is_some_and(|problem| kinds.contains(&problem.trouble)) {
            self.problem = None;
        }
    }

    pub(super) fn start(&mut self, job: Job, effects: &mut Effects) {
        self.busy = Some(job.clone());
        effects.push(Effect::Start(job));
    }

    pub(super) fn trouble(
        &mut self,
        now: Instant,
        id: Id,
        (trouble, why): (Trouble, String),
        effects: &mut Effects,
    ) {
        if matches!(trouble, Trouble::Passing | Trouble::Unproven) {
            self.again = Some(now + self.patience);
            self.patience = (self.patience * 2).min(AGAIN_AT_MOST);
        }
        let problem = Problem { id, trouble, why };
        if self.told_problem.as_ref() != Some(&problem) {
            effects.push(Effect::Event(Event::Problem(problem.clone())));
            self.told_problem = Some(problem.clone());
        }
        self.problem = Some(problem);
    }

    /// The generation that this node should have.
    pub(super) fn desired(&self) -> Option<Id> {
        if self.writes() {
            return self.line.tip();
        }
        let offer = self.writer().and_then(|writer| self.peers.get(writer)?.offer.as_ref());
        offer.and_then(Line::tip)
    }

    /// The offer of this node, where it writes and has something.
    fn own_offer(&self) -> Option<Message> {
        if !self.writes() {
            return None;
        }
        let tip = self.line.tip()?;
        let apply = match self.config.trigger {
            _ if self.stopped() == Some(tip) => false,
            Trigger::Save => true,
            Trigger::Reload => self.proven == Some(tip),
        };
        Some(Message::Offer { line: self.line.clone(), apply })
    }

    pub(super) fn offer_all(&self, effects: &mut Effects) {
        let Some(message) = self.own_offer() else { return };
        self.send_all(&message, effects);
    }

    pub(super) fn send_all(&self, message: &Message, effects: &mut Effects) {
        for (to, _) in self.peers.iter().filter(|(_, peer)| peer.connected) {
            effects.push(Effect::Send { to: to.clone(), message: message.clone() });
        }
    }

    fn state(&self) -> State {
        let applied = self.line.tip();
        let disk = self.disk.as_ref().map(|(tree, _)| *tree);
        State {
            desired: self.desired(),
            staged: self.staged,
            tested: self.tested,
            applied,
            proven: self.proven,
            drift: disk.filter(|tree| applied.is_none_or(|id| id.tree != *tree)),
            problem: self.problem.clone(),
            held: self.held.as_ref().map(ToString::to_string),
            writer: self.writer().map(str::to_owned),
        }
    }

    /// Says and saves what has changed.
    fn tell(&mut self, effects: &mut Effects) {
        // What is about to be a generation itself needs no word of it.
        let strayed = self.strayed && !matches!(self.busy, Some(Job::Take(_)));
        let saved = Saved {
            line: self.line.clone(),
            proven: self.proven,
            strayed,
            disk: self.disk().filter(|_| strayed),
            highest: self.highest,
            held: self.hold,
            problem: self.problem.clone(),
        };
        if saved != self.saved {
            self.saved = saved.clone();
            // Before anybody is told: what was said must not be forgotten by a crash.
            let at =
                effects.iter().position(|it| matches!(it, Effect::Send { .. } | Effect::Start(_)));
            effects.insert(at.unwrap_or(effects.len()), Effect::Save(saved));
        }
        let state = self.state();
        if state != self.said {
            self.said = state.clone();
            self.send_all(&Message::State(Box::new(state)), effects);
        }
    }
}

/// Whether it says of a generation that it was undone, and the way back was not gone to its end.
fn still_there(problem: &Problem, line: &Line) -> bool {
    problem.trouble == Trouble::Undone && line.tip() == Some(problem.id)
}
