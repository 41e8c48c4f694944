//! Scripts, users, logs, the API's port, checks that can't pass, inotify.

use std::path::Path;

use standin_config::Diagnostic;
use standin_config::model::{CheckKind, Facility, ProcessBy, Sync};

use super::{Subject, codes, listed};
use crate::preflight::facts::Facts;

/// A share of the limit that others of the same user (an editor, a file sync) may need.
const OTHERS_WATCHES: usize = 1024;

/// One for each root of [sync] and one for nginx's files, with as many to spare.
const INSTANCES: usize = 16;

/// Places that are named; the line to add covers them all.
const UNSHARED_NAMED: usize = 5;

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    notify(subject, facts, found);
    users(subject, facts, found);
    log(subject, facts, found);
    api(subject, facts, found);
    checks(subject, facts, found);
    witnesses(subject, facts, found);
    inotify(subject, facts, found);
    unshared(subject, facts, found);
    shared_commands(subject, facts, found);
}

/// What the file's own words don't show: scripts in the directory that was found to be nginx's.
fn shared_commands(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let cluster = subject.cluster;
    let by_default = |sync: &&Sync| sync.paths.is_empty();
    let (Some(_), Some(nginx)) = (cluster.sync.as_ref().filter(by_default), &facts.nginx) else {
        return;
    };
    let Some(root) = nginx.conf.as_deref().and_then(Path::parent) else { return };
    let checks = cluster.checks.iter().filter_map(|check| match &check.kind {
        CheckKind::Script { command, .. } => command.first().map(Path::new),
        _ => None,
    });
    let programs = cluster.notify.scripts().chain(checks);
    let mut shared: Vec<&Path> = programs.filter(|program| program.starts_with(root)).collect();
    shared.sort_unstable();
    shared.dedup();
    for program in shared {
        let shown = program.display().to_string();
        let message = format!("{shown} lies in {}, which the nodes share", root.display());
        let finding = Diagnostic::error(codes::COMMAND_SHARED, message);
        found.push(subject.at_value(finding, &shown, "").help(
            "put it elsewhere on each node, /usr/local/sbin say: else whoever may write there on one node \
             runs programs on all",
        ));
    }
}

fn notify(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let mut told: Vec<&Path> = Vec::new();
    for path in subject.cluster.notify.scripts() {
        let Some(why) = facts.scripts.get(path) else { continue };
        if told.contains(&path) {
            continue;
        }
        told.push(path);
        let shown = path.display().to_string();
        let message =
            format!("the notify script {shown} can't be run, and would fail at every change");
        let finding = Diagnostic::error(codes::SCRIPT, message);
        found.push(subject.at_value(finding, &shown, "").help(why.clone()));
    }
}

fn users(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for user in &facts.no_users {
        let message = format!("this host has no user {user}, and scripts shall run as {user}");
        let finding = Diagnostic::error(codes::NO_USER, message);
        found.push(
            subject.at_value(finding, user, "no such user").help(format!(
                "useradd --system --shell /usr/sbin/nologin {user}, or name another"
            )),
        );
    }
}

fn log(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let section = &subject.cluster.log;
    if let Some(file) = &section.file
        && let Some(folder) = file.parent().filter(|folder| absent(facts, folder))
    {
        let shown = file.display().to_string();
        let message = format!(
            "the log's directory {} doesn't exist: standin doesn't start",
            folder.display()
        );
        let finding = Diagnostic::error(codes::LOG, message);
        found.push(
            subject.at_value(finding, &shown, "").help(format!("mkdir -p {}", folder.display())),
        );
    }
    let socket = Path::new(super::super::look::SYSLOG_SOCKET);
    if section.syslog.is_some() && absent(facts, socket) {
        let message = format!(
            "no syslog daemon listens ({} isn't there): its lines would be lost",
            socket.display()
        );
        let name = Facility::NAMES
            .iter()
            .find(|(_, number)| Some(*number) == section.syslog.map(Facility::number));
        let finding = Diagnostic::warning(codes::LOG, message);
        found.push(
            subject
                .at_value(finding, name.map_or("", |(name, _)| name), "")
                .help("apt-get install rsyslog, or log to journald, a file or stderr in [log]"),
        );
    }
    let socket = Path::new(super::super::look::JOURNAL_SOCKET);
    if section.journald == Some(true) && absent(facts, socket) {
        let message = format!(
            "no journald listens ({} isn't there): its lines would be lost",
            socket.display()
        );
        found.push(
            Diagnostic::warning(codes::LOG, message)
                .help("log to syslog, a file or stderr in [log]"),
        );
    }
}

fn absent(facts: &Facts, path: &Path) -> bool {
    facts.absent.iter().any(|absent| absent == path)
}

fn api(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let (Some(listen), Some(why)) = (subject.cluster.api.listen, &facts.api_refused) else {
        return;
    };
    let shown = listen.to_string();
    let message = format!("the API can't listen on {shown}: {why}");
    let finding = Diagnostic::error(codes::API, message);
    found.push(subject.at_value(finding, &shown, "").help(format!(
        "who has it: ss -ltnp 'sport = {}'; give [api] another port, or an address of this host",
        listen.port()
    )));
}

fn checks(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let used = |name: &str| {
        subject.vips().any(|vip| vip.checks.iter().chain(&vip.witness).any(|used| used == name))
    };
    for check in subject.cluster.checks.iter().filter(|check| used(&check.name)) {
        let (why, mend) = match &check.kind {
            CheckKind::Script { command, .. } => {
                let Some(program) = command.first() else { continue };
                let Some(why) = facts.scripts.get(Path::new(program)) else { continue };
                (format!("{program} can't be run"), why.clone())
            }
            CheckKind::Interface { name } if facts.port(name).is_none() => (
                format!("this host has no interface {name}"),
                format!("this host has {}", listed(facts.ports.iter().map(|port| &port.name))),
            ),
            CheckKind::Process(ProcessBy::Pidfile(file)) => {
                let Some(folder) = file.parent().filter(|folder| absent(facts, folder)) else {
                    continue;
                };
                (
                    format!("the pid file's directory {} doesn't exist", folder.display()),
                    "is the service installed? Its pid file stands in its configuration".to_owned(),
                )
            }
            CheckKind::File { path } => {
                let Some(folder) = path.parent().filter(|folder| absent(facts, folder)) else {
                    continue;
                };
                (
                    format!("the directory {} doesn't exist", folder.display()),
                    "correct the path, or make the directory".to_owned(),
                )
            }
            _ => continue,
        };
        let message = format!("[check.{}] can't pass on this host: {why}", check.name);
        found.push(
            Diagnostic::error(codes::NEVER_PASSES, message)
                .at(&subject.cluster.file, check.span.clone(), check.kind.word())
                .help(mend),
        );
    }
}

/// All of a VIP's witnesses gone: nothing happens, until a peer goes as well.
fn witnesses(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for vip in subject.vips().filter(|vip| !vip.witness.is_empty() && vip.members.len() > 1) {
        let seen: Option<Vec<String>> = vip
            .witness
            .iter()
            .map(|name| Some(format!("{name}: {}", facts.unwitnessed.get(name)?)))
            .collect();
        let Some(seen) = seen else { continue };
        let message = format!(
            "no witness of [vip.{}] is seen now ({}): the loss of any other node ends the VIP here",
            vip.name,
            seen.join("; ")
        );
        let finding = Diagnostic::warning(codes::NO_WITNESS, message);
        let place = vip.witness.first().map_or("", String::as_str);
        let check = subject.cluster.check(place);
        let finding = match check {
            Some(check) => finding.at(&subject.cluster.file, check.span.clone(), ""),
            None => finding,
        };
        found.push(finding.help(
            "correct what the check asks for, let it through the firewalls on the way, or take it out of `witness`",
        ));
    }
}

fn inotify(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let (Some(sync), Some(limits)) = (&subject.cluster.sync, &facts.inotify) else { return };
    let mut say = |name: &str, have: usize, need: usize, why: String| {
        if have >= need {
            return;
        }
        // Twice the need: trees grow.
        let wanted = (need * 2).next_power_of_two();
        let message = format!("fs.inotify.{name} is {have}, too low for [sync]: {why}");
        found.push(
            Diagnostic::error(codes::INOTIFY, message)
                .at(&subject.cluster.file, sync.span.clone(), "")
                .help(format!(
                    "echo fs.inotify.{name}={wanted} >> /etc/sysctl.d/60-inotify.conf && sysctl --system"
                )),
        );
    };
    let directories = limits.directories;
    say(
        "max_user_watches",
        limits.max_user_watches,
        directories + OTHERS_WATCHES,
        format!("its {directories} directories need a watch each, and others need some"),
    );
    say(
        "max_user_instances",
        limits.max_user_instances,
        INSTANCES,
        "changes wouldn't be seen at once".to_owned(),
    );
}

fn unshared(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let (Some(sync), Some(nginx)) = (&subject.cluster.sync, &facts.nginx) else { return };
    let Some((named, line)) = &nginx.unshared else { return };
    let (count, first) = (named.len(), named.iter().take(UNSHARED_NAMED).cloned());
    let more = if count > UNSHARED_NAMED {
        format!("\n(and {} more)", count - UNSHARED_NAMED)
    } else {
        String::new()
    };
    let message = format!(
        "nginx's configuration names {count} file{} that the nodes don't share: without the same \
         ones, a backup refuses the configuration or serves something else",
        if count == 1 { "" } else { "s" }
    );
    let differ = match nginx.unequal.as_slice() {
        [] => String::new(),
        all => format!("\nnot the same on all nodes now:\n{}", all.join("\n")),
    };
    found.push(
        Diagnostic::warning(codes::UNSHARED, message)
            .at(&subject.cluster.file, sync.span.clone(), "")
            .help(format!(
                "share them with {line} in [sync], or keep them equal on all nodes yourself; they are \
                 named here:\n{}{more}{differ}",
                first.collect::<Vec<_>>().join("\n")
            )),
    );
}
