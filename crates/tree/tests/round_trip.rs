//! Any tree, read, encoded, decoded, stored and built again, is the same tree.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::{Room, patience, picture};
use proptest::prelude::*;
use standin_tree::build::Builder;
use standin_tree::changes::{changes, root_changes};
use standin_tree::globs::Globs;
use standin_tree::manifest::Manifest;
use standin_tree::read::{Reader, Spec};

/// Something that somebody does to a tree.
#[derive(Clone, Debug)]
enum Act {
    Folder(usize),
    File(usize, Vec<u8>),
    Symlink(usize, Vec<u8>),
    HardLink(usize, usize),
    Remove(usize),
    Rename(usize, usize),
    Mode(usize, u32),
    Owner(usize, u32, u32),
    Time(usize, i64, u32),
    Attribute(usize, Vec<u8>),
}

/// Names that could be mistaken for something else.
const NAMES: [&[u8]; 12] = [
    b"a",
    b"a/b",
    b"a/b/c",
    b"a.b",
    b"a/\xff\xfe",
    b"a b\n",
    b"nginx.conf",
    b"sites/x",
    b"sites",
    b"sites/\xe4",
    b"-rf",
    b"sites/...",
];

fn act() -> impl Strategy<Value = Act> {
    let at = || 0..NAMES.len();
    let text = || proptest::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        3 => at().prop_map(Act::Folder),
        4 => (at(), text()).prop_map(|(at, text)| Act::File(at, text)),
        // Nothing is ever there: no act leads out of the tree.
        1 => (at(), proptest::collection::vec(1_u8.., 1..30))
            .prop_map(|(at, to)| Act::Symlink(at, [b"nowhere/", to.as_slice()].concat())),
        2 => (at(), at()).prop_map(|(at, to)| Act::HardLink(at, to)),
        1 => at().prop_map(Act::Remove),
        1 => (at(), at()).prop_map(|(at, to)| Act::Rename(at, to)),
        1 => (at(), 0_u32..0o10000).prop_map(|(at, mode)| Act::Mode(at, mode)),
        1 => (at(), 0_u32..70_000, 0_u32..70_000).prop_map(|(at, u, g)| Act::Owner(at, u, g)),
        1 => (at(), 0..4_000_000_000_i64, 0_u32..1_000_000_000)
            .prop_map(|(at, s, ns)| Act::Time(at, s, ns)),
        1 => (at(), text()).prop_map(|(at, value)| Act::Attribute(at, value)),
    ]
}

/// Most acts fail because of what is there or isn't; then nothing happens.
fn perform(root: &Path, act: &Act) {
    let path = |at: &usize| root.join(OsStr::from_bytes(NAMES[*at]));
    let _ = match act {
        Act::Folder(at) => fs::create_dir_all(path(at)),
        Act::File(at, text) => fs::write(path(at), text),
        Act::Symlink(at, to) => symlink(OsStr::from_bytes(to), path(at)),
        Act::HardLink(at, to) => fs::hard_link(path(at), path(to)),
        Act::Remove(at) => fs::remove_dir_all(path(at)).or_else(|_| fs::remove_file(path(at))),
        Act::Rename(at, to) => fs::rename(path(at), path(to)),
        Act::Mode(at, mode) => fs::set_permissions(path(at), fs::Permissions::from_mode(*mode)),
        Act::Owner(at, user, group) => {
            std::os::unix::fs::lchown(path(at), Some(*user), Some(*group))
        }
        Act::Time(at, s, ns) => fs::File::open(path(at)).and_then(|file| {
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(s.unsigned_abs(), *ns))
        }),
        Act::Attribute(at, value) => fs::File::open(path(at)).and_then(|file| {
            let flags = rustix::fs::XattrFlags::empty();
            Ok(rustix::fs::fsetxattr(file, "user.test", value, flags)?)
        }),
    };
}

fn read_at(room: &Room, path: &Path) -> Manifest {
    let spec = Spec::new([path.to_owned()], Globs::default()).unwrap();
    let scan = Reader::new().snapshot(&spec, Some(&*room.store), patience()).unwrap();
    assert!(scan.settled);
    scan.manifest.moved(path, &room.live()).unwrap()
}

fn acts(most: usize) -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(act(), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn any_tree_comes_back_as_it_was(before in acts(40), after in acts(15)) {
        let room = Room::new();
        before.iter().for_each(|act| perform(&room.live(), act));
        let first = room.read().manifest;
        let bytes = first.encode().unwrap();
        prop_assert_eq!(&Manifest::decode(&bytes).unwrap(), &first);

        let staged = room.dir.path().join("staged");
        let root = first.root(&room.live()).unwrap();
        let built = Builder::new(&room.store).build(root, &staged, None).unwrap();
        prop_assert_eq!(built.refused, vec![]);
        prop_assert_eq!(picture(&staged), picture(&room.live()));
        let again = read_at(&room, &staged);
        prop_assert_eq!(&again, &first, "directories' times too");
        prop_assert_eq!(changes(&first, &again), vec![]);

        // And the next generation over this one.
        after.iter().for_each(|act| perform(&room.live(), act));
        let second = room.read().manifest;
        let (root, present) = (second.root(&room.live()).unwrap(), &again.roots()[0]);
        let differ = root_changes(present, root);
        let built = Builder::new(&room.store).build(root, &staged, Some(present)).unwrap();
        prop_assert_eq!(picture(&staged), picture(&room.live()));
        let again = read_at(&room, &staged);
        prop_assert_eq!(&again, &second);
        prop_assert_eq!(differ.is_empty(), first.hash() == second.hash());
        prop_assert!(built.made <= root.entries.len());
    }
}
