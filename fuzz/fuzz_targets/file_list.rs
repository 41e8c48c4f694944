//! Any bytes are a list of files that leads nowhere out of its roots, in the one form it has, or are refused.

#![no_main]

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use standin_tree::manifest::Manifest;

fuzz_target!(|data: &[u8]| {
    let Ok(list) = Manifest::decode(data) else { return };
    assert_eq!(list.encode().as_deref().ok(), Some(data));
    let same = Manifest::new(list.roots().to_vec());
    assert_eq!(same.map(|same| same.hash()).ok(), Some(list.hash()));
    for (root, entry) in list.entries() {
        assert!(root.path.is_absolute());
        assert!(entry.path().components().all(|part| matches!(part, Component::Normal(_))));
        assert!(root.full(entry).starts_with(&root.path));
    }
});
