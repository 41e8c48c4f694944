//! Scripts and users that the file names.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use standin_config::Cluster;
use standin_config::model::CheckKind;
use standin_linux::child::User;

use crate::checks::trust;
use crate::preflight::facts::Facts;
use crate::preflight::words;

pub(super) fn look(cluster: &Cluster, facts: &mut Facts) {
    let notify = &cluster.notify;
    let hooks =
        notify.scripts().map(|path| (vec![path.display().to_string()], notify.user.as_deref()));
    let checks = cluster.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Script { command, user } => Some((command.clone(), user.as_deref())),
        _ => None,
    });
    for (command, user) in hooks.chain(checks) {
        let as_root = match user.map(|user| (user, User::named(user))) {
            None => true,
            Some((_, Ok(user))) => user.uid() == 0,
            Some((name, Err(error))) => {
                if error.kind() == io::ErrorKind::NotFound
                    && !facts.no_users.iter().any(|known| known == name)
                {
                    facts.no_users.push(name.to_owned());
                }
                false
            }
        };
        let Some(program) = command.first() else { continue };
        if let Some(why) = trouble(Path::new(program), &command, as_root) {
            facts.scripts.insert(program.into(), why);
        }
    }
}

/// Why it can't be run, and what to do about it.
fn trouble(program: &Path, command: &[String], as_root: bool) -> Option<String> {
    let shown = program.display();
    let found = match fs::metadata(program) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(format!("there is no {shown}: put it there, or correct the path"));
        }
        Err(error) => return Some(format!("{shown}: {}", words(&error))),
    };
    if !found.is_file() {
        return Some(format!("{shown} is no file: correct the path"));
    }
    if found.permissions().mode() & 0o111 == 0 {
        return Some(format!("it isn't executable: chmod +x {shown}"));
    }
    if as_root { trust::objection(command) } else { None }
}
