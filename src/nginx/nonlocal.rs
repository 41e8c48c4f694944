//! Lets nginx bind an address that isn't here yet: `ip_nonlocal_bind`, now and after a reboot.
//!
//! The one setting that stays until standin is removed, since nginx can't start without it.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use standin_config::nginx::{Listen, NginxConfig};
use standin_core::types::Family;
use standin_linux::sysctl;

use super::local::is_local;
use crate::authority::files::write_atomically;

/// Read by systemd-sysctl and procps at boot.
pub(crate) const DROP_IN: &str = "/etc/sysctl.d/90-standin.conf";

/// Which families listen on an address that isn't always on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// The first such address of each family, for the message.
    pub(crate) v4: Option<IpAddr>,
    pub(crate) v6: Option<IpAddr>,
}

impl Need {
    /// What this configuration needs on this host; a VIP isn't always here, even if it is now.
    #[must_use]
    pub(crate) fn of(config: &NginxConfig, vips: &[IpAddr]) -> Self {
        let all = config.listens.iter().chain(&config.other_listens);
        let stays = |address| !vips.contains(&address) && is_local(address);
        Self::among(all.filter_map(Listen::ip), stays)
    }

    fn among(listens: impl Iterator<Item = IpAddr>, stays: impl Fn(IpAddr) -> bool) -> Self {
        let mut need = Self::default();
        for address in listens {
            let place = match Family::of(address) {
                Family::V4 => &mut need.v4,
                Family::V6 => &mut need.v6,
            };
            if place.is_none() && !stays(address) {
                *place = Some(address);
            }
        }
        need
    }

    /// As if nginx listened on `vips`, too.
    #[must_use]
    pub(crate) fn with(self, vips: &[IpAddr]) -> Self {
        Self::among([self.v4, self.v6].into_iter().flatten().chain(vips.iter().copied()), |_| false)
    }

    #[must_use]
    pub(crate) const fn is_nothing(self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The settings with the value 1 that nginx needs.
    #[must_use]
    pub(crate) fn settings(self) -> Vec<&'static str> {
        let v4 = self.v4.map(|_| "net/ipv4/ip_nonlocal_bind");
        let v6 = self.v6.map(|_| "net/ipv6/ip_nonlocal_bind");
        v4.into_iter().chain(v6).collect()
    }

    /// Those of them that aren't set now.
    #[must_use]
    pub(crate) fn missing(self) -> Vec<&'static str> {
        let set = |path: &&str| sysctl::read(path).is_ok_and(|value| value == "1");
        self.settings().into_iter().filter(|path| !set(path)).collect()
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<String> =
            [self.v4, self.v6].iter().flatten().map(IpAddr::to_string).collect();
        f.write_str(&listed.join(" and "))
    }
}

/// Sets what is needed, now and in `drop_in`; says what it did, `None` when all was so already.
///
/// # Errors
/// In words: what couldn't be set, and how to do it by hand.
pub(crate) fn ensure(need: Need, drop_in: &Path) -> Result<Option<String>, String> {
    let mut done = Vec::new();
    for path in need.missing() {
        sysctl::write(path, "1").map_err(|error| {
            format!(
                "{need} isn't always on this host, and nginx can't listen there without {name} = 1: \
                 {error}; mend: sysctl -w {name}=1",
                name = dotted(path)
            )
        })?;
        done.push(format!("set {} = 1", dotted(path)));
    }
    if remember(&need.settings(), drop_in).map_err(|error| {
        format!("{}: {error}; it is set until the next boot only", drop_in.display())
    })? {
        done.push(format!("wrote {}", drop_in.display()));
    }
    if done.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "nginx must be able to listen on {need}, which isn't always on this host: {}",
        done.join(", ")
    )))
}

/// The file to write at a boot, `None` when `settings` is in it already.
fn with(settings: &[&str], before: &str) -> Option<String> {
    const HEAD: &str = "# nginx listens on addresses that are on one node of the cluster only, and can't start\n\
                        # on the others without this. Written by standin; it stays until standin is removed.\n";
    let has = |path: &str| {
        before.lines().any(|line| {
            let line = line.trim().trim_start_matches('-');
            line.split_once('=').is_some_and(|(name, value)| {
                name.trim().replace('/', ".") == dotted(path) && value.trim() == "1"
            })
        })
    };
    let missing: Vec<&&str> = settings.iter().filter(|path| !has(path)).collect();
    if missing.is_empty() {
        return None;
    }
    let mut text = if before.is_empty() { HEAD.to_owned() } else { before.to_owned() };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for path in missing {
        text.push_str(&format!("{} = 1\n", dotted(path)));
    }
    Some(text)
}

/// Writes the drop-in as a whole or not at all; false when it says so already.
fn remember(settings: &[&str], drop_in: &Path) -> io::Result<bool> {
    let before = match fs::read_to_string(drop_in) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let Some(text) = with(settings, &before) else { return Ok(false) };
    let folder = drop_in.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder)?;
    // What lies beside it meanwhile doesn't end in .conf: half of it is never read at boot.
    write_atomically(drop_in, text.as_bytes(), 0o644)?;
    Ok(true)
}

fn dotted(path: &str) -> String {
    path.replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_each_family_that_is_not_here_is_named() {
        let listens =
            ["127.0.0.1", "192.0.2.1", "192.0.2.2", "fd00::41"].map(|text| text.parse().unwrap());
        let need = Need::among(listens.into_iter(), |address| address.is_loopback());
        assert_eq!(need.to_string(), "192.0.2.1 and fd00::41");
        assert_eq!(need.settings(), ["net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind"]);
        assert!(Need::among(listens.into_iter(), |_| true).is_nothing());
    }

    #[test]
    fn the_drop_in_is_written_once_and_keeps_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sysctl.d/90-standin.conf");
        let v4 = ["net/ipv4/ip_nonlocal_bind"];
        assert!(remember(&v4, &file).unwrap());
        assert!(!remember(&v4, &file).unwrap());
        let both = ["net/ipv4/ip_nonlocal_bind", "net/ipv6/ip_nonlocal_bind"];
        assert!(remember(&both, &file).unwrap());
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.matches("net.ipv4.ip_nonlocal_bind = 1\n").count(), 1, "{text}");
        assert_eq!(text.matches("net.ipv6.ip_nonlocal_bind = 1\n").count(), 1, "{text}");
        assert_eq!(with(&v4, "net/ipv4/ip_nonlocal_bind=1"), None);
        assert!(with(&v4, "net.ipv4.ip_nonlocal_bind=0").is_some());
    }
}
