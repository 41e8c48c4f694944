//! A watched tree: each change is told of once it is over, whole, and nothing is missed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use common::Room;
use standin_tree::hash::Hash;
use standin_tree::read::{Scan, Spec};
use standin_tree::watch::{Cause, Options, Report, Watch};

/// Long enough for two loaded cores.
const LONG: Duration = Duration::from_secs(20);

const SETTLE: Duration = Duration::from_millis(100);

struct Seen {
    watch: Watch,
    reports: Receiver<Report>,
}

impl Seen {
    fn of(room: &Room, options: Options) -> Self {
        let (sender, reports) = channel();
        let store = Arc::clone(&room.store);
        let tell = move |report| drop(sender.send(report));
        let watch = Watch::start(room.spec(), options, store, || (), tell).unwrap();
        Self { watch, reports }
    }

    fn next(&self) -> (Box<Scan>, Hash, Cause) {
        loop {
            match self.reports.recv_timeout(LONG).expect("a report") {
                Report::Tree { scan, hash, cause, .. } => return (scan, hash, cause),
                Report::Touched => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn silent_for(&self, time: Duration) {
        let report = self.reports.recv_timeout(time);
        assert!(matches!(report, Err(RecvTimeoutError::Timeout)), "{report:?}");
    }
}

/// Only hints lead to a reading.
fn hints() -> Options {
    Options::new(SETTLE, Duration::from_secs(3600))
}

#[test]
fn a_saved_file_is_told_of_after_the_quiet_time_with_its_bytes() {
    let room = Room::new();
    room.write("nginx.conf", "events {}");
    let seen = Seen::of(&room, hints());
    let (first, hash, cause) = seen.next();
    assert_eq!((cause, hash), (Cause::Start, first.manifest.hash()));
    let saved = Instant::now();
    room.write("nginx.conf", "events { }");
    let (second, hash, cause) = seen.next();
    assert!(saved.elapsed() >= SETTLE, "{:?}", saved.elapsed());
    assert_eq!(cause, Cause::Hint);
    assert!(second.settled && hash != first.manifest.hash());
    assert_eq!(second.manifest, room.read().manifest);
    assert_eq!(room.store.read(&Hash::of(b"events { }")).unwrap(), b"events { }");
    // A file that comes and goes is a word; one that is left alone is nothing to tell.
    room.write("4913", "");
    fs::remove_file(room.live().join("4913")).unwrap();
    let touched = seen.reports.recv_timeout(LONG);
    assert!(matches!(touched, Ok(Report::Touched)), "{touched:?}");
    room.write(".nginx.conf.swp", "x");
    seen.silent_for(SETTLE * 6);
    seen.watch.look();
    assert_eq!(seen.next().2, Cause::Asked);
}

#[test]
fn a_burst_is_one_change() {
    let room = Room::new();
    room.write("a", "");
    let options = Options::new(Duration::from_secs(1), Duration::from_secs(3600));
    let seen = Seen::of(&room, options);
    seen.next();
    for n in 0..200 {
        room.write(&format!("new/{}/{n}.conf", n % 7), "x");
        std::thread::sleep(Duration::from_millis(2));
    }
    let (scan, _, _) = seen.next();
    assert_eq!(scan.manifest, room.read().manifest);
    seen.silent_for(Duration::from_secs(3));
}

#[test]
fn what_is_made_in_new_directories_at_once_is_not_missed() {
    let room = Room::new();
    room.write("a", "");
    let seen = Seen::of(&room, hints());
    seen.next();
    for round in 0..5 {
        let folder = format!("r{round}/a/b/c");
        room.write(&format!("{folder}/deep.conf"), "x");
        assert_eq!(seen.next().0.manifest, room.read().manifest, "{round}");
        // The new directories are watched, each of them.
        room.write(&format!("{folder}/later.conf"), "y");
        assert_eq!(seen.next().0.manifest, room.read().manifest, "{round}");
    }
}

#[test]
fn a_root_that_is_exchanged_goes_and_comes_back_is_watched_on() {
    let room = Room::new();
    room.write("a", "old");
    let seen = Seen::of(&room, hints());
    seen.next();
    let other = room.dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("a"), "new").unwrap();
    let swap = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &other, rustix::fs::CWD, room.live(), swap).unwrap();
    assert_eq!(seen.next().0.manifest, room.read().manifest);
    room.write("b", "after");
    assert_eq!(seen.next().0.manifest, room.read().manifest);
    // The tree that went out is watched no more.
    fs::write(other.join("a"), "drift").unwrap();
    seen.silent_for(SETTLE * 6);
    fs::remove_dir_all(room.live()).unwrap();
    let (gone, _, _) = seen.next();
    assert!(gone.manifest.roots()[0].entries.is_empty() && gone.places.is_empty());
    room.write("c", "again");
    assert_eq!(seen.next().0.manifest, room.read().manifest);
}

#[test]
fn a_single_file_that_is_replaced_by_rename_is_watched_on() {
    let room = Room::new();
    room.write("key.pem", "1");
    let file = room.live().join("key.pem");
    let spec = Spec::new([file.clone()], standin_tree::globs::Globs::default()).unwrap();
    let (sender, reports) = channel();
    let tell = move |report| drop(sender.send(report));
    let watch = Watch::start(spec, hints(), Arc::clone(&room.store), || (), tell).unwrap();
    let seen = Seen { watch, reports };
    seen.next();
    for text in ["2", "3"] {
        room.write("key.new", text);
        fs::rename(room.live().join("key.new"), &file).unwrap();
        let (scan, _, _) = seen.next();
        assert!(scan.manifest.contents().contains_key(&Hash::of(text.as_bytes())));
    }
    room.write("other", "in the same directory");
    seen.silent_for(SETTLE * 6);
}

#[test]
fn a_write_that_never_settles_is_taken_after_a_bound() {
    let room = Room::new();
    room.write("a", "");
    let options = Options { longest: Duration::from_secs(1), ..hints() };
    let seen = Seen::of(&room, options);
    seen.next();
    let (stop, stopped) = channel::<()>();
    let path = room.live().join("a");
    let writer = std::thread::spawn(move || {
        for n in 0_u64.. {
            fs::write(&path, n.to_string()).unwrap();
            if stopped.recv_timeout(Duration::from_millis(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    let begin = Instant::now();
    let mut last = None;
    for _ in 0..2 {
        let (scan, _, cause) = seen.next();
        assert_eq!(cause, Cause::Hint);
        assert_eq!(scan.manifest.entries().count(), 2);
        last = Some(scan);
    }
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    drop(stop);
    writer.join().unwrap();
    // The second one may have met the writer's last pause.
    let expected = room.read().manifest;
    while last.is_none_or(|scan| scan.manifest != expected) {
        last = Some(seen.next().0);
    }
}

#[test]
fn the_full_scan_finds_what_no_hint_told() {
    let room = Room::new();
    room.write("a", "1");
    // A write by another name, in a directory that nobody watches, gives no hint.
    let other = room.dir.path().join("outside");
    fs::hard_link(room.live().join("a"), &other).unwrap();
    let seen = Seen::of(&room, Options::new(SETTLE, Duration::from_secs(1)));
    seen.next();
    fs::write(&other, "2").unwrap();
    let (scan, _, cause) = seen.next();
    assert_eq!(cause, Cause::FullScan);
    assert_eq!(scan.manifest, room.read().manifest);
    assert!(scan.manifest.contents().contains_key(&Hash::of(b"2")));
}

#[test]
fn a_queue_that_overflows_loses_nothing() {
    let room = Room::new();
    room.write("a", "");
    let (sender, reports) = channel();
    let ((go, wait), (come, read)) = (channel::<()>(), channel::<()>());
    // The first report is taken late: hints pile up meanwhile, more than the queue holds.
    let mut first = true;
    let tell = move |report| {
        if std::mem::take(&mut first) {
            come.send(()).unwrap();
            wait.recv().unwrap();
        }
        drop(sender.send(report));
    };
    let options = Options { longest: Duration::from_secs(1), ..hints() };
    let watch = Watch::start(room.spec(), options, Arc::clone(&room.store), || (), tell).unwrap();
    let seen = Seen { watch, reports };
    // What is written before the first reading is in it, and nothing more would be told.
    read.recv().unwrap();
    for n in 0..6000 {
        room.write(&format!("{n}"), "x");
        fs::rename(room.live().join(n.to_string()), room.live().join("b")).unwrap();
    }
    room.write("last", "x");
    go.send(()).unwrap();
    seen.next();
    let (scan, _, _) = seen.next();
    assert_eq!(scan.manifest, room.read().manifest);
}

/// A limit of this process alone needs a user namespace: the test runs itself again in one.
#[test]
fn too_few_watches_are_said_once_and_the_tree_is_polled() {
    const INSIDE: &str = "STANDIN_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().unwrap();
        let done = std::process::Command::new("unshare")
            .args(["--user", "--map-root-user"])
            .arg(program)
            .args(["--exact", "too_few_watches_are_said_once_and_the_tree_is_polled"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        return;
    }
    let room = Room::new();
    for n in 0..8 {
        room.write(&format!("d{n}/a"), "1");
    }
    fs::write("/proc/sys/user/max_inotify_watches", "4").unwrap();
    // Root's limit itself is the whole host's: no test may raise it.
    let seen = Seen::of(&room, Options { raise_limits: false, ..hints() });
    let Ok(Report::Limit(limit)) = seen.reports.recv_timeout(LONG) else { panic!("no limit") };
    assert_eq!((limit.setting.as_str(), limit.raised_to), ("fs.inotify.max_user_watches", None));
    assert!(limit.to_string().contains("sysctl -w fs.inotify.max_user_watches="), "{limit}");
    seen.next();
    room.write("d7/a", "2");
    let (scan, _, _) = seen.next();
    assert_eq!(scan.manifest, room.read().manifest);
    fs::write("/proc/sys/user/max_inotify_watches", "1000").unwrap();
    room.write("d6/a", "3");
    seen.next();
    let begin = Instant::now();
    room.write("d5/a", "4");
    seen.next();
    assert!(begin.elapsed() < standin_tree::watch::POLL / 2, "there are watches again");
}

#[test]
fn a_burst_in_directories_that_it_makes_is_one_change() {
    let room = Room::new();
    room.write("nginx.conf", "events {}");
    let seen = Seen::of(&room, hints());
    seen.next();
    for round in 0..3 {
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        for file in 0..60 {
            room.write(&format!("new{round}/d{}/e/f{file}", file % 5), "text");
            std::thread::sleep(SETTLE / 10);
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        let (scan, ..) = seen.next();
        // A machine that stood still itself has seen quiet time.
        if longest < SETTLE / 2 {
            let folder = format!("new{round}/");
            let paths = scan.manifest.roots()[0].entries.iter().map(|entry| &entry.path);
            let files = paths.filter(|path| path.starts_with(folder.as_bytes()));
            assert_eq!(files.count(), 60 + 10, "all of it, and nothing before");
        }
        while seen.reports.recv_timeout(SETTLE * 3).is_ok() {}
    }
}
