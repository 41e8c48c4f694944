//! What is called a change, and what is asked about first.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use common::Room;
use standin_tree::changes::{Difference, Suspicion, changes, suspicion};
use standin_tree::globs::Globs;
use standin_tree::manifest::Manifest;
use standin_tree::read::{Reader, Spec};

fn named(room: &Room, old: &Manifest, new: &Manifest) -> Vec<(String, Difference)> {
    let name = |path: &std::path::Path| {
        path.strip_prefix(room.live()).unwrap().to_string_lossy().into_owned()
    };
    changes(old, new).iter().map(|change| (name(&change.path), change.what)).collect()
}

#[test]
fn each_change_has_its_name() {
    let room = Room::new();
    for path in ["gone", "same", "text", "mode", "folder/a", "kind", "one", "two"] {
        room.write(path, path);
    }
    let old = room.read().manifest;
    assert_eq!(changes(&old, &old), []);
    fs::remove_file(room.live().join("gone")).unwrap();
    room.write("text", "other");
    fs::set_permissions(room.live().join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    room.write("new", "new");
    room.write("folder/.x.swp", "excluded, but it changes the folder's time");
    fs::remove_file(room.live().join("kind")).unwrap();
    fs::create_dir(room.live().join("kind")).unwrap();
    fs::remove_file(room.live().join("two")).unwrap();
    fs::hard_link(room.live().join("one"), room.live().join("two")).unwrap();
    let new = room.read().manifest;
    let expected = [
        ("gone", Difference::Removed),
        ("kind", Difference::Content),
        ("mode", Difference::Metadata),
        ("new", Difference::Added),
        ("one", Difference::Content),
        ("text", Difference::Content),
        ("two", Difference::Content),
    ];
    let expected = expected.map(|(name, what)| (name.to_owned(), what));
    assert_eq!(named(&room, &old, &new), expected);
}

fn ten() -> (Room, Manifest) {
    let room = Room::new();
    for n in 0..10 {
        room.write(&format!("conf.d/{n}.conf"), &format!("# {n}"));
    }
    let manifest = room.read().manifest;
    (room, manifest)
}

#[test]
fn a_third_of_the_files_gone_is_asked_about() {
    let (room, old) = ten();
    for n in 0..3 {
        fs::remove_file(room.live().join(format!("conf.d/{n}.conf"))).unwrap();
    }
    assert_eq!(suspicion(&old, &room.read().manifest), None, "30 percent");
    fs::remove_file(room.live().join("conf.d/3.conf")).unwrap();
    let new = room.read().manifest;
    assert_eq!(suspicion(&old, &new), Some(Suspicion::ManyGone { gone: 4, of: 10 }));
    assert_eq!(suspicion(&new, &old), None, "growth is no loss");
}

#[test]
fn emptied_files_are_gone_and_moved_ones_are_not() {
    let (room, old) = ten();
    fs::rename(room.live().join("conf.d"), room.live().join("sites")).unwrap();
    assert_eq!(suspicion(&old, &room.read().manifest), None);
    for n in 0..4 {
        room.write(&format!("sites/{n}.conf"), "");
    }
    let new = room.read().manifest;
    assert_eq!(suspicion(&old, &new), Some(Suspicion::ManyGone { gone: 4, of: 10 }));
    fs::rename(room.live().join("sites"), room.live().join("conf.d")).unwrap();
    let new = room.read().manifest;
    assert_eq!(suspicion(&old, &new), Some(Suspicion::ManyGone { gone: 4, of: 10 }));
}

#[test]
fn a_root_that_is_gone_or_emptied_is_asked_about() {
    let (room, old) = ten();
    fs::remove_dir_all(room.live().join("conf.d")).unwrap();
    let emptied = room.read().manifest;
    assert_eq!(suspicion(&old, &emptied), Some(Suspicion::RootEmptied(room.live())));
    fs::remove_dir_all(room.live()).unwrap();
    let gone = room.read().manifest;
    assert_eq!(gone.roots().len(), 1, "it is still named");
    assert_eq!(suspicion(&old, &gone), Some(Suspicion::RootGone(room.live())));
    assert_eq!(suspicion(&gone, &gone), None);
    // One small root among large ones is as much a root.
    let file = room.dir.path().join("dhparam.pem");
    fs::write(&file, "x").unwrap();
    fs::create_dir(room.live()).unwrap();
    let spec = Spec::new([room.live(), file.clone()], Globs::default()).unwrap();
    let mut reader = Reader::new();
    let old = reader.read(&spec, None, &mut |_| {}).unwrap().manifest;
    fs::remove_file(&file).unwrap();
    let new = reader.read(&spec, None, &mut |_| {}).unwrap().manifest;
    assert_eq!(suspicion(&old, &new), Some(Suspicion::RootGone(file)));
}

#[test]
fn one_file_of_two_may_go() {
    let room = Room::new();
    room.write("a", "1");
    room.write("b", "2");
    let old = room.read().manifest;
    fs::remove_file(room.live().join("a")).unwrap();
    assert_eq!(suspicion(&old, &room.read().manifest), None);
}
