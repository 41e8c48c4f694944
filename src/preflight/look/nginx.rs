//! nginx of this host, as far as the rules ask.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use standin_config::model;
use standin_config::nginx::ListenAddress;
use standin_linux::sysctl;

use super::network::writable;
use crate::nginx::{find, glob, nonlocal};
use crate::preflight::facts::{Nginx, Nonlocal};

/// Where settings for the next boot stand (sysctl.d(5)).
const KEPT: &[&str] = &[
    "/etc/sysctl.conf",
    "/etc/sysctl.d/*.conf",
    "/run/sysctl.d/*.conf",
    "/usr/local/lib/sysctl.d/*.conf",
    "/usr/lib/sysctl.d/*.conf",
];

pub(super) async fn look(section: &model::Nginx, vips: &[IpAddr]) -> Nginx {
    let found = find(section).await;
    let need = nonlocal::Need::of(&found.config, vips);
    let plain = found.config.listens.iter().filter(|listen| listen.is_plain_http());
    let plain = plain.filter_map(|listen| {
        let ip: IpAddr = match &listen.address {
            ListenAddress::AnyV4 => Ipv4Addr::UNSPECIFIED.into(),
            ListenAddress::AnyV6 { .. } => Ipv6Addr::UNSPECIFIED.into(),
            ListenAddress::Ip(ip) => *ip,
            ListenAddress::Name(name) if name == "localhost" => Ipv4Addr::LOCALHOST.into(),
            ListenAddress::Name(_) | ListenAddress::Unix(_) => return None,
        };
        Some(SocketAddr::new(ip, listen.port))
    });
    let mut plain: Vec<SocketAddr> = plain.collect();
    plain.sort_unstable();
    plain.dedup();
    let settings = need.settings();
    let nonlocal = settings.iter().map(|path| {
        let name = path.replace('/', ".");
        Nonlocal {
            set: sysctl::read(path).is_ok_and(|value| value == "1"),
            writable: writable(path),
            kept: KEPT
                .iter()
                .flat_map(|pattern| glob(pattern))
                .any(|file| fs::read_to_string(file).is_ok_and(|text| says(&text, &name))),
            name,
        }
    });
    Nginx {
        nonlocal: nonlocal.collect(),
        plain,
        elsewhere: need.v4.into_iter().chain(need.v6).collect(),
        binary: found.binary.filter(|binary| found.master.is_some() || binary.is_file()),
        conf: found.conf,
        master: found.master,
        notes: found.notes,
    }
}

/// Whether a sysctl.d file sets `name` to 1.
fn says(text: &str, name: &str) -> bool {
    text.lines().any(|line| {
        line.trim().trim_start_matches('-').split_once('=').is_some_and(|(left, right)| {
            left.trim().replace('/', ".") == name && right.trim() == "1"
        })
    })
}
