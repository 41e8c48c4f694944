//! Reads the `listen` directive.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::files::Place;

/// The kind of block that the server stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http,
    Stream,
    Mail,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// Every IPv4 address.
    AnyV4,
    /// Every IPv6 address, and every IPv4 address when not `v6_only`.
    AnyV6 {
        v6_only: bool,
    },
    Ip(IpAddr),
    /// A host name, which nginx looks up when it starts.
    Name(String),
    Unix(PathBuf),
}

/// One `listen` of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub protocol: Protocol,
    pub address: ListenAddress,
    /// The first one of a range; 0 for a Unix socket.
    pub port: u16,
    /// The last one of a range, else equal to `port`.
    pub last_port: u16,
    pub ssl: bool,
    pub proxy_protocol: bool,
    /// HTTP/3: UDP, not TCP.
    pub quic: bool,
    /// `udp` of a stream server.
    pub udp: bool,
    /// Of the server that it belongs to.
    pub server_names: Vec<String>,
    pub at: Place,
}

impl Listen {
    /// Whether a plain HTTP/1.1 request over TCP is answered there.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        self.protocol == Protocol::Http
            && !self.ssl
            && !self.quic
            && !self.proxy_protocol
            && !matches!(self.address, ListenAddress::Unix(_))
    }

    /// The one address that must exist, or be allowed not to, before nginx can bind it.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.address {
            ListenAddress::Ip(ip) => Some(ip),
            _ => None,
        }
    }

    /// What a server without any `listen` has: `*:80`.
    pub(super) fn implied(at: Place) -> Self {
        Self {
            protocol: Protocol::Http,
            address: ListenAddress::AnyV4,
            port: 80,
            last_port: 80,
            ssl: false,
            proxy_protocol: false,
            quic: false,
            udp: false,
            server_names: Vec::new(),
            at,
        }
    }

    /// From the directive's arguments; `None` when the address is none.
    pub(super) fn parse(protocol: Protocol, args: &[String], at: Place) -> Option<Self> {
        let (address, options) = args.split_first()?;
        let has = |option: &str| options.iter().any(|given| given == option);
        let (mut address, port, last_port) = place(address)?;
        if let ListenAddress::AnyV6 { v6_only } = &mut address {
            *v6_only = !has("ipv6only=off");
        }
        Some(Self {
            address,
            port,
            last_port,
            protocol,
            ssl: has("ssl"),
            proxy_protocol: has("proxy_protocol"),
            quic: has("quic"),
            udp: has("udp"),
            server_names: Vec::new(),
            at,
        })
    }
}

/// What nginx makes of several `listen`s of one address and port: a socket has one protocol, so what
/// one of them says of TLS and of the PROXY protocol counts for all of them.
pub(super) fn share_options(listens: &mut [Listen]) {
    let sockets = |listen: &Listen| {
        // `ipv6only` is about the socket, and no part of its address.
        let address = match &listen.address {
            ListenAddress::AnyV6 { .. } => ListenAddress::AnyV6 { v6_only: true },
            other => other.clone(),
        };
        (listen.port..=listen.last_port).map(move |port| (address.clone(), port))
    };
    let said = |of: fn(&Listen) -> bool| -> BTreeSet<(ListenAddress, u16)> {
        listens.iter().filter(|listen| !listen.quic && of(listen)).flat_map(sockets).collect()
    };
    let (ssl, proxied) = (said(|listen| listen.ssl), said(|listen| listen.proxy_protocol));
    for listen in listens.iter_mut().filter(|listen| !listen.quic) {
        let among = |those: &BTreeSet<_>| {
            !those.is_empty() && sockets(listen).any(|socket| those.contains(&socket))
        };
        (listen.ssl, listen.proxy_protocol) =
            (listen.ssl || among(&ssl), listen.proxy_protocol || among(&proxied));
    }
}

/// Address, first and last port; without a port 80.
fn place(text: &str) -> Option<(ListenAddress, u16, u16)> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Some((ListenAddress::Unix(PathBuf::from(path)), 0, 0));
    }
    if let Some((first, last)) = ports(text) {
        return Some((ListenAddress::AnyV4, first, last));
    }
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']')?;
        let (host, rest) = text.split_at(end + 1);
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let (first, last) = match port {
        Some(port) => ports(port)?,
        None => (80, 80),
    };
    let address =
        if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            match inner.parse::<Ipv6Addr>().ok()? {
                Ipv6Addr::UNSPECIFIED => ListenAddress::AnyV6 { v6_only: true },
                ip => ListenAddress::Ip(ip.into()),
            }
        } else if host == "*" {
            ListenAddress::AnyV4
        } else {
            match host.parse::<Ipv4Addr>() {
                Ok(Ipv4Addr::UNSPECIFIED) => ListenAddress::AnyV4,
                Ok(ip) => ListenAddress::Ip(ip.into()),
                Err(_) if host.is_empty() => return None,
                Err(_) => ListenAddress::Name(host.to_owned()),
            }
        };
    Some((address, first, last))
}

/// `80` or `8000-8010`.
fn ports(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
        None => port(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(ListenAddress, u16)> {
        let args: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let at = Place { file: PathBuf::from("f"), line: 1 };
        Listen::parse(Protocol::Http, &args, at).map(|listen| (listen.address, listen.port))
    }

    #[test]
    fn every_form_of_address_is_read() {
        use ListenAddress::{AnyV4, AnyV6, Ip, Name, Unix};
        for (text, address, port) in [
            ("8080", AnyV4, 8080),
            ("*:81", AnyV4, 81),
            ("0.0.0.0:82", AnyV4, 82),
            ("*", AnyV4, 80),
            ("192.168.1.41", Ip("192.168.1.41".parse().unwrap()), 80),
            ("192.168.1.41:443 ssl", Ip("192.168.1.41".parse().unwrap()), 443),
            ("[::]:80", AnyV6 { v6_only: true }, 80),
            ("[::]:80 ipv6only=off", AnyV6 { v6_only: false }, 80),
            ("[::]:80 ipv6only=on", AnyV6 { v6_only: true }, 80),
            ("[fd00::41]", Ip("fd00::41".parse().unwrap()), 80),
            ("localhost:80", Name("localhost".to_owned()), 80),
            ("localhost", Name("localhost".to_owned()), 80),
            ("unix:/run/x.sock", Unix(PathBuf::from("/run/x.sock")), 0),
            ("8000-8010", AnyV4, 8000),
        ] {
            assert_eq!(parsed(text), Some((address, port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in ["", "[::", "[x]:80", "1.2.3.4:0", "1.2.3.4:99999", ":80", "[::]80", "9-8:x"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }
}
