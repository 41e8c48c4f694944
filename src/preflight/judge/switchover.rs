//! Whether a switchover can leave a VIP's connections alone.

use standin_config::Diagnostic;
use standin_config::model::Vip;
use standin_core::types::Family;

use super::{Subject, codes};
use crate::preflight::facts::Facts;

/// Whether the file wants a VIP's connections to go on at the node that gives it up.
pub(super) fn drains(subject: &Subject<'_>, vip: &Vip) -> bool {
    !vip.drain_timeout.is_zero() && subject.peers(vip).next().is_some()
}

pub(super) fn judge(subject: &Subject<'_>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for (family, why) in &facts.no_second_chance {
        let concerned = |vip: &&Vip| vip.has(*family) && drains(subject, vip);
        let Some(vip) = subject.vips().find(concerned) else { continue };
        let message = format!(
            "a switchover to this node will reset the {family} connections of [vip.{}]: this kernel \
             can't hand them back to the old node: {why}",
            vip.name
        );
        let module = match family {
            Family::V4 => "nft_dup_ipv4",
            Family::V6 => "nft_dup_ipv6",
        };
        found.push(
            Diagnostic::warning(codes::NO_SECOND_CHANCE, message)
                .at(&subject.cluster.file, vip.span.clone(), "")
                .help(format!(
                    "modprobe {module}, and for the next boot: echo {module} > \
                     /etc/modules-load.d/standin.conf\nin a container the host must do it; a kernel \
                     without nftables can't at all"
                )),
        );
    }
}
