//! Whether the packet filter lets adverts in and out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use standin_config::Diagnostic;
use standin_config::model::{Mode, Vip};
use standin_core::types::Family;
use standin_core::wire::vrrp::{MULTICAST_V4, MULTICAST_V6};

use super::{Subject, codes, families};
use crate::preflight::facts::Facts;
use crate::preflight::firewall::{Advert, Chain, Dropped, Ruleset};

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    let mut told = BTreeSet::new();
    for vip in subject.vips() {
        let Some(interface) = subject.interface(vip, facts) else { continue };
        for family in families(vip) {
            for advert in adverts(subject, vip, interface, family) {
                let Some(dropped) = facts.firewall.drops(&advert) else { continue };
                // One rule for both families may be dropped in one place, and mended by one.
                let table = (dropped.base.family.as_str(), dropped.base.name.as_str());
                if told.insert((interface, advert.incoming, table)) {
                    let help = mend(&advert, family, &facts.firewall, dropped.base);
                    let finding = say(vip, &advert);
                    found.push(subject.at_interface(finding, vip, &place(dropped)).help(help));
                }
            }
        }
    }
}

/// One from each peer, and one to the network or to each peer.
fn adverts<'a>(
    subject: &Subject<'a>,
    vip: &'a Vip,
    interface: &'a str,
    family: Family,
) -> Vec<Advert<'a>> {
    let Some(own) = subject.me.address(family) else { return Vec::new() };
    let group: IpAddr = match family {
        Family::V4 => MULTICAST_V4.into(),
        Family::V6 => MULTICAST_V6.into(),
    };
    let multicast = vip.mode == Mode::Multicast;
    subject
        .peers(vip)
        .filter_map(|peer| peer.address(family))
        .flat_map(|peer| {
            let (to_us, to_peer) = if multicast { (group, group) } else { (own, peer) };
            [
                Advert { incoming: true, interface, source: peer, destination: to_us },
                Advert { incoming: false, interface, source: own, destination: to_peer },
            ]
        })
        .collect()
}

fn say(vip: &Vip, advert: &Advert<'_>) -> Diagnostic {
    let (way, effect) = if advert.incoming {
        (format!("from {}", advert.source), "this node would take that one for dead")
    } else {
        ("to the peers".to_owned(), "they would take this node for dead")
    };
    let message = format!(
        "the firewall drops the adverts of [vip.{}] (protocol 112) {way} on {}: {effect}, and both would hold the VIP",
        vip.name, advert.interface
    );
    Diagnostic::error(codes::FIREWALL, message)
}

/// The rule or policy that drops it.
fn place(dropped: Dropped<'_>) -> String {
    let Dropped { base, chain, rule } = dropped;
    let tool = if base.legacy { "iptables" } else { "nftables" };
    let which = match rule {
        Some(rule) => format!("{} in chain {}", rule.name, chain.name),
        None => format!("chain {} has policy drop", chain.name),
    };
    format!("{tool}, table {} {}: {which}", base.family, base.table)
}

/// The rule to add, in the words of whoever owns the firewall.
fn mend(advert: &Advert<'_>, family: Family, ruleset: &Ruleset, base: &Chain) -> String {
    let interface = advert.interface;
    if base.table == "firewalld" {
        return format!(
            "firewall-cmd --permanent --zone=$(firewall-cmd --get-zone-of-interface={interface}) \
             --add-protocol=vrrp && firewall-cmd --reload"
        );
    }
    let six = if family == Family::V6 { "6" } else { "" };
    let direction = if advert.incoming { "input" } else { "output" };
    if ruleset.chains.iter().any(|chain| chain.name.starts_with("ufw")) {
        return format!(
            "in /etc/ufw/before{six}.rules, above COMMIT: -A ufw{six}-before-{direction} -p vrrp -j ACCEPT\n\
             then: ufw reload"
        );
    }
    let (long, short) = if advert.incoming { ("iifname", "-i") } else { ("oifname", "-o") };
    if base.legacy {
        return format!(
            "ip{six}tables -I {} {short} {interface} -p vrrp -j ACCEPT, and keep it: \
             netfilter-persistent save",
            base.name
        );
    }
    format!(
        "nft insert rule {} {} {} {long} \"{interface}\" meta l4proto vrrp accept, and the same in \
         /etc/nftables.conf",
        base.family, base.table, base.name
    )
}
