//! keepalived processes of this host, and the router ids in their configuration.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use standin_linux::process;

use crate::nginx::glob;
use crate::preflight::facts::{Instance, Keepalived};
use crate::preflight::words;

const FILE: &str = "/etc/keepalived/keepalived.conf";

/// Files within files; deeper is a circle.
const DEPTH: u8 = 8;

/// One file; ten thousand instances have less.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Files of one configuration.
const FILES: usize = 1024;

/// One for each that runs, without its children.
pub(super) fn running() -> Vec<Keepalived> {
    let is_one = |pid: u32| process::name(pid).is_some_and(|name| name.starts_with("keepalived"));
    process::all_pids()
        .into_iter()
        .filter(|pid| is_one(*pid) && is_here(*pid))
        .filter(|pid| !process::parent(*pid).is_some_and(is_one))
        .map(|pid| {
            let words = process::command_line(pid).unwrap_or_default();
            let file = file(&words);
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            let mut reading = Reading::default();
            reading.file(&root, &file, 0);
            Keepalived { pid, file, instances: reading.instances, unread: reading.unread }
        })
        .collect()
}

/// One of another network can't disturb this one.
fn is_here(pid: u32) -> bool {
    let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
    match (network(&pid.to_string()), network("thread-self")) {
        (Some(theirs), Some(ours)) => theirs == ours,
        _ => true,
    }
}

/// The configuration that it was started with.
fn file(words: &[String]) -> PathBuf {
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "-f" || word == "--use-file" {
            if let Some(file) = words.next() {
                return file.into();
            }
        } else if let Some(file) = word.strip_prefix("--use-file=") {
            return file.into();
        } else if let Some(file) = word.strip_prefix("-f").filter(|file| file.starts_with('/')) {
            return file.into();
        }
    }
    FILE.into()
}

#[derive(Default)]
struct Reading {
    instances: Vec<Instance>,
    unread: Option<String>,
    files: usize,
}

impl Reading {
    fn file(&mut self, root: &Path, file: &Path, depth: u8) {
        self.files += 1;
        if depth > DEPTH || self.files > FILES {
            return;
        }
        let below = file.strip_prefix("/").unwrap_or(file);
        let mut text = Vec::new();
        let read = fs::File::open(root.join(below))
            .and_then(|opened| opened.take(FILE_BYTES).read_to_end(&mut text));
        if let Err(error) = read {
            self.unread.get_or_insert_with(|| words(&error));
            return;
        }
        let mut included = Vec::new();
        instances(&String::from_utf8_lossy(&text), file, &mut self.instances, &mut included);
        for pattern in included {
            // Relative to the file that includes it.
            let pattern = file.parent().unwrap_or_else(|| Path::new("/")).join(pattern);
            let inside = root.join(pattern.strip_prefix("/").unwrap_or(&pattern));
            for found in glob(&inside.to_string_lossy()) {
                let found = found.strip_prefix(root).unwrap_or(&found).to_owned();
                self.file(root, &Path::new("/").join(found), depth + 1);
            }
        }
    }
}

/// Reads the words that matter here; the rest of the language is nobody's business in a preflight.
fn instances(text: &str, file: &Path, found: &mut Vec<Instance>, included: &mut Vec<String>) {
    for (line, text) in (1..).zip(text.lines()) {
        let text = text.split(['#', '!']).next().unwrap_or_default();
        let spaced = text.replace('{', " { ").replace('}', " } ");
        let words: Vec<&str> =
            spaced.split_whitespace().map(|word| word.trim_matches('"')).collect();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut next = || words.next().map(|word| (*word).to_owned());
            match *word {
                "vrrp_instance" => found.push(Instance {
                    name: next().unwrap_or_default(),
                    file: file.to_owned(),
                    line,
                    ..Instance::default()
                }),
                "include" => included.extend(next()),
                "virtual_router_id" => {
                    let id = next().and_then(|id| id.parse().ok());
                    if let Some(last) = found.last_mut().filter(|last| last.vrid.is_none()) {
                        (last.vrid, last.line) = (id, line);
                        last.file = file.to_owned();
                    }
                }
                // Tracked interfaces have other words.
                "interface" => {
                    if let Some(last) = found.last_mut().filter(|last| last.interface.is_none()) {
                        last.interface = next();
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_ids_are_found_with_their_lines_in_any_layout() {
        let text = "# virtual_router_id 9\nvrrp_instance VI_1 {\n  interface eth0 ! the lan\n  \
                    virtual_router_id 41\n}\nvrrp_instance VI_2 { interface \"eth1\" virtual_router_id 52 }\n\
                    include conf.d/*.conf\nvrrp_instance bad { virtual_router_id 999 }\n";
        let (mut found, mut included) = (Vec::new(), Vec::new());
        instances(text, Path::new("/k"), &mut found, &mut included);
        let seen: Vec<_> = found
            .iter()
            .map(|one| (one.name.as_str(), one.interface.as_deref(), one.vrid, one.line))
            .collect();
        assert_eq!(
            seen,
            [
                ("VI_1", Some("eth0"), Some(41), 4),
                ("VI_2", Some("eth1"), Some(52), 6),
                ("bad", None, None, 8)
            ]
        );
        assert_eq!(included, ["conf.d/*.conf"]);
    }

    #[test]
    fn the_file_is_the_one_of_the_command_line() {
        let of = |line: &str| file(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("keepalived -n -f /x.conf"), Path::new("/x.conf"));
        assert_eq!(of("keepalived --use-file=/x.conf -l"), Path::new("/x.conf"));
        assert_eq!(of("keepalived -f/x.conf"), Path::new("/x.conf"));
        assert_eq!(of("/usr/sbin/keepalived --dont-fork"), Path::new(FILE));
    }
}
