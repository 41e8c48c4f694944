//! What all five editors share: the places of an address in a text, and what was found out about them.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::{Edited, Swap};
use crate::{Diagnostic, codes};

/// A file under edit. Ranges are bytes of the text as it was.
pub(super) struct Edit<'a> {
    pub(super) file: Arc<str>,
    pub(super) text: &'a str,
    pub(super) swap: Swap<'a>,
    replaced: Vec<Range<usize>>,
    declared: Option<Range<usize>>,
    found: Vec<Diagnostic>,
    dynamic: Vec<Diagnostic>,
}

impl<'a> Edit<'a> {
    pub(super) fn new(name: &str, text: &'a str, swap: Swap<'a>) -> Self {
        Self {
            file: Arc::from(name),
            text,
            swap,
            replaced: Vec::new(),
            declared: None,
            found: Vec::new(),
            dynamic: Vec::new(),
        }
    }

    pub(super) fn at(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// Where the old address stands within `range`, however it is written there.
    pub(super) fn mentions(&self, range: &Range<usize>) -> Vec<Range<usize>> {
        let of_address = |c: u8| c.is_ascii_hexdigit() || matches!(c, b'.' | b':');
        let of_word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        let bytes = self.text.as_bytes();
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end.min(bytes.len()) {
            let run = bytes[at..range.end.min(bytes.len())].iter();
            let len = run.take_while(|c| of_address(**c)).count();
            let mut end = at + len;
            let begins = at == 0 || !of_word(bytes[at - 1]);
            let ends = bytes.get(end).is_none_or(|c| !of_word(*c));
            // The colon of a YAML key, the full stop of a sentence.
            while end > at && self.text[at..end].parse::<IpAddr>().is_err() {
                match bytes[end - 1] {
                    b':' | b'.' => end -= 1,
                    _ => break,
                }
            }
            if begins && ends && self.text[at..end].parse() == Ok(self.swap.old) {
                found.push(at..end);
            }
            at += len.max(1);
        }
        found
    }

    pub(super) fn is_family(&self, v6: bool) -> bool {
        self.swap.old.is_ipv6() == v6
    }

    /// The new address is to stand at `place`.
    pub(super) fn replace(&mut self, place: Range<usize>) {
        self.replaced.push(place);
    }

    /// `place` is what gives the interface its address.
    pub(super) fn declare(&mut self, place: Range<usize>) {
        self.declared.get_or_insert_with(|| place.clone());
        self.replace(place);
    }

    /// Where the file gives the interface the old address first.
    pub(super) fn declared(&self) -> Option<Range<usize>> {
        self.declared.clone()
    }

    fn finding(&self, code: &'static str, what: String, place: Range<usize>) -> Diagnostic {
        Diagnostic::error(code, what).at(&self.file, place, "")
    }

    /// The file gives the address to another interface than the one that has it.
    pub(super) fn other_interface(&mut self, place: Range<usize>, name: &str) {
        let Swap { interface, old, new } = self.swap;
        let what = format!("this gives {old} to {name}, but it is on {interface} now");
        let finding = self.finding(codes::NET_OTHER_INTERFACE, what, place);
        self.found.push(finding.help(format!(
            "if the two are the same machine's same cable, write {new} here by hand and run this again; else take \
             {old} out of here: two files give the address away"
        )));
    }

    /// The file gives the interface the new address at `place`.
    pub(super) fn twice(&self, place: Range<usize>) -> Diagnostic {
        let Swap { interface, old, new } = self.swap;
        let what = format!("{interface} is given {new} here already");
        Diagnostic::warning(codes::NET_TWICE, what).at(&self.file, place, "").help(format!(
            "take it out here by hand before you go on: it is written in the place of {old}, and ifupdown can't bring \
             {interface} up that is given an address twice"
        ))
    }

    /// A command gives the host the address.
    pub(super) fn by_command(&mut self, place: Range<usize>) {
        let Swap { old, new, .. } = self.swap;
        let what = format!("a command handles {old} at boot, and commands aren't edited");
        let finding = self.finding(codes::NET_BY_COMMAND, what, place);
        self.found.push(finding.help(format!(
            "take the command out, or write {new} in it, by hand: at the next boot {old} must not come up by \
             itself. Then run this again"
        )));
    }

    /// The address is written in a form that this editor doesn't judge.
    pub(super) fn unclear(&mut self, place: Range<usize>, form: &str) {
        let Swap { old, new, .. } = self.swap;
        let what = format!("{old} stands {form}, which isn't edited");
        let finding = self.finding(codes::NET_FORM, what, place);
        self.found.push(finding.help(format!(
            "write {new} here by hand if this gives the host its address, else write the line in a plain form; then run \
             this again. Or change the files by hand, and say --no-files"
        )));
    }

    /// The address stands here for another purpose.
    pub(super) fn mention(&mut self, place: Range<usize>) {
        let Swap { old, new, .. } = self.swap;
        let what = format!("{old} is named here for something else, and stays");
        let finding = Diagnostic::warning(codes::NET_MENTION, what).at(&self.file, place, "");
        self.found.push(
            finding
                .help(format!("right if the VIP is meant; if this host is, write {new} by hand")),
        );
    }

    /// The interface is configured here, and gets an address that no file names.
    pub(super) fn dynamic(&mut self, place: Range<usize>, how: &str) {
        let Swap { interface, old, new } = self.swap;
        let what = format!("{interface} gets its address {how}, so no file names {old}");
        let finding = self.finding(codes::NET_DYNAMIC, what, place);
        self.dynamic.push(finding.help(format!(
            "give {interface} the address {new} here by hand, or let the DHCP server give it: at the next boot \
             {old} must not come up by itself. Then run this with --no-files"
        )));
    }

    /// The `src` of a route, else another purpose.
    pub(super) fn source_or_mention(&mut self, place: Range<usize>) {
        let before = self.text[..place.start].trim_end();
        let word = before.rsplit(|c: char| c.is_whitespace() || c == '=').next();
        if word == Some("src") || before.ends_with("src=") {
            self.replace(place);
        } else {
            self.mention(place);
        }
    }

    pub(super) fn finish(mut self) -> Edited {
        self.replaced.sort_by_key(|place| place.start);
        let new = self.swap.new.to_string();
        let mut text = String::with_capacity(self.text.len());
        let mut done = 0;
        for place in &self.replaced {
            text.push_str(&self.text[done..place.start]);
            text.push_str(&new);
            done = place.end;
        }
        text.push_str(&self.text[done..]);
        let (declares, found, dynamic) = (self.declared.is_some(), self.found, self.dynamic);
        Edited { text, declares, found, dynamic, twice: None }
    }
}

/// Whether the interface name fits a pattern with `*`, `?` and `[…]`, as systemd's and NetworkManager's.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = rest.as_str();
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            // Interface names have at most 15 characters: this can't grow.
            ends.into_iter().any(|at| fits(rest, &name[at..]))
        }
        Some('[') => {
            let Some((set, after)) = rest.as_str().split_once(']') else { return pattern == name };
            let mut of_name = name.chars();
            of_name.next().is_some_and(|c| in_set(set, c)) && fits(after, of_name.as_str())
        }
        Some(wanted) => {
            let mut of_name = name.chars();
            of_name.next().is_some_and(|c| wanted == '?' || wanted == c)
                && fits(rest.as_str(), of_name.as_str())
        }
    }
}

fn in_set(set: &str, c: char) -> bool {
    let (negated, set) = match set.strip_prefix('!') {
        Some(set) => (true, set),
        None => (false, set),
    };
    let chars: Vec<char> = set.chars().collect();
    let ranges =
        chars.windows(3).any(|three| three[1] == '-' && (three[0]..=three[2]).contains(&c));
    (ranges || chars.contains(&c)) != negated
}

/// The lines of a text with their places, without their ends.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let place = start..start + line.trim_end_matches(['\n', '\r']).len();
        start += line.len();
        place
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        for (pattern, name, fit) in [
            ("eth0", "eth0", true),
            ("eth*", "eth0", true),
            ("*", "eth0", true),
            ("en[op]*", "enp3s0", true),
            ("en[!p]*", "enp3s0", false),
            ("eth?", "eth0", true),
            ("eth?", "eth10", false),
            ("eth[0-9]", "eth7", true),
            ("en*s0", "enp3s0", true),
            ("eth1", "eth0", false),
            ("[", "[", true),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }

    #[test]
    fn an_address_is_found_however_it_is_written_and_never_in_a_longer_word() {
        let count = |old: &str, text: &str| {
            let old = old.parse().unwrap();
            let edit = Edit::new("f", text, Swap { interface: "eth0", old, new: old });
            edit.mentions(&(0..text.len())).len()
        };
        assert_eq!(count("192.168.1.41", "a 192.168.1.41/24 192.168.1.41: 192.168.1.41."), 3);
        assert_eq!(
            count("192.168.1.41", "192.168.1.4 192.168.1.411 x192.168.1.41 1.192.168.1.41"),
            0
        );
        assert_eq!(count("fd00::41", "FD00:0:0::41/64,fd00::41"), 2);
        assert_eq!(count("fd00::41", "fd00::411 afd00::41"), 0);
    }
}
