//! `ifcfg-*` files of Red Hat and SUSE, with their `route-*` and `rule-*` files (sysconfig.txt).

use std::ops::Range;

use super::edit::{Edit, lines};

pub(super) fn read(edit: &mut Edit<'_>) {
    let path = edit.file.to_string();
    let file = path.rsplit('/').next().unwrap_or_default();
    let Some(named) = file.strip_prefix("ifcfg-") else { return routes(edit) };
    let text = edit.text;
    let value_of = |wanted: &str| {
        let mut all = assignments(text).filter(|(key, _)| *key == wanted);
        all.next().map(|(_, value)| unquoted(&text[value]).to_owned())
    };
    let device = value_of("DEVICE").unwrap_or_else(|| named.to_owned());
    let device = device.split(':').next().unwrap_or_default().to_owned();
    // The file of an alias is named after it, without DEVICE=.
    let is_other = device != edit.swap.interface;
    for (key, value) in assignments(text) {
        let said = unquoted(&text[value.clone()]).to_ascii_lowercase();
        let by_dhcp = match key {
            "BOOTPROTO" => edit.is_family(false) && said.contains("dhcp"),
            "DHCPV6C" | "IPV6_AUTOCONF" => edit.is_family(true) && said == "yes",
            _ => false,
        };
        if by_dhcp && !is_other {
            edit.dynamic(value.clone(), "by DHCP or from a router");
        }
        for place in edit.mentions(&value) {
            match key {
                _ if is_address(key) && is_other => edit.other_interface(place, &device),
                _ if is_address(key) => edit.declare(place),
                "SRCADDR" => edit.replace(place),
                "" => edit.unclear(place, "on a line that is no plain KEY=value"),
                _ => edit.mention(place),
            }
        }
    }
}

/// `IPADDR`, `IPADDR0`, `IPADDR_2`, `IPV6ADDR`, `IPV6ADDR_SECONDARIES`.
fn is_address(key: &str) -> bool {
    key == "IPV6ADDR"
        || key == "IPV6ADDR_SECONDARIES"
        || key.strip_prefix("IPADDR").is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('_') || rest.chars().all(|c| c.is_ascii_digit())
        })
}

/// The arguments of `ip route add` and `ip rule add`, one a line.
fn routes(edit: &mut Edit<'_>) {
    for line in lines(edit.text) {
        if !edit.at(&line).trim_start().starts_with('#') {
            let found = edit.mentions(&line);
            found.into_iter().for_each(|place| edit.source_or_mention(place));
        }
    }
}

/// Each `KEY=value` with the place of its value; a line that is none has an empty key.
fn assignments(text: &str) -> impl Iterator<Item = (&str, Range<usize>)> {
    lines(text).filter(|line| !text[line.clone()].trim_start().starts_with('#')).map(|line| {
        let content = &text[line.clone()];
        let Some(at) = content.find('=') else { return ("", line) };
        let key = content[..at].trim();
        let key = key.strip_prefix("export ").unwrap_or(key).trim();
        let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        // What comes after the value is a comment.
        let value = &content[at + 1..];
        let end = value.find(" #").unwrap_or(value.len());
        let start = line.start + at + 1;
        (if plain { key } else { "" }, start..start + end)
    })
}

fn unquoted(value: &str) -> &str {
    value.trim().trim_matches(['"', '\''])
}
