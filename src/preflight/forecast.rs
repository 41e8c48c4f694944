//! What each VIP would do on this host, one line each.

use standin_config::model::{Mode, Version, Vip};
use standin_core::types::Family;

use super::facts::Facts;
use super::judge::Subject;

/// One line for each VIP of this node, without a line break at its end.
pub(crate) fn forecast(subject: &Subject<'_>, facts: &Facts) -> Vec<String> {
    subject.vips().map(|vip| line(subject, vip, facts)).collect()
}

fn line(subject: &Subject<'_>, vip: &Vip, facts: &Facts) -> String {
    let priority = vip.members.iter().find(|member| member.node == subject.me.name);
    let priority = priority.map(|member| member.priority.to_string()).unwrap_or_default();
    let sources: Vec<String> = Family::BOTH
        .into_iter()
        .filter(|family| vip.has(*family))
        .map(|family| {
            let own = subject.me.address(family);
            own.map_or_else(|| "its link-local address".to_owned(), |own| own.to_string())
        })
        .collect();
    let addresses: Vec<String> = vip.addresses.iter().map(ToString::to_string).collect();
    let version = match vip.version {
        Version::V2 => 2,
        Version::V3 => 3,
    };
    let mode = match vip.mode {
        Mode::Multicast => "multicast",
        Mode::Unicast => "unicast",
    };
    format!(
        "{}: {} on {}, router id {}, priority {priority}; adverts from {} every {}, version {version}, {mode}",
        vip.name,
        addresses.join(" "),
        subject.interface(vip, facts).unwrap_or("no interface"),
        vip.vrid,
        sources.join(" and "),
        vip.advert_interval
    )
}
