//! Eight writers at full speed; then the last picture is the disk, and every one on the way was whole.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::writer::Writer;
use common::{Room, picture};
use standin_tree::build::Builder;
use standin_tree::watch::{Options, Report, Watch};

const WRITERS: u64 = 8;
const WRITING: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_secs(30);

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
    let watch = Watch::start(room.spec(), options, Arc::clone(&room.store), || (), tell).unwrap();
    let stop = AtomicBool::new(false);
    let mut built = 0;
    std::thread::scope(|scope| {
        for writer in 1..=WRITERS {
            let (root, stop) = (room.live(), &stop);
            scope.spawn(move || {
                let mut writer = Writer::new(writer);
                while !stop.load(Ordering::Relaxed) {
                    writer.act(&root);
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
