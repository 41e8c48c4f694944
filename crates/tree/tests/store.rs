//! The store keeps what it was given, says when the disk has damaged it, and forgets in time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::Room;
use standin_tree::build::Builder;
use standin_tree::hash::Hash;
use standin_tree::manifest::{MAX_FILE, Manifest};
use standin_tree::store::{Bounds, Generation, Id, Origin, Store};

fn object(room: &Room, hash: &Hash) -> PathBuf {
    let name = hash.to_string();
    room.dir.path().join("store/objects").join(&name[..2]).join(&name[2..])
}

const ALL: Bounds = Bounds { generations: 100, drifts: 100, bytes: u64::MAX };

#[test]
fn what_was_committed_is_there_after_a_restart_and_the_rest_is_gone() {
    let room = Room::new();
    let (kept, lost) = (room.store.put(b"kept").unwrap(), Hash::of(b"lost"));
    room.store.commit(&[]).unwrap();
    assert_eq!(room.store.put(b"lost").unwrap(), lost);
    assert_eq!(room.store.read(&lost).unwrap(), b"lost", "pending objects can be read");
    let again = Store::open(&room.dir.path().join("store"));
    assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "one standin at a time");
    let Room { dir, store } = room;
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert!(store.has(&kept) && !store.has(&lost));
    assert_eq!(store.read(&kept).unwrap(), b"kept");
    assert_eq!(fs::read_dir(dir.path().join("store/new")).unwrap().count(), 0);
}

#[test]
fn nobody_else_may_read_the_store() {
    let room = Room::new();
    let hash = room.store.put(b"a key").unwrap();
    room.store.commit(&[]).unwrap();
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(object(&room, &hash)), 0o600);
    for folder in ["", "objects", "new", "generations"] {
        assert_eq!(mode(room.dir.path().join("store").join(folder)), 0o700, "{folder}");
    }
}

#[test]
fn a_damaged_object_is_said_and_fetched_again() {
    let room = Room::new();
    room.write("nginx.conf", "events {}");
    let manifest = room.read().manifest;
    room.store.commit(&[]).unwrap();
    let hash = Hash::of(b"events {}");
    fs::write(object(&room, &hash), "evil {}").unwrap();
    assert!(room.store.missing(&manifest).is_empty(), "nobody has looked yet");
    let root = manifest.root(&room.live()).unwrap();
    let at = room.dir.path().join("staged");
    let error = Builder::new(&room.store).build(root, &at, None).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("damaged"), "{error}");
    let wanted = room.store.missing(&manifest);
    assert_eq!(
        wanted.iter().map(|wanted| (wanted.hash, wanted.size)).collect::<Vec<_>>(),
        [(hash, 9)]
    );
    // A reader that has read the file before brings it again.
    let again = room.read().manifest;
    assert_eq!(again, manifest);
    assert_eq!(room.store.read(&hash).unwrap(), b"events {}");
}

#[test]
fn a_file_comes_in_pieces_or_not_at_all() {
    let room = Room::new();
    let hash = Hash::of(b"one two");
    let mut incoming = room.store.incoming(7).unwrap();
    incoming.write(b"one ").unwrap();
    assert_eq!(incoming.size(), 4);
    incoming.write(b"two").unwrap();
    assert_eq!(room.store.keep(incoming, Some(hash)).unwrap(), hash);
    assert_eq!(room.store.read(&hash).unwrap(), b"one two");
    let mut other = room.store.incoming(3).unwrap();
    other.write(b"bad").unwrap();
    let error = room.store.keep(other, Some(hash)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(room.store.incoming(MAX_FILE + 1).is_err());
    assert_eq!(fs::read_dir(room.dir.path().join("store/new")).unwrap().count(), 1);
}

#[test]
fn generations_come_back_with_their_words_and_files() {
    let room = Room::new();
    room.write("a", "1");
    let manifest = room.read().manifest;
    let id = Id { number: 7, hash: manifest.hash() };
    let parent = Id { number: 6, hash: Hash::of(b"parent") };
    let generation = Generation {
        id,
        origin: Origin::Generation,
        parents: vec![parent],
        node: "n1".into(),
        when_ms: 1_700_000_000_000,
        why: "a saved file".into(),
    };
    room.store.record(&generation, &manifest).unwrap();
    room.store.record(&generation, &manifest).unwrap();
    let wrong = Generation { id: parent, ..generation.clone() };
    assert!(room.store.record(&wrong, &manifest).is_err(), "another hash");
    let wrong = Generation { why: "two\nlines".into(), ..generation.clone() };
    assert!(room.store.record(&wrong, &manifest).is_err());
    let Room { dir, store } = room;
    drop(store);
    fs::write(dir.path().join("store/generations/rubbish"), "x").unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(store.generations(), [generation]);
    assert_eq!(store.damaged(), ["rubbish"]);
    assert_eq!(store.manifest(&id).unwrap(), manifest);
    assert_eq!(store.manifest(&parent).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    let record = fs::read_dir(dir.path().join("store/generations")).unwrap();
    let record = record.map(|it| it.unwrap().path()).find(|it| !it.ends_with("rubbish")).unwrap();
    let mut bytes = fs::read(&record).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&record, bytes).unwrap();
    assert_eq!(store.manifest(&id).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
}

/// A generation with one file of a kilobyte, all of one letter.
fn generation(room: &Room, number: u64, origin: Origin) -> (Id, Hash, Manifest) {
    let letter = char::from(b'a' + u8::try_from(number).unwrap());
    let text = letter.to_string().repeat(1024);
    room.write("a", &text);
    let manifest = room.read().manifest;
    (room.record(number, origin, &manifest), Hash::of(text.as_bytes()), manifest)
}

#[test]
fn the_past_is_forgotten_from_its_far_end() {
    let room = Room::new();
    let all: Vec<_> = (1..=6).map(|number| generation(&room, number, Origin::Generation)).collect();
    let drift = generation(&room, 7, Origin::Drift);
    assert_eq!(room.store.collect(&[], ALL).unwrap().records, 0);
    assert_eq!(room.store.collect(&[], Bounds { generations: 3, ..ALL }).unwrap().records, 3);
    let left: Vec<u64> = room.store.generations().iter().map(|one| one.id.number).collect();
    assert_eq!(left, [4, 5, 6, 7]);
    assert!(!room.store.has(&all[2].1) && room.store.has(&all[3].1));
    assert!(!object(&room, &all[2].1).exists(), "its bytes are gone from the disk");
    // What is pinned and what is newest stays; bytes count, too.
    let tight = Bounds { generations: 0, drifts: 1, bytes: 3 * 1024 };
    let collected = room.store.collect(&[all[3].0], tight).unwrap();
    assert_eq!((collected.records, collected.objects, collected.bytes), (1, 1, 1024));
    let left: Vec<u64> = room.store.generations().iter().map(|one| one.id.number).collect();
    assert_eq!(left, [4, 6, 7]);
    room.store.collect(&[], Bounds { generations: 0, drifts: 0, bytes: 0 }).unwrap();
    let left: Vec<u64> = room.store.generations().iter().map(|one| one.id.number).collect();
    assert_eq!(left, [6], "the newest generation stays whatever it weighs");
    assert!(room.store.has(&all[5].1) && !room.store.has(&drift.1));
    assert_eq!(room.store.manifest(&all[5].0).unwrap(), all[5].2);
}

#[test]
fn a_generation_that_is_still_being_fetched_is_not_collected() {
    let room = Room::new();
    let other = Room::new();
    other.write("a", "1");
    other.write("b", "2");
    let manifest = other.read().manifest;
    room.record(1, Origin::Generation, &manifest);
    assert_eq!(room.store.missing(&manifest).len(), 2);
    let first = room.store.put(b"1").unwrap();
    room.store.commit(&[]).unwrap();
    room.store.collect(&[], Bounds { generations: 1, drifts: 0, bytes: 0 }).unwrap();
    assert!(room.store.has(&first));
    assert_eq!(room.store.missing(&manifest).len(), 1);
}
