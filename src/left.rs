//! Settings that were changed and not put back yet, in a file: where guard and daemon died together, whoever
//! comes next puts them back.
//!
//! The file is written by the address thread, which waits for no disk: it is kept in memory, or not at all.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use standin_core::guard::Setting;
use standin_linux::sysctl;

/// In the directory for the socket.
const NAME: &str = "settings";

/// Three settings of each of some hundred interfaces.
const LONGEST: u64 = 256 * 1024;

/// File systems that are memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

const BOOT: &str = "kernel/random/boot_id";

/// The file, and what was last written to it.
#[derive(Debug)]
pub(crate) struct Left {
    path: PathBuf,
    /// Not on a disk, which may hang.
    in_memory: bool,
    written: Vec<Setting>,
}

impl Left {
    pub(crate) fn at(run_dir: &Path) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let place = fs::canonicalize(run_dir).unwrap_or_else(|_| run_dir.to_owned());
        let in_memory = is_in_memory(&mounts, &place);
        Self { path: run_dir.join(NAME), in_memory, written: Vec::new() }
    }

    /// What there is to put back: what is `known`, and what the file says besides.
    pub(crate) fn read(&mut self, known: Vec<Setting>) -> Vec<Setting> {
        let mut text = String::new();
        let read = fs::File::open(&self.path)
            .and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        // Without a file nothing was left; one that can't be read is as good as none.
        if read.is_ok() {
            self.written = parse(&text, &boot());
        }
        let mut settings = known;
        for setting in &self.written {
            if !settings.iter().any(|one| one.path == setting.path) {
                settings.push(setting.clone());
            }
        }
        settings
    }

    /// Writes it, if it isn't what the file says already.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub(crate) fn write(&mut self, settings: &[Setting]) -> io::Result<()> {
        if self.written == settings {
            return Ok(());
        }
        if !self.in_memory {
            // Said at each change, and not at each step.
            self.written = settings.to_vec();
            let text = format!("{} isn't written: it isn't on a tmpfs", self.path.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        let made = if settings.is_empty() {
            match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            }
        } else {
            let new = self.path.with_extension("new");
            fs::write(&new, print(settings, &boot())).and_then(|()| fs::rename(&new, &self.path))
        };
        made.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })?;
        self.written = settings.to_vec();
        Ok(())
    }
}

/// By the mount that is closest to the place, and of those the last one.
fn is_in_memory(mounts: &str, place: &Path) -> bool {
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?.to_owned(), words.next()?.to_owned());
        place.starts_with(&point).then_some((point.len(), kind))
    };
    let closest = mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length);
    closest.is_some_and(|(_, kind)| IN_MEMORY.contains(&kind.as_str()))
}

/// A file of another boot is about a kernel that has begun anew.
fn boot() -> String {
    sysctl::read(BOOT).unwrap_or_default()
}

fn print(settings: &[Setting], boot: &str) -> String {
    let line = |Setting { path, old, new }: &Setting| format!("{path}\t{old}\t{new}\n");
    format!("{boot}\n{}", settings.iter().map(line).collect::<String>())
}

fn parse(text: &str, boot: &str) -> Vec<Setting> {
    let mut lines = text.lines();
    if lines.next() != Some(boot) {
        return Vec::new();
    }
    let setting = |line: &str| {
        let mut parts = line.split('\t').map(str::to_owned);
        let setting = Setting { path: parts.next()?, old: parts.next()?, new: parts.next()? };
        setting.is_of_an_interface().then_some(setting)
    };
    lines.filter_map(setting).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_memory_is_written_to() {
        let mounts =
            "/dev/sda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/sdb /run/disk xfs rw 0 0\n";
        assert!(is_in_memory(mounts, Path::new("/run/standin")));
        assert!(!is_in_memory(mounts, Path::new("/run/disk/standin")));
        assert!(!is_in_memory(mounts, Path::new("/srv/standin")));
        assert!(!is_in_memory(mounts, Path::new("/running")));
        assert!(!is_in_memory("", Path::new("/run/standin")));
    }

    #[test]
    fn it_reads_back_what_it_wrote_in_this_boot_and_of_its_own_settings_only() {
        let setting = |name: &str| Setting {
            path: format!("net/ipv4/conf/eth0.5/{name}"),
            old: "0".into(),
            new: "1".into(),
        };
        let settings = [setting("promote_secondaries"), setting("arp_ignore")];
        assert_eq!(parse(&print(&settings, "boot"), "boot"), settings);
        assert!(parse(&print(&settings, "boot"), "another").is_empty());
        assert!(parse(&print(&[setting("forwarding")], "boot"), "boot").is_empty());
        assert!(parse("", "boot").is_empty());
        assert!(parse("boot\nnet/ipv4/conf/eth0/arp_ignore\t1", "boot").is_empty());
    }
}
