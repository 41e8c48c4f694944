//! The second cable of a told cluster, by which its machines see who has a VIP when the first is cut.

use std::net::IpAddr;

use standin_core::Input;
use standin_core::types::{Family, InterfaceId};

use crate::clock::MILLISECOND;
use crate::machine::{Run, Sabotage, mac};
use crate::queue::Due;
use crate::scene::{Cause, Scene};

/// The one after the interface that carries the VIPs.
pub const BESIDE: InterfaceId = InterfaceId(1);

impl Scene {
    /// Asks there who has an address; a kernel answers for all that it has, on any interface.
    pub fn ask_beside(&mut self, machine: u8, address: IpAddr) {
        if self.beside_cut || Family::of(address) == Family::V6 {
            return;
        }
        let has = |plan: &standin_core::plan::VipPlan| {
            plan.addresses.iter().any(|prefix| prefix.address() == address)
        };
        let vip = self.file.plan.vips.iter().position(has);
        for from in self.places().filter(|from| *from != machine) {
            let host = &self.machines[usize::from(from)];
            let own = host.own[0] == Some(address) && host.own_present;
            let holds = vip.is_some_and(|vip| host.kernel[vip].present);
            if (own || holds) && host.on_the_air() {
                let at = self.now + MILLISECOND;
                self.queue.push(at, Due::Beside { to: machine, from, address });
            }
        }
    }

    /// An answer arrives.
    pub fn seen_beside(&mut self, to: u8, from: u8, address: IpAddr) {
        let host = &mut self.machines[usize::from(to)];
        if host.run != Run::Running || host.sabotage == Sabotage::LooksAway {
            return;
        }
        let has = |plan: &standin_core::plan::VipPlan| {
            plan.addresses.iter().any(|prefix| prefix.address() == address)
        };
        if let Some(vip) = self.file.plan.vips.iter().position(has) {
            host.answered[vip] = Some(self.now);
        }
        let mac = mac(usize::from(from));
        let sighting = Input::Sighting { interface: BESIDE, address, mac };
        self.step(to, Cause::Sighting, sighting);
        self.arm(to);
    }
}
