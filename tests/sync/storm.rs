//! Writers at full speed on the active, while nodes die, cables are cut and queues overflow: in the
//! end all nodes have the same files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Node, agreed, conf};
use crate::hosts::{Host, ms, skipped, wait_or_tell};
use crate::tree::picture;
use crate::tree::writer::Writer;

/// In the suite; `cargo xtask soak` makes it 60 by the environment.
const WRITING_S: u64 = 8;
const LONGER: &str = "STANDIN_STORM_S";

const WRITERS: u64 = 8;
const WRITER: &str = "STANDIN_STORM_WRITER";

/// Beside those that come and go: more than 30 % must never be gone.
const STEADY: usize = 1000;

/// An eternity for two loaded cores.
const LONG: Duration = Duration::from_secs(90);

/// Nothing by itself: one of the eight processes of the storm below.
#[test]
fn one_writer_of_the_storm() {
    let Ok(order) = std::env::var(WRITER) else { return };
    let mut words = order.splitn(3, ' ');
    let seed: u64 = words.next().unwrap().parse().unwrap();
    let end = Instant::now() + Duration::from_secs(words.next().unwrap().parse().unwrap());
    let root = PathBuf::from(words.next().unwrap());
    let mut writer = Writer::new(seed);
    while Instant::now() < end {
        writer.act(&root);
    }
}

/// What a power cut leaves running of a host: nothing.
fn kill_all(node: &mut Node) {
    node.host.write("/run/kill-all", "kill -9 -1\n");
    node.host.try_run("sh /run/kill-all");
    if let Some(daemon) = node.daemon.take() {
        daemon.crash();
    }
}

/// As systemd does it when the host is up again.
fn boot(node: &mut Node) {
    node.order("recover");
    node.start_nginx();
    node.start();
}

fn files(host: &Host) -> std::collections::BTreeMap<PathBuf, String> {
    picture(Path::new(&host.outside("/etc/nginx/conf")))
}

#[test]
fn after_a_storm_with_dying_nodes_and_cut_cables_all_trees_are_equal() {
    if skipped() {
        return;
    }
    let seconds = std::env::var(LONGER).map_or(WRITING_S, |text| text.parse().unwrap());
    let mut cluster = Cluster::new(3, "/etc/nginx/conf", "source = \"n1\"");
    cluster.wait_answer("v1");
    cluster.wait_current();
    let storm = "/etc/nginx/conf/storm";
    let steady = PathBuf::from(cluster.nodes[0].host.outside("/etc/nginx/conf/steady"));
    cluster.nodes[0].host.run(&format!("mkdir {storm}"));
    fs::create_dir(&steady).unwrap();
    for number in 0..STEADY {
        fs::write(steady.join(number.to_string()), format!("{number}\n")).unwrap();
    }
    let own = std::env::current_exe().unwrap();
    let mut writers: Vec<_> = (1..=WRITERS)
        .map(|seed| {
            let mut writer = cluster.nodes[0].host.command(own.to_str().unwrap());
            writer.args(["--exact", "storm::one_writer_of_the_storm", "--nocapture"]);
            writer.env(WRITER, format!("{seed} {seconds} {storm}"));
            writer.stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut step = 0;
    while Instant::now() < end {
        trouble(&mut cluster, step);
        step += 1;
        std::thread::sleep(ms(300));
    }
    assert!(step > 4, "only {step} troubles");
    for writer in &mut writers {
        assert!(writer.wait().unwrap().success());
    }
    cluster.nodes[0].save("nginx.conf", &conf("after the storm"));
    let tell = || {
        let (one, more) = cluster.nodes.split_first().unwrap();
        let wanted = files(&one.host);
        let of = |node: &Node| {
            let has = files(&node.host);
            let differ = |path: &&PathBuf| wanted.get(*path) != has.get(*path);
            let paths: Vec<_> = wanted.keys().chain(has.keys()).filter(differ).take(10).collect();
            let log = node.host.read("/run/logs/standin");
            format!("{}: {paths:?} differ\n{}\n{log}\n", node.host.name, node.page())
        };
        more.iter().map(of).collect()
    };
    wait_or_tell(tell, LONG, || {
        let wanted = files(&cluster.nodes[0].host);
        let equal = |node: &Node| node.answer() == "after the storm" && files(&node.host) == wanted;
        cluster.nodes.iter().skip(1).all(equal).then_some(())
    });
    cluster.wait_current();
    assert!(files(&cluster.nodes[2].host).len() > STEADY);
}

/// One thing that happens to one node.
fn trouble(cluster: &mut Cluster, step: usize) {
    match step % 6 {
        0 => {
            cluster.nodes[1].daemon.take().unwrap().crash();
            cluster.nodes[1].start();
        }
        1 => {
            cluster.lan.cut(&cluster.nodes[2].host);
            std::thread::sleep(ms(500));
            cluster.lan.heal(&cluster.nodes[2].host);
        }
        2 => {
            // Nobody empties the queue of hints meanwhile: it overflows.
            let daemon = cluster.nodes[0].daemon.as_ref().unwrap();
            daemon.freeze(true);
            std::thread::sleep(ms(1000));
            daemon.freeze(false);
        }
        3 => {
            kill_all(&mut cluster.nodes[2]);
            boot(&mut cluster.nodes[2]);
        }
        4 => {
            cluster.nodes[0].daemon.take().unwrap().crash();
            cluster.nodes[0].start();
        }
        _ => {
            cluster.lan.isolate(&cluster.nodes[1].host);
            std::thread::sleep(ms(500));
            cluster.lan.rejoin(&cluster.nodes[1].host);
        }
    }
}

#[test]
fn a_thousand_files_in_one_burst_are_one_generation_and_one_reload() {
    let Some(cluster) = agreed() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    let folder = PathBuf::from(n1.host.outside("/etc/nginx/conf/burst"));
    let reloads = || n2.host.read("/var/log/nginx/error.log").matches(", reconfiguring").count();
    let mut unbroken = 0;
    for round in 0..5 {
        let name = format!("burst {round}");
        // A steady state to begin with, in which nginx tells of each reload.
        let base = conf(&format!("before {round}")).replace("error.log;", "error.log notice;");
        n1.save("nginx.conf", &base);
        n2.wait_answer(&format!("before {round}"));
        cluster.wait_current();
        let (number, reloaded) = (n2.own()["proven"]["number"].as_u64().unwrap(), reloads());
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        for file in 0..1000 {
            let path = folder.join(format!("d{}/f{file}", file % 10));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{name} {file}\n")).unwrap();
            if file % 10 == 0 {
                std::thread::sleep(ms(10));
            }
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        n1.save("nginx.conf", &base.replace("before", "after"));
        longest = longest.max(last.elapsed());
        n2.wait_answer(&format!("after {round}"));
        cluster.wait_current();
        assert_eq!(files(&n1.host), files(&n2.host), "{name}");
        // This machine may have stood still for longer than half of `settle`.
        if longest < ms(100) {
            unbroken += 1;
            let log = n2.host.read("/run/logs/standin");
            assert_eq!(n2.own()["proven"]["number"].as_u64(), Some(number + 1), "{name}\n{log}");
            assert_eq!(reloads(), reloaded + 1, "{name}\n{log}");
            if unbroken == 2 {
                return;
            }
        }
    }
    assert!(unbroken > 0, "no burst without a pause: the machine is too busy to tell");
}
