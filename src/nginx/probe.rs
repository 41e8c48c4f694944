//! Asks nginx over HTTP on an address of this host, or judges it without, where it has none here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hyper::Method;
use standin_config::model::HttpUrl;
use standin_config::nginx::{Listen, ListenAddress, NginxConfig};
use standin_linux::process as system;
use tokio::time::Instant;

use super::discover::Survey;
use super::local::is_local;
use crate::checks::Outcome;
use crate::checks::http::{self, Question, Trouble};
use crate::checks::process::state;

/// What the next look at nginx is.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// `[nginx] probe`: an answer from 200 to 399 is good.
    Url(HttpUrl),
    /// A listener of the configuration: any answer is good.
    Listener(SocketAddr),
    /// No address to ask is on this host now: the reason, in words.
    Without(String),
}

impl Plan {
    /// Decides by what is local at this moment.
    pub(super) fn now(probe: Option<&HttpUrl>, survey: &Survey) -> Self {
        if let Some(url) = probe {
            return if is_local(url.address.ip()) {
                Self::Url(url.clone())
            } else {
                Self::Without(format!("{} is not on this host now", url.address.ip()))
            };
        }
        let plain: Vec<&Listen> =
            survey.config.listens.iter().filter(|listen| listen.is_plain_http()).collect();
        let mut addresses = plain.iter().filter_map(|listen| address(listen));
        // What is on disk and not loaded yet must not be asked.
        let bound =
            |at: &SocketAddr| survey.bound.as_ref().is_none_or(|bound| is_bound(bound, *at));
        match addresses.find(|at| is_local(at.ip()) && bound(at)) {
            Some(at) => Self::Listener(at),
            None if plain.is_empty() => {
                Self::Without("the configuration has no plain-HTTP listener".to_owned())
            }
            None => {
                Self::Without("no plain-HTTP listener is on an address of this host now".to_owned())
            }
        }
    }

    /// The address that is asked.
    pub(super) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Url(url) => Some(url.address.ip()),
            Self::Listener(at) => Some(at.ip()),
            Self::Without(_) => None,
        }
    }

    /// What is asked, for status.
    pub(super) fn target(&self) -> Option<String> {
        match self {
            Self::Url(url) => Some(url.to_string()),
            Self::Listener(at) => Some(format!("http://{at}/")),
            Self::Without(_) => None,
        }
    }

    /// Why nothing is asked.
    pub(super) fn reason(&self) -> Option<String> {
        match self {
            Self::Without(reason) => Some(reason.clone()),
            _ => None,
        }
    }
}

/// Where a listener can be asked from this host.
fn address(listen: &Listen) -> Option<SocketAddr> {
    let ip: IpAddr = match &listen.address {
        ListenAddress::AnyV4 => Ipv4Addr::LOCALHOST.into(),
        ListenAddress::AnyV6 { .. } => Ipv6Addr::LOCALHOST.into(),
        ListenAddress::Ip(ip) => *ip,
        ListenAddress::Name(name) if name == "localhost" => Ipv4Addr::LOCALHOST.into(),
        ListenAddress::Name(_) | ListenAddress::Unix(_) => return None,
    };
    Some(SocketAddr::new(ip, listen.port))
}

/// Whether connections to `at` would be taken by one of these sockets.
fn is_bound(bound: &[SocketAddr], at: SocketAddr) -> bool {
    bound.iter().any(|socket| {
        let any = socket.ip().is_unspecified() && (socket.is_ipv6() || at.is_ipv4());
        socket.port() == at.port() && (any || socket.ip() == at.ip())
    })
}

/// Asks a listener. Not a page: pages wait for backends, and a server may `return 444`.
///
/// nginx answers TRACE by itself with 405, before any location is chosen.
pub(super) async fn listener(at: SocketAddr, timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let host = at.to_string();
    let question = Question {
        method: Method::TRACE,
        address: at,
        from: Some(at.ip()),
        host: &host,
        path: "/",
    };
    match http::ask(&question, deadline).await {
        Ok(response) => {
            Outcome::pass(format!("http://{at}/ answers ({})", response.status().as_u16()))
        }
        // An HTTP/2 listener, say; whoever says anything doesn't hang.
        Err(Trouble::Http(error)) if error.is_parse() => {
            Outcome::pass(format!("{at} answers, but not by HTTP/1"))
        }
        Err(trouble) => Outcome::fail(format!("http://{at}/: {}", trouble.say(timeout))),
    }
}

/// Judges by what can be seen from outside: workers that run, sockets that are bound.
pub(super) async fn without(
    master: u32,
    workers: Vec<u32>,
    wanted: Wanted,
    why: String,
) -> Outcome {
    let look = tokio::task::spawn_blocking(move || judge(master, &workers, &wanted, &why));
    look.await.unwrap_or_else(|error| Outcome::fail(format!("the look failed: {error}")))
}

fn judge(master: u32, workers: &[u32], wanted: &Wanted, why: &str) -> Outcome {
    let living: Vec<char> = workers
        .iter()
        .filter_map(|pid| state(*pid))
        .filter(|state| !matches!(state, 'Z' | 'X'))
        .collect();
    if living.is_empty() {
        return Outcome::fail(format!("master {master} has no worker"));
    }
    if living.iter().all(|state| *state == 'T' || *state == 't') {
        return Outcome::fail(format!("every worker of master {master} is stopped (SIGSTOP)"));
    }
    let head = format!("master {master}, {} workers", living.len());
    // Not seen is not failed: without CAP_SYS_PTRACE nobody may look.
    let Ok(bound) = system::listening_tcp(master) else {
        return Outcome::pass(format!("{head}; not asked over HTTP: {why}"));
    };
    if bound.is_empty() && wanted.without_tcp {
        return Outcome::pass(format!("{head}, no TCP port asked for; not asked over HTTP: {why}"));
    }
    let listens = &wanted.tcp;
    let missing: Vec<String> =
        listens.iter().filter(|at| !is_bound(&bound, **at)).map(SocketAddr::to_string).collect();
    if bound.is_empty() || (missing.len() == listens.len() && !listens.is_empty()) {
        return Outcome::fail(format!("{head}, but nothing of {} is bound", missing.join(", ")));
    }
    let bound = if missing.is_empty() {
        "sockets bound".to_owned()
    } else {
        format!("{} not bound (not loaded yet?)", missing.join(", "))
    };
    Outcome::pass(format!("{head}, {bound}; not asked over HTTP: {why}"))
}

/// The sockets that a configuration asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of TCP, as far as it names them by address.
    tcp: Vec<SocketAddr>,
    /// It listens, and nowhere by TCP: a proxy of UDP, say.
    without_tcp: bool,
}

impl Wanted {
    pub(super) fn of(config: &NginxConfig) -> Self {
        let all = || config.listens.iter().chain(&config.other_listens);
        let by_tcp = |listen: &&Listen| {
            !listen.udp && !listen.quic && !matches!(listen.address, ListenAddress::Unix(_))
        };
        let address = |listen: &Listen| {
            let ip: IpAddr = match &listen.address {
                ListenAddress::AnyV4 => Ipv4Addr::UNSPECIFIED.into(),
                ListenAddress::AnyV6 { .. } => Ipv6Addr::UNSPECIFIED.into(),
                ListenAddress::Ip(ip) => *ip,
                ListenAddress::Name(_) | ListenAddress::Unix(_) => return None,
            };
            Some(SocketAddr::new(ip, listen.port))
        };
        Self {
            tcp: all().filter(by_tcp).filter_map(address).collect(),
            without_tcp: all().next().is_some() && !all().any(|listen| by_tcp(&listen)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_takes_connections_to_every_address_of_its_family() {
        assert!(is_bound(&[at("0.0.0.0:80")], at("127.0.0.1:80")));
        assert!(is_bound(&[at("[::]:80")], at("[::1]:80")));
        assert!(is_bound(&[at("192.0.2.1:80")], at("192.0.2.1:80")));
        assert!(!is_bound(&[at("0.0.0.0:80")], at("[::1]:80")));
        assert!(!is_bound(&[at("0.0.0.0:80")], at("127.0.0.1:81")));
        assert!(!is_bound(&[at("192.0.2.2:80")], at("192.0.2.1:80")));
    }

    #[test]
    fn what_listens_by_udp_alone_wants_no_tcp() {
        let wanted = |text: &str| {
            let open = |_: &std::path::Path| Ok(text.as_bytes().to_vec());
            let none = |_: &str| Vec::new();
            Wanted::of(&standin_config::nginx::read("/n.conf".as_ref(), &open, &none))
        };
        let dns = "stream { server { listen 53 udp; } }";
        assert_eq!(wanted(dns), Wanted { tcp: Vec::new(), without_tcp: true });
        for more in ["listen a.example:53;", "listen 53;"] {
            let both = wanted(&format!("{dns} stream {{ server {{ {more} }} }}"));
            assert!(!both.without_tcp, "{more}");
        }
        // A configuration that can't be read says nothing.
        assert_eq!(wanted("http {"), Wanted::default());
    }
}
