//! From the cluster to one node's plan, and which node this machine is.

use std::net::IpAddr;

use standin_core::plan::{CheckPlan, Member, NodePlan, Plan, VipPlan};
use standin_core::types::{CheckId, InterfaceId, NodeId};

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::model::{Cluster, NGINX_CHECK, Node, NodeName, Vip};
use crate::nearest::nearest;
use crate::rules;

impl Cluster {
    /// What `node` has to do; VIPs that it may not hold are left out.
    ///
    /// `default_interface` is the kernel's name of the one that carries the node's address.
    ///
    /// # Errors
    /// When there is no such node, and when VIPs collide that looked apart before the default
    /// interface was known.
    pub fn plan(&self, node: &str, default_interface: &str) -> Result<Plan, Vec<Diagnostic>> {
        let Some(me) = self.nodes.iter().position(|candidate| candidate.name == node) else {
            return Err(vec![self.no_such_node(node)]);
        };
        let mine: Vec<Vip> = self
            .vips
            .iter()
            .filter(|vip| vip.members.iter().any(|member| member.node == node))
            .cloned()
            .collect();
        let collisions = rules::router_ids(&self.file, &mine, Some(default_interface));
        if !collisions.is_empty() {
            return Err(collisions);
        }
        let mut interfaces: Vec<String> = Vec::new();
        let mut checks: Vec<CheckPlan> = Vec::new();
        let vips = mine
            .iter()
            .map(|vip| {
                let name = vip.interface.as_deref().unwrap_or(default_interface);
                let interface =
                    InterfaceId(index(&mut interfaces, |i| i == name, || name.to_owned()));
                let heartbeat = vip.heartbeat.iter().filter(|path| *path != name);
                let heartbeat = heartbeat
                    .map(|path| InterfaceId(index(&mut interfaces, |i| i == path, || path.clone())))
                    .collect();
                let mut ids = |names: &[String]| {
                    let id = |name: &String| {
                        let plan = self.check_plan(name)?;
                        Some(CheckId(index(&mut checks, |check| check.name == *name, || plan)))
                    };
                    names.iter().filter_map(id).collect()
                };
                let (needed, witness) = (ids(&vip.checks), ids(&vip.witness));
                VipPlan { witness, heartbeat, ..self.vip_plan(vip, interface, needed) }
            })
            .collect();
        Ok(Plan {
            cluster: self.name.clone(),
            me: node_id(me),
            nodes: self
                .nodes
                .iter()
                .map(|node| NodePlan {
                    name: node.name.clone(),
                    addresses: node.addresses.clone(),
                    vrrp_only: node.vrrp_only,
                })
                .collect(),
            interfaces,
            checks,
            vips,
        })
    }

    fn check_plan(&self, name: &str) -> Option<CheckPlan> {
        let cadence = if name == NGINX_CHECK {
            self.nginx.as_ref()?.cadence
        } else {
            self.check(name)?.cadence
        };
        Some(CheckPlan { name: name.to_owned(), rise: cadence.rise, fall: cadence.fall })
    }

    fn vip_plan(&self, vip: &Vip, interface: InterfaceId, checks: Vec<CheckId>) -> VipPlan {
        let members = vip
            .members
            .iter()
            .filter_map(|member| {
                let place = self.nodes.iter().position(|node| node.name == member.node)?;
                Some(Member { node: node_id(place), priority: member.priority })
            })
            .collect();
        VipPlan {
            name: vip.name.clone(),
            vrid: vip.vrid,
            interface,
            addresses: vip.addresses.clone(),
            advert_interval: vip.advert_interval,
            version: vip.version,
            checksum: vip.checksum,
            mode: vip.mode,
            password: vip.password.as_ref().map(crate::model::Password::padded),
            members,
            failback: vip.failback,
            hold_down: vip.hold_down,
            checks,
            witness: Vec::new(),
            heartbeat: Vec::new(),
            all_ineligible: vip.all_ineligible,
            accept_unknown: vip.accept_unknown,
            announce: vip.announce,
            virtual_mac: vip.virtual_mac,
        }
    }

    /// Which node this machine is: `wanted` (`--node`), else the host name, else a local address.
    ///
    /// # Errors
    /// When none or several match, when the host name's node has none of its addresses here (a
    /// cloned machine), and when the node is one that runs no standin.
    pub fn find_self(
        &self,
        wanted: Option<&str>,
        hostname: &str,
        local: &[IpAddr],
    ) -> Result<NodeName, Diagnostic> {
        if let Some(wanted) = wanted {
            let node = self.node(wanted).ok_or_else(|| self.no_such_node(wanted))?;
            return self.runs_standin(node);
        }
        if let Some(node) = self.node_by_host_name(hostname) {
            return if is_local(node, local) {
                self.runs_standin(node)
            } else {
                Err(self.cloned(node, hostname, local))
            };
        }
        let here: Vec<&Node> = self.nodes.iter().filter(|node| is_local(node, local)).collect();
        match here.as_slice() {
            [node] => self.runs_standin(node),
            [] => Err(Diagnostic::error(
                codes::SELF_UNKNOWN,
                format!("no node of {} is this machine ({})", self.file, host(hostname)),
            )
            .help(format!(
                "the file's nodes: {}\nthis machine's addresses: {}\ngive the node its name with --node NAME, \
                 or correct its address in the file",
                self.node_list(),
                list(local)
            ))),
            several => {
                let names: Vec<&str> = several.iter().map(|node| node.name.as_str()).collect();
                let message = format!(
                    "this machine ({}) has the addresses of several nodes: {}",
                    host(hostname),
                    names.join(", ")
                );
                let mut diagnostic = Diagnostic::error(codes::SELF_AMBIGUOUS, message);
                for node in several {
                    diagnostic = diagnostic.at(&self.file, node.span.clone(), "its address is local");
                }
                Err(diagnostic.help("say which one it is with --node NAME"))
            }
        }
    }

    /// Whether an address of any node is one of these; at boot there may be none yet.
    #[must_use]
    pub fn any_is_local(&self, local: &[IpAddr]) -> bool {
        self.nodes.iter().any(|node| is_local(node, local))
    }

    /// The node of that name, or whose name has the same first label: `n1` is `n1.example.org`.
    fn node_by_host_name(&self, hostname: &str) -> Option<&Node> {
        let label = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let whole = self.nodes.iter().find(|node| node.name.eq_ignore_ascii_case(hostname));
        let by_label = || {
            let mut same = self.nodes.iter().filter(|node| {
                label(&node.name) == label(hostname)
                    && (!node.name.contains('.') || !hostname.contains('.'))
            });
            // Two of them (n1.a and n1.b) say nothing.
            same.next().filter(|_| same.next().is_none())
        };
        if hostname.is_empty() { None } else { whole.or_else(by_label) }
    }

    fn runs_standin(&self, node: &Node) -> Result<NodeName, Diagnostic> {
        if !node.vrrp_only {
            return Ok(node.name.clone());
        }
        Err(Diagnostic::error(
            codes::SELF_VRRP_ONLY,
            format!("this machine is node {}, which runs no standin, says the file", node.name),
        )
        .at(&self.file, node.span.clone(), "has vrrp_only = true")
        .help("stop its keepalived and remove vrrp_only on all nodes, or don't start standin here"))
    }

    fn no_such_node(&self, name: &str) -> Diagnostic {
        let near = nearest(name, self.nodes.iter().map(|node| node.name.as_str()));
        let proposal = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        Diagnostic::error(
            codes::SELF_UNKNOWN,
            format!("{} has no node {}{proposal}", self.file, crate::read::shown(name)),
        )
        .help(format!("the file's nodes: {}", self.node_list()))
    }

    fn cloned(&self, node: &Node, hostname: &str, local: &[IpAddr]) -> Diagnostic {
        let other = self.nodes.iter().find(|other| is_local(other, local));
        let guess = match other {
            Some(other) => format!(
                "the address of node {} is local: if this machine is {}, set its host name or start with --node {}",
                other.name, other.name, other.name
            ),
            None => format!(
                "if this is a copy of {}, give it its own host name; if {}'s address has changed, \
                 correct it in the file on all nodes",
                node.name, node.name
            ),
        };
        Diagnostic::error(
            codes::SELF_CLONED,
            format!(
                "this machine is called {hostname}, but the address of node {} is not local",
                node.name
            ),
        )
        .at(
            &self.file,
            node.address_spans.first().cloned().unwrap_or_else(|| node.span.clone()),
            "no interface of this machine has it",
        )
        .help(format!("{guess}\nthis machine's addresses: {}", list(local)))
    }

    fn node_list(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|node| format!("{} ({})", node.name, list(&node.addresses)))
            .collect();
        nodes.join(", ")
    }
}

fn is_local(node: &Node, local: &[IpAddr]) -> bool {
    node.addresses.iter().any(|address| local.contains(address))
}

fn host(hostname: &str) -> &str {
    if hostname.is_empty() { "without a host name" } else { hostname }
}

fn list(addresses: &[IpAddr]) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// The place of the entry that `is` the wanted one, which is made if there is none.
fn index<T>(list: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> u16 {
    let place = list.iter().position(is).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    });
    // At most MAX_VIPS interfaces; at most MAX_VIPS lists of MAX_LIST checks, of sections that fit
    // MAX_FILE_BYTES: fewer than 2^16 of either.
    u16::try_from(place).unwrap_or(u16::MAX)
}

/// A model has at most `plan::MAX_NODES` nodes.
fn node_id(place: usize) -> NodeId {
    NodeId(u8::try_from(place).unwrap_or(u8::MAX))
}
