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

/// Every file of the store that holds objects.
fn files(room: &Room) -> Vec<PathBuf> {
    let base = room.dir.path().join("store");
    let packs = fs::read_dir(base.join("packs")).unwrap();
    let folders = fs::read_dir(base.join("objects")).unwrap().map(|it| it.unwrap().path());
    let objects = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    packs.chain(objects).map(|it| it.unwrap().path()).collect()
}

fn bytes_at(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

fn is_on_disk(room: &Room, text: &str) -> bool {
    files(room).iter().any(|file| bytes_at(&fs::read(file).unwrap(), text.as_bytes()).is_some())
}

/// The disk changes what it was given.
fn damage(room: &Room, text: &str) {
    for file in files(room) {
        let mut bytes = fs::read(&file).unwrap();
        if let Some(at) = bytes_at(&bytes, text.as_bytes()) {
            bytes[at] ^= 1;
            fs::write(file, bytes).unwrap();
            return;
        }
    }
    panic!("{text} isn't there");
}

/// A content that is a file of its own.
fn large(letter: &str) -> Vec<u8> {
    letter.repeat((1 << 20) + 1).into_bytes()
}

const ALL: Bounds = Bounds { generations: 100, drifts: 100, bytes: u64::MAX };

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let room = Room::new();
    let kept = [room.store.put(b"kept").unwrap(), room.store.put(&large("k")).unwrap()];
    room.store.commit(&[]).unwrap();
    let lost = room.store.put(&large("l")).unwrap();
    assert_eq!(room.store.read(&lost).unwrap(), large("l"), "pending objects can be read");
    let again = Store::open(&room.dir.path().join("store"));
    assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "one standin at a time");
    let Room { dir, store } = room;
    drop(store);
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert!(kept.iter().all(|hash| store.has(hash)) && !store.has(&lost));
    assert_eq!(store.read(&kept[0]).unwrap(), b"kept");
    assert_eq!(store.read(&kept[1]).unwrap(), large("k"));
    assert_eq!(fs::read_dir(dir.path().join("store/new")).unwrap().count(), 0);
}

#[test]
fn a_pack_that_a_crash_cut_keeps_what_is_whole() {
    let room = Room::new();
    let texts = ["first", "second", "third"];
    let hashes = texts.map(|text| room.store.put(text.as_bytes()).unwrap());
    room.store.commit(&[]).unwrap();
    let Room { dir, store } = room;
    drop(store);
    let pack = dir.path().join("store/packs/1");
    let whole = fs::read(&pack).unwrap();
    let third = bytes_at(&whole, b"third").unwrap();
    let second = bytes_at(&whole, b"second").unwrap();
    // One that the disk has damaged doesn't take the ones behind it along.
    let mut wounded = whole.clone();
    wounded[second] ^= 1;
    fs::write(&pack, wounded).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    assert_eq!(hashes.map(|hash| store.has(&hash)), [true, false, true]);
    drop(store);
    // Cut anywhere in the last record, or with blocks that never came.
    for length in (second + 6..=third + 4).step_by(5) {
        for fill in [0, 200] {
            let cut = [&whole[..length], vec![0; fill].as_slice()].concat();
            fs::write(&pack, cut).unwrap();
            let store = Store::open(&dir.path().join("store")).unwrap();
            assert_eq!(hashes.map(|hash| store.has(&hash)), [true, true, false], "{length}");
            // It goes on behind what is whole.
            assert_eq!(store.put(b"third").unwrap(), hashes[2]);
            store.commit(&[]).unwrap();
            drop(store);
            let store = Store::open(&dir.path().join("store")).unwrap();
            for (hash, text) in hashes.iter().zip(texts) {
                assert_eq!(store.read(hash).unwrap(), text.as_bytes());
            }
        }
    }
}

#[test]
fn nobody_else_may_read_the_store() {
    let room = Room::new();
    room.store.put(b"a key").unwrap();
    room.store.put(&large("k")).unwrap();
    room.store.commit(&[]).unwrap();
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
    let all = files(&room);
    assert_eq!(all.len(), 2);
    all.into_iter().for_each(|file| assert_eq!(mode(file), 0o600));
    for folder in ["", "packs", "objects", "new", "generations"] {
        assert_eq!(mode(room.dir.path().join("store").join(folder)), 0o700, "{folder}");
    }
}

#[test]
fn a_damaged_object_is_said_and_fetched_again() {
    let room = Room::new();
    let big = String::from_utf8(large("b")).unwrap();
    for (round, text) in [("small", "events {}"), ("large", &big)] {
        room.write("nginx.conf", text);
        let manifest = room.read().manifest;
        room.store.commit(&[]).unwrap();
        let hash = Hash::of(text.as_bytes());
        damage(&room, text);
        assert!(room.store.missing(&manifest).is_empty(), "nobody has looked yet");
        let root = manifest.root(&room.live()).unwrap();
        let at = room.dir.path().join(round);
        let error = Builder::new(&room.store).build(root, &at, None).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("damaged"), "{error}");
        let wanted = room.store.missing(&manifest);
        let wanted: Vec<_> = wanted.iter().map(|wanted| (wanted.hash, wanted.size)).collect();
        assert_eq!(wanted, [(hash, text.len() as u64)]);
        // A reader that has read the file before brings it again.
        assert_eq!(room.read().manifest, manifest);
        assert_eq!(room.store.read(&hash).unwrap(), text.as_bytes());
    }
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
    let on_disk = |letter: &str| is_on_disk(&room, &letter.repeat(1024));
    assert!(!on_disk("c") && !on_disk("f") && on_disk("g"), "their bytes are gone as well");
    assert_eq!(files(&room).len(), 1);
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
