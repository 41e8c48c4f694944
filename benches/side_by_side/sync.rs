//! The shared files beside inotifywait and an rsync daemon, on the same nodes in the same run.
//!
//! Both get the same save of the same small file, one after the other, on a real disk. standin tests
//! it, puts it in place, reloads nginx and proves that; rsync copies it.

use std::fs;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use standin_linux::spawn;

use crate::cluster::{Cluster, conf};
use crate::report::Figure;
use crate::{Options, count, median, usage};

/// Where nginx's configuration is on each node: a directory that can be exchanged as a whole.
const CONF: &str = "/etc/nginx/conf";

/// What rsync keeps equal, on the same disk.
const COPIED: &str = "/etc/nginx/copied";

/// The default of `[sync] settle`.
const SETTLE: Duration = Duration::from_millis(200);

/// Everything must have arrived by then.
const LONGEST: Duration = Duration::from_secs(60);

/// Two looks at a node that is measured; each costs its nginx some 0.1 ms.
const STEP: Duration = Duration::from_millis(2);

/// Between two rounds: what follows a proof is over by then.
const REST: Duration = Duration::from_millis(500);

const SERVED_MS: f64 = 100.0;
const PROVEN_MS: f64 = 250.0;
/// One change among ten thousand files.
const MANY_SERVED_MS: f64 = 250.0;
const FOLDERS: usize = 100;
const FILES: usize = 100;

/// Of one core, averaged over a minute.
const IDLE_PERCENT: f64 = 1.0;
const SCANS: u32 = 10;

pub(crate) fn two(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    caught(|| saves(dir, options, 2))
}

pub(crate) fn five(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    caught(|| saves(dir, options, 5))
}

pub(crate) fn many(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    caught(|| thousands(dir, options))
}

/// The hosts are those of the tests, which panic.
fn caught(measure: impl FnOnce() -> Result<Vec<Figure>>) -> Result<Vec<Figure>> {
    catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|_| Err(anyhow!("see above")))
}

fn saves(dir: &Path, options: &Options, nodes: usize) -> Result<Vec<Figure>> {
    let rounds = if options.quick { 5 } else { 20 };
    let ground = Ground::new(dir, nodes)?;
    ground.copy_by_rsync()?;
    let (mut all, mut copied) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        all.push(ground.save(round)?);
        copied.push(ground.save_for_rsync(round)?);
    }
    let title = format!("one file saved, {nodes} nodes");
    let served = median(all.iter().map(|it| it.served_ms).collect());
    let proven = median(all.iter().map(|it| it.proven_ms).collect());
    let mut rows = vec![
        Figure::of_files(
            format!("{title}: served by new workers on all backups, after settle"),
            "ms",
        )
        .aim(format!("≤ {SERVED_MS}"), served <= SERVED_MS),
        Figure::of_files(format!("{title}: proven on all backups, after settle"), "ms")
            .aim(format!("≤ {PROVEN_MS}"), proven <= PROVEN_MS),
    ];
    for (row, own) in rows.iter_mut().zip([served, proven]) {
        row.standin = Some(own);
        row.rsync = Some(median(copied.clone()));
        row.notes.push("rsync: since the save, copied, neither tested nor loaded".to_owned());
    }
    rows[0].notes.push(format!("standin {}", in_order(all.iter().map(|it| it.served_ms))));
    rows[1].notes.push(format!("standin {}", in_order(all.iter().map(|it| it.proven_ms))));
    Ok(rows)
}

fn in_order(all: impl Iterator<Item = f64>) -> String {
    let words: Vec<_> = all.map(|one| format!("{one:.0}")).collect();
    format!("{} ms, in the order measured", words.join(" "))
}

fn thousands(dir: &Path, options: &Options) -> Result<Vec<Figure>> {
    let (fresh, rounds) = if options.quick { (1, 5) } else { (3, 20) };
    let (mut first, mut first_proven, mut by_rsync) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for round in 0..fresh {
        // The one before ends first: two cores are few.
        drop(last.take());
        let ground = Ground::new(&dir.join(format!("first-{round}")), 2)?;
        by_rsync.push(ground.first_by_rsync()?);
        let (live, proven) = ground.first()?;
        first.push(live);
        first_proven.push(proven);
        last = Some(ground);
    }
    let ground = last.context("no round")?;
    ground.copy_by_rsync()?;
    let (mut all, mut copied) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        all.push(ground.save(round)?);
        copied.push(ground.save_for_rsync(round)?);
    }
    let scan_ms = ground.idle_scan()?;
    let files = FOLDERS * FILES;
    let (own, other) = (median(first), median(by_rsync));
    let mut sync = Figure::of_files(format!("{files} new files, 2 nodes: first sync"), "s")
        .aim("≤ rsync -a", own <= other);
    (sync.standin, sync.rsync) = (Some(own), Some(other));
    sync.notes.push(format!(
        "after settle, until all of them lie in their place: read, stored, sent, tested by nginx, synced to \
         the disk; loaded and proven after {:.2} s. rsync: until it has ended; nothing is tested or synced",
        median(first_proven)
    ));
    let own = median(all.iter().map(|it| it.served_ms).collect());
    let mut change =
        Figure::of_files(format!("one file saved among {files}: served, after settle"), "ms")
            .aim(format!("≤ {MANY_SERVED_MS}"), own <= MANY_SERVED_MS);
    (change.standin, change.rsync) = (Some(own), Some(median(copied)));
    let proven = median(all.iter().map(|it| it.proven_ms).collect());
    change.notes.push(format!("proven after {proven:.0} ms"));
    change.notes.push(format!("standin {}", in_order(all.iter().map(|it| it.served_ms))));
    let share = scan_ms / 60_000.0 * 100.0;
    let mut idle =
        Figure::of_files(format!("{files} files, idle: full scans, share of one core"), "%")
            .aim(format!("≤ {IDLE_PERCENT} %"), share <= IDLE_PERCENT);
    idle.standin = Some(share);
    idle.notes.push(format!("one scan takes {scan_ms:.1} ms of CPU, and there is one a minute"));
    Ok(vec![sync, change, idle])
}

/// After `settle`, until it was so on all backups.
#[derive(Clone, Copy)]
struct Took {
    served_ms: f64,
    proven_ms: f64,
}

/// A cluster on a real disk, with an rsync daemon on each backup.
struct Ground {
    lookouts: Vec<Lookout>,
    cluster: Cluster,
    dir: PathBuf,
}

impl Ground {
    fn new(dir: &Path, nodes: usize) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let cluster = Cluster::on(nodes, CONF, "", |host| {
            for place in ["/etc/nginx", "/var/lib/standin"] {
                let disk = dir.join(&host.name).join(place.trim_start_matches('/'));
                host.run(&format!("mkdir -p {}", disk.display()));
                host.run(&format!("mount --bind {} {place}", disk.display()));
            }
            host.run(&format!("mkdir {COPIED}"));
        });
        cluster.wait_answer("v1");
        cluster.wait_current();
        for node in cluster.nodes.iter().skip(1) {
            node.host.write(
                "/run/rsyncd.conf",
                &format!(
                    "uid = root\ngid = root\nuse chroot = no\nmax connections = 200\n\
                     pid file = /run/rsyncd.pid\nlock file = /run/rsyncd.lock\n\
                     [copied]\npath = {COPIED}\nread only = no\n"
                ),
            );
            // It ends with its host.
            drop_later(
                node.host.launch("rsyncd", "rsync --daemon --no-detach --config=/run/rsyncd.conf"),
            );
        }
        let lookouts = cluster.nodes.iter().skip(1).map(|node| Lookout::new(node.host.pid));
        let lookouts = lookouts.collect::<Result<_>>()?;
        thread::sleep(REST);
        Ok(Self { lookouts, cluster, dir: dir.to_owned() })
    }

    fn place(&self, node: usize, path: &str) -> PathBuf {
        PathBuf::from(self.cluster.nodes[node].host.outside(path))
    }

    /// Replaces the main file on the active.
    fn save(&self, round: usize) -> Result<Took> {
        let answer = format!("round {round}");
        let (new, file) = (
            self.place(0, &format!("{CONF}/nginx.conf~")),
            self.place(0, &format!("{CONF}/nginx.conf")),
        );
        fs::write(&new, conf(&answer))?;
        let (began, clock) = (Instant::now(), SystemTime::now());
        fs::rename(&new, &file)?;
        for lookout in &self.lookouts {
            lookout.orders.send((answer.clone(), began + SETTLE))?;
        }
        let mut served = Duration::ZERO;
        for lookout in &self.lookouts {
            let seen = lookout.seen.recv_timeout(LONGEST).context("it was never served")?;
            served = served.max(seen.saturating_duration_since(began + SETTLE));
        }
        let proven = self.proven_since(clock)?;
        thread::sleep(REST);
        Ok(Took {
            served_ms: served.as_secs_f64() * 1000.0,
            proven_ms: (proven.as_secs_f64() - SETTLE.as_secs_f64()) * 1000.0,
        })
    }

    /// How long after `clock` the last backup told that it has proven a generation.
    fn proven_since(&self, clock: SystemTime) -> Result<Duration> {
        let since = clock.duration_since(UNIX_EPOCH)?;
        let mut last = Duration::ZERO;
        for node in self.cluster.nodes.iter().skip(1) {
            let began = Instant::now();
            let at = loop {
                let events = node.host.events();
                let times = events.iter().filter(|event| event["kind"] == "generation_proven");
                let at = times.filter_map(|event| unix(event["at"].as_str()?)).max();
                if let Some(at) = at.filter(|at| *at >= since) {
                    break at;
                }
                if began.elapsed() > LONGEST {
                    bail!("{}: never proven:\n{}", node.host.name, node.page());
                }
                thread::sleep(STEP);
            };
            last = last.max(at - since);
        }
        Ok(last)
    }

    /// From now on the active's `COPIED` is copied whenever something changes in it.
    fn copy_by_rsync(&self) -> Result<()> {
        let to = self.cluster.nodes.iter().skip(1);
        let to =
            to.map(|node| format!("rsync -a --delete {COPIED}/ rsync://{}/copied/", node.address));
        let active = &self.cluster.nodes[0].host;
        active.write(
            "/run/notify-rsync",
            &format!(
                "inotifywait -mrq --format %w%f -e close_write,modify,delete,create,attrib,move \
                 {COPIED} | while read file; do\n{}\ndone\n",
                to.collect::<Vec<_>>().join("\n")
            ),
        );
        drop_later(active.launch("notify-rsync", "sh /run/notify-rsync"));
        thread::sleep(REST);
        // The first one is slower.
        self.save_for_rsync(usize::MAX).map(drop)
    }

    /// Since the save, until all backups have it.
    fn save_for_rsync(&self, round: usize) -> Result<f64> {
        let text = conf(&format!("round {round}"));
        let (new, file) = (
            self.place(0, "/etc/nginx/copied-new"),
            self.place(0, &format!("{COPIED}/nginx.conf")),
        );
        fs::write(&new, &text)?;
        let began = Instant::now();
        fs::rename(&new, &file)?;
        for node in 1..self.cluster.nodes.len() {
            let copy = self.place(node, &format!("{COPIED}/nginx.conf"));
            while fs::read(&copy).ok().as_deref() != Some(text.as_bytes()) {
                if began.elapsed() > LONGEST {
                    bail!("rsync never copied it");
                }
                thread::sleep(STEP);
            }
        }
        let took = began.elapsed();
        thread::sleep(REST);
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Ten thousand files of some hundred bytes, in a hundred directories.
    fn write_files(&self, path: &str) -> Result<()> {
        let place = self.place(0, path);
        for folder in 0..FOLDERS {
            let folder_path = place.join(format!("site-{folder}"));
            fs::create_dir_all(&folder_path)?;
            for file in 0..FILES {
                let mut text = format!("# site {folder}, file {file}\n");
                while text.len() < 100 + 5 * file {
                    text.push_str("location /a { return 404; }\n");
                }
                fs::write(folder_path.join(format!("{file}.inc")), text)?;
            }
        }
        // What the disk still has to do for them is nobody's of those who are measured.
        self.cluster.nodes[0].host.run(&format!("sync -f {}", self.dir.display()));
        Ok(())
    }

    fn first_by_rsync(&self) -> Result<f64> {
        self.write_files(&format!("{COPIED}/sites"))?;
        let to = &self.cluster.nodes[1].address;
        let began = Instant::now();
        self.cluster.nodes[0].host.run(&format!("rsync -a {COPIED}/ rsync://{to}/copied/"));
        let took = began.elapsed();
        thread::sleep(REST);
        Ok(took.as_secs_f64())
    }

    /// The files come all at once: in seconds, until they are there and until they are proven.
    fn first(&self) -> Result<(f64, f64)> {
        self.write_files("/etc/nginx/new")?;
        thread::sleep(REST);
        let (began, clock) = (Instant::now(), SystemTime::now());
        fs::rename(self.place(0, "/etc/nginx/new"), self.place(0, &format!("{CONF}/sites")))?;
        // All of a root comes at once.
        let last = format!("{CONF}/sites/site-{}/{}.inc", FOLDERS - 1, FILES - 1);
        while !self.place(1, &last).exists() {
            if began.elapsed() > LONGEST {
                bail!("they never came");
            }
            thread::sleep(STEP);
        }
        let live = began.elapsed().saturating_sub(SETTLE);
        let proven = self.proven_since(clock)?.saturating_sub(SETTLE);
        thread::sleep(REST);
        Ok((live.as_secs_f64(), proven.as_secs_f64()))
    }

    /// CPU time of one full scan in which nothing has changed, in ms.
    fn idle_scan(&self) -> Result<f64> {
        let node = &self.cluster.nodes[0];
        // What was written just now is read again until its times tell enough.
        thread::sleep(Duration::from_secs(4));
        node.order("sync resume");
        thread::sleep(Duration::from_secs(2));
        let daemon = node.daemon.as_ref().context("no daemon")?;
        let used = || usage::thread_time(daemon.pid, "standin-files");
        let before = used()?;
        for _ in 0..SCANS {
            node.order("sync resume");
            thread::sleep(REST);
        }
        let used = used()?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1000.0 / count(SCANS.into()))
    }
}

/// A program that ends with its host, not before.
fn drop_later(daemon: crate::hosts::Daemon) {
    std::mem::forget(daemon);
}

/// Asks one node's nginx, from a thread that stands in the node's network.
struct Lookout {
    /// What to wait for, and from when on.
    orders: Sender<(String, Instant)>,
    seen: Receiver<Instant>,
}

impl Lookout {
    fn new(pid: u32) -> Result<Self> {
        let network = spawn::network_of(pid)?;
        let (orders, inbox) = channel::<(String, Instant)>();
        let (found, seen) = channel();
        thread::spawn(move || {
            use std::os::fd::AsFd;
            if spawn::enter_network(network.as_fd()).is_err() {
                return;
            }
            for (answer, from) in inbox {
                thread::sleep(from.saturating_duration_since(Instant::now()));
                let end = from + LONGEST;
                while Instant::now() < end {
                    if ask().is_ok_and(|said| said == answer) {
                        // Who waited has gone, or it is told.
                        let _ = found.send(Instant::now());
                        break;
                    }
                    thread::sleep(STEP);
                }
            }
        });
        Ok(Self { orders, seen })
    }
}

/// What nginx answers in this thread's network.
fn ask() -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = TcpStream::connect(("127.0.0.1", 80))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split("\r\n\r\n").nth(1).unwrap_or_default().trim().to_owned())
}

/// `2026-11-22T14:55:01.250Z` as time since 1970.
fn unix(at: &str) -> Option<Duration> {
    let at: jiff::Timestamp = at.parse().ok()?;
    Some(Duration::from_millis(u64::try_from(at.as_millisecond()).ok()?))
}
