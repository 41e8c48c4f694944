//! Replicas of a few nodes that hear each other, on one virtual clock.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::*;
use crate::types::Instant;

const fn tree(n: u8) -> TreeHash {
    TreeHash([n; 32])
}

mod faults;

/// A machine: its replica, its disk, what its nginx runs, and what is in its history.
struct Machine {
    replica: Replica,
    disk: TreeHash,
    loaded: TreeHash,
    history: BTreeSet<TreeHash>,
    saved: Saved,
    events: Vec<Event>,
    alive: bool,
}

/// Machines that hear each other, with trees that nginx refuses.
struct Rig {
    now: Instant,
    machines: BTreeMap<String, Machine>,
    wire: VecDeque<(String, String, Message)>,
    cut: BTreeSet<(String, String)>,
    bad: BTreeSet<TreeHash>,
    /// Refused by the reload only, and only there.
    bad_load: BTreeSet<(String, TreeHash)>,
    config: Config,
    /// Whose jobs take their time, and what they are at.
    slow: BTreeMap<String, Vec<Job>>,
    /// Whose nginx doesn't run.
    down: BTreeSet<String>,
    /// What nobody may take from a peer, until an operator approves of it.
    unapproved: BTreeSet<TreeHash>,
}

impl Rig {
    fn new(names: &[&str]) -> Self {
        let config = Config { node: String::new(), source: Source::Active, trigger: Trigger::Save };
        let mut rig = Self {
            now: Instant::from_nanos(1),
            machines: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            bad: BTreeSet::new(),
            bad_load: BTreeSet::new(),
            config,
            slow: BTreeMap::new(),
            down: BTreeSet::new(),
            unapproved: BTreeSet::new(),
        };
        for name in names {
            rig.start(name, Saved::default(), tree(0));
        }
        for name in names {
            rig.connect(name);
        }
        rig
    }

    fn start(&mut self, name: &str, saved: Saved, disk: TreeHash) {
        let config = Config { node: name.to_owned(), ..self.config.clone() };
        let replica = Replica::new(config, saved.clone());
        let history =
            self.machines.remove(name).map_or_else(BTreeSet::new, |before| before.history);
        let events = Vec::new();
        let machine = Machine { replica, disk, loaded: disk, history, saved, events, alive: true };
        self.machines.insert(name.to_owned(), machine);
    }

    fn names(&self) -> Vec<String> {
        self.machines.keys().cloned().collect()
    }

    fn connect(&mut self, name: &str) {
        for other in self.names() {
            if other != name && self.machines[&other].alive {
                self.link(name, &other, true);
            }
        }
    }

    fn link(&mut self, one: &str, other: &str, up: bool) {
        self.cut.remove(&(one.to_owned(), other.to_owned()));
        self.cut.remove(&(other.to_owned(), one.to_owned()));
        if !up {
            self.cut.insert((one.to_owned(), other.to_owned()));
            self.cut.insert((other.to_owned(), one.to_owned()));
            self.wire.retain(|(from, to, _)| {
                !(from == one && to == other || from == other && to == one)
            });
        }
        for (at, peer) in [(one, other), (other, one)] {
            self.input(at, Input::Link { peer: peer.to_owned(), up });
        }
    }

    fn holder(&mut self, seen_by: &[&str], holder: &str) {
        for name in seen_by {
            self.input(name, Input::Holder(Some(holder.to_owned())));
        }
        self.run();
    }

    fn edit(&mut self, name: &str, to: TreeHash) {
        self.machines.get_mut(name).unwrap().disk = to;
        self.input(name, Input::Disk { tree: to, loss: None });
        self.run();
    }

    fn command(&mut self, name: &str, command: Command) {
        self.input(name, Input::Command(command));
        self.run();
    }

    fn input(&mut self, name: &str, input: Input) {
        let mut inputs = VecDeque::from([input]);
        for round in 0.. {
            assert!(round < 10_000, "{name} never comes to rest");
            let Some(input) = inputs.pop_front() else { return };
            let machine = self.machines.get_mut(name).unwrap();
            let mut effects = Vec::new();
            machine.replica.step(self.now, input, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Send { to, message } => {
                        if !self.cut.contains(&(name.to_owned(), to.clone())) {
                            self.wire.push_back((name.to_owned(), to, message));
                        }
                    }
                    Effect::Save(saved) => self.machines.get_mut(name).unwrap().saved = saved,
                    Effect::Event(event) => {
                        self.machines.get_mut(name).unwrap().events.push(event);
                    }
                    Effect::Scan => {
                        let tree = self.machines[name].disk;
                        inputs.push_back(Input::Disk { tree, loss: None });
                    }
                    Effect::Start(job) if self.slow.contains_key(name) => {
                        self.slow.get_mut(name).unwrap().push(job);
                    }
                    Effect::Start(job) => {
                        let outcome = self.job(name, &job);
                        inputs.push_back(Input::Done(outcome));
                    }
                }
            }
        }
    }

    fn job(&mut self, name: &str, job: &Job) -> Outcome {
        let refused = || Outcome::Failed { trouble: Trouble::Refused, why: "emerg".to_owned() };
        let bad_load = |tree: TreeHash, it: &Self| it.bad_load.contains(&(name.to_owned(), tree));
        match job {
            Job::Take(id) => assert_eq!(self.machines[name].disk, id.tree),
            Job::Keep(tree) => assert_eq!(self.machines[name].disk, *tree),
            Job::Fetch { id, from } => {
                assert!(!self.cut.contains(&(name.to_owned(), from.clone())));
                assert!(self.machines[from].history.contains(&id.tree), "it has what it offers");
                if self.unapproved.contains(&id.tree) {
                    let why = "it brings what runs code".to_owned();
                    return Outcome::Failed { trouble: Trouble::Approval, why };
                }
            }
            Job::Test(id) => {
                return if self.bad.contains(&id.tree) { refused() } else { Outcome::Done };
            }
            Job::Load(id) => {
                if self.bad.contains(&id.tree) || bad_load(id.tree, self) {
                    return refused();
                }
                self.machines.get_mut(name).unwrap().loaded = id.tree;
                return Outcome::Done;
            }
            Job::Apply { id, over } => {
                let machine = &self.machines[name];
                if machine.disk != *over {
                    return Outcome::Moved;
                }
                let known = machine.history.contains(&machine.disk) || machine.disk == id.tree;
                assert!(known, "{name}: what is overwritten is in the history");
                assert!(machine.history.contains(&id.tree));
                if self.bad.contains(&id.tree) || bad_load(id.tree, self) {
                    return refused();
                }
                let machine = self.machines.get_mut(name).unwrap();
                machine.disk = id.tree;
                if self.down.contains(name) {
                    return Outcome::Unproven("nginx doesn't run".to_owned());
                }
                machine.loaded = id.tree;
                return Outcome::Done;
            }
        }
        let tree = match job {
            Job::Keep(tree) => *tree,
            Job::Take(id) | Job::Fetch { id, .. } => id.tree,
            _ => unreachable!(),
        };
        self.machines.get_mut(name).unwrap().history.insert(tree);
        Outcome::Done
    }

    fn run(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "they never come to rest");
            let Some((from, to, message)) = self.wire.pop_front() else { return };
            if self.machines[&to].alive {
                self.input(&to, Input::Heard { from, message });
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        for name in self.names() {
            self.input(&name, Input::Tick);
        }
        self.run();
    }

    fn state(&self, name: &str) -> State {
        self.machines[name].replica.view().state
    }

    fn disk(&self, name: &str) -> TreeHash {
        self.machines[name].disk
    }

    fn told(&self, name: &str, kind: &str) -> usize {
        self.machines[name].events.iter().filter(|event| event.kind() == kind).count()
    }
}

fn pair() -> Rig {
    let mut rig = Rig::new(&["n1", "n2"]);
    rig.holder(&["n1", "n2"], "n1");
    rig.edit("n2", tree(99));
    rig.edit("n1", tree(1));
    rig
}

#[test]
fn a_save_on_the_active_is_proven_on_the_backup_and_what_lay_there_is_kept() {
    let mut rig = pair();
    assert_eq!(rig.disk("n2"), tree(1));
    assert!(rig.machines["n2"].history.contains(&tree(99)));
    assert_eq!(rig.told("n2", "kept"), 1);
    let state = rig.state("n2");
    assert_eq!(state.proven, state.desired);
    assert_eq!(rig.machines["n1"].replica.current("n2"), Some(true));
    // The active itself is proven only when its nginx has loaded it.
    assert_eq!(rig.state("n1").proven, None);
    rig.input("n1", Input::Loaded(tree(1)));
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
}

#[test]
fn a_refused_generation_is_not_tried_again_until_something_changes() {
    let mut rig = pair();
    rig.bad.insert(tree(2));
    rig.edit("n1", tree(2));
    assert_eq!(rig.disk("n2"), tree(1));
    let problem = rig.machines["n1"].replica.view().peers["n2"].state.clone().unwrap().problem;
    assert_eq!(problem.unwrap().why, "emerg");
    assert_eq!(rig.machines["n1"].replica.current("n2"), Some(false));
    for _ in 0..100 {
        rig.wait(Duration::from_secs(60));
    }
    assert_eq!(rig.told("n2", "generation_refused"), 1);
    rig.edit("n1", tree(3));
    assert_eq!(rig.disk("n2"), tree(3));
    // The same tree, once the host is mended.
    rig.edit("n1", tree(2));
    assert_eq!(rig.disk("n2"), tree(3));
    rig.bad.clear();
    rig.command("n2", Command::Retry);
    assert_eq!(rig.disk("n2"), tree(2));
}

#[test]
fn drift_on_a_backup_is_kept_and_overwritten() {
    let mut rig = pair();
    rig.edit("n2", tree(50));
    assert_eq!(rig.disk("n2"), tree(1));
    assert!(rig.machines["n2"].history.contains(&tree(50)));
    assert_eq!(rig.told("n2", "drift"), 1);
}

#[test]
fn drift_stays_while_nobody_writes_and_is_kept_all_the_same() {
    let mut rig = pair();
    rig.link("n1", "n2", false);
    rig.edit("n2", tree(50));
    assert_eq!(rig.disk("n2"), tree(50));
    assert!(rig.machines["n2"].history.contains(&tree(50)));
    rig.link("n1", "n2", true);
    rig.run();
    assert_eq!(rig.disk("n2"), tree(1));
}

#[test]
fn two_writers_after_a_cut_are_both_kept_and_the_active_wins_loudly() {
    let mut rig = pair();
    rig.link("n1", "n2", false);
    rig.holder(&["n2"], "n2");
    rig.edit("n1", tree(10));
    rig.edit("n2", tree(20));
    assert_eq!((rig.disk("n1"), rig.disk("n2")), (tree(10), tree(20)));
    rig.holder(&["n2"], "n1");
    rig.link("n1", "n2", true);
    rig.run();
    assert_eq!(rig.disk("n2"), tree(10));
    assert!(rig.machines["n2"].history.contains(&tree(20)));
    assert_eq!(rig.told("n2", "fork"), 1);
    // Its line goes on from the winner's.
    rig.edit("n1", tree(11));
    assert_eq!(rig.disk("n2"), tree(11));
    assert_eq!(rig.told("n2", "fork"), 1);
}

#[test]
fn offers_of_a_node_that_does_not_hold_the_vip_are_not_followed() {
    let mut rig = pair();
    // n1 believes that it still writes; n2 sees another holder.
    rig.holder(&["n2"], "n3");
    rig.edit("n1", tree(7));
    assert_eq!(rig.disk("n2"), tree(1));
    rig.input(
        "n2",
        Input::Heard {
            from: "n1".into(),
            message: Message::Order(Order::Undo {
                id: rig.state("n2").applied.unwrap(),
                why: String::new(),
            }),
        },
    );
    assert_eq!(rig.disk("n2"), tree(1));
    rig.holder(&["n2"], "n1");
    assert_eq!(rig.disk("n2"), tree(7));
}

#[test]
fn a_node_that_was_away_or_crashed_catches_up() {
    let mut rig = pair();
    rig.link("n1", "n2", false);
    for n in 2..9 {
        rig.edit("n1", tree(n));
    }
    let (saved, disk) = (rig.machines["n2"].saved.clone(), rig.disk("n2"));
    rig.start("n2", saved, disk);
    rig.input("n2", Input::Disk { tree: disk, loss: None });
    rig.link("n1", "n2", true);
    rig.holder(&["n2"], "n1");
    assert_eq!(rig.disk("n2"), tree(8));
    assert_eq!(rig.told("n2", "fork") + rig.told("n2", "drift"), 0);
}

#[test]
fn hold_keeps_everything_as_it_is_until_resume() {
    let mut rig = pair();
    rig.command("n2", Command::Hold);
    rig.edit("n1", tree(2));
    rig.edit("n2", tree(60));
    assert_eq!(rig.disk("n2"), tree(60));
    assert!(rig.state("n2").held.is_some());
    rig.command("n2", Command::Resume { accept_deletion: false });
    assert_eq!(rig.disk("n2"), tree(2));
    assert!(rig.machines["n2"].history.contains(&tree(60)));
}

#[test]
fn a_mass_deletion_is_asked_about() {
    let mut rig = pair();
    let loss = Some("9 of 10 files are gone".to_owned());
    rig.machines.get_mut("n1").unwrap().disk = tree(2);
    rig.input("n1", Input::Disk { tree: tree(2), loss: loss.clone() });
    rig.run();
    assert_eq!(rig.disk("n2"), tree(1));
    assert!(rig.state("n1").held.unwrap().contains("9 of 10"));
    rig.command("n1", Command::Resume { accept_deletion: false });
    assert_eq!(rig.disk("n2"), tree(1));
    rig.command("n1", Command::Resume { accept_deletion: true });
    assert_eq!(rig.disk("n2"), tree(2));
    assert_eq!(rig.state("n1").held, None);
}

#[test]
fn a_new_node_that_became_active_does_not_ship_its_stock_files() {
    let mut rig = Rig::new(&["n1", "n2"]);
    rig.link("n1", "n2", false);
    rig.holder(&["n1"], "n1");
    rig.edit("n1", tree(1));
    rig.holder(&["n1", "n2"], "n2");
    rig.link("n1", "n2", true);
    rig.run();
    rig.edit("n2", tree(99));
    assert_eq!(rig.disk("n1"), tree(1));
    assert!(rig.state("n2").held.unwrap().contains("never had a generation"));
    rig.holder(&["n1", "n2"], "n1");
    assert_eq!(rig.disk("n2"), tree(1));
}

/// Two writers that have never met: n1 has tree 1, n2 has tree 2.
fn apart() -> Rig {
    let mut rig = Rig::new(&["n1", "n2"]);
    rig.link("n1", "n2", false);
    rig.holder(&["n1"], "n1");
    rig.holder(&["n2"], "n2");
    rig.edit("n1", tree(1));
    rig.edit("n2", tree(2));
    rig
}

#[test]
fn lines_without_a_common_generation_are_asked_about() {
    let mut rig = apart();
    rig.holder(&["n1"], "n2");
    rig.link("n1", "n2", true);
    rig.run();
    assert_eq!(rig.disk("n1"), tree(1));
    assert!(rig.state("n1").held.unwrap().contains("nothing in common"));
    rig.command("n1", Command::Resume { accept_deletion: false });
    assert_eq!(rig.disk("n1"), tree(2));
    assert!(rig.machines["n1"].history.contains(&tree(1)));
}

#[test]
fn a_moment_without_a_holder_is_not_told() {
    let mut rig = pair();
    let writers = |rig: &Rig| {
        let events = rig.machines["n1"].events.iter();
        let writers = events.filter_map(|event| match event {
            Event::Writer(writer) => Some(writer.clone()),
            _ => None,
        });
        writers.collect::<Vec<_>>()
    };
    let of = |name: &str| Some(name.to_owned());
    assert_eq!(writers(&rig), [of("n1")]);
    // A planned move, a takeover at adverts each second, and one that comes back at once.
    for (lasting, to) in [(10, "n2"), (3_900, "n1"), (300, "n1")] {
        rig.input("n1", Input::Holder(None));
        assert_eq!(rig.state("n1").writer, None, "nothing is taken meanwhile");
        rig.wait(Duration::from_millis(lasting));
        rig.holder(&["n1", "n2"], to);
    }
    assert_eq!(writers(&rig), [of("n1"), of("n2"), of("n1")]);
    rig.input("n1", Input::Holder(None));
    for _ in 0..3 {
        let deadline = rig.machines["n1"].replica.next_deadline();
        assert!(deadline.is_none_or(|at| at > rig.now), "{deadline:?}");
        rig.wait(Duration::from_secs(4));
    }
    rig.holder(&["n1"], "n1");
    assert_eq!(writers(&rig), [of("n1"), of("n2"), of("n1"), None, of("n1")]);
}

#[test]
fn equal_trees_with_separate_histories_become_one_history() {
    // The same files were brought to both.
    let mut rig = apart();
    rig.edit("n1", tree(7));
    rig.edit("n2", tree(3));
    rig.edit("n2", tree(7));
    rig.holder(&["n1"], "n2");
    rig.link("n1", "n2", true);
    rig.run();
    assert_eq!(rig.state("n1").held, None);
    assert_eq!(rig.state("n1").applied, rig.state("n2").applied);
    assert_eq!(rig.told("n1", "sync_held"), 0, "{:?}", rig.machines["n1"].events);
    // From here on it is followed as ever.
    rig.edit("n2", tree(8));
    assert_eq!(rig.disk("n1"), tree(8));
    // Other files are asked about; brought here by hand they are no conflict any more.
    let mut rig = apart();
    rig.holder(&["n1"], "n2");
    rig.link("n1", "n2", true);
    rig.run();
    assert!(rig.state("n1").held.is_some());
    rig.edit("n1", tree(2));
    assert_eq!(rig.state("n1").held, None);
    assert_eq!(rig.state("n1").applied, rig.state("n2").applied);
    assert!(rig.machines["n1"].history.contains(&tree(1)));
}

#[test]
fn apply_goes_to_the_backups_first_and_to_the_active_last() {
    let mut rig = Rig::new(&["n1", "n2", "n3"]);
    rig.holder(&["n1", "n2", "n3"], "n1");
    rig.edit("n2", tree(0));
    rig.edit("n3", tree(0));
    rig.edit("n1", tree(1));
    rig.command("n1", Command::Apply);
    assert_eq!(rig.machines["n1"].loaded, tree(1));
    assert_eq!(rig.told("n1", "apply_done"), 1);
    // With a reload that only one backup refuses: all of it is undone.
    rig.config.trigger = Trigger::Reload;
    for name in ["n1", "n2", "n3"] {
        let config = Config { node: name.to_owned(), ..rig.config.clone() };
        rig.input(name, Input::Config(config));
    }
    rig.bad_load.insert(("n3".to_owned(), tree(2)));
    rig.edit("n1", tree(2));
    assert_eq!(rig.disk("n2"), tree(1), "it waits for the active's reload");
    assert_eq!(rig.state("n2").staged.unwrap().tree, tree(2));
    rig.command("n1", Command::Apply);
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    assert_eq!(rig.machines["n1"].loaded, tree(1), "the active never loaded it");
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(1), tree(1)));
    // The next good one goes through.
    rig.edit("n1", tree(3));
    rig.command("n1", Command::Apply);
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(3), tree(3)));
    assert_eq!(rig.machines["n1"].loaded, tree(3));
}

#[test]
fn rollback_makes_a_new_generation_of_an_old_tree() {
    let mut rig = pair();
    rig.edit("n1", tree(2));
    rig.command("n1", Command::Rollback(tree(1)));
    assert_eq!((rig.disk("n1"), rig.disk("n2")), (tree(1), tree(1)));
    assert_eq!(rig.state("n2").applied.unwrap().number, 3);
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
}

#[test]
fn what_passes_is_tried_again_by_itself_ever_more_rarely() {
    let config =
        Config { node: "n2".into(), source: Source::Node("n1".into()), trigger: Trigger::Save };
    let mut replica = Replica::new(config, Saved::default());
    let mut now = Instant::from_nanos(1);
    let mut effects = Vec::new();
    replica.step(now, Input::Link { peer: "n1".into(), up: true }, &mut effects);
    let line = Line::default().then(Id { number: 1, tree: tree(1) });
    let offer = Message::Offer { line, apply: true };
    effects.clear();
    replica.step(now, Input::Heard { from: "n1".into(), message: offer }, &mut effects);
    let mut tries = 0;
    for _ in 0..3_600 {
        let fetches = |it: &Effect| matches!(it, Effect::Start(Job::Fetch { .. }));
        if effects.iter().any(fetches) {
            tries += 1;
            effects.clear();
            let failed = Outcome::Failed { trouble: Trouble::Passing, why: "no route".into() };
            replica.step(now, Input::Done(failed), &mut effects);
            continue;
        }
        effects.clear();
        now = now + Duration::from_secs(1);
        if replica.next_deadline().is_some_and(|at| at <= now) {
            replica.step(now, Input::Tick, &mut effects);
        }
    }
    assert!((20..60).contains(&tries), "{tries} tries in an hour");
}
