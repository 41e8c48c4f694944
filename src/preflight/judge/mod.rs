//! The rules of the preflight: facts in, findings out. Nothing is looked at here.

mod files;
mod filter;
mod keepalived;
mod network;
mod nginx;
mod own;
mod privileges;
mod switchover;
mod virtual_mac;
mod wire;

use std::net::IpAddr;
use std::ops::Range;

use standin_config::model::{Node, Vip};
use standin_config::{Cluster, Diagnostic};
use standin_core::types::Family;

use super::codes;
use super::facts::{Facts, Port};

/// A cluster file, and which of its nodes this host is.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) me: &'a Node,
    /// The file's text, to find places that the model has forgotten.
    pub(crate) text: &'a str,
}

impl<'a> Subject<'a> {
    /// The VIPs that this node may hold.
    pub(crate) fn vips(&self) -> impl Iterator<Item = &'a Vip> + 'a {
        let name = &self.me.name;
        let mine = |vip: &&Vip| vip.members.iter().any(|member| member.node == *name);
        self.cluster.vips.iter().filter(mine)
    }

    /// The interface of a VIP; `None` when it is the one of the node's address and that isn't here.
    pub(crate) fn interface(&self, vip: &'a Vip, facts: &'a Facts) -> Option<&'a str> {
        vip.interface.as_deref().or_else(|| self.default_port(facts).map(|port| port.name.as_str()))
    }

    /// The interface that carries the node's address.
    pub(crate) fn default_port(&self, facts: &'a Facts) -> Option<&'a Port> {
        self.me.addresses.iter().find_map(|address| facts.carrier(*address))
    }

    /// Other nodes of a VIP.
    pub(crate) fn peers(&self, vip: &'a Vip) -> impl Iterator<Item = &'a Node> + '_ {
        vip.members
            .iter()
            .filter(|member| member.node != self.me.name)
            .filter_map(|member| self.cluster.node(&member.node))
    }

    /// Where the file says `value`, in quotes.
    fn said(&self, value: &str) -> Option<Range<usize>> {
        ['"', '\''].iter().find_map(|quote| {
            let quoted = format!("{quote}{value}{quote}");
            let start = self.text.find(&quoted)?;
            Some(start..start + quoted.len())
        })
    }

    /// The finding, at the place where the file says `value` where there is one.
    fn at_value(&self, finding: Diagnostic, value: &str, text: &str) -> Diagnostic {
        match self.said(value) {
            Some(range) => finding.at(&self.cluster.file, range, text),
            None => finding,
        }
    }

    /// The finding, at the VIP's interface, or at its name where the interface isn't given.
    fn at_interface(&self, finding: Diagnostic, vip: &Vip, text: &str) -> Diagnostic {
        let range = vip.interface_span.as_ref().unwrap_or(&vip.span).clone();
        finding.at(&self.cluster.file, range, text)
    }

    /// The finding, at one of the VIP's addresses.
    fn at_address(&self, finding: Diagnostic, vip: &Vip, address: IpAddr) -> Diagnostic {
        let place = vip.addresses.iter().position(|prefix| prefix.address() == address);
        let span = place.and_then(|place| vip.address_spans.get(place)).unwrap_or(&vip.span);
        finding.at(&self.cluster.file, span.clone(), "")
    }
}

/// Everything that is wrong with this host; without a subject what is wrong for any cluster.
/// The one finding over which the daemon refuses to start: a keepalived with the same router id.
pub(crate) fn rivals(subject: &Subject<'_>, facts: &Facts) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    keepalived::judge(Some(subject), facts, &mut found);
    found.retain(Diagnostic::is_error);
    found
}

pub(crate) fn judge(subject: Option<&Subject<'_>>, facts: &Facts) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    privileges::judge(facts, &mut found);
    if let Some(subject) = subject {
        network::judge(subject, facts, &mut found);
        keepalived::judge(Some(subject), facts, &mut found);
        wire::judge(subject, facts, &mut found);
        filter::judge(subject, facts, &mut found);
        switchover::judge(subject, facts, &mut found);
        virtual_mac::judge(subject, facts, &mut found);
        nginx::judge(subject, facts, &mut found);
        files::judge(subject, facts, &mut found);
        own::judge(subject, facts, &mut found);
    } else {
        keepalived::judge(None, facts, &mut found);
    }
    found.extend(facts.unseen.iter().map(|what| {
        Diagnostic::warning(codes::NOT_LOOKED, what.clone())
            .help("what can't be seen isn't judged: run this as root, on the node itself")
    }));
    found
}

/// The families of a VIP's addresses.
fn families(vip: &Vip) -> impl Iterator<Item = Family> + '_ {
    Family::BOTH.into_iter().filter(|family| vip.has(*family))
}

/// `a`, `a and b`, `a, b and c`.
fn listed<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let mut items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match (items.pop(), items.as_slice()) {
        (None, _) => "none".to_owned(),
        (Some(last), []) => last,
        (Some(last), before) => format!("{} and {last}", before.join(", ")),
    }
}
