//! A keepalived on the same host.

use standin_config::Diagnostic;

use super::{Subject, codes, listed};
use crate::preflight::facts::{Facts, Instance, Keepalived};

pub(super) fn judge(subject: Option<&Subject<'_>>, facts: &Facts, found: &mut Vec<Diagnostic>) {
    for keepalived in &facts.keepaliveds {
        let before = found.len();
        if let Some(subject) = subject {
            same_ids(subject, keepalived, facts, found);
        }
        if found.len() == before {
            found.push(runs(keepalived));
        }
    }
}

fn same_ids(
    subject: &Subject<'_>,
    keepalived: &Keepalived,
    facts: &Facts,
    found: &mut Vec<Diagnostic>,
) {
    for vip in subject.vips() {
        let on = subject.interface(vip, facts);
        let same = |instance: &&Instance| {
            let apart =
                matches!((&instance.interface, on), (Some(theirs), Some(ours)) if theirs != ours);
            instance.vrid == Some(vip.vrid.get()) && !apart
        };
        for instance in keepalived.instances.iter().filter(same) {
            let place = format!("{}:{}", instance.file.display(), instance.line);
            let message = format!(
                "a keepalived runs on this host (pid {}) with the same virtual_router_id {} as [vip.{}]",
                keepalived.pid, vip.vrid, vip.name
            );
            let finding = Diagnostic::error(codes::KEEPALIVED_SAME_ID, message).at(
                &subject.cluster.file,
                vip.vrid_span.clone(),
                format!("vrrp_instance {} in {place} has it too", instance.name),
            );
            found.push(finding.help(
                "both would claim the VIP on one machine; systemctl disable --now keepalived before standin \
                 starts here, or give the VIP another virtual_router_id on every node",
            ));
        }
    }
}

fn runs(keepalived: &Keepalived) -> Diagnostic {
    let file = keepalived.file.display();
    let ids: Vec<u8> = keepalived.instances.iter().filter_map(|instance| instance.vrid).collect();
    let knows = match &keepalived.unread {
        Some(why) => format!("its {file} can't be read ({why})"),
        None if ids.is_empty() => format!("no virtual_router_id was found in {file}"),
        None => format!("with virtual_router_id {} in {file}", listed(ids)),
    };
    Diagnostic::warning(
        codes::KEEPALIVED_RUNS,
        format!("a keepalived runs on this host (pid {}), {knows}", keepalived.pid),
    )
    .help(
        "with other router ids and other addresses the two get along; if standin replaces it: \
         systemctl disable --now keepalived",
    )
}
