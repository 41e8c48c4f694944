//! Debian's `/etc/network/interfaces` and the files that it sources (interfaces(5)).

use std::ops::Range;

use super::edit::{Edit, lines};

/// The stanza that a line is in.
#[derive(Clone, Copy, Default)]
struct Stanza<'a> {
    /// `eth0` of `iface eth0:1 inet static`; empty outside of `iface`.
    interface: &'a str,
}

/// Words that begin a stanza.
const BEGINNINGS: &[&str] = &[
    "auto",
    "mapping",
    "source",
    "source-directory",
    "no-auto-down",
    "no-scripts",
    "rename",
    "template",
];

/// Options whose value is a command.
const COMMANDS: &[&str] = &["up", "post-up", "pre-up", "down", "post-down", "pre-down"];

pub(super) fn read(edit: &mut Edit<'_>) {
    let mut stanza = Stanza::default();
    for words in logical_lines(edit.text) {
        let Some(first) = words.first() else { continue };
        let keyword = edit.at(first);
        if keyword == "iface" {
            stanza = begin(edit, &words);
        } else if BEGINNINGS.contains(&keyword) || keyword.starts_with("allow-") {
            stanza = Stanza::default();
        } else {
            option(edit, stanza, keyword, &words);
        }
    }
}

fn begin<'a>(edit: &mut Edit<'a>, words: &[Range<usize>]) -> Stanza<'a> {
    let word = |at: usize| words.get(at).map_or("", |place| edit.at(place));
    let interface = word(1).split(':').next().unwrap_or_default();
    let v6 = word(2) == "inet6";
    let method = word(3);
    if interface == edit.swap.interface
        && edit.is_family(v6)
        && matches!(method, "dhcp" | "auto" | "bootp" | "ppp" | "wvdial")
        && let Some(place) = words.get(3).cloned()
    {
        let how = if method == "dhcp" { "by DHCP" } else { "from elsewhere" };
        edit.dynamic(place, how);
    }
    Stanza { interface }
}

fn option(edit: &mut Edit<'_>, stanza: Stanza<'_>, keyword: &str, words: &[Range<usize>]) {
    let (Some(first), Some(last)) = (words.get(1), words.last()) else { return };
    let value = first.start..last.end;
    let adds = |word: &str| {
        "add".starts_with(word) || matches!(word, "replace" | "change" | "del" | "delete")
    };
    for place in edit.mentions(&value) {
        if COMMANDS.contains(&keyword) {
            let said: Vec<&str> = words.iter().map(|word| edit.at(word)).collect();
            let of_address = said.windows(2).any(|two| {
                ("address".starts_with(two[0]) && two[0].starts_with('a')) && adds(two[1])
            });
            if of_address || said.iter().any(|word| word.ends_with("ifconfig")) {
                edit.by_command(place);
            } else {
                edit.source_or_mention(place);
            }
        } else if keyword != "address" {
            edit.mention(place);
        } else if stanza.interface == edit.swap.interface {
            edit.declare(place);
        } else {
            edit.other_interface(place, stanza.interface);
        }
    }
}

/// Lines that end with a backslash are one with the next; comments stand on lines of their own.
fn logical_lines(text: &str) -> Vec<Vec<Range<usize>>> {
    let mut all = Vec::new();
    let mut words = Vec::new();
    for line in lines(text) {
        let content = &text[line.clone()];
        if words.is_empty() && content.trim_start().starts_with('#') {
            continue;
        }
        let continued = content.ends_with('\\');
        let content = content.strip_suffix('\\').unwrap_or(content);
        words.extend(split(content).map(|word| line.start + word.start..line.start + word.end));
        if !continued {
            all.push(std::mem::take(&mut words));
        }
    }
    all.push(words);
    all
}

fn split(line: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let start = line.as_ptr() as usize;
    line.split_whitespace().map(move |word| {
        // Of the same string, so never below its start.
        let at = word.as_ptr() as usize - start;
        at..at + word.len()
    })
}
