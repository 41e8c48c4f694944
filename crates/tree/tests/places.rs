//! Roots in every shape that a host may give them, and what is left out of a tree.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Room, patience, picture};
use standin_linux::spawn;
use standin_tree::build::Builder;
use standin_tree::globs::Globs;
use standin_tree::manifest::{Kind, Manifest};
use standin_tree::read::{LeftOut, Place, Reader, Spec, Why};

fn spec(roots: &[&Path], exclude: &[&str]) -> Spec {
    let roots = roots.iter().map(|root| root.to_path_buf());
    Spec::new(roots, Globs::new(exclude).unwrap()).unwrap()
}

#[test]
fn a_root_may_be_a_link_a_file_or_nothing() {
    let room = Room::new();
    room.write("a", "1");
    let dir = room.dir.path().canonicalize().unwrap();
    let (link, file, nothing) = (dir.join("link"), dir.join("file"), dir.join("nothing"));
    symlink("live", &link).unwrap();
    fs::write(&file, "2").unwrap();
    let spec = spec(&[&link, &file, &nothing], &[]);
    let scan = Reader::new().snapshot(&spec, Some(&*room.store), patience()).unwrap();
    let place = |root: &Path, real: PathBuf, symlink| Place {
        root: root.to_owned(),
        real,
        symlink,
        mount: false,
    };
    let expected = [place(&file, file.clone(), false), place(&link, dir.join("live"), true)];
    assert_eq!(scan.places, expected);
    let [one, two, three] = scan.manifest.roots() else { panic!("{scan:?}") };
    assert_eq!((one.entries.len(), two.entries.len(), three.entries.len()), (1, 2, 0));
    // A single file is built as well, and over itself.
    let staged = dir.join("staged");
    let mut builder = Builder::new(&room.store);
    builder.build(one, &staged, None).unwrap();
    builder.build(one, &staged, Some(one)).unwrap();
    assert_eq!(fs::read(&staged).unwrap(), b"2");
    assert!(builder.build(three, &dir.join("x"), None).is_err());
}

#[test]
fn roots_within_roots_are_read_once() {
    let spec = spec(
        &["/etc/nginx/", "/etc/nginx/conf.d", "/etc//nginx", "/etc/nginx-extra"].map(Path::new),
        &[],
    );
    assert_eq!(spec.roots(), ["/etc/nginx", "/etc/nginx-extra"].map(PathBuf::from));
    for wrong in ["/", "etc", "/etc/../x", ""] {
        assert!(Spec::new([PathBuf::from(wrong)], Globs::default()).is_err(), "{wrong:?}");
    }
}

#[test]
fn what_is_no_file_is_left_out_and_named() {
    let room = Room::new();
    room.write("a", "1");
    room.write("cache/x", "excluded with all below it");
    let _socket = UnixListener::bind(room.live().join("s.sock")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(room.live().join("fifo")).status();
    assert!(fifo.unwrap().success());
    symlink("/dev/null", room.live().join("null")).unwrap();
    fs::File::create(room.live().join("huge")).unwrap().set_len((1 << 30) + 1).unwrap();
    let spec = spec(&[&room.live()], &["cache"]);
    let mut scan = Reader::new().snapshot(&spec, None, patience()).unwrap();
    assert!(scan.settled);
    scan.left_out.sort_by(|a, b| a.path.cmp(&b.path));
    let left = |path: &str, why| LeftOut { root: room.live(), path: path.as_bytes().into(), why };
    let expected = [
        left("cache", Why::Excluded),
        left("fifo", Why::Fifo),
        left("huge", Why::TooLarge),
        left("s.sock", Why::Socket),
    ];
    assert_eq!(scan.left_out, expected);
    assert_eq!(scan.manifest.entries().count(), 3, "the root, a, and the link to a device");
}

#[test]
fn what_is_excluded_is_brought_along() {
    let room = Room::new();
    room.write("nginx.conf", "1");
    room.write("local/secret.key", "mine");
    room.write("conf.d/node.local", "n1");
    room.write("conf.d/a.conf", "a");
    let key = room.live().join("local/secret.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::lchown(&key, Some(33), Some(33)).unwrap();
    symlink("secret.key", room.live().join("local/link")).unwrap();
    room.write(".standin-work", "standin's own stays behind");
    let spec = spec(&[&room.live()], &["/*/local", "*.local", "local"]);
    let scan = Reader::new().snapshot(&spec, Some(&*room.store), patience()).unwrap();
    let staged = room.dir.path().join("staged");
    let mut builder = Builder::new(&room.store);
    builder.build(&scan.manifest.roots()[0], &staged, None).unwrap();
    assert!(!staged.join("local").exists() && !staged.join("conf.d/node.local").exists());
    let refused = builder.carry(&scan.left_out, &room.live(), &staged).unwrap();
    assert_eq!(refused, []);
    fs::remove_file(room.live().join(".standin-work")).unwrap();
    assert_eq!(picture(&staged), picture(&room.live()));
    let time = |at: &Path| at.metadata().unwrap().modified().unwrap();
    assert_eq!(time(&staged.join("conf.d")), time(&room.live().join("conf.d")));
    // Twice changes nothing; a socket is refused.
    let _socket = UnixListener::bind(room.live().join("local/s.local")).unwrap();
    fs::remove_dir_all(staged.join("local")).unwrap();
    let refused = builder.carry(&scan.left_out, &room.live(), &staged).unwrap();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].path.ends_with("local/s.local"));
}

#[test]
fn nobody_leads_a_builder_out_of_its_tree() {
    let room = Room::new();
    room.write("d/a", "1");
    let first = room.read().manifest;
    let staged = room.dir.path().join("staged");
    Builder::new(&room.store).build(&first.roots()[0], &staged, None).unwrap();
    room.write("d/a", "2");
    let second = room.read().manifest;
    // The owner of `d` replaces it between the reading and the building.
    let outside = room.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a"), "precious").unwrap();
    fs::remove_dir_all(staged.join("d")).unwrap();
    symlink(&outside, staged.join("d")).unwrap();
    let root = &second.roots()[0];
    let built = Builder::new(&room.store).build(root, &staged, Some(&first.roots()[0]));
    assert!(built.is_err(), "{built:?}");
    assert_eq!(fs::read(outside.join("a")).unwrap(), b"precious");
}

#[test]
fn a_file_that_changed_without_a_new_size_or_time_is_read_again() {
    let room = Room::new();
    let mut reader = Reader::new();
    for n in 0..50 {
        // Within one tick of the kernel's clock, with a time that is set back.
        room.write("a", &format!("{:02}", n % 100));
        let file = fs::File::options().write(true).open(room.live().join("a")).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
        let scan = reader.read(&room.spec(), None, &mut |_| {}).unwrap();
        let hash = standin_tree::hash::Hash::of(format!("{:02}", n % 100).as_bytes());
        assert!(scan.manifest.contents().contains_key(&hash), "{n}");
    }
}

#[test]
fn a_quiet_tree_is_not_read_twice() {
    let room = Room::new();
    for n in 0..20 {
        room.write(&format!("{n}"), "x");
    }
    std::thread::sleep(Duration::from_millis(3100));
    let mut reader = Reader::new();
    let mut read = || reader.read(&room.spec(), Some(&*room.store), &mut |_| {}).unwrap();
    assert_eq!(read().files_read, 20);
    assert_eq!(read().files_read, 0);
    room.write("7", "y");
    assert_eq!(read().files_read, 1);
    assert_eq!(read().files_read, 1, "it is too young to be known by its times");
}

#[test]
fn a_large_tree_is_read_from_both_ends_and_each_file_once() {
    let room = Room::new();
    let content = |n: usize| format!("file {n}");
    for n in 0..3000 {
        room.write(&format!("{}/{n}", n % 30), &content(n));
    }
    fs::hard_link(room.live().join("0/0"), room.live().join("29/link")).unwrap();
    for _ in 0..5 {
        let mut reader = Reader::new();
        let scan = reader.read(&room.spec(), Some(&*room.store), &mut |_| {}).unwrap();
        assert!(scan.settled);
        assert_eq!(scan.files_read, 3000);
        let root = &scan.manifest.roots()[0];
        assert_eq!(root.entries.len(), 1 + 30 + 3001);
        for n in 0..3000 {
            let entry = root.entry(format!("{}/{n}", n % 30).as_bytes()).unwrap();
            let Kind::File { hash, .. } = entry.kind else { panic!("{entry:?}") };
            assert_eq!(hash, standin_tree::hash::Hash::of(content(n).as_bytes()));
            assert!(room.store.has(&hash));
        }
    }
}

/// Mounts need a namespace of their own: the test runs itself again in one.
#[test]
fn mount_points_are_followed_and_named() {
    const INSIDE: &str = "STANDIN_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().unwrap();
        let done = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(program)
            .args(["--exact", "mount_points_are_followed_and_named", "--test-threads=1"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        return;
    }
    let room = Room::new();
    let dir = room.dir.path().canonicalize().unwrap();
    let live = dir.join("live");
    for folder in ["outer", "inner", "live/ssl"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("inner/key"), "k").unwrap();
    fs::write(dir.join("file"), "f").unwrap();
    fs::write(dir.join("outer/one"), "").unwrap();
    fs::create_dir(dir.join("outer/ssl")).unwrap();
    spawn::mount_bind(&dir.join("outer"), &live).unwrap();
    spawn::mount_bind(&dir.join("inner"), &live.join("ssl")).unwrap();
    spawn::mount_bind(&dir.join("file"), &live.join("one")).unwrap();
    let scan = Reader::new().snapshot(&spec(&[&live], &[]), None, patience()).unwrap();
    assert!(scan.places[0].mount && !scan.places[0].symlink);
    let mut mounts = scan.mounts;
    mounts.sort();
    assert_eq!(mounts, [live.join("one"), live.join("ssl")]);
    assert_eq!(scan.manifest.contents().len(), 2, "what is mounted belongs to the tree");
}

#[test]
fn a_file_that_is_made_replaces_only_what_was_seen_there() {
    let room = Room::new();
    room.write("made.conf", "one\n");
    let one = room.read().manifest;
    room.write("made.conf", "two\n");
    let two = room.read().manifest;
    let entry = |of: &Manifest| of.root(&room.live()).unwrap().entry(b"made.conf").unwrap().clone();
    let (one, two) = (entry(&one), entry(&two));
    let mut builder = Builder::new(&room.store);
    let text = || fs::read_to_string(room.live().join("made.conf")).unwrap();
    // Somebody has written since it was seen, or where nothing was.
    room.write("made.conf", "by hand\n");
    for saw in [Some(&one), None] {
        assert!(!builder.replace(&room.live(), &two, saw).unwrap());
        assert_eq!(text(), "by hand\n");
    }
    room.write("made.conf", "one\n");
    assert!(builder.replace(&room.live(), &two, Some(&one)).unwrap());
    assert_eq!(text(), "two\n");
    fs::remove_file(room.live().join("made.conf")).unwrap();
    assert!(!builder.replace(&room.live(), &two, Some(&one)).unwrap());
    assert!(builder.replace(&room.live(), &two, None).unwrap());
    assert_eq!((text().as_str(), fs::read_dir(room.live()).unwrap().count()), ("two\n", 1));
}
