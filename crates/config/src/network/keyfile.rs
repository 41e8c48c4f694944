//! NetworkManager's keyfiles (nm-settings-keyfile(5)).

use super::edit::Edit;
use super::ini::entries;

pub(super) fn read(edit: &mut Edit<'_>) {
    let text = edit.text;
    let interface = entries(text)
        .find(|entry| entry.section == "connection" && entry.key == "interface-name")
        .map(|entry| text[entry.value].trim());
    let is_other = interface.is_some_and(|name| name != edit.swap.interface);
    for entry in entries(text) {
        let (key, value) = (entry.key, &text[entry.value.clone()]);
        let section = match entry.section {
            "ipv4" => Some(false),
            "ipv6" => Some(true),
            _ => None,
        };
        let automatic = key == "method" && matches!(value.trim(), "auto" | "dhcp");
        if !is_other && automatic && section.is_some_and(|v6| edit.is_family(v6)) {
            edit.dynamic(entry.value.clone(), "by DHCP or from a router");
        }
        for place in edit.mentions(&entry.value) {
            let before = text[entry.value.start..place.start].trim();
            // `address1=ADDRESS/24,GATEWAY`, and the older `addresses=ADDRESS;24;GATEWAY;`.
            let is_address = key
                .trim_start_matches("address")
                .chars()
                .all(|c| c.is_ascii_digit() || c == 'e' || c == 's')
                && key.starts_with("address")
                && (before.is_empty() || before.ends_with(';'));
            match () {
                () if section.is_none() || key.is_empty() => edit.mention(place),
                () if is_address && is_other => {
                    edit.other_interface(place, interface.unwrap_or_default());
                }
                () if is_address => edit.declare(place),
                () if key.starts_with("route") && key.ends_with("_options") => {
                    edit.source_or_mention(place);
                }
                () => edit.mention(place),
            }
        }
    }
}
