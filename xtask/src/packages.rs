//! Installs what the tests need and the machine lacks, from the distribution's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Programs and the Debian packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nginx", "nginx"),
    ("keepalived", "keepalived"),
    ("nft", "nftables"),
    ("rsync", "rsync"),
    ("inotifywait", "inotify-tools"),
    ("ps", "procps"),
    ("ping", "iputils-ping"),
    ("arping", "iputils-arping"),
    ("tcpdump", "tcpdump"),
    ("rsyslogd", "rsyslog"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("wrk", "wrk"),
    ("cc", "gcc"),
    ("nm", "binutils"),
    ("c++", "g++"),
];

/// Where Debian's packages ask whether their service may be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing; starts no service, so that nothing touches the host's network.
pub(crate) fn install() -> Result<()> {
    install_also(&[])
}

/// As [`install`], with programs that only one of the chores needs.
pub(crate) fn install_also(more: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = NEEDED
        .iter()
        .chain(more)
        .filter(|(program, _)| !is_here(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing {} …", missing.join(" "));
    let no_services = NoServices::begin().context("keeping packages from starting services")?;
    let updated = apt(&["update"]);
    let installed = updated.and_then(|()| {
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(&missing);
        apt(&arguments)
    });
    drop(no_services);
    installed.with_context(|| {
        format!("please install these by hand and try again: {}", missing.join(" "))
    })
}

fn is_here(program: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("apt-get")?;
    if !output.status.success() {
        bail!("apt-get {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Says "no" to every service start for as long as it lives.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let policy = Path::new(POLICY);
        if policy.exists() {
            return Ok(Self { ours: false });
        }
        fs::write(policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // If it stays behind, services don't start by themselves; nothing worse.
            let _ = fs::remove_file(POLICY);
        }
    }
}
