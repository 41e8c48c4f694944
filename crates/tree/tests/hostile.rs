//! Lists that nobody's standin wrote: refused, never a panic, never memory that the bytes don't pay for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

use std::path::PathBuf;

use proptest::prelude::*;
use standin_tree::hash::Hash;
use standin_tree::manifest::{
    Attribute, Entry, Kind, MAX_FILE, MAX_ROOTS, Manifest, Root, Time, Who, shown,
};

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.as_bytes().into(),
        mode: if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { 0o644 },
        kind,
        user: Who { id: 0, name: Some("root".into()) },
        group: Who::number(33),
        modified: Time { s: 1_700_000_000, ns: 1 },
        attributes: Vec::new(),
    }
}

fn file(path: &str) -> Entry {
    linked(path, 0)
}

fn linked(path: &str, link: u32) -> Entry {
    entry(path, Kind::File { size: 1, hash: Hash::of(b"x"), link })
}

fn folder(path: &str) -> Entry {
    entry(path, Kind::Directory)
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, Kind::Symlink { target: target.as_bytes().into() })
}

fn root(path: &str, entries: Vec<Entry>) -> Root {
    Root { path: PathBuf::from(path), entries }
}

fn refused(entries: Vec<Entry>) -> String {
    Manifest::new(vec![root("/r", entries)]).expect_err("should be refused").to_string()
}

fn accepted(entries: Vec<Entry>) {
    let manifest = Manifest::new(vec![root("/r", entries)]).expect("a good list");
    let bytes = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
}

#[test]
fn nothing_leads_out_of_its_root() {
    accepted(vec![folder(""), folder("a"), file("a/b")]);
    for path in ["..", "a/..", "a/../b", "/etc/passwd", "a//b", "a/", ".", "a/./b", "a\0"] {
        let text = refused(vec![folder(""), folder("a"), file(path)]);
        assert!(text.contains("elsewhere") || text.contains("order"), "{path}: {text}");
    }
    assert!(refused(vec![folder(""), symlink("a", "/etc"), file("a/passwd")]).contains("a/passwd"));
    assert!(refused(vec![folder(""), file("a"), file("a/b")]).contains("no directory"));
    assert!(refused(vec![folder(""), file("a/b")]).contains("no directory"));
    assert!(refused(vec![symlink("", "/etc")]).contains("symbolic link"));
    assert!(refused(vec![file("a")]).contains("root itself"));
    assert!(refused(vec![file(""), file("a")]).contains("no directory"));
    assert!(refused(vec![folder(""), file(&"x".repeat(256))]).contains("name longer"));
    let deep: Vec<String> = (1..=65).map(|n| vec!["d"; n].join("/")).collect();
    let deep = std::iter::once(folder("")).chain(deep.iter().map(|path| folder(path))).collect();
    assert!(refused(deep).contains("deeper"));
}

#[test]
fn roots_are_clean_and_apart() {
    for path in ["", "/", "etc", "/etc/..", "/etc//nginx", "/etc/nginx/", "/a\0b", "/./a"] {
        let manifest = Manifest::new(vec![root(path, vec![])]);
        assert!(manifest.is_err(), "{path:?}");
    }
    let both = |one, other| Manifest::new(vec![root(one, vec![]), root(other, vec![])]).is_ok();
    assert!(both("/a", "/ab"));
    assert!(!both("/a/b", "/a") && !both("/a", "/a"));
    let many = (0..=MAX_ROOTS).map(|n| root(&format!("/r{n}"), vec![])).collect();
    assert!(Manifest::new(many).is_err());
}

#[test]
fn lists_have_one_order_and_their_bounds() {
    assert!(refused(vec![folder(""), file("b"), file("a")]).contains("order"));
    assert!(refused(vec![folder(""), file("a"), file("a")]).contains("twice"));
    let huge = Kind::File { size: MAX_FILE + 1, hash: Hash::of(b""), link: 0 };
    assert!(refused(vec![folder(""), entry("a", huge)]).contains("larger"));
    let many = (0..10).map(|n| {
        entry(&n.to_string(), Kind::File { size: MAX_FILE, hash: Hash::of(b""), link: 0 })
    });
    assert!(refused([folder("")].into_iter().chain(many).collect()).contains("bytes"));
    for target in ["".to_owned(), "x".repeat(5000), "a\0".to_owned()] {
        refused(vec![folder(""), symlink("a", &target)]);
    }
    refused(vec![folder(""), Entry { mode: 0o644, ..symlink("a", "b") }]);
    refused(vec![folder(""), Entry { mode: 0o10000, ..file("a") }]);
    refused(vec![folder(""), Entry { modified: Time { s: 0, ns: 1_000_000_000 }, ..file("a") }]);
    let name = Some("a\nb".into());
    refused(vec![folder(""), Entry { user: Who { id: 1, name }, ..file("a") }]);
}

#[test]
fn attributes_are_of_the_kept_kinds_and_sorted() {
    let with = |names: &[&str]| {
        let attribute =
            |name: &&str| Attribute { name: name.as_bytes().into(), value: Box::default() };
        vec![folder(""), Entry { attributes: names.iter().map(attribute).collect(), ..file("a") }]
    };
    accepted(with(&["security.selinux", "user.a", "user.b"]));
    for wrong in [&["trusted.overlay.opaque"][..], &["user.b", "user.a"], &["user.a", "user.a"]] {
        refused(with(wrong));
    }
    let many: Vec<String> = (0..33).map(|n| format!("user.{n:02}")).collect();
    refused(with(&many.iter().map(String::as_str).collect::<Vec<_>>()));
}

#[test]
fn hard_links_are_numbered_in_one_way_and_agree() {
    accepted(vec![folder(""), linked("a", 1), linked("b", 2), linked("c", 1), linked("d", 2)]);
    refused(vec![folder(""), linked("a", 1)]);
    refused(vec![folder(""), linked("a", 2), linked("b", 2)]);
    refused(vec![folder(""), linked("a", u32::MAX), linked("b", u32::MAX)]);
    refused(vec![folder(""), linked("a", 1), Entry { mode: 0o600, ..linked("b", 1) }]);
}

#[test]
fn the_name_of_a_tree_says_what_is_equal_everywhere() {
    let tree = |entries| Manifest::new(vec![root("/r", entries)]).unwrap().hash();
    let plain = || vec![folder(""), folder("a"), file("a/b")];
    let same = tree(plain());
    assert_eq!(same, tree(plain()));
    let with = |at: usize, change: &dyn Fn(&mut Entry)| {
        let mut entries = plain();
        change(&mut entries[at]);
        tree(entries)
    };
    assert_eq!(same, with(1, &|entry| entry.modified.s += 1), "a directory's time");
    assert_eq!(same, with(2, &|entry| entry.user.id = 7), "the number of a user with a name");
    assert_ne!(same, with(2, &|entry| entry.group.id = 7), "the number of a group without one");
    assert_ne!(same, with(2, &|entry| entry.modified.ns += 1));
    assert_ne!(same, with(2, &|entry| entry.mode = 0o600));
    assert_ne!(same, tree(vec![folder(""), folder("a")]));
    assert_ne!(same, Manifest::new(vec![root("/q", plain())]).unwrap().hash());
}

#[test]
fn paths_are_shown_without_what_a_terminal_would_obey() {
    assert_eq!(shown(b"a\x1b[2Jb\n\xff\xc3\xa4"), "a\\u{1b}[2Jb\\n\\xff\u{e4}");
}

fn good() -> Vec<u8> {
    let attribute = Attribute { name: b"user.a".as_slice().into(), value: b"v".as_slice().into() };
    let entries = vec![
        folder(""),
        linked("a", 1),
        folder("b"),
        Entry { attributes: vec![attribute], ..file("b/c") },
        symlink("b/d", "../a"),
        linked("b/e", 1),
    ];
    Manifest::new(vec![root("/q", vec![]), root("/r", entries)]).unwrap().encode().unwrap()
}

#[test]
fn every_cut_and_every_other_byte_is_refused_or_another_good_list() {
    let good = good();
    let whole = Manifest::decode(&good).unwrap();
    for length in 0..good.len() {
        assert!(Manifest::decode(&good[..length]).is_err(), "cut at {length}");
    }
    assert!(Manifest::decode(&[good.as_slice(), b"x"].concat()).is_err());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut other = good.clone();
            other[at] ^= 1 << bit;
            if let Ok(manifest) = Manifest::decode(&other) {
                assert_ne!(manifest, whole, "two texts for one list: byte {at} bit {bit}");
                assert_eq!(manifest.encode().unwrap(), other);
            }
        }
    }
}

#[test]
fn a_count_without_bytes_reserves_nothing() {
    let magic = b"standin tree 1\n";
    for counts in [[0xff_u8; 4], [0, 0, 0x10, 0]] {
        assert!(Manifest::decode(&[magic.as_slice(), &counts].concat()).is_err());
    }
    let root = [magic.as_slice(), &[0; 4], &[0, 0, 0, 1], &[0, 2], b"/r", &[0, 4, 0, 0]].concat();
    assert!(Manifest::decode(&root).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Manifest::decode(&bytes);
        let _ = Manifest::decode(&[b"standin tree 1\n".as_slice(), &bytes].concat());
    }

    #[test]
    fn a_good_list_with_any_wound_is_read_to_an_end(
        at in 0_usize..300, bytes in proptest::collection::vec(any::<u8>(), 1..8),
    ) {
        let mut wounded = good();
        let at = at.min(wounded.len());
        let end = (at + bytes.len()).min(wounded.len());
        wounded.splice(at..end, bytes);
        if let Ok(manifest) = Manifest::decode(&wounded) {
            prop_assert_eq!(manifest.encode().unwrap(), wounded);
        }
    }
}
