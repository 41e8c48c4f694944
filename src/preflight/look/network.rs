//! Interfaces, addresses, their settings, and the files that will give addresses at the next boot.

use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use standin_linux::netlink::{Link, Rtnl};
use standin_linux::sysctl;

use crate::nginx::glob;
use crate::preflight::facts::{Facts, Mention, Port, Promote};
use crate::preflight::words;

/// Debian, netplan, systemd-networkd, NetworkManager, Red Hat.
const CONFIGURATION: &[&str] = &[
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/netplan/*.yaml",
    "/etc/systemd/network/*.network",
    "/etc/NetworkManager/system-connections/*",
    "/etc/sysconfig/network-scripts/ifcfg-*",
];

/// Nobody's network configuration is longer.
const FILE_BYTES: u64 = 1024 * 1024;

/// Lines that name an address of another host.
const OF_OTHERS: &[&str] = &["gateway", "via", "route", "dns", "nameserver", "ntp", "server"];

pub(super) fn look(facts: &mut Facts) {
    let read = Rtnl::open().and_then(|mut rtnl| Ok((rtnl.links()?, rtnl.addresses()?)));
    match read {
        Ok((links, addresses)) => {
            facts.ports = links.iter().map(port).collect();
            facts.addresses = addresses;
        }
        Err(error) => {
            facts
                .unseen
                .push(format!("interfaces and addresses couldn't be looked at: {}", words(&error)));
        }
    }
}

/// What a VIP with a MAC of its own needs of this host.
pub(super) fn virtual_mac(facts: &mut Facts) {
    match Rtnl::open().and_then(|mut rtnl| rtnl.has_macvlan()) {
        Ok(has) => facts.no_macvlan = !has,
        Err(error) => {
            let why = words(&error);
            facts
                .unseen
                .push(format!("whether the kernel has macvlan couldn't be found out: {why}"));
        }
    }
    let all = |name: &str| {
        let value = sysctl::read(&format!("net/ipv4/conf/all/{name}")).ok()?;
        value.parse::<u8>().ok()
    };
    // Documentation/networking/ip-sysctl.rst: 1 and 2 answer for the interface's own addresses.
    if all("arp_ignore") >= Some(3) {
        facts.unanswered = Some("net.ipv4.conf.all.arp_ignore");
    } else if all("arp_filter") >= Some(1) {
        facts.unanswered = Some("net.ipv4.conf.all.arp_filter");
    }
}

fn port(link: &Link) -> Port {
    let name = &link.name;
    let number = |path: &str| sysctl::read(path).ok()?.parse::<u8>().ok();
    let of = |what: &str| number(&format!("net/ipv4/conf/{name}/{what}"));
    let shown = Path::new("/sys/class/net").join(name);
    let file = |what: &str| Some(fs::read_to_string(shown.join(what)).ok()?.trim().to_owned());
    // /sys may be mounted from another network.
    let same = file("ifindex").is_some_and(|index| index == link.index.to_string());
    let flags = file("flags")
        .and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok())
        .filter(|_| same);
    let bridge = |what: &str| file(&format!("bridge/{what}")).filter(|_| same);
    let all = number("net/ipv4/conf/all/rp_filter").unwrap_or_default();
    Port {
        index: link.index,
        mac: link.mac,
        works: link.up,
        // IFF_UP
        enabled: flags.map(|flags| flags & 1 == 1),
        // Without the setting there is no IPv6 at all.
        ipv6_disabled: number(&format!("net/ipv6/conf/{name}/disable_ipv6")) != Some(0),
        // Documentation/networking/ip-sysctl.rst: the higher one counts.
        rp_filter: of("rp_filter").unwrap_or_default().max(all),
        promote_secondaries: promote(name),
        snoops_without_querier: bridge("multicast_snooping").as_deref() == Some("1")
            && bridge("multicast_querier").as_deref() == Some("0"),
        name: name.clone(),
    }
}

fn promote(name: &str) -> Promote {
    let path = format!("net/ipv4/conf/{name}/promote_secondaries");
    if sysctl::read(&path).is_ok_and(|value| value == "1") {
        Promote::Set
    } else if writable(&path) {
        Promote::Settable
    } else {
        Promote::Fixed
    }
}

/// Whether a setting below `/proc/sys` could be written; nothing is.
pub(super) fn writable(path: &str) -> bool {
    fs::OpenOptions::new().write(true).open(Path::new("/proc/sys").join(path)).is_ok()
}

/// The lines of this host's network configuration that give it one of `vips`.
pub(super) fn mentions(vips: &[IpAddr]) -> Vec<Mention> {
    let files = CONFIGURATION.iter().flat_map(|pattern| glob(pattern));
    files.flat_map(|file| mentions_in(&text(&file), &file, vips)).collect()
}

fn text(file: &Path) -> String {
    let mut bytes = Vec::new();
    let is_file = fs::metadata(file).is_ok_and(|found| found.is_file());
    // What can't be read says nothing.
    let opened = if is_file { fs::File::open(file).ok() } else { None };
    let _ = opened.map(|opened| opened.take(FILE_BYTES).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn mentions_in(text: &str, file: &Path, vips: &[IpAddr]) -> Vec<Mention> {
    let mut found = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let said = text.split(['#', ';']).next().unwrap_or_default().to_ascii_lowercase();
        if OF_OTHERS.iter().any(|word| said.contains(word)) {
            continue;
        }
        let words = said.split(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '.' | ':' | '/'));
        let addresses = words
            .filter_map(|word| word.split('/').next().and_then(|word| word.parse::<IpAddr>().ok()));
        for address in addresses.filter(|address| vips.contains(address)) {
            found.push(Mention { address, file: PathBuf::from(file), line });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_every_kind_of_network_configuration() {
        let vips: Vec<IpAddr> =
            ["192.168.1.41", "fd00::41"].iter().map(|text| text.parse().unwrap()).collect();
        let lines = |text: &str| -> Vec<usize> {
            mentions_in(text, Path::new("f"), &vips).iter().map(|found| found.line).collect()
        };
        assert_eq!(lines("iface eth0 inet static\n    address 192.168.1.41/24\n"), [2]);
        assert_eq!(lines("      addresses: [192.168.1.189/24, 192.168.1.41/24]\n"), [1]);
        assert_eq!(lines("[Network]\nAddress=fd00::41/64\n"), [2]);
        assert_eq!(lines("address1=192.168.1.41/24,192.168.1.1\n"), [1]);
        assert_eq!(lines("IPADDR=\"192.168.1.41\"\n"), [1]);
        assert!(lines("#IPADDR=192.168.1.41\n").is_empty());
        assert!(lines("gateway 192.168.1.41\n").is_empty());
        assert!(lines("address 192.168.1.4\naddress 192.168.1.411\n").is_empty());
    }
}
