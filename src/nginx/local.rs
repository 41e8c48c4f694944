//! Which addresses are this host's, without netlink: an address dump waits for the kernel's rtnl lock.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A routing table beyond this is the Internet's; netlink is asked then.
const TABLE_BYTES: u64 = 4 * 1024 * 1024;

/// IFA_F_DADFAILED and IFA_F_TENTATIVE: the address can't be used (linux/if_addr.h).
const UNUSABLE: u32 = 0x08 | 0x40;

/// Whether `address` is on this host now.
#[must_use]
pub(crate) fn is_local(address: IpAddr) -> bool {
    match address {
        address if address.is_loopback() => true,
        IpAddr::V4(address) => has_v4(address).unwrap_or_else(|_| by_netlink(address.into())),
        IpAddr::V6(address) => has_v6(address).unwrap_or_else(|_| by_netlink(address.into())),
    }
}

fn by_netlink(address: IpAddr) -> bool {
    standin_linux::process::local_addresses().is_ok_and(|local| local.contains(&address))
}

fn has_v4(address: Ipv4Addr) -> io::Result<bool> {
    find_v4(BufReader::new(File::open("/proc/net/fib_trie")?.take(TABLE_BYTES)), address)
}

/// A leaf is `|-- 192.168.1.41`, what is known of it follows: `/32 host LOCAL`.
fn find_v4(table: impl BufRead, address: Ipv4Addr) -> io::Result<bool> {
    let wanted = address.to_string();
    let mut here = false;
    let mut read = 0;
    for line in table.lines() {
        let line = line?;
        read += line.len() as u64 + 1;
        let text = line.trim_start();
        if let Some(leaf) = text.strip_prefix("|-- ") {
            here = leaf == wanted;
        } else if here && text.starts_with("/32 ") && text.ends_with(" LOCAL") {
            return Ok(true);
        }
    }
    if read >= TABLE_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(false) }
}

fn has_v6(address: Ipv6Addr) -> io::Result<bool> {
    match File::open("/proc/net/if_inet6") {
        Ok(table) => find_v6(BufReader::new(table.take(TABLE_BYTES)), address),
        // A kernel without IPv6 has no IPv6 addresses.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// `fd000000000000000000000000000041 02 40 00 80 eth0`: address, index, length, scope, flags, name.
fn find_v6(table: impl BufRead, address: Ipv6Addr) -> io::Result<bool> {
    for line in table.lines() {
        let line = line?;
        let mut fields = line.split_ascii_whitespace();
        let known = fields.next().and_then(|hex| u128::from_str_radix(hex, 16).ok());
        let flags = fields.nth(3).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        if known == Some(address.to_bits()) && flags.is_some_and(|flags| flags & UNUSABLE == 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 192.168.1.0/24 2 0 2
        |-- 192.168.1.0
           /24 link UNICAST
        |-- 192.168.1.41
           /32 host LOCAL
        |-- 192.168.1.9
           /32 universe UNICAST
        |-- 192.168.1.255
           /32 link BROADCAST
";

    #[test]
    fn only_local_leaves_of_the_routing_table_are_local() {
        let has = |text: &str| find_v4(TRIE.as_bytes(), text.parse().unwrap()).unwrap();
        assert!(has("192.168.1.41"));
        assert!(!has("192.168.1.9"), "a route to a host is no address of ours");
        assert!(!has("192.168.1.255"));
        assert!(!has("192.168.1.4"));
    }

    #[test]
    fn an_address_that_is_still_being_checked_for_duplicates_is_not_local_yet() {
        let table = "fd000000000000000000000000000041 02 40 00 80 eth0\n\
                     fd000000000000000000000000000042 02 40 00 c0 eth0\n";
        let has = |text: &str| find_v6(table.as_bytes(), text.parse().unwrap()).unwrap();
        assert!(has("fd00::41"));
        assert!(!has("fd00::42"));
        assert!(!has("fd00::43"));
    }

    #[test]
    fn loopback_is_local() {
        assert!(is_local("127.0.0.1".parse().unwrap()));
        assert!(!is_local("192.0.2.77".parse().unwrap()));
    }
}
