//! What a node shows of itself.

use super::{Node, Stopping};
use crate::election::VirtualRouter;
use crate::event::Role;
use crate::types::{CheckId, Family, Instant, NodeId};
use crate::view::{CheckView, LostView, Maintenance, PeerView, View, VipView};

impl Node {
    /// Everything that is worth showing.
    #[must_use]
    pub fn view(&self, now: Instant) -> View {
        let name = |node: NodeId| {
            self.plan.nodes.get(node.index()).map_or_else(String::new, |node| node.name.clone())
        };
        let remaining = |until: Instant| (until != Instant::FAR).then(|| until.since(now));
        View {
            cluster: self.plan.cluster.clone(),
            node: name(self.plan.me),
            stopping: self.stopping != Stopping::No,
            maintenance: self.maintenance.map(|until| Maintenance { remaining: remaining(until) }),
            vips: self.routers().filter_map(|(_, router)| self.shown(now, router)).collect(),
            checks: (0..)
                .map(CheckId)
                .zip(&self.plan.checks)
                .map(|(id, check)| CheckView {
                    name: check.name.clone(),
                    state: self.health.state(id),
                    detail: self.health.detail(id).to_owned(),
                })
                .collect(),
            peers: (0..)
                .map(NodeId)
                .zip(&self.plan.nodes)
                .filter(|(id, _)| *id != self.plan.me)
                .map(|(id, node)| PeerView {
                    name: node.name.clone(),
                    addresses: node.addresses.clone(),
                    vrrp_only: node.vrrp_only,
                    last_advert: self
                        .last_advert
                        .get(id.index())
                        .copied()
                        .flatten()
                        .map(|at| now.since(at)),
                })
                .collect(),
        }
    }

    /// Nothing of a VIP that left the file and has given everything up: its place waits for the next step.
    fn shown(&self, now: Instant, router: &VirtualRouter) -> Option<VipView> {
        let left = router.is_over() && !self.is_planned(router);
        (!left).then(|| self.view_vip(now, router))
    }

    fn view_vip(&self, now: Instant, router: &VirtualRouter) -> VipView {
        let plan = router.plan();
        let me = self.plan.nodes.get(self.plan.me.index()).map(|node| node.name.clone());
        let name = |node: NodeId| {
            self.plan.nodes.get(node.index()).map_or_else(String::new, |node| node.name.clone())
        };
        let followed = router.followed();
        let (holder, holder_priority) = match router.role() {
            Role::Active => (me, Some(router.effective_priority())),
            Role::Idle | Role::Backup => (
                followed.map(|(who, _)| who.words(&self.plan)),
                followed.map(|(_, priority)| priority),
            ),
        };
        VipView {
            name: plan.name.clone(),
            vrid: plan.vrid,
            interface: self
                .interfaces
                .get(plan.interface.index())
                .map_or_else(String::new, |(name, _)| name.clone()),
            addresses: plan.addresses.clone(),
            virtual_macs: Family::BOTH
                .into_iter()
                .filter(|family| plan.has(*family))
                .filter_map(|family| plan.mac(family))
                .collect(),
            role: router.role(),
            since: now.since(router.since()),
            reason: router.last_reason().map(|reason| reason.words(&self.plan)),
            standing: router.standing(),
            obstacle: router.obstacle().map(|obstacle| obstacle.words(&self.plan)),
            priority: router.priority(),
            effective_priority: router.effective_priority(),
            holder,
            holder_priority,
            others: plan
                .members
                .iter()
                .filter(|member| member.node != self.plan.me)
                .map(|member| name(member.node))
                .collect(),
            hears: router.heard_nodes(now).map(name).collect(),
            lost: router
                .lost()
                .map(|lost| LostView {
                    peer: name(lost.node),
                    incoming: lost.incoming,
                    lasting: now.since(lost.since),
                })
                .collect(),
            foreign_owner: router.foreign_owner(),
            rival: router.rival(now).map(|(mac, node)| node.map_or_else(|| mac.to_string(), name)),
            unwitnessed: router.is_unwitnessed(),
            awaited: router.awaited(),
            counters: router.counters(),
        }
    }
}
