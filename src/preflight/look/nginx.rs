//! nginx of this host, as far as the rules ask.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use standin_apply::{Refusal, Staged, Tester};
use standin_config::model;
use standin_config::nginx::{ListenAddress, also_line, outside};
use standin_linux::{process, sysctl};

use super::network::writable;
use crate::nginx::{Found, find, glob, nonlocal};
use crate::preflight::facts::{Nginx, Nonlocal};

/// Where settings for the next boot stand (sysctl.d(5)).
const KEPT: &[&str] = &[
    "/etc/sysctl.conf",
    "/etc/sysctl.d/*.conf",
    "/run/sysctl.d/*.conf",
    "/usr/local/lib/sysctl.d/*.conf",
    "/usr/lib/sysctl.d/*.conf",
];

/// Thousands of virtual hosts with TLS take 2 s; a name that DNS doesn't answer 10 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// nginx, and where its relative names begin.
pub(super) async fn look(
    section: &model::Nginx,
    vips: &[IpAddr],
    sync: Option<&model::Sync>,
) -> (Nginx, PathBuf) {
    let found = find(section).await;
    let prefix = found.prefix.clone();
    (seen(found, vips, sync), prefix)
}

fn seen(found: Found, vips: &[IpAddr], sync: Option<&model::Sync>) -> Nginx {
    let unshared = sync.and_then(|sync| unshared(sync, &found));
    let need = nonlocal::Need::of(&found.config, vips);
    let plain = found.config.listens.iter().filter(|listen| listen.is_plain_http());
    let plain = plain.filter_map(|listen| {
        let ip: IpAddr = match &listen.address {
            ListenAddress::AnyV4 => Ipv4Addr::UNSPECIFIED.into(),
            ListenAddress::AnyV6 { .. } => Ipv6Addr::UNSPECIFIED.into(),
            ListenAddress::Ip(ip) => *ip,
            ListenAddress::Name(name) if name == "localhost" => Ipv4Addr::LOCALHOST.into(),
            ListenAddress::Name(_) | ListenAddress::Unix(_) => return None,
        };
        Some(SocketAddr::new(ip, listen.port))
    });
    let mut plain: Vec<SocketAddr> = plain.collect();
    plain.sort_unstable();
    plain.dedup();
    let settings = need.settings();
    let nonlocal = settings.iter().map(|path| {
        let name = path.replace('/', ".");
        Nonlocal {
            set: sysctl::read(path).is_ok_and(|value| value == "1"),
            writable: writable(path),
            kept: KEPT
                .iter()
                .flat_map(|pattern| glob(pattern))
                .any(|file| fs::read_to_string(file).is_ok_and(|text| says(&text, &name))),
            name,
        }
    });
    Nginx {
        unshared,
        unequal: Vec::new(),
        refusal: None,
        nonlocal: nonlocal.collect(),
        plain,
        elsewhere: need.v4.into_iter().chain(need.v6).collect(),
        binary: found.binary.filter(|binary| found.master.is_some() || binary.is_file()),
        conf: found.conf,
        master: found.master,
        notes: found.notes,
    }
}

/// Has nginx test the files that are there, as the master would read them, in a place where that
/// writes nothing and binds nothing.
///
/// # Errors
/// In words, when that can't be done here.
pub(super) async fn test(nginx: &Nginx, prefix: &Path) -> Result<Option<Refusal>, String> {
    let unseen = |why: &str| format!("nginx's configuration couldn't be tested: {why}");
    let has_conf = nginx.conf.as_deref().is_some_and(Path::is_file);
    if !has_conf || !nginx.binary.as_deref().is_some_and(Path::is_absolute) {
        return Ok(None);
    }
    let tester = Tester::of_this_host("tester");
    if matches!(tester, Tester::Child { .. }) && !process::may_mount() {
        return Err(unseen("that takes root's privileges (CAP_SYS_ADMIN)"));
    }
    let running = standin_apply::Nginx {
        master: nginx.master,
        binary: nginx.binary.clone(),
        conf: nginx.conf.clone(),
        prefix: Some(prefix.to_owned()),
        ..standin_apply::Nginx::default()
    };
    let test = move || standin_apply::test(&Staged::default(), &running, &tester, PATIENCE).err();
    match tokio::task::spawn_blocking(test).await {
        Ok(Some(Refusal::Unable { why })) => Err(unseen(&why)),
        Ok(refusal) => Ok(refusal),
        Err(error) => Err(unseen(&error.to_string())),
    }
}

/// What the configuration names outside of the shared trees, but for what comes with a package.
fn unshared(sync: &model::Sync, found: &Found) -> Option<(Vec<String>, String)> {
    let mut roots: Vec<PathBuf> = sync.paths.clone();
    if roots.is_empty() {
        roots.push(found.conf.as_ref()?.parent()?.to_owned());
    }
    let paths = roots.clone();
    roots.extend(sync.also.iter().cloned());
    let real = |path: &Path| path.canonicalize().ok();
    let named = outside(&found.config, &found.prefix, &roots, &real);
    let line = also_line(&named, &paths, &sync.also)?;
    let named = named.iter().filter(|one| !one.is_of_a_package());
    Some((named.map(ToString::to_string).collect(), line))
}

/// Whether a sysctl.d file sets `name` to 1.
fn says(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        line.trim().trim_start_matches('-').split_once('=').is_some_and(|(left, right)| {
            left.trim().replace('/', ".") == name && right.trim() == "1"
        })
    })
}
