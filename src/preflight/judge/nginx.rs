//! Whether nginx is there, runs, can be asked, and can start while the VIP is elsewhere.

use std::net::IpAddr;
use std::path::PathBuf;

use standin_apply::Refusal;
use standin_config::model::{self, NGINX_CHECK};
use standin_config::{Diagnostic, Severity};

use super::{Subject, codes, listed};
use crate::nginx::START;
use crate::preflight::facts::{Facts, Nginx, Nonlocal};

/// Letters of a line of nginx's; with a long path and its reason it has some two hundred.
const COMPLAINT: usize = 400;

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let (Some(section), Some(nginx)) = (&subject.cluster.nginx, &facts.nginx) else { return };
    let needed = subject.vips().any(|vip| vip.checks.iter().any(|check| check == NGINX_CHECK));
    let severity = if needed { Severity::Error } else { Severity::Warning };
    let at = |finding: Diagnostic, text: &str| {
        finding.at(&subject.cluster.file, section.span.clone(), text)
    };
    presence(subject, section, nginx, severity, found);
    if nginx.binary.is_none() {
        return;
    }
    let refused = nginx.refusal.as_ref().and_then(|refusal| refused(nginx, refusal, severity));
    found.extend(refused.map(|(finding, help)| at(finding, "").help(help)));
    // Whoever names one of several knows of the others.
    let named = section.binary.is_some() || section.conf.is_some();
    let notes = nginx.notes.iter().filter(|note| !named || !is_about_others(note)).map(|note| {
        let finding = Diagnostic::warning(codes::NGINX_NOTE, note.clone());
        at(finding, "").help(note_help(note, nginx))
    });
    found.extend(notes);
    if nginx.conf.is_some() {
        probe(subject, section, nginx, facts, found);
        for setting in &nginx.nonlocal {
            found
                .extend(nonlocal(nginx, setting).map(|(finding, help)| at(finding, "").help(help)));
        }
    }
}

/// As [`crate::nginx::find`] words it.
fn is_about_others(note: &str) -> bool {
    note.starts_with("other nginx masters")
}

fn note_help(note: &str, nginx: &Nginx) -> String {
    if is_about_others(note) {
        let watched = nginx.conf.as_deref().map(|conf| conf.display().to_string());
        return format!(
            "the one that is watched: {}; say it in the file and this warning is gone",
            watched.as_deref().unwrap_or("none")
        );
    }
    let binary = nginx
        .binary
        .as_deref()
        .map_or_else(|| "nginx".to_owned(), |path| path.display().to_string());
    format!("see what nginx says of it: {binary} -t")
}

fn presence(
    subject: &Subject<'_>,
    section: &model::Nginx,
    nginx: &Nginx,
    severity: Severity,
    found: &mut Vec<Diagnostic>,
) {
    let at = |finding: Diagnostic, text: &str| {
        finding.at(&subject.cluster.file, section.span.clone(), text)
    };
    let Some(binary) = nginx.binary.as_deref().filter(|binary| binary.is_absolute()) else {
        let message = match &section.binary {
            Some(named) => format!("the nginx that the file names isn't on this host: {}", named.display()),
            None => "nginx isn't found on this host: none runs, and none is where it is usually installed".to_owned(),
        };
        let finding = Diagnostic::new(severity, codes::NO_NGINX, message);
        found.push(
            at(finding, "watched and probed, says the file")
                .help("install it, or say where it is: binary = \"/opt/…/sbin/nginx\" in [nginx]"),
        );
        return;
    };
    if nginx.master.is_some() {
        return;
    }
    let so = match severity {
        Severity::Error => "this node can hold no VIP until it does",
        Severity::Warning | Severity::Note => {
            "the VIPs go on without it, for none of them has it in its checks"
        }
    };
    let message = format!("{} doesn't run: {so}", binary.display());
    let finding = Diagnostic::new(severity, codes::NGINX_STOPPED, message);
    let conf =
        nginx.conf.as_deref().map_or_else(String::new, |conf| format!(" -c {}", conf.display()));
    found.push(
        at(finding, "")
            .help(format!("{START}; if it doesn't start: {} -t{conf}", binary.display())),
    );
}

/// What nginx has against its files, and what to do about it.
fn refused(nginx: &Nginx, refusal: &Refusal, severity: Severity) -> Option<(Diagnostic, String)> {
    let shown = |path: &Option<PathBuf>| {
        path.as_deref().map_or_else(String::new, |path| path.display().to_string())
    };
    let (binary, conf) = (shown(&nginx.binary), shown(&nginx.conf));
    let effect = match nginx.master {
        Some(_) => "it goes on with what it has loaded, and can't be reloaded or started again",
        None => "it can't be started",
    };
    let (severity, message, mend) = match refusal {
        Refusal::BadFile { said } => (
            severity,
            format!("nginx refuses its configuration: {}", complaint(said)),
            "correct it".to_owned(),
        ),
        Refusal::NameNotFound { name, said } => (
            severity,
            format!("nginx can't look up {name}: {}", complaint(said)),
            "mend the host's DNS or /etc/hosts, or write the address".to_owned(),
        ),
        // The setting that this needs is told of already.
        Refusal::Address { said }
            if said.contains("(99:") && nginx.nonlocal.iter().any(|it| !it.set) =>
        {
            return None;
        }
        Refusal::Address { said } => (
            severity,
            format!("nginx couldn't listen: {}", complaint(said)),
            "free the port, or take the listen out".to_owned(),
        ),
        Refusal::Late { after, .. } => (
            Severity::Warning,
            format!("`nginx -t` hasn't ended after {} s", after.as_secs()),
            "a name that DNS doesn't answer keeps it waiting: mend the host's DNS".to_owned(),
        ),
        Refusal::Unable { .. } => return None,
    };
    let help = format!("{effect}; {mend}, then: {binary} -t -c {conf}");
    Some((Diagnostic::new(severity, codes::BAD_CONFIG, message), help))
}

/// Of nginx's own lines the one that it ended for, with file and line.
fn complaint(said: &str) -> String {
    let is_fatal =
        |line: &&str| ["[emerg]", "[alert]", "[crit]"].iter().any(|it| line.contains(it));
    // It says it twice where it logs to stderr, once with the time.
    let plain = said.lines().filter(is_fatal).find(|line| line.starts_with("nginx: "));
    let line = plain.or_else(|| said.lines().find(is_fatal)).or_else(|| said.lines().next());
    let line = line.unwrap_or_default();
    let line = line.trim().trim_start_matches("nginx: ");
    let short: String = line.chars().take(COMPLAINT).collect();
    if short.len() < line.len() { format!("{short}…") } else { short }
}

fn probe(
    subject: &Subject<'_>,
    section: &model::Nginx,
    nginx: &Nginx,
    facts: &Facts,
    found: &mut Vec<Diagnostic>,
) {
    let of_vip = |ip: IpAddr| {
        subject
            .cluster
            .vips
            .iter()
            .any(|vip| vip.addresses.iter().any(|prefix| prefix.address() == ip))
    };
    let stays = |ip: IpAddr| {
        let here = ip.is_loopback() || ip.is_unspecified() || facts.address(ip).is_some();
        here && !of_vip(ip)
    };
    if let Some(url) = section.probe.as_ref() {
        let ip = url.address.ip();
        if stays(ip) {
            return;
        }
        let (whose, effect) = if of_vip(ip) {
            (
                "a VIP's",
                "asked only while the VIP is here; a backup whose nginx hangs isn't noticed before it takes over",
            )
        } else {
            ("not on this host", "never asked: another machine would answer for this nginx")
        };
        let message = format!("the probe {url} is {effect}");
        let finding = Diagnostic::warning(codes::PROBE_ELSEWHERE, message);
        let value = url.to_string();
        found.push(subject.at_value(finding, &value, &format!("{ip} is {whose}")).help(
            "listen on 127.0.0.1 as well and probe that, or leave `probe` out: it is found out",
        ));
        return;
    }
    if nginx.plain.iter().any(|at| stays(at.ip())) {
        return;
    }
    let message = if nginx.plain.is_empty() {
        "nginx has no plain-HTTP listener: it is judged by its processes and sockets, a hung nginx isn't noticed".to_owned()
    } else {
        format!(
            "nginx listens for plain HTTP on {} only, which isn't always here: a backup whose nginx hangs isn't \
             noticed before it takes over",
            listed(&nginx.plain)
        )
    };
    let finding = Diagnostic::warning(codes::NO_PROBE, message);
    let conf =
        nginx.conf.as_deref().map_or_else(String::new, |conf| format!(" in {}", conf.display()));
    found.push(finding.at(&subject.cluster.file, section.span.clone(), "").help(format!(
        "add a server for the probe{conf}: server {{ listen 127.0.0.1:8081; return 204; }}"
    )));
}

fn nonlocal(nginx: &Nginx, setting: &Nonlocal) -> Option<(Diagnostic, String)> {
    let name = &setting.name;
    let listens = listed(&nginx.elsewhere);
    let because = format!("nginx listens on {listens}, which isn't always on this host");
    if !setting.set && !setting.writable {
        let message = format!(
            "{because}, and {name} is 0 and can't be set: nginx can't start while the VIP is elsewhere"
        );
        let help = format!("on the host: sysctl -w {name}=1, and keep it in /etc/sysctl.d/");
        return Some((Diagnostic::error(codes::NONLOCAL_BIND, message), help));
    }
    let help = format!(
        "standin sets it when it starts; by hand: echo {name}=1 >> /etc/sysctl.d/90-standin.conf && sysctl --system"
    );
    if !setting.set {
        let message = format!(
            "{because}, and {name} is 0: until standin has run nginx can't start on a backup"
        );
        return Some((Diagnostic::warning(codes::NONLOCAL_BIND, message), help));
    }
    if !setting.kept {
        let message = format!("{because}, and {name} is 1 until the next boot only");
        return Some((Diagnostic::warning(codes::NONLOCAL_BIND, message), help));
    }
    None
}
