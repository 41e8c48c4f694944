//! Which of a VIP's families this node can advertise at the moment.

use crate::InterfaceState;
use crate::plan::{Mode, VipPlan};
use crate::types::Family;

/// Which of the VIP's families this node can advertise at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usable {
    pub interface_up: bool,
    pub families: [bool; 2],
}

impl Usable {
    pub(super) fn any(self) -> bool {
        self.interface_up && self.families != [false; 2]
    }
}

/// Which families of `plan` can be advertised, given the interface and the node's own addresses.
#[must_use]
pub fn usable(plan: &VipPlan, interface: InterfaceState, own: impl Fn(Family) -> bool) -> Usable {
    let v6_source = match plan.mode {
        // A peer knows whose link-local address it is by an own address on the same MAC.
        Mode::Multicast => interface.link_local.is_some() && (own(Family::V4) || own(Family::V6)),
        Mode::Unicast => own(Family::V6),
    };
    let hears = |family: Family| interface.up && !interface.deaf[family.index()];
    Usable {
        interface_up: interface.up,
        families: [
            hears(Family::V4) && plan.has(Family::V4) && own(Family::V4),
            hears(Family::V6) && plan.has(Family::V6) && v6_source,
        ],
    }
}
