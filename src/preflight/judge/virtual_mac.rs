//! Whether this host can serve a VIP from the router id's own MAC.

use standin_config::Diagnostic;
use standin_core::types::Family;

use super::{Subject, codes};
use crate::preflight::facts::Facts;

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for vip in subject.vips().filter(|vip| vip.virtual_mac) {
        let at = |message: String| {
            let finding = Diagnostic::error(codes::NO_VIRTUAL_MAC, message);
            finding.at(&subject.cluster.file, vip.span.clone(), "has virtual_mac = true")
        };
        if facts.no_macvlan {
            let message =
                format!("this node can't hold [vip.{}]: the kernel has no macvlan", vip.name);
            found.push(at(message).help(
                "modprobe macvlan, and for the next boot: echo macvlan > /etc/modules-load.d/standin.conf\n\
                 in a container the host must do it; or virtual_mac = false on all nodes",
            ));
        }
        if let Some(setting) = facts.unanswered.filter(|_| vip.has(Family::V4)) {
            let message = format!(
                "nobody will reach [vip.{}] at this node: with {setting} its link doesn't answer for it",
                vip.name
            );
            found.push(at(message).help(format!(
                "sysctl -w {setting}=0, and set it for the interfaces that need it instead; keep it in \
                 /etc/sysctl.d/"
            )));
        }
    }
}
