//! Maintenance: every VIP is moved away first, and it is said where each one is then.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use standin_core::Command;
use standin_core::event::Role;
use standin_core::view::VipView;
use tokio::sync::{mpsc, oneshot};

use super::{Control, Request, status};
use crate::engine::messages::ToEngine;
use crate::switchover::{Progress, giving, words};

/// The election decides within three intervals of adverts and less than one more.
const INTERVALS: u32 = 4;

/// For the daemons themselves; and no longer than this, whatever the interval is.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);
const SETTLES_AT_LAST: Duration = Duration::from_secs(10);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of a VIP that this node held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Whereabouts {
    pub(crate) vip: String,
    /// This node holds it still, or again.
    pub(crate) stays: bool,
    /// Who has it now, as far as is known.
    pub(crate) holder: Option<String>,
    /// It was moved as planned.
    pub(crate) moved: bool,
    /// Those that this node still serves; where it was moved.
    pub(crate) connections: Option<usize>,
    /// Why it wasn't moved.
    pub(crate) why: Option<String>,
    /// All of it, for a person.
    pub(crate) text: String,
}

/// A VIP that this node held when it was taken out of service.
struct Held {
    vip: String,
    addresses: Vec<IpAddr>,
    drain: Duration,
    /// Until the election has decided.
    settles: Duration,
    /// How its move goes, or why there is none; nothing where none was wanted.
    story: Option<Result<mpsc::Receiver<Progress>, String>>,
}

impl Control {
    /// Moves every VIP away, unless it is to be at once, and then takes the node out of service.
    pub(super) async fn maintain(
        &mut self,
        (lasting, at_once): (Option<Duration>, bool),
        by: &str,
        reply: oneshot::Sender<Option<Vec<Whereabouts>>>,
    ) {
        let before = self.status().await;
        let active = |vip: &&VipView| vip.role == Role::Active;
        let active = before.iter().flat_map(|status| &status.view.vips).filter(active);
        let active: Vec<String> = active.map(|vip| vip.name.clone()).collect();
        let mut begun = if at_once { Vec::new() } else { self.move_all(by, None).await };
        let mut moved = Vec::new();
        let mut held = Vec::new();
        for vip in active {
            let Some(of_file) = self.cluster.vip(&vip) else { continue };
            let at = begun.iter().position(|(name, _)| *name == vip);
            let story = at.map(|at| begun.swap_remove(at).1);
            if let (Some(Ok(_)), Some(handle)) = (&story, self.moves.giving.get_mut(&vip)) {
                moved.extend(handle.moved.take());
            }
            let interval = of_file.advert_interval.as_duration();
            held.push(Held {
                addresses: of_file.addresses.iter().map(|prefix| prefix.address()).collect(),
                drain: of_file.drain_timeout,
                settles: (interval * INTERVALS + SETTLES_WITHIN).min(SETTLES_AT_LAST),
                vip,
                story,
            });
        }
        let (engine, desk) = (self.engine.clone(), self.desk.clone());
        tokio::spawn(async move {
            for one in moved {
                // An error says that it came to its end.
                let _ = one.await;
            }
            let command = Command::MaintenanceOn { lasting };
            // Who asked may have gone.
            let _ = reply.send(if engine.offer(ToEngine::Command(command)) {
                Some(whereabouts(desk.as_ref(), held).await)
            } else {
                None
            });
        });
    }
}

/// Waits until the election has decided about each of them, and says how.
async fn whereabouts(desk: Option<&mpsc::Sender<Request>>, held: Vec<Held>) -> Vec<Whereabouts> {
    let Some(desk) = desk else { return Vec::new() };
    let began = Instant::now();
    let longest = held.iter().map(|it| it.settles).max().unwrap_or_default();
    let holders = loop {
        let now = status(desk).await;
        let holders: Vec<Option<(bool, String)>> =
            held.iter().map(|it| holder(now.as_ref()?, &it.vip)).collect();
        if holders.iter().all(Option::is_some) || began.elapsed() >= longest {
            break holders;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    let mut all = Vec::new();
    for (held, holder) in held.into_iter().zip(holders) {
        all.push(one(held, holder).await);
    }
    all
}

/// Whether this node has it, and who has it; `None`: nobody is known to.
fn holder(status: &super::Status, name: &str) -> Option<(bool, String)> {
    let view = crate::switchover::vip(status, name)?;
    match view.role {
        Role::Active => Some((true, status.view.node.clone())),
        _ => Some((false, view.holder.clone()?)),
    }
}

async fn one(held: Held, holder: Option<(bool, String)>) -> Whereabouts {
    let Held { vip, addresses, drain, settles: _, story } = held;
    let (moved, why) = match story {
        None => (false, None),
        Some(Err(why)) => (false, Some(why)),
        Some(Ok(mut story)) => {
            let mut moved = false;
            let mut last = None;
            while let Ok(line) = story.try_recv() {
                moved |= line.step == "moved";
                last = Some(line.text);
            }
            (moved, last.filter(|_| !moved))
        }
    };
    let stays = holder.as_ref().is_some_and(|(here, _)| *here);
    let connections = if moved && !stays { giving::connections_of(addresses).await } else { None };
    let holder = holder.map(|(_, name)| name);
    let mut this = Whereabouts { vip, stays, holder, moved, connections, why, text: String::new() };
    this.text = this.words(drain);
    this
}

impl Whereabouts {
    fn words(&self, drain: Duration) -> String {
        let vip = &self.vip;
        let why = self.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        match (&self.holder, self.stays, self.moved, self.connections) {
            (_, true, ..) => {
                format!("{vip} STAYS HERE, as a last resort, since nobody else takes it{why}")
            }
            (None, ..) => format!("{vip} was given up, and nobody is known to have it yet{why}"),
            (Some(to), _, true, Some(0)) => {
                format!("{vip} → {to}, no connection is left on this node")
            }
            (Some(to), _, true, Some(count)) => format!(
                "{vip} → {to}, {} still on this node, for {} s at most",
                words::connections(count),
                drain.as_secs()
            ),
            (Some(to), _, true, None) => {
                format!("{vip} → {to}; who is still connected to this node can't be counted")
            }
            (Some(to), ..) => {
                format!("{vip} → {to} by the election: open connections are lost{why}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_where_each_vip_is() {
        let drain = Duration::from_secs(60);
        let web = Whereabouts { vip: "web".into(), ..Whereabouts::default() };
        let moved = |connections| Whereabouts {
            holder: Some("n2".into()),
            moved: true,
            connections,
            ..web.clone()
        };
        assert_eq!(
            moved(Some(1)).words(drain),
            "web → n2, 1 connection still on this node, for 60 s at most"
        );
        assert_eq!(moved(Some(0)).words(drain), "web → n2, no connection is left on this node");
        let why = Some("no node is ready to take web: n2 is ineligible: maintenance".to_owned());
        let stays = Whereabouts { stays: true, holder: Some("n1".into()), why, ..web.clone() };
        assert_eq!(
            stays.words(drain),
            "web STAYS HERE, as a last resort, since nobody else takes it: no node is ready to take \
             web: n2 is ineligible: maintenance"
        );
        let elected = Whereabouts { holder: Some("n2".into()), ..web.clone() };
        assert_eq!(elected.words(drain), "web → n2 by the election: open connections are lost");
        assert!(web.words(drain).contains("nobody is known to have it"));
    }
}
