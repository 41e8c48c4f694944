//! The comparison: a node's part of the cluster file as a keepalived configuration.

use std::fmt::Write;

use anyhow::{Context, Result};
use standin_config::model::{Cluster, Mode, Version, Vip};
use standin_core::types::{Family, Prefix};

use super::hosts::Host;

const CONF: &str = "/etc/keepalived/keepalived.conf";
pub(super) const LOG: &str = "/var/log/keepalived.log";

/// The operators' check script runs this often.
const CHECK_INTERVAL_S: u32 = 2;
const CHECK_FALL: u32 = 2;
const CHECK_RISE: u32 = 2;

/// After a repair a node is back once its script has passed often enough, and a little.
pub(super) const BACK_AFTER: std::time::Duration =
    std::time::Duration::from_millis(CHECK_INTERVAL_S as u64 * (CHECK_RISE as u64 + 1) * 1000);

/// Writes the configuration of the node on `host` and starts keepalived.
pub(super) fn start(
    host: &mut Host,
    cluster: &Cluster,
    interface: &str,
    bind_vip: bool,
) -> Result<()> {
    // An nginx that listens on the VIPs alone answers nowhere on a backup.
    let script = if bind_vip {
        "/usr/bin/pgrep -x nginx".to_owned()
    } else {
        format!("/usr/bin/curl -fsS -o /dev/null -m 1 {}", probe_url(cluster))
    };
    let text = configuration(cluster, &host.name, interface, &script)
        .with_context(|| format!("no keepalived configuration for {}", host.name))?;
    host.write(CONF, &text)?;
    // Without -n it would end its own parent and log to a syslog that no lab host has.
    host.launch(&["keepalived", "-n", "-l", "-D", "-f", CONF], LOG).map(|_| ())
}

fn configuration(cluster: &Cluster, node: &str, interface: &str, script: &str) -> Option<String> {
    let mut text = format!(
        "global_defs {{
  router_id {node}
  script_user root
}}
vrrp_script nginx {{
  script \"{script}\"
  interval {CHECK_INTERVAL_S}
  timeout 2
  fall {CHECK_FALL}
  rise {CHECK_RISE}
}}
"
    );
    for vip in &cluster.vips {
        let families: Vec<Family> =
            Family::BOTH.into_iter().filter(|family| vip.has(*family)).collect();
        for family in &families {
            text += &instance(cluster, vip, node, interface, *family)?;
        }
        if families.len() > 1 {
            let names: String =
                families.iter().map(|family| format!("    {}\n", name(vip, *family))).collect();
            // Writing to a String can't fail.
            let _infallible =
                write!(text, "vrrp_sync_group {} {{\n  group {{\n{names}  }}\n}}\n", vip.name);
        }
    }
    Some(text)
}

fn instance(
    cluster: &Cluster,
    vip: &Vip,
    node: &str,
    interface: &str,
    family: Family,
) -> Option<String> {
    let me = cluster.node(node)?;
    let member = vip.members.iter().find(|member| member.node == node)?;
    let (version, interval) = match vip.version {
        Version::V2 => (2, f64::from(vip.advert_interval.whole_seconds())),
        Version::V3 => (3, f64::from(vip.advert_interval.get()) / 100.0),
    };
    let mut text = format!(
        "vrrp_instance {} {{
  state BACKUP
  nopreempt
  interface {}
  virtual_router_id {}
  priority {}
  version {version}
  advert_int {interval}
  track_script {{
    nginx
  }}
",
        name(vip, family),
        vip.interface.as_deref().unwrap_or(interface),
        vip.vrid,
        member.priority,
    );
    if vip.mode == Mode::Unicast
        && let Some(own) = me.address(family)
    {
        text += &format!("  unicast_src_ip {own}\n  unicast_peer {{\n");
        let peers = vip.members.iter().filter(|peer| peer.node != node);
        for peer in peers.filter_map(|peer| cluster.node(&peer.node)?.address(family)) {
            text += &format!("    {peer}\n");
        }
        text += "  }\n";
    } else if let Some(own) = me.address(family).filter(|own| own.is_ipv4()) {
        text += &format!("  mcast_src_ip {own}\n");
    }
    if let Some(password) = &vip.password {
        let padded = password.padded();
        let word = String::from_utf8_lossy(&padded);
        let word = word.trim_end_matches('\0');
        text += &format!("  authentication {{\n    auth_type PASS\n    auth_pass {word}\n  }}\n");
    }
    text += "  virtual_ipaddress {\n";
    for address in vip.addresses.iter().filter(|address| address.family() == family) {
        text += &format!("    {address}\n");
    }
    text += "  }\n}\n";
    Some(text)
}

fn name(vip: &Vip, family: Family) -> String {
    match family {
        Family::V4 => format!("{}_4", vip.name),
        Family::V6 => format!("{}_6", vip.name),
    }
}

fn probe_url(cluster: &Cluster) -> String {
    let written = cluster.nginx.as_ref().and_then(|nginx| nginx.probe.as_ref());
    written.map_or_else(|| "http://127.0.0.1/healthz".to_owned(), ToString::to_string)
}

/// The addresses that a keepalived may still hold after it was killed; a restart doesn't remove them.
pub(super) fn leftovers(cluster: &Cluster) -> impl Iterator<Item = Prefix> + '_ {
    cluster.vips.iter().flat_map(|vip| vip.addresses.iter().copied())
}
