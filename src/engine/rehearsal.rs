//! A takeover on paper, so that the code of a real one is in memory when it is needed.
//!
//! Code that nobody has called yet is on the disk. Once the start is over the program lets go of its
//! code (`sched::let_go_of_code`), and then an engine of its own, with no socket, goes through what
//! this node may have to do: claim, hold, announce, yield, come back, give up. What was called is
//! locked into memory.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use standin_core::plan::Plan;
use standin_core::types::{Family, InterfaceId, Mac, Priority, VipId};
use standin_core::wire::vrrp::Envelope;
use standin_core::wire::{arp, ndp};
use standin_core::{Command, Input, InterfaceState, Outcome, Verdict};
use standin_linux::queue::Taken;

use super::messages::{Beat, Inbox, Posts, ToAddresses};
use super::{Engine, Outside, now, outbox};

/// VIPs that take part: the others call the same code.
const VIPS: usize = 4;

/// Deadlines that are let pass at most; a first claim with its probes takes about ten.
const TICKS: usize = 64;

/// Goes through a takeover of the first VIPs of `plan`; nothing leaves this process.
///
/// # Errors
/// When the kernel has no descriptor left.
pub(crate) fn rehearse(plan: &Plan) -> io::Result<()> {
    let mut plan = plan.clone();
    plan.vips.truncate(VIPS);
    let Posts { engine, addresses, control, handovers } = Posts::new()?;
    let outside = Outside {
        resume: None,
        inbox: engine.1,
        addresses: addresses.0,
        control: control.0,
        handovers: handovers.0,
        beat: Arc::new(Beat::new(None)),
    };
    let mut stage = Stage {
        time: now(),
        engine: Engine::new(plan.clone(), 0, outside)?,
        addresses: addresses.1,
    };
    stage.enter(&plan);
    // It becomes active and announces.
    stage.pass();
    // A better one comes: it yields. That one says goodbye: it takes over.
    stage.hear(&plan, Priority::OWNER);
    stage.hear(&plan, Priority::RELEASE);
    stage.pass();
    stage.step(Input::Command(Command::Stop));
    stage.pass();
    // The control plane's messages of it are for nobody.
    drop(control.1);
    frames();
    Ok(())
}

struct Stage {
    time: standin_core::types::Instant,
    engine: Engine,
    addresses: Inbox<ToAddresses>,
}

impl Stage {
    fn step(&mut self, input: Input<'_>) {
        self.engine.node.step(self.time, input, &mut self.engine.effects);
        self.engine.perform();
        while let Taken::Message(order) = self.addresses.receiver.take() {
            let (vip, outcome) = match order {
                ToAddresses::Hold(hold) => (hold.vip, Outcome::Held),
                ToAddresses::Release { vip, .. } => (vip, Outcome::Released),
                _ => continue,
            };
            self.step(Input::Settled { vip, outcome });
        }
    }

    /// Everything that a VIP waits for is there.
    fn enter(&mut self, plan: &Plan) {
        for (check, plan) in (0..).map(standin_core::types::CheckId).zip(&plan.checks) {
            for _ in 0..plan.rise {
                self.step(Input::Check { check, verdict: Verdict::Pass, detail: "" });
            }
        }
        let own = plan.nodes.get(plan.me.index()).map_or_else(Vec::new, |me| me.addresses.clone());
        self.step(Input::OwnAddresses(&own));
        let state = InterfaceState {
            up: true,
            mac: Some(Mac::ZERO),
            link_local: Some(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)),
            deaf: [false; 2],
        };
        for interface in (0..).map(InterfaceId).take(plan.interfaces.len()) {
            self.step(Input::Interface { interface, state });
        }
    }

    /// Lets deadlines pass.
    fn pass(&mut self) {
        for _ in 0..TICKS {
            let Some(deadline) = self.engine.node.next_deadline() else { return };
            self.time = deadline;
            self.step(Input::Tick);
        }
    }

    /// Every VIP hears another node.
    fn hear(&mut self, plan: &Plan, priority: Priority) {
        let others = || (0..).zip(&plan.nodes).filter(|(id, _)| *id != plan.me.0);
        let vips = (0..).map(VipId).zip(&plan.vips);
        for ((_, vip), family) in vips.flat_map(|vip| Family::BOTH.map(|family| (vip, family))) {
            let Some(source) = others().find_map(|(_, node)| node.address(family)) else {
                continue;
            };
            for (destination, payload) in
                outbox::adverts(&self.engine.node, vip, family, priority, source)
            {
                let envelope = Envelope { source, destination, hop_limit: u8::MAX };
                let interface = vip.interface;
                self.step(Input::Advert { interface, envelope, payload: &payload });
            }
        }
    }
}

/// Writes what an announcement says.
fn frames() {
    let mut frame = Vec::new();
    arp::announcement(&mut frame, Mac::ZERO, Ipv4Addr::LOCALHOST);
    ndp::announcement(&mut frame, Mac::ZERO, Ipv6Addr::LOCALHOST, false);
    std::hint::black_box(&frame);
}

#[cfg(test)]
mod tests {
    use standin_core::Effect;
    use standin_core::event::Role;

    use super::super::messages::FromEngine;
    use super::*;

    fn plan() -> Plan {
        let text = "cluster = \"edge\"\n[node.n1]\naddress = [\"10.0.0.1\", \"fd00::1\"]\n[node.n2]\n\
                    address = [\"10.0.0.2\", \"fd00::2\"]\n[vip.web]\nvirtual_router_id = 41\n\
                    addresses = [\"10.0.0.41/24\", \"fd00::41/64\"]\nchecks = [\"gw\"]\n\
                    [check.gw]\ntype = \"ping\"\nto = \"10.0.0.9\"\n";
        let cluster = standin_config::load("", text).model.unwrap();
        cluster.plan("n1", "eth0").unwrap()
    }

    #[test]
    fn it_comes_to_a_takeover_and_to_its_end() {
        let plan = plan();
        let Posts { engine, addresses, control, handovers } = Posts::new().unwrap();
        let outside = Outside {
            resume: None,
            inbox: engine.1,
            addresses: addresses.0,
            control: control.0,
            handovers: handovers.0,
            beat: Arc::new(Beat::new(None)),
        };
        let mut stage = Stage {
            time: now(),
            engine: Engine::new(plan.clone(), 0, outside).unwrap(),
            addresses: addresses.1,
        };
        let role = |stage: &Stage| stage.engine.node.router(VipId(0)).unwrap().role();
        stage.enter(&plan);
        stage.pass();
        assert_eq!(role(&stage), Role::Active);
        stage.hear(&plan, Priority::OWNER);
        assert_eq!(role(&stage), Role::Backup);
        stage.hear(&plan, Priority::RELEASE);
        stage.pass();
        assert_eq!(role(&stage), Role::Active);
        // What a peer waits for isn't kept back by events that nobody takes.
        while stage.engine.control.offer(FromEngine::Stopped) {}
        let to = standin_core::types::NodeId(1);
        stage.engine.effects.push(Effect::Handover { vip: VipId(0), to, epoch: 7 });
        stage.engine.perform();
        assert!(matches!(handovers.1.receiver.take(), Taken::Message(word) if word.epoch == 7));
        stage.step(Input::Command(Command::Stop));
        assert!(stage.engine.stopped);
        drop(control.1);
        rehearse(&plan).unwrap();
    }
}
