//! A swap that is killed at any of its steps leaves a whole generation, after `recover` at the latest.

#![allow(clippy::unwrap_used, reason = "a test that can't be set up has failed")]

mod drift;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use standin_apply::{
    Change, Fingerprint, Left, Nginx, Part, Recovered, Root, Staged, Step, keep, recover, retire,
    swap, undo,
};

const TRIAL: &str = env!("CARGO_BIN_EXE_standin-apply-trial");

/// More steps than any swap here has.
const STEPS: u32 = 200;

/// Bytes, mode and owner of every file, by its path.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let seen = fs::symlink_metadata(&path).unwrap();
        let bytes = if seen.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if seen.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            fs::read_to_string(&path).unwrap()
        };
        let line = format!("{:o} {}:{} {bytes}", seen.mode(), seen.uid(), seen.gid());
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    found
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn old_tree(at: &Path) {
    write(&at.join("nginx.conf"), "old", 0o644);
    write(&at.join("same.conf"), "same", 0o644);
    write(&at.join("gone.conf"), "gone", 0o600);
    write(&at.join("sites/a.conf"), "a old", 0o640);
    write(&at.join("leaving/deep/b.conf"), "b", 0o644);
    write(&at.join("kind"), "a file", 0o644);
    symlink("sites/a.conf", at.join("link")).unwrap();
}

fn new_tree(at: &Path) {
    write(&at.join("nginx.conf"), "new!", 0o600);
    write(&at.join("same.conf"), "same", 0o644);
    write(&at.join("sites/a.conf"), "a new", 0o640);
    write(&at.join("sites/added/c.conf"), "c", 0o644);
    fs::set_permissions(at.join("sites"), fs::Permissions::from_mode(0o700)).unwrap();
    write(&at.join("kind/inside"), "a folder", 0o644);
    symlink("sites/added/c.conf", at.join("link")).unwrap();
}

/// What differs between the two, staged alone.
fn parts(at: &Path) {
    let whole = at.with_file_name("whole");
    new_tree(&whole);
    fs::create_dir(at).unwrap();
    let mut list = String::new();
    for (number, (word, path)) in PARTS.iter().enumerate() {
        let (place, from) = (at.join(number.to_string()), whole.join(path));
        list.push_str(&format!("{word} {path}\n"));
        match *word {
            "put" => fs::rename(from, place).unwrap(),
            "dress" => {
                fs::create_dir(&place).unwrap();
                fs::set_permissions(place, from.metadata().unwrap().permissions()).unwrap();
            }
            _ => {}
        }
    }
    fs::write(at.join(".parts"), list).unwrap();
    fs::remove_dir_all(whole).unwrap();
}

const PARTS: [(&str, &str); 9] = [
    ("put", "sites/added"),
    ("put", "nginx.conf"),
    ("put", "sites/a.conf"),
    ("put", "kind"),
    ("put", "link"),
    ("remove", "gone.conf"),
    ("remove", "leaving"),
    ("dress", "sites"),
    ("dress", ""),
];

/// A root that can be exchanged, one of which only what differs is staged, one that is made a mount
/// point, one that isn't there, and a file.
struct Stage {
    folder: tempfile::TempDir,
}

type Trees = Vec<BTreeMap<PathBuf, String>>;

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let it = Self { folder };
        for root in ["plain", "mounted"] {
            old_tree(&it.at(root));
            new_tree(&it.at(&format!(".standin-{root}")));
        }
        old_tree(&it.at("many"));
        parts(&it.at(".standin-many"));
        write(&it.at("dhparam.pem"), "old", 0o600);
        write(&it.at(".standin-dhparam.pem"), "new", 0o600);
        new_tree(&it.at(".standin-absent"));
        it
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// Runs shell lines in which `mounted` is a mount point, `$T` the trial and `$S` the state.
    fn run(&self, lines: &str) -> Output {
        let at = self.at("");
        let at = at.display().to_string();
        let at = at.trim_end_matches('/');
        let script = format!(
            "mount --bind {at}/mounted {at}/mounted; T={TRIAL}; S={at}/state; \
             R='{at}/plain {at}/.standin-plain {at}/mounted {at}/.standin-mounted \
             {at}/dhparam.pem {at}/.standin-dhparam.pem {at}/absent {at}/.standin-absent \
             {at}/many {at}/.standin-many'; {lines}"
        );
        Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap()
    }

    fn trees(&self) -> Trees {
        let roots = ["plain", "mounted", "dhparam.pem", "absent", "many"].map(|root| self.at(root));
        let there = roots
            .iter()
            .map(|root| if root.symlink_metadata().is_ok() { tree(root) } else { BTreeMap::new() });
        there.collect()
    }
}

/// What the five roots are before and after.
fn generations() -> (Trees, Trees) {
    let stage = Stage::new();
    let old = stage.trees();
    let said = stage.run("$T swap $S keep 0 $R");
    assert!(said.status.success(), "{said:?}");
    let new = stage.trees();
    let staged = Stage::new();
    assert_eq!(new[0], tree(&staged.at(".standin-plain")));
    assert_eq!(new[1], tree(&staged.at(".standin-mounted")), "in pieces it comes out the same");
    assert_eq!(new[2], tree(&staged.at(".standin-dhparam.pem")));
    assert_eq!(new[3], tree(&staged.at(".standin-absent")));
    assert_eq!(new[4], new[0], "and so it does where only that was staged");
    assert!(!stage.at(".standin-many").exists());
    assert!(!stage.at("mounted/.standin").exists() && !stage.at(".standin-plain").exists());
    assert!(!stage.at(".standin-mounted").exists(), "its files are in their places");
    (old, new)
}

fn root() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// Kills a swap at each of its steps; says in how many.
fn killed_everywhere(then: &str, old: &Trees, new: &Trees) -> u32 {
    for step in 1..STEPS {
        let stage = Stage::new();
        // A shell says 137 for a child that was killed.
        let said = stage.run(&format!(
            "$T swap $S {then} {step} $R; K=$?; $T recover $S 0 || exit 1; \
             $T recover $S 0 | grep -qx 'Ok(Clean)' || exit 2; $T retire $S 0 || exit 3; exit $K"
        ));
        let shown = String::from_utf8_lossy(&said.stderr).into_owned();
        let code = said.status.code().unwrap();
        assert!(matches!(code, 0 | 137), "{then} {step}: {code}\n{shown}");
        let trees = stage.trees();
        if &trees == new {
            assert!(!stage.at(".standin-mounted").exists(), "{then} {step}");
        } else {
            assert_eq!(&trees, old, "{then} {step}\n{shown}");
        }
        if code == 0 {
            return step;
        }
    }
    panic!("more than {STEPS} steps");
}

#[test]
fn a_kill_at_any_step_leaves_a_whole_generation() {
    if !root() {
        return;
    }
    let (old, new) = generations();
    let kept = killed_everywhere("keep", &old, &new);
    assert!(kept > 24, "{kept} steps were hit");
    let undone = killed_everywhere("undo", &old, &new);
    assert!(undone > 43, "{undone} steps were hit");
}

#[test]
fn a_recovery_that_is_killed_at_any_step_is_finished_by_the_next() {
    if !root() {
        return;
    }
    let (old, _) = generations();
    // The step at which everything is swapped and nothing proven.
    let swapped = {
        let said = Stage::new().run("$T swap $S undo 0 $R");
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let line = said.lines().find(|line| line.contains(" Swapped ")).unwrap().to_owned();
        line.split(' ').next().unwrap().to_owned()
    };
    for step in 1..STEPS {
        let stage = Stage::new();
        let said = stage.run(&format!(
            "$T swap $S undo {swapped} $R; $T recover $S {step}; K=$?; \
             $T recover $S 0 || exit 1; $T recover $S 0 | grep -qx 'Ok(Clean)' || exit 2; exit $K"
        ));
        let code = said.status.code().unwrap();
        assert!(matches!(code, 0 | 137), "{step}: {code} {said:?}");
        assert_eq!(stage.trees(), old, "{step}");
        if code == 0 {
            assert!(step > 19, "{step} steps were hit");
            return;
        }
    }
    panic!("more than {STEPS} steps");
}

fn one_root(stage: &Stage, before: Option<Fingerprint>) -> Staged {
    let (path, staged) = (stage.at("plain"), stage.at(".standin-plain"));
    let root = Root { path, staged, before, parts: None };
    Staged { generation: "17".into(), roots: vec![root] }
}

/// Only what differs.
fn few(stage: &Stage, before: Option<Fingerprint>) -> Staged {
    let part = |(word, path): (&str, &str)| {
        let change = match word {
            "put" => Change::Put,
            "remove" => Change::Remove,
            _ => Change::Dress,
        };
        Part { path: path.into(), change }
    };
    let parts = Some(PARTS.into_iter().map(part).collect());
    let root = Root { path: stage.at("many"), staged: stage.at(".standin-many"), before, parts };
    Staged { generation: "17".into(), roots: vec![root] }
}

/// Inode and time of each file and directory.
fn inodes(root: &Path) -> BTreeMap<PathBuf, (u64, i64, i64)> {
    let seen = |path: &PathBuf| {
        let seen = fs::symlink_metadata(root.join(path)).unwrap();
        (path.clone(), (seen.ino(), seen.mtime(), seen.mtime_nsec()))
    };
    tree(root).keys().map(seen).collect()
}

#[test]
fn where_only_what_differs_is_staged_the_rest_stays_untouched() {
    let stage = Stage::new();
    let (state, live) = (stage.at("state"), stage.at("many"));
    let before = inodes(&live);
    let swapped = swap(&few(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
    let now = inodes(&live);
    assert_eq!(now[Path::new("same.conf")], before[Path::new("same.conf")]);
    assert_eq!(now[Path::new("sites")].0, before[Path::new("sites")].0);
    assert_ne!(now[Path::new("nginx.conf")].0, before[Path::new("nginx.conf")].0);
    let drift = undo(swapped, &mut |_| ()).unwrap().drift;
    assert!(drift.is_empty(), "{drift:?}");
    assert_eq!(inodes(&live), before, "directories have their times again, too");
    assert!(!stage.at(".standin-many").exists());
}

#[test]
fn a_new_file_that_goes_with_its_folder_keeps_nothing_else_from_being_put_back() {
    let stage = Stage::new();
    let (state, live, staged) = (stage.at("state"), stage.at("many"), stage.at(".standin-some"));
    write(&live.join("lone/here.conf"), "here", 0o644);
    write(&staged.join("0"), "new!", 0o644);
    write(&staged.join("1"), "new", 0o644);
    let paths = ["nginx.conf", "lone/new.conf"];
    let parts = paths.map(|path| Part { path: path.into(), change: Change::Put });
    let root = Root { path: live.clone(), staged, before: None, parts: Some(parts.to_vec()) };
    let some = Staged { generation: "17".into(), roots: vec![root] };
    let swapped = swap(&some, &Nginx::default(), &state, &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(live.join("lone/new.conf")).unwrap(), "new");
    fs::remove_dir_all(live.join("lone")).unwrap();
    undo(swapped, &mut |_| ()).unwrap();
    assert_eq!(fs::read_to_string(live.join("nginx.conf")).unwrap(), "old");
}

#[test]
fn a_large_old_tree_leaves_beside_everything_and_no_kill_leaves_any_of_it() {
    if !root() {
        return;
    }
    let large = || {
        let stage = Stage::new();
        for file in 0..400 {
            write(&stage.at("plain").join(format!("sites/{file}.conf")), "old", 0o644);
        }
        stage
    };
    let left = |stage: &Stage| {
        let names = fs::read_dir(stage.at("")).unwrap().map(|it| it.unwrap().file_name());
        let ours = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".standin-plain");
        names.filter(ours).collect::<Vec<_>>()
    };
    let stage = large();
    let (old, state) = (tree(&stage.at("plain")), stage.at("state"));
    let swapped = swap(&one_root(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
    keep(swapped, &mut |_| ()).unwrap();
    let new = tree(&stage.at("plain"));
    let mut steps = Vec::new();
    retire(&state, &mut |step| steps.push(step)).unwrap();
    assert!(steps.contains(&Step::SetAside(0)) && !stage.at(".standin-plain").exists());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !left(&stage).is_empty() || state.join("leaving").exists() {
        assert!(std::time::Instant::now() < end, "it is never removed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }

    for step in 1..STEPS {
        let stage = large();
        let said = stage.run(&format!(
            "R='{at}plain {at}.standin-plain'; $T swap $S keep {step} $R; K=$?; \
             $T recover $S 0 || exit 1; $T retire $S 0 || exit 2; $T left $S || exit 3; exit $K",
            at = stage.at("").display()
        ));
        let code = said.status.code().unwrap();
        assert!(matches!(code, 0 | 137), "{step}: {code} {said:?}");
        let now = tree(&stage.at("plain"));
        assert!(now == old || now == new, "{step}");
        if now == new {
            assert!(left(&stage).is_empty(), "{step}: {:?}", left(&stage));
        }
        assert!(!stage.at("state/leaving").exists(), "{step}");
        if code == 0 {
            assert!(step > 9, "{step} steps were hit");
            return;
        }
    }
    panic!("more than {STEPS} steps");
}

#[test]
fn a_socket_in_a_tree_that_goes_keeps_nothing_from_being_put_back() {
    // As nginx makes one of a new `listen unix:` when it is reloaded.
    let stage = Stage::new();
    let (state, live) = (stage.at("state"), stage.at("plain"));
    let old = tree(&live);
    let swapped = swap(&one_root(&stage, None), &Nginx::default(), &state, &mut |_| {}).unwrap();
    let _listens = std::os::unix::net::UnixListener::bind(live.join("site.sock")).unwrap();
    let drift = undo(swapped, &mut |_| {}).unwrap().drift;
    assert_eq!(tree(&live), old);
    let seen: Vec<_> = drift.iter().map(|one| (one.path.as_path(), one.kept.as_ref())).collect();
    assert_eq!(seen, [(Path::new("site.sock"), None)]);
    assert!(matches!(recover(&state, &mut |_| {}), Ok(Recovered::Clean)));
}

#[test]
fn the_next_swap_retires_the_one_before_and_an_unproven_one_stands_in_its_way() {
    let stage = Stage::new();
    let state = stage.at("state");
    let staged = one_root(&stage, None);
    let swapped = swap(&staged, &Nginx::default(), &state, &mut |_| ()).unwrap();
    let again = swap(&staged, &Nginx::default(), &state, &mut |_| ()).unwrap_err();
    assert!(again.left == Left::NotBegun && again.why.contains("standin recover"), "{again:?}");
    keep(swapped, &mut |_| ()).unwrap();
    fs::write(stage.at(".standin-plain/nginx.conf"), "drift").unwrap();
    let mut next = one_root(&stage, None);
    next.roots[0].staged = stage.at(".standin-mounted");
    let swapped = swap(&next, &Nginx::default(), &state, &mut |_| ()).unwrap();
    assert_eq!(swapped.drift.len(), 1);
    assert!(!stage.at(".standin-plain").exists());
    undo(swapped, &mut |_| ()).unwrap();
}

#[test]
fn a_root_behind_a_link_or_a_foreign_tree_is_left_alone() {
    let stage = Stage::new();
    let state = stage.at("state");
    symlink(stage.at("plain"), stage.at("link")).unwrap();
    let mut staged = one_root(&stage, None);
    staged.roots[0].path = stage.at("link");
    let refused = swap(&staged, &Nginx::default(), &state, &mut |_| ()).unwrap_err();
    assert!(refused.left == Left::AsItWas && refused.why.contains("real path"), "{refused:?}");

    let staged = one_root(&stage, None);
    let swapped = swap(&staged, &Nginx::default(), &state, &mut |_| ()).unwrap();
    // Somebody restores a backup over it.
    fs::rename(stage.at("plain"), stage.at("elsewhere")).unwrap();
    fs::create_dir(stage.at("plain")).unwrap();
    drop(swapped);
    let error = recover(&state, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("neither"), "{error}");
    assert!(stage.at(".standin-plain").exists() && stage.at("elsewhere").exists());
}

#[test]
fn what_is_mounted_in_a_root_stays_mounted_there_with_its_files() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let said = stage.run(&format!(
        "set -e; cp -a {at}/plain/sites {at}/kept; mount -t tmpfs tmpfs {at}/plain/sites; \
         cp -a {at}/kept/. {at}/plain/sites/; echo own >{at}/plain/sites/own.conf; \
         mount --bind {at}/plain/sites {at}/kept; \
         $T swap $S keep 0 {at}/plain {at}/.standin-plain; \
         stat -c %d {at}/plain/sites {at}/kept | uniq | wc -l; cat {at}/kept/a.conf",
        at = stage.at("").display()
    ));
    assert!(said.status.success(), "{said:?}");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "1\na new", "{said:?}");
}

#[test]
fn an_old_tree_that_can_t_be_removed_is_in_nobody_s_way_and_is_told_with_its_path() {
    if !root() {
        return;
    }
    let stage = Stage::new();
    let said = stage.run(&format!(
        "set -e; cd {at}; R={at}plain; $T swap $S keep 6 $R {at}.standin-plain || true; \
         mkdir -p .standin-plain/aa/m; mount -t tmpfs tmpfs .standin-plain/aa/m; \
         echo own >.standin-plain/aa/m/own; \
         $T retire $S 0 >&2; $T left $S; echo; \
         $T swap $S keep 0 $R {at}.standin-mounted >&2; cat plain/nginx.conf .standin-plain-leaving/aa/m/own; \
         cp -a plain .standin-plain; $T swap $S keep 0 $R {at}.standin-plain >&2; $T left $S >&2; \
         umount .standin-plain-leaving/aa/m; $T left $S; ls -A . $S | grep leaving || true",
        at = stage.at("").display()
    ));
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{said:?}");
    let (told, rest) = text.split_once("\n\n").unwrap_or_default();
    assert!(told.contains(".standin-plain-leaving") && told.contains("mounted"), "{said:?}");
    assert_eq!(rest, "new!own\n", "{said:?}");
}

#[test]
fn a_file_that_can_t_be_removed_keeps_only_itself() {
    let stage = Stage::new();
    let (state, file) = (stage.at("state"), stage.at("plain/nginx.conf"));
    let fixed = |how: &str, file: &Path| {
        let done = Command::new("chattr").arg(how).arg(file).output();
        done.is_ok_and(|done| done.status.success())
    };
    if !root() || !fixed("+i", &file) {
        eprintln!("SKIPPED: no file can be made immutable here");
        return;
    }
    let swapped = swap(&one_root(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
    keep(swapped, &mut |_| ()).unwrap();
    let retired = retire(&state, &mut |_| ());
    let left = standin_apply::left(&state).unwrap();
    let mut next = one_root(&stage, None);
    next.roots[0].staged = stage.at(".standin-mounted");
    let again = swap(&next, &Nginx::default(), &state, &mut |_| ());
    let old = stage.at(".standin-plain-leaving");
    let names: Vec<_> = fs::read_dir(&old).into_iter().flatten().flatten().collect();
    let folder = stage.at("");
    let free = ["-name", "nginx.conf", "-exec", "chattr", "-i", "{}", "+"];
    let freed = Command::new("find").arg(folder).args(free).output().unwrap();
    assert!(freed.status.success(), "{retired:?}: {freed:?}");
    retired.unwrap();
    again.unwrap();
    assert!(left.len() == 1 && left[0].contains("-leaving/nginx.conf"), "{left:?}");
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(standin_apply::left(&state).unwrap().is_empty() && !old.exists());
}

#[test]
fn what_can_t_be_called_proven_on_the_disk_is_undone_and_stands_in_nobody_s_way() {
    let stage = Stage::new();
    let (state, live) = (stage.at("state"), stage.at("plain"));
    let old = tree(&live);
    let swapped = swap(&one_root(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
    // As a disk that fails.
    fs::remove_file(state.join("journal.proven")).unwrap();
    let not = keep(swapped, &mut |_| ()).unwrap_err();
    assert!(undo(not.swapped, &mut |_| ()).unwrap().drift.is_empty());
    assert_eq!(tree(&live), old);
    swap(&one_root(&stage, None), &Nginx::default(), &state, &mut |_| ()).unwrap();
}

#[test]
fn on_a_disk_without_room_nothing_is_swapped_that_can_t_be_called_proven() {
    if !root() {
        return;
    }
    let stage = || {
        let stage = Stage::new();
        for file in 0..300 {
            write(&stage.at("plain").join(format!("sites/{file}.conf")), "old", 0o644);
        }
        stage
    };
    let one = stage();
    swap(&one_root(&one, None), &Nginx::default(), &one.at("state"), &mut |_| ()).unwrap();
    let journal = fs::metadata(one.at("state/journal")).unwrap().len();
    let (mut refused, mut kept) = (0, 0);
    for room in (1..).map(|pages| pages * 4096).take_while(|room| *room < 4 * journal) {
        let stage = stage();
        let old = tree(&stage.at("plain"));
        let said = stage.run(&format!(
            "mkdir $S; mount -t tmpfs -o size={room} tmpfs $S; \
             $T swap $S keep 0 {at}plain {at}.standin-plain",
            at = stage.at("").display()
        ));
        let steps = String::from_utf8_lossy(&said.stderr).into_owned();
        let swapped = steps.contains("Exchanged");
        assert_eq!(swapped, steps.contains(" Kept "), "{room} of {journal}: {said:?}");
        assert_eq!(swapped, tree(&stage.at("plain")) != old, "{room} of {journal}: {said:?}");
        if swapped { kept += 1 } else { refused += 1 }
    }
    assert!(refused > 0 && kept > 0, "{refused} without room, {kept} with it");
}
