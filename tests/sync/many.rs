//! A large tree in which little changes: only that is exchanged on a backup, tested like everything else.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Node, SOON, agreed, conf};
use crate::hosts::wait_or_tell;
use crate::tree::{picture, picture_of_moving};

const CONF: &str = "/etc/nginx/conf";

/// Enough to be a large tree.
const FILES: usize = 1500;

fn place(node: &Node, path: &str) -> PathBuf {
    PathBuf::from(node.host.outside(&format!("{CONF}/{path}")))
}

fn inode(node: &Node, path: &str) -> u64 {
    fs::symlink_metadata(place(node, path)).unwrap().ino()
}

/// Until the backup has what the active has, whatever that is, and has proven it.
#[track_caller]
fn wait_equal(cluster: &Cluster) {
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    // They change places with others while they are looked at.
    let files = |node: &Node| picture_of_moving(Path::new(&node.host.outside(CONF))).ok();
    let wanted = files(n1);
    assert!(wanted.is_some(), "nobody writes there");
    let tell =
        || format!("n2 to have n1's files\n{}\n{}", n2.page(), n2.host.read("/run/logs/standin"));
    wait_or_tell(tell, SOON, || (files(n2) == wanted).then_some(()));
    cluster.wait_current();
}

/// Times of a directory, to the nanosecond.
fn modified(node: &Node, path: &str) -> (i64, i64) {
    let found = place(node, path).symlink_metadata().unwrap();
    (found.mtime(), found.mtime_nsec())
}

/// Two nodes that serve the same of many files.
fn large() -> Option<Cluster> {
    let cluster = agreed()?;
    let n1 = &cluster.nodes[0];
    // They come all at once, as a directory that was ready.
    let new = PathBuf::from(n1.host.outside("/etc/nginx/new"));
    for file in 0..FILES {
        let folder = new.join(format!("site-{}", file % 15));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{file}.inc")), format!("# {file}\n")).unwrap();
    }
    fs::rename(new, place(n1, "sites")).unwrap();
    wait_equal(&cluster);
    Some(cluster)
}

#[test]
fn of_many_files_only_what_changed_is_exchanged_and_nginx_tests_it_first() {
    let Some(cluster) = large() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    let (same, folder) = (inode(n2, "sites/site-3/3.inc"), inode(n2, "sites"));
    let untouched = |what: &str| {
        assert_eq!((inode(n2, "sites/site-3/3.inc"), inode(n2, "sites")), (same, folder), "{what}");
    };

    n1.save("nginx.conf", &conf("one file"));
    cluster.wait_answer("one file");
    wait_equal(&cluster);
    untouched("one file");

    fs::write(place(n1, "sites/site-1/added.inc"), "# added\n").unwrap();
    fs::remove_file(place(n1, "sites/site-2/2.inc")).unwrap();
    n1.host.run(&format!("chmod 750 {CONF}/sites/site-4"));
    n1.host.run(&format!("chmod 600 {CONF}/sites/site-5/5.inc"));
    n1.host.run(&format!("mkdir -p {CONF}/conf.d/new/deep"));
    n1.host.run(&format!("ln -s ../nginx.conf {CONF}/conf.d/new/link"));
    wait_equal(&cluster);
    untouched("added, removed, other modes, a new directory");
    for path in ["sites/site-1", "sites/site-2", "conf.d", "conf.d/new"] {
        assert_eq!(modified(n2, path), modified(n1, path), "{path}");
    }
    n1.host.run(&format!("rm -r {CONF}/conf.d/new"));
    fs::write(place(n1, "conf.d/new"), "a file by now").unwrap();
    wait_equal(&cluster);
    untouched("a directory that is a file by now");

    // nginx says no, and not a byte or an inode has changed.
    let all = |node: &Node| {
        let root = node.host.outside(CONF);
        let files = picture(Path::new(&root));
        let inodes =
            files.keys().map(|path| Path::new(&root).join(path).symlink_metadata().unwrap().ino());
        let inodes: Vec<u64> = inodes.collect();
        (files, inodes)
    };
    let before = all(n2);
    n1.save("conf.d/bad.conf", "sevrer { }\n");
    n2.wait_own("refusing it", |own| {
        own["problem"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("unknown directive \"sevrer\""))
    });
    assert!(all(n2) == before, "something has changed");
    let left = fs::read_dir(n2.host.outside("/etc/nginx")).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    assert!(left.len() <= 2, "what was there before the last change, at most: {left:?}");
    n1.host.run(&format!("rm {CONF}/conf.d/bad.conf"));
    wait_equal(&cluster);
    untouched("refused, and mended");

    // A file with several names is had with the whole tree only.
    fs::hard_link(place(n1, "sites/site-6/6.inc"), place(n1, "sites/site-7/linked.inc")).unwrap();
    wait_equal(&cluster);
    fs::write(place(n1, "sites/site-7/linked.inc"), "# both\n").unwrap();
    wait_equal(&cluster);
    assert_eq!(inode(n2, "sites/site-6/6.inc"), inode(n2, "sites/site-7/linked.inc"));
    n1.save("nginx.conf", &conf("and again"));
    let same = inode(n2, "sites/site-3/3.inc");
    cluster.wait_answer("and again");
    wait_equal(&cluster);
    assert_eq!(inode(n2, "sites/site-3/3.inc"), same);
}

/// What nginx loads with the generation isn't what was tested then, and what it refuses may not be the
/// generation's fault.
#[test]
fn what_somebody_writes_meanwhile_is_neither_proven_nor_held_against_the_generation() {
    let Some(cluster) = large() else { return };
    let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
    n1.save("nginx.conf", &conf("undisturbed"));
    cluster.wait_answer("undisturbed");
    wait_equal(&cluster);
    let said = n2.host.read("/run/logs/standin");
    assert!(!said.contains("somebody wrote"), "nobody did: {said}");
    // On the backup, after its files were read.
    for text in ["# mine\n", "sevrer { }\n"] {
        let said = n2.host.read("/run/logs/standin").len();
        let answer = format!("while {} was written", text.trim());
        let folder = n2.host.outside("/etc/nginx");
        let before = staged(&folder);
        n1.save("nginx.conf", &conf(&answer));
        wait_or_tell(
            || "n2 to stage it".to_owned(),
            SOON,
            || (staged(&folder) != before).then_some(()),
        );
        fs::write(place(n2, "conf.d/mine.conf"), text).unwrap();
        cluster.wait_answer(&answer);
        wait_equal(&cluster);
        let said = n2.host.read("/run/logs/standin").split_off(said);
        assert!(said.contains("somebody wrote") && !said.contains("refused: "), "{text}: {said}");
        assert!(!place(n2, "conf.d/mine.conf").exists());
    }
}

/// What is staged beside the live tree.
fn staged(folder: &str) -> Vec<std::ffi::OsString> {
    let names = fs::read_dir(folder).unwrap().map(|it| it.unwrap().file_name());
    let mut names: Vec<_> =
        names.filter(|name| name.to_string_lossy().starts_with(".standin")).collect();
    names.sort();
    names
}
