//! systemd-networkd's `.network` files and their drop-ins (systemd.network(5)).

use super::edit::{Edit, fits};
use super::ini::entries;

pub(super) fn read(edit: &mut Edit<'_>) {
    let names = names(edit.text);
    // A drop-in matches what its file matches; a MAC address is the interface's own.
    let is_other =
        |interface: &str| names.as_deref().is_some_and(|names| !is_named(names, interface));
    let text = edit.text;
    for entry in entries(text) {
        let value = text[entry.value.clone()].trim();
        let v4 = matches!(value, "yes" | "true" | "both" | "v4" | "ipv4" | "1" | "on");
        let v6 = matches!(value, "yes" | "true" | "both" | "v6" | "ipv6" | "1" | "on");
        let by_dhcp = (v4 && edit.is_family(false)) || (v6 && edit.is_family(true));
        if entry.section == "Network"
            && entry.key == "DHCP"
            && by_dhcp
            && !is_other(edit.swap.interface)
        {
            edit.dynamic(entry.value.clone(), "by DHCP");
        }
        for place in edit.mentions(&entry.value) {
            match (entry.section, entry.key) {
                ("Network" | "Address", "Address") if !is_other(edit.swap.interface) => {
                    edit.declare(place);
                }
                ("Network" | "Address", "Address") => {
                    let names = names.clone().unwrap_or_default();
                    edit.other_interface(place, names.trim());
                }
                ("Route", "PreferredSource") => edit.replace(place),
                (_, "") => edit.unclear(place, "on a line that continues another one"),
                _ => edit.mention(place),
            }
        }
    }
}

/// What `[Match] Name=` says; `None` when the file leaves that to others.
fn names(text: &str) -> Option<String> {
    let mut all: Option<String> = None;
    for entry in entries(text).filter(|entry| entry.section == "Match" && entry.key == "Name") {
        let names = all.get_or_insert_default();
        names.push(' ');
        names.push_str(&text[entry.value]);
    }
    all
}

fn is_named(names: &str, interface: &str) -> bool {
    let names = names.trim();
    match names.strip_prefix('!') {
        Some(others) => !others.split_whitespace().any(|pattern| fits(pattern, interface)),
        None => names.split_whitespace().any(|pattern| fits(pattern, interface)),
    }
}
