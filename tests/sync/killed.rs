//! SIGKILL at every step of an apply: the daemon alone on one backup, the whole node on another.
//!
//! Each step leaves its mark in a directory: the history, the journal, the trees beside the live one.
//! A thread waits for the n-th mark and kills at once; n grows until an apply has no such mark.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use standin_linux::inotify::{Hint, Inotify};

use crate::cluster::{Cluster, Node, SOON, conf};
use crate::hosts::skipped;

/// Where the steps of an apply leave marks.
const PLACES: [&str; 4] = [
    "/var/lib/standin/apply",
    "/var/lib/standin/sync",
    "/var/lib/standin/sync/generations",
    "/etc/nginx",
];

/// More marks than an apply leaves.
const MARKS: usize = 200;

/// A shell that waits in the host for a line, and kills all that runs there.
struct Axe(Child);

impl Axe {
    fn new(node: &Node) -> Self {
        node.host.write("/run/axe", "read line && kill -9 -1\n");
        let mut shell = node.host.command("sh");
        shell.arg("/run/axe").stdin(Stdio::piped());
        Self(shell.spawn().unwrap())
    }

    fn fall(&mut self) {
        // It may have been killed with the rest.
        let _ = self.0.stdin.take().unwrap().write_all(b"now\n");
    }
}

impl Drop for Axe {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// Kills a node, or its daemon, at a mark.
struct Killer {
    thread: JoinHandle<()>,
    over: Arc<AtomicBool>,
    marks: Arc<AtomicUsize>,
}

impl Killer {
    /// After so many marks; the whole node where there is an axe.
    fn at(node: &Node, mark: usize, mut axe: Option<Axe>) -> Self {
        let mut inotify = Inotify::new().unwrap();
        for place in PLACES {
            inotify.watch(File::open(node.host.outside(place)).unwrap().as_fd()).unwrap();
        }
        let family = node.daemon.as_ref().unwrap().family();
        let (over, marks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (end, count) = (Arc::clone(&over), Arc::clone(&marks));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                let mut seen = 0;
                inotify
                    .take(|hint| seen += usize::from(matches!(hint, Hint::Changed { .. })))
                    .unwrap();
                let before = count.fetch_add(seen, Ordering::Relaxed);
                if before < mark && before + seen >= mark {
                    match &mut axe {
                        Some(axe) => axe.fall(),
                        None => {
                            family.iter().for_each(|pid| drop(standin_linux::spawn::kill(*pid, 9)))
                        }
                    }
                    return;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { thread, over, marks }
    }

    /// How many marks there were, up to the one at which it killed.
    fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.marks.load(Ordering::Relaxed)
    }
}

/// What each node shows, and has logged last.
fn said(cluster: &Cluster) -> String {
    let of = |node: &Node| {
        let log = node.host.read("/run/logs/standin");
        let log: Vec<_> = log.lines().rev().take(15).collect();
        format!("{}, answers {}\n{}\n{log:#?}\n", node.host.name, node.answer(), node.page())
    };
    cluster.nodes.iter().map(of).collect()
}

#[test]
fn killed_at_each_step_of_an_apply_a_node_has_one_whole_generation_and_proves_the_next() {
    if skipped() {
        return;
    }
    let mut cluster = Cluster::new(3, "/etc/nginx/conf", "settle = \"20ms\"\nsource = \"n1\"");
    cluster.wait_answer("v1");
    cluster.wait_current();
    let has = |node: &Node| (node.read("conf.d/a.conf"), node.read("nginx.conf"));
    let files = |version: &str| (format!("# {version}\n"), conf(version));
    cluster.nodes[0].save("conf.d/a.conf", "# before\n");
    cluster.nodes[0].save("nginx.conf", &conf("before"));
    cluster.wait_answer("before");
    let mut old = "before".to_owned();
    let (mut step, mut hit) = (1, 0);
    loop {
        assert!(step < MARKS, "an apply never ends");
        cluster.wait_current();
        let version = format!("mark {step}");
        let killers = [
            Killer::at(&cluster.nodes[1], step, None),
            Killer::at(&cluster.nodes[2], step, Some(Axe::new(&cluster.nodes[2]))),
        ];
        // Both files at once: one generation.
        let folder = cluster.nodes[0].host.outside("/etc/nginx");
        let at = |name: &str| Path::new(&folder).join(name);
        std::fs::write(at("a.new"), format!("# {version}\n")).unwrap();
        std::fs::write(at("b.new"), conf(&version)).unwrap();
        std::fs::rename(at("a.new"), at("conf/conf.d/a.conf")).unwrap();
        std::fs::rename(at("b.new"), at("conf/nginx.conf")).unwrap();
        let dead = |node: &mut Node| !node.daemon.as_mut().unwrap().runs();
        let mut killed = [false; 2];
        let began = Instant::now();
        while !(0..2).all(|it| {
            let node = &mut cluster.nodes[it + 1];
            killed[it] = dead(node);
            killed[it]
                || node.own()["proven"]["number"] == node.own()["desired"]["number"]
                    && node.answer() == version
        }) {
            assert!(
                began.elapsed() <= SOON,
                "step {step}: neither through nor killed: {killed:?}\n{}",
                said(&cluster)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        // Marks of what follows a proof count, too.
        std::thread::sleep(Duration::from_millis(300));
        for (it, killer) in killers.into_iter().enumerate() {
            killer.end();
            let node = &mut cluster.nodes[it + 1];
            if !dead(node) {
                continue;
            }
            killed[it] = true;
            hit += 1;
            node.daemon.take().unwrap().crash();
            let found = has(node);
            let whole = found == files(&version) || found == files(&old);
            assert!(whole, "step {step} of n{}: neither old nor new: {found:?}", it + 2);
            if it == 1 {
                node.order("recover");
                let found = has(node);
                let whole = found == files(&version) || found == files(&old);
                assert!(whole, "step {step}, recovered: neither old nor new: {found:?}");
                node.start_nginx();
            }
            assert!(!node.answer().is_empty(), "step {step}: nginx serves");
            node.start();
        }
        cluster.wait_answer(&version);
        cluster.wait_current();
        for node in cluster.nodes.iter().skip(1) {
            assert_eq!(has(node), files(&version), "step {step}");
        }
        old = version;
        if killed == [false; 2] {
            break;
        }
        step += 1;
    }
    assert!(hit > 20, "only {hit} kills");
}
