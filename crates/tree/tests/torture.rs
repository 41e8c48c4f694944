//! Eight writers at full speed; then the last picture is the disk, and every one on the way was whole.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Room, picture};
use standin_tree::build::Builder;
use standin_tree::watch::{Options, Report, Watch};

const WRITERS: u64 = 8;
const WRITING: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(30);

/// The next number of a writer's own sequence (xorshift).
fn draw(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Something, anywhere; most of it fails because another writer was faster.
fn act(root: &Path, state: &mut u64) {
    let place = |state: &mut u64| {
        let mut path = root.to_owned();
        for _ in 0..draw(state) % 3 {
            path.push(format!("d{}", draw(state) % 4));
        }
        path.join(format!("f{}", draw(state) % 12))
    };
    let (at, to) = (place(state), place(state));
    let text = "x".repeat(usize::try_from(draw(state) % 9000).unwrap());
    let _ = match draw(state) % 11 {
        0..=2 => fs::write(&at, text),
        3 => fs::write(at.with_extension("tmp"), text)
            .and_then(|()| fs::rename(at.with_extension("tmp"), &at)),
        4 => fs::rename(&at, &to),
        5 => fs::remove_file(&at),
        6 => at.parent().map_or(Ok(()), fs::create_dir_all),
        7 if draw(state).is_multiple_of(20) => {
            at.parent().filter(|dir| *dir != root).map_or(Ok(()), fs::remove_dir_all)
        }
        7 => fs::File::create(&at).map(drop),
        8 => fs::hard_link(&at, &to),
        9 => std::os::unix::fs::symlink("f1", &at),
        _ => at.parent().filter(|dir| *dir != root).map_or(Ok(()), |dir| {
            let mode = [0o755, 0o700, 0o750][usize::try_from(draw(state) % 3).unwrap()];
            fs::set_permissions(dir, fs::Permissions::from_mode(mode))
        }),
    };
}

#[test]
fn after_any_storm_the_last_picture_is_the_disk() {
    let room = Room::new();
    room.write("f0", "");
    let (sender, reports) = channel();
    let options = Options {
        longest: Duration::from_millis(300),
        ..Options::new(Duration::from_millis(50), Duration::from_secs(3600))
    };
    let tell = move |report| drop(sender.send(report));
    let watch = Watch::start(room.spec(), options, Arc::clone(&room.store), tell).unwrap();
    let stop = AtomicBool::new(false);
    let mut built = 0;
    std::thread::scope(|scope| {
        for writer in 1..=WRITERS {
            let (root, stop) = (room.live(), &stop);
            scope.spawn(move || {
                let mut state = writer.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                while !stop.load(Ordering::Relaxed) {
                    act(&root, &mut state);
                }
            });
        }
        let end = std::time::Instant::now() + WRITING;
        while std::time::Instant::now() < end {
            // Each picture on the way has all its bytes, and can be built.
            if let Ok(Report::Tree { scan, .. }) = reports.recv_timeout(Duration::from_millis(200))
            {
                let staged = room.dir.path().join("staged");
                let root = &scan.manifest.roots()[0];
                Builder::new(&room.store).build(root, &staged, None).unwrap();
                fs::remove_dir_all(staged).unwrap();
                built += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(built > 3, "{built} pictures: the storm hid the tree for too long");
    let expected = room.read().manifest.hash();
    loop {
        match reports.recv_timeout(LONG).expect("the last picture comes") {
            Report::Tree { scan, hash, .. } if hash == expected => {
                assert!(scan.settled);
                let staged = room.dir.path().join("staged");
                let root = &scan.manifest.roots()[0];
                Builder::new(&room.store).build(root, &staged, None).unwrap();
                assert_eq!(picture(&staged), picture(&room.live()));
                break;
            }
            Report::Tree { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    drop(watch);
}
