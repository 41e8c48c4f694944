//! What is edited behind a swap's back is kept with its bytes, and told.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use standin_apply::{
    Drift, Fingerprint, Left, Nginx, Recovered, Step, keep, recover, retire, swap, undo,
};

use super::{Stage, few, one_root, root, tree, write};

#[test]
fn edits_are_kept_where_only_what_differs_was_staged() {
    let stage = Stage::new();
    let (state, live) = (stage.at("state"), stage.at("many"));
    let before = Fingerprint::of(&live).unwrap();
    // One after the reading, one after the swap through a file that was open, one beside it all.
    fs::write(live.join("gone.conf"), "raced").unwrap();
    let mut open = fs::OpenOptions::new().append(true).open(live.join("nginx.conf")).unwrap();
    let swapped = swap(&few(&stage, Some(before)), &Nginx::default(), &state, &mut |_| ()).unwrap();
    keep(swapped, &mut |_| ()).unwrap();
    std::io::Write::write_all(&mut open, b" and edited").unwrap();
    fs::write(live.join("same.conf"), "mine").unwrap();
    let drift = retire(&state, &mut |_| ()).unwrap();
    let kept = |one: &Drift| {
        let bytes = one.kept.as_ref().map(|path| fs::read_to_string(path).unwrap());
        format!("{} {}", one.path.display(), bytes.unwrap_or_default())
    };
    let found: Vec<String> = drift.iter().map(kept).collect();
    assert_eq!(found, ["nginx.conf old and edited", "gone.conf raced"]);
    assert_eq!(fs::read_to_string(live.join("same.conf")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(live.join("nginx.conf")).unwrap(), "new!");

    let stage = Stage::new();
    let (state, live) = (stage.at("state"), stage.at("many"));
    let old = tree(&live);
    let swapped = swap(&few(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
    fs::write(live.join("nginx.conf"), "edited meanwhile").unwrap();
    fs::write(live.join("sites/added/more.conf"), "more").unwrap();
    let drift = undo(swapped, &mut |_| ()).unwrap().drift;
    assert_eq!(tree(&live), old);
    let found: Vec<String> = drift.iter().map(kept).collect();
    assert_eq!(found, ["sites/added/more.conf more", "nginx.conf edited meanwhile"]);
}

#[test]
fn what_appears_at_the_place_of_a_new_file_just_before_it_is_kept() {
    for (parts, root) in [(true, "many"), (false, "plain")] {
        let stage = Stage::new();
        let (state, live) = (stage.at("state"), stage.at(root));
        let before = Fingerprint::of(&live).unwrap();
        let staged = if parts { few(&stage, Some(before)) } else { one_root(&stage, Some(before)) };
        let added = live.join("sites/added");
        let mut hook = |step| {
            if step == Step::Journalled {
                write(&added.join("c.conf"), "this node's own", 0o644);
            }
        };
        let swapped = swap(&staged, &Nginx::default(), &state, &mut hook).unwrap();
        keep(swapped, &mut |_| ()).unwrap();
        assert_eq!(fs::read_to_string(added.join("c.conf")).unwrap(), "c");
        let drift = retire(&state, &mut |_| ()).unwrap();
        let kept = drift.iter().find(|one| one.path == Path::new("sites/added/c.conf"));
        let kept = kept.and_then(|one| one.kept.clone()).unwrap_or_default();
        assert_eq!(fs::read_to_string(kept).ok().as_deref(), Some("this node's own"), "{root}");
    }
}

#[test]
fn what_was_replaced_just_before_its_removal_has_all_undone() {
    let stage = Stage::new();
    let (state, live) = (stage.at("state"), stage.at("many"));
    let mut hook = |step| {
        if step == Step::Journalled {
            write(&live.join("new~"), "somebody's", 0o644);
            fs::rename(live.join("new~"), live.join("gone.conf")).unwrap();
        }
    };
    let not = swap(&few(&stage, None), &Nginx::default(), &state, &mut hook).unwrap_err();
    assert!(not.left == Left::AsItWas && not.why.contains("gone.conf"), "{not:?}");
    assert_eq!(fs::read_to_string(live.join("gone.conf")).unwrap(), "somebody's");
    assert_eq!(fs::read_to_string(live.join("nginx.conf")).unwrap(), "old");
}

#[test]
fn nothing_is_lost_of_what_was_made_anew_with_the_old_inode_just_before_it_is_exchanged() {
    // Most file systems give the inode of a file that went to the next one: only its number is the same.
    let anew = |path: &Path| {
        let inode = fs::symlink_metadata(path).unwrap().ino();
        for _ in 0..64 {
            fs::remove_file(path).unwrap();
            fs::write(path, "somebody's").unwrap();
            if fs::symlink_metadata(path).unwrap().ino() == inode {
                return;
            }
        }
    };
    for undone in [false, true] {
        let stage = Stage::new();
        let (state, live) = (stage.at("state"), stage.at("many"));
        let names = ["nginx.conf", "gone.conf", "leaving/deep/b.conf"];
        let mut hook = |step| {
            if step == Step::Journalled {
                names.iter().for_each(|name| anew(&live.join(name)));
            }
        };
        let (staged, nginx) = (few(&stage, None), Nginx::default());
        let swapped = match swap(&staged, &nginx, &state, &mut hook) {
            Ok(swapped) if undone => {
                undo(swapped, &mut |_| ()).unwrap();
                None
            }
            Ok(swapped) => Some(swapped),
            // With another inode what was to be removed is left alone, and all else put back.
            Err(not) => {
                assert_eq!(not.left, Left::AsItWas);
                None
            }
        };
        let Some(swapped) = swapped else {
            let there = names.map(|name| fs::read_to_string(live.join(name)).unwrap());
            assert_eq!(there, ["somebody's"; 3]);
            continue;
        };
        keep(swapped, &mut |_| ()).unwrap();
        let drift = retire(&state, &mut |_| ()).unwrap();
        for name in names {
            let kept = drift.iter().find(|one| one.path == Path::new(name));
            let kept = kept.and_then(|one| one.kept.clone()).unwrap_or_default();
            assert_eq!(fs::read_to_string(kept).ok().as_deref(), Some("somebody's"), "{drift:?}");
        }
    }
}

#[test]
fn edits_in_the_old_tree_are_kept_with_their_bytes() {
    let stage = Stage::new();
    let state = stage.at("state");
    let before = Fingerprint::of(&stage.at("plain")).unwrap();
    // Between the reading of the live tree and the swap.
    fs::write(stage.at("plain/raced.conf"), "raced").unwrap();
    let staged = one_root(&stage, Some(before));
    let swapped = swap(&staged, &Nginx::default(), &state, &mut |_| ()).unwrap();
    let old = swapped.old(0).unwrap().to_owned();
    let kept = keep(swapped, &mut |_| ()).unwrap();
    assert_eq!(kept.old, [old.as_path()]);
    // A shell that stood in the directory goes on writing there.
    fs::write(old.join("nginx.conf"), "edited afterwards").unwrap();
    fs::remove_file(old.join("gone.conf")).unwrap();
    let drift = retire(&state, &mut |_| ()).unwrap();
    let found: Vec<String> = drift
        .iter()
        .map(|one| {
            let bytes = one.kept.as_ref().map(|path| fs::read_to_string(path).unwrap());
            format!("{:?} {} {}", one.kind, one.path.display(), bytes.unwrap_or_default())
        })
        .collect();
    assert_eq!(
        found,
        ["Changed nginx.conf edited afterwards", "Added raced.conf raced", "Removed gone.conf "]
    );
    assert!(!old.exists());
    assert_eq!(fs::read_to_string(stage.at("plain/nginx.conf")).unwrap(), "new!");
    assert!(retire(&state, &mut |_| ()).unwrap().is_empty());
}

#[test]
fn edits_in_a_new_tree_that_is_put_back_are_kept_with_their_bytes() {
    let stage = Stage::new();
    let (state, old) = (stage.at("state"), tree(&stage.at("plain")));
    let staged = one_root(&stage, None);
    let swapped = swap(&staged, &Nginx::default(), &state, &mut |_| ()).unwrap();
    fs::write(stage.at("plain/nginx.conf"), "edited meanwhile").unwrap();
    let undone = undo(swapped, &mut |_| ()).unwrap();
    assert_eq!(tree(&stage.at("plain")), old);
    let kept = undone.drift[0].kept.clone().unwrap();
    assert_eq!(fs::read_to_string(kept).unwrap(), "edited meanwhile");
    assert!(matches!(recover(&state, &mut |_| ()).unwrap(), Recovered::Clean));
}

#[test]
fn edits_in_new_files_that_are_put_back_one_by_one_are_kept_with_their_bytes() {
    if !root() {
        return;
    }
    let old = tree(&Stage::new().at("mounted"));
    // Written anew by an editor, in place, and made again where the file was: the same inode, mostly.
    let edits = [
        "mv m/new~ m/nginx.conf",
        "cat m/new~ >m/nginx.conf",
        "rm m/nginx.conf; cat m/new~ >m/nginx.conf",
    ];
    for edit in edits {
        let stage = Stage::new();
        let said = stage.run(&format!(
            "set -e; cd {at}; ln -s mounted m; R='{at}mounted {at}.standin-mounted'; \
             N=$($T swap $S undo 0 $R 2>&1 | sed -n 's/^\\([0-9]*\\) Swapped .*/\\1/p'); \
             $T swap $S undo $N $R || true; echo mine >m/new~; {edit}; echo more >m/sites/added/d.conf; \
             $T recover $S 0; rm -f m/new~; cat $S/drift/*/0/nginx.conf $S/drift/*/0/sites/added/d.conf",
            at = stage.at("").display()
        ));
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success() && text.ends_with("mine\nmore\n"), "{edit}: {said:?}");
        assert!(!text.contains("same.conf") && !text.contains("a.conf"), "{edit}: {text}");
        assert_eq!(tree(&stage.at("mounted")), old, "{edit}");
    }
}

#[test]
fn edits_in_an_old_tree_are_told_also_where_the_next_swap_fails() {
    let stage = Stage::new();
    let state = stage.at("state");
    let swapped = swap(&one_root(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
    keep(swapped, &mut |_| ()).unwrap();
    fs::write(stage.at(".standin-plain/nginx.conf"), "edited").unwrap();
    // It fails after one file has been edited in its new place.
    let live = stage.at("many");
    let mut hook = |step| {
        if step == (Step::Placed { root: 0, piece: 1 }) {
            fs::write(live.join("nginx.conf"), "edited as well").unwrap();
            // Made before the old ones go: else they may get their inodes.
            write(&live.join("gone~"), "another", 0o644);
            fs::create_dir(live.join("leaving~")).unwrap();
            fs::remove_dir_all(live.join("leaving")).unwrap();
            fs::rename(live.join("gone~"), live.join("gone.conf")).unwrap();
            fs::rename(live.join("leaving~"), live.join("leaving")).unwrap();
        }
    };
    let not = swap(&few(&stage, None), &Nginx::default(), &state, &mut hook).unwrap_err();
    let shown = |one: &Drift| fs::read_to_string(one.kept.as_ref().unwrap()).unwrap();
    let found: Vec<_> = not.drift.iter().map(shown).collect();
    assert!(not.left == Left::AsItWas && found == ["edited", "edited as well"], "{not:?}");
}
