//! Who owns a directory in a root can lay a link there at any moment: nothing goes through it.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use standin_apply::{
    Change, Left, Nginx, NotSwapped, Part, Recovered, Root, Staged, Step, Swapped, recover, swap,
    undo,
};

struct Stage {
    folder: tempfile::TempDir,
    /// On another file system, for a root that is exchanged file by file.
    elsewhere: tempfile::TempDir,
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

impl Stage {
    fn new() -> Self {
        let (folder, elsewhere) = (tempfile::tempdir(), tempfile::tempdir_in("/dev/shm"));
        let it = Self { folder: folder.unwrap(), elsewhere: elsewhere.unwrap() };
        for file in ["conf/nginx.conf", "conf/sites/a.conf", "conf/sites/gone.conf"] {
            write(&it.at(file), "old");
        }
        mode(&it.at("conf/sites"), 0o755);
        it
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// One part, staged alone.
    fn part(&self, change: Change, path: &str) -> Staged {
        let staged = self.at(".standin-conf");
        fs::create_dir(&staged).unwrap();
        match change {
            Change::Put => write(&staged.join("0"), "new"),
            Change::Dress => {
                fs::create_dir(staged.join("0")).unwrap();
                mode(&staged.join("0"), 0o777);
            }
            Change::Remove => {}
        }
        let parts = Some(vec![Part { path: path.into(), change }]);
        let root = Root { path: self.at("conf"), staged, before: None, parts };
        Staged { generation: "7".into(), roots: vec![root] }
    }

    /// A whole tree on another file system: what differs of it is exchanged file by file.
    fn pieces(&self) -> Staged {
        let staged = self.elsewhere.path().canonicalize().unwrap().join(".standin-conf");
        for file in ["nginx.conf", "sites/a.conf", "sites/new.conf"] {
            write(&staged.join(file), "new");
        }
        mode(&staged.join("sites"), 0o777);
        let root = Root { path: self.at("conf"), staged, before: None, parts: None };
        Staged { generation: "7".into(), roots: vec![root] }
    }

    fn swap(&self, staged: &Staged, at: Step, meanwhile: &dyn Fn()) -> Result<Swapped, NotSwapped> {
        let mut hook = |step| {
            if step == at {
                meanwhile();
            }
        };
        swap(staged, &Nginx::default(), &self.at("state"), &mut hook)
    }

    /// What an operator does, or somebody who owns the directory: the link leads to the same files.
    fn move_and_link(&self) {
        fs::rename(self.at("conf/sites"), self.at("outside")).unwrap();
        symlink(self.at("outside"), self.at("conf/sites")).unwrap();
    }

    /// Each file below, with what is in it, and the mode.
    fn all(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut ahead = vec![self.at(name)];
        while let Some(path) = ahead.pop() {
            let seen = fs::symlink_metadata(&path).unwrap();
            let mut line = format!("{} {:o} {}", path.display(), seen.mode(), seen.ino());
            if seen.is_dir() {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if seen.is_file() {
                line.push_str(&fs::read_to_string(&path).unwrap());
            }
            found.push(line);
        }
        found.sort();
        found
    }
}

const PARTS: [(Change, &str); 4] = [
    (Change::Put, "sites/a.conf"),
    (Change::Put, "sites/new.conf"),
    (Change::Remove, "sites/gone.conf"),
    (Change::Dress, "sites"),
];

#[test]
fn nothing_is_changed_behind_a_link_that_is_laid_before_the_exchange() {
    for (change, path) in PARTS {
        let stage = Stage::new();
        let staged = stage.part(change, path);
        let mut before = Vec::new();
        let moved = std::cell::RefCell::new(&mut before);
        let not = stage.swap(&staged, Step::Journalled, &|| {
            stage.move_and_link();
            **moved.borrow_mut() = stage.all("outside");
        });
        assert_eq!(stage.all("outside"), before, "{change:?} {path}");
        let not = not.unwrap_err();
        assert!(
            not.left == Left::AsItWas && not.why.contains("sites"),
            "{change:?} {path}: {not:?}"
        );
    }
}

#[test]
fn nothing_is_changed_behind_a_link_when_it_is_undone() {
    for (change, path) in PARTS {
        let stage = Stage::new();
        let (old, state) = (stage.all("conf"), stage.at("state"));
        let swapped = stage.swap(&stage.part(change, path), Step::Undone, &|| ()).unwrap();
        stage.move_and_link();
        let before = stage.all("outside");
        let undone = undo(swapped, &mut |_| ());
        assert_eq!(stage.all("outside"), before, "{change:?} {path}");
        if change == Change::Dress {
            // What somebody laid there isn't what standin dressed.
            undone.unwrap();
            continue;
        }
        let why = undone.unwrap_err().to_string();
        assert!(why.contains("conf/sites"), "{change:?} {path}: {why}");
        // As the message says: with the directory in its place it goes on.
        fs::remove_file(stage.at("conf/sites")).unwrap();
        fs::rename(stage.at("outside"), stage.at("conf/sites")).unwrap();
        let recovered = recover(&state, &mut |_| ()).unwrap();
        assert!(matches!(recovered, Recovered::Undone { .. }), "{recovered:?}");
        assert_eq!(stage.all("conf"), old, "{change:?} {path}");
    }
}

#[test]
fn another_directory_in_the_place_of_one_that_is_dressed_keeps_its_metadata() {
    for at in [Step::Journalled, Step::Swapped] {
        let stage = Stage::new();
        fs::create_dir(stage.at("conf/secret")).unwrap();
        mode(&stage.at("conf/secret"), 0o700);
        let swapped = stage.swap(&stage.part(Change::Dress, "sites"), at, &|| {
            fs::rename(stage.at("conf/sites"), stage.at("conf/other")).unwrap();
            fs::rename(stage.at("conf/secret"), stage.at("conf/sites")).unwrap();
        });
        let seen = || fs::metadata(stage.at("conf/sites")).unwrap().mode() & 0o7777;
        assert_eq!(seen(), 0o700, "{at:?}");
        if let Ok(swapped) = swapped {
            undo(swapped, &mut |_| ()).unwrap();
            assert_eq!(seen(), 0o700, "{at:?}, undone");
        }
    }
}

#[test]
fn a_link_that_was_there_when_it_was_planned_is_no_directory() {
    let stage = Stage::new();
    let staged = stage.part(Change::Dress, "sites");
    // What the directory had was laid aside, while nginx tested.
    fs::create_dir(stage.at(".standin-conf/0.was")).unwrap();
    mode(&stage.at(".standin-conf/0.was"), 0o755);
    stage.move_and_link();
    let before = stage.all("outside");
    let mut steps = Vec::new();
    let mut hook = |step| steps.push(step);
    let not = swap(&staged, &Nginx::default(), &stage.at("state"), &mut hook).unwrap_err();
    assert!(not.left == Left::AsItWas && not.why.contains("sites"), "{not:?}");
    assert!(!steps.contains(&Step::Journalled), "{steps:?}");
    assert_eq!(stage.all("outside"), before);
}

#[test]
fn a_root_that_is_exchanged_file_by_file_goes_through_no_link_either() {
    if fs::metadata("/dev/shm").unwrap().dev()
        == Stage::new().folder.path().metadata().unwrap().dev()
    {
        eprintln!("SKIPPED: there is no second file system");
        return;
    }
    for at in [Step::Prepared, Step::Journalled] {
        let stage = Stage::new();
        let staged = stage.pieces();
        let before = std::cell::RefCell::new(Vec::new());
        let not = stage.swap(&staged, at, &|| {
            stage.move_and_link();
            *before.borrow_mut() = stage.all("outside");
        });
        assert_eq!(stage.all("outside"), *before.borrow(), "{at:?}");
        let not = not.unwrap_err();
        assert!(not.left == Left::AsItWas && not.why.contains("sites"), "{not:?}");
        assert_eq!(fs::read_to_string(stage.at("conf/nginx.conf")).unwrap(), "old");
        assert!(!stage.at("conf/.standin").exists());
    }
}
