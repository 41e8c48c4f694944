//! Reads which nodes may hold a VIP, and with which priority.

use standin_core::types::Priority;

use super::{Fields, Named, Walk, shown};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::keys;
use crate::model::{Node, Vip, VipMember};

impl Walk {
    /// The nodes of the VIP with its priorities; nodes that don't exist are reported and left out.
    pub(super) fn members(&mut self, named: &Named<'_, '_>, nodes: &[Node]) -> Vec<VipMember> {
        let fields = &named.fields;
        let known = self.node_names.clone();
        let wanted =
            fields.get(&keys::VIP_NODES).map(|_| self.spanned_texts(fields, &keys::VIP_NODES));
        let mut names: Vec<String> = Vec::new();
        for (name, span) in wanted.iter().flatten() {
            if names.contains(name) {
                self.repeated("nodes", name, span.clone());
            } else if !known.contains(name) {
                self.unknown_name("nodes", "node", name, span.clone(), &known);
            }
            names.push(name.clone());
        }
        if let Some(value) = fields.get(&keys::VIP_NODES)
            && value.get_ref().as_array().is_some_and(|list| list.is_empty())
        {
            self.error(
                codes::EMPTY,
                "nodes must not be empty",
                value.span(),
                "",
                "name the nodes that may hold the VIP, or remove the line: then all may",
            );
        }
        let own = self.own_priorities(fields, &known, wanted.is_some().then_some(&names));
        let members: Vec<VipMember> = nodes
            .iter()
            .filter(|node| wanted.is_none() || names.contains(&node.name))
            .map(|node| VipMember {
                node: node.name.clone(),
                priority: own
                    .iter()
                    .find(|(name, _)| *name == node.name)
                    .map_or(node.priority, |(_, priority)| *priority),
            })
            .collect();
        self.owners(named, &members);
        if members.len() == 1
            && known.len() == nodes.len()
            && wanted.as_ref().is_none_or(|names| names.len() == 1)
        {
            let name = members.first().map_or("", |member| &member.node);
            let message = format!("{} has one node, {name}: nobody stands in", fields.title);
            let warning = Diagnostic::warning(codes::ALONE, message)
                .at(&self.file, fields.span.clone(), "")
                .help("add the second machine as [node.NAME]");
            self.diagnostics.push(warning);
        }
        members
    }

    fn own_priorities(
        &mut self,
        fields: &Fields<'_, '_>,
        known: &[String],
        members: Option<&Vec<String>>,
    ) -> Vec<(String, Priority)> {
        let Some(value) = fields.get(&keys::VIP_PRIORITY) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            let first = known.first().map_or("n1", String::as_str);
            self.wrong_type(
                "priority",
                "a table of nodes",
                value,
                &format!(
                    "write priority = {{ {first} = 150 }}; a priority for all VIPs stands in [node.NAME]"
                ),
            );
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in table {
            let text: &str = name.get_ref();
            if !known.iter().any(|known| known == text) {
                self.unknown_name("priority", "node", text, name.span(), known);
            } else if members.is_some_and(|members| !members.iter().any(|member| member == text)) {
                self.error(
                    codes::UNKNOWN_NAME,
                    format!("priority names {}, which is not among this VIP's nodes", shown(text)),
                    name.span(),
                    "",
                    "add it to nodes, or remove it here",
                );
            }
            if let Some(priority) = self.priority(value, &format!("priority of {}", shown(text))) {
                found.push((text.to_owned(), priority));
            }
        }
        found
    }

    fn owners(&mut self, named: &Named<'_, '_>, members: &[VipMember]) {
        let owners: Vec<&str> = members
            .iter()
            .filter(|member| member.priority == Priority::OWNER)
            .map(|member| member.node.as_str())
            .collect();
        if owners.len() > 1 {
            self.error(
                codes::OWNERS,
                format!("{} has several owners: {}", named.fields.title, owners.join(", ")),
                named.key_span.clone(),
                "two nodes of priority 255 would both hold it",
                "give all but one of them 254 or less",
            );
        }
    }

    /// Among standins the node's address breaks a tie at once; a keepalived may see it otherwise.
    pub(super) fn equal_priorities(&mut self, vip: &Vip, nodes: &[Node]) {
        let foreign = |member: &VipMember| {
            nodes.iter().any(|node| node.name == member.node && node.vrrp_only)
        };
        for member in vip.members.iter().filter(|member| foreign(member)) {
            let Some(equal) = vip
                .members
                .iter()
                .find(|other| other.node != member.node && other.priority == member.priority)
            else {
                continue;
            };
            let warning = Diagnostic::warning(
                codes::EQUAL_PRIORITIES,
                format!("{} and {} have the same priority {} in [vip.{}]", equal.node, member.node, member.priority, vip.name),
            )
            .at(&self.file, vip.span.clone(), format!("{} is no standin", member.node))
            .help("give each its own priority, in keepalived.conf too: a tie may leave both active for a moment");
            self.diagnostics.push(warning);
            return;
        }
    }
}
