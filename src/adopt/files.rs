//! The host's network configuration on disk: found, edited, kept, written, put back.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use standin_config::network::{self, MAX_BYTES, Swap, System};
use standin_config::{Diagnostic, Source};

use super::record::{self, Kept};
use crate::authority::files::{write_atomically, write_atomically_as};
use crate::nginx::glob;

/// More files than these no host configures its network with; the rest isn't looked at.
const FILES: usize = 1024;

/// How deep `source` lines are followed.
const SOURCES_DEEP: usize = 4;

/// There while NetworkManager runs.
const NETWORK_MANAGER: &str = "/run/NetworkManager";

const INTERFACES: &str = "/etc/network/interfaces";

/// Where each system's files are, but for ifupdown's, which name each other.
const PLACES: &[(System, &str)] = &[
    (System::Netplan, "/etc/netplan/*.yaml"),
    (System::Netplan, "/etc/netplan/*.yml"),
    (System::Networkd, "/etc/systemd/network/*.network"),
    (System::Networkd, "/etc/systemd/network/*.network.d/*.conf"),
    (System::Keyfile, "/etc/NetworkManager/system-connections/*"),
    (System::Ifcfg, "/etc/sysconfig/network-scripts/ifcfg-*"),
    (System::Ifcfg, "/etc/sysconfig/network-scripts/route*-*"),
    (System::Ifcfg, "/etc/sysconfig/network-scripts/rule*-*"),
    (System::Ifcfg, "/etc/sysconfig/network/ifcfg-*"),
    (System::Ifcfg, "/etc/sysconfig/network/ifroute-*"),
];

/// Ends of copies, which neither NetworkManager nor the network scripts read.
const COPIES: &[&str] = &["~", ".bak", ".old", ".orig", ".rpmnew", ".rpmsave", ".rpmorig", ".swp"];

/// A file that is to be changed.
pub(super) struct Change {
    pub(super) system: System,
    /// Where it really is.
    pub(super) path: PathBuf,
    pub(super) diff: String,
    before: String,
    after: String,
    mode: u32,
    owner: (u32, u32),
}

/// What the host's configuration says about an address.
#[derive(Default)]
pub(super) struct Look {
    pub(super) changes: Vec<Change>,
    /// Which system gives the host the address at boot, each with its file.
    pub(super) declared: Vec<(System, PathBuf)>,
    pub(super) found: Vec<Diagnostic>,
    /// Why no file may name it.
    pub(super) dynamic: Vec<Diagnostic>,
    pub(super) sources: Vec<Source>,
}

/// Reads all files that may give the host an address, and edits them in memory.
pub(super) fn look(swap: Swap<'_>) -> Result<Look> {
    let mut look = Look::default();
    let mut twice = Vec::new();
    for (system, path) in candidates() {
        let name = path.display().to_string();
        let real = fs::canonicalize(&path).with_context(|| name.clone())?;
        let about = fs::metadata(&real).with_context(|| name.clone())?;
        if !about.is_file() {
            continue;
        }
        ensure!(about.len() <= MAX_BYTES as u64, "{name} is longer than any such file can be");
        let bytes = fs::read(&real).with_context(|| name.clone())?;
        // A file that is no text names no address in a form that anybody reads.
        let Ok(before) = String::from_utf8(bytes) else { continue };
        let edited = network::edit(system, &name, &before, swap);
        if !edited.found.is_empty() || !edited.dynamic.is_empty() || edited.twice.is_some() {
            look.sources.push(Source::new(&name, &before));
        }
        look.found.extend(edited.found);
        look.dynamic.extend(edited.dynamic);
        twice.extend(edited.twice);
        if edited.declares {
            look.declared.push((system, path.clone()));
        }
        if edited.text != before {
            look.changes.push(Change {
                system,
                diff: network::diff(&name, &before, &edited.text),
                path: real,
                before,
                after: edited.text,
                mode: about.permissions().mode() & 0o7777,
                owner: (about.uid(), about.gid()),
            });
        }
    }
    if !look.declared.is_empty() {
        look.found.append(&mut twice);
    }
    Ok(look)
}

fn candidates() -> Vec<(System, PathBuf)> {
    let mut all = Vec::new();
    interfaces(Path::new(INTERFACES), SOURCES_DEEP, &mut all);
    for (system, pattern) in PLACES {
        all.extend(glob(pattern).into_iter().map(|path| (*system, path)));
    }
    let is_copy = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with('.') || COPIES.iter().any(|end| name.ends_with(end))
    };
    all.retain(|(system, path)| path.is_file() && (*system == System::Ifupdown || !is_copy(path)));
    all.truncate(FILES);
    all
}

/// ifupdown's files: the first one, and what it sources (interfaces(5)).
fn interfaces(path: &Path, deep: usize, all: &mut Vec<(System, PathBuf)>) {
    let known = |all: &[(System, PathBuf)], path: &Path| all.iter().any(|(_, one)| one == path);
    if deep == 0 || all.len() >= FILES || known(all, path) || !path.is_file() {
        return;
    }
    all.push((System::Ifupdown, path.to_owned()));
    // What can't be read is said when it is to be edited.
    let text = fs::read_to_string(path).unwrap_or_default();
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let pattern = match (words.next(), words.next()) {
            (Some("source"), Some(pattern)) => folder.join(pattern),
            (Some("source-directory"), Some(pattern)) => folder.join(pattern).join("*"),
            _ => continue,
        };
        let by_directory = line.trim_start().starts_with("source-directory");
        for file in glob(&pattern.to_string_lossy()) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            if plain || !by_directory {
                interfaces(&file, deep - 1, all);
            }
        }
    }
}

/// Keeps each file as it is and as it will be, before anything is changed.
pub(super) fn keep(changes: &[Change], folder: &Path) -> Result<Vec<Kept>> {
    record::make(folder)?;
    let mut kept = Vec::new();
    for (number, change) in (1..).zip(changes) {
        let name = change.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (before, after) = (format!("{number}-{name}.before"), format!("{number}-{name}.after"));
        for (copy, text) in [(&before, &change.before), (&after, &change.after)] {
            let copy = folder.join(copy);
            write_atomically(&copy, text.as_bytes(), 0o600)
                .with_context(|| format!("keeping {}", copy.display()))?;
        }
        let (path, mode, (user, group)) = (change.path.clone(), change.mode, change.owner);
        kept.push(Kept { path, mode, user, group, before, after });
    }
    Ok(kept)
}

/// Writes every change; what was written is put back when one can't be.
pub(super) fn write(changes: &[Change]) -> Result<()> {
    for (done, change) in changes.iter().enumerate() {
        let put = |change: &Change, text: &str| {
            write_atomically_as(&change.path, text.as_bytes(), change.mode, Some(change.owner))
        };
        let unchanged = fs::read(&change.path).is_ok_and(|now| now == change.before.as_bytes());
        let written = if unchanged {
            put(change, &change.after)
        } else {
            Err(io::Error::other("somebody has just changed it"))
        };
        if let Err(error) = written {
            for earlier in &changes[..done] {
                put(earlier, &earlier.before)
                    .with_context(|| format!("{} couldn't be put back", earlier.path.display()))?;
            }
            return Err(error).with_context(|| format!("writing {}", change.path.display()));
        }
    }
    Ok(())
}

/// What is left to be told to whoever has read these files already: it goes by what it has in memory, and
/// would bring the old address up again, beside whoever holds the VIP, when the link goes down and up.
pub(super) fn in_memory(systems: impl Iterator<Item = System>, address: IpAddr) -> Vec<String> {
    let mut all = Vec::new();
    for system in systems {
        let (who, command, effect) = match system {
            System::Keyfile => {
                ("NetworkManager", "nmcli connection reload", "it changes nothing that runs")
            }
            System::Ifcfg if Path::new(NETWORK_MANAGER).exists() => {
                ("NetworkManager", "nmcli connection reload", "it changes nothing that runs")
            }
            System::Netplan => (
                "what reads netplan's files",
                "netplan generate, then networkctl reload (or nmcli connection reload)",
                "do it when standin runs here: an address that it takes away for a moment is put back",
            ),
            System::Networkd => (
                "systemd-networkd",
                "networkctl reload",
                "do it when standin runs here: an address that it takes away for a moment is put back",
            ),
            // Their files are read when they are used.
            System::Ifcfg | System::Ifupdown => continue,
        };
        let line = format!(
            "{who} still goes by the files as they were, and would bring {address} up here when the link goes \
             down and up: {command} ({effect})"
        );
        if !all.contains(&line) {
            all.push(line);
        }
    }
    all
}

/// The first file that isn't as it was before [`write`].
pub(super) fn unlike_before(changes: &[Change]) -> Option<&Path> {
    let same =
        |change: &&Change| fs::read(&change.path).is_ok_and(|now| now == change.before.as_bytes());
    changes.iter().find(|change| !same(change)).map(|change| change.path.as_path())
}

/// Files that aren't any more as `adopt` wrote them.
pub(super) fn changed_since(kept: &[Kept], folder: &Path) -> Vec<PathBuf> {
    let same = |one: &&Kept| {
        let now = fs::read(&one.path).ok();
        let of = |name: &str| fs::read(folder.join(name)).ok();
        now.is_some() && (now == of(&one.after) || now == of(&one.before))
    };
    kept.iter().filter(|one| !same(one)).map(|one| one.path.clone()).collect()
}

/// Puts every file back, byte for byte, with its mode and owner.
pub(super) fn restore(kept: &[Kept], folder: &Path) -> Result<()> {
    for one in kept {
        let copy = folder.join(&one.before);
        let before = fs::read(&copy).map_err(|error| {
            anyhow!("{}: {error}; put {} back by hand", copy.display(), one.path.display())
        })?;
        write_atomically_as(&one.path, &before, one.mode, Some((one.user, one.group)))
            .with_context(|| format!("putting {} back", one.path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_keeps_files_in_memory_is_named_once_with_its_command() {
        let address = "192.168.1.41".parse().unwrap();
        let told = |systems: &[System]| in_memory(systems.iter().copied(), address);
        assert!(told(&[System::Ifupdown]).is_empty());
        let both = told(&[System::Keyfile, System::Networkd, System::Networkd]);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(both[0].contains("NetworkManager") && both[0].contains("nmcli connection reload"));
        assert!(both[1].contains("192.168.1.41") && both[1].contains("networkctl reload"));
    }

    #[test]
    fn a_file_that_was_not_put_back_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eth0");
        let change = Change {
            system: System::Ifupdown,
            path: path.clone(),
            diff: String::new(),
            before: "old".to_owned(),
            after: "new".to_owned(),
            mode: 0o644,
            owner: (0, 0),
        };
        fs::write(&path, "new").unwrap();
        assert_eq!(unlike_before(std::slice::from_ref(&change)), Some(path.as_path()));
        fs::write(&path, "old").unwrap();
        assert_eq!(unlike_before(&[change]), None);
    }
}
