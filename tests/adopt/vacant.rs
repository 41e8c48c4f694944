//! A new node waits for an address that an old host has, which can't run standin.

use std::time::{Duration, Instant};

use standin_linux::spawn;

use crate::hosts::holders::Watch;
use crate::hosts::wire::Adverts;
use crate::hosts::{Daemon, Host, Lan, STANDIN, child_of, ms, skipped, wait_for, wait_until};

const VIP: &str = "192.168.1.41";

const FILE: &str = r#"
cluster = "edge"
[node.n1]
address = "192.168.1.190"
[vip.web]
virtual_router_id = 41
addresses = ["192.168.1.41/24"]
hold_down = "100ms"
checks = ["alive"]
[check.alive]
type = "file"
path = "/run/alive"
interval = "20ms"
fall = 1
rise = 1
"#;

struct Scene {
    lan: Lan,
    old: Host,
    n1: Host,
    standin: Daemon,
}

impl Scene {
    fn new() -> Self {
        let lan = Lan::new();
        let old = lan.host("old", &["192.168.1.41/24"]);
        let n1 = lan.host("n1", &["192.168.1.190/24"]);
        n1.write("/run/alive", "");
        let standin = n1.standin(FILE);
        n1.wait_role("backup", ms(5000));
        Self { lan, old, n1, standin }
    }

    /// Leaves the command running, as an operator would, and waits until it has seen the old host.
    fn await_vacant(&self) -> Daemon {
        self.await_asking("", ms(3000))
    }

    fn await_asking(&self, more: &str, within: Duration) -> Daemon {
        let words = format!("{STANDIN} adopt {VIP} --vip web --await-vacant {more}");
        let shown = self.n1.launch("await", &words);
        let answers = format!("{} answers", self.old.mac());
        wait_until("the old host to be seen", within, || shown.log().contains(&answers));
        shown
    }

    fn is_backup_for(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            assert!(!self.n1.has(VIP), "{}", self.n1.read("/run/logs/standin"));
            std::thread::sleep(ms(3));
        }
    }
}

#[test]
fn a_vacant_address_is_taken_at_once_and_given_back_to_its_old_host_within_one_probe() {
    if skipped() {
        return;
    }
    let lock =
        std::fs::File::create(std::env::temp_dir().join("standin-timed-tests.lock")).unwrap();
    lock.lock().unwrap();
    let scene = Scene::new();
    let shown = scene.await_vacant();
    scene.is_backup_for(ms(1000));
    let packets = Adverts::matching(&scene.lan, "arp");
    let watch = Watch::new(VIP, &[&scene.n1]);
    let (mut taken, mut back) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let unplugged = Instant::now();
        scene.lan.isolate(&scene.old);
        scene.n1.wait_has(VIP, true, ms(3000));
        let mine = |line: &str| line.contains(&format!("{} >", scene.n1.mac()));
        let announced = wait_for("an announcement", ms(1000), || {
            let is = |line: &str| mine(line) && line.contains(&format!("tell {VIP}"));
            let all = packets.since(unplugged);
            let first = all.iter().find(|it| is(&it.line));
            first.map(|it| it.at)
        });
        let probe =
            |line: &str| mine(line) && line.contains(&format!("who-has {VIP} tell 0.0.0.0"));
        let all = packets.since(unplugged);
        let third = all.iter().rfind(|it| it.at < announced && probe(&it.line)).unwrap();
        taken.push(announced.saturating_duration_since(third.at));
        std::thread::sleep(ms(500));
        let plugged = Instant::now();
        scene.lan.rejoin(&scene.old);
        let gone = wait_for("n1 to give it back", ms(3000), || {
            watch.changes().into_iter().find(|it| it.at > plugged && it.hosts.is_empty())
        });
        back.push(gone.at.saturating_duration_since(plugged));
        scene.is_backup_for(ms(300));
    }
    assert!(shown.log().contains("taken") && shown.log().contains("--end"), "{}", shown.log());
    scene.n1.wait_said("transition", "given back to it", ms(1000));
    taken.sort_unstable();
    back.sort_unstable();
    eprintln!("third unanswered probe to announcement: {taken:?}; old host back to gone: {back:?}");
    assert!(taken[2] <= ms(50), "median of {taken:?}");
    // One probe, and what two loaded cores add.
    assert!(back[2] <= ms(150), "median of {back:?}");
}

#[test]
fn lost_answers_change_nothing_and_who_is_not_healthy_gives_back() {
    if skipped() {
        return;
    }
    let scene = Scene::new();
    let _shown = scene.await_vacant();
    // Of three answers one comes through.
    scene.old.nft(
        "table arp loss {\n chain out {\n type filter hook output priority 0\n \
         arp operation reply numgen inc mod 3 < 2 drop\n }\n}",
    );
    scene.is_backup_for(ms(3000));
    scene.old.nft("flush ruleset");
    scene.lan.isolate(&scene.old);
    scene.n1.wait_has(VIP, true, ms(3000));
    scene.n1.run("rm /run/alive");
    scene.n1.wait_has(VIP, false, ms(1000));
    scene.is_backup_for(ms(1000));
    scene.n1.write("/run/alive", "");
    scene.n1.wait_has(VIP, true, ms(3000));
    let end = format!("{STANDIN} adopt {VIP} --vip web --await-vacant --end");
    scene.n1.run(&end);
    scene.lan.rejoin(&scene.old);
    std::thread::sleep(ms(500));
    assert!(scene.n1.has(VIP), "from now on it is an ordinary VIP");
    let refused =
        scene.n1.try_run(&format!("{STANDIN} adopt 192.168.1.99 --vip web --await-vacant"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("doesn't have 192.168.1.99"));
}

#[test]
fn who_still_waits_is_told_which_node_has_taken_it() {
    if skipped() {
        return;
    }
    let scene = Scene::new();
    let n2 = scene.lan.host("n2", &["192.168.1.191/24"]);
    n2.write("/run/alive", "");
    let file = FILE.replace("[vip.web]", "[node.n2]\naddress = \"192.168.1.191\"\n[vip.web]");
    scene.n1.write("/etc/standin/standin.toml", &file);
    scene.n1.run(&format!("{STANDIN} reload"));
    let _second = n2.standin(&file);
    n2.wait_role("backup", ms(5000));
    let _waits = n2.launch("await", &format!("{STANDIN} adopt {VIP} --vip web --await-vacant"));
    // It asks seldom: the other one is first.
    let shown = scene.await_asking("--every 2s", ms(5000));
    scene.lan.isolate(&scene.old);
    n2.wait_has(VIP, true, ms(3000));
    wait_until("n2 to be named", ms(3000), || shown.log().contains("n2 has it"));
}

/// The death of a daemon is no word of the operator's: the next one waits on, and still gives the address back.
#[test]
fn a_daemon_that_dies_does_not_forget_whose_address_it_is() {
    if skipped() {
        return;
    }
    let scene = Scene::new();
    let _shown = scene.await_vacant();
    scene.lan.isolate(&scene.old);
    scene.n1.wait_has(VIP, true, ms(3000));
    spawn::kill(child_of(scene.standin.pid).unwrap(), 9).unwrap();
    scene.n1.wait_has(VIP, false, ms(3000));
    scene.n1.wait_said("vacancy_order", "ordered of the daemon before", ms(5000));
    scene.n1.wait_has(VIP, true, ms(10_000));
    scene.lan.rejoin(&scene.old);
    scene.n1.wait_has(VIP, false, ms(3000));
    scene.is_backup_for(ms(500));
}
