//! The cluster file of a lab that was given none: the smallest one, and its variants.

use std::fmt::Write;

/// Which variant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Variant {
    /// 2 to 9.
    pub(super) nodes: u8,
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

/// The file, as one would write it by hand.
pub(super) fn cluster_file(variant: Variant, advert_interval: Option<&str>) -> String {
    let mut text = "cluster = \"lab\"\n".to_owned();
    for node in 1..=variant.nodes {
        let number = 188 + u16::from(node);
        let mut addresses = Vec::new();
        if variant.ipv4 {
            addresses.push(format!("\"192.168.1.{number}\""));
        }
        if variant.ipv6 {
            addresses.push(format!("\"fd00:41::{number}\""));
        }
        let address = list(&addresses, addresses.len() > 1);
        let priority = 150 - 10 * u16::from(node - 1);
        add(&mut text, &format!("\n[node.n{node}]\naddress = {address}\npriority = {priority}\n"));
    }
    let mut vips = Vec::new();
    if variant.ipv4 {
        vips.push("\"192.168.1.41/24\"".to_owned());
    }
    if variant.ipv6 {
        vips.push("\"fd00:41::41/64\"".to_owned());
    }
    let vips = list(&vips, true);
    add(&mut text, &format!("\n[vip.web]\nvirtual_router_id = 41\naddresses = {vips}\n"));
    if let Some(interval) = advert_interval {
        add(&mut text, &format!("advert_interval = \"{interval}\"\n"));
    }
    // A rehearsal breaks the same node again within seconds.
    add(&mut text, "hold_down = \"1s\"\n\n[nginx]\n");
    text
}

fn list(items: &[String], brackets: bool) -> String {
    if brackets { format!("[{}]", items.join(", ")) } else { items.join(", ") }
}

fn add(text: &mut String, more: &str) {
    // Writing to a String can't fail.
    let _infallible = text.write_str(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_a_valid_cluster_file() {
        for (ipv4, ipv6) in [(true, false), (false, true), (true, true)] {
            for nodes in 2..=9 {
                let text = cluster_file(Variant { nodes, ipv4, ipv6 }, Some("1s"));
                let loaded = standin_config::load("lab", &text);
                assert!(loaded.diagnostics.is_empty(), "{}", loaded.render(false));
                assert_eq!(loaded.model.unwrap().nodes.len(), usize::from(nodes));
            }
        }
    }
}
