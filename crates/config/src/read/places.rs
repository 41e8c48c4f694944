//! Reads where things are: IP addresses, prefixes, ports, URLs, interface names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use standin_core::types::{Family, Prefix, PrefixError};

use super::{Fields, Value, Walk, shown};
use crate::codes;
use crate::keys::{self, Key};
use crate::model::HttpUrl;

/// The kernel's IFNAMSIZ less the zero byte.
const MAX_INTERFACE_NAME: usize = 15;

/// Longest URL: beyond any health page's.
const MAX_URL: usize = 2048;

/// Why an address can't be a host's, if so.
fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("this means \"any address\"");
    }
    if address.is_loopback() {
        return Some("this is a loopback address, which no other machine reaches");
    }
    if address.is_multicast() {
        return Some("this is a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some("this is the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("this is an IPv4 address in IPv6 clothes")
        }
        _ => None,
    }
}

/// The network's own name or its broadcast address, which are no host's (RFC 1122 §3.2.1.3).
fn edge_of_network(prefix: Prefix) -> Option<&'static str> {
    let IpAddr::V4(address) = prefix.address() else { return None };
    let host_bits = 32_u32.checked_sub(u32::from(prefix.prefix_len())).filter(|bits| *bits >= 2)?;
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    match Ipv4Addr::to_bits(address) & !mask {
        0 => Some("this is the network's own address"),
        host if host == !mask => Some("this is the network's broadcast address"),
        _ => None,
    }
}

impl Walk {
    /// One address, or at most one of each family; empty when unusable (which is reported).
    pub(super) fn node_addresses(
        &mut self,
        fields: &Fields<'_, '_>,
    ) -> (Vec<IpAddr>, Vec<Range<usize>>) {
        let key = keys::NODE_ADDRESS;
        let Some(value) = fields.get(&key) else {
            self.missing(fields, &key, "the machine's own address: address = \"192.168.1.189\"");
            return (Vec::new(), Vec::new());
        };
        let entries: Vec<&Value<'_>> = match value.get_ref().as_array() {
            Some(list) => list.iter().collect(),
            None => vec![value],
        };
        if entries.is_empty() {
            self.error(
                codes::EMPTY,
                "address must not be empty",
                value.span(),
                "",
                "give the machine's own address",
            );
        }
        let mut found: Vec<(IpAddr, Range<usize>)> = Vec::new();
        for entry in entries.into_iter().take(super::MAX_LIST) {
            let Some(address) = self.node_address(entry) else { continue };
            let family = Family::of(address);
            if let Some((_, first)) = found.iter().find(|(other, _)| Family::of(*other) == family) {
                let first = first.clone();
                self.error(
                    codes::ADDRESS,
                    format!("a node has at most one {family} address here"),
                    entry.span(),
                    "the second one",
                    "keep the one that adverts shall come from; further paths go to heartbeat",
                );
                self.also_at(first, "the first one");
                continue;
            }
            found.push((address, entry.span()));
        }
        found.into_iter().unzip()
    }

    /// Adds a second place to the fault that was just reported.
    pub(super) fn also_at(&mut self, span: Range<usize>, label: &str) {
        let file = std::sync::Arc::clone(&self.file);
        if let Some(last) = self.diagnostics.pop() {
            self.diagnostics.push(last.at(&file, span, label));
        }
    }

    fn node_address(&mut self, value: &Value<'_>) -> Option<IpAddr> {
        let text = self.any_text(value, "address")?;
        if let Some((address, _)) = text.split_once('/')
            && text.parse::<Prefix>().is_ok()
        {
            self.error(
                codes::ADDRESS,
                "a node's address has no prefix length",
                value.span(),
                "",
                format!("write \"{address}\"; the interface knows its own length"),
            );
            return None;
        }
        let address = self.ip(&text, value.span(), "address")?;
        let fault = unusable(address).or_else(|| match address {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                Some("this is link-local: it says nothing without its interface")
            }
            _ => None,
        });
        let Some(fault) = fault else { return Some(address) };
        self.error(
            codes::ADDRESS,
            format!("{address} can't be a node's address"),
            value.span(),
            fault,
            "give the address that `ip address` shows on the machine's own interface",
        );
        None
    }

    pub(super) fn ip(&mut self, text: &str, span: Range<usize>, name: &str) -> Option<IpAddr> {
        let parsed = text.parse();
        if parsed.is_err() {
            let help = if text.chars().any(|c| c.is_ascii_alphabetic()) && !text.contains(':') {
                "names are not looked up here, so that DNS can't stop a takeover: write the address"
            } else if name == "addresses" {
                "write it like \"192.168.1.41/24\" or \"fd00::41/64\""
            } else {
                "write it like \"192.168.1.41\" or \"fd00::41\""
            };
            let message = format!("{name}: \"{}\" is no IP address", shown(text));
            self.error(codes::ADDRESS, message, span, "", help);
        }
        parsed.ok()
    }

    /// A VIP's addresses with their places; faulty ones are reported and left out.
    pub(super) fn vip_addresses(
        &mut self,
        fields: &Fields<'_, '_>,
    ) -> (Vec<Prefix>, Vec<Range<usize>>) {
        let key = keys::VIP_ADDRESSES;
        if fields.get(&key).is_none() {
            self.missing(
                fields,
                &key,
                "what it keeps reachable: addresses = [\"192.168.1.41/24\"]",
            );
        }
        let texts = self.spanned_texts(fields, &key);
        if let Some(value) = fields.get(&key)
            && value.get_ref().as_array().is_some_and(|list| list.is_empty())
        {
            self.error(
                codes::EMPTY,
                "addresses must not be empty",
                value.span(),
                "",
                "give at least one: [\"192.168.1.41/24\"]",
            );
        }
        texts
            .into_iter()
            .filter_map(|(text, span)| Some((self.vip_address(&text, span.clone())?, span)))
            .unzip()
    }

    fn vip_address(&mut self, text: &str, span: Range<usize>) -> Option<Prefix> {
        let prefix = match text.parse::<Prefix>() {
            Ok(prefix) => prefix,
            Err(PrefixError::NotAnAddress) => {
                let bare = text.split_once('/').map_or(text, |(address, _)| address);
                self.ip(bare, span, "addresses");
                return None;
            }
            Err(error @ PrefixError::NotALength) => {
                let bare = text.split_once('/').map_or(text, |(address, _)| address);
                let message = format!("\"{}\" has no usable prefix length", shown(text));
                let given = text.rsplit('/').next().unwrap_or_default();
                let mask = given.parse::<Ipv4Addr>().map(Ipv4Addr::to_bits).ok();
                let example = match mask.filter(|mask| mask.leading_ones() == mask.count_ones()) {
                    Some(mask) => mask.count_ones(),
                    None if bare.contains(':') => 64,
                    None => 24,
                };
                self.error(
                    codes::ADDRESS,
                    message,
                    span,
                    error.to_string(),
                    format!("write \"{bare}/{example}\", with the length that the network has"),
                );
                return None;
            }
        };
        let fault = unusable(prefix.address()).or_else(|| edge_of_network(prefix));
        let Some(fault) = fault else { return Some(prefix) };
        self.error(
            codes::ADDRESS,
            format!("{prefix} can't be a virtual address"),
            span,
            fault,
            "give an address that clients connect to and that no machine has for itself",
        );
        None
    }

    pub(super) fn interface_name(
        &mut self,
        text: &str,
        span: Range<usize>,
        name: &str,
    ) -> Option<String> {
        let fine = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':');
        if text.len() <= MAX_INTERFACE_NAME && text.chars().all(fine) && text != "." && text != ".."
        {
            return Some(text.to_owned());
        }
        self.error(
            codes::NAME,
            format!("{name}: \"{}\" is no interface name", shown(text)),
            span,
            "",
            format!("`ip link` shows the names; they have at most {MAX_INTERFACE_NAME} characters"),
        );
        None
    }

    /// `ADDRESS:PORT`.
    pub(super) fn socket_address(
        &mut self,
        fields: &Fields<'_, '_>,
        key: &Key,
    ) -> Option<SocketAddr> {
        let (text, span) = self.text(fields, key)?;
        let parsed = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
        if parsed.is_none() {
            let help = match text.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) => format!("add the port: \"{ip}:PORT\""),
                Ok(IpAddr::V6(ip)) => format!("add the port, and brackets: \"[{ip}]:PORT\""),
                Err(_) => {
                    "write \"127.0.0.1:PORT\" or \"[::1]:PORT\"; names are not looked up".to_owned()
                }
            };
            let message =
                format!("{} must be an IP address with a port, not \"{}\"", key.name, shown(&text));
            self.error(codes::ADDRESS, message, span, "", help);
        }
        parsed
    }

    /// A plain-HTTP URL with a literal host.
    pub(super) fn url(&mut self, fields: &Fields<'_, '_>, key: &Key) -> Option<HttpUrl> {
        let (text, span) = self.text(fields, key)?;
        match http_url(&text) {
            Ok(url) => Some(url),
            Err((label, help)) => {
                let message =
                    format!("{} is no URL that can be probed: \"{}\"", key.name, shown(&text));
                self.error(codes::URL, message, span, label, help);
                None
            }
        }
    }
}

/// What is wrong with it and how to mend it, otherwise.
fn http_url(text: &str) -> Result<HttpUrl, (&'static str, &'static str)> {
    const EXAMPLE: &str = "write it like \"http://127.0.0.1/healthz\"";
    if text.starts_with("https://") {
        return Err((
            "probes speak plain HTTP",
            "give nginx a plain listener on 127.0.0.1 and probe that one",
        ));
    }
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(("it does not begin with http://", EXAMPLE));
    };
    if text.len() > MAX_URL || !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(("it is too long, or has blanks or other than ASCII characters", EXAMPLE));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = match path.split_once('#').map_or(path, |(path, _)| path) {
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    if host.contains('@') {
        return Err(("credentials are not sent by a probe", EXAMPLE));
    }
    let literal = host
        .strip_prefix("localhost")
        .map_or_else(|| host.to_owned(), |rest| format!("127.0.0.1{rest}"));
    let bare =
        literal.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&literal);
    let address = literal
        .parse::<SocketAddr>()
        .or_else(|_| bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 80)))
        .ok()
        .filter(|address| address.port() != 0);
    match address {
        Some(address) => Ok(HttpUrl { address, host: host.to_owned(), path }),
        None => Err((
            "its host is no IP address",
            "write the address, and the name into `host` where a check has one: a probe must not wait for DNS",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_literal_hosts_are_read() {
        let url = http_url("http://127.0.0.1/healthz").unwrap();
        assert_eq!(url.address.to_string(), "127.0.0.1:80");
        assert_eq!(url.to_string(), "http://127.0.0.1/healthz");
        assert_eq!(http_url("http://[::1]:8080").unwrap().address.to_string(), "[::1]:8080");
        assert_eq!(http_url("http://[::1]").unwrap().path, "/");
        assert_eq!(http_url("http://localhost:81?a").unwrap().path, "/?a");
        assert_eq!(http_url("http://localhost:81/a#b").unwrap().path, "/a");
    }

    #[test]
    fn other_urls_are_refused() {
        for text in [
            "127.0.0.1",
            "https://127.0.0.1/",
            "http://",
            "http://web/",
            "http://u:p@127.0.0.1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1/a b",
            "http://127.0.0.1:99999/",
        ] {
            assert!(http_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_edges_of_a_network_are_no_hosts() {
        for (text, edge) in [
            ("192.168.1.0/24", true),
            ("192.168.1.255/24", true),
            ("192.168.1.41/24", false),
            ("10.0.0.0/31", false),
            ("10.0.0.0/32", false),
            ("10.0.0.0/0", false),
            ("fd00::/64", false),
        ] {
            assert_eq!(edge_of_network(text.parse().unwrap()).is_some(), edge, "{text}");
        }
    }
}
