//! Standin's own files, who may read and change them, and where its peer link listens.

use standin_config::{Diagnostic, Severity};

use super::{Subject, codes};
use crate::preflight::facts::{Facts, OwnFile};

const GROUP_AND_OTHERS: u32 = 0o077;
const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const ROOT: u32 = 0;

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for file in &facts.own.files {
        found.extend(if file.secret { secret(file) } else { open(file) });
    }
    if let Some((folder, why)) = &facts.own.unwritable {
        let shown = folder.display();
        let message = format!(
            "nothing can be written in {shown} ({why}): events, keys and the history of the shared files live in \
             {}",
            facts.own.state_dir.display()
        );
        let severity = if facts.own.keys { Severity::Error } else { link_severity(subject) };
        found.push(Diagnostic::new(severity, codes::NO_STATE, message).help(format!(
            "findmnt -T {shown} says whether it is mounted read-only, lsattr -d {shown} whether it is immutable"
        )));
    }
    let port = subject.cluster.link.port;
    for (address, why) in &facts.own.link_refused {
        let message = format!(
            "the peer link can't listen on {}: {why}",
            std::net::SocketAddr::new(*address, port)
        );
        let finding = Diagnostic::new(link_severity(subject), codes::LINK, message);
        let finding = finding.at(&subject.cluster.file, subject.me.span.clone(), "");
        found.push(finding.help(format!(
            "who has it: ss -ltnp 'sport = {port}'; end that, or give [link] another port on all nodes"
        )));
    }
}

/// Without a link VRRP decides alone; shared files have no other way.
pub(super) const fn link_severity(subject: &Subject<'_>) -> Severity {
    if subject.cluster.sync.is_some() { Severity::Error } else { Severity::Warning }
}

/// A key must be root's and nobody else's.
fn secret(file: &OwnFile) -> Option<Diagnostic> {
    let shown = file.path.display();
    let (mode, uid) = (file.mode, file.uid);
    if uid == ROOT && mode & GROUP_AND_OTHERS == 0 {
        return None;
    }
    let what =
        if file.directory { "the directory of this node's keys" } else { "a key of this node" };
    let message = format!(
        "{shown} (mode {mode:04o}, owner uid {uid}), {what}, isn't root's alone: whoever has the keys can join the \
         cluster and change its files"
    );
    let private = if file.directory { "0700" } else { "0600" };
    let help = if file.directory {
        format!("chown root {shown} && chmod {private} {shown}")
    } else {
        format!(
            "chown root {shown} && chmod {private} {shown}; if others may have read it: standin expel makes a new \
             authority"
        )
    };
    Some(Diagnostic::error(codes::KEY_EXPOSED, message).help(help))
}

/// The cluster file names programs that are run as root.
fn open(file: &OwnFile) -> Option<Diagnostic> {
    let shown = file.path.display();
    let (severity, who, mend) = if file.uid != ROOT {
        (Severity::Error, format!("uid {}", file.uid), format!("chown root {shown}"))
    } else if file.mode & OTHERS_WRITE != 0 {
        (Severity::Error, "everybody".to_owned(), format!("chmod o-w {shown}"))
    } else if file.mode & GROUP_WRITES != 0 && file.gid != ROOT {
        (Severity::Warning, format!("its group {}", file.gid), format!("chmod g-w {shown}"))
    } else {
        return None;
    };
    let message = format!(
        "{shown} (mode {:04o}, owner uid {}) can be changed by {who}, and the cluster file names programs that run \
         as root",
        file.mode, file.uid
    );
    Some(Diagnostic::new(severity, codes::FILE_OPEN, message).help(mend))
}
