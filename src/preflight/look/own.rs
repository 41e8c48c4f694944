//! Standin's own files, its directory, and the port of its peer link.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use standin_linux::{process, spawn};

use crate::preflight::facts::{Own, OwnFile};
use crate::preflight::judge::Subject;
use crate::preflight::words;

/// Cluster files elsewhere are drafts.
const CONFIGURATION: &str = "/etc";

pub(super) fn look(subject: &Subject<'_>, state_dir: &Path) -> Own {
    let keys = state_dir.join("keys");
    let mut files = Vec::new();
    files.extend(file(keys.clone(), true));
    files.extend(["authority.key", "node.key"].iter().filter_map(|it| file(keys.join(it), true)));
    let cluster = PathBuf::from(&*subject.cluster.file);
    if cluster.starts_with(CONFIGURATION) {
        files.extend(cluster.parent().and_then(|folder| file(folder.to_owned(), false)));
        files.extend(file(cluster, false));
    }
    let has_keys = keys.join("node.pem").exists();
    let link_refused = if has_keys { refused(subject) } else { Vec::new() };
    Own {
        state_dir: state_dir.to_owned(),
        keys: has_keys,
        files,
        unwritable: unwritable(state_dir),
        link_refused,
    }
}

/// What isn't there, or can't be seen, is nobody's.
fn file(path: PathBuf, secret: bool) -> Option<OwnFile> {
    let found = fs::metadata(&path).ok()?;
    Some(OwnFile {
        path,
        secret,
        directory: found.is_dir(),
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// The state directory, or the first one above it that is there.
fn unwritable(state_dir: &Path) -> Option<(PathBuf, String)> {
    // Whoever isn't root would be told of it every time; the daemon runs as root.
    if !spawn::is_root() {
        return None;
    }
    let there = state_dir.ancestors().find(|folder| fs::symlink_metadata(folder).is_ok())?;
    let folder = there.to_owned();
    if !fs::metadata(there).is_ok_and(|found| found.is_dir()) {
        return Some((folder, "it is no directory".to_owned()));
    }
    process::writable(there).err().map(|error| (folder, words(&error)))
}

fn refused(subject: &Subject<'_>) -> Vec<(std::net::IpAddr, String)> {
    let port = subject.cluster.link.port;
    let own = subject.me.addresses.iter();
    own.filter_map(|own| listening(SocketAddr::new(*own, port)).map(|why| (*own, why))).collect()
}

/// Why nobody can listen there; a standin that does so already, and an address that isn't here, are no
/// reason.
fn listening(at: SocketAddr) -> Option<String> {
    let error = TcpListener::bind(at).err()?;
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => None,
        _ => refusal(at, &error),
    }
}

/// Why nobody can listen there, of the kernel's answer.
pub(super) fn refusal(listen: SocketAddr, error: &io::Error) -> Option<String> {
    let holder = || {
        process::all_pids().into_iter().find(|pid| {
            process::listening_tcp(*pid).is_ok_and(|bound| {
                bound.iter().any(|at| {
                    at.port() == listen.port()
                        && (at.ip().is_unspecified() || at.ip() == listen.ip())
                })
            })
        })
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = holder().and_then(|pid| Some((pid, process::name(pid)?)));
            match who {
                Some((_, name)) if name == "standin" => None,
                Some((pid, name)) => Some(format!("{name} (pid {pid}) listens there")),
                None => Some("someone listens there".to_owned()),
            }
        }
        io::ErrorKind::AddrNotAvailable => Some(format!("{} is not on this host", listen.ip())),
        _ => Some(words(error)),
    }
}
