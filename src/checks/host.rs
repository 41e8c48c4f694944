//! Checks that look at this host: a file, an interface, a route.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use standin_core::types::{Family, Prefix};
use tokio::sync::Semaphore;

use super::Outcome;

/// Threads that one file check may leave hanging in a dead file system.
const LOOKS: usize = 2;

/// Route tables are read up to here; a full Internet table would make each look a burden.
const ROUTE_LINES: usize = 20_000;

/// Flags of `/proc/net/route` and `/proc/net/ipv6_route` (linux/route.h).
const RTF_UP: u32 = 0x1;
const RTF_GATEWAY: u32 = 0x2;
const RTF_REJECT: u32 = 0x200;

/// IFF_UP of `/sys/class/net/NAME/flags` (linux/if.h).
const IFF_UP: u32 = 0x1;

/// Looks at a file from threads, since a dead NFS server holds whoever looks.
#[derive(Clone, Debug)]
pub(super) struct Looks(Arc<Semaphore>);

impl Default for Looks {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKS)))
    }
}

impl Looks {
    /// Passes while the file exists and can be opened for reading.
    pub(super) fn file(&self, path: Arc<Path>) -> impl Future<Output = Outcome> + Send + use<> {
        let permit = Arc::clone(&self.0).try_acquire_owned();
        async move {
            let Ok(permit) = permit else {
                return Outcome::fail(format!(
                    "{}: earlier looks have not come back; does its file system hang?",
                    path.display()
                ));
            };
            let look = tokio::task::spawn_blocking(move || {
                let outcome = file(&path);
                drop(permit);
                outcome
            });
            look.await.unwrap_or_else(|error| Outcome::fail(format!("the look failed: {error}")))
        }
    }
}

fn file(path: &Path) -> Outcome {
    let shown = path.display();
    match fs::metadata(path) {
        // Opening anything else could wait for its other end, or do something.
        Ok(found) if found.is_file() => match fs::File::open(path) {
            Ok(_) => Outcome::pass(format!("{shown} exists")),
            Err(error) => Outcome::fail(format!("{shown} exists but can't be read: {error}")),
        },
        Ok(_) => Outcome::pass(format!("{shown} exists")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Outcome::fail(format!("{shown} doesn't exist"))
        }
        Err(error) => Outcome::fail(format!("{shown}: {error}")),
    }
}

/// Passes while the interface is up and has a carrier.
pub(super) fn interface(name: &str) -> Outcome {
    let home = Path::new("/sys/class/net").join(name);
    let flags = match fs::read_to_string(home.join("flags")) {
        Ok(text) => u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Outcome::fail(format!("interface {name} doesn't exist"));
        }
        Err(error) => return Outcome::fail(format!("interface {name}: {error}")),
    };
    if flags & IFF_UP == 0 {
        return Outcome::fail(format!("interface {name} is down"));
    }
    // Tunnels and loopback say "unknown" for ever; the carrier is what counts for them.
    let state = fs::read_to_string(home.join("operstate")).unwrap_or_default();
    let carrier = fs::read_to_string(home.join("carrier")).unwrap_or_default();
    match (state.trim(), carrier.trim()) {
        ("up", _) | ("unknown", "1") => Outcome::pass(format!("interface {name} is up")),
        (_, "0") => Outcome::fail(format!("interface {name} has no carrier")),
        (other, _) => Outcome::fail(format!("interface {name} is {other}")),
    }
}

/// Passes while the main table has the route, by `via` where that is given.
pub(super) fn route(to: Prefix, via: Option<IpAddr>) -> Outcome {
    let (file, parse): (_, fn(&str) -> Option<Route>) = match to.family() {
        Family::V4 => ("/proc/net/route", route_v4),
        Family::V6 => ("/proc/net/ipv6_route", route_v6),
    };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return Outcome::fail(format!("{file}: {error}")),
    };
    let wanted = Prefix::new(network(to), to.prefix_len()).unwrap_or(to);
    let mut other = None;
    for route in text.lines().take(ROUTE_LINES).filter_map(parse).filter(|it| it.to == wanted) {
        if via.is_none() || route.via == via {
            return Outcome::pass(match route.via {
                Some(gateway) => format!("route {to} via {gateway} dev {}", route.device),
                None => format!("route {to} dev {}", route.device),
            });
        }
        other = Some(route);
    }
    match (other, via) {
        (Some(Route { via: Some(gateway), device, .. }), Some(via)) => {
            Outcome::fail(format!("route {to} goes via {gateway} dev {device}, not via {via}"))
        }
        (Some(Route { device, .. }), Some(via)) => {
            Outcome::fail(format!("route {to} goes straight out of {device}, not via {via}"))
        }
        _ => Outcome::fail(format!("there is no route {to}")),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Route {
    to: Prefix,
    via: Option<IpAddr>,
    device: String,
}

/// The address with the host's bits cleared.
fn network(prefix: Prefix) -> IpAddr {
    let len = u32::from(prefix.prefix_len());
    match prefix.address() {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses in the host's byte order.
fn route_v4(line: &str) -> Option<Route> {
    let mut fields = line.split_ascii_whitespace();
    let device = fields.next()?.to_owned();
    let mut hex = || u32::from_str_radix(fields.next()?, 16).ok();
    let (to, gateway, flags) = (hex()?, hex()?, hex()?);
    let mask = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    if flags & RTF_UP == 0 || flags & RTF_REJECT != 0 {
        return None;
    }
    let len = u8::try_from(mask.count_ones()).ok()?;
    let to = Prefix::new(Ipv4Addr::from(to.to_ne_bytes()).into(), len)?;
    let via = Ipv4Addr::from(gateway.to_ne_bytes());
    Some(Route { to, via: (flags & RTF_GATEWAY != 0).then_some(via.into()), device })
}

/// `destination len source len gateway metric refcnt use flags device`, all in hexadecimal.
fn route_v6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[to, len, _, _, gateway, _, _, _, flags, device] = fields.as_slice() else { return None };
    let address = |hex| u128::from_str_radix(hex, 16).ok().map(Ipv6Addr::from_bits);
    let flags = u32::from_str_radix(flags, 16).ok()?;
    if flags & RTF_UP == 0 || flags & RTF_REJECT != 0 {
        return None;
    }
    let to = Prefix::new(address(to)?.into(), u8::from_str_radix(len, 16).ok()?)?;
    let via = address(gateway)?;
    let via = (flags & RTF_GATEWAY != 0).then_some(via.into());
    Some(Route { to, via, device: device.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_both_families_are_read_as_the_kernel_writes_them() {
        let line = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0";
        let route = route_v4(line).unwrap();
        assert_eq!(route.to.to_string(), "0.0.0.0/0");
        assert_eq!(route.via, Some("192.168.1.1".parse().unwrap()));
        let line = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(route_v4(line).unwrap().to.to_string(), "192.168.1.0/24");
        assert_eq!(route_v4("Iface\tDestination\tGateway \tFlags"), None);
        let line = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                    fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0";
        let route = route_v6(line).unwrap();
        assert_eq!(route.to.to_string(), "::/0");
        assert_eq!(route.via, Some("fd00::1".parse().unwrap()));
    }

    #[test]
    fn the_unreachable_default_of_an_empty_table_is_no_route() {
        let line = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                    00000000000000000000000000000000 ffffffff 00000001 00000000 00200200 lo";
        assert_eq!(route_v6(line), None);
    }

    #[test]
    fn a_file_that_is_missing_fails_and_one_that_exists_passes() {
        use standin_core::Verdict;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready");
        assert_eq!(file(&path).verdict, Verdict::Fail);
        fs::write(&path, "").unwrap();
        assert_eq!(file(&path).verdict, Verdict::Pass);
    }

    #[test]
    fn loopback_is_up_and_a_made_up_interface_is_not_there() {
        use standin_core::Verdict;
        assert_eq!(interface("lo").verdict, Verdict::Pass, "{:?}", interface("lo"));
        assert!(interface("nosuch0").detail.contains("doesn't exist"));
    }
}
