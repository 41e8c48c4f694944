//! What the simulator has found, one story each.

use super::*;

fn three() -> Rig {
    let mut rig = Rig::new(&["n1", "n2", "n3"]);
    rig.holder(&["n1", "n2", "n3"], "n1");
    rig.edit("n2", tree(0));
    rig.edit("n3", tree(0));
    rig.edit("n1", tree(1));
    rig
}

impl Rig {
    /// What a slow machine was at is done now.
    fn finish(&mut self, name: &str) {
        for job in self.slow.remove(name).unwrap() {
            let outcome = self.job(name, &job);
            self.input(name, Input::Done(outcome));
        }
        self.run();
    }

    fn problem(&self, name: &str) -> Option<Trouble> {
        self.state(name).problem.map(|problem| problem.trouble)
    }

    fn crash(&mut self, name: &str) {
        let (saved, disk) = (self.machines[name].saved.clone(), self.disk(name));
        for other in self.names() {
            if other != name {
                self.link(name, &other, false);
            }
        }
        self.start(name, saved, disk);
        self.input(name, Input::Disk { tree: disk, loss: None });
    }
}

#[test]
fn drift_is_kept_also_while_another_generation_waits_for_its_next_try() {
    let mut rig = pair();
    rig.down.insert("n2".to_owned());
    rig.edit("n1", tree(2));
    assert_eq!(rig.problem("n2"), Some(Trouble::Unproven));
    rig.edit("n2", tree(50));
    rig.edit("n1", tree(3));
    assert_eq!(rig.disk("n2"), tree(3));
    assert!(rig.machines["n2"].history.contains(&tree(50)));
}

#[test]
fn drift_that_cannot_be_kept_is_not_overwritten() {
    let mut rig = pair();
    rig.slow.insert("n2".to_owned(), Vec::new());
    rig.edit("n2", tree(50));
    rig.slow.clear();
    let full = Outcome::Failed { trouble: Trouble::Passing, why: "disk full".to_owned() };
    rig.input("n2", Input::Done(full));
    rig.edit("n1", tree(2));
    assert_eq!(rig.disk("n2"), tree(50));
    rig.wait(Duration::from_secs(3));
    assert_eq!(rig.disk("n2"), tree(2));
    assert!(rig.machines["n2"].history.contains(&tree(50)));
}

#[test]
fn a_rollback_keeps_what_was_not_taken_yet() {
    let mut rig = pair();
    rig.edit("n1", tree(2));
    rig.machines.get_mut("n1").unwrap().disk = tree(3);
    let loss = Some("9 of 10 files are gone".to_owned());
    rig.input("n1", Input::Disk { tree: tree(3), loss });
    rig.command("n1", Command::Rollback(tree(1)));
    assert_eq!((rig.disk("n1"), rig.disk("n2")), (tree(1), tree(1)));
    assert!(rig.machines["n1"].history.contains(&tree(3)));
}

#[test]
fn a_rollback_does_not_wait_until_its_node_writes_again() {
    let mut rig = pair();
    rig.edit("n1", tree(2));
    rig.command("n1", Command::Hold);
    rig.command("n1", Command::Rollback(tree(1)));
    rig.holder(&["n1", "n2"], "n2");
    rig.command("n2", Command::Rollback(tree(1)));
    rig.edit("n2", tree(5));
    rig.command("n1", Command::Resume { accept_deletion: false });
    rig.holder(&["n1", "n2"], "n1");
    assert_eq!((rig.disk("n1"), rig.disk("n2")), (tree(5), tree(5)));
}

#[test]
fn a_node_that_writes_again_is_not_taken_at_its_old_word() {
    let mut rig = pair();
    rig.holder(&["n1", "n2"], "n2");
    rig.edit("n2", tree(2));
    assert_eq!(rig.disk("n1"), tree(2));
    // n2 sees first that n1 holds the VIP again.
    rig.holder(&["n2"], "n1");
    assert_eq!(rig.disk("n2"), tree(2), "n1's offer of long ago isn't followed");
    rig.holder(&["n1"], "n1");
    assert_eq!(rig.told("n2", "fork"), 0);
    rig.edit("n1", tree(3));
    assert_eq!(rig.disk("n2"), tree(3));
}

#[test]
fn an_undo_that_comes_during_an_apply_follows_it() {
    let mut rig = three();
    rig.config.trigger = Trigger::Reload;
    for name in ["n1", "n2", "n3"] {
        let config = Config { node: name.to_owned(), ..rig.config.clone() };
        rig.input(name, Input::Config(config));
    }
    rig.run();
    rig.bad_load.insert(("n3".to_owned(), tree(2)));
    rig.edit("n1", tree(2));
    rig.input("n1", Input::Command(Command::Apply));
    // n2 is at its apply when n3 refuses it.
    while rig.state("n2").tested != rig.state("n1").applied {
        let (from, to, message) = rig.wire.pop_front().unwrap();
        rig.input(&to, Input::Heard { from, message });
    }
    rig.slow.insert("n2".to_owned(), Vec::new());
    rig.run();
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    assert!(matches!(rig.slow["n2"].as_slice(), [Job::Apply { .. }]));
    rig.finish("n2");
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(1), tree(1)));
    assert_eq!(rig.told("n2", "generation_undone"), 1);
    assert_eq!(rig.problem("n2"), Some(Trouble::Undone));
}

#[test]
fn what_was_undone_stays_undone_whatever_nginx_does() {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.down.insert("n3".to_owned());
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    rig.command("n1", Command::Apply);
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    for name in ["n2", "n3"] {
        assert_eq!((rig.disk(name), rig.problem(name)), (tree(1), Some(Trouble::Undone)));
    }
    rig.down.clear();
    rig.command("n3", Command::Retry);
    rig.wait(Duration::from_secs(300));
    assert_eq!(rig.disk("n3"), tree(1));
    // Another `apply` that fails before anybody applies doesn't bring it back.
    rig.bad.insert(tree(2));
    rig.command("n1", Command::Apply);
    rig.wait(Duration::from_secs(300));
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(1), tree(1)));
    // One that goes well does.
    rig.bad.clear();
    rig.bad_load.clear();
    rig.command("n1", Command::Apply);
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(2), tree(2)));
    assert_eq!(rig.machines["n1"].loaded, tree(2));
}

#[test]
fn who_was_away_for_what_it_came_of_can_go_back_all_the_same() {
    let mut rig = three();
    rig.link("n1", "n3", false);
    rig.edit("n1", tree(2));
    rig.edit("n1", tree(3));
    rig.link("n1", "n3", true);
    rig.run();
    assert_eq!(rig.disk("n3"), tree(3));
    let (saved, disk) = (rig.machines["n3"].saved.clone(), rig.disk("n3"));
    assert!(!rig.machines["n3"].history.contains(&tree(2)));
    for again in [false, true] {
        if again {
            // Its memory of what it had before is gone.
            rig.command("n1", Command::Apply);
            rig.bad_load.clear();
            rig.start("n3", saved.clone(), disk);
            rig.input("n3", Input::Disk { tree: disk, loss: None });
            rig.connect("n3");
            rig.holder(&["n3"], "n1");
        }
        rig.bad_load.insert(("n1".to_owned(), tree(3)));
        rig.command("n1", Command::Apply);
        assert_eq!(rig.problem("n3"), Some(Trouble::Undone));
        assert_eq!(rig.disk("n2"), tree(2));
        assert_eq!(rig.disk("n3"), if again { tree(2) } else { tree(1) });
    }
}

#[test]
fn who_was_cut_off_when_it_was_undone_goes_back_when_it_is_there_again() {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.slow.insert("n1".to_owned(), Vec::new());
    rig.command("n1", Command::Apply);
    rig.crash("n3");
    rig.slow.clear();
    rig.run();
    rig.link("n1", "n3", false);
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    rig.input("n1", Input::Done(Outcome::Done));
    // Nobody had to go back yet: only the tests were under way.
    assert_eq!(rig.disk("n2"), tree(2));
    rig.link("n1", "n3", true);
    rig.holder(&["n3"], "n1");
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    rig.slow.insert("n1".to_owned(), Vec::new());
    rig.command("n1", Command::Apply);
    let test = rig.slow.remove("n1").unwrap();
    assert!(matches!(test.as_slice(), [Job::Test(_)]));
    rig.slow.insert("n1".to_owned(), Vec::new());
    rig.input("n1", Input::Done(Outcome::Done));
    rig.run();
    assert!(matches!(rig.slow["n1"].as_slice(), [Job::Load(_)]));
    rig.crash("n3");
    rig.finish("n1");
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(1), tree(2)));
    // It doesn't know yet who writes when the link is there.
    rig.connect("n3");
    rig.run();
    rig.holder(&["n3"], "n1");
    assert_eq!((rig.disk("n3"), rig.problem("n3")), (tree(1), Some(Trouble::Undone)));
}

#[test]
fn another_source_and_another_trigger_are_told_at_once() {
    let mut rig = pair();
    let configure = |rig: &mut Rig, source: Source, trigger: Trigger| {
        for name in ["n1", "n2"] {
            let source = source.clone();
            rig.input(name, Input::Config(Config { node: name.to_owned(), source, trigger }));
        }
        rig.run();
    };
    configure(&mut rig, Source::Node("n2".to_owned()), Trigger::Save);
    rig.edit("n2", tree(2));
    assert_eq!(rig.disk("n1"), tree(2));
    rig.edit("n1", tree(60));
    assert_eq!(rig.disk("n1"), tree(2), "that is drift now");
    configure(&mut rig, Source::Active, Trigger::Reload);
    rig.edit("n1", tree(3));
    assert_eq!(rig.disk("n2"), tree(2));
    configure(&mut rig, Source::Active, Trigger::Save);
    assert_eq!(rig.disk("n2"), tree(3));
}

#[test]
fn an_apply_has_failed_when_the_active_refuses_what_it_had_loaded_once() {
    let mut rig = pair();
    rig.input("n1", Input::Loaded(tree(1)));
    rig.bad_load.insert(("n1".to_owned(), tree(1)));
    rig.command("n1", Command::Apply);
    assert_eq!((rig.told("n1", "apply_done"), rig.told("n1", "apply_failed")), (0, 1));
}

#[test]
fn a_reload_of_long_ago_proves_nothing() {
    let mut rig = pair();
    rig.input("n1", Input::Loaded(tree(1)));
    rig.edit("n1", tree(2));
    // nginx has loaded that one meanwhile, and nobody has seen it.
    rig.edit("n1", tree(1));
    assert_eq!(rig.state("n1").applied.unwrap().number, 3);
    assert_ne!(rig.state("n1").proven, rig.state("n1").applied);
    rig.input("n1", Input::Loaded(tree(1)));
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
}

#[test]
fn losses_are_judged_by_the_last_generation() {
    let mut rig = pair();
    rig.slow.insert("n1".to_owned(), Vec::new());
    rig.edit("n1", tree(2));
    // Much of it is gone while it is being taken; of the one before it nothing is.
    rig.edit("n1", tree(3));
    let mut effects = Vec::new();
    let now = rig.now;
    let replica = &mut rig.machines.get_mut("n1").unwrap().replica;
    replica.step(now, Input::Done(Outcome::Done), &mut effects);
    let starts = |it: &Effect| matches!(it, Effect::Start(_));
    assert!(effects.contains(&Effect::Scan) && !effects.iter().any(starts));
}

#[test]
fn an_order_to_a_node_that_does_not_write_leaves_no_deadline() {
    let mut rig = pair();
    rig.command("n2", Command::Apply);
    assert_eq!(rig.machines["n2"].replica.next_deadline(), None);
}

#[test]
fn an_undo_that_is_refused_is_not_ordered_over_and_over() {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.bad.insert(tree(1));
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    // It would never come to rest.
    rig.command("n1", Command::Apply);
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    assert_eq!((rig.disk("n2"), rig.problem("n2")), (tree(2), Some(Trouble::Refused)));
}

#[test]
fn an_undo_to_what_waits_for_approval_waits_with_it() {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.unapproved.insert(tree(1));
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    // It would never come to rest.
    rig.command("n1", Command::Apply);
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    assert_eq!((rig.disk("n2"), rig.problem("n2")), (tree(2), Some(Trouble::Approval)));
    rig.wait(Duration::from_secs(300));
    assert_eq!((rig.disk("n2"), rig.problem("n2")), (tree(2), Some(Trouble::Approval)));
    // It is approved of.
    rig.unapproved.clear();
    rig.command("n2", Command::Retry);
    assert_eq!((rig.disk("n2"), rig.problem("n2")), (tree(1), Some(Trouble::Undone)));
}

#[test]
fn a_node_knows_what_it_had_in_place() {
    let mut rig = pair();
    rig.edit("n1", tree(2));
    rig.edit("n1", tree(3));
    let had = |n: u8| rig.machines["n2"].replica.had(Id { number: n.into(), tree: tree(n) });
    assert_eq!((had(1), had(2), had(3)), (false, true, false));
}

#[test]
fn files_made_anew_are_not_proven_until_they_are_loaded() {
    let mut rig = pair();
    rig.input("n1", Input::Loaded(tree(1)));
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
    rig.input("n1", Input::Made);
    rig.edit("n1", tree(1));
    assert_eq!(rig.state("n1").proven, None);
    assert_eq!(rig.machines["n1"].replica.current("n1"), Some(false));
    rig.input("n1", Input::Loaded(tree(1)));
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
}

/// n3 is on its way back from generation 2 of n1, which n2 has too and knows nothing against.
fn on_its_way_back() -> Rig {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.link("n1", "n2", false);
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    rig.slow.insert("n3".to_owned(), Vec::new());
    rig.command("n1", Command::Apply);
    assert_eq!(rig.told("n1", "apply_failed"), 1);
    assert!(matches!(rig.slow["n3"].as_slice(), [Job::Fetch { .. }]));
    rig
}

#[test]
fn an_undo_that_ends_with_its_writer_is_not_said_to_have_been_done() {
    let mut rig = on_its_way_back();
    rig.holder(&["n1", "n2", "n3"], "n2");
    rig.finish("n3");
    assert_eq!((rig.disk("n3"), rig.problem("n3")), (tree(2), None));
    assert_eq!(rig.state("n3").proven, rig.state("n2").applied);
    rig.edit("n2", tree(3));
    assert_eq!(rig.disk("n3"), tree(3));
}

#[test]
fn an_undo_that_a_crash_cut_off_is_not_said_to_have_been_done() {
    let mut rig = on_its_way_back();
    rig.crash("n3");
    rig.slow.clear();
    rig.connect("n3");
    rig.holder(&["n1", "n2", "n3"], "n2");
    assert_eq!((rig.disk("n3"), rig.problem("n3")), (tree(2), None));
    assert_eq!(rig.state("n3").proven, rig.state("n2").applied);
}

#[test]
fn an_undo_that_a_crash_cut_off_is_gone_on_with() {
    let mut rig = on_its_way_back();
    rig.crash("n3");
    rig.slow.clear();
    rig.connect("n3");
    rig.holder(&["n3"], "n1");
    assert_eq!((rig.disk("n3"), rig.problem("n3")), (tree(1), Some(Trouble::Undone)));
}

#[test]
fn files_that_come_back_are_proven_anew() {
    for crashes in [false, true] {
        let mut rig = pair();
        rig.command("n2", Command::Hold);
        rig.edit("n2", tree(50));
        // By hand.
        rig.machines.get_mut("n2").unwrap().loaded = tree(50);
        if crashes {
            rig.crash("n2");
            rig.machines.get_mut("n2").unwrap().loaded = tree(50);
            rig.link("n1", "n2", true);
            rig.holder(&["n2"], "n1");
        }
        rig.edit("n2", tree(1));
        assert_eq!(rig.state("n2").proven, None);
        rig.command("n2", Command::Resume { accept_deletion: false });
        assert_eq!(rig.machines["n2"].loaded, tree(1));
        assert_eq!(rig.state("n2").proven, rig.state("n2").applied);
    }
}

#[test]
fn files_that_come_back_on_the_writer_wait_for_its_nginx() {
    let mut rig = pair();
    rig.input("n1", Input::Loaded(tree(1)));
    rig.command("n1", Command::Hold);
    rig.edit("n1", tree(50));
    rig.edit("n1", tree(1));
    rig.command("n1", Command::Resume { accept_deletion: false });
    assert_eq!(rig.state("n1").proven, None);
    rig.input("n1", Input::Loaded(tree(1)));
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
}

#[test]
fn files_that_came_back_before_they_were_overwritten_are_proven_anew() {
    let mut rig = pair();
    rig.slow.insert("n2".to_owned(), Vec::new());
    rig.edit("n2", tree(50));
    rig.machines.get_mut("n2").unwrap().loaded = tree(50);
    let keep = rig.slow.insert("n2".to_owned(), Vec::new()).unwrap();
    assert_eq!(keep, [Job::Keep(tree(50))]);
    rig.input("n2", Input::Done(Outcome::Done));
    assert!(matches!(rig.slow["n2"].as_slice(), [Job::Apply { .. }]));
    // It isn't told of that before it looks for itself.
    rig.machines.get_mut("n2").unwrap().disk = tree(1);
    rig.finish("n2");
    rig.edit("n2", tree(1));
    assert_eq!(rig.machines["n2"].loaded, tree(1));
    assert_eq!(rig.state("n2").proven, rig.state("n2").applied);
}

#[test]
fn what_nginx_does_not_run_with_is_not_proven_because_it_was_once() {
    let mut rig = pair();
    assert!(rig.state("n2").proven.is_some());
    rig.down.insert("n2".to_owned());
    rig.edit("n2", tree(50));
    assert_eq!((rig.disk("n2"), rig.problem("n2")), (tree(1), Some(Trouble::Unproven)));
    assert_eq!(rig.state("n2").proven, None);
    rig.down.clear();
    rig.command("n2", Command::Retry);
    assert_eq!(rig.state("n2").proven, rig.state("n2").applied);
}

#[test]
fn what_is_wrong_is_said_also_while_it_is_tried_again() {
    let mut rig = pair();
    rig.down.insert("n2".to_owned());
    rig.edit("n1", tree(2));
    rig.slow.insert("n2".to_owned(), Vec::new());
    rig.wait(Duration::from_secs(3));
    assert!(matches!(rig.slow["n2"].as_slice(), [Job::Apply { .. }]));
    assert_eq!(rig.problem("n2"), Some(Trouble::Unproven));
    rig.down.clear();
    rig.finish("n2");
    assert_eq!(rig.problem("n2"), None);
}

#[test]
fn patience_begins_anew_once_all_is_well() {
    let mut rig = pair();
    for n in 2..5 {
        rig.down.insert("n2".to_owned());
        rig.edit("n1", tree(n));
        assert_eq!(rig.problem("n2"), Some(Trouble::Unproven));
        rig.down.clear();
        rig.wait(Duration::from_secs(3));
        assert_eq!(rig.problem("n2"), None);
    }
}

#[test]
fn that_other_files_lay_there_outlives_a_crash() {
    let mut rig = pair();
    assert!(!rig.machines["n1"].saved.strayed);
    rig.machines.get_mut("n1").unwrap().disk = tree(2);
    let loss = Some("9 of 10 files are gone".to_owned());
    rig.input("n1", Input::Disk { tree: tree(2), loss });
    assert!(rig.machines["n1"].saved.strayed, "it waits for an operator");
    assert_eq!(rig.machines["n1"].saved.disk, Some(tree(2)));
    rig.command("n1", Command::Resume { accept_deletion: true });
    assert!(!rig.machines["n1"].saved.strayed, "it is a generation");
    rig.input("n1", Input::Loaded(tree(2)));
    assert_eq!(rig.state("n1").proven, rig.state("n1").applied);
}

#[test]
fn who_comes_back_while_another_apply_is_under_way_goes_back_when_that_fails() {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    rig.link("n1", "n3", false);
    rig.command("n1", Command::Apply);
    assert_eq!((rig.disk("n2"), rig.disk("n3")), (tree(1), tree(2)));
    rig.slow.insert("n1".to_owned(), Vec::new());
    rig.command("n1", Command::Apply);
    assert!(matches!(rig.slow["n1"].as_slice(), [Job::Test(_)]));
    rig.link("n1", "n3", true);
    rig.run();
    assert_eq!(rig.disk("n3"), tree(2), "it may be what that one brings");
    rig.link("n1", "n2", false);
    rig.finish("n1");
    assert_eq!(rig.told("n1", "apply_failed"), 2);
    assert_eq!((rig.disk("n3"), rig.problem("n3")), (tree(1), Some(Trouble::Undone)));
}

#[test]
fn that_it_cannot_go_back_is_said_again_to_a_writer_that_is_back() {
    let mut rig = three();
    rig.edit("n1", tree(2));
    rig.bad.insert(tree(1));
    rig.bad_load.insert(("n1".to_owned(), tree(2)));
    rig.command("n1", Command::Apply);
    assert_eq!(rig.problem("n2"), Some(Trouble::Refused));
    rig.holder(&["n2"], "n2");
    assert_eq!(rig.problem("n2"), None);
    rig.holder(&["n2"], "n1");
    assert_eq!((rig.disk("n2"), rig.problem("n2")), (tree(2), Some(Trouble::Refused)));
}
